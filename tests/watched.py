"""Sessions written by hand, for the tests of the player and of the film."""

import json
from pathlib import Path

from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Load, Read, TakeSweep
from stagescope.sessions import files, short
from stagescope.sessions.events import plain

PROMPT = "The Eiffel Tower is in"  # 6 tokens with the prefix in the fake's tokenizer
HOSTILE = "\x1b]52;c;AAAA\x07 </text><script>alert(1)</script> \u202e[@click=app.quit]x[/] in"


def numbers(schedule: str, prompt: str = PROMPT, engine: FakeEngine | None = None, position: int = -1) -> dict:
    engine = engine or FakeEngine()
    reading = engine.reading(Read(prompt, schedule), tuple(range(len(engine.tokenize(prompt)))))
    return short.of_reading(reading, position)


def read(schedule: str, prompt: str = PROMPT, engine: FakeEngine | None = None) -> dict:
    request = plain(Read(prompt, schedule))
    return {"event": "reading", "request": request, "position": -1, "numbers": numbers(schedule, prompt, engine)}


EVENTS = [
    {"event": "prompt", "prompt": PROMPT},
    read(""),
    {"event": "schedule", "how": "change", "schedule": "drop 3"},
    {"event": "cursor", "position": -1, "row": 3},
    read("drop 3"),
    {"event": "note", "note": "what a drop this is, and the whole of what was noted stands here to its last word"},
    {"event": "screen", "screen": "sweep"},
    {"event": "answer", "request": plain(TakeSweep((PROMPT,))), "kind": "Sweep", "numbers": {}},
    {"event": "screen", "screen": "explore"},
    {"event": "schedule", "how": "undo", "schedule": ""},
    {"event": "of another version", "why": HOSTILE},
    {"event": "prompt", "prompt": HOSTILE},
    {"event": "note", "note": f"#two {HOSTILE}"},
    {"event": "view", "view": "tokens", "column": "norms", "flipped": True},
    {"event": "end"},
]


def session(folder: Path, events: list[dict] | None = None, every: float = 0.0, load: Load = Load()) -> files.Session:
    """Read back from a file. every: seconds from one event to the next."""
    events = EVENTS if events is None else events
    header = {"event": "session", "t": 0, "schema": "session/1", "started": "2026-01-02T03:04:05+00:00"}
    header |= {"version": "0.1.0", "load": plain(load), "model": None}
    lines = [header, *({"t": every * (n + 1), **event} for n, event in enumerate(events))]
    path = folder / "by-hand.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return files.read(path)
