"""The Python door: a model in this process, and what can be asked of it.

    import stagescope as ss
    m = ss.load("smollm2-135m")
    r = m.read("The capital of France is", "drop 7; swap 11 12")
    m.sweep("The capital of France is").to_pandas()

Every method gives the engine's own answer: a frozen dataclass of numpy arrays (float32 unless said) and plain values, with
`to_json()`, `to_pandas()`, tables for `print` and HTML in a notebook. All raise EngineError, whose message says what happened and
what to do; `error.failure.kind` is "usage", "missing", "memory" or "error". Ctrl-C ends a request between two blocks, and the
model can be asked again. A Model is not to be shared by threads.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, TypeVar

from stagescope import console, showing
from stagescope.answers import Answer, collected, position_of
from stagescope.engine.compare_messages import Comparison, TakeComparison
from stagescope.engine.documents import expect_file
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import (
    DEFAULT_MODEL,
    LENSES,
    Attribution,
    Census,
    CorpusSweep,
    EngineError,
    Evidence,
    FindHeads,
    FindToken,
    Generate,
    Generation,
    HeadPattern,
    HeadScores,
    LensCurves,
    Load,
    MapStages,
    ModelInfo,
    Neurons,
    Probe,
    Progress,
    Read,
    Reading,
    Reply,
    Request,
    ShowNeurons,
    ShowPattern,
    Similarity,
    StageMap,
    Sweep,
    SweepCorpus,
    TakeAttribution,
    TakeCensus,
    TakeEvidence,
    TakeLens,
    TakeProbe,
    TakeSimilarity,
    TakeSweep,
    Texts,
)
from stagescope.engine.told import Told
from stagescope.text import printable

File = str | os.PathLike
Tell = Callable[[Progress], None]
Found = TypeVar("Found")


class Sweeps(Told, tuple[Sweep, ...]):
    """The sweeps of a request, one a prompt and kind. Printed as one table (several prompts are pooled); `to_pandas()` has a
    line a schedule and prompt."""


def load(
    model: str | os.PathLike = DEFAULT_MODEL,
    device: str | None = None,
    dtype: str = "auto",
    threads: int | None = None,
    bos: str = "auto",
    chat: bool = False,
    cache: bool = True,
    offline: bool = False,
    memory: int | None = None,
    *,
    progress: Tell | None = None,
) -> Model:
    """A model, its weights loaded; fetched first where it is not here.

    model: a name of the catalogue (`stagescope models list`), a Hugging Face id, a directory or a .gguf file.
    device: "cpu", "cuda:0" ...; None is the GPU with most free memory, else the CPU.
    dtype: "auto" (float32 where it fits), "float32", "bfloat16" or "float16".
    threads: of torch; None is one fewer than there are cores.
    bos: the prefix token, "auto", "none" or its text. chat: put prompts through the model's chat template.
    cache: keep answers on this machine, and use them. offline: fetch nothing.
    memory: bytes that a sweep may take beside weights and baselines; None is 2 GiB.
    progress: called with every Progress (stage, done, seconds_left). None: a line on stderr where that is a terminal, and
    nothing in a notebook or a script.

    Raises EngineError: no such model or device, weights that do not fit, a model that cannot be taken apart.
    """
    asked = Load(os.fspath(model), device, dtype, threads, bos, chat, cache, offline, memory)
    engine = LocalEngine()
    for _ in _replies((engine,), engine.answer(asked), progress):
        pass
    return Model(engine, asked, progress)


class Model:
    """A loaded model. L layers, T tokens of a prompt (the prefix included), N depths: 0 is the embedding, the last feeds
    the output. Positions count from 0, negative ones from the end; a token is its text or its id."""

    def __init__(self, engine: LocalEngine, load: Load, progress: Tell | None = None):
        self._engine: LocalEngine | None = engine
        self._load = load
        self._name = printable(engine.info.name)
        self.progress = progress

    @property
    def info(self) -> ModelInfo:
        """What the model is: its name, sizes, dtype, device, prefix token, noise floor, warnings."""
        return self._open().info

    def read(
        self,
        prompt: str,
        schedule: str = "",
        *,
        position: int = -1,
        top: int = 8,
        lens: str = "standard",
        tracked: str | int | None = None,
    ) -> Reading:
        """What every layer of one run was about to say, at every position; `.baseline` is the unedited run.

        schedule: the edit, as in "drop 7; swap 11 12" ("" is the baseline). position: the one that is printed.
        top: tokens kept at each depth. lens: "standard" or "v1". tracked: the token whose rank and p are followed; None is
        the baseline's top token at each position.
        """
        asked = Read(prompt, str(schedule), position, top, lens, self._token(tracked))
        return self._last(asked, Reading)

    def sweep(
        self,
        *prompts: str,
        kinds: str | Iterable[str] = ("drop", "swap"),
        schedules: str | Iterable[str] = (),
        position: int = -1,
        tracked: str | int | None = None,
        layer: int | None = None,
    ) -> Sweeps:
        """What each of many schedules does to the output, over each prompt: one Sweep a prompt and kind.

        kinds: of drop, swap, attn-off, mlp-off, pairs, repeat, painters, press, heads, neurons, neuron-sets, or trace alone.
        schedules: if any, these in place of kinds. position: where a trace is read. layer: of heads and neurons, those of
        this layer alone. Each measure of a Sweep is [S schedules, T]: kl_nats, top1_same, entropy_change_bits,
        loss_change_nats, tracked_rank, tracked_p.
        """
        asked = TakeSweep(_prompts(prompts), _several(kinds), _several(schedules), position, self._token(tracked), layer)
        answer = self.ask(asked)
        found = Sweeps(reply for reply in answer.replies if isinstance(reply, Sweep))
        found._asked = answer
        return found

    def sweep_corpus(
        self,
        file: File,
        *,
        kinds: str | Iterable[str] = ("drop", "swap"),
        schedules: str | Iterable[str] = (),
        tokens: int | None = None,
        window: int = 512,
        layer: int | None = None,
    ) -> CorpusSweep:
        """The same pooled over the tokens of a text file, or of JSON lines with a field "text". Each measure is [S, 4]: mean,
        median, low and high end of the mean's 95 % interval over documents.

        tokens: stop when so many were scored. window: tokens a document is cut at. Interrupted and asked again it goes on
        where it was.
        """
        asked = SweepCorpus(_file(file), _several(kinds), _several(schedules), tokens, window, layer)
        return self._last(asked, CorpusSweep)

    def census(self) -> Census:
        """Prediction and suppression neurons of every layer, from the weights: [L] counts and [L, M] of each neuron."""
        return self._last(TakeCensus(), Census)

    def neurons(self, prompt: str = "", *, layer: int | None = None, most: int = 10, top: int = 8) -> Neurons:
        """The `most` strongest neurons of each class, the `top` tokens each promotes and suppresses, and its activation on a
        prompt, [neurons, T]. layer: None is the whole model."""
        census = self.ask(TakeCensus())
        answer = self.ask(ShowNeurons(layer, most, prompt, top))
        # A neuron is told as it fires, and which way that is its census knows.
        return _with(answer.last, replace(answer, replies=(census.last, *answer.replies)))

    def lens(
        self, prompt: str, schedule: str = "", *, position: int = -1, tokens: str | int | Iterable[str | int] = ()
    ) -> LensCurves:
        """Both lenses at one position, depth by depth, [2, N]; rank, p and logit of each of `tokens`, [2, N, F]."""
        return self._last(TakeLens(prompt, str(schedule), position, self._tokens(tokens)), LensCurves)

    def evidence(
        self,
        *prompts: str,
        file: File | None = None,
        tokens: int | None = None,
        window: int = 512,
        lenses: tuple[str, ...] = LENSES,
    ) -> Evidence:
        """Attention to near tokens, norms and the lens of every layer in plain runs, over prompts, a file, or with neither
        the standard text. lenses: () leaves the lens out, most of the work. `.of(name)` is [N or L, 4]: mean, median,
        low, high."""
        return self._last(TakeEvidence(_texts(prompts, file, tokens, window), lenses), Evidence)

    def stages(
        self, *prompts: str, file: File | None = None, tokens: int | None = None, window: int = 512
    ) -> StageMap:
        """Where the four stages of inference begin and end, and what that rests on; minutes the first time over a text.
        Over prompts, a file, or with neither the standard text."""
        return self._last(MapStages(_texts(prompts, file, tokens, window)), StageMap)

    def heads(self, file: File | None = None, *, pieces: int = 3) -> HeadScores:
        """Sub-joiner scores of every head, [L, H, 3]: mean, low, high. pieces: tokens of a word, 2 to 4. file: None is the
        standard text."""
        return self._last(FindHeads(_file(file), pieces), HeadScores)

    def pattern(self, prompt: str, layer: int, head: int, schedule: str = "") -> HeadPattern:
        """Where one head looks, [T, T]: query, key."""
        return self._last(ShowPattern(prompt, layer, head, str(schedule)), HeadPattern)

    def attribution(
        self, prompt: str, schedule: str = "", *, position: int = -1, tracked: str | int | None = None
    ) -> Attribution:
        """What each attention and MLP adds to the logit of a token, directly, [N, T]; of an edit also its `.baseline` and
        `.self_repair()`. position: the one that is printed and written to JSON."""
        answer = self.ask(TakeAttribution(prompt, str(schedule), self._token(tracked)))
        n_tokens = len(answer.last.tokens)
        if not -n_tokens <= position < n_tokens:
            hint = f"Use 0 to {n_tokens - 1}, or -1 for the last."
            raise EngineError("usage", f"there is no position {position}: the prompt has {n_tokens} tokens.", hint)
        return _with(answer.last, replace(answer, position=position))

    def similarity(
        self, *prompts: str, file: File | None = None, tokens: int | None = None, window: int = 512
    ) -> Similarity:
        """How much each layer turns the stream, [L, 3], and how alike any two depths are: `.angular`, `.cka`, [N, N]. Over
        prompts, a file, or with neither the standard text."""
        return self._last(TakeSimilarity(_texts(prompts, file, tokens, window)), Similarity)

    def probe(
        self,
        file: File | None = None,
        *,
        suffix: str = "ing",
        tokens: str | int | Iterable[str | int] = (),
        most: int = 2000,
    ) -> Probe:
        """Can single neurons tell that the next token ends in a suffix, or is one of `tokens`? most: contexts, half of them
        positive. file: None is the standard text."""
        return self._last(TakeProbe(_file(file), suffix, self._tokens(tokens), most), Probe)

    def compare(self, a: Read, b: Read, other: Model | None = None) -> Comparison:
        """Reading b held against reading a: two schedules on a prompt, or two prompts of as many tokens. other: the model
        that reads b, one with the same vocabulary."""
        asked = TakeComparison(a, b)
        if other is None:
            return self._last(asked, Comparison)
        from stagescope.engine.comparison import between

        mine, theirs = self._open(), other._open()

        def both() -> Iterator[Reply]:
            yield between(mine, a, theirs, b)

        (found,) = _replies((mine, theirs), both(), self.progress)
        return _with(found, Answer(self._load, self.info, asked, (found,), position_of(asked), other._load))

    def generate(
        self,
        prompt: str,
        *schedules: str,
        tokens: int = 40,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Generation:
        """What the baseline goes on to write, and what each schedule does: texts of up to `tokens` tokens, the baseline's first.

        Greedy at temperature 0; else drawn, with one seed for all texts: they part where their distributions do. Each measure
        is [S texts, N steps]; `found.text(1)`, `found.parts_at(1)`. A position in a schedule is one of the prompt.
        """
        asked = Generate(prompt, tuple(map(str, schedules)), tokens, temperature, top_k, top_p, seed)
        return self._last(asked, Generation)

    def ask(self, request: Request) -> Answer:
        """Any request of the protocol, `m.ask(ss.TakeProbe(suffix="ed"))`: all its replies, the last being the result. The
        repr of a request is Python that makes it again."""
        if isinstance(request, Load):
            raise EngineError("usage", "this is a loaded model.", "Load another with stagescope.load.")
        if not isinstance(request, Request):
            what = type(request).__name__
            raise EngineError("usage", f"a {what} is no request.", 'Ask for one of the protocol: ss.Read("...").')
        engine = self._open()
        replies: tuple[Reply, ...] = ()
        for reply in _replies((engine,), engine.answer(request), self.progress):
            replies = collected((*replies, reply))
        answer = Answer(self._load, engine.info, request, replies, position_of(request))
        for reply in replies:  # what rests on others is told with them; a sweep by itself, Sweeps tell all
            alone = reply is not answer.last or isinstance(reply, Sweep)
            _with(reply, replace(answer, replies=(reply,)) if alone else answer)
        return answer

    def close(self) -> None:
        """Free the memory of the model; it cannot be asked any more."""
        if self._engine is not None:
            from stagescope.engine.memory import free_cached_memory

            self._engine = None
            free_cached_memory()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._engine is None:
            return f"<Model {self._name}, closed>"
        info = self.info
        return f"<Model {self._name}, {info.n_layers} layers, {info.dtype} on {info.device}>"

    def _open(self) -> LocalEngine:
        if self._engine is None:
            raise EngineError("error", f"{self._name} was closed.", "Load it again with stagescope.load.")
        return self._engine

    def _last(self, request: Request, kind: type[Found]) -> Found:
        found = self.ask(request).last
        assert isinstance(found, kind)
        return found

    def _token(self, token: str | int | None) -> int | None:
        if token == "":
            raise EngineError("usage", "an empty text is no token.", "Give the text of one, or its id.")
        return self.ask(FindToken(token)).last.id if isinstance(token, str) else token

    def _tokens(self, tokens: str | int | Iterable[str | int]) -> tuple[int, ...]:
        given = (tokens,) if isinstance(tokens, str | int) else tokens
        return tuple(dict.fromkeys(map(self._token, given)))


# ------------------------------------------------------------------------------------------------- how it asks


def _replies(engines: Sequence[LocalEngine], asked: Iterable[Reply], progress: Tell | None) -> Iterator[Reply]:
    """All that is no progress; progress is told meanwhile. asked: begins to work when the first reply is taken."""
    shown = console.Progress(quiet=progress is not None)
    tell = progress or (lambda told: shown.show(told.stage, told.done, told.seconds_left))
    for engine in engines:
        engine.tell = tell
    try:
        with _interruptible(engines):
            for reply in asked:
                if isinstance(reply, Progress):
                    tell(reply)
                else:
                    yield reply
                for engine in engines:  # loading does not look by itself
                    engine.checkpoint()
    finally:
        shown.clear()


@contextmanager
def _interruptible(engines: Sequence[LocalEngine]) -> Iterator[None]:
    """Ctrl-C ends a request where the app would cancel it, between two block calls, so that nothing is left half done;
    a second one ends it at once."""
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not ours or before is not signal.default_int_handler:  # somebody else's: theirs to decide
        yield
        return
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def checkpoint() -> None:
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    for engine in engines:
        engine.checkpoint = checkpoint
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for engine in engines:
            engine.checkpoint = lambda: None
    checkpoint()  # it came after the last block


def _with(reply: Found, answer: Answer) -> Found:
    """The reply, which from now on tells itself as part of this answer. It is not held by it in turn: a circle would keep
    its arrays, 41 MiB for 2,000 tokens and 100 layers, until the collector comes by."""
    if isinstance(reply, Told):
        others = tuple(None if other is reply else other for other in answer.replies)
        object.__setattr__(reply, "_asked", replace(answer, replies=others))
    return reply


def _several(words: str | Iterable[str]) -> tuple[str, ...]:
    """One by itself, or several."""
    return (words,) if isinstance(words, str) else tuple(map(str, words))


def _prompts(prompts: tuple[str, ...]) -> tuple[str, ...]:
    for prompt in prompts:
        if not isinstance(prompt, str):
            given = type(prompt).__name__
            raise EngineError("usage", f"a prompt is text, and this is a {given}.", 'Give one after the other: "a", "b".')
    return prompts


def _texts(prompts: tuple[str, ...], file: File | None, tokens: int | None, window: int) -> Texts:
    return Texts(_prompts(prompts), _file(file) or None, tokens, window)


def _file(file: File | None) -> str:
    """Its name; "" without one. Raises EngineError for one that is not there, before anything is run for it."""
    if file is None:
        return ""
    if os.fspath(file) == "-":
        raise EngineError("usage", "- is standard input for the command line alone.", "Name a text file.")
    expect_file(name := os.fspath(file))
    return name
