"""The words of the neurons screen's lines: layers, the strongest neurons, one of them in full. All text harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from textual.content import Content

from stagescope.engine.protocol import Census, ModelInfo, NeuronRow, Neurons
from stagescope.engine.strongest import KINDS
from stagescope.reports.neurons import most_active, null_words, tokens_text
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

QUIET, HEAD = "$foreground 60%", "bold $foreground 60%"
HERE, ELSEWHERE = "on $primary 40%", "on $panel"  # the cursor's line in the pane that takes the keys, in the other
COLOURS = {"prediction": "$text-primary", "suppression": "$text-warning", "unsigned": "", "partition": ""}
WIDE = 120  # cells of the screen from which there is room for longer bars and whole sentences
BARS = ((76, 4), (WIDE, 12))  # cells of the screen -> of the layers' bars
SPARKS = ((80, 8), (96, 16), (120, 32))  # cells of the list -> of its sparklines


# ------------------------------------------------------------------------------------------------ layers


def about(census: Census | None, info: ModelInfo, width: int, glyphs: Glyphs) -> Content:
    """What the counts are worth: the null beside them, and what the sign rests on."""
    if census is None:
        return Content.styled("the census of neurons comes first", QUIET)
    dot = f" {glyphs.zero} "
    null = null_words(census) + (" have kurtosis > 10" if width >= WIDE else "")
    if census.degenerate:
        words = f"degenerate vocabulary: the counts say little{dot}{null}"
        return Content.styled(fit(words, width, glyphs.ascii_only), "bold $text-warning")
    sign = {
        "weights": "ungated: the sign is in the weights",
        "corpus": f"gated: signs from {printable(census.text)}",
        "none": "gated, no text: no neuron has a sign",
    }[census.orientation]
    return Content.styled(fit(f"{null}{dot}{sign}", width, glyphs.ascii_only), QUIET)


def counted(census: Census) -> dict[str, np.ndarray]:
    """What stands beside each layer: class -> [L]."""
    if census.orientation == "none":
        return {"high": census.high, "partition": census.partition}
    kinds = [kind for kind in KINDS if kind != "unsigned" or census.unsigned.any()]
    return {kind: getattr(census, kind) for kind in kinds}


def layers_width(census: Census, width: int) -> int:
    return 4 + 5 * len(counted(census)) + 1 + _widest(BARS, width)


def _widest(sizes: Sequence[tuple[int, int]], width: int) -> int:
    return max([0, *(cells for least, cells in sizes if width >= least)])


def layers_head(census: Census) -> Content:
    return Content.styled(" lay" + "".join(f" {kind[:4]}" for kind in counted(census)), HEAD)


def layer_line(census: Census, layer: int | None, width: int, cursor: str, glyphs: Glyphs) -> Content:
    """cursor: the mark before it."""
    columns = counted(census)
    parts: list = [f"{cursor}{'all' if layer is None else layer:>3}"]
    for kind, counts in columns.items():
        n = int(counts.sum() if layer is None else counts[layer])
        coloured = n and not census.degenerate
        parts.append((f" {_count(n):>4}", COLOURS.get(kind, "") if coloured else QUIET))
    room = width - 4 - 5 * len(columns) - 1
    share = np.nan if layer is None else census.high[layer] / max(int(census.high.max()), 1)
    return Content.assemble(*parts, " ", g.bar(share, room, glyphs))


def _count(n: int) -> str:
    return str(n) if n < 10_000 else g.number(n)


def layer_told(census: Census, layer: int | None) -> list[str]:
    """layer 12 · 61 of 1536 with kurtosis > 10 (4.0 %) · prediction 40 (2.6 %) · ..."""
    of = census.d_mlp * (len(census.high) if layer is None else 1)
    names = {"high": "with kurtosis > 10", "partition": "partition candidates"}
    told = [f"all {len(census.high)} layers" if layer is None else f"layer {layer}"]
    for kind, counts in {"high": census.high, **counted(census)}.items():
        n = int(counts.sum() if layer is None else counts[layer])
        total = f"{n} of {of}" if kind == "high" else str(n)
        told.append(f"{total} {names.get(kind, kind)} ({100 * n / of:.1f} %)")
    return told


# ------------------------------------------------------------------------------------------- the strongest


@dataclass(frozen=True)
class Columns:
    """Cells of each column of the list; 0: it is not there."""

    name: int
    kurtosis: int
    skew: int
    variance: int
    sign: int
    promoted: int
    suppressed: int
    here: int
    spark: int


def columns(width: int, info: ModelInfo, oriented: bool, n_tokens: int) -> Columns:
    """What fits in `width` cells: the tokens a neuron writes take what the numbers leave."""
    name = max(len(f"{info.n_layers - 1}.{info.d_mlp - 1}"), len("neuron"))
    spark = min(_widest(SPARKS, width), n_tokens)
    sizes = {
        "kurtosis": 4 if width >= 46 else 0,
        "skew": 5 if width >= 70 else 0,
        "variance": 4 if width >= 90 else 0,
        "sign": 4 if width >= 90 and oriented else 0,
        "here": 5 if n_tokens and width >= 46 else 0,
        "spark": spark,
    }
    taken = 1 + name + 1 + 4 + sum(size + 1 for size in sizes.values() if size) + 2
    room = max(width - taken, 0)
    return Columns(name=name, promoted=room - room // 2, suppressed=room // 2, **sizes)


def neurons_head(shape: Columns, width: int, ascii_only: bool) -> Content:
    words = [f" {'neuron':<{shape.name}}", "kind"]
    sized = [("kurt", shape.kurtosis), ("skew", shape.skew), ("var", shape.variance), ("sign", shape.sign)]
    words += [f"{word:>{size}}" for word, size in sized if size]
    words += [fit("promotes", shape.promoted, ascii_only), fit("suppresses", shape.suppressed, ascii_only)]
    words += [f"{'here':>{shape.here}}"] if shape.here else []
    words += [fit("by token", shape.spark, ascii_only)] if shape.spark else []
    return Content.styled(fit(" ".join(words), width, ascii_only), HEAD)


def neuron_line(
    row: NeuronRow,
    activation: np.ndarray,
    at: int,
    texts: dict[int, str],
    shape: Columns,
    width: int,
    cursor: str,
    coloured: bool,
    glyphs: Glyphs,
) -> Content:
    """One neuron in exactly `width` cells. activation: [T] as it fires; at: the position looked at."""
    ascii_only = glyphs.ascii_only
    numbers = [
        (g.number(row.kurtosis), shape.kurtosis),
        (f"{row.skew:+.1f}", shape.skew),
        (g.number(row.variance), shape.variance),
        (_share(row.consistency), shape.sign),
    ]
    name = fit(f"{row.layer}.{row.index}", shape.name, ascii_only)
    kind = (row.kind[:4], COLOURS[row.kind] if coloured else "")
    tokens = [
        fit(tokens_text(ids, texts, ascii_only), size, ascii_only)
        for ids, size in ((row.promoted, shape.promoted), (row.suppressed, shape.suppressed))
    ]
    after = [f"{g.number(float(activation[at])):>{shape.here}}"] if shape.here else []
    after += [spark(activation, shape.spark, glyphs)] if shape.spark else []
    rest = " ".join([*(f"{text:>{size}}" for text, size in numbers if size), *tokens, *after])
    room = width - len(cursor) - shape.name - 1 - len(kind[0]) - 1
    return Content.assemble(cursor, name, " ", kind, " ", fit(rest, max(room, 0), ascii_only))


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def spark(activation: np.ndarray, cells: int, glyphs: Glyphs) -> str:
    """Over the tokens, 0 among the ends of its scale; where they are more than cells, the largest of those that share
    one. Position 0, the attention sink, does not set the scale."""
    scale = activation[1:] if len(activation) > 1 else activation
    low, high = min(float(scale.min()), 0.0), max(float(scale.max()), 0.0)
    parts = np.array_split(activation, min(cells, len(activation)))
    return g.sparkline([part[np.abs(part).argmax()] for part in parts], low, high, glyphs).ljust(cells)


# ---------------------------------------------------------------------------------------------- one of them


def neuron_told(
    row: NeuronRow, activation: np.ndarray, at: int, strongest: Neurons, census: Census, glyphs: Glyphs
) -> tuple[list[str], list[str]]:
    """What it is, and what it does on the prompt.

    12.345 prediction · kurtosis 61.2 · skew +5.10 · variance .012
    mean activation negative (|E a| / E|a| 0.87): told as -w_out, activations turned too · here 1.23 at 9 ·city · most 4.50 at 4 ·Tower
    """
    facts = [f"{row.layer}.{row.index} {row.kind}" + (" candidate" if row.kind == "partition" else "")]
    facts += [f"kurtosis {row.kurtosis:.1f}", f"skew {row.skew:+.2f}", f"variance {g.number(row.variance)}"]
    does = []
    if census.orientation == "corpus":
        sign = int(census.sign[row.layer, row.index])
        words = {1: "positive", 0: "of either sign", -1: "negative"}[sign]
        turned = ": told as -w_out, activations turned too" if sign < 0 else ""
        does.append(f"mean activation {words} (|E a| / E|a| {_share(row.consistency)}){turned}")
    if strongest.tokens:
        for word, position in (("here", at), ("most", most_active(activation))):
            token = visible(strongest.tokens[position].text, glyphs.ascii_only)
            does.append(f"{word} {g.number(float(activation[position]))} at {position} {token}")
    return facts, does


def written(
    word: str, ids: Sequence[int], cosines: Sequence[float], texts: dict[int, str], width: int, glyphs: Glyphs
) -> str:
    """promotes ·Paris .51  ·London .48 ..., in `width` cells."""
    pairs = zip(ids, cosines, strict=True)
    told = "  ".join(f"{tokens_text([token], texts, glyphs.ascii_only)} {g.number(cos)}" for token, cos in pairs)
    return fit(f"{word:<10} {told}", width, glyphs.ascii_only)
