"""The user's settings as they stand: config.toml in the config folder, and the environment. settings.py says what there is.

A flag goes before the environment, that before the file, and that before the default. What cannot be is refused, wherever
it stands, with its place, what was given and what is allowed. Nothing heavy is imported: --help of every command passes here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from stagescope import paths
from stagescope.settings import NAMED, TABLE, Setting, given, harmless, short, told

OF_LOAD = ("model", "device", "dtype", "threads", "memory", "bos")


class ConfigError(Exception):
    """A file or a variable that cannot be read as settings: says where, what was given, and what is allowed."""


class Value(NamedTuple):
    value: Any
    source: str  # default | file | environment | flag


Keys = dict[tuple[str, str], tuple[str, ...]]  # (place, action) -> keys as Textual spells them


def path() -> Path:
    return paths.describe()["config"] / "config.toml"


def value(name: str, flag: Any = None) -> Any:
    """A setting's value. flag: what was given with the command, checked; None where nothing was. Raises ConfigError."""
    return flag if flag is not None else settings()[name].value


def settings() -> dict[str, Value]:
    """Every setting by name, with where it comes from. Raises ConfigError."""
    in_file, _ = read()
    found = {}
    for setting in TABLE:
        word = os.environ.get(setting.environment, "")
        if word.strip():
            found[setting.name] = Value(_of_word(setting, word), "environment")
        elif setting.name in in_file:
            found[setting.name] = Value(in_file[setting.name], "file")
        else:
            found[setting.name] = Value(setting.default, "default")
    return found


def of_load() -> dict[str, Any]:
    """What environment and file say of the fields of a Load: what both leave out is for Load to say. Raises ConfigError."""
    found = settings()
    said = {name: found[name].value for name in OF_LOAD if found[name].source != "default"}
    return {name: None if name in ("device", "threads") and at == "auto" else at for name, at in said.items()}


def flags(load: Any, names: Sequence[str]) -> list[str]:
    """The flags and values that give these fields of a Load again, here and where there are no settings."""
    usual = type(load)()
    try:
        said = of_load()
    except ConfigError:  # told by whatever reads the file for itself
        said = {}
    words = []
    for name in names:
        at = getattr(load, name)
        if at != getattr(usual, name) or said.get(name, at) != at:
            words += [f"--{name}", "auto" if at is None else str(at)]
    return words


def keys() -> Keys:
    """The keys of one's own, by place and action. Raises ConfigError."""
    return read()[1]


def hand_on() -> None:
    """What the engine must know in whatever process it runs, and no Load says: into the environment.

    A broken file is told by the command that reads it, not here.
    """
    try:
        bound = settings()["cache"]
    except ConfigError:
        return
    if bound.source == "file":
        os.environ[NAMED["cache"].environment] = str(bound.value)


def read() -> tuple[dict[str, Any], Keys]:
    """What the file says: settings by name, and keys; nothing without a file. Raises ConfigError."""
    file = path()

    def shown() -> str:
        return harmless(str(file))

    try:
        text = file.read_text("utf-8")
        found = tomllib.loads(text + "\n")  # of a last line without an end it would not tell the number
    except (FileNotFoundError, NotADirectoryError):
        return {}, {}
    except OSError as error:
        raise ConfigError(f"{shown()} cannot be read ({error.strerror}): make it a file you can read, or remove it.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{shown()}, line {line}: this is no UTF-8 text: write the file anew as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # TOML's own tell the line
        raise ConfigError(f"{shown()} is no TOML: {harmless(str(error))}. `stagescope config edit` opens it.") from error

    def at(*names: str) -> str:
        line = _line(text, *names)
        return f"{shown()}, line {line}" if line else shown()

    checked = {}
    of_keys = found.pop("keys", {})
    for name, raw in found.items():
        if name not in NAMED:
            raise ConfigError(f"{at(name)}: no setting is called {short(name)}{_near(name)} There is {', '.join(NAMED)}, and [keys].")
        kind = NAMED[name].kind
        try:
            checked[name] = kind.check(raw)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{at(name)}: {name} is {told(raw, kind, error)}") from None
    if not isinstance(of_keys, dict):
        raise ConfigError(f'{at("keys")}: keys is a table: write [keys], and below it drop = "x".')
    return checked, _keys(of_keys, at)


def _keys(found: dict[str, Any], at: Callable[..., str]) -> Keys:
    if not found:
        return {}
    from stagescope import keymap

    try:
        return keymap.checked(found)
    except keymap.KeymapError as error:
        raise ConfigError(f"{at('keys', *error.names)}: {error}") from None


def _of_word(setting: Setting, word: str) -> Any:
    try:
        return given(setting.name, word.strip())
    except ValueError as error:
        raise ConfigError(f"{setting.environment} is {error}") from None


def _near(name: str) -> str:
    close = get_close_matches(name.lower(), [*NAMED, "keys"], n=1)
    return f": did you mean {close[0]}?" if close else "."


def _line(text: str, *names: str) -> int | None:
    """The line where the last of some names, each within the one before, is given a value; None where it is not seen."""
    *tables, name = names
    word = r"[\"']?{}[\"']?".format
    inside: str | None = None
    wanted = (".".join(tables), ".".join(names))
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[([^\[\]]*)\]", line):
            inside = re.sub(r"[\s\"']", "", head[1])
            if inside == wanted[1]:
                return number
            continue
        for depth in range(len(names)):
            if (inside or "") == ".".join(names[:depth]):
                rest = r"\s*\.\s*".join(word(re.escape(part)) for part in names[depth:])
                if re.match(rf"\s*{rest}\s*=", line):
                    return number
    return None
