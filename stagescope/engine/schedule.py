"""Schedule text: which blocks run, in which order, with which sublayers, at which positions.

    schedule := "" | step (";" step)* [";"]
    step     := verb ["@" positions]            positions: 10 | 3-5 | -1; only for the first five verbs
    verb     := "drop" span+ ["mean"]           whole blocks out: the residual passes by (or gets their mean)
              | ("attn-off" | "mlp-off") span+ ["mean"]
              | ("head-off" | "neuron-off") part+ ["mean"]   what a head writes, or a neuron's activation, is zero
              | "swap" n n                      exchange two blocks
              | "repeat" span ["x" k]           4 4 5 5 (k = 2 by default)
              | "loop" span ["x" k]             4 5 4 5 (k = 2 by default)
              | "middle-repeat" span            each becomes layer L//2
              | "reverse" span | "shuffle" span ["seed" k]
              | "parallel" span ["x" r]         one group: the mean of the blocks' outputs, r rounds
              | "order" item+                   the whole order; item := span | n"a" | n"m"
    span     := n | n "-" n                     original layer indices, inclusive
    part     := n "." n | n "." n "-" n         layer 5's head 3: 5.3; its heads 0 to 2: 5.0-2

The interventions are those of arXiv 2406.19384, 2407.09298 (painters) and 1911.03864 (sublayer orders).
Empty steps, commas as spaces and capitals are read too; `str()` gives the one canonical text. Numbers are
bounded (layers, heads and counts below 10,000, positions below 100,000, neurons below 1,000,000), and so is what
one text says: 2,000 words, 100,000 heads and neurons. One step is read in grammar.py, carried out in plan.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise

from stagescope.engine.grammar import (
    MAX_PARTS,
    MAX_WORDS,
    PARTS,
    SWITCHING,
    VERBS,
    ScheduleError,
    Source,
    Step,
    Word,
    read_step,
)
from stagescope.engine.plan import (
    Off,
    Place,
    Plan,
    Refused,
    Run,
    Switch,
    carry_out,
    join_items,
    overlap,
    sync_layers,
)

__all__ = ["SWITCHING", "VERBS", "Off", "Place", "Plan", "Run", "Schedule", "ScheduleError", "Step", "Switch",
           "attn_off", "drop", "head_off", "mlp_off", "neuron_off", "parse", "repeat", "resolve", "swap", "sync_layers",
           "toggle"]  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """An intervention: steps acting left to right on the executed order. Empty: the baseline.

    `str(schedule)` is the canonical text. `typed` is the text it was parsed from, None if built by code.
    """

    steps: tuple[Step, ...] = ()
    typed: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        joined: list[Step] = []
        for step in self.steps:
            both = _join(joined[-1], step) if joined else None
            joined[-1:] = [both] if both else [*joined[-1:], step]
        object.__setattr__(self, "steps", tuple(joined))

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps))

    def __bool__(self) -> bool:
        return bool(self.steps)


def resolve(
    schedule: Schedule,
    n_layers: int,
    *,
    parallel_blocks: bool = False,
    n_positions: int | None = None,
    n_heads: int | None = None,
    d_mlp: int | None = None,
) -> Plan:
    """The executed order of a model of `n_layers` blocks: one Place per depth, () if every layer is dropped.

    parallel_blocks: attention and MLP read the same input (Pythia, Phi), so `order` takes whole layers only.
    n_heads, d_mlp: of a layer; with None the numbers of heads and neurons are not checked.
    n_positions: tokens of the prompt, prefix included; negative positions then become plain ones. With None
    positions stay as written, and an all-positions Switch may stand first with one overriding it after it.
    The order has at most 8 x n_layers depths, after every step. Raises ScheduleError.
    """
    if schedule.typed is None:  # built by code: errors mark the canonical text
        schedule = parse(str(schedule))
    plan: Plan = tuple((Run(layer),) for layer in range(n_layers))
    numbers = {"head-off": n_heads, "neuron-off": d_mlp}
    for step in schedule.steps:
        try:
            plan = carry_out(step, plan, n_layers, parallel_blocks, n_positions, numbers.get(step.verb))
        except Refused as refused:
            raise ScheduleError(schedule.typed, *step.source.place(refused.at), refused.reason) from None
    return plan


def anchored(schedule: Schedule, n_positions: int) -> Schedule:
    """The same with positions of this prompt counted from its start, so that a longer one leaves them where they are."""
    steps = (
        step if step.positions is None else replace(step, positions=tuple(at % n_positions for at in step.positions))
        for step in schedule.steps
    )
    return Schedule(tuple(steps))


def toggle(schedule: Schedule, step: Step) -> Schedule:
    """What a key press does: the step taken back if the schedule holds it, else appended.

    drop, attn-off, mlp-off, head-off and neuron-off are held by a step of the same kind, mean and positions naming all
    their layers (heads, neurons); other verbs by the same verb on the same layers, whatever its count.
    """
    for index in reversed(range(len(schedule.steps))):
        held = schedule.steps[index]
        if step.verb in SWITCHING and _same_switch(held, step) and step.singles <= held.singles:
            left = join_items(sorted(held.singles - step.singles))
            kept = (replace(held, items=left),) if left else ()
        elif step.verb not in SWITCHING and (held.verb, held.items) == (step.verb, step.items):
            kept = ()
        else:
            continue
        return Schedule(schedule.steps[:index] + kept + schedule.steps[index + 1 :])
    return Schedule((*schedule.steps, step))


def drop(*layers: int) -> Step:
    return _build("drop", *layers)


def attn_off(*layers: int) -> Step:
    return _build("attn-off", *layers)


def mlp_off(*layers: int) -> Step:
    return _build("mlp-off", *layers)


def head_off(layer: int, *heads: int) -> Step:
    return _build("head-off", *(f"{layer}.{head}" for head in heads))


def neuron_off(layer: int, *neurons: int) -> Step:
    return _build("neuron-off", *(f"{layer}.{neuron}" for neuron in neurons))


def swap(a: int, b: int) -> Step:
    return _build("swap", a, b)


def repeat(first: int, last: int | None = None, times: int = 2) -> Step:
    """Each layer of first..last (default: first alone) `times` times in place."""
    return _build("repeat", first if last is None else f"{first}-{last}", "x", times)


def _build(*words: str | int) -> Step:
    return parse(" ".join(map(str, words))).steps[0]


def _same_switch(a: Step, b: Step) -> bool:
    return (a.verb, a.mean, a.positions) == (b.verb, b.mean, b.positions)


def _join(a: Step, b: Step) -> Step | None:
    """One step for both, if it means the same. `drop 3; drop 3` stays two: the second is an error."""
    if a.verb not in SWITCHING or not _same_switch(a, b):
        return None
    items = sorted(a.items + b.items)
    if any(overlap(*two) for two in pairwise(items)):
        return None
    source = None
    if a.source and b.source:
        whole = (a.source.step[0], b.source.step[1])
        source = Source(whole, a.source.items + b.source.items, a.source.positions)
    return replace(a, items=join_items(items), source=source)


def parse(text: str) -> Schedule:
    """Read a schedule. Raises ScheduleError for all that is wrong whatever the model."""
    words = [Word(m[0].lower(), *m.span(), text) for m in re.finditer(r"[;@]|[^\s,;@]+", text)]
    if len(words) > MAX_WORDS:  # words, since the canonical text of a schedule never has more of them
        raise words[MAX_WORDS].error(f"a schedule has at most {MAX_WORDS} words, this one has {len(words)}")
    parted = groupby(words, key=lambda word: word.text == ";")
    steps = tuple(read_step(*step) for separator, step in parted if not separator)
    _bound_parts(steps, text)
    return Schedule(steps, text)


def _bound_parts(steps: tuple[Step, ...], text: str) -> None:
    named = 0
    for step in steps:
        for item, place in step.source.items if step.verb in PARTS else ():
            named += item.last - item.first + 1
            if named > MAX_PARTS:
                reason = f"a schedule names at most {MAX_PARTS:,} heads and neurons, {named:,} up to here"
                raise ScheduleError(text, *place, reason)
