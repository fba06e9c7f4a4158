"""Two readings side by side as JSON, as plain text, as one table of numbers. NaN is null, and blank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.messages import mean_positions
from stagescope.engine.protocol import Comparison, Reading
from stagescope.reports.numbers import token_of, truth
from stagescope.reports.reading import number, numbers, reading_json, truths
from stagescope.reports.sweep import sweep_head
from stagescope.text import fit, printable, visible

MEASURED = ("kl_nats", "resid_rel", "resid_cos")
TOPS = 12, 60  # cells of the top tokens of one side: fewest, and most


# --------------------------------------------------------------------------------- what stands beside what


class Line(NamedTuple):
    """Depths that stand beside each other. pair: its place in Comparison.pairs, None where they cannot be compared."""

    a: int | None
    b: int | None
    pair: int | None


def lines(found: Comparison) -> list[Line]:
    """Every depth of both sides in executed order. Between two pairs the depths that run other layers stand beside each
    other by how far they have come, so that models of 12 and 24 layers are seen by relative depth."""
    drawn: list[Line] = []
    at = (0, 0)  # the first depths not drawn yet
    for pair, (a, b) in enumerate(found.pairs):
        drawn += _between(range(at[0], a), range(at[1], b))
        drawn.append(Line(a, b, pair))
        at = (a + 1, b + 1)
    return drawn


def _between(a: range, b: range) -> list[Line]:
    if len(a) < len(b):
        return [Line(mine, other, None) for other, mine, _ in _between(b, a)]
    beside = {int((place + 0.5) * len(a) / len(b)): depth for place, depth in enumerate(b)}
    return [Line(depth, beside.get(place), None) for place, depth in enumerate(a)]


def layer_name(reading: Reading, depth: int | None) -> str:
    """e, 7, 4+5; "" for none."""
    if depth is None:
        return ""
    return "+".join(map(str, reading.layers[depth])) or "e"


def side_words(reading: Reading, other: Reading, ascii_only: bool = False) -> str:
    """What a side is, as far as the other is something else: drop 7 · “The capital” · gpt2."""
    dot, left, right = '.""' if ascii_only else "·“”"
    said = [printable(reading.schedule) or "the baseline"]
    said += [f"{left}{printable(reading.prompt)}{right}"] if reading.prompt != other.prompt else []
    said += [printable(reading.model.name)] if reading.model.name != other.model.name else []
    return f" {dot} ".join(said)


def mean_over(found: Comparison) -> list[int]:
    """Positions that enter a mean, as of one reading."""
    return mean_positions(found.a.model, found.a.tokens, sorted({*found.a.positions} & {*found.b.positions}))


def effect_words(found: Comparison, at: int) -> list[str]:
    """output at position 11: KL(A||B) 1.3 nats, entropy +0.42 bits; over 11 positions: KL mean ..., same top-1 9/11"""
    over, kl, same = mean_over(found), found.effect_kl_nats, found.effect_top1_same
    bits = float(found.effect_entropy_bits[at])
    here = [f"KL(A||B) {kl[at]:.3g} nats"] if not math.isnan(kl[at]) else []
    here += [f"entropy {bits:+.2f} bits"] if not math.isnan(bits) else []
    whole = []
    if over and not np.isnan(kl[over]).any():
        whole.append(f"KL mean {kl[over].mean():.3g}, median {np.median(kl[over]):.3g}")
    if over and not np.isnan(same[over]).any():
        whole.append(f"same top-1 {int(same[over].sum())}/{len(over)}")
    told = [f"output at position {at}: {', '.join(here) or 'no number'}"]
    return told + ([f"output over {len(over)} positions: {', '.join(whole)}"] if whole else [])


# -------------------------------------------------------------------------------------------------- JSON


def comparison_json(found: Comparison, position: int = -1) -> dict[str, Any]:
    """Schema comparison/1: both readings whole, without their baselines, and what is between them at each pair.

    kl_nats is D_KL(a || b); `output` is that of the models' own outputs; relative_depth runs from 0 to 1.
    """
    ends = [max(side.n_depths - 1, 1) for side in (found.a, found.b)]
    return {
        "schema": "comparison/1",
        "a": reading_json(found.a),
        "b": reading_json(found.b),
        "pairs": [
            {
                "depths": [i, j],
                "layers": [list(found.a.layers[i]), list(found.b.layers[j])],
                "relative_depth": [i / ends[0], j / ends[1]],
                **{name: numbers(getattr(found, name)[pair]) for name in MEASURED},
                "top1_same": truths(found.top1_same[pair]),
            }
            for pair, (i, j) in enumerate(found.pairs)
        ],
        "output": {
            "kl_nats": numbers(found.effect_kl_nats),
            "top1_same": truths(found.effect_top1_same),
            "entropy_change_bits": numbers(found.effect_entropy_bits),
        },
        "position": position % len(found.a.tokens),
    }


# ------------------------------------------------------------------------------------------ one table


def comparison_numbers(found: Comparison) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(columns, rows): a line a position and two depths that stand beside each other; `paired` where they can be
    compared. Columns end in _a and _b where they tell a side; the effect stands at the outputs."""
    sided = ("depth", "layers", "entropy_bits", "top1_id", "top1", "top1_p", "tracked_rank", "tracked_p")
    columns = (
        *("position", "token_a", "token_b", "tracked_id", "tracked"),
        *(f"{name}_{side}" for side in "ab" for name in sided),
        *("paired", *MEASURED, "top1_same", "effect_kl_nats", "effect_entropy_change_bits", "effect_top1_same"),
    )
    rows = []
    beside = lines(found)
    for at, (token_a, token_b) in enumerate(zip(found.a.tokens, found.b.tokens, strict=True)):
        tracked = int(found.a.tracked[at])
        start = (at, printable(token_a.text), printable(token_b.text), *token_of(tracked, found.a.texts))
        for a, b, pair in beside:
            between: tuple[Any, ...] = (None,) * 4
            if pair is not None:
                between = tuple(number(getattr(found, name)[pair, at]) for name in MEASURED)
                between += (truth(found.top1_same[pair, at]),)
            effect: tuple[Any, ...] = (None,) * 3
            if pair == len(found.pairs) - 1:
                effect = (number(found.effect_kl_nats[at]), number(found.effect_entropy_bits[at]))
                effect += (truth(found.effect_top1_same[at]),)
            sides = (*_side(found.a, a, at), *_side(found.b, b, at))
            rows.append((*start, *sides, pair is not None, *between, *effect))
    return columns, rows


def _side(reading: Reading, depth: int | None, at: int) -> tuple[Any, ...]:
    if depth is None:
        return (None,) * 8
    rank = number(reading.tracked_rank[depth, at])
    return (
        *(depth, "+".join(map(str, reading.layers[depth])), number(reading.entropy_bits[depth, at])),
        *(*token_of(reading.top_ids[depth, at, 0], reading.texts), number(reading.top_p[depth, at, 0])),
        *(None if rank is None else int(rank), number(reading.tracked_p[depth, at])),
    )


# -------------------------------------------------------------------------------------------- plain text


def comparison_text(found: Comparison, position: int = -1, width: int = 120) -> list[Text | Table]:
    """Both sides at one position, the last depth on top, in `width` cells."""
    at = position % len(found.a.tokens)
    told: list[Text | Table] = [sweep_head(found.a.model)]
    if found.b.model != found.a.model:
        told.append(sweep_head(found.b.model))
    alike = [token.id for token in found.a.tokens] == [token.id for token in found.b.tokens]
    told.append(_tokens(found.a, at, "tokens  " if alike else "A       "))
    told += [] if alike else [_tokens(found.b, at, "B       ")]
    told.append(Text(f"A       {side_words(found.a, found.b)}"))
    told.append(Text(f"B       {side_words(found.b, found.a)}"))
    tracked = token_of(found.a.tracked[at], found.a.texts)[1]
    told += [Text(line, style="bold") for line in effect_words(found, at)]
    told.append(Text(f"rank and p of “{visible(tracked or '')}”", style="dim"))
    if found.a.model.n_layers != found.b.model.n_layers:
        note = "layers stand beside each other by relative depth: only embedding and output are compared"
        told.append(Text(note, style="dim"))
    return [*told, _table(found, at, width)]


def _tokens(reading: Reading, at: int, label: str) -> Text:
    line = Text(label)
    for index, token in enumerate(reading.tokens):
        mark = f"[{visible(token.text)}]" if index == at else visible(token.text)
        line.append(f"{mark} ", style="bold" if index == at else "")
    return line


def _table(found: Comparison, at: int, width: int) -> Table:
    titles = ["A", "B", "H A", "H B", "KL", "cos", "rank A", "rank B", "p A", "p B"]
    rows = [_row(found, line, at) for line in reversed(lines(found))]
    sizes = [2 + max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    if sum(sizes) + 2 * (TOPS[0] + 2) > width:  # without p: the top tokens tell theirs
        titles, rows, sizes = titles[:-2], [row[:-2] for row in rows], sizes[:-2]
    taken = sum(sizes)
    room = min(max((width - taken) // 2 - 2, TOPS[0]), TOPS[1])
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for side in "AB":
        table.add_column(f"top {side}", no_wrap=True)
    for line, row in zip(reversed(lines(found)), rows, strict=True):
        tops = ("".join(_tops(*of, at, room)).rstrip() for of in ((found.a, line.a), (found.b, line.b)))
        table.add_row(*row, *(Text(top) for top in tops))
    return table


def _row(found: Comparison, line: Line, at: int) -> list[str]:
    sides = ((found.a, line.a), (found.b, line.b))

    def both(name: str, form: str) -> list[str]:
        return ["" if depth is None else _form(getattr(side, name)[depth, at], form) for side, depth in sides]

    between = ["", ""]
    if line.pair is not None:
        between = [_form(max(found.kl_nats[line.pair, at], 0.0), ".3g"), _form(found.resid_cos[line.pair, at], ".3f")]
    names = [layer_name(side, depth) for side, depth in sides]
    return [*names, *both("entropy_bits", ".2f"), *between, *both("tracked_rank", ".0f"), *both("tracked_p", ".3f")]


def _tops(reading: Reading, depth: int | None, at: int, room: int) -> Iterator[str]:
    """Whole tokens with their p, as many as fit; the first in any case, cut."""
    if depth is None:
        return
    for index, (token, p) in enumerate(zip(reading.top_ids[depth, at], reading.top_p[depth, at], strict=True)):
        name = f"{visible(reading.texts.get(int(token), ''))} {p:.3f}"
        if token < 0 or (index and cell_len(name) + 2 > room):
            return
        yield fit(name, room).rstrip() if cell_len(name) > room else name + "  "
        room -= cell_len(name) + 2


def _form(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(float(value), form)
