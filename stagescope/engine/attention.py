"""Attention to near tokens (paper, Figure 4), to the first token, and what looking evenly at everything would give.

A layer's pattern is reduced inside the hook that sees it, to 13 sums a head: nothing of T x T outlives its block call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stagescope.engine import blocks
from stagescope.engine.blocks import Network, Passed, Start
from stagescope.engine.protocol import OFFSETS

# sink_mass, then prev{k}_mean_weight and prev{k}_no_sink of each offset: the last of protocol.OF_LAYERS, in its order.
SUMS = 1 + 2 * len(OFFSETS)
FARTHEST = max(OFFSETS)


def triples(n_tokens: int, device: torch.device | None = None) -> Tensor:
    """Which (query, key) enter which sum: [T, 17, 13] of 0 and 1.

    The keys of query q are key 0 and q - 1 to q - 16. sink: key 0, queries >= 1. prev{k}: keys q - 1 to q - k as far as
    they exist. no_sink: the same over queries > k only, whose keys never reach key 0 (science.md: k = 5, queries >= 6).
    """
    q = torch.arange(n_tokens, device=device)[:, None]
    j = torch.arange(1, FARTHEST + 1, device=device)
    sums = torch.zeros(n_tokens, 1 + FARTHEST, SUMS, device=device)
    sums[1:, 0, 0] = 1
    for number, k in enumerate(OFFSETS):
        sums[:, 1:, 1 + number] = (j <= k) & (j <= q)
        sums[:, 1:, 1 + len(OFFSETS) + number] = (j <= k) & (q > k)
    return sums


def reduced(pattern: Tensor, which: Tensor) -> Tensor:
    """Sums [B, H, 13] of a pattern [B, H, T, T] over the triples [T, 17, 13], in fp32."""
    n_tokens = pattern.shape[-1]
    q = torch.arange(n_tokens, device=pattern.device)[:, None]
    j = torch.arange(1, FARTHEST + 1, device=pattern.device)
    keys = torch.cat([torch.zeros_like(q), (q - j).clamp_min(0)], -1)  # clamped ones are no triple
    near = pattern.gather(-1, keys.expand(*pattern.shape[:2], -1, -1)).float()
    return near.flatten(-2) @ which.flatten(0, 1)


def uniform(which: Tensor) -> Tensor:
    """The sums [13] where every query looks evenly at all it can see: A[q, .] = 1 / (q + 1)."""
    q = torch.arange(len(which), device=which.device)
    return (which / (q + 1)[:, None, None]).sum((0, 1))


def block(net: Network, begun: Start, layer: int, x: Tensor, which: Tensor) -> tuple[Passed, Tensor | None]:
    """Run a block on x [B, T, D], and the sums [B, H, 13] of its pattern; None where it has none to show, as layers
    without attention do: their norms and lens are evidence all the same."""
    seen: list[Tensor] = []
    with blocks.watching(net.pattern(layer), lambda pattern: seen.append(reduced(pattern, which))):
        passed = blocks.block(net, begun, layer, x)
    return passed, seen[0] if seen else None
