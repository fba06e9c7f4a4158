"""The numbers that decide the paper's claims: each from what was measured, with a 95 % interval.

Documents are drawn anew 1,000 times, the same ones for every curve, and the whole number is computed from each draw.
The census is of the weights, all neurons of them: its numbers are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stagescope.engine.pool import MEASURES, PERCENTILES, ratio, resampled
from stagescope.engine.protocol import (
    OF_DEPTHS,
    OF_LAYERS,
    Census,
    CorpusSweep,
    Evidence,
    Failure,
    HeadScores,
    ModelInfo,
    Probe,
    ProbeScore,
)
from stagescope.engine.strongest import SIGNED

HELD, NOT_HELD, OPEN = "held", "not held", "not measurable here"
FEW_NEURONS = 20  # with fewer, a share of them says little


@dataclass(frozen=True)
class Quantity:
    """A number that decides, with its interval (low = value = high where it is exact) and what is asked of it."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def verdict(self) -> str:
        if math.isnan(self.value) or math.isnan(self.low) or math.isnan(self.high):
            return OPEN
        if self.at_least <= self.low and self.high <= self.at_most:
            return HELD
        return NOT_HELD if self.high < self.at_least or self.low > self.at_most else OPEN

    @property
    def asks(self) -> bool:
        """False: told beside the others, and decides nothing."""
        return math.isfinite(self.at_least) or math.isfinite(self.at_most)


class NotMeasurable(Exception):
    """Why a claim cannot be asked of what was measured."""


@dataclass(frozen=True, eq=False)
class Measured:
    info: ModelInfo
    sweep: CorpusSweep  # drops and swaps
    evidence: Evidence
    census: Census
    heads: HeadScores | Failure  # or why there are none
    probe: Probe | Failure


# ------------------------------------------------------------------------- measured means, and means of documents drawn anew


def drawn(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pooled means [1 + RESAMPLES, ...] of sums and counts [D, ...]: as measured, then over documents drawn anew.

    What a single document has is the same in every resample that has it: no interval, and NaN in all, as in
    pool.interval.
    """
    if len(sums) < 2:
        kept = len(sums) == 1
        raise NotMeasurable("one document has no interval" if kept else "the numbers of each document were not kept")
    sums, counts = np.nan_to_num(sums), np.where(np.isnan(sums), 0, counts)
    means = resampled(sums, counts)
    means[:, (counts > 0).sum(0) < 2] = np.nan
    return np.concatenate([ratio(sums.sum(0), counts.sum(0))[None], means])


def schedules(sweep: CorpusSweep, kind: str, measure: str) -> np.ndarray:
    """[1 + RESAMPLES, L] of a kind of schedules by layer, NaN where there is none."""
    rows = [(at, row.layer) for at, row in enumerate(sweep.rows) if row.kind == kind and at not in sweep.notes]
    if not rows:
        raise NotMeasurable(f"the sweep has no {kind}")
    at, layers = (list(column) for column in zip(*rows, strict=True))
    column = MEASURES.index(measure)
    means = drawn(sweep.sums[:, :, column], sweep.counts[:, :, column])
    table = np.full((len(means), sweep.model.n_layers), np.nan)
    table[:, layers] = means[:, at]
    return table


def curve(evidence: Evidence, name: str) -> np.ndarray:
    """[1 + RESAMPLES, N] of a measure OF_DEPTHS, [1 + RESAMPLES, L] of one OF_LAYERS."""
    at = (*OF_DEPTHS, *OF_LAYERS).index(name)
    means = drawn(evidence.sums[:, at], evidence.counts[:, at])
    means = means if name in OF_DEPTHS else means[:, :-1]
    if np.isnan(means[0, name in OF_DEPTHS :]).any():  # depth 0 may lack
        raise NotMeasurable(f"{name} was not measured in every layer")
    return means


def quantity(name: str, unit: str, means: np.ndarray, at_least: float = -math.inf, at_most: float = math.inf) -> Quantity:
    """From a number as measured and over resamples, [1 + RESAMPLES]: those in which no document has it are NaN."""
    told = means[1:][np.isfinite(means[1:])]
    low, high = np.percentile(told, PERCENTILES) if len(told) else (math.nan, math.nan)
    return Quantity(name, unit, float(means[0]), float(low), float(high), at_least, at_most)


def exact(name: str, unit: str, value: float, at_least: float = -math.inf, at_most: float = math.inf) -> Quantity:
    return Quantity(name, unit, *[float(value)] * 3, at_least, at_most)


def middle(means: np.ndarray, kind: str) -> np.ndarray:
    """[1 + RESAMPLES, layers of the middle half]: L/4 <= l < 3L/4, both layers of a swap."""
    n = means.shape[1]
    inner = means[:, math.ceil(n / 4) : math.ceil(3 * n / 4) - (kind == "swap")]
    kept = inner[:, ~np.isnan(inner[0])]
    if not kept.shape[1]:
        raise NotMeasurable(f"no {kind} of the middle half has a value")
    return kept


def relative_peak(means: np.ndarray) -> np.ndarray:
    """Where along 0 (first layer) to 1 (last) the greatest value stands; NaN where there is none."""
    none = np.isnan(means)
    return np.where(none.all(1), np.nan, np.where(none, -np.inf, means).argmax(1) / (means.shape[1] - 1))


# --------------------------------------------------------------------------------------------- figure 3: drops and swaps


def robust_middle(m: Measured) -> list[Quantity]:
    numbers = []
    for kind in ("drop", "swap"):
        kept = middle(schedules(m.sweep, kind, "top1_same"), kind)
        numbers.append(quantity(f"top-1 kept, median {kind} of the middle half", "share", np.median(kept, 1), at_least=0.72))
        numbers.append(quantity(f"top-1 kept, worst {kind} there", "share", kept.min(1)))
    return numbers


def _against_middle(m: Measured, kind: str, layer: int) -> np.ndarray:
    kept = schedules(m.sweep, kind, "top1_same")
    return kept[:, layer] / np.median(middle(kept, kind), 1)


def first_drop(m: Measured) -> list[Quantity]:
    return [quantity("top-1 kept by drop 0, over that of the middle", "ratio", _against_middle(m, "drop", 0), at_most=0.5)]


def first_swap(m: Measured) -> list[Quantity]:
    return [quantity("top-1 kept by swap 0 1, over that of the middle", "ratio", _against_middle(m, "swap", 0), at_most=0.5)]


def first_entropy(m: Measured) -> list[Quantity]:
    return [
        quantity(f"entropy change by {name}", "bits", schedules(m.sweep, kind, "entropy_change_bits")[:, 0], at_least=0.5)
        for kind, name in (("drop", "drop 0"), ("swap", "swap 0 1"))
    ]


def last_swap(m: Measured) -> list[Quantity]:
    n = m.info.n_layers
    kept = _against_middle(m, "swap", n - 2)
    return [quantity(f"top-1 kept by swap {n - 2} {n - 1}, over that of the middle", "ratio", kept, at_most=0.5)]


def last_swap_gpt2(m: Measured) -> list[Quantity]:
    if m.info.architecture != "GPT2LMHeadModel":
        raise NotMeasurable("this is no GPT-2")
    return [Quantity(**{**vars(last_swap(m)[0]), "at_least": 0.5, "at_most": math.inf})]


def milder_swaps(m: Measured) -> list[Quantity]:
    kl = {kind: np.median(middle(schedules(m.sweep, kind, "kl_nats"), kind), 1) for kind in ("drop", "swap")}
    kept = {kind: np.median(middle(schedules(m.sweep, kind, "top1_same"), kind), 1) for kind in ("drop", "swap")}
    return [
        quantity("median KL of swaps over that of drops, middle half", "ratio", kl["swap"] / kl["drop"], at_most=1),
        quantity("median top-1 kept, swaps minus drops", "share", kept["swap"] - kept["drop"], at_least=0),
    ]


# ----------------------------------------------------------------------------------- figures 4 and 5: attention, norms


def near_attention(m: Measured) -> list[Quantity]:
    numbers = []
    for name, reading in (("prev5_no_sink", "sink-free"), ("prev5_mean_weight", "with the sink")):
        near = curve(m.evidence, name)
        n = near.shape[1]
        early, late = near[:, : math.ceil(n / 4)].mean(1), near[:, n // 2 :].mean(1)
        asked = reading == "sink-free"
        edges = ({"at_most": 0.25}, {"at_least": 1.25}) if asked else ({}, {})
        numbers.append(quantity(f"place of the peak, {reading}", "of depth", relative_peak(near), **edges[0]))
        numbers.append(quantity(f"first quarter over last half, {reading}", "ratio", early / late, **edges[1]))
    return numbers


def attention_early(m: Measured) -> list[Quantity]:
    attn, mlp = curve(m.evidence, "attn_norm"), curve(m.evidence, "mlp_norm")
    readings = {"ratio of means": attn / mlp, "mean of ratios": curve(m.evidence, "attn_mlp_ratio")}
    n = m.info.n_layers
    numbers = []
    for name, each in readings.items():
        before, after = each[:, math.ceil(n / 8) : n // 2].mean(1), each[:, n // 2 :].mean(1)
        numbers.append(quantity(f"attention over MLP ({name}), before half depth over after", "ratio", before / after, 1.1))
    return numbers


# --------------------------------------------------------------------------------- figures 6 to 8: lens, neurons, norms


def lens_falls(m: Measured) -> list[Quantity]:
    numbers = []
    for name, lens in (("kl_final_nats", "corrected lens"), ("kl_final_nats_v1", "v1 lens")):
        if name.endswith("v1") and "v1" not in m.evidence.lenses:
            continue
        kl = curve(m.evidence, name)
        share = (kl[:, m.info.n_layers // 2] - kl[:, -1]) / (kl[:, 1] - kl[:, -1])
        edge = {"at_least": 0.6} if lens == "corrected lens" else {}
        numbers.append(quantity(f"share of the fall after half depth, {lens}", "share", share, **edge))
    return numbers


def little_progress(m: Measured) -> list[Quantity]:
    half = curve(m.evidence, "top1_final")[:, m.info.n_layers // 2]
    return [quantity("lens top-1 is the output's, at half depth", "share", half, at_most=0.25)]


def _signed(m: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and suppression neurons by layer, [L] each."""
    census = m.census
    if census.degenerate:
        above = f"{census.null_above:.0%} of random directions have kurtosis > 10"
        raise NotMeasurable(f"the vocabulary is degenerate: {above}")
    if census.orientation == "none":
        raise NotMeasurable("the MLPs are gated and no text oriented them: their neurons have no sign")
    return census.prediction.astype(float), census.suppression.astype(float)


def _enough(n: float, what: str) -> None:
    if n < FEW_NEURONS:
        raise NotMeasurable(f"{n:.0f} {what} are too few: it takes {FEW_NEURONS}")


def prediction_appears(m: Measured) -> list[Quantity]:
    prediction, _ = _signed(m)
    _enough(prediction.sum(), "prediction neurons")
    share = prediction[len(prediction) // 2 :].sum() / prediction.sum()
    return [exact("share of prediction neurons after half depth", "share", share, at_least=0.7)]


def prediction_peaks(m: Measured) -> list[Quantity]:
    prediction, _ = _signed(m)
    _enough(prediction.max(), "prediction neurons in the richest layer")
    place = float(relative_peak(prediction[None])[0])
    return [
        exact("place of the layer with most", "of depth", place, 0.75, 0.95),
        exact("prediction neurons there", "% of the MLP width", 100 * prediction.max() / m.census.d_mlp),
    ]


def suppression_overtakes(m: Measured) -> list[Quantity]:
    prediction, suppression = _signed(m)
    n = len(prediction)
    tail = n - max(1, round(n / 10))
    parts = {"the last tenth": slice(tail, n), "from half depth to there": slice(n // 2, tail)}
    numbers = []
    for (name, part), edge in zip(parts.items(), ({"at_least": 0.5}, {"at_most": 0.5}), strict=True):
        both = prediction[part].sum() + suppression[part].sum()
        _enough(both, f"prediction and suppression neurons ({name})")
        numbers.append(exact(f"suppression among both, {name}", "share", suppression[part].sum() / both, **edge))
    return numbers


def mlp_peaks_late(m: Measured) -> list[Quantity]:
    return [quantity("place of the greatest MLP norm", "of depth", relative_peak(curve(m.evidence, "mlp_norm")), at_least=0.75)]


def entropy_falls(m: Measured) -> list[Quantity]:
    bits = curve(m.evidence, "entropy_bits")
    return [quantity("entropy at half depth minus at the end", "bits", bits[:, m.info.n_layers // 2] - bits[:, -1], 1.0)]


def entropy_turns(m: Measured) -> list[Quantity]:
    bits, n = curve(m.evidence, "entropy_bits"), m.info.n_layers
    tenth = max(1, round(n / 10))
    tail, half = n - tenth, n // 2
    last, before = bits[:, n] - bits[:, tail], (bits[:, tail] - bits[:, half]) / (tail - half) * tenth
    return [
        quantity("change over the last tenth against the tenths before", "bits", np.abs(last - before), at_least=0.25),
        quantity("change over the last tenth", "bits", last),
        quantity("change over a tenth before", "bits", before),
    ]


# ---------------------------------------------------------------------------------- figures 9 and 10: heads and probes


def heads_join(m: Measured) -> list[Quantity]:
    if isinstance(m.heads, Failure):
        raise NotMeasurable(m.heads.message.rstrip("."))
    early = [(layer, head) for layer, head in m.heads.ranked()[:5] if layer < m.info.n_layers / 3]
    if not early:
        place = m.heads.ranked()[0][0] / (m.info.n_layers - 1)
        return [exact("place of the best head", "of depth", place, at_most=1 / 3)]
    layer, head = early[0]
    return [Quantity(f"held-out score of head {layer}.{head}", "weight", *m.heads.held[layer, head].astype(float).tolist(), 0.1)]


def neurons_tell(m: Measured) -> list[Quantity]:
    probe = _probe(m)
    best, control = (_best(some, kinds) for some, kinds in ((probe.neurons, SIGNED), (probe.neurons, ("random",))))
    return [
        Quantity(f"accuracy of {best.kind} neuron {best.layer}.{best.index}", "share", *_interval(best), control.high),
        Quantity(f"accuracy of random neuron {control.layer}.{control.index}", "share", *_interval(control)),
        Quantity("accuracy of the model's own mass", "share", *_interval(probe.mass)),
    ]


def ensembles_tell(m: Measured) -> list[Quantity]:
    probe = _probe(m)
    best, alone = _best(probe.ensembles, SIGNED), _best(probe.neurons, SIGNED)
    return [
        Quantity(f"accuracy of {best.size} {best.kind} neurons together", "share", *_interval(best), alone.accuracy),
        Quantity(f"accuracy of {alone.kind} neuron {alone.layer}.{alone.index}", "share", *_interval(alone)),
    ]


def _probe(m: Measured) -> Probe:
    if isinstance(m.probe, Failure):
        raise NotMeasurable(m.probe.message.rstrip("."))
    _signed(m)  # else there is no telling which neurons are of prediction, and which of suppression
    return m.probe


def _best(scores: tuple[ProbeScore, ...], kinds: tuple[str, ...]) -> ProbeScore:
    """By the training split."""
    some = [score for score in scores if score.kind in kinds]
    if not some:
        raise NotMeasurable(f"no neuron of the kind {' or '.join(kinds)} was probed")
    return max(some, key=lambda score: score.train)


def _interval(score: ProbeScore) -> tuple[float, float, float]:
    return score.accuracy, score.low, score.high
