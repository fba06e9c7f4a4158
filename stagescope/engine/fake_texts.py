"""Continuations of the fake engine: the shapes of real ones, no meaning. A schedule parts a few steps on, seeded by its text."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from stagescope.engine.protocol import Generate, Generation, ModelInfo
from stagescope.engine.schedule import parse, resolve
from stagescope.engine.tokens import Token
from stagescope.text import printable

ENDS_AT = 60  # steps after which a text ends by itself


def generations(info: ModelInfo, request: Generate, tokens: tuple[Token, ...], words: Sequence[tuple[int, str]]) -> Iterator[Generation]:
    """A Generation after each step; the last is complete. words: ids and texts that are written. Raises ScheduleError."""
    schedules = ("", *(str(parse(text)) for text in request.schedules))
    for text in schedules:
        resolve(parse(text), info.n_layers, n_positions=len(tokens), n_heads=info.n_heads, d_mlp=info.d_mlp)
    n = request.tokens
    shape = (len(schedules), n)
    ids, kl = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    pieces: list[list[str]] = []
    for row, schedule in enumerate(schedules):
        plain = np.random.default_rng([zlib.crc32(request.prompt.encode("utf-8", "replace")), request.seed])
        at = plain.integers(len(words), size=n)
        if schedule:
            own = np.random.default_rng(zlib.crc32(schedule.encode()))
            first = int(own.integers(6))
            at[first:] = own.integers(len(words), size=n)[first:]
            kl[row] = own.lognormal(0, 0.6, n) * np.linspace(0.3, 1, n)
        ids[row] = [words[index][0] for index in at]
        ids[row, ENDS_AT:] = -1
        pieces.append([words[index][1] for index in at[:ENDS_AT]])
    spread = np.random.default_rng(request.seed).random(shape)
    whole = {
        "p": 0.3 + 0.6 * spread, "base_p": (0.3 + 0.6 * spread) * np.exp(-kl), "entropy_bits": 5 * (1 - spread),
        "base_entropy_bits": 4 * (1 - spread), "kl_nats": kl, "forced_p": 0.5 * np.exp(-kl), "forced_kl_nats": 0.8 * kl,
    }  # fmt: skip
    for done in range(1, min(n, ENDS_AT) + 1):
        later = np.arange(n) >= done
        yield Generation(
            model=info, prompt=request.prompt, tokens=tokens, schedules=schedules, asked=request,
            ids=np.where(later, -1, ids).astype(np.int32),
            **{name: np.where(later | (ids < 0), np.nan, values).astype(np.float32) for name, values in whole.items()},
            ended=np.full(len(schedules), done == ENDS_AT and n >= ENDS_AT),
            pieces=tuple(tuple(row[:done]) for row in pieces),
            reads_back=(~later & (ids >= 0)),
            texts={number: printable(text) for number, text in words},
            complete=done == min(n, ENDS_AT), milliseconds=30.0 * done,
        )  # fmt: skip
