"""Head scores, patterns, attributions, similarities and probes of the fake engine: the shapes of real ones, no meaning."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from stagescope.engine.fake_findings import source
from stagescope.engine.protocol import (
    Attribution,
    FindHeads,
    HeadPattern,
    HeadScores,
    ModelInfo,
    Probe,
    ProbeScore,
    ShowPattern,
    Similarity,
    TakeAttribution,
    TakeProbe,
    TakeSimilarity,
    Texts,
)
from stagescope.engine.schedule import parse, resolve
from stagescope.engine.tokens import Token


def head_scores(info: ModelInfo, request: FindHeads) -> HeadScores:
    n, heads = info.n_layers, info.n_heads
    rng = np.random.default_rng(request.pieces)
    control = 0.1 * rng.random((n, heads))
    score = rng.normal(0.02, 0.04, (n, heads))
    score[min(2, n - 1), heads - 1] = 0.6  # one that joins
    both = np.stack([score, score - 0.05, score + 0.05], -1)
    words = (("ent", "angle", "ment"), ("un", "forgett", "able"), (" Fel", "i", "cia"), (" z", "oo", "log"))
    cut = tuple(tuple(word[: request.pieces]) for word in words)
    return HeadScores(
        info, source(Texts(file=request.file or None)), request.pieces, 120, 60, both, 0.9 * both, control + score,
        control, cut,
    )  # fmt: skip


def head_pattern(info: ModelInfo, request: ShowPattern, tokens: tuple[Token, ...]) -> HeadPattern:
    rng = np.random.default_rng([request.layer, request.head, len(tokens)])
    weights = np.tril(rng.exponential(size=(len(tokens), len(tokens))) ** 3)
    weights[:, 0] += 1  # the sink
    pattern = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return HeadPattern(info, request.prompt, tokens, request.schedule, request.layer, request.head, pattern)


def attribution(
    info: ModelInfo, request: TakeAttribution, tokens: tuple[Token, ...], texts: dict[int, str]
) -> Attribution:
    """Raises ScheduleError."""
    n_tokens, schedule = len(tokens), parse(request.schedule)
    plan = resolve(schedule, info.n_layers, n_positions=n_tokens, n_heads=info.n_heads, d_mlp=info.d_mlp)
    rng = np.random.default_rng([zlib.crc32(request.prompt.encode("utf-8", "replace"))])
    plain = rng.normal(0, 1, (2, info.n_layers, n_tokens)) * np.linspace(0.1, 3, info.n_layers)[:, None]
    tracked = np.full(n_tokens, request.tracked if request.tracked is not None else max(texts), np.int32)
    whole = resolve(parse(""), info.n_layers)
    layers = ((), *(tuple(run.layer for run in place) for place in plan))
    written = np.full((2, len(plan) + 1, n_tokens), np.nan)
    for depth, place in enumerate(plan, 1):
        written[:, depth] = np.mean([plain[:, run.layer] for run in place], 0)
        written[0, depth] *= not any(run.attn for run in place)
        written[1, depth] *= not any(run.mlp for run in place)
    if schedule:
        written[:, -1] *= 1.2  # the last layer makes some of it good
    constant, embedding = np.full(n_tokens, 0.1), rng.normal(0, 0.3, n_tokens)
    scale = np.full(n_tokens, 0.4 if schedule else 0.0)
    edited = np.array([np.full((2, n_tokens), whole[n] not in plan) for n in range(info.n_layers)])
    logit = constant + embedding + np.nansum(written, (0, 1)) + scale
    baseline = attribution(info, replace(request, schedule=""), tokens, texts) if schedule else None
    return Attribution(
        info, request.prompt, tokens, str(schedule), layers, tracked, logit, constant, embedding, *written, scale,
        edited, texts, baseline,
    )  # fmt: skip


def similarity(info: ModelInfo, request: TakeSimilarity) -> Similarity:
    n = info.n_layers + 1
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
    influence = 0.05 + 0.4 * np.exp(-np.arange(n - 1)) + 0.2 * np.exp(np.arange(n - 1) - n + 2.0)
    several = (len(request.texts.prompts) or 16) > 1
    spread = 0.02 if several else np.nan
    return Similarity(
        info, source(request.texts), len(request.texts.prompts) or 16, 320,
        np.stack([influence, influence - spread, influence + spread], -1), 0.5 * apart**0.7, np.exp(-3 * apart), 320,
    )  # fmt: skip


def probe(info: ModelInfo, request: TakeProbe) -> Probe:
    rng = np.random.default_rng(zlib.crc32(request.suffix.encode("utf-8", "replace")))

    def score(kind: str, size: int, best: float) -> ProbeScore:
        one, accuracy = size == 1, 0.5 + (best - 0.5) * float(rng.random())
        where = (int(rng.integers(info.n_layers)), int(rng.integers(info.d_mlp))) if one else (None, None)
        return ProbeScore(
            kind, *where, size, float(rng.random()) if one else np.nan, accuracy + 0.02, accuracy, accuracy - 0.04,
            accuracy + 0.04,
        )  # fmt: skip

    best = {"prediction": 0.85, "suppression": 0.8, "random": 0.55}
    neurons = [score(kind, 1, top) for kind, top in best.items() for _ in range(16)]
    ensembles = [
        replace(score(kind, size, top), accuracy=top - 0.2 / size) for kind, top in best.items() for size in (2, 4, 8, 16)
    ]
    whole = ProbeScore("model", None, None, 0, np.nan, 0.9, 0.88, 0.85, 0.91)
    return Probe(
        info, source(Texts(file=request.file or None)), f"ends in “{request.suffix}”", 24, (600, 80, 300), (200, 30, 100),
        tuple(sorted(neurons, key=lambda one: (one.kind, -one.train))), tuple(ensembles), whole, replace(whole, accuracy=0.8),
        (("was seen", " walking", "positive"), ("he had", " walked", "negative")),
    )  # fmt: skip
