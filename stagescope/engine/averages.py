"""What a text says about a model: mean contribution of every sublayer, mean activation of every neuron.

The contributions stand in for a sublayer that is replaced by its mean instead of zero (`drop 5 mean`); the
activations give gated neurons a sign (engine/neurons.py). Both leave position 0, the attention sink, apart:
its residual norm is 22,680 against about 160 elsewhere in one model.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stagescope.engine import blocks
from stagescope.engine.blocks import Network
from stagescope.engine.progress import progress
from stagescope.engine.protocol import Progress
from stagescope.engine.tokens import encode

STAGE = "reading a text for the means"
# Enough: between two halves of 24 such windows no neuron of the default model changed from one sign to the
# other (15 to 20 % passed in or out of `unsigned`).
WINDOWS, WINDOW_TOKENS = 16, 128
CHARACTERS_PER_TOKEN = 16  # more than any tokenizer packs into a token of English
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


def measure(net: Network, prefix_id: int | None) -> Generator[Progress | Averages, None, None]:
    """The averages over the default text: Progress after every block call, last the Averages."""
    text, ids = sample(net.tokenizer, prefix_id, net.n_ctx)
    yield from over(net, ids, text)


def sample(tokenizer: Any, prefix_id: int | None, n_ctx: int = WINDOW_TOKENS) -> tuple[str, Tensor]:
    """The default text, which every Python carries: (its name, token ids [16, T]), T = 128 or n_ctx if less.

    Windows spread evenly over the topics of Python's help in the order of their names, each from the start of
    a line, prefix token first. The help differs from one Python release to the next, so the name says which.
    """
    from pydoc_data.topics import topics  # half a megabyte of text that nothing else needs

    text = "\n".join(topics[name] for name in sorted(topics))
    length = min(WINDOW_TOKENS, n_ctx)
    starts = [text.index("\n", window * len(text) // WINDOWS) + 1 for window in range(WINDOWS)]
    pieces = [text[start : start + CHARACTERS_PER_TOKEN * length] for start in starts]
    ids = torch.tensor([encode(tokenizer, piece, prefix_id)[:length] for piece in pieces])
    extent = f"{ids.numel():,} tokens in {WINDOWS} windows"
    return f"pydoc_data.topics of Python {platform.python_version()}, {extent}", ids


@torch.inference_mode()
def over(net: Network, ids: Tensor, text: str) -> Generator[Progress | Averages, None, None]:
    """Run ids [N, T], T >= 2, through the network: Progress after every block call, last the Averages."""
    yield Progress(STAGE, 0.0)
    n_windows, length = ids.shape
    attn, mlp = (torch.zeros(net.n_layers, 2, net.d_model, dtype=torch.float64) for _ in range(2))
    activation, magnitude = (torch.zeros(net.n_layers, net.d_mlp, dtype=torch.float64) for _ in range(2))
    began, done = time.monotonic(), 0
    for batch in ids.split(CUDA_ROWS if net.device.type == "cuda" else 1):
        begun = blocks.start(net, batch)
        x = begun.x
        for layer in range(net.n_layers):
            passed, neurons = _block(net, begun, layer, x)
            x = passed.x
            attn[layer] += _sink_and_rest(passed.attn)
            mlp[layer] += _sink_and_rest(passed.mlp)
            activation[layer] += _total(neurons[:, 1:])
            magnitude[layer] += _total(neurons[:, 1:].abs())
            done += len(batch)
            yield progress(STAGE, began, done / (n_windows * net.n_layers))
    n_tokens = n_windows * (length - 1)
    counts = torch.tensor([[n_windows], [n_tokens]])
    yield Averages(
        text,
        n_tokens,
        attn=(attn / counts).float().to(net.device),
        mlp=(mlp / counts).float().to(net.device),
        activation=activation / n_tokens,
        magnitude=magnitude / n_tokens,
    )


def _block(net: Network, begun: blocks.Start, layer: int, x: Tensor) -> tuple[blocks.Passed, Tensor]:
    """One block, and its neurons' activations [B, T, M]. The hook lives no longer than the call: between two
    calls the network serves readings."""
    seen: list[Tensor] = []
    hook_point = net.post_activation(layer)
    handle = hook_point.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        passed = blocks.block(net, begun, layer, x)
    finally:
        handle.remove()
    return passed, seen[0]


def _sink_and_rest(contribution: Tensor) -> Tensor:
    """[B, T, D] -> [2, D]: sums over position 0 and over all others."""
    return torch.stack([_total(contribution[:, :1]), _total(contribution[:, 1:])])


def _total(values: Tensor) -> Tensor:
    """[B, T, X] -> [X] float64 on the CPU. fp32 within a block call, because MPS has no fp64."""
    return values.float().sum((0, 1)).cpu().double()
