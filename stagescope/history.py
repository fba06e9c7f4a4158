"""The schedule shown, those before it and those undone. No screen in here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from stagescope.engine.schedule import Schedule, parse

# How the schedule came to be what it is: as it stood when the history began, changed, or gone to.
STEPS = ("start", "change", "undo", "redo", "baseline")


@dataclass
class History:
    """The baseline toggle is a change like others."""

    now: Schedule
    before: list[Schedule] = field(default_factory=list)
    undone: list[Schedule] = field(default_factory=list)
    set_aside: Schedule | None = None  # the edit that `baseline` hides
    log: list[tuple[str, str]] = field(default_factory=list)  # (one of STEPS, canonical text) of all that was done

    def __post_init__(self) -> None:
        self.log = [("start", str(self.now))]

    def change(self, schedule: Schedule) -> None:
        if str(schedule) != str(self.now):
            self._put(schedule)
            self.log.append(("change", str(schedule)))

    def undo(self) -> bool:
        if not self.before:
            return False
        self.undone.append(self.now)
        self.now = self.before.pop()
        self.log.append(("undo", str(self.now)))
        return True

    def redo(self) -> bool:
        if not self.undone:
            return False
        self.before.append(self.now)
        self.now = self.undone.pop()
        self.log.append(("redo", str(self.now)))
        return True

    def baseline(self) -> bool:
        """The empty schedule; called again, the edit it hid. False when there is nothing to hide or show."""
        hidden, shown = self.set_aside, self.now
        if not shown and hidden is None:
            return False
        self._put(Schedule() if shown else hidden)
        self.set_aside = shown or None
        self.log.append(("baseline", str(self.now)))
        return True

    def _put(self, schedule: Schedule) -> None:
        self.before.append(self.now)
        self.now, self.undone, self.set_aside = schedule, [], None


_parsed = lru_cache(1024)(parse)  # a session that is watched is gone through again and again


def again(log: Iterable[tuple[str, str]]) -> History:
    """The history that has this log. A step that cannot be (a log edited by hand) is taken as a plain change.

    Raises ScheduleError for a text that is no schedule.
    """
    history = History(Schedule())
    for how, text in log:
        if how == "start":
            history = History(_parsed(text))
        elif not (how in STEPS[2:] and getattr(history, how)() and str(history.now) == text):
            history.change(_parsed(text))
    return history
