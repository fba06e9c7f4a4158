"""The attribution screen: what each attention and MLP adds directly to the logit of the followed token, and under an
edit what the later layers make good of it (self-repair).

By layer at one token of the prompt at hand; an answer holds every token, so that moving asks for nothing.
attribution_words.py draws and words it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Container

from stagescope import actions
from stagescope.engine.protocol import Attribution, TakeAttribution
from stagescope.engine.tokens import Token
from stagescope.screens import attribution_words
from stagescope.screens.asking import Asking, Chosen, Looked
from stagescope.screens.attribution_words import PANELS
from stagescope.screens.sweep_words import wrapped
from stagescope.screens.widgets.line import Line
from stagescope.screens.widgets.picture import Picture
from stagescope.screens.widgets.tokens import TokenStrip
from stagescope.text import visible

PANEL = 9  # lines of each of two panels, at least: a repair is small beside the largest effect
BESIDE = 110  # cells from which two panels stand beside each other where they do not fit above each other
AROUND = 5  # lines that are no picture: header, tokens, views, status, footer; and those of the sum and the detail
ONE_LINE = 120  # cells from which one line tells the sum
SHORT = 80  # cells below which two lines tell it in few words alone


class AttributionScreen(Asking):
    """Dismissed with the layer dropped, or None."""

    PLACE = "attribution"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "attribution.tcss"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked = looked
        # what is looked at
        self.position = looked.position  # an index as soon as the tokens are known
        self.tracked = looked.tracked
        self.at_layer = looked.info.n_layers - 1
        self.chosen_view: tuple[str, ...] = ()  # the panels that are drawn, if they can be; else the first view
        # what is known
        self.found: dict[TakeAttribution, Attribution] = {}
        self.latest: Attribution | None = None

        self.tokens = TokenStrip(ascii_only=looked.ascii_only, id="tokens")
        self.views, self.sum, self.detail = Line("views"), Line("sum"), Line("detail")
        self.panels = {name: Picture(name) for name in PANELS}
        self.grid = Container(*self.panels.values(), id="grid")

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.tokens, self.views, self.sum, self.grid)
        yield from (self.detail, self.status, self.footer)

    # ------------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> TakeAttribution:
        return TakeAttribution(self.looked.prompt, self.looked.schedule, self.tracked)

    def is_known(self, request: TakeAttribution) -> bool:
        return request in self.found

    def receive(self, request: TakeAttribution, reply: Attribution) -> None:
        if self.latest is None:
            self.position = self._index(reply)
        self.found[request] = self.latest = reply

    @property
    def attribution(self) -> Attribution | None:
        """Of the followed token; of the one before while that is on its way."""
        return self.found.get(self.wanted(), self.latest)

    def _index(self, attribution: Attribution) -> int:
        """The position looked at, which may count from the end."""
        n = len(attribution.tokens)
        return min(max(self.position if self.position >= 0 else n + self.position, 0), n - 1)

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        known = self.attribution
        where = {"position": self._index(known), "schedule": known.schedule} if known else {}
        return {**where, "layer": self.at_layer}, "logits"

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
        self._look_at(self.position - 1)

    def action_down(self) -> None:
        self._look_at(self.position + 1)

    def _look_at(self, position: int) -> None:
        """At another token of the prompt; the cursor stays at its layer."""
        if self.latest is not None and 0 <= position < len(self.latest.tokens):
            self.position = position
            self.draw_after_keys()

    def action_track(self) -> None:
        """Follow another token: type it; nothing typed is the baseline's top token again."""
        known, top = self.attribution, None
        if known is not None:
            token = int(known.tracked[self._index(known)])
            top = Token(token, known.texts.get(token, ""))

        question = "Follow which token? A leading space counts; empty: the baseline's top. Enter, or esc."
        self.ask_token(question, top, self.follow)

    def follow(self, token: Token | None) -> None:
        self.tracked = token.id if token else None
        self.go_on()
        self.say(f"following {visible(token.text, self.ascii_only)}" if token else "following the baseline's top token")

    def action_view(self, panel: str = "") -> None:
        """The next one; a click on a panel's name draws it alone, a second one all where they fit."""
        views = self.choices()
        if panel:
            self.chosen_view = views[0] if self.view == (panel,) else (panel,)
        else:
            self.chosen_view = views[(views.index(self.view) + 1) % len(views)]
        self.draw()

    def action_open(self) -> None:
        """Leave, and drop the layer under the cursor."""
        self.dismiss(Chosen(f"drop {self.at_layer}", self.looked.prompt, self.position))

    @on(TokenStrip.Chosen)
    def _token_chosen(self, event: TokenStrip.Chosen) -> None:
        self._look_at(event.position)

    @on(Picture.Pressed)
    def _pressed(self, event: Picture.Pressed) -> None:
        """A click on a panel moves the cursor to the nearest layer."""
        from stagescope.drawings.curves import LABEL  # brings plotext, which is there by now

        left, width = LABEL + 1, event.picture.size.width  # labels and the axis
        if width > left + 1:
            self._move(round((event.x - left) / (width - left - 1) * self.info.n_layers - 0.5))

    def idle_keys(self) -> set[str]:
        return super().idle_keys() | ({"view"} if len(self.choices()) == 1 else set())

    # ----------------------------------------------------------------------------------------------- drawing

    def choices(self) -> list[tuple[str, ...]]:
        """What `v` goes through: both panels where they fit, then each alone."""
        there = attribution_words.panels(self.attribution)
        alone = [(name,) for name in there]
        return [tuple(there), *alone] if len(there) > 1 and (self._are_tall() or self.size.width >= BESIDE) else alone

    @property
    def view(self) -> tuple[str, ...]:
        views = self.choices()
        return self.chosen_view if self.chosen_view in views else views[0]

    def _are_tall(self) -> bool:
        """Whether two panels fit above each other, where they share their layers."""
        return self.lines_left - AROUND - 2 * self.told_lines >= 2 * PANEL

    @property
    def told_lines(self) -> int:
        """Lines of the sum, and of the detail."""
        return 1 if self.size.width >= ONE_LINE else 2

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        known, view, room = self.attribution, self.view, not self.has_class("-small")
        self._draw_lines(known, view)
        self.grid.styles.grid_size_columns = 2 if len(view) > 1 and not self._are_tall() else 1
        for name, picture in self.panels.items():
            picture.display = room and name in view
            picture.show(partial(self._panel, name, known) if known and name in view else None)
        self.draw_status()

    def _panel(self, name: str, known: Attribution, width: int, height: int) -> Text:
        at = (self._index(known), self.at_layer)
        return attribution_words.panel(name, known, *at, width, height, self.glyphs)

    def _draw_lines(self, known: Attribution | None, view: tuple[str, ...]) -> None:
        """The lines about what is looked at."""
        width, lines, glyphs = self.size.width, self.told_lines, self.glyphs
        there = attribution_words.panels(known)
        self.views.show(attribution_words.view_line(there, view, self.looked.schedule, width, glyphs))
        total, point = [], []
        if known is not None:
            at = self._index(known)
            self.tokens.show(known.tokens, at)
            total = attribution_words.sentence(known, at, width < SHORT, glyphs)
            point = attribution_words.point(known, at, self.at_layer, glyphs)
        for line, parts in ((self.sum, total), (self.detail, point)):
            line.styles.height = lines
            line.show(wrapped(parts, width, lines, glyphs))

    def known(self) -> str:
        if self.attribution is None:
            return "" if self.running else f"not run yet; {actions.key('rest', self.PLACE)} runs it"
        return "logits, less their mean over the vocabulary"
