"""How alike the layers of a model are over some texts: block influence, angular distance, CKA of the residual streams.

Documents are streamed and run one by one; of each are kept a sum a layer, and the tokens that CKA is measured over, a
uniform sample of the text. Position 0, the attention sink, stays out of influence and CKA.

CKA is that of streams at unit length (centred over D first for LayerNorm models), which is what a block's norm leaves
of them but for its gain. As they are, a few tokens of a large norm are all that CKA sees (Nguyen et al. 2022, "On the
Origins of the Block Structure Phenomenon"): in the default model one of 1,000 tokens, a second sink of 183 times the
median norm, took two neighbouring depths from 0.98 to 0.08.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stagescope.engine import cache, evidence, question
from stagescope.engine.documents import Document, Skipped
from stagescope.engine.progress import progress, told
from stagescope.engine.protocol import (
    Load,
    ModelInfo,
    Progress,
    Similarity,
    TakeEvidence,
    TakeSimilarity,
)

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.blocks import Network

STAGE = "similarity of layers"
MOST = 1000  # tokens that CKA is measured over: grams of 4 MB, 31 depths compared in 2 s of one core
FEWEST = 4  # the unbiased estimator divides by n (n - 3)
ROWS = 64  # of the grams, made and compared together: 16 MB and 60 ms at 31 depths
SAME = 1e-6  # of its length: what tokens differ by at most to be one and the same, as embeddings of "a a a a" are
SAMPLE_SEED = 2
OF_RUNS = 0.9  # share of the work, as progress tells it


# ------------------------------------------------------------------------------------------ asked and kept


def recalled(request: TakeSimilarity, info: ModelInfo, load: Load, tokenizer: Any) -> Similarity | None:
    """The answer found before, if the text is still the same; works before the weights are loaded. Raises EngineError
    for what cannot be measured."""
    for dtype, device in question.machines(info, load):
        name = _key(request, info, load, tokenizer, dtype, device)
        found = cache.get(name) if name else None
        if isinstance(found, Similarity):
            return replace(question.as_asked(found, info), source=evidence.source_of(_texts(request)))
    return None


def _key(
    request: TakeSimilarity, info: ModelInfo, load: Load, tokenizer: Any, dtype: str, device: str
) -> str | None:
    """What an Evidence of the texts depends on, and how many tokens fit; None where it is not kept."""
    texts = evidence.key(_texts(request), info, load, tokenizer, dtype, device)
    return texts and cache.key("similarity", texts, load.memory)


def _texts(request: TakeSimilarity) -> TakeEvidence:
    return TakeEvidence(request.texts, lenses=())


# --------------------------------------------------------------------------------------------------- running


class _Found(NamedTuple):
    """What one document of T tokens shows."""

    cosines: np.ndarray  # [L] sum of cos(x_l, x_{l+1}) over its tokens but the first
    angular: np.ndarray  # [N, N]
    sampled: np.ndarray  # [N, k, D] float32: residual streams of the tokens asked for, at unit length


def take(
    net: Network, info: ModelInfo, load: Load, request: TakeSimilarity, tokenizer: Any
) -> Iterator[Progress | Similarity]:
    """Progress after every block call, then the Similarity, which is kept when load.cache.

    Influence: ShortGPT (Men et al. 2024), over tokens but the first, with a bootstrap over documents. Angular: Gromov
    et al. 2024, over the last tokens of documents of two and more. CKA: `cka`. NaN where nothing enters. A document
    that does not fit into memory is left out, and named. Raises EngineError: as evidence.take.
    """
    from stagescope.engine import pool
    from stagescope.engine.memory import out_of_memory

    name = _key(request, info, load, tokenizer, info.dtype, info.device.split(":")[0])  # of the file before it is read
    items, size = evidence.items_of(_texts(request), info, load, tokenizer)
    n_depths = info.n_layers + 1
    most = at_most(net)
    priority = np.full(most, np.inf)  # of the tokens sampled; infinite where there is none yet
    sample = np.empty((n_depths, most, net.d_model), np.float32)
    cosines, counts, angular, angular_of = [], [], np.zeros((n_depths, n_depths)), 0
    skipped, n_skipped, n_cut, fits = [], 0, 0, True
    n_prefix = int(info.prefix is not None)
    began, before, after = time.monotonic(), (0, 0), (0, 0)  # tokens and file that a document begins and ends with

    def at(fraction: float) -> Progress:
        tokens, end = (start + fraction * (stop - start) for start, stop in zip(before, after, strict=True))
        shares = [tokens / request.texts.tokens] if request.texts.tokens and not request.texts.prompts else []
        shares += [end / size] if size else []
        return progress(STAGE, began, OF_RUNS * min(max(shares, default=float("nan")), 1.0))

    yield Progress(STAGE, 0.0)
    for number, item in enumerate(items):
        if isinstance(item, Skipped):
            n_skipped, skipped = n_skipped + 1, [*skipped, f"{item.place}: {item.why}"][: evidence.NAMED]
            continue
        n_cut += item.cut
        after = before[0] + len(item.ids) - n_prefix, item.end
        drawn = np.random.default_rng([SAMPLE_SEED, number]).random(len(item.ids) - 1)
        slots, chosen = _drawn(priority, drawn)
        found = yield from told(_run(net, item, chosen + 1), at)
        before = after
        if found is None:
            why = f"{item.place}: its {len(item.ids)} tokens do not fit into memory"
            n_skipped, skipped, fits = n_skipped + 1, [*skipped, why][: evidence.NAMED], False
            continue
        priority[slots], sample[:, slots] = drawn[chosen], found.sampled
        cosines.append(found.cosines)
        counts.append(len(item.ids) - 1)
        if len(item.ids) > 1:
            angular, angular_of = angular + found.angular, angular_of + 1
    if not cosines:
        raise out_of_memory(info.device)
    sums, n_tokens = np.array(cosines), np.repeat(np.array(counts, float)[:, None], info.n_layers, 1)
    for _ in pool.drawing(len(sums)):
        yield progress(STAGE, began, OF_RUNS)
    low, high = pool.interval(sums, n_tokens)
    influence = 1 - np.stack([pool.ratio(sums.sum(0), n_tokens.sum(0)), high, low], -1)
    there = np.flatnonzero(np.isfinite(priority))
    steps = cka(net, sample[:, there] if len(there) < most else sample)
    alike = yield from told(steps, lambda fraction: progress(STAGE, began, OF_RUNS + (1 - OF_RUNS) * fraction))
    answer = Similarity(
        model=info,
        source=evidence.source_of(_texts(request)),
        documents=len(sums),
        tokens_scored=sum(counts),
        influence=influence,
        angular=angular / angular_of if angular_of else angular * np.nan,
        cka=alike,
        cka_tokens=len(there),
        skipped=tuple(skipped),
        n_skipped=n_skipped,
        n_cut=n_cut,
    )
    if name and load.cache and fits:  # another time there may be more memory
        cache.put(name, answer)
    yield answer


def at_most(net: Network) -> int:
    """Tokens that CKA is measured over: as many as an eighth of net.memory holds at every depth, 1,000 at most."""
    from stagescope.engine.outcomes import SHARES

    return max(FEWEST, min(MOST, net.memory // SHARES // (4 * (net.n_layers + 1) * net.d_model)))


def _drawn(priority: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A document's tokens, of priorities `drawn`, that enter the sample: the places they take, and which they are.

    The tokens of lowest priority of all so far are in it, so that it is uniform over the text at any time.
    """
    n = len(priority)
    kept = np.argsort(np.concatenate([priority, drawn]), kind="stable")[:n]
    return np.setdiff1d(np.arange(n), kept), kept[kept >= n] - n


def _run(net: Network, item: Document, positions: np.ndarray) -> Generator[float, None, _Found | None]:
    """What a document shows, with its streams at `positions`; None where it does not fit into memory. On the way the
    fraction done."""
    from stagescope.engine.memory import free_cached_memory, is_out_of_memory

    try:
        return (yield from _measured(net, item.ids, positions))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    free_cached_memory()
    return None


def _measured(net: Network, ids: tuple[int, ...], positions: np.ndarray) -> Generator[float, None, _Found]:
    import torch

    from stagescope.engine import blocks

    with torch.inference_mode():
        begun = blocks.start(net, torch.tensor([ids]))
        x, at = begun.x, torch.from_numpy(positions).to(net.device)
        cosines, ends, sampled = np.zeros(net.n_layers), [x[0, -1]], [_unit(net, x[0, at])]
    for layer in range(net.n_layers):
        with torch.inference_mode():  # not across a yield: what runs meanwhile is not ours to set
            after = blocks.block(net, begun, layer, x).x
            pairs = (_exact(stream[0, 1:]) for stream in (x, after))
            cosines[layer] = torch.cosine_similarity(*pairs, dim=-1).sum()
            x = after
            ends.append(x[0, -1])
            sampled.append(_unit(net, x[0, at]))
        yield (layer + 1) / net.n_layers
    with torch.inference_mode():
        last = torch.nn.functional.normalize(_exact(torch.stack(ends)), dim=-1)
        apart = ((last @ last.T).clamp(-1, 1).arccos() / torch.pi).fill_diagonal_(0)
        return _Found(cosines, apart.cpu().numpy(), torch.stack(sampled).cpu().numpy())


def _unit(net: Network, x: Tensor) -> Tensor:
    """[k, D] as float32, each row what the model's norm leaves of it, but for a factor."""
    x = _exact(x)
    if net.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    return (x / x.norm(dim=-1, keepdim=True).clamp_min(1e-30)).float()


def _exact(x: Tensor) -> Tensor:
    """In fp64, which MPS has not."""
    return (x.cpu() if x.device.type == "mps" else x).double()


# ------------------------------------------------------------------------------------------------------- CKA


def cka(net: Network, sample: np.ndarray) -> Generator[float, None, np.ndarray]:
    """Unbiased linear CKA [N, N] of representations [N, n, D] of the same n tokens, which are written over; on the way
    the fraction done. NaN for n < 4, and where a representation is one and the same for every token.

    HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b)) (Kornblith et al. 2019) with the estimator of Song et al. 2012 (eq. 5),
    as Nguyen et al. 2021 take it: the biased one nears 1 for any two representations as D grows against n. The
    estimator is the mean product of U-centred grams (Szekely and Rizzo 2014), which do not change when a vector is
    taken off every row: with the mean taken off in fp64, a row of the gram without its diagonal adds up to -|x_i|^2,
    and nothing large is left to cancel in fp32.
    """
    import torch

    n_depths, n, _ = sample.shape
    if n < FEWEST:
        return np.full((n_depths, n_depths), np.nan)
    device = torch.device("cpu") if net.device.type == "mps" else net.device
    squares = torch.zeros(n_depths, n, dtype=torch.float64, device=device)
    for depth in range(n_depths):
        x = sample[depth].astype(np.float64)
        whole = np.linalg.norm(x)
        x -= x.mean(0)
        spread = np.linalg.norm(x)  # CKA does not see the scale, and that of the depths differs 1000-fold
        sample[depth] = x = x / spread if spread > SAME * whole else x * 0
        squares[depth] = torch.from_numpy(np.square(x).sum(-1))
        yield 0.1 * (depth + 1) / n_depths
    streams = torch.from_numpy(sample)
    overall = squares.sum(-1)[:, None, None] / ((n - 1) * (n - 2))
    hsic = torch.zeros(n_depths, n_depths, dtype=torch.float64, device=device)
    for first in range(0, n, ROWS):
        rows = slice(first, min(first + ROWS, n))
        gram = torch.stack([(x[rows] @ x.T).double() for x in (stream.to(device) for stream in streams)])
        gram += (squares[:, rows, None] + squares[:, None, :]) / (n - 2) - overall
        gram[:, torch.arange(rows.stop - first), torch.arange(first, rows.stop)] = 0
        flat = gram.flatten(1)
        hsic += flat @ flat.T
        yield 0.1 + 0.9 * rows.stop / n
    own = hsic.diagonal()
    own = torch.where(own > 0, own, float("nan")).sqrt()
    found = (hsic / own[:, None] / own).cpu().numpy()
    np.fill_diagonal(found, np.where(np.isnan(own.cpu().numpy()), np.nan, 1.0))
    return found
