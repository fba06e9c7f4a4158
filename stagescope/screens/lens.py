"""The lens screen: what each depth would say at one token, corrected and v1 side by side, and when tokens arrive.

Figures 6 and 8 of arXiv 2406.19384 at one position of the prompt at hand, under the present edit: entropy and KL under
both lenses, the census beneath, rank and p of the tokens the user follows, two of them as a logit difference.
lens_words.py draws and words it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Container

from stagescope import actions
from stagescope.engine.protocol import (
    LENSES,
    LensCurves,
    TakeLens,
)
from stagescope.engine.tokens import Token
from stagescope.screens import lens_words
from stagescope.screens.asking import Asking, Chosen, Looked
from stagescope.screens.lens_words import PANELS
from stagescope.screens.sweep_words import wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture
from stagescope.screens.widgets.tokens import TokenStrip
from stagescope.text import visible

PANEL = 7  # lines a panel needs to be readable
BESIDE = 110  # cells from which two panels stand beside each other
AROUND = 6  # lines that are no picture, but for the detail: header, tokens, views, arrivals, status, footer
ONE_LINE = 120  # cells from which two lines tell a depth and three tokens
MOST = 8  # followed tokens: as many marks are told apart


class LensScreen(Asking):
    """Dismissed with the token looked at, or None."""

    PLACE = "lens"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "lens.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked = looked
        # what is looked at
        self.position = looked.position  # an index as soon as the tokens are known
        self.ids = None if looked.tracked is None else (looked.tracked,)  # None: the output's top token, wherever
        self.at: int | None = None  # depth; None: the last
        self.lens = 0  # of the followed tokens' panels
        self.chosen_view: tuple[str, ...] = ()  # the panels that are drawn, if they can be; else the first view
        # what is known
        self.found: dict[tuple[int, tuple[int, ...]], LensCurves] = {}  # (position, followed) -> curves
        self.latest: LensCurves | None = None

        self.tokens = TokenStrip(ascii_only=looked.ascii_only, id="tokens")
        self.views, self.arrivals, self.detail = Line("views"), Line("arrivals"), Line("detail")
        self.panels = {name: Picture(name) for name in PANELS}
        self.grid = Container(*self.panels.values(), id="grid")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.tokens, self.views, self.arrivals, self.grid)
        yield from (self.detail, self.status, self.footer)

    # ------------------------------------------------------------------------------------- asking the engine

    @property
    def followed(self) -> tuple[int, ...]:
        """Ids; the output's top token comes with the first answer at a position."""
        if self.ids is not None:
            return self.ids
        plain = self.found.get((self.position, ()))
        return () if plain is None else (int(plain.top_ids[0, -1]),)

    def wanted(self) -> TakeLens:
        return TakeLens(self.looked.prompt, self.looked.schedule, self.position, self.followed)

    def is_known(self, request: TakeLens) -> bool:
        return (request.position, request.tokens) in self.found

    def receive(self, request: TakeLens, reply: LensCurves) -> None:
        """Keep it; what it says of the output's top token or of the position may be asked for next."""
        if self.latest is None and self.position % len(reply.tokens) == reply.position:
            self.position = reply.position
        self.found[reply.position, tuple(token.id for token in reply.followed)] = reply
        self.latest = reply
        if not self.is_known(self.wanted()):
            self.call_later(self.go_on)

    @property
    def curves(self) -> LensCurves | None:
        """Of what is looked at; while the followed tokens' numbers are on their way, what is known at the position."""
        exact = self.found.get((self.position, self.followed))
        here = self.latest if self.latest and self.latest.position == self.position else None
        return exact or here or self.found.get((self.position, ()))

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        return {"depth": self.depth, "lens": LENSES[self.lens]}, "entropy_bits"

    # ------------------------------------------------------------------------------------------------- keys

    @property
    def depth(self) -> int:
        last = len(self.curves.layers) - 1 if self.curves else 0
        return last if self.at is None else min(self.at, last)

    def action_left(self) -> None:
        self._move(self.depth - 1)

    def action_right(self) -> None:
        self._move(self.depth + 1)

    def action_first(self) -> None:
        self._move(0)

    def action_last(self) -> None:
        self._move(None)

    def _move(self, depth: int | None) -> None:
        if self.curves is not None:
            last = len(self.curves.layers) - 1
            self.at = None if depth is None or depth >= last else max(depth, 0)
            self.draw_after_keys()

    def action_up(self) -> None:
        self._look_at(self.position - 1)

    def action_down(self) -> None:
        self._look_at(self.position + 1)

    def _look_at(self, position: int) -> None:
        """At another token of the prompt; the cursor stays at its depth."""
        if self.latest and 0 <= position < len(self.latest.tokens) and position != self.position:
            self.position = position
            self.failure = self.failure if self.dead else ""
            self.go_on()

    def action_track(self) -> None:
        """Follow one more token: type it, or take the top token of the depth."""
        if len(self.followed) == MOST:
            self.say(f"{MOST} tokens are followed: {actions.key('untrack', self.PLACE)} takes the last one off")
            return
        top = None
        if self.curves is not None:
            token = int(self.curves.top_ids[self.lens, self.depth])
            top = Token(token, self.curves.texts.get(token, ""))

        question = "Follow which token too? A leading space counts; empty: the output's top alone. Enter, or esc."
        self.ask_token(question, top, lambda token: self.follow(token) if token else self._follow_top())

    def _follow_top(self) -> None:
        self.ids = None
        self.go_on()
        self.say("following the output's top token")

    def follow(self, token: Token) -> None:
        name = visible(token.text, self.ascii_only)
        if token.id in self.followed:
            self.say(f"{name} is followed already")
            return
        self.ids = (*self.followed, token.id)
        self.go_on()
        self.say(f"following {name}")

    def action_untrack(self) -> None:
        """The last one off; with none left it is the output's top token again, at every position its own."""
        if self.ids is None:
            self.say("the output's top token is followed while there is no other: t adds one")
            return
        self.ids = self.ids[:-1] or None
        self.go_on()

    def action_lens(self) -> None:
        self.lens = (self.lens + 1) % len(LENSES)
        self.draw()

    def action_view(self, panel: str = "") -> None:
        """The next one; a click on a panel's name chooses the pair that has it, a second one all where they fit."""
        views = self.choices()
        if panel:
            pair = next(view for view in views if panel in view and len(view) <= 2)
            self.chosen_view = views[0] if pair == self.view and len(views[0]) > 2 else pair
        else:
            self.chosen_view = views[(views.index(self.view) + 1) % len(views)]
        self.draw()

    def action_open(self) -> None:
        """Leave, with the token looked at."""
        self.dismiss(Chosen(self.looked.schedule, self.looked.prompt, self.position))

    @on(TokenStrip.Chosen)
    def _token_chosen(self, event: TokenStrip.Chosen) -> None:
        self._look_at(event.position)

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click on a panel moves the cursor to the nearest depth."""
        from stagescope.drawings.curves import LABEL  # brings plotext, which is there by now

        left, width = LABEL + 1, event.picture.size.width  # labels and the axis
        if self.curves and width > left + 1:
            self._move(round((event.x - left) / (width - left - 1) * len(self.curves.layers) - 0.5))

    def idle_keys(self) -> set[str]:
        idle = {"untrack"} if self.ids is None else set()
        return super().idle_keys() | idle | ({"view"} if len(self.choices()) == 1 else set())

    # ----------------------------------------------------------------------------------------------- drawing

    def choices(self) -> list[tuple[str, ...]]:
        return lens_words.views(lens_words.panels(self.curves, self.looked.census), self.columns * self.lines)

    @property
    def columns(self) -> int:
        return 2 if self.size.width >= BESIDE else 1

    @property
    def lines(self) -> int:
        """Panels that fit above each other."""
        return (self.lines_left - AROUND - self.detail_lines) // PANEL

    @property
    def view(self) -> tuple[str, ...]:
        """The panels that are drawn. A view that the size or the tokens no longer allow gives way to the first."""
        views = self.choices()
        return self.chosen_view if self.chosen_view in views else views[0]

    @property
    def detail_lines(self) -> int:
        return 2 if self.size.width >= ONE_LINE or len(self.followed) < 2 else 3

    def draw(self) -> None:
        """Everything, from what is known now. While another token's numbers are on their way its predecessor's stand."""
        self.drawn()
        curves, view, room = self.curves, self.view, not self.has_class("-small")
        self._draw_lines(curves, view)
        self.grid.styles.grid_size_columns = min(self.columns, len(view))
        for name, picture in self.panels.items():
            picture.display = room and name in view
            if curves or not self.running:
                picture.show(partial(self._panel, name, curves) if curves and name in view else None)
        self.draw_status()

    def _panel(self, name: str, curves: LensCurves, width: int, height: int) -> Text:
        shown = (name, curves, self.looked.census, self.lens, self.depth)
        return lens_words.panel(*shown, width, height, self.glyphs)

    def _draw_lines(self, curves: LensCurves | None, view: tuple[str, ...]) -> None:
        """The lines about what is looked at."""
        width, glyphs = self.size.width, self.glyphs
        if self.latest is not None:
            self.tokens.show(self.latest.tokens, self.position)
        there = lens_words.panels(curves, self.looked.census)
        self.views.show(lens_words.view_line(there, view, self.lens, self.looked.schedule, width, glyphs))
        self.arrivals.show(lens_words.arrivals(curves, self.lens, width, glyphs) if curves else "")
        self.detail.styles.height = self.detail_lines
        parts = lens_words.point(curves, self.depth, glyphs) if curves else []
        self.detail.show(wrapped(parts, width, self.detail_lines, glyphs))

    def known(self) -> str:
        if self.curves is None:
            return "" if self.running else f"not run yet; {actions.key('rest', self.PLACE)} runs it"
        return "depth 0 is not drawn, it echoes the token it reads"
