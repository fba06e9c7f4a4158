"""Norms of what attention and MLP write to the residual stream (paper, Figures 5 and 7)."""

from __future__ import annotations

from torch import Tensor


def contribution_norm(contribution: Tensor, norm: str) -> Tensor:
    """L2 over D of a sublayer's contribution [..., D], in fp32.

    For LayerNorm models the mean over D is taken off first: that direction is invisible to every norm that reads the
    stream, and this equals the paper's centred weights. RMSNorm models are never centred.
    """
    contribution = contribution.float()
    if norm == "layer":
        contribution = contribution - contribution.mean(-1, keepdim=True)
    return contribution.norm(dim=-1)
