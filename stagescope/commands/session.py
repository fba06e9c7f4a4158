"""What `stagescope session` does. Each gives its exit code; nothing heavy is imported until it is needed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stagescope.commands.arguments import app_look, load_changes
from stagescope.console import Progress, fail, last, print_json, print_lines, say

if TYPE_CHECKING:
    from stagescope.answers import Answer
    from stagescope.engine.protocol import Reply
    from stagescope.sessions.files import Session

MOST = 40  # differences that are told


def session(args: argparse.Namespace) -> int:
    from stagescope.exports.formats import ExistsError, ExportError
    from stagescope.sessions import files

    try:
        if args.action == "list":
            return _list(args)
        path = files.find(args.session, whole=args.action == "delete")  # what is removed is named in full
        if args.action in ("note", "name", "tag"):
            return _append(path, args)
        if args.action == "delete":
            files.read(path, numbers=False)  # is one
            files.remove(path)
            print(path)
            return 0
        found = files.read(path)
        for warning in found.warnings if args.action != "replay" else ():  # which tells them itself
            say(f"stagescope: {warning}")
        return {"show": _show, "replay": _replay, "watch": _watch, "export": _export}[args.action](found, args)
    except files.SessionError as error:
        say(f"stagescope: {error}")
        return 3
    except ExportError as error:
        say(f"stagescope: {error}{' (--force overwrites it).' if isinstance(error, ExistsError) else ''}")
        return 1


def _list(args: argparse.Namespace) -> int:
    from stagescope.reports import session as session_report
    from stagescope.sessions import files

    found = list(files.all_sessions())
    if args.json:
        print_json({"schema": "sessions/1", "sessions": [session_report.session_json(one) for one in found]})
    elif not found:
        say("stagescope: no session was recorded yet: the app records one when it runs.")
    else:
        print_lines(session_report.sessions_table(found))
    return 0


def _show(session: Session, args: argparse.Namespace) -> int:
    from stagescope.reports import session as session_report
    from stagescope.reports.reading import finite

    if args.json:
        print_json({"schema": "session/1", "path": str(session.path), "events": finite(list(session.events))})
    else:
        print_lines(*session_report.session_text(session))
    return 0


def _append(path: Path, args: argparse.Namespace) -> int:
    from stagescope.sessions import files

    words = args.tags if args.action == "tag" else [args.text]
    if not all(word.strip() for word in words):
        say(f"stagescope: the {args.action} is empty: give some text.")
        return 2
    recording = files.added_to(path)
    try:
        match args.action:
            case "note":
                recording.write({"event": "note", "note": args.text})
            case "name":
                recording.write(files.named(args.text))
            case "tag":
                recording.write({"event": "tags", "tags": args.tags})
    finally:
        recording.let_go()
    return 0


def _replay(session: Session, args: argparse.Namespace) -> int:
    from stagescope.engine.local import LocalEngine
    from stagescope.reports import session as session_report
    from stagescope.sessions.replay import replay

    found, failure = last(lambda: replay(session, LocalEngine(), load_changes(args)), args.quiet)
    if failure:
        return fail(failure)
    if args.json:
        print_json(session_report.compared_json(session, found))
    else:
        print_lines(*session_report.compared_text(session, found, MOST), color=args.color)
    return 1 if found.differences or (found.skipped and not found.answers) else 0


def _watch(session: Session, args: argparse.Namespace) -> int:
    look = app_look(args)
    del look["record"]  # what is watched is recorded already
    from stagescope.watch import watch

    return watch(session, load_changes(args), **look)


# ------------------------------------------------------------------------------------------------- export


def _export(session: Session, args: argparse.Namespace) -> int:
    from stagescope.exports import formats

    path = Path(os.path.expanduser(args.file))
    extension = path.suffix.lower().removeprefix(".")
    if extension != "jsonl":
        formats.format_of(path, also=("jsonl",))
    if args.event is not None and not 0 <= args.event < len(session.events):
        say(f"stagescope: the session has events 0 to {len(session.events) - 1}, there is no {args.event}.")
        return 2
    if extension == "jsonl" and args.event is not None:
        say("stagescope: .jsonl is the session whole: --event is for the other formats.")
        return 2
    formats.refuse(path, args.force)  # before anything is run for it
    until = len(session.events) if args.event is None else args.event + 1
    if extension == "jsonl":
        formats.save(path, session.path.read_bytes(), args.force)
    elif extension in ("svg", "cast"):
        formats.save(path, _filmed(session, until, extension, args), args.force)
    else:
        found, failure = last(lambda: answer_at(session, args), args.quiet)
        if failure:
            return fail(failure)
        if found is None:
            say("stagescope: nothing was answered up to there: there is nothing to export.")
            return 2
        formats.save(path, formats.render(found, extension), args.force)
    print(path)
    return 0


def answer_at(session: Session, args: argparse.Namespace) -> Iterator[Reply | Answer]:
    """What was looked at in the end, or after the event that is named, asked again: Progress and replies, then it. Nothing without."""
    from dataclasses import replace

    from stagescope.answers import Answer, collected, position_of
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Progress as Told
    from stagescope.engine.protocol import Read
    from stagescope.sessions.looked import looked_at

    step, engine, came = looked_at(session.events, args.event), LocalEngine(), []
    if step is None:
        return
    load = replace(step.load, **load_changes(args))
    yield from engine.answer(load)
    request, is_reading = step.request, isinstance(step.request, Read)
    if is_reading:  # of the token that the cursor was at, by then another than it was asked for
        request = replace(request, position=step.position)
    for reply in engine.answer(replace(request, part="whole") if is_reading else request):
        yield reply
        if not isinstance(reply, Told):
            came.append(reply)
    at = position_of(request)
    if is_reading and at == len(came[-1].tokens) - 1:  # the last one is what a reading is of where nothing is said
        request = replace(request, position=-1)
    yield Answer(load, engine.info, request, collected(came), at)


def _filmed(session: Session, until: int, extension: str, args: argparse.Namespace) -> bytes:
    import asyncio
    from dataclasses import replace

    from stagescope import film

    progress = Progress(args.quiet)
    size = (args.width, args.height)
    try:
        if extension == "svg":
            return asyncio.run(film.picture(session, until, *size, other=load_changes(args)))
        session = replace(session, events=session.events[:until])
        return asyncio.run(film.cast(session, *size, progress.show, other=load_changes(args)))
    finally:
        progress.clear()
