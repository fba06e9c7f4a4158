"""Where one head looks on one prompt: a ShowPattern settled and computed.

A pattern depends on what comes into its layer: a switch on the layer itself, or on the head, changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stagescope.engine import question
from stagescope.engine.protocol import (
    EngineError,
    HeadPattern,
    Load,
    ModelInfo,
    Read,
    ShowPattern,
)
from stagescope.engine.question import Question

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.reading import Prompt

STAGE = "attention pattern"
LONGEST = 1024  # tokens: 4 MB of fp32


def settle(request: ShowPattern, info: ModelInfo, load: Load, tokenizer: Any) -> Question:
    """Ids and plan. Raises EngineError as for a Read, for a head that is not there, for a layer that does not run, and
    for a prompt of more than LONGEST tokens."""
    for what, number, n in (("layer", request.layer, info.n_layers), ("head", request.head, info.n_heads)):
        if not 0 <= number < n:
            where = f"{info.name} has {n} {what}s" + (" in each layer" if what == "head" else "")
            raise EngineError("usage", f"there is no {what} {number}: {where}.", f"Use 0 to {n - 1}.")
    asked = question.question(Read(request.prompt, request.schedule), load, info, tokenizer)
    if len(asked.ids) > LONGEST:
        why = f"the prompt has {len(asked.ids)} tokens, a pattern is shown of at most {LONGEST}."
        raise EngineError("usage", why, "Shorten it.")
    if _place(asked, request.layer) is None:
        why = f"layer {request.layer} does not run under “{asked.schedule}”, so its heads look nowhere."
        raise EngineError("usage", why, "Choose another layer, or take that edit back.")
    return asked


def _place(asked: Question, layer: int) -> int | None:
    """Where in the plan a layer runs, the first time."""
    return next((at for at, place in enumerate(asked.plan) if any(run.layer == layer for run in place)), None)


def recalled(request: ShowPattern, info: ModelInfo, load: Load, tokenizer: Any) -> None:
    """Never kept: it takes as long as a reading's first layers. Raises EngineError for what no weights will show."""
    settle(request, info, load, tokenizer)


def take(
    net: Network,
    info: ModelInfo,
    load: Load,
    prompt: Prompt,
    request: ShowPattern,
    asked: Question,
    averages: Averages | None = None,
    checkpoint: Callable[[float], None] = lambda fraction: None,
) -> HeadPattern:
    """The pattern [T, T] of the head where its layer runs first; what the prompt's trie already holds is not run again.

    averages: needed where the plan holds a mean replacement. checkpoint is called with the fraction done and may raise
    to stop. Raises EngineError for a layer without attention.
    """
    from stagescope.engine import blocks, runner

    before = asked.plan[: _place(asked, request.layer)]
    runner.run(net, prompt.begun, prompt.root, [before], averages, checkpoint)
    x = runner.path(prompt.root, before)[-1].x[None]
    seen, point = [], net.pattern(request.layer)
    with blocks.watching(point, lambda pattern: seen.append(pattern[0, request.head].float().cpu())):
        blocks.block(net, prompt.begun, request.layer, x)
    if not seen:
        why = f"layer {request.layer} of {info.name} has no attention pattern."
        raise EngineError("error", why, "Try another layer.")
    return HeadPattern(
        model=info,
        prompt=prompt.text,
        tokens=prompt.tokens,
        schedule=str(asked.schedule),
        layer=request.layer,
        head=request.head,
        pattern=seen[0].numpy(),
    )
