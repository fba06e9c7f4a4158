"""Kurtosis by skew of every neuron, as in Gurnee et al. 2024: each cell shows the class found in it.

Drawn cell by cell: two million points of a large model take 60 ms, where a plotting library would take a minute.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from rich.text import Text

from stagescope.drawings.curves import LABEL, MARKS, ROUND, Mark, exactly
from stagescope.engine.protocol import HIGH_KURTOSIS, Census
from stagescope.engine.strongest import Neuron, as_it_fires, classes

# From what is drawn first to what is drawn over it.
MARK_OF = {
    "other": Mark("·", ".", (118, 118, 118)),
    "partition": MARKS[2],
    "unsigned": MARKS[3],
    "suppression": MARKS[1],
    "prediction": MARKS[0],
}
NOTHING, ACROSS, UPRIGHT = range(len(MARK_OF), len(MARK_OF) + 3)  # codes of cells without a neuron
WIDE = 80  # cells from which classes are named in full


class Raster(NamedTuple):
    cells: np.ndarray  # [rows, columns] codes
    most_skew: float  # the ends of the axes
    most: float

    def column(self, skew) -> np.ndarray:
        n = self.cells.shape[1]
        return np.rint((np.clip(skew / self.most_skew, -1, 1) + 1) / 2 * (n - 1)).astype(int)

    def row(self, kurtosis) -> np.ndarray:
        n = self.cells.shape[0]
        return n - 1 - np.rint(np.log10(np.maximum(kurtosis, 1)) / math.log10(self.most) * (n - 1)).astype(int)


def scatter(
    census: Census,
    d_model: int,
    layer: int | None,
    width: int,
    height: int,
    *,
    coloured: bool = True,
    chosen: Neuron | None = None,
    ascii_only: bool = False,
) -> Text:
    """Title and legend, the plot, and the axis of skew: exactly `height` lines of at most `width` cells.

    layer: None for all neurons of the model. Kurtosis is on a log axis from 1, the least there can be, with a line at
    10. chosen: its cell is inverted.
    """
    columns, rows = width - LABEL - 1, height - 3
    title = "kurtosis by skew"
    if width >= WIDE:
        title = f"{'all layers' if layer is None else f'layer {layer}'}: {title}"
    if columns < 20 or rows < 3:
        return exactly([Text(title)], width, height, ascii_only)
    raster = _raster(census, d_model, layer, columns, rows)
    marks = MARK_OF.values()
    glyphs = [*(mark.ascii if ascii_only else mark.glyph for mark in marks), " ", *("-:" if ascii_only else "┄┊")]
    styles = [f"rgb({','.join(map(str, mark.colour))})" if coloured else "" for mark in marks] + ["", "dim", "dim"]
    ticks = {int(raster.row(10.0**n)): f"{10**n:g}" for n in range(int(math.log10(raster.most)) + 1)}
    ticks[0] = f"{raster.most:g}"
    lines = [_title(title, np.unique(raster.cells), glyphs, styles, short=width < WIDE)]
    for y, codes in enumerate(raster.cells):
        line = Text(f"{ticks.get(y, ''):>{LABEL}}" + ("┤" if y in ticks else "│"))
        for run in np.split(codes, np.flatnonzero(np.diff(codes)) + 1):
            line.append(glyphs[run[0]] * len(run), styles[run[0]])
        lines.append(line)
    if chosen is not None and (layer is None or chosen[0] == layer):
        x = LABEL + 1 + int(raster.column(as_it_fires(census)[chosen]))
        lines[1 + int(raster.row(census.kurtosis[chosen]))].stylize("reverse", x, x + 1)
    lines += [Text(" " * LABEL + "└" + "─" * columns), _skew_axis(raster.most_skew, columns)]
    return exactly(lines, width, height, ascii_only)


@lru_cache(maxsize=1)  # a cursor that moves among the strongest draws the same points again
def _raster(census: Census, d_model: int, layer: int | None, columns: int, rows: int) -> Raster:
    of = slice(None) if layer is None else slice(layer, layer + 1)
    arrays = {name: getattr(census, name)[of] for name in ("variance", "skew", "kurtosis", "sign")}
    part = replace(census, **arrays)
    skew, kurtosis = as_it_fires(part), part.kurtosis
    most_skew = _least_round(float(np.abs(skew).max(initial=1.0)))
    most = _least_round(float(kurtosis.max(initial=2 * HIGH_KURTOSIS)))
    raster = Raster(np.full((rows, columns), NOTHING), most_skew, most)
    raster.cells[:, raster.column(0.0)] = UPRIGHT
    raster.cells[raster.row(HIGH_KURTOSIS)] = ACROSS
    members = {"other": kurtosis > 0, **classes(part, d_model)}  # one that writes nothing has no moments
    for code, name in enumerate(MARK_OF):
        raster.cells[raster.row(kurtosis[members[name]]), raster.column(skew[members[name]])] = code
    return raster


def _title(title: str, found: np.ndarray, glyphs: list[str], styles: list[str], short: bool) -> Text:
    line = Text.assemble((title, "bold"), " ")
    for code in range(len(MARK_OF) - 1, 0, -1):
        if code in found:
            name = list(MARK_OF)[code]
            line.append(" ").append(glyphs[code], styles[code]).append(f" {name[:4] if short else name} ")
    return line


def _skew_axis(most: float, columns: int) -> Text:
    """Both ends, 0, and what is measured."""
    left, right, middle = f"-{most:g}", f"+{most:g}", "skew 0"
    line = left.ljust(columns // 2 - len(middle) + 1) + middle
    return Text(" " * (LABEL + 1) + line.ljust(columns - len(right)) + right)


def _least_round(value: float) -> float:
    return next(step for step in ROUND if step >= value)
