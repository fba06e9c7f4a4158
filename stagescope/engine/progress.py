"""How long work tells what it is doing, and is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from stagescope.engine.protocol import EngineError, Progress

# What is done now, the fraction of it, 0 to 1; seconds left. NaN: not known. May raise to end the work.
Report = Callable[[str, float, float], None]
Cancelled = Callable[[], bool]
Sign, Result = TypeVar("Sign"), TypeVar("Result")


def quiet(stage: str, fraction: float, seconds_left: float) -> None:
    """The Report of who does not want to know."""


def never() -> bool:
    """The Cancelled of who does not change their mind."""
    return False


def timed(report: Report, stage: str) -> Callable[[float], None]:
    """A function of the fraction done that reports it with the seconds left, at most ten times a second."""
    began, last = time.monotonic(), -math.inf

    def at(fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 0.1 or fraction >= 1:
            last = now
            left = (now - began) * (1 - fraction) / fraction if fraction > 0.02 else math.nan
            report(stage, fraction, left)

    report(stage, 0.0, math.nan)
    return at


def stoppable(report: Report, cancelled: Cancelled) -> Report:
    """The same Report, which raises EngineError("cancelled") once `cancelled()` is true."""

    def reported(stage: str, fraction: float, seconds_left: float) -> None:
        report(stage, fraction, seconds_left)
        if cancelled():
            raise EngineError("cancelled", f"Cancelled while {stage}.")

    return reported


def progress(stage: str, began: float, done: float) -> Progress:
    """Progress of something begun at time.monotonic() `began`, the time left by the rule of three."""
    return Progress(stage, done, (time.monotonic() - began) * (1 - done) / done if done else float("nan"))


def told(steps: Generator[float, None, Result], at: Callable[[float], Sign]) -> Generator[Sign, None, Result]:
    """Take steps that give the fraction done: after each what `at` makes of it. Returns what they return."""
    while True:
        try:
            fraction = next(steps)
        except StopIteration as ended:
            return ended.value
        yield at(fraction)
