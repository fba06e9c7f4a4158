"""Sweeps: a TakeSweep made definite, answered from the cache as far as it goes, and run.

One Sweep is one kind of schedules over one prompt, and one entry of the cache: a deck that grows by a prompt, or drops
after drops and swaps, run only what is new. What was stopped is kept as far as it came and goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stagescope.engine import cache, kinds, question
from stagescope.engine.plan import Plan, uses_means
from stagescope.engine.progress import progress
from stagescope.engine.protocol import (
    MEASURES,
    MOST_PROMPTS,
    Census,
    EngineError,
    Load,
    ModelInfo,
    Progress,
    Read,
    Sweep,
    SweepCorpus,
    SweepRow,
    TakeSweep,
)
from stagescope.engine.schedule import ScheduleError, parse, resolve
from stagescope.engine.tokens import Token, texts
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.outcomes import Kept

BASE_COLUMNS = ("base_entropy_bits", "base_loss_nats", "base_tracked_rank", "base_tracked_p")
MOST_VALUES = 5_000_000  # rows x tokens of one sweep, 120 MB: a trace of the default model over 400 tokens
PACE = 0.03  # seconds between two signs of progress, where readings are served: a step on a GPU takes a millisecond
SHOW_EVERY = 0.3  # seconds between two states of a sweep that fills in, longer for large ones:
SHOWN_VALUES = 100_000  # rows x tokens sent in that time (2 MB)


@dataclass(eq=False)
class Unit:
    """One kind over one prompt: what will run, and the Sweep that fills in (its arrays are written in place)."""

    ids: tuple[int, ...]
    plans: tuple[Plan | None, ...]  # None: cannot be on this prompt
    tracked: int | None  # as asked
    sweep: Sweep


# -------------------------------------------------------------------------------------------- what is asked


def settle(
    request: TakeSweep, load: Load, info: ModelInfo, tokenizer: Any, census: Census | None = None
) -> list[Unit]:
    """What a request asks for, prompt by prompt and kind by kind. census: where `wants_census`.

    Raises EngineError for what cannot be swept.
    """
    check(request, info)
    units = []
    for prompt in request.prompts:
        try:
            read = Read(prompt, "", request.position, tracked=request.tracked)
            asked = question.question(read, load, info, tokenizer)
        except EngineError as error:
            raise _of_prompt(error, prompt, request) from error
        tokens = tuple(Token(token, text) for token, text in zip(asked.ids, _spelled(tokenizer, asked.ids), strict=True))
        for kind, rows in _rows(request, info, len(tokens), census):
            if len(rows) * len(tokens) > MOST_VALUES:
                size = f"{len(rows):,} schedules over {len(tokens):,} tokens are too many for one sweep"
                raise EngineError("usage", f"{size}: {MOST_VALUES:,} values at most.", "Shorten the prompt.")
            covered = (asked.position,) if kind == "trace" else tuple(range(len(tokens)))
            units.append(_unit(request, info, prompt, tokens, kind, rows, covered))
    return units


def check(request: TakeSweep, info: ModelInfo) -> None:
    """What can be refused before the tokens are known."""
    if not 0 < len(request.prompts) <= MOST_PROMPTS:
        n = len(request.prompts)
        raise EngineError("usage", f"{n} prompts were given.", f"A sweep takes 1 to {MOST_PROMPTS}; --corpus any number.")
    if len(set(request.prompts)) < len(request.prompts):
        raise EngineError("usage", "two of the prompts are the same.", "Give each once.")
    check_kinds(request, info)


def check_kinds(request: TakeSweep | SweepCorpus, info: ModelInfo) -> None:
    """Raises EngineError for kinds, a layer of them or schedules this model cannot run."""
    asked, lines = request.kinds, [text or ";" for text in request.schedules]  # "" is the baseline
    if request.layer is not None:
        _check_layer(request, info)
    if lines:
        kinds.read_schedules(lines, info.n_layers, info.parallel, n_heads=info.n_heads, d_mlp=info.d_mlp)
    elif not asked:
        raise EngineError("usage", "no kind of sweep was given.", f"The kinds are {', '.join(kinds.KINDS)}.")
    else:
        kinds.parse_kinds(",".join(asked))
        if "press" in asked:
            kinds.entries("press", info.n_layers, parallel_blocks=info.parallel)


def _check_layer(request: TakeSweep | SweepCorpus, info: ModelInfo) -> None:
    if request.schedules or (others := [kind for kind in request.kinds if kind not in kinds.OF_LAYER]):
        what = "schedules" if request.schedules else printable(", ".join(others)[:80])
        raise EngineError("usage", f"a layer is for {' and '.join(kinds.OF_LAYER)}, not for {what}.", "Leave it out.")
    if not 0 <= request.layer < info.n_layers:
        raise EngineError("usage", f"there is no layer {request.layer}.", f"Layers are 0 to {info.n_layers - 1}.")


def wants_census(request: TakeSweep | SweepCorpus) -> bool:
    """Whether a census must say which neurons are meant."""
    return not request.schedules and not {*kinds.parse_kinds(",".join(request.kinds))}.isdisjoint(kinds.OF_CENSUS)


def _rows(
    request: TakeSweep, info: ModelInfo, n_tokens: int, census: Census | None
) -> list[tuple[str, tuple[SweepRow, ...]]]:
    if request.schedules:
        return [("schedules", kinds.listed(request.schedules))]
    known = {"n_positions": n_tokens, "parallel_blocks": info.parallel, "n_heads": info.n_heads}
    known |= {"census": census, "layer": request.layer}
    return [(kind, kinds.entries(kind, info.n_layers, **known)) for kind in request.kinds]


def _unit(
    request: TakeSweep,
    info: ModelInfo,
    prompt: str,
    tokens: tuple[Token, ...],
    kind: str,
    rows: tuple[SweepRow, ...],
    covered: tuple[int, ...],
) -> Unit:
    plans, notes = [], {}
    for number, row in enumerate(rows):
        known = {"parallel_blocks": info.parallel, "n_positions": len(tokens)}
        known |= {"n_heads": info.n_heads, "d_mlp": info.d_mlp}
        try:
            plans.append(resolve(parse(row.schedule), info.n_layers, **known))
        except ScheduleError as error:  # a position this prompt does not have
            plans.append(None)
            notes[number] = printable(error.reason)
    ids = tuple(token.id for token in tokens)
    wide, long = (len(rows), len(tokens)), len(tokens)
    sweep = Sweep(
        info,
        prompt,
        tokens,
        kind,
        rows,
        covered,
        done=np.array([plan is None for plan in plans], bool),
        notes=notes,
        tracked=np.full(long, -1, np.int32),
        **{name: np.full(wide, np.nan, np.float32) for name in MEASURES},
        **{name: np.full(long, np.nan, np.float32) for name in BASE_COLUMNS},
    )
    return Unit(ids, tuple(plans), request.tracked, sweep)


def _spelled(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    spelled = texts(tokenizer, ids)
    return [spelled[token] for token in ids]


def _of_prompt(error: EngineError, prompt: str, request: TakeSweep) -> EngineError:
    """The same error, naming the prompt where there are several."""
    if len(request.prompts) == 1:
        return error
    failure, number = error.failure, request.prompts.index(prompt) + 1
    return EngineError(failure.kind, f"prompt {number} (“{printable(prompt[:40])}”): {failure.message}", failure.hint)


# ---------------------------------------------------------------------------------------------- the cache


def wants_means(units: Sequence[Unit]) -> bool:
    return any(plan and uses_means(plan) for unit in units for plan in unit.plans)


def recall(units: Sequence[Unit], info: ModelInfo, load: Load) -> bool:
    """Whether the cache has all of it, from one device and dtype. Once the weights are there, also what it has in part."""
    for dtype, device in question.machines(info, load):
        found = [_recalled(unit, info, dtype, device) for unit in units]
        whole = all(sweep is not None and sweep.complete for sweep in found)
        if whole or info.loaded:
            for unit, sweep in zip(units, found, strict=True):
                unit.sweep = sweep or unit.sweep
        if whole:
            return True
    return False


def _recalled(unit: Unit, info: ModelInfo, dtype: str, device: str) -> Sweep | None:
    found = cache.get(key(unit, info, dtype, device))
    if not isinstance(found, Sweep):
        return None
    return _thawed(replace(question.as_asked(found, info), prompt=unit.sweep.prompt, rows=unit.sweep.rows))


def remember(unit: Unit, info: ModelInfo) -> None:
    cache.put(key(unit, info, info.dtype, info.device.split(":")[0]), unit.sweep)


def key(unit: Unit, info: ModelInfo, dtype: str, device: str) -> str:
    """Everything a sweep depends on; the schedules stand for their plans, which these ids and weights determine."""
    text = question.means_text(info) if wants_means([unit]) else None
    what = [unit.ids, unit.sweep.kind, [row.schedule for row in unit.sweep.rows], unit.sweep.positions, unit.tracked]
    return cache.key("sweep", info.fingerprint, *what, dtype, device, question.prefix_id(info), text)


def _thawed(sweep: Sweep) -> Sweep:
    """The same with arrays of its own, to be written to (the cache's are read-only, a reader's must not change)."""
    names = ("done", "tracked", *MEASURES, *BASE_COLUMNS)
    return replace(sweep, notes=dict(sweep.notes), **{name: getattr(sweep, name).copy() for name in names})


# ------------------------------------------------------------------------------------------------ running


def take(
    net: Network, info: ModelInfo, units: Sequence[Unit], averages: Averages | None, kept: Kept, keep: bool
) -> Iterator[Progress | Sweep]:
    """Run what is not done of the units: Progress between steps, Sweeps as they fill in, each whole at the end.

    kept: baselines of the request before (outcomes.py). keep: store the Sweeps in the cache, also what is done when
    the iterator is closed.
    """
    for unit in units:
        unit.sweep = _thawed(replace(unit.sweep, model=info, cached=unit.sweep.complete))
    todo = [unit for unit in units if not unit.sweep.complete]
    changed: set[int] = set()
    try:
        yield from (_thawed(unit.sweep) for unit in units if unit.sweep.done.any() or unit.sweep.complete)
        yield from _fill(net, todo, averages, kept, changed)
    finally:
        for number in changed if keep else ():
            remember(todo[number], info)


def _fill(
    net: Network, units: list[Unit], averages: Averages | None, kept: Kept, changed: set[int]
) -> Generator[Progress | Sweep, None, None]:
    from stagescope.engine.outcomes import Base, Outcome, Task, outcomes

    prompts = list(dict.fromkeys(unit.ids for unit in units))
    of_prompt = [[number for number, unit in enumerate(units) if unit.ids == ids] for ids in prompts]
    cells = [
        [(n, row) for n in numbers for row in range(len(units[n].plans)) if not units[n].sweep.done[row]]
        for numbers in of_prompt
    ]
    tasks = [
        Task(ids, tuple(units[n].plans[row] for n, row in rows), units[rows[0][0]].tracked, units[rows[0][0]].sweep.positions)
        for ids, rows in zip(prompts, cells, strict=True)
    ]
    stage = f"sweep: {', '.join(dict.fromkeys(unit.sweep.kind for unit in units))}"
    began = time.monotonic()
    unshown: set[int] = set()
    shown_at = told_at = -np.inf
    for step in outcomes(net, tasks, averages, kept):
        if isinstance(step, Base):
            for n in of_prompt[step.task]:
                _put_base(net, units[n], step)
        elif isinstance(step, Outcome):
            n, row = cells[step.task][step.plan]
            _put(units[n].sweep, row, step.values)
            changed.add(n)
            unshown.add(n)
        elif time.monotonic() - told_at >= PACE:
            yield progress(stage, began, step)
            waited = SHOW_EVERY * max(1.0, sum(units[n].sweep.kl_nats.size for n in unshown) / SHOWN_VALUES)
            told_at = time.monotonic()
            if unshown and told_at - shown_at > waited:
                shown_at = told_at
                yield from (_thawed(units[n].sweep) for n in sorted(unshown))
                unshown.clear()
    milliseconds = (time.monotonic() - began) * 1000
    for unit in units:
        unit.sweep = replace(unit.sweep, milliseconds=milliseconds)
        yield _thawed(unit.sweep)


def _put_base(net: Network, unit: Unit, base) -> None:
    sweep = unit.sweep
    sweep.tracked[:] = base.tracked
    for name in BASE_COLUMNS:
        getattr(sweep, name)[:] = getattr(base, name.removeprefix("base_"))
    followed = sorted({int(token) for token in base.tracked if token >= 0})
    unit.sweep = replace(sweep, texts=texts(net.tokenizer, followed))


def _put(sweep: Sweep, row: int, values: np.ndarray) -> None:
    for name, column in zip(MEASURES, values, strict=True):
        getattr(sweep, name)[row] = column
    sweep.done[row] = True
    here = list(sweep.positions)
    broken = int(np.isnan(values[0, here]).sum())
    if np.isnan(sweep.base_entropy_bits[here]).any():
        sweep.notes[row] = "the baseline's logits are not numbers"
    elif broken:
        where = f" at {broken} of {len(here)} positions" if broken < len(here) else ""
        sweep.notes[row] = f"its logits are not numbers{where}"
