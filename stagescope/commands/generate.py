"""The command `generate`: what the baseline goes on to write, and what each schedule does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from stagescope.commands import parsers
from stagescope.commands.arguments import load_request, prompt_of
from stagescope.commands.asked import print_answer, warn
from stagescope.console import fail, last, print_lines, say, width

if TYPE_CHECKING:
    from stagescope.engine.protocol import Generation, Reply


def arguments(words: list[str]) -> argparse.Namespace:
    """What contradicts itself is refused."""
    parser = parsers.command_parser("generate")
    parser.add_argument("prompt", metavar="PROMPT", help="text to continue; - reads it from standard input")
    parser.add_argument("--edit", action="append", default=[], metavar="SCHEDULE", help="beside the baseline; may be repeated")
    parser.add_argument("--tokens", type=int, default=40, metavar="N", help="at most so many (40); the model may end sooner")
    sampling = parser.add_argument_group("sampling (without a temperature: greedy)")
    sampling.add_argument("--temperature", type=float, default=0.0, metavar="T", help="divides the logits")
    sampling.add_argument("--top-k", type=int, metavar="K", help="draw among the K likeliest tokens")
    sampling.add_argument("--top-p", type=float, metavar="P", help="draw among the fewest tokens whose p add up to P")
    sampling.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw, one for all texts (0)")
    return parser.parse_args(words)


def generate(args: argparse.Namespace) -> int:
    load = load_request(args)
    from stagescope.engine import generation
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Generate, Generation, ModelInfo, Progress
    from stagescope.reports import generation as report

    sampling = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "seed": args.seed}
    request = Generate(prompt_of(args.prompt), tuple(args.edit), args.tokens, **sampling)
    engine = LocalEngine()
    # Two texts side by side are printed as they come, where somebody waits for them.
    shown = None if args.json or len(args.edit) > 1 or not sys.stdout.isatty() else _Rows(width(), args.color)

    latest: Generation | None = None

    def work() -> Iterator[Reply]:
        nonlocal latest
        for reply in engine.answer(load):
            yield reply
            if isinstance(reply, ModelInfo) and not reply.loaded:
                generation.check(request, reply)  # a mistake in it costs no loading
                if found := engine.known(request):
                    yield from found
                    return
        for reply in engine.answer(request):
            if isinstance(reply, Generation):
                latest = reply
                if shown:
                    shown.show(reply)
            if not (shown and isinstance(reply, Progress) and shown.done):
                yield reply

    try:
        found, failure = last(work, args.quiet)
    except KeyboardInterrupt:
        if latest is not None and not args.json:  # what there is of it; JSON is whole or not at all
            print_lines(*(report.whole_texts(latest, width()) if shown else report.generation_text(latest, width())), color=args.color)
            sys.stdout.flush()
        if latest is not None:
            say(f"stagescope: interrupted after {latest.length(0)} of {args.tokens} tokens.")
        raise
    if failure:
        return fail(failure)
    warn(found.model.warnings)
    if shown and shown.done:
        print_lines(*report.whole_texts(found, shown.width), color=args.color)
    else:
        print_answer(args, partial(report.generation_json, found), partial(report.generation_text, found, width()))
    return 0


class _Rows:
    """A table that grows by a line a step."""

    def __init__(self, width: int, color: str | None):
        self.width, self.color, self.done = width, color, 0

    def show(self, found: Generation) -> None:
        from stagescope.reports import generation as report

        if not self.done:
            sys.stderr.write("\r\x1b[K" if sys.stderr.isatty() else "")  # the progress before
            print_lines(*report.head(found), report.heading(found, self.width), color=self.color)
        steps = max(map(found.length, range(len(found.schedules))))
        print_lines(*(report.step_line(found, step, self.width) for step in range(self.done, steps)), color=self.color)
        sys.stdout.flush()
        self.done = steps
