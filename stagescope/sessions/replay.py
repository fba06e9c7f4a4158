"""A session run again, without a screen, and every number it keeps compared.

Nothing is taken from the cache: a number that was kept would be compared with itself. What may differ, in fp32 on the
same kind of device: 1e-3 absolute, or relative above 1. The same edit alone and among others of a batch differs by up
to 7e-4 nats (`drop 0` of the default model multiplies rounding). On another kind of device 5e-3, in half precision on
both sides 5e-2. Of fp32 against bf16 the default model's numbers differ by .01 in the middle, by .1 to .9 at the 99th
percentile, the kind of number decides, and by 2.8 at most, where an edit breaks the model: 0.5 there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from stagescope import __version__
from stagescope.answers import collected
from stagescope.engine import wire
from stagescope.engine.protocol import EngineError, Load, ModelInfo, Progress, Read, Reading, Request
from stagescope.reports import reading as report
from stagescope.sessions import short
from stagescope.sessions.events import Event, libraries, load_of
from stagescope.sessions.files import Session
from stagescope.sessions.short import Numbers
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.engine.local import LocalEngine

SAME, OTHER_DEVICE, HALF, OTHER_DTYPE = 1e-3, 5e-3, 5e-2, 0.5
ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # of a request edited by hand


class Difference(NamedTuple):
    """One number that is not what was recorded, or a request that cannot be answered any more."""

    event: int  # index in the session
    what: str  # harmless: "drop 11: depths.kl_nats[12]"
    recorded: Any
    now: Any
    allowed: float


@dataclass(frozen=True)
class Compared:
    """What a replay ends in."""

    answers: int
    numbers: int  # compared
    largest: float  # difference among those that are allowed, as a fraction of what is allowed
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]  # another model, version, device, dtype; events that are none: harmless


class Step(NamedTuple):
    """Something recorded that can be asked again."""

    event: int
    load: Load
    model: dict[str, Any]  # as it was recorded; {} when not known
    request: Request
    position: int | None  # of a reading: where its numbers were taken; None of any other answer
    numbers: Numbers


def steps(session: Session) -> Iterator[Step | str]:
    """What is to be asked again, in order; or, harmless, why an event cannot be."""
    load, model, reading = Load(), {}, None
    for index, event in enumerate(session.events):
        name = event["event"]
        if name in ("session", "model"):
            load = load_of(event) or load
            model = event["model"] if isinstance(event.get("model"), dict) else model
        elif name in ("reading", "answer"):
            request, numbers = _request(event), event.get("numbers")
            position = event.get("position") if name == "reading" else None
            fits = isinstance(request, Read) == (name == "reading") and (name == "answer" or type(position) is int)
            if request is None or not isinstance(numbers, dict | None) or not fits:
                yield f"event {index} is skipped: it is no {name} of this version"
                continue
            reading = request if name == "reading" else reading
            if numbers is None:  # as those of the same reading before
                continue
            yield Step(index, load, model, request, position, numbers)
        elif name == "cursor" and reading is not None and isinstance(event.get("numbers"), dict):
            position = event["numbers"].get("position")
            if type(position) is int:
                yield Step(index, load, model, reading, position, event["numbers"])


def _request(event: Event) -> Request | None:
    try:
        request = wire.unflatten(event.get("request"), [])
    except ValueError:
        return None
    return request if isinstance(request, Request) and not isinstance(request, Load) else None


def replay(
    session: Session, engine: LocalEngine, other: dict[str, Any] | None = None
) -> Iterator[Progress | Compared]:
    """Ask an engine in this process all of a session again, and compare.

    other: fields of Load in place of the recorded ones. Raises EngineError when a model cannot be loaded.
    """
    found = list(steps(session))
    asked = [step for step in found if isinstance(step, Step)]
    skipped = [step for step in found if isinstance(step, str)]
    remarks = dict.fromkeys([*session.warnings, *skipped, *_versions(session)])
    differences, numbers, largest = [], 0, 0.0
    loaded: Load | None = None
    asked_last: Read | None = None  # whose reading is at hand: what the cursor told is of the latest
    for done, step in enumerate(asked):
        load = replace(step.load, **(other or {}) | {"cache": False})
        if load != loaded:
            for reply in engine.answer(load):
                if isinstance(reply, Progress):
                    yield reply
            loaded = load
            asked_last = None
        remarks |= dict.fromkeys(_other_model(step.model, engine.info))
        name = printable(str(getattr(step.request, "schedule", "") or type(step.request).__name__))
        yield Progress(f"replay {done + 1} of {len(asked)}: {name[:60]}", done / len(asked))
        try:
            if isinstance(step.request, Read):
                key = replace(step.request, position=-1, part="whole")
                if key != asked_last:
                    *_, reading = engine.answer(key)
                    asked_last = key
                now = numbers_of(reading, step)
            else:
                came = []
                for reply in engine.answer(step.request):
                    if isinstance(reply, Progress):
                        yield reply
                    else:
                        came.append(reply)
                now = short.of_replies(collected(came))
        except (EngineError, *ODD) as error:
            differences.append(Difference(step.event, name, "an answer", printable(str(error))[:200], 0.0))
            continue
        if lacking := now.keys() - step.numbers.keys():
            remarks[f"event {step.event} keeps no {', '.join(sorted(lacking)[:5])}"] = None
        tolerance = tolerance_of(step.model, engine.info)
        for what, recorded, this, allowed in compare(step.numbers, now, tolerance):
            numbers += 1
            if not _is_within(recorded, this, allowed):
                differences.append(Difference(step.event, f"{name}: {printable(what)}", recorded, this, allowed))
            elif isinstance(recorded, float) and 0 < allowed < math.inf:
                largest = max(largest, abs(recorded - this) / allowed)
    yield Compared(len(asked), numbers, largest, tuple(differences), tuple(remarks))


def numbers_of(reading: Reading, step: Step) -> Numbers:
    """What the step kept, of the reading as it is now. Raises EngineError where that has no such position."""
    if not -len(reading.tokens) <= step.position < len(reading.tokens):
        raise EngineError("usage", f"position {step.position} is beyond the {len(reading.tokens)} tokens.")
    whole = "output.entropy_bits" in step.numbers
    return (short.of_reading if whole else short.of_position)(reading, step.position)


# --------------------------------------------------------------------------------------------- comparing


def tolerance_of(recorded: dict[str, Any], info: ModelInfo) -> float:
    """What numbers of size 1 may differ by. recorded: model_json of the session."""
    dtypes = {recorded.get("dtype", info.dtype), info.dtype}
    if len(dtypes) > 1:
        return OTHER_DTYPE
    if dtypes != {"float32"}:
        return HALF
    kinds = {str(device).split(":")[0] for device in (recorded.get("device", info.device), info.device)}
    return SAME if len(kinds) == 1 else OTHER_DEVICE


def compare(recorded: Numbers, now: Numbers, tolerance: float) -> Iterator[tuple[str, Any, Any, float]]:
    """(what, recorded, now, allowed) of every number that was recorded; None where there is none."""
    for name, value in recorded.items():
        for place, one, other in _leaves(value, now.get(name)):
            allowed = _allowed(recorded, name, place, one, tolerance)
            yield name + "".join(f"[{index}]" for index in place), one, other, allowed


def differing(recorded: Numbers, now: Numbers, tolerance: float) -> list[tuple[str, Any, Any]]:
    """(what, recorded, now) of the numbers that are not as recorded."""
    found = compare(recorded, now, tolerance)
    return [(what, one, other) for what, one, other, allowed in found if not _is_within(one, other, allowed)]


def _leaves(one: Any, other: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any, Any]]:
    if isinstance(one, list) and len(place) < 4:  # more no array has
        for index, pair in enumerate(zip_longest(one, other if isinstance(other, list) else [])):
            yield from _leaves(*pair, (*place, index))
    else:
        yield place, one, None if isinstance(other, list) else other


def _allowed(recorded: Numbers, name: str, place: tuple[int, ...], value: Any, tolerance: float) -> float:
    if not isinstance(value, int | float) or name in ("tracked", "position"):
        return 0.0
    kind, _, measure = name.rpartition(".")
    if measure == "top1_count":  # positions; a near tie may turn either way
        return max(1.0, 10 * tolerance * value)
    if measure == "rank":  # of an answer, whose ties are not known
        return max(1.0, 10 * tolerance * abs(value))
    if measure == "tracked_rank":  # tokens of nearly the same p change places; of the top two it is known
        if value <= 1 and not _is_tie(recorded, kind, place, tolerance):
            return 0.0
        return max(1.0, 10 * tolerance * abs(value))
    if measure in ("top_ids", "top1_same"):
        return float("inf") if _is_tie(recorded, "output" if kind == "effect" else kind, place, tolerance) else 0.0
    return tolerance * max(1.0, abs(value))


def _is_tie(recorded: Numbers, kind: str, place: tuple[int, ...], tolerance: float) -> bool:
    """Whether the two top tokens have the same p within the tolerance: either may come first. The second one may change
    places with a third that is not kept, where little is left for both."""
    try:
        first, second = recorded[f"{kind}.top_p"][place[0]]
        return first - second <= tolerance or (place[1:] == (1,) and second <= min(20 * tolerance, 0.1))
    except (LookupError, TypeError, ValueError):
        return False


def _is_within(recorded: Any, now: Any, allowed: float) -> bool:
    if isinstance(recorded, int | float) and isinstance(now, int | float):
        return abs(recorded - now) <= allowed
    return recorded is None and now is None


def _versions(session: Session) -> Iterator[str]:
    header = next((event for event in session.events if event["event"] == "session"), {})
    if (version := header.get("version")) != __version__:
        yield f"recorded by stagescope {printable(str(version))[:40]}, this is {__version__}"
    then, now = header.get("libraries"), libraries()
    if isinstance(then, dict):
        others = [name for name in now if then.get(name, now[name]) != now[name]]
        if others:
            told = (f"{name} {printable(str(then[name]))[:20]}, now {now[name]}" for name in others)
            yield f"recorded with {'; '.join(told)}"


def _other_model(recorded: dict[str, Any], info: ModelInfo) -> Iterator[str]:
    now = report.model_json(info)
    for name in ("name", "fingerprint", "dtype", "device"):
        if name in recorded and recorded[name] != now[name]:
            before, after = (printable(str(of[name]))[:60] for of in (recorded, now))
            yield f"recorded with the {name} {before}, run with {after}"
