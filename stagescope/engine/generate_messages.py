"""What is asked of a model that goes on writing, and what is answered. Definitions: docs/science.md."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from stagescope.engine.told import Told

if TYPE_CHECKING:
    from stagescope.engine.messages import ModelInfo
    from stagescope.engine.tokens import Token


@dataclass(frozen=True)
class Generate:
    """A prompt continued by the baseline and under each schedule. Answers: Progress, and Generations, each with more
    tokens and replacing the one before.

    A position that a schedule names is one of the prompt: -1 is its last token, whatever comes after.
    """

    prompt: str
    schedules: tuple[str, ...] = ()
    tokens: int = 40  # at most; a text ends earlier where the model ends it
    temperature: float = 0.0  # 0: greedy; else what logits are divided by
    top_k: int | None = None  # sample among this many tokens
    top_p: float | None = None  # sample among the fewest tokens whose p add up to this
    seed: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Generation(Told):
    """Continuations of one prompt, one text a schedule, the baseline's first: S texts of up to N tokens.

    The numbers at a step are of the distributions that its token was taken from, before temperature, top-k and top-p.
    Given a text's own words so far: p_s of its schedule, p of the baseline. "forced" is the schedule read over the BASELINE's
    text, where all schedules see the same words. float32, NaN (ids -1) for what is not written.
    """

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]  # of the prompt, T
    schedules: tuple[str, ...]  # S, canonical; the first is "", the baseline
    asked: Generate
    ids: np.ndarray  # [S, N] int32
    p: np.ndarray  # [S, N] of the token, p_s
    base_p: np.ndarray  # [S, N] of the token, under the baseline given the same words
    entropy_bits: np.ndarray  # [S, N] H(p_s)
    base_entropy_bits: np.ndarray  # [S, N] H(p)
    kl_nats: np.ndarray  # [S, N] D_KL(p || p_s)
    forced_p: np.ndarray  # [S, N] of the baseline's token, under the schedule
    forced_kl_nats: np.ndarray  # [S, N] D_KL(p || p_s) over the baseline's text
    ended: np.ndarray  # [S] bool: the model ended the text by itself
    pieces: tuple[tuple[str, ...], ...]  # S of up to N: what each token adds to the text, as it is, not made harmless
    reads_back: np.ndarray  # [S, N] bool: prompt and text up to and with the token are read as these tokens again
    notes: dict[int, str] = field(default_factory=dict)  # text -> why it stops short of its end: its logits are no numbers
    texts: dict[int, str] = field(default_factory=dict)  # harmless text of every token id above
    complete: bool = False
    milliseconds: float = float("nan")
    cached: bool = False

    def as_far(self) -> Generation:
        """Texts that were stopped, as the whole answer to a request for no more tokens than they have. One token must be there.

        Of two texts, which are written together; of many a later wave may not have begun (generation.take).
        """
        if self.complete:
            return self
        n = max(map(self.length, range(len(self.schedules))))
        arrays = {name: value[:, :n] for name, value in vars(self).items() if isinstance(value, np.ndarray) and value.ndim == 2}
        return replace(self, asked=replace(self.asked, tokens=n), complete=True, **arrays)

    def length(self, text: int) -> int:
        """Tokens written so far."""
        return int((self.ids[text] >= 0).sum())

    def parts_at(self, text: int) -> int | None:
        """The first step at which a text and the baseline's have other tokens, or one has none; None: nowhere so far."""
        apart = np.flatnonzero(self.ids[0] != self.ids[text])
        if not len(apart) or any(self.ids[side, apart[0]] < 0 and not self.ended[side] for side in (0, text)):
            return None  # alike, or one is not written as far
        return int(apart[0])

    def text(self, text: int, n_tokens: int | None = None) -> str:
        """What was written, or its first tokens, as it is."""
        return "".join(self.pieces[text][:n_tokens])
