"""Evidence, lens curves, neurons and stage maps of the fake engine: the shapes of real ones, and no meaning."""

from __future__ import annotations

import zlib

import numpy as np

from stagescope.engine.protocol import (
    OF_DEPTHS,
    OF_LAYERS,
    OFFSETS,
    Evidence,
    LensCurves,
    ModelInfo,
    NeuronRow,
    Neurons,
    ShowNeurons,
    Signal,
    Stage,
    StageMap,
    TakeEvidence,
    TakeLens,
    Texts,
)
from stagescope.engine.stages import STAGES
from stagescope.engine.tokens import Token


def source(texts: Texts) -> str:
    return texts.file or (f"{len(texts.prompts)} prompts" if texts.prompts else "the standard text")


def evidence(info: ModelInfo, request: TakeEvidence, n_known: int | None = None) -> Evidence:
    """n_known: layers measured so far, for an Evidence that fills in."""
    n, heads, names = info.n_layers, info.n_heads, (*OF_DEPTHS, *OF_LAYERS)
    documents = len(request.texts.prompts) or 16
    rng = np.random.default_rng([zlib.crc32(source(request.texts).encode())])
    depth = np.linspace(0, 1, n + 1)
    shapes = {
        "entropy_bits": 10 * (1 - depth) + 2, "kl_final_nats": 12 * (1 - depth), "top1_final": depth,
        "entropy_bits_v1": 15 * (1 - depth) + 2, "kl_final_nats_v1": 9 * (1 - depth), "top1_final_v1": depth**2,
        "attn_norm": 5 + 20 * depth, "mlp_norm": 4 + 60 * depth**3, "resid_norm": 10 + 200 * depth,
        "attn_rel": 0.5 - 0.3 * depth, "mlp_rel": 0.4 - 0.1 * depth, "attn_mlp_ratio": 1.5 - depth,
        "sink_mass": 0.2 + 0.6 * np.sin(3 * depth),
    }  # fmt: skip
    for k in OFFSETS:
        shapes[f"prev{k}_mean_weight"] = 0.3 / k * (1 - 0.7 * depth)
        shapes[f"prev{k}_no_sink"] = 0.25 / k * (1 - 0.7 * depth)
    values = np.array([shapes[name] for name in names]) * rng.uniform(0.9, 1.1, (documents, 1, n + 1))
    if not request.lenses:
        values[:, : len(OF_DEPTHS)] = np.nan
    values[:, len(OF_DEPTHS) :, n] = np.nan
    if n_known is not None:
        values[:, :, n_known:] = np.nan
    mean = values.mean(0)
    spread = 0.05 * mean if documents > 1 else np.nan * mean
    per_head = rng.dirichlet(np.ones(8), (n, heads)).astype(np.float32)
    return Evidence(
        model=info, source=source(request.texts), documents=documents, tokens_scored=20 * documents,
        lenses=request.lenses, summary=np.stack([mean, mean, mean - spread, mean + spread], -1), sums=values,
        counts=np.ones_like(values), head_prev=per_head[..., : len(OFFSETS)], head_no_sink=per_head[..., 1 : 1 + len(OFFSETS)],
        head_sink=per_head[..., -1], uniform=np.full(len(OFFSETS), 0.09), uniform_no_sink=np.full(len(OFFSETS), 0.08),
        uniform_sink=0.1, complete=n_known is None,
    )  # fmt: skip


def lens_curves(info: ModelInfo, request: TakeLens, tokens: tuple[Token, ...], texts: dict[int, str]) -> LensCurves:
    n = info.n_layers + 1
    rng = np.random.default_rng([zlib.crc32(request.prompt.encode("utf-8", "replace"))])
    depth, followed = np.linspace(0, 1, n), tuple(Token(token, texts.get(token, "?")) for token in request.tokens)
    noise = rng.random((2, n, len(followed)))
    return LensCurves(
        model=info, prompt=request.prompt, tokens=tokens, schedule=request.schedule,
        position=request.position % len(tokens), layers=((), *((layer,) for layer in range(info.n_layers))),
        entropy_bits=np.stack([10 * (1 - depth), 15 * (1 - depth)]) + 1,
        kl_final_nats=np.stack([12 * (1 - depth), 9 * (1 - depth)]),
        top_ids=rng.choice(list(texts), (2, n)).astype(np.int32), followed=followed,
        rank=np.round(np.exp(9 * (1 - depth)[:, None] * noise)), p=depth[:, None] ** 4 * noise, logit=20 * noise,
        texts=texts,
    )  # fmt: skip


def neurons(info: ModelInfo, request: ShowNeurons, tokens: tuple[Token, ...], texts: dict[int, str]) -> Neurons:
    rng = np.random.default_rng([request.layer or 0, request.most])
    ids = [token for token in texts if token]
    rows = []
    for kind in ("prediction", "suppression", "unsigned", "partition"):
        for number in range(request.most):
            layer = int(rng.integers(info.n_layers)) if request.layer is None else request.layer
            picked = tuple(int(token) for token in rng.choice(ids, request.top))
            cosines = tuple(float(c) for c in np.linspace(0.5, 0.2, request.top))
            sign = -1.0 if kind == "suppression" else 1.0
            moments = (60.0 - number, sign * (5.0 - 0.1 * number), 0.01, float(rng.random()))
            downs = tuple(-c for c in cosines)
            rows.append(NeuronRow(layer, int(rng.integers(info.d_mlp)), kind, *moments, picked, cosines, picked[::-1], downs))
    activation = rng.normal(size=(len(rows), len(tokens))).astype(np.float32)
    return Neurons(info, request.layer, request.prompt, tokens, tuple(rows), activation, texts)


def stage_map(info: ModelInfo, texts: Texts) -> StageMap:
    n = info.n_layers
    firsts = [0, max(n // 8, 1), n // 2, n - max(n // 8, 1)]
    several = len(texts.prompts) != 1
    signal = Signal("near_attention", "attention to the 5 tokens before", firsts[1], 0.2, 0.1, 0.8, 0.3, True)
    stages = []
    for number, name in enumerate(STAGES):
        first, last = firsts[number], (*firsts, n)[number + 1] - 1
        if number == 1:  # one that is not there
            stages.append(Stage(name, None, None, None, None, False, "no curve shows it above noise", (signal,)))
            continue
        low, high = (max(first - 1, 0), min(first + 1, n - 1)) if several else (None, None)
        stages.append(Stage(name, first, low, high, last, True, "two of three curves agree", (signal,)))
    curves = np.linspace(1, 0, n)[None]
    where = (source(texts), len(texts.prompts) or 16, 320)
    return StageMap(info, *where, "where the curves step most", tuple(stages), ("near_attention",), curves)

