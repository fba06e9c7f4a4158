"""Keys of one's own: a table of config.toml, checked against the one table of actions.

A name alone means the action wherever it is; a name under its place (`explore.drop`) there alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from stagescope import actions
from stagescope.text import printable

# Without a key for these one is held fast on a screen.
ESSENTIAL = frozenset({"help", "quit", "interrupt", "back", "close", "leave", "apply", "no", "yes"})
TYPED = ("prompt", "schedule", "ask", "models", "app")  # places that work while a line is typed
NAMES = frozenset(
    "up down left right home end pageup pagedown insert delete backspace tab enter escape space".split()
    + [f"f{n}" for n in range(1, 25)]
)
MODIFIERS = ("ctrl", "shift", "alt")
# What a terminal sends for these is what it sends for another key.
SAME_BYTES = {"ctrl+h": "backspace", "ctrl+i": "tab", "ctrl+m": "enter", "ctrl+j": "enter"}
# Of characters whose name is not Unicode's, as Textual has it.
NAMED = {"slash": "/", "backslash": "\\", "at": "@", "minus": "-", "plus": "+", "underscore": "_"}
BY_NAME = {",": "comma", ".": "full_stop", " ": "space"}  # keys are lists with commas; the table has a name for these


class KeymapError(ValueError):
    """A remap that cannot be. names: where it stands below [keys]."""

    def __init__(self, names: tuple[str, ...], reason: str):
        super().__init__(reason)
        self.names = names


def checked(found: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(place, action) -> keys, of what [keys] says. Raises KeymapError."""
    wanted, stands = {}, {}
    places = {action.place for action in actions.ACTIONS}
    for name, value in found.items():
        if not isinstance(value, dict):
            of_all = [a.place for a in actions.ACTIONS if a.name == name]
            _expect(of_all, (name,), {a.name for a in actions.ACTIONS}, "no action")
            given = {place: {name: value} for place in of_all}
            at = (name,)
        else:
            _expect(name in places, (name,), places, "no place")
            given, at = {name: value}, (name,)
        for place, rows in given.items():
            for action, keys in rows.items():
                where = at if not isinstance(value, dict) else (name, action)
                _expect(actions.find(place, action), where, {a.name for a in actions.of(place)}, f"no action of {place}")
                if (place, action) in wanted and not isinstance(value, dict):
                    continue  # what is said of one place goes before what is said of all
                wanted[place, action] = _keys_of(keys, where, place, action)
                stands[place, action] = where
    _without_clashes(wanted, stands, places)
    return wanted


def _expect(holds: Any, names: tuple[str, ...], known: set[str], what: str) -> None:
    if holds:
        return
    name = names[-1]
    close = get_close_matches(name, known, n=1)
    hint = f": did you mean {close[0]}?" if close else f". There is {', '.join(sorted(known))}."
    raise KeymapError(names, f"{what} is called {printable(name)[:40]}{hint}")


def _keys_of(value: Any, names: tuple[str, ...], place: str, action: str) -> tuple[str, ...]:
    told = ".".join(names)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise KeymapError(names, f'{told} is {printable(repr(value))[:40]}: give a key, as "x", or several, as ["x", "ctrl+x"].')
    if not listed and action in ESSENTIAL:
        raise KeymapError(names, f"{told} has no key left, and without it there is no way out or no help: give it one.")
    keys = tuple(_key(key, names) for key in listed)
    if len(set(keys)) < len(keys):
        raise KeymapError(names, f"{told} has a key twice: give each once.")
    for key in keys:
        if place in TYPED and (_character(key) or key == "space"):
            raise KeymapError(names, f"{told} is {key}, which could not be typed into a line any more: give a key that is no character, as ctrl+x or f2.")
    return keys


def _key(word: str, names: tuple[str, ...]) -> str:
    """A key as Textual spells it."""
    key = "+" if word.endswith("+") else word.rpartition("+")[2]
    modifiers = [part.lower() for part in word.removesuffix(key).split("+") if part]
    plain = _character(key) or (key.lower() if key.lower() in NAMES else "")
    shifted = "shift" in modifiers and bool(_character(key))  # the terminal sends another character
    if not plain or shifted or len(set(modifiers)) < len(modifiers) or not set(modifiers) <= set(MODIFIERS):
        hint = "did you mean escape?" if key.lower() == "esc" else "a capital letter is a key of its own." if shifted else ""
        close = get_close_matches(word.lower(), NAMES, n=1)
        hint = hint or (f"did you mean {close[0]}?" if close else "give a character, or a name as up, enter, f5, with ctrl+, alt+ or shift+ before it.")
        raise KeymapError(names, f"{printable(word)[:40] or 'an empty text'} is no key: {hint}")
    spelled = "+".join([m for m in MODIFIERS if m in modifiers] + [BY_NAME.get(plain, plain) if not modifiers else plain.lower()])
    if spelled in SAME_BYTES:
        raise KeymapError(names, f"{spelled} comes from a terminal as {SAME_BYTES[spelled]}: give another key.")
    return spelled


def _character(key: str) -> str:
    """The character a key is, given as itself or by its name (full_stop); "" where it is none."""
    if len(key) == 1:
        return key if key.isprintable() else ""
    if key in NAMED:
        return NAMED[key]
    try:
        found = unicodedata.lookup(key.replace("_", " "))
    except KeyError:
        return ""
    return found if len(found) == 1 and found.isprintable() and found != " " else ""


def _without_clashes(wanted: Mapping[tuple[str, str], tuple[str, ...]], stands: Mapping, places: set[str]) -> None:
    """Raises KeymapError where two actions of one place, or one of them and one of the app, would have one key."""
    for place in sorted(places):
        owner: dict[str, actions.Action] = {}
        for action in (*actions.of(place), *(actions.of("app") if place != "app" else ())):
            for key in wanted.get((action.place, action.name), action.keys):
                other = owner.setdefault(key, action)
                if other is action:
                    continue
                mine, its = ((a.place, a.name) for a in (action, other))
                (blamed, rest) = (mine, other) if mine in stands else (its, action)
                where = "everywhere" if rest.place == "app" else f"in {place}"
                told = f"{key} is the key of {rest.name} ({rest.help.rstrip('.?')}) {where}: give {blamed[1]} another, or {rest.name} too."
                raise KeymapError(stands[blamed], told)
