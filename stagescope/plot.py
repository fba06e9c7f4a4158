"""Curves of a sweep by layer, as in Figure 3 of arXiv 2406.19384: what is drawn where, and one panel of it.

No meaning rests on hue: series differ in their markers. Whatever is not done is not drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.text import Text

from stagescope.curves import LEAST, MARKS, Curve, Mark, exactly, legend, plot
from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow
from stagescope.sweep_report import over_words, parts, summary

TITLES = {
    "kl_nats": "KL, nats, log axis",
    "top1_same": "top-1 kept, share",
    "entropy_change_bits": "entropy change, bits",
    "loss_change_nats": "loss change, nats",
}
SCALES = {"kl_nats": "log", "top1_same": "share", "entropy_change_bits": "change", "loss_change_nats": "change"}
MARK_OF = {
    "drop": MARKS[0],
    "swap": MARKS[1],
    "attn-off": Mark("◇", "a", (204, 121, 167)),
    "mlp-off": Mark("■", "m", (240, 228, 66)),
    "pairs": MARKS[4],
}


# -------------------------------------------------------------------------------------------- what is drawn


@dataclass(frozen=True, eq=False)
class Series:
    """The points of one marker: x ascending, y [N, 3] mean, low, high (NaN: no interval)."""

    name: str
    kind: str
    axis: str  # what x is, in words
    span: tuple[float, float]  # least and greatest x of its rows, done or not
    x: np.ndarray
    y: np.ndarray


def series(of: Sequence[Sweep | CorpusSweep], measure: str) -> list[Series]:
    """One for each kind, and for each variant of painters and repeat. Where several rows stand at one x (seeds of a
    shuffle, partners of a pair) their mean is drawn, without an interval."""
    points: dict[tuple[str, str, str], dict[float, list[np.ndarray]]] = {}
    for part in of:
        outcomes = summary(part, measure)[:, [0, 2, 3]]
        for index, row in enumerate(part.rows):
            name, axis, places = _place(row, index)
            at = points.setdefault((name, row.kind, axis), {})
            for x in places:
                here = at.setdefault(x, [])
                if math.isfinite(outcomes[index, 0]):
                    here.append(outcomes[index])
    return [_one_series(*names, at) for names, at in points.items()]


def _place(row: SweepRow, index: int) -> tuple[str, str, list[float]]:
    """Series, axis and x of a row. A swap stands between its layers, so between the drops it is compared with."""
    match row.kind:
        case "swap":
            return "swap", "layer", [row.layer + 0.5]
        case "repeat":
            return f"repeat {row.variant}", "layer, of a span the first", [row.layer]
        case "painters":
            return row.variant, "first layer of the span", [row.layer]
        case "pairs":
            return "pairs", "layer", [float(layer) for layer in _layers_named(row.schedule)]
        case "press":
            return "press", "k of s^k (sf)^(n-k) f^k", [float(row.variant.removeprefix("k="))]
        case "schedules":
            return "schedules", "place in the list", [index + 1.0]
        case kind:
            return kind, "layer", [float(row.layer)]


def _layers_named(schedule: str) -> list[int]:
    """The two layers of `drop 4 9` or `drop 4-5`."""
    return [int(layer) for layer in re.findall(r"\d+", schedule)]


def _one_series(name: str, kind: str, axis: str, at: dict[float, list[np.ndarray]]) -> Series:
    most = max(map(len, at.values()))
    xs = sorted(x for x in at if at[x])
    y = [at[x][0] if len(at[x]) == 1 else [np.mean([one[0] for one in at[x]]), math.nan, math.nan] for x in xs]
    name = f"{name} (mean of {most})" if most > 1 else name
    return Series(name, kind, axis, (min(at), max(at)), np.array(xs, float), np.array(y, float).reshape(-1, 3))


def marked(drawn: Sequence[Series]) -> list[Curve]:
    """As curves, each with its marker."""
    marks = [MARK_OF.get(one.kind) or MARKS[index % len(MARKS)] for index, one in enumerate(drawn)]
    return [Curve(one.name, mark, one.x, one.y) for one, mark in zip(drawn, marks, strict=True)]


# -------------------------------------------------------------------------------------------------- curves


def panel(
    measure: str,
    data: Sequence[Sweep] | CorpusSweep,
    width: int,
    height: int,
    *,
    n_layers: int,
    chosen: tuple[str, float] | None = None,
    averaged: str = "",
    ascii_only: bool = False,
) -> Text:
    """One measure of all series that share the first one's x axis: `height` lines of at most `width` cells.

    The first line says what is drawn over what and is the legend. chosen: kind and x of a point to mark. averaged: what
    the values are a mean of, where it is not as the data say. KL at or below 1e-6 nats or the noise floor stands on the
    axis. Takes about 6 ms at 160 x 12.
    """
    of = parts(data)
    drawn = series(of, measure)
    drawn = [one for one in drawn if one.axis == drawn[0].axis]
    head = title(measure, drawn[0].axis if drawn else "layer")
    head.append_text(Text(f" · {averaged or over(data, of)}   ")).append_text(legend(marked(drawn), ascii_only))
    noise = of[0].model.noise_kl if of else math.nan
    body = axes(measure, drawn, noise, width, height - 1, n_layers, chosen, ascii_only)
    return exactly([head, *body], width, height, ascii_only)


def axes(
    measure: str,
    drawn: Sequence[Series],
    noise: float,
    width: int,
    height: int,
    n_layers: int,
    chosen: tuple[str, float] | None = None,
    ascii_only: bool = False,
) -> list[Text]:
    """The plot alone, over all layers or over what the rows span."""
    ends = (0.0, n_layers - 1.0)
    if drawn and not drawn[0].axis.startswith("layer"):
        ends = (min(one.span[0] for one in drawn), max(one.span[1] for one in drawn))
    rule = chosen and (chosen[1], next((one.name for one in drawn if one.kind == chosen[0]), ""))
    look = {"scale": SCALES[measure], "ends": ends, "floor": np.nanmax([LEAST, noise])}
    return plot(marked(drawn), width, height, rule=rule, ascii_only=ascii_only, **look)


def title(measure: str, axis: str) -> Text:
    return Text.assemble((f"{TITLES[measure]}, by {axis}", "bold"))


def over(data: Sequence[Sweep] | CorpusSweep, of: Sequence[Sweep | CorpusSweep]) -> str:
    """What the means of `parts(data)` are over."""
    if not of:
        return "nothing run"
    bars = "" if isinstance(of[0], Sweep) or of[0].documents == 1 else ", bars 95 %"
    return f"mean over {over_words(of[0], 'document' if of[0] is data else 'prompt')}{bars}"
