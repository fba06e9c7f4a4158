"""Can single neurons tell what the next token ends in? Linear probes (Lad et al. 2024, arXiv 2406.19384, Figure 10).

A probe reads the activations of some neurons at the last token of a context. Beside it stand random neurons of the same
layers, and the model's own answer: without both an accuracy says nothing. Needs no torch and no scikit-learn until
`take` runs: the cache answers while weights load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stagescope.engine import bookmark, cache, corpus, pool, probe_contexts, question, strongest
from stagescope.engine.documents import shown_name
from stagescope.engine.probe_contexts import CONTEXT, FEWEST, WINDOW, Contexts
from stagescope.engine.progress import progress, told
from stagescope.engine.protocol import Census, EngineError, Load, ModelInfo, Probe, ProbeScore, Progress, TakeProbe
from stagescope.engine.tokens import texts, vocabulary_size

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.blocks import Network

STAGE = "probing neurons"
FEATURES = 32  # neurons of large contrast, and as many random ones
SIZES = (1, 2, 4, 8, 16, 32)  # of ensembles
KINDS, ALL = (*strongest.KINDS, "random"), "all"  # all: those of every kind but random
NAMES = {True: "positive", False: "negative"}
RANDOM_SEED = 0
READ, RUN = 0.02, 0.95  # of the work: the text read; the contexts run
COLUMNS = 2**20  # numbers of the unembedding summed at once, 5 ms
EXAMPLES, SHOWN_TOKENS = 3, 6  # of each class; of each the last tokens


class Feature(NamedTuple):
    kind: str
    layer: int
    index: int
    contrast: float  # |mean over positive entries - mean over the rest| of W_U'.w_out


# --------------------------------------------------------------------------------------------- what is asked


def check(request: TakeProbe, info: ModelInfo) -> None:
    """What can be refused before the text is read. Raises EngineError("usage")."""
    if beyond := [token for token in request.tokens if not 0 <= token < info.d_vocab]:
        raise EngineError("usage", f"there is no token {beyond[0]}.", f"Ids end at {info.d_vocab - 1}.")
    if not request.tokens and not request.suffix.isalpha():
        raise EngineError("usage", f"{request.suffix!r} is no suffix.", "Give letters, like ing.")
    if request.most < 4 * FEWEST:
        raise EngineError("usage", f"{request.most} contexts are too few.", f"Give {4 * FEWEST} or more.")
    if info.n_ctx < (needed := CONTEXT + 1 + (info.prefix is not None)):
        message = f"{info.name} reads at most {info.n_ctx} tokens, a probe needs {needed}."
        raise EngineError("usage", message, "Take another model.")


def recalled(request: TakeProbe, info: ModelInfo, load: Load, tokenizer: Any) -> Probe | None:
    """The answer found before, if the text is still the same; works before the weights are loaded."""
    check(request, info)
    for dtype, device in question.machines(info, load):
        name = key(request, info, dtype, device)
        found = cache.get(name) if name else None
        if isinstance(found, Probe):
            return replace(question.as_asked(found, info), source=shown_name(request.file))
    return None


def key(request: TakeProbe, info: ModelInfo, dtype: str, device: str) -> str | None:
    """Everything the answer depends on, the text that orients gated neurons too; None where it is not kept."""
    stamp = bookmark.stamp(request.file)
    what = [corpus.name_of(request.file), stamp, min(WINDOW, info.n_ctx), request.most]
    asked = sorted(set(request.tokens)) or request.suffix
    return stamp and cache.key("probe", info.fingerprint, what, asked, question.means_text(info), dtype, device)


# --------------------------------------------------------------------------------------------------- running


def take(
    net: Network, info: ModelInfo, load: Load, request: TakeProbe, tokenizer: Any, census: Census
) -> Iterator[Progress | Probe]:
    """Progress after every block call, last the Probe, which is kept.

    Raises EngineError: "usage" for a text with too few contexts, what `documents` raises, "memory", "error" where
    activations are no numbers.
    """
    check(request, info)
    name = key(request, info, info.dtype, info.device.split(":")[0])  # of the text as it is before it is read
    began = time.monotonic()

    def at(start: float, end: float) -> Callable[[float], Progress]:
        return lambda fraction: progress(STAGE, began, start + fraction * (end - start))

    yield Progress(STAGE, 0.0)
    classes = yield from told(probe_contexts.classes(tokenizer, request.suffix, request.tokens), at(0.0, READ / 2))
    contexts = yield from told(probe_contexts.find(request, info, tokenizer, classes), at(READ / 2, READ))
    positives = np.flatnonzero(classes.label == 1)
    neurons = yield from told(features(net, census, positives), at(READ, READ))
    activation, mass, argmax = yield from told(run(net, neurons, contexts.ids, positives), at(READ, RUN))
    if not (np.isfinite(activation).all() and np.isfinite(mass).all()):
        raise EngineError("error", f"activations of {info.name} are not numbers.", "Use --dtype float32.")
    found = yield from told(_scores(neurons, activation, mass, argmax, contexts), at(RUN, 1.0))
    answer = Probe(
        info,
        shown_name(request.file),
        asked(request),
        CONTEXT,
        contexts.counts(held=False),
        contexts.counts(held=True),
        *found,
        examples=_examples(contexts, tokenizer),
    )
    if load.cache and name:
        cache.put(name, answer)
    yield answer


def asked(request: TakeProbe) -> str:
    n = len(set(request.tokens))
    return f"is one of {n} token{'s' * (n != 1)}" if n else f"ends in “{request.suffix}”"


# ------------------------------------------------------------------------------------------ which neurons


def features(net: Network, census: Census, positives: np.ndarray) -> Generator[float, None, list[Feature]]:
    """The 32 of kurtosis > 10 or variance > 5.12 / D with the largest contrast, largest first, or as many as there are;
    then for each a random neuron of its layer that is none of them. The contrasts of a layer are one product: the
    difference of the means over tokens is taken first."""
    import torch

    from stagescope.engine import blocks

    members = strongest.classes(census, net.d_model)
    direction = yield from _direction(net, positives)
    contrast = np.zeros((net.n_layers, net.d_mlp))
    for layer in range(net.n_layers):
        with torch.inference_mode():
            contrast[layer] = (blocks.w_out(net, layer) @ direction).abs().float().cpu().numpy()
        yield layer / net.n_layers
    among = np.where(np.any(list(members.values()), 0), contrast, -1.0)
    best = [divmod(int(at), net.d_mlp) for at in np.argsort(-among, axis=None, kind="stable")[:FEATURES]]
    chosen = [place for place in best if among[place] >= 0]
    kinds = [next(kind for kind in strongest.KINDS if members[kind][place]) for place in chosen]
    drawn = _random(chosen, net.d_mlp)
    every = [*zip(kinds, chosen, strict=True), *(("random", place) for place in drawn)]
    return [Feature(kind, *place, float(contrast[place])) for kind, place in every]


def _random(chosen: Sequence[tuple[int, int]], d_mlp: int) -> list[tuple[int, int]]:
    rng, drawn = np.random.default_rng(RANDOM_SEED), []
    for layer in sorted({layer for layer, _ in chosen}):
        taken = [index for of, index in chosen if of == layer]
        others = np.setdiff1d(np.arange(d_mlp), taken)
        drawn += [(layer, int(index)) for index in rng.choice(others, min(len(taken), len(others)), replace=False)]
    return drawn


def _direction(net: Network, positives: np.ndarray) -> Generator[float, None, Tensor]:
    """[D] mean of W_U' over positive entries less its mean over the rest, padding left out. What centres W_U' over the
    vocabulary cancels; a LayerNorm takes the mean over D off whatever is written."""
    import torch

    from stagescope.engine import blocks

    n = min(vocabulary_size(net.tokenizer), net.d_vocab)
    entries = blocks.w_u(net).detach().T[:n]
    at = torch.as_tensor(positives[positives < n], device=net.device)
    total = torch.zeros(net.d_model, dtype=torch.float64)
    for chunk in entries.split(max(1, COLUMNS // net.d_model)):
        total += chunk.float().sum(0).cpu().double()
        yield 0.0
    yes = entries[at].float().sum(0).cpu().double()
    direction = yes / max(len(at), 1) - (total - yes) / max(n - len(at), 1)
    direction *= blocks.norm_weight(net).detach().cpu().double()
    if net.norm == "layer":
        direction -= direction.mean()
    return direction.float().to(net.device)


# ----------------------------------------------------------------------------------------- what they show


def run(
    net: Network, neurons: Sequence[Feature], ids: np.ndarray, positives: np.ndarray
) -> Generator[float, None, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """At the last token of contexts ids [N, C]: activations [N, F] of the neurons, the model's total probability on the
    positive tokens [N] and whether its top token is one [N]. Raises EngineError("memory")."""
    import torch

    from stagescope.engine import blocks
    from stagescope.engine.memory import is_out_of_memory, out_of_memory
    from stagescope.engine.outcomes import logits_at_once
    from stagescope.engine.runner import rows_at_once

    activation = np.zeros((len(ids), len(neurons)), np.float32)
    mass, argmax = np.zeros(len(ids)), np.zeros(len(ids), bool)
    at_once = min(rows_at_once(net, ids.shape[1]), logits_at_once(net))
    wanted = torch.as_tensor(positives, device=net.device)
    try:
        for first in range(0, len(ids), at_once):
            rows = slice(first, first + at_once)
            begun = blocks.start(net, torch.as_tensor(ids[rows]))
            x = begun.x
            for layer in range(net.n_layers):
                x = _block(net, begun, layer, x, neurons, activation[rows])
                yield (first + len(x) * (layer + 1) / net.n_layers) / len(ids)
            with torch.inference_mode():
                p = blocks.unembed(net, blocks.final_norm(net, x[:, -1:]))[:, 0].softmax(-1)
                mass[rows] = p[:, wanted].sum(-1).cpu().numpy()
                argmax[rows] = torch.isin(p.argmax(-1), wanted).cpu().numpy()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(net.device) from error
    return activation, mass, argmax


def _block(
    net: Network, begun: Any, layer: int, x: Tensor, neurons: Sequence[Feature], activation: np.ndarray
) -> Tensor:
    """One block; the activations [B, F] of its neurons are written down."""
    from stagescope.engine import blocks

    columns = [column for column, one in enumerate(neurons) if one.layer == layer]
    indices = [neurons[column].index for column in columns]

    def keep(output: Tensor) -> None:
        activation[:, columns] = output[:, -1, indices].float().cpu().numpy()

    with blocks.watching(net.post_activation(layer) if columns else None, keep):
        return blocks.block(net, begun, layer, x).x


# ------------------------------------------------------------------------------------------------ probes


def _scores(
    neurons: Sequence[Feature], activation: np.ndarray, mass: np.ndarray, argmax: np.ndarray, contexts: Contexts
) -> Generator[float, None, tuple[tuple[ProbeScore, ...], tuple[ProbeScore, ...], ProbeScore, ProbeScore]]:
    """What a Probe holds of neurons, ensembles, mass and argmax."""
    truth, held = contexts.positive, contexts.held
    x = activation.astype(np.float64)
    spread = x[~held].std(0)
    x = (x - x[~held].mean(0)) / np.where(spread > 0, spread, 1.0)

    def score(kind: str, members: Sequence[Feature], right: np.ndarray) -> ProbeScore:
        layer, index, contrast = members[0][1:] if len(members) == 1 else (None, None, float("nan"))
        low, high = interval(right[held], contexts.lemma[held])
        accuracy, train = float(right[held].mean()), float(right[~held].mean())
        return ProbeScore(kind, layer, index, len(members), contrast, train, accuracy, low, high)

    singly: list[tuple[int, ProbeScore]] = []
    for column, one in enumerate(neurons):
        singly.append((column, score(one.kind, [one], _right(x[:, [column]], truth, held))))
        yield 0.5 * column / len(neurons)
    singly.sort(key=lambda both: (KINDS.index(both[1].kind), -both[1].train))
    ensembles = []
    for kind in (*KINDS, ALL):
        members = [both for both in singly if both[1].kind == kind or (kind == ALL and both[1].kind != "random")]
        ranked = [column for column, _ in sorted(members, key=lambda both: -both[1].train)]
        for size in (size for size in SIZES if size <= len(ranked)):
            best = ranked[:size]
            ensembles.append(score(kind, [neurons[column] for column in best], _right(x[:, best], truth, held)))
            yield 0.5 + 0.5 * (KINDS + (ALL,)).index(kind) / (len(KINDS) + 1)
    logs = np.log(np.maximum(mass, np.finfo(float).tiny))
    above = logs >= threshold(logs[~held], truth[~held])
    own = (score("model", (), answer == truth) for answer in (above, argmax))
    return tuple(one for _, one in singly), tuple(ensembles), *own


def _right(x: np.ndarray, truth: np.ndarray, held: np.ndarray) -> np.ndarray:
    """[N] bool: where a logistic regression of x [N, k], fitted on what is not held out, is right."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(x[~held], truth[~held]).predict(x) == truth


def threshold(values: np.ndarray, truth: np.ndarray) -> float:
    """From where up values [N] are best taken for positive: half-way between two of them; the lowest of the best."""
    known, which = np.unique(values, return_inverse=True)
    cuts = np.concatenate([known[:1], (known[1:] + known[:-1]) / 2])
    above, below = (np.bincount(which[truth == value], minlength=len(known)) for value in (True, False))
    right = above[::-1].cumsum()[::-1] + below.cumsum() - below  # positives from a cut up, the rest under it
    return float(cuts[right.argmax()])


def interval(right: np.ndarray, lemma: np.ndarray) -> tuple[float, float]:
    """95 % interval of an accuracy, right [N] bool, by bootstrap over lemmas [N]: the contexts of one are no
    independent draws. NaN for fewer than two lemmas."""
    _, groups = np.unique(lemma, return_inverse=True)
    sums, counts = np.bincount(groups, right), np.bincount(groups)
    low, high = pool.interval(sums[:, None], counts[:, None])
    return float(low[0]), float(high[0])


def _examples(contexts: Contexts, tokenizer: Any) -> tuple[tuple[str, str, str], ...]:
    """Held-out contexts, some of each class, no two of one lemma."""
    rows: list[int] = []
    for value in (True, False):
        there = np.flatnonzero(contexts.held & (contexts.positive == value))
        _, first = np.unique(contexts.lemma[there], return_index=True)
        rows += there[np.sort(first)[:EXAMPLES]].tolist()
    ends = contexts.ids[rows, -SHOWN_TOKENS:]
    following, names = contexts.following[rows].tolist(), [NAMES[bool(value)] for value in contexts.positive[rows]]
    spelled = texts(tokenizer, {*ends.ravel().tolist(), *following})
    return tuple(
        ("".join(spelled[token] for token in end), spelled[after], name)
        for end, after, name in zip(ends.tolist(), following, names, strict=True)
    )
