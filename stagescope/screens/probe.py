"""The probe screen: can single neurons, or a few together, tell that the next token ends in a suffix?

Figure 10 of arXiv 2406.19384 over the standard text: neurons ranked in training with their accuracy on held-out
lemmas and documents, ensembles by size, random neurons as the control, and the model's own answer beside all of
them. probe_words.py draws and words it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content

from stagescope import actions
from stagescope.engine.protocol import Probe, ProbeScore, TakeProbe
from stagescope.screens import probe_words
from stagescope.screens.ask import Ask
from stagescope.screens.asking import Chosen, Listing, Looked
from stagescope.screens.neurons_words import HERE
from stagescope.screens.sweep_words import QUIET, wrapped
from stagescope.screens.widgets.line import Line, from_line, to_line
from stagescope.screens.widgets.picture import Picture

BESIDE = 120  # cells from which both views stand beside each other
HIGH = 30  # lines from which six tell a neuron or a size, n, examples; else four
AROUND = 5  # lines beside the panes, but for the detail: header, text, views, status, footer


class ProbeScreen(Listing):
    """Dismissed with the neuron under the cursor switched off, or None."""

    PLACE = "probe"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "probe.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.prompt = looked.prompt
        # what is looked at
        self.suffix = "ing"
        self.chosen_view = ""  # the one that is drawn, if there is room for it; else the first
        self.kind: str | None = None  # the class that is listed; None: all
        self.row = 0  # of the list
        self.step = 0  # of the sizes
        # what is known
        self.found: dict[TakeProbe, Probe] = {}
        self.drawn_rows = range(0)  # which neurons stand in the list

        self.text_line, self.views, self.detail = Line("text"), Line("views"), Line("detail")
        self.list_pane, self.picture = Line("list"), Picture("ensembles")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.text_line, self.views)
        yield Horizontal(self.list_pane, self.picture, id="panes")
        yield from (self.detail, self.status, self.footer)

    # --------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> TakeProbe:
        return TakeProbe(suffix=self.suffix)

    def is_known(self, request: TakeProbe) -> bool:
        return request in self.found

    def receive(self, request: TakeProbe, reply: Probe) -> None:
        self.found[request] = reply

    # ---------------------------------------------------------------------------------- what is looked at

    @property
    def probe(self) -> Probe | None:
        return self.found.get(self.wanted())

    def listed(self) -> list[ProbeScore]:
        return probe_words.ranked(self.probe, self.kind) if self.probe else []

    def chosen(self) -> ProbeScore | None:
        """The neuron under the cursor."""
        listed = self.listed()
        return listed[min(self.row, len(listed) - 1)] if listed else None

    def place(self) -> tuple[int, int]:
        """Its rank, from 1, of how many."""
        n = len(self.listed())
        return min(self.row, n - 1) + 1, n

    def size_chosen(self) -> int:
        """k of the ensembles looked at."""
        sizes = probe_words.sizes(self.probe)
        return sizes[min(self.step, len(sizes) - 1)]

    def choices(self) -> list[str]:
        """Views there is room for."""
        return ["both"] * (self.size.width >= BESIDE) + ["neurons", "ensembles"]

    @property
    def view(self) -> str:
        return self.chosen_view if self.chosen_view in self.choices() else self.choices()[0]

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        one = self.chosen()
        return {"of": "neuron", **({"layer": one.layer, "index": one.index} if one else {})}, "accuracy"

    # --------------------------------------------------------------------------------------------- keys

    def _move(self, by: int) -> None:
        last = max(len(self.listed()) - 1, 0)
        self.row = min(max(min(self.row, last) + by, 0), last)
        self.draw_after_keys()

    def action_left(self) -> None:
        self._resize_ensembles(-1)

    def action_right(self) -> None:
        self._resize_ensembles(+1)

    def _resize_ensembles(self, by: int) -> None:
        if self.view == "neurons":
            self.say("v shows the ensembles: there this chooses how many neurons")
            return
        last = max(len(probe_words.sizes(self.probe)) - 1, 0)
        self.step = min(max(min(self.step, last) + by, 0), last)
        self.draw_after_keys()

    def action_view(self, view: str = "") -> None:
        choices = self.choices()
        self.chosen_view = view or choices[(choices.index(self.view) + 1) % len(choices)]
        self.draw()

    def action_kind(self, kind: str | None = None) -> None:
        """All classes, then each that is there. A click names one, "" is all."""
        choices = [None, *probe_words.kinds_of(self.probe.neurons if self.probe else ())]
        at = choices.index(self.kind) if self.kind in choices else 0
        self.kind = choices[(at + 1) % len(choices)] if kind is None else kind or None
        self.row = 0
        self.draw()

    def action_suffix(self) -> None:
        def answer(line: str | None) -> None:
            if line is None:
                return
            if suffix := from_line(line).strip():
                self.suffix, self.row = suffix, 0
                self.failure = self.failure if self.dead else ""
                self.go_on()
            else:
                self.say("no ending was given: the last one stays")

        question = "Which ending of the next token? ing, ed, ly ... Enter, or esc."
        self.app.push_screen(Ask(question, to_line(self.suffix)), answer)

    def action_open(self) -> None:
        """Leave, with the neuron off."""
        if (one := self.chosen()) is None:
            self.say("no neuron is there yet")
            return
        self.dismiss(Chosen(f"neuron-off {one.layer}.{one.index}", self.prompt, None, adds=True))

    @on(events.Click, "#list")
    def _clicked(self, event: events.Click) -> None:
        """A click on a line chooses it; above them stand a heading and the model's own answers."""
        place = event.get_content_offset(self.list_pane)
        if place is not None and 3 <= place.y < 3 + len(self.drawn_rows):
            self.row = self.drawn_rows[place.y - 3]
            self.draw_after_keys()

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click on the curves chooses the nearest size."""
        from stagescope.drawings.curves import LABEL  # brings plotext, which is there by now

        sizes, cells = probe_words.sizes(self.probe), event.picture.size.width - LABEL - 1
        if sizes and cells > 0:
            k = probe_words.at_cell(sizes, event.x - LABEL - 1, cells)
            self.step = min(range(len(sizes)), key=lambda step: abs(math.log2(sizes[step]) - k))
            self.draw_after_keys()

    def idle_keys(self) -> set[str]:
        idle = {"left", "right"} if self.view == "neurons" else set()
        return super().idle_keys() | idle | (set() if self.probe else {"open", "kind", "left", "right"})

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        width, glyphs, probe, view = self.size.width, self.glyphs, self.probe, self.view
        self.text_line.show(probe_words.text_line(probe, self.suffix, width, glyphs))
        kinds = probe_words.kinds_of(probe.neurons if probe else ())
        self.views.show(probe_words.view_line(self.choices(), view, kinds, self.kind, width, glyphs))
        self.list_pane.display, self.picture.display = view != "ensembles", view != "neurons"
        left = (width - 2) // 2 if view == "both" else width
        self.list_pane.styles.width = left
        self.list_pane.styles.margin = (0, 2 if view == "both" else 0, 0, 0)
        self.list_pane.show(self._list(probe, left) if probe else Content.styled(self._why_empty(), QUIET))
        self.picture.show(partial(self._curves, probe, self.size_chosen()) if probe and view != "neurons" else None)
        self.detail.styles.height = self.detail_lines
        self.detail.show(self._told(probe))
        self.draw_status()

    @property
    def detail_lines(self) -> int:
        return 6 if self.size.height >= HIGH else 4

    def room(self) -> int:
        """Neurons that fit below the heading and the model's own answers; a long remark takes some."""
        height = self.size.height - AROUND - self.detail_lines
        return max(min(height, self.list_pane.parent.size.height or height) - 3, 1)

    def _list(self, probe: Probe, width: int) -> Content:
        listed, room = self.listed(), self.room()
        cursor = min(self.row, len(listed) - 1)
        first = min(max(cursor - room // 2, 0), max(len(listed) - room, 0))
        self.drawn_rows = range(first, min(first + room, len(listed)))
        lines = [probe_words.list_head(probe, width, self.glyphs)]
        lines += [probe_words.list_line(probe, one, width, " ", self.glyphs) for one in (probe.mass, probe.argmax)]
        for row in self.drawn_rows:
            here = row == cursor
            line = probe_words.list_line(probe, listed[row], width, self.glyphs.cursor if here else " ", self.glyphs)
            lines.append(line.stylize(HERE) if here else line)
        return Content("\n").join(lines if listed else [*lines, Content.styled("no neuron was probed", QUIET)])

    def _why_empty(self) -> str:
        return self.why_nothing()

    def _curves(self, probe: Probe, size: int, width: int, height: int) -> Text:
        return probe_words.curves(probe, size, width, height, self.glyphs)

    def _told(self, probe: Probe | None) -> Content:
        """The neuron under the cursor, the ensembles of the chosen size, or both; then n and examples."""
        if probe is None:
            return Content()
        width, glyphs, one = self.size.width, self.glyphs, self.chosen()
        neuron = probe_words.neuron_told(probe, one, *self.place()) if one else []
        ensembles = probe_words.size_told(probe, self.size_chosen())
        parts = {"both": [neuron, ensembles], "neurons": [neuron], "ensembles": [ensembles]}[self.view]
        lines = [wrapped(each, width, 3 if each is ensembles else 2, glyphs) for each in parts]
        for each in (probe_words.split_told(probe), probe_words.examples_told(probe, glyphs)):
            lines.append(Content(wrapped(each, width, 2, glyphs).plain).stylize(QUIET))
        return Content("\n").join(lines)

    def known(self) -> str:
        if self.probe is None:
            return ""
        return f"{len(self.probe.neurons)} neurons {self.glyphs.zero} chance is 50 %"
