"""Choose a model: from the list the program was given, or by typing an id, a directory or a .gguf file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from stagescope import actions
from stagescope.screens.widgets.line import Field, Line
from stagescope.text import fit, printable

if TYPE_CHECKING:
    from stagescope.model_list import Listed

LONGEST = 40  # cells of a name: those of directories are longer


class Models(ModalScreen[str | None]):
    """Dismissed with what `--model` would take, or None."""

    BINDINGS = actions.bindings("models")
    CSS_PATH = "models.tcss"

    def __init__(self, entries: Sequence[Listed], current: str):
        super().__init__()
        self.entries, self.current = entries, current

    def compose(self) -> ComposeResult:
        with Vertical():
            yield OptionList(*(Option(self._row(entry)) for entry in self.entries), markup=False)
            yield Line(id="note")
            yield Line(id="question")
            yield Field(id="answer")

    def on_mount(self) -> None:
        self.query_one("#question", Line).show("size and memory are of the weights; or just type a Hugging Face id, a directory or a .gguf file:")
        if self.entries:
            names = [entry.name for entry in self.entries]
            self.query_one(OptionList).highlighted = names.index(self.current) if self.current in names else 0
        else:
            self.query_one(Field).focus()

    def _row(self, entry: Listed) -> Content:
        columns = [max(map(cell_len, cells)) for cells in zip(*map(_cells, self.entries), strict=True)]
        name, size, need = (fit(cell, column) for cell, column in zip(_cells(entry), columns, strict=True))
        return Content.assemble((name, "bold"), "  ", (size, "" if entry.directory else "dim"), "  ", need, "  ", (printable(entry.note), "dim"))

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """The end of a row is cut where the terminal is narrow."""
        self.query_one("#note", Line).show(printable(self.entries[event.option_index].note), layout=True)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self.entries[event.option_index].name)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if name := self.query_one(Field).text.strip():
            self.dismiss(name)

    def on_key(self, event: events.Key) -> None:
        """A letter typed over the list is the beginning of a name."""
        field = self.query_one(Field)
        if event.is_printable and not field.has_focus:
            event.stop()
            self.set_focus(field)
            field.insert_text_at_cursor(event.character)

    def action_close(self) -> None:
        self.dismiss(None)


def _cells(entry: Listed) -> tuple[str, str, str]:
    return fit(printable(entry.name), min(cell_len(printable(entry.name)), LONGEST)), entry.size, entry.need
