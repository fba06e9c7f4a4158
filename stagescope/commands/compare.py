"""The command `compare`: one reading, and what is otherwise in the other: its schedule, its prompt, its model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from stagescope.commands import parsers
from stagescope.commands.arguments import load_request, prompt_of
from stagescope.commands.asked import ask, print_answer, warn
from stagescope.console import Progress, fail, last, width

if TYPE_CHECKING:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Comparison, Failure, Read, Reply


def arguments(words: list[str]) -> argparse.Namespace:
    """What contradicts itself is refused."""
    parser = parsers.command_parser("compare")
    parser.add_argument("prompt", metavar="PROMPT", help="text to read; - reads it from standard input")
    parser.add_argument("--edit", default="", metavar="SCHEDULE", help="of the first reading (default: the baseline)")
    parser.add_argument("--with-edit", metavar="SCHEDULE", help='of the second: "drop 8"; "" is the baseline')
    parser.add_argument("--with-prompt", metavar="TEXT", help="read by the second: as many tokens; - likewise")
    parser.add_argument("--with-model", metavar="MODEL", help="that reads the second: one with the same tokenizer")
    parser.add_argument("--position", type=int, default=-1, metavar="P", help="token position, -1 is the last")
    parser.add_argument("--track", metavar="TEXT", help="the token to follow (default: the first baseline's top token)")
    parser.add_argument("--lens", default="standard", choices=("standard", "v1"))
    args = parser.parse_args(words)
    second = (args.with_edit, args.with_prompt, args.with_model)
    if second == (None, None, None):
        parser.error("compare with what? Give --with-edit, --with-prompt or --with-model")
    if [args.prompt, args.with_prompt].count("-") > 1:
        parser.error("standard input (-) can be read once")
    if args.track == "":
        parser.error("--track names no token")
    return args


def compare(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import Failure, FindToken, Read, TakeComparison
    from stagescope.reports import compare as compare_report

    a = Read(prompt_of(args.prompt), args.edit, args.position, lens=args.lens)
    b = replace(a, prompt=a.prompt if args.with_prompt is None else prompt_of(args.with_prompt))
    b = replace(b, schedule=args.edit if args.with_edit is None else args.with_edit)
    other_model = args.with_model not in (None, load_request(args).model)
    if _are_alike(a, b) and not other_model:
        hint = "An edit against the baseline is `stagescope read PROMPT --edit SCHEDULE`."
        return fail(Failure("usage", "both sides are alike: nothing would differ.", hint))

    def sides(engine: LocalEngine) -> tuple[Read, Read]:
        tracked = None if args.track is None else next(engine.answer(FindToken(args.track))).id
        return replace(a, tracked=tracked), replace(b, tracked=tracked)

    if other_model:
        found, failure = _between(args, sides)
    else:
        replies, failure = ask(args, lambda engine: TakeComparison(*sides(engine)))
        found = None if failure else replies[-1]
    if failure:
        return fail(failure)
    warn(dict.fromkeys((*found.a.model.warnings, *found.b.model.warnings)))
    as_text = lambda: compare_report.comparison_text(found, args.position, width())  # noqa: E731
    print_answer(args, lambda: compare_report.comparison_json(found, args.position), as_text)
    return 0


def _are_alike(a: Read, b: Read) -> bool:
    from stagescope.engine.schedule import ScheduleError, parse

    try:
        return a.prompt == b.prompt and str(parse(a.schedule)) == str(parse(b.schedule))
    except ScheduleError:  # the engine says what is wrong with it
        return False


def _between(
    args: argparse.Namespace, sides: Callable[[LocalEngine], tuple[Read, Read]]
) -> tuple[Comparison | None, Failure | None]:
    """Both models are loaded, one after the other, and held together."""
    from stagescope.engine.comparison import between
    from stagescope.engine.local import LocalEngine

    one, other = LocalEngine(), LocalEngine()
    shown = Progress(args.quiet)
    one.tell = other.tell = lambda told: shown.show(told.stage, told.done, told.seconds_left)

    def work() -> Iterator[Reply]:
        load = load_request(args)
        yield from one.answer(load)
        yield from other.answer(replace(load, model=args.with_model))
        a, b = sides(one)
        yield between(one, a, other, b)

    try:
        return last(work, args.quiet)
    finally:
        shown.clear()
