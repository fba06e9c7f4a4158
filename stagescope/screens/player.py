"""A recorded session watched: its events, one after the other, into the panels they were recorded from, with a live
engine behind them. Where numbers were recorded it says whether they come out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from textual import events, on
from textual.content import Content

from stagescope import actions
from stagescope.answers import collected
from stagescope.engine.protocol import EngineError, Failure, Generate, Load, ModelInfo, Read, Reply, Request
from stagescope.engine.question import shape
from stagescope.engine.schedule import ScheduleError, parse, resolve
from stagescope.screens import player_words
from stagescope.screens.asking import Asking, Chosen
from stagescope.screens.explore import Explore
from stagescope.screens.help import Help
from stagescope.screens.widgets.stack import Stack
from stagescope.sessions import replay, short, words
from stagescope.sessions.events import State, fold, with_load
from stagescope.sessions.files import Session
from stagescope.text import printable

SPEEDS = (1, 2, 8)
SOON = 0.01  # seconds: a timer of less never goes off
AGAIN = 0.1  # seconds until it is looked again whether the engine has answered
TEN = 10
NOT_SHOWN = "compare"  # its side A is a reading of before, which the events do not hold
ONLY_WATCHED = "a session that is watched is not edited: stagescope --session goes on with it"

Key = tuple[Load, str]  # a model, and a request to it
EDITS = {key for action in actions.of("explore") for key in action.keys} - {
    key for action in actions.of("player") for key in action.keys
}


class Player(Explore, inherit_bindings=False):
    """The explore screen, led by a session. It records nothing, and the keys that edit are not there."""

    PLACE = panel = "player"
    BINDINGS = actions.bindings(PLACE, priority=True)

    def __init__(
        self,
        session: Session,
        other: dict[str, Any] | None = None,
        ascii_only: bool = False,
        playing: bool = True,
        filmed: bool = False,
    ):
        """other: fields of Load in place of the recorded ones, for all of the session. filmed: nobody presses a key."""
        self.events, self.times, self.other, self.filmed = session.events, words.times(session.events), other or {}, filmed
        steps = (step for step in replay.steps(session.events) if isinstance(step, replay.Step))
        self.steps = {step.event: step for step in steps if step.numbers is not None}
        self.asked = set(map(self._asked_of, self.steps.values()))
        self.came: dict[Key, tuple[short.Numbers, bool]] = {}  # one of `asked` that came whole -> its numbers; were they kept?
        # What the app opened with was written as the first prompt: until then it was on the screen already.
        texts = [event.get("prompt") for event in self.events if event["event"] == "prompt"]
        self.opened_with = State(prompt=texts[0]) if texts and isinstance(texts[0], str) else State()
        self.folded = (0, self.opened_with)  # a number of events, and what they lead to: playing goes on from there
        self.done = min(1, len(self.events))  # events that are behind
        self.playing, self.speed, self.next_due = playing, SPEEDS[0], None
        self.to_restore: State | None = None  # what is looked at once its model is there
        self.opened_for: tuple[object, ...] = ()  # what the screen beside the stack was opened for
        self.judged, self.verdict = (), ""  # what the verdict was found from, and it
        state = self.state_of(self.done)
        super().__init__(state, ascii_only=ascii_only)

    def on_mount(self) -> None:  # Textual calls Explore's as well
        self.prompt_field.can_focus = self.schedule_field.can_focus = False  # nothing is typed
        if self.playing:
            self._wait(AGAIN)

    # ---------------------------------------------------------------------------------------- seeking

    def state_of(self, done: int) -> State:
        """What is looked at when so many events are behind."""
        before, state = self.folded if self.folded[0] <= done else (0, self.opened_with)
        state = fold(self.events[before:done], state)
        self.folded = (done, state)
        return with_load(state, self.other)

    def go_to(self, done: int) -> None:
        """Look at what the session looked at after so many events, of which there is one at least."""
        self.note = ""
        self.done = min(max(done, 1), len(self.events))
        state = self.state_of(self.done)
        later = (step.request for event, step in self.steps.items() if event >= self.done - 1)
        self.sampling = next((request for request in later if isinstance(request, Generate)), self.sampling)
        self.restore(self._fitting(state))
        self._show_screen(state.screen)
        self.draw_status()

    def restore(self, state: State) -> None:
        """Look at it: another model is loaded first; all else is asked for at once."""
        loading = self.jobs["load"][0] if "load" in self.jobs else self.load
        if loading == state.load != self.load:  # the model is on its way
            self.to_restore = state
        elif state.load != self.load or loading != self.load:  # it is not; or another one is, and would take its place
            self.to_restore = state
            self.start(state.load)
        else:
            self.look_at(state)
            self.stop_unwanted()
            self.draw()
            if not self.is_complete():
                self.read()

    def _change_model(self, load: Load) -> None:
        super()._change_model(load)
        if self.to_restore and self.to_restore.load == load:
            self.look_at(self.to_restore)
            self.to_restore = None

    def _failed(self, job: str, reply: Failure) -> None:
        """A device that this machine does not have is said, and the session is watched on another."""
        load = self.jobs[job][0] if job == "load" and job in self.jobs else None
        if load is None or not replay.may_lack_device(reply, load, self.other):
            super()._failed(job, reply)
            return
        self.other = {**self.other, "device": None}
        self.asked = set(map(self._asked_of, self.steps.values()))
        self.load = replace(self.load, device=None)
        self.say(f"{printable(load.device)} is not here: watched on what is")
        self.call_later(self.start)

    def _fitting(self, state: State) -> State:
        """At the baseline where the schedule is none of this model; of one that is loaded yet this is told then."""
        if self.info is None or state.load != self.load:
            return state
        try:
            resolve(parse(state.schedule), self.info.n_layers, **shape(self.info))
        except ScheduleError as error:
            self.say(f"{printable(state.schedule)} does not fit {printable(self.info.name)}: {error.reason}")
            return replace(state, schedules=(("start", ""),))
        return state

    def _show_screen(self, place: str) -> None:
        """The screen beside the stack that was looked at; another one is left, and one that is of something else."""
        sampling = replace(self.sampling, prompt="", schedules=())  # of the write screen
        what = (self.load, self.prompt, str(self.schedule), self.at, self.tracked, self.deck, sampling)
        top = self.app.screen
        if isinstance(top, Asking) and (top.PLACE, self.opened_for) != (place, what):
            self.app.pop_screen()
        elif top is not self:  # that one; or a question or the help, and then the next event shows it
            return
        if place == NOT_SHOWN:
            self.say(f"the screen {actions.BESIDE[place]} is not shown here: stagescope compare has the same")
        elif place in actions.BESIDE and self.info is not None:
            self.opened_for = what
            getattr(self, f"action_{actions.OPENS[place]}")()

    def _loaded(self, info: ModelInfo) -> None:
        super()._loaded(info)
        place = self.state_of(self.done).screen
        if place != "explore" and self.app.screen is self:
            self._show_screen(place)

    def _point_chosen(self, screen: Asking, chosen: Chosen | None) -> None:
        super()._point_chosen(screen, None)
        if chosen is not None:
            self.say(ONLY_WATCHED)

    def on_key(self, event: events.Key) -> None:
        """A key of the stack that is not the player's."""
        if {event.key, event.character} & EDITS:
            self.say(ONLY_WATCHED)

    @on(Stack.Pressed)
    def _pressed(self, event: Stack.Pressed) -> None:
        event.prevent_default()
        self.say(ONLY_WATCHED)

    # ---------------------------------------------------------------------------------------- playing

    def is_busy(self) -> bool:
        """Whether the engine still owes what this event shows."""
        top = self.app.screen
        if top is not self and not isinstance(top, Asking):
            return True  # a question or the help is read
        if self.dead or self.failure:
            return "load" in self.jobs
        if "load" in self.jobs or (self.prompt and not self.is_complete()):
            return True
        return bool(self.jobs) and self._step_is_owed() or (top is not self and top.running is not None)

    def is_settled(self) -> bool:
        """Whether nothing runs at all, and all that came is drawn or about to be."""
        top = self.app.screen
        beside = top is not self and isinstance(top, Asking)
        is_drawn = not beside or (top.is_mounted and top.drawing is None and top.pause is None)
        return is_drawn and not self.jobs and not self.is_busy()

    def _step_is_owed(self) -> bool:
        step = self.steps.get(self.done - 1)
        return step is not None and not isinstance(step.request, Read) and self._asked_of(step) not in self.came

    def _asked_of(self, step: replay.Step) -> Key:
        return (replace(step.load, **self.other), repr(step.request))

    def _wait(self, seconds: float) -> None:
        self.pause()
        self.playing, self.next_due = True, self.set_timer(max(seconds, SOON), self._go_on)

    def _go_on(self) -> None:
        """The next event is due: it comes when the engine is through with this one."""
        if self.done >= len(self.events):
            self.pause()
        elif self.is_busy():
            self._wait(AGAIN)
        else:
            self.go_to(self.done + 1)
            self._wait(self._until_next())
        self.draw_status()

    def _until_next(self) -> float:
        """Seconds from this event to the next, at the speed it is played."""
        at_end = self.done >= len(self.events)
        return 0.0 if at_end else words.wait(self.events, self.done - 1) / self.speed

    def pause(self) -> None:
        if self.next_due:
            self.next_due.stop()
        self.playing, self.next_due = False, None

    def _seek(self, done: int) -> None:
        self.pause()
        if self.events:
            self.go_to(done)
        self.draw_status()

    def action_play(self) -> None:
        if self.playing:
            self.pause()
        else:
            if self.done == len(self.events):
                self._seek(1)
                self._wait(self._until_next())
            else:
                self._wait(SOON)
        self.draw_status()

    def action_step_back(self) -> None:
        self._seek(self.done - 1)

    def action_step_forward(self) -> None:
        self._seek(self.done + 1)

    def action_ten_back(self) -> None:
        self._seek(self.done - TEN)

    def action_ten_forward(self) -> None:
        self._seek(self.done + TEN)

    def action_to_start(self) -> None:
        self._seek(1)

    def action_to_end(self) -> None:
        self._seek(len(self.events))

    def action_note_back(self) -> None:
        self._to_note([n for n in reversed(self._notes()) if n < self.done], "before")

    def action_note_forward(self) -> None:
        self._to_note([n for n in self._notes() if n > self.done], "after")

    def _notes(self) -> list[int]:
        return [n for n, event in enumerate(self.events, 1) if event["event"] == "note"]

    def _to_note(self, notes: list[int], where: str) -> None:
        self._seek(notes[0]) if notes else self.say(f"there is no note {where} this")

    def action_speed(self) -> None:
        self.speed = SPEEDS[(SPEEDS.index(self.speed) + 1) % len(SPEEDS)]
        self.draw_status()

    def action_help(self) -> None:
        self.app.push_screen(Help(self.PLACE))

    def action_quit(self) -> None:
        self.app.leave()

    # -------------------------------------------------------------------------------------- comparing

    def record_answer(self, request: Request, replies: Sequence[Reply]) -> None:
        """Here it is not written: what was written then is held against it."""
        if replies and (key := (self.load, repr(request))) in self.asked:
            self.came[key] = short.of_replies(collected(replies)), getattr(replies[-1], "cached", False)
            self.draw_status()

    def compared(self) -> str:
        """What the bar says of the numbers of this event: as recorded, or what differs."""
        step, reading = self.steps.get(self.done - 1), self.reading
        of_reading = step is not None and isinstance(step.request, Read)
        if step is None or self.info is None:
            return ""
        is_kept = False
        if not of_reading:
            now, is_kept = self.came.get(self._asked_of(step), (None, False))
        elif self.is_complete() and self._is_wanted(step.request):
            try:
                now = replay.numbers_of(reading, step)
            except EngineError:
                return "differs: the prompt has fewer tokens"
            is_kept = reading.cached
        else:
            now = None
        if now is None:
            return "to be compared" if self.is_busy() else "not measured again"
        differing = replay.differing(step.numbers, now, replay.tolerance_of(step.model, self.info))
        if not differing:
            return f"as recorded{', which the cache kept' if is_kept else ''}"
        (what, before, after), more = differing[0], len(differing) - 1
        told = f"differs: {what} was {player_words.short_text(before)}, is {player_words.short_text(after)}"
        return printable(told) + (f", and {more} more" if more else "")

    # ---------------------------------------------------------------------------------------- drawing

    def draw_status(self) -> None:
        super().draw_status()
        found_from = (self.done, self.reading, len(self.came), self.is_complete(), self.is_busy())
        if found_from != self.judged:
            self.judged, self.verdict = found_from, self.compared()
        state = "playing" if self.playing else "paused"
        state = "waiting for the engine" if self.playing and self.is_busy() else state
        speed = f", {self.speed}x" if self.speed != 1 else ""
        ascii_only = self.stack.glyphs.ascii_only
        sign = player_words.sign(self.playing, state + speed, ascii_only) if not self.filmed else ""
        told = player_words.bar(self.events, self.done, self.times, sign, self.verdict)
        for bar in self.panels():
            bar.show(told, layout=True)

    def _place(self) -> str:
        return self.PLACE

    def mark(self) -> Content:
        return Content.styled("replay", "$text-accent")
