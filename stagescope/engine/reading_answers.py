"""How the local engine answers a Read, and finds a token. What the cache has is answered before the weights are loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from stagescope.engine import question
from stagescope.engine.at_hand import AtHand, read_only
from stagescope.engine.plan import uses_means
from stagescope.engine.protocol import EngineError, FindToken, Read, Reading, Reply
from stagescope.engine.question import Question
from stagescope.engine.tokens import PromptError, Token, encode, texts
from stagescope.text import printable


def known(engine: AtHand, request: Read | FindToken) -> tuple[Reply, ...]:
    """The whole reading from the cache, if it is there. Raises EngineError for what no weights will make readable."""
    if isinstance(request, FindToken):
        return tuple(_find(engine, request)) if engine.tokenizer else ()
    if not engine.certain:
        question.planned(request.schedule, engine.info, None)
        return ()
    found = _recalled(engine, question.question(request, engine.request, engine.info, engine.tokenizer))
    return (found,) if found else ()


def answer(engine: AtHand, request: Read | FindToken) -> Iterator[Reply]:
    return _find(engine, request) if isinstance(request, FindToken) else _read(engine, request)


def _recalled(engine: AtHand, asked: Question) -> Reading | None:
    return question.recalled(asked, engine.info, engine.request) if engine.request.cache else None


def _read(engine: AtHand, request: Read) -> Iterator[Reply]:
    began = time.perf_counter()
    if not engine.certain:
        question.planned(request.schedule, engine.info, None)
        engine.need_weights()
    asked = question.question(request, engine.request, engine.info, engine.tokenizer)
    if request.part in ("all", "whole") and (found := _recalled(engine, asked)):
        yield replace(found, milliseconds=_ms(began))
        return
    engine.need_weights()
    from stagescope.engine.reading import read

    prompt = engine.prompt_at_hand(asked)
    if uses_means(asked.plan):
        yield from engine.measure_averages()
    baseline_of = (request.lens, request.tracked, request.top)
    try:
        for part in {"all": ["position", "whole"]}.get(request.part, [request.part]):
            positions = range(len(asked.ids)) if part == "whole" else [asked.position]
            reading = read(
                engine.net,
                engine.info,
                prompt,
                replace(request, part=part),
                str(asked.schedule),
                asked.plan,
                positions,
                baseline=engine.baselines.get(baseline_of),
                averages=engine.averages,
                checkpoint=engine.step_of(f"reading {len(positions)} positions"),
            )
            yield replace(reading, milliseconds=_ms(began))
            if part == "whole":
                engine.baselines[baseline_of] = read_only(replace(reading.baseline or reading, schedule=""))
                if engine.request.cache:
                    question.remember(asked, reading, engine.info)
    finally:
        if engine.prompt is prompt:
            engine.let_go(asked)


def _find(engine: AtHand, request: FindToken) -> Iterator[Token]:
    """A word is tried with a space before it first: that is how it stands inside a text."""
    if engine.tokenizer is None:
        engine.need_weights()
    for text in (f" {request.text}", request.text) if not request.text.startswith(" ") else (request.text,):
        try:
            ids = encode(engine.tokenizer, text, None)
        except PromptError as error:
            raise EngineError("usage", f"{error}.") from error
        if len(ids) == 1:
            yield Token(ids[0], texts(engine.tokenizer, ids)[ids[0]])
            return
    shown = printable(request.text)
    raise EngineError("usage", f"“{shown}” is {len(ids)} tokens, one can be tracked.", "Try its first piece.")


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000
