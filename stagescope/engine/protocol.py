"""What is asked of an engine, what it answers, and what an engine is.

Plain frozen dataclasses of numpy arrays and plain values: no tensor leaves the engine. The screen draws a
Reading, the command line prints one, an export stores one. Three engines speak this protocol: in this process
(engine/local.py), a child process (engine/client.py) and a seeded fake (engine/fake.py). Everything they say is found
here; what is said of the stages stands in stage_messages.py, of heads, probes and causes in
cause_messages.py, of two readings side by side in compare_messages.py, of continuations in generate_messages.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stagescope.engine.cause_messages import (
    PIECES,
    Attribution,
    FindHeads,
    HeadPattern,
    HeadScores,
    Probe,
    ProbeScore,
    ShowPattern,
    Similarity,
    TakeAttribution,
    TakeProbe,
    TakeSimilarity,
)
from stagescope.engine.compare_messages import Comparison, TakeComparison
from stagescope.engine.generate_messages import Generate, Generation
from stagescope.engine.messages import (
    EXIT_CODES,
    LENSES,
    MOST_PROMPTS,
    EngineError,
    Failure,
    ModelInfo,
    Progress,
    Texts,
    mean_positions,
)
from stagescope.engine.stage_messages import (
    OF_DEPTHS,
    OF_LAYERS,
    OFFSETS,
    Evidence,
    LensCurves,
    MapStages,
    NeuronRow,
    Neurons,
    ShowNeurons,
    Signal,
    Stage,
    StageMap,
    TakeEvidence,
    TakeLens,
)
from stagescope.engine.tokens import Token
from stagescope.engine.told import Told

__all__ = [
    "DEFAULT_MODEL", "DEFAULT_PROMPT", "EXIT_CODES", "HIGH_KURTOSIS", "LENSES", "MEASURES", "MOST_PROMPTS", "OFFSETS",
    "OF_DEPTHS", "OF_LAYERS", "PARTITION_VARIANCE", "PARTS", "PIECES", "Attribution", "Census", "Comparison",
    "CorpusSweep", "Engine", "EngineError", "Evidence", "Failure", "FindHeads", "FindToken", "Generate",
    "Generation", "HeadPattern", "HeadScores", "LensCurves", "Load", "MapStages", "ModelInfo", "NeuronRow", "Neurons", "Probe", "ProbeScore",
    "Progress", "Read", "Reading", "Reply", "Request", "ShowNeurons", "ShowPattern", "Signal", "Similarity", "Stage",
    "StageMap", "Sweep", "SweepCorpus", "SweepRow", "TakeAttribution", "TakeCensus", "TakeComparison", "TakeEvidence",
    "TakeLens", "TakeProbe", "TakeSimilarity", "TakeSweep", "Texts", "mean_positions",
]  # fmt: skip

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_PROMPT = "The Eiffel Tower is located in the city of"
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
    layer: int | None = None  # of heads and neurons: those of this layer alone


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
    layer: int | None = None  # of heads and neurons: those of this layer alone


Request = (
    Load | Read | TakeCensus | FindToken | TakeSweep | SweepCorpus | TakeEvidence | TakeLens | ShowNeurons | MapStages
    | FindHeads | ShowPattern | TakeAttribution | TakeSimilarity | TakeProbe | TakeComparison
    | Generate
)  # fmt: skip


# ----------------------------------------------------------------------------------------------- replies


@dataclass(frozen=True, eq=False, repr=False)
class Reading(Told):
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


@dataclass(frozen=True, eq=False, repr=False)
class Census(Told):
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
    index: int | None = None  # of heads: the head; of neurons: the neuron; of neuron-sets: how many are off together


# What is measured of one schedule at each position: the [S, T] arrays of a Sweep, in the order they are computed.
MEASURES = ("kl_nats", "top1_same", "entropy_change_bits", "loss_change_nats", "tracked_rank", "tracked_p")


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Told):
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


@dataclass(frozen=True, eq=False, repr=False)
class CorpusSweep(Told):
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


Reply = (
    Progress | Failure | ModelInfo | Reading | Census | Token | Sweep | CorpusSweep | Evidence | LensCurves | Neurons
    | StageMap | HeadScores | HeadPattern | Attribution | Similarity | Probe | Comparison
    | Generation
)  # fmt: skip


class Engine(Protocol):
    ended: Callable[[Failure], None]  # called when it ends by itself, also while nothing is asked

    def ask(self, request: Request) -> AsyncIterator[Reply]:
        """Replies in order; the last is the result or a Failure. For Read the latest request wins: an older one
        ends with Failure("cancelled"). Closing the iterator (aclose) cancels the request."""
        ...

    async def close(self) -> None:
        """End the engine and free its memory."""
        ...
