"""A reading as two tables: what every layer was about to say at one position, and the top token at every position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stagescope.engine.protocol import Reading
from stagescope.exports import page
from stagescope.exports.html_style import classed, text
from stagescope.text import visible

GLYPHS = {"": "", "changed": "≈", "another top": "≠", "not run": ""}
# Numbers beside the entropy: field, header, what it is.
MEASURES = (
    ("kl_final_nats", "KL final", "nats, from this run's own output"),
    ("kl_nats", "KL base", "nats, from the baseline at the same depth"),
    ("attn_norm", "attn", "norm of what attention wrote"),
    ("mlp_norm", "MLP", "norm of what the MLP wrote"),
    ("resid_norm", "resid", "norm of the residual stream"),
)


def reading_sections(reading: Reading, at: int) -> list[str]:
    key = "The last layer on top, e is the embedding. Bars: entropy, as a share of the greatest."
    shade = "The stronger the shade, the higher the p of the token."
    marks = others = ""
    if reading.baseline is not None:
        marks = " ≈ the schedule changed what is read there, ≠ it changed the top token (underlined) as well."
        others = " Underlined: not the baseline's."
    token = text(visible(reading.tokens[at].text))
    return [
        _section(f"Position {at}, {token}", _layers(reading, at), f"{key}{marks}"),
        _section("The top token at every position", _grid(reading, at), f"{shade}{others}"),
    ]


def _section(name: str, table: str, caption: str) -> str:
    return f"<section>\n<h2>{name}</h2>\n<figure>\n{table}\n<figcaption>{caption}</figcaption>\n</figure>\n</section>"


def _layers(reading: Reading, at: int) -> str:
    k = reading.top_ids.shape[-1]
    measures = MEASURES if reading.baseline is not None else [one for one in MEASURES if one[0] != "kl_nats"]
    greatest = float(np.nanmax(reading.entropy_bits[:, at], initial=0.0))
    heads = "".join(f'<th class="n" title="{what}">{name}</th>' for _, name, what in measures)
    head = f'<th>layer</th><th></th><th></th><th class="n" title="entropy, bits">H bits</th>{heads}'
    rows = []
    for row in page.stack(reading, at):
        if row.depth is None:
            rows.append(_gone(row, 3 + len(measures) + k))
            continue
        entropy = float(reading.entropy_bits[row.depth, at])
        share = 100 * entropy / greatest if greatest > 0 and not math.isnan(entropy) else 0
        cells = [
            f'<td class="mark" title="{row.mark}">{GLYPHS[row.mark]}</td>',
            f'<td><span class="bar"><i style="width:{share:.1f}%"></i></span></td>',
            _number(entropy, ".2f"),
            *(_number(float(getattr(reading, name)[row.depth, at])) for name, _, _ in measures),
        ]
        for n, (word, p) in enumerate(page.tops(reading, row.depth, at)):
            other = classed("other" if n == 0 and row.mark == "another top" else "")
            cells.append(f"<td><span{other}>{text(word)}</span><small>{p:.3f}</small></td>")
        rows.append(f"<tr{classed('changed' if row.mark else '')}><th>{row.name}</th>{''.join(cells)}</tr>")
    return _table("layers", f'{head}<th colspan="{k}">top tokens and their p</th>', rows)


def _grid(reading: Reading, at: int) -> str:
    sides = [classed("at" if position == at else "") for position in range(len(reading.tokens))]
    words = [text(visible(token.text)) for token in reading.tokens]
    heads = (f"<th{sides[n]}><small>{n}</small><br/>{word}</th>" for n, word in enumerate(words))
    rows = []
    for row in page.stack(reading, at):
        if row.depth is None:
            rows.append(_gone(row, len(words)))
            continue
        cells = []
        for position, side in enumerate(sides):
            top = page.tops(reading, row.depth, position)[:1]
            other = classed("other" if reading.top1_same[row.depth, position] == 0 else "")
            cells += [
                f'<td{side} style="--p:{p:.3f}" title="p {p:.4f}"><span{other}>{text(word)}</span></td>' for word, p in top
            ] or [f"<td{side}></td>"]
        rows.append(f"<tr><th>{row.name}</th>{''.join(cells)}</tr>")
    return _table("layers grid", f"<th></th>{''.join(heads)}", rows)


def _gone(row: page.Row, columns: int) -> str:
    return f'<tr class="gone"><th>{row.name}</th><td colspan="{columns}">{row.mark}</td></tr>'


def _table(name: str, head: str, rows: Sequence[str]) -> str:
    body = "\n".join(rows)
    return (
        f'<div class="wide"><table class="{name}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _number(value: float, form: str = ".3g") -> str:
    """A cell; its exact number shows under the pointer. What was not measured is nothing, never 0."""
    if math.isnan(value):
        return "<td></td>"
    shown = format(value, ",.0f" if abs(value) >= 1000 else form).replace("-", "\u2212")
    return f'<td class="n" title="{value!r}">{shown}</td>'
