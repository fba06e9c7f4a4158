"""The logit lens: what the network would say if depth l were its last (nostalgebraist 2020; paper, Figures 6, 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from stagescope.engine import blocks
from stagescope.engine.blocks import Network


@torch.inference_mode()
def log_probs(net: Network, x: Tensor) -> Tensor:
    """softmax(W_U norm_f(x) + b_U), as fp32 log-probabilities [..., V] of x [..., D].

    The final norm is recomputed on each x. At the last depth this is the model's own output.
    """
    return blocks.unembed(net, blocks.final_norm(net, x)).log_softmax(-1)


@torch.inference_mode()
def log_probs_v1(net: Network, x: Tensor, x_final: Tensor) -> Tensor:
    """The lens of the paper's first version, for comparison with its Figures 6 and 8 only.

    Every depth is divided by the FINAL depth's scale at the position, and every bias is left out:
    ((x - mean) / sigma_L) for LayerNorm, x / rms_L for RMSNorm, times the gain-folded unembedding. Early depths come
    out near uniform. x [..., D], x_final broadcasts to it.
    """
    x, x_final = x.float(), x_final.float()
    if net.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
        x_final = x_final - x_final.mean(-1, keepdim=True)
    scale = (x_final.square().mean(-1, keepdim=True) + blocks.norm_eps(net)).sqrt()
    normed = (x / scale * blocks.norm_weight(net)).to(net.dtype)
    return blocks.cap(net, (normed @ blocks.w_u(net)).float()).log_softmax(-1)
