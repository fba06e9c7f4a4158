"""The commands on what every layer shows: attention, norms, lens, neurons, stages, and the paper's figures at once.

Each asks the engine for one thing over some prompts, a file, or with neither the standard text.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagescope.commands.arguments import expect_place, prompt_of, prompts_of, texts_of
from stagescope.commands.asked import ask, print_answer, warn
from stagescope.console import fail, print_json, print_lines, say, width

if TYPE_CHECKING:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Request


def attention(args: argparse.Namespace) -> int:
    return _evidence(args, ())


def norms(args: argparse.Namespace) -> int:
    return _evidence(args, ())


def lens(args: argparse.Namespace) -> int:
    if len(args.prompts) != 1 or args.corpus is not None or args.mean:
        from stagescope.engine.protocol import LENSES

        return _evidence(args, LENSES)
    from stagescope.engine.protocol import EngineError, FindToken, LensCurves, TakeLens

    try:
        (prompt,) = prompts_of(args.prompts)
    except EngineError as error:
        return fail(error.failure)

    def request(engine: LocalEngine) -> TakeLens:
        followed = dict.fromkeys(next(engine.answer(FindToken(text))).id for text in args.follow)
        return TakeLens(prompt, args.edit, args.position, tuple(followed))

    found, failure = ask(args, request)
    if failure:
        return fail(failure)
    from stagescope.reports import lens as lens_report

    curves = next(reply for reply in found if isinstance(reply, LensCurves))
    warn(curves.model.warnings)
    print_answer(args, lambda: lens_report.lens_json(curves), lambda: lens_report.lens_text(curves, width()))
    return 0


def neurons(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import Census, Neurons, ShowNeurons, TakeCensus

    prompt = prompt_of(args.prompt) if args.prompt else ""
    asked: list[Request] = [TakeCensus()]
    if args.top:
        asked.append(ShowNeurons(args.layer, args.top, prompt))
    found, failure = ask(args, *(lambda engine, one=one: one for one in asked))
    if failure:
        return fail(failure)
    from stagescope.reports import neurons as neurons_report

    census = next(reply for reply in reversed(found) if isinstance(reply, Census))
    strongest = next((reply for reply in reversed(found) if isinstance(reply, Neurons)), None)
    info = found[0]
    warn(info.warnings)
    as_json = lambda: neurons_report.neurons_json(census, info, strongest)  # noqa: E731
    print_answer(args, as_json, lambda: neurons_report.neurons_text(census, strongest, width()))
    return 0


def stages(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import EngineError, MapStages, StageMap

    try:
        with texts_of(args) as texts:
            found, failure = ask(args, lambda engine: MapStages(texts))
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    from stagescope.reports import stages as stages_report

    mapped = next(reply for reply in reversed(found) if isinstance(reply, StageMap))
    warn(mapped.model.warnings)
    print_answer(args, lambda: stages_report.stages_json(mapped, mapped.model), lambda: stages_report.stages_text(mapped, width()))
    return 0


def paper(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import (
        Census,
        CorpusSweep,
        EngineError,
        Evidence,
        Failure,
        FindHeads,
        HeadScores,
        MapStages,
        Probe,
        StageMap,
        TakeProbe,
    )
    from stagescope.text import printable

    try:
        expect_place(args.out, "the report")
        with texts_of(args) as texts:  # words and contexts of prompts are too few: of the standard text then
            requests = (MapStages(texts), FindHeads(texts.file or ""), TakeProbe(texts.file or ""))
            each = [lambda engine, one=one: one for one in requests]
            found, failure = ask(args, *each, recall=False, spare=FindHeads | TakeProbe)  # the parts of the map as well
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    from stagescope.paper.page import PaperData, write
    from stagescope.reports.reading import left_out

    latest = {type(reply): reply for reply in found}
    of_map = (latest[kind] for kind in (CorpusSweep, Evidence, Census, StageMap))
    refused = [reply for reply in found if isinstance(reply, Failure)]
    heads = latest.get(HeadScores) or refused.pop(0)
    data = PaperData(found[0], *of_map, heads, latest.get(Probe) or refused.pop(0))
    warn([*data.info.warnings, *left_out(data.evidence, args.window or 512)])
    try:
        page, numbers = write(Path(args.out), data)
    except OSError as error:
        say(f"stagescope: the report cannot be written to {printable(args.out)} ({error.strerror}).")
        return 1
    if args.json:
        print_json({"schema": "paper-files/1", "report": str(page), "numbers": str(numbers)})
    else:
        print_lines(printable(str(page)), printable(str(numbers)))
    return 0


def _evidence(args: argparse.Namespace, lenses: tuple[str, ...]) -> int:
    """Attention, norms or means of the lens over some texts."""
    from stagescope.engine.protocol import EngineError, Evidence, FindHeads, HeadScores, TakeEvidence

    try:
        with texts_of(args) as texts:
            asked: list[Request] = [TakeEvidence(texts, lenses)]
            if args.command == "attention" and args.json:  # ten seconds of a CPU the first time
                asked.append(FindHeads(texts.file or ""))
            found, failure = ask(args, *(lambda engine, one=one: one for one in asked), spare=FindHeads)
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    from stagescope.reports import evidence as evidence_report
    from stagescope.reports import heads as heads_report
    from stagescope.reports import lens as lens_report
    from stagescope.reports.reading import left_out

    evidence = next(reply for reply in reversed(found) if isinstance(reply, Evidence))
    heads = next((heads_report.subjoiner_heads(reply) for reply in found if isinstance(reply, HeadScores)), None)
    warn([*evidence.model.warnings, *left_out(evidence, args.window or 512)])
    written: dict[str, tuple[Callable[[], dict], Callable[[], Sequence[Any]]]] = {
        "attention": (
            lambda: evidence_report.attention_json(evidence, heads),
            lambda: evidence_report.attention_text(evidence, width(), args.k),
        ),
        "norms": (lambda: evidence_report.norms_json(evidence), lambda: evidence_report.norms_text(evidence, width())),
        "lens": (
            lambda: lens_report.lens_means_json(evidence),
            lambda: lens_report.lens_means_text(evidence, width()),
        ),
    }
    print_answer(args, *written[args.command])
    return 0
