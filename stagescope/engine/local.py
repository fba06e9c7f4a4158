"""The engine in this process: answers requests one after the other, as generators of replies.

The child process runs this behind its pipes, the command line and the Python door call it directly. A generator gives
control back after every reply; inside a forward `checkpoint` is called between block calls and may raise Cancelled.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from stagescope.engine import cache, checkpoint, store
from stagescope.engine.protocol import (
    LENSES,
    Census,
    EngineError,
    FindToken,
    Load,
    ModelInfo,
    Progress,
    Read,
    Reading,
    Reply,
    Request,
    TakeCensus,
)
from stagescope.engine.schedule import Plan, Schedule, ScheduleError, parse, resolve
from stagescope.engine.tokens import PromptError, Token, encode, light_tokenizer, texts
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.reading import Prompt

KEPT_BYTES = 512 * 2**20  # residual streams kept for the prompt at hand, so that a toggle starts at its first change


class Cancelled(Exception):
    """Raised by a checkpoint: the answer is not wanted any more."""


@dataclass(frozen=True)
class Asked:
    """A Read made definite: token ids, the plan, and the position as an index."""

    request: Read
    ids: tuple[int, ...]
    schedule: Schedule
    plan: Plan
    position: int


@dataclass
class LocalEngine:
    """Engine (protocol.py) in this process. `checkpoint` is set by who may interrupt it."""

    checkpoint: Callable[[], None] = lambda: None
    request: Load | None = None
    located: checkpoint.Located | None = None
    info: ModelInfo | None = None  # loaded is False until the weights are there
    tokenizer: Any = None
    net: Network | None = None
    prompt: Prompt | None = None  # the prompt at hand, with what has run on it
    averages: Averages | None = None
    readings: int = 0  # made so far: the clock of runner.let_go
    baselines: dict[str, Reading] = field(default_factory=dict)  # whole baseline readings of the prompt at hand

    def answer(self, request: Request) -> Iterator[Reply]:
        """Replies in order; the last is the result. Raises EngineError, Cancelled."""
        work = {Load: self._load, Read: self._read, TakeCensus: self._census, FindToken: self._find}
        if self.info is None and not isinstance(request, Load):
            raise EngineError("error", "no model is loaded.", "Load one first.")
        try:
            yield from work[type(request)](request)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            self._free()
            from stagescope.engine.load import out_of_memory

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
        self._free()
        self.request, self.net, self.info, self.tokenizer, self.averages = request, None, None, None, None
        yield from self._locate(request)
        self.tokenizer = light_tokenizer(self.located.directory)
        self.info = replace(
            checkpoint.preview(self.located),
            fingerprint=checkpoint.fingerprint(self.located.directory),
            prefix=self._light_prefix(request),
        )
        yield self.info
        from stagescope.engine import load  # torch and transformer_lens: seconds

        for reply in load.load(request, self.located):
            if isinstance(reply, Progress):
                yield reply
                continue
            self.net, info = reply
            self.info = replace(info, fingerprint=self.info.fingerprint)
            self.tokenizer = self.net.tokenizer
            self._free()
            yield self.info

    def _locate(self, request: Load) -> Iterator[Progress]:
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
        self.located = found.result()

    def _light_prefix(self, request: Load) -> Token | None:
        """The prefix token as far as it is known before the weights are: enough to find cached readings."""
        text = request.bos
        if text == "none" or request.chat or self.tokenizer is None:
            return None
        if text == "auto":
            text = self.located.known.prefix if self.located.known else None
        ids = encode(self.tokenizer, text, None) if text else []
        return Token(ids[0], texts(self.tokenizer, ids)[ids[0]]) if len(ids) == 1 else None

    # ------------------------------------------------------------------------------------------- reading

    def cached(self, request: Read) -> Reading | None:
        """The whole reading from the cache, if it is there; works before the weights are loaded.

        Raises EngineError for what no weights will make readable.
        """
        if not self.info.loaded and (
            self.tokenizer is None
            or self.request.chat
            or (self.info.prefix is None and self.request.bos == "auto")
        ):
            self._plan(request, None)
            return None  # the tokens are not certain yet
        asked = self._asked(request)
        if not self.request.cache:
            return None
        wanted = self.info.dtype if self.info.loaded else self.request.dtype
        for dtype in ["float32", "bfloat16"] if wanted == "auto" else [wanted]:
            found = cache.get(self._key(asked, dtype))
            if not isinstance(found, Reading):
                continue
            baseline = None
            if asked.plan != self._base_plan():
                baseline = cache.get(self._key(replace(asked, plan=self._base_plan()), dtype))
                if baseline is None:
                    continue
                baseline = replace(baseline, prompt=request.prompt)
            return replace(found, prompt=request.prompt, schedule=str(asked.schedule), baseline=baseline)
        return None

    def _read(self, request: Read) -> Iterator[Reply]:
        began = time.perf_counter()
        asked = self._asked(request)
        if request.part in ("all", "whole") and (found := self.cached(request)):
            yield replace(found, milliseconds=_ms(began))
            return
        if self.net is None:
            raise EngineError("error", "the weights are not loaded yet.", "Ask again when they are.")
        from stagescope.engine.reading import read
        from stagescope.engine.runner import uses_means

        prompt = self._prompt_at_hand(asked)
        if uses_means(asked.plan):
            yield from self._averages()
        parts = {"all": ["position", "whole"]}.get(request.part, [request.part])
        key = self._key(replace(asked, plan=self._base_plan()), self.info.dtype)
        for part in parts:
            positions = range(len(asked.ids)) if part == "whole" else [asked.position]
            reading = read(
                self.net,
                self.info,
                prompt,
                replace(request, part=part),
                str(asked.schedule),
                asked.plan,
                positions,
                baseline=self.baselines.get(key),
                averages=self.averages,
                checkpoint=lambda fraction: self.checkpoint(),
            )
            reading = replace(reading, milliseconds=_ms(began))
            yield reading
            if part == "whole":
                self.baselines[key] = reading.baseline or reading
                self._keep(asked, reading)
        self._let_go(asked)

    def _asked(self, request: Read) -> Asked:
        """Raises EngineError for what cannot be read."""
        if not request.prompt:
            raise EngineError("usage", "the prompt is empty.", "Give some text to read.")
        if request.lens not in LENSES:
            raise EngineError("usage", f"no lens is called {request.lens!r}.", f"Use {' or '.join(LENSES)}.")
        text = self._chat(request.prompt) if self.request.chat else request.prompt
        try:
            ids = encode(self.tokenizer, text, self.info.prefix.id if self.info.prefix else None)
        except PromptError as error:
            raise EngineError("usage", f"{error}.") from error
        if len(ids) == (1 if self.info.prefix else 0):
            raise EngineError("usage", "the prompt has no tokens: this tokenizer drops every character of it.")
        if len(ids) > self.info.n_ctx:
            raise EngineError(
                "error",
                f"the prompt has {len(ids)} tokens, {self.info.name} reads at most {self.info.n_ctx}.",
                "Shorten it: prompts are never cut.",
            )
        schedule, plan = self._plan(request, len(ids))
        if not -len(ids) <= request.position < len(ids):
            raise EngineError(
                "usage",
                f"there is no position {request.position}: the prompt has {len(ids)} tokens.",
                f"Use 0 to {len(ids) - 1}, or -1 for the last.",
            )
        if request.tracked is not None and not 0 <= request.tracked < self.info.d_vocab:
            raise EngineError("usage", f"there is no token {request.tracked}.", f"Ids end at {self.info.d_vocab - 1}.")
        return Asked(request, tuple(ids), schedule, plan, request.position % len(ids))

    def _plan(self, request: Read, n_positions: int | None) -> tuple[Schedule, Plan]:
        try:
            schedule = parse(request.schedule)
            plan = resolve(
                schedule, self.info.n_layers, parallel_blocks=self.info.parallel, n_positions=n_positions
            )
        except ScheduleError as error:
            place = "\n".join(str(error).splitlines()[:-1])
            raise EngineError("usage", f"the schedule cannot be: {printable(error.reason)}.", place) from error
        return schedule, plan

    def _chat(self, prompt: str) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise EngineError("usage", f"{self.info.name} has no chat template.", "Leave --chat out.")
        message = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    def _prompt_at_hand(self, asked: Asked) -> Prompt:
        import torch

        from stagescope.engine import blocks
        from stagescope.engine.reading import Prompt
        from stagescope.engine.runner import Node

        if self.prompt and tuple(token.id for token in self.prompt.tokens) == asked.ids:
            self.prompt.text = asked.request.prompt
            return self.prompt
        self._free()
        self.checkpoint()
        begun = blocks.start(self.net, torch.tensor([asked.ids]))
        spelled = texts(self.tokenizer, asked.ids)
        tokens = tuple(Token(token, spelled[token]) for token in asked.ids)
        self.prompt = Prompt(asked.request.prompt, tokens, begun, Node(x=begun.x[0]))
        return self.prompt

    def _let_go(self, asked: Asked) -> None:
        """Keep the residuals of the prompt at hand within their budget, the baseline's and the latest always."""
        from stagescope.engine.runner import let_go, path

        self.readings += 1
        keep = path(self.prompt.root, self._base_plan()) + path(self.prompt.root, asked.plan)
        for node in keep:
            node.used = self.readings
        let_go(self.prompt.root, keep, KEPT_BYTES)

    def _free(self) -> None:
        self.prompt = None
        self.baselines.clear()

    def _base_plan(self) -> Plan:
        return resolve(Schedule(), self.info.n_layers)

    def _key(self, asked: Asked, dtype: str) -> str:
        request = asked.request
        return cache.key(
            "reading", self.info.fingerprint, asked.ids, asked.plan, request.lens, dtype, request.top, request.tracked
        )

    def _keep(self, asked: Asked, reading: Reading) -> None:
        if not self.request.cache:
            return
        if reading.baseline is not None:
            base_key = self._key(replace(asked, plan=self._base_plan()), self.info.dtype)
            if not cache.has(base_key):
                cache.put(base_key, reading.baseline)
        cache.put(self._key(asked, self.info.dtype), replace(reading, baseline=None))

    # ---------------------------------------------------------------------------------- neurons, tokens

    def _averages(self) -> Iterator[Progress]:
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
        """The census from the cache, if it is there; works before the weights are loaded."""
        if self.request and self.request.cache and self.info:
            found = cache.get(self._census_key())
            return found if isinstance(found, Census) else None
        return None

    def _census_key(self) -> str:
        # Not the dtype: the weights are read as stored and the products are fp32 in any case.
        return cache.key("census", self.info.fingerprint, self.info.prefix and self.info.prefix.id)

    def _census(self, request: TakeCensus) -> Iterator[Reply]:
        if found := self.cached_census():
            yield found
            return
        if self.net is None:
            raise EngineError("error", "the weights are not loaded yet.", "Ask again when they are.")
        from stagescope.engine import neurons

        if self.net.gated:
            yield from self._averages()
        for reply in neurons.census(self.net, self.info, self.averages):
            self.checkpoint()
            if isinstance(reply, Census) and self.request.cache:
                cache.put(self._census_key(), reply)
            yield reply

    def _find(self, request: FindToken) -> Iterator[Reply]:
        """A word is tried with a space before it first: that is how it stands inside a text."""
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


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)
