"""What the player says of the events of a session, and how long it waits between them. Plain functions of data; all
text harmless, as a session is a file that anyone may have edited."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from textual.content import Content

from stagescope.sessions.events import Event
from stagescope.text import fit, printable

LONGEST = 3.0  # seconds that a wait between two events is cut to
ROOM = 60  # cells of a prompt, a schedule or a path; notes stand in full


def wait(events: Sequence[Event], n: int) -> float:
    """Seconds from event n to the next one, counted from 0. After "opened" the time starts anew."""
    return min(max(events[n + 1]["t"] - events[n]["t"], 0.0), LONGEST)


def clock(seconds: float) -> str:
    """ "1:07.3", hours from an hour on."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    rest = f"{tenths // 10:02}.{tenths % 10}"
    return f"{hours}:{minutes:02}:{rest}" if hours else f"{minutes}:{rest}"


def told(event: Event) -> str:
    """One event in words."""
    name = event["event"]
    match name, event:
        case "session" | "opened", _:
            when = f" {_text(event['started'])[:19].replace('T', ' ')}" if "started" in event else ""
            return f"{'begun' if name == 'session' else 'opened again'}{when}, {_model(event)}"
        case "model", _:
            return f"model {_model(event)}"
        case "prompt", {"prompt": prompt}:
            return f"prompt: {_cut(prompt)}"
        case "schedule", {"how": how, "schedule": schedule}:
            undone = f"{_text(how)}: " if how in ("undo", "redo", "baseline") else ""
            return f"{undone}{_cut(schedule) if schedule else 'the baseline'}"
        case "tracked", {"tracked": tracked}:
            return "following the top token" if tracked is None else f"following {_cut(event.get('tracked_text', ''))}"
        case "lens", {"lens": lens}:
            return f"lens: {_cut(lens)}"
        case "deck", {"deck": list(prompts)}:
            return f"deck of {len(prompts)}" if prompts else "the deck is empty"
        case "view", {"view": view}:
            return f"view: {_cut(view)}, columns: {_cut(event.get('column', ''))}"
        case "screen", {"screen": screen}:
            return "back to the stack" if screen == "explore" else f"screen: {_cut(screen)}"
        case "cursor", _:
            row = event.get("row")
            return f"at token {_text(event.get('position'))}" + (f", layer {_text(row)}" if row is not None else "")
        case "reading", _:
            return "read, from the cache" if event.get("cached") is True else f"read{_took(event.get('milliseconds'))}"
        case "answer", _:
            return f"answer: {_cut(event.get('kind', ''))}"
        case "note", {"note": note}:
            return f"note: {_text(note)}"
        case "name", {"name": given}:
            return f"called {_cut(given)}"
        case "tags", {"tags": list(tags)}:
            return f"tags: {_cut(', '.join(map(str, tags)))}"
        case "export", _:
            return f"exported {_cut(event.get('path', event.get('format', '')))}"
        case "end", _:
            return "the end"
    return f"of a kind that this version does not know: {_cut(name)}"


def bar(events: Sequence[Event], done: int, playing: bool, state: str, verdict: str, ascii_only: bool) -> Content:
    """The line of the player. done: events that are behind. state: in words, with the speed."""
    sign = ("▶" if playing else "‖") if not ascii_only else (">" if playing else "=")
    parts = [(f"{sign} {state}", "bold $primary"), "  "]
    if not events:
        return Content.assemble(*parts, "the session is empty")
    event = events[done - 1]
    parts += [f"{done} of {len(events)}  ", (clock(event["t"]), "$foreground 60%"), "  "]
    parts.append((told(event), "bold $text-accent" if event["event"] == "note" else "bold"))
    differs = "$text-error" if verdict.startswith("differs") else "$foreground 60%"
    return Content.assemble(*parts, (f"  {verdict}", differs) if verdict else "")


def short_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "nothing" if value is None else _text(value)[:20]


def _model(event: Event) -> str:
    load = event.get("load")
    version = event.get("version")
    name = _cut(load["model"]) if isinstance(load, dict) and "model" in load else "no model that could be"
    return f"{name}, stagescope {_text(version)[:20]}" if version is not None else name


def _took(milliseconds: Any) -> str:
    known = type(milliseconds) in (int, float) and math.isfinite(milliseconds)
    return f" in {milliseconds:,.0f} ms" if known else ""


def _text(value: Any) -> str:
    return printable(str(value))


def _cut(value: Any) -> str:
    return fit(str(value), ROOM).rstrip()
