"""What the events of a session are in words, and how long one waits between them. Plain functions of data; all text
harmless, as a session is a file that anyone may have edited."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stagescope.sessions import short
from stagescope.sessions.events import Event
from stagescope.text import fit, printable

LONGEST = 3.0  # seconds that a wait between two events is cut to
ROOM = 60  # cells of a prompt, a schedule or a path; notes stand in full


def wait(events: Sequence[Event], n: int) -> float:
    """Seconds from event n to the next one, counted from 0. After "opened" the time starts anew."""
    return min(max(events[n + 1]["t"] - events[n]["t"], 0.0), LONGEST)


def times(events: Sequence[Event]) -> list[float]:
    """Seconds since the session began, of each event: of those after "opened" those before are counted on."""
    found, base = [], 0.0
    for event in events:
        base = found[-1] if found and event["event"] == "opened" else base
        found.append(base + event["t"])
    return found


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
            request = event["request"] if isinstance(event.get("request"), dict) else {}
            took = ", from the cache" if event.get("cached") is True else _took(event.get("milliseconds"))
            return f"read {_cut(request.get('schedule') or 'the baseline')}{_effect(event)}{took}"
        case "answer", _:
            return f"answer: {_cut(event.get('kind', ''))}{_asked(event)}"
        case "note", {"note": note}:
            return f"note: {_text(note)}"
        case "name", {"name": given}:
            return f"called {_cut(given)}"
        case "tags", {"tags": list(tags)}:
            return _cut(" ".join(f"#{tag}" for tag in tags))
        case "export", _:
            return f"exported {_cut(event.get('path', event.get('format', '')))}"
        case "end", _:
            return "the end"
    return f"of a kind that this version does not know: {_cut(name)}"


def _model(event: Event) -> str:
    load = event.get("load")
    version = event.get("version")
    name = _cut(load["model"]) if isinstance(load, dict) and "model" in load else "no model that could be"
    return f"{name}, stagescope {_text(version)[:20]}" if version is not None else name


def _effect(event: Event) -> str:
    """The KL of the output at the position looked at, where it was kept: of prompts up to 511 tokens (short.sampled)."""
    numbers, at = event.get("numbers"), event.get("position")
    kl = numbers.get("effect.kl_nats") if isinstance(numbers, dict) else None
    whole = isinstance(kl, list) and type(at) is int and 0 <= at < len(kl) < short.MOST
    return f" (KL {kl[at]:.3g} at token {at})" if whole and type(kl[at]) in (int, float) else ""


def _asked(event: Event) -> str:
    """What an answer was of, where its kind alone does not say: texts written."""
    request = event.get("request") if isinstance(event.get("request"), dict) else {}
    if event.get("kind") != "Generation" or not isinstance(request.get("schedules"), list):
        return ""
    warm = request.get("temperature")
    drawn = f"temperature {_text(warm)}, seed {_text(request.get('seed'))}" if warm else "greedy"
    under = " beside ".join(["the baseline", *map(_cut, request["schedules"])])
    return f", up to {_text(request.get('tokens'))} tokens of {under}, {drawn}"


def _took(milliseconds: Any) -> str:
    known = type(milliseconds) in (int, float) and math.isfinite(milliseconds)
    return f" in {milliseconds:,.0f} ms" if known else ""


def _text(value: Any) -> str:
    return printable(str(value))


def _cut(value: Any) -> str:
    return fit(str(value), ROOM).rstrip()
