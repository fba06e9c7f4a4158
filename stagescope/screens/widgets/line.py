"""One line of text, and one line to type into; neither parses markup nor lets a control character through."""

from __future__ import annotations

import re

from textual import events
from textual.content import Content
from textual.widgets import Input, Static

from stagescope import actions
from stagescope.text import printable

_ESCAPED = re.compile(r"\\u\{([0-9a-f]{1,6})\}")


def to_line(text: str) -> str:
    r"""Any text as one harmless line: control and hidden characters as \u{..}, newlines among them."""
    return printable(_ESCAPED.sub(lambda m: "\\u{5c}" + m[0][1:], text))


def from_line(line: str) -> str:
    r"""The text that `to_line` wrote: \u{a} is a newline again. Surrogates and what is no Unicode stay."""

    def character(match: re.Match) -> str:
        code = int(match[1], 16)
        return match[0] if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else chr(code)

    return _ESCAPED.sub(character, line)


class Line(Static):
    """A line of fixed height: setting its text paints it and lays nothing else out again."""

    def __init__(self, id: str):
        super().__init__(markup=False, id=id)
        self.shown = Content()

    def show(self, content: Content | str, layout: bool = False) -> None:
        content = Content(content) if isinstance(content, str) else content
        if not content.is_same(self.shown):
            self.shown = content
            self.update(content, layout=layout)


class Field(Input):
    r"""A line to type into. Its value is always printable; `text` is what it stands for (\u{a}: newline)."""

    def __init__(self, text: str = "", **options):
        super().__init__(to_line(text), compact=True, select_on_focus=False, **options)
        self.cursor_blink = False  # blinking is traffic over ssh

    @property
    def text(self) -> str:
        return from_line(self.value)

    @text.setter
    def text(self, text: str) -> None:
        self.value = to_line(text)
        self.cursor_position = len(self.value)

    def replace(self, text: str, start: int, end: int) -> None:
        """Every text put in comes through here: keys, the terminal's paste, the app's clipboard."""
        start, end = sorted((start, end))
        before = self.value[:start]
        super().replace(printable(before + text)[len(before) :], start, end)

    def _on_paste(self, event: events.Paste) -> None:
        """All of a pasted text, not its first line alone: its newlines are written \\u{a}."""
        self.replace(event.text.rstrip("\r\n").replace("\r\n", "\n").replace("\r", "\n"), *self.selection)
        event.prevent_default().stop()

    async def _on_key(self, event: events.Key) -> None:
        """Bound keys act here, in the order they come; Textual would act on them after later letters.

        A slow line delivers "Enter d" in one piece: both are in this queue by the time Enter leaves it.
        """
        if self.screen.focused is not self or self.app.screen is not self.screen:
            event.prevent_default().stop()
            self.app.post_message(events.Key(event.key, event.character))
        elif bound := self._bindings.key_to_bindings.get(event.key):
            event.prevent_default().stop()
            await self.run_action(bound[0].action)


class PromptField(Field):
    BINDINGS = actions.bindings("prompt")


class ScheduleField(Field):
    BINDINGS = actions.bindings("schedule")
