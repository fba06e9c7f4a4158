"""Random readings with the shape of real ones, for tests of what is drawn: no network, no torch."""

from dataclasses import replace

import numpy as np

from stagescope.engine.protocol import Census, ModelInfo, Reading
from stagescope.engine.schedule import parse, resolve, sync_layers
from stagescope.engine.tokens import Token

PROMPT = "<|endoftext|>/The/ E/iff/el/ Tower/ is/ located/ in/ the/ city/ of".split("/")
WORDS = " Paris/ the/ a/ London/,/./ France/ New/\u00a0/ Tower/ city/\\u{a}/ (/ its/ington/ Rome".split("/")
WORDS += " capital/ located/ which/ of/ town/ 1/ville/s".split("/")
VOCABULARY = 49_152


def make_info(n_layers: int = 30, **changes) -> ModelInfo:
    info = ModelInfo(
        name="smollm2-135m", source="4-bit dequantised to fp32", architecture="LlamaForCausalLM",
        n_layers=n_layers, d_model=576, d_mlp=1536, n_heads=9, d_vocab=VOCABULARY, n_ctx=2048,
        prefix=Token(0, "<|endoftext|>"), loaded=True, noise_kl=2e-7, gated=True,
    )  # fmt: skip
    return replace(info, **changes)


def make_reading(
    n_layers: int = 30, n_tokens: int = 12, schedule: str = "drop 11", seed: int = 0, *, top: int = 8,
    words: list[str] = WORDS, positions: tuple[int, ...] | None = None, **info,
) -> Reading:  # fmt: skip
    """A reading with its baseline (the baseline itself for ""). `positions`: what is covered, else all."""
    model = make_info(n_layers, **info)
    prompt = (PROMPT * (n_tokens // len(PROMPT) + 1))[:n_tokens]
    ids = {text: 100 + index for index, text in enumerate(dict.fromkeys([*prompt, *words]))}
    ids["<|endoftext|>"] = 0
    tokens = tuple(Token(ids[text], text) for text in prompt)
    covered = tuple(range(n_tokens)) if positions is None else positions
    baseline = _one("", model, tokens, ids, words, covered, seed, top)
    if not schedule:
        return baseline
    return _one(str(parse(schedule)), model, tokens, ids, words, covered, seed, top, baseline)


def _one(text, model, tokens, ids, words, covered, seed, top, baseline=None) -> Reading:
    plan = resolve(parse(text), model.n_layers, parallel_blocks=model.parallel, n_positions=len(tokens))
    layers = ((), *(tuple(run.layer for run in place) for place in plan))
    shape = n, t = len(layers), len(tokens)
    draw = np.random.default_rng([seed, len(text)])
    through = np.linspace(0, 1, n)[:, None]

    entropy = np.clip(11 - 9 * through**2 + draw.normal(0, 0.6, shape), 0.2, 15)
    entropy[0] = 0.01
    near = np.array([ids[word] for word in words])
    chosen = np.argsort(draw.random((n, t, len(words))), axis=2)[:, :, :top]
    top_ids = near[chosen].astype(np.int32)
    top_ids[0, :, 0] = [token.id for token in tokens]
    top_p = -np.sort(-draw.dirichlet(np.full(top + 4, 0.3), shape), axis=2)[:, :, :top]
    rank = np.rint(np.exp((1 - through) * 8.5 + draw.normal(0, 0.4, shape))).clip(1, VOCABULARY)
    tracked = np.full(t, ids[words[0]], np.int32) if baseline is None else baseline.tracked
    resid = 10 * np.exp(3 * through) * draw.uniform(0.8, 1.2, shape)
    resid[:, 0] *= 100
    attn, mlp = (np.exp(draw.normal(mean, 0.7, shape)) * resid for mean in (-2.5, -1.8))
    attn[0] = mlp[0] = np.nan

    depth_of = {layer: depth for depth, layer in enumerate(range(-1, model.n_layers))}
    synced = [None if layer is None else depth_of[layer] for layer in sync_layers(plan)]
    kl, rel, cos, same = (np.full(shape, np.nan) for _ in range(4))
    touched = False
    for d, place in enumerate(((), *plan)):
        expected = () if d == 0 else ((d - 1,),)
        found = tuple((run.layer,) for run in place) if not any(r.attn or r.mlp for r in place) else None
        touched |= found != expected
        if synced[d] is None:
            continue
        if not touched:
            kl[d], rel[d], cos[d], same[d] = 0, 0, 1, 1
            if baseline is not None:
                for mine, theirs in ((entropy, baseline.entropy_bits), (top_ids, baseline.top_ids),
                                     (top_p, baseline.top_p), (rank, baseline.tracked_rank)):  # fmt: skip
                    mine[d] = theirs[d]
        else:
            kl[d] = np.exp(draw.normal(-2.5 + 4 * d / n, 1, t))
            rel[d], cos[d] = np.sqrt(kl[d]).clip(0, 2), np.exp(-kl[d])
            same[d] = top_ids[d, :, 0] == baseline.top_ids[synced[d], :, 0]

    vocabulary_readouts = [entropy, top_p, rank, kl, same]
    hidden = [p for p in range(t) if p not in covered]
    for array in vocabulary_readouts:
        array[:, hidden] = np.nan
    top_ids[:, hidden] = -1
    texts = {i: text for text, i in ids.items()}
    change = entropy[-1] - (baseline.entropy_bits[-1] if baseline is not None else entropy[-1])
    float32 = {
        "entropy_bits": entropy, "kl_final_nats": np.abs(entropy), "top_p": top_p, "tracked_rank": rank,
        "tracked_p": 0.7 / rank, "resid_norm": resid, "attn_norm": attn, "mlp_norm": mlp, "kl_nats": kl,
        "resid_rel": rel, "resid_cos": cos, "top1_same": same, "effect_kl_nats": kl[-1],
        "effect_top1_same": same[-1], "effect_entropy_bits": change,
    }  # fmt: skip
    return Reading(
        model=model,
        prompt="".join(token.text for token in tokens[1:]),
        tokens=tokens,
        schedule=text,
        lens="standard",
        positions=covered,
        layers=layers,
        top_ids=top_ids,
        tracked=tracked,
        baseline_depth=tuple(synced),
        texts=texts,
        baseline=baseline,
        milliseconds=41.0,
        **{name: value.astype(np.float32) for name, value in float32.items()},
    )


def make_census(n_layers: int = 30, seed: int = 0, orientation: str = "corpus") -> Census:
    draw = np.random.default_rng(seed)
    high = draw.integers(0, 140, n_layers).astype(np.int32)
    prediction = (high * draw.uniform(0.2, 0.7, n_layers)).astype(np.int32)
    flat = np.zeros((n_layers, 4), np.float32)
    return Census(
        model="smollm2-135m", fingerprint="", orientation=orientation, null_directions=256, null_above=0.0,
        d_mlp=1536, high=high, prediction=prediction, suppression=high - prediction, unsigned=high * 0,
        partition=high * 0, variance=flat, skew=flat, kurtosis=flat, sign=flat.astype(np.int8), consistency=flat,
    )  # fmt: skip
