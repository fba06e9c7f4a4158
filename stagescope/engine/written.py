"""The texts of a Generation as they grow: their tokens, what is measured of each, and how they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stagescope.engine.metrics import entropy_bits, kl_nats
from stagescope.engine.protocol import Generation, Load, ModelInfo
from stagescope.engine.tokens import PromptError, Token, encode, texts

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.generation import Asked

MEASURED = ("p", "base_p", "entropy_bits", "base_entropy_bits", "kl_nats", "forced_p", "forced_kl_nats")


class Written:
    """S texts of up to N tokens, written a token at a time. Of the model as it was when they were begun."""

    def __init__(self, asked: Asked, info: ModelInfo, load: Load, tokenizer: Any):
        self.asked, self.info, self.chat, self.tokenizer = asked, info, load.chat, tokenizer
        shape = (len(asked.plans), asked.request.tokens)
        self.ids = np.full(shape, -1, np.int32)
        self.measured = {name: np.full(shape, np.nan, np.float32) for name in MEASURED}
        self.ended, self.reads_back = np.zeros(shape[0], bool), np.zeros(shape, bool)
        self.notes: dict[int, str] = {}
        self.pieces: list[list[str]] = [[] for _ in asked.plans]
        self.texts: dict[int, str] = {}
        spelled = texts(tokenizer, asked.ids)
        self.tokens = tuple(Token(token, spelled[token]) for token in asked.ids)
        self.start = self._decoded(asked.ids)

    def put(self, text: int, step: int, token: int, logp: Tensor, base: Tensor) -> None:
        """A token of a text. logp, base [V]: of the schedule that writes it, of the baseline given the same words."""
        self.ids[text, step] = token
        of = {"p": logp[token].exp(), "base_p": base[token].exp(), "entropy_bits": entropy_bits(logp)}
        of |= {"base_entropy_bits": entropy_bits(base), "kl_nats": 0.0 if logp is base else kl_nats(base, logp)}
        if text == 0:
            of |= {"forced_p": of["p"], "forced_kl_nats": 0.0}
        self._keep(text, step, of)
        self._spell(text, step)

    def force(self, text: int, step: int, token: int, logp: Tensor, base: Tensor) -> None:
        """The baseline's token, under another schedule."""
        self._keep(text, step, {"forced_p": logp[token].exp(), "forced_kl_nats": kl_nats(base, logp)})

    def so_far(self, milliseconds: float, complete: bool = False) -> Generation:
        return Generation(
            model=self.info,
            prompt=self.asked.request.prompt,
            tokens=self.tokens,
            schedules=self.asked.schedules,
            asked=self.asked.request,
            ids=self.ids.copy(),
            **{name: values.copy() for name, values in self.measured.items()},
            ended=self.ended.copy(),
            pieces=tuple(map(tuple, self.pieces)),
            reads_back=self.reads_back.copy(),
            notes=dict(self.notes),
            texts=dict(self.texts),
            complete=complete,
            milliseconds=milliseconds,
        )

    def _keep(self, text: int, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.measured[name][text, step] = float(value)

    def _spell(self, text: int, step: int) -> None:
        """What the token adds to the text: nothing while it is half a character."""
        ids = self.ids[text, : step + 1].tolist()
        self.texts |= texts(self.tokenizer, ids[-1:])
        whole, before = self._decoded([*self.asked.ids, *ids]), self.start + "".join(self.pieces[text])
        is_whole = whole.startswith(before) and not whole.endswith("\ufffd")
        self.pieces[text].append(whole[len(before) :] if is_whole else "")
        self.reads_back[text, step] = is_whole and self._reads_back("".join(self.pieces[text]), ids)

    def _reads_back(self, written: str, ids: list[int]) -> bool:
        if self.chat:  # the prompt stands in the template, and the text after it
            return False
        try:
            again = encode(self.tokenizer, self.asked.request.prompt + written, self.info.prefix.id if self.info.prefix else None)
        except PromptError:
            return False
        return again == [*self.asked.ids, *ids]

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
