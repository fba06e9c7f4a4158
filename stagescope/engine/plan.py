"""What a schedule means for one model: the executed order, carried out step by step.

Knows nothing of text: a step that cannot be carried out is `Refused`, and schedule.py marks its place.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from stagescope.engine.schedule import Step

MAX_STRETCH = 8  # the executed order has at most 8 L depths: bounds what one line of text can cost


@dataclass(frozen=True)
class Switch:
    """One sublayer's contribution replaced at `positions` (sorted; None: every position).

    kind "zero": by nothing (zero ablation); "mean": by its mean contribution over a text.
    """

    kind: str
    positions: tuple[int, ...] | None


@dataclass(frozen=True)
class Run:
    """One original layer about to run, with the switches on its attention and its MLP.

    Each sublayer has at most one Switch of each kind, at disjoint positions, so equal meaning is equal data.
    """

    layer: int
    attn: tuple[Switch, ...] = ()
    mlp: tuple[Switch, ...] = ()


Place = tuple[Run, ...]  # one depth of the executed order: one Run, or a group whose outputs are averaged
Plan = tuple[Place, ...]


class Span(NamedTuple):
    """Layers `first` to `last`, both included; part "a" or "m": one layer's attention or MLP alone."""

    first: int
    last: int
    part: str = ""

    def __str__(self) -> str:
        return f"{self.first}{self.part}" if self.first == self.last else f"{self.first}-{self.last}"


class Refused(Exception):
    """A step that cannot be carried out. `at`: the Span or "positions" to blame, None for the whole step."""

    def __init__(self, reason: str, at: Span | str | None = None):
        super().__init__(reason)
        self.reason, self.at = reason, at


def join_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Neighbours that count on (5 6-7) joined into one (5-7); order kept, sublayer items left alone."""
    joined: list[Span] = []
    for span in spans:
        if joined and not joined[-1].part and not span.part and span.first == joined[-1].last + 1:
            joined[-1] = Span(joined[-1].first, span.last)
        else:
            joined.append(span)
    return tuple(joined)


def carry_out(step: Step, plan: Plan, n_layers: int, parallel_blocks: bool, n_positions: int | None) -> Plan:
    """The executed order after one more step. Raises Refused."""
    where: dict[int, list[int]] = defaultdict(list)  # layer -> the places it occupies now
    for index, place in enumerate(plan):
        for run in place:
            where[run.layer].append(index)
    layers = _named_layers(step, where, n_layers)

    if step.verb in ("drop", "attn-off", "mlp-off"):
        return _switch_off(step, plan, set(layers), n_positions)

    for layer in layers:
        if any(len(plan[index]) > 1 for index in where[layer]):
            allowed = "only drop, attn-off and mlp-off reach inside it"
            raise Refused(f"layer {layer} is in a parallel group: {allowed}", Span(layer, layer))
        if len(where[layer]) > 1 and step.verb in ("swap", "reverse", "shuffle", "parallel", "order"):
            reason = f"layer {layer} stands in {len(where[layer])} places: {step.verb} needs it in one"
            raise Refused(reason, Span(layer, layer))

    places = sorted(index for layer in layers for index in where[layer])
    before, block, after = plan[: places[0]], plan[places[0] : places[-1] + 1], plan[places[-1] + 1 :]
    match step.verb:
        case "swap" | "reverse":  # a swap is the reverse of two
            return _put(plan, places, [plan[index] for index in reversed(places)])
        case "shuffle":
            draw = random.Random(step.count).random
            drawn = {layer: draw() for layer in layers}  # in ascending order: one span
            return _put(plan, places, [plan[where[layer][0]] for layer in sorted(layers, key=drawn.get)])
        case "middle-repeat":
            return _put(plan, places, [(_middle_run(plan, n_layers),)] * len(places))
        case "repeat":
            _bound_depths(len(plan) + len(places) * (step.count - 1), n_layers)
            again = set(places)
            return tuple(p for i, p in enumerate(plan) for _ in range(step.count if i in again else 1))
        case "loop":
            _require_contiguous(step.verb, block, layers)
            _bound_depths(len(plan) + len(block) * (step.count - 1), n_layers)
            return before + block * step.count + after
        case "parallel":
            _require_contiguous(step.verb, block, layers)
            _bound_depths(len(plan) - len(block) + step.count, n_layers)
            group = tuple(sorted((run for (run,) in block), key=lambda run: run.layer))  # a mean has no order
            return before + (group,) * step.count + after
        case "order":
            _bound_depths(sum(span.last - span.first + 1 for span in step.items), n_layers)
            return _order(step.items, {layer: plan[where[layer][0]][0] for layer in layers}, parallel_blocks)
    raise AssertionError(f"no meaning for the verb {step.verb!r}")


def uses_means(plan: Plan) -> bool:
    """Whether some sublayer gives its mean over a text, which must be measured first."""
    return any(switch.kind == "mean" for place in plan for run in place for switch in (*run.attn, *run.mlp))


def sync_layers(plan: Plan) -> tuple[int | None, ...]:
    """For depths 0..len(plan): the original layer after which the baseline is comparable, or None.

    That is the highest layer l run so far, if no layer <= l runs later; -1 at depth 0 (the embedding).
    """
    lowest_later = [math.inf]  # built from the end: the lowest layer still to run
    for place in reversed(plan):
        lowest_later.append(min([lowest_later[-1], *(run.layer for run in place)]))
    highest, synced = -1, []
    for place, lowest in zip(((), *plan), reversed(lowest_later), strict=True):
        highest = max([highest, *(run.layer for run in place)])
        synced.append(highest if lowest > highest else None)
    return tuple(synced)


def _named_layers(step: Step, where: dict[int, list[int]], n_layers: int) -> list[int]:
    """The layers a step names, each once. Spans are checked before they are counted out: 0-9999 is cheap."""
    for span in step.items:
        if span.last >= n_layers:
            layer = max(span.first, n_layers)
            reason = f"layer {layer} is out of range: this model has layers 0-{n_layers - 1}"
            raise Refused(reason, Span(layer, layer))
    layers = list(dict.fromkeys(n for span in step.items for n in range(span.first, span.last + 1)))
    for layer in layers:
        if layer not in where:
            still = " ".join(str(span) for span in join_spans(Span(n, n) for n in sorted(where)))
            reason = f"layer {layer} is already dropped: still running: {still or 'none'}"
            raise Refused(reason, Span(layer, layer))
    return layers


def _switch_off(step: Step, plan: Plan, layers: set[int], n_positions: int | None) -> Plan:
    if step.verb == "drop" and not step.mean and step.positions is None:  # the place itself goes
        left = (tuple(run for run in place if run.layer not in layers) for place in plan)
        return tuple(place for place in left if place)

    switch = Switch("mean" if step.mean else "zero", _count_out(step.positions, n_positions))
    sublayers = {"drop": ("attn", "mlp"), "attn-off": ("attn",), "mlp-off": ("mlp",)}[step.verb]

    @cache  # most sublayers carry the same switches: one result, shared
    def with_switch(carried: tuple[Switch, ...]) -> tuple[Switch, ...]:
        return _add_switch(carried, switch, n_positions)

    def switched(run: Run) -> Run:
        if run.layer not in layers:
            return run
        return replace(run, **{name: with_switch(getattr(run, name)) for name in sublayers})

    return tuple(tuple(switched(run) for run in place) for place in plan)


def _count_out(positions: tuple[int, int] | None, n_positions: int | None) -> tuple[int, ...] | None:
    if positions is None:
        return None
    first, last = positions
    if n_positions is not None:
        for position in positions:
            if not -n_positions <= position < n_positions:
                allowed = f"0-{n_positions - 1}, or -1 to -{n_positions} from the end"
                raise Refused(f"position {position} is outside the prompt: it has {allowed}", "positions")
        first, last = first % n_positions, last % n_positions
    return tuple(range(first, last + 1))


def _add_switch(switches: tuple[Switch, ...], new: Switch, n_positions: int | None) -> tuple[Switch, ...]:
    """The later switch wins where it applies.

    Under a new switch at some positions, an all-positions switch of the other kind keeps the rest, spelt out.
    With n_positions None that cannot be spelt: it stays, first in the tuple, and the one after it wins.
    """
    if new.positions is None or not switches:
        return (new,)
    covered = {"zero": (), "mean": ()} | {switch.kind: switch.positions for switch in switches}
    for kind, positions in covered.items():
        if kind == new.kind:
            covered[kind] = None if positions is None else tuple(sorted({*positions, *new.positions}))
        elif positions is not None or n_positions is not None:
            kept = range(n_positions) if positions is None else positions
            covered[kind] = tuple(sorted(set(kept) - set(new.positions)))
    left = [Switch(kind, positions) for kind, positions in covered.items() if positions != ()]
    return tuple(sorted(left, key=lambda switch: switch.positions is not None))


def _put(plan: Plan, places: list[int], moved: list[Place]) -> Plan:
    result = list(plan)
    for index, place in zip(places, moved, strict=True):
        result[index] = place
    return tuple(result)


def _middle_run(plan: Plan, n_layers: int) -> Run:
    """Layer L//2 with the switches it carries now; as it was at first if it no longer runs."""
    middle = n_layers // 2
    forms = {run for place in plan for run in place if run.layer == middle}
    if len(forms) > 1:
        raise Refused(f"layer {middle}, to be repeated, runs in several forms now: {middle}a and others")
    return forms.pop() if forms else Run(middle)


def _order(items: tuple[Span, ...], runs: dict[int, Run], parallel_blocks: bool) -> Plan:
    ordered = []
    for span in items:
        if span.part and parallel_blocks:
            reason = "attention and MLP run in parallel in this model: order takes whole layers here"
            raise Refused(reason + f" ({span.first}, not {span})", span)
        off = {} if not span.part else {"mlp" if span.part == "a" else "attn": (Switch("zero", None),)}
        ordered += [(replace(runs[layer], **off),) for layer in range(span.first, span.last + 1)]
    return tuple(ordered)


def _require_contiguous(verb: str, block: Plan, layers: list[int]) -> None:
    for place in block:
        if place[0].layer not in layers:
            between = f"layer {place[0].layer} stands between them now"
            raise Refused(f"{verb} needs its layers side by side in the executed order: {between}")


def _bound_depths(depths: int, n_layers: int) -> None:
    if depths > MAX_STRETCH * n_layers:
        most = f"at most {MAX_STRETCH} x {n_layers} = {MAX_STRETCH * n_layers}"
        raise Refused(f"the executed order would be {depths} layers long: {most}")
