"""What is checked when a model is loaded, and what device, dtype and threads are chosen."""

from __future__ import annotations

import pytest
import reference
import tiny_models
import torch
from test_readings_right import FAMILIES, N_TOKENS, close, fresh_prompt, make, order

from stagescope.engine import averages, blocks, load, runner
from stagescope.engine.directory import Located
from stagescope.engine.plan import uses_means
from stagescope.engine.prefix import prefix_text, prefix_token
from stagescope.engine.protocol import EngineError, Load, Read
from stagescope.engine.reading import read
from stagescope.engine.schedule import parse, resolve


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma3"])
def test_the_noise_floor_of_bf16_is_that_of_its_rounding(tmp_path, family: str) -> None:
    directory = tiny_models.build(family, tmp_path)
    bridge = load._boot(Located(family, directory, "test"), torch.device("cpu"), torch.bfloat16)
    net = load.network(bridge, torch.device("cpu"), torch.bfloat16)
    ids = tiny_models.ids(net.d_vocab, N_TOKENS, seed=3)[None]
    half = blocks.forward(net, ids)
    warnings, floor = load.check(net, ids, family)
    assert warnings == ()
    assert 1e-7 < floor < 0.1
    assert {p.dtype for p in bridge.parameters()} == {torch.bfloat16}
    assert torch.equal(blocks.forward(net, ids), half)  # the way to fp32 and back lost nothing
    # the same from two whole models: the weights rounded to bf16, run in fp32 and in bf16
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.bfloat16)
    exact = model.float().requires_grad_(False)(ids).logits[0].log_softmax(-1).double()
    theirs = float(reference.kl_nats(exact, half[0].log_softmax(-1).double()).mean())
    assert floor == pytest.approx(theirs, rel=0.35)  # two rows are batched here, one there


def test_a_network_whose_blocks_do_not_add_up_is_named(llama, monkeypatch) -> None:
    probe = llama.ids[None]
    real = blocks.block

    def between_blocks(net, begun, layer, x, **switches):
        passed = real(net, begun, layer, x, **switches)
        return blocks.Passed(passed.x * (1.01 if layer == 2 else 1.0), passed.attn, passed.mlp)

    monkeypatch.setattr(blocks, "block", between_blocks)
    with pytest.raises(EngineError, match="llama does something .* blocks run one by one end .* nats from the model's own forward"):
        load.check(llama.net, probe, "llama")

    def contribution_missing(net, begun, layer, x, **switches):
        passed = real(net, begun, layer, x, **switches)
        return blocks.Passed(passed.x, passed.attn, passed.mlp * 0.5)

    monkeypatch.setattr(blocks, "block", contribution_missing)
    (warning,), _ = load.check(llama.net, probe, "llama")
    assert "attention + MLP miss the residual of llama" in warning


def test_weights_that_are_not_finite_are_named(tmp_path) -> None:
    broken = make("gpt2", tmp_path)
    with torch.no_grad():
        broken.net.bridge.ln_final.original_component.weight.fill_(float("nan"))
    (warning,), _ = load.check(broken.net, broken.ids[None], "gpt2")
    assert "not finite" in warning


def test_dtype_is_fp32_when_it_fits_and_too_large_is_refused(monkeypatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(load, "free_memory", lambda _device: 10 * 2**30)
    assert load.pick_dtype("auto", cpu, 2**30) is torch.float32  # 4 of 10 GiB
    assert load.pick_dtype("auto", cpu, 2**30 + 2**28) is torch.bfloat16
    assert load.pick_dtype("float32", cpu, 2**31) is torch.float32
    with pytest.raises(EngineError, match="24.0 GiB in bfloat16 and cpu has 10.0 GiB free") as refused:
        load.pick_dtype("auto", cpu, 12 * 2**30)
    assert refused.value.failure.kind == "memory"


def test_devices_and_threads() -> None:
    assert load.pick_device("cpu").type == "cpu"
    for wanted in ("cuda:99", "abacus"):
        with pytest.raises(EngineError) as refused:
            load.pick_device(wanted)
        assert refused.value.failure.kind == "usage" and wanted in refused.value.failure.message
    assert load.threads(None) >= 1 and load.threads(3) == 3


def test_prefix_tokens(llama) -> None:
    tokenizer = llama.net.tokenizer
    assert prefix_text(Load(bos="none"), "x") == "" == prefix_text(Load(chat=True), "x")
    assert prefix_text(Load(), None) is None and prefix_text(Load(), "x") == "x" and prefix_text(Load(bos="y"), "x") == "y"
    assert prefix_token(tokenizer, "") is None
    for several in ("qx zv", "\udcff"):
        with pytest.raises(EngineError) as refused:
            prefix_token(tokenizer, several)
        assert refused.value.failure.kind == "usage" and "--bos" in refused.value.failure.message


@pytest.mark.parametrize("architecture", ["GPTJ", "OPT", "Bloom", "Falcon", "Mixtral"])
def test_what_does_not_fit_is_refused_by_name(tmp_path, architecture: str) -> None:
    """Random models of families stagescope does not know: they load and are right, or are refused in a sentence."""
    import transformers

    small = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = getattr(transformers, f"{architecture}Config")(
        **small, n_embd=64, n_layer=3, n_head=4, n_positions=128, rotary_dim=16, ffn_dim=128, intermediate_size=128,
        word_embed_proj_dim=64, num_key_value_heads=2, num_local_experts=2, max_position_embeddings=128,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    try:
        *_, (net, info) = load.load(Load(device="cpu", bos="none"), Located(architecture, tmp_path, "test"))
    except EngineError as error:
        assert architecture in error.failure.message and error.failure.kind == "error"
    else:
        assert info.loaded and blocks.w_out(net, 0).shape == (net.d_mlp, net.d_model)


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_replacement(tmp_path, family: str) -> None:
    """A sublayer gives its mean over a text instead: position 0 its own mean, every other position the others'."""
    both = make(family, tmp_path)
    text = torch.stack([tiny_models.ids(both.net.d_vocab, 12, seed=seed) for seed in (5, 6)])
    *_, means = averages.over(both.net, text, "two rows of random tokens")
    attn, mlp = reference.mean_contributions(both.model, list(text))
    close(means.attn[:, 1], attn)
    close(means.mlp[:, 1], mlp)

    at = torch.ones(N_TOKENS, dtype=torch.bool)
    at[3:7] = False
    request = {"attn_on": at, "mlp_on": at, "attn_mean": attn[2], "mlp_mean": mlp[2]}
    places = [*order(0, 1), reference.Place(2, **request), *order(3, 4, 5)]
    theirs = reference.lens(both.model, reference.run(both.model, both.ids, places).residuals[-1])

    schedule = parse("drop 2 mean @3-6")
    plan = resolve(schedule, 6, parallel_blocks=both.net.parallel, n_positions=N_TOKENS)
    assert uses_means(plan)
    prompt = fresh_prompt(both.net, both.ids)
    ours = read(both.net, both.info, prompt, Read("x"), str(schedule), plan, range(N_TOKENS), averages=means)
    close(ours.entropy_bits[-1], reference.entropy_bits(theirs))
    everywhere = resolve(parse("drop 2 mean"), 6, parallel_blocks=both.net.parallel, n_positions=N_TOKENS)
    whole = read(both.net, both.info, prompt, Read("x"), "drop 2 mean", everywhere, range(N_TOKENS), averages=means)
    node = runner.path(prompt.root, everywhere)[3]
    close(node.x[0] - node.parent.x[0], (means.attn[2, 0] + means.mlp[2, 0]), rtol=1e-3, atol=1e-3)
    close(node.x[4] - node.parent.x[4], (means.attn[2, 1] + means.mlp[2, 1]), rtol=1e-3, atol=1e-3)
    assert whole.effect_kl_nats.max() > 1e-4
