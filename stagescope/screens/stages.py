"""The stages screen: the four stages of a model, the curves of the paper's figures, and the evidence for a boundary:
what each curve of the rule says of it, and that curve.

Over the standard text if its map is known, else over the prompt at hand; `c` goes from one to the other. What comes in
is shown as it comes: the sweep, the plain runs, the census, last the map.
stages_words.py words the lines, stages_panels.py draws the curves.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult

from stagescope import actions
from stagescope.answers import Answer
from stagescope.engine.protocol import Census, CorpusSweep, Evidence, Failure, MapStages, Reply, StageMap, Texts
from stagescope.engine.stages import STAGES
from stagescope.reports import stages as stages_report
from stagescope.screens import stages_words
from stagescope.screens.asking import Asking, Chosen, Looked
from stagescope.screens.stages_words import PANEL, Found, Panel
from stagescope.screens.sweep_words import wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture

STANDARD = Texts()
DETAIL = {False: 4, True: 2}  # lines, on a terminal of less than WIDE cells or of more
WIDE = 120


class StagesScreen(Asking):
    """Dismissed with the point that was opened, or None; `found` is what is known over each text.

    looked: what the explore screen looks at. Its prompt is one of the two texts.
    """

    PLACE = "stages"  # in the table of actions
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "stages.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked = looked
        self.prompt_texts = Texts((looked.prompt,))
        # what is looked at
        self.over: Texts | None = None  # None until it is known whether the standard text was mapped before
        self.at_layer, self.first = 0, 0  # first: the panel drawn where they do not all fit
        self.chosen = 1  # the stage whose boundary is told in the view of the evidence
        self.of_evidence = False
        # what is known
        self.found = {texts: Found(census=looked.census) for texts in (STANDARD, self.prompt_texts)}
        self.plots: dict[tuple, list[Text]] = {}  # panels of one text and size, without the cursor

        self.text_line, self.table, self.detail = Line("text"), Line("table"), Line("detail")
        self.rule, self.picture = Line("rule"), Picture("picture")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.text_line, self.table, self.picture)
        yield from (self.detail, self.rule, self.status, self.footer)

    @property
    def texts(self) -> Texts:
        return self.prompt_texts if self.over is None else self.over

    @property
    def here(self) -> Found:
        return self.found[self.texts]

    @property
    def map(self) -> StageMap | None:
        """Of the text looked at; else of the other one."""
        known = [self.here.map, *(found.map for found in self.found.values())]
        return next((map for map in known if map is not None), None)

    # ------------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> MapStages:
        return MapStages(STANDARD, if_known=True) if self.over is None else MapStages(self.over)

    def is_known(self, request: MapStages) -> bool:
        return not request.if_known and self.found[request.texts].whole

    def receive(self, request: MapStages, reply: Reply) -> None:
        found = self.found[request.texts]
        match reply:
            case CorpusSweep():
                found.sweep = reply
            case Evidence():
                found.evidence = reply
            case Census():
                found.census = reply
            case StageMap():
                found.map = reply
        self.plots.clear()

    async def _ask(self, request: MapStages) -> None:
        await super()._ask(request)
        if request.if_known and self.over is None and request not in self.stopped and not self.dead:
            self.over = self.prompt_texts if self.found[STANDARD].map is None else STANDARD
            self.draw()
            self.call_later(self.go_on)  # which lets go of what runs in this group of workers

    def _failed(self, request: MapStages, reply: Failure) -> None:
        if not (request.if_known and reply.kind == "missing"):  # that nothing was kept is an answer
            super()._failed(request, reply)

    def idle_keys(self) -> set[str]:
        return super().idle_keys() | (set() if self._is_single() else {"up", "down"})

    def answer(self) -> Answer | None:
        """The map and what it rests on, as far as it is there."""
        here = self.here
        parts = tuple(part for part in (here.sweep, here.evidence, here.census, here.map) if part is not None)
        return Answer(self.load, here.map.model, MapStages(self.texts), parts) if here.map is not None else None

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        return {"layer": self.at_layer}, self.here.map.signals[0] if self.here.map else "stage"

    # ------------------------------------------------------------------------------------------------- keys

    def action_left(self) -> None:
        self._move(self.at_layer - 1)

    def action_right(self) -> None:
        self._move(self.at_layer + 1)

    def action_first(self) -> None:
        self._move(0)

    def action_last(self) -> None:
        self._move(self.info.n_layers - 1)

    def _move(self, layer: int) -> None:
        self.at_layer = min(max(layer, 0), self.info.n_layers - 1)
        self.draw_after_keys()

    def action_up(self) -> None:
        self._step(-1)

    def action_down(self) -> None:
        self._step(+1)

    def _step(self, by: int) -> None:
        """To the next boundary in the view of the evidence, else to the next panel."""
        if self.of_evidence:
            self.chosen = (self.chosen + by) % len(STAGES)
        else:
            self.first = (self.first + by) % len(self._panels())
        self.draw_after_keys()

    def action_view(self) -> None:
        self.of_evidence = not self.of_evidence
        self.draw()

    def action_boundary(self, number: int) -> None:
        """A click on a stage: what is said of where it begins."""
        self.chosen, self.of_evidence = number, True
        self.draw()

    def action_text(self) -> None:
        """From the prompt to the standard text, or back. What runs is let go: the engine keeps what is done."""
        self.over = STANDARD if self.texts == self.prompt_texts else self.prompt_texts
        self.failure = self.failure if self.dead else ""
        self.go_on()

    def action_open(self) -> None:
        """Leave, and drop the layer under the cursor."""
        self.dismiss(Chosen(f"drop {self.at_layer}", self.looked.prompt, None))

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click on a panel moves the cursor to the nearest layer."""
        from stagescope.screens import stages_panels  # brings plotext, which is there by now

        share = event.picture.size.width // (self._grid() or (1, 1))[0]
        if not self.of_evidence and share > PANEL[0] // 2:
            self._move(stages_panels.layer_at(event.x % share, share - 1, self.info.n_layers))

    # ---------------------------------------------------------------------------------------------- drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        width, glyphs, found, n = self.size.width, self.glyphs, self.here, self.info.n_layers
        chosen = self.chosen if self.of_evidence else found.map.stage_of(self.at_layer) if found.map else None
        prompt, schedule = self.looked.prompt, self.looked.schedule
        self.text_line.show(stages_words.text_line(self.texts, found, prompt, schedule, width, glyphs))
        self.table.show(stages_words.table(found, chosen, n, width, glyphs))
        room = not self.has_class("-small")
        self.picture.display = room
        self.picture.show(self._evidence if self.of_evidence else self._curves)
        lines = DETAIL[width >= WIDE]
        self.detail.styles.height = lines
        self.detail.show(wrapped(stages_words.point(found, self.at_layer, n), width, lines, glyphs))
        self.rule.show(stages_words.rule_line(found, width, glyphs))
        self.draw_status()

    def _evidence(self, width: int, height: int) -> Text:
        """What is said of a boundary; below it, where there is room, the curves that say it."""
        map = self.here.map
        lines = stages_words.evidence(map, self.chosen, width, self.ascii_only)
        panels, room = stages_words.signals(map, self.chosen) if map else [], height - len(lines) - 1
        some = range(len(panels), 0, -1)
        if fits := next((shape for n in some if (shape := stages_words.grid(n, width, room))), None):
            there = panels[: fits[0] * fits[1]]
            less = f"{len(there)} of its {len(panels)} curves: a larger terminal has room for all"
            lines.append(Text(less if len(there) < len(panels) else "", "dim"))
            lines += self._drawn(there, *fits, width, room, stages_words.edge(map, self.chosen))
        return Text("\n", no_wrap=True).join(lines[:height])

    def _curves(self, width: int, height: int) -> Text:
        """All panels side by side, or the one looked at."""
        panels, shape = self._panels(), self._grid()
        if shape is None:
            one = panels[self.first]
            panels = [one._replace(title=f"{one.title}   {self.first + 1} of {len(panels)}")]
        return Text("\n", no_wrap=True).join(self._drawn(panels, *(shape or (1, 1)), width, height))

    def _panels(self) -> list[Panel]:
        return stages_words.panels(self.here, self.info.n_layers)

    def _grid(self) -> tuple[int, int] | None:
        """Columns and rows of all panels; None: one at a time."""
        return stages_words.grid(len(self._panels()), *self.picture.size)

    def _is_single(self) -> bool:
        """Whether up and down lead anywhere."""
        return self.of_evidence or self._grid() is None

    def _drawn(
        self, panels: list[Panel], columns: int, rows: int, width: int, height: int, edge: int | None = None
    ) -> list[Text]:
        """Plotted once for each size, the cursor and the boundary drawn over them."""
        from stagescope.screens import stages_panels  # brings plotext: 0.3 s, once

        wide, high = width // columns - 1, height // rows
        n, band = self.info.n_layers, stages_report.band(self.here.map, self.info.n_layers, self.ascii_only)
        floor = self.info.noise_kl if self.info.noise_kl > 0 else 1e-6
        drawn = []
        for panel in panels:
            key = (self.texts, panel.title, tuple(one.name for one in panel.series), wide, high)
            if key not in self.plots:
                self.plots[key] = stages_panels.plotted(panel, wide, high, n, floor, self.ascii_only)
            drawn.append(stages_panels.finished(self.plots[key], band, self.at_layer, edge, wide, self.ascii_only))
        return stages_panels.beside(drawn, columns, width)

    # ------------------------------------------------------------------------------------------- the status

    def doing(self) -> str:
        return "mapping" if self.running and not self.dead else super().doing()

    def known(self) -> str:
        """Which parts are there, until all of them are."""
        if self.here.map is not None:
            return "mapped before" if self.here.map.cached else "mapped"
        there = [name for name, is_there in self.here.parts().items() if is_there]
        missing = "" if self.running else f"; {actions.key('rest', self.PLACE)} goes on"
        return f"measured: {', '.join(there) or 'nothing yet'}{missing}"
