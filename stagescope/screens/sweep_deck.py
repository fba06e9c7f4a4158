"""Sweeps over several prompts as one: the median prompt, and the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stagescope.engine.protocol import Sweep
from stagescope.engine.tokens import Token
from stagescope.reports.sweep import MEASURES, summary


def median_sweep(sweeps: Sequence[Sweep]) -> Sweep:
    """The median over prompts of each prompt's mean, as a sweep over a prompt of one token.

    sweeps: one kind on several prompts, not a trace, so all have the same rows. A row is done when it is on any prompt;
    those where it is not yet stay out of its median. What a median says nothing of (tracked, baselines) is NaN.
    """
    first = sweeps[0]
    medians = {name: _medians([summary(sweep, name)[:, 0] for sweep in sweeps]) for name in MEASURES}
    unknown = np.full((len(first.rows), 1), np.nan, np.float32)
    base = ("base_entropy_bits", "base_loss_nats", "base_tracked_rank", "base_tracked_p")
    return replace(
        first,
        prompt="",
        tokens=(Token(-1, ""),),
        positions=(0,),
        done=np.any([sweep.done for sweep in sweeps], axis=0),
        notes={row: note for sweep in reversed(sweeps) for row, note in sweep.notes.items()},
        **{name: values[:, None] for name, values in medians.items()},
        **{name: unknown[0] for name in base},
        tracked=np.full(1, -1, np.int32),
        tracked_rank=unknown,
        tracked_p=unknown,
        texts={},
    )


def median_and_worst(sweeps: Sequence[Sweep], row: int) -> tuple[float, float, Sweep] | None:
    """Of one row over the prompts it is done on: the median of their mean KLs, the highest, and whose that is."""
    means = [(_mean(sweep.kl_nats[row, sweep.mean_positions()]), sweep) for sweep in sweeps]
    known = [(mean, sweep) for mean, sweep in means if not np.isnan(mean)]
    if not known:
        return None
    worst, where = max(known, key=lambda pair: pair[0])
    return float(np.median([mean for mean, _ in known])), worst, where


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _medians(columns: Sequence[np.ndarray]) -> np.ndarray:
    """[S] of N times [S]: the median of each row's numbers, NaN where it has none."""
    numbers = [row[~np.isnan(row)] for row in np.stack(columns, axis=1)]
    return np.array([np.median(row) if row.size else np.nan for row in numbers], np.float32)
