"""Heads and neurons switched off: what such a row is called, heads as a grid, neurons against random ones.

"Do suppression neurons sharpen?" is asked as in arXiv 2406.19384, stage 4: if they do, the output without them is less
certain than without as many random neurons of the same layers. The random draws are few, so their range is told, and
how often chance alone goes beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow
from stagescope.engine.strongest import SIGNED as CLASSES
from stagescope.reports.sweep import summary
from stagescope.text import printable

RANDOM = {name: f"random as {name}" for name in CLASSES}  # class -> variant of the sets that are its control
QUESTION = "do suppression neurons sharpen?"


class Spread(NamedTuple):
    """Of the means of n rows: their mean, least and greatest. NaN where n is 0."""

    mean: float
    least: float
    greatest: float
    n: int


def row_name(row: SweepRow) -> str:
    """Its schedule; of neurons together, which may be 128, words: "the 16 strongest suppression neurons off"."""
    if row.kind != "neuron-sets":
        return printable(row.schedule)
    which = printable(row.variant.removeprefix("random as "))
    if row.variant.startswith("random"):
        return f"{row.index} random neuron{'s' * (row.index != 1)} off, as {which}"
    return f"the strongest {which} neuron off" if row.index == 1 else f"the {row.index} strongest {which} neurons off"


def one_layer(data: Sweep | CorpusSweep) -> int | None:
    """The layer all heads are of; None where they are of several, or where there are none."""
    layers = {row.layer for row in data.rows if row.kind == "heads"}
    return layers.pop() if len(layers) == 1 else None


def head_means(data: Sweep | CorpusSweep, measure: str) -> np.ndarray:
    """[L, H] means of a measure with that head off; NaN where not done."""
    grid = np.full((data.model.n_layers, data.model.n_heads), np.nan)
    for row, mean in zip(data.rows, summary(data, measure)[:, 0], strict=True):
        if row.kind == "heads":
            grid[row.layer, row.index] = mean
    return grid


def members(data: Sweep | CorpusSweep, kind: str, variant: str, index: int | None = None) -> list[int]:
    """The rows of a class of neurons; of sets, those of `index` neurons."""
    rows = enumerate(data.rows)
    return [at for at, row in rows if (row.kind, row.variant) == (kind, variant) and index in (None, row.index)]


def spread(data: Sweep | CorpusSweep, rows: Iterable[int], measure: str) -> Spread:
    """Over rows: neurons of a class, or draws of a random set."""
    means = summary(data, measure)[list(rows), 0]
    means = means[~np.isnan(means)]
    if not len(means):
        return Spread(math.nan, math.nan, math.nan, 0)
    return Spread(float(means.mean()), float(means.min()), float(means.max()), len(means))


def sizes(data: Sweep | CorpusSweep) -> list[int]:
    """How many neurons the sets have: 1, 2, 4 .. 128."""
    return sorted({row.index for row in data.rows if row.kind == "neuron-sets"})


def sharpening(data: Sweep | CorpusSweep, name: str, k: int) -> list[str]:
    """Three sentences: what the output's entropy does without the k strongest neurons of a class, what it does without
    random ones, and what that says. [] where the set is not done."""
    found = members(data, "neuron-sets", name, k)
    off, _, low, high = summary(data, "entropy_change_bits")[found[0]] if found else [math.nan] * 4
    if math.isnan(off):
        return []
    low, high = (off, off) if math.isnan(low) else (low, high)
    interval = f" [{_bits(low)} to {_bits(high)}]" if low < high else ""
    random = spread(data, members(data, "neuron-sets", RANDOM[name], k), "entropy_change_bits")
    which = row_name(data.rows[found[0]]).removesuffix(" off")
    told = [f"Without {which} entropy changes by {_bits(off)}{interval} bits."]
    if not random.n:
        return [*told, "The random control is not known yet."]
    draws = f"{_bits(random.least)} to {_bits(random.greatest)} in {random.n} draws" if random.n > 1 else "1 draw"
    told += [f"Random ones of the same layers: {_bits(random.mean)} ({draws})."]
    chance = f"(1 in {random.n + 1} by chance)"  # of n + 1 draws that are alike, any may be the extreme one
    if high < random.least:
        return [*told, f"Below every random draw {chance}: no sign that they sharpen."]
    if low <= random.greatest:
        return [*told, "No more than random neurons do."]
    return [*told, f"Above every random draw {chance}" + (", as if they sharpen." if low > 0 else ", but not above 0.")]


def _bits(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"
