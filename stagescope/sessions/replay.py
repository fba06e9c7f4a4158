"""A session run again, without a screen, and every number it keeps compared.

Nothing is taken from the cache: a number that was kept would be compared with itself. What may differ, in fp32 on the
same kind of device: 1e-3 absolute, or relative above 1. The same edit alone and among others of a batch differs by up
to 7e-4 nats (`drop 0` of the default model multiplies rounding). On another kind of device 5e-3, in half precision on
both sides 5e-2. Of fp32 against bf16 the default model's numbers differ by .01 in the middle, by .1 to .9 at the 99th
percentile, the kind of number decides, and by 2.8 at most, where an edit breaks the model: 0.5 there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from stagescope import __version__
from stagescope.answers import collected
from stagescope.engine import wire
from stagescope.engine.protocol import EngineError, Failure, Load, ModelInfo, Progress, Read, Reading, Request
from stagescope.reports import reading as report
from stagescope.sessions import short
from stagescope.sessions.events import Event, libraries, load_of
from stagescope.sessions.files import Session
from stagescope.sessions.short import Numbers
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.engine.local import LocalEngine

SAME, OTHER_DEVICE, HALF, OTHER_DTYPE = 1e-3, 5e-3, 5e-2, 0.5
# Which names are not plain numbers: places, and top-1 kept at so many positions, where near ties turn either way; neurons
# counted, some of which stand at the threshold; what lies between -1 and 1, where 0.5 would allow anything.
RANKS = {"rank", "tracked_rank", "base_tracked_rank", "top1_count", "effect_top1_count"}
COUNTS = {f"Census.{name}" for name in ("high", "prediction", "suppression", "unsigned", "partition")}
BOUNDED = {
    *("p", "top_p", "base_p", "forced_p", "tracked_p", "base_tracked_p", "top1_same", "pattern", "head_prev", "head_no_sink"),
    *("head_sink", "score", "held", "joined", "control", "influence", "angular", "cka", "accuracy", "train", "low", "high"),
    *("resid_cos", "promoted_cos", "suppressed_cos"),
}
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
    skipped: int  # lines and events that could not be read
    largest: float  # difference among those that are allowed, as a fraction of what is allowed
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]  # another model, version, device, dtype; events that are none: harmless


class Step(NamedTuple):
    """Something recorded that can be asked again."""

    event: int
    load: Load
    model: dict[str, Any]  # as it was recorded; {} when not known
    request: Request
    position: int | None  # of a reading: where it was looked at; None of any other answer
    numbers: Numbers | None  # None: they stand beside the same reading before


def steps(events: Sequence[Event]) -> Iterator[Step | str]:
    """What is to be asked again, in order; or, harmless, why an event cannot be."""
    load, model, reading = Load(), {}, None
    for index, event in enumerate(events):
        name = event["event"]
        if name in ("session", "opened", "model"):
            load = load_of(event) or load
            model = event["model"] if isinstance(event.get("model"), dict) else {}
        elif name in ("reading", "answer"):
            request, numbers = _request(event), event.get("numbers")
            position = event.get("position") if name == "reading" else None
            fits = isinstance(request, Read) == (name == "reading") and (name == "answer" or type(position) is int)
            if request is None or not isinstance(numbers, dict | None) or not fits:
                yield f"event {index} is skipped: it is no {name} of this version"
                continue
            reading = request if name == "reading" else reading
            yield Step(index, load, model, request, position, numbers)
        elif name == "cursor" and reading is not None and isinstance(event.get("numbers"), dict | None):
            numbers = event.get("numbers")
            position = event.get("position") if numbers is None else numbers.get("position")
            if type(position) is int:
                yield Step(index, load, model, reading, position, numbers)


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
    found = list(steps(session.events))
    asked = [step for step in found if isinstance(step, Step) and step.numbers is not None]
    skipped = [step for step in found if isinstance(step, str)]
    remarks = dict.fromkeys([*session.warnings, *skipped, *_versions(session)])
    differences, numbers, largest = [], 0, 0.0
    loaded: Load | None = None
    asked_last: Read | None = None  # whose reading is at hand: what the cursor told is of the latest
    for done, step in enumerate(asked):
        load = replace(step.load, **(other or {}) | {"cache": False})
        if load != loaded:
            try:
                yield from _loading(engine, load)
            except EngineError as error:
                if not may_lack_device(error.failure, load, other or {}):
                    raise
                yield from _loading(engine, replace(load, device=None))
                remarks[f"{printable(load.device)[:40]} is not here: run on {engine.info.device}"] = None
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
            numbers += recorded is not None
            if not _is_within(recorded, this, allowed):
                differences.append(Difference(step.event, f"{name}: {printable(what)}", recorded, this, allowed))
            elif isinstance(recorded, float) and 0 < allowed < math.inf:
                largest = max(largest, abs(recorded - this) / allowed)
    unread = len(session.warnings) + len(skipped)
    yield Compared(len(asked), numbers, unread, largest, tuple(differences), tuple(remarks))


def may_lack_device(failure: Failure, load: Load, other: dict[str, Any]) -> bool:
    """Whether what a recorded load failed for may be its device, which then gives way to what is here; one asked for now does not."""
    return failure.kind == "usage" and load.device is not None and "device" not in other


def _loading(engine: LocalEngine, load: Load) -> Iterator[Progress]:
    return (reply for reply in engine.answer(load) if isinstance(reply, Progress))


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
    """(what, recorded, now, allowed) of every number that was recorded; None where there is none. allowed: inf for one of
    several tokens that are as likely."""
    for name, value in recorded.items():
        for place, one, other in _leaves(value, now.get(name)):
            is_tie = _is_tie(recorded, now, name, place, tolerance)
            allowed = math.inf if is_tie else _allowed(name, one, other, tolerance, first_is_sure=is_tie is False)
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


def _allowed(name: str, value: Any, now: Any, tolerance: float, first_is_sure: bool) -> float:
    """What a number may differ by. Whole ones are the same or are not, but for ranks and what is counted over a threshold."""
    if not isinstance(value, int | float) or not isinstance(now, int | float):
        return 0.0
    measure, bounded = name.rpartition(".")[2], min(tolerance, HALF)
    if measure in RANKS:  # of the smaller: to be the tenth and the first is not the same within any share of ten
        return 0.0 if value <= 1 and first_is_sure else max(1.0, 10 * tolerance * min(value, now))
    if isinstance(value, int):  # bool is one
        return max(1.0, bounded * value) if name in COUNTS else 0.0
    return bounded if measure in BOUNDED else tolerance * max(1.0, abs(value))


def _is_tie(recorded: Numbers, now: Numbers, name: str, place: tuple[int, ...], tolerance: float) -> bool | None:
    """Whether what is told of the two top tokens turns on which of them is the more likely, where that cannot be told. None: it
    does not, or their p is not kept.

    Which two they are must stay; where little is left for both, one that is not kept may be as likely.
    """
    kind, _, measure = name.rpartition(".")
    if measure not in ("top1_same", "tracked_rank", "top_ids"):
        return None
    try:
        p_of, at = f"{'output' if kind == 'effect' else kind}.top_p", place[:-1] if measure == "top_ids" else place
        p = _at(recorded[p_of], at)
        if measure != "top_ids":
            return _same_p(p[0], p[1], tolerance) and (measure == "top1_same" or _at(recorded[name], place) <= 1)
        rank, ids, found = place[-1], _at(recorded[name], at), _at(now[name], place)
        if found in ids:
            return _same_p(p[0], p[1], tolerance)
        return p[rank] <= min(20 * tolerance, 0.1) and _same_p(p[rank], _at(now[p_of], place), tolerance)
    except (LookupError, TypeError, ValueError):
        return None


def _at(value: Any, place: tuple[int, ...]) -> Any:
    for index in place:
        value = value[index]
    return value


def _same_p(one: float, other: float, tolerance: float) -> bool:
    """Within the tolerance, or 20 times of it as a share of p: logits are of size 20."""
    return abs(one - other) <= tolerance * min(1.0, 20 * max(one, other))


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
