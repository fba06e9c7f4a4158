"""The command `sweep`: many schedules against the baseline, over prompts or a text."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from stagescope import config
from stagescope.commands.arguments import expect_place, load_request, prompts_of, stdin
from stagescope.console import fail, last, print_json, print_lines, print_text, say, width

if TYPE_CHECKING:
    from rich.text import Text

    from stagescope.engine.protocol import CorpusSweep, Generate, Generation, ModelInfo, Reply, Sweep, SweepCorpus, TakeSweep


def sweep(args: argparse.Namespace) -> int:
    load, glyphs = load_request(args), config.value("glyphs", args.glyphs)
    from stagescope.engine.documents import expect_file
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import EngineError, FindToken, ModelInfo, Sweep, SweepCorpus, TakeSweep

    try:
        prompts, lines = prompts_of(args.prompts), _schedule_lines(args.schedules)
        expect_file(args.corpus)
        expect_place(args.svg, "the figure")
    except EngineError as error:
        return fail(error.failure)
    engine, schedules = LocalEngine(), ()
    layer = getattr(args, "layer", None)  # of heads and neurons
    swept: list[Sweep] | CorpusSweep | None = None
    written: list[Generation] = []  # one a prompt, where --generate asks for it

    def request() -> TakeSweep | SweepCorpus:
        if args.corpus is not None:
            return SweepCorpus(args.corpus, args.kind, schedules, args.tokens, args.window, layer)
        tracked = None if args.track is None else next(engine.answer(FindToken(args.track))).id
        return TakeSweep(prompts, args.kind, schedules, args.position, tracked, layer)

    def work() -> Iterator[Reply]:
        nonlocal schedules, swept
        for reply in engine.answer(load):
            yield reply
            if not isinstance(reply, ModelInfo) or reply.loaded:
                continue
            schedules = _schedules(args.schedules, lines, reply)  # a mistake in them costs no loading
            if args.track is None or engine.tokenizer is not None:
                if recalled := engine.known(request()):
                    swept = list(recalled) if args.corpus is None else recalled[0]
                    known = [engine.known(asked) for asked in _continued(swept, args.generate)]
                    if all(known):
                        written.extend(chain(*known))
                        return
        asked_for = [(prompt, kind) for prompt in prompts for kind in (("schedules",) if schedules else args.kind)]
        latest: dict[tuple[str, str], Sweep | None] = dict.fromkeys(asked_for)  # what is cached or short comes sooner
        for reply in engine.answer(request()):
            if isinstance(reply, Sweep):
                latest[reply.prompt, reply.kind] = reply
            yield reply
        swept = [sweep for sweep in latest.values() if sweep] if latest else reply
        for asked in _continued(swept, args.generate):
            for reply in engine.answer(asked):
                yield reply
            written.append(reply)

    try:
        _, failure = last(work, args.quiet)
    except KeyboardInterrupt:
        if args.corpus is not None and args.cache:
            say("stagescope: interrupted. The same command goes on from here.")
        raise
    return fail(failure) if failure else _show_sweep(args, swept, written, glyphs == "ascii")


def _continued(swept: list[Sweep] | CorpusSweep, n_tokens: int | None) -> list[Generate]:
    """Of each prompt, all schedules that were swept over it."""
    from stagescope.engine.protocol import Generate

    if n_tokens is None:
        return []
    schedules: dict[str, dict[str, None]] = {}
    for sweep in swept:
        sound = (row.schedule for at, row in enumerate(sweep.rows) if at not in sweep.notes)  # the table says what is wrong with them
        schedules.setdefault(sweep.prompt, {}).update(dict.fromkeys(sound))
    return [Generate(prompt, tuple(of), n_tokens) for prompt, of in schedules.items()]


def _schedule_lines(file: str | None) -> list[str]:
    from stagescope.engine.documents import shown_name, unreadable
    from stagescope.engine.protocol import EngineError

    try:
        data = b"" if file is None else stdin() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise unreadable(file, error) from error
    except UnicodeDecodeError as error:
        hint = "A file of schedules is plain text."
        raise EngineError("usage", f"{shown_name(file)} is not UTF-8 (byte {error.start} of it).", hint) from error


def _schedules(file: str | None, lines: list[str], info: ModelInfo) -> tuple[str, ...]:
    from stagescope.engine.documents import shown_name
    from stagescope.engine.kinds import read_schedules
    from stagescope.engine.protocol import EngineError

    try:
        known = {"n_heads": info.n_heads, "d_mlp": info.d_mlp}
        return () if file is None else read_schedules(lines, info.n_layers, info.parallel, **known)
    except EngineError as error:
        failure = error.failure
        raise EngineError(failure.kind, f"{shown_name(file)}: {failure.message}", failure.hint) from error


def _show_sweep(args: argparse.Namespace, result: list[Sweep] | CorpusSweep, written: list[Generation], ascii_only: bool) -> int:
    from stagescope.reports import generation as generation_report
    from stagescope.reports import sweep as sweep_report
    from stagescope.reports import sweep_table
    from stagescope.reports.reading import left_out
    from stagescope.text import printable

    missing = [] if isinstance(result, list) else left_out(result, args.window)
    for sentence in [*_remarks(result), *missing]:
        say(f"stagescope: {printable(sentence)}")
    if args.json:
        write = sweep_report.sweep_json if isinstance(result, list) else sweep_report.corpus_json
        texts = {"generations": [generation_report.generation_json(one) for one in written]} if written else {}
        print_json(write(result) | texts)
    elif args.csv:
        print_text("".join(f"{line}\n" for line in sweep_report.csv_lines(result)))
    else:
        drawn = [_curves(result, ascii_only)] if args.plot else []
        print_lines(*drawn, *sweep_table.sweep_text(result, width()), color=args.color)
        for one in written:
            print_lines("", *generation_report.head(one)[1:], generation_report.continuations(one, width()), color=args.color)
    if args.svg is None:
        return 0
    from stagescope.drawings import sweeps as figures

    sys.stdout.flush()
    try:
        figures.write_svg(Path(args.svg), result)
    except OSError as error:
        say(f"stagescope: the figure cannot be written to {printable(args.svg)} ({error.strerror}).")
        return 1
    return 0


def _curves(result: list[Sweep] | CorpusSweep, is_ascii: bool) -> Text:
    from stagescope.drawings.sweeps import curves

    cells, lines = shutil.get_terminal_size((100, 50)) if sys.stdout.isatty() else (100, 50)
    is_ascii = is_ascii or not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return curves(result, cells, min(lines - 1, 49), ascii_only=is_ascii)


def _remarks(result: list[Sweep] | CorpusSweep) -> Iterator[str]:
    """What a reader of the numbers should know: warnings of the model, rows that are marked, each reason once."""
    from stagescope.reports.sweep_units import row_name

    sweeps = result if isinstance(result, list) else [result]
    yield from sweeps[0].model.warnings
    marked: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        for row, reason in sorted(sweep.notes.items()):
            marked.setdefault(reason, {})[row_name(sweep.rows[row])] = None
    for reason, names in marked.items():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"{', '.join([*names][:5])}{more}: {reason}"
