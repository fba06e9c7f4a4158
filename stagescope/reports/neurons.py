"""A Census, and the strongest neurons, as JSON (the contract of the command line) and as plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from stagescope.engine.protocol import Census, ModelInfo, NeuronRow, Neurons
from stagescope.reports.reading import model_json, number, numbers
from stagescope.text import fit, printable, visible

COUNTS = {  # name in the JSON -> field of a Census
    "high_kurtosis": "high",
    "prediction": "prediction",
    "suppression": "suppression",
    "unsigned": "unsigned",
    "partition_candidates": "partition",
}
NAMES = {
    "prediction": "prediction neurons",
    "suppression": "suppression neurons",
    "unsigned": "neurons without a sign",
    "partition": "partition candidates",
}
ACTIVE = 18  # cells for where a neuron is most active


# -------------------------------------------------------------------------------------------------- JSON


def neurons_json(census: Census | None, info: ModelInfo, strongest: Neurons | None = None) -> dict[str, Any]:
    """Schema neurons/1; with `strongest` also the tokens of the prompt, and those neurons. Without a census neither its
    counts nor signs are known."""
    made: dict[str, Any] = {"schema": "neurons/1", "model": model_json(info)}
    if census:
        made |= {
            "orientation": census.orientation,
            "text": census.text,
            "null": {"directions": census.null_directions, "above": number(census.null_above)},
            "layers": [
                {"layer": layer, **{name: n for name, n in zip(COUNTS, counts, strict=True)}, "of": census.d_mlp}
                for layer, counts in enumerate(layer_counts(census))
            ],
        }
    if strongest:
        made["prompt"] = strongest.prompt
        made["tokens"] = [{"id": token.id, "text": token.text} for token in strongest.tokens]
        rows = zip(strongest.rows, activations(strongest, census), strict=True)
        made["strongest"] = [_neuron_json(row, activation, census, strongest.texts) for row, activation in rows]
    return made


def _neuron_json(row: NeuronRow, activation: np.ndarray, census: Census | None, texts: dict[int, str]) -> dict[str, Any]:
    """All told as it fires, the activation too: as the network computes it times `sign`, unless that is 0 (or null)."""

    def tokens(ids: Sequence[int], cosines: Sequence[float]) -> list[dict[str, Any]]:
        return [
            {"id": token, "text": texts[token], "cos": number(cos)} for token, cos in zip(ids, cosines, strict=True)
        ]

    return {
        "layer": row.layer,
        "index": row.index,
        "kind": row.kind,
        **{name: number(getattr(row, name)) for name in ("kurtosis", "skew", "variance", "consistency")},
        "sign": int(census.sign[row.layer, row.index]) if census else None,
        "promoted": tokens(row.promoted, row.promoted_cos),
        "suppressed": tokens(row.suppressed, row.suppressed_cos),
        "activation": numbers(activation),
    }


# -------------------------------------------------------------------------------------------- plain text


def neurons_text(census: Census | None, strongest: Neurons | None = None, width: int = 120) -> list[Text | Table]:
    """The layers, deepest on top, and what stands beside them; then a table of each class of the strongest neurons, in
    `width` cells."""
    lines: list[Text | Table] = census_text(census) if census else []
    if strongest:
        by_kind = groupby(zip(strongest.rows, activations(strongest, census), strict=True), lambda both: both[0].kind)
        for kind, members in by_kind:
            where = "" if strongest.layer is None else f" of layer {strongest.layer}"
            by = "variance" if kind == "partition" else "kurtosis"
            title = Text(f"\nstrongest {NAMES[kind]}{where}, by {by}", style="bold")
            lines += [title, _strongest(list(members), strongest, width)]
    return lines


def census_text(census: Census) -> list[Text | Table]:
    table = _table("layer", "kurtosis > 10", "prediction", "suppression", "unsigned", "partition?", "of")
    for layer, counts in reversed(list(enumerate(layer_counts(census)))):
        table.add_row(str(layer), *map(str, counts), str(census.d_mlp))
    lines: list[Text | Table] = [table, Text(null_words(census) + " have kurtosis > 10")]
    if census.degenerate:
        lines.append(Text("above 1 %: this vocabulary is degenerate and the counts say little.", style="bold"))
    if census.orientation == "corpus":
        lines.append(Text(f"gated MLPs have no sign in the weights: oriented on {printable(census.text)}"))
    return lines


def _strongest(members: list[tuple[NeuronRow, np.ndarray]], strongest: Neurons, width: int) -> Table:
    facts = [_facts(row) for row, _ in members]
    names = list(facts[0])
    room = width - sum(max(len(name), *(len(fact[name]) for fact in facts)) + 2 for name in names) - 2
    room -= ACTIVE + 2 if strongest.tokens else 0
    parts = (2, 3) if members[0][0].kind == "suppression" else (3, 2)  # more to what tells more
    promoted, suppressed = (max(room * part // 5, 8) for part in parts)
    table = _table(*names, left=("promotes", "suppresses", *(["most active"] if strongest.tokens else [])))
    for fact, (row, activation) in zip(facts, members, strict=True):
        words = [fit(tokens_text(row.promoted, strongest.texts), promoted)]
        words.append(fit(tokens_text(row.suppressed, strongest.texts), suppressed))
        if strongest.tokens:
            at = most_active(activation)
            words.append(fit(f"{activation[at]:+.2f} at {at} {visible(strongest.tokens[at].text)}", ACTIVE))
        table.add_row(*fact.values(), *(Text(word.rstrip()) for word in words))
    return table


def _facts(row: NeuronRow) -> dict[str, str]:
    """What tells its class; "one sign": |E a| / E|a|, where it was measured."""
    facts = {"neuron": f"{row.layer}.{row.index}"}
    if row.kind == "partition":
        return facts | {"variance": f"{row.variance:.3g}"}
    facts |= {"kurtosis": f"{row.kurtosis:.1f}", "skew": f"{row.skew:+.2f}"}
    return facts | ({} if math.isnan(row.consistency) else {"one sign": f"{row.consistency:.2f}"})


def _table(*right: str, left: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for name in left:
        table.add_column(name, no_wrap=True)
    return table


# ---------------------------------------------------------------------------- what the screen says as well


def layer_counts(census: Census) -> list[tuple[int, ...]]:
    """Of each layer, in the order of COUNTS."""
    columns = [getattr(census, field) for field in COUNTS.values()]
    return [tuple(int(n) for n in counts) for counts in zip(*columns, strict=True)]


def null_words(census: Census) -> str:
    return f"null: {100 * census.null_above:.1f} % of {census.null_directions} random directions"


def activations(strongest: Neurons, census: Census | None) -> np.ndarray:
    """[rows, T] as each neuron fires: above 0 it promotes what it is said to promote. Without a census as computed."""
    if census is None:
        return strongest.activation
    signs = [-1.0 if census.sign[row.layer, row.index] < 0 else 1.0 for row in strongest.rows]
    return strongest.activation * np.array(signs, np.float32)[:, None]


def most_active(activation: np.ndarray) -> int:
    """The position where a neuron writes most, position 0 (the attention sink) left out where there is another."""
    sink = len(activation) > 1
    return int(np.abs(activation[sink:]).argmax()) + sink


def tokens_text(ids: Sequence[int], texts: dict[int, str], ascii_only: bool = False) -> str:
    return " ".join(visible(texts.get(token, f"[id {token}]"), ascii_only) for token in ids)
