"""Continuations of a prompt, token by token: what the baseline writes, what each schedule writes, and how far they are apart.

Every text is followed by two runs, the schedule that writes it and the baseline, and the baseline's text by every schedule too
(forced). While a text is the baseline's word for word one run serves both; where they part it is copied with its keys
and values. All runs stand at one position: they pass a layer together, the lowest one first, as in a sweep (runner.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stagescope.engine import cache, question
from stagescope.engine.plan import Plan, uses_means
from stagescope.engine.progress import progress
from stagescope.engine.protocol import EngineError, Generate, Generation, Load, ModelInfo, Progress, Read
from stagescope.engine.schedule import anchored, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.at_hand import AtHand
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.runner import Node
    from stagescope.engine.written import Written

STAGE = "writing"
MOST_TOKENS = 2_000  # of one text: at each the whole of it is spelled and sent
COLDEST = 1e-3  # below this a temperature other than 0 overflows
RUNS_AT_ONCE = 256  # whose logits are held together, as in a sweep
OF_MEMORY = 0.5  # of Network.memory, for keys and values
NO_NUMBERS = "its logits are no numbers"

# ------------------------------------------------------------------------------------------- asked and kept


@dataclass(frozen=True)
class Asked:
    """A Generate made definite."""

    request: Generate
    ids: tuple[int, ...]  # of the prompt
    schedules: tuple[str, ...]  # canonical, the baseline first
    plans: tuple[Plan, ...]  # over the prompt and what is written


def check(request: Generate, info: ModelInfo) -> None:
    """What is wrong whatever the prompt's tokens are: sampling, schedules. Raises EngineError."""

    def refuse(what: str, hint: str) -> None:
        raise EngineError("usage", f"{what}.", hint)

    temperature, top_k, top_p = request.temperature, request.top_k, request.top_p
    if not 1 <= request.tokens <= MOST_TOKENS:
        refuse(f"{request.tokens} tokens cannot be written", f"Give 1 to {MOST_TOKENS:,}.")
    if temperature != 0 and not COLDEST <= temperature <= 100:
        refuse(f"the temperature cannot be {temperature}", f"Give 0 for the likeliest token, or {COLDEST} to 100.")
    if top_k is not None and top_k < 1:
        refuse(f"top-k cannot be {top_k}", "Give 1 or more.")
    if top_p is not None and not 0 < top_p <= 1:
        refuse(f"top-p cannot be {top_p}", "Give 0 to 1.")
    if not 0 <= request.seed < 2**63:
        refuse(f"the seed cannot be {request.seed}", "Give a whole number from 0 on.")
    if not temperature and (top_k is not None or top_p is not None):
        refuse("top-k and top-p say what is drawn from, and nothing is drawn at temperature 0", "Give a temperature.")
    for schedule in request.schedules:
        question.planned(schedule, info, None)


def settle(request: Generate, info: ModelInfo, load: Load, tokenizer: Any) -> Asked:
    """Raises EngineError as `check`, and as for a Read."""
    check(request, info)
    ids = question.question(Read(request.prompt), load, info, tokenizer).ids
    length, n_tokens = len(ids), request.tokens
    schedules = [question.planned(text, info, length)[0] for text in ("", *request.schedules)]
    if length + n_tokens > info.n_ctx:
        raise EngineError(
            "error",
            f"the prompt has {length} tokens and {n_tokens} more were asked for, {info.name} reads at most {info.n_ctx}.",
            f"Ask for {info.n_ctx - length} or less." if length < info.n_ctx else "Shorten the prompt.",
        )
    # Positions are anchored in the prompt, and a schedule that names all of them does not name those that are written.
    of = {"n_positions": length + n_tokens, **question.shape(info)}
    plans = tuple(resolve(anchored(schedule, length), info.n_layers, **of) for schedule in schedules)
    return Asked(request, ids, tuple(map(str, schedules)), plans)


def recalled(engine: AtHand, request: Generate) -> Generation | None:
    """The answer from the cache; works before the weights are loaded. Raises as `settle`."""
    info, load = engine.info, engine.request
    asked = settle(request, info, load, engine.tokenizer)
    for dtype, device in question.machines(info, load):
        found = cache.get(_key(asked, info, load, engine.ends, dtype, device))
        if isinstance(found, Generation):
            return replace(question.as_asked(found, info), schedules=asked.schedules, asked=request)
    return None


def _key(asked: Asked, info: ModelInfo, load: Load, ends: frozenset[int], dtype: str, device: str) -> str:
    request = asked.request
    of = replace(request, schedules=(), seed=request.seed if request.temperature else 0)  # the prompt says what reads back
    text = question.means_text(info) if any(map(uses_means, asked.plans)) else None
    rest = (text, dtype, device, question.prefix_id(info), load.chat, sorted(ends))
    return cache.key("generation", info.fingerprint, asked.ids, asked.plans, vars(of), *rest)


# --------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class _Model:
    """What writes, as it is when it begins: another model may be loaded meanwhile."""

    net: Network
    averages: Averages | None
    ends: frozenset[int]  # tokens that end a text
    checkpoint: Callable[[], None]


def take(engine: AtHand, asked: Asked) -> Iterator[Progress | Generation]:
    """A Generation after every token of a wave of texts; the last is complete, and kept.

    Means that a plan replaces by must have been measured.
    """
    from stagescope.engine.written import Written

    request, info, load, began = asked.request, engine.info, engine.request, time.monotonic()
    model = _Model(engine.net, engine.averages, engine.ends, engine.checkpoint)
    key = _key(asked, info, load, engine.ends, info.dtype, info.device.split(":")[0])
    written = Written(asked, info, load, engine.net.tokenizer)

    def so_far(complete: bool = False) -> Generation:
        return written.so_far((time.monotonic() - began) * 1000, complete)

    edits = list(range(1, len(asked.plans)))
    begun = 0  # edits of the waves before
    while begun < len(edits) or not begun:
        wave = _prefill(model, asked, edits[begun:])
        n = len(wave.edits)
        for step in _write(model, asked, wave, written):
            of_wave = (step + 1) / request.tokens
            yield progress(STAGE, began, (begun + n * of_wave) / len(edits) if edits else of_wave)
            yield so_far()
        begun += max(n, 1)
        del wave  # before the next is run
    found = so_far(complete=True)
    if load.cache:
        cache.put(key, found)
    yield found


@dataclass(eq=False)
class _Run:
    """One plan over one text: a chain of nodes of its own, with keys and values."""

    nodes: list[Node]

    def copy(self) -> _Run:
        from stagescope.engine.keys_values import copied
        from stagescope.engine.runner import Node

        nodes = [Node()]
        for node in self.nodes[1:]:
            nodes.append(Node(node.place, nodes[-1], kept=copied(node.kept)))
            nodes[-2].children[node.place] = nodes[-1]
        nodes[-1].x = self.nodes[-1].x
        return _Run(nodes)


@dataclass(eq=False)
class _Wave:
    """The runs that write together; None where a text has ended."""

    edits: list[int]  # of the plans, those it holds
    baseline: _Run | None  # the baseline over its own text
    edited: list[_Run | None]  # each schedule over its own text
    beside: list[_Run | None]  # the baseline over the schedule's text: `baseline` until they part
    forced: list[_Run | None]  # the schedule over the baseline's text: that of `edited` until they part

    def part(self, index: int, base_goes: bool, edit_goes: bool) -> None:
        """From here on the two texts have other words."""
        run = self.edited[index]
        self.beside[index] = self.baseline.copy() if edit_goes else None
        self.forced[index] = (run.copy() if edit_goes else run) if base_goes else None

    def let_go(self, base_goes: bool, edits_go: Sequence[bool]) -> None:
        """Of texts that have ended."""
        for index, goes in enumerate(edits_go):
            if not goes:
                self.edited[index] = self.beside[index] = None
            if not base_goes:
                self.forced[index] = None
        self.baseline = self.baseline if base_goes else None


def _prefill(model: _Model, asked: Asked, edits: Sequence[int]) -> _Wave:
    """Run the prompt under the baseline and as many of the schedules as can be held, sharing what they share."""
    import torch

    from stagescope.engine import blocks, keys_values, runner
    from stagescope.engine.runner import Node

    model.checkpoint()
    net = model.net
    past = keys_values.Past(net.n_layers, 0, len(asked.ids) + asked.request.tokens)
    begun = blocks.start(net, torch.tensor([asked.ids]), past)
    root = Node(x=begun.x[0])
    base = runner.path(root, asked.plans[0])

    def run(plans: Sequence[Plan]) -> list[list[Node]]:
        paths = [runner.path(root, plan) for plan in plans]
        needed = {id(node) for node in (*base, *(path[-1] for path in paths))}  # schedules fork from it; what each says
        for _ in runner.steps(net, begun, paths, model.averages, norms=False, keep=lambda node: id(node) in needed):
            model.checkpoint()
        return paths

    run(asked.plans[:1])
    a_layer = sum(keys_values.bytes_of(node.kept) for node in base) / max(len(base) - 1, 1)
    room, held = OF_MEMORY * net.memory, 0.0
    wave: list[int] = []
    for edit in edits:  # three runs each in the end
        held += a_layer * (2 * sum(map(len, asked.plans[edit])) + len(base))
        if wave and (held > room or 3 * len(wave) + 4 > RUNS_AT_ONCE):
            break
        wave.append(edit)
    edited = [_Run(path).copy() for path in run([asked.plans[edit] for edit in wave])]
    baseline = _Run(base).copy()
    return _Wave(wave, baseline, edited, [baseline] * len(wave), list(edited))


def _write(model: _Model, asked: Asked, wave: _Wave, written: Written) -> Iterator[int]:
    """Token after token of the wave's texts; the number of each step."""
    import torch

    from stagescope.engine import sampling

    choose = sampling.sampler(asked.request)
    texts = [0, *wave.edits]
    going = [True] * len(texts)
    for step in range(asked.request.tokens):
        logp = _log_probs(model.net, wave)
        writing = []
        for text, run in enumerate((wave.baseline, *wave.edited)):
            if going[text] and bool(logp[id(run)].isnan().any()):
                going[text], written.notes[texts[text]] = False, f"{NO_NUMBERS} at step {step}"
            elif going[text]:
                writing.append((text, run))
        if not writing:
            return
        with torch.inference_mode():
            drawn = choose(torch.stack([logp[id(run)] for _, run in writing])).tolist()
            tokens = {text: token for (text, _), token in zip(writing, drawn, strict=True)}
            if going[0] and written.ids[0, step] >= 0:  # a wave before wrote it; in another batch a near tie may fall otherwise
                tokens[0] = int(written.ids[0, step])
            elif going[0]:
                written.put(0, step, tokens[0], logp[id(wave.baseline)], logp[id(wave.baseline)])
            for index, edit in enumerate(wave.edits):
                if going[0] and wave.forced[index] is not None:
                    written.force(edit, step, tokens[0], logp[id(wave.forced[index])], logp[id(wave.baseline)])
                if going[index + 1]:
                    written.put(edit, step, tokens[index + 1], logp[id(wave.edited[index])], logp[id(wave.beside[index])])
        for text, token in tokens.items():
            if token in model.ends:
                going[text], written.ended[texts[text]] = False, True
        yield step
        if step + 1 == asked.request.tokens or not any(going):
            return
        model.checkpoint()
        for index in range(len(wave.edits)):
            is_one_text = wave.baseline is not None and wave.beside[index] is wave.baseline
            if is_one_text and tokens.get(0) != tokens.get(index + 1):
                wave.part(index, going[0], going[index + 1])
        wave.let_go(going[0], going[1:])
        _advance(model, wave, tokens, len(asked.ids) + step, len(asked.ids) + asked.request.tokens)


def _runs(wave: _Wave) -> dict[int, tuple[_Run, int]]:
    """Every run that goes on, once, with the text that it reads: by id."""
    found = [(wave.baseline, 0)]
    for index in range(len(wave.edits)):
        found += [(wave.forced[index], 0), (wave.edited[index], index + 1), (wave.beside[index], index + 1)]
    return {id(run): (run, text) for run, text in found if run is not None}


def _log_probs(net: Network, wave: _Wave) -> dict[int, Tensor]:
    """[V] of what each run says next, by its id."""
    import torch

    from stagescope.engine import lens

    runs = _runs(wave)
    with torch.inference_mode():
        found = lens.log_probs(net, torch.stack([run.nodes[-1].x[-1] for run, _ in runs.values()]))
    return dict(zip(runs, found, strict=True))


def _advance(model: _Model, wave: _Wave, tokens: dict[int, int], position: int, room: int) -> None:
    """Every run reads the newest token of its text, at one position."""
    import torch

    from stagescope.engine import blocks, keys_values, runner

    runs = list(_runs(wave).values())
    past = keys_values.Past(model.net.n_layers, position, room)
    begun = blocks.start(model.net, torch.tensor([[tokens[text]] for _, text in runs]), past)
    for (run, _), x in zip(runs, begun.x, strict=True):
        run.nodes[0].x = x
        for node in run.nodes[1:]:
            node.x = None
    paths = [run.nodes for run, _ in runs]
    for _ in runner.steps(model.net, begun, paths, model.averages, norms=False, keep=lambda node: False):
        model.checkpoint()
