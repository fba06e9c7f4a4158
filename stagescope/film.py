"""Pictures and films of a session: the app run without a terminal over its events, with a live engine.

The film is an asciinema cast, version 2: https://docs.asciinema.org/manual/asciicast/v2/
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich.color import ColorSystem
from textual.pilot import Pilot
from textual.strip import Strip

from stagescope.engine.client import ChildEngine
from stagescope.engine.progress import Report, quiet
from stagescope.engine.protocol import Engine, Progress
from stagescope.exports import svg_file
from stagescope.exports.formats import ExportError
from stagescope.sessions import words
from stagescope.sessions.files import Session, read
from stagescope.watch import WatchApp

PATIENCE = 600.0  # seconds without an end of what the engine does for one event: a census of a large model takes minutes
LOOK = 0.02  # seconds between two looks whether it has ended
LAST = 2.0  # seconds that the last frame stands


class FilmError(ExportError):
    """A picture that cannot be taken: says why."""


async def picture(
    session: Session,
    n: int,
    width: int = 120,
    height: int = 40,
    engine_factory: Callable[[], Engine] = ChildEngine,
    other: dict[str, Any] | None = None,
) -> bytes:
    """An SVG of the screen after n events, once all of it is there. n below 0 counts from the end: -1 is all of them.
    other: fields of Load in place of the recorded ones.

    Raises FilmError.
    """
    async with _watched(session, width, height, engine_factory, other) as (app, pilot):
        app.player.go_to(len(session.events) + 1 + n if n < 0 else n)
        await _settled(app, pilot)
        return svg_file.clean(app.export_screenshot(title="stagescope"))


async def cast(
    session: Session,
    width: int = 120,
    height: int = 40,
    progress: Report = quiet,
    engine_factory: Callable[[], Engine] = ChildEngine,
    other: dict[str, Any] | None = None,
) -> bytes:
    """The session as an asciinema film: a frame wherever the screen changes, each once all of it is there.

    The times are those of the events, no wait longer than 3 s. Cancelling the task ends the app. Raises FilmError.
    """
    lines = [json.dumps(_header(session, width, height))]
    events, time, begun = session.events, 0.0, monotonic()
    before: list[str] = []
    async with _watched(session, width, height, engine_factory, other) as (app, pilot):
        for n in range(1, len(events) + 1):
            done = (n - 1) / len(events)
            progress(f"event {n} of {len(events)}", done, (monotonic() - begun) * (1 - done) / done if done else math.nan)
            app.player.go_to(n)
            await _settled(app, pilot)
            time += words.wait(events, n - 2) if n > 1 else 0.0
            drawn = [ansi(strip) for strip in app.screen._compositor.render_strips()]
            if data := _difference(before, drawn):
                lines.append(json.dumps([round(time, 3), "o", data]))
            before = drawn
    lines.append(json.dumps([round(time + LAST, 3), "o", ""]))
    progress("film", 1.0, 0.0)
    return ("\n".join(lines) + "\n").encode()


@asynccontextmanager
async def _watched(
    session: Session, width: int, height: int, engine_factory: Callable[[], Engine], other: dict[str, Any] | None
) -> AsyncIterator[tuple[WatchApp, Pilot]]:
    """The app over a session, at its first event."""
    if not session.events:
        raise FilmError("the session is empty: there is nothing to be seen of it")
    app = WatchApp(engine_factory, session, other, playing=False, filmed=True)
    async with app.run_test(size=(width, height)) as pilot:
        while app.screen is not app.player:
            await pilot.pause()
        yield app, pilot


async def _settled(app: WatchApp, pilot: Pilot) -> None:
    """Until the engine has answered all, and all of it is drawn. Raises FilmError when that takes too long."""
    try:
        async with asyncio.timeout(PATIENCE):
            await pilot.pause()
            while not app.player.is_settled():
                if not app.is_running or app.crash:
                    raise FilmError(f"the app ended at event {app.player.done}: {app.crash or 'nothing says why'}")
                await pilot.pause(LOOK)
            await pilot.pause()  # what came last is drawn
    except TimeoutError:
        what = words.told(app.player.events[app.player.done - 1])
        raise FilmError(f"the engine did not end what event {app.player.done} ({what}) asks in {PATIENCE:.0f} s") from None


def ansi(strip: Strip) -> str:
    """A line of the screen in terminal sequences: its text, which is harmless, and 24-bit colours."""
    pieces = [
        Strip.render_style(style, text, ColorSystem.TRUECOLOR) if style else text for text, style, _ in strip._segments
    ]
    return "".join(pieces)


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    """What makes a terminal that shows the one show the other."""
    if not before:
        return "\x1b[?25l\x1b[2J" + _difference([""] * len(now), now)
    changed = [y for y, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
    return "".join(f"\x1b[{y + 1};1H\x1b[0m{now[y]}" for y in changed)


def _header(session: Session, width: int, height: int) -> dict[str, Any]:
    header: dict[str, Any] = {"version": 2, "width": width, "height": height}
    started = session.events[0].get("started") if session.events else None
    try:
        header["timestamp"] = int(datetime.fromisoformat(started).timestamp())
    except (TypeError, ValueError, OverflowError):
        pass  # a session edited by hand: the field may be left out
    return header | {"env": {"TERM": "xterm-256color"}, "title": f"stagescope {session.id}"}


def main(asked: Sequence[str]) -> None:
    """SESSION FILE WIDTH HEIGHT: what the app runs beside itself. Its progress goes to stdout, JSON a line."""

    def tell(stage: str, done: float, seconds_left: float) -> None:
        print(json.dumps(asdict(Progress(stage, done, seconds_left))), flush=True)

    session, file, width, height = asked
    try:
        data = asyncio.run(cast(read(Path(session)), int(width), int(height), tell))
    except FilmError as error:
        sys.exit(str(error))
    Path(file).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1:])
