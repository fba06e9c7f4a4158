"""The user's settings: config.toml in the config folder. A flag goes before the environment, and that before the file."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from stagescope import paths
from stagescope.text import printable


class ConfigError(Exception):
    """A file that cannot be read as settings: says which, where, and what is allowed."""


@dataclass(frozen=True)
class Config:
    recording: bool = True  # whether the app keeps a session; STAGESCOPE_RECORD, --no-record


def path() -> Path:
    return paths.describe()["config"] / "config.toml"


def read() -> Config:
    """What the file says; the defaults without one. Raises ConfigError."""
    file = path()
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:  # TOML's own, bytes that are no UTF-8
        raise ConfigError(f"{printable(str(file))} cannot be read: {printable(str(error))}") from error
    allowed = {field.name: field.type for field in fields(Config)}
    for name, value in found.items():
        if name not in allowed:
            known = ", ".join(allowed)
            raise ConfigError(f"{printable(str(file))}: no setting is called {printable(name)}: there is {known}")
        if not isinstance(value, bool):
            raise ConfigError(f"{printable(str(file))}: {name} is true or false, not {printable(repr(value))[:40]}")
    return Config(**found)


def recording(flag: bool | None) -> bool:
    """Whether a session is kept. flag: None where none was given. Raises ConfigError."""
    if flag is not None:
        return flag
    word = os.environ.get("STAGESCOPE_RECORD", "").strip().lower()
    if word in ("0", "no", "off", "false"):
        return False
    if word in ("1", "yes", "on", "true"):
        return True
    if word:
        raise ConfigError(f"STAGESCOPE_RECORD is {printable(word)[:40]}: give 0 or 1")
    return read().recording
