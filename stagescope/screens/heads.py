"""The heads screen: which heads look from the last piece of a word at its first, and where one head looks.

Figure 9 of arXiv 2406.19384: every head's sub-joiner score over words of the standard text, ranked or as layers x
heads; beside it the pattern of the head under the cursor on the prompt at hand, under the present edit. The search
comes first; a pattern is asked for when the cursor rests. heads_words.py draws and words it.
"""

from __future__ import annotations

import re
import textwrap
from functools import partial
from typing import Any

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content

from stagescope import actions
from stagescope.answers import Answer
from stagescope.drawings import head_grid
from stagescope.engine.protocol import (
    PIECES,
    Failure,
    FindHeads,
    HeadPattern,
    HeadScores,
    Request,
    ShowPattern,
)
from stagescope.screens import heads_words, words
from stagescope.screens.asking import Asking, Chosen, Looked
from stagescope.screens.heads_words import VIEWS
from stagescope.screens.neurons_words import HERE
from stagescope.screens.sweep_words import QUIET, wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture
from stagescope.text import fit

DETAIL = 3  # lines: the head and its score in two, where it looks in one
AROUND = DETAIL + 5  # lines beside the panes: header, text, views, status, footer too
KEPT = 32  # patterns: T x T numbers each


class HeadsScreen(Asking):
    """Dismissed with the head under the cursor switched off, or None."""

    PLACE = "heads"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "heads.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked = looked
        # what is looked at
        off = re.fullmatch(r"head-off (\d+)\.(\d+)", looked.schedule)
        self.at = (int(off[1]), int(off[2])) if off else None  # layer and head; None: the highest score
        self.position = looked.position  # of the query; negative counts from the end
        self.view, self.words_of = "score", 3
        # what is known
        self.scores: dict[int, HeadScores] = {}  # by pieces
        self.patterns: dict[Request, HeadPattern] = {}  # the latest ones
        self.latest: HeadPattern | None = None
        self.refused: dict[Request, str] = {}  # why there is no answer
        self.drawn_rows = range(0)  # which heads of the order stand in the table

        self.text_line, self.views, self.detail = Line("text"), Line("views"), Line("detail")
        self.table, self.grid, self.picture = Line("table"), Picture("grid"), Picture("pattern")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.text_line, self.views)
        yield Horizontal(self.table, self.grid, self.picture, id="panes")
        yield from (self.detail, self.status, self.footer)

    # --------------------------------------------------------------------------------- asking the engine

    @property
    def search(self) -> FindHeads:
        return FindHeads(pieces=self.words_of)

    @property
    def show_pattern(self) -> ShowPattern:
        return ShowPattern(self.looked.prompt, *self.chosen, self.looked.schedule)

    def wanted(self) -> Request:
        """The scores, then the pattern; what was stopped comes after what was not."""
        left = [request for request in (self.search, self.show_pattern) if not self.is_known(request)]
        return next((request for request in left if request not in self.stopped), [*left, self.show_pattern][0])

    def is_known(self, request: Request) -> bool:
        return request.pieces in self.scores if isinstance(request, FindHeads) else request in self.patterns

    def receive(self, request: Request, reply: HeadScores | HeadPattern) -> None:
        self.refused.pop(request, None)
        if isinstance(reply, HeadScores):
            self.scores[request.pieces] = reply
            return
        self.patterns[request] = self.latest = reply
        for oldest in list(self.patterns)[:-KEPT]:
            del self.patterns[oldest]

    async def _ask(self, request: Request) -> None:
        await super()._ask(request)
        if isinstance(request, FindHeads) and self.is_known(request):
            self.call_later(self.go_on)  # to the pattern

    def _failed(self, request: Request, reply: Failure) -> None:
        super()._failed(request, reply)
        if reply.kind != "cancelled":
            self.refused[request] = words.failure(reply)

    def action_rest(self) -> None:
        """The search too, though a pattern may be wanted meanwhile."""
        self.stopped.discard(self.search)
        self.refused.pop(self.search, None)
        super().action_rest()

    # ---------------------------------------------------------------------------------- what is looked at

    @property
    def of_words(self) -> HeadScores | None:
        return self.scores.get(self.words_of)

    @property
    def shape(self) -> tuple[int, int]:
        return self.info.n_layers, self.info.n_heads

    def order(self) -> list[tuple[int, int]]:
        """By score; while there is none by layer and head."""
        if self.of_words:
            return self.of_words.ranked()
        return [(layer, head) for layer in range(self.shape[0]) for head in range(self.shape[1])]

    @property
    def chosen(self) -> tuple[int, int]:
        """Layer and head under the cursor."""
        return self.at or self.order()[0]

    def looked_from(self, found: HeadPattern) -> int:
        """The position looked at, as an index."""
        n_tokens = len(found.tokens)
        position = self.position if self.position >= 0 else n_tokens + self.position
        return min(max(position, 0), n_tokens - 1)

    def answer(self) -> Answer | None:
        """The scores, which the table and the grid show; before they are there the pattern."""
        return Answer(self.load, self.info, self.search, (self.of_words,)) if self.of_words else super().answer()

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        layer, head = self.chosen
        return {"layer": layer, "head": head}, "score"

    # --------------------------------------------------------------------------------------------- keys

    def action_up(self) -> None:
        self._move(up=1)

    def action_down(self) -> None:
        self._move(up=-1)

    def action_page_up(self) -> None:
        self._move(up=max(self.body_height() - 2, 1))

    def action_page_down(self) -> None:
        self._move(up=-max(self.body_height() - 2, 1))

    def action_first(self) -> None:
        self._look_at(self.order()[0] if self.view == "score" else (0, 0))

    def action_last(self) -> None:
        self._look_at(self.order()[-1] if self.view == "score" else (self.shape[0] - 1, self.shape[1] - 1))

    def action_left(self) -> None:
        self._move(across=-1) if self.view == "layers" else self._step(-1)

    def action_right(self) -> None:
        self._move(across=+1) if self.view == "layers" else self._step(+1)

    def _move(self, up: int = 0, across: int = 0) -> None:
        """In the table by lines; in the grid among layers and heads."""
        if self.view == "score":
            order = self.order()
            self._look_at(order[min(max(order.index(self.chosen) - up, 0), len(order) - 1)])
        else:
            places = zip(self.chosen, (up, across), self.shape, strict=True)
            self._look_at(tuple(min(max(at + by, 0), n - 1) for at, by, n in places))

    def _look_at(self, head: tuple[int, int]) -> None:
        self.at = head
        self.go_on_at_rest()

    def action_token_back(self) -> None:
        self._step(-1)

    def action_token_forward(self) -> None:
        self._step(+1)

    def _step(self, by: int) -> None:
        if self.latest is None:
            self.say("the tokens are not known yet")
            return
        self.position = min(max(self.looked_from(self.latest) + by, 0), len(self.latest.tokens) - 1)
        self.draw_after_keys()

    def action_view(self, view: str = "") -> None:
        names = list(VIEWS)
        self.view = view or names[(names.index(self.view) + 1) % len(names)]
        self.draw()

    def action_pieces(self, pieces: int | None = None) -> None:
        self.words_of = pieces or PIECES[(PIECES.index(self.words_of) + 1) % len(PIECES)]
        self.go_on_at_rest()

    def action_open(self) -> None:
        """Leave, with the head off."""
        layer, head = self.chosen
        self.dismiss(Chosen(f"head-off {layer}.{head}", self.looked.prompt, None, adds=True))

    @on(events.Click, "#table")
    def _clicked(self, event: events.Click) -> None:
        place = event.get_content_offset(self.table)
        if place is not None and 1 <= place.y <= len(self.drawn_rows):
            self._look_at(self.order()[self.drawn_rows[place.y - 1]])

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click chooses a head of the grid, or a row of the pattern."""
        size = event.picture.size
        if event.picture is self.grid:
            if place := head_grid.window(*self.shape, *self.chosen, *size).at(event.x, event.y):
                self._look_at(place)
        elif self.latest and (row := heads_words.row_of(self.latest, *size, event.y)) is not None:
            self.position = row
            self.draw_after_keys()

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        width, glyphs, scores = self.size.width, self.glyphs, self.of_words
        why = self.refused.get(self.search, "")
        self.text_line.show(heads_words.text_line(scores, self.words_of, why, width, glyphs))
        self.views.show(heads_words.view_line(self.view, self.words_of, self.of_words is not None, width, glyphs))
        as_grid = self.view == "layers"
        self.table.display, self.grid.display = not as_grid, as_grid
        self.table.styles.width = heads_words.table_width(width)
        self.grid.styles.width = heads_words.grid_width(self.shape[1], width)
        self.table.show(self._table(scores))
        self.grid.show(partial(self._grid, scores, self.chosen) if as_grid else None)
        found = self.patterns.get(self.show_pattern)
        self.picture.show(self._pattern(found))
        lines = [wrapped(heads_words.told(scores, *self.chosen, glyphs), width, DETAIL - 1, glyphs)]
        if found:
            lines.append(Content(fit(heads_words.looks(found, self.looked_from(found), glyphs), width, self.ascii_only)))
        self.detail.show(Content("\n").join(lines))
        self.draw_status()

    def body_height(self) -> int:
        """Lines of the panes; a long remark in the status line takes some."""
        height, panes = self.size.height - AROUND, self.table.parent  # none before it is mounted
        return max(min(height, (panes and panes.size.height) or height), 1)

    def _table(self, scores: HeadScores | None) -> Content:
        order, width = self.order(), self.size.width
        cursor, room = order.index(self.chosen), max(self.body_height() - 1, 1)
        first = min(max(cursor - room // 2, 0), max(len(order) - room, 0))
        self.drawn_rows = range(first, min(first + room, len(order)))
        lines = [heads_words.table_head(width)]
        for row in self.drawn_rows:
            mark = self.glyphs.cursor if row == cursor else " "
            line = heads_words.table_line(scores, *order[row], width, mark, self.glyphs)
            lines.append(line.stylize(HERE) if row == cursor else line if scores else line.stylize(QUIET))
        return Content("\n").join(lines)

    def _grid(self, scores: HeadScores | None, at: tuple[int, int], width: int, height: int) -> Text:
        return heads_words.grid(scores, self.shape, at, width, height, self.glyphs)

    def _pattern(self, found: HeadPattern | None):
        """Of the head under the cursor; why there is none; else the one before, dim."""
        why = self.refused.get(self.show_pattern, "")
        if found is None and why:
            return lambda width, height: Text(textwrap.fill(why, width))
        drawn = found or self.latest
        return drawn and partial(heads_words.pattern, drawn, self.looked_from(drawn), drawn is found, glyphs=self.glyphs)

    def idle_keys(self) -> set[str]:
        return super().idle_keys() | ({"rest"} if self.pause else set())

    def known(self) -> str:
        heads = f"{self.shape[0] * self.shape[1]} heads"
        if self.of_words:
            return heads
        return "" if self.running == self.search else f"{heads}, not scored; r searches"
