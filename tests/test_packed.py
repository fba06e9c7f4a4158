"""oneDNN's unembedding in the place of torch's: the same numbers, only where it may be."""

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
    unembedding = net.bridge.unembed.original_component
    assert packed.pack(net) == 4 * unembedding.weight.numel()
    ran, linear = [], packed._linear
    monkeypatch.setattr(packed, "_linear", lambda *args: (ran.append(args), linear(*args))[1])
    after = blocks.forward(net, ids)
    assert len(ran) == 1
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
        patch.setattr(packed, "_linear", lambda x, weight, bias: torch.zeros(len(x), net.d_vocab))
        assert packed.pack(net) == 0  # other numbers
    with monkeypatch.context() as patch:
        patch.setattr(packed, "possible", lambda: False)
        assert packed.pack(net) == 0
    assert "forward" not in vars(net.bridge.unembed.original_component)


def test_loading_packs_and_counts_the_copy(tmp_path, home) -> None:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(tiny_models.build("llama", tmp_path)), device="cpu")):
        pass
    weights = sum(p.numel() * 4 for p in {id(p): p for p in engine.net.bridge.parameters()}.values())
    assert engine.info.bytes == weights + 4 * engine.net.bridge.unembed.original_component.weight.numel()
