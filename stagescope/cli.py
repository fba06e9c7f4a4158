"""The command line: what each command takes and prints. Nothing heavy is imported until a command needs it.

Data on stdout, everything else on stderr. Exit codes: 0; 1 error; 2 usage; 3 model or data missing; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from stagescope import __version__

if TYPE_CHECKING:
    from stagescope.engine.protocol import Failure, Load, Reply

LATER = ("sweep", "stages", "attention", "probe", "generate", "session")  # words kept for commands to come
DEFAULT_MODEL = "smollm2-135m"  # as protocol.DEFAULT_MODEL, which would import numpy
COMMANDS = {
    "read": "one reading of a prompt, edited or not, as text or JSON",
    "neurons": "prediction and suppression neurons of every layer",
    "models": "list, pull, info",
    "doctor": "what this machine has and lacks",
    "where": "the folders stagescope uses",
}


def main(argv: list[str] | None = None) -> NoReturn:
    words = sys.argv[1:] if argv is None else argv
    try:
        code = run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of the pipe has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except Exception as error:  # a mistake of ours or a broken disk: one line here, the whole in the log
        _say(f"stagescope: {type(error).__name__}: {_harmless(error)}\n{_log_traceback()}")
        code = 1
    sys.exit(code)


def run(words: list[str]) -> int:
    command, rest = split(words)
    if command in LATER:
        _say(f"stagescope: {command} is not in this version. To read the word, use `stagescope -- {command}`.")
        return 2
    if command is None:
        return _app(app_parser().parse_args(rest))
    args = command_parser(command).parse_args(rest)
    return {"read": _read, "neurons": _neurons, "models": _models, "doctor": _doctor, "where": _where}[command](args)


def split(words: list[str]) -> tuple[str | None, list[str]]:
    """The command, if the first word that is no option is one, and the other words. After -- all is prompt."""
    index = 0
    while index < len(words) and words[index].startswith("-") and words[index] not in ("-", "--"):
        index += 2 if words[index] in VALUE_OPTIONS else 1
    if index < len(words) and words[index] in (*COMMANDS, *LATER):
        return words[index], words[:index] + words[index + 1 :]
    return None, words


# ------------------------------------------------------------------------------------------------ parsers

VALUE_OPTIONS = ("--model", "-m", "--device", "--dtype", "--threads", "--bos", "--edit", "--position", "--lens")


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("model and machine")
    group.add_argument("-m", "--model", default=DEFAULT_MODEL, help="catalogue name, hub id, directory or .gguf file")
    group.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU with most free memory, else cpu)")
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument("--threads", type=_positive, help="CPU threads (default: physical cores minus one)")
    group.add_argument("--bos", default="auto", metavar="TOKEN", help="prefix token: auto, none, or its text")
    group.add_argument("--no-bos", dest="bos", action="store_const", const="none", help="no prefix token")
    group.add_argument("--chat", action="store_true", help="put the prompt through the model's chat template")
    group.add_argument("--no-cache", dest="cache", action="store_false", help="compute everything anew, store nothing")
    group.add_argument("--offline", action="store_true", help="use only what is on this disk")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return common


def app_parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="stagescope",
        allow_abbrev=False,
        parents=[_common()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A terminal microscope for the layers of a language model.",
        epilog=f"commands (stagescope COMMAND --help tells more):\n{listing}\n\n`stagescope -- read` reads the word “read”.",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="text to read; - reads it from standard input")
    parser.add_argument("--edit", default="", metavar="SCHEDULE", help='start with this edit: "drop 7; swap 11 12"')
    parser.add_argument("--position", type=int, default=-1, metavar="P", help="token position, -1 is the last")
    parser.add_argument("--lens", default="standard", choices=("standard", "v1"))
    parser.add_argument("--ascii", action="store_true", help="plain ASCII bars and marks")
    parser.add_argument("--no-mouse", action="store_true", help="no mouse reporting (less traffic over ssh)")
    parser.add_argument("--version", action="version", version=f"stagescope {__version__}")
    return parser


def command_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"stagescope {command}",
        allow_abbrev=False,
        parents=[_common()],
        description=COMMANDS[command].capitalize() + ".",
    )
    if command == "read":
        parser.add_argument("prompt", metavar="PROMPT", help="text to read; - reads it from standard input")
        parser.add_argument("--edit", default="", metavar="SCHEDULE", help='"drop 7; swap 11 12" and so on')
        parser.add_argument("--position", type=int, default=-1, metavar="P", help="token position, -1 is the last")
        parser.add_argument("--top", type=_positive, default=5, metavar="K", help="top tokens at each depth (5)")
        parser.add_argument("--lens", default="standard", choices=("standard", "v1"))
    if command == "models":
        parser.add_argument("action", nargs="?", default="list", choices=("list", "pull", "info"))
        parser.add_argument("name", nargs="?", help="the model (default: --model)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def _positive(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


# ----------------------------------------------------------------------------------------------- commands


def _app(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import DEFAULT_PROMPT
    from stagescope.engine.schedule import ScheduleError, parse

    if not sys.stdout.isatty():
        _say("stdout is not a terminal: printing a reading instead of opening the app.")
        args.prompt = DEFAULT_PROMPT if args.prompt is None else args.prompt
        args.top, args.json = 5, False
        return _read(args)
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if (os.environ.get("TERM") or "dumb") == "dumb" or not terminal:
        why = "TERM is dumb or unset" if terminal else "standard input is not a terminal"
        _say(f"stagescope: the app needs a terminal, and {why}. Use `stagescope read PROMPT`.")
        return 2
    try:
        parse(args.edit)
    except ScheduleError as error:
        _say(f"stagescope: the schedule cannot be:\n{error}")
        return 2
    from stagescope.app import StageApp, run_app
    from stagescope.engine.client import ChildEngine

    prompt = DEFAULT_PROMPT if args.prompt is None else _prompt(args.prompt)
    start = (args.edit, args.position, args.lens, _picker_entries, args.ascii)
    command, code = run_app(StageApp(ChildEngine, _load_request(args), prompt, *start), mouse=not args.no_mouse)
    if command and code == 0:
        print(command)
    return code


def _read(args: argparse.Namespace) -> int:
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

    reading, failure = _last(work, args)
    if failure:
        return _fail(failure)
    from stagescope.report import reading_json, reading_text

    for warning in reading.model.warnings:
        _say(f"stagescope: {warning}")
    if args.json:
        _print_json({**reading_json(reading), "position": args.position % len(reading.tokens)})
    else:
        _print(*reading_text(reading, args.position))
    return 0


def _neurons(args: argparse.Namespace) -> int:
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

    census, failure = _last(work, args)
    if failure:
        return _fail(failure)
    from stagescope.report import census_json, census_text

    if args.json:
        _print_json(census_json(census, engine.info))
    else:
        _print(*census_text(census))
    return 0


def _models(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from stagescope.engine import catalog, directory, store
    from stagescope.engine.protocol import EngineError

    name = args.name or args.model
    try:
        if args.action == "pull":
            progress = _Progress(args.quiet)
            try:
                place = store.pull(name, progress.show)
            finally:
                progress.clear()
            _print_json({"schema": "model/1", "name": name, "directory": str(place)}) if args.json else print(place)
        elif args.action == "info":
            located = store.locate(name, offline=args.offline)
            info = {**asdict(directory.preview(located)), "directory": str(located.directory)}
            info["fingerprint"] = directory.fingerprint(located.directory)
            info["parameters"] = directory.parameters(located.directory)
            if args.json:
                kept = {key: value for key, value in info.items() if key not in ("load_seconds", "noise_kl")}
                _print_json({"schema": "model/1", **kept})
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
                _print_json({"schema": "models/1", "models": models})
            else:
                for name, place, size, note in rows:
                    print(f"{name:32} {f'{size / 2**30:6.2f} GiB' if place else 'not here  '}  {note}")
    except EngineError as error:
        return _fail(error.failure)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from stagescope.doctor import findings

    found = findings(args.device)
    if args.json:
        _print_json({"schema": "doctor/1", "findings": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            print(f"{finding.state:5} {finding.what:14} {finding.detail}")
    return 1 if any(finding.state == "fail" for finding in found) else 0


def _where(args: argparse.Namespace) -> int:
    from stagescope import paths

    places = {name: str(path) for name, path in paths.describe().items()}
    if args.json:
        _print_json({"schema": "where/1", **places})
    else:
        print("\n".join(f"{name:8} {path}" for name, path in places.items()))
    return 0


# ------------------------------------------------------------------------------------------- what is shared


def _prompt(word: str) -> str:
    """PROMPT as given; - is standard input, without the line end a shell adds."""
    if word != "-":
        return word
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n") if sys.stdin else ""


def _load_request(args: argparse.Namespace) -> Load:
    from stagescope.engine.protocol import Load

    return Load(
        *(args.model, args.device, args.dtype, args.threads, args.bos, args.chat, args.cache, args.offline)
    )


def _picker_entries() -> list[tuple[str, str, bool]]:
    """(name, note, on disk) for the model picker, what is on disk first."""
    from stagescope.engine import catalog, store

    here = [(entry.name, entry.note, True) for entry in store.on_disk()]
    names = {name for name, _, _ in here}
    return here + [(known.name, known.note, False) for known in catalog.MODELS if known.name not in names]


def _last(work: Callable[[], Iterator[Reply]], args: argparse.Namespace) -> tuple[Any, Failure | None]:
    """The last reply of some work, its progress shown on stderr; or why there is none."""
    from stagescope.engine.protocol import EngineError, Progress

    progress, result = _Progress(args.quiet), None
    try:
        for reply in work():
            if isinstance(reply, Progress):
                progress.show(reply.stage, reply.done, reply.seconds_left)
            else:
                result = reply
    except EngineError as error:
        return None, error.failure
    finally:
        progress.clear()
    return result, None


class _Progress:
    """One line on stderr that rewrites itself; nothing where stderr is no terminal."""

    def __init__(self, quiet: bool):
        self.shown = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def show(self, stage: str, done: float, seconds_left: float = float("nan")) -> None:
        if self.shown:
            part = "" if done != done else f" {done:.0%}"
            left = "" if seconds_left != seconds_left else f", {seconds_left:.0f} s left"
            sys.stderr.write(f"\r\x1b[K{stage}{part}{left}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _fail(failure: Failure) -> int:
    from stagescope.engine.protocol import EXIT_CODES

    _say(f"stagescope: {failure.message}\n{failure.hint}".strip())
    return EXIT_CODES.get(failure.kind, 1)


def _harmless(error: Exception) -> str:
    from stagescope.text import printable

    return printable(str(error)) or "no message"


def _log_traceback() -> str:
    """Write the traceback to the log; where it is, as a sentence."""
    import traceback

    from stagescope import paths

    try:
        with paths.log_file("stagescope.log") as log:
            log.write(traceback.format_exc().encode("utf-8", "backslashreplace"))
    except OSError as error:
        return f"The traceback could not be written: {error}"
    return f"The whole is in {log.name}"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print_json(data: Any) -> None:
    print(json.dumps(data, allow_nan=False))


def _print(*lines: Any) -> None:
    """Rich renderables; as wide as they are where stdout is no terminal. Printed by us: rich ends the program itself
    when the reader of a pipe has gone."""
    from io import StringIO

    from rich.console import Console

    terminal = sys.stdout.isatty()
    width = Console().width if terminal else 200
    console = Console(file=StringIO(), markup=False, highlight=False, force_terminal=terminal, width=width)
    for line in lines:
        console.print(line, no_wrap=True, overflow="ellipsis", crop=False)
    text = console.file.getvalue()
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")
