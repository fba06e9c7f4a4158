"""How a command asks the engine in this process, and prints what it answered. Nothing heavy is imported at start."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from stagescope.commands.arguments import load_request
from stagescope.console import last, print_json, print_lines, say

if TYPE_CHECKING:
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import Failure, Reply, Request


def ask(
    args: argparse.Namespace, *requests: Callable[[LocalEngine], Request], recall: bool = True, spare: Any = ()
) -> tuple[list[Reply], Failure | None]:
    """The model as it was loaded, or known before, and every answer that is no progress; or why there is none.

    recall: what the cache has of all of them is answered before the weights are loaded. spare: kinds of requests that may
    be refused as the text does not suffice (usage): their Failure stands among the answers.
    """
    wanted = load_request(args)
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.protocol import EngineError, ModelInfo, Progress

    engine, found = LocalEngine(), []

    def work() -> Iterator[Reply]:
        for reply in engine.answer(wanted):
            yield reply
            if isinstance(reply, ModelInfo) and recall and not reply.loaded and engine.certain:
                known = [engine.known(request(engine)) for request in requests]
                if all(known):
                    found.extend([reply, *chain(*known)])
                    return
        found.append(engine.info)
        for request in requests:
            asked = request(engine)
            try:
                for reply in engine.answer(asked):
                    if not isinstance(reply, Progress):
                        found.append(reply)
                    yield reply
            except EngineError as error:
                if not isinstance(asked, spare) or error.failure.kind != "usage":
                    raise
                found.append(error.failure)

    _, failure = last(work, args.quiet)
    if getattr(args, "corpus", None) == "-":
        of_text = [not isinstance(reply, ModelInfo) and hasattr(reply, "source") for reply in found]
        found = [replace(reply, source="standard input") if it else reply for reply, it in zip(found, of_text, strict=True)]
    return found, failure


def print_answer(args: argparse.Namespace, as_json: Callable[[], dict], as_text: Callable[[], Sequence[Any]]) -> None:
    print_json(as_json()) if args.json else print_lines(*as_text(), color=args.color)


def warn(sentences: Sequence[str]) -> None:
    from stagescope.text import printable

    for sentence in sentences:
        say(f"stagescope: {printable(sentence)}")
