"""The commands on heads, probes and causes: heads, probe, attribution, similarity."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stagescope.commands.arguments import file_of, prompt_of, texts_of
from stagescope.commands.asked import ask, print_answer, warn
from stagescope.console import fail, width

if TYPE_CHECKING:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import TakeAttribution, TakeProbe


def heads(args: argparse.Namespace) -> int:
    """Sub-joiner heads of a text; or, with a PROMPT, where one head looks on it."""
    from stagescope.engine.protocol import EngineError, FindHeads, ShowPattern
    from stagescope.reports import heads as heads_report

    if args.prompt is not None:
        layer, head = args.head
        request = ShowPattern(prompt_of(args.prompt), layer, head, args.edit)
        found, failure = ask(args, lambda engine: request)
        as_json, as_text = heads_report.pattern_json, heads_report.pattern_text
    else:
        try:
            with file_of(args.corpus) as file:
                found, failure = ask(args, lambda engine: FindHeads(file or "", args.pieces))
        except EngineError as error:
            return fail(error.failure)
        as_json, as_text = heads_report.heads_json, heads_report.heads_text
    if failure:
        return fail(failure)
    answer = found[-1]
    warn(answer.model.warnings)
    print_answer(args, lambda: as_json(answer), lambda: as_text(answer, width()))
    return 0


def probe(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import EngineError, FindToken, TakeProbe
    from stagescope.reports import probe as probe_report

    try:
        with file_of(args.corpus) as file:

            def request(engine: LocalEngine) -> TakeProbe:
                ids = dict.fromkeys(next(engine.answer(FindToken(text))).id for text in args.token)
                return TakeProbe(file or "", args.suffix, tuple(ids), args.contexts)

            found, failure = ask(args, request)
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    answer = found[-1]
    warn(answer.model.warnings)
    print_answer(args, lambda: probe_report.probe_json(answer), lambda: probe_report.probe_text(answer, width()))
    return 0


def attribution(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import FindToken, TakeAttribution
    from stagescope.reports import attribution as attribution_report

    prompt = prompt_of(args.prompt)

    def request(engine: LocalEngine) -> TakeAttribution:
        tracked = None if args.track is None else next(engine.answer(FindToken(args.track))).id
        return TakeAttribution(prompt, args.edit, tracked)

    found, failure = ask(args, request)
    if failure:
        return fail(failure)
    answer = found[-1]
    n_tokens = len(answer.tokens)
    if not -n_tokens <= args.position < n_tokens:
        from stagescope.engine.protocol import Failure

        hint = f"Use 0 to {n_tokens - 1}, or -1 for the last."
        return fail(Failure("usage", f"there is no position {args.position}: the prompt has {n_tokens} tokens.", hint))
    warn(answer.model.warnings)
    at = args.position % n_tokens
    as_text = lambda: attribution_report.attribution_text(answer, at, width())  # noqa: E731
    print_answer(args, lambda: attribution_report.attribution_json(answer, at), as_text)
    return 0


def similarity(args: argparse.Namespace) -> int:
    from stagescope.engine.protocol import EngineError, TakeSimilarity
    from stagescope.reports import similarity as similarity_report
    from stagescope.reports.reading import left_out

    try:
        with texts_of(args) as texts:
            found, failure = ask(args, lambda engine: TakeSimilarity(texts))
    except EngineError as error:
        return fail(error.failure)
    if failure:
        return fail(failure)
    answer = found[-1]
    warn([*answer.model.warnings, *left_out(answer, args.window or 512)])
    as_text = lambda: similarity_report.similarity_text(answer, width())  # noqa: E731
    print_answer(args, lambda: similarity_report.similarity_json(answer), as_text)
    return 0
