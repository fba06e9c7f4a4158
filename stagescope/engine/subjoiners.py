"""Sub-joiner heads: those whose query at the last piece of a word looks at its first (arXiv 2406.19384, Figure 9).

score(h) = mean A_h[last piece, first piece] over words of n tokens - mean A_h[q, q - (n - 1)] over words of one token in
the same contexts: without it a head that always looks n - 1 tokens back would score too. Intervals are 95 %, by bootstrap
over words. The best of L x H heads scores by chance alone, so a third of the words is held out and scored apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stagescope.engine import bookmark, cache, corpus, piece_words, question
from stagescope.engine.documents import shown_name
from stagescope.engine.piece_words import Item
from stagescope.engine.pool import interval, ratio
from stagescope.engine.progress import progress, told
from stagescope.engine.protocol import (
    PIECES,
    EngineError,
    FindHeads,
    HeadScores,
    Load,
    ModelInfo,
    Progress,
)
from stagescope.engine.tokens import texts

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.blocks import Network, Start

STAGE = "sub-joiner heads"
EXAMPLES = 12  # words shown as their pieces


# --------------------------------------------------------------------------------------------- what is asked


def check(request: FindHeads) -> None:
    """Raises EngineError for a number of pieces that is not searched."""
    if request.pieces not in PIECES:
        least, most = min(PIECES), max(PIECES)
        raise EngineError("usage", f"words of {request.pieces} tokens are not searched.", f"Give {least} to {most}.")


def recalled(request: FindHeads, info: ModelInfo, load: Load, tokenizer: Any) -> HeadScores | None:
    """The scores found before, if the text is still the same; works before the weights are loaded, if the prefix is
    known for sure."""
    check(request)
    for dtype, device in question.machines(info, load):
        name = _key(request, info, dtype, device)
        if isinstance(found := name and cache.get(name), HeadScores):
            return replace(question.as_asked(found, info), source=shown_name(request.file))
    return None


def _key(request: FindHeads, info: ModelInfo, dtype: str, device: str) -> str | None:
    """Everything the scores depend on; None where they are not kept, as of standard input."""
    stamp = bookmark.stamp(request.file)
    what = [corpus.name_of(request.file), stamp, request.pieces, question.prefix_id(info)]
    return stamp and cache.key("heads", info.fingerprint, what, dtype, device)


# --------------------------------------------------------------------------------------------------- running


def take(
    net: Network, info: ModelInfo, load: Load, request: FindHeads, tokenizer: Any
) -> Iterator[Progress | HeadScores]:
    """Progress while the text is read and after every block call, then the HeadScores, which is kept.

    Layers without attention are NaN. Raises EngineError: what piece_words.find raises, "error" where patterns are no
    numbers.
    """
    check(request)
    name = _key(request, info, info.dtype, info.device.split(":")[0])  # of the file as it was before it was read
    yield Progress(STAGE, 0.0)
    words = f"words of {request.pieces} tokens"
    items = yield from told(piece_words.find(request, info, tokenizer), lambda fraction: Progress(words, fraction))
    began = time.monotonic()
    looks = np.full((2, len(items), net.n_layers, net.n_heads), np.nan)  # joined, control
    for first, layer, found in _looks(net, items):
        looks[:, first : first + found.shape[1], layer] = found
        rows = found.shape[1]
        yield progress(STAGE, began, (first * net.n_layers + rows * (layer + 1)) / (len(items) * net.n_layers))
    answer = _scores(info, request, items, *looks, tokenizer)
    if name and load.cache:
        cache.put(name, answer)
    yield answer


def _looks(net: Network, items: list[Item]) -> Iterator[tuple[int, int, np.ndarray]]:
    """(first item, layer, [2, B, H]) after every block call: the weight of the key n - 1 tokens before the query, which
    is the last piece, or the one token of the control. NaN where a layer has no pattern."""
    import torch

    from stagescope.engine import blocks, runner

    n, at = len(items[0].pieces), len(items[0].context)
    together = max(1, runner.rows_at_once(net, at + n) // 2)
    for first in range(0, len(items), together):
        some = items[first : first + together]
        rows = [(*item.context, *item.pieces) for item in some]
        # Padded to one length: under a causal mask what follows changes nothing.
        rows += [(*item.context, *[item.control] * n) for item in some]
        begun = blocks.start(net, torch.tensor(rows))
        queries = torch.tensor([at + n - 1] * len(some) + [at] * len(some))
        x = begun.x
        for layer in range(net.n_layers):
            x, seen = _block(net, begun, layer, x, queries, n - 1)
            if seen is None:
                yield first, layer, np.full((2, len(some), net.n_heads), np.nan)
                continue
            if not seen.isfinite().all():  # fp16 that overflowed: no layer without a pattern
                why = f"attention patterns of layer {layer} are not numbers."
                raise EngineError("error", why, "Use --dtype float32.")
            yield first, layer, seen.cpu().double().numpy().reshape(2, len(some), -1)


def _block(
    net: Network, begun: Start, layer: int, x: Tensor, queries: Tensor, back: int
) -> tuple[Tensor, Tensor | None]:
    """Run a block on x [B, T, D]; of its pattern [B, H, T, T] one weight a row and head, [B, H]: of the key `back`
    tokens before the row's query; None without a pattern."""
    from stagescope.engine import blocks

    seen, rows = [], range(len(queries))

    def keep(pattern: Tensor) -> None:
        seen.append(pattern[rows, :, queries, queries - back].float())

    with blocks.watching(net.pattern(layer), keep):
        passed = blocks.block(net, begun, layer, x)
    return passed.x, seen[0] if seen else None


def _scores(
    info: ModelInfo, request: FindHeads, items: list[Item], joined: np.ndarray, control: np.ndarray, tokenizer: Any
) -> HeadScores:
    """joined, control: [W, L, H]"""
    held = np.array([item.held for item in items])
    apart = joined - control
    shown = items[:EXAMPLES]
    spelled = texts(tokenizer, {token for item in shown for token in item.pieces})
    return HeadScores(
        model=info,
        source=shown_name(request.file),
        pieces=request.pieces,
        words=int((~held).sum()),
        held_words=int(held.sum()),
        score=_mean(apart[~held]),
        held=_mean(apart[held]),
        joined=_mean(joined)[..., 0],
        control=_mean(control)[..., 0],
        examples=tuple(tuple(spelled[token] for token in item.pieces) for item in shown),
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """[W, ...] -> [..., 3] mean, low and high end of its interval; NaN where a layer has no pattern."""
    there = np.isfinite(values)
    sums, counts = np.where(there, values, 0.0), there.astype(np.float64)
    return np.stack([ratio(sums.sum(0), counts.sum(0)), *interval(sums, counts)], -1)
