"""Two small questions at the foot of the screen: a line of text, or yes or no."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from stagescope import actions
from stagescope.screens.widgets.line import Field, Line


class Ask(ModalScreen[str | None]):
    """Ask for a line of text. Dismissed with it, or with None."""

    BINDINGS = actions.bindings("ask")
    CSS_PATH = "ask.tcss"

    def __init__(self, question: str, text: str = ""):
        super().__init__()
        self.question, self.proposed = question, text

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Line(id="question")
            yield Field(self.proposed, id="answer")

    def on_mount(self) -> None:
        self.query_one(Line).show(self.question)
        self.query_one(Field).select_all()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(self.query_one(Field).text)

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
        with Vertical():
            yield Line(id="question")

    def on_mount(self) -> None:
        self.query_one(Line).show(self.question)

    def action_yes(self) -> None:
        self.dismiss(True)

    def action_no(self) -> None:
        self.dismiss(False)
