"""The engine in this process: answers requests one after the other, as generators of replies.

The child process runs this behind its pipes, the command line and the Python door call it directly. A generator gives
control back after every reply; inside a forward `checkpoint` is called between block calls and may raise Cancelled.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Literal

from stagescope.engine import directory, store
from stagescope.engine.at_hand import AtHand
from stagescope.engine.directory import Located
from stagescope.engine.prefix import prefix_text, prefix_token
from stagescope.engine.protocol import (
    EngineError,
    FindToken,
    Load,
    MapStages,
    Progress,
    Read,
    Reply,
    Request,
    ShowNeurons,
    SweepCorpus,
    TakeCensus,
    TakeEvidence,
    TakeLens,
    TakeSweep,
)
from stagescope.engine.tokens import light_tokenizer
from stagescope.text import printable


class LocalEngine(AtHand):
    """Engine (protocol.py) in this process."""

    def answer(self, request: Request) -> Iterator[Reply]:
        """Replies in order; the last is the result. Raises EngineError, Cancelled."""
        if self.info is None and not isinstance(request, Load):
            raise EngineError("error", "no model is loaded.", "Load one first.")
        with self.memory_told():
            if isinstance(request, Load):
                yield from self._load(request)
            else:
                yield from _answers(request).answer(self, request)

    def known(self, request: Request) -> tuple[Reply, ...]:
        """All of the answer from the cache, or nothing; works before the weights are loaded.

        Raises EngineError for what no weights will make possible, as far as that can be told.
        """
        return _answers(request).known(self, request)

    @contextmanager
    def memory_told(self) -> Iterator[None]:
        """When memory runs out what was kept is given back, and an EngineError says so."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            from stagescope.engine.memory import is_out_of_memory, out_of_memory

            if not is_out_of_memory(error):
                raise
            self.free()
            raise out_of_memory(self.info.device if self.info else "the host") from error

    async def ask(self, request: Request) -> AsyncIterator[Reply]:
        """The same, for who expects an Engine; the event loop waits while a block runs."""
        try:
            for reply in self.answer(request):
                yield reply
        except EngineError as error:
            yield error.failure

    async def close(self) -> None:
        self.free()
        self.net = None

    # ------------------------------------------------------------------------------------------- loading

    def _load(self, request: Load) -> Iterator[Reply]:
        """What was loaded before stays until the new model is found: a name mistyped costs nothing."""
        for name in ("threads", "memory"):
            if (given := getattr(request, name)) is not None and given < 1:
                raise EngineError("usage", f"{name} cannot be {given}.", "Give 1 or more, or nothing.")
        located = yield from self._locate(request)
        preview = directory.preview(located)
        try:
            tokenizer = light_tokenizer(located.directory)
        except ValueError as error:
            raise EngineError("missing", f"{printable(str(error))}.") from error
        text = prefix_text(request, located.known.prefix if located.known else None)
        certain = tokenizer is not None and text is not None and not request.chat
        prefix = prefix_token(tokenizer, text) if certain else None
        fingerprint = directory.fingerprint(located.directory)

        self.free()
        self.net = self.averages = self.census = None
        self.request, self.tokenizer, self.certain = request, tokenizer, certain
        wanted = {"dtype": preview.dtype if request.dtype == "auto" else request.dtype, "device": request.device or preview.device}
        self.info = replace(preview, fingerprint=fingerprint, prefix=prefix, **wanted)
        self.ends = directory.end_tokens(located.directory)
        yield self.info
        from stagescope.engine import (  # torch and transformer_lens: seconds
            load,
            memory,
        )

        memory.free_cached_memory()
        for reply in load.load(request, located):
            if isinstance(reply, Progress):
                yield reply
                continue
            self.net, info = reply
            self.info = replace(info, fingerprint=fingerprint)
            self.tokenizer, self.certain = self.net.tokenizer, True
            yield self.info

    def _locate(self, request: Load) -> Generator[Progress, None, Located]:
        """Find the model, fetching it when it is not here: in a thread, so that its progress comes out meanwhile."""
        reports: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        wanted, found = True, concurrent.futures.Future()

        def work() -> None:
            try:
                report = lambda stage, done, left: reports.put(Progress(stage, done, left))  # noqa: E731
                found.set_result(store.locate(request.model, request.offline, report, lambda: not wanted))
            except BaseException as error:  # carried over to who asked
                found.set_exception(error)
            reports.put(None)

        yield Progress(f"looking for {printable(request.model)}", 0.0)
        threading.Thread(target=work, daemon=True).start()
        try:
            while (progress := _next(reports)) is not None:
                self.checkpoint()
                if progress:
                    yield progress
        finally:
            wanted = False
        return found.result()


def _answers(request: Request) -> ModuleType:
    """The module that answers it, imported when it is needed: all of them take 70 ms."""
    match request:
        case Read() | FindToken():
            from stagescope.engine import reading_answers as module
        case TakeSweep() | SweepCorpus():
            from stagescope.engine import sweep_answers as module
        case TakeCensus() | TakeEvidence() | TakeLens() | ShowNeurons() | MapStages():
            from stagescope.engine import stage_answers as module
        case _:
            from stagescope.engine import cause_answers as module
    return module


def _next(reports: queue.SimpleQueue[Progress | None]) -> Progress | None | Literal[False]:
    """The next report, None at the end, False when none came for a while: time to look whether it is still wanted."""
    try:
        return reports.get(timeout=0.2)
    except queue.Empty:
        return False
