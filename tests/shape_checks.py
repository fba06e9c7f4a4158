"""Every readout on a random model of a true shape, against tests/reference.py. `make shapes` runs it on five shapes.

The reference runs first and its model is freed before the engine loads its own, so that memory holds one at a time.
A half-precision model runs in half precision in both, and is read in float64 by the reference.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import reference
import torch
import true_shapes
from reference import Place
from transformers import AutoModelForCausalLM

from stagescope.engine import neurons
from stagescope.engine.blocks import unembedding, w_out
from stagescope.engine.catalog import lookup
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import (
    Load,
    Read,
    ShowNeurons,
    ShowPattern,
    TakeAttribution,
    TakeEvidence,
    TakeLens,
    TakeSimilarity,
    TakeSweep,
    Texts,
)

SHAPES = {"gpt2": "float32", "gpt2-medium": "float32", "pythia-410m": "float32", "phi-1.5": "bfloat16",
          "qwen2.5-0.5b": "bfloat16", "llama-3.2-1b": "float32"}  # fmt: skip
# Largest deviation allowed, as a share of the largest value of the readout: fp32 sums in another order, bf16 roundings.
ALLOWED = {"float32": 1e-3, "bfloat16": 0.05}
PROMPT = "She was walking along the river."
EDIT, FOLLOWED = "drop 3; swap 7 8", (7, 120, 300)
HEADS, NEURON = (5, 0, 3), (6, 11)  # layer, first, last; layer, which
CENSUS_TOKENS = 1500  # of the vocabulary, for the census of all layers; one layer's moments are taken over all of it


def order(n_layers: int, *without: int) -> list[Place]:
    return [Place(layer) for layer in range(n_layers) if layer not in without]


def run(model, ids: torch.Tensor, places: list[Place]) -> reference.RunResult:
    """reference.run, in half precision with the sums of transformers' own order and dtype."""
    if model.dtype == torch.float32:
        return reference.run(model, ids, places)
    x = reference.embed(model, ids)
    residuals, attns, mlps = [x], [], []
    for place in places:
        attns.append(reference.attention(model, place.layer, x))
        mlps.append(reference.mlp(model, place.layer, x if reference.parallel(model) else x + attns[-1]))
        x = (attns[-1] + mlps[-1]) + x if reference.parallel(model) else (x + attns[-1]) + mlps[-1]
        residuals.append(x)
    return reference.RunResult(residuals, attns, mlps, x)


@torch.no_grad()
def expected(name: str, directory: Path, dtype: str) -> dict[str, np.ndarray]:
    """What the definitions give of PROMPT, by plain transformers."""
    known = lookup(name)
    top_layer = known.layers - 1
    how = {"attn_implementation": "eager", "dtype": getattr(torch, dtype)}
    model = AutoModelForCausalLM.from_pretrained(directory, **how).eval()
    ids = torch.tensor([0, *true_shapes.tokenizer(known)(PROMPT).input_ids])
    layer_norm = reference.family(model) in reference.LAYER_NORM
    places = order(known.layers)
    edited = [place for place in (*places[:7], places[8], places[7], *places[9:]) if place.layer != 3]
    base, edit = run(model, ids, places), run(model, ids, edited)
    found, logp = {"ids": ids}, None
    for of, result in (("baseline", base), ("edit", edit)):
        logp = torch.stack([reference.lens(model, x) for x in result.residuals])  # [N, T, V]
        found[f"{of} entropy"] = reference.entropy_bits(logp)
        found[f"{of} kl final"] = reference.kl_nats(logp[-1], logp)
        found[f"{of} top p"] = logp.exp().topk(5).values
        found[f"{of} residual norm"] = torch.stack([x.double().norm(dim=-1) for x in result.residuals])
        found[f"{of} attention norm"] = torch.stack([reference.norms(x, layer_norm) for x in result.attn])
        found[f"{of} mlp norm"] = torch.stack([reference.norms(x, layer_norm) for x in result.mlp])
        if of == "baseline":
            found["lens p"] = logp[:, -1, list(FOLLOWED)].exp()
            found["evidence entropy"] = reference.entropy_bits(logp)[:, 1:].mean(-1)
            final = logp[-1].clone()
    found["edit effect"] = reference.kl_nats(final, logp[-1])
    v1 = torch.stack([reference.lens_v1(model, x, base.residuals[-1])[-1] for x in base.residuals])
    found["lens v1 entropy"] = reference.entropy_bits(v1)
    kl, loss = [], []
    for layer in (0, 5, top_layer):
        q = reference.lens(model, run(model, ids, order(known.layers, layer)).residuals[-1])
        kl.append(reference.kl_nats(final, q))
        loss.append(reference.loss_nats(q, ids) - reference.loss_nats(final, ids))
    found["sweep kl"], found["sweep loss"] = torch.stack(kl), torch.stack(loss)
    patterns = model(ids[None], output_attentions=True).attentions
    found["evidence sink"] = torch.stack([pattern[0, :, 1:, 0].double().mean(-1) for pattern in patterns])
    # A head at a query looks at the token before.
    found["evidence previous"] = torch.stack(
        [pattern[0].diagonal(-1, -2, -1).double().mean(-1) for pattern in patterns]
    )
    some = reference.w_out(model, top_layer)[:64]
    some = reference.centred(some) if layer_norm else some
    for which, n_tokens in (("moments", moment_tokens(known, dtype)), ("census", CENSUS_TOKENS)):
        mean, var, skew, kurtosis = reference.moments(some, reference.folded_unembedding(model, n_tokens))
        found |= {f"{which} variance": var, f"{which} skew": skew, f"{which} kurtosis": kurtosis}
    written = torch.stack([reference.w_out(model, layer)[0] for layer in (0, top_layer)])
    written = reference.centred(written) if layer_norm else written
    head = model.get_output_embeddings().weight
    mean = head[: true_shapes.REAL_TOKENS[known.family]].mean(0, dtype=torch.float64)
    w_u = (head[list(true_shapes.SHARED)].double() - mean) * reference.final_gain(model)  # [8, D]
    w_u = reference.centred(w_u) if layer_norm else w_u
    cosines = torch.nn.functional.cosine_similarity(written[:, None], w_u[None], dim=-1)
    found["neuron cosines"] = cosines.sort(-1, descending=True).values
    found["pattern"] = patterns[HEADS[0]][0, HEADS[1]]
    # A contribution c to the logit of a token, less the mean logit: c . d over the scale of the final norm.
    d = (head[FOLLOWED[0]].double() - head.mean(0, dtype=torch.float64)) * reference.final_gain(model)
    d = reference.centred(d) if layer_norm else d
    scale = reference.final_scale(model, base.residuals[-1])[:, 0]
    for what, parts in (("attention", base.attn), ("mlp", base.mlp)):
        found[f"attribution {what}"] = torch.stack([part.double() @ d / scale for part in parts])
    x, after = (torch.stack(base.residuals)[which, 1:].double() for which in (slice(None, -1), slice(1, None)))
    found["influence"] = 1 - torch.nn.functional.cosine_similarity(x, after, dim=-1).mean(-1)
    switch_off(model, known)
    off = reference.lens(model, run(model, ids, places).residuals[-1])
    found["heads and neuron off"] = reference.kl_nats(final, off)
    return {what: (value.float() if value.dtype == torch.bfloat16 else value).numpy() for what, value in found.items()}


def switch_off(model, known) -> None:
    """What HEADS and NEURON write set to zero in the weights themselves."""
    names = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense", "phi": "self_attn.dense"}
    layer, first, last_head = HEADS
    write = reference.blocks(model)[layer].get_submodule(names.get(known.family, "self_attn.o_proj")).weight
    d_head = known.width // known.heads
    (write if known.family == "gpt2" else write.T)[first * d_head : (last_head + 1) * d_head] = 0
    names = {"gpt2": "c_proj", "gpt_neox": "dense_4h_to_h", "phi": "fc2"}
    layer, number = NEURON
    write = reference.blocks(model)[layer].mlp.get_submodule(names.get(known.family, "down_proj")).weight
    (write if known.family == "gpt2" else write.T)[number] = 0


def moment_tokens(known, dtype: str) -> int:
    """The whole vocabulary, of large models a part: the reference holds it four times in float64."""
    return true_shapes.REAL_TOKENS[known.family] if dtype == "float32" else 40_000


def last(replies):
    *_, reply = replies
    return reply


def measured(name: str, directory: Path, dtype: str) -> dict[str, np.ndarray]:
    """The same by the engine."""
    engine, known = LocalEngine(), lookup(name)
    load = Load(str(directory), device="cpu", dtype=dtype, threads=1, cache=False, bos=known.prefix)
    model = last(engine.answer(load))
    assert not model.warnings and (model.n_layers, model.d_vocab) == (known.layers, known.vocabulary)
    found = {"noise": np.array(model.noise_kl)}
    for of, schedule in (("baseline", ""), ("edit", EDIT)):
        read = last(engine.answer(Read(PROMPT, schedule, top=5, part="whole")))
        found["ids"] = np.array([token.id for token in read.tokens])
        found |= {
            f"{of} entropy": read.entropy_bits, f"{of} kl final": read.kl_final_nats, f"{of} top p": read.top_p,
            f"{of} residual norm": read.resid_norm, f"{of} attention norm": read.attn_norm[1:],
            f"{of} mlp norm": read.mlp_norm[1:],
        }  # fmt: skip
    found["edit effect"] = read.effect_kl_nats
    curves = last(engine.answer(TakeLens(PROMPT, tokens=FOLLOWED)))
    found |= {"lens p": curves.p[0], "lens v1 entropy": curves.entropy_bits[1]}
    drops = tuple(f"drop {layer}" for layer in (0, 5, known.layers - 1))
    sweep = last(engine.answer(TakeSweep((PROMPT,), schedules=drops)))
    found |= {"sweep kl": sweep.kl_nats, "sweep loss": sweep.loss_change_nats[:, :-1]}
    evidence = last(engine.answer(TakeEvidence(Texts((PROMPT,)))))
    found |= {"evidence entropy": evidence.of("entropy_bits")[:, 0], "evidence sink": evidence.head_sink,
              "evidence previous": evidence.head_prev[..., 0]}  # fmt: skip
    pattern = last(engine.answer(ShowPattern(PROMPT, *HEADS[:2])))
    attribution = last(engine.answer(TakeAttribution(PROMPT, tracked=FOLLOWED[0])))
    similarity = last(engine.answer(TakeSimilarity(Texts((PROMPT,)))))
    off = "head-off {}.{}-{}; neuron-off {}.{}".format(*HEADS, *NEURON)
    found |= {"pattern": pattern.pattern, "attribution attention": attribution.attn[1:],
              "attribution mlp": attribution.mlp[1:], "influence": similarity.influence[:, 0],
              "heads and neuron off": last(engine.answer(Read(PROMPT, off, part="whole"))).effect_kl_nats}  # fmt: skip
    return found | of_neurons(engine, known)


def of_neurons(engine: LocalEngine, known) -> dict[str, np.ndarray]:
    net, final = engine.net, known.layers - 1
    if net.gated:
        list(engine.measure_averages())
    census = last(neurons.census(net, engine.info, engine.averages, CENSUS_TOKENS))
    assert census.high.tolist() == [2] * known.layers, f"planted 2 neurons a layer, found {census.high.tolist()}"
    if not net.gated:
        assert (census.prediction == 1).all() and (census.suppression == 1).all()
    n_tokens = moment_tokens(known, str(net.dtype).removeprefix("torch."))
    vocabulary = finish(neurons.prepare(unembedding(net).detach()[:n_tokens], net.norm, net.softcap))
    moments = finish(neurons.moments(w_out(net, final)[:64], vocabulary, net.norm))
    found = {f"moments {part}": getattr(moments, part).numpy() for part in ("variance", "skew", "kurtosis")}
    found |= {f"census {part}": getattr(census, part)[final, :64] for part in ("variance", "skew", "kurtosis")}
    engine.census = census
    cosines = []
    for layer in (0, final):
        shown = last(engine.answer(ShowNeurons(layer=layer, prompt=PROMPT, top=len(true_shapes.SHARED))))
        (row,) = (row for row in shown.rows if row.index == 0)
        turned = census.sign[layer, 0] < 0
        tokens, cos = (row.suppressed, row.suppressed_cos) if turned else (row.promoted, row.promoted_cos)
        assert set(tokens) == set(true_shapes.SHARED) and np.isfinite(shown.activation).all()
        cosines.append(sorted(np.abs(cos), reverse=True))
    return found | {"neuron cosines": np.array(cosines)}


def finish(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def deviations(name: str, directory: Path, dtype: str | None = None) -> dict[str, float]:
    """Of each readout, the largest difference as a share of its largest value."""
    dtype = dtype or SHAPES[name]
    true_shapes.build(name, directory, getattr(torch, dtype))
    theirs = expected(name, directory, dtype)
    ours = measured(name, directory, dtype)
    assert ours.pop("ids").tolist() == theirs.pop("ids").tolist()
    print(f"noise floor {ours.pop('noise'):.1e} nats", file=sys.stderr)
    assert min(theirs["edit effect"].max(), theirs["heads and neuron off"].max()) > 1e-3, "the edits do nothing"
    assert ours.keys() == theirs.keys() and all(ours[what].shape == theirs[what].shape for what in ours)
    return {what: float(np.abs(ours[what] - theirs[what]).max() / np.abs(theirs[what]).max()) for what in theirs}


def main(names: list[str]) -> int:
    """One process a model, so that each gives its memory back and its peak is its own."""
    if len(names) != 1:
        each = [subprocess.run([sys.executable, __file__, name], check=False) for name in names or SHAPES]
        return max(one.returncode != 0 for one in each)
    (name,), began = names, time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="stagescope-shape-") as directory:
        found = deviations(name, Path(directory))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wrong = [what for what, by in found.items() if not by <= ALLOWED[SHAPES[name]]]
    largest = ", ".join(f"{what} {found[what]:.1e}" for what in sorted(found, key=found.get, reverse=True)[:4])
    print(f"{name:13} {SHAPES[name]:9} {time.monotonic() - began:4.0f} s  {peak:.1f} GiB  {largest}", flush=True)
    if wrong:
        print(f"{name}: beyond {ALLOWED[SHAPES[name]]:.0e}: {', '.join(wrong)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
