"""The engine in this process: answers requests one after the other, as generators of replies.

The child process runs this behind its pipes, the command line and the Python door call it directly. A generator gives
control back after every reply; inside a forward `checkpoint` is called between block calls and may raise Cancelled.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from stagescope.engine import cache, directory, question, store, sweep
from stagescope.engine.directory import Located
from stagescope.engine.plan import uses_means
from stagescope.engine.prefix import prefix_text, prefix_token
from stagescope.engine.progress import timed
from stagescope.engine.protocol import (
    Census,
    CorpusSweep,
    EngineError,
    FindHeads,
    FindToken,
    Generate,
    Load,
    MapStages,
    ModelInfo,
    Progress,
    Read,
    Reading,
    Reply,
    Request,
    ShowNeurons,
    ShowPattern,
    Sweep,
    SweepCorpus,
    TakeAttribution,
    TakeCensus,
    TakeComparison,
    TakeEvidence,
    TakeLens,
    TakeProbe,
    TakeSimilarity,
    TakeSweep,
)
from stagescope.engine.question import Question
from stagescope.engine.tokens import PromptError, Token, encode, light_tokenizer, texts
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.outcomes import Kept
    from stagescope.engine.reading import Prompt

OfStages = TakeEvidence | TakeLens | ShowNeurons | MapStages
OfCauses = FindHeads | ShowPattern | TakeAttribution | TakeSimilarity | TakeProbe | TakeComparison | Generate
PATIENCE = 1.0  # seconds of a reading after which its progress is told
Shared = TypeVar("Shared")
KEPT_BYTES = 512 * 2**20  # residual streams kept for the prompt at hand, so that a toggle starts at its first change


class Cancelled(Exception):
    """Raised by a checkpoint: the answer is not wanted any more."""


def read_only(reply: Shared) -> Shared:
    """Answers that are kept share their arrays with later ones: who has one cannot write into them."""
    for value in vars(reply).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return reply


@dataclass
class LocalEngine:
    """Engine (protocol.py) in this process. `checkpoint` and `tell` are set by who may interrupt and listens."""

    checkpoint: Callable[[], None] = lambda: None
    tell: Callable[[Progress], None] = lambda progress: None  # of one long step, from within it
    request: Load | None = None
    info: ModelInfo | None = None  # loaded is False until the weights are there
    ends: frozenset[int] = frozenset()  # tokens that end a text
    certain: bool = False  # whether the tokens of a prompt are known for sure: always once the weights are there
    tokenizer: Any = None
    net: Network | None = None
    prompt: Prompt | None = None  # the prompt at hand, with what has run on it
    averages: Averages | None = None
    census: Census | None = None  # as soon as any request has taken it
    readings: int = 0  # made so far: the clock of runner.let_go
    baselines: dict[tuple, Reading] = field(default_factory=dict)  # whole, of the prompt at hand
    vocabulary: dict = field(default_factory=dict)  # of engine/strongest.py, prepared: from one layer's neurons to the next
    swept: Kept = field(default_factory=dict)  # baselines of the prompts swept last: a deck, edited again and again

    def answer(self, request: Request) -> Iterator[Reply]:
        """Replies in order; the last is the result. Raises EngineError, Cancelled."""
        work = {Load: self._load, Read: self._read, TakeCensus: self._census, FindToken: self._find}
        work |= {TakeSweep: self._sweep, SweepCorpus: self._corpus}
        if self.info is None and not isinstance(request, Load):
            raise EngineError("error", "no model is loaded.", "Load one first.")
        with self.memory_told():
            if isinstance(request, OfStages):
                yield from self._of_stages(request)
            elif isinstance(request, OfCauses):
                from stagescope.engine import cause_answers

                yield from cause_answers.answer(self, request)
            else:
                yield from work[type(request)](request)

    @contextmanager
    def memory_told(self) -> Iterator[None]:
        """When memory runs out what was kept is given back, and an EngineError says so."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            from stagescope.engine.memory import is_out_of_memory, out_of_memory

            if not is_out_of_memory(error):
                raise
            self._free()
            raise out_of_memory(self.info.device if self.info else "the host") from error

    async def ask(self, request: Request) -> AsyncIterator[Reply]:
        """The same, for who expects an Engine; the event loop waits while a block runs."""
        try:
            for reply in self.answer(request):
                yield reply
        except EngineError as error:
            yield error.failure

    async def close(self) -> None:
        self._free()
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

        self._free()
        self.net = self.averages = self.census = None
        self.request, self.tokenizer, self.certain = request, tokenizer, certain
        self.info, self.ends = replace(preview, fingerprint=fingerprint, prefix=prefix), directory.end_tokens(located.directory)
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

    # ------------------------------------------------------------------------------------------- reading

    def cached(self, request: Read) -> Reading | None:
        """The whole reading from the cache, if it is there; works before the weights are loaded.

        Raises EngineError for what no weights will make readable.
        """
        if not self.certain:
            question.planned(request.schedule, self.info, None)
            return None
        return self._recalled(question.question(request, self.request, self.info, self.tokenizer))

    def _recalled(self, asked: Question) -> Reading | None:
        return question.recalled(asked, self.info, self.request) if self.request.cache else None

    def _read(self, request: Read) -> Iterator[Reply]:
        began = time.perf_counter()
        if not self.certain:
            question.planned(request.schedule, self.info, None)
            self.need_weights()
        asked = question.question(request, self.request, self.info, self.tokenizer)
        if request.part in ("all", "whole") and (found := self._recalled(asked)):
            yield replace(found, milliseconds=_ms(began))
            return
        self.need_weights()
        from stagescope.engine.reading import read

        prompt = self.prompt_at_hand(asked)
        if uses_means(asked.plan):
            yield from self.measure_averages()
        baseline_of = (request.lens, request.tracked, request.top)
        try:
            for part in {"all": ["position", "whole"]}.get(request.part, [request.part]):
                positions = range(len(asked.ids)) if part == "whole" else [asked.position]
                reading = read(
                    self.net,
                    self.info,
                    prompt,
                    replace(request, part=part),
                    str(asked.schedule),
                    asked.plan,
                    positions,
                    baseline=self.baselines.get(baseline_of),
                    averages=self.averages,
                    checkpoint=self.step_of(f"reading {len(positions)} positions"),
                )
                yield replace(reading, milliseconds=_ms(began))
                if part == "whole":
                    self.baselines[baseline_of] = read_only(replace(reading.baseline or reading, schedule=""))
                    if self.request.cache:
                        question.remember(asked, reading, self.info)
        finally:
            if self.prompt is prompt:
                self.let_go(asked)

    def step_of(self, stage: str) -> Callable[[float], None]:
        """What a reading calls with the fraction done: it may stop there, and a long one says how far it is."""
        began = time.monotonic()

        def report(*what: Any) -> None:
            if time.monotonic() - began > PATIENCE:
                self.tell(Progress(*what))

        at = timed(report, stage)

        def step(fraction: float) -> None:
            self.checkpoint()
            at(fraction)

        return step

    def need_weights(self) -> None:
        if self.net is None:
            raise EngineError("error", "the weights are not loaded yet.", "Ask again when they are.")

    def prompt_at_hand(self, asked: Question) -> Prompt:
        if self.prompt and tuple(token.id for token in self.prompt.tokens) == asked.ids:
            self.prompt.text = asked.request.prompt
            return self.prompt
        self._forget_prompt()
        self.prompt = self.begin(asked)
        return self.prompt

    def begin(self, asked: Question) -> Prompt:
        """A prompt on which nothing has run."""
        import torch

        from stagescope.engine import blocks
        from stagescope.engine.reading import Prompt
        from stagescope.engine.runner import Node

        self.checkpoint()
        begun = blocks.start(self.net, torch.tensor([asked.ids]))
        spelled = texts(self.tokenizer, asked.ids)
        tokens = tuple(Token(token, spelled[token]) for token in asked.ids)
        return Prompt(asked.request.prompt, tokens, begun, Node(x=begun.x[0]))

    def let_go(self, asked: Question) -> None:
        """Keep the residuals of the prompt at hand within their budget, the baseline's and the latest always."""
        from stagescope.engine.runner import let_go, path

        self.readings += 1
        keep = path(self.prompt.root, asked.baseline().plan) + path(self.prompt.root, asked.plan)
        for node in keep:
            node.used = self.readings
        let_go(self.prompt.root, keep, KEPT_BYTES)

    def _free(self) -> None:
        self._forget_prompt()
        self.swept.clear()
        self.vocabulary.clear()

    def _forget_prompt(self) -> None:
        self.prompt = None
        self.baselines.clear()

    # ---------------------------------------------------------------------------------- neurons, tokens

    def measure_averages(self) -> Iterator[Progress]:
        """What a text says of every sublayer and neuron: measured once per model."""
        if self.averages is not None:
            return
        from stagescope.engine import averages

        for reply in averages.measure(self.net, self.info.prefix.id if self.info.prefix else None):
            self.checkpoint()
            if isinstance(reply, Progress):
                yield reply
            else:
                self.averages = reply

    def cached_census(self) -> Census | None:
        """The census, if it was taken before; works before the weights are loaded."""
        if self.census is None and self.certain and self.request.cache:
            return question.recalled_census(self.info)
        return self.census and replace(self.census, cached=True)

    def _census(self, request: TakeCensus) -> Iterator[Reply]:
        if found := self.cached_census():
            yield found
            return
        self.need_weights()
        from stagescope.engine import neurons

        if self.net.gated:
            yield from self.measure_averages()
        for reply in neurons.census(self.net, self.info, self.averages):
            self.checkpoint()
            if found := self.census and self.cached_census():  # another request took it meanwhile
                yield found
                return
            if isinstance(reply, Census):
                self.census = read_only(reply)
                if self.request.cache:
                    cache.put(question.census_key(self.info), reply)
            yield reply

    # ------------------------------------------------------------------------------------------- sweeps

    def cached_sweeps(self, request: TakeSweep) -> list[Sweep] | None:
        """Every sweep of a request from the cache, if all are there; works before the weights are loaded.

        Raises EngineError for what no weights will make possible.
        """
        sweep.check(request, self.info)
        if not self.certain or not self.request.cache:
            return None
        census = self.cached_census() if (wanted := sweep.wants_census(request)) else None
        if wanted and census is None:
            return None
        units = sweep.settle(request, self.request, self.info, self.tokenizer, census)
        return [unit.sweep for unit in units] if sweep.recall(units, self.info, self.request) else None

    def _sweep(self, request: TakeSweep) -> Iterator[Reply]:
        sweep.check(request, self.info)
        if not self.certain:
            self.need_weights()
        census = yield from self._census_for(request)
        units = sweep.settle(request, self.request, self.info, self.tokenizer, census)
        if self.request.cache and sweep.recall(units, self.info, self.request):
            yield from (unit.sweep for unit in units)
            return
        self.need_weights()
        if sweep.wants_means(units):
            yield from self.measure_averages()
        for reply in sweep.take(self.net, self.info, units, self.averages, self.swept, self.request.cache):
            self.checkpoint()
            yield reply

    def _census_for(self, request: TakeSweep | SweepCorpus) -> Generator[Progress, None, Census | None]:
        """The census that says which neurons a sweep means; None where it needs none."""
        census = None
        for reply in self._census(TakeCensus()) if sweep.wants_census(request) else ():
            if isinstance(reply, Census):
                census = reply
            else:
                yield reply
        return census

    def cached_corpus(self, request: SweepCorpus) -> CorpusSweep | None:
        """The same of a corpus whose file was not touched since."""
        from stagescope.engine import corpus

        corpus.check(request, self.info)
        if not self.certain or not self.request.cache:
            return None
        census = self.cached_census() if (wanted := sweep.wants_census(request)) else None
        if wanted and census is None:
            return None
        return corpus.recalled(request, self.info, self.request, census)

    def _corpus(self, request: SweepCorpus) -> Iterator[Reply]:
        from stagescope.engine import corpus

        if self.net is None:
            if found := self.cached_corpus(request):
                yield found
                return
            self.need_weights()

        def measure() -> Generator[Progress, None, Averages]:
            yield from self.measure_averages()
            return self.averages

        corpus.check(request, self.info)
        census = yield from self._census_for(request)
        asked = (self.request, request, self.tokenizer, measure, census)
        for reply in corpus.sweep_corpus(self.net, self.info, *asked):
            self.checkpoint()
            yield reply

    # ---------------------------------------------------------------------------------- stages, causes

    def known(self, request: OfStages | OfCauses) -> Reply | None:
        """The answer from the cache, if it is there; works before the weights are loaded."""
        from stagescope.engine import cause_answers, stage_answers

        return (cause_answers if isinstance(request, OfCauses) else stage_answers).known(self, request)

    def _of_stages(self, request: OfStages) -> Iterator[Reply]:
        from stagescope.engine import stage_answers

        if not self.certain:
            self.need_weights()
        answer = {
            TakeEvidence: stage_answers.take_evidence,
            TakeLens: stage_answers.take_lens,
            ShowNeurons: stage_answers.show_neurons,
            MapStages: stage_answers.map_stages,
        }
        yield from answer[type(request)](self, request)

    def _find(self, request: FindToken) -> Iterator[Reply]:
        """A word is tried with a space before it first: that is how it stands inside a text."""
        if self.tokenizer is None:
            self.need_weights()
        for text in (f" {request.text}", request.text) if not request.text.startswith(" ") else (request.text,):
            try:
                ids = encode(self.tokenizer, text, None)
            except PromptError as error:
                raise EngineError("usage", f"{error}.") from error
            if len(ids) == 1:
                yield Token(ids[0], texts(self.tokenizer, ids)[ids[0]])
                return
        shown = printable(request.text)
        raise EngineError("usage", f"“{shown}” is {len(ids)} tokens, one can be tracked.", "Try its first piece.")


def _next(reports: queue.SimpleQueue[Progress | None]) -> Progress | None | Literal[False]:
    """The next report, None at the end, False when none came for a while: time to look whether it is still wanted."""
    try:
        return reports.get(timeout=0.2)
    except queue.Empty:
        return False


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000
