"""The lens at one position, depth by depth, under both lenses: a TakeLens settled, recalled, computed.

When does a token arrive? What does the paper's erratum change (arXiv 2406.19384, Figures 6 and 8)? Settling and
recalling need no torch: they are done while the weights still load, and `arrival` is asked by the screen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stagescope.engine import cache, question
from stagescope.engine.plan import Plan, uses_means
from stagescope.engine.protocol import (
    LENSES,
    EngineError,
    LensCurves,
    Load,
    ModelInfo,
    Read,
    TakeLens,
)
from stagescope.engine.question import Question
from stagescope.engine.tokens import Token, texts

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.reading import Prompt


def settle(request: TakeLens, load: Load, info: ModelInfo, tokenizer: Any) -> Question:
    """The request made definite: ids, plan, position as an index. Raises EngineError as for a Read, and for followed
    tokens that are not there."""
    for token in request.tokens:
        if not 0 <= token < info.d_vocab:
            raise EngineError("usage", f"there is no token {token}.", f"Ids are 0 to {info.d_vocab - 1}.")
    return question.question(Read(request.prompt, request.schedule, request.position), load, info, tokenizer)


def take(
    net: Network,
    info: ModelInfo,
    prompt: Prompt,
    request: TakeLens,
    schedule: str,
    plan: Plan,
    position: int,
    averages: Averages | None = None,
    checkpoint: Callable[[float], None] = lambda fraction: None,
) -> LensCurves:
    """The curves of `plan` at `position`, an index; what the prompt's trie already holds is not run again.

    schedule: the canonical text of the plan. averages: needed where it holds a mean replacement. checkpoint is called
    with the fraction done and may raise to stop. KL is from this run's true final distribution under either lens.
    `logit` is log p: the logit but for a constant of the depth, which no softmax sees.
    """
    import torch

    from stagescope.engine import lens, runner
    from stagescope.engine.metrics import entropy_bits, kl_nats, rank
    from stagescope.engine.reading import CHUNK

    # Matrix products: about 12 D^2 a token and block, V D a depth and lens.
    blocks = 12 * net.d_model * len(prompt.tokens)
    share = blocks / (blocks + len(LENSES) * net.d_vocab)
    runner.run(net, prompt.begun, prompt.root, [plan], averages, lambda done: checkpoint(share * done))
    nodes = runner.path(prompt.root, plan)
    n_depths, followed = len(nodes), request.tokens
    entropy, kl = (np.zeros((len(LENSES), n_depths), np.float32) for _ in range(2))
    top_ids = np.zeros((len(LENSES), n_depths), np.int32)
    ranks, p, logit = (np.zeros((len(LENSES), n_depths, len(followed)), np.float32) for _ in range(3))
    step = max(1, CHUNK.get(net.device.type, CHUNK["cpu"]) // (len(LENSES) * net.d_vocab))
    with torch.inference_mode():
        x = torch.stack([node.x[position] for node in nodes])  # [N, D]
        final = lens.log_probs(net, x[-1:])
        ids = torch.tensor(followed, dtype=torch.int64, device=x.device)
        for first in range(0, n_depths, step):
            checkpoint(share + (1 - share) * first / n_depths)
            here = slice(first, first + step)
            for which, logp in enumerate((lens.log_probs(net, x[here]), lens.log_probs_v1(net, x[here], x[-1:]))):
                entropy[which, here] = entropy_bits(logp).cpu()
                kl[which, here] = kl_nats(final, logp).cpu()
                top_ids[which, here] = logp.argmax(-1).cpu()
                logit[which, here] = logp[:, ids].cpu()
                p[which, here] = logp[:, ids].exp().cpu()
                for column, token in enumerate(ids):  # one at a time: all at once would be [depths, F, V]
                    ranks[which, here, column] = rank(logp, token.expand(len(logp))).cpu()
    spelled = texts(net.tokenizer, {*top_ids.flatten().tolist(), *followed})
    return LensCurves(
        model=info,
        prompt=prompt.text,
        tokens=prompt.tokens,
        schedule=schedule,
        position=position,
        layers=tuple(tuple(run.layer for run in node.place) for node in nodes),
        entropy_bits=entropy,
        kl_final_nats=kl,
        top_ids=top_ids,
        followed=tuple(Token(token, spelled[token]) for token in followed),
        rank=ranks,
        p=p,
        logit=logit,
        texts=spelled,
    )


def arrival(curves: LensCurves, lens: int, token: int, within: int = 1) -> int | None:
    """The first depth from which on a followed token is among the `within` top tokens to the end; None: not at the end.

    lens: an index of LENSES. token: an index of `followed`. That a token was on top for a while before does not count.
    """
    outside = np.flatnonzero(~(curves.rank[lens, :, token] <= within))
    first = int(outside[-1]) + 1 if len(outside) else 0
    return first if first < len(curves.layers) else None


# ------------------------------------------------------------------------------------------------- cache


def recalled(asked: Question, request: TakeLens, info: ModelInfo, load: Load) -> LensCurves | None:
    """The curves from the cache, if they are there; works before the weights are loaded."""
    for dtype, device in question.machines(info, load):
        found = cache.get(key(asked, request, info, dtype, device))
        if isinstance(found, LensCurves):  # the same numbers may have been asked for under another name
            return replace(question.as_asked(found, info), prompt=request.prompt, schedule=str(asked.schedule))
    return None


def remember(asked: Question, request: TakeLens, curves: LensCurves, info: ModelInfo) -> None:
    cache.put(key(asked, request, info, info.dtype, info.device.split(":")[0]), curves)


def key(asked: Question, request: TakeLens, info: ModelInfo, dtype: str, device: str) -> str:
    """Everything the curves depend on. The device's kind: sums in another order differ in the last digits."""
    text = question.means_text(info) if uses_means(asked.plan) else None
    plan = [info.fingerprint, asked.ids, asked.plan, text]
    return cache.key("lens", *plan, asked.position, request.tokens, dtype, device)
