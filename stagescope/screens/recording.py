"""The session of the explore screen: what is looked at is written down before it is drawn, and can be gone back to.

A prompt is written when the typing rests, the cursor when it rests, and either before whatever is written next.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

from textual.content import Content

from stagescope.answers import collected
from stagescope.engine.protocol import MapStages, ModelInfo, Read, Reading, Reply, Request
from stagescope.history import History, again
from stagescope.reports import reading as report
from stagescope.screens.ask import Ask
from stagescope.screens.deck import Deck
from stagescope.screens.frame import Frame
from stagescope.screens.sharing import NOT_RECORDED
from stagescope.screens.widgets.line import Field
from stagescope.sessions import files, short
from stagescope.sessions.events import Event, State, changes, fold, plain
from stagescope.sessions.files import SessionError
from stagescope.text import printable

REST = 0.5  # seconds the cursor stands still before where it stands is written


class Recording(Frame):
    """A quarter of the Explore screen: it says what is looked at, and looks at what it is told."""

    records = False  # whether a session is begun when the model is known
    goes_on: files.Session | None = None  # the session opened again, until it is
    session: files.Recording | None = None
    recorded = State()  # what the session says is looked at
    record_failed = False
    resting, resting_at = None, None  # a timer: the cursor moved, and where to
    row_wanted: int | None = None  # once its rows are there
    numbered: Set[tuple[Read, int]] = frozenset()  # readings and positions whose numbers the session has, of this model

    # ------------------------------------------------------------------------------------ what is looked at

    def state(self) -> State:
        """What is looked at now."""
        row = self.stack.row_at_cursor()
        return State(
            load=self.load,
            prompt=self.prompt,
            schedules=tuple(self.history.log),
            tracked=self.tracked,
            tracked_text=self.tracked_text,
            lens=self.lens,
            deck=self.deck.prompts,
            guest=self.deck.guest,
            view=self.view,
            column=self.column,
            flipped=self.stack.flipped,
            screen=self.screen_on_top(),
            position=self.at,
            row=row.layers[0] if row and row.layers else None,
        )

    def screen_on_top(self) -> str:
        """The place of the screen that is looked at, questions and help aside."""
        stack = self.app.screen_stack if self.is_attached else []
        return next((place for screen in reversed(stack) if (place := getattr(screen, "PLACE", ""))), "explore")

    def look_at(self, state: State) -> None:
        """What is wanted becomes this; who calls draws and asks. The model and the other screens stay as they are.

        Raises ScheduleError for a schedule that is wrong whatever the model.
        """
        self.prompt: str = state.prompt
        self.history: History = again(state.schedules)
        self.at: int = state.position  # negative counts from the end, so that it follows the prompt as it is typed
        self.lens: str = state.lens
        self.tracked: int | None = state.tracked
        self.tracked_text: str = state.tracked_text
        self.deck = Deck(state.deck, state.guest)
        self.set_class(bool(self.deck.prompts), "-deck")
        self.view, self.column = state.view, state.column
        self.stack.flipped = state.flipped
        self.row_wanted = state.row
        if self.is_mounted:
            self.prompt_field.text, self.schedule_field.text = state.prompt, str(self.schedule)

    # -------------------------------------------------------------------------------------------- writing

    def begin_session(self, info: ModelInfo) -> None:
        """A new one, or that of before goes on. Once the model is known."""
        again_, self.goes_on = self.goes_on, None
        self.numbered = frozenset()
        try:
            if again_ is not None:
                self.session = files.go_on(again_.path, self.load, info)
                was = fold(again_.events)  # since when a prompt or an edit may have been given
                given = {name: getattr(was, name) for name in ("prompt", "schedules", "lens", "position")}
                self.recorded = replace(self.state(), **given)
                self.record_changes(rests=True)
                return
        except SessionError as error:
            self.session_name = ""
            self.say(f"{error}: this is recorded as another session")
        try:
            self.session = files.begin(self.load, info, self.prompt)
            self.recorded = State(load=self.load, prompt="")
        except SessionError as error:
            if not self.record_failed:
                self.record_failed = True
                self.say(f"not recorded: {error}; it is tried again with the next event")

    def record(self, event: Event) -> None:
        """Append an event to the session, if there is one."""
        if self.session is None:
            return
        try:
            self.session.write(event)
        except SessionError as error:
            if not self.record_failed:
                self.record_failed = True
                self.say(str(error))
        else:
            self.record_failed = False

    def record_changes(self, rests: bool = False) -> None:
        """Write what came to be looked at since the last time. rests: a line being typed and the cursor too."""
        if self.session is None and self.record_failed and self.info is not None:
            self.begin_session(self.info)
        if self.session is None:
            return
        now = self.state()
        if not rests and isinstance(self.focused, Field):
            now = replace(now, prompt=self.recorded.prompt)
        moved = (now.position, now.row) != (self.recorded.position, self.recorded.row)
        if not rests and moved and now == replace(self.recorded, position=now.position, row=now.row):
            if self.resting_at != (now.position, now.row):  # a job that tells how far it is draws again and again
                self.resting_at = (now.position, now.row)
                if self.resting:
                    self.resting.stop()
                self.resting = self.set_timer(REST, self._rest)
            return
        before, self.recorded = self.recorded, now  # first: a write that fails is told, and what draws that comes here
        for event in changes(before, now):
            self.record(event)

    def _rest(self) -> None:
        """The cursor rests: where it stands is written, with the numbers that stand there."""
        if self.session is None:
            return
        now, reading = self.state(), self.reading
        self.resting = self.resting_at = None
        moved = replace(self.recorded, position=now.position, row=now.row)
        before, self.recorded = self.recorded, moved
        for event in changes(before, moved):
            at = (self.answered, self.position(reading))
            if reading is not None and self.is_complete() and at not in self.numbered:
                event, self.numbered = {**event, "numbers": short.of_position(reading, at[1])}, self.numbered | {at}
            self.record(event)
        self.draw_status()

    def record_model(self, info: ModelInfo) -> None:
        """What is known of the model, once its weights are there."""
        if self.session is None and self.records:
            self.begin_session(info)
        if self.session is not None and info.loaded:
            model = {**report.model_json(info), "noise_kl": None if info.noise_kl != info.noise_kl else info.noise_kl}
            self.record({"event": "model", "load": plain(self.load), "model": model})
            self.numbered = frozenset()
            self.recorded = replace(self.recorded, load=self.load)

    def record_reading(self, request: Read, reading: Reading) -> None:
        """A reading that covers all positions, before it is drawn."""
        if self.session is None or len(reading.positions) < len(reading.tokens):
            return
        self.record_changes(rests=True)
        at = self.position(reading)
        event: dict[str, Any] = {"event": "reading", "request": plain(request), "position": at}
        if (request, at) not in self.numbered:  # undo and redo come by again and again
            self.numbered |= {(request, at)}
            event["numbers"] = short.of_reading(reading, at)
        event["cached"] = reading.cached
        self.record(event | {"milliseconds": round(reading.milliseconds, 1)} if not reading.cached else event)

    def record_answer(self, request: Request, replies: Sequence[Reply]) -> None:
        """Any other answer that came whole. What was only looked up, if it was there, measured nothing."""
        if self.session is None or not replies or (isinstance(request, MapStages) and request.if_known):
            return
        self.record_changes(rests=True)
        replies = collected(replies)
        kind = type(replies[-1]).__name__
        self.record({"event": "answer", "request": plain(request), "kind": kind, "numbers": short.of_replies(replies)})

    def end_session(self) -> None:
        if self.session is None:
            return
        self.record_changes(rests=True)
        try:
            self.session.close()
        except SessionError as error:
            self.app.remark = f"stagescope: the session was not kept to its end: {error}"
        self.session = None

    def why_not_recorded(self) -> str:
        """Of an app without a session."""
        if not self.records:
            return NOT_RECORDED
        return "the session cannot be written" if self.record_failed else "a session begins when the model is known"

    def mark(self) -> Content:
        """Whether all that is looked at is in the session's file."""
        filled, hollow = ("*", "o") if self.stack.glyphs.ascii_only else ("●", "○")
        if self.record_failed:
            return Content.styled("rec failed", "bold $text-error")
        if self.session is None:
            return Content.styled("rec off", "$foreground 50%") if not self.records else Content("")
        done = self.state() == self.recorded
        return Content.styled(f"{filled if done else hollow} rec", "$text-error" if done else "$foreground 60%")

    # ---------------------------------------------------------------------------------------- notes, names

    def action_note(self) -> None:
        if self.session is None:
            self.say(f"there is no note: {self.why_not_recorded()}")
        else:
            question = "Note, kept in the session; words that begin with # are tags. Enter, or esc."
            self.app.push_screen(Ask(question), self._noted)

    def _noted(self, text: str | None) -> None:
        if not text or not text.strip():
            return
        self.record_changes(rests=True)
        self.record({"event": "note", "note": text})
        if tags := [word[1:] for word in text.split() if word.startswith("#") and word[1:]]:
            self.record({"event": "tags", "tags": tags})
        told = f"; tagged {', '.join(map(printable, tags))}" if tags else ""
        if not self.record_failed:
            self.say(f"noted{told}")
        self.draw_status()

    def action_name(self) -> None:
        if self.session is None:
            self.say(f"there is no name: {self.why_not_recorded()}")
            return
        question = f"Name of the session {self.session.id}? Enter, or esc."
        self.app.push_screen(Ask(question, self.session_name), self._named)

    def _named(self, name: str | None) -> None:
        if name and name.strip():
            try:
                event = files.named(name)
            except SessionError as error:
                self.say(str(error))
                return
            self.record(event)
            self.session_name = event["name"]
            if not self.record_failed:
                self.say(f"the session {self.session.id} is called {printable(self.session_name)}")
            self.draw_status()


def opened(session: files.Session, goes_on: bool) -> str:
    """What is said of a session that was opened again."""
    n = len(session.warnings)
    more = f"; {n} line{'s' if n > 1 else ''} could not be read" if n else ""
    name = printable(session.name or session.id)
    return f"session {name} goes on{more}" if goes_on else f"as session {name} left it{more}; {NOT_RECORDED}"


