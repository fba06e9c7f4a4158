"""What commands print through: data on stdout, everything else on stderr. Nothing heavy is imported at start."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stagescope import config

if TYPE_CHECKING:
    from stagescope.engine.protocol import Failure, Reply


def say(text: str) -> None:
    print(text, file=sys.stderr)


def print_json(data: Any) -> None:
    print(json.dumps(data, allow_nan=False))


def print_text(text: str) -> None:
    """Text in the encoding of stdout, what that has not written as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")


RICH = {"truecolor": "truecolor", "256": "256", "16": "standard", "mono": "standard"}
# Terminals of 24-bit colour that ssh tells by their TERM alone: it does not forward COLORTERM.
TRUECOLOR_TERMS = ("xterm-kitty", "alacritty", "xterm-ghostty", "ghostty", "foot", "wezterm")


def color_depth(wanted: str = "auto", environment: Mapping[str, str] = os.environ) -> str:
    """How many colours the terminal is sent: truecolor, 256, 16 or mono; auto asks NO_COLOR, COLORTERM, TERM, terminfo."""
    if wanted != "auto":
        return wanted
    if environment.get("NO_COLOR"):
        return "mono"
    term = environment.get("TERM") or "dumb"
    # GNU screen hands COLORTERM on and up to version 4 takes a 24-bit colour apart into others; tmux maps it.
    hands_on = term.startswith("screen") and not environment.get("TMUX")
    says = environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") and not hands_on
    if says or term.endswith("-direct") or term in TRUECOLOR_TERMS:
        return "truecolor"
    if "256" in term:
        return "256"
    colours = _terminfo_colours(term)
    return "256" if colours >= 256 else "16" if colours >= 8 else "mono"


def _terminfo_colours(term: str) -> int:
    """Of the terminal's entry; 16 where there is none. The first question of a process is answered, later ones repeat it."""
    try:
        import curses

        curses.setupterm(term, 1)
        return curses.tigetnum("colors")
    except (ImportError, OSError, curses.error):
        return 0 if term == "dumb" else 16


def print_lines(*lines: Any, color: str | None = None) -> None:
    """Rich renderables: lines whole, tables cut at the terminal's width, or as wide as they are where stdout is none.
    Printed by us: rich ends the program itself when the reader of a pipe has gone.

    color: what --color says; None where it was not given. Raises ConfigError.
    """
    from io import StringIO

    from rich.console import Console
    from rich.text import Text

    terminal = sys.stdout.isatty()
    depth = color_depth(config.value("color", color)) if terminal else "mono"
    look = {"force_terminal": terminal, "color_system": RICH[depth] if terminal else None, "no_color": depth == "mono"}
    width = Console().width if terminal else 200
    console = Console(file=StringIO(), markup=False, highlight=False, width=width, **look)
    for line in lines:
        whole = isinstance(line, Text)
        console.print(line, no_wrap=True, overflow="ignore" if whole else "ellipsis", crop=False)
    print_text(console.file.getvalue())


class Progress:
    """One line on stderr that rewrites itself; nothing where stderr is no terminal."""

    def __init__(self, quiet: bool):
        self.shown = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def show(self, stage: str, done: float, seconds_left: float = float("nan")) -> None:
        if self.shown:
            part = "" if done != done else f" {done:.0%}"
            left = "" if seconds_left != seconds_left else f", {seconds_left:.0f} s left"
            sys.stderr.write(f"\r\x1b[K{stage}{part}{left}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def last(work: Callable[[], Iterator[Reply]], quiet: bool) -> tuple[Any, Failure | None]:
    """The last reply of some work, its progress shown on stderr; or why there is none."""
    from stagescope.engine import protocol

    progress, result = Progress(quiet), None
    try:
        for reply in work():
            if isinstance(reply, protocol.Progress):
                progress.show(reply.stage, reply.done, reply.seconds_left)
            else:
                result = reply
    except protocol.EngineError as error:
        return None, error.failure
    finally:
        progress.clear()
    return result, None


def fail(failure: Failure) -> int:
    """Say what went wrong; the exit code for it."""
    from stagescope.engine.protocol import EXIT_CODES

    say(f"stagescope: {failure.message}\n{failure.hint}".strip())
    return EXIT_CODES.get(failure.kind, 1)


def crash(error: Exception) -> int:
    """A mistake of ours or a broken disk: one line here, the whole in the log."""
    from stagescope.text import printable

    say(f"stagescope: {type(error).__name__}: {printable(str(error)) or 'no message'}\n{_log_traceback()}")
    return 1


def _log_traceback() -> str:
    """Write the traceback to the log; where it is, as a sentence."""
    import traceback

    from stagescope import paths

    try:
        with paths.log_file("stagescope.log") as log:
            log.write(traceback.format_exc().encode("utf-8", "backslashreplace"))
    except OSError as error:
        return f"The traceback could not be written: {error}"
    return f"The whole is in {log.name}"


def width() -> int:
    """Cells that print_lines has: of the terminal, 200 where there is none."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 200
