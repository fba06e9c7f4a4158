"""The line of the player, as wide as it comes. Plain functions of data; all text harmless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.content import Content

from stagescope.sessions.events import Event
from stagescope.sessions.words import clock, told
from stagescope.text import printable


def sign(playing: bool, state: str, ascii_only: bool) -> str:
    """▶ playing, 2x"""
    return f"{('▶' if playing else '‖') if not ascii_only else ('>' if playing else '=')} {state}  "


def bar(events: Sequence[Event], done: int, times: Sequence[float], sign: str, verdict: str) -> Content:
    """The line of the player. done: events that are behind. times: of events."""
    start = (sign, "bold $primary")
    if not events:
        return Content.assemble(start, "the session is empty")
    event = events[done - 1]
    parts = [start, f"{done} of {len(events)}  ", (clock(times[done - 1]), "$foreground 60%"), "  "]
    parts.append((told(event), "bold $text-accent" if event["event"] == "note" else "bold"))
    differs = "$text-error" if verdict.startswith("differs") else "$foreground 60%"
    return Content.assemble(*parts, (f"  {verdict}", differs) if verdict else "")


def short_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "nothing" if value is None else printable(str(value))[:20]
