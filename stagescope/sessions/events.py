"""A session is a list of events, each a plain dict with a name and a time; and what all of them together led to.

Events, by "event" (all carry "t", seconds since the session began, or was opened again):
  session   schema, id, started, version, python, platform, libraries {name: version}, load {}, model {} | null
  opened    the same without schema and id: the session was opened again, and goes on
  model     load {}, model {}: another model; or the same one, now that its weights are there
  prompt    prompt
  schedule  how (history.STEPS), schedule (canonical text)
  tracked   id | null, text
  lens      lens
  deck      prompts [], guest | null
  view      view, column, flipped
  screen    screen: the place in the table of actions of the screen on top
  cursor    position (an index), row (a layer or null), numbers {} | absent: what the stack shows there
  reading   request {}, position, numbers {}, milliseconds, cached
  answer    request {}, kind, numbers {}: of any other request that came to its end
  note      text
  name      name
  tags      tags []
  export    format, path
  end
What a later version adds is skipped with a warning. Requests and loads are the protocol's, as wire.flatten makes them.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stagescope import __version__
from stagescope.engine import wire
from stagescope.engine.protocol import DEFAULT_PROMPT, LENSES, MOST_PROMPTS, Load, ModelInfo
from stagescope.engine.schedule import ScheduleError, parse
from stagescope.history import STEPS
from stagescope.reports import reading as report

SCHEMA = "session/1"
VIEWS = ("stack", "tokens", "delta")
COLUMNS = ("norms", "direct", "change")  # of attention and MLP
Event = dict[str, Any]
# Those after which the file is flushed to the disk itself, not only to the system.
SYNCED = ("session", "opened", "prompt", "note", "name", "tags", "answer", "export", "end")


@dataclass(frozen=True)
class State:
    """What is looked at, and how the schedule came to be: all that a session opened again restores."""

    load: Load = Load()
    prompt: str = DEFAULT_PROMPT
    schedules: tuple[tuple[str, str], ...] = (("start", ""),)  # history.History.log
    tracked: int | None = None
    tracked_text: str = ""
    lens: str = "standard"
    deck: tuple[str, ...] = ()
    guest: str | None = None  # deck.Deck.guest
    view: str = "stack"
    column: str = "norms"
    flipped: bool = False
    screen: str = "explore"
    position: int = -1  # as Explore.at: negative counts from the end
    row: int | None = None  # the layer under the cursor; None: the embedding, or not known

    @property
    def schedule(self) -> str:
        return self.schedules[-1][1]


def begun(
    load: Load = Load(), prompt: str = DEFAULT_PROMPT, schedule: str = "", position: int = -1, lens: str = "standard"
) -> State:
    """What is looked at where nothing has been done yet. Raises ScheduleError."""
    return State(load, prompt, (("start", str(parse(schedule))),), lens=lens, position=position)


def with_load(state: State, given: dict[str, Any]) -> State:
    """With fields of Load in place of its own. A token that is followed is one of its model's."""
    load = replace(state.load, **given)
    return replace(state, load=load) if load.model == state.load.model else replace(state, load=load, tracked=None, tracked_text="")


# Event -> the fields of State that it carries, under the same names. The schedule's log and the load stand apart.
CARRIED = {
    "prompt": ("prompt",),
    "tracked": ("tracked", "tracked_text"),
    "lens": ("lens",),
    "deck": ("deck", "guest"),
    "view": ("view", "column", "flipped"),
    "screen": ("screen",),
    "cursor": ("position", "row"),
}


def changes(before: State, now: State) -> Iterator[Event]:
    """The events that lead from one state to the next, in the order in which they are folded. Without times; to "model"
    the caller adds what it knows of the model."""
    if now.load != before.load:
        yield {"event": "model", "load": plain(now.load), "model": None}
    for name in ("prompt", "deck", "lens", "tracked"):
        yield from _carried(name, before, now)
    known = len(before.schedules)
    goes_on = now.schedules[:known] == before.schedules
    for how, schedule in now.schedules[known:] if goes_on else now.schedules:
        yield {"event": "schedule", "how": how, "schedule": schedule}
    for name in ("view", "screen", "cursor"):
        yield from _carried(name, before, now)


def _carried(name: str, before: State, now: State) -> Iterator[Event]:
    if any(getattr(before, field) != getattr(now, field) for field in CARRIED[name]):
        yield {"event": name, **{field: getattr(now, field) for field in CARRIED[name]}}


def fold(events: Iterable[Event], state: State = State()) -> State:
    """What a session led to. What is no event of this version, or carries what cannot be, changes nothing."""
    for event in events:
        name = event.get("event")
        if name in ("session", "model"):  # not "opened": what was asked for may never have been loaded
            load = load_of(event)
            state = state if load is None else replace(state, load=load)
        elif name == "schedule" and is_sound(event):
            step = (event["how"], event["schedule"])
            state = replace(state, schedules=(*(() if step[0] == "start" else state.schedules), step))
        elif name in CARRIED and is_sound(event):
            state = replace(state, **_fields(event))
    return state


def is_sound(event: Event) -> bool:
    """Whether what it says is looked at can be. Of other events True: who reads them sees."""
    if event["event"] == "schedule":
        how, text = event.get("how"), event.get("schedule")
        return isinstance(how, str) and how in STEPS and isinstance(text, str) and _is_schedule(text)
    return all(_FITS[field](value) for field, value in _fields(event).items())


def _fields(event: Event) -> dict[str, Any]:
    """Of State, that the event carries."""
    return {field: _tuple(event[field]) for field in CARRIED.get(event["event"], ()) if field in event}


def plain(message: Any) -> dict[str, Any]:
    """A request or a load as it stands in an event."""
    data, arrays = wire.flatten(message)
    assert not arrays, "requests have no arrays"
    return data


def load_of(event: Event) -> Load | None:
    """The load of an event; None where there is none that could be."""
    try:
        load = wire.unflatten(event.get("load"), [])
    except ValueError:
        return None
    return load if isinstance(load, Load) and all(type(v) in _OF_LOAD[n] for n, v in vars(load).items()) else None


def libraries() -> dict[str, str]:
    """The versions that numbers depend on, by name."""
    found = {}
    for name in ("torch", "transformers", "transformer_lens", "tokenizers", "numpy", "textual"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def about(load: Load, info: ModelInfo | None) -> Event:
    """What "session" and "opened" say of the program, the machine and the model."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "libraries": libraries(),
        "load": plain(load),
        "model": None if info is None else report.model_json(info),
    }


# What the fields may be. A session is a file that anyone may have edited.
_FITS: dict[str, Callable[[Any], bool]] = {
    "prompt": lambda value: isinstance(value, str),
    "tracked": lambda value: value is None or _is_count(value),
    "tracked_text": lambda value: isinstance(value, str),
    "lens": lambda value: value in LENSES,
    "deck": lambda value: _are_texts(value) and len(set(value)) == len(value) <= MOST_PROMPTS,
    "guest": lambda value: value is None or isinstance(value, str),
    "view": lambda value: value in VIEWS,
    "column": lambda value: value in COLUMNS,
    "flipped": lambda value: isinstance(value, bool),
    "screen": lambda value: isinstance(value, str),
    "position": lambda value: type(value) is int and abs(value) < 2**31,
    "row": lambda value: value is None or _is_count(value),
}
_KINDS = {"str": (str,), "bool": (bool,), "str | None": (str, type(None)), "int | None": (int, type(None))}
_OF_LOAD = {field.name: _KINDS[field.type] for field in fields(Load)}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _are_texts(values: Any) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


@lru_cache(4096)
def _is_schedule(text: str) -> bool:
    try:
        return str(parse(text)) == text
    except ScheduleError:
        return False


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
