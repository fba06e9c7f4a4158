"""Which token is written: the likeliest one, or one drawn. Texts of one request share their chance.

Drawing is the maximum of log p plus Gumbel noise, which is a draw from p (Gumbel 1954; Maddison et al. 2014). The noise of a step
is the same for every text, so that two texts part where their distributions do and not by luck: an edit that
changes nothing changes no word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

if TYPE_CHECKING:
    from stagescope.engine.protocol import Generate


def sampler(request: Generate) -> Callable[[Tensor], Tensor]:
    """A function of log-probabilities [R, V] of the texts at one step, called step after step, to their tokens [R]."""
    if not request.temperature:
        return lambda logp: logp.argmax(-1)
    warpers = [TemperatureLogitsWarper(float(request.temperature))]
    warpers += [TopKLogitsWarper(request.top_k)] if request.top_k else []
    warpers += [TopPLogitsWarper(float(request.top_p))] if request.top_p and request.top_p < 1 else []
    chance = torch.Generator().manual_seed(request.seed)  # on the CPU: one seed says the same on every device

    def drawn(logp: Tensor) -> Tensor:
        scores = logp
        for warper in warpers:
            scores = warper(None, scores)
        uniform = torch.rand(logp.shape[-1], generator=chance, dtype=torch.float64)
        return (scores - (-uniform.log()).log().to(scores)).argmax(-1)

    return drawn
