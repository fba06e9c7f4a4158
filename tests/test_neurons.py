"""The census of neurons and the means over a text: by the definitions, planted cases, tests/reference.py."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import reference
import tiny_models
import torch
from transformers import AutoModelForCausalLM

from stagescope.engine import averages, blocks, load, neurons
from stagescope.engine.protocol import Census, ModelInfo, Progress
from stagescope.engine.store import Located

D, V, M = 32, 700, 60
INFO = ModelInfo("tiny", "test", "Test", 6, 64, 128, 4, 320, 128, fingerprint="f")


def finish(steps):
    """What a generator of steps returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measure(w_out, w_u, norm="rms", softcap=None, tile=None) -> neurons.Moments:
    return finish(neurons.moments(w_out, finish(neurons.prepare(w_u, norm, softcap)), norm, tile))


def by_definition(w_out, w_u, norm, softcap):
    """The definition, word by word, in fp64: mean, variance, skew, kurtosis."""
    w, u = w_out.double().numpy(), w_u.double().numpy().T  # [M, D], [D, V]
    if norm == "layer":
        u = u - u.mean(0, keepdims=True)
        w = w - w.mean(1, keepdims=True)
    if softcap is None:
        u = u - u.mean(1, keepdims=True)
    c = (w / np.linalg.norm(w, axis=1, keepdims=True)) @ (u / np.linalg.norm(u, axis=0, keepdims=True))
    z = (c - c.mean(1, keepdims=True)) / c.std(1, keepdims=True)
    return c.mean(1), c.var(1), (z**3).mean(1), (z**4).mean(1)


def close(ours, theirs, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=rtol, atol=atol)


# --------------------------------------------------------------------------------------- the moments alone


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("tile", [None, (17, 64), (1, 1000), (1000, 1)])
def test_moments_are_those_of_the_definition(norm, softcap, tile):
    # a skewed vocabulary with a common direction, so that no moment is near 0 by symmetry
    w_u = draw(V, D).exp() + 2 * draw(D, seed=1)
    w_out = draw(M, D, seed=2) * draw(M, 1, seed=3).exp()
    expected = by_definition(w_out, w_u, norm, softcap)
    for ours, theirs in zip(measure(w_out, w_u, norm, softcap, tile), expected, strict=True):
        close(ours, theirs)


def test_moments_hold_where_the_mean_dwarfs_the_spread():
    """Rows within 1e-3 of one direction: raw powers would leave 2 digits of the kurtosis."""
    w_u = draw(D, seed=1) + 1e-3 * draw(V, D).exp()
    w_out = draw(M, D, seed=2)
    ours, theirs = measure(w_out, w_u, softcap=30.0), by_definition(w_out, w_u, "rms", 30.0)
    assert np.abs(theirs[0] / np.sqrt(theirs[1])).max() > 100
    close(ours.skew, theirs[2], rtol=1e-3, atol=1e-3)
    close(ours.kurtosis, theirs[3], rtol=1e-3)


def test_the_length_of_what_is_written_does_not_matter():
    w_out, w_u = draw(M, D), draw(V, D, seed=1).exp()
    scaled = w_out * 10 ** torch.linspace(-9, 9, M)[:, None]
    for ours, theirs in zip(measure(scaled, w_u), measure(w_out, w_u)):
        close(ours, theirs)


def test_only_soft_capped_logits_see_a_common_shift():
    w_out, w_u, shift = draw(M, D), draw(V, D, seed=1), draw(D, seed=2)
    close(measure(w_out, w_u + shift).kurtosis, measure(w_out, w_u).kurtosis)
    shifted = measure(w_out, w_u + shift, softcap=30.0)
    assert (shifted.mean - measure(w_out, w_u, softcap=30.0).mean).abs().max() > 0.1


def test_a_neuron_that_writes_nothing_is_in_no_class():
    w_out = draw(M, D)
    w_out[3] = 0
    w_out[4] = 1  # nothing after centring
    found = measure(w_out, draw(V, D, seed=1), "layer")
    for moment in found:
        assert moment.isfinite().all() and moment[3] == moment[4] == 0


def test_planted_neurons_are_found():
    """Along a few unembedding rows: high kurtosis, skew of the sign. Along a split in halves: partition."""
    d = 512  # three rows of 4,000 then stand 13 standard deviations out: kurtosis 3 + 3 * 13^4 / 4,000 = 24
    w_u, w_out = draw(4000, d), draw(M, d, seed=1)
    w_u[:, 0] = 8.0
    w_u[::2, 0] = -8.0
    w_out[1] = torch.eye(d)[0]
    w_out[2], w_out[3] = w_u[100:106:2].sum(0), -w_u[101:107:2].sum(0)
    w_out[2:4, 0] = 0
    found = measure(w_out, w_u)
    assert (found.kurtosis > neurons.HIGH_KURTOSIS).nonzero().flatten().tolist() == [2, 3]
    assert found.skew[2] > 0.5 and found.skew[3] < -0.5
    assert (found.variance > neurons.PARTITION_VARIANCE / d).nonzero().flatten().tolist() == [1]


def test_the_null_sees_a_degenerate_vocabulary():
    directions = neurons.random_directions(64)
    healthy = draw(4000, 64)
    collapsed = healthy.clone()
    collapsed[800:] = collapsed[0] + 1e-4 * draw(3200, 64, seed=1)  # unused rows end up on one direction

    def above(w_u):
        return (measure(directions, w_u).kurtosis > neurons.HIGH_KURTOSIS).double().mean()

    assert above(healthy) == 0
    assert above(collapsed) > 0.05


def test_gated_neurons_take_the_sign_of_their_mean_activation():
    activation = torch.tensor([[0.5, -0.5, 0.29, -0.31, 0.0]])
    text = averages.Averages("", 1, activation, activation, activation, torch.ones(1, 5))
    assert neurons.orient(text).tolist() == [[1, -1, 0, -1, 0]]


# -------------------------------------------------------------------------------------- on small networks

VARIANTS = {**{family: (family, {}) for family in tiny_models.FAMILIES},
            "gemma3 soft-capped": ("gemma3", {"final_logit_softcapping": 5.0})}  # fmt: skip
TEXT = torch.stack([torch.cat([torch.zeros(1).long(), tiny_models.ids(tiny_models.N_TOKENS, 23, seed)])
                    for seed in range(5)])  # fmt: skip


def network(directory: Path) -> blocks.Network:
    bridge = load._boot(Located("tiny", directory, "test"), torch.device("cpu"), torch.float32)
    return load.network(bridge, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module", params=list(VARIANTS))
def both(request, tmp_path_factory):
    """One tiny model twice: by plain transformers, and as a Network."""
    family, changes = VARIANTS[request.param]
    directory = tiny_models.build(family, tmp_path_factory.mktemp(family), **changes)
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)
    return model.eval(), network(directory)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tiny_models.build("llama", tmp_path_factory.mktemp("llama"))
    return directory, network(directory)


def last(replies):
    *progress, result = replies
    done = [reply.done for reply in progress]
    assert all(isinstance(reply, Progress) for reply in progress)
    assert done == sorted(done) and done[-1] == pytest.approx(1.0)
    return result


def test_means_over_a_text_equal_the_reference(both):
    model, net = both
    found = last(averages.over(net, TEXT, "random tokens"))
    assert (found.text, found.n_tokens) == ("random tokens", 5 * 23)
    activation, magnitude = reference.neuron_activations(model, list(TEXT))
    attn, mlp = reference.mean_contributions(model, list(TEXT))
    firsts = [reference.run(model, ids) for ids in TEXT]
    close(found.activation, activation, 1e-4, 1e-5)
    close(found.magnitude, magnitude, 1e-4, 1e-5)
    close(found.attn[:, 1], attn, 1e-4, 1e-5)
    close(found.mlp[:, 1], mlp, 1e-4, 1e-5)
    for layer in range(net.n_layers):
        close(found.attn[layer, 0], torch.stack([run.attn[layer][0] for run in firsts]).mean(0), 1e-4, 1e-5)
        close(found.mlp[layer, 0], torch.stack([run.mlp[layer][0] for run in firsts]).mean(0), 1e-4, 1e-5)


@pytest.mark.parametrize("padding", [False, True])
def test_census_equals_the_reference(both, padding):
    model, net = both
    text = last(averages.over(net, TEXT, "random tokens")) if net.gated else None
    found = last(neurons.census(net, INFO, text, net.d_vocab if padding else None))
    n_tokens = net.d_vocab if padding else tiny_models.N_TOKENS
    expected = reference.census(model, reference.neuron_activations(model, list(TEXT)), n_tokens)
    assert found.orientation == ("corpus" if net.gated else "weights")
    assert found.text == ("random tokens" if net.gated else "")
    assert (found.model, found.fingerprint, found.d_mlp) == ("tiny", "f", tiny_models.D_MLP)
    close(found.variance, expected.var)
    close(found.skew, expected.skew)
    close(found.kurtosis, expected.kurtosis)
    assert (found.sign == expected.sign.numpy()).all() and found.sign.dtype == np.int8
    counts = {"high": "high_kurtosis", "partition": "partition_candidates"}
    for name in ("high", "prediction", "suppression", "unsigned", "partition"):
        count = getattr(found, name)
        assert count.dtype == np.int32
        assert count.tolist() == getattr(expected, counts.get(name, name)).tolist(), name
    directions = neurons.random_directions(net.d_model).double()
    if net.norm == "layer":
        directions = reference.centred(directions)
    assert found.null_directions == len(directions)
    assert found.null_above == reference.null_share(model, directions, n_tokens)


def test_planted_neurons_are_counted(both):
    _, net = both
    found = last(neurons.census(net, INFO))
    planted = np.array([tiny_models.planted(layer) for layer in range(net.n_layers)])
    assert found.high.tolist() == planted[:, :2].sum(1).tolist()
    assert found.partition.tolist() == planted[:, 2].tolist()
    if not net.gated:
        assert found.prediction.tolist() == planted[:, 0].tolist()
        assert found.suppression.tolist() == planted[:, 1].tolist()
        assert (found.sign == 1).all()
    assert not found.degenerate


def test_gated_neurons_without_a_text_have_no_sign(llama):
    found = last(neurons.census(llama[1], INFO))
    assert found.orientation == "none" and found.high.any()
    assert not (found.prediction.any() or found.suppression.any() or found.unsigned.any() or found.sign.any())


def test_negating_what_a_gated_neuron_reads_and_writes_changes_no_count(llama, tmp_path):
    """(w_up, w_out) -> (-w_up, -w_out) leaves the network as it was and turns the raw skew around."""
    directory, net = llama
    model = AutoModelForCausalLM.from_pretrained(directory)
    flip = torch.where(draw(net.n_layers, net.d_mlp) > 0, 1.0, -1.0)
    with torch.no_grad():
        for block, signs in zip(model.model.layers, flip):
            block.mlp.up_proj.weight *= signs[:, None]
            block.mlp.down_proj.weight *= signs
    model.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    flipped = network(tmp_path)
    texts = [last(averages.over(one, TEXT, "t")) for one in (net, flipped)]
    before, after = last(neurons.census(net, INFO, texts[0])), last(neurons.census(flipped, INFO, texts[1]))
    assert torch.equal(blocks.forward(net, TEXT), blocks.forward(flipped, TEXT))
    close(after.skew, before.skew * flip.numpy())
    assert (after.sign == before.sign * flip.numpy()).all()
    for name in ("high", "prediction", "suppression", "unsigned", "partition"):
        assert getattr(after, name).tolist() == getattr(before, name).tolist(), name


def test_between_two_steps_the_network_is_free(llama):
    """Readings run while a census or the means are under way, and closing either leaves nothing behind."""
    _, net = llama
    plain = blocks.forward(net, TEXT)
    hooks = [len(net.post_activation(layer)._forward_hooks) for layer in range(net.n_layers)]
    for job in (averages.over(net, TEXT, "t"), neurons.census(net, INFO)):
        for _ in range(3):
            assert isinstance(next(job), Progress)
            assert not torch.is_inference_mode_enabled()
            assert torch.equal(blocks.forward(net, TEXT), plain)
        job.close()
        assert hooks == [len(net.post_activation(layer)._forward_hooks) for layer in range(net.n_layers)]


def test_a_paced_job_reports_and_hands_on_its_result(monkeypatch):
    monkeypatch.setattr(neurons, "PACE_SECONDS", 0.0)
    steps = neurons.moments(draw(M, D), finish(neurons.prepare(draw(V, D), "rms", None)), "rms", (20, 100))
    reports = neurons._paced(steps, 0.0, 0.5, 0.25)
    done = []
    while True:
        try:
            done.append(next(reports).done)
        except StopIteration as end:
            assert isinstance(end.value, neurons.Moments)
            break
    assert len(done) == 3 * 7 and done == sorted(done) and done[-1] == 0.75


# ---------------------------------------------------------------------------------------- the default text


def test_the_default_text_is_windows_of_the_same_length():
    tokenizer = tiny_models.tokenizer()
    name, ids = averages.sample(tokenizer, prefix_id=0)
    assert ids.shape == (averages.WINDOWS, averages.WINDOW_TOKENS)
    assert (ids[:, 0] == 0).all() and (ids[:, 1:] > 0).all()
    assert "pydoc_data.topics of Python 3." in name and "2,048 tokens" in name
    again = averages.sample(tokenizer, prefix_id=0)
    assert again[0] == name and torch.equal(again[1], ids)
    assert len(set(map(tuple, ids.tolist()))) == averages.WINDOWS
    _, bare = averages.sample(tokenizer, prefix_id=None, n_ctx=50)
    assert bare.shape == (averages.WINDOWS, 50) and torch.equal(bare[:, :49], ids[:, 1:50])


def test_the_default_text_is_what_is_measured(llama):
    found = last(averages.measure(llama[1], prefix_id=0))
    assert found.n_tokens == averages.WINDOWS * (averages.WINDOW_TOKENS - 1) and "pydoc_data" in found.text
    census = last(neurons.census(llama[1], INFO, found))
    assert isinstance(census, Census) and census.text == found.text
    assert dataclasses.replace(census, null_above=0.011).degenerate
