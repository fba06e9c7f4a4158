"""The sweep screen: what each layer is worth, by depth, drawn while it is measured.

Figure 3 of arXiv 2406.19384 on the prompt at hand and on the pinned ones: every layer dropped, every pair swapped;
then the sublayers; then a trace, every layer at every position; then every head; then the strongest prediction and
suppression neurons together, beside random ones. It asks the engine by itself and keeps the last Sweep
of each prompt and kind; coming back later costs nothing, as the engine remembers what it measured.
sweep_keys.py says what keys do, sweep_words.py words the lines, drawings/sweeps.py draws.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.content import Content

from stagescope import actions
from stagescope.answers import Answer
from stagescope.engine.kinds import entries
from stagescope.engine.protocol import Load, ModelInfo, Sweep, SweepRow, TakeSweep
from stagescope.reports.sweep import over_words
from stagescope.reports.sweep_units import CLASSES, RANDOM, members, sizes
from stagescope.screens import sweep_words
from stagescope.screens.asking import Chosen
from stagescope.screens.sweep_deck import median_sweep
from stagescope.screens.sweep_keys import BETWEEN, SweepKeys
from stagescope.screens.sweep_words import MEASURES, OF_ONE, VIEWS
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture

PANEL = 9  # lines a panel needs to be readable: three stand above each other where each has as many
AROUND = 5  # lines that are no picture, but for the detail: header, prompt, views, status, footer
ONE_LINE = 120  # cells from which a cell of a trace is told in one line


class SweepScreen(SweepKeys):
    """Dismissed with the point that was opened, or None.

    prompts: those of the deck, as it numbers them. present: the prompt at hand, one of them, or "" when it is left out.
    tracked, position: what a trace of it is read as, and where. schedule: the cursor starts on it if it is a row.
    """

    PLACE = "sweep"  # in the table of actions
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "sweep.tcss"

    def __init__(
        self,
        info: ModelInfo,
        load: Load,
        prompts: tuple[str, ...],
        present: str,
        tracked: int | None,
        position: int,
        schedule: str = "",
        ascii_only: bool = False,
    ):
        super().__init__(info, load, ascii_only)
        self.prompts, self.present = prompts, present
        self.in_turn = tuple(sorted(prompts, key=lambda prompt: prompt != present))  # the one at hand is swept first
        self.tracked, self.position = tracked, position
        # what is looked at
        self.view, self.kind, self.at_layer, self.at_token = self._place_of(schedule)  # token: column of the trace
        self.at_head = 0
        if of_head := re.fullmatch(r"head-off (\d+)\.(\d+)", schedule):
            self.view, self.kind, self.at_layer, self.at_head = "heads", "heads", int(of_head[1]), int(of_head[2])
        self.variant, self.k = CLASSES[1], 0  # of the sets of neurons; k 0: the largest there is
        self.only: str | None = None  # the measure that is drawn alone
        self.shown = prompts.index(present) if present else None  # which prompt; None: the median of all
        # what is known
        self.sweeps: dict[tuple[str, str], Sweep] = {}  # (prompt, kind) -> the last
        self.medians: dict[str, Sweep] = {}  # kind -> median_sweep of all prompts; made when it is drawn

        self.prompt_line, self.views, self.detail = Line("prompt"), Line("views"), Line("detail")
        self.panels = {measure: Picture(measure) for measure in MEASURES}
        self.trace, self.heads, self.sets = Picture("trace"), Picture("heads"), Picture("sets")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.prompt_line, self.views, *self.panels.values())
        yield from (self.trace, self.heads, self.sets, self.detail, self.status, self.footer)

    def on_mount(self) -> None:
        if not self.present:  # later: what begins to run takes a remark away
            self.call_later(self.say, "the deck is full: the prompt at hand is not pinned and is left out")

    # ------------------------------------------------------------------------------------- what is looked at

    @cached_property
    def rows(self) -> dict[str, tuple[SweepRow, ...]]:
        """The rows of every kind of curve: row i is that of layer i."""
        kinds = [kind for view in ("curves", "sublayers") for kind in VIEWS[view]]
        return {kind: entries(kind, self.info.n_layers, parallel_blocks=self.info.parallel) for kind in kinds}

    def _place_of(self, schedule: str) -> tuple[str, str, int, int | None]:
        """(view, kind, layer, token) of a schedule, of the first drop if it is none of the rows. Token None: of a
        trace, the one it is read at."""
        if of_trace := re.fullmatch(r"drop (\d+) @(\d+)", schedule):
            return "trace", "trace", int(of_trace[1]), int(of_trace[2])
        for view in ("curves", "sublayers"):
            for kind in VIEWS[view]:
                for layer, row in enumerate(self.rows[kind]):
                    if row.schedule == schedule:
                        return view, kind, layer, None
        return "curves", "drop", 0, None

    @property
    def prompt(self) -> str:
        """The one that is told in full: also of the median of all that is drawn."""
        return (self.present or self.prompts[0]) if self.shown is None else self.prompts[self.shown]

    @property
    def measure(self) -> str | None:
        """The one that is drawn; None for all three."""
        return self.only or (None if self._all_fit() else self.in_order()[0])

    def in_order(self) -> list[str]:
        """The measures, the one that answers the view's question first."""
        return sorted(MEASURES, key=lambda name: self.view == "sets" and name != "entropy_change_bits")

    def _all_fit(self) -> bool:
        return self.view != "heads" and self.lines_left - AROUND - self.detail_lines >= len(MEASURES) * PANEL

    @property
    def detail_lines(self) -> int:
        if self.view == "trace":
            return 1 if self.size.width >= ONE_LINE else 2
        if self.view == "sets":
            return 3 if self.size.width >= ONE_LINE else 4
        return 3 if len(self.prompts) > 1 else 2

    def sweep(self, kind: str) -> Sweep | None:
        """What is known of a kind on `prompt`."""
        return self.sweeps.get((self.prompt, kind))

    def of_deck(self, kind: str) -> list[Sweep]:
        return [self.sweeps[prompt, kind] for prompt in self.prompts if (prompt, kind) in self.sweeps]

    def here(self, sweep: Sweep) -> int:
        """The position looked at: in another prompt of the deck, its last."""
        n = len(sweep.tokens)
        position = self.position if sweep.prompt == self.present else -1
        return min(max(position if position >= 0 else n + position, 0), n - 1)

    def cell(self) -> tuple[int, int]:
        """Layer and token of the trace's cursor."""
        sweep = self.sweep("trace")
        token = sweep.positions[0] if self.at_token is None else min(self.at_token, len(sweep.tokens) - 1)
        return self.at_layer, token

    def all_sets(self) -> Sweep:
        """What is drawn of the sets of neurons, where they are known: of a prompt, or the median."""
        return self._curves()[0]

    def set_sizes(self) -> list[int]:
        return sizes(sweep) if (sweep := self.sweep("neuron-sets")) else []

    def set_series(self) -> list[str]:
        """Variants of the sets that there are, each class before its control."""
        sweep = self.sweep("neuron-sets")
        every = [variant for name in CLASSES for variant in (name, RANDOM[name])]
        return [one for one in every if members(sweep, "neuron-sets", one)] if sweep else []

    def chosen_set(self) -> tuple[str, int]:
        """Variant and size under the cursor, where the sets are known."""
        series, known = self.set_series(), self.set_sizes()
        return (self.variant if self.variant in series else series[0]), (self.k if self.k in known else known[-1])

    def chosen(self) -> tuple[SweepRow, int] | None:
        """The row under the cursor and its place among its kind's; None where that is not known yet."""
        if self.view in ("curves", "sublayers"):
            layer = min(self.at_layer, len(self.rows[self.kind]) - 1)
            return (self.rows[self.kind][layer], layer) if layer >= 0 else None
        if (sweep := self.sweep(self.kind)) is None or not sweep.rows:
            return None
        if self.view == "sets":  # of random draws the first
            variant, k = self.chosen_set()
            found = members(sweep, "neuron-sets", variant, k) or members(sweep, "neuron-sets", variant)
            return sweep.rows[found[0]], found[0]
        if self.view == "heads":
            cell = (self.at_layer, self.at_head)
            index = next((index for index, row in enumerate(sweep.rows) if (row.layer, row.index) == cell), None)
            return None if index is None else (sweep.rows[index], index)
        at = {(row.layer, row.position): index for index, row in enumerate(sweep.rows)}
        return (sweep.rows[at[self.cell()]], at[self.cell()])

    def answer(self) -> Answer | None:
        """All sweeps of the view, of every prompt it is over."""
        request = self.wanted()
        found = [self.sweeps.get((prompt, kind)) for prompt in request.prompts for kind in request.kinds]
        kept = tuple(sweep for sweep in found if sweep is not None)
        return Answer(self.load, kept[0].model, request, kept) if kept else None

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        chosen = self.chosen()
        return {"schedule": chosen[0].schedule if chosen else None}, f"{self.measure or next(iter(MEASURES))}_mean"

    # ------------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> TakeSweep:
        """What the view shows. Curves are of all prompts, and do not depend on what is tracked; grids are of one."""
        if self.view == "trace":
            position = self.position if self.prompt == self.present else -1
            return TakeSweep((self.prompt,), ("trace",), position=position, tracked=self.tracked)
        return TakeSweep((self.prompt,) if self.view in OF_ONE else self.in_turn, VIEWS[self.view])

    def unswept(self, request: TakeSweep) -> tuple[str, ...]:
        """The prompts where it is not complete."""
        known = {prompt: [self.sweeps.get((prompt, kind)) for kind in request.kinds] for prompt in request.prompts}
        return tuple(p for p, sweeps in known.items() if not all(sweep and sweep.complete for sweep in sweeps))

    def is_known(self, request: TakeSweep) -> bool:
        return not self.unswept(request)

    def rest_of(self, request: TakeSweep) -> TakeSweep:
        return replace(request, prompts=self.unswept(request))

    def receive(self, request: TakeSweep, sweep: Sweep) -> None:
        """Keep it, unless it was begun anew and knows less than what is there."""
        before = self.sweeps.get((sweep.prompt, sweep.kind))
        if before is None or before.done.sum() <= sweep.done.sum():
            self.sweeps[sweep.prompt, sweep.kind] = sweep
            self.medians.pop(sweep.kind, None)

    # ----------------------------------------------------------------------------------------------- drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        self.draw_text()
        room = not self.has_class("-small")
        for view, picture in {"trace": self.trace, "heads": self.heads, "sets": self.sets}.items():
            picture.display = room and self.view == view
            known = picture.display and (sweep := self.sweep(VIEWS[view][0])) and sweep.rows
            picture.show(getattr(self, f"_draw_{view}") if known else None)
        are_curves = self.view in ("curves", "sublayers")
        data = self._curves() if are_curves else []
        for measure, panel in self.panels.items():
            panel.display = room and are_curves and self.measure in (None, measure)
            panel.show(partial(self._panel, measure, data) if data else None)
        self.draw_status()

    def _curves(self) -> list[Sweep]:
        """A sweep for each series; over all prompts the median."""
        if self.shown is not None:
            return [sweep for kind in VIEWS[self.view] if (sweep := self.sweep(kind))]
        for kind in VIEWS[self.view]:
            if kind not in self.medians and (sweeps := self.of_deck(kind)):
                self.medians[kind] = median_sweep(sweeps)
        return [self.medians[kind] for kind in VIEWS[self.view] if kind in self.medians]

    def _panel(self, measure: str, data: list[Sweep], width: int, height: int) -> Text:
        from stagescope.drawings import sweeps as figures

        chosen = self.chosen() and (self.kind, self.chosen()[0].layer + BETWEEN.get(self.kind, 0))
        look = {"chosen": chosen, "averaged": self._averaged(), "ascii_only": self.ascii_only}
        return figures.panel(measure, data, width, height, n_layers=self.info.n_layers, **look)

    def _averaged(self) -> str:
        """What is drawn of all prompts: a median_sweep looks like a prompt of one token."""
        if self.shown is not None:
            return ""
        known = max(len(self.of_deck(kind)) for kind in VIEWS[self.view])
        so_far = "" if known == len(self.prompts) else f"{known} of "
        return f"median of {so_far}{len(self.prompts)} prompts"

    def _draw_heads(self, width: int, height: int) -> Text:
        from stagescope.drawings import sweeps as figures

        sweep = self.sweep("heads")
        look = {"chosen": (self.at_layer, self.at_head), "ascii_only": self.ascii_only}
        return figures.heads(sweep, self.measure, width, height, averaged=f"mean over {over_words(sweep)}", **look)

    def _draw_sets(self, width: int, height: int) -> Text:
        from stagescope.drawings import sweeps as figures

        look = {"chosen": self.chosen_set(), "averaged": self._averaged(), "ascii_only": self.ascii_only}
        return figures.sets([self.all_sets()], self.measure, width, height, **look)

    def _draw_trace(self, width: int, height: int) -> Text:
        from stagescope.drawings import sweeps as figures

        return figures.trace(self.sweep("trace"), width, height, chosen=self.cell(), ascii_only=self.ascii_only)

    def draw_text(self) -> None:
        """The lines about what is looked at: not at every progress, as a place among 6,000 rows takes 15 ms."""
        width, glyphs = self.size.width, self.glyphs
        known = next((sweep for (prompt, _), sweep in self.sweeps.items() if prompt == self.prompt), None)
        n_tokens = len(known.tokens) if known else None
        shown = self.prompts.index(self.prompt) if self.view in OF_ONE else self.shown
        self.prompt_line.show(sweep_words.prompt_line(self.prompts, self.prompt, shown, n_tokens, width, glyphs))
        self.views.show(sweep_words.view_line(self.view, self.kind, self.measure, width, glyphs))
        self.detail.styles.height = self.detail_lines
        self.detail.show(self._set_told() or sweep_words.wrapped(self._point(), width, self.detail_lines, glyphs))

    def idle_keys(self) -> set[str]:
        return super().idle_keys() | ({"deck_back", "deck_forward"} if len(self.prompts) == 1 else set())

    def doing(self) -> str:
        return "sweeping" if self.running and not self.dead else super().doing()

    def _point(self) -> list[str]:
        """The chosen point in full, and how it stands over the deck."""
        if (chosen := self.chosen()) is None:
            return []
        row, index = chosen
        if self.view == "trace":
            return sweep_words.traced_point(self.sweep("trace"), index, self.glyphs)
        sweep = self.sweep(self.kind)
        told = [row.schedule, "not run yet"]
        if sweep:
            told = sweep_words.point(sweep, index, self.here(sweep), self.glyphs)
        if len(self.prompts) > 1 and self.view not in OF_ONE:
            told += sweep_words.deck_words(self.of_deck(self.kind), index, len(self.prompts), self.glyphs)
        return told

    def _set_told(self) -> Content | None:
        """A set of neurons, and what the curves say of it."""
        if self.view != "sets" or (chosen := self.chosen()) is None:
            return None
        said = sweep_words.set_said(self.all_sets(), chosen[0], self._averaged())
        return sweep_words.point_and(said, self._point(), self.size.width, self.detail_lines, self.glyphs)

    def known(self) -> str:
        known = [self.sweeps.get((prompt, kind)) for prompt in self.wanted().prompts for kind in self.wanted().kinds]
        counted = sum(int(sweep.done.sum()) for sweep in known if sweep)
        return sweep_words.count(counted, self._n_rows(), self.running == self.wanted())

    def _n_rows(self) -> int | None:
        """How many rows the view has; None while that is not known: a trace depends on the tokens, sets on a census."""
        if self.view in OF_ONE or self.view == "sets":
            sweep = self.sweep(self.kind)
            return len(sweep.rows) * len(self.wanted().prompts) if sweep else None
        return len(self.prompts) * sum(len(self.rows[kind]) for kind in VIEWS[self.view])

    def action_open(self) -> None:
        """Leave, with the chosen point."""
        if (chosen := self.chosen()) is None:
            self.say("no row is known here yet")
            return
        position = self.sweep("trace").positions[0] if self.view == "trace" else None
        self.dismiss(Chosen(chosen[0].schedule, self.prompt, position))
