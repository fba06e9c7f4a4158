"""What the screens beside the stack share: each asks the engine for one thing at a time, and shows it as it comes.

What is wanted follows from what is looked at; what is not wanted any more is let go. Escape stops what runs and keeps
what is there, `r` goes on; if nothing runs escape leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from textual.content import Content

from stagescope import actions
from stagescope.answers import Answer, collected
from stagescope.engine.protocol import Census, Failure, FindToken, Load, ModelInfo, Progress, Reply, Request
from stagescope.engine.tokens import Token
from stagescope.screens import words
from stagescope.screens.ask import Ask
from stagescope.screens.help import Help
from stagescope.screens.sharing import Sharing
from stagescope.screens.widgets import glyphs
from stagescope.screens.widgets.line import Line, from_line

WAITING = "waiting for a reading or another job of the engine"  # which does one long job at a time
SOON = 0.1  # seconds between two drawings while parts come in
KEPT = 16  # answers
FAR = 10**6  # lines: no list has as many
PAUSE = 0.15  # seconds the cursor rests before what it is on is asked for: a held key asks for nothing


class Chosen(NamedTuple):
    """A point to look at in the stack."""

    schedule: str  # canonical text
    prompt: str
    position: int | None  # None: wherever the cursor was
    adds: bool = False  # a step that joins the schedule at hand, or leaves it if it was there; else it takes its place


@dataclass(frozen=True)
class Looked:
    """What the explore screen looks at when another is opened from it."""

    info: ModelInfo
    load: Load
    prompt: str
    schedule: str
    position: int  # negative counts from the end
    tracked: int | None
    census: Census | None
    ascii_only: bool


class Asking(Sharing):
    """Dismissed with a Chosen, or None; `restart` then says that `r` was pressed on a dead engine.

    A screen of this kind has its PLACE in the table of actions and gives: `wanted` and `is_known`, `receive`, `draw`
    (all of it) and `draw_status`, which shows `header`, `status` (of `told`) and `footer`.
    """

    PLACE = ""
    AUTO_FOCUS = ""
    taken = 0  # lines that a panel of the tour takes

    def __init__(self, info: ModelInfo, load: Load, ascii_only: bool):
        super().__init__()
        self.info, self.load, self.ascii_only = info, load, ascii_only
        self.glyphs = glyphs.ASCII if ascii_only else glyphs.UNICODE
        self.running: Request | None = None
        self.progress = Progress(WAITING, math.nan)
        self.stopped: set[Request] = set()  # cancelled or failed: only `r` runs them again
        self.whole: dict[Request, tuple[Reply, ...]] = {}  # what came whole, the latest KEPT
        self.record: Callable[[Request, Sequence[Reply]], None] = lambda request, replies: None  # into the session
        self.mark: Callable[[], Content] = Content  # whether there is one
        self.failure, self.dead, self.restart = "", False, False  # dead: the engine ended
        self.drawing = None  # a timer
        self.moved = False  # a drawing is due after the keys
        self.pause = None  # a timer: the cursor moved and what it is on now is not asked for yet
        self.small, self.header = Line("small"), Line("header")
        self.status, self.footer = Line("status"), Line("footer")

    def on_mount(self) -> None:
        self.go_on()

    @property
    def lines_left(self) -> int:
        """Of the terminal, to draw in."""
        return self.size.height - self.taken

    # --------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> Request | None:
        """What the view shows; None where that needs nothing of the engine."""
        raise NotImplementedError

    def is_known(self, request: Request) -> bool:
        """Whether all of its answer is there."""
        raise NotImplementedError

    def receive(self, request: Request, reply: Reply) -> None:
        """Keep what came in answer to a request, which may not be wanted any more."""
        raise NotImplementedError

    def cut_short(self, request: Request) -> None:
        """What runs will not come to its end: keep what can stand without the rest."""

    def rest_of(self, request: Request) -> Request:
        """As it is asked for: a part of it may be there."""
        return request

    def go_on(self) -> None:
        """Run what the view wants, if it does not run, was not stopped and is not there; what else ran is let go."""
        if self.pause:
            self.pause.stop()
        self.pause, request = None, self.wanted()
        if request != self.running:
            self.let_go()
            if request is not None and request not in self.stopped and not self.is_known(request) and not self.dead:
                self.failure = self.note = ""
                self.running, self.progress = request, Progress(WAITING, math.nan)
                self.run_worker(partial(self._ask, request), group="ask")
        self.draw()

    def go_on_at_rest(self) -> None:
        """Something else is looked at: drawn after the keys, asked for when the cursor rests."""
        self.failure = self.failure if self.dead else ""
        if self.pause:
            self.pause.stop()
        self.pause = self.set_timer(PAUSE, self.go_on)
        self.draw_after_keys()

    def let_go(self) -> None:
        if self.running is not None:
            self.cut_short(self.running)
        self.running = None
        self.workers.cancel_group(self, "ask")

    def answer(self) -> Answer | None:
        request = self.wanted()
        replies = self.whole.get(request)
        return Answer(self.load, self.info, request, replies, getattr(self, "position", -1)) if replies else None

    async def _ask(self, request: Request) -> None:
        came: tuple[Reply, ...] = ()  # of those that replace each other the last
        try:
            asked = self.rest_of(request)
            async with aclosing(self.app.engine.ask(asked)) as replies:
                async for reply in replies:
                    match reply:
                        case Progress():
                            self.progress = reply
                            self.draw_status()
                        case Failure():
                            self._failed(request, reply)
                            came = ()
                        case _:
                            came = collected((*came, reply))
                            self.receive(request, reply)
                            self.draw_soon()
            if came:
                self.record(asked, came)
                self._came_whole(request, came)
        finally:
            if self.running is request:
                self.running = None
            self.draw()

    def _came_whole(self, request: Request, replies: tuple[Reply, ...]) -> None:
        self.whole[request] = replies
        for oldest in list(self.whole)[:-KEPT]:
            del self.whole[oldest]

    def _failed(self, request: Request, reply: Failure) -> None:
        self.stopped.add(request)
        self.cut_short(request)
        if reply.kind != "cancelled":
            self.failure = words.failure(reply)
            self.dead = self.dead or reply.kind == "died"

    def ask_token(self, question: str, top: Token | None, follow: Callable[[Token | None], None]) -> None:
        """A dialog for the token to follow, `top` proposed; follow gets None where nothing was typed."""

        def answer(line: str | None) -> None:
            if line == "":
                follow(None)
            elif line and top is not None and line == top.text:
                follow(top)
            elif line:
                self.run_worker(partial(self._find, from_line(line), follow), group="token", exclusive=True)

        self.app.push_screen(Ask(question, top.text if top else ""), answer)

    async def _find(self, text: str, follow: Callable[[Token | None], None]) -> None:
        async with aclosing(self.app.engine.ask(FindToken(text))) as replies:
            async for reply in replies:
                match reply:
                    case Token():
                        follow(reply)
                    case Failure(kind="died"):
                        self.failure, self.dead = words.failure(reply), True
                        self.draw_status()
                    case Failure():
                        self.say(words.failure(reply))

    # --------------------------------------------------------------------------------------------- keys

    def action_rest(self) -> None:
        """Run what was stopped; on a dead engine leave, to start another."""
        request = self.wanted()
        if self.running is not None and self.running == request:
            self.say("it runs")
        elif self.dead:
            self.restart = True
            self.dismiss(None)
        elif request is None or self.is_known(request):
            self.say("all of it is there")
        else:
            self.stopped.discard(request)
            self.go_on()

    def action_back(self) -> None:
        """Cancel what runs; if nothing does, leave."""
        if self.cancel_film():
            return
        if self.running is None:
            self.dismiss(None)
            return
        self.stopped.add(self.running)
        self.let_go()
        self.draw()

    def action_help(self) -> None:
        self.app.push_screen(Help(self.PLACE))

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self) -> None:
        raise NotImplementedError

    def draw_soon(self) -> None:
        """While parts come in."""
        if self.drawing is None:
            self.drawing = self.set_timer(SOON, self.draw)

    def draw_after_keys(self) -> None:
        """When the keys that came already have been acted on: three panels take longer than a held key repeats."""
        if not self.moved:
            self.moved = True
            self.call_later(self.draw)

    def drawn(self) -> None:
        """At the start of `draw`: what was due is done."""
        if self.drawing is not None:
            self.drawing.stop()
        self.drawing, self.moved = None, False

    def draw_status(self) -> None:
        """The lines that change while nothing else does."""
        self.header.show(words.header(self.info, None, self.doing(), self.size.width, self.mark()))
        self.status.show(self.told(), layout=True)
        self.footer.show(words.footer(self.size.width, self.PLACE, self.idle_keys()))

    def idle_keys(self) -> set[str]:
        """Actions that would do nothing now."""
        request = self.wanted()
        is_left = request is not None and request != self.running and not self.is_known(request)
        return set() if self.dead or is_left else {"rest"}

    def doing(self) -> str:
        return "engine stopped" if self.dead else "measuring" if self.running else "idle"

    def why_nothing(self) -> str:
        """What stands where an answer would; nothing while one is on its way."""
        return f"stopped: {actions.key('rest', self.PLACE)} goes on" if self.wanted() in self.stopped and not (self.dead or self.pause) else ""

    def known(self) -> str:
        """What the status line says of what is there."""
        return ""

    def told(self) -> Content | str:
        """The status line: what failed, a remark, or what is there and what runs."""
        if self.note:  # it is newer, and goes by itself
            return Content.styled(self.note, "$text-accent")
        if self.failure:
            more = "goes back to the stack and starts the engine again." if self.dead else "tries again."
            return Content.styled(f"{self.failure} {actions.key('rest', self.PLACE)} {more}", "$text-error")
        running = words.progress(self.progress) if self.running else ""
        return f" {self.glyphs.zero} ".join(part for part in (self.known(), running) if part)


class Listing(Asking):
    """One whose cursor stands in a list: it gives `_move`, which stays within the list, and `room`, the lines that are shown."""

    DOWN = +1  # what `_move` is told for a line down; -1 where the list is drawn from its end

    def room(self) -> int:
        raise NotImplementedError

    def _move(self, by: int) -> None:
        raise NotImplementedError

    def action_up(self) -> None:
        self._move(-self.DOWN)

    def action_down(self) -> None:
        self._move(self.DOWN)

    def action_page_up(self) -> None:
        self._move(-self.DOWN * self.room())

    def action_page_down(self) -> None:
        self._move(self.DOWN * self.room())

    def action_first(self) -> None:
        self._move(-self.DOWN * FAR)

    def action_last(self) -> None:
        self._move(self.DOWN * FAR)
