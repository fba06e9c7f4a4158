"""The commands on what every layer shows: attention, norms, lens, neurons, stages, and the paper's figures at once.

Each asks the engine for one thing over some prompts, a file, or with neither the standard text.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagescope.arguments import expect_file, expect_place, load_request, prompt_of, prompts_of, stdin
from stagescope.console import fail, last, print_json, print_lines, say, width

if TYPE_CHECKING:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Failure, Reply, Request, Texts


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

    found, failure = _ask(args, request)
    if failure:
        return fail(failure)
    from stagescope import lens_report

    curves = next(reply for reply in found if isinstance(reply, LensCurves))
    _warn(curves.model.warnings)
    _print(args, lambda: lens_report.lens_json(curves), lambda: lens_report.lens_text(curves, width()))
    return 0


def neurons(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import Census, Neurons, ShowNeurons, TakeCensus

    prompt = prompt_of(args.prompt) if args.prompt else ""
    asked: list[Request] = [TakeCensus()]
    if args.top:
        asked.append(ShowNeurons(args.layer, args.top, prompt))
    found, failure = _ask(args, *(lambda engine, one=one: one for one in asked))
    if failure:
        return fail(failure)
    from stagescope import neurons_report

    census = next(reply for reply in reversed(found) if isinstance(reply, Census))
    strongest = next((reply for reply in reversed(found) if isinstance(reply, Neurons)), None)
    info = found[0]
    _warn(info.warnings)
    as_json = lambda: neurons_report.neurons_json(census, info, strongest)  # noqa: E731
    _print(args, as_json, lambda: neurons_report.neurons_text(census, strongest, width()))
    return 0


def stages(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import EngineError, MapStages, StageMap

    try:
        with _texts(args) as texts:
            found, failure = _ask(args, lambda engine: MapStages(texts))
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    from stagescope import stages_report

    mapped = next(reply for reply in reversed(found) if isinstance(reply, StageMap))
    _warn(mapped.model.warnings)
    _print(args, lambda: stages_report.stages_json(mapped, mapped.model), lambda: stages_report.stages_text(mapped, width()))
    return 0


def paper(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import Census, CorpusSweep, EngineError, Evidence, MapStages, StageMap
    from stagescope.text import printable

    try:
        expect_place(args.out, "the report")
        with _texts(args) as texts:
            found, failure = _ask(args, lambda engine: MapStages(texts), recall=False)  # the parts as well
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    from stagescope.paper import PaperData, write
    from stagescope.report import left_out

    latest = {type(reply): reply for reply in found}
    data = PaperData(found[0], latest[CorpusSweep], latest[Evidence], latest[Census], latest[StageMap])
    _warn([*data.info.warnings, *left_out(data.evidence, args.window or 512)])
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


# ------------------------------------------------------------------------------------------- what is shared


def _evidence(args: argparse.Namespace, lenses: tuple[str, ...]) -> int:
    """Attention, norms or means of the lens over some texts."""
    from stagescope.engine.protocol import EngineError, Evidence, TakeEvidence

    try:
        with _texts(args) as texts:
            found, failure = _ask(args, lambda engine: TakeEvidence(texts, lenses))
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    from stagescope import evidence_report, lens_report
    from stagescope.report import left_out

    evidence = next(reply for reply in reversed(found) if isinstance(reply, Evidence))
    _warn([*evidence.model.warnings, *left_out(evidence, args.window or 512)])
    written: dict[str, tuple[Callable[[], dict], Callable[[], Sequence[Any]]]] = {
        "attention": (
            lambda: evidence_report.attention_json(evidence),
            lambda: evidence_report.attention_text(evidence, width(), args.k),
        ),
        "norms": (lambda: evidence_report.norms_json(evidence), lambda: evidence_report.norms_text(evidence, width())),
        "lens": (
            lambda: lens_report.lens_means_json(evidence),
            lambda: lens_report.lens_means_text(evidence, width()),
        ),
    }
    _print(args, *written[args.command])
    return 0


@contextmanager
def _texts(args: argparse.Namespace) -> Iterator[Texts]:
    """What is measured over. Standard input is put into a file, for it is read more than once."""
    from stagescope.engine.protocol import Texts

    expect_file(args.corpus)
    prompts = prompts_of(args.prompts)
    with tempfile.TemporaryDirectory(prefix="stagescope-") as folder:
        file = args.corpus
        if file == "-":
            file = os.path.join(folder, "standard input")
            Path(file).write_bytes(stdin())
        yield Texts(prompts, file, args.tokens, args.window or 512)


def _ask(
    args: argparse.Namespace, *requests: Callable[[LocalEngine], Request], recall: bool = True
) -> tuple[list[Reply], Failure | None]:
    """The model as it was loaded, or known before, and every answer that is no progress; or why there is none.

    recall: what the cache has of all of them is answered before the weights are loaded.
    """
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import CorpusSweep, Evidence, ModelInfo, Progress, StageMap

    engine, found = LocalEngine(), []

    def work() -> Iterator[Reply]:
        for reply in engine.answer(load_request(args)):
            yield reply
            if isinstance(reply, ModelInfo) and recall and not reply.loaded and engine.certain:
                known = [engine.known(request(engine)) for request in requests]
                if all(known):
                    found.extend([reply, *known])
                    return
        found.append(engine.info)
        for request in requests:
            for reply in engine.answer(request(engine)):
                if not isinstance(reply, Progress):
                    found.append(reply)
                yield reply

    _, failure = last(work, args.quiet)
    if getattr(args, "corpus", None) == "-":
        of_text = Evidence | CorpusSweep | StageMap
        found = [replace(reply, source="standard input") if isinstance(reply, of_text) else reply for reply in found]
    return found, failure


def _print(args: argparse.Namespace, as_json: Callable[[], dict], as_text: Callable[[], Sequence[Any]]) -> None:
    print_json(as_json()) if args.json else print_lines(*as_text())


def _warn(sentences: Sequence[str]) -> None:
    from stagescope.text import printable

    for sentence in sentences:
        say(f"stagescope: {printable(sentence)}")
