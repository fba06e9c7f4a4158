"""The similarity screen: how much each layer changes the residual stream, how far apart the stream is some layers on
(which layers can go, after Gromov et al. 2024), and CKA between any two depths.

On the prompt at hand or on the standard text, of the baseline. The cursor stands at some layers in a row: one at first.
similarity_words.py draws and words it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult

from stagescope import actions
from stagescope.engine.protocol import Similarity, TakeSimilarity, Texts
from stagescope.reports.similarity import span_words
from stagescope.screens import similarity_words
from stagescope.screens.asking import Asking, Chosen, Looked
from stagescope.screens.attention_words import text_line
from stagescope.screens.similarity_words import PANELS
from stagescope.screens.sweep_words import wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture

PANEL = 7  # lines a panel needs to be readable
AROUND = 5  # lines that are no picture: header, text, views, status, footer; and those of the summary and the detail
ONE_LINE = 120  # cells from which one line tells the layers
CURVES = ("influence", "angular")


class SimilarityScreen(Asking):
    """Dismissed with the layers dropped, or None."""

    PLACE = "similarity"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "similarity.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked = looked
        self.choices = (Texts((looked.prompt,)), Texts())  # what c goes through
        # what is looked at
        self.texts = self.choices[0]
        self.first, self.n = 0, 1  # layers first to first + n - 1: of CKA, the depths before and after them
        self.chosen_view: tuple[str, ...] = ()  # the panels that are drawn, if they can be; else the first view
        # what is known
        self.found: dict[Texts, Similarity] = {}

        self.text_line, self.views = Line("text"), Line("views")
        self.summary, self.detail = Line("summary"), Line("detail")
        self.panels = {name: Picture(name) for name in PANELS}

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.text_line, self.views, self.summary, *self.panels.values())
        yield from (self.detail, self.status, self.footer)

    # ------------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> TakeSimilarity:
        return TakeSimilarity(self.texts)

    def is_known(self, request: TakeSimilarity) -> bool:
        return request.texts in self.found

    def receive(self, request: TakeSimilarity, reply: Similarity) -> None:
        self.found[request.texts] = reply

    @property
    def similarity(self) -> Similarity | None:
        return self.found.get(self.texts)

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        if self.view == ("cka",):
            return {"measure": "cka", "depth": self.first, "other_depth": self.first + self.n}, "value"
        return {"measure": "influence", "layer": self.first}, "value"

    # ------------------------------------------------------------------------------------------------- keys

    def action_left(self) -> None:
        self._move(-1)

    def action_right(self) -> None:
        self._move(+1)

    def action_first(self) -> None:
        self._move(-self.info.n_layers)

    def action_last(self) -> None:
        self._move(+self.info.n_layers)

    def action_up(self) -> None:
        self._widen(+1)

    def action_down(self) -> None:
        self._widen(-1)

    def _move(self, by: int) -> None:
        """Along the layers; of CKA along the row: the depth after them stays."""
        end = self.first + self.n
        if self.of_cka:
            self._stand(min(max(self.first + by, 0), end - 1), end)
        else:
            first = min(max(self.first + by, 0), self.info.n_layers - self.n)
            self._stand(first, first + self.n)

    def _widen(self, by: int) -> None:
        """To the next number of layers that has a curve; of CKA to the next depth. The first layer stays where it can."""
        if self.of_cka:
            n = self.n + by
        else:
            some = similarity_words.apart(self.info.n_layers)
            others = [n for n in some if (n > self.n if by > 0 else n < self.n)]
            n = (min(others) if by > 0 else max(others)) if others else self.n
        n = min(max(n, 1), self.info.n_layers - (self.first if self.of_cka else 0))
        first = min(self.first, self.info.n_layers - n)
        self._stand(first, first + n)

    def _stand(self, first: int, end: int) -> None:
        self.first, self.n = first, end - first
        self.draw_after_keys()

    def action_view(self, panel: str = "") -> None:
        """The next one; a click on a panel's name chooses what has it."""
        views = self.view_choices()
        if panel:
            self.chosen_view = next(view for view in views if panel in view)
        else:
            self.chosen_view = views[(views.index(self.view) + 1) % len(views)]
        self.draw()

    def action_text(self) -> None:
        self.texts = self.choices[self.texts == self.choices[0]]
        self.failure = self.failure if self.dead else ""
        self.go_on()

    def action_open(self) -> None:
        """Leave, and drop the layers under the cursor."""
        self.dismiss(Chosen(f"drop {span_words(self.first, self.n)}", self.looked.prompt, None))

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click moves the cursor to the nearest layer, or of CKA to two depths, whichever is the deeper."""
        from stagescope.drawings.curves import LABEL  # brings plotext, which is there by now

        width, height = event.picture.size
        left = LABEL + 1  # labels and the axis
        if self.of_cka:
            place = similarity_words.shape(self.info.n_layers + 1, width, height).at(event.x, event.y)
            if place and place[0] != place[1]:
                self._stand(min(place), max(place))
        elif width > left + 1:
            self._move(round((event.x - left) / (width - left - 1) * self.info.n_layers - 0.5) - self.first)

    # ----------------------------------------------------------------------------------------------- drawing

    def view_choices(self) -> list[tuple[str, ...]]:
        both = self.lines_left - AROUND - 2 * self.told_lines >= 2 * PANEL
        return [CURVES, ("cka",)] if both else [(name,) for name in PANELS]

    @property
    def view(self) -> tuple[str, ...]:
        views = self.view_choices()
        return self.chosen_view if self.chosen_view in views else views[0]

    @property
    def of_cka(self) -> bool:
        return self.view == ("cka",)

    @property
    def told_lines(self) -> int:
        """Lines of the summary, and of the detail."""
        return 1 if self.size.width >= ONE_LINE else 2

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        known, view, room = self.similarity, self.view, not self.has_class("-small")
        self._draw_lines(known, view)
        for name, picture in self.panels.items():
            picture.display = room and name in view
            picture.show(partial(self._panel, name, known) if known and name in view else None)
        self.draw_status()

    def _panel(self, name: str, known: Similarity, width: int, height: int) -> Text:
        shown = (known, self.first, self.n, width, height, self.glyphs)
        return similarity_words.grid(*shown) if name == "cka" else similarity_words.panel(name, *shown)

    def _draw_lines(self, known: Similarity | None, view: tuple[str, ...]) -> None:
        """The lines about what is looked at."""
        width, lines, glyphs = self.size.width, self.told_lines, self.glyphs
        dot = f" {glyphs.zero} "
        told = [f"the baseline, not {self.looked.schedule}"] if self.looked.schedule else []
        told += [similarity_words.over(known)] if known else []
        if self.texts.prompts:
            line = text_line("prompt", self.looked.prompt, dot.join(told), width, glyphs)
        else:
            line = text_line("text", known.source if known else "the standard text", dot.join(told), width, glyphs)
        self.text_line.show(line)
        self.views.show(similarity_words.view_line(view, known.skipped if known else (), width, glyphs))
        summary = similarity_words.summary(known, width, lines) if known else []
        point = similarity_words.point(known, self.first, self.n, view[-1]) if known else []
        for line, parts in ((self.summary, summary), (self.detail, point)):
            line.styles.height = lines
            line.show(wrapped(parts, width, lines, glyphs))

    def known(self) -> str:
        if self.similarity is None:
            return "" if self.running else f"not run yet; {actions.key('rest', self.PLACE)} runs it"
        return f"{self.info.n_layers} layer{'s' * (self.info.n_layers > 1)}"
