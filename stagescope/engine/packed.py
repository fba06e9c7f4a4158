"""A faster unembedding on a CPU in fp32: oneDNN, with the weights laid out for it once.

torch multiplies fp32 on x86 by MKL, which on AMD cores reaches 42 to 75 GFLOP/s a thread at the default model's
unembedding where oneDNN reaches 76 to 108 (tests/benchmarks/bench_sweep.py). It is only as fast with weights in its own
layout: a copy, made at load where the memory allows it. The ops are those torch's own compiler puts into its graphs;
they have no public name, so their absence and their results are both checked.

The blocks stay with torch: they would gain 15 %, but drop 0 of the default model multiplies what their products round
differently until its KL of 10 nats differs by 7e-4 from transformers'. Logits are the last product, nothing follows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stagescope.engine.blocks import Network
from stagescope.engine.memory import free_memory

SHARE = 0.25  # of the free memory that the copy may take
TOLERANCE = 1e-5  # largest difference from torch's own product, as a share of the largest value; seen: 2e-6


def pack(net: Network) -> int:
    """Let the unembedding of a CPU network in fp32 multiply by oneDNN. Returns the bytes its copy takes, or 0."""
    layer = net.bridge.unembed.original_component
    if not possible() or net.device.type != "cpu" or net.dtype != torch.float32 or type(layer) is not nn.Linear:
        return 0
    size = layer.weight.numel() * layer.weight.element_size()
    return size if size <= SHARE * free_memory(net.device) and _pack(layer) else 0


def possible() -> bool:
    ops = torch.ops.mkldnn
    here = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return here and all(hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


@torch.inference_mode()
def _pack(layer: nn.Linear) -> bool:
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        probe = torch.linspace(-1, 1, 2 * layer.in_features).view(2, -1)
        expected, found = layer(probe), _linear(probe, weight, layer.bias)
    except (RuntimeError, TypeError):  # another signature in another torch
        return False
    if found.shape != expected.shape or (found - expected).abs().max() > TOLERANCE * expected.abs().max():
        return False
    layer.forward = lambda x: _linear(x, weight, layer.bias)
    return True


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
