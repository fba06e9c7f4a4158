"""Make the pictures of the README and the docs with the program itself: make pictures.

The real app on the real default model, without a terminal. When what it shows is complete it is asked to export that, by
the key that anybody presses; the picture of a replay is what `stagescope session export` makes of the session recorded.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

from stagescope import film
from stagescope.app import StageApp
from stagescope.engine.client import ChildEngine
from stagescope.guide import TourApp
from stagescope.screens.ask import Ask
from stagescope.screens.asking import Asking
from stagescope.screens.widgets.line import Field
from stagescope.sessions import files
from stagescope.sessions.events import begun

FOLDER = Path(__file__).parent / "pictures"
PICTURES = {
    "explore": ("drop 11", (120, 40), []),
    "first-layer": ("drop 0", (120, 40), []),
    "tokens": ("", (120, 40), ["v"]),
    "grid": ("drop 11", (120, 40), ["v", "v"]),
    "sweep": ("drop 11", (120, 42), ["w"]),
    "trace": ("drop 11", (120, 42), ["w", "v", "v"]),
    "lens": ("", (140, 42), ["f"]),
    "attention": ("", (120, 42), ["A", "v"]),
    "neurons": ("", (140, 42), ["N"]),
    "stages": ("", (160, 50), ["E"]),
    "attribution": ("drop 26", (140, 42), ["D"]),
    "column": ("drop 26", (140, 40), ["c"]),
    "heads": ("", (140, 42), ["H"]),
    "probe": ("", (140, 42), ["P"]),
    "similarity": ("", (140, 42), ["B"]),
    "head-sweep": ("", (120, 42), ["w", "v", "v", "v"]),
    "write": ("drop 14", (120, 40), ["W", "p"]),
    "neuron-sets": ("", (120, 42), ["w", "v", "v", "v", "v"]),
}
PATIENCE = 300  # seconds for the model to load and the census to be taken, the first time


async def take(name: str, schedule: str, size: tuple[int, int], keys: list[str]) -> None:
    async with explored(schedule, size) as (app, pilot):
        for key in keys:
            await pilot.press(key)
            await until(pilot, lambda: not isinstance(app.screen, Asking) or settled(app.screen))
        await pilot.pause(0.5)  # what came in is drawn a little later
        await export(pilot, FOLDER / f"{name}.svg")
    print(f"docs/pictures/{name}.svg")


async def compared(size: tuple[int, int] = (140, 42)) -> None:
    """Two schedules side by side."""
    async with explored("drop 11", size) as (app, pilot):
        await pilot.press("C")
        await edit(pilot, "drop 11 @0")
        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, Asking) and settled(app.screen))
        await pilot.pause(0.5)
        await export(pilot, FOLDER / "compare.svg")
    print("docs/pictures/compare.svg")


async def toured(step: int = 5, size: tuple[int, int] = (80, 24)) -> None:
    """A step of the tour in a small terminal; 5 is the sixth."""
    async with explored("", size, TourApp(ChildEngine, record=True)) as (app, pilot):
        for _ in range(step):
            await pilot.press("full_stop")
        await until(pilot, lambda: complete(app.explore) and app.explore.is_complete())
        await pilot.pause(0.5)
        await export(pilot, FOLDER / "tour.svg")
    print("docs/pictures/tour.svg")


async def replayed(size: tuple[int, int] = (120, 40)) -> None:
    """A session recorded, and watched."""
    async with explored("", size) as (app, pilot):
        for schedule in ("drop 17", "drop 11", "drop 11 @0"):
            await edit(pilot, schedule)
        await pilot.press("n")
        await answer(pilot, "layer 11 acts through the first token #sink")
        session = files.read(app.explore.recorder.file.path)
    noted = [event["event"] for event in session.events].index("note")
    (FOLDER / "replay.svg").write_bytes(await film.picture(session, noted + 1, *size))
    print("docs/pictures/replay.svg")


@asynccontextmanager
async def explored(schedule: str, size: tuple[int, int], app: StageApp | None = None) -> AsyncIterator[tuple[StageApp, Pilot]]:
    """The app, its first reading complete. Its session is not kept."""
    app = app or StageApp(ChildEngine, begun(schedule=schedule), record=True)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: complete(app.explore))
        yield app, pilot
        path = app.explore.recorder.file.path
        app.leave()
    path.unlink(missing_ok=True)


async def until(pilot: Pilot, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        await pilot.pause()
        while not holds():
            await pilot.pause(0.1)


async def edit(pilot: Pilot, schedule: str) -> None:
    """Type a schedule, and wait for what it does."""
    explore = pilot.app.explore
    await pilot.press("colon")
    explore.schedule_field.text = schedule
    await pilot.press("enter")
    await until(pilot, lambda: str(explore.schedule) == schedule and complete(explore))


async def answer(pilot: Pilot, text: str) -> None:
    """Give a question the text it asks for."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
    pilot.app.screen.query_one(Field).text = text
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(pilot.app.screen, Ask))


async def export(pilot: Pilot, file: Path) -> None:
    file.unlink(missing_ok=True)
    await pilot.press("e")
    await answer(pilot, str(file))
    await until(pilot, file.exists)
    await pilot.app.workers.wait_for_complete()


def settled(screen: Asking) -> bool:
    request = screen.wanted()
    return screen.running is None and (request is None or screen.is_known(request))


def complete(explore) -> bool:
    reading = explore.reading
    whole = reading is not None and len(reading.positions) == len(reading.tokens)
    return whole and explore.census is not None and not explore.jobs and explore.info.loaded


def figures() -> None:
    """The paper's Figures 4 to 10 of the default model over the standard text: panels of the report, side by side on white.
    The first time takes minutes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "paper.html"
        subprocess.run([sys.executable, "-m", "stagescope", "paper", "--out", str(report)], check=True)
        page = report.read_text("utf-8")
    for number in range(4, 11):
        figure = page[page.index(f'id="figure-{number}"') :].split("</section>")[0]
        panels = re.findall(r"<svg.*?</svg>", figure, re.DOTALL)
        sizes = [tuple(map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', panel).groups())) for panel in panels]
        width, height = sum(w for w, _ in sizes), max(h for _, h in sizes)
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" color="#1c2024" fill="#1c2024">']
        parts.append(f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>')
        at = 0.0
        for panel, (w, _) in zip(panels, sizes, strict=True):
            parts.append(panel.replace("<svg ", f'<svg x="{at:g}" ', 1))
            at += w
        (FOLDER / f"figure-{number}.svg").write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")
        print(f"docs/pictures/figure-{number}.svg")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    figures()
    for name, (schedule, size, keys) in PICTURES.items():
        asyncio.run(take(name, schedule, size, keys))
    asyncio.run(compared())
    asyncio.run(toured())
    asyncio.run(replayed())


if __name__ == "__main__":
    main()
