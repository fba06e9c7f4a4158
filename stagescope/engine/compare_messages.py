"""What is asked of two readings held side by side, and what is answered. Definitions: docs/science.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stagescope.engine.told import Told

if TYPE_CHECKING:
    from stagescope.engine.messages import ModelInfo
    from stagescope.engine.protocol import Read, Reading


@dataclass(frozen=True)
class TakeComparison:
    """Two schedules on a prompt, or two prompts of as many tokens. Answers: Progress, then one Comparison.

    Each side is read whole, whatever its `part`; both through one lens. b follows the tokens that a does, unless it names
    one of its own.
    """

    a: Read
    b: Read


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Told):
    """Reading b held against reading a: P pairs of depths that can be compared, T positions.

    Two readings of one model pair where the same layers have run before (as Reading.baseline_depth does); of two models
    with one vocabulary likewise when they have as many layers, else the embedding and the output alone. Both readings are
    whole, their baselines left out. float32, NaN where not known: residuals of two models; KL of readings that were not
    run together.
    """

    a: Reading
    b: Reading
    pairs: tuple[tuple[int, int], ...]  # P: (depth of a, depth of b), ascending; the last is the two outputs
    kl_nats: np.ndarray  # [P, T] D_KL(a's lens || b's lens)
    top1_same: np.ndarray  # [P, T] 1.0 or 0.0
    resid_rel: np.ndarray  # [P, T] ||x_b - x_a|| / ||x_a||
    resid_cos: np.ndarray  # [P, T]
    effect_kl_nats: np.ndarray  # [T] D_KL(a's output || b's output)
    effect_top1_same: np.ndarray  # [T]
    effect_entropy_bits: np.ndarray  # [T] entropy of b's output minus a's
    cached: bool = False

    @property
    def model(self) -> ModelInfo:
        """That of the first side, which may be another than the second's."""
        return self.a.model
