"""What an engine in this process has at hand: a model, the prompt looked at, what was measured of them.

local.py loads into it and answers out of it; the *_answers.py beside say how, one a family of requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stagescope.engine.progress import timed
from stagescope.engine.protocol import Census, EngineError, Load, ModelInfo, Progress, Reading, Reply, Request
from stagescope.engine.question import Question
from stagescope.engine.tokens import Token, texts

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.outcomes import Kept
    from stagescope.engine.reading import Prompt

PATIENCE = 1.0  # seconds of a reading after which its progress is told
Shared = TypeVar("Shared")
KEPT_BYTES = 512 * 2**20  # residual streams kept for the prompt at hand, so that a toggle starts at its first change


class Cancelled(Exception):
    """Raised by a checkpoint: the answer is not wanted any more."""


def read_only(reply: Shared) -> Shared:
    """Answers that are kept share their arrays with later ones: who has one cannot write into them."""
    for value in vars(reply).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return reply


@dataclass
class AtHand:
    """`checkpoint` and `tell` are set by who may interrupt and listens."""

    checkpoint: Callable[[], None] = lambda: None
    tell: Callable[[Progress], None] = lambda progress: None  # of one long step, from within it
    request: Load | None = None
    info: ModelInfo | None = None  # loaded is False until the weights are there
    ends: frozenset[int] = frozenset()  # tokens that end a text
    certain: bool = False  # whether the tokens of a prompt are known for sure: always once the weights are there
    tokenizer: Any = None
    net: Network | None = None
    prompt: Prompt | None = None  # the prompt at hand, with what has run on it
    averages: Averages | None = None
    census: Census | None = None  # as soon as any request has taken it
    readings: int = 0  # made so far: the clock of runner.let_go
    baselines: dict[tuple, Reading] = field(default_factory=dict)  # whole, of the prompt at hand
    vocabulary: dict = field(default_factory=dict)  # of engine/strongest.py, prepared: from one layer's neurons to the next
    swept: Kept = field(default_factory=dict)  # baselines of the prompts swept last: a deck, edited again and again

    # What an answer is made of is asked for as anybody would; see LocalEngine.

    def answer(self, request: Request) -> Iterator[Reply]:
        raise NotImplementedError

    def known(self, request: Request) -> tuple[Reply, ...]:
        raise NotImplementedError

    def need_weights(self) -> None:
        if self.net is None:
            raise EngineError("error", "the weights are not loaded yet.", "Ask again when they are.")

    def step_of(self, stage: str) -> Callable[[float], None]:
        """What a reading calls with the fraction done: it may stop there, and a long one says how far it is."""
        began = time.monotonic()

        def report(*what: Any) -> None:
            if time.monotonic() - began > PATIENCE:
                self.tell(Progress(*what))

        at = timed(report, stage)

        def step(fraction: float) -> None:
            self.checkpoint()
            at(fraction)

        return step

    # --------------------------------------------------------------------------------- the prompt at hand

    def prompt_at_hand(self, asked: Question) -> Prompt:
        if self.prompt and tuple(token.id for token in self.prompt.tokens) == asked.ids:
            self.prompt.text = asked.request.prompt
            return self.prompt
        self.forget_prompt()
        self.prompt = self.begin(asked)
        return self.prompt

    def begin(self, asked: Question) -> Prompt:
        """A prompt on which nothing has run."""
        import torch

        from stagescope.engine import blocks
        from stagescope.engine.reading import Prompt
        from stagescope.engine.runner import Node

        self.checkpoint()
        begun = blocks.start(self.net, torch.tensor([asked.ids]))
        spelled = texts(self.tokenizer, asked.ids)
        tokens = tuple(Token(token, spelled[token]) for token in asked.ids)
        return Prompt(asked.request.prompt, tokens, begun, Node(x=begun.x[0]))

    def let_go(self, asked: Question) -> None:
        """Keep the residuals of the prompt at hand within their budget, the baseline's and the latest always."""
        from stagescope.engine.runner import let_go, path

        self.readings += 1
        keep = path(self.prompt.root, asked.baseline().plan) + path(self.prompt.root, asked.plan)
        for node in keep:
            node.used = self.readings
        let_go(self.prompt.root, keep, KEPT_BYTES)

    def free(self) -> None:
        self.forget_prompt()
        self.swept.clear()
        self.vocabulary.clear()

    def forget_prompt(self) -> None:
        self.prompt = None
        self.baselines.clear()

    # -------------------------------------------------------------------------------------------- the model

    def measure_averages(self) -> Iterator[Progress]:
        """What a text says of every sublayer and neuron: measured once per model."""
        if self.averages is not None:
            return
        from stagescope.engine import averages

        for reply in averages.measure(self.net, self.info.prefix.id if self.info.prefix else None):
            self.checkpoint()
            if isinstance(reply, Progress):
                yield reply
            else:
                self.averages = reply
