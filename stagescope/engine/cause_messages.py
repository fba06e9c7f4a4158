"""What is asked about heads, probes and causes, and what is answered. Definitions: docs/science.md."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stagescope.engine.messages import ModelInfo, Texts
from stagescope.engine.tokens import Token
from stagescope.engine.told import Told

PIECES = (2, 3, 4)  # tokens a word may have, of which sub-joiner heads are searched (paper, Figure 9: 3)


# ---------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class FindHeads:
    """Search for sub-joiner heads. Answers: Progress, then one HeadScores."""

    file: str = ""  # the text the words come from: "" is the standard text, "-" standard input
    pieces: int = 3  # tokens of a word, one of PIECES


@dataclass(frozen=True)
class ShowPattern:
    """The attention pattern of one head on a prompt. Answers: Progress, then one HeadPattern."""

    prompt: str
    layer: int
    head: int
    schedule: str = ""


@dataclass(frozen=True)
class TakeAttribution:
    """What each sublayer adds to the logit of a token, directly. Answers: Progress, then one Attribution."""

    prompt: str
    schedule: str = ""
    tracked: int | None = None  # token id; None: the baseline's top-1 at each position


@dataclass(frozen=True)
class TakeSimilarity:
    """How alike the layers are. Answers: Progress, then one Similarity."""

    texts: Texts = Texts()


@dataclass(frozen=True)
class TakeProbe:
    """Can single neurons tell that the next token ends in a suffix? Answers: Progress, then one Probe."""

    file: str = ""  # the text: "" is the standard text, the whole of it; "-" standard input
    suffix: str = "ing"
    tokens: tuple[int, ...] = ()  # if any: these tokens in place of a suffix
    most: int = 2000  # contexts, half of them positive


# ----------------------------------------------------------------------------------------------- replies


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Told):
    """Sub-joiner scores of every head (paper, Figure 9). L layers, H heads.

    A word of `pieces` tokens stands after a context; its last piece looks at its first with `joined`. In the same context
    a word of one token looks just as far back with `control`. score = joined - control, a mean over words.
    """

    model: ModelInfo
    source: str  # which text
    pieces: int
    words: int  # searched, each in one context
    held_words: int  # kept out of the search, no word in both
    score: np.ndarray  # [L, H, 3] mean, low and high end of its 95 % interval (bootstrap over words)
    held: np.ndarray  # [L, H, 3] the same of the held-out words
    joined: np.ndarray  # [L, H] over all words
    control: np.ndarray  # [L, H]
    examples: tuple[tuple[str, ...], ...]  # words as their pieces, harmless to print
    cached: bool = False

    def ranked(self) -> list[tuple[int, int]]:
        """(layer, head) by the searched score, highest first."""
        order = np.argsort(-self.score[..., 0], axis=None, kind="stable")
        return [(int(at) // self.score.shape[1], int(at) % self.score.shape[1]) for at in order]


@dataclass(frozen=True, eq=False, repr=False)
class HeadPattern(Told):
    """Where one head looks on one prompt. T tokens."""

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]
    schedule: str
    layer: int
    head: int
    pattern: np.ndarray  # [T, T] float32: query, key; rows sum to 1
    cached: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Told):
    """Direct logit attribution of one run over one prompt. N depths (0 is the embedding), T tokens.

    The logit of a token, less the mean logit over the vocabulary and before any soft cap, is a sum: `constant` (biases),
    `embedding`, what each attention and MLP writes (`attn`, `mlp`), each passed through the final norm with the scale it has in the
    BASELINE at that position, and `scale`: what the own scale of an edited run adds; 0 in the baseline. All in logits.
    """

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]
    schedule: str
    layers: tuple[tuple[int, ...], ...]  # N, as in a Reading
    tracked: np.ndarray  # [T] int32: the token whose logit it is
    logit: np.ndarray  # [T]
    constant: np.ndarray  # [T]
    embedding: np.ndarray  # [T]
    attn: np.ndarray  # [N, T] NaN at depth 0; 0 where it is switched off
    mlp: np.ndarray  # [N, T]
    scale: np.ndarray  # [T]
    edited: np.ndarray  # [L, 2, T] bool: where attention, MLP of the original layer are changed by the schedule itself
    texts: dict[int, str] = field(default_factory=dict)
    baseline: Attribution | None = None  # None when this is it
    cached: bool = False

    def by_layer(self) -> np.ndarray:
        """[L, 2, T] attention and MLP of each original layer, all its copies together; 0 for one that does not run. What a
        group of layers writes is shared out evenly."""
        found = np.zeros((self.model.n_layers, 2, len(self.tokens)))
        for depth, layers in enumerate(self.layers):
            for layer in layers:
                found[layer] += np.stack([self.attn[depth], self.mlp[depth]]) / len(layers)
        return found

    def changes(self) -> np.ndarray:
        """[L, 2, T] of by_layer against the baseline; zeros in the baseline."""
        return self.by_layer() - self.baseline.by_layer() if self.baseline else np.zeros_like(self.by_layer())

    def self_repair(self) -> np.ndarray:
        """[T] the change of the logit that the edited sublayers' own direct effects leave unexplained: what the others (and
        the scale) made good, positive where they work against a loss."""
        if self.baseline is None:
            return np.zeros(len(self.tokens))
        return self.logit - self.baseline.logit - (self.changes() * self.edited).sum((0, 1))


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(Told):
    """How alike the layers of a model are over some texts. L layers, N = L + 1 depths."""

    model: ModelInfo
    source: str
    documents: int
    tokens_scored: int  # all but position 0 of each document
    influence: np.ndarray  # [L, 3] block influence 1 - E cos(x_l, x_{l+1}): mean, low and high end of its 95 % interval
    angular: np.ndarray  # [N, N] mean of arccos cos(x_a, x_b) / pi at the last token of a document
    cka: np.ndarray  # [N, N] unbiased linear CKA of the residual streams, each at unit length, over `cka_tokens` tokens
    cka_tokens: int
    skipped: tuple[str, ...] = ()  # documents left out, with place and reason: the first twenty
    n_skipped: int = 0
    n_cut: int = 0
    cached: bool = False


@dataclass(frozen=True)
class ProbeScore:
    """How well something tells positives from negatives on held-out contexts, of which half are positive."""

    kind: str  # prediction | suppression | unsigned | partition | random; of ensembles also all; model
    layer: int | None  # of one neuron; None for several
    index: int | None
    size: int  # neurons: 1, or the k of an ensemble; 0 of the model
    contrast: float  # |mean over positive tokens - mean over the rest| of W_U'.w_out; NaN for several
    train: float  # accuracy on the training split, by which ensembles are ranked
    accuracy: float  # on held-out contexts
    low: float  # 95 % interval, bootstrap over lemmas
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class Probe(Told):
    """Does the next token end in a suffix? Linear probes on single neurons, on the k best together, and the model's own
    answer (paper, Figure 10)."""

    model: ModelInfo
    source: str
    asked: str  # "ends in “ing”", "is one of 12 tokens"
    context: int  # tokens before the one asked about
    train: tuple[int, int, int]  # contexts, lemmas, documents
    held: tuple[int, int, int]
    neurons: tuple[ProbeScore, ...]  # singly, best on the training split first within each kind
    ensembles: tuple[ProbeScore, ...]  # by kind, then size, 1 among them
    mass: ProbeScore  # the model's own total probability on positive tokens, against a threshold chosen in training
    argmax: ProbeScore  # whether the model's top token is a positive one
    examples: tuple[tuple[str, str, str], ...]  # (end of a context, next token, "positive" or "negative"), harmless
    cached: bool = False
