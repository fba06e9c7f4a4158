"""The strongest neurons of each class, and which tokens they promote and suppress (Gurnee et al. 2024).

The census says which neurons they are, so only their cosines with the vocabulary are worked out: 40 rows, not M. What
takes time is preparing the vocabulary (0.6 s for the default model), as in engine/neurons.py.

A gated neuron is told as it fires: (w_up, w_out) -> (-w_up, -w_out) changes nothing, so that where the mean activation
is negative, -w_out is what is written. Needs no torch until `show` runs: the cache answers while weights load.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stagescope.engine import cache, question
from stagescope.engine.progress import progress
from stagescope.engine.protocol import (
    HIGH_KURTOSIS,
    PARTITION_VARIANCE,
    Census,
    EngineError,
    Load,
    ModelInfo,
    NeuronRow,
    Neurons,
    Progress,
    ShowNeurons,
)
from stagescope.engine.tokens import Token, texts, vocabulary_size

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.blocks import Network
    from stagescope.engine.neurons import Vocabulary

STAGE = "what the neurons write"
SIGNED = ("prediction", "suppression")
KINDS = (*SIGNED, "unsigned", "partition")
PACE_SECONDS = 0.05  # between two signs of progress; readings are served there
CHUNK = 2**20  # cosines worked out at once
VOCABULARY_SHARE, PROMPT_FROM = 0.4, 0.6  # of the work: prepared by then; from there on, the prompt

Kept = dict[str, "Vocabulary"]
Neuron = tuple[int, int]  # layer, index


# --------------------------------------------------------------------------------------------- which ones


def classes(census: Census, d_model: int) -> dict[str, np.ndarray]:
    """Which neurons belong to each of KINDS, [L, M] bool. A partition candidate may be of another class as well.

    Gated neurons without a text cannot be signed: all those of high kurtosis are "unsigned".
    """
    unsigned = (census.kurtosis > HIGH_KURTOSIS) & (census.sign == 0)
    return {**signed(census), "unsigned": unsigned, "partition": census.variance > PARTITION_VARIANCE / d_model}


def signed(census: Census) -> dict[str, np.ndarray]:
    """Which neurons belong to each of SIGNED, [L, M] bool."""
    high, fired = (census.kurtosis > HIGH_KURTOSIS) & (census.sign != 0), as_it_fires(census)
    return dict(zip(SIGNED, (high & (fired > 0), high & (fired < 0)), strict=True))


def as_it_fires(census: Census) -> np.ndarray:
    """[L, M] skew of what each neuron writes when it fires; where it has no sign, of w_out as it stands."""
    return np.where(census.sign < 0, -census.skew, census.skew)


def check(request: ShowNeurons, info: ModelInfo) -> None:
    """Raises EngineError for a layer that is not there."""
    if request.layer is not None and not 0 <= request.layer < info.n_layers:
        raise EngineError("usage", f"there is no layer {request.layer}.", f"Layers are 0 to {info.n_layers - 1}.")


def pick(census: Census, d_model: int, layer: int | None, most: int) -> list[tuple[str, Neuron]]:
    """(class, neuron) of at most `most` of each class, the strongest first: by kurtosis, partition by variance."""
    picked = []
    for kind, members in classes(census, d_model).items():
        strength = census.variance if kind == "partition" else census.kurtosis
        picked += [(kind, neuron) for neuron in ranked(members, strength, layer, most)]
    return picked


def ranked(members: np.ndarray, strength: np.ndarray, layer: int | None, most: int) -> list[Neuron]:
    """At most `most` of some neurons, members [L, M] bool, the strongest first; layer: of this one alone."""
    layers, indices = np.nonzero(members)
    if layer is not None:
        layers, indices = layers[layers == layer], indices[layers == layer]
    order = np.argsort(-strength[layers, indices], kind="stable")[:most]
    return [(int(layers[at]), int(indices[at])) for at in order]


# ------------------------------------------------------------------------------------------- what they write


def show(
    net: Network,
    info: ModelInfo,
    census: Census,
    request: ShowNeurons,
    ids: Sequence[int] | None,
    kept: Kept | None = None,
) -> Iterator[Progress | Neurons]:
    """Progress every 50 ms and after every block call, last the Neurons.

    ids: of the tokens of request.prompt, prefix included; None without a prompt.
    kept: where the prepared vocabulary stays for the next request, if it is not too large; for one network only.
    Raises EngineError for a layer that is not there.
    """
    check(request, info)
    picked = pick(census, info.d_model, request.layer, request.most)
    ids = list(ids or ())
    yield Progress(STAGE, 0.0)
    cosines = np.zeros((0, 0), np.float32)
    if picked:  # else the vocabulary is not needed
        vocabulary = yield from _vocabulary(net, {} if kept is None else kept)
        cosines = yield from _cosines(net, [neuron for _, neuron in picked], vocabulary)
    rows = [_row(kind, neuron, census, row, request.top) for (kind, neuron), row in zip(picked, cosines, strict=True)]
    activation = yield from _activations(net, [neuron for _, neuron in picked], ids)
    spelled = texts(net.tokenizer, {*ids, *(token for row in rows for token in (*row.promoted, *row.suppressed))})
    tokens = tuple(Token(token, spelled[token]) for token in ids)
    yield Neurons(info, request.layer, request.prompt, tokens, tuple(rows), activation, spelled)


def _vocabulary(net: Network, kept: Kept) -> Generator[Progress, None, Vocabulary]:
    """The prepared vocabulary, the tokenizer's entries of it."""
    import torch

    from stagescope.engine import blocks, neurons

    if "vocabulary" in kept:
        return kept["vocabulary"]
    device = torch.device("cpu") if net.device.type == "mps" else net.device  # MPS has no fp64
    began = shown = time.monotonic()
    entries = blocks.unembedding(net).detach()[: vocabulary_size(net.tokenizer)]
    steps = neurons.prepare(entries.to(device), net.norm, net.softcap)
    while True:
        try:
            fraction = next(steps)
        except StopIteration as end:
            prepared = end.value
            break
        if time.monotonic() - shown > PACE_SECONDS:
            yield progress(STAGE, began, VOCABULARY_SHARE * fraction)
            shown = time.monotonic()
    if prepared.spread.nbytes <= net.memory // 4:  # of 2 GiB: 32,000 tokens of 4,096; the default model's takes 113 MB
        kept["vocabulary"] = prepared
    return prepared


def _cosines(net: Network, neurons: Sequence[Neuron], vocabulary: Vocabulary) -> Generator[Progress, None, np.ndarray]:
    """[N, V] cos(w_out, W_U') as the weights stand; 0 for a neuron that writes nothing. The vocabulary is kept apart
    from its mean row, which is added back."""
    import torch
    from torch.nn.functional import normalize

    from stagescope.engine import blocks

    spread = vocabulary.spread
    written: list[Tensor] = [torch.empty(0)] * len(neurons)
    for layer in {layer for layer, _ in neurons}:
        w_out = blocks.w_out(net, layer).detach()
        for number, (of, index) in enumerate(neurons):
            if of == layer:
                written[number] = w_out[index].to(spread.device)
        yield Progress(STAGE, VOCABULARY_SHARE)
    rows = torch.stack(written).double()
    if net.norm == "layer":
        rows = rows - rows.mean(1, keepdim=True)
    rows = normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)
    mean, rows = (rows @ vocabulary.mean)[:, None], rows.float()
    cosines = []
    for chunk in spread.split(max(1, CHUNK // len(rows))):
        cosines.append((rows @ chunk.T + mean).float().cpu())
        yield Progress(STAGE, VOCABULARY_SHARE)
    return torch.cat(cosines, dim=1).numpy()


def _row(kind: str, neuron: Neuron, census: Census, cosines: np.ndarray, top: int) -> NeuronRow:
    """cosines: [V] as the weights stand."""
    cosines = -cosines if census.sign[neuron] < 0 else cosines
    promoted, suppressed = _highest(cosines, top), _highest(-cosines, top)
    layer, index = neuron
    return NeuronRow(
        layer=layer,
        index=index,
        kind=kind,
        kurtosis=float(census.kurtosis[neuron]),
        skew=float(as_it_fires(census)[neuron]),
        variance=float(census.variance[neuron]),
        consistency=float(census.consistency[neuron]),
        promoted=tuple(promoted.tolist()),
        promoted_cos=tuple(cosines[promoted].tolist()),
        suppressed=tuple(suppressed.tolist()),
        suppressed_cos=tuple(cosines[suppressed].tolist()),
    )


def _highest(values: np.ndarray, top: int) -> np.ndarray:
    """Where the highest values stand, highest first; equal ones by their place, so that every machine says the same."""
    top = min(top, len(values))
    found = np.argpartition(-values, max(top - 1, 0))[:top]  # 0.5 ms of 49,152, where sorting them all takes 5
    return found[np.lexsort((found, -values[found]))]


def _activations(net: Network, neurons: Sequence[Neuron], ids: Sequence[int]) -> Generator[Progress, None, np.ndarray]:
    """[N, T] post-activations in one plain forward, which ends after the last layer asked for."""
    import torch

    from stagescope.engine import blocks

    found = np.zeros((len(neurons), len(ids)), np.float32)
    if not found.size:
        return found
    began = time.monotonic()
    begun = blocks.start(net, torch.tensor([list(ids)]))
    x, last = begun.x, max(layer for layer, _ in neurons)
    for layer in range(last + 1):
        numbers = [number for number, (of, _) in enumerate(neurons) if of == layer]
        indices = [neurons[number][1] for number in numbers]

        def keep(output: Tensor, numbers=numbers, indices=indices) -> None:
            found[numbers] = output[0, :, indices].float().T.cpu().numpy()

        with blocks.watching(net.post_activation(layer) if numbers else None, keep):
            x = blocks.block(net, begun, layer, x).x
        yield progress(STAGE, began, PROMPT_FROM + (1 - PROMPT_FROM) * (layer + 1) / (last + 1))
    return found


# ------------------------------------------------------------------------------------------------- cache


def key(info: ModelInfo, request: ShowNeurons, ids: Sequence[int] | None, dtype: str, device: str) -> str:
    """Everything the answer depends on: the text orients gated neurons, dtype and device are the activations'."""
    what = [request.layer, request.most, request.top, list(ids or ())]
    return cache.key("neurons", info.fingerprint, question.means_text(info), *what, dtype, device)


def recalled(info: ModelInfo, load: Load, request: ShowNeurons, ids: Sequence[int] | None) -> Neurons | None:
    """The answer from the cache, if it is there."""
    for dtype, device in question.machines(info, load):
        found = cache.get(key(info, request, ids, dtype, device))
        if isinstance(found, Neurons):
            return replace(question.as_asked(found, info), prompt=request.prompt)
    return None


def remember(info: ModelInfo, request: ShowNeurons, ids: Sequence[int] | None, neurons: Neurons) -> None:
    cache.put(key(info, request, ids, info.dtype, info.device.split(":")[0]), neurons)
