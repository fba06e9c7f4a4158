"""Random Evidences with the shape of real ones, for tests of what is drawn and printed: no network, no torch."""

import numpy as np
from readings import make_info

from stagescope.engine import pool
from stagescope.engine.protocol import LENSES, OF_DEPTHS, OF_LAYERS, OFFSETS, Evidence

NAMES = (*OF_DEPTHS, *OF_LAYERS)


def make_evidence(
    n_layers: int = 30, n_heads: int = 9, documents: int = 1, lenses: tuple[str, ...] = LENSES, seed: int = 0,
    complete: bool = True, *, n_tokens: int = 24, source: str | None = None, **info,
) -> Evidence:  # fmt: skip
    """Of `documents` of n_tokens each, prefix included: early layers look near, the MLP's norm peaks late.

    What such a document cannot have is NaN: sink-free attention to k tokens takes k + 2. complete False: the lower half
    of the layers, no lens, and no medians, intervals and sums. Means, intervals, sums and heads agree with each other.
    """
    model = make_info(n_layers, n_heads=n_heads, **info)
    draw, depth = np.random.default_rng(seed), np.linspace(0, 1, n_layers + 1)
    curves = {
        "entropy_bits": 11 - 9 * depth**2, "kl_final_nats": 12 * (1 - depth) ** 2, "top1_final": depth**3,
        "entropy_bits_v1": 15 - 13 * depth**2, "kl_final_nats_v1": 9 * (1 - depth), "top1_final_v1": depth**4,
        "attn_norm": 4 + 30 * depth, "mlp_norm": 3 + 90 * depth**3, "resid_norm": 10 + 200 * depth,
        "attn_rel": 0.5 - 0.3 * depth, "mlp_rel": 0.4 - 0.1 * depth, "attn_mlp_ratio": 1.5 - depth,
        "sink_mass": 0.2 + 0.6 * np.sin(3 * depth),
    }  # fmt: skip
    for k in OFFSETS:
        curves[f"prev{k}_mean_weight"] = 0.4 / (k + 1) * (0.2 + np.exp(-5 * depth))
        curves[f"prev{k}_no_sink"] = 0.5 / (k + 1) * (0.2 + np.exp(-5 * depth))
    means = np.array([curves[name] for name in NAMES]) * draw.uniform(0.9, 1.1, (documents, 1, n_layers + 1))
    counts = np.full(means.shape, n_tokens - 1.0)
    for row, name in enumerate(NAMES):
        is_lens, is_v1 = name in OF_DEPTHS, name.endswith("_v1")
        short = name.endswith("no_sink") and n_tokens < int(name[4:].split("_")[0]) + 2 or n_tokens < 2
        if short or is_lens and (not complete or LENSES[is_v1] not in lenses):
            counts[:, row] = 0
        if not is_lens:
            counts[:, row, n_layers if complete else n_layers // 2 :] = 0
    sums = np.where(counts > 0, means * counts, 0)
    mean = pool.ratio(sums.sum(0), counts.sum(0))
    median, (low, high) = 0.9 * mean, pool.interval(sums, counts)
    if not complete:
        median, low, high = np.full((3, *mean.shape), np.nan)
        sums, counts = sums[:0], counts[:0]

    shares = draw.dirichlet(np.full(n_heads, 2.0), n_layers)[:, :, None] * n_heads  # of the mean over heads, which is 1

    def heads(*names: str) -> np.ndarray:
        return (shares * np.stack([mean[NAMES.index(name), :-1] for name in names], -1)[:, None]).astype(np.float32)

    queries = np.arange(1, n_tokens)
    even = 1 / (queries + 1)
    seen = [np.minimum(queries, k) for k in OFFSETS]
    free = [even[queries > k] for k in OFFSETS]
    nothing = np.nan if n_tokens < 2 else 1.0
    return Evidence(
        model=model,
        source=source or ("1 prompt" if documents == 1 else "topics.txt"),
        documents=documents,
        tokens_scored=documents * (n_tokens - 1),
        lenses=lenses,
        summary=np.stack([mean, median, low, high], -1),
        sums=sums,
        counts=counts,
        head_prev=heads(*(f"prev{k}_mean_weight" for k in OFFSETS)),
        head_no_sink=heads(*(f"prev{k}_no_sink" for k in OFFSETS)),
        head_sink=heads("sink_mass")[..., 0].clip(max=1),
        uniform=np.array([nothing * (even * n).sum() / max(n.sum(), 1) for n in seen]),
        uniform_no_sink=np.array([part.mean() if len(part) else np.nan for part in free]),
        uniform_sink=float(nothing * even.sum() / max(len(even), 1)),
        complete=complete,
    )
