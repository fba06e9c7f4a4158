"""The main screen: the stack of layers over one prompt, and what an edit does to it.

It holds what is wanted (prompt, schedule, position, lens, tracked token), asks the engine for it, and draws
what came last. Widgets draw; explore_keys.py says what keys and clicks do, explore_beside.py opens the other screens,
explore_jobs.py asks, and begins by itself what is due after a reading; words.py words the single lines.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.reactive import Reactive
from textual.widget import Widget
from textual.widgets import Label

from stagescope import actions
from stagescope.answers import Answer
from stagescope.engine.protocol import (
    Attribution,
    Census,
    Failure,
    Load,
    ModelInfo,
    Progress,
    Read,
    Reading,
    Request,
    StageMap,
    Sweep,
    TakeAttribution,
    TakeSweep,
    Texts,
)
from stagescope.engine.question import shape
from stagescope.engine.schedule import Schedule, ScheduleError, parse, resolve
from stagescope.engine.tokens import Token
from stagescope.history import History
from stagescope.screens import words
from stagescope.screens.asking import Asking, Chosen
from stagescope.screens.deck import DeckEffect
from stagescope.screens.explore_beside import ExploreBeside
from stagescope.screens.explore_jobs import ExploreJobs
from stagescope.screens.explore_keys import ExploreKeys
from stagescope.screens.explore_recording import ExploreRecording, opened
from stagescope.screens.frame import SMALLEST
from stagescope.screens.rows import Row, rows, with_direct
from stagescope.screens.sharing import Sharing
from stagescope.screens.stages import StagesScreen
from stagescope.screens.widgets.detail import effect_line, row_line
from stagescope.screens.widgets.line import Field, Line, PromptField, ScheduleField
from stagescope.screens.widgets.stack import Stack
from stagescope.screens.widgets.tokens import TokenStrip
from stagescope.sessions.events import State
from stagescope.sessions.files import Session
from stagescope.sessions.recorder import Recorder
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.model_list import Listed

PAUSE = 0.06  # seconds without a key before the output follows the prompt
QUIET = 0.3  # ... before the whole stack does
STALE = 1.0  # seconds after which numbers of an earlier request are dimmed: most answers come sooner
EXPLORE_ACTIONS = frozenset(action.name for action in actions.of("explore"))
SCHEDULE_HINT = "types a schedule, such as drop 3-5; swap 7 8"  # after its key
TALL = 44  # rows of terminal from which the row under the cursor is told in full, in two lines of its own


class Explore(ExploreKeys, ExploreBeside, ExploreJobs, ExploreRecording, Sharing):
    PLACE = "explore"  # in the table of actions
    # Priority: keys act in the order they come, also when a slow line delivers ":drop 3" in one piece.
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "explore.tcss"
    AUTO_FOCUS = "#stack"
    panel = ""  # the id of a line above the footer, on this screen and on those beside it, for what leads through them
    focused: Reactive[Widget | None] = Reactive(None, repaint=False)  # Textual's repaints the screen: 12 KB a change

    def __init__(
        self,
        state: State,
        models: Callable[[], Sequence[Listed]] = tuple,
        ascii_only: bool = False,
        record: bool = False,
        resumed: Session | None = None,
    ):
        """state: what is looked at at first. record: into a session of its own, or into the one `resumed`."""
        super().__init__()
        self.load, self.models = state.load, models
        # what is wanted, beside what `look_at` sets
        self.census_wanted = True
        self.swept = ""  # the prompt that `w` was pressed on
        self.to_pin = ""  # the prompt that `p` was pressed on before it was read
        self.declined: dict[str, TakeSweep] = {}  # job -> what was cancelled or failed: not asked again by itself
        # what is known
        self.info: ModelInfo | None = None
        self.reading: Reading | None = None  # what the stack shows
        self.output: Reading | None = None  # what the output and token lines show: newer while typing
        self.answered: Read | None = None  # the request `reading` answers
        self.output_for: Read | None = None  # ... and `output`
        self.census: Census | None = None
        # by fingerprint and what was asked
        self.found: dict[tuple[str, TakeSweep | TakeAttribution], Sweep | DeckEffect | Attribution] = {}
        self.maps: dict[tuple[str, Texts], StageMap] = {}  # by fingerprint and what it was measured over
        self.map_looked_for: set[str] = set()  # fingerprints
        # while they run, the one begun last at the end: "load", "read", "map", "census", "token", "deck", "direct",
        # "sweep"
        self.jobs: dict[str, tuple[Request, Progress]] = {}
        self.dead = False  # the engine ended; r starts another
        self.failure = ""  # stays until something works again
        self.overdue = False  # what is wanted was asked for a while ago; until then old numbers stay bright
        self.overdue_timer = None
        self.schedule_error: ScheduleError | None = None
        self.stack_rows: list[Row] = []

        # what is drawn; kept here, as a reply may still come while the screen is taken down
        self.small, self.header, self.effect = Line("small"), Line("header"), Line("effect")
        self.detail, self.status, self.footer = Line("detail"), Line("status"), Line("footer")
        self.stack = Stack(id="stack", ascii_only=ascii_only)
        self.token_strip = TokenStrip(id="tokens", ascii_only=ascii_only)

        self.recorder = Recorder(record, self.say, resumed, resumed.name if resumed else "")
        self.look_at(state)

    def compose(self) -> ComposeResult:
        self.prompt_field = PromptField(self.prompt, id="prompt")  # an Input needs its app to be made
        self.schedule_field = ScheduleField(str(self.schedule), id="schedule", placeholder=f"{actions.key('edit')} {SCHEDULE_HINT}")
        yield from (self.small, self.header, self.effect, self.stack, self.token_strip, self.detail)
        mark = self.stack.glyphs.cursor
        yield Horizontal(Label(f"prompt {mark} ", markup=False), self.prompt_field)
        yield Horizontal(Label(f"edit   {mark} ", markup=False), self.schedule_field)
        yield self.status
        if self.panel:
            yield Line(self.panel)
        yield self.footer

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys are text while a line is typed."""
        return not isinstance(self.focused, Field) or action not in EXPLORE_ACTIONS

    def on_mount(self) -> None:
        if self.recorder.goes_on is not None:
            self.say(opened(self.recorder.goes_on, self.recorder.wanted))
        self.start()

    @property
    def schedule(self) -> Schedule:
        return self.history.now

    @property
    def tokens(self) -> tuple[Token, ...]:
        return self.output.tokens if self.output else ()

    def position(self, reading: Reading | None) -> int:
        """The position cursor within the tokens of a reading."""
        n = len(reading.tokens) if reading else 1
        return min(max(self.at if self.at >= 0 else n + self.at, 0), n - 1)

    def panels(self) -> list[Line]:
        """On every screen there is."""
        return [line for screen in self.app.screen_stack for line in screen.query(f"#{self.panel}").results(Line)] if self.panel else []

    def answer(self) -> Answer | None:
        """The reading that the stack shows, once it is read to the end."""
        if not self.is_complete():
            return None
        at = self.position(self.reading)
        shown = at if at < len(self.reading.tokens) - 1 else -1
        return Answer(self.load, self.reading.model, replace(self.answered, position=shown), (self.reading,), at)

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        """The row's depth at the chosen token; its top token, or in the grid of the change the KL."""
        row = self.stack.row_at_cursor()
        where = {"position": self.position(self.reading), "depth": row.depth if row else None}
        return where, "kl_nats" if self.view == "delta" else "top1"

    def copied(self, what: str) -> Callable[[], str | None]:
        return self.command if what == "command" else super().copied(what)

    def wanted(self) -> Read:
        return Read(self.prompt, str(self.schedule), self.at, lens=self.lens, tracked=self.tracked)

    # ------------------------------------------------------------------------------- asking the engine

    def start(self, load: Load | None = None) -> None:
        """Load the model and ask for the reading at once: an engine that knows it already need not wait.

        load: another model, which takes the place of the one at hand when it is found.
        """
        if self.dead:
            self.load = load or self.load
            self.run_worker(self._restart, group="load", exclusive=True)
        else:
            self.run_worker(partial(self._load, load or self.load), group="load", exclusive=True)
            if load is None:
                self.read()

    def read(self, typing: bool = False) -> None:
        """Ask for what is wanted; the latest wins. typing: the output after a pause, the rest when quiet."""
        self.stop_unwanted()
        if self.overdue_timer:
            self.overdue_timer.stop()
        self.overdue, self.overdue_timer = False, self.set_timer(STALE, self._late)
        if self.prompt:
            self.note = "" if self.note == words.EMPTY else self.note
            self.run_worker(partial(self._read, self.wanted(), typing), group="read", exclusive=True)
        else:
            self.workers.cancel_group(self, "read")
            self.say(words.EMPTY)

    def _late(self) -> None:
        self.overdue = not self._is_wanted(self.answered)
        self.draw()

    async def _load(self, load: Load) -> None:
        def receive(info: ModelInfo) -> None:
            other = load is not self.load
            if other:
                self._change_model(load)
            self._loaded(info)
            if other:
                self.read()

        await self._converse("load", load, receive)
        if self.info and self.info.loaded and self.answered is None and "read" not in self.jobs:
            self.read()
        self.next_job()

    async def _restart(self) -> None:
        """Another engine in place of the one that died, and all of it once more."""
        self.dead, self.failure, self.answered = False, "", None
        self.declined.clear()
        self.map_looked_for.clear()
        self.jobs["load"] = (self.load, Progress("starting the engine", math.nan))
        self.draw()
        await self.app.restart_engine()
        self.read()
        await self._load(self.load)

    async def _read(self, request: Read, typing: bool) -> None:
        if typing:
            loop = asyncio.get_running_loop()
            quiet = loop.time() + QUIET
            await asyncio.sleep(PAUSE)
            first, show_first = replace(request, part="output"), partial(self._show_output, request)
            if not await self._converse("read", first, show_first):
                return
            await asyncio.sleep(quiet - loop.time())

        def show(reading: Reading) -> None:
            self.reading, self.answered = reading, request
            self.record_reading(request, reading)
            self._show_output(request, reading)

        await self._converse("read", request, show)
        self.next_job()

    def _change_model(self, load: Load) -> None:
        """Nothing that was known of the model before holds of this one; prompt and schedule stay."""
        for job in ("deck", "direct", "sweep"):
            self.stop(job)
        self.declined.clear()
        self.load = load
        self.info = self.census = self.tracked = None
        self.tracked_text = ""
        self.reading = self.answered = self.output = self.output_for = None
        self.history, self.stack_rows, self.at = History(self.schedule), [], -1
        self.census_wanted = True

    def is_complete(self) -> bool:
        """Whether all that is wanted has been read, at every position."""
        reading = self.reading
        return reading is not None and self._is_wanted(self.answered) and len(reading.positions) == len(reading.tokens)

    def _loaded(self, info: ModelInfo) -> None:
        self.info = info
        try:
            resolve(self.schedule, info.n_layers, **shape(info))
        except ScheduleError as error:
            self.history = History(Schedule())
            self.schedule_field.text = ""
            self.say(f"schedule {error.text!r} does not fit {info.name} and was taken away: {error.reason}")
            self.read()
        self.record_model(info)
        for screen in self.app.screen_stack:
            if isinstance(screen, Asking) and screen.load == self.load:  # opened before the weights were there, dtype and device a guess
                screen.info = info
        if info.loaded and info.warnings:
            self.say(" ".join(info.warnings))
        self.draw()

    def _show_output(self, request: Read, reading: Reading) -> None:
        self.output, self.output_for, self.failure = reading, request, ""
        self.draw()
        to_pin, self.to_pin = self.to_pin, ""
        if to_pin == self.prompt == reading.prompt and to_pin not in self.deck.prompts:
            self.action_pin()

    def _failed(self, job: str, reply: Failure) -> None:
        if reply.kind == "cancelled" or (job == "map" and reply.kind == "missing"):
            return
        self.failure = words.failure(reply)
        self.dead = self.dead or reply.kind == "died"
        if job == "load" and not (self.info and self.info.loaded):  # the reading waits for weights that will not come
            self.workers.cancel_group(self, "read")
        if job == "census":
            self.census_wanted = False
        self.draw_status()

    def _point_chosen(self, screen: Asking, chosen: Chosen | None) -> None:
        """The maps that were made meanwhile go beside the rows."""
        if isinstance(screen, StagesScreen):
            self.keep_maps({texts: found.map for texts, found in screen.found.items() if found.map is not None})
        super()._point_chosen(screen, chosen)

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        reading, position = self.reading, self.position(self.reading)
        if self.info is not None:
            self.stack_rows = self._rows()
        self.stack.show(
            self.stack_rows,
            position=position,
            tokens=reading.tokens if reading else (),
            settled=self._is_wanted(self.answered) or not self.overdue,
            mode=self.view,
            edited=bool(reading and reading.schedule),
            column=self.shown_column,
        )
        at = [index for index, row in enumerate(self.stack_rows) if row.layers == (self.row_wanted,)]
        if at:
            self.stack.cursor, self.row_wanted = at[0], None
        here = self.position(self.output)
        self.token_strip.show(self.tokens, here)
        width, glyphs = self.size.width, self.stack.glyphs
        if self.output:
            beside = {"standing": self.standing(), "deck": self.on_deck()}
            self.effect.show(effect_line(self.output, here, width, glyphs=glyphs, **beside))
        else:
            self.effect.show("")
        self.effect.set_class(self.overdue and not self._is_wanted(self.output_for), "-stale")
        self.draw_status()

    def _is_wanted(self, request: Read | None) -> bool:
        """Whether what answers a request is what is wanted now; another position of it is."""
        return request is not None and replace(request, position=self.at) == self.wanted()

    def _rows(self) -> list[Row]:
        """The rows of the schedule; until its reading is there, with the numbers each layer had before."""
        known = (self.info, self.reading, self.census)
        at, stages = self.position(self.reading), self.stage_map()
        fresh = rows(*known, self.schedule, at, stages)
        if self.reading is None or self.reading.schedule == str(self.schedule):
            direct = self.direct_effects()
            return fresh if direct is None else with_direct(fresh, direct, at, self.shown_column == "change")
        read_of = parse(self.reading.schedule)
        before = {row.key: row for row in rows(*known, read_of, at, stages)}
        place = ("depth", "state", "mean", "partial", "moved", "copy", "copies", "heads", "neurons")
        return [replace(before.get(row.key, row), **{n: getattr(row, n) for n in place}) for row in fresh]

    def draw_status(self) -> None:
        """The lines that change while nothing else does: header, detail, status."""
        self.record_changes()
        width, height = self.size
        self.header.show(words.header(self.info, self.output, self.doing() + self.side_kept(), width, self.mark()))
        self.footer.show(words.footer(width, self._place()))
        row, reading = self.stack.row_at_cursor(), self.reading
        told = {"lines": 2 if height >= TALL else 1, "glyphs": self.stack.glyphs, "column": self.shown_column}
        if reading and reading.schedule != str(self.schedule):  # its depths are other places than the rows'
            unknown = {"attn": math.nan, "mlp": math.nan, "direct": (math.nan, math.nan)}
            reading, row = None, row and replace(row, **unknown, top=(), was=(), echo=False)
        said, running = self._said(width), self.running_jobs()
        room = width - (len(running) + 3) * (running != "" and height < TALL)
        detail = row_line(row, reading, self.position(self.reading), room, **told) if row else Content()
        self.detail.show(detail)
        if not said and height < TALL and room >= SMALLEST[0]:  # the detail has no line of its own
            said = detail + Content(running.rjust(width - detail.cell_length))
        self.status.show(said or running, layout=True)

    def _place(self) -> str:
        """Whose keys work now, as the table of actions calls it."""
        return self.focused.id if isinstance(self.focused, Field) else "explore"

    def on_descendant_focus(self) -> None:
        self.draw_status()

    def _said(self, width: int) -> Content | str:
        """What the status line must tell now: a wrong schedule, a remark, a failure."""
        field = self.schedule_field
        if self.schedule_error and field.has_focus:
            return words.schedule_error(self.schedule_error, field.region.x, width)
        restart = f" {actions.key('restart')} starts the engine again; prompt, schedule and readings are kept." if self.dead else ""
        if self.note:
            return Content.styled(printable(self.note), "$text-accent")
        return Content.styled(self.failure + restart, "$text-error") if self.failure else ""

    def doing(self) -> str:
        """What the header says the engine is doing."""
        if self.dead:
            return "engine stopped"
        if "load" in self.jobs:
            done = self.jobs["load"][1].done
            return "loading" if math.isnan(done) else f"loading {100 * done:.0f} %"
        if "read" in self.jobs:
            return "reading"
        return "idle" if self.info and self.info.loaded else "no model"

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height >= TALL, "-tall")  # the rest is Frame's, which Textual calls as well
