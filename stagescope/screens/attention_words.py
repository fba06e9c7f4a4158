"""What the attention screen draws and says: panels of curves, layers x heads as shades, one point in full.

All text harmless. No meaning rests on hue: curves differ in their markers, heads in their shades.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.content import Content

from stagescope import actions
from stagescope.drawings import head_grid
from stagescope.drawings.shades import shade, shade_key
from stagescope.engine.protocol import OFFSETS, Evidence
from stagescope.reports.evidence import (
    missing,
    n_measured,
    of_heads,
    ratio_of_means,
    strongest,
    uniform_of,
    weigh,
)
from stagescope.screens.sweep_words import CHOSEN, QUIET
from stagescope.screens.widgets.glyphs import Glyphs, number
from stagescope.text import fit

# view -> its measures: panels, or readings of the grid
VIEWS = {
    "near": {"near": "weight", "sink": "sink mass"},
    "heads": {"no_sink": "sink-free", "mean_weight": "with sink", "sink_mass": "sink mass"},
    "norms": {"norms": "norm", "relative": "of ||x||", "ratio": "ratio"},
}
TITLES = {"near": "near tokens", "heads": "heads", "norms": "norms"}
UNIFORM, UNIFORM_FREE = ("╌", "-", (150, 150, 150)), ("┈", ".", (150, 150, 150))
STEPS = (0.1, 0.25, 0.5, 0.75)  # of all that a head's attention could be: where the next shade begins


def name_of(reading: str, k: int) -> str:
    """The measure that a reading of the grid shows."""
    return reading if reading == "sink_mass" else f"prev{k}_{reading}"


# --------------------------------------------------------------------------------------------------- lines


def text_line(label: str, text: str, told: str, width: int, glyphs: Glyphs) -> Content:
    """ "prompt ▸ The Eiffel Tower is in · 12 tokens" """
    after = f" {glyphs.zero} {told}" if told else ""
    room = width - len(label) - 3 - cell_len(after)
    shown = fit(text, max(room, 0), glyphs.ascii_only).rstrip()
    return Content.assemble((f"{label} {glyphs.cursor} ", QUIET), shown, (after, QUIET))


def view_line(view: str, measure: str | None, k: int, width: int, glyphs: Glyphs) -> Content:
    """Views, then the measures of this one and the offsets k, the ones that are shown marked; a click chooses.

    measure: None when all are drawn.
    """

    def choice(text: str, chosen: bool, does: str, mark: bool = True) -> Content:
        told = f"{glyphs.cursor}{text}" if chosen and mark else text
        return Content.styled(told, CHOSEN if chosen else QUIET).stylize(f"@click=screen.{does}")

    left = Content("   ").join(choice(TITLES[one], one == view, f"view('{one}')") for one in VIEWS)
    names = VIEWS[view].items()
    measures = Content("  ").join(
        choice(name, measure in (None, key), f"measure('{key}')", measure is not None) for key, name in names
    )
    offsets = [choice(str(one), one == k, f"offset({one})") for one in OFFSETS]
    right = measures
    if view != "norms":
        every = Content.assemble(measures, ("   k ", QUIET), Content(" ").join(offsets))
        fits = left.cell_length + 2 + every.cell_length <= width
        right = every if fits else Content.assemble(measures, (f"  k {k}", QUIET))
    return Content.assemble(left, " " * max(width - left.cell_length - right.cell_length, 2), right)


def point(evidence: Evidence, view: str, k: int, layer: int, head: int, glyphs: Glyphs) -> list[str]:
    """A layer, or a head of it, in full.

    layer 3 head 2 · to each of 5 before: sink-free .102, 1.4 x uniform (.074) · with sink .081, ...
    """
    if not evidence.complete and math.isnan(evidence.of("attn_norm")[layer, 0]):
        return [f"layer {layer}", "not measured yet"]
    if view == "norms":
        return [f"layer {layer}", *_norm_words(evidence, layer)]
    each = "the token" if k == 1 else f"each of {k}"
    parts = [f"layer {layer} head {head}" if view == "heads" else f"layer {layer}"]
    for reading, title in VIEWS["heads"].items():
        name = name_of(reading, k)
        value, low, high = evidence.of(name)[layer, [0, 2, 3]]
        if view == "heads":
            value, low = of_heads(evidence, name)[layer, head], math.nan
        title = f"to {each} before: {title}" if reading == "no_sink" else title
        parts.append(f"{title} {_value(value, low, high, uniform_of(evidence, name))}")
        if math.isnan(value):
            parts[-1] = missing(evidence, name) or f"{title}: no number"
    if view == "near":
        reading = name_of("mean_weight" if missing(evidence, name_of("no_sink", k)) else "no_sink", k)
        heads = of_heads(evidence, reading)[layer : layer + 1]
        best = [f"H{head} {weigh(heads[0, head])}" for _, head in strongest(heads, 3)]
        parts += [f"strongest heads {', '.join(best)}"] if best else []
    return parts


def _value(value: float, low: float, high: float, uniform: float) -> str:
    """ ".102 [.098-.107], 1.4 x uniform (.074)" """
    spread = "" if math.isnan(low) else f" [{weigh(low)}-{weigh(high)}]"
    return f"{weigh(value)}{spread}" + (f", {number(value / uniform)} x uniform ({weigh(uniform)})" if uniform > 0 else "")


def _norm_words(evidence: Evidence, layer: int) -> list[str]:
    if why := missing(evidence, "attn_norm"):
        return [why]
    parts = []
    for name, title in (("attn", "attn"), ("mlp", "MLP")):
        mean, median, low, high = evidence.of(f"{name}_norm")[layer]
        spread = "" if math.isnan(low) else f" [{number(low)}-{number(high)}]"
        share = number(evidence.of(f"{name}_rel")[layer, 0])
        middle = "" if math.isnan(median) else f", median {number(median)}"
        parts.append(f"{title} mean {number(mean)}{spread}{middle}, {share} of ||x||")
    parts.append(f"||x|| {number(evidence.of('resid_norm')[layer, 0])}")
    of_ratios, of_means = evidence.of("attn_mlp_ratio")[layer, 0], ratio_of_means(evidence)[layer, 0]
    return [*parts, f"attn/MLP {number(of_ratios)} mean of ratios, {number(of_means) or 'no'} ratio of means"]


# -------------------------------------------------------------------------------------------------- curves


def panel(name: str, evidence: Evidence, k: int, layer: int, width: int, height: int, glyphs: Glyphs) -> Text:
    """One panel of a view of curves, `name` of VIEWS: exactly `height` lines. What has no number says why instead."""
    from stagescope.drawings import curves

    def curve(title: str, y: np.ndarray, mark: curves.Mark) -> curves.Curve:
        """Of the layers that are known: y [L] or [L, 3]."""
        y = np.stack([y, y * np.nan, y * np.nan], -1) if y.ndim == 1 else y
        known = ~np.isnan(y[:, 0])
        return curves.Curve(title, mark, np.flatnonzero(known).astype(float), y[known])

    def measured(title: str, measure: str, mark: int) -> curves.Curve:
        why = missing(evidence, measure)
        return curve(why or title, evidence.of(measure)[:, [0, 2, 3]], curves.MARKS[mark])

    def level(title: str, y: float, mark: tuple) -> curves.Curve:
        """Dots from end to end: points more than a layer apart are not joined."""
        x = np.arange(0, last + 0.01, 1.02)
        y = np.stack([np.full(len(x), y), x * np.nan, x * np.nan], -1)
        return curves.Curve(title, curves.Mark(*mark), x, y, level=True)

    last = evidence.model.n_layers - 1
    levels = []
    weight, free = name_of("mean_weight", k), name_of("no_sink", k)
    match name:
        case "near":
            before = "the token before" if k == 1 else f"{k} tokens before"
            title, scale = f"to {before}" if width < 110 or k == 1 else f"mean weight to each of {before}", "linear"
            drawn = [measured("with sink", weight, 0), measured("sink-free", free, 1)]
            levels = [level("uniform", uniform_of(evidence, weight), UNIFORM)]
            levels += [level("uniform sink-free", uniform_of(evidence, free), UNIFORM_FREE)]
        case "sink":
            title, scale = "attention to token 0, the sink", "share"
            drawn = [measured("sink mass", "sink_mass", 2)]
            levels = [level("uniform", uniform_of(evidence, "sink_mass"), UNIFORM)]
        case "norms":
            title, scale = "norm, log axis", "log"
            names = {"attn_norm": "attn writes", "mlp_norm": "MLP writes", "resid_norm": "||x|| before"}
            drawn = [measured(text, measure, mark) for mark, (measure, text) in enumerate(names.items())]
        case "relative":
            title, scale = "contribution / ||x||, log axis", "log"
            drawn = [measured("attn", "attn_rel", 0), measured("MLP", "mlp_rel", 1)]
        case "ratio":
            title, scale = "attn norm / MLP norm", "linear"
            drawn = [measured("mean of ratios", "attn_mlp_ratio", 3)]
            drawn += [curve("ratio of means", ratio_of_means(evidence), curves.MARKS[4])]
            levels = [level("equal", 1.0, UNIFORM)]
    levels = [one for one in levels if not np.isnan(one.y[:, 0]).any()]
    head = Text.assemble((title, "bold"), "   ").append_text(curves.legend([*drawn, *levels], glyphs.ascii_only))
    look = {"scale": scale, "ends": (0.0, last), "rule": (layer, None), "ascii_only": glyphs.ascii_only}
    body = curves.plot([*levels, *drawn], width, height - 1, **look)  # what is measured lies on top
    return curves.exactly([head, *body], width, height, glyphs.ascii_only)


# --------------------------------------------------------------------------------------------------- heads


def grid(
    evidence: Evidence, reading: str, k: int, layer: int, head: int, width: int, height: int, glyphs: Glyphs
) -> Text:
    """Layers, the last on top, x heads, as shades of one reading: exactly `height` lines of at most `width` cells."""
    name = name_of(reading, k)
    values, why, scale = of_heads(evidence, name), missing(evidence, name), 1 if reading == "sink_mass" else k
    drawn = partial(shade, steps=[step / scale for step in STEPS], ascii_only=glyphs.ascii_only)
    key = Text(why, "bold") if why else Text(_key(scale, glyphs.ascii_only), "dim")
    above, side = [Text(_caption(evidence, reading, k)), key], _side(evidence, values, name, height)
    return head_grid.grid(values, drawn, above, side, (layer, head), width, height, glyphs.ascii_only)


def _caption(evidence: Evidence, reading: str, k: int) -> str:
    what = VIEWS["heads"][reading]
    if reading != "sink_mass":
        what += " weight to the token before" if k == 1 else f" weight to each of {k} before"
    even = weigh(uniform_of(evidence, name_of(reading, k)))
    return f"{what}; uniform {even}" if even else what


def _key(scale: int, ascii_only: bool) -> str:
    """Where each shade begins, and what the most is that could be."""
    key = shade_key(["0", *(weigh(step / scale) for step in STEPS)], ascii_only)
    return f"mean weight from {key}; {weigh(1 / scale)} is all it has"


def _side(evidence: Evidence, values: np.ndarray, name: str, most: int) -> list[str]:
    """The strongest heads, a line each."""
    uniform = uniform_of(evidence, name)
    found = strongest(values, max(most - 1, 0))
    lines = ["strongest, x uniform"] if found else []
    for layer, head in found:
        value = float(values[layer, head])
        times = f"{number(value / uniform):>4}x" if uniform > 0 else ""
        lines.append(f"L{layer:<2} H{head:<2} {weigh(value):<5} {times}")
    return lines


def count(evidence: Evidence | None, of: int, running: bool) -> str:
    """12 layers; 6 of 12 layers; of a text, where every document brings all layers: 12 layers so far. r goes on"""
    if evidence is not None and evidence.complete:
        return f"{of} layers"
    done = n_measured(evidence) if evidence else 0
    told = f"{of} layers so far" if done == of else f"{done} of {of} layers"
    return told + ("" if running else f"; {actions.key('rest', 'attention')} goes on")
