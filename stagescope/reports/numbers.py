"""Each kind of answer as one table in long form: a line a thing measured, a column a measure, names as in the JSON.

Numbers are unrounded Python ones, None where nothing was measured. Texts are harmless (text.py). A line tells where it
belongs: `depth` is a place in the executed order (0 is the embedding), `layer` the one layer that ran there, `layers` all of
a group ("4+5"), "" for the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stagescope.engine.protocol import (
    LENSES,
    OF_DEPTHS,
    OF_LAYERS,
    Attribution,
    Census,
    Evidence,
    HeadPattern,
    HeadScores,
    LensCurves,
    Neurons,
    Probe,
    Reading,
    Similarity,
    StageMap,
)
from stagescope.reports import evidence as evidence_report
from stagescope.reports.heads import confirmed
from stagescope.reports.neurons import (
    COUNTS,
    activations,
    layer_counts,
    most_active,
    tokens_text,
)
from stagescope.reports.reading import number
from stagescope.reports.sweep import STATISTICS
from stagescope.text import printable

PLACE = ("depth", "layer", "layers")


class Numbers(NamedTuple):
    """One table: a line a thing measured, its numbers unrounded. Texts are harmless (text.py), None is not measured."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


# Columns that may have no value at all, and what one would be; of others it would be a float.
_EMPTY = {
    **dict.fromkeys(("tracked", "followed", "name", "note", "token", "prompt", "kind", "variant", "promoted", "suppressed"), str),
    **dict.fromkeys(("depth", "layer", "head", "position", "stage", "index", "size", "rank", "sign"), int),
    **dict.fromkeys(("tracked_id", "followed_id", "tracked_rank", "baseline_depth", "other_depth", "query", "key"), int),
    **dict.fromkeys(("top1_same", "effect_top1_same"), bool),
}


def types(numbers: Numbers) -> tuple[type, ...]:
    """Of each column: bool, int, float or str. A column has one type, whatever a model had to say."""
    columns = list(zip(*numbers.rows, strict=True)) or [()] * len(numbers.columns)
    found = []
    for name, column in zip(numbers.columns, columns, strict=True):
        kinds = {type(value) for value in column} - {type(None)}
        empty = _EMPTY.get(name.removesuffix("_a").removesuffix("_b"), float)
        found.append(next((kind for kind in (str, float, int, bool) if kind in kinds), empty))
    return tuple(found)


def of_reading(reading: Reading) -> Numbers:
    """A line a position and depth. The effect of the edit stands at the last depth."""
    measured = ("entropy_bits", "kl_final_nats", "tracked_rank", "tracked_p", "attn_norm", "mlp_norm", "resid_norm")
    against = ("kl_nats", "resid_rel", "resid_cos")
    effects = ("effect_kl_nats", "effect_entropy_bits")
    columns = (
        *("position", "token_id", "token", *PLACE, *measured[:2], "top1_id", "top1", "top1_p"),
        *("tracked_id", "tracked", *measured[2:], "baseline_depth", *against, "top1_same"),
        *("effect_kl_nats", "effect_entropy_change_bits", "effect_top1_same"),
    )
    arrays = [getattr(reading, name) for name in (*measured, *against)]
    rows = []
    for position, token in enumerate(reading.tokens):
        for depth, layers in enumerate(reading.layers):
            bits, kl, rank, p, *norms, kl_base, rel, cos = (number(array[depth, position]) for array in arrays)
            top = token_of(reading.top_ids[depth, position, 0], reading.texts)
            last = depth == reading.n_depths - 1
            effect = [number(getattr(reading, name)[position]) if last else None for name in effects]
            rows.append((
                *(position, token.id, printable(token.text), *_place(depth, layers), bits, kl),
                *(*top, number(reading.top_p[depth, position, 0])),
                *(*token_of(reading.tracked[position], reading.texts), None if rank is None else int(rank), p, *norms),
                *(reading.baseline_depth[depth], kl_base, rel, cos, truth(reading.top1_same[depth, position])),
                *(*effect, truth(reading.effect_top1_same[position]) if last else None),
            ))  # fmt: skip
    return Numbers(columns, rows)


def of_evidence(evidence: Evidence) -> Numbers:
    """A line a measure and depth, or measure and layer; of attention also a line a head, its mean alone. `uniform`: what it
    would be if every query looked evenly at all it can see."""
    rows = []
    for name in (*OF_DEPTHS, *OF_LAYERS):
        even = number(evidence_report.uniform_of(evidence, name)) if name in evidence_report.ATTENTION else None
        if np.isnan(evidence.of(name)).all():  # a lens that was not asked for
            continue
        for place, statistics in enumerate(evidence.of(name)):
            where = (place, None) if name in OF_DEPTHS else (None, place)
            rows.append((name, *where, None, *map(number, statistics), even))
    for name in evidence_report.ATTENTION:
        even = number(evidence_report.uniform_of(evidence, name))
        for (layer, head), mean in np.ndenumerate(evidence_report.of_heads(evidence, name)):
            rows.append((name, None, layer, head, number(mean), None, None, None, even))
    return Numbers(("measure", "depth", "layer", "head", *STATISTICS, "uniform"), rows)


def of_lens(curves: LensCurves) -> Numbers:
    """A line a lens, depth and followed token; one without a token where none is followed."""
    rows = []
    for lens, name in enumerate(LENSES):
        for depth, layers in enumerate(curves.layers):
            read = (number(curves.entropy_bits[lens, depth]), number(curves.kl_final_nats[lens, depth]))
            start = (name, *_place(depth, layers), *read, *token_of(curves.top_ids[lens, depth], curves.texts))
            for index, token in enumerate(curves.followed):
                rank, p, logit = (number(a[lens, depth, index]) for a in (curves.rank, curves.p, curves.logit))
                rank = None if rank is None else int(rank)
                rows.append((*start, token.id, printable(token.text), rank, p, logit))
            if not curves.followed:
                rows.append((*start, None, None, None, None, None))
    read = ("entropy_bits", "kl_final_nats", "top1_id", "top1")
    return Numbers(("lens", *PLACE, *read, "followed_id", "followed", "rank", "p", "logit"), rows)


def of_census(census: Census) -> Numbers:
    """A line a layer. The five numbers of every single neuron are arrays of the Census."""
    rows = [(layer, *counts, census.d_mlp) for layer, counts in enumerate(layer_counts(census))]
    return Numbers(("layer", *COUNTS, "of"), rows)


def of_neurons(found: Neurons, census: Census | None = None) -> Numbers:
    """A line a neuron; with a prompt also where it is most active, as it fires where its census is known."""
    rows = []
    for row, activation in zip(found.rows, activations(found, census), strict=True):
        words = (tokens_text(ids, found.texts) for ids in (row.promoted, row.suppressed))
        active = (None, None, None)
        if found.tokens:
            at = most_active(activation)
            active = (at, printable(found.tokens[at].text), number(activation[at]))
        shape = map(number, (row.kurtosis, row.skew, row.variance, row.consistency))
        sign = int(census.sign[row.layer, row.index]) if census else None
        rows.append((row.layer, row.index, row.kind, *shape, sign, *words, *active))
    shape = ("kurtosis", "skew", "variance", "consistency", "sign")
    return Numbers(("layer", "index", "kind", *shape, "promoted", "suppressed", "position", "token", "activation"), rows)


def of_stages(map: StageMap) -> Numbers:
    """A line a layer: its stage, 1 to 4, where it is known, and the curves that the map rests on."""
    rows = []
    for layer in range(map.model.n_layers):
        stage = map.stage_of(layer)
        named = (None, None) if stage is None else (stage + 1, printable(map.stages[stage].name))
        rows.append((layer, *named, *(number(curve[layer]) for curve in map.curves)))
    return Numbers(("layer", "stage", "name", *map.signals), rows)


def of_heads(scores: HeadScores) -> Numbers:
    """A line a head, the highest score first."""
    rows = []
    for at in scores.ranked():
        measured = (*scores.score[at], *scores.held[at], scores.joined[at], scores.control[at])
        rows.append((*at, *map(number, measured), confirmed(scores, *at)))
    measured = ("score", "low", "high", "held", "held_low", "held_high", "joined", "control")
    return Numbers(("layer", "head", *measured, "confirmed"), rows)


def of_pattern(found: HeadPattern) -> Numbers:
    """A line a query and key, of those that a query can see."""
    words = [printable(token.text) for token in found.tokens]
    rows = [
        (query, words[query], key, words[key], number(found.pattern[query, key]))
        for query in range(len(words))
        for key in range(query + 1)
    ]
    return Numbers(("query", "query_token", "key", "key_token", "weight"), rows)


def of_attribution(found: Attribution) -> Numbers:
    """A line a position and part of the logit: constant, embedding, attn and mlp of each depth, scale, which add up to the
    part "logit". Of an edit the baseline's lines follow, with the schedule ""."""
    rows = []
    for run in (found, found.baseline) if found.baseline else (found,):
        for position, token in enumerate(run.tokens):
            tracked = token_of(run.tracked[position], found.texts)
            start = (printable(run.schedule), position, token.id, printable(token.text), *tracked)
            for part in ("constant", "embedding"):
                rows.append((*start, part, None, None, None, number(getattr(run, part)[position])))
            for depth, layers in enumerate(run.layers):
                for part in ("attn", "mlp") if depth else ():
                    rows.append((*start, part, *_place(depth, layers), number(getattr(run, part)[depth, position])))
            for part in ("scale", "logit"):
                rows.append((*start, part, None, None, None, number(getattr(run, part)[position])))
    of = ("schedule", "position", "token_id", "token", "tracked_id", "tracked", "part")
    return Numbers((*of, *PLACE, "logits"), rows)


def of_similarity(found: Similarity) -> Numbers:
    """A line a layer of "influence", a line a pair of depths of "angular" and of "cka"."""
    rows = [("influence", layer, None, None, *map(number, of)) for layer, of in enumerate(found.influence)]
    for name in ("angular", "cka"):
        for (a, b), value in np.ndenumerate(getattr(found, name)):
            rows.append((name, None, a, b, number(value), None, None))
    return Numbers(("measure", "layer", "depth", "other_depth", "value", "low", "high"), rows)


def of_probe(probe: Probe) -> Numbers:
    """A line a probe: single neurons, ensembles, and the model's own two answers."""
    asked = {"neuron": probe.neurons, "ensemble": probe.ensembles, "mass": [probe.mass], "argmax": [probe.argmax]}
    measured = ("contrast", "train", "accuracy", "low", "high")
    rows = [
        (of, one.kind, one.layer, one.index, one.size, *(number(getattr(one, name)) for name in measured))
        for of, scores in asked.items()
        for one in scores
    ]
    return Numbers(("of", "kind", "layer", "index", "size", *measured), rows)


def _place(depth: int, layers: Sequence[int]) -> tuple[int, int | None, str]:
    return depth, layers[0] if len(layers) == 1 else None, "+".join(map(str, layers))


def token_of(token: Any, texts: dict[int, str]) -> tuple[int | None, str | None]:
    return (None, None) if token < 0 else (int(token), printable(texts.get(int(token), f"[id {token}]")))


def truth(value: float) -> bool | None:
    return None if math.isnan(value) else bool(value)
