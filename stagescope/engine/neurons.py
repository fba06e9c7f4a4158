"""Prediction and suppression neurons: the shape of cos(w_out, W_U') over the vocabulary, for every neuron.

Gurnee et al. 2024, "Universal Neurons in GPT2 Language Models", arXiv 2401.12181; the rule by which Lad et
al. 2024, arXiv 2406.19384, count them. c[n, v] is the cosine of what neuron n writes and of the unembedding
of token v with the final norm's gain folded in. Nearly all of a census is each layer's product, M x D x V.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from stagescope.engine import blocks
from stagescope.engine.averages import Averages
from stagescope.engine.blocks import Network
from stagescope.engine.progress import progress
from stagescope.engine.protocol import HIGH_KURTOSIS, PARTITION_VARIANCE, Census, ModelInfo, Progress
from stagescope.engine.tokens import vocabulary_size

STAGE = "census of neurons"
SIGNED = 0.3  # |E a| / E|a| from which a gated neuron has a sign
NULL_DIRECTIONS, NULL_SEED = 256, 0

# Neurons x vocabulary entries of one product. On the CPU two such tiles (1 MiB each) stay in cache, which
# makes the powers cheap: 1.08 to 1.13 times the bare products on Zen 4 (8 MiB tiles: 1.19, 48 MiB: 1.29).
CPU_TILE, CUDA_TILE = (512, 512), (2048, 8192)
VOCABULARY_CHUNK = 2**20  # numbers of the unembedding prepared at once, 20 ms
PACE_SECONDS = 0.05  # between two signs of progress; readings are served there

Result = TypeVar("Result")
Steps = Generator[float, None, Result]  # yields the fraction done every few milliseconds, returns the result


class Vocabulary(NamedTuple):
    """Directions of the vocabulary's entries: unit length each, split into their mean and what is left."""

    mean: Tensor  # [D] float64
    spread: Tensor  # [V, D] float32: unit rows minus `mean`


class Moments(NamedTuple):
    """Population moments of c[n, v] over v, [N] float64 on the CPU; all 0 for a direction of length 0."""

    mean: Tensor
    variance: Tensor
    skew: Tensor  # E[z^3]
    kurtosis: Tensor  # E[z^4], a Gaussian has 3


def census(
    net: Network, info: ModelInfo, averages: Averages | None = None, n_tokens: int | None = None
) -> Generator[Progress | Census, None, None]:
    """Moments and classes of every neuron: Progress every 50 to 100 ms, last the Census.

    averages: orient gated neurons by their mean activation; without it they have no sign.
    n_tokens: vocabulary entries that count; None is the tokenizer's size, the padding rows after it left out.
    Peak memory beside the network: two fp32 copies of the unembedding.
    """
    device = torch.device("cpu") if net.device.type == "mps" else net.device  # MPS has no fp64
    began = time.monotonic()
    yield Progress(STAGE, 0.0)
    entries = blocks.unembedding(net).detach()[: n_tokens or vocabulary_size(net.tokenizer)]
    vocabulary = yield from _paced(prepare(entries.to(device), net.norm, net.softcap), began, 0.0, 0.0)
    del entries
    steps = moments(random_directions(net.d_model), vocabulary, net.norm)
    null = yield from _paced(steps, began, 0.0, 0.0)
    layers = []
    for layer in range(net.n_layers):
        steps = moments(blocks.w_out(net, layer).detach().to(device), vocabulary, net.norm)
        layers.append((yield from _paced(steps, began, layer / net.n_layers, 1 / net.n_layers)))
        yield progress(STAGE, began, (layer + 1) / net.n_layers)

    _, variance, skew, kurtosis = (torch.stack(rows) for rows in zip(*layers, strict=True))
    orientation = "weights" if not net.gated else "corpus" if averages else "none"
    sign = orient(averages) if orientation == "corpus" else torch.full_like(skew, orientation == "weights")
    high = kurtosis > HIGH_KURTOSIS
    yield Census(
        model=info.name,
        fingerprint=info.fingerprint,
        orientation=orientation,
        null_directions=NULL_DIRECTIONS,
        null_above=(null.kurtosis > HIGH_KURTOSIS).double().mean().item(),
        d_mlp=net.d_mlp,
        high=_count(high),
        prediction=_count(high & (skew * sign > 0)),
        suppression=_count(high & (skew * sign < 0)),
        unsigned=_count(high & (sign == 0) & (orientation == "corpus")),
        partition=_count(variance > PARTITION_VARIANCE / net.d_model),
        variance=variance.numpy(),
        skew=skew.numpy(),
        kurtosis=kurtosis.numpy(),
        sign=sign.to(torch.int8).numpy(),
        consistency=consistency(averages).float().numpy() if orientation == "corpus" else np.full(skew.shape, np.nan, "f4"),
        text=averages.text if orientation == "corpus" else "",
    )


def orient(averages: Averages) -> Tensor:
    """[L, M] sign of each neuron's mean activation, 0 where |E a| / E|a| < 0.3.

    A gated MLP is the same with (w_up, w_out) of a neuron negated: the sign of w_out alone says nothing.
    """
    return torch.where(consistency(averages) < SIGNED, 0.0, averages.activation.sign())


def consistency(averages: Averages) -> Tensor:
    """[L, M] |E a| / E|a|: 1 where a neuron's activation never changes its sign; 0 where it never fires."""
    return averages.activation.abs() / averages.magnitude.clamp_min(torch.finfo(torch.float64).tiny)


def random_directions(d_model: int) -> Tensor:
    """[256, D]: the null beside a census. Few have kurtosis > 10, or the vocabulary is degenerate."""
    return torch.randn(NULL_DIRECTIONS, d_model, generator=torch.Generator().manual_seed(NULL_SEED))


def prepare(w_u: Tensor, norm: str, softcap: float | None) -> Steps[Vocabulary]:
    """W_U' [V, D], one row a vocabulary entry, gain folded in, padding rows left out -> Vocabulary.

    Rows are centred over D when the norm is "layer"; then over the vocabulary, which no softmax sees, unless
    the logits are soft-capped; then scaled to unit length, c being a cosine.
    """
    chunk_rows = max(1, VOCABULARY_CHUNK // w_u.shape[1])
    chunks = w_u.split(chunk_rows)
    shift = torch.zeros(w_u.shape[1], dtype=torch.float64, device=w_u.device)
    if not softcap:
        for chunk in chunks:
            shift += chunk.double().sum(0) / len(w_u)
            yield 0.0
    mean = torch.zeros_like(shift)
    spread = torch.empty(w_u.shape, dtype=torch.float32, device=w_u.device)
    for chunk, kept in zip(chunks, spread.split(chunk_rows), strict=True):
        rows = chunk.double() - shift
        if norm == "layer":  # the two centrings commute
            rows -= rows.mean(1, keepdim=True)
        rows = _unit(rows)
        mean += rows.sum(0) / len(w_u)
        kept.copy_(rows)
        yield 0.5
    for kept in spread.split(chunk_rows):
        kept -= mean.float()
        yield 1.0
    return Vocabulary(mean, spread)


def moments(
    w_out: Tensor, vocabulary: Vocabulary, norm: str, tile: tuple[int, int] | None = None
) -> Steps[Moments]:
    """Moments of the cosines of w_out's rows [N, D] with the vocabulary; norm "layer" centres them over D.

    The mean is the product with the mean row. With it taken out of the vocabulary the products are central,
    so their powers are summed with no cancellation: fp32 products and sums within a tile, fp64 beyond.
    """
    spread = vocabulary.spread
    n_rows, n_entries = len(w_out), len(spread)
    rows_step, entries_step = tile or (CUDA_TILE if spread.is_cuda else CPU_TILE)
    buffers = [spread.new_empty(min(rows_step, n_rows) * min(entries_step, n_entries)) for _ in range(2)]
    mean = torch.zeros(n_rows, dtype=torch.float64)
    powers = torch.zeros(3, n_rows, dtype=torch.float64, device=spread.device)
    for first in range(0, n_rows, rows_step):
        here = slice(first, first + rows_step)
        rows = w_out[here].to(spread.device, torch.float64)
        rows = _unit(rows - rows.mean(1, keepdim=True) if norm == "layer" else rows)
        mean[here] = (rows @ vocabulary.mean).cpu()
        rows = rows.float()
        for entry in range(0, n_entries, entries_step):
            entries = spread[entry : entry + entries_step]
            c, c2 = (buffer[: len(rows) * len(entries)].view(len(rows), len(entries)) for buffer in buffers)
            torch.mm(rows, entries.T, out=c)
            torch.mul(c, c, out=c2)
            powers[0, here] += c2.sum(1)
            powers[1, here] += c.mul_(c2).sum(1)
            powers[2, here] += c2.mul_(c2).sum(1)
            if c.is_cuda:
                torch.cuda.synchronize(c.device)  # else all tiles are queued at once, ahead of any reading
            yield (first + len(rows) * (entry + len(entries)) / n_entries) / n_rows
    variance, third, fourth = powers.cpu() / n_entries
    scale = torch.where(variance > 0, variance, 1.0)
    return Moments(mean, variance, third / scale**1.5, fourth / scale**2)


def _unit(rows: Tensor) -> Tensor:
    """Rows scaled to length 1; a row of zeros stays as it is."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _paced(
    steps: Steps[Result], began: float, done: float, share: float
) -> Generator[Progress, None, Result]:
    """Take the steps, with Progress every 50 ms. They are `share` of a census of which `done` is behind."""
    shown = time.monotonic()
    while True:
        try:
            fraction = next(steps)
        except StopIteration as end:
            return end.value
        if time.monotonic() - shown > PACE_SECONDS:
            yield progress(STAGE, began, done + share * fraction)
            shown = time.monotonic()


def _count(neurons: Tensor) -> np.ndarray:
    """[L, M] bool -> [L] int32"""
    return neurons.sum(1).to(torch.int32).numpy()
