"""An Evidence as JSON and as plain text: attention to near tokens (Figure 4), norms (Figures 5 and 7).

Numbers are pooled over every position but 0, the attention sink. Intervals are 95 %, by bootstrap over documents; one
document has none. NaN is null, and blank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.pool import interval
from stagescope.engine.protocol import OF_DEPTHS, OF_LAYERS, OFFSETS, Evidence
from stagescope.reports.reading import model_json, number
from stagescope.reports.sweep import LINE, STATISTICS, sweep_head
from stagescope.text import printable

ATTENTION = ("sink_mass", *(f"prev{k}_mean_weight" for k in OFFSETS), *(f"prev{k}_no_sink" for k in OFFSETS))
NORMS = ("attn_norm", "mlp_norm", "resid_norm", "attn_rel", "mlp_rel")
SPARED = ("95 %", "median", "top head", "x uniform", "MLP/x", "attn/x")  # columns, the first to go where a line is short
MOST_HEADS = 4  # named below a table
BAR = 6, 40  # cells: fewest worth drawing, and most


# ----------------------------------------------------------------------------------------- what it comes to


def of_heads(evidence: Evidence, name: str) -> np.ndarray:
    """[L, H] of a measure in ATTENTION."""
    if name == "sink_mass":
        return evidence.head_sink
    k, reading = name.removeprefix("prev").split("_", 1)
    return (evidence.head_no_sink if reading == "no_sink" else evidence.head_prev)[..., OFFSETS.index(int(k))]


def uniform_of(evidence: Evidence, name: str) -> float:
    """What a measure in ATTENTION would be if every query looked evenly at all it can see."""
    if name == "sink_mass":
        return float(evidence.uniform_sink)
    k, reading = name.removeprefix("prev").split("_", 1)
    return float((evidence.uniform_no_sink if reading == "no_sink" else evidence.uniform)[OFFSETS.index(int(k))])


def strongest(values: np.ndarray, most: int) -> list[tuple[int, int]]:
    """(layer, head) of the greatest of [L, H], greatest first; NaN is none."""
    flat = np.where(np.isnan(values), -np.inf, values).ravel()
    order = [int(place) for place in np.argsort(-flat, kind="stable")[:most] if flat[place] > -np.inf]
    return [divmod(place, values.shape[1]) for place in order]


@lru_cache(maxsize=4)  # a screen asks at every key, and drawing 1,000 documents anew takes 40 ms
def ratio_of_means(evidence: Evidence) -> np.ndarray:
    """[L, 3] mean attention norm / mean MLP norm, low and high end of its interval. The mean of the tokens' ratios,
    the other reading of Figure 5, is the measure `attn_mlp_ratio`: the paper does not say which it draws."""
    attn, mlp = evidence.of("attn_norm")[:, 0], evidence.of("mlp_norm")[:, 0]
    ratio = np.divide(attn, mlp, out=np.full(len(attn), np.nan), where=mlp > 0)
    ends = ratio * np.nan, ratio * np.nan
    if len(evidence.sums) > 1:  # there are none before it is complete
        rows = [(*OF_DEPTHS, *OF_LAYERS).index(name) for name in ("attn_norm", "mlp_norm")]
        sums = [np.nan_to_num(evidence.sums[:, row, :-1]) for row in rows]
        ends = interval(*sums)  # both are over the same tokens: their number cancels
    return np.stack([ratio, *ends], -1)


def n_measured(evidence: Evidence) -> int:
    """Layers that have numbers so far."""
    return evidence.model.n_layers if evidence.complete else int((~np.isnan(evidence.of("attn_norm")[:, 0])).sum())


def missing(evidence: Evidence, name: str) -> str:
    """Why a measure has no number at any layer: "sink-free needs 10 tokens, this prompt has 6". "" where it has."""
    if not evidence.complete or not np.isnan(evidence.of(name)[:, 0]).all():
        return ""
    what, needed = "this", 2
    if name.endswith("no_sink"):
        what, needed = "sink-free", int(name.removeprefix("prev").split("_")[0]) + 2
    if evidence.documents != 1:
        return f"{what} needs {needed} tokens, and no document has them"
    return f"{what} needs {needed} tokens, this prompt has {n_tokens(evidence)}"


def n_queries(evidence: Evidence, name: str) -> int:
    """Tokens whose attention enters a sink-free mean: those after the first k + 1 of each document; 0 until complete."""
    k = int(name.removeprefix("prev").split("_")[0])
    row = (*OF_DEPTHS, *OF_LAYERS).index(name)
    triples = float(np.nansum(evidence.counts[:, row, 0])) if len(evidence.counts) else 0.0
    return round(triples / (k * evidence.model.n_heads))


def n_tokens(evidence: Evidence) -> int:
    """Of a prompt, prefix included."""
    return evidence.tokens_scored + (evidence.model.prefix is not None)


# -------------------------------------------------------------------------------------------------- JSON


def attention_json(evidence: Evidence, subjoiner_heads: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Schema attention/1: every name of ATTENTION for each layer, each head and uniform attention.

    subjoiner_heads: of reports/heads.py, searched over words of the same text (Figure 9); None: it holds too few.
    """
    columns = {name: evidence.of(name) for name in ATTENTION}
    heads = {name: of_heads(evidence, name) for name in ATTENTION}
    return {
        "schema": "attention/1",
        **_head_json(evidence),
        "offsets": list(OFFSETS),
        "sink_free_tokens": {name: n_queries(evidence, name) for name in ATTENTION if name.endswith("no_sink")},
        "uniform": {name: number(uniform_of(evidence, name)) for name in ATTENTION},
        "layers": [
            {
                "layer": layer,
                **{name: number(values[layer, 0]) for name, values in columns.items()},
                "intervals": {
                    name: {"low": number(values[layer, 2]), "high": number(values[layer, 3])}
                    for name, values in columns.items()
                },
                "heads": [
                    {"head": head, **{name: number(values[layer, head]) for name, values in heads.items()}}
                    for head in range(evidence.head_sink.shape[1])
                ],
            }
            for layer in range(evidence.model.n_layers)
        ],
        "subjoiner_heads": subjoiner_heads,
    }


def norms_json(evidence: Evidence) -> dict[str, Any]:
    """Schema norms/1: L2 norms of what each sublayer writes, per token, and of the stream x before the layer;
    `rel` is contribution / ||x||. `centred`: the mean over the width was taken off first (LayerNorm models alone)."""
    columns = {name: evidence.of(name) for name in NORMS}
    of_ratios, of_means = evidence.of("attn_mlp_ratio"), ratio_of_means(evidence)
    return {
        "schema": "norms/1",
        **_head_json(evidence),
        "centred": evidence.model.norm == "layer",
        "layers": [
            {
                "layer": layer,
                **{name: _statistics(values[layer], STATISTICS) for name, values in columns.items()},
                "attn_mlp_ratio": {
                    "mean_of_ratios": _statistics(of_ratios[layer], STATISTICS),
                    "ratio_of_means": _statistics(of_means[layer], ("value", "low", "high")),
                },
            }
            for layer in range(evidence.model.n_layers)
        ],
    }


def _head_json(evidence: Evidence) -> dict[str, Any]:
    return {
        "model": model_json(evidence.model),
        "source": evidence.source,
        "documents": evidence.documents,
        "tokens_scored": evidence.tokens_scored,
        "n_skipped": evidence.n_skipped,
        "skipped": list(evidence.skipped),
        "n_cut": evidence.n_cut,
    }


def _statistics(values: np.ndarray, names: Iterable[str]) -> dict[str, float | None]:
    return {name: number(value) for name, value in zip(names, values, strict=True)}


# -------------------------------------------------------------------------------------------- plain text


def attention_text(evidence: Evidence, width: int = LINE, k: int = 5) -> list[Text | Table]:
    """Mean attention weight to each of the k tokens before, k of OFFSETS, by layer, the last on top."""
    names = weight, free = f"prev{k}_mean_weight", f"prev{k}_no_sink"
    columns = {name: evidence.of(name) for name in (*names, "sink_mass")}
    bar_of = weight if missing(evidence, free) else free
    uniform = uniform_of(evidence, bar_of)
    heads = of_heads(evidence, bar_of)
    several = evidence.documents > 1
    counted = n_queries(evidence, free)
    titles = ["layer", "with sink", *["95 %"] * several, "sink-free", *["95 %"] * several, "x uniform", "sink", "top head"]
    rows = []
    for layer in reversed(range(evidence.model.n_layers)):
        row = [str(layer)]
        for name in names:
            row += [weigh(columns[name][layer, 0]), *[_interval(*columns[name][layer, 2:])] * several]
        times = columns[bar_of][layer, 0] / uniform if uniform > 0 else math.nan
        best = strongest(heads[layer : layer + 1], 1)
        row += [_form(times, ".2f"), weigh(columns["sink_mass"][layer, 0])]
        rows.append([*row, f"H{best[0][1]} {weigh(heads[layer, best[0][1]])}" if best else ""])
    each = "the token" if k == 1 else f"each of the {k} tokens"
    drawn = "with sink" if bar_of == weight else "sink-free"
    even = [weigh(uniform_of(evidence, name)) or "none" for name in (*names, "sink_mass")]
    named = [f"{at}.{head} {weigh(heads[at, head])}" for at, head in strongest(heads, MOST_HEADS)]
    lines = [
        *_head(evidence),
        Text(f"mean attention weight to {each} before (Figure 4); bars {drawn}", style="bold"),
        _table(titles, rows, columns[bar_of][:, 0], width, uniform),
        Text(f"uniform attention (┊): {even[0]} with sink, {even[1]} sink-free, sink {even[2]}"),
        *([Text(f"sink-free: {counted:,} tokens look that far back without reaching the first")] if counted else []),
        *([Text(f"strongest heads, {drawn}: {', '.join(named)}")] if named else []),
    ]
    return [*lines, *(Text(why, style="bold") for name in names if (why := missing(evidence, name)))]


def norms_text(evidence: Evidence, width: int = LINE) -> list[Text | Table]:
    """Norms of the sublayers' contributions by layer, the last on top, and their ratio in both readings."""
    columns, ratios, means = [evidence.of(n) for n in NORMS], evidence.of("attn_mlp_ratio"), ratio_of_means(evidence)
    titles = ["layer", *("attn", "median"), *("MLP", "median"), *("||x||", "median"), "attn/x", "MLP/x", "m(a/m)", "m/m"]
    rows = []
    for layer in reversed(range(evidence.model.n_layers)):
        absolute = [_size(value) for values in columns[:3] for value in values[layer, :2]]
        relative = [_size(values[layer, 0]) for values in (*columns[3:], ratios, means)]
        rows.append([str(layer), *absolute, *relative])
    lines = [
        *_head(evidence),
        Text("norm of what each sublayer writes, mean and median over tokens (Figures 5 and 7)", style="bold"),
        _table(titles, rows, columns[1][:, 0], width),
        Text("attn/MLP: m(a/m) is the mean of the tokens' ratios, m/m the ratio of the means"),
    ]
    if evidence.model.norm == "layer":
        lines.append(Text("LayerNorm: contributions without their mean over the width, which no norm sees"))
    else:
        lines.append(Text("RMSNorm: contributions as they are, nothing is centred"))
    largest = strongest(columns[1][:, :1], 1)
    lines += [Text(f"the MLP norm is largest at layer {largest[0][0]}")] if largest else []
    return [*lines, *([Text(why, style="bold")] if (why := missing(evidence, "attn_norm")) else [])]


def over_words(evidence: Evidence) -> str:
    """ "12 tokens"; "5,012 tokens of 16 documents, 2 cut, 1 left out" """
    if evidence.documents == 1 and not evidence.n_skipped:
        return f"{n_tokens(evidence):,} tokens"
    counts = [(evidence.n_cut, "cut"), (evidence.n_skipped, "left out")]
    of = f"{evidence.documents:,} document{'' if evidence.documents == 1 else 's'}"
    return ", ".join([f"{evidence.tokens_scored:,} tokens of {of}", *(f"{n:,} {what}" for n, what in counts if n)])


def weigh(value: float) -> str:
    """A mean attention weight in at most five cells: .102 .0052 1.00; "" for NaN."""
    if math.isnan(value):
        return ""
    return "1.00" if value >= 0.9995 else f"{value:.{3 if value >= 0.01 else 4}f}"[1:]


def _head(evidence: Evidence) -> list[Text]:
    """Model and text, in LINE cells; a long name of a text loses its beginning."""
    source, over = printable(evidence.source), f": {over_words(evidence)}"
    while source and cell_len(f"…{source}{over}") > LINE:
        source = source[1:]
    source = source if len(source) == len(printable(evidence.source)) else f"…{source}"
    intervals = [Text("95 % intervals over documents", style="dim")] if evidence.documents > 1 else []
    return [sweep_head(evidence.model), Text(source + over), *intervals]


def _table(titles: list[str], rows: list[list[str]], values: np.ndarray, width: int, mark: float = math.nan) -> Table:
    """Columns as wide as their cells, one or two apart as the width allows, then bars of `values` by layer. What does not
    fit is left out, by name."""
    cells = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    left_out = []
    for name in SPARED:
        if name in titles and sum(cells) + len(cells) > width:
            left_out.append(name)
            kept = [at for at, title in enumerate(titles) if title != name]
            titles, cells, *rows = ([line[at] for at in kept] for line in (titles, cells, *rows))
    gap = 2 if sum(cells) + 2 * len(cells) + BAR[0] <= width else 1
    room = min(width - sum(cells) - gap * len(cells), BAR[1])
    bars = room >= BAR[0] and not np.isnan(values).all()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, gap, 0, 0), caption_justify="left")
    if left_out:
        table.caption = f"no room for: {', '.join(left_out)}"
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    if bars:
        table.add_column("", no_wrap=True)
    top = np.nanmax([*values, mark]) if bars else math.nan
    for row, value in zip(rows, values[::-1], strict=True):
        table.add_row(*row, *([Text(_bar(value, top, room, mark))] if bars else []))
    return table


def _bar(value: float, top: float, width: int, mark: float) -> str:
    """From 0 to `top`; a mark where even attention would end."""
    filled = 0 if math.isnan(value) or not top > 0 else round(value / top * width)
    cells = list("━" * filled + " " * (width - filled))
    if not math.isnan(mark) and top > 0:
        cells[min(round(mark / top * width), width - 1)] = "┊"
    return "".join(cells).rstrip()


def _size(value: float) -> str:
    """At most five cells for what is below 100,000."""
    if math.isnan(value):
        return ""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.995 else 3}f}"


def _form(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{weigh(low)}-{weigh(high)}"
