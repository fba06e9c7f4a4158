"""The session of an app as it is written: what is looked at now is held against what the file says, and what differs is appended.

It knows nothing of screens. Whoever draws says what is looked at before drawing it, and is told what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from stagescope.answers import collected
from stagescope.engine.protocol import Load, MapStages, ModelInfo, Read, Reading, Reply, Request
from stagescope.reports import reading as report
from stagescope.sessions import files, short
from stagescope.sessions.events import Event, State, changes, fold, plain
from stagescope.sessions.files import Session, SessionError

GIVEN = ("prompt", "schedules", "lens", "position")  # what a session that goes on may be told to look at in place of its own


@dataclass(eq=False)
class Recorder:
    """say: told what went wrong, once."""

    wanted: bool
    say: Callable[[str], None]
    goes_on: Session | None = None  # the session opened again, until it is
    name: str = ""
    file: files.Recording | None = None  # once the model is known
    recorded: State = State()  # what the file says is looked at
    failed: bool = False  # the last event could not be written
    waiting: list[Event] = field(default_factory=list)  # until there can be a file
    numbered: Set[tuple[Read, int]] = field(default_factory=frozenset)  # readings and positions whose numbers the file has

    @property
    def has_no_place(self) -> bool:
        """There should be a file, and there could be none yet."""
        return self.file is None and self.wanted and self.failed

    def begin(self, info: ModelInfo, now: State) -> None:
        """A new session, or that of before goes on; again and again where the disk has no place for one."""
        before, self.goes_on = self.goes_on, None
        self.numbered = frozenset()
        if before is not None:
            try:
                self.file = files.go_on(before.path, now.load, info)
            except SessionError as error:
                self.name = ""
                self.say(f"{error}: this is recorded as another session")
            else:
                was = fold(before.events)
                self.recorded = replace(now, **{name: getattr(was, name) for name in GIVEN})
                self.changed(now)
                return
        try:
            self.file = files.begin(now.load, info, now.prompt)
            self.recorded = State(load=now.load, prompt="")
        except SessionError as error:
            self._fails(f"not recorded: {error}; it is tried again with the next event")

    def write(self, event: Event) -> bool:
        """Append an event, if there is a session. Whether it is in the file."""
        if self.has_no_place:
            self.waiting.append(event)
        if self.file is None:
            return False
        try:
            self.file.write(event)
        except SessionError as error:
            self._fails(str(error))
            return False
        self.failed = False
        return True

    def _fails(self, why: str) -> None:
        if not self.failed:
            self.failed = True
            self.say(why)

    def changed(self, now: State, numbers: short.Numbers | None = None) -> None:
        """Write what came to be looked at since the last time. numbers: of where the cursor stands now."""
        before, self.recorded = self.recorded, now  # first: a write that fails is told, and what draws that comes here
        for event in changes(before, now):
            self.write(event if numbers is None or event["event"] != "cursor" else {**event, "numbers": numbers})
        late, self.waiting = self.waiting, []
        for event in late:
            self.write(event)

    def model(self, info: ModelInfo, load: Load) -> None:
        """What is known of the model once its weights are there. What the cache had before may not be what they say."""
        told = {**report.model_json(info), "noise_kl": None if info.noise_kl != info.noise_kl else info.noise_kl}
        self.write({"event": "model", "load": plain(load), "model": told})
        self.numbered = frozenset()
        self.recorded = replace(self.recorded, load=load)

    def reading(self, request: Read, reading: Reading, at: int) -> None:
        """A reading of all positions, looked at at one of them."""
        event: dict[str, Any] = {"event": "reading", "request": plain(request), "position": at}
        if self.is_new(request, at):  # undo and redo come by again and again
            event["numbers"] = short.of_reading(reading, at)
        event["cached"] = reading.cached
        self.write(event if reading.cached else event | {"milliseconds": round(reading.milliseconds, 1)})

    def is_new(self, request: Read, at: int) -> bool:
        """Whether the numbers of a reading at a position are not in the file; they count as kept from now on."""
        known, self.numbered = self.numbered, self.numbered | {(request, at)}
        return (request, at) not in known

    def answer(self, request: Request, replies: Sequence[Reply]) -> None:
        """Any other answer that came whole. What was only looked up, if it was there, measured nothing."""
        if not replies or (isinstance(request, MapStages) and request.if_known):
            return
        replies = collected(replies)
        kind = type(replies[-1]).__name__
        self.write({"event": "answer", "request": plain(request), "kind": kind, "numbers": short.of_replies(replies)})

    def end(self) -> str:
        """Close the file; there will be no other. What was lost, in a line; "" mostly."""
        lost = "the session was not kept: there was no place for it" if self.has_no_place else ""
        file, self.file, self.wanted = self.file, None, False
        try:
            if file is not None:
                file.close()
        except SessionError as error:
            return f"the session was not kept to its end: {error}"
        return lost
