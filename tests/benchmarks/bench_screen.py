"""What the screen costs, real program, real engine: python tests/benchmarks/bench_screen.py

In a pseudo-terminal of 120x40 in 256 colours: first paint, key to paint while the census runs, bytes sent for a row
move, a position move, a toggle that changes every row, a typed letter. Then, without a terminal, how late the event
loop is while the engine works.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_terminal import Terminal  # noqa: E402

from stagescope.app import StageApp  # noqa: E402
from stagescope.engine.client import ChildEngine  # noqa: E402
from stagescope.engine.protocol import Load  # noqa: E402
from stagescope.sessions.events import State  # noqa: E402

QUIET = 0.25  # seconds without output that end an answer to a key
MOVES = 40


def answer(terminal: Terminal, keys: str, quiet: float = QUIET) -> tuple[float, int]:
    """Send keys: (seconds to the last byte, bytes) until nothing came for a while."""
    began, before, last = time.perf_counter(), len(terminal.raw), time.perf_counter()
    terminal.child.send(keys)
    while time.perf_counter() - last < quiet:
        had = len(terminal.raw)
        terminal.draw(0.005)
        if len(terminal.raw) > had:
            last = time.perf_counter()
    return last - began, len(terminal.raw) - before


def toggle(terminal: Terminal) -> tuple[int, int]:
    """From the baseline to the edit: bytes until the means are still to come, and until they are there."""
    answer(terminal, "b", 3)
    before = len(terminal.raw)
    terminal.child.send("b")
    terminal.until("means …")
    first = len(terminal.raw) - before
    answer(terminal, "", 3)
    return first, len(terminal.raw) - before


def first_byte(terminal: Terminal, keys: str) -> float:
    """Seconds from a key to the first byte of its answer."""
    while True:  # what is still under way is not the answer
        had = len(terminal.raw)
        terminal.draw(0.05)
        if len(terminal.raw) == had:
            break
    began, had = time.perf_counter(), len(terminal.raw)
    terminal.child.send(keys)
    while len(terminal.raw) == had and time.perf_counter() - began < 2:
        terminal.draw(0.001)
    return time.perf_counter() - began


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def in_a_terminal() -> None:
    began = time.perf_counter()
    terminal = Terminal("--no-cache")
    terminal.until("prompt", 30)
    print(f"  first paint: {time.perf_counter() - began:.2f} s", end="")
    terminal.until("29 ■", 30)
    print(f", with all layers, known from the engine's process: {time.perf_counter() - began:.2f} s")
    terminal.until("means", 120)
    keys = [first_byte(terminal, "\x1b[B" if i % 20 < 10 else "\x1b[A") for i in range(MOVES)]
    print(f"  key to paint while the engine works: median {statistics.median(keys) * 1e3:.0f} ms, p95 {p95(keys) * 1e3:.0f} ms")
    terminal.until("idle", 600)
    rows = [answer(terminal, "\x1b[B" if i % 2 else "\x1b[A")[1] for i in range(10)]
    print(f"  row move: median {statistics.median(rows):.0f} bytes, most {max(rows)}")
    positions = [answer(terminal, "\x1b[D")[1] for _ in range(4)]
    print(f"  position move: median {statistics.median(positions):.0f} bytes, most {max(positions)}")
    terminal.child.send(":drop 0\r")
    answer(terminal, "", 3)
    first, both = zip(*[toggle(terminal) for _ in range(4)], strict=True)
    print(
        f"  toggle that changes every row: median {statistics.median(first):.0f} bytes up to the chosen position's "
        f"reading, {statistics.median(both):.0f} with all positions"
    )
    answer(terminal, "/", 0.5)
    letters = [answer(terminal, letter, 0.2)[1] for letter in " wonde"]
    print(f"  a letter typed, before the stack follows: median {statistics.median(letters):.0f} bytes, most {max(letters)}")
    terminal.child.close(force=True)


async def event_loop_lag() -> None:
    app = StageApp(ChildEngine, State(Load(cache=False)))
    async with app.run_test(size=(120, 40)) as pilot:
        while "census" not in app.explore.jobs:
            await pilot.pause(0.1)
        lags = []
        for step in range(600):
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            lags.append(time.perf_counter() - began - 0.01)
            if step % 20 == 0:
                app.explore.action_down() if step % 40 else app.explore.action_up()
    print(f"  event loop late by: median {statistics.median(lags) * 1e3:.1f} ms, p95 {p95(lags) * 1e3:.1f} ms")


def main() -> None:
    print("the screen at 120x40 in 256 colours, the default model, census running where the engine is said to work")
    in_a_terminal()
    asyncio.run(event_loop_lag())


if __name__ == "__main__":
    main()
