"""What each command does: asks the engine or the disk, and prints what came back. Each gives its exit code.

Nothing heavy is imported until a command needs it.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stagescope.console import Progress, fail, last, print_json, print_lines, print_text, say

if TYPE_CHECKING:
    from rich.text import Text

    from stagescope.engine.protocol import CorpusSweep, EngineError, Load, ModelInfo, Reply
    from stagescope.engine.protocol import Sweep, SweepCorpus, TakeSweep


def app(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import DEFAULT_PROMPT
    from stagescope.engine.schedule import ScheduleError, parse

    if not sys.stdout.isatty():
        say("stdout is not a terminal: printing a reading instead of opening the app.")
        args.prompt = DEFAULT_PROMPT if args.prompt is None else args.prompt
        args.top, args.json = 5, False
        return read(args)
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if (os.environ.get("TERM") or "dumb") == "dumb" or not terminal:
        why = "TERM is dumb or unset" if terminal else "standard input is not a terminal"
        say(f"stagescope: the app needs a terminal, and {why}. Use `stagescope read PROMPT`.")
        return 2
    try:
        parse(args.edit)
    except ScheduleError as error:
        say(f"stagescope: the schedule cannot be:\n{error}")
        return 2
    from stagescope.app import StageApp, run_app
    from stagescope.engine.client import ChildEngine

    prompt = DEFAULT_PROMPT if args.prompt is None else _prompt(args.prompt)
    start = (args.edit, args.position, args.lens, _picker_entries, args.ascii)
    command, code = run_app(StageApp(ChildEngine, _load_request(args), prompt, *start), mouse=not args.no_mouse)
    if command and code == 0:
        print(command)
    return code


def read(args: argparse.Namespace) -> int:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Read

    request = Read(_prompt(args.prompt), args.edit, args.position, args.top, args.lens, part="whole")
    engine = LocalEngine()

    def work() -> Iterator[Reply]:
        loading = engine.answer(_load_request(args))
        for reply in loading:
            yield reply
            if engine.info is not None and not engine.info.loaded and (found := engine.cached(request)):
                yield found
                return
        yield from engine.answer(request)

    reading, failure = last(work, args.quiet)
    if failure:
        return fail(failure)
    from stagescope.report import reading_json, reading_text

    for warning in reading.model.warnings:
        say(f"stagescope: {warning}")
    if args.json:
        print_json({**reading_json(reading), "position": args.position % len(reading.tokens)})
    else:
        print_lines(*reading_text(reading, args.position))
    return 0


def neurons(args: argparse.Namespace) -> int:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import TakeCensus

    engine = LocalEngine()

    def work() -> Iterator[Reply]:
        for reply in engine.answer(_load_request(args)):
            yield reply
            if engine.info is not None and not engine.info.loaded and (found := engine.cached_census()):
                yield found
                return
        yield from engine.answer(TakeCensus())

    census, failure = last(work, args.quiet)
    if failure:
        return fail(failure)
    from stagescope.report import census_json, census_text

    if args.json:
        print_json(census_json(census, engine.info))
    else:
        print_lines(*census_text(census))
    return 0


def sweep(args: argparse.Namespace) -> int:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import EngineError, FindToken, ModelInfo, Sweep, SweepCorpus, TakeSweep

    try:
        prompts, lines = _prompts(args.prompts), _schedule_lines(args.schedules)
        _expect_file(args.corpus)
        _expect_place(args.svg)
    except EngineError as error:
        return fail(error.failure)
    engine, schedules = LocalEngine(), ()

    def request() -> TakeSweep | SweepCorpus:
        if args.corpus is not None:
            return SweepCorpus(args.corpus, args.kind, schedules, args.tokens, args.window)
        tracked = None if args.track is None else next(engine.answer(FindToken(args.track))).id
        return TakeSweep(prompts, args.kind, schedules, args.position, tracked)

    def work() -> Iterator[Reply | list[Sweep]]:
        nonlocal schedules
        for reply in engine.answer(_load_request(args)):
            yield reply
            if not isinstance(reply, ModelInfo) or reply.loaded:
                continue
            schedules = _schedules(args.schedules, lines, reply)  # a mistake in them costs no loading
            if args.track is None or engine.tokenizer is not None:
                recalled = engine.cached_sweeps if args.corpus is None else engine.cached_corpus
                if found := recalled(request()):
                    yield found
                    return
        asked_for = [(prompt, kind) for prompt in prompts for kind in (("schedules",) if schedules else args.kind)]
        latest: dict[tuple[str, str], Sweep | None] = dict.fromkeys(asked_for)  # what is cached or short comes sooner
        for reply in engine.answer(request()):
            if isinstance(reply, Sweep):
                latest[reply.prompt, reply.kind] = reply
            yield [sweep for sweep in latest.values() if sweep] if isinstance(reply, Sweep) else reply

    try:
        result, failure = last(work, args.quiet)
    except KeyboardInterrupt:
        if args.corpus is not None and args.cache:
            say("stagescope: interrupted. The same command goes on from here.")
        raise
    return fail(failure) if failure else _show_sweep(args, result)


def models(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from stagescope.engine import catalog, directory, store
    from stagescope.engine.protocol import EngineError

    name = args.name or args.model
    try:
        if args.action == "pull":
            progress = Progress(args.quiet)
            try:
                place = store.pull(name, progress.show)
            finally:
                progress.clear()
            print_json({"schema": "model/1", "name": name, "directory": str(place)}) if args.json else print(place)
        elif args.action == "info":
            located = store.locate(name, offline=args.offline)
            info = {**asdict(directory.preview(located)), "directory": str(located.directory)}
            info["fingerprint"] = directory.fingerprint(located.directory)
            info["parameters"] = directory.parameters(located.directory)
            if args.json:
                kept = {key: value for key, value in info.items() if key not in ("load_seconds", "noise_kl")}
                print_json({"schema": "model/1", **kept})
            else:
                shown = ("name", "source", "architecture", "directory", "parameters", "n_layers", "d_model", "d_mlp")
                shown += ("n_heads", "d_vocab", "n_ctx", "norm", "gated", "parallel", "fingerprint")
                print("\n".join(f"{key:13} {info[key]}" for key in shown))
        else:
            here = {entry.name: entry for entry in store.on_disk()}
            rows = [(entry.name, str(entry.directory), entry.bytes, entry.note) for entry in here.values()]
            rows += [(known.name, None, None, known.note) for known in catalog.MODELS if known.name not in here]
            if args.json:
                models = [dict(zip(("name", "directory", "bytes", "note"), row, strict=True)) for row in rows]
                print_json({"schema": "models/1", "models": models})
            else:
                for name, place, size, note in rows:
                    print(f"{name:32} {f'{size / 2**30:6.2f} GiB' if place else 'not here  '}  {note}")
    except EngineError as error:
        return fail(error.failure)
    return 0


def doctor(args: argparse.Namespace) -> int:
    from stagescope.doctor import findings

    found = findings(args.device)
    if args.json:
        print_json({"schema": "doctor/1", "findings": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            print(f"{finding.state:5} {finding.what:14} {finding.detail}")
    return 1 if any(finding.state == "fail" for finding in found) else 0


def where(args: argparse.Namespace) -> int:
    from stagescope import paths

    places = {name: str(path) for name, path in paths.describe().items()}
    if args.json:
        print_json({"schema": "where/1", **places})
    else:
        print("\n".join(f"{name:8} {path}" for name, path in places.items()))
    return 0


# --------------------------------------------------------------------------------------- parts of a sweep


def _prompts(words: list[str]) -> tuple[str, ...]:
    from stagescope.engine.protocol import EngineError

    prompts = tuple(map(_prompt, words))
    if "" in prompts:
        raise EngineError("usage", "the prompt is empty.", "Give some text to read.")
    if len(set(prompts)) < len(prompts):
        raise EngineError("usage", "two prompts are alike.", "Give each once.")
    return prompts


def _expect_file(file: str | None) -> None:
    """Say that a file is missing before a model is loaded for it."""
    try:
        if file not in (None, "-") and stat.S_ISDIR(os.stat(file).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise _unreadable(file, error) from error


def _expect_place(svg: str | None) -> None:
    """Say that a picture cannot be written before an hour is spent on it."""
    from stagescope.engine.protocol import EngineError
    from stagescope.text import printable

    if svg is not None and (os.path.isdir(svg) or not os.access(os.path.dirname(svg) or ".", os.W_OK)):
        raise EngineError("error", f"the figure cannot be written to {printable(svg)}.", "Give a file in a folder of yours.")


def _schedule_lines(file: str | None) -> list[str]:
    from stagescope.engine.documents import shown_name
    from stagescope.engine.protocol import EngineError

    try:
        data = b"" if file is None else _stdin() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeDecodeError as error:
        hint = "A file of schedules is plain text."
        raise EngineError("usage", f"{shown_name(file)} is not UTF-8 (byte {error.start} of it).", hint) from error


def _unreadable(file: str, error: OSError) -> EngineError:
    from stagescope.engine.documents import shown_name
    from stagescope.engine.protocol import EngineError

    return EngineError("missing", f"cannot read {shown_name(file)} ({error.strerror}).", "Name a text file, or -.")


def _schedules(file: str | None, lines: list[str], info: ModelInfo) -> tuple[str, ...]:
    from stagescope.engine.documents import shown_name
    from stagescope.engine.kinds import read_schedules
    from stagescope.engine.protocol import EngineError

    try:
        return () if file is None else read_schedules(lines, info.n_layers, info.parallel)
    except EngineError as error:
        failure = error.failure
        raise EngineError(failure.kind, f"{shown_name(file)}: {failure.message}", failure.hint) from error


def _show_sweep(args: argparse.Namespace, result: list[Sweep] | CorpusSweep) -> int:
    from stagescope import sweep_report
    from stagescope.text import printable

    for sentence in [*_remarks(result), *_document_remarks(result, args.window)]:
        say(f"stagescope: {printable(sentence)}")
    if args.json:
        write = sweep_report.sweep_json if isinstance(result, list) else sweep_report.corpus_json
        print_json(write(result))
    elif args.csv:
        print_text("".join(f"{line}\n" for line in sweep_report.csv_lines(result)))
    else:
        print_lines(*([_curves(result)] if args.plot else []), *sweep_report.sweep_text(result, _width()))
    if args.svg is None:
        return 0
    from stagescope import figures

    sys.stdout.flush()
    try:
        figures.write_svg(Path(args.svg), result)
    except OSError as error:
        say(f"stagescope: the figure cannot be written to {printable(args.svg)} ({error.strerror}).")
        return 1
    return 0


def _curves(result: list[Sweep] | CorpusSweep) -> Text:
    from stagescope.figures import curves

    width, height = shutil.get_terminal_size((100, 50)) if sys.stdout.isatty() else (100, 50)
    is_ascii = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return curves(result, width, min(height - 1, 49), ascii_only=is_ascii)


def _remarks(result: list[Sweep] | CorpusSweep) -> Iterator[str]:
    """What a reader of the numbers should know: warnings of the model, rows that are marked, each reason once."""
    sweeps = result if isinstance(result, list) else [result]
    yield from sweeps[0].model.warnings
    marked: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        for row, reason in sorted(sweep.notes.items()):
            marked.setdefault(reason, {})[sweep.rows[row].schedule] = None
    for reason, schedules in marked.items():
        more = f" and {len(schedules) - 5} more" if len(schedules) > 5 else ""
        yield f"{', '.join([*schedules][:5])}{more}: {reason}"


def _document_remarks(result: list[Sweep] | CorpusSweep, window: int) -> Iterator[str]:
    """What is missing of a text."""
    if isinstance(result, list):
        return
    if n := result.n_skipped:
        more = f"; and {n - len(result.skipped):,} more" if n > len(result.skipped) else ""
        yield f"{_were(n)} left out: {'; '.join(result.skipped)}{more}"
    if n := result.n_cut:
        yield f"{_were(n)} cut at the window of {min(window, result.model.n_ctx):,} tokens"


def _were(n: int) -> str:
    return "1 document was" if n == 1 else f"{n:,} documents were"


def _width() -> int:
    """Cells that print_lines has: of the terminal, 200 where there is none."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 200


# ------------------------------------------------------------------------------------------- what is shared


def _prompt(word: str) -> str:
    """PROMPT as given; - is standard input, without the line end a shell adds."""
    return _stdin().decode("utf-8", "surrogateescape").removesuffix("\n") if word == "-" else word


def _stdin() -> bytes:
    return sys.stdin.buffer.read() if sys.stdin else b""


def _load_request(args: argparse.Namespace) -> Load:
    from stagescope.engine.protocol import Load

    return Load(*(args.model, args.device, args.dtype, args.threads, args.bos, args.chat, args.cache, args.offline))


def _picker_entries() -> list[tuple[str, str, bool]]:
    """(name, note, on disk) for the model picker, what is on disk first."""
    from stagescope.engine import catalog, store

    here = [(entry.name, entry.note, True) for entry in store.on_disk()]
    names = {name for name, _, _ in here}
    return here + [(known.name, known.note, False) for known in catalog.MODELS if known.name not in names]
