"""oneDNN's products in the place of torch's: the same numbers, only where they may be."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from test_readings_right import FAMILIES, make

from stagescope.engine import blocks, packed
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import Load


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_logits(tmp_path, monkeypatch, family: str) -> None:
    net = make(family, tmp_path).net
    ids = torch.stack([tiny_models.ids(net.d_vocab, 20, seed=seed) for seed in (1, 2)])
    before = blocks.forward(net, ids)
    linear = [module for module in net.bridge.modules() if type(module) is torch.nn.Linear]
    copies = packed.pack(net)
    assert copies == sum(4 * layer.weight.numel() for layer in {id(layer): layer for layer in linear}.values()) > 0
    assert all("forward" in vars(layer) for layer in linear)
    ran, linear_ = [], packed._linear
    monkeypatch.setattr(packed, "_linear", lambda *args: (ran.append(args), linear_(*args))[1])
    after = blocks.forward(net, ids)
    assert len(linear) - 6 <= len(ran) <= len(linear)  # the bridge keeps a joint q, k, v of NeoX that it does not run
    assert (after - before).abs().max() < 1e-5 * before.abs().max()


def test_never_in_half_precision_or_where_memory_is_short(tmp_path, monkeypatch) -> None:
    net = make("llama", tmp_path).net
    monkeypatch.setattr(packed, "free_memory", lambda _device: 10_000)
    assert packed.pack(net) == 0
    monkeypatch.undo()
    net.dtype = torch.bfloat16
    assert packed.pack(net) == 0


def test_a_torch_without_the_ops_or_with_others_goes_its_own_way(tmp_path, monkeypatch) -> None:
    net = make("llama", tmp_path).net
    with monkeypatch.context() as patch:
        patch.setattr(packed, "_linear", lambda x, weight, bias: x @ torch.zeros(x.shape[-1], 1))
        assert packed.pack(net) == 0  # other numbers
    with monkeypatch.context() as patch:
        patch.setattr(packed, "possible", lambda: False)
        assert packed.pack(net) == 0
    assert not any("forward" in vars(module) for module in net.bridge.modules() if type(module) is torch.nn.Linear)


def test_loading_packs_and_counts_the_copies(tmp_path, home) -> None:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(tiny_models.build("llama", tmp_path)), device="cpu")):
        pass
    weights = sum(p.numel() * 4 for p in {id(p): p for p in engine.net.bridge.parameters()}.values())
    assert engine.info.bytes > 1.5 * weights
