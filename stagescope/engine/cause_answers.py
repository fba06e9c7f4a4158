"""How the local engine answers what is asked of heads, probes, causes, comparisons and continuations. What can be is answered from the cache, before the
weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator

from stagescope.engine import attribution, comparison, generation, pattern, probe, similarity, subjoiners
from stagescope.engine.at_hand import AtHand
from stagescope.engine.plan import uses_means
from stagescope.engine.protocol import (
    Census,
    FindHeads,
    Generate,
    Progress,
    Reply,
    ShowPattern,
    TakeAttribution,
    TakeCensus,
    TakeComparison,
    TakeProbe,
    TakeSimilarity,
)

OfCauses = FindHeads | ShowPattern | TakeAttribution | TakeSimilarity | TakeProbe | TakeComparison | Generate
_OF_TEXTS = {FindHeads: subjoiners, TakeSimilarity: similarity, TakeProbe: probe}
_OF_PROMPT = {ShowPattern: pattern, TakeAttribution: attribution}
_OF_TWO = {TakeComparison: comparison}


def known(engine: AtHand, request: OfCauses) -> tuple[Reply, ...]:
    """The answer from the cache, if it is there. Raises EngineError for what no weights will make possible, as far as that
    can be told."""
    if not engine.certain or not engine.request.cache:
        return ()
    if isinstance(request, Generate):
        found = generation.recalled(engine, request)
    else:
        module = (_OF_TEXTS | _OF_PROMPT | _OF_TWO)[type(request)]
        found = module.recalled(request, engine.info, engine.request, engine.tokenizer)
    return (found,) if found else ()


def answer(engine: AtHand, request: OfCauses) -> Iterator[Reply]:
    if found := known(engine, request):
        yield from found
        return
    engine.need_weights()
    answers = {**dict.fromkeys(_OF_TEXTS, _of_texts), **dict.fromkeys(_OF_PROMPT, _of_prompt), TakeComparison: _of_two, Generate: _continued}
    yield from answers[type(request)](engine, request)


def _of_texts(engine: AtHand, request: FindHeads | TakeSimilarity | TakeProbe) -> Iterator[Reply]:
    asked = (engine.net, engine.info, engine.request, request, engine.tokenizer)
    if isinstance(request, TakeProbe):
        probe.check(request, engine.info)
        for reply in engine.answer(TakeCensus()):
            if isinstance(reply, Census):
                asked += (reply,)
            else:
                yield reply
    for reply in _OF_TEXTS[type(request)].take(*asked):
        engine.checkpoint()
        yield reply


def _of_prompt(engine: AtHand, request: ShowPattern | TakeAttribution) -> Iterator[Progress | Reply]:
    module = _OF_PROMPT[type(request)]
    asked = module.settle(request, engine.info, engine.request, engine.tokenizer)
    if uses_means(asked.plan):
        yield from engine.measure_averages()
    step = engine.step_of(module.STAGE)
    at_hand = engine.prompt_at_hand(asked)
    try:
        found = module.take(engine.net, engine.info, engine.request, at_hand, request, asked, engine.averages, step)
    finally:
        if engine.prompt:
            engine.let_go(asked)
    yield found


def _of_two(engine: AtHand, request: TakeComparison) -> Iterator[Progress | Reply]:
    sides = comparison.settle(request, engine.request, engine.info, engine.tokenizer)
    if any(uses_means(asked.plan) for asked in sides):
        yield from engine.measure_averages()
    yield comparison.take(engine, request)


def _continued(engine: AtHand, request: Generate) -> Iterator[Reply]:
    asked = generation.settle(request, engine.info, engine.request, engine.tokenizer)
    if any(map(uses_means, asked.plans)):
        yield from engine.measure_averages()
    yield from generation.take(engine, asked)
