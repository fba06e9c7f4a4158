"""Make the pictures of the README with the program itself: make pictures.

The real app on the real default model, without a terminal; a picture is taken when what it shows is complete.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from stagescope.app import StageApp
from stagescope.engine.client import ChildEngine
from stagescope.engine.protocol import DEFAULT_PROMPT, Load
from stagescope.screens.asking import Asking

FOLDER = Path(__file__).parent / "pictures"
PICTURES = {
    "explore": ("drop 11", (120, 40), []),
    "first-layer": ("drop 0", (120, 40), []),
    "grid": ("drop 11", (120, 40), ["v", "v"]),
    "sweep": ("drop 11", (120, 42), ["w"]),
    "trace": ("drop 11", (120, 42), ["w", "v", "v"]),
    "lens": ("", (140, 42), ["f"]),
    "attention": ("", (120, 42), ["A", "v"]),
    "neurons": ("", (140, 42), ["n"]),
    "stages": ("", (160, 50), ["e"]),
}
KEEP_SPACES = '<svg xml:space="preserve" '  # some renderers trim the no-break spaces a piece of text begins with
PATIENCE = 300  # seconds for the model to load and the census to be taken, the first time


async def take(name: str, schedule: str, size: tuple[int, int], keys: list[str]) -> None:
    app = StageApp(ChildEngine, Load(), DEFAULT_PROMPT, schedule)
    async with app.run_test(size=size) as pilot:
        async with asyncio.timeout(PATIENCE):
            while not complete(app.explore):
                await pilot.pause(0.1)
        for key in keys:
            await pilot.press(key)
            async with asyncio.timeout(PATIENCE):
                while isinstance(app.screen, Asking) and not settled(app.screen):
                    await pilot.pause(0.1)
        await pilot.pause(0.5)  # what came in is drawn a little later
        svg = app.export_screenshot(title="stagescope").replace("<svg ", KEEP_SPACES, 1)
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
    print(f"docs/pictures/{name}.svg")


def settled(screen: Asking) -> bool:
    request = screen.wanted()
    return screen.running is None and (request is None or screen.is_known(request))


def complete(explore) -> bool:
    reading = explore.reading
    whole = reading is not None and len(reading.positions) == len(reading.tokens)
    return whole and explore.census is not None and not explore.jobs and explore.info.loaded


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (schedule, size, keys) in PICTURES.items():
        asyncio.run(take(name, schedule, size, keys))


if __name__ == "__main__":
    main()
