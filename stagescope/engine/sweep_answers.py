"""How the local engine answers sweeps, of prompts and of a text. What the cache has is answered before the weights are loaded."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from stagescope.engine import sweep
from stagescope.engine.at_hand import AtHand
from stagescope.engine.protocol import Census, CorpusSweep, Progress, Reply, Sweep, SweepCorpus, TakeCensus, TakeSweep

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages


def known(engine: AtHand, request: TakeSweep | SweepCorpus) -> tuple[Sweep, ...] | tuple[CorpusSweep, ...]:
    """Every sweep of a request from the cache, if all are there; that of a text, if its file was not touched since.

    Raises EngineError for what no weights will make possible.
    """
    from stagescope.engine import corpus

    of_text = isinstance(request, SweepCorpus)
    (corpus if of_text else sweep).check(request, engine.info)
    if not engine.certain or not engine.request.cache:
        return ()
    census = None
    if sweep.wants_census(request):
        if not (found := engine.known(TakeCensus())):
            return ()
        (census,) = found
    if of_text:
        found = corpus.recalled(request, engine.info, engine.request, census)
        return (found,) if found else ()
    units = sweep.settle(request, engine.request, engine.info, engine.tokenizer, census)
    return tuple(unit.sweep for unit in units) if sweep.recall(units, engine.info, engine.request) else ()


def answer(engine: AtHand, request: TakeSweep | SweepCorpus) -> Iterator[Reply]:
    return (_of_text if isinstance(request, SweepCorpus) else _of_prompts)(engine, request)


def _of_prompts(engine: AtHand, request: TakeSweep) -> Iterator[Reply]:
    sweep.check(request, engine.info)
    if not engine.certain:
        engine.need_weights()
    census = yield from _census_for(engine, request)
    units = sweep.settle(request, engine.request, engine.info, engine.tokenizer, census)
    if engine.request.cache and sweep.recall(units, engine.info, engine.request):
        yield from (unit.sweep for unit in units)
        return
    engine.need_weights()
    if sweep.wants_means(units):
        yield from engine.measure_averages()
    for reply in sweep.take(engine.net, engine.info, units, engine.averages, engine.swept, engine.request.cache):
        engine.checkpoint()
        yield reply


def _of_text(engine: AtHand, request: SweepCorpus) -> Iterator[Reply]:
    from stagescope.engine import corpus

    if engine.net is None:
        if found := known(engine, request):
            yield from found
            return
        engine.need_weights()

    def measure() -> Generator[Progress, None, Averages]:
        yield from engine.measure_averages()
        return engine.averages

    corpus.check(request, engine.info)
    census = yield from _census_for(engine, request)
    asked = (engine.request, request, engine.tokenizer, measure, census)
    for reply in corpus.sweep_corpus(engine.net, engine.info, *asked):
        engine.checkpoint()
        yield reply


def _census_for(engine: AtHand, request: TakeSweep | SweepCorpus) -> Generator[Progress, None, Census | None]:
    """The census that says which neurons a sweep means; None where it needs none."""
    census = None
    for reply in engine.answer(TakeCensus()) if sweep.wants_census(request) else ():
        if isinstance(reply, Census):
            census = reply
        else:
            yield reply
    return census
