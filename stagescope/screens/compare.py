"""The compare screen: two readings side by side, or what differs between them, depth by depth at one token.

Side A was kept on the stack, side B is what the stack shows; `x` exchanges them. What two readings tell by themselves
is there at once; KL and distances need both runs, and come from the engine that has the model of both.
compare_words.py draws and words it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from textual import events, on
from textual.app import ComposeResult
from textual.content import Content

from stagescope import actions
from stagescope.answers import Answer
from stagescope.engine.comparison import of_readings
from stagescope.engine.protocol import Comparison, TakeComparison
from stagescope.reports.compare import lines
from stagescope.screens import compare_words as said
from stagescope.screens.asking import Chosen, Listing, Looked
from stagescope.screens.neurons_words import HERE
from stagescope.screens.sweep_words import wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.tokens import TokenStrip

AROUND = 8  # lines but depths, effect, detail, a second prompt: header, sides, tokens, views, heading, status, footer
HIGH = 30  # lines from which more tell the effect and the depth under the cursor, where the terminal is not wide
WIDE = 110  # cells


def one_model(a: Answer, b: Answer) -> bool:
    """Whether the engine at hand can run both sides: one model, loaded in one way."""
    return a.info.fingerprint == b.info.fingerprint and a.load == b.load


class CompareScreen(Listing):
    """Dismissed with side B to look at, or None. a, b: a reading each. Raises EngineError for two that cannot be
    compared."""

    PLACE = "compare"
    DOWN = -1  # the embedding stands at the foot
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "compare.tcss"

    def __init__(self, looked: Looked, a: Answer, b: Answer):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.sides = (a, b)
        self.runs = one_model(a, b)
        # what is looked at
        n_tokens = len(b.last.tokens)
        self.position = looked.position % n_tokens if -n_tokens <= looked.position < n_tokens else n_tokens - 1
        self.view = "sides"
        # what is known
        self.found: dict[TakeComparison, Comparison] = {}
        self.alone = of_readings(a.last, b.last)
        self.lines = lines(self.alone)
        self.row = len(self.lines) - 1  # the outputs
        self.drawn_rows = range(0)

        self.tokens = TokenStrip(ascii_only=looked.ascii_only, id="tokens")
        self.tokens_b = TokenStrip(ascii_only=looked.ascii_only, id="tokens-b")
        self.side_a, self.side_b, self.views = Line("side-a"), Line("side-b"), Line("views")
        self.effect, self.table, self.detail = Line("effect"), Line("table"), Line("detail")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.side_a, self.side_b, self.tokens, self.tokens_b, self.views)
        yield from (self.effect, self.table, self.detail, self.status, self.footer)

    # --------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> TakeComparison | None:
        """Nothing of two models: only one of them is loaded."""
        a, b = (side.request for side in self.sides)
        return TakeComparison(a, replace(b, tracked=a.tracked)) if self.runs else None

    def is_known(self, request: TakeComparison) -> bool:
        return request in self.found

    def receive(self, request: TakeComparison, reply: Comparison) -> None:
        self.found[request] = reply

    @property
    def comparison(self) -> Comparison:
        """With KL as soon as it is there."""
        return self.found.get(self.wanted(), self.alone)

    def answer(self) -> Answer:
        """Both sides, as far as they are known."""
        request = self.wanted()
        known = Answer(self.load, self.sides[1].info, request, (self.comparison,), self.position)
        return known if request in self.found else replace(known, request=None)

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        a, b, _ = self.lines[self.row]
        return {"position": self.position, "depth_a": a, "depth_b": b}, "kl_nats"

    # --------------------------------------------------------------------------------------------- keys

    def _move(self, by: int) -> None:
        self.row = min(max(self.row + by, 0), len(self.lines) - 1)
        self.draw_after_keys()

    def action_left(self) -> None:
        self._look_at(self.position - 1)

    def action_right(self) -> None:
        self._look_at(self.position + 1)

    def _look_at(self, position: int) -> None:
        if 0 <= position < len(self.alone.a.tokens):
            self.position = position
            self.draw_after_keys()

    def action_view(self, view: str = "") -> None:
        views = list(said.VIEWS)
        self.view = view or views[(views.index(self.view) + 1) % len(views)]
        self.draw()

    def action_exchange(self) -> None:
        """A becomes B: KL is of one side, and so are B's ranks of A's tokens."""
        a, b = self.sides
        self.sides = (b, a)
        self.alone = of_readings(b.last, a.last)
        at = self.lines[self.row]
        self.lines = lines(self.alone)
        self.row = next((row for row, line in enumerate(self.lines) if (line.b, line.a) == (at.a, at.b)), self.row)
        self.go_on()

    def action_open(self) -> None:
        """Leave, with side B in the stack."""
        side = self.sides[1]
        if side.info.fingerprint != self.info.fingerprint:
            self.say(f"{side.info.name} read that and is not loaded: {actions.key('exchange', self.PLACE)} exchanges the sides")
            return
        self.dismiss(Chosen(side.last.schedule, side.last.prompt, self.position))

    @on(TokenStrip.Chosen)
    def _token_chosen(self, event: TokenStrip.Chosen) -> None:
        self._look_at(event.position)

    @on(events.Click, "#table")
    def _clicked(self, event: events.Click) -> None:
        """A click on a line chooses it; above them stands a heading."""
        place = event.get_content_offset(self.table)
        if place is not None and 1 <= place.y <= len(self.drawn_rows):
            self.row = self.drawn_rows[place.y - 1]
            self.draw_after_keys()

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        found, width, glyphs, at = self.comparison, self.size.width, self.glyphs, self.position
        self.side_a.show(said.side_line("A", found.a, found.b, width, glyphs))
        self.side_b.show(said.side_line("B", found.b, found.a, width, glyphs))
        self.tokens.show(found.a.tokens, at)
        self.tokens_b.show(found.b.tokens, at)
        self.tokens_b.display = self._two_prompts() and not self.has_class("-small")
        self.views.show(said.view_line(self.view, said.followed(found, at, glyphs), width, glyphs))
        lines = self.told_lines
        self.effect.styles.height, self.detail.styles.height = lines, lines + 1
        self.effect.show(wrapped(said.effect(found, at, glyphs), width, lines, glyphs))
        self.table.show(self._table(found, width))
        self.detail.show(wrapped(said.point(found, self.lines[self.row], at, glyphs), width, lines + 1, glyphs))
        self.draw_status()

    def _table(self, found: Comparison, width: int) -> Content:
        self.drawn_rows = said.shown(self.lines, self.row, self.room())
        drawn = [said.heading(self.view, width, self.glyphs)]
        for row in self.drawn_rows:
            here = row == self.row
            mark = self.glyphs.cursor if here else " "
            line = said.row(found, self.lines[row], self.view, self.position, width, mark, self.glyphs)
            drawn.append(line.stylize(HERE) if here else line)
        return Content("\n").join(drawn)

    def _two_prompts(self) -> bool:
        return [token.id for token in self.alone.a.tokens] != [token.id for token in self.alone.b.tokens]

    @property
    def told_lines(self) -> int:
        """Lines of the effect; the detail has one more."""
        return 2 if self.size.height >= HIGH and self.size.width < WIDE else 1

    def room(self) -> int:
        """Depths that fit below the heading."""
        return max(self.lines_left - AROUND - 2 * self.told_lines - 1 - self._two_prompts(), 1)

    def idle_keys(self) -> set[str]:
        return super().idle_keys() | (set() if self.runs else {"rest"})

    def known(self) -> str:
        if not self.runs:
            return said.ALONE
        if self.wanted() not in self.found:
            return "" if self.running else f"KL not run yet; {actions.key('rest', self.PLACE)} runs it"
        n = len(self.lines)
        return f"{len(self.alone.pairs)} of {n} depths are compared"
