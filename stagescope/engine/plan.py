"""What a schedule means for one model: the executed order, carried out step by step.

Knows nothing of text: a step that cannot be carried out is `Refused`, and schedule.py marks its place.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from stagescope.engine.switches import Off, Run, Switch, add_off, add_switch, settled

if TYPE_CHECKING:
    from stagescope.engine.grammar import Step

__all__ = ["Item", "Off", "Part", "Place", "Plan", "Refused", "Run", "Span", "Switch", "carry_out", "join_items",
           "overlap", "sync_layers", "uses_means"]  # fmt: skip

MAX_STRETCH = 8  # the executed order has at most 8 L depths: bounds what one line of text can cost

Place = tuple[Run, ...]  # one depth of the executed order: one Run, or a group whose outputs are averaged
Plan = tuple[Place, ...]


class Span(NamedTuple):
    """Layers `first` to `last`, both included; part "a" or "m": one layer's attention or MLP alone."""

    first: int
    last: int
    part: str = ""

    def __str__(self) -> str:
        return f"{self.first}{self.part}" if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def layers(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def singles(self) -> Iterable[Span]:
        return (Span(n, n, self.part) for n in self.layers)

    def names(self, other: Item) -> bool:
        return isinstance(other, Span) and other.first in self.layers and other.part in ("", self.part)


class Part(NamedTuple):
    """Heads or neurons `first` to `last` of one layer, both included."""

    layer: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.first}" if self.first == self.last else f"{self.layer}.{self.first}-{self.last}"

    @property
    def layers(self) -> range:
        return range(self.layer, self.layer + 1)

    @property
    def singles(self) -> Iterable[Part]:
        return (Part(self.layer, n, n) for n in range(self.first, self.last + 1))

    def names(self, other: Item) -> bool:
        if isinstance(other, Span):
            return other.first == self.layer
        return other.layer == self.layer and self.first <= other.first <= self.last


Item = Span | Part  # what a step names


class Refused(Exception):
    """A step that cannot be carried out. `at`: the Item or "positions" to blame, None for the whole step."""

    def __init__(self, reason: str, at: Item | str | None = None):
        super().__init__(reason)
        self.reason, self.at = reason, at


def join_items(items: Iterable[Item]) -> tuple[Item, ...]:
    """Neighbours that count on (5 6-7) joined into one (5-7); order kept, sublayer items left alone."""
    joined: list[Item] = []
    for item in items:
        if joined and _counts_on(joined[-1], item):
            joined[-1] = joined[-1]._replace(last=item.last)
        else:
            joined.append(item)
    return tuple(joined)


def _counts_on(left: Item, right: Item) -> bool:
    together = left.layer == right.layer if isinstance(left, Part) else not left.part and not right.part
    return together and right.first == left.last + 1


def overlap(left: Item, right: Item) -> bool:
    """Whether something is named by both, where `left` does not come after `right`."""
    return right.first <= left.last and (not isinstance(left, Part) or left.layer == right.layer)


def carry_out(
    step: Step, plan: Plan, n_layers: int, parallel_blocks: bool, n_positions: int | None, n_parts: int | None = None
) -> Plan:
    """The executed order after one more step. n_parts: how many heads (neurons) a layer has. Raises Refused."""
    where: dict[int, list[int]] = defaultdict(list)  # layer -> the places it occupies now
    for index, place in enumerate(plan):
        for run in place:
            where[run.layer].append(index)
    layers = _named_layers(step, where, n_layers)

    if step.verb in ("drop", "attn-off", "mlp-off"):
        return _switch_off(step, plan, set(layers), n_positions)
    if step.verb in ("head-off", "neuron-off"):
        return _parts_off(step, plan, n_positions, n_parts)

    for layer in layers:
        if any(len(plan[index]) > 1 for index in where[layer]):
            allowed = "only drop, attn-off, mlp-off, head-off and neuron-off reach inside it"
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
    runs = [run for place in plan for run in place]
    return any(switch.kind == "mean" for run in runs for switch in (*run.attn, *run.mlp)) or any(
        off.switch.kind == "mean" for run in runs for off in (*run.heads, *run.neurons)
    )


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
    for item in step.items:
        if item.layers[-1] >= n_layers:
            layer = max(item.layers[0], n_layers)
            reason = f"layer {layer} is out of range: this model has layers 0-{n_layers - 1}"
            raise Refused(reason, Span(layer, layer))
    layers = list(dict.fromkeys(layer for item in step.items for layer in item.layers))
    for layer in layers:
        if layer not in where:
            still = " ".join(str(span) for span in join_items(Span(n, n) for n in sorted(where)))
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
        return add_switch(carried, switch, n_positions)

    def switched(run: Run) -> Run:
        if run.layer not in layers:
            return run
        return settled(replace(run, **{name: with_switch(getattr(run, name)) for name in sublayers}), n_positions)

    return tuple(tuple(switched(run) for run in place) for place in plan)


def _parts_off(step: Step, plan: Plan, n_positions: int | None, n_parts: int | None) -> Plan:
    name = {"head-off": "heads", "neuron-off": "neurons"}[step.verb]
    named: dict[int, list[int]] = defaultdict(list)  # layer -> numbers
    for part in step.items:
        if n_parts is not None and part.last >= n_parts:
            number = max(part.first, n_parts)
            reason = f"{name[:-1]} {part.layer}.{number} is out of range: layer {part.layer} has {name} 0-{n_parts - 1}"
            raise Refused(reason, Part(part.layer, number, number))
        named[part.layer] += range(part.first, part.last + 1)
    switch = Switch("mean" if step.mean else "zero", _count_out(step.positions, n_positions))

    @cache  # a layer may stand in many places
    def switched(run: Run) -> Run:
        if run.layer not in named:
            return run
        offs = add_off(getattr(run, name), switch, named[run.layer], n_positions)
        return settled(replace(run, **{name: offs}), n_positions)

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
        ordered += [(settled(replace(runs[layer], **off), None),) for layer in range(span.first, span.last + 1)]
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
