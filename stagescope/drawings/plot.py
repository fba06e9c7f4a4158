"""Curves of a sweep by layer, as in Figure 3 of arXiv 2406.19384: what is drawn where, and one panel of it.

No meaning rests on hue: series differ in their markers. Whatever is not done is not drawn.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.text import Text

from stagescope.drawings.curves import LEAST, MARKS, Curve, Mark, exactly, legend, plot, power_of_two
from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow
from stagescope.reports.sweep import over_words, parts, summary
from stagescope.reports.sweep_units import one_layer

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
    # a class of neurons is filled, its random control hollow and of the same colour
    "prediction": MARKS[0],
    "random pred.": Mark("○", "0", MARKS[0].colour),
    "suppression": Mark("▲", "A", MARKS[1].colour),
    "random supp.": Mark("△", "^", MARKS[1].colour),
    "random": MARKS[6],
}
HEADS = "layer and head"  # of the heads of several layers: not curves but a grid
SETS = "k, the strongest together"  # x is log2 of k


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
    """One for each kind, and for each variant of painters, repeat and neurons. Where several rows stand at one x (seeds
    of a shuffle, partners of a pair) their mean is drawn, without an interval; of random sets of neurons with the range
    of the draws."""
    points: dict[tuple[str, str, str], dict[float, list[np.ndarray]]] = {}
    for part in of:
        outcomes = summary(part, measure)[:, [0, 2, 3]]
        before: Counter[str] = Counter()
        for index, row in enumerate(part.rows):
            name, axis, places = _place(row, index, before[row.variant], one_layer(part) if row.kind == "heads" else None)
            before[row.variant] += row.kind == "neurons"
            at = points.setdefault((name, row.kind, axis), {})
            for x in places:
                here = at.setdefault(x, [])
                if math.isfinite(outcomes[index, 0]):
                    here.append(outcomes[index])
    drawn = [_one_series(*names, at) for names, at in points.items()]
    return sorted(drawn, key=lambda one: one.axis == SETS and not one.name.startswith("random"))  # controls lie below


def _place(row: SweepRow, index: int, before: int, layer: int | None) -> tuple[str, str, list[float]]:
    """Series, axis and x of a row. A swap stands between its layers, so between the drops it is compared with.

    before: how many neurons of its class came before it. layer: the one that all heads are of, if they are of one.
    """
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
        case "heads":
            return "heads", HEADS if layer is None else f"head of layer {layer}", [float(row.index)]
        case "neurons":
            return row.variant, "place in its class, the strongest first", [before + 1.0]
        case "neuron-sets":
            return set_name(row.variant), SETS, [math.log2(row.index)]
        case kind:
            return kind, "layer", [float(row.layer)]


def set_name(variant: str) -> str:
    """Of a series of sets of neurons, short enough for a legend: "random supp."."""
    return variant.replace("random as prediction", "random pred.").replace("random as suppression", "random supp.")


def _layers_named(schedule: str) -> list[int]:
    """The two layers of `drop 4 9` or `drop 4-5`."""
    return [int(layer) for layer in re.findall(r"\d+", schedule)]


def _one_series(name: str, kind: str, axis: str, at: dict[float, list[np.ndarray]]) -> Series:
    most = max(map(len, at.values()))
    xs = sorted(x for x in at if at[x])
    y = [at[x][0] if len(at[x]) == 1 else _several(np.array(at[x])[:, 0], kind) for x in xs]
    name = f"{name} (mean of {most})" if most > 1 and kind not in ("heads", "neuron-sets") else name
    return Series(name, kind, axis, (min(at), max(at)), np.array(xs, float), np.array(y, float).reshape(-1, 3))


def _several(means: np.ndarray, kind: str) -> list[float]:
    ends = [means.min(), means.max()] if kind == "neuron-sets" else [math.nan, math.nan]
    return [means.mean(), *ends]


def marked(drawn: Sequence[Series]) -> list[Curve]:
    """As curves, each with its marker."""
    marks = [MARK_OF.get(one.kind) or MARK_OF.get(one.name) or MARKS[index % len(MARKS)] for index, one in enumerate(drawn)]
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

    The first line says what is drawn over what and is the legend. chosen: kind (or name) and x of a point to mark. averaged: what
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
    rule = chosen and (chosen[1], next((one.name for one in drawn if chosen[0] in (one.kind, one.name)), ""))
    look = {"scale": SCALES[measure], "ends": ends, "floor": np.nanmax([LEAST, noise])}
    look["named"] = power_of_two if drawn and drawn[0].axis == SETS else str
    return plot(marked(drawn), width, height, rule=rule, ascii_only=ascii_only, **look)


def title(measure: str, axis: str) -> Text:
    return Text.assemble((f"{TITLES[measure]}, by {axis}", "bold"))


def over(data: Sequence[Sweep] | CorpusSweep, of: Sequence[Sweep | CorpusSweep], axis: str = "layer") -> str:
    """What the means of `parts(data)` are over, and what bars are."""
    if not of:
        return "nothing run"
    bars = [] if isinstance(of[0], Sweep) or of[0].documents == 1 else ["bars 95 %"]
    bars += ["random: range of draws"] if axis == SETS else []
    return ", ".join([f"mean over {over_words(of[0], 'document' if of[0] is data else 'prompt')}", *bars])
