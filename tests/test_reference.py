"""The reference against what is known without it: the models' own forward, plain loops, planted neurons."""

import math

import pytest
import reference as ref
import tiny_models
import torch
from reference import Place
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
T = 16  # four windows of the gemma3 family's short-sighted layers


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)


@pytest.fixture(scope="module", params=list(tiny_models.FAMILIES))
def model(request, tmp_path_factory):
    return load(tiny_models.build(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def ids():
    return tiny_models.ids(tiny_models.N_TOKENS, T, seed=1)


def batch(n=6):
    return [tiny_models.ids(tiny_models.N_TOKENS, 12 + 3 * seed, seed) for seed in range(n)]


def hf_blocks(model, ids):
    """For each layer the function x -> F(x) of the model's own block, with its arguments of a forward."""
    seen = {}

    def note(block, args, kwargs):
        seen[block] = args[1:], kwargs

    hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in ref.blocks(model)]
    with torch.no_grad():
        model(ids[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return [lambda x, block=block: block(x[None], *seen[block][0], **seen[block][1])[0].detach()
            for block in ref.blocks(model)]


# --- the tiny models ---


def test_a_model_is_fixed_by_its_seed(tmp_path):
    same, again = (tiny_models.build("llama", tmp_path / name) for name in "ab")
    other = tiny_models.build("llama", tmp_path / "c", seed=1)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (same / file).read_bytes() == (again / file).read_bytes()
    assert (same / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", list(tiny_models.FAMILIES))
def test_the_tokenizer_loads_and_round_trips(family, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models.build(family, tmp_path))
    text = "The Eiffel Tower is located in the city of 東京\n\tat night"
    tokens = tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokens) == text and len(tokens) < len(text.encode())
    assert len(tokenizer) == tiny_models.N_TOKENS and tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0
    drawn = tiny_models.ids(tokenizer, 1000)
    assert drawn.shape == (1000,) and 1 <= drawn.min() and drawn.max() < tiny_models.N_TOKENS


def test_every_layer_matters_and_attention_is_not_uniform(model, ids):
    base = ref.lens(model, ref.run(model, ids).residuals[-1])
    assert base.isfinite().all()
    for layer in range(tiny_models.N_LAYERS):
        order = [place for place in ref.identity(model) if place.layer != layer]
        kl = ref.kl_nats(base, ref.lens(model, ref.run(model, ids, order).residuals[-1]))
        assert kl.mean() > 0.05
    with torch.no_grad():
        patterns = torch.stack(model(ids[None], output_attentions=True).attentions)  # [L, 1, H, T, T]
    assert patterns[:, 0, :, -1].amax(-1).mean() > 2 / T


# --- runs ---


def test_the_own_order_is_the_models_forward(model, ids):
    result = ref.run(model, ids)
    with torch.no_grad():
        out = model(ids[None], output_hidden_states=True)
    assert (result.logits - out.logits[0]).abs().max() < 1e-5
    for mine, theirs in zip(result.residuals[:-1], out.hidden_states[:-1]):
        torch.testing.assert_close(mine, theirs[0], atol=1e-5, rtol=1e-5)
    # the last hidden state is already normed
    normed = ref.final_norm(model)(result.residuals[-1])
    torch.testing.assert_close(normed, out.hidden_states[-1][0], atol=1e-5, rtol=1e-5)
    assert torch.equal(ref.run(model, ids, ref.identity(model)).logits, result.logits)


def test_contributions_add_up(model, ids):
    order = [Place(3), [Place(1), Place(2)], Place(4, attn_on=False), Place(4, mlp_on=torch.arange(T) == 5)]
    result = ref.run(model, ids, order)
    assert len(result.residuals) == len(order) + 1 == len(result.attn) + 1 == len(result.mlp) + 1
    for before, attn, mlp, after in zip(result.residuals, result.attn, result.mlp, result.residuals[1:]):
        torch.testing.assert_close(before + attn + mlp, after, atol=1e-6, rtol=1e-6)
    assert not result.attn[2].any() and result.mlp[2].any(1).all()
    assert result.mlp[3].any(1).nonzero().tolist() == [[5]]


def test_a_sequential_gpt_neox_is_no_parallel_one(tmp_path, ids):
    model = load(tiny_models.build("gpt_neox", tmp_path, use_parallel_residual=False))
    with torch.no_grad():
        assert (ref.run(model, ids).logits - model(ids[None]).logits[0]).abs().max() < 1e-5


def test_a_swap_is_x_plus_f_and_takes_each_layers_arguments_along(model, ids):
    f = [lambda x, block=block: block(x) - x for block in hf_blocks(model, ids)]
    for l in range(tiny_models.N_LAYERS - 1):
        order = ref.identity(model)
        order[l], order[l + 1] = order[l + 1], order[l]
        result = ref.run(model, ids, order)
        x = result.residuals[l]
        swapped = x + f[l + 1](x) + f[l](x + f[l + 1](x))
        torch.testing.assert_close(result.residuals[l + 2], swapped, atol=2e-5, rtol=1e-5)


def test_a_group_is_the_mean_of_the_blocks_outputs(model, ids):
    whole = hf_blocks(model, ids)
    result = ref.run(model, ids, [Place(0), [Place(1), Place(2), Place(3)]])
    x = result.residuals[1]
    torch.testing.assert_close(result.residuals[2], (whole[1](x) + whole[2](x) + whole[3](x)) / 3, atol=2e-5,
                               rtol=1e-5)


def test_switched_off_is_left_out(model, ids):
    off = ref.run(model, ids, [Place(0), Place(1, False, False), Place(2)])
    assert torch.equal(off.residuals[1], off.residuals[2])
    assert torch.equal(off.logits, ref.run(model, ids, [(0,), (2,)]).logits)
    assert torch.equal(ref.run(model, ids, []).residuals[0], ref.embed(model, ids))


def test_an_edit_at_a_position_leaves_earlier_positions_alone(model, ids):
    on = torch.arange(T) != 9
    order = [Place(0), Place(1, on, on)] + ref.identity(model)[2:]
    base, edited = ref.run(model, ids), ref.run(model, ids, order)
    moved = (base.residuals[-1] - edited.residuals[-1]).norm(dim=1) > 1e-3
    assert not moved[:9].any() and moved[9:].sum() > 3
    assert torch.equal(edited.residuals[2][9], edited.residuals[1][9])


def test_mean_replacement_puts_the_mean_in(model, ids):
    attn, mlp = ref.mean_contributions(model, [ids])
    base = ref.run(model, ids)
    torch.testing.assert_close(attn[2], base.attn[2][1:].double().mean(0))
    result = ref.run(model, ids, [Place(0), Place(1), Place(2, False, False, attn[2], mlp[2])])
    torch.testing.assert_close(result.residuals[3], base.residuals[2] + (attn[2] + mlp[2]).float(), atol=1e-5,
                               rtol=1e-5)


# --- readouts ---


def test_the_lens_at_the_end_is_the_model(model, ids):
    with torch.no_grad():
        logits = model(ids[None]).logits[0].double()
    last = ref.run(model, ids).residuals[-1]
    assert (ref.lens_logits(model, last) - logits).abs().max() < 1e-4
    assert ref.kl_nats(logits.log_softmax(-1), ref.lens(model, last)).abs().max() < 1e-6


def test_soft_capped_logits(tmp_path, ids):
    model = load(tiny_models.build("gemma3", tmp_path, final_logit_softcapping=5.0))
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    result = ref.run(model, ids)
    assert logits.abs().max() > 4 and (result.logits - logits).abs().max() < 1e-5
    assert (ref.lens_logits(model, result.residuals[-1]) - logits).abs().max() < 1e-4
    assert ref.folded_unembedding(model).mean(1).abs().max() > 1e-3  # not centred over the vocabulary


def test_the_v1_lens_at_the_end_differs_from_the_model_by_the_biases_only(model, ids):
    """softmax(v1 + W_U beta + b_U) is the model's output; RMSNorm models without biases: v1 is the output."""
    last = ref.run(model, ids).residuals[-1]
    head, norm = model.get_output_embeddings(), ref.final_norm(model)
    left_out = torch.zeros(head.weight.shape[0], dtype=torch.float64)
    if head.bias is not None:
        left_out = left_out + head.bias.detach().double()
    if ref.family(model) in ref.LAYER_NORM:
        left_out = left_out + head.weight.detach().double() @ norm.bias.detach().double()
    v1 = ref.lens_v1(model, last, last)
    torch.testing.assert_close((v1 + left_out).log_softmax(-1), ref.lens(model, last))


def test_the_v1_lens_scales_by_the_final_layer(model, ids):
    """Half a residual is half the logits in v1, and the same distribution in the standard lens."""
    last = ref.run(model, ids).residuals[-1]
    whole, half = ref.lens_v1(model, last, last), ref.lens_v1(model, last / 2, last)
    torch.testing.assert_close(half, (whole / 2).log_softmax(-1))
    assert ref.kl_nats(ref.lens(model, last), ref.lens(model, last / 2)).max() < 1e-4


def test_measures_on_small_distributions():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).double(), torch.tensor([[0.25, 0.25, 0.5]]).double()
    assert ref.entropy_bits(p.log()).item() == pytest.approx(1.5)
    assert ref.kl_nats(p.log(), q.log()).item() == pytest.approx(0.25 * math.log(2))
    assert ref.kl_nats(p.log(), p.log()).item() == 0
    ids, most = ref.top(p.log(), 2)
    assert ids.tolist() == [[0, 1]] and most[0].tolist() == pytest.approx([0.5, 0.25])
    logp = torch.cat([p, q]).log()
    assert ref.loss_nats(logp, torch.tensor([1, 2])).tolist() == pytest.approx([2 * math.log(2)])
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert ref.norms(x, layer_norm_model=True).item() == pytest.approx(math.sqrt(2))
    assert ref.norms(x, layer_norm_model=False).item() == pytest.approx(math.sqrt(14))
    rel, cos = ref.vs_baseline(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    assert rel.item() == pytest.approx(math.sqrt(5)) and cos.item() == 0


# --- neurons ---


def test_activations_written_out_are_the_mlps_contribution(model, ids):
    base = ref.run(model, ids)
    x = base.residuals[2] if ref.parallel(model) else base.residuals[2] + base.attn[2]
    with torch.no_grad():
        part = ref.blocks(model)[2].mlp
        written = ref.neurons(model, 2, x).double() @ ref.w_out(model, 2)
        last = [child for child in part.children() if hasattr(child, "weight")][-1]
        if last.bias is not None:
            written = written + last.bias
        expected = part(ref.mlp_input(model, 2, x))
    torch.testing.assert_close(written.float(), expected, atol=1e-5, rtol=1e-5)


def test_mean_activations_pool_over_tokens_without_the_first(model):
    first, second = tiny_models.ids(320, 5, 1), tiny_models.ids(320, 9, 2)
    (a, size), (b, _) = ref.neuron_activations(model, [first]), ref.neuron_activations(model, [second])
    both, _ = ref.neuron_activations(model, [first, second])
    torch.testing.assert_close(both, (4 * a + 8 * b) / 12)
    assert a.shape == (tiny_models.N_LAYERS, tiny_models.D_MLP) and (a.abs() <= size + 1e-12).all()


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def test_the_census_against_loops(model):
    """Scalar loops over tokens and dimensions, in plain floats, for three neurons of one layer."""
    d, v = tiny_models.D_MODEL, tiny_models.N_TOKENS
    head = model.get_output_embeddings().weight.tolist()
    one = 1.0 if ref.family(model) == "gemma3_text" else 0.0
    gain = [one + g for g in ref.final_norm(model).weight.tolist()]
    columns = [[gain[i] * head[t][i] for i in range(d)] for t in range(v)]
    layer_norm = ref.family(model) in ("gpt2", "gpt_neox", "phi")
    if layer_norm:
        columns = [[c - sum(column) / d for c in column] for column in columns]
    means = [sum(column[i] for column in columns) / v for i in range(d)]
    columns = [[column[i] - means[i] for i in range(d)] for column in columns]
    found = ref.census(model, ref.neuron_activations(model, batch(2)), n_tokens=v)
    weights = ref.w_out(model, 4)
    for n in (0, 5, 100):
        row = weights[n].tolist()
        if layer_norm:
            row = [w - sum(row) / d for w in row]
        c = [dot(row, column) / math.sqrt(dot(row, row) * dot(column, column)) for column in columns]
        mean = sum(c) / v
        var = sum((x - mean) ** 2 for x in c) / v
        skew = sum((x - mean) ** 3 for x in c) / v / var**1.5
        kurtosis = sum((x - mean) ** 4 for x in c) / v / var**2
        mine = [moment[4, n].item() for moment in (found.mean, found.var, found.skew, found.kurtosis)]
        assert mine == pytest.approx([mean, var, skew, kurtosis], rel=1e-9, abs=1e-12)


def test_the_census_finds_the_planted_neurons(model):
    found = ref.census(model, ref.neuron_activations(model, batch()), n_tokens=tiny_models.N_TOKENS)
    along, against, partition = map(list, zip(*map(tiny_models.planted, range(tiny_models.N_LAYERS))))
    assert found.high_kurtosis.tolist() == [a + b for a, b in zip(along, against)]
    assert found.partition_candidates.tolist() == partition
    assert (found.prediction + found.suppression + found.unsigned).tolist() == found.high_kurtosis.tolist()
    if ref.family(model) not in ref.GATED:
        assert found.prediction.tolist() == along and found.suppression.tolist() == against
    else:
        blind = ref.census(model, n_tokens=tiny_models.N_TOKENS)
        assert blind.prediction is blind.suppression is blind.unsigned is None
        assert found.unsigned.sum() > 0 and found.prediction.sum() > 0 and found.suppression.sum() > 0
    directions = torch.randn(256, tiny_models.D_MODEL, generator=torch.Generator().manual_seed(0))
    assert ref.null_share(model, directions, tiny_models.N_TOKENS) < 0.01


def test_padding_columns_change_the_census_unless_left_out(tmp_path):
    model = load(tiny_models.build("gpt_neox", tmp_path))
    assert ref.folded_unembedding(model).shape == (64, 344)
    real = ref.folded_unembedding(model, 320)
    assert real.shape == (64, 320) and real.mean(1).abs().max() < 1e-12


def test_a_gated_neurons_sign_is_free_and_orientation_undoes_it(tmp_path, ids):
    model = load(tiny_models.build("llama", tmp_path))
    before, logits = ref.census(model, ref.neuron_activations(model, batch())), ref.run(model, ids).logits
    with torch.no_grad():
        mlp = model.model.layers[5].mlp
        mlp.up_proj.weight[:40] *= -1
        mlp.down_proj.weight[:, :40] *= -1
    after = ref.census(model, ref.neuron_activations(model, batch()))
    assert torch.equal(logits, ref.run(model, ids).logits)
    torch.testing.assert_close(after.skew[5, :40], -before.skew[5, :40])
    for count in ("high_kurtosis", "prediction", "suppression", "unsigned"):
        assert getattr(after, count).tolist() == getattr(before, count).tolist()
