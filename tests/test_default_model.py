"""The default model against plain transformers: drops and swaps, one by one and as a sweep, and the census of a slice of its neurons."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from transformers import AutoModelForCausalLM

from stagescope.engine import blocks, neurons
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import FindHeads, FindToken, Load, Read, Reading, Sweep, TakeSweep
from stagescope.reports import heads as heads_report

PROMPT = "The Eiffel Tower is located in the city of"
ORDERS = {
    "": [*range(30)],
    "drop 0": [*range(1, 30)],
    "drop 14-16": [*range(14), *range(17, 30)],
    "swap 0 1": [1, 0, *range(2, 30)],
    "swap 28 29": [*range(28), 29, 28],
}


@pytest.fixture(scope="module")
def engine(default_model_dir) -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(cache=False, device="cpu", dtype="float32")):
        pass
    return engine


@pytest.fixture(scope="module")
def model(default_model_dir):
    model = AutoModelForCausalLM.from_pretrained(default_model_dir, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def last(engine: LocalEngine, request) -> Reading:
    return list(engine.answer(request))[-1]


@pytest.mark.parametrize("schedule", ORDERS)
def test_drops_and_swaps(engine, model, schedule: str) -> None:
    reading = last(engine, Read(PROMPT, schedule))
    ids = torch.tensor([token.id for token in reading.tokens])
    theirs = reference.run(model, ids, [reference.Place(layer) for layer in ORDERS[schedule]])
    base = reference.lens(model, reference.run(model, ids).residuals[-1])
    lens = [reference.lens(model, x) for x in theirs.residuals]

    def close(ours, other) -> None:
        np.testing.assert_allclose(ours, np.asarray(other), rtol=1e-4, atol=1e-4)

    for depth, logp in enumerate(lens):
        close(reading.entropy_bits[depth], reference.entropy_bits(logp))
        close(reading.kl_final_nats[depth], reference.kl_nats(lens[-1], logp))
    for depth, (attn, mlp) in enumerate(zip(theirs.attn, theirs.mlp, strict=True), start=1):
        close(reading.attn_norm[depth], attn.norm(dim=-1))
        close(reading.mlp_norm[depth], mlp.norm(dim=-1))
    close(reading.effect_kl_nats, reference.kl_nats(base, lens[-1]))
    assert (reading.effect_top1_same == (base.argmax(-1) == lens[-1].argmax(-1)).numpy()).all()
    assert float((lens[-1] - theirs.logits.log_softmax(-1)).abs().max()) < 1e-4


def test_a_sweep_of_drops_and_swaps(engine, model) -> None:
    """Rows from all depths against a run of plain transformers each, prefixes not shared, nothing batched."""
    sweeps = {}
    for reply in engine.answer(TakeSweep((PROMPT,))):
        if isinstance(reply, Sweep):
            sweeps[reply.kind] = reply
    ids = torch.tensor([token.id for token in sweeps["drop"].tokens])
    base = reference.lens(model, reference.run(model, ids).residuals[-1])
    orders = {("drop", layer): [n for n in range(30) if n != layer] for layer in (0, 1, 2, 6, 11, 17, 24, 28, 29)}
    orders |= {("swap", layer): [*range(layer), layer + 1, layer, *range(layer + 2, 30)] for layer in (0, 1, 5, 11, 20, 27, 28)}
    for (kind, layer), order in orders.items():
        lens = reference.lens(model, reference.run(model, ids, [reference.Place(n) for n in order]).residuals[-1])
        ours = sweeps[kind]
        assert ours.rows[layer].layer == layer
        np.testing.assert_allclose(ours.kl_nats[layer], reference.kl_nats(base, lens), rtol=1e-4, atol=1e-4)
        change = reference.entropy_bits(lens) - reference.entropy_bits(base)
        np.testing.assert_allclose(ours.entropy_change_bits[layer], change, rtol=1e-4, atol=1e-4)
        worse = reference.loss_nats(lens, ids) - reference.loss_nats(base, ids)
        np.testing.assert_allclose(ours.loss_change_nats[layer, :-1], worse[: len(ids) - 1], rtol=1e-4, atol=1e-4)
        assert (ours.top1_same[layer] == (base.argmax(-1) == lens.argmax(-1)).numpy()).all()
    mean = {kind: sweep.kl_nats[:, 1:].mean(1) for kind, sweep in sweeps.items()}
    assert mean["drop"].argmax() in (0, 1, 2) and mean["drop"][12:23].max() < 1 < mean["drop"][11]


def test_the_moments_of_some_neurons(engine, model) -> None:
    net, layer, some = engine.net, 29, slice(0, 192)
    n_tokens = 49152
    w_u = reference.folded_unembedding(model, n_tokens)
    theirs = reference.moments(reference.w_out(model, layer)[some], w_u)
    vocabulary = exhaust(neurons.prepare(blocks.unembedding(net)[:n_tokens], net.norm, net.softcap))
    ours = exhaust(neurons.moments(blocks.w_out(net, layer)[some], vocabulary, net.norm))
    for name, other in zip(("mean", "variance", "skew", "kurtosis"), theirs, strict=True):
        np.testing.assert_allclose(getattr(ours, name).numpy(), other.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    assert (ours.kurtosis > 10).sum() == (theirs[3] > 10).sum() > 0


def exhaust(steps):
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_tracking_a_token_of_ones_own(engine) -> None:
    paris = last(engine, FindToken("Paris"))
    assert paris.text == " Paris"
    reading = last(engine, Read(PROMPT, "drop 11", tracked=paris.id))
    assert reading.tracked_rank[-1, -1] == 43 and reading.baseline.tracked_rank[-1, -1] == 1
    assert set(reading.tracked) == {paris.id}


def test_heads_that_join_are_found_and_hold_on_held_out_words(engine) -> None:
    scores = last(engine, FindHeads())
    (layer, head), *_ = scores.ranked()
    assert scores.held[layer, head, 1] > 0.1 and scores.words >= 40
    named = heads_report.subjoiner_heads(scores)
    assert len(named) == 20 and named == sorted(named, key=lambda one: -one["score"])
