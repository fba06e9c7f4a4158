"""What the paper claims of a model's layers, as data: a written test for each, and whether it held here.

The claims are those of Lad, Gurnee, Tegmark (arXiv 2406.19384): its Table 1 and Figures 3 to 10. The paper states them in
words; every threshold below is stagescope's own. A number counts with its 95 % interval (1,000 resamples of the
documents): wholly within what the test asks, it speaks for the claim; wholly outside, against it; across the edge, it
decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stagescope.engine.protocol import Census, CorpusSweep, Evidence, Failure, HeadScores, ModelInfo, Probe
from stagescope.paper import claim_numbers as ask
from stagescope.paper.claim_numbers import HELD, NOT_HELD, OPEN, Measured, NotMeasurable, Quantity
from stagescope.reports.reading import number

FEW_LAYERS = 8  # with fewer, "the middle half" is three layers or less


@dataclass(frozen=True)
class Claim:
    id: str
    text: str  # what the paper says
    where: str  # in the paper
    test: str  # how it is asked here, thresholds included
    verdict: str  # held | not held | not measurable here
    reason: str
    numbers: tuple[Quantity, ...]


def judge(
    info: ModelInfo,
    sweep: CorpusSweep,
    evidence: Evidence,
    census: Census,
    heads: HeadScores | Failure,
    probe: Probe | Failure,
) -> tuple[Claim, ...]:
    """Every claim, in the order of the paper's figures."""
    measured = Measured(info, sweep, evidence, census, heads, probe)
    return tuple(_judged(row, measured) for row in CLAIMS)


def _judged(row: Row, measured: Measured) -> Claim:
    try:
        if measured.info.n_layers < FEW_LAYERS:
            raise NotMeasurable(f"{measured.info.n_layers} layers are too few: it takes {FEW_LAYERS}")
        with np.errstate(divide="ignore", invalid="ignore"):  # what is divided by 0 has no value, and says so
            numbers = row.ask(measured)
    except NotMeasurable as reason:
        return _claim(row, OPEN, str(reason), ())
    asked = [one for one in numbers if one.asks]
    verdicts = [one.verdict for one in asked]
    if not asked:  # an edge that is no number
        verdict, reason = OPEN, "what it is to be compared with has no value"
    elif NOT_HELD in verdicts:
        verdict = row.otherwise
        reason = "; ".join(f"{one.name} is outside what is asked" for one in asked if one.verdict == NOT_HELD)
        reason += "" if verdict == NOT_HELD else ": one such model says nothing against “some models”"
    elif OPEN in verdicts:
        verdict = OPEN
        reason = "; ".join(_why_open(one) for one in asked if one.verdict == OPEN)
    else:
        verdict, reason = HELD, "all that is asked is met, intervals included"
    return _claim(row, verdict, reason, tuple(numbers))


def _why_open(one: Quantity) -> str:
    if math.isnan(one.value):
        return f"{one.name} has no value"
    if math.isnan(one.low):
        return f"{one.name} has no interval: it takes two documents that are long enough"
    return f"the interval of {one.name} reaches over the edge of what is asked"


def _claim(row: Row, verdict: str, reason: str, numbers: tuple[Quantity, ...]) -> Claim:
    return Claim(row.id, row.text, row.where, row.test, verdict, f"{reason[0].upper()}{reason[1:]}.", numbers)


def claim_json(claim: Claim) -> dict[str, Any]:
    """NaN and what is not asked are null."""
    fields = ("value", "low", "high", "at_least", "at_most")
    return {
        **{name: getattr(claim, name) for name in ("id", "text", "where", "test", "verdict", "reason")},
        "numbers": [
            {"name": one.name, "unit": one.unit, **{name: number(getattr(one, name)) for name in fields}}
            for one in claim.numbers
        ],
    }


# ---------------------------------------------------------------------------------------------------- the claims


@dataclass(frozen=True)
class Row:
    id: str
    text: str
    where: str
    test: str
    ask: Callable[[Measured], list[Quantity]]
    otherwise: str = NOT_HELD  # the verdict where a number is outside what is asked


_MIDDLE = "Middle half: layers from a quarter to three quarters of the depth."
CLAIMS = (
    Row("robust-middle", "Dropping or swapping middle layers keeps 72 to 95 % of the top-1 predictions.", "Figure 3, abstract",
        f"The median drop and the median swap of the middle half keep at least 72 %. {_MIDDLE}", ask.robust_middle),
    Row("first-drop", "Dropping the first layer is catastrophic.", "Figure 3; Table 1, stage 1",
        "Drop 0 keeps at most half as many top-1 predictions as the median drop of the middle half.", ask.first_drop),
    Row("first-swap", "Swapping the first two layers is catastrophic.", "Figure 3; Table 1, stage 1",
        "Swap 0 1 keeps at most half as many top-1 predictions as the median swap of the middle half.", ask.first_swap),
    Row("first-entropy", "Without its first layer a model gives high entropy rather than mode collapse.", "Figure 3",
        "Drop 0 and swap 0 1 each raise the entropy by at least 0.5 bits.", ask.first_entropy),
    Row("last-swap", "Swapping the last two layers is catastrophic in some models.", "Figure 3",
        "It keeps at most half as many top-1 predictions as the median swap of the middle half. Where it does not, one model is no "
        "evidence against “some”.", ask.last_swap, OPEN),
    Row("last-swap-gpt2", "In GPT-2 swapping the last two layers is not catastrophic.", "Figure 3",
        "In a GPT-2, it keeps at least half as many top-1 predictions as the median swap of the middle half.", ask.last_swap_gpt2),
    Row("milder-swaps", "In the middle, swaps harm less than drops.", "Figure 3",
        "Over the middle half the median KL of swaps is at most that of drops, and their median top-1 kept at least that of "
        "drops.", ask.milder_swaps),
    Row("near-attention", "Attention to near tokens is highest in the first layers and falls.", "Figure 4; Table 1, stage 1",
        "Attention to the 5 tokens before, sink-free: its peak lies in the first quarter of the depth, and the first quarter's "
        "mean is at least 1.25 times the last half's.", ask.near_attention),
    Row("attention-early", "Feature engineering is attention-heavy; the MLPs matter more from prediction ensembling on.",
        "Figure 5; Table 1, stages 2 and 3", "The norm of attention over that of the MLP, mean over the layers from an eighth to half of the depth, is "
        "at least 1.1 times its mean over the second half, in both readings of the ratio.", ask.attention_early),
    Row("lens-falls", "The lens KL to the output falls steeply from about half depth.", "Figure 6; Table 1, stage 3",
        "At least 60 % of the fall from after the first layer to the end (corrected lens) comes after half depth.", ask.lens_falls),
    Row("little-progress", "Feature engineering makes little progress to the next token.", "Figure 6; Table 1, stage 2",
        "At half depth the corrected lens gives the output's top-1 for at most 25 % of the tokens.", ask.little_progress),
    Row("prediction-appears", "Prediction neurons appear from about half depth.", "Figure 6; Table 1, stage 3",
        "At least 70 % of them lie in the second half of the layers.", ask.prediction_appears),
    Row("prediction-peaks", "The density of prediction neurons peaks near 85 % of the depth.", "Figure 6",
        "The layer with most lies at 0.75 to 0.95 of the depth (0 the first layer, 1 the last).", ask.prediction_peaks),
    Row("suppression-overtakes", "Suppression neurons overtake prediction neurons in the last tenth.",
        "Figure 6; Table 1, stage 4", "Among neurons of both kinds, suppression has at least half in the last tenth of the layers, "
        "and at most half from half depth to there.", ask.suppression_overtakes),
    Row("mlp-peaks-late", "The norm of the MLP's contribution peaks in the final layers.", "Figure 7; Table 1, stage 4",
        "Its greatest layer mean lies in the last quarter of the depth.", ask.mlp_peaks_late),
    Row("entropy-falls", "The entropy of the lens falls as predictions form.", "Figure 8",
        "From half depth to the end it falls by at least 1 bit (corrected lens).", ask.entropy_falls),
    Row("entropy-turns", "The course of the entropy changes in the final layers.", "Figure 8; Table 1, stage 4",
        "Its change over the last tenth of the layers differs from its mean change per tenth since half depth by at least 0.25 "
        "bits, either way (corrected lens).", ask.entropy_turns),
    Row("heads-join", "Some heads of the early layers join the pieces of a word.", "Figure 9; Table 1, stage 1",
        "Of the 5 best heads by the searched words, the best in the first third of the depth has a held-out score of at least 0.1 "
        "above the same-offset control.", ask.heads_join),
    Row("neurons-tell", "A single prediction or suppression neuron tells whether the next token ends in -ing.",
        "Figure 10; Table 1, stage 3", "On held-out contexts the one that is best in training is right at least as often as the upper end of "
        "the interval of the best random one.", ask.neurons_tell),
    Row("ensembles-tell", "Such neurons together tell it better than the best of them alone.", "Figure 10",
        "On held-out contexts the ensemble that is best in training is right at least as often as the single neuron that is.",
        ask.ensembles_tell),
)  # fmt: skip
