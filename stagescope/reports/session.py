"""Sessions, and what a replay of one found, as text and JSON. What a session file holds is anyone's: all of it is made
harmless here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from stagescope.sessions import words
from stagescope.sessions.events import fold
from stagescope.sessions.files import Session
from stagescope.sessions.replay import Compared, Difference
from stagescope.sessions.words import clock
from stagescope.text import fit, printable

LONGEST = 300  # characters of one text


def _text(value: Any) -> str:
    return printable(str(value)[:LONGEST])


# ------------------------------------------------------------------------------------------------ sessions


def session_json(session: Session) -> dict[str, Any]:
    state = fold(session.events)
    return {
        "id": session.id,
        "path": str(session.path),
        "name": session.name,
        "tags": list(session.tags),
        "started": _started(session),
        "model": state.load.model,
        "events": len(session.events),
        "notes": sum(event["event"] == "note" for event in session.events),
        "prompt": state.prompt,
        "schedule": state.schedule,
        "warnings": list(session.warnings),
    }


def _started(session: Session) -> str:
    header = next((event for event in session.events if event["event"] == "session"), {})
    return _text(header.get("started", ""))


def sessions_table(sessions: Sequence[Session]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("session", "model", "events", "notes", "name, tags"):
        table.add_column(name, justify="right" if name in ("events", "notes") else "left", no_wrap=True)
    table.add_column(Text("last prompt and edit", no_wrap=True, overflow="ellipsis"))  # which alone gives way where the table is too wide
    for session in sessions:
        told = session_json(session)
        called = " ".join([*filter(None, [told["name"]]), *(f"#{tag}" for tag in told["tags"])])
        last = " · ".join(part for part in (told["prompt"], told["schedule"]) if part)
        counts = (str(told["events"]), str(told["notes"]))
        cells = (_text(session.id), _short(told["model"], 24), *counts, _short(called, 30))
        table.add_row(*map(Text, cells), Text(_short(last, 100), no_wrap=True, overflow="ellipsis"))
    return table


def _short(text: str, cells: int) -> str:
    return fit(text[:LONGEST], cells).rstrip()


def session_text(session: Session) -> list[Text | Table]:
    """A line an event; readings and answers with what they found in short."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for index, (event, at) in enumerate(zip(session.events, words.times(session.events), strict=True)):
        table.add_row(Text(str(index), "dim"), Text(clock(at), "dim"), Text(words.told(event)))
    told = session_json(session)
    about = [told["id"], told["name"], *(f"#{tag}" for tag in told["tags"]), told["started"], told["model"]]
    return [Text(" · ".join(_text(part) for part in about if part), "bold"), table]


# ------------------------------------------------------------------------------------------------- replays


def compared_json(session: Session, found: Compared) -> dict[str, Any]:
    return {
        "schema": "replay/1",
        "session": session.id,
        "answers": found.answers,
        "numbers": found.numbers,
        "skipped": found.skipped,
        "largest_of_allowed": found.largest,
        "differences": [_difference_json(one) for one in found.differences],
        "remarks": list(found.remarks),
    }


def _difference_json(one: Difference) -> dict[str, Any]:
    allowed = one.allowed if math.isfinite(one.allowed) else None
    values = {name: _value(value) for name, value in (("recorded", one.recorded), ("now", one.now))}
    return {"event": one.event, "what": one.what, **values, "allowed": allowed}


def _value(value: Any) -> float | int | str | None:
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _text(value)


def compared_text(session: Session, found: Compared, most: int) -> list[Text | Table]:
    lines: list[Text | Table] = [Text(remark) for remark in found.remarks]
    numbers = f"{found.numbers:,} numbers of {found.answers:,} answers"
    if not found.answers:
        told = " that can be read" if found.skipped else ""
        return [*lines, Text(f"session {_text(session.id)}: it keeps no answer{told}, there is nothing to compare")]
    if not found.differences:
        largest = f"; the largest difference is {100 * found.largest:.2g} % of what is allowed" if found.largest else ""
        return [*lines, Text(f"session {_text(session.id)}: {numbers} agree with what was recorded{largest}")]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("event", "what", "recorded", "now", "allowed"):
        table.add_column(name, justify="left" if name == "what" else "right", no_wrap=True)
    for one in found.differences[:most]:
        cells = (one.event, one.what, *(_cell(value) for value in (one.recorded, one.now, one.allowed)))
        table.add_row(*(Text(str(cell)) for cell in cells))
    lines += [Text(f"session {_text(session.id)}: of {numbers} {len(found.differences):,} differ", "bold"), table]
    more = len(found.differences) - most
    return [*lines, Text(f"and {more:,} more")] if more > 0 else lines


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else _text(value)[:60]
