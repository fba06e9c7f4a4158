"""What is switched off in a layer that runs: sublayers, heads, neurons. One meaning has one form.

Knows nothing of text nor of orders: plan.py says which layers a step reaches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Switch:
    """One sublayer's contribution replaced at `positions` (sorted; None: every position).

    kind "zero": by nothing (zero ablation); "mean": by its mean contribution over a text.
    """

    kind: str
    positions: tuple[int, ...] | None


@dataclass(frozen=True)
class Off:
    """Heads (their columns of what W_O reads) or neurons (their activations) of one layer under one Switch."""

    switch: Switch
    which: tuple[int, ...]  # ascending


@dataclass(frozen=True)
class Run:
    """One original layer about to run, with the switches on its attention and its MLP.

    Each sublayer, head and neuron has at most one Switch of each kind, at disjoint positions, so equal meaning is equal
    data, once it is known how many positions there are. Heads are not named where the attention is replaced as a whole,
    nor neurons where the MLP is.
    """

    layer: int
    attn: tuple[Switch, ...] = ()
    mlp: tuple[Switch, ...] = ()
    heads: tuple[Off, ...] = ()
    neurons: tuple[Off, ...] = ()


def add_switch(switches: tuple[Switch, ...], new: Switch, n_positions: int | None) -> tuple[Switch, ...]:
    """The later switch wins where it applies.

    Under a new switch at some positions, an all-positions switch of the other kind keeps the rest, spelt out.
    With n_positions None that cannot be spelt: it stays, first in the tuple, and the one after it wins.
    """
    if new.positions is not None and len(new.positions) == n_positions:
        new = Switch(new.kind, None)
    if new.positions is None or not switches:
        return (new,)
    covered = {"zero": (), "mean": ()} | {switch.kind: switch.positions for switch in switches}
    for kind, positions in covered.items():
        if kind == new.kind:
            every = () if positions is None else {*positions, *new.positions}
            covered[kind] = None if positions is None or len(every) == n_positions else tuple(sorted(every))
        elif positions is not None or n_positions is not None:
            kept = range(n_positions) if positions is None else positions
            covered[kind] = tuple(sorted(set(kept) - set(new.positions)))
    left = [Switch(kind, positions) for kind, positions in covered.items() if positions != ()]
    return tuple(sorted(left, key=lambda switch: switch.positions is not None))


def add_off(offs: tuple[Off, ...], new: Switch, which: Iterable[int], n_positions: int | None) -> tuple[Off, ...]:
    switches = _by_number(offs)
    for number in which:
        switches[number] = add_switch(switches.get(number, ()), new, n_positions)
    return _grouped(switches)


def settled(run: Run, n_positions: int | None) -> Run:
    """The same without heads and neurons that change nothing, since the whole sublayer is replaced there."""
    if not run.heads and not run.neurons:
        return run
    heads, neurons = _left(run.heads, run.attn, n_positions), _left(run.neurons, run.mlp, n_positions)
    return replace(run, heads=heads, neurons=neurons)


def _left(offs: tuple[Off, ...], whole: tuple[Switch, ...], n_positions: int | None) -> tuple[Off, ...]:
    if not offs or not whole:
        return offs
    covered = {position for switch in whole for position in switch.positions or ()}
    if any(switch.positions is None for switch in whole) or len(covered) == n_positions:
        return ()

    def left(switch: Switch) -> Switch:
        if switch.positions is None or len(covered.union(switch.positions)) == n_positions:
            return replace(switch, positions=None)  # also where it is replaced as a whole: nothing is changed by it
        return replace(switch, positions=tuple(p for p in switch.positions if p not in covered))

    return _grouped({number: tuple(map(left, switches)) for number, switches in _by_number(offs).items()})


def _by_number(offs: tuple[Off, ...]) -> dict[int, tuple[Switch, ...]]:
    switches: dict[int, tuple[Switch, ...]] = defaultdict(tuple)
    for off in offs:
        for number in off.which:
            switches[number] += (off.switch,)
    return dict(switches)


def _grouped(switches: dict[int, tuple[Switch, ...]]) -> tuple[Off, ...]:
    """One Off for each Switch, those at every position first: what comes after them wins."""
    which: dict[Switch, list[int]] = defaultdict(list)
    for number in sorted(switches):
        for switch in switches[number]:
            if switch.positions != ():
                which[switch].append(number)
    order = sorted(which, key=lambda switch: (switch.positions is not None, switch.kind, switch.positions or ()))
    return tuple(Off(switch, tuple(which[switch])) for switch in order)
