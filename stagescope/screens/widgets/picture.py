"""A drawing of several lines, of which only what changed is sent to the terminal.

Textual sends a widget's line from its left edge whatever part of it is asked for: a cursor that moves across three
panels of 160 cells would cost 18 KB. So a picture is cut into upright slices, each a widget of its own: 3 KB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

SLICES = 12
Drawing = Callable[[int, int], Text]  # width, height -> a text of exactly that many lines


class Picture(Horizontal):
    """What `show` was given, drawn again whenever the size changes."""

    @dataclass
    class Pressed(Message):
        """A cell was clicked."""

        picture: Picture
        x: int
        y: int

    def __init__(self, id: str):
        super().__init__(id=id)
        self.slices = [Slice() for _ in range(SLICES)]
        self._drawing: Drawing | None = None
        self._strips: list[Strip] = []

    def compose(self) -> ComposeResult:
        yield from self.slices

    def show(self, drawing: Drawing | None) -> None:
        """None leaves it blank."""
        self._drawing = drawing
        old, self._strips = self._strips, []
        if self.display and self._fit(old):
            self._strips = self._drawn()
            changed = [y for y, strip in enumerate(self._strips) if strip != old[y]]
            for each in self.slices:
                each.send(old, self._strips, changed)
        else:  # drawn when it is asked for; what Textual keeps of a hidden slice is old when that is shown again
            self._refresh_all()

    def line(self, y: int) -> Strip:
        if not self._strips:
            self._strips = self._drawn()
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def _drawn(self) -> list[Strip]:
        width, height = self.size
        lines = self._drawing(width, height).split("\n", allow_blank=True) if self._drawing and width else []
        strips = [Strip(line.render(self.app.console)).apply_style(self.rich_style) for line in lines]
        strips += [Strip.blank(0, self.rich_style)] * (height - len(strips))
        return [strip.crop_extend(0, width, self.rich_style) for strip in strips[:height]]

    def _refresh_all(self) -> None:
        self._strips = []
        for each in self.slices:
            each.refresh()

    def _fit(self, strips: list[Strip]) -> bool:
        return bool(strips) and (strips[0].cell_length, len(strips)) == self.size

    def on_resize(self) -> None:
        if not self._fit(self._strips):  # else they were drawn when the layout was
            self._refresh_all()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._refresh_all()

    def on_click(self, event: events.Click) -> None:
        x, y = event.screen_offset - self.region.offset
        self.post_message(self.Pressed(self, x, y))


class Slice(Widget):
    """Some columns of the picture it is in."""

    DEFAULT_CSS = "Slice { width: 1fr; height: 1fr; }"

    @property
    def columns(self) -> tuple[int, int]:
        first = self.virtual_region.x
        return first, first + self.size.width

    def render_line(self, y: int) -> Strip:
        return self.parent.line(y).crop(*self.columns)

    def send(self, old: list[Strip], now: list[Strip], lines: list[int]) -> None:
        """Those of some lines that differ here."""
        for y in lines:
            if old[y].crop(*self.columns) != now[y].crop(*self.columns):
                self.refresh(Region(0, y, self.size.width, 1))
