"""What a text says about a model: what every sublayer, head and neuron writes or does in the mean.

It stands in for what is replaced by its mean instead of zero (`drop 5 mean`, `head-off 5.3 mean`); the activations
also give gated neurons a sign (engine/neurons.py). All leave position 0, the attention sink, apart:
its residual norm is 22,680 against about 160 elsewhere in one model.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stagescope.engine import blocks, standard_text
from stagescope.engine.blocks import Network
from stagescope.engine.progress import progress
from stagescope.engine.protocol import Progress
from stagescope.engine.standard_text import WINDOW_TOKENS, WINDOWS
from stagescope.engine.tokens import encode

STAGE = "reading a text for the means"
CUDA_ROWS = WINDOWS  # on the CPU one window at a time: 15 ms a block of the default model


@dataclass(frozen=True, eq=False)
class Averages:
    """Means over a text. L layers, D model width, M MLP width."""

    text: str  # which text, to be shown
    n_tokens: int  # positions in each mean, position 0 of every window not among them
    attn: Tensor  # [L, 2, D] float32: attention's mean contribution at position 0, and at all others
    mlp: Tensor  # [L, 2, D]
    activation: Tensor  # [L, M] float64 on the CPU: mean activation, position 0 left out
    magnitude: Tensor  # [L, M] the same of its absolute value
    heads: tuple[Tensor, ...] = ()  # L of [2, H * d_head] float32: what W_O reads, likewise; [2, 0] without heads
    neurons: tuple[Tensor, ...] = ()  # L of [2, M] float32: activations at position 0 and all others


def measure(net: Network, prefix_id: int | None) -> Generator[Progress | Averages, None, None]:
    """The averages over the default text: Progress after every block call, last the Averages."""
    text, ids = sample(net.tokenizer, prefix_id, net.n_ctx)
    yield from over(net, ids, text)


def sample(tokenizer: Any, prefix_id: int | None, n_ctx: int = WINDOW_TOKENS) -> tuple[str, Tensor]:
    """The standard text: (its name, token ids [16, T]), T = 128 or n_ctx if less, prefix token first."""
    head = () if prefix_id is None else (prefix_id,)
    ids = torch.tensor(standard_text.windows(lambda text: encode(tokenizer, text, None), head, n_ctx))
    return f"{standard_text.name()}, {ids.numel():,} tokens in {WINDOWS} windows", ids


@torch.inference_mode()
def over(net: Network, ids: Tensor, text: str) -> Generator[Progress | Averages, None, None]:
    """Run ids [N, T], T >= 2, through the network: Progress after every block call, last the Averages."""
    yield Progress(STAGE, 0.0)
    n_windows, length = ids.shape
    attn, mlp = (torch.zeros(net.n_layers, 2, net.d_model, dtype=torch.float64) for _ in range(2))
    magnitude = torch.zeros(net.n_layers, net.d_mlp, dtype=torch.float64)
    neurons = torch.zeros(net.n_layers, 2, net.d_mlp, dtype=torch.float64)
    heads = [torch.zeros(2, 0, dtype=torch.float64)] * net.n_layers
    began, done = time.monotonic(), 0
    for batch in ids.split(CUDA_ROWS if net.device.type == "cuda" else 1):
        begun = blocks.start(net, batch)
        x = begun.x
        for layer in range(net.n_layers):
            passed, z, post = _block(net, begun, layer, x)
            x = passed.x
            attn[layer] += _sink_and_rest(passed.attn)
            mlp[layer] += _sink_and_rest(passed.mlp)
            neurons[layer] += _sink_and_rest(post)
            magnitude[layer] += _total(post[:, 1:].abs())
            if z is not None:
                heads[layer] = _sink_and_rest(z) + (heads[layer] if heads[layer].numel() else 0)
            done += len(batch)
            yield progress(STAGE, began, done / (n_windows * net.n_layers))
    n_tokens = n_windows * (length - 1)
    counts = torch.tensor([[n_windows], [n_tokens]])
    yield Averages(
        text,
        n_tokens,
        attn=(attn / counts).float().to(net.device),
        mlp=(mlp / counts).float().to(net.device),
        activation=neurons[:, 1] / n_tokens,
        magnitude=magnitude / n_tokens,
        heads=tuple((total / counts).float().to(net.device) for total in heads),
        neurons=tuple((neurons / counts).float().to(net.device)),
    )


def _block(
    net: Network, begun: blocks.Start, layer: int, x: Tensor
) -> tuple[blocks.Passed, Tensor | None, Tensor]:
    """One block, what its heads give to W_O [B, T, H * d_head] (None without heads), its neurons' activations
    [B, T, M]."""
    z, post = [], []
    with blocks.watching(net.head_outputs(layer), z.append), blocks.watching(net.post_activation(layer), post.append):
        passed = blocks.block(net, begun, layer, x)
    return passed, z[0] if z else None, post[0]


def _sink_and_rest(contribution: Tensor) -> Tensor:
    """[B, T, X] -> [2, X]: sums over position 0 and over all others."""
    return torch.stack([_total(contribution[:, :1]), _total(contribution[:, 1:])])


def _total(values: Tensor) -> Tensor:
    """[B, T, X] -> [X] float64 on the CPU. fp32 within a block call, because MPS has no fp64."""
    return values.float().sum((0, 1)).cpu().double()
