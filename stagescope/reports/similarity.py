"""A Similarity as JSON and as plain text: how much each layer turns the stream, which layers could be left out
together, which depths look alike. NaN is null, and blank."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.protocol import Similarity
from stagescope.reports.reading import model_json, number, numbers
from stagescope.reports.sweep import LINE, sweep_head
from stagescope.text import printable

APART = (1, 2, 4, 8)  # layers left out together
ALIKE = 0.9  # CKA that any two depths of a block have at least: the tool's own bound
BAR = 6, 40  # cells: fewest worth drawing, and most


# ----------------------------------------------------------------------------------------- what it comes to


def nearest(found: Similarity, n: int) -> tuple[int, float] | None:
    """Which n layers in a row turn the stream least: the first of them and the angular distance of x before and after
    them (Gromov et al. 2024, who leave those out). None where the model has fewer, or no document a distance."""
    apart = found.angular.diagonal(n)
    if not len(apart) or np.isnan(apart).all():
        return None
    start = int(np.nanargmin(apart))
    return start, float(apart[start])


def span_words(first: int, n: int) -> str:
    """Layers as a schedule names them: 20, 20-23."""
    return f"{first}" if n == 1 else f"{first}-{first + n - 1}"


def blocks(found: Similarity, alike: float = ALIKE) -> list[tuple[int, int]]:
    """The depths in blocks (first, last), any two depths of one with a CKA of `alike` at least: each as long as it can
    be from the first depth on. Empty where there is no CKA."""
    if np.isnan(found.cka).all():
        return []
    ends = [0]
    for depth in range(1, len(found.cka)):
        if not (found.cka[depth, ends[-1] : depth] >= alike).all():  # NaN is like nothing
            ends.append(depth)
    return [(first, after - 1) for first, after in zip(ends, [*ends[1:], len(found.cka)], strict=True)]


# -------------------------------------------------------------------------------------------------- JSON


def similarity_json(found: Similarity) -> dict[str, Any]:
    """Schema similarity/1. Matrices are over depths, 0 the embedding; an interval is null for one document."""
    return {
        "schema": "similarity/1",
        "model": model_json(found.model),
        "source": found.source,
        "documents": found.documents,
        "tokens_scored": found.tokens_scored,
        "n_skipped": found.n_skipped,
        "skipped": list(found.skipped),
        "n_cut": found.n_cut,
        "layers": [
            {"layer": layer, "influence": {"mean": number(mean), "low": number(low), "high": number(high)}}
            for layer, (mean, low, high) in enumerate(found.influence)
        ],
        "nearest": [
            {"n": n, "first_layer": where[0], "last_layer": where[0] + n - 1, "angular": number(where[1])}
            for n in APART
            if (where := nearest(found, n))
        ],
        "angular": [numbers(row) for row in found.angular],
        "cka_of": "each token's stream at unit length",
        "cka_tokens": found.cka_tokens,
        "cka_blocks": {"alike": ALIKE, "depths": [list(block) for block in blocks(found)]},
        "cka": [numbers(row) for row in found.cka],
    }


# -------------------------------------------------------------------------------------------- plain text


def similarity_text(found: Similarity, width: int = LINE) -> list[Text | Table]:
    """Block influence by layer, the last on top, in `width` cells; then what the two matrices come to."""
    several = found.documents > 1
    counts = [(found.n_cut, "cut"), (found.n_skipped, "left out")]
    of = f"{found.documents:,} document{'' if found.documents == 1 else 's'}"
    over = ", ".join([f"{found.tokens_scored:,} tokens of {of}", *(f"{n:,} {what}" for n, what in counts if n)])
    intervals = ", with 95 % intervals over documents" if several else ""
    lines: list[Text | Table] = [sweep_head(found.model), Text(f"{printable(found.source)}: {over}")]
    lines.append(Text(f"block influence, 1 - cos of the stream before and after a layer{intervals}", style="bold"))
    lines.append(_table(found, width))
    about = "least angular distance (1 is opposite) of the stream before and after layers in a row:"
    lines.append(Text(about, style="bold"))
    near = [Text(words) for n in APART if (words := nearest_words(found, n))]
    lines += near or [Text("none: no document has two tokens")]
    lines.append(Text(blocks_words(found), style="bold"))
    about = "unbiased linear CKA of each token's stream at unit length, but for first tokens"
    return [*lines, Text(about, style="dim")]


def nearest_words(found: Similarity, n: int) -> str:
    """ "  4 layers: 0.110 over 20-23"; "" where there is none."""
    if not (where := nearest(found, n)):
        return ""
    start, distance = where
    return f"{n:>3} layer{'s' if n > 1 else ' '}  {distance:.3f} over {span_words(start, n)}"


def blocks_words(found: Similarity) -> str:
    """ "CKA over 960 tokens, in blocks of depths alike to 0.9: e, 1-3, 4-29, 30" """
    if not (of := blocks(found)):
        return f"no CKA: {found.cka_tokens} tokens, it takes 4 that differ"
    depths = ["e", *map(str, range(1, len(found.cka)))]
    named = [depths[first] if first == last else f"{depths[first]}-{depths[last]}" for first, last in of]
    return f"CKA over {found.cka_tokens:,} tokens, in blocks of depths alike to {ALIKE}: {', '.join(named)}"


def _table(found: Similarity, width: int) -> Table:
    several = found.documents > 1
    titles = ["layer", "influence", *["95 %"] * several]
    rows = []
    for layer in reversed(range(found.model.n_layers)):
        mean, low, high = found.influence[layer]
        interval = [f"{_share(low)}-{_share(high)}" if not math.isnan(low) else ""] * several
        rows.append([str(layer), _share(mean), *interval])
    taken = sum(2 + max(map(cell_len, column)) for column in zip(titles, *rows, strict=True))
    room, values = min(width - taken, BAR[1]), found.influence[::-1, 0]
    bars = room >= BAR[0] and not np.isnan(values).all()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    if bars:
        table.add_column("", no_wrap=True)
    top = np.nanmax(values) if bars else 1.0
    for row, value in zip(rows, values, strict=True):
        filled = 0 if math.isnan(value) or top <= 0 else max(round(value / top * room), 0)
        table.add_row(*row, *([Text("━" * filled)] if bars else []))
    return table


def _share(value: float) -> str:
    """Influence is 0 to 2, in most layers a few hundredths."""
    return "" if math.isnan(value) else f"{value:.4f}"
