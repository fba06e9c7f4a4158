"""The rows of the stack in executed order: what each place is, what a reading says of it at one position.

Pure data: no textual here. Row 0 is the embedding; a dropped layer keeps a row where it stood.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from stagescope.engine.protocol import Attribution, Census, ModelInfo, Reading, StageMap
from stagescope.engine.schedule import Off, Place, Plan, Run, Schedule, Switch, resolve

NAN = math.nan
_NONE = np.zeros(0, np.float32)


def _none() -> np.ndarray:
    return _NONE


class Top(NamedTuple):
    id: int
    text: str  # harmless, spaces kept
    p: float


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the stack. Numbers are at the chosen position unless said; NaN: not known (yet)."""

    layers: tuple[int, ...]  # () the embedding, (l,) a block, more: a parallel group
    depth: int | None  # of the reading; None for a dropped layer
    state: str = "run"  # embedding | run | dropped (not there) | off (both sublayers) | attn off | mlp off
    mean: bool = False  # what is off is replaced by its mean contribution, not by zero
    partial: bool = False  # ... at some positions only
    heads: tuple[str, ...] = ()  # that are off while their attention runs: "3"; of a group "5.3"
    neurons: tuple[str, ...] = ()
    moved: bool = False  # out of ascending order: swapped, reversed, shuffled
    copy: int = 0  # 1, 2, ... where a layer stands in several places, else 0
    copies: int = 0
    stage: int | None = None  # 0 to 3, where a map of the model knows it; of a group, if its layers share one

    changed: bool = True  # the residual stream here is not the baseline's, bit for bit
    synced: bool = False  # comparable with the baseline (a sync point)
    kl: float = NAN  # nats, D_KL(baseline lens || lens); 0 below the noise floor
    attn: float = NAN  # ||attention contribution|| / ||x|| before the block; 0 when switched off
    mlp: float = NAN
    direct: tuple[float, float] = (NAN, NAN)  # attention and MLP on the tracked token's logit, or their change
    entropy: float = NAN  # bits
    rank: float = NAN  # of the tracked token
    rank_was: float = NAN  # of the same token at the matching baseline depth
    tracked: str = ""  # its text
    top: tuple[Top, ...] = ()
    was: tuple[Top, ...] = ()  # of the baseline, at the matching depth
    echo: bool = False  # the top token is the input token: looks like certainty and is not (science.md)
    counts: tuple[int, ...] = ()  # neurons: (suppression, prediction); (high kurtosis,) where unsigned

    # over all positions, [T]
    entropies: np.ndarray = field(default_factory=_none)
    kls: np.ndarray = field(default_factory=_none)  # 0 below the noise floor
    same: np.ndarray = field(default_factory=_none)  # 1.0 where the top token is the baseline's
    top_ids: np.ndarray = field(default_factory=_none)
    top_p: np.ndarray = field(default_factory=_none)
    texts: dict[int, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        if not self.layers:
            return "e"
        first, last = self.layers[0], self.layers[-1]
        return f"{first}" if first == last else f"[{first}-{last}]"

    @property
    def edited(self) -> bool:
        off = self.state not in ("run", "embedding") or bool(self.heads or self.neurons)
        return off or self.moved or self.copy > 0 or len(self.layers) > 1

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """What this row is, whatever its place: the cursor follows it."""
        return self.layers, max(self.copy, 1)


class Folded(NamedTuple):
    """Rows first..last (indices) drawn as one line."""

    first: int
    last: int
    text: str  # "13-20", their layers
    kl: float  # the largest among them; NaN when none is known
    changed: bool


def rows(
    info: ModelInfo,
    reading: Reading | None,
    census: Census | None,
    schedule: Schedule,
    position: int,
    stages: StageMap | None = None,
) -> list[Row]:
    """Rows 0 (embedding) up to the last depth, dropped layers among them.

    A reading of another schedule than this one is not used: its depths are other places. Without one the
    rows carry states only, so the stack stands while weights load.
    """
    if reading is not None and reading.schedule != str(schedule):
        reading = None
    n_positions = len(reading.tokens) if reading else None
    plan = resolve(schedule, info.n_layers, parallel_blocks=info.parallel, n_positions=n_positions)
    stack = [Row((), 0, "embedding"), *_places(plan)]
    if reading is not None:
        position = min(position, len(reading.tokens) - 1)
        stack = [_read(row, reading, position) for row in stack]
    if census is not None and len(census.high) == info.n_layers:
        stack = [replace(row, counts=_counts(census, row.layers)) for row in stack]
    stack = _with_dropped(stack, info.n_layers)
    return [replace(row, stage=_stage(stages, row.layers)) for row in stack] if stages is not None else stack


def with_direct(stack: list[Row], attribution: Attribution, position: int, change: bool) -> list[Row]:
    """The rows with what each sublayer adds directly to the tracked token's logit at `position`.

    change: less what its layer adds in the baseline. A layer's copies are told together, on the first one; one that
    does not run has lost all it added.
    """
    if not change or attribution.baseline is None:
        written = np.stack([attribution.attn, attribution.mlp], -1)[:, position].tolist()
        return [replace(row, direct=tuple(written[row.depth])) if row.layers and row.depth else row for row in stack]
    changes = attribution.changes()[:, :, position]
    return [
        replace(row, direct=tuple(changes[list(row.layers)].sum(0).tolist())) if row.layers and row.copy <= 1 else row
        for row in stack
    ]


def fold(stack: list[Row], height: int, cursor: int) -> list[Row | Folded]:
    """At most `height` lines, in executed order; row indices of a Folded are those of the list.

    Rows get a line of their own in this order: the cursor with two rows about it and both ends, edited rows,
    changed ones, the rest; the nearer to the cursor the sooner. So the folds close behind the cursor as it
    moves, and say what they hide.
    """
    if len(stack) <= height:
        return list(stack)
    last = len(stack) - 1

    def worth(index: int) -> tuple[int, int]:
        row, distance = stack[index], abs(index - cursor)
        near = 0 if distance <= 2 or index in (0, last) else 1 if row.edited else 2 if row.changed else 3
        return near, distance

    kept, lines = set(), 1  # one fold line hides all
    for index in sorted(range(len(stack)), key=worth):
        below = index == 0 or index - 1 in kept
        above = index == last or index + 1 in kept
        cost = 2 - below - above  # inside a fold it splits it in two, at its end takes one line
        if lines + cost <= height:
            kept.add(index)
            lines += cost

    result: list[Row | Folded] = []
    index = 0
    while index <= last:
        end = index
        while index not in kept and end < last and end + 1 not in kept:
            end += 1
        result.append(stack[index] if end == index else _folded(stack, index, end))
        index = end + 1
    return result


def _folded(stack: list[Row], first: int, last: int) -> Folded:
    hidden = stack[first : last + 1]
    ends = [row.label for row in (hidden[0], hidden[-1])]
    known = [row.kl for row in hidden if row.kl == row.kl]
    changed = any(row.changed for row in hidden)
    return Folded(first, last, "-".join(ends), max(known, default=NAN), changed)


# ---------------------------------------------------------------------------------------------- places


def _places(plan: Plan) -> list[Row]:
    keys = [_key(place) for place in plan]
    times, seen = Counter(keys), Counter()
    single = [key for key in keys if times[key] == 1]
    moved = {key for key, due in zip(single, sorted(single), strict=True) if key != due}
    result = []
    for depth, (key, place) in enumerate(zip(keys, plan, strict=True), start=1):
        seen[key] += 1
        copy, copies = (seen[key], times[key]) if times[key] > 1 else (0, 0)
        layers = tuple(run.layer for run in place)
        result.append(Row(layers, depth, **_state(place), moved=key in moved, copy=copy, copies=copies))
    return result


def _key(place: Place) -> tuple:
    """Layers, and which half: `order 3m 3a` holds no copies, but a layer's MLP before its attention."""
    (run, *more) = place
    half = "" if more else "a" if _only(run) == "attn" else "m" if _only(run) == "mlp" else ""
    return tuple(r.layer for r in place), half


def _only(run: Run) -> str:
    """The one sublayer that runs, where the other is zero everywhere."""
    no_attn, no_mlp = (Switch("zero", None) in switches for switches in (run.attn, run.mlp))
    return "" if no_attn == no_mlp else "mlp" if no_attn else "attn"


def _state(place: Place) -> dict:
    """What is off. In a group only sublayers that are off in all of its layers count, but every head and neuron."""
    no_attn, no_mlp = all(run.attn for run in place), all(run.mlp for run in place)
    switches = [s for run in place for s in (run.attn if no_attn else ()) + (run.mlp if no_mlp else ())]
    parts = {name: [(run.layer, off) for run in place for off in getattr(run, name)] for name in ("heads", "neurons")}
    switches += [off.switch for offs in parts.values() for _, off in offs]
    state = "off" if no_attn and no_mlp else "attn off" if no_attn else "mlp off" if no_mlp else "run"
    return {
        "state": state,
        "mean": any(s.kind == "mean" for s in switches),
        "partial": bool(switches) and all(s.positions is not None for s in switches),
        **{name: _names(offs, len(place) > 1) for name, offs in parts.items()},
    }


def _names(offs: list[tuple[int, Off]], of_group: bool) -> tuple[str, ...]:
    """Numbers, each once; of a group with their layers."""
    numbers = sorted({(layer, number) for layer, off in offs for number in off.which})
    return tuple(f"{layer}.{number}" if of_group else f"{number}" for layer, number in numbers)


def _with_dropped(stack: list[Row], n_layers: int) -> list[Row]:
    """A dropped layer's row goes after the nearest lower layer: its last copy, or its own dropped row."""
    after = {layer: index for index, row in enumerate(stack) for layer in row.layers}
    dropped_after: dict[int, list[Row]] = {}
    place = 0
    for layer in range(n_layers):
        if layer in after:
            place = after[layer]
        else:
            dropped_after.setdefault(place, []).append(Row((layer,), None, "dropped"))
    return [r for index, row in enumerate(stack) for r in (row, *dropped_after.get(index, ()))]


# ---------------------------------------------------------------------------------------------- values


def _read(row: Row, reading: Reading, position: int) -> Row:
    depth = row.depth
    base, base_depth = reading.baseline, reading.baseline_depth[depth]
    synced = base is not None and base_depth is not None
    kls = reading.kl_nats[depth] if synced else _NONE
    kls = np.where(kls <= noise_floor(reading), 0, kls)
    top = top_tokens(reading, depth, position)
    before = float(reading.resid_norm[depth - 1, position]) if depth else NAN
    same_token = synced and base.tracked[position] == reading.tracked[position]
    return replace(
        row,
        changed=base is not None and not (synced and reading.resid_rel[depth, position] == 0),
        synced=synced,
        kl=float(kls[position]) if synced else NAN,
        attn=_over(float(reading.attn_norm[depth, position]), before),
        mlp=_over(float(reading.mlp_norm[depth, position]), before),
        entropy=float(reading.entropy_bits[depth, position]),
        rank=float(reading.tracked_rank[depth, position]),
        rank_was=float(base.tracked_rank[base_depth, position]) if same_token else NAN,
        tracked=reading.texts.get(int(reading.tracked[position]), ""),
        top=top,
        was=top_tokens(base, base_depth, position) if synced else (),
        echo=bool(top) and top[0].id == reading.tokens[position].id,
        entropies=reading.entropy_bits[depth],
        kls=kls,
        same=reading.top1_same[depth] if synced else _NONE,
        top_ids=reading.top_ids[depth, :, 0],
        top_p=reading.top_p[depth, :, 0],
        texts=reading.texts,
    )


def noise_floor(reading: Reading) -> float:
    """Nats at or below which a difference is nothing; rounding alone where the noise was not measured."""
    noise = reading.model.noise_kl
    return max(noise, 1e-9) if noise == noise else 1e-9


def _over(norm: float, before: float) -> float:
    return norm / before if before > 0 else NAN


def top_tokens(reading: Reading, depth: int, position: int) -> tuple[Top, ...]:
    ids, ps = reading.top_ids[depth, position].tolist(), reading.top_p[depth, position].tolist()
    return tuple(Top(i, reading.texts.get(i, f"[id {i}]"), p) for i, p in zip(ids, ps, strict=True) if i >= 0)


def _stage(stages: StageMap, layers: tuple[int, ...]) -> int | None:
    found = {stages.stage_of(layer) for layer in layers}
    return found.pop() if len(found) == 1 else None


def _counts(census: Census, layers: tuple[int, ...]) -> tuple[int, ...]:
    if len(layers) != 1:
        return ()
    (layer,) = layers
    if census.orientation == "none":
        return (int(census.high[layer]),)
    return int(census.suppression[layer]), int(census.prediction[layer])
