"""Two readings held side by side: two schedules, two prompts of as many tokens, two models of one vocabulary.

Depths pair where the same layers have run before (plan.sync_layers), as an edit pairs with its baseline; the two
outputs always do. A chunk of positions at a time passes the unembedding on either side (reading.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stagescope.engine import cache, question
from stagescope.engine.plan import uses_means
from stagescope.engine.protocol import (
    Comparison,
    EngineError,
    Load,
    ModelInfo,
    Progress,
    Read,
    Reading,
    TakeComparison,
)
from stagescope.engine.question import Question
from stagescope.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.at_hand import AtHand
    from stagescope.engine.blocks import Network
    from stagescope.engine.reading import Prompt
    from stagescope.engine.runner import Node

STAGE = "comparison"
OF_A, OF_B = 0.4, 0.8  # fractions of the work done when a, when b has been read


# ------------------------------------------------------------------------------------------- asked and kept


def settle(request: TakeComparison, load: Load, info: ModelInfo, tokenizer: Any) -> tuple[Question, Question]:
    """Both sides made definite. Raises EngineError as for a Read, and for what cannot be compared."""
    a, b = (question.question(replace(one, part="whole"), load, info, tokenizer) for one in (request.a, request.b))
    _check(a, b)
    return a, b


def _check(a: Question, b: Question) -> None:
    check_lengths(len(a.ids), len(b.ids))
    if a.request.lens != b.request.lens:
        lenses = f"one is read through the lens {a.request.lens}, the other through {b.request.lens}"
        raise EngineError("usage", f"these cannot be compared: {lenses}.", "Give both the same lens.")


def check_lengths(a: int, b: int) -> None:
    """Raises EngineError for prompts of two lengths, in tokens: positions would be compared that are not alike."""
    if a != b:
        raise EngineError(
            "usage",
            f"two prompts are compared token by token: one has {a} tokens, the other {b}.",
            "Give two of as many tokens.",
        )


def recalled(request: TakeComparison, info: ModelInfo, load: Load, tokenizer: Any) -> Comparison | None:
    """The answer from the cache; works before the weights are loaded. Raises as `settle`."""
    a, b = settle(request, load, info, tokenizer)
    for dtype, device in question.machines(info, load):
        found = cache.get(_key(a, b, info, dtype, device))
        if isinstance(found, Comparison):  # the same numbers may have been asked for under another name
            sides = ((found.a, a), (found.b, b))
            first, second = (
                replace(question.as_asked(side, info), prompt=asked.request.prompt, schedule=str(asked.schedule))
                for side, asked in sides
            )
            return replace(found, a=first, b=second)
    return None


def _key(a: Question, b: Question, info: ModelInfo, dtype: str, device: str) -> str:
    return cache.key("comparison", *(question.key(asked, info, dtype, device) for asked in (a, b)))


# --------------------------------------------------------------------------------------------------- running


class _Side(NamedTuple):
    engine: AtHand
    asked: Question
    prompt: Prompt


def take(engine: AtHand, request: TakeComparison) -> Comparison:
    """Both sides run and compared, kept where the engine keeps answers. What is asked for last is the prompt at hand.

    Means that a plan replaces by must have been measured. Raises EngineError as `settle`.
    """
    a, b = settle(request, engine.request, engine.info, engine.tokenizer)
    at_hand = engine.prompt_at_hand(b)
    try:
        first = at_hand if a.ids == b.ids else engine.begin(a)
        found = _compared(_Side(engine, a, first), _Side(engine, b, at_hand), engine.step_of(STAGE))
    finally:
        if engine.prompt:
            engine.let_go(b)
    if engine.request.cache:
        cache.put(_key(a, b, engine.info, engine.info.dtype, engine.info.device.split(":")[0]), found)
    return found


def between(engine_a: AtHand, read_a: Read, engine_b: AtHand, read_b: Read) -> Comparison:
    """Two models of one vocabulary, their weights loaded, on one prompt or on two of as many tokens.

    Raises EngineError as `settle`, and where the vocabularies differ: KL is over the same tokens on both sides.
    """
    sides = []
    for engine, read in ((engine_a, read_a), (engine_b, read_b)):
        engine.need_weights()
        asked = question.question(replace(read, part="whole"), engine.request, engine.info, engine.tokenizer)
        sides.append((engine, asked))
    _check_vocabularies(*sides)
    _check(*(asked for _, asked in sides))
    for engine, asked in sides:
        if uses_means(asked.plan):
            for progress in engine.measure_averages():
                engine.tell(progress)

    def step(fraction: float) -> None:
        for engine, _ in sides:
            engine.checkpoint()
        engine_b.tell(Progress(STAGE, fraction))

    with engine_a.memory_told(), engine_b.memory_told():
        try:
            a, b = (_Side(engine, asked, engine.prompt_at_hand(asked)) for engine, asked in sides)
            return _compared(a, b, step)
        finally:
            for engine, asked in sides:
                if engine.prompt:
                    engine.let_go(asked)


def _check_vocabularies(a: tuple[AtHand, Question], b: tuple[AtHand, Question]) -> None:
    (one, asked), (other, asked_other) = a, b
    names = " and ".join(printable(engine.info.name) for engine in (one, other))
    why = ""
    if one.info.d_vocab != other.info.d_vocab:
        why = f"one has {one.info.d_vocab:,} tokens, the other {other.info.d_vocab:,}"
    elif (mine := one.tokenizer.get_vocab()) != (theirs := other.tokenizer.get_vocab()):
        token = next(text for text in {**mine, **theirs} if mine.get(text) != theirs.get(text))
        ids = [f"token {vocabulary[token]}" if token in vocabulary else "none" for vocabulary in (mine, theirs)]
        why = f"“{printable(token)}” is {ids[0]} of one and {ids[1]} of the other"
    elif (prefixes := [of.info.prefix and of.info.prefix.id for of in (one, other)])[0] != prefixes[1]:
        why = "they put {} and {} before a prompt".format(*("nothing" if of is None else f"token {of}" for of in prefixes))
    elif asked.request.prompt == asked_other.request.prompt and asked.ids != asked_other.ids:
        why = f"they read this prompt as other tokens ({len(asked.ids)} and {len(asked_other.ids)})"
    if why:
        hint = "Two models of one tokenizer are compared, with the same prefix token (--bos)."
        raise EngineError("usage", f"{names} do not share a vocabulary: {why}.", hint)


def _compared(a: _Side, b: _Side, step: Callable[[float], None]) -> Comparison:
    """b follows the tokens that a does, unless it names one of its own. step is called with the fraction done and may
    raise to stop."""
    import torch

    from stagescope.engine import runner

    first = _read(a, lambda done: step(OF_A * done))
    tracked = torch.from_numpy(first.tracked).to(b.engine.net.device) if b.asked.request.tracked is None else None
    second = _read(b, lambda done: step(OF_A + (OF_B - OF_A) * done), tracked)
    pairs = pairs_of(first, second)
    paths = [runner.path(side.prompt.root, side.asked.plan) for side in (a, b)]
    of = (a.engine.net, b.engine.net, *paths, pairs, a.asked.request.lens)
    return Comparison(first, second, pairs, **_measured(*of, lambda done: step(OF_B + (1 - OF_B) * done)))


def _read(side: _Side, step: Callable[[float], None], followed: Tensor | None = None) -> Reading:
    """The whole Reading of a side, without its baseline."""
    from stagescope.engine.reading import read

    engine, asked, prompt = side
    about = (prompt, asked.request, str(asked.schedule), asked.plan, range(len(asked.ids)))
    found = read(engine.net, engine.info, *about, averages=engine.averages, checkpoint=step, followed=followed)
    return replace(found, prompt=asked.request.prompt, baseline=None)


def pairs_of(a: Reading, b: Reading) -> tuple[tuple[int, int], ...]:
    """(depth of a, depth of b) that can be compared, ascending; the outputs, which always can, are the last."""
    ends = (a.n_depths - 1, b.n_depths - 1)
    if a.model.n_layers != b.model.n_layers:
        return ((0, 0), ends)
    there = {layer: depth for depth, layer in enumerate(b.baseline_depth) if layer is not None}
    pairs = [(depth, there[layer]) for depth, layer in enumerate(a.baseline_depth) if layer in there]
    return tuple(pairs if pairs[-1] == ends else [*pairs, ends])


def _measured(
    net_a: Network,
    net_b: Network,
    nodes_a: list[Node],
    nodes_b: list[Node],
    pairs: tuple[tuple[int, int], ...],
    lens: str,
    step: Callable[[float], None],
) -> dict[str, np.ndarray]:
    """The arrays of a Comparison. What both runs share is 0, exactly; the residual streams of two models are not
    compared."""
    import torch

    from stagescope.engine import lens as lenses
    from stagescope.engine.metrics import entropy_bits, kl_nats
    from stagescope.engine.reading import apart, chunks, log_probs

    n_pairs, n_tokens = len(pairs), len(nodes_a[0].x)
    kl, same, rel, cos = (np.full((n_pairs, n_tokens), np.nan, np.float32) for _ in range(4))
    effects = np.full((3, n_tokens), np.nan, np.float32)
    shared = [nodes_a[i] is nodes_b[j] for i, j in pairs]
    # The v1 lens divides by each run's own last scale: a shared depth does not say the same through it.
    alike = [both and (lens == "standard" or shared[-1]) for both in shared]
    told = [index for index in range(n_pairs) if not alike[index] or index == n_pairs - 1]  # the outputs in any case
    rows = [row for row, index in enumerate(told) if not alike[index]]
    differing = [told[row] for row in rows]
    kl[alike], same[alike] = 0.0, 1.0
    if net_a is net_b:
        rel[shared], cos[shared] = 0.0, 1.0
    with torch.inference_mode():
        for chunk in chunks(range(n_tokens), 2 * len(told), net_a.d_vocab, net_a.device):
            step(chunk.start / n_tokens)
            p = log_probs(net_a, [nodes_a[pairs[index][0]] for index in told], chunk, lens)
            q = log_probs(net_b, [nodes_b[pairs[index][1]] for index in told], chunk, lens).to(p.device)
            if differing:
                kl[differing, chunk] = _numpy(kl_nats(p[rows], q[rows]))
                same[differing, chunk] = _numpy(p[rows].argmax(-1) == q[rows].argmax(-1))
            last, last_b = p[-1], q[-1]
            if lens != "standard":
                last = lenses.log_probs(net_a, nodes_a[-1].x[chunk])
                last_b = lenses.log_probs(net_b, nodes_b[-1].x[chunk]).to(p.device)
            if shared[-1]:
                effects[:, chunk] = np.array([0.0, 1.0, 0.0])[:, None]
            else:
                effects[0, chunk] = _numpy(kl_nats(last, last_b))
                effects[1, chunk] = _numpy(last.argmax(-1) == last_b.argmax(-1))
                effects[2, chunk] = _numpy(entropy_bits(last_b) - entropy_bits(last))
            for index, (i, j) in enumerate(pairs):
                if net_a is net_b and not shared[index]:
                    rel[index, chunk], cos[index, chunk] = apart(nodes_b[j].x[chunk], nodes_a[i].x[chunk])
    return {
        "kl_nats": kl,
        "top1_same": same,
        "resid_rel": rel,
        "resid_cos": cos,
        "effect_kl_nats": effects[0],
        "effect_top1_same": effects[1],
        "effect_entropy_bits": effects[2],
    }


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


# --------------------------------------------------------------------------------------- without running


def of_readings(a: Reading, b: Reading) -> Comparison:
    """What two whole readings say by themselves, of two models too: everything but KL and residual streams.

    b follows the tokens that a does as far as its top tokens tell. Raises EngineError as `between`, where it shows.
    """
    if a.model.d_vocab != b.model.d_vocab:
        why = f"one has {a.model.d_vocab:,} tokens, the other {b.model.d_vocab:,}"
        raise EngineError("usage", f"the two models do not share a vocabulary: {why}.", "Compare two of one tokenizer.")
    check_lengths(len(a.tokens), len(b.tokens))
    if (a.model.prefix and a.model.prefix.id) != (b.model.prefix and b.model.prefix.id):
        raise EngineError("usage", "the two readings have other prefix tokens.", "Give both the same (--bos).")
    if any(a.texts[token] != b.texts[token] for token in a.texts.keys() & b.texts.keys()):
        raise EngineError("usage", "the two models do not share a vocabulary: a token has two texts.")
    if a.lens != b.lens:
        raise EngineError("usage", f"one is read through the lens {a.lens}, the other through {b.lens}.")
    pairs = pairs_of(a, b)
    here, there = (list(depths) for depths in zip(*pairs, strict=True))
    tops = [side.top_ids[depths, :, 0] for side, depths in ((a, here), (b, there))]
    same = np.where((tops[0] < 0) | (tops[1] < 0), np.nan, tops[0] == tops[1]).astype(np.float32)
    unknown, apart = np.full(same.shape, np.nan, np.float32), np.full(len(a.tokens), np.nan, np.float32)
    is_output = a.lens == "standard"  # of v1 the last depth is not what the model says
    return Comparison(
        a=replace(a, baseline=None),
        b=_following(replace(b, baseline=None), a),
        pairs=pairs,
        kl_nats=unknown,
        top1_same=same,
        resid_rel=unknown,
        resid_cos=unknown,
        effect_kl_nats=apart,
        effect_top1_same=same[-1] if is_output else apart,
        effect_entropy_bits=b.entropy_bits[-1] - a.entropy_bits[-1] if is_output else apart,
    )


def _following(b: Reading, a: Reading) -> Reading:
    """b with the tokens that a follows: rank and p are those of its top tokens, NaN where they are not among them."""
    other = np.flatnonzero(a.tracked != b.tracked)
    rank, p = b.tracked_rank.copy(), b.tracked_p.copy()
    found = b.top_ids[:, other] == a.tracked[other, None]  # [N, positions, K]
    is_there, at = found.any(-1), found.argmax(-1)
    rank[:, other] = np.where(is_there, at + 1, np.nan)
    p[:, other] = np.where(is_there, np.take_along_axis(b.top_p[:, other], at[..., None], -1)[..., 0], np.nan)
    texts = {**a.texts, **b.texts}
    return replace(b, tracked=a.tracked, tracked_rank=rank, tracked_p=p, texts=texts)
