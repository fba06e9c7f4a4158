"""LensCurves, and the lens of an Evidence, as JSON and as plain text: both lenses side by side, so that a reader sees
what the erratum of arXiv 2406.19384 changes in its Figures 6 and 8, and at which depth a token arrives.

"standard" is the corrected lens, "v1" the paper's first one (the final depth's scale everywhere, no biases). Depth 0 is
the embedding: there the corrected lens echoes the token it reads, which looks like certainty and is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.lens_curves import arrival
from stagescope.engine.protocol import LENSES, Evidence, LensCurves
from stagescope.reports.reading import model_json, number
from stagescope.reports.sweep import LINE, STATISTICS, sweep_head
from stagescope.text import fit, printable, visible

NEAR_TOP = 10  # the second thing that is told of a token on its way: since when it is among so many
LENS_NAMES = {"standard": "corrected", "v1": "v1"}  # for people
MEASURES = ("entropy_bits", "kl_final_nats", "top1_final")  # of an Evidence, under each lens
TOKEN = 14  # cells of a token in a table
BAR = 6, 24  # cells: fewest worth drawing, and most
CAPTION = "corrected lens; v1: the paper's first one (final scale at every depth, no biases)"
ECHO = "depth e is the embedding: its echo of the token it reads is no certainty"


# ----------------------------------------------------------------------------------------- what it comes to


def arrival_words(curves: LensCurves, lens: int, token: int, ascii_only: bool = False) -> str:
    """ "“·Paris” is the top token from depth 27 of 30 on; in the top 10 from 22 on". token: an index of `followed`."""
    text = visible(curves.followed[token].text, ascii_only)
    name = f'"{text}"' if ascii_only else f"“{text}”"
    last = len(curves.layers) - 1
    top, near = (arrival(curves, lens, token, within) for within in (1, NEAR_TOP))
    if near is None:
        rank = curves.rank[lens, -1, token]
        return f"{name} does not arrive" + ("" if math.isnan(rank) else f": rank {rank:,.0f} at the last depth")
    if top is None:
        rank = f"rank {curves.rank[lens, -1, token]:.0f} at the last depth"
        return f"{name} is in the top {NEAR_TOP} from depth {near} of {last} on; {rank}"
    words = f"{name} is the top token from depth {top} of {last} on"
    return words if near == top else f"{words}; in the top {NEAR_TOP} from {near} on"


def erratum_words(entropy: Sequence[float], d_vocab: int, depth: int = 1, mean: bool = False) -> str:
    """What the erratum changes at a depth: entropy under both lenses, in the order of LENSES, beside log2 V."""
    what = "mean entropy" if mean else "entropy"
    return (
        f"erratum: {what} after the first block (depth {depth}): corrected {entropy[0]:.2f}, v1 {entropy[1]:.2f} bits; "
        f"log2 V is {math.log2(d_vocab):.2f}"
    )


# -------------------------------------------------------------------------------------------------- JSON


def lens_json(curves: LensCurves) -> dict[str, Any]:
    """Schema lens/1 of one position. `logit` is the logit but for a constant of the depth: only differences of one
    depth and lens mean anything. `arrives`: the first depth from which on the token is in the top 1 (10) to the end."""
    return {
        "schema": "lens/1",
        "model": model_json(curves.model),
        "prompt": curves.prompt,
        "tokens": [{"id": token.id, "text": token.text} for token in curves.tokens],
        "schedule": curves.schedule,
        "position": curves.position,
        "max_entropy_bits": math.log2(curves.model.d_vocab),
        "followed": [
            {
                "id": token.id,
                "text": token.text,
                "arrives": {
                    name: {f"top{within}": arrival(curves, lens, index, within) for within in (1, NEAR_TOP)}
                    for lens, name in enumerate(LENSES)
                },
            }
            for index, token in enumerate(curves.followed)
        ],
        "depths": [
            {**_place_json(depth, layers), **{name: _lens_json(curves, lens, depth) for lens, name in enumerate(LENSES)}}
            for depth, layers in enumerate(curves.layers)
        ],
    }


def _place_json(depth: int, layers: Sequence[int]) -> dict[str, Any]:
    return {"depth": depth, "layer": layers[0] if len(layers) == 1 else None, "layers": list(layers)}


def _lens_json(curves: LensCurves, lens: int, depth: int) -> dict[str, Any]:
    top = int(curves.top_ids[lens, depth])
    followed = zip(curves.rank[lens, depth], curves.p[lens, depth], curves.logit[lens, depth], strict=True)
    return {
        "entropy_bits": number(curves.entropy_bits[lens, depth]),
        "kl_final_nats": number(curves.kl_final_nats[lens, depth]),
        "top": {"id": top, "text": curves.texts.get(top, f"[id {top}]")},
        "followed": [{"rank": number(rank), "p": number(p), "logit": number(logit)} for rank, p, logit in followed],
    }


def lens_means_json(evidence: Evidence) -> dict[str, Any]:
    """Schema lens/1 of a text or several prompts: over every token but a prefix. NaN is null."""

    def of(lens: str, depth: int) -> dict[str, Any]:
        rows = {name: evidence.of(_measure(name, lens))[depth] for name in MEASURES}
        return {name: dict(zip(STATISTICS, map(number, row), strict=True)) for name, row in rows.items()}

    n_layers = evidence.model.n_layers
    return {
        "schema": "lens/1",
        "model": model_json(evidence.model),
        "source": evidence.source,
        "documents": evidence.documents,
        "tokens_scored": evidence.tokens_scored,
        "n_skipped": evidence.n_skipped,
        "skipped": list(evidence.skipped),
        "n_cut": evidence.n_cut,
        "max_entropy_bits": math.log2(evidence.model.d_vocab),
        "depths": [
            {**_place_json(depth, () if not depth else (depth - 1,)), **{lens: of(lens, depth) for lens in LENSES}}
            for depth in range(n_layers + 1)
        ],
    }


def _measure(name: str, lens: str) -> str:
    return name if lens == "standard" else f"{name}_{lens}"


# -------------------------------------------------------------------------------------------- plain text


def lens_text(curves: LensCurves, width: int = LINE) -> list[Text | Table]:
    """The curves at one position as a table, the last depth on top, in `width` cells; what has no room is named."""
    words = [visible(token.text) for token in curves.tokens]
    tokens = " ".join(f"[{word}]" if at == curves.position else word for at, word in enumerate(words))
    lines: list[Text | Table] = [sweep_head(curves.model), Text(f"tokens  {tokens}")]
    lines += [Text(f"edit    {printable(curves.schedule)}")] if curves.schedule else []
    lines += [Text(arrival_words(curves, 0, index), style="bold") for index in range(len(curves.followed))]
    if len(curves.layers) > 1:
        lines.append(Text(erratum_words(curves.entropy_bits[:, 1], curves.model.d_vocab)))
    depths = range(len(curves.layers))
    columns = {"H bits": [f"{value:.2f}" for value in curves.entropy_bits[0]]}
    columns["H v1"] = [f"{value:.2f}" for value in curves.entropy_bits[1]]
    columns["KL nats"] = [_kl(value) for value in curves.kl_final_nats[0]]
    columns["KL v1"] = [_kl(value) for value in curves.kl_final_nats[1]]
    for index, token in enumerate(curves.followed):
        name = fit(visible(token.text), TOKEN).rstrip()
        columns[f"#{name}"] = [f"{curves.rank[0, depth, index]:,.0f}" for depth in depths]
        columns[f"p {name}"] = [_p(curves.p[0, depth, index]) for depth in depths]
    for lens, name in enumerate(("top", "top v1")):
        columns[name] = [fit(visible(curves.texts.get(int(i), f"[id {i}]")), TOKEN).rstrip() for i in curves.top_ids[lens]]
    if len(curves.followed) == 2:
        columns["log odds"] = [f"{a - b:+.2f}" for a, b in curves.logit[0]]
    go_first = ("top v1", *(f"p {fit(visible(t.text), TOKEN).rstrip()}" for t in curves.followed[::-1]), "KL v1")
    named = ["e" if not layers else "+".join(map(str, layers)) for layers in curves.layers]
    lines += _table(named, columns, curves.entropy_bits, curves.model.d_vocab, width, go_first)
    return [*lines, Text(f"{CAPTION}; {ECHO}", style="dim")]


def lens_means_text(evidence: Evidence, width: int = LINE) -> list[Text | Table]:
    """Means over tokens by depth, the last on top, in `width` cells; with 95 % intervals over documents."""
    several = evidence.documents > 1
    over = f"{evidence.tokens_scored:,} tokens of {evidence.documents:,} document{'' if evidence.documents == 1 else 's'}"
    counts = [(evidence.n_cut, "cut"), (evidence.n_skipped, "left out")]
    over = ", ".join([over, *(f"{n:,} {what}" for n, what in counts if n)])
    intervals = ", with 95 % intervals over documents" if several else ""
    lines: list[Text | Table] = [sweep_head(evidence.model), Text(f"{printable(evidence.source)}: {over}")]
    lines.append(Text(f"lens by depth, means over tokens{intervals} (Figures 6 and 8)", style="bold"))
    entropy = np.array([evidence.of(_measure("entropy_bits", lens))[:, 0] for lens in LENSES])
    lines.append(Text(erratum_words(entropy[:, 1], evidence.model.d_vocab, mean=True)))
    columns: dict[str, list[str]] = {}
    for name, title, form in (("entropy_bits", "H", _bits), ("kl_final_nats", "KL", _kl), ("top1_final", "top-1", _share)):
        for lens in LENSES:
            values = evidence.of(_measure(name, lens))
            of = title if lens == "standard" else f"{title} v1"
            columns[of] = [form(value) for value in values[:, 0]]
            if several:
                columns[f"{of} 95 %"] = ["" if math.isnan(row[2]) else f"{form(row[2])}-{form(row[3])}" for row in values]
            if name != "top1_final":
                columns[f"{of} median"] = [form(value) for value in values[:, 1]]
    others = [name for name in columns if "v1" in name and name.endswith(("median", "%"))]
    go_first = (*others, "top-1 95 %", "KL 95 %", "H 95 %", "KL median", "H median", "top-1 v1")
    named = ["e", *map(str, range(evidence.model.n_layers))]
    lines += _table(named, columns, entropy, evidence.model.d_vocab, width, go_first)
    about = "H in bits; KL of the depth from the output in nats; top-1: share of tokens where it is the output's"
    return [*lines, Text(about, style="dim"), Text(f"{CAPTION}; {ECHO}", style="dim")]


def _table(
    named: list[str], columns: dict[str, list[str]], entropy: np.ndarray, d_vocab: int, width: int, go_first: Sequence[str]
) -> list[Table | Text]:
    """A row a depth, the last on top; then bars of both lenses' entropy [2, N], 0 to log2 V. Columns that do not fit
    are left out in the order of `go_first`, then from the right, and named."""
    kept, left_out = dict(columns), []

    def taken() -> int:
        return _widest(["layer", *named]) + sum(2 + _widest([name, *cells]) for name, cells in kept.items())

    order = [*(name for name in go_first if name in columns), *reversed([n for n in columns if n not in go_first])]
    while taken() > width and len(left_out) < len(order):
        left_out.append(order[len(left_out)])
        del kept[left_out[-1]]
    bars = min(width - taken() - 2, BAR[1])
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("layer", *kept):
        table.add_column(Text(name), justify="left" if name.startswith("top ") or name == "top" else "right", no_wrap=True)
    if bars >= BAR[0]:
        table.add_column("H ━, v1 ┊" if bars >= 9 else "H", no_wrap=True)
    for depth in reversed(range(len(named))):
        bar = [Text(_bar(entropy[:, depth], math.log2(d_vocab), bars))] if bars >= BAR[0] else []
        table.add_row(named[depth], *(Text(cells[depth]) for cells in kept.values()), *bar)
    no_room = f"no room for: {', '.join(left_out)} (--json has all)"
    return [table, *([Text(no_room, style="dim")] if left_out else [])]


def _widest(cells: Sequence[str]) -> int:
    return max(map(cell_len, cells))


def _bar(bits: np.ndarray, top: float, width: int) -> str:
    """The corrected lens as a bar, a mark where v1 ends."""
    ends = [None if math.isnan(value) else min(round(value / top * width), width) for value in bits]
    cells = list(("━" * (ends[0] or 0)).ljust(width))
    if ends[1] is not None:
        cells[max(ends[1] - 1, 0)] = "┊"
    return "".join(cells).rstrip()


def _bits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _kl(value: float) -> str:
    """Rounding at the last depth, about 1e-13 of either sign, is 0."""
    return "" if math.isnan(value) else "0" if abs(value) < 1e-6 else f"{value:.3g}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}".replace("e-0", "e-")
