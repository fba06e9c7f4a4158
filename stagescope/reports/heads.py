"""Sub-joiner heads (Figure 9), and the pattern of one head, as JSON and as plain text. NaN is null, and blank."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.drawings.shades import shade, shade_key
from stagescope.engine.protocol import HeadPattern, HeadScores
from stagescope.reports.evidence import weigh
from stagescope.reports.reading import model_json, number, numbers
from stagescope.reports.sweep import LINE, sweep_head
from stagescope.text import fit, printable, visible

SHOWN = 20  # heads in a table
FEW = 50  # words: intervals of fewer are wide, and resamples of so few are too much alike
EXAMPLES = 6  # words named below a table
KEYS = 8  # tokens the last query looks at most
STEPS = (0.05, 0.2, 0.4, 0.7)  # weights from which each shade but the first is drawn
LABEL = 12  # cells for a token beside its row


# -------------------------------------------------------------------------------------------------- JSON


def heads_json(scores: HeadScores) -> dict[str, Any]:
    """Schema heads/1: every head, highest score first; those of layers without attention last, all null."""
    return {
        "schema": "heads/1",
        "model": model_json(scores.model),
        "source": scores.source,
        "pieces": scores.pieces,
        "words": scores.words,
        "held_words": scores.held_words,
        "heads": [_head_json(scores, layer, head) for layer, head in scores.ranked()],
        "examples": [list(word) for word in scores.examples],
    }


def _head_json(scores: HeadScores, layer: int, head: int) -> dict[str, Any]:
    at = layer, head
    names, values = ("score", "low", "high", "held", "held_low", "held_high"), (*scores.score[at], *scores.held[at])
    return {
        "layer": layer,
        "head": head,
        **{name: number(value) for name, value in zip(names, values, strict=True)},
        "joined": number(scores.joined[at]),
        "control": number(scores.control[at]),
        "confirmed": confirmed(scores, layer, head),
    }


def subjoiner_heads(scores: HeadScores, most: int = SHOWN) -> list[dict[str, Any]]:
    """What attention/1 says of them: the heads of the highest scores."""
    return [
        {"layer": layer, "head": head, "score": float(scores.score[layer, head, 0])}
        for layer, head in top(scores, most)
    ]


def pattern_json(pattern: HeadPattern) -> dict[str, Any]:
    """Schema pattern/1: a row a query, a column a key."""
    return {
        "schema": "pattern/1",
        "model": model_json(pattern.model),
        "prompt": pattern.prompt,
        "tokens": [{"id": token.id, "text": token.text} for token in pattern.tokens],
        "schedule": pattern.schedule,
        "layer": pattern.layer,
        "head": pattern.head,
        "pattern": [numbers(row) for row in pattern.pattern],
    }


# ---------------------------------------------------------------------------- what the screen says as well


def top(scores: HeadScores, most: int = SHOWN) -> list[tuple[int, int]]:
    """(layer, head) of the highest scores; of layers without attention none."""
    return [at for at in scores.ranked() if not math.isnan(scores.score[at][0])][:most]


def confirmed(scores: HeadScores, layer: int, head: int) -> bool:
    """Whether a head joins words it was not found by: the held-out interval is above 0."""
    return bool(scores.score[layer, head, 0] > 0 and scores.held[layer, head, 1] > 0)


def over_words(scores: HeadScores) -> str:
    return f"{scores.words} words of {scores.pieces} tokens searched, {scores.held_words} held out"


def how_measured(scores: HeadScores) -> list[str]:
    back = "1 token" if scores.pieces == 2 else f"{scores.pieces - 1} tokens"
    return [
        "score = joined - control, a mean over words with its 95 % interval (bootstrap)",
        f"joined: weight of a word's first piece, {back} back, seen from its last",
        f"control: the same {back} back from a word of one token in the same context",
        "holds: the score of the held-out words is above 0, its interval too",
    ]


def few_words(scores: HeadScores) -> str:
    """What to say where there are too few words to be sure; "" where there are enough."""
    if scores.words >= FEW:
        return ""
    return f"only {scores.words} words were searched: a longer text makes these numbers surer"


def examples(scores: HeadScores, ascii_only: bool = False) -> str:
    """ "un|forgett|able" """
    words = scores.examples[:EXAMPLES]
    return "  ".join("|".join(visible(piece.strip(), ascii_only) for piece in word) for word in words)


def strongest_keys(pattern: HeadPattern, query: int, most: int = KEYS) -> list[tuple[int, float]]:
    """(key, weight) of those a query looks at most, greatest first; what is NaN is none."""
    row = pattern.pattern[query, : query + 1]
    order = np.argsort(-row, kind="stable")[: max(most, 0)]
    return [(int(key), float(row[key])) for key in order if not np.isnan(row[key])]


# -------------------------------------------------------------------------------------------- plain text


def heads_text(scores: HeadScores, width: int = LINE) -> list[Text | Table]:
    """The heads of the highest scores, and how they were measured."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("head", "score", "95 %", "held out", "95 %", "joined", "control", "holds"):
        table.add_column(name, justify="left" if name in ("head", "holds") else "right", no_wrap=True)
    for layer, head in top(scores):
        mean, low, high = scores.score[layer, head]
        held = scores.held[layer, head]
        table.add_row(
            f"{layer}.{head}",
            f"{mean:+.3f}",
            _ends(low, high),
            f"{held[0]:+.3f}",
            _ends(*held[1:]),
            weigh(scores.joined[layer, head]),
            weigh(scores.control[layer, head]),
            "yes" if confirmed(scores, layer, head) else "no",
        )
    few = [Text(few_words(scores), style="bold")] if few_words(scores) else []
    return [
        sweep_head(scores.model),
        Text(fit(printable(scores.source), width).rstrip()),
        Text(f"sub-joiner heads (Figure 9): {over_words(scores)}", style="bold"),
        table,
        *(Text(line, style="dim") for line in how_measured(scores)),
        Text(f"such as {fit(examples(scores), max(width - 8, 8)).rstrip()}"),
        *few,
    ]


def pattern_text(pattern: HeadPattern, width: int = LINE, ascii_only: bool = False) -> list[Text]:
    """A query a line in shades, as far as `width` cells allow; then what the last token looks at most."""
    tokens, n_tokens = [visible(token.text, ascii_only) for token in pattern.tokens], len(pattern.tokens)
    cell, wide = max(2, len(str(n_tokens - 1)) + 1), len(str(n_tokens - 1))
    label = min(max(map(cell_len, tokens)), LABEL)
    lines = [sweep_head(pattern.model)]
    if pattern.schedule:
        lines.append(Text(f"edit    {printable(pattern.schedule)}"))
    lines.append(Text(f"where head {pattern.head} of layer {pattern.layer} looks, from each token", style="bold"))
    if wide + 1 + label + cell * n_tokens <= width:
        for query, token in enumerate(tokens):
            row = pattern.pattern[query, : query + 1]
            drawn = "".join(shade(weight, STEPS, ascii_only)[0].rjust(cell) for weight in row)
            lines.append(Text(f"{query:>{wide}} {fit(token, label, ascii_only)}{drawn}"))
        lines.append(Text(" " * (wide + 1 + label) + "".join(f"{key:>{cell}}" for key in range(n_tokens)), style="dim"))
        key = shade_key(["0", *(f"{100 * step:.0f}" for step in STEPS)], ascii_only)
        lines.append(Text(f"a row a query, a column a key; weight from {key} %", style="dim"))
    else:
        lines.append(Text(f"{n_tokens} tokens are too many for a grid of {width} columns", style="dim"))
    lines.append(Text(f"from the last token, {n_tokens - 1} {fit(tokens[-1], 2 * LABEL, ascii_only).rstrip()}:"))
    for key, weight in (keys := strongest_keys(pattern, n_tokens - 1)):
        lines.append(Text(f"{weigh(weight):>6}  {key:>{wide}} {fit(tokens[key], 2 * LABEL, ascii_only).rstrip()}"))
    return lines if keys else [*lines, Text("no number")]


def _ends(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:+.2f} {high:+.2f}"
