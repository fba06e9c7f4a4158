"""Random sweeps with the shape of real ones, for tests of what is drawn and printed: no network, no torch."""

from collections.abc import Iterable

import numpy as np
from readings import PROMPT, VOCABULARY, make_info

from stagescope.engine.kinds import entries, listed
from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow
from stagescope.engine.tokens import Token

MEASURES = ("kl_nats", "top1_same", "entropy_change_bits", "loss_change_nats")


def make_sweep(
    kind: str = "drop", n_layers: int = 30, n_tokens: int = 12, seed: int = 0, *, prompt: str | None = None,
    words: list[str] = PROMPT, schedules: Iterable[str] = (), done: Iterable[int] | None = None,
    notes: dict[int, str] | None = None, **info,
) -> Sweep:  # fmt: skip
    """A sweep of one kind, or of `schedules`. words: the tokens, repeated. done: which rows are, else all."""
    model = make_info(n_layers, **info)
    texts = (words * (n_tokens // len(words) + 1))[:n_tokens]
    ids = {text: 100 + index for index, text in enumerate(dict.fromkeys([*texts, " Paris"]))} | {"<|endoftext|>": 0}
    tokens = tuple(Token(ids[text], text) for text in texts)
    rows = listed(tuple(schedules)) if schedules else entries(kind, n_layers, n_positions=n_tokens)
    draw = np.random.default_rng([seed, *kind.encode()])
    t, covered = n_tokens, (n_tokens - 1,) if kind == "trace" else tuple(range(n_tokens))

    kl = _effects(rows, n_layers, draw)[:, None] * np.exp(draw.normal(0, 1, (len(rows), t)))
    measures = {
        "kl_nats": kl,
        "top1_same": (draw.random(kl.shape) < np.exp(-kl)).astype(float),
        "entropy_change_bits": draw.normal(0, 1, kl.shape) * np.sqrt(kl),
        "loss_change_nats": draw.normal(0.3, 1, kl.shape) * np.sqrt(kl),
        "tracked_rank": np.rint(np.exp(kl.clip(0, 9) * draw.random(kl.shape))).clip(1, VOCABULARY),
        "tracked_p": 0.75 * np.exp(-kl) + 0.2 * draw.random(kl.shape) * (kl > 0.01),
    }
    measures["loss_change_nats"][:, -1] = np.nan
    is_done = np.ones(len(rows), bool) if done is None else np.isin(np.arange(len(rows)), list(done))
    base = {
        "base_entropy_bits": draw.uniform(1, 9, t), "base_loss_nats": draw.uniform(0, 6, t),
        "base_tracked_rank": np.ones(t), "base_tracked_p": np.full(t, 0.75),
    }  # fmt: skip
    base["base_loss_nats"][-1] = np.nan
    hidden = [position for position in range(t) if position not in covered]
    for array in measures.values():
        array[~is_done] = np.nan
        array[list(notes or {})] = np.nan
        array[:, hidden] = np.nan
    for array in base.values():
        array[hidden] = np.nan
    tracked = np.full(t, ids[" Paris"], np.int32)
    tracked[hidden] = -1
    return Sweep(
        model=model,
        prompt="".join(texts[1:]) if prompt is None else prompt,
        tokens=tokens,
        kind="schedules" if schedules else kind,
        rows=rows,
        positions=covered,
        done=is_done,
        notes=notes or {},
        tracked=tracked,
        texts={ids[" Paris"]: " Paris"},
        milliseconds=812.0,
        **{name: array.astype(np.float32) for name, array in (measures | base).items()},
    )


def make_corpus(
    kinds: Iterable[str] = ("drop", "swap"), n_layers: int = 30, seed: int = 0, *, documents: int = 40,
    notes: dict[int, str] | None = None, **info,
) -> CorpusSweep:  # fmt: skip
    """A sweep pooled over documents; with one document no interval."""
    draw = np.random.default_rng(seed)
    rows = tuple(row for kind in kinds for row in entries(kind, n_layers))
    effect = _effects(rows, n_layers, draw)
    shape = (len(rows), 4)

    def pooled(mean, spread) -> np.ndarray:
        array = np.stack([mean, mean * 0.7, mean - spread, mean + spread], axis=1).astype(np.float32)
        array[list(notes or {})] = np.nan
        if documents == 1:
            array[:, 2:] = np.nan
        assert array.shape == shape
        return array

    return CorpusSweep(
        model=make_info(n_layers, **info),
        source="topics.txt",
        rows=rows,
        documents=documents,
        tokens_scored=5012,
        kl_nats=pooled(effect, effect * 0.2),
        top1_same=pooled(np.exp(-effect), 0.03 * np.exp(-effect)),
        entropy_change_bits=pooled(np.sqrt(effect) * draw.normal(0.3, 0.5, len(rows)), 0.1),
        loss_change_nats=pooled(effect * 0.8, 0.05),
        notes=notes or {},
        skipped=("document 3 (line 17): no text",),
        n_skipped=1,
        n_cut=2,
    )


def _effects(rows: tuple[SweepRow, ...], n_layers: int, draw: np.random.Generator) -> np.ndarray:
    """[S] mean KL: the first layer catastrophic, the middle robust, the last layers in between, one near nothing."""
    depth = np.array([row.layer or 0 for row in rows]) / max(n_layers - 1, 1)
    effect = 0.05 + 9 * np.exp(-30 * depth) + 0.8 * depth**4
    effect *= np.exp(draw.normal(0, 0.3, len(rows))) * np.array([0.5 if row.kind == "swap" else 1.0 for row in rows])
    effect[len(rows) // 2 : len(rows) // 2 + 1] = 1e-8
    return effect
