"""How the local engine answers what is asked of the stages: evidence, lens curves, neurons, the map itself.

What can be is answered from the cache, before the weights are loaded. A map asks for its parts as anybody would, so that
each is kept by itself: what was interrupted goes on with the part it was at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from stagescope.engine import cache, evidence, lens_curves, question, strongest
from stagescope.engine.at_hand import AtHand, read_only
from stagescope.engine.plan import uses_means
from stagescope.engine.pool import over_prompts
from stagescope.engine.protocol import (
    Census,
    CorpusSweep,
    EngineError,
    Evidence,
    LensCurves,
    MapStages,
    Neurons,
    Progress,
    Read,
    Reply,
    Request,
    ShowNeurons,
    StageMap,
    Sweep,
    SweepCorpus,
    TakeCensus,
    TakeEvidence,
    TakeLens,
    TakeSweep,
    Texts,
)

PARTS = ("1 of 3", "2 of 3", "3 of 3")  # of a map: the sweep takes nearly all of it

OfStages = TakeCensus | TakeEvidence | TakeLens | ShowNeurons | MapStages


def known(engine: AtHand, request: OfStages) -> tuple[Reply, ...]:
    """The answer from the cache, if it is there. Raises EngineError for what no weights will make possible, as far as that
    can be told."""
    if isinstance(request, TakeCensus) and engine.census is not None:
        return (replace(engine.census, cached=True),)
    if not engine.certain or not engine.request.cache:
        return ()
    found = _recalled(engine, request)
    return (found,) if found else ()


def _recalled(engine: AtHand, request: OfStages) -> Reply | None:
    asked = (engine.info, engine.request, engine.tokenizer)
    match request:
        case TakeCensus():
            return question.recalled_census(engine.info)
        case TakeEvidence():
            return evidence.recalled(request, *asked)
        case TakeLens():
            settled = lens_curves.settle(request, engine.request, engine.info, engine.tokenizer)
            return lens_curves.recalled(settled, request, engine.info, engine.request)
        case ShowNeurons():
            strongest.check(request, engine.info)
            return strongest.recalled(engine.info, engine.request, request, _ids(engine, request.prompt))
        case MapStages():
            return _recalled_map(engine, request)


def answer(engine: AtHand, request: OfStages) -> Iterator[Reply]:
    if not engine.certain and not isinstance(request, TakeCensus):
        engine.need_weights()
    answers = {
        TakeCensus: take_census,
        TakeEvidence: take_evidence,
        TakeLens: take_lens,
        ShowNeurons: show_neurons,
        MapStages: map_stages,
    }
    yield from answers[type(request)](engine, request)


def take_census(engine: AtHand, request: TakeCensus) -> Iterator[Progress | Census]:
    if found := known(engine, request):
        yield from found
        return
    engine.need_weights()
    from stagescope.engine import neurons

    if engine.net.gated:
        yield from engine.measure_averages()
    for reply in neurons.census(engine.net, engine.info, engine.averages):
        engine.checkpoint()
        if engine.census and (found := known(engine, request)):  # another request took it meanwhile
            yield from found
            return
        if isinstance(reply, Census):
            engine.census = read_only(reply)
            if engine.request.cache:
                cache.put(question.census_key(engine.info), reply)
        yield reply


def take_evidence(engine: AtHand, request: TakeEvidence) -> Iterator[Progress | Evidence]:
    if engine.net is None:  # else evidence.take looks into the cache itself
        if found := known(engine, request):
            yield from found
            return
        engine.need_weights()
    for reply in evidence.take(engine.net, engine.info, engine.request, request, engine.tokenizer):
        engine.checkpoint()
        yield reply


def take_lens(engine: AtHand, request: TakeLens) -> Iterator[Progress | LensCurves]:
    if found := known(engine, request):
        yield from found
        return
    engine.need_weights()
    asked = lens_curves.settle(request, engine.request, engine.info, engine.tokenizer)
    if uses_means(asked.plan):
        yield from engine.measure_averages()
    step = engine.step_of("lens by depth")
    run = (str(asked.schedule), asked.plan, asked.position, engine.averages, step)
    try:
        curves = lens_curves.take(engine.net, engine.info, engine.prompt_at_hand(asked), request, *run)
    finally:
        if engine.prompt:
            engine.let_go(asked)
    if engine.request.cache:
        lens_curves.remember(asked, request, curves, engine.info)
    yield curves


def show_neurons(engine: AtHand, request: ShowNeurons) -> Iterator[Progress | Neurons]:
    if min(request.most, request.top) < 1:
        raise EngineError("usage", f"{min(request.most, request.top)} neurons or tokens cannot be shown.", "Give 1 or more.")
    if found := known(engine, request):
        yield from found
        return
    engine.need_weights()
    ids = _ids(engine, request.prompt)
    for reply in engine.answer(TakeCensus()):
        if isinstance(reply, Census):
            census = reply
        else:
            yield reply
    for reply in strongest.show(engine.net, engine.info, census, request, ids, engine.vocabulary):
        engine.checkpoint()
        if isinstance(reply, Neurons) and engine.request.cache:
            strongest.remember(engine.info, request, ids, reply)
        yield reply


def _ids(engine: AtHand, prompt: str) -> tuple[int, ...] | None:
    """Token ids of a prompt, prefix included; None without one. Raises EngineError for what cannot be read."""
    if not prompt:
        return None
    return question.question(Read(prompt), engine.request, engine.info, engine.tokenizer).ids


# ------------------------------------------------------------------------------------------------ the map


def map_stages(engine: AtHand, request: MapStages) -> Iterator[Reply]:
    if request.if_known:
        if found := known(engine, request):
            yield from found
            return
        raise EngineError("missing", "the stages of this model were not mapped over this text.", "Map them first.")
    from stagescope.engine import stages

    texts = request.texts
    for reply in _part(0, _swept(engine.answer, request)):
        if isinstance(reply, CorpusSweep):
            sweep = reply
        yield reply
    for reply in _part(1, engine.answer(TakeEvidence(texts))):
        if isinstance(reply, Evidence) and reply.complete:
            evidence_ = reply
        yield reply
    for reply in _part(2, engine.answer(TakeCensus())):
        if isinstance(reply, Census):
            census = reply
        yield reply
    made = stages.stage_map(sweep, evidence_, census)
    if _parts_are_kept(engine, texts):
        cache.put(_map_key(engine, request, engine.info.dtype, engine.info.device.split(":")[0]), made)
    yield made


def _parts_are_kept(engine: AtHand, texts: Texts) -> bool:
    """Not of standard input, nor of a file that changed meanwhile, nor where some document did not fit into memory."""
    return bool(known(engine, TakeEvidence(texts)) and (texts.prompts or engine.known(_sweep_of(texts))))


def _part(number: int, replies: Iterator[Reply]) -> Iterator[Reply]:
    """The replies, their progress told as that of one part."""
    for reply in replies:
        yield replace(reply, stage=f"{PARTS[number]}, {reply.stage}") if isinstance(reply, Progress) else reply


def _swept(answer: Callable[[Request], Iterator[Reply]], request: MapStages) -> Iterator[Progress | CorpusSweep]:
    """Drops and swaps over the texts, pooled."""
    texts = request.texts
    if not texts.prompts:
        yield from answer(_sweep_of(texts))
        return
    latest: dict[tuple[str, str], Sweep] = {}
    asked = TakeSweep(texts.prompts)
    for reply in answer(asked):
        if isinstance(reply, Sweep):
            latest[reply.prompt, reply.kind] = reply
        else:
            yield reply
    yield over_prompts([latest[prompt, kind] for prompt in texts.prompts for kind in asked.kinds])


def _sweep_of(texts: Texts) -> SweepCorpus:
    return SweepCorpus(texts.file or "", tokens=texts.tokens, window=texts.window)


def _recalled_map(engine: AtHand, request: MapStages) -> StageMap | None:
    for dtype, device in question.machines(engine.info, engine.request):
        name = _map_key(engine, request, dtype, device)
        if name and isinstance(found := cache.get(name), StageMap):
            model = replace(found.model, name=engine.info.name, source=engine.info.source, prefix=engine.info.prefix)
            return replace(found, model=model)
    return None


def _map_key(engine: AtHand, request: MapStages, dtype: str, device: str) -> str | None:
    """Everything a map depends on: what its evidence does. None where that is not kept, as of standard input."""
    asked = TakeEvidence(request.texts)
    name = evidence.key(asked, engine.info, engine.request, engine.tokenizer, dtype, device)
    return name and cache.key("stages", name, question.means_text(engine.info))
