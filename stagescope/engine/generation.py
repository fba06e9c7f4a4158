"""Continuations of a prompt, token by token: what the baseline writes, what each schedule writes, and how far they are apart.

Every text is followed by two runs, the schedule that writes it and the baseline, and the baseline's text by every schedule too
(forced). While a text is the baseline's word for word one run serves both; where they part it is copied with its keys
and values. All runs stand at one position: they pass a layer together, the lowest one first, as in a sweep (runner.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stagescope.engine import cache, question
from stagescope.engine.plan import Plan, uses_means
from stagescope.engine.progress import progress
from stagescope.engine.protocol import EngineError, Generate, Generation, Load, ModelInfo, Progress, Read
from stagescope.engine.question import Question
from stagescope.engine.schedule import anchored, resolve
from stagescope.engine.tokens import PromptError, Token, encode, texts
from stagescope.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.local import LocalEngine
    from stagescope.engine.runner import Node

STAGE = "writing"
MOST_TOKENS = 10_000  # of one text: what is drawn and kept grows with it
RUNS_AT_ONCE = 256  # whose logits are held together, as in a sweep
OF_MEMORY = 0.5  # of Network.memory, for keys and values

# ------------------------------------------------------------------------------------------- asked and kept


@dataclass(frozen=True)
class Asked:
    """A Generate made definite."""

    request: Generate
    ids: tuple[int, ...]  # of the prompt
    schedules: tuple[str, ...]  # canonical, the baseline first
    plans: tuple[Plan, ...]  # over the prompt and what is written


def settle(request: Generate, load: Load, info: ModelInfo, tokenizer: Any) -> Asked:
    """Raises EngineError as for a Read, and for sampling that cannot be."""
    _check(request)
    asked = [question.question(Read(request.prompt, text), load, info, tokenizer) for text in ("", *request.schedules)]
    length, n_tokens = len(asked[0].ids), request.tokens
    if length + n_tokens > info.n_ctx:
        raise EngineError(
            "error",
            f"the prompt has {length} tokens and {n_tokens} more were asked for, {info.name} reads at most {info.n_ctx}.",
            f"Ask for {info.n_ctx - length} or less." if length < info.n_ctx else "Shorten the prompt.",
        )
    plans = tuple(_plan(one, info, length + n_tokens) for one in asked)
    return Asked(request, asked[0].ids, tuple(str(one.schedule) for one in asked), plans)


def _check(request: Generate) -> None:
    wrong = {
        f"{request.tokens} tokens cannot be written": (not 1 <= request.tokens <= MOST_TOKENS, f"Give 1 to {MOST_TOKENS:,}."),
        f"the temperature cannot be {request.temperature}": (
            not 0 <= request.temperature <= 100, "Give 0 for the likeliest token, or up to 100."),
        f"top-k cannot be {request.top_k}": (request.top_k is not None and request.top_k < 1, "Give 1 or more."),
        f"top-p cannot be {request.top_p}": (request.top_p is not None and not 0 < request.top_p <= 1, "Give 0 to 1."),
        f"the seed cannot be {request.seed}": (not 0 <= request.seed < 2**63, "Give a whole number from 0 on."),
        "top-k and top-p say what is drawn from, and nothing is drawn at temperature 0": (
            not request.temperature and (request.top_k is not None or request.top_p is not None), "Give a temperature."),
    }  # fmt: skip
    for what, (holds, hint) in wrong.items():
        if holds:
            raise EngineError("usage", f"{what}.", hint)


def _plan(asked: Question, info: ModelInfo, n_positions: int) -> Plan:
    """Of prompt and continuation: positions are anchored in the prompt, and a schedule that names all of its positions does
    not name those that are written."""
    shape = {"parallel_blocks": info.parallel, "n_heads": info.n_heads, "d_mlp": info.d_mlp}
    return resolve(anchored(asked.schedule, len(asked.ids)), info.n_layers, n_positions=n_positions, **shape)


def recalled(request: Generate, info: ModelInfo, load: Load, tokenizer: Any) -> Generation | None:
    """The answer from the cache; works before the weights are loaded. Raises as `settle`."""
    asked = settle(request, load, info, tokenizer)
    for dtype, device in question.machines(info, load):
        found = cache.get(_key(asked, info, dtype, device))
        if isinstance(found, Generation):
            return replace(question.as_asked(found, info), prompt=request.prompt, schedules=asked.schedules, asked=request)
    return None


def _key(asked: Asked, info: ModelInfo, dtype: str, device: str) -> str:
    of = replace(asked.request, prompt="", schedules=())
    text = question.means_text(info) if any(map(uses_means, asked.plans)) else None
    # The prompt itself says whether what was written reads back.
    rest = (asked.request.prompt, text, dtype, device, question.prefix_id(info))
    return cache.key("generation", info.fingerprint, asked.ids, asked.plans, vars(of), *rest)


# --------------------------------------------------------------------------------------------------- running


def take(engine: LocalEngine, asked: Asked) -> Iterator[Progress | Generation]:
    """A Generation after every token of a wave of texts; the last is complete, and kept.

    Means that a plan replaces by must have been measured.
    """
    request, began = asked.request, time.monotonic()
    written = _Written(engine, asked)
    edits = list(range(1, len(asked.plans)))
    begun = 0  # edits of the waves before
    while begun < len(edits) or not begun:
        prefilled = _prefill(engine, asked, edits[begun:])
        wave = prefilled.edits
        for step in _write(engine, asked, prefilled, written):
            of_wave = (step + 1) / request.tokens
            yield progress(STAGE, began, (begun + len(wave) * of_wave) / len(edits) if edits else of_wave)
            yield written.so_far(began)
        begun += max(len(wave), 1)
    found = replace(written.so_far(began), complete=True)
    if engine.request.cache:
        cache.put(_key(asked, engine.info, engine.info.dtype, engine.info.device.split(":")[0]), found)
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
    """The runs that write together. edits: of the plans, those it holds."""

    edits: list[int]
    baseline: _Run  # the baseline over its own text
    edited: list[_Run]  # each schedule over its own text
    beside: list[_Run]  # the baseline over the schedule's text: `baseline` until they part
    forced: list[_Run]  # the schedule over the baseline's text: that of `edited` until they part
    parted: list[bool]


def _prefill(engine: LocalEngine, asked: Asked, edits: Sequence[int]) -> _Wave:
    """Run the prompt under the baseline and as many of the schedules as can be held, sharing what they share."""
    import torch

    from stagescope.engine import blocks, keys_values, runner
    from stagescope.engine.runner import Node

    engine.checkpoint()
    net, n_tokens = engine.net, asked.request.tokens
    past = keys_values.Past(net.n_layers, 0, len(asked.ids) + n_tokens)
    begun = blocks.start(net, torch.tensor([asked.ids]), past)
    root = Node(x=begun.x[0])

    base = runner.path(root, asked.plans[0])
    of_base = set(map(id, base))

    def run(plans: Sequence[Plan]) -> list[list[Node]]:
        paths = [runner.path(root, plan) for plan in plans]
        for _ in runner.steps(net, begun, paths, engine.averages, norms=False, keep=lambda node: id(node) in of_base):
            engine.checkpoint()
        return paths

    run(asked.plans[:1])
    a_depth = sum(keys_values.bytes_of(node.kept) for node in base) / max(len(base) - 1, 1)
    room, held = OF_MEMORY * net.memory, 0.0
    wave: list[int] = []
    for edit in edits:  # three runs each in the end
        held += a_depth * (2 * len(asked.plans[edit]) + len(base))
        if wave and (held > room or 3 * len(wave) + 4 > RUNS_AT_ONCE):
            break
        wave.append(edit)
    paths = run([asked.plans[edit] for edit in wave])
    baseline = _Run(base).copy()
    edited = [_Run(path).copy() for path in paths]
    return _Wave(wave, baseline, edited, [baseline] * len(wave), list(edited), [False] * len(wave))


def _write(engine: LocalEngine, asked: Asked, wave: _Wave, written: _Written) -> Iterator[int]:
    """Token after token of the wave's texts; the number of each step."""
    import torch

    from stagescope.engine import blocks, keys_values, runner, sampling

    net, n_prompt = engine.net, len(asked.ids)
    choose = sampling.sampler(asked.request)
    ends = _end_tokens(net)
    going = [True, *(True for _ in wave.edits)]  # whether the baseline's text, each of the others, goes on
    for step in range(asked.request.tokens):
        runs = _distinct(wave, going)
        logp = dict(zip(map(id, runs), _log_probs(net, runs), strict=True))
        with torch.inference_mode():
            writers = [wave.baseline, *wave.edited]
            writing = [text for text, goes in enumerate(going) if goes]
            drawn = choose(torch.stack([logp[id(writers[text])] for text in writing])).tolist()
            tokens = dict(zip(writing, drawn, strict=True))
            if going[0] and written.ids[0, step] < 0:  # else a wave before wrote it
                written.put(0, step, tokens[0], logp[id(wave.baseline)], logp[id(wave.baseline)])
            for index, edit in enumerate(wave.edits):
                if going[0]:
                    written.force(edit, step, tokens[0], logp[id(wave.forced[index])], logp[id(wave.baseline)])
                if going[index + 1]:
                    written.put(edit, step, tokens[index + 1], logp[id(wave.edited[index])], logp[id(wave.beside[index])])
        for text in writing:
            if tokens[text] in ends:
                going[text] = False
                written.ended[([0] + wave.edits)[text]] = True
        is_last = step + 1 == asked.request.tokens or not any(going)
        yield step
        if is_last:
            return
        engine.checkpoint()
        for index in range(len(wave.edits)):
            if index + 1 in tokens and not wave.parted[index] and tokens[0] != tokens[index + 1]:
                wave.parted[index] = True
                wave.beside[index] = wave.baseline.copy()
                wave.forced[index] = wave.edited[index].copy()
        newest = _newest(wave, going, tokens)
        runs = [run for run, _ in newest]
        past = keys_values.Past(net.n_layers, n_prompt + step, n_prompt + asked.request.tokens)
        begun = blocks.start(net, torch.tensor([[token] for _, token in newest]), past)
        for run, x in zip(runs, begun.x, strict=True):
            run.nodes[0].x = x
            for node in run.nodes[1:]:
                node.x = None
        for _ in runner.steps(net, begun, [run.nodes for run in runs], engine.averages, norms=False, keep=lambda node: False):
            engine.checkpoint()


def _newest(wave: _Wave, going: list[bool], tokens: dict[int, int]) -> list[tuple[_Run, int]]:
    """The runs that go on, each once, with the token that each reads now."""
    found = [(wave.baseline, tokens[0])] if going[0] else []
    for index, goes in enumerate(going[1:]):
        if going[0]:
            found.append((wave.forced[index], tokens[0]))
        if goes:
            found += [(wave.edited[index], tokens[index + 1]), (wave.beside[index], tokens[index + 1])]
    return list({id(run): (run, token) for run, token in found}.values())


def _distinct(wave: _Wave, going: list[bool]) -> list[_Run]:
    return [run for run, _ in _newest(wave, going, dict.fromkeys(range(len(going)), 0))]


def _log_probs(net: Network, runs: list[_Run]) -> Tensor:
    """[R, V] of what each run says next."""
    import torch

    from stagescope.engine import lens

    with torch.inference_mode():
        return lens.log_probs(net, torch.stack([run.nodes[-1].x[-1] for run in runs]))


def _end_tokens(net: Network) -> set[int]:
    """The tokens at which the model ends a text, as its authors say."""
    model = net.bridge.original_model
    told = [getattr(getattr(model, name, None), "eos_token_id", None) for name in ("generation_config", "config")]
    ends = next((ends for ends in told if ends is not None), [])
    return {ends} if isinstance(ends, int) else set(ends)


# ----------------------------------------------------------------------------------------- what was written


class _Written:
    """The texts so far, and what is measured of them."""

    def __init__(self, engine: LocalEngine, asked: Asked):
        self.engine, self.asked = engine, asked
        shape = (len(asked.plans), asked.request.tokens)
        self.ids = np.full(shape, -1, np.int32)
        names = ("p", "base_p", "entropy_bits", "base_entropy_bits", "kl_nats", "forced_p", "forced_kl_nats")
        self.measured = {name: np.full(shape, np.nan, np.float32) for name in names}
        self.ended, self.reads_back = np.zeros(shape[0], bool), np.zeros(shape, bool)
        self.pieces: list[list[str]] = [[] for _ in asked.plans]
        self.texts: dict[int, str] = {}
        spelled = texts(engine.tokenizer, asked.ids)
        self.tokens = tuple(Token(token, spelled[token]) for token in asked.ids)
        self.start = _decoded(engine.tokenizer, asked.ids)

    def put(self, text: int, step: int, token: int, logp: Tensor, base: Tensor) -> None:
        """A token of a text. logp, base [V]: of the schedule that writes it, of the baseline given the same words."""
        from stagescope.engine.metrics import entropy_bits, kl_nats

        self.ids[text, step] = token
        of = {"p": logp[token].exp(), "base_p": base[token].exp(), "entropy_bits": entropy_bits(logp)}
        of |= {"base_entropy_bits": entropy_bits(base), "kl_nats": 0.0 if logp is base else kl_nats(base, logp)}
        if text == 0:
            of |= {"forced_p": of["p"], "forced_kl_nats": 0.0}
        self._keep(text, step, of)
        self._spell(text, step)

    def force(self, text: int, step: int, token: int, logp: Tensor, base: Tensor) -> None:
        """The baseline's token, under another schedule."""
        from stagescope.engine.metrics import kl_nats

        self._keep(text, step, {"forced_p": logp[token].exp(), "forced_kl_nats": kl_nats(base, logp)})

    def _keep(self, text: int, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.measured[name][text, step] = float(value)

    def _spell(self, text: int, step: int) -> None:
        """What the token adds to the text: nothing while it is half a character."""
        tokenizer, ids = self.engine.tokenizer, self.ids[text, : step + 1].tolist()
        self.texts |= texts(tokenizer, ids[-1:])
        whole, before = _decoded(tokenizer, [*self.asked.ids, *ids]), self.start + "".join(self.pieces[text])
        is_whole = whole.startswith(before) and not whole.endswith("\ufffd")
        self.pieces[text].append(whole[len(before) :] if is_whole else "")
        self.reads_back[text, step] = is_whole and self._reads_back("".join(self.pieces[text]), ids)

    def _reads_back(self, written: str, ids: list[int]) -> bool:
        if self.engine.request.chat:  # the prompt stands in the template, and the text after it
            return False
        prefix = self.engine.info.prefix
        try:
            again = encode(self.engine.tokenizer, self.asked.request.prompt + written, prefix.id if prefix else None)
        except PromptError:
            return False
        return again == [*self.asked.ids, *ids]

    def so_far(self, began: float) -> Generation:
        return Generation(
            model=self.engine.info,
            prompt=self.asked.request.prompt,
            tokens=self.tokens,
            schedules=self.asked.schedules,
            asked=self.asked.request,
            ids=self.ids.copy(),
            **{name: values.copy() for name, values in self.measured.items()},
            ended=self.ended.copy(),
            pieces=tuple(map(tuple, self.pieces)),
            reads_back=self.reads_back.copy(),
            texts=dict(self.texts),
            milliseconds=(time.monotonic() - began) * 1000,
        )


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
