"""What is asked about the stages, and what is answered: evidence of every layer, lens curves, neurons, the map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stagescope.engine.messages import LENSES, ModelInfo, Texts
from stagescope.engine.tokens import Token
from stagescope.engine.told import Told

OFFSETS = (1, 2, 4, 5, 8, 16)  # k of the attention to the k tokens before (paper, Figure 4)


# ---------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class TakeEvidence:
    """What every layer shows in plain runs: attention to near tokens, norms, lens. Answers: Progress, and Evidences as
    they fill in, each replacing the one before; the last is complete."""

    texts: Texts = Texts()
    lenses: tuple[str, ...] = LENSES  # () leaves the lens out, which is most of the work


@dataclass(frozen=True)
class TakeLens:
    """The lens by depth at one position, under both lenses. Answers: Progress, then one LensCurves."""

    prompt: str
    schedule: str = ""
    position: int = -1
    tokens: tuple[int, ...] = ()  # ids of the tokens to be followed


@dataclass(frozen=True)
class ShowNeurons:
    """The strongest neurons of each class, and what they write. Answers: Progress (of the census, where it is not known
    yet), then one Neurons."""

    layer: int | None = None  # None: of the whole model
    most: int = 10  # of each class
    prompt: str = ""  # whose activations are shown; "" shows none
    top: int = 8  # tokens promoted and tokens suppressed


@dataclass(frozen=True)
class MapStages:
    """The four stages of a model over some texts. Answers: Progress; the CorpusSweep of drops and swaps, the Evidence
    and the Census that it rests on, as they are done; last the StageMap."""

    texts: Texts = Texts()
    if_known: bool = False  # only what was kept: Failure("missing") where it was not, at once


# ----------------------------------------------------------------------------------------------- replies

# What is measured of plain runs: at each depth, then in each layer, in the order of Evidence.summary.
OF_DEPTHS = ("entropy_bits", "kl_final_nats", "top1_final", "entropy_bits_v1", "kl_final_nats_v1", "top1_final_v1")
OF_LAYERS = (
    *("attn_norm", "mlp_norm", "resid_norm", "attn_rel", "mlp_rel", "attn_mlp_ratio", "sink_mass"),
    *(f"prev{k}_mean_weight" for k in OFFSETS),
    *(f"prev{k}_no_sink" for k in OFFSETS),
)


@dataclass(frozen=True, eq=False, repr=False)
class Evidence(Told):
    """What every layer shows in plain runs over some texts, pooled over tokens. Definitions: docs/science.md.

    L layers, N = L + 1 depths, H heads, K = len(OFFSETS), M = len(OF_DEPTHS + OF_LAYERS), D documents (a prompt is one).
    entropy_bits, kl_final_nats, top1_final (1 where the lens' top token is the output's), and of the v1 lens: over all
    tokens but a prefix. Norms of layer l (attn, mlp; resid is ||x_l||; rel is contribution / ||x_l||; ratio is attn / mlp,
    per token) and attention: over all positions but 0. NaN where not measured, or not measured yet.
    """

    model: ModelInfo
    source: str  # which text
    documents: int
    tokens_scored: int
    lenses: tuple[str, ...]
    summary: np.ndarray  # [M, N, 4] mean, median, low and high end of the mean's 95 % interval; row L is NaN OF_LAYERS
    sums: np.ndarray  # [D, M, N] float64: of each document, for drawing documents anew
    counts: np.ndarray  # [D, M, N] what each sum is divided by: float32 up to 2^24, else float64
    head_prev: np.ndarray  # [L, H, K] mean of A[h, q, q-j] over all queries q and j = 1..k that exist
    head_no_sink: np.ndarray  # [L, H, K] the same over queries q > k, so that key 0 is never among them
    head_sink: np.ndarray  # [L, H] mean weight on key 0
    uniform: np.ndarray  # [K] what head_prev would be if every query looked evenly at all it can see
    uniform_no_sink: np.ndarray  # [K]
    uniform_sink: float
    skipped: tuple[str, ...] = ()  # documents left out, with place and reason: the first twenty
    n_skipped: int = 0
    n_cut: int = 0  # documents longer than the window
    complete: bool = True
    cached: bool = False

    def of(self, name: str) -> np.ndarray:
        """[N, 4] of a measure OF_DEPTHS, [L, 4] of one OF_LAYERS."""
        columns = self.summary[(*OF_DEPTHS, *OF_LAYERS).index(name)]
        return columns if name in OF_DEPTHS else columns[:-1]


@dataclass(frozen=True, eq=False, repr=False)
class LensCurves(Told):
    """What the lens says at one position, depth by depth, under both lenses (in the order of LENSES).

    N depths, 2 lenses, F followed tokens. The v1 lens is the paper's first version, for comparison only.
    """

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]
    schedule: str
    position: int  # as an index
    layers: tuple[tuple[int, ...], ...]  # N, as in a Reading
    entropy_bits: np.ndarray  # [2, N]
    kl_final_nats: np.ndarray  # [2, N] D_KL(this run's own final || lens)
    top_ids: np.ndarray  # [2, N] int32: the top token
    followed: tuple[Token, ...]  # F
    rank: np.ndarray  # [2, N, F] 1 is the top
    p: np.ndarray  # [2, N, F]
    logit: np.ndarray  # [2, N, F] only differences mean anything
    texts: dict[int, str] = field(default_factory=dict)
    cached: bool = False


@dataclass(frozen=True)
class NeuronRow:
    """One neuron. All is told as it fires: for a gated one whose mean activation is negative, of -w_out."""

    layer: int
    index: int
    kind: str  # prediction | suppression | unsigned | partition
    kurtosis: float
    skew: float
    variance: float
    consistency: float  # |E a| / E|a|; NaN when ungated or without a text
    promoted: tuple[int, ...]  # token ids of the highest cosines, highest first
    promoted_cos: tuple[float, ...]
    suppressed: tuple[int, ...]  # of the lowest, lowest first
    suppressed_cos: tuple[float, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Neurons(Told):
    """The strongest neurons of each class, by kurtosis (partition candidates by variance)."""

    model: ModelInfo
    layer: int | None
    prompt: str
    tokens: tuple[Token, ...]  # T of the prompt; () without one
    rows: tuple[NeuronRow, ...]
    activation: np.ndarray  # [len(rows), T] as computed: the sign of a gated one is not turned
    texts: dict[int, str] = field(default_factory=dict)
    cached: bool = False


@dataclass(frozen=True)
class Signal:
    """What one measured curve says of a boundary between two stages."""

    name: str  # "drop_kl", "near_attention", ...
    title: str  # for people, with its unit
    first: int | None  # the first layer after the boundary, if this curve alone were asked; None: it shows none
    before: float  # mean over the layers looked at before the boundary of the map, in the unit of the title
    after: float  # ... and after it
    explained: float  # share of the curve's variance over those layers that a step at the map's boundary explains
    needed: float  # what 95 % of noise stays below
    agrees: bool  # the step goes the way of the paper's Table 1, and explains more than noise


@dataclass(frozen=True)
class Stage:
    name: str
    first_layer: int | None  # None: not visible
    low: int | None  # 95 % interval of first_layer over resampled documents; None for fewer than two
    high: int | None
    last_layer: int | None
    visible: bool
    why: str  # one sentence: what it rests on, or why it is not visible
    evidence: tuple[Signal, ...]  # of the boundary it begins at; of stage 1, of the one it ends at


@dataclass(frozen=True, eq=False, repr=False)
class StageMap(Told):
    """Boundaries of the four stages (paper, Table 1) by this tool's own rule: the paper gives none."""

    model: ModelInfo
    source: str
    documents: int
    tokens_scored: int
    rule: str  # in one sentence, for the screen; docs/stages.md has it in full
    stages: tuple[Stage, ...]  # four
    signals: tuple[str, ...]  # names of the curves
    curves: np.ndarray  # [S, L] what was used of each layer
    cached: bool = False

    def stage_of(self, layer: int) -> int | None:
        """0 to 3; None where it is not known."""
        for number, stage in enumerate(self.stages):
            if stage.visible and stage.first_layer <= layer <= stage.last_layer:
                return number
        return None
