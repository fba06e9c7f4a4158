"""Make the pictures of the README with the program itself: make pictures.

The real app on the real default model, without a terminal; a picture is taken when what it shows is complete.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
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
    "neurons": ("", (140, 42), ["N"]),
    "stages": ("", (160, 50), ["E"]),
    "attribution": ("drop 26", (140, 42), ["D"]),
    "column": ("drop 26", (140, 40), ["c"]),
    "heads": ("", (140, 42), ["H"]),
    "probe": ("", (140, 42), ["P"]),
    "similarity": ("", (140, 42), ["B"]),
    "head-sweep": ("", (120, 42), ["w", "v", "v", "v"]),
    "neuron-sets": ("", (120, 42), ["w", "v", "v", "v", "v"]),
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


if __name__ == "__main__":
    main()
