"""The prompt as its tokens, on one line: spaces drawn, the chosen position in brackets and in view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from stagescope.engine.tokens import Token
from stagescope.screens.widgets import glyphs
from stagescope.text import fit, visible

LABEL = "tok "
LONGEST = 18  # cells of one token: a hostile one is not to fill the line


class TokenStrip(Widget):
    """Tokens of the prompt; a click chooses the position. Between two stands one cell, for a bracket."""

    DEFAULT_CSS = Path(__file__).with_suffix(".tcss").read_text(encoding="utf-8")
    COMPONENT_CLASSES = {"tokens--label", "tokens--text", "tokens--chosen"}

    @dataclass
    class Chosen(Message):
        """A token was clicked."""

        position: int

    def __init__(self, *, ascii_only: bool = False, **arguments):
        super().__init__(**arguments)
        self.glyphs = glyphs.ASCII if ascii_only else glyphs.UNICODE
        self._tokens: tuple[Token, ...] = ()
        self._texts: list[str] = []
        self._position = 0
        self._first = 0  # the leftmost token drawn; moves only as far as it must

    def show(self, tokens: tuple[Token, ...], position: int) -> None:
        """Draw these tokens with `position` chosen."""
        if tokens != self._tokens:
            self._tokens = tokens
            self._texts = [_short(token.text, self.glyphs.ascii_only) for token in tokens]
            self._first = 0
        self._position = min(max(position, 0), max(len(tokens) - 1, 0))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        names = ("tokens--label", "tokens--text", "tokens--chosen")
        label, text, chosen = map(self.get_component_rich_style, names)
        before, here, after = self._parts(width - len(LABEL))
        segments = [Segment(LABEL, label), Segment(before, text), Segment(here, chosen), Segment(after, text)]
        return Strip([s for s in segments if s.text]).crop_extend(0, width, text)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or not self._texts:
            return
        x = len(LABEL) + 1
        for position in range(self._first, len(self._texts)):
            x += cell_len(self._texts[position]) + 1
            if offset.x < x:
                self.post_message(self.Chosen(position))
                return

    def _parts(self, room: int) -> tuple[str, str, str]:
        """What stands before the chosen token, it, and what follows, cut to `room` cells."""
        if not self._texts:
            return "", "", ""
        self._first = self._scrolled(room)
        texts, at, first = self._texts, self._position, self._first
        more = self.glyphs.ellipsis
        before = (more if first else " ") + "".join(f"{text} " for text in texts[first:at])
        after = "".join(f"{text} " for text in texts[at + 1 :])
        here = f"[{texts[at]}]"
        before = before[:-1]  # its last cell is the bracket's
        left = room - cell_len(before) - cell_len(here)
        if cell_len(after.rstrip()) > left:
            after = fit(after, left, self.glyphs.ascii_only)  # ends in an ellipsis
        return before, here, after

    def _scrolled(self, room: int) -> int:
        """The first token to draw so that the chosen one is in view, and the next one if there is room."""
        at, first = self._position, self._first
        if at <= first:
            return max(at - 1, 0)  # one of context
        sizes = [cell_len(text) + 1 for text in self._texts[: at + 2]]
        ahead = sum(sizes[at + 1 : at + 2])
        while first < at and 2 + sum(sizes[first : at + 1]) + ahead > room:
            first += 1
        return first


def _short(text: str, ascii_only: bool) -> str:
    drawn = visible(text, ascii_only)
    return fit(drawn, LONGEST, ascii_only) if cell_len(drawn) > LONGEST else drawn
