"""Where one stage ends and the next begins: a rule over curves of layers, with a null of smooth noise.

Lad et al., arXiv 2406.19384, Table 1, names four stages and their signs and gives no boundary layers. The rule is
this tool's own; docs/stages.md has it in full. Three questions, one after the other: where in the first half of the
layers do the signs of 1|2 step most, where in the second half those of 3|4, and where between the two those of 2|3. A
boundary is visible only where the signs together explain more than noise as smooth as they are, and two instruments
agree. The null takes instruments to err independently; where they do not it lets more through (docs/stages.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stagescope.engine.pool import MEASURES, ratio
from stagescope.engine.protocol import OF_DEPTHS, OF_LAYERS, Census, CorpusSweep, Evidence, Signal, Stage, StageMap

STAGES = ("detokenization", "feature engineering", "prediction ensembling", "residual sharpening")
BOUNDARIES = ("1|2", "2|3", "3|4")
RULE = (
    "This tool's own rule, for the paper gives no boundaries: each lies where its signals together step most, the way "
    "of the paper's Table 1, if that is more than equally smooth noise does and two instruments agree."
)
UP, DOWN = 1, -1


class Curve(NamedTuple):
    """One signal over the layers, and the steps that Table 1 of the paper expects of it."""

    name: str
    title: str  # with its unit
    instrument: str  # curves of one instrument share its noise, and have one voice together
    says: dict[int, int]  # number of a boundary -> UP or DOWN
    how: str  # computed for each layer


CURVES = (
    Curve("drop_kl", "KL of dropping the layer, log10 nats", "interventions", {0: DOWN, 2: UP},
          "log10 of the mean over tokens of D_KL(baseline || layer dropped)"),
    Curve("swap_kl", "KL of swapping with the next layer, log10 nats", "interventions", {0: DOWN},
          "log10 of the mean over tokens of D_KL(baseline || layers l and l + 1 swapped); none for the last layer"),
    Curve("near_attention", "attention to the 5 tokens before, sink left out", "attention", {0: DOWN},
          "prev5_no_sink: mean weight per offset over queries 6 and later"),
    Curve("lens_kl_fall", "fall of the lens' KL to the output, nats", "lens", {1: UP},
          "lens KL before the layer minus after it; none for layer 0, before which a tied embedding echoes the input"),
    Curve("mlp_over_attention", "MLP over attention norm, log10 ratio", "norms", {1: UP},
          "log10 of mean MLP norm over mean attention norm: a ratio of means, which no single token makes large"),
    Curve("prediction_neurons", "prediction neurons, log10 (1 + count)", "census", {1: UP},
          "log10(1 + prediction neurons of the layer); left out where they have no sign or the null is degenerate"),
    Curve("suppression_lead", "suppression over prediction neurons, log10 ratio", "census", {2: UP},
          "log10((1 + suppression) / (1 + prediction)); left out as above"),
    Curve("mlp_norm", "MLP norm over the residual's, log10 ratio", "norms", {2: UP},
          "log10 of mean MLP norm over mean norm of the residual before the layer: alone it grows 20-fold with depth"),
    Curve("entropy_rise", "rise of the lens' entropy, bits", "lens", {2: UP},
          "lens entropy after the layer minus before it: a fall that stops or turns is a step up; none for layer 0"),
)  # fmt: skip

LEAST_KL = 1e-6  # nats: below it is rounding
FEWEST = 4  # layers a step is looked for in, and layers with a value a curve needs there
NOISE_DRAWS, NOISE_SEED = 1000, 2
RESAMPLES, RESAMPLE_SEED = 1000, 3
LEVEL = 0.95  # of noise stays below what one curve needs at one layer
LEVEL_OF_ALL = 1 - (1 - LEVEL) / len(BOUNDARIES)  # and what is needed anywhere: a map of noise is empty in 95 %
PERCENTILES = (2.5, 97.5)
SMOOTHEST = 0.98  # autocorrelation from one layer to the next; at 1 noise has no variance to speak of
LEAST_INSTRUMENTS = 2  # that must agree
LEAST_TOKENS = 8  # scored: below them every curve is an anecdote, and one token would make a map of "Hi"


# --------------------------------------------------------------------------------------------------- map


def stage_map(sweep: CorpusSweep, evidence: Evidence, census: Census | None) -> StageMap:
    """The four stages over the texts that sweep (of drops and swaps) and evidence were both taken over.

    A stage is visible when both its ends are: else its layers are a mix with its neighbour's, and belong to no stage.
    One that begins visibly and whose end is not known has a first layer and no last. Deterministic; 0.1 s for 30
    layers, 0.4 s for 100.
    """
    curves, n = layer_curves(sweep, evidence, census), sweep.model.n_layers
    draws = noise(curves)
    first = _look(_question(0, 0, n // 2, 1, 2), curves, draws)
    last = _look(_question(2, n - n // 2, n, 2, 1), curves, draws)
    start, end = first.first or 0, last.first or n
    middle = _look(_question(1, start, end, 2, 2), curves, draws)
    found = (first, middle, last)
    if sweep.tokens_scored < LEAST_TOKENS:
        few = f"{sweep.tokens_scored} scored tokens are too few to say, {LEAST_TOKENS} are needed"
        found = tuple(one._replace(first=None, lacking=few) for one in found)
    measured = [number for number, curve in enumerate(curves) if np.isfinite(curve).any()]
    return StageMap(
        model=sweep.model,
        source=sweep.source,
        documents=sweep.documents,
        tokens_scored=sweep.tokens_scored,
        rule=RULE,
        stages=_stages(found, _resampled(found, sweep, evidence, census), n),
        signals=tuple(CURVES[number].name for number in measured),
        curves=curves[measured],
    )


def _question(boundary: int, start: int, end: int, before: int, after: int) -> Question:
    """before, after: layers that a stage has at least, on either side."""
    return Question(boundary, start, end, np.arange(start + before, end - after + 1))


class Certainty(NamedTuple):
    low: int | None  # 95 % interval over resampled documents; None for fewer than two
    high: int | None
    share: float  # of the resamples in which the signals together pass the same line


def _resampled(
    found: tuple[Found, ...], sweep: CorpusSweep, evidence: Evidence, census: Census | None
) -> list[Certainty]:
    """Of each boundary: where it lies when documents are drawn anew. Its window and its line stay those of the map."""
    if min(len(sweep.sums), len(evidence.sums)) < 2:
        return [Certainty(None, None, float("nan"))] * len(found)

    def drawn(n: int) -> np.ndarray:  # the same seed: of the same documents the same ones are drawn
        return np.random.default_rng(RESAMPLE_SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)

    curves = _curves(sweep, evidence, census, drawn(len(sweep.sums)), drawn(len(evidence.sums)))
    certain = []
    for one in found:
        if one.first is None:
            certain.append(Certainty(None, None, float("nan")))
            continue
        directions = np.array([CURVES[number].says[one.question.boundary] for number in one.used])
        explained = one.question.explained(curves[:, list(one.used)], directions)
        excess = np.einsum("c,rcf->rf", one.weights, explained) - one.line
        firsts = one.question.firsts[excess.argmax(1)]
        low, high = np.percentile(firsts, PERCENTILES, method="nearest")
        certain.append(Certainty(int(low), int(high), float((excess.max(1) > 0).mean())))
    return certain


def _stages(found: tuple[Found, ...], certain: list[Certainty], n_layers: int) -> tuple[Stage, ...]:
    told = [_told(*boundary) for boundary in zip(BOUNDARIES, found, certain, strict=True)]
    ends = [boundary.first for boundary in found] + [n_layers]
    stages = []
    for number, name in enumerate(STAGES):
        begun_by = max(number - 1, 0)  # the first stage begins at layer 0, and is there when its end is
        begins, certainty, evidence = ends[begun_by], certain[begun_by], found[begun_by].signals
        if number == 0 and begins is not None:
            several = certainty.low is not None
            begins, certainty = 0, Certainty(0 if several else None, 0 if several else None, certainty.share)
        visible = begins is not None and ends[number] is not None
        why = told[begun_by]
        if begins is not None and not visible:
            why = f"it begins at layer {begins}, but where it ends is not known: {told[number]}"
        last = ends[number] - 1 if visible else None
        stages.append(Stage(name, begins, certainty.low, certainty.high, last, visible, why, evidence))
    return tuple(stages)


def _told(name: str, found: Found, certainty: Certainty) -> str:
    agree, not_ = ([s.title.split(",")[0] for s in found.signals if s.agrees is yes] for yes in (True, False))
    signals = "; ".join([f"agree: {', '.join(agree)}"] * bool(agree) + [f"do not: {', '.join(not_)}"] * bool(not_))
    if found.first is None:
        return f"{name} is not visible, {found.lacking}" + f" ({signals})" * bool(signals)
    share = "" if np.isnan(certainty.share) else f" (and in {certainty.share:.0%} of resampled texts)"
    return f"{name} is visible at layer {found.first}{share}; {signals}"


# ------------------------------------------------------------------------------------------------ curves


def layer_curves(sweep: CorpusSweep, evidence: Evidence, census: Census | None) -> np.ndarray:
    """[len(CURVES), L] over all documents; NaN where a curve has no value."""
    everyone = np.ones((1, len(sweep.sums))), np.ones((1, len(evidence.sums)))
    return _curves(sweep, evidence, census, *everyone)[0]


def _curves(sweep: CorpusSweep, evidence: Evidence, census: Census | None, swept: np.ndarray, seen: np.ndarray):
    """[R, len(CURVES), L], each document taken swept [R, D] and seen [R, D'] times."""
    n, n_draws = sweep.model.n_layers, len(swept)
    names, kl = (*OF_DEPTHS, *OF_LAYERS), MEASURES.index("kl_nats")
    pooled_kl = ratio(swept @ sweep.sums[..., kl], swept @ sweep.counts[..., kl])

    def of_rows(kind: str) -> np.ndarray:
        curve = np.full((n_draws, n), np.nan)
        for number, row in enumerate(sweep.rows):
            if row.kind == kind and row.layer is not None:
                curve[:, row.layer] = np.log10(np.maximum(pooled_kl[:, number], LEAST_KL))
        return curve

    def of(name: str) -> np.ndarray:
        measure = names.index(name)
        means = ratio(seen @ evidence.sums[:, measure], seen @ evidence.counts[:, measure])
        return means if name in OF_DEPTHS else means[:, :n]

    def rise(name: str) -> np.ndarray:
        change = np.diff(of(name))
        change[:, 0] = np.nan
        return change

    def log_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        there = (above > 0) & (below > 0)
        return np.log10(np.where(there, above, np.nan) / np.where(there, below, np.nan))

    signed = census is not None and census.orientation != "none" and not census.degenerate
    prediction, suppression = (census.prediction, census.suppression) if signed else np.full((2, n), np.nan)
    made = {
        "drop_kl": of_rows("drop"),
        "swap_kl": of_rows("swap"),
        "near_attention": of("prev5_no_sink"),
        "lens_kl_fall": -rise("kl_final_nats"),
        "mlp_over_attention": log_ratio(of("mlp_norm"), of("attn_norm")),
        "prediction_neurons": np.log10(1.0 + prediction),
        "suppression_lead": np.log10((1.0 + suppression) / (1.0 + prediction)),
        "mlp_norm": log_ratio(of("mlp_norm"), of("resid_norm")),
        "entropy_rise": rise("entropy_bits"),
    }
    return np.stack([np.broadcast_to(made[curve.name], (n_draws, n)) for curve in CURVES], 1)


# ----------------------------------------------------------------------------------------------- one step


class Question(NamedTuple):
    """Where a boundary is looked for: steps at `firsts`, among layers start to end - 1."""

    boundary: int
    start: int
    end: int
    firsts: np.ndarray  # first layers after the boundary that are tried

    def explained(self, curves: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Share of each curve's variance that a step explains, negative where it goes the other way.

        curves [..., C, L], directions [C] -> [..., C, len(firsts)]; 0 for a curve that does not change.
        """
        window = curves[..., self.start : self.end]
        there = np.isfinite(window)
        n = there.sum(-1, keepdims=True)
        mean = np.where(there, window, 0.0).sum(-1, keepdims=True) / np.maximum(n, 1)
        centred = np.where(there, window - mean, 0.0)
        total = (centred**2).sum(-1, keepdims=True)
        at = self.firsts - self.start - 1
        n_before, sum_before = there.cumsum(-1)[..., at], centred.cumsum(-1)[..., at]
        n_after = n - n_before
        # Of centred values the sum after is minus the sum before: the step is -sum_before (1 / n_after + 1 / n_before).
        between = sum_before**2 * n / np.maximum(n_before * n_after, 1)
        certain = (total > 1e-20 * (1 + mean**2) * n) & (n_before > 0) & (n_after > 0)
        share = np.where(certain, between / np.where(certain, total, 1.0), 0.0)
        return share * -np.sign(sum_before) * directions[:, None]


class Found(NamedTuple):
    question: Question
    lacking: str  # "" if the boundary is visible, else why not
    first: int | None = None  # the first layer after it; None: not visible
    signals: tuple[Signal, ...] = ()
    used: tuple[int, ...] = ()  # numbers of the curves
    weights: np.ndarray | None = None  # [len(used)] one voice for each instrument
    line: np.ndarray | None = None  # [len(firsts)] what all curves together must explain


def smoothness(curves: np.ndarray) -> np.ndarray:
    """[C, L] -> [C] autocorrelation from a layer to the next, 0 to SMOOTHEST.

    Of the curve as it is, steps and all, so a step makes its own null smoother and harder to pass. The bias of short
    series, -(1 + 4 phi) / n (Kendall 1954), is taken out.
    """
    phi = np.zeros(len(curves))
    for number, curve in enumerate(curves):
        centred = curve - np.nanmean(curve) if np.isfinite(curve).any() else curve
        products = (centred[1:] * centred[:-1])[np.isfinite(centred[1:] * centred[:-1])]
        n, total = np.isfinite(curve).sum(), np.nansum(centred**2)
        if len(products) >= FEWEST and total > 0:
            phi[number] = (n * products.sum() / total + 1) / (n - 4) if n > 4 else SMOOTHEST
    return phi.clip(0, SMOOTHEST)


def noise(curves: np.ndarray) -> np.ndarray:
    """[NOISE_DRAWS, C, L] autoregressive Gaussian noise as smooth as each curve, missing where it is.

    Curves of one instrument are driven by the same numbers: a drop and a swap of one layer err together.
    """
    n, phi = curves.shape[-1], smoothness(curves)
    instruments = list(dict.fromkeys(curve.instrument for curve in CURVES))
    drawn = np.random.default_rng(NOISE_SEED).normal(size=(NOISE_DRAWS, len(instruments), n))
    made = drawn[:, [instruments.index(curve.instrument) for curve in CURVES]]
    for layer in range(1, n):
        made[..., layer] = phi * made[..., layer - 1] + np.sqrt(1 - phi**2) * made[..., layer]
    return np.where(np.isfinite(curves), made, np.nan)


def _line(scores: np.ndarray) -> np.ndarray:
    """[draws, firsts] -> [firsts]: 98.3 % of the draws stay below it at all of firsts.

    It follows what noise does at each layer: smooth noise steps more in the middle of a window than near its ends.
    """
    at_each = np.quantile(scores, LEVEL, axis=0)
    return at_each + max(np.quantile((scores - at_each).max(1), LEVEL_OF_ALL), 0.0)


def _look(question: Question, curves: np.ndarray, draws: np.ndarray) -> Found:
    start, end = question.start, question.end
    speaking = [number for number, curve in enumerate(CURVES) if question.boundary in curve.says]
    used = tuple(number for number in speaking if np.isfinite(curves[number, start:end]).sum() >= FEWEST)
    instruments = [CURVES[number].instrument for number in used]
    if end - start < FEWEST:
        return Found(question, lacking=f"{end - start} layers are too few to look for it")
    if len(set(instruments)) < LEAST_INSTRUMENTS:
        return Found(question, lacking="fewer than two instruments measured it")

    weights = np.array([1 / instruments.count(name) for name in instruments]) / len(set(instruments))
    directions = np.array([CURVES[number].says[question.boundary] for number in used])
    explained = question.explained(curves[list(used)], directions)  # [C, firsts]
    of_noise = question.explained(draws[:, list(used)], directions)  # [draws, C, firsts]
    line = _line(np.einsum("c,dcf->df", weights, of_noise))
    excess = weights @ explained - line
    best = int(excess.argmax())

    signals = []
    for row, number in enumerate(used):
        needed = np.quantile(of_noise[:, row], LEVEL, axis=0)  # at each layer: the map says which one
        alone = explained[row] - needed
        window, cut = curves[number], int(question.firsts[best])
        signals.append(
            Signal(
                name=CURVES[number].name,
                title=CURVES[number].title,
                first=int(question.firsts[alone.argmax()]) if alone.max() > 0 else None,
                before=_mean(window[start:cut]),
                after=_mean(window[cut:end]),
                explained=abs(float(explained[row, best])),
                needed=float(needed[best]),
                agrees=bool(alone[best] > 0),
            )
        )
    agreeing = {name for name, signal in zip(instruments, signals, strict=True) if signal.agrees}
    lacking = ""
    if excess[best] <= 0:
        together = weights @ explained[:, best]
        lacking = f"its signals together explain {together:.2f} of 1 where they do best, {line[best]:.2f} is needed"
    elif len(agreeing) < LEAST_INSTRUMENTS:
        lacking = "fewer than two instruments agree"
    first = None if lacking else int(question.firsts[best])
    return Found(question, lacking, first, tuple(signals), used, weights, line)


def _mean(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")
