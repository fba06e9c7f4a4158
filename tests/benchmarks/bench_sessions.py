"""What recording, opening and exporting cost, beside the readings they are of: python tests/benchmarks/bench_sessions.py

On the default model, its readings computed anew; ratios from one run.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import stagescope as ss  # noqa: E402
from stagescope.exports import formats  # noqa: E402
from stagescope.sessions import files, short  # noqa: E402
from stagescope.sessions.events import fold, plain  # noqa: E402

PROMPTS = {"26 tokens": "The Eiffel Tower is located in the city of " * 2, "200 tokens": "The cat sat on the mat and " * 28}
TIMES = 9


def median(work: Callable[[], object]) -> float:
    """Seconds."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def main() -> None:
    model = ss.load(cache=False)
    for name, prompt in PROMPTS.items():
        answer = model.ask(ss.Read(prompt, "drop 11"))
        toggles = iter(("drop 12", "drop 11") * TIMES)
        read = median(lambda: model.read(prompt, next(toggles)))  # noqa: B023
        reading = answer.last
        event = {"event": "reading", "request": plain(answer.request), "position": -1}
        recording = files.begin(ss.Load())

        def record() -> None:
            recording.write(event | {"numbers": short.of_reading(reading, -1)})  # noqa: B023

        wrote = median(record)
        size = len(json.dumps(event | {"numbers": short.of_reading(reading, -1)}))
        print(f"{name} ({len(reading.tokens)}): recording a toggle / the toggle {wrote / read:.4f}, {size / 1024:.1f} KiB a reading")
        recording.let_go()
        for format in formats.FORMATS:
            if format.module:
                formats.render(answer, format.extension)  # what it imports
                took = median(lambda: formats.render(answer, format.extension))  # noqa: B023
                size = len(formats.render(answer, format.extension))
                print(f"  .{format.extension} / the toggle {took / read:.2f}, {size / 1024:.0f} KiB")

        events = list(files.read(recording.path).events) * 300
        recording.path.unlink()
    path = Path(tempfile.mkdtemp()) / "long.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    took = median(lambda: fold(files.read(path).events))
    print(f"a session of {len(events):,} events, {path.stat().st_size / 2**20:.0f} MiB: opened in {took / read:.2f} of the toggle at 200 tokens")


if __name__ == "__main__":
    main()
