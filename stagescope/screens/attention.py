"""The attention screen: how much each layer and head looks at the tokens just before, and what the sublayers write.

Figures 4, 5 and 7 of arXiv 2406.19384 on the prompt at hand, or on the standard text, with intervals over its
documents: from one plain forward a document. attention_words.py draws and words it.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult

from stagescope import actions
from stagescope.drawings.head_grid import window
from stagescope.engine.protocol import OFFSETS, Evidence, TakeEvidence, Texts
from stagescope.reports.evidence import n_measured, over_words
from stagescope.screens import attention_words
from stagescope.screens.asking import Asking, Chosen, Looked
from stagescope.screens.attention_words import VIEWS
from stagescope.screens.sweep_words import wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture

PANEL = 7  # lines a panel needs to be readable
AROUND = 5  # lines that are no picture, but for the detail: header, text, views, status, footer
ONE_LINE = 120  # cells from which two lines tell a point
PANELS = ("near", "sink", "norms", "relative", "ratio")


class AttentionScreen(Asking):
    """Dismissed with the layer's attention or one head switched off, or None."""

    PLACE = "attention"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "attention.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked = looked
        self.choices = (Texts((looked.prompt,)), Texts())  # what c goes through
        # what is looked at
        self.texts, self.view, self.k = self.choices[0], "near", 5
        self.only: str | None = None  # the panel that is drawn alone
        self.reading = "no_sink"  # of the heads
        off = re.fullmatch(r"attn-off (\d+)|head-off (\d+)\.(\d+)", looked.schedule)
        self.at_layer, self.at_head = (int(off[1] or off[2]), int(off[3] or 0)) if off else (0, 0)
        # what is known
        self.found: dict[Texts, Evidence] = {}

        self.text_line, self.views, self.detail = Line("text"), Line("views"), Line("detail")
        self.panels = {name: Picture(name) for name in PANELS}
        self.heads = Picture("heads")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.text_line, self.views, *self.panels.values(), self.heads)
        yield from (self.detail, self.status, self.footer)

    # ------------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> TakeEvidence:
        return TakeEvidence(self.texts, lenses=())

    def is_known(self, request: TakeEvidence) -> bool:
        evidence = self.found.get(request.texts)
        return evidence is not None and evidence.complete

    def receive(self, request: TakeEvidence, reply: Evidence) -> None:
        """Keep it, unless it was begun anew and knows less than what is there."""
        known = self.found.get(request.texts)
        if known is None or _extent(known) <= _extent(reply):
            self.found[request.texts] = reply

    @property
    def evidence(self) -> Evidence | None:
        return self.found.get(self.texts)

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        of = {"heads": self.shown, "near": "mean_weight"}.get(self.view)
        measure = {"measure": attention_words.name_of(of, self.k)} if of else {}
        return {"layer": self.at_layer, "head": self.at_head if self.view == "heads" else None, **measure}, "mean"

    # ------------------------------------------------------------------------------------------------- keys

    def action_left(self) -> None:
        self._move(across=-1)

    def action_right(self) -> None:
        self._move(across=+1)

    def action_up(self) -> None:
        self._move(up=+1)

    def action_down(self) -> None:
        self._move(up=-1)

    def action_first(self) -> None:
        self._move(across=-self.info.n_layers - self.info.n_heads)

    def action_last(self) -> None:
        self._move(across=self.info.n_layers + self.info.n_heads)

    def _move(self, across: int = 0, up: int = 0) -> None:
        """Among heads: along the heads, or the layers. Curves have layers alone."""
        if self.view == "heads":
            self.at_head = min(max(self.at_head + across, 0), self.info.n_heads - 1)
            across = 0
        self.at_layer = min(max(self.at_layer + across + up, 0), self.info.n_layers - 1)
        self.draw_after_keys()

    def action_view(self, view: str = "") -> None:
        names = list(VIEWS)
        self.view = view or names[(names.index(self.view) + 1) % len(names)]
        self.only = None
        self.draw()

    def action_measure(self, measure: str = "") -> None:
        """Of the heads, the next reading. Of curves all panels, then each alone; only those where all do not fit. A
        click chooses one, a second one all."""
        names = list(VIEWS[self.view])
        if self.view == "heads":
            self.reading = measure or names[(names.index(self.reading) + 1) % len(names)]
        elif measure:
            self.only = None if self.shown == measure and self._all_fit() else measure
        else:
            choices = [None] * self._all_fit() + names
            self.only = choices[(choices.index(self.shown) + 1) % len(choices)]
        self.draw()

    def action_offset(self, k: int | None = None) -> None:
        if self.view == "norms":
            self.say(f"norms have no k: {actions.key('view', self.PLACE)} shows attention")
            return
        self.k = k or OFFSETS[(OFFSETS.index(self.k) + 1) % len(OFFSETS)]
        self.draw()

    def action_text(self) -> None:
        self.texts = self.choices[self.texts == self.choices[0]]
        self.failure = self.failure if self.dead else ""
        self.go_on()

    def action_open(self) -> None:
        """Leave, with the layer's attention off."""
        self.dismiss(Chosen(f"attn-off {self.at_layer}", self.looked.prompt, None))

    def action_head_off(self) -> None:
        """Leave, with the head under the cursor off."""
        if self.view != "heads":
            self.say(f"{actions.key('head_off', self.PLACE)} switches a head off: {actions.key('view', self.PLACE)} shows layers x heads")
            return
        self.dismiss(Chosen(f"head-off {self.at_layer}.{self.at_head}", self.looked.prompt, None, adds=True))

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click moves the cursor to the nearest layer, or to the head."""
        from stagescope.drawings.curves import LABEL  # brings plotext, which is there by now

        width, height = event.picture.size
        left = LABEL + 1  # labels and the axis
        if self.view == "heads":
            shape = (self.info.n_layers, self.info.n_heads, self.at_layer, self.at_head)
            if place := window(*shape, width, height).at(event.x, event.y):
                self.at_layer, self.at_head = place
        elif width > left + 1:
            layer = round((event.x - left) / (width - left - 1) * self.info.n_layers - 0.5)
            self.at_layer = min(max(layer, 0), self.info.n_layers - 1)
        self.draw()

    def idle_keys(self) -> set[str]:
        idle = {"offset"} if self.view == "norms" else set()
        return super().idle_keys() | idle | (set() if self.view == "heads" else {"head_off"})

    # ----------------------------------------------------------------------------------------------- drawing

    @property
    def shown(self) -> str | None:
        """The panel or reading that is drawn; None for all panels."""
        if self.view == "heads":
            return self.reading
        return self.only or (None if self._all_fit() else next(iter(VIEWS[self.view])))

    @property
    def detail_lines(self) -> int:
        return 2 if self.size.width >= ONE_LINE else 3

    def _all_fit(self) -> bool:
        return self.lines_left - AROUND - self.detail_lines >= len(VIEWS[self.view]) * PANEL

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        self._draw_lines()
        room, evidence = not self.has_class("-small"), self.evidence
        self.heads.display = room and self.view == "heads"
        self.heads.show(partial(self._grid, evidence) if evidence and self.view == "heads" else None)
        for name, picture in self.panels.items():
            picture.display = room and name in VIEWS[self.view] and self.shown in (None, name)
            picture.show(partial(self._panel, name, evidence) if evidence and picture.display else None)
        self.draw_status()

    def _panel(self, name: str, evidence: Evidence, width: int, height: int) -> Text:
        return attention_words.panel(name, evidence, self.k, self.at_layer, width, height, self.glyphs)

    def _grid(self, evidence: Evidence, width: int, height: int) -> Text:
        at = (self.k, self.at_layer, self.at_head)
        return attention_words.grid(evidence, self.reading, *at, width, height, self.glyphs)

    def _draw_lines(self) -> None:
        """The lines about what is looked at."""
        width, evidence, glyphs = self.size.width, self.evidence, self.glyphs
        told = over_words(evidence) if evidence and evidence.tokens_scored else ""
        if edit := self.looked.schedule:
            told = f"the baseline, not {edit}" + f" {glyphs.zero} {told}" * bool(told)
        if self.texts.prompts:
            line = attention_words.text_line("prompt", self.looked.prompt, told, width, glyphs)
        else:
            told += ", 95 % intervals" if evidence and evidence.documents > 1 else ""
            source = evidence.source if evidence else "the standard text"
            line = attention_words.text_line("text", source, told, width, glyphs)
        self.text_line.show(line)
        self.views.show(attention_words.view_line(self.view, self.shown, self.k, width, glyphs))
        self.detail.styles.height = self.detail_lines
        at = (self.k, self.at_layer, self.at_head)
        parts = attention_words.point(evidence, self.view, *at, glyphs) if evidence else []
        self.detail.show(wrapped(parts, width, self.detail_lines, glyphs))

    def known(self) -> str:
        return attention_words.count(self.evidence, self.info.n_layers, self.running == self.wanted())


def _extent(evidence: Evidence) -> tuple[bool, int, int]:
    """How much is known: of a prompt so many layers, of a text so many tokens."""
    return evidence.complete, n_measured(evidence), evidence.tokens_scored
