"""Small questions at the foot of the screen: a line of text, yes or no, which of a few."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen

from stagescope import actions
from stagescope.screens.widgets.line import Field, Line


class Answer(Field):
    async def action_submit(self) -> None:
        """At once: what was typed after Enter is meant for the screen below."""
        self.screen.dismiss(self.text)


class Ask(ModalScreen[str | None]):
    """Ask for a line of text. Dismissed with it, or with None."""

    BINDINGS = actions.bindings("ask")
    CSS_PATH = "ask.tcss"

    def __init__(self, question: str, text: str = ""):
        super().__init__()
        self.question, self.proposed = question, text
        self.early: list[events.Event] = []  # keys of one burst, as a slow line delivers them, before the field is there

    def compose(self) -> ComposeResult:
        self.line, self.field = Line(id="question"), Answer(self.proposed, id="answer")
        with Vertical():
            yield from (self.line, self.field)

    def on_mount(self) -> None:
        self.line.show(self.question)
        self.field.select_all()
        self.set_focus(self.field)
        for event in self.early:
            self.field._forward_event(event)

    def _forward_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and self.focused is None:
            self.early.append(event)
        else:
            super()._forward_event(event)

    def action_close(self) -> None:
        self.dismiss(None)


class Confirm(ModalScreen[bool]):
    """Ask yes or no."""

    BINDINGS = actions.bindings("confirm")
    CSS_PATH = "ask.tcss"

    def __init__(self, question: str):
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        self.line = Line(id="question")  # kept: while the app ends it is not found any more
        with Vertical():
            yield self.line

    def on_mount(self) -> None:
        self.line.show(self.question)

    def action_yes(self) -> None:
        self.dismiss(True)

    def action_no(self) -> None:
        self.dismiss(False)


class Choose(ModalScreen[str | None]):
    """Ask which of a few things, a key each. Dismissed with the thing, or with None."""

    BINDINGS = actions.bindings("ask")
    CSS_PATH = "ask.tcss"

    def __init__(self, question: str, choices: dict[str, str]):
        super().__init__()
        self.question, self.choices = question, choices

    def compose(self) -> ComposeResult:
        self.line = Line(id="question")  # kept: while the app ends it is not found any more
        with Vertical():
            yield self.line

    def on_mount(self) -> None:
        told = "   ".join(f"{key} {what}" for key, what in self.choices.items())
        self.line.show(f"{self.question}:   {told}   esc nothing")

    def on_key(self, event: events.Key) -> None:
        if event.character in self.choices:
            event.stop()
            self.dismiss(self.choices[event.character])

    def action_close(self) -> None:
        self.dismiss(None)
