"""The explore screen and its session: what is looked at is written down before it is drawn, and can be gone back to.

A prompt is written when the typing rests, the cursor when it rests, and either before whatever is written next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from textual.content import Content

from stagescope.engine.protocol import ModelInfo, Read, Reading, Reply, Request
from stagescope.history import History, again
from stagescope.screens.ask import Ask
from stagescope.screens.deck import Deck
from stagescope.screens.frame import Frame
from stagescope.screens.sharing import NOT_RECORDED
from stagescope.screens.widgets.line import Field
from stagescope.sessions import files, short
from stagescope.sessions.events import State
from stagescope.sessions.files import SessionError
from stagescope.sessions.recorder import Recorder
from stagescope.text import printable

REST = 0.5  # seconds the cursor stands still before where it stands is written


class ExploreRecording(Frame):
    """A part of the Explore screen: it says what is looked at, and looks at what it is told."""

    recorder: Recorder
    resting, resting_at = None, None  # a timer: the cursor moved, and where to
    row_wanted: int | None = None  # once its rows are there

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

    def record_changes(self, rests: bool = False) -> None:
        """Write what came to be looked at since the last time. rests: a line being typed and the cursor too."""
        recorder = self.recorder
        if recorder.has_no_place and self.info is not None:
            recorder.begin(self.info, self.state())
        if recorder.file is None:
            return
        now, then = self.state(), recorder.recorded
        if not rests and isinstance(self.focused, Field):
            now = replace(now, prompt=then.prompt)
        place = (now.position, now.row)
        if not rests and place != (then.position, then.row) and now == replace(then, position=now.position, row=now.row):
            if self.resting_at != place:  # a job that tells how far it is draws again and again
                self.resting_at = place
                if self.resting:
                    self.resting.stop()
                self.resting = self.set_timer(REST, self._rest)
            return
        recorder.changed(now)

    def _rest(self) -> None:
        """The cursor rests: where it stands is written, with the numbers that stand there."""
        recorder, now, reading = self.recorder, self.state(), self.reading
        self.resting = self.resting_at = None
        moved = replace(recorder.recorded, position=now.position, row=now.row)
        if recorder.file is None or moved == recorder.recorded:
            return
        at, numbers = self.position(reading), None
        if reading is not None and self.is_complete() and recorder.is_new(self.answered, at):
            numbers = short.of_position(reading, at)
        recorder.changed(moved, numbers)
        self.draw_status()

    def record_model(self, info: ModelInfo) -> None:
        """What is known of the model: at first what its files say, then what its weights do."""
        if self.recorder.file is None and self.recorder.wanted:
            self.recorder.begin(info, self.state())
        if info.loaded:
            self.recorder.model(info, self.load)

    def record_reading(self, request: Read, reading: Reading) -> None:
        """A reading that covers all positions, before it is drawn."""
        if self.recorder.file is not None and len(reading.positions) == len(reading.tokens):
            self.record_changes(rests=True)
            self.recorder.reading(request, reading, self.position(reading))

    def record_answer(self, request: Request, replies: Sequence[Reply]) -> None:
        """Any other answer that came whole."""
        if self.recorder.file is not None:
            self.record_changes(rests=True)
            self.recorder.answer(request, replies)

    def end_session(self) -> None:
        self.record_changes(rests=True)
        if lost := self.recorder.end():
            self.app.remark = f"stagescope: {lost}"

    def why_not_recorded(self) -> str:
        """Of an app without a session."""
        if not self.recorder.wanted:
            return NOT_RECORDED
        return "the session cannot be written" if self.recorder.failed else "a session begins when the model is known"

    def mark(self) -> Content:
        """Whether all that is looked at is in the session's file."""
        filled, hollow = ("*", "o") if self.stack.glyphs.ascii_only else ("●", "○")
        if self.recorder.failed:
            return Content.styled("rec failed", "bold $text-error")
        if self.recorder.file is None:
            return Content.styled("rec off", "$foreground 50%") if not self.recorder.wanted else Content("")
        done = self.state() == self.recorder.recorded
        return Content.styled(f"{filled if done else hollow} rec", "$text-error" if done else "$foreground 60%")

    # ---------------------------------------------------------------------------------------- notes, names

    def action_note(self) -> None:
        if self.recorder.file is None and not self.recorder.failed:
            self.say(f"there is no note: {self.why_not_recorded()}")
        else:
            question = "Note, kept in the session; words that begin with # are tags. Enter, or esc."
            self.app.push_screen(Ask(question), self._noted)

    def _noted(self, text: str | None) -> None:
        if not text or not text.strip():
            return
        self.record_changes(rests=True)
        is_kept = self.recorder.write({"event": "note", "note": text})
        if tags := [word[1:] for word in text.split() if word.startswith("#") and word[1:]]:
            is_kept = self.recorder.write({"event": "tags", "tags": tags})
        if is_kept:
            self.say("noted" + (f"; tagged {', '.join(map(printable, tags))}" if tags else ""))
        elif self.recorder.file is None:
            self.say("the session cannot be written: the note goes into it when it can")
        self.draw_status()

    def action_name(self) -> None:
        if self.recorder.file is None:
            self.say(f"there is no name: {self.why_not_recorded()}")
            return
        question = f"Name of the session {self.recorder.file.id}? Enter, or esc."
        self.app.push_screen(Ask(question, self.recorder.name), self._named)

    def _named(self, name: str | None) -> None:
        if not name or not name.strip():
            return
        try:
            event = files.named(name)
        except SessionError as error:
            self.say(str(error))
            return
        self.recorder.name = event["name"]
        if self.recorder.write(event):
            self.say(f"the session {self.recorder.file.id} is called {printable(event['name'])}")
        self.draw_status()


def opened(session: files.Session, goes_on: bool) -> str:
    """What is said of a session that was opened again."""
    n = len(session.warnings)
    more = f"; {n} line{'s' if n > 1 else ''} could not be read" if n else ""
    name = printable(session.name or session.id)
    return f"session {name} goes on{more}" if goes_on else f"as session {name} left it{more}; {NOT_RECORDED}"


