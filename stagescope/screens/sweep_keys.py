"""What each key and click does on the sweep screen: the methods the table of actions names."""

from __future__ import annotations

from textual import on

from stagescope.drawings.head_grid import window
from stagescope.screens.asking import Asking
from stagescope.screens.sweep_words import OF_ONE, VIEWS
from stagescope.screens.widgets.picture import Picture

CURVES = {"curves", "sublayers"}  # views that share what is drawn alone
BETWEEN = {"swap": 0.5}  # a swap stands between its two layers


class SweepKeys(Asking):
    """Half of the sweep screen: it changes what is looked at, then draws and asks."""

    def action_left(self) -> None:
        self._move(across=-1)

    def action_right(self) -> None:
        self._move(across=+1)

    def action_up(self) -> None:
        self._move(up=+1)

    def action_down(self) -> None:
        self._move(up=-1)

    def action_first(self) -> None:
        self._move(across=-self.info.n_ctx - self.info.n_layers)

    def action_last(self) -> None:
        self._move(across=self.info.n_ctx + self.info.n_layers)

    def _move(self, across: int = 0, up: int = 0) -> None:
        """Among curves: along the layers or sizes, or to the other series. In a grid: along the tokens or heads, or the
        layers."""
        last = self.info.n_layers - 1
        if self.view == "trace":
            if (sweep := self.sweep("trace")) is None:
                return
            layer, token = self.cell()
            self.at_layer = min(max(layer + up, 0), last)
            self.at_token = min(max(token + across, 0), len(sweep.tokens) - 1)
        elif self.view == "heads":
            self.at_layer = min(max(self.at_layer + up, 0), last)
            self.at_head = min(max(self.at_head + across, 0), self.info.n_heads - 1)
        elif self.view == "sets":
            if not (series := self.set_series()):
                return
            sizes, (name, k) = self.set_sizes(), self.chosen_set()
            self.variant = series[(series.index(name) + up) % len(series)]
            self.k = sizes[min(max(sizes.index(k) + across, 0), len(sizes) - 1)]
        else:
            kinds = VIEWS[self.view]
            self.kind = kinds[(kinds.index(self.kind) + up) % len(kinds)]
            if across:
                last = len(self.rows[self.kind]) - 1
                self.at_layer = min(max(min(self.at_layer, last) + across, 0), max(last, 0))
        self.draw_after_keys()

    def action_view(self, kind: str = "") -> None:
        """The next one; a click on a kind chooses the one it is in."""
        views, before = list(VIEWS), self.view
        if kind:
            self.view = next(view for view in views if kind in VIEWS[view])
        else:
            self.view = views[(views.index(self.view) + 1) % len(views)]
        self.kind = kind or VIEWS[self.view][0]
        self.only = self.only if {before, self.view} <= CURVES else None  # each question has its first measure
        self.failure = self.failure if self.dead else ""
        self.go_on()

    def action_measure(self, measure: str = "") -> None:
        """All three, then each alone; only those where three do not fit. A click chooses one, a second one all."""
        choices = [None] * self._all_fit() + self.in_order()
        if measure:
            self.only = None if self.measure == measure and self._all_fit() else measure
        else:
            self.only = choices[(choices.index(self.measure) + 1) % len(choices)]
        self.draw()

    def action_deck_back(self) -> None:
        self._step(-1)

    def action_deck_forward(self) -> None:
        self._step(+1)

    def _step(self, by: int) -> None:
        """To another prompt of the deck, or to all of them; a trace is of one, and so are heads."""
        if len(self.prompts) == 1:
            self.say("there is one prompt only: p in the stack pins more")
            return
        if self.view in OF_ONE:
            self.shown = (self.prompts.index(self.prompt) + by) % len(self.prompts)
            self.at_token = None
        else:
            stops = [None, *range(len(self.prompts))]
            self.shown = stops[(stops.index(self.shown) + by) % len(stops)]
        self.go_on()

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click moves the cursor to the nearest layer or size, or to the head."""
        from stagescope.drawings.curves import LABEL  # brings plotext, which is there by now

        left, (width, height) = LABEL + 1, event.picture.size  # labels and the axis
        if self.view == "heads":
            shape = (self.info.n_layers, self.info.n_heads, self.at_layer, self.at_head)
            if place := window(*shape, width, height).at(event.x, event.y):
                self.at_layer, self.at_head = place
        elif self.view == "trace" or width - left < 2:
            return
        elif self.view == "sets":
            if sizes := self.set_sizes():
                x = (event.x - left) / (width - left - 1) * len(sizes) - 0.5
                self.k = sizes[min(max(round(x), 0), len(sizes) - 1)]
        else:
            x = (event.x - left) / (width - left - 1) * self.info.n_layers - 0.5 - BETWEEN.get(self.kind, 0)
            self.at_layer = min(max(round(x), 0), max(len(self.rows[self.kind]) - 1, 0))
        self.draw()
