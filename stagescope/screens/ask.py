"""Small questions at the foot of the screen: a line of text, yes or no, which of a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widget import Widget

from stagescope import actions
from stagescope.screens.widgets.line import Field, Line

Result = TypeVar("Result")


class AnswerField(Field):
    async def action_submit(self) -> None:
        """At once: what was typed after Enter is meant for the screen below."""
        self.screen.dismiss(self.text)


class Question(ModalScreen[Result]):
    """A question in a line at the foot of the screen."""

    CSS_PATH = "ask.tcss"

    def __init__(self, question: str):
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        self.line = Line(id="question")  # kept: while the app ends it is not found any more
        with Vertical():
            yield from (self.line, *self.below())

    def below(self) -> Sequence[Widget]:
        """What stands below the question."""
        return ()

    def on_mount(self) -> None:
        self.line.show(self.question)

    def action_close(self) -> None:
        self.dismiss(None)


class Ask(Question[str | None]):
    """Ask for a line of text. Dismissed with it, or with None."""

    BINDINGS = actions.bindings("ask")

    def __init__(self, question: str, text: str = ""):
        super().__init__(question)
        self.proposed = text
        self.early: list[events.Event] = []  # keys of one burst, as a slow line delivers them, before the field is there

    def below(self) -> Sequence[Widget]:
        self.field = AnswerField(self.proposed, id="answer")
        return (self.field,)

    def on_mount(self) -> None:  # Textual calls Question's as well
        self.field.select_all()
        self.set_focus(self.field)
        for event in self.early:
            self.field._forward_event(event)

    def _forward_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and self.focused is None:
            self.early.append(event)
        else:
            super()._forward_event(event)


class Confirm(Question[bool]):
    """Ask yes or no."""

    BINDINGS = actions.bindings("confirm")

    def action_yes(self) -> None:
        self.dismiss(True)

    def action_no(self) -> None:
        self.dismiss(False)


class Choose(Question[str | None]):
    """Ask which of a few things, a key each. Dismissed with the thing, or with None."""

    BINDINGS = actions.bindings("ask")

    def __init__(self, question: str, choices: dict[str, str]):
        told = "   ".join(f"{key} {what}" for key, what in choices.items())
        super().__init__(f"{question}:   {told}   esc nothing")
        self.choices = choices

    def on_key(self, event: events.Key) -> None:
        if event.character in self.choices:
            event.stop()
            self.dismiss(self.choices[event.character])
