"""The neurons screen: which layers hold prediction and suppression neurons, the strongest of them, and what they write.

At the left the layers, deepest on top as in the stack, with their counts; beside them the strongest neurons of the
layer under the cursor (of all of them, at the start), or skew against kurtosis of every neuron there. The census comes
first; then each layer is asked for when the cursor rests on it. neurons_words.py words the lines, drawings/scatter.py draws.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content

from stagescope import actions
from stagescope.answers import Answer
from stagescope.engine.protocol import (
    Census,
    NeuronRow,
    Neurons,
    Request,
    ShowNeurons,
    TakeCensus,
)
from stagescope.engine.strongest import KINDS
from stagescope.reports.neurons import activations
from stagescope.screens import neurons_words
from stagescope.screens.asking import Chosen, Listing, Looked
from stagescope.screens.sweep_words import wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture
from stagescope.text import fit

FEW, MANY = 10, 50  # strongest of each class
TOP = 8  # tokens promoted, and suppressed
DETAIL = 4  # lines: what a neuron is, what it does here, the tokens promoted, those suppressed
AROUND = DETAIL + 4  # lines beside the two panes: header, about, status, footer too


class NeuronsScreen(Listing):
    """Dismissed with the chosen neuron, or layer's MLP, switched off, or None."""

    PLACE = "neurons"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "neurons.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.prompt, self.position = looked.prompt, looked.position
        # what is looked at
        self.stops: list[int | None] = [None, *reversed(range(self.info.n_layers))]  # lines of the layers' pane
        self.at_layer: int | None = None  # None: all of them
        self.row = 0  # of the list
        self.in_list = False  # which pane takes the keys
        self.plotted = False  # the scatter stands in place of the list
        self.kind: str | None = None  # the class that is listed; None: all
        self.most = FEW
        # what is known
        self.census: Census | None = looked.census
        self.answers: dict[ShowNeurons, Neurons] = {}
        self.drawn_layers, self.drawn_rows = range(0), range(0)  # which lines stand in the panes

        self.about, self.detail = Line("about"), Line("detail")
        self.layer_pane, self.list_pane, self.plot_pane = Line("layers"), Line("list"), Picture("plot")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.about)
        yield Horizontal(self.layer_pane, self.list_pane, self.plot_pane, id="panes")
        yield from (self.detail, self.status, self.footer)

    # --------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> Request:
        return TakeCensus() if self.census is None else ShowNeurons(self.at_layer, self.most, self.prompt, TOP)

    def is_known(self, request: Request) -> bool:
        return self.census is not None if isinstance(request, TakeCensus) else request in self.answers

    def receive(self, request: Request, reply: Census | Neurons) -> None:
        if isinstance(reply, Census):
            self.census = reply
        else:
            self.answers[request] = reply

    async def _ask(self, request: Request) -> None:
        await super()._ask(request)
        if isinstance(request, TakeCensus) and self.census:
            self.call_later(self.go_on)  # to the neurons

    # ---------------------------------------------------------------------------------- what is looked at

    def strongest(self) -> Neurons | None:
        """Of the layer looked at: as many as wanted, or as are known by now."""
        wanted = [ShowNeurons(self.at_layer, most, self.prompt, TOP) for most in (self.most, FEW, MANY)]
        return next((self.answers[request] for request in wanted if request in self.answers), None)

    def listed(self) -> list[tuple[NeuronRow, np.ndarray]]:
        """The rows of the list, each with its activation as it fires."""
        if self.census is None or (strongest := self.strongest()) is None:
            return []
        rows = zip(strongest.rows, activations(strongest, self.census), strict=True)
        return [(row, activation) for row, activation in rows if self.kind in (None, row.kind)]

    def at(self, n_tokens: int) -> int:
        """The position looked at, as an index."""
        position = self.position if self.position >= 0 else n_tokens + self.position
        return min(max(position, 0), max(n_tokens - 1, 0))

    def chosen(self) -> NeuronRow | None:
        """The neuron under the cursor; None where the layers take the keys."""
        listed = self.listed()
        return listed[min(self.row, len(listed) - 1)][0] if self.in_list and listed else None

    def answer(self) -> Answer | None:
        """With the counts, which say what the neurons are among."""
        found = super().answer()
        is_list = found is not None and isinstance(found.last, Neurons)
        return replace(found, replies=(self.census, *found.replies)) if is_list else found

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        chosen = self.chosen()
        if chosen:
            return {"layer": chosen.layer, "index": chosen.index}, "kurtosis"
        return ({} if self.at_layer is None else {"layer": self.at_layer}), "kurtosis"

    # --------------------------------------------------------------------------------------------- keys

    def _move(self, by: int) -> None:
        if self.in_list:
            last = len(self.listed()) - 1
            self.row = min(max(min(self.row, last) + by, 0), max(last, 0))
            self.draw_after_keys()
        else:
            line = min(max(self.stops.index(self.at_layer) + by, 0), len(self.stops) - 1)
            self._look_at(self.stops[line])

    def _look_at(self, layer: int | None) -> None:
        if layer != self.at_layer:
            self.at_layer, self.row = layer, 0
            self.go_on_at_rest()

    def action_left(self) -> None:
        self.in_list = False
        self.draw_after_keys()

    def action_right(self) -> None:
        if self.strongest() and not self.listed():
            self.say("no neuron is listed here")
            return
        self.in_list = True  # also of a list that is on its way
        self.draw_after_keys()

    @on(events.Click, "#layers, #list")
    def _clicked(self, event: events.Click) -> None:
        """A click on a line chooses it."""
        pane = event.widget
        place = event.get_content_offset(pane)
        drawn = self.drawn_layers if pane is self.layer_pane else self.drawn_rows
        if place is None or not 1 <= place.y <= len(drawn):
            return
        self.in_list = pane is self.list_pane
        if self.in_list:
            self.row = drawn[place.y - 1]
        else:
            self._look_at(self.stops[drawn[place.y - 1]])
        self.draw_after_keys()

    def action_token_back(self) -> None:
        self._step(-1)

    def action_token_forward(self) -> None:
        self._step(+1)

    def _step(self, by: int) -> None:
        if (strongest := self.strongest()) is None:
            self.say("the tokens are not known yet")
            return
        n_tokens = len(strongest.tokens)
        self.position = min(max(self.at(n_tokens) + by, 0), max(n_tokens - 1, 0))
        self.draw_after_keys()

    def action_view(self) -> None:
        self.plotted = not self.plotted
        self.draw()

    def action_kind(self) -> None:
        """All classes, then each that is there."""
        strongest = self.strongest()
        found = {row.kind for row in strongest.rows} if strongest else set()
        choices = [None, *(kind for kind in KINDS if kind in found or kind == self.kind)]
        self.kind = choices[(choices.index(self.kind) + 1) % len(choices)]
        self.row, self.plotted = 0, False
        self.draw()

    def action_more(self) -> None:
        self.most = FEW if self.most == MANY else MANY
        self.go_on_at_rest()

    def action_open(self) -> None:
        """Leave, with the MLP of the layer looked at switched off."""
        chosen = self.chosen()
        layer = chosen.layer if chosen else self.at_layer
        if layer is None:
            self.say("choose a layer or a neuron first: its MLP is switched off in the stack")
            return
        self.dismiss(Chosen(f"mlp-off {layer}", self.prompt, None))

    def action_neuron_off(self) -> None:
        """Leave, with the neuron under the cursor switched off."""
        if (chosen := self.chosen()) is None:
            self.say("choose a neuron first: the right arrow leads into the list")
            return
        self.dismiss(Chosen(f"neuron-off {chosen.layer}.{chosen.index}", self.prompt, None, adds=True))

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        width = self.size.width
        self.about.show(neurons_words.about(self.census, self.info, width, self.glyphs))
        self.detail.show(self._told())
        there = self.census is not None
        left = neurons_words.layers_width(self.census, width) if there else 0
        self.layer_pane.styles.width, self.layer_pane.display = left, there
        self.list_pane.display, self.plot_pane.display = not self.plotted, self.plotted
        if there:
            self.layer_pane.show(self._layers(left))
            self.list_pane.show(self._list(width - left - 1))
        self.plot_pane.show(self._scatter if there and self.plotted else None)
        self.draw_status()

    def body_height(self) -> int:
        """Lines of the two panes; a long remark in the status line takes some."""
        height = self.size.height - AROUND
        panes = self.list_pane.parent  # None when the screen was left before it stood: keys can be that fast
        return max(min(height, panes and panes.size.height or height), 1)

    def _layers(self, width: int) -> Content:
        cursor = self.stops.index(self.at_layer)
        self.drawn_layers = self._window(len(self.stops), cursor)
        lines = [neurons_words.layers_head(self.census)]
        for line in self.drawn_layers:
            mark = self._mark(line == cursor, not self.in_list)
            content = neurons_words.layer_line(self.census, self.stops[line], width, mark, self.glyphs)
            lines.append(self._lit(content, line == cursor, not self.in_list))
        return Content("\n").join(lines)

    def _list(self, width: int) -> Content:
        strongest, listed = self.strongest(), self.listed()
        cursor = min(self.row, len(listed) - 1)
        self.drawn_rows = self._window(len(listed), cursor)
        if not listed:
            return Content.styled(self._why_empty(strongest), neurons_words.QUIET)
        n_tokens = len(strongest.tokens)
        shape = neurons_words.columns(width, self.info, self.census.orientation == "corpus", n_tokens)
        lines = [neurons_words.neurons_head(shape, width, self.ascii_only)]
        look = (self.at(n_tokens), strongest.texts, shape, width)
        for line in self.drawn_rows:
            mark = self._mark(line == cursor, self.in_list)
            coloured = not self.census.degenerate
            content = neurons_words.neuron_line(*listed[line], *look, mark, coloured, self.glyphs)
            lines.append(self._lit(content, line == cursor and self.in_list, True))
        return Content("\n").join(lines)

    def room(self) -> int:
        """Lines that fit below a heading."""
        return max(self.body_height() - 1, 1)

    def _window(self, n_lines: int, cursor: int) -> range:
        """The lines that are drawn, the cursor's among them."""
        room = self.room()
        first = min(max(cursor - room // 2, 0), max(n_lines - room, 0))
        return range(first, min(first + room, n_lines))

    def _mark(self, here: bool, takes_keys: bool) -> str:
        return self.glyphs.cursor if here and takes_keys else " "

    def _lit(self, content: Content, here: bool, takes_keys: bool) -> Content:
        if not here:
            return content
        return content.stylize(neurons_words.HERE if takes_keys else neurons_words.ELSEWHERE)

    def _why_empty(self, strongest: Neurons | None) -> str:
        if strongest is None:
            return self.why_nothing()
        return f"no {self.kind} neuron here" if self.kind else "no neuron of kurtosis > 10 here, and no candidate"

    def _scatter(self, width: int, height: int) -> Text:
        from stagescope.drawings.scatter import scatter  # brings plotext: 0.3 s, once

        row = self.chosen()
        return scatter(
            self.census, self.info.d_model, self.at_layer, width, height, coloured=not self.census.degenerate,
            chosen=row and (row.layer, row.index), ascii_only=self.ascii_only,
        )  # fmt: skip

    def _told(self) -> Content:
        """The neuron under the cursor in full, or the layer."""
        width, glyphs = self.size.width, self.glyphs
        if self.census is None:
            return Content()
        row = self.chosen()
        if row is None:
            return wrapped(neurons_words.layer_told(self.census, self.at_layer), width, DETAIL, glyphs)
        strongest = self.strongest()
        activation = next(activation for found, activation in self.listed() if found is row)
        at = self.at(len(strongest.tokens))
        facts, does = neurons_words.neuron_told(row, activation, at, strongest, self.census, glyphs)
        tokens = [
            neurons_words.written(word, ids, cosines, strongest.texts, width, glyphs)
            for word, ids, cosines in (
                ("promotes", row.promoted, row.promoted_cos), ("suppresses", row.suppressed, row.suppressed_cos)
            )
        ]  # fmt: skip
        does = fit(f" {glyphs.zero} ".join(does), width, self.ascii_only)
        return Content("\n").join([wrapped(facts, width, 1, glyphs), *map(Content, (does, *tokens))])

    def idle_keys(self) -> set[str]:
        idle = super().idle_keys() | ({"rest"} if self.pause else set())
        idle |= set() if self.chosen() else {"neuron_off"}
        return idle | ({"open"} if self.at_layer is None and not self.in_list else set())

    def known(self) -> str:
        if (strongest := self.strongest()) is None:
            return ""
        classes = self.kind or "each class"
        words = f"the {self.most} strongest of {classes}"
        return f"{words} {self.glyphs.zero} {len(strongest.tokens)} tokens" if strongest.tokens else words
