"""The strongest neurons: planted ones are found, and every number equals its definition on plain transformers."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import tiny_models
import torch
from readings import make_info
from test_neurons import TEXT, last, network
from transformers import AutoModelForCausalLM

from stagescope.engine import averages, neurons, strongest
from stagescope.engine.protocol import EngineError, Load, Neurons, Progress, ShowNeurons
from stagescope.engine.tokens import texts

IDS = [0, *tiny_models.ids(tiny_models.N_TOKENS, 9, 5).tolist()]
RARE = set(range(10, tiny_models.N_TOKENS, 55))  # the tokens along the planted direction
INFO = make_info(
    tiny_models.N_LAYERS, name="tiny", d_model=tiny_models.D_MODEL, d_mlp=tiny_models.D_MLP, fingerprint="f"
)


class Tiny:
    """One tiny model twice, by plain transformers and as a Network, with its census."""

    def __init__(self, family: str, directory, **changes):
        tiny_models.build(family, directory, **changes)
        model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)
        self.model, self.net = model.eval(), network(directory)
        text = last(averages.over(self.net, TEXT, "random tokens")) if self.net.gated else None
        self.census = last(neurons.census(self.net, INFO, text))

    def show(self, ids=IDS, census=None, kept=None, **request) -> Neurons:
        *progress, found = strongest.show(
            self.net, INFO, census or self.census, ShowNeurons(prompt="p", **request), ids, kept
        )
        assert all(isinstance(reply, Progress) for reply in progress)
        done = [reply.done for reply in progress]
        assert done == sorted(done)
        return found


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen2", "gemma3"])  # qwen2: padding columns; gemma3: capped
def tiny(request, tmp_path_factory) -> Tiny:
    changes = {"final_logit_softcapping": 5.0} if request.param == "gemma3" else {}
    return Tiny(request.param, tmp_path_factory.mktemp(request.param), **changes)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Tiny:
    return Tiny("llama", tmp_path_factory.mktemp("llama"))


def test_planted_neurons_are_found_with_the_tokens_they_write(tiny):
    """Neurons along the rare direction promote its six tokens; those against it, or turned around, suppress them."""
    layer = tiny_models.N_LAYERS - 1
    along, against, partition = tiny_models.planted(layer)
    found = tiny.show(layer=layer, most=50, top=len(RARE))
    by_kind = {kind: [row for row in found.rows if row.kind == kind] for kind in strongest.KINDS}
    signed = [row for row in found.rows if row.kind != "partition"]
    assert {row.index for row in signed} == set(range(along + against)) and {row.layer for row in signed} == {layer}
    assert [row.index for row in by_kind["partition"]] == [along + against] and partition == 1
    for row in by_kind["prediction"]:
        assert set(row.promoted) == RARE and row.skew > 0
    for row in by_kind["suppression"]:
        assert set(row.suppressed) == RARE and row.skew < 0
    if not tiny.net.gated:
        assert [sorted(row.index for row in by_kind[kind]) for kind in ("prediction", "suppression")] == [
            list(range(along)), list(range(along, along + against)),
        ]  # fmt: skip
    for rows in by_kind.values():
        strength = [row.variance if row.kind == "partition" else row.kurtosis for row in rows]
        assert strength == sorted(strength, reverse=True)


def test_cosines_equal_the_definition(tiny):
    """cos(w_out, W_U') over the tokenizer's vocabulary, the centring over it included; negated where it fires so."""
    w_u = reference.folded_unembedding(tiny.model, tiny_models.N_TOKENS)
    found = tiny.show(most=5, top=12)
    assert {row.kind for row in found.rows} >= {"partition"} and len({row.layer for row in found.rows}) > 1
    for row in found.rows:
        written = reference.w_out(tiny.model, row.layer)[row.index]
        written = reference.centred(written[None])[0] if tiny.net.norm == "layer" else written
        written = -written if tiny.census.sign[row.layer, row.index] < 0 else written
        cosines = torch.nn.functional.cosine_similarity(written[None], w_u.T).numpy()
        np.testing.assert_allclose(row.promoted_cos, cosines[list(row.promoted)], atol=2e-6)
        np.testing.assert_allclose(row.suppressed_cos, cosines[list(row.suppressed)], atol=2e-6)
        np.testing.assert_allclose(row.promoted_cos, np.sort(cosines)[::-1][:12], atol=2e-6)
        np.testing.assert_allclose(row.suppressed_cos, np.sort(cosines)[:12], atol=2e-6)
        _, variance, skew, kurtosis = (m.item() for m in reference.moments(written[None], w_u))
        assert (row.variance, row.skew, row.kurtosis) == pytest.approx((variance, skew, kurtosis), rel=1e-3, abs=1e-3)


def test_activations_equal_plain_transformers(tiny):
    """What goes into the output projection, seen by a hook on transformers' own module."""
    seen = []
    mlps = [block.mlp for block in reference.blocks(tiny.model)]
    outs = [getattr(mlp, "c_proj", None) or mlp.down_proj for mlp in mlps]
    handles = [out.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0])) for out in outs]
    with torch.no_grad():
        tiny.model(torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    found = tiny.show(most=4)
    assert found.activation.shape == (len(found.rows), len(IDS)) and len({row.layer for row in found.rows}) > 1
    for row, activation in zip(found.rows, found.activation, strict=True):
        np.testing.assert_allclose(activation, seen[row.layer][:, row.index].numpy(), rtol=1e-4, atol=1e-5)
    ids = {*IDS, *(token for row in found.rows for token in (*row.promoted, *row.suppressed))}
    assert found.texts == texts(tiny.net.tokenizer, ids) and [token.id for token in found.tokens] == IDS


def test_the_classes_are_those_the_census_counts(tiny):
    members = strongest.classes(tiny.census, INFO.d_model)
    for kind in strongest.KINDS:
        assert members[kind].sum(1).tolist() == getattr(tiny.census, kind).tolist(), kind


def test_a_gated_neuron_that_fires_negative_is_told_as_it_fires(llama):
    """All signs turned around: what was promoted is suppressed, and what was prediction is suppression."""
    before = llama.show(most=50)
    after = llama.show(most=50, census=replace(llama.census, sign=-llama.census.sign))
    turned = {"prediction": "suppression", "suppression": "prediction"}
    by_neuron = {(row.layer, row.index, row.kind): row for row in after.rows}
    signed = [row for row in before.rows if llama.census.sign[row.layer, row.index]]
    assert {row.kind for row in signed} >= {"prediction", "suppression"}
    for row in signed:
        other = by_neuron[row.layer, row.index, turned.get(row.kind, row.kind)]
        assert (other.promoted, other.suppressed, other.skew) == (row.suppressed, row.promoted, -row.skew)
        np.testing.assert_allclose(other.promoted_cos, -np.array(row.suppressed_cos), atol=1e-7)


def test_without_a_text_no_gated_neuron_is_signed(llama):
    found = llama.show(most=50, census=last(neurons.census(llama.net, INFO)))
    assert {row.kind for row in found.rows} == {"unsigned", "partition"}
    assert sum(row.kind == "unsigned" for row in found.rows) == min(50, int(llama.census.high.sum()))


def test_what_was_not_asked_for_is_empty(llama):
    assert {row.layer for row in llama.show(layer=2).rows} == {2}
    assert not any(row.kind != "partition" for row in llama.show(layer=0).rows)  # none is planted there
    bare = llama.show(ids=None)
    assert bare.tokens == () and bare.activation.shape == (len(bare.rows), 0)
    for layer in (-1, tiny_models.N_LAYERS):
        with pytest.raises(EngineError, match=f"there is no layer {layer}.*0 to 5") as error:
            llama.show(layer=layer)
        assert error.value.failure.kind == "usage"


def test_the_prepared_vocabulary_is_kept_for_the_next_layer(llama, monkeypatch):
    kept = {}
    first = llama.show(layer=4, kept=kept)
    monkeypatch.setattr(neurons, "prepare", None)
    assert llama.show(layer=4, kept=kept).rows == first.rows


def test_answers_are_recalled_by_what_they_depend_on(llama, home):
    request = ShowNeurons(layer=4, prompt="p", most=2)
    found = llama.show(layer=4, most=2)
    strongest.remember(INFO, request, IDS, found)
    again = strongest.recalled(INFO, Load(), request, IDS)
    assert again.cached and again.rows == found.rows and (again.activation == found.activation).all()
    for other, ids in ((replace(request, layer=3), IDS), (replace(request, top=3), IDS), (request, IDS[:-1])):
        assert strongest.recalled(INFO, Load(), other, ids) is None
    assert strongest.recalled(replace(INFO, fingerprint="g"), Load(), request, IDS) is None
