"""The table of settings: what each is called, what it may be, its default, and what else says it.

config.py reads them; the template of config.toml and docs/configuration.md come from here too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from stagescope import paths

DEFAULT_MODEL = "smollm2-135m"  # as protocol.DEFAULT_MODEL, which would import numpy
DEVICES = r"auto|cpu|cuda(:\d{1,3})?"  # as engine/load.py, which would import torch
HOUSE_THEMES = ("stagescope", "stagescope-light", "stagescope-contrast")
THEMES = HOUSE_THEMES + (  # Textual's own; a test says when it has others
    "textual-dark", "textual-light", "nord", "gruvbox", "catppuccin-mocha", "dracula", "tokyo-night", "monokai", "flexoki",
    "catppuccin-latte", "catppuccin-frappe", "catppuccin-macchiato", "solarized-light", "solarized-dark", "rose-pine",
    "rose-pine-moon", "rose-pine-dawn", "atom-one-dark", "atom-one-light", "ansi-dark", "ansi-light",
)  # fmt: skip
MOST_THREADS = 1024
WORDS = {"1": True, "yes": True, "on": True, "true": True, "0": False, "no": False, "off": False, "false": False}


class Kind(NamedTuple):
    """What values a setting takes."""

    allowed: str  # after "give"
    check: Callable[[Any], Any]  # of a value of TOML; raises ValueError
    read: Callable[[str], Any] | None = None  # of a word of the environment or of a flag; None: as TOML's strings


def _one_of(*names: str) -> Kind:
    def check(value: Any) -> str:
        if value in names:
            return value
        close = get_close_matches(str(value).lower(), names, n=1)
        raise ValueError(f"did you mean {close[0]}?" if close else "")

    return Kind("one of " + ", ".join(names), check)


def _is_text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError


def _is_token(value: Any) -> str:
    if isinstance(value, str) and value:  # blanks and line ends are tokens too
        return value
    raise ValueError


def _is_device(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(DEVICES, value):
        return value
    raise ValueError


def _is_threads(value: Any) -> int | str:
    if value == "auto" or (type(value) is int and 1 <= value <= MOST_THREADS):
        return value
    raise ValueError


def _threads_of(word: str) -> int | str:
    return _is_threads(int(word) if word.isdecimal() and word.isascii() else word)


def _size(least: int) -> Kind:
    def check(value: Any) -> int:
        found = paths.size(value) if isinstance(value, str) else value
        if type(found) is int and found >= least:
            return found
        raise ValueError

    bound = f", {size_text(least)} or more" if least > 1 else ""
    return Kind(f'bytes, or a number with K, M or G, as "512M"{bound}', check)


def _is_truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError


def _truth_of(word: str) -> bool:
    if word.strip().lower() in WORDS:
        return WORDS[word.strip().lower()]
    raise ValueError


def size_text(n: int) -> str:
    """2G, 512M, or bytes."""
    unit = next((unit for unit in (3, 2, 1) if n and n % 1024**unit == 0), 0)
    return f"{n // 1024**unit}{' KMG'[unit]}".strip()


TRUTH = Kind("true or false (in the environment 1 or 0)", _is_truth, _truth_of)


@dataclass(frozen=True)
class Setting:
    name: str  # in config.toml
    kind: Kind
    default: Any
    flag: str  # "" where there is none
    help: str  # one sentence
    variable: str = ""  # where it is not STAGESCOPE_ and the name

    @property
    def environment(self) -> str:
        return self.variable or f"STAGESCOPE_{self.name.upper()}"


TABLE = (
    Setting("model", Kind("a catalogue name, a hub id, a directory or a .gguf file", _is_text), DEFAULT_MODEL, "--model",
            "The model that is loaded."),
    Setting("device", Kind("auto, cpu, cuda or cuda:N", _is_device), "auto", "--device",
            "Where it runs; auto: the GPU with most free memory, else the CPU."),
    Setting("dtype", _one_of("auto", "float32", "bfloat16", "float16"), "auto", "--dtype",
            "How its weights are held; auto: float32 where that fits in 40 % of the free memory, else bfloat16."),
    Setting("threads", Kind(f"auto, or 1 to {MOST_THREADS}", _is_threads, _threads_of), "auto", "--threads",
            "CPU threads; auto: physical cores minus one."),
    Setting("memory", _size(1), 2 * 2**30, "--memory", "What a sweep may take beside the weights."),
    Setting("bos", Kind("auto, none, or the text of one token", _is_token), "auto", "--bos", "The token before every prompt."),
    Setting("cache", _size(2**20), paths.CACHE_BYTES, "", "How large the folder of computed results may grow; the least recently used go first."),
    Setting("theme", _one_of(*THEMES), HOUSE_THEMES[0], "", "The colours of the app; with 16 colours and fewer those of the terminal take their place."),
    Setting("color", _one_of("auto", "truecolor", "256", "16", "mono"), "auto", "--color",
            "How many colours are sent; auto asks NO_COLOR, COLORTERM, TERM and terminfo."),
    Setting("glyphs", _one_of("unicode", "ascii"), "unicode", "--ascii", "What bars and marks are drawn with."),
    Setting("mouse", TRUTH, True, "--no-mouse", "Whether the app asks for mouse reports: traffic over ssh, and selecting with the mouse then takes shift."),
    Setting("recording", TRUTH, True, "--no-record", "Whether the app keeps a session.", "STAGESCOPE_RECORD"),
)  # fmt: skip
NAMED = {setting.name: setting for setting in TABLE}


def given(name: str, word: str) -> Any:
    """The value of a flag's word. Raises ValueError with what is allowed."""
    kind = NAMED[name].kind
    try:
        return (kind.read or kind.check)(word)
    except ValueError as error:
        raise ValueError(told(word, kind, error)) from None


def told(raw: Any, kind: Kind, error: Exception) -> str:
    close = f" ({error})" if str(error) and "did you mean" in str(error) else ""
    return f"{short(raw)}: give {kind.allowed}{close}."


def harmless(text: str) -> str:
    """text.printable, whose import of rich takes time that only an error is worth."""
    from stagescope.text import printable

    return printable(text)


def short(raw: Any) -> str:
    """A value as TOML writes it, cut."""
    text = {True: "true", False: "false"}[raw] if isinstance(raw, bool) else raw if isinstance(raw, str) else repr(raw)
    text = harmless(text)
    return (text[:40] + "…" if len(text) > 40 else text) or "empty"


def toml(at: Any) -> str:
    """A value as config.toml writes it; sizes with their unit."""
    if isinstance(at, bool):
        return "true" if at else "false"
    return f'"{at}"' if isinstance(at, str) else str(at)


def shown(setting: Setting, at: Any) -> str:
    """A value as people write it."""
    return size_text(at) if setting.name in ("memory", "cache") else toml(at).strip('"')


def _in_toml(setting: Setting) -> str:
    return f'"{shown(setting, setting.default)}"' if setting.name in ("memory", "cache") else toml(setting.default)


def template() -> str:
    """A config.toml in which every setting stands at its default, as a comment."""
    lines = ["# Settings of stagescope. A flag goes before the environment, that before this file.", ""]
    for setting in TABLE:
        also = " and ".join(filter(None, (setting.environment, setting.flag)))
        told = f"{setting.help} Give {setting.kind.allowed}. Also: {also}."
        lines += textwrap.wrap(told, 110, initial_indent="# ", subsequent_indent="# ")
        lines += [f"# {setting.name} = {_in_toml(setting)}", ""]
    return "\n".join(lines + KEYS_EXAMPLE)


KEYS_EXAMPLE = [
    "# Keys of your own, by the name of the action (docs/keys.md), in place of its own ones.",
    "# [keys]",
    '# drop = "D"                # wherever there is a drop',
    '# explore.lens_curves = ["f", "ctrl+f"]',
    "# pin = []                  # no key; the palette still finds it",
    "",
]


def markdown() -> str:
    """The table of docs/configuration.md."""
    lines = ["| setting | default | given as | environment | flag | what it is |", "|---|---|---|---|---|---|"]
    for setting in TABLE:
        flag = f"`{setting.flag}`" if setting.flag else ""
        allowed = setting.kind.allowed.removeprefix("one of ")
        if setting.name == "theme":
            allowed = ", ".join(HOUSE_THEMES) + ", or one of Textual's"
        lines.append(f"| `{setting.name}` | `{_in_toml(setting)}` | {allowed} | `{setting.environment}` | {flag} | {setting.help} |")
    return "\n".join(lines) + "\n"


def page(old: str) -> str:
    """docs/configuration.md with its table made anew."""
    before, _, rest = old.partition("| setting |")
    _, _, after = rest.partition("\n\n")
    return f"{before}{markdown()}\n{after}"


if __name__ == "__main__":
    file = Path(__file__).parents[1] / "docs" / "configuration.md"
    file.write_text(page(file.read_text("utf-8")), "utf-8")
