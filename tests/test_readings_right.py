"""The engine's readings against the independent calculation in reference.py, on every family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import reference
import tiny_models
import torch
from reference import Place
from transformers import AutoModelForCausalLM

from stagescope.engine import blocks, load, runner
from stagescope.engine.directory import Located, preview
from stagescope.engine.protocol import Read, Reading
from stagescope.engine.reading import Prompt, read
from stagescope.engine.schedule import parse, resolve
from stagescope.engine.tokens import Token

N_TOKENS = 9
FAMILIES = sorted(tiny_models.FAMILIES)
LAYER_NORM = {"gpt2", "gpt_neox", "phi"}


@dataclass
class Both:
    """One tiny model loaded twice: by plain transformers, and as the engine's Network."""

    family: str
    model: torch.nn.Module
    net: blocks.Network
    info: object
    ids: torch.Tensor
    prompt: Prompt

    def read(self, schedule: str = "", positions=None, **changes) -> Reading:
        parsed = parse(schedule)
        plan = resolve(parsed, self.net.n_layers, parallel_blocks=self.net.parallel, n_positions=len(self.ids))
        positions = range(len(self.ids)) if positions is None else positions
        request = Read("x", schedule, top=5, **changes)
        return read(self.net, self.info, self.prompt, request, str(parsed), plan, positions)


def fresh_prompt(net, ids) -> Prompt:
    begun = blocks.start(net, ids[None])
    return Prompt("x", tuple(Token(int(i), "") for i in ids), begun, runner.Node(x=begun.x[0]))


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory) -> Both:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def make(family: str, directory: Path) -> Both:
    directory = tiny_models.build(family, directory)
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()
    located = Located(family, directory, "test")
    bridge = load._boot(located, torch.device("cpu"), torch.float32)
    net = load.network(bridge, torch.device("cpu"), torch.float32)
    ids = tiny_models.ids(net.d_vocab, N_TOKENS, seed=3)
    return Both(family, model, net, preview(located), ids, fresh_prompt(net, ids))


def order(*layers: int) -> list[Place]:
    return [Place(layer) for layer in layers]


def close(ours, theirs, rtol: float = 1e-4, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=rtol, atol=atol)


SCHEDULES = {
    "": order(0, 1, 2, 3, 4, 5),
    "drop 2": order(0, 1, 3, 4, 5),
    "drop 0 4-5": order(1, 2, 3),
    "drop 0-5": [],
    "swap 2 3": order(0, 1, 3, 2, 4, 5),
    "swap 0 5": order(5, 1, 2, 3, 4, 0),
    "repeat 4": order(0, 1, 2, 3, 4, 4, 5),
    "loop 2-3": order(0, 1, 2, 3, 2, 3, 4, 5),
    "reverse 1-4": order(0, 4, 3, 2, 1, 5),
    "middle-repeat 1-2": order(0, 3, 3, 3, 4, 5),
    "parallel 2-4": [Place(0), Place(1), order(2, 3, 4), Place(5)],
    "parallel 2-3 x2": [Place(0), Place(1), order(2, 3), order(2, 3), Place(4), Place(5)],
    "attn-off 2": [*order(0, 1), Place(2, attn_on=False), *order(3, 4, 5)],
    "mlp-off 1 4": [Place(0), Place(1, mlp_on=False), *order(2, 3), Place(4, mlp_on=False), Place(5)],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_readout_of_a_schedule(both: Both, schedule: str) -> None:
    reading = both.read(schedule)
    with torch.no_grad():
        theirs = reference.run(both.model, both.ids, SCHEDULES[schedule])
        base = reference.run(both.model, both.ids)
    lenses = [reference.lens(both.model, x) for x in theirs.residuals]
    base_lenses = [reference.lens(both.model, x) for x in base.residuals]
    assert reading.n_depths == len(theirs.residuals)
    final, base_final = lenses[-1], base_lenses[-1]
    for depth, logp in enumerate(lenses):
        close(reading.entropy_bits[depth], reference.entropy_bits(logp))
        close(reading.kl_final_nats[depth], reference.kl_nats(final, logp))
        p, ids = logp.exp().topk(5)
        close(reading.top_p[depth], p)
        assert (torch.tensor(reading.top_ids[depth]) == ids).float().mean() > 0.95  # near ties may change places
        close(reading.resid_norm[depth], theirs.residuals[depth].norm(dim=-1))
    for depth in range(1, reading.n_depths):
        close(reading.attn_norm[depth], reference.norms(theirs.attn[depth - 1], both.family in LAYER_NORM))
        close(reading.mlp_norm[depth], reference.norms(theirs.mlp[depth - 1], both.family in LAYER_NORM))
    for depth, other in enumerate(reading.baseline_depth):
        if other is None:
            assert np.isnan(reading.kl_nats[depth]).all() and np.isnan(reading.resid_rel[depth]).all()
            continue
        close(reading.kl_nats[depth], reference.kl_nats(base_lenses[other], lenses[depth]))
        rel, cos = reference.vs_baseline(theirs.residuals[depth], base.residuals[other])
        close(reading.resid_rel[depth], rel)
        close(reading.resid_cos[depth], cos)
    close(reading.effect_kl_nats, reference.kl_nats(base_final, final))
    assert (reading.effect_top1_same == (base_final.argmax(-1) == final.argmax(-1)).numpy()).all()
    change = reference.entropy_bits(final) - reference.entropy_bits(base_final)
    close(reading.effect_entropy_bits, change, atol=1e-4)


def test_sublayer_order_on_sequential_blocks(both: Both) -> None:
    if both.net.parallel:
        with pytest.raises(ValueError, match="parallel"):
            both.read("order 0-2 3a 4-5")
        return
    reading = both.read("order 0-2 3m 3a 4-5")
    places = [*order(0, 1, 2), Place(3, attn_on=False), Place(3, mlp_on=False), *order(4, 5)]
    theirs = reference.run(both.model, both.ids, places)
    close(reading.entropy_bits[-1], reference.entropy_bits(reference.lens(both.model, theirs.residuals[-1])))


def test_edits_at_positions_touch_no_earlier_position(both: Both) -> None:
    at = torch.ones(N_TOKENS, dtype=torch.bool)
    at[4:6] = False
    for schedule, place in {
        "drop 2 @4-5": Place(2, attn_on=at, mlp_on=at),
        "attn-off 2 @4-5": Place(2, attn_on=at),
        "mlp-off 2 @4-5": Place(2, mlp_on=at),
    }.items():
        reading = both.read(schedule)
        theirs = reference.run(both.model, both.ids, [*order(0, 1), place, *order(3, 4, 5)])
        logp = reference.lens(both.model, theirs.residuals[-1])
        close(reading.entropy_bits[-1], reference.entropy_bits(logp))
        assert reading.effect_kl_nats[:4].max() < 1e-6 < reading.effect_kl_nats[4]


def test_v1_lens(both: Both) -> None:
    for schedule, places in {"": None, "drop 3": order(0, 1, 2, 4, 5), "drop 5": order(0, 1, 2, 3, 4)}.items():
        reading = both.read(schedule, lens="v1")
        theirs = reference.run(both.model, both.ids, places)
        final = reference.lens(both.model, theirs.residuals[-1])
        for depth, x in enumerate(theirs.residuals):
            logp = reference.lens_v1(both.model, x, theirs.residuals[-1])
            close(reading.entropy_bits[depth], reference.entropy_bits(logp))
            close(reading.kl_final_nats[depth], reference.kl_nats(final, logp), atol=1e-4)
        # what the edit did is told of the model's true output under either lens
        standard = both.read(schedule)
        for name in ("effect_kl_nats", "effect_entropy_bits", "effect_top1_same"):
            close(getattr(reading, name), getattr(standard, name))


def test_lens_at_the_last_depth_is_the_models_output(both: Both) -> None:
    with torch.no_grad():
        logits = both.model(both.ids[None]).logits[0]
    x = runner.path(both.prompt.root, resolve(parse(""), 6))
    both.read()
    ours = blocks.unembed(both.net, blocks.final_norm(both.net, x[-1].x))
    assert float((ours - logits).abs().max()) < 1e-4


def test_identity_schedules_are_the_baseline_bit_for_bit(both: Both) -> None:
    base = both.read("")
    for schedule in ("order 0-5", "swap 1 3; swap 1 3", "reverse 2-4; reverse 2-4"):
        same = both.read(schedule)
        assert same.effect_kl_nats.max() < 1e-6 and (same.effect_top1_same == 1).all()
        assert np.array_equal(same.entropy_bits, base.entropy_bits)
        assert np.array_equal(same.top_ids, base.top_ids)


def test_one_position_and_all_agree_and_cover_what_they_say(both: Both) -> None:
    whole, one = both.read("drop 2"), both.read("drop 2", positions=[5], part="position")
    assert one.positions == (5,) and whole.positions == tuple(range(N_TOKENS))
    for name in ("entropy_bits", "kl_final_nats", "kl_nats", "tracked_rank"):
        ours, other = getattr(one, name), getattr(whole, name)
        close(ours[:, 5], other[:, 5])
        assert np.isnan(np.delete(ours, 5, axis=1)).all()
    assert one.mean_positions() == [5]
    output = both.read("drop 2", positions=[5], part="output")
    close(output.entropy_bits[-1, 5], whole.entropy_bits[-1, 5])
    assert np.isnan(output.entropy_bits[:-1]).all()


def test_small_chunks_change_nothing_and_nothing_larger_is_held(both: Both, monkeypatch) -> None:
    from stagescope.engine import reading as module

    whole = both.read("swap 1 2")
    held, real = [], module.lenses.log_probs
    monkeypatch.setattr(module.lenses, "log_probs", lambda net, x: held.append(x[..., 0].numel()) or real(net, x))
    monkeypatch.setitem(module.CHUNK, "cpu", 1)
    chunked = both.read("swap 1 2")
    assert max(held) == both.net.n_layers + 1  # one position of every depth, never depths x positions x vocabulary
    for name in ("entropy_bits", "kl_final_nats", "kl_nats", "effect_kl_nats", "tracked_rank"):
        close(getattr(chunked, name), getattr(whole, name))


def test_batched_equals_one_by_one(both: Both) -> None:
    """All schedules in one trie, rows waiting for the same layer together, against a fresh run of each."""
    plans = {text: resolve(parse(text), 6, parallel_blocks=both.net.parallel, n_positions=N_TOKENS) for text in SCHEDULES}
    together = fresh_prompt(both.net, both.ids)
    runner.run(both.net, together.begun, together.root, list(plans.values()))
    for plan in plans.values():
        alone = fresh_prompt(both.net, both.ids)
        runner.run(both.net, alone.begun, alone.root, [plan])
        ours = runner.path(together.root, plan)[-1].x
        theirs = runner.path(alone.root, plan)[-1].x
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_a_toggle_costs_the_layers_after_the_first_change_and_no_more(both: Both) -> None:
    both.prompt = fresh_prompt(both.net, both.ids)
    both.read("")
    calls = []
    handles = [
        block.original_component.register_forward_pre_hook(lambda *_, layer=layer: calls.append(layer))
        for layer, block in enumerate(both.net.bridge.blocks)
    ]
    both.read("drop 3; attn-off 5")
    assert calls == [4, 5]
    both.read("")
    both.read("drop 3; attn-off 5")
    assert calls == [4, 5]
    for handle in handles:
        handle.remove()


def test_checks_at_load_pass_and_the_noise_floor_is_small(both: Both) -> None:
    warnings, noise_kl = load.check(both.net, both.ids[None], both.family)
    assert warnings == () and noise_kl < 1e-6
