"""Continuations: their tokens and every number against plain transformers, and against runs without keys and values."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import reference
import tiny_models
import torch
from reference import Place
from test_comparison import loaded
from test_readings_right import FAMILIES, close, order
from transformers import AutoModelForCausalLM

from stagescope.engine import blocks, generation, lens, runner
from stagescope.engine.local import LocalEngine
from stagescope.engine.metrics import kl_nats
from stagescope.engine.protocol import Generate, Generation
from stagescope.engine.schedule import ScheduleError, parse, resolve

PROMPT = "the quick brown fox"
P, N = 16, 8  # tokens of the prompt (four windows of gemma3), and written
NUMBERS = ("p", "base_p", "entropy_bits", "base_entropy_bits", "kl_nats", "forced_p", "forced_kl_nats")
MILD = ("neuron-off 2.7", "head-off 4.1 @3", "neuron-off 1.20 5.3", "mlp-off 3 @2")  # part late from the baseline


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Callable[[str], tuple[LocalEngine, torch.nn.Module]]:
    """Of a family: the engine with a tiny model, and the same model in plain transformers."""

    @functools.cache
    def load(family: str):
        engine = loaded(tiny_models.build(family, tmp_path_factory.mktemp(family)))
        return engine, plain(engine.request.model)

    return load


def plain(directory):
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()


def write(engine: LocalEngine, *schedules: str, prompt: str = PROMPT, tokens: int = N, **changes) -> Generation:
    *_, found = engine.answer(Generate(prompt, schedules, tokens, **changes))
    assert found.complete and found.schedules == ("", *(str(parse(text)) for text in schedules))
    return found


def prompt_ids(engine: LocalEngine, prompt: str = PROMPT) -> list[int]:
    return engine.tokenizer(prompt, add_special_tokens=False).input_ids


def by_transformers(model, ids: list[int], tokens: int) -> list[int]:
    return model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=tokens, pad_token_id=0)[0, len(ids) :].tolist()


# ------------------------------------------------------------------------------------------------ greedy


@pytest.mark.parametrize("family", FAMILIES)
def test_the_baseline_writes_what_transformers_writes(models, family) -> None:
    engine, model = models(family)
    seen = set()
    for prompt in (PROMPT, "a", "She was walking", "In the beginning there were ten questions; by the end"):
        found, ids = write(engine, prompt=prompt, tokens=24), prompt_ids(engine, prompt)
        theirs = by_transformers(model, ids, 24)
        assert [token.id for token in found.tokens] == ids
        assert found.ids[0].tolist() == theirs + [-1] * (24 - len(theirs))
        assert found.length(0) == len(theirs) and found.ended[0] == (theirs[-1] == 0)
        seen |= set(theirs)
    assert len(seen) > 3


@pytest.mark.parametrize(("family", "several"), [("llama", False), ("gpt_neox", True), ("olmo2", True)])  # end tokens
def test_a_text_ends_where_the_model_ends_it(tmp_path, family, several) -> None:
    engine = loaded(tiny_models.build(family, tmp_path, eos_token_id=None))
    before = write(engine, *MILD, "drop 2")
    assert not before.ended.any() and (before.ids >= 0).all()
    end = [*dict.fromkeys(before.ids[0, :5].tolist())][-1]
    at = before.ids[0].tolist().index(end)
    other = next(token for token in before.ids[5].tolist() if token not in before.ids[0])  # ends "drop 2" alone
    ends = [end, other] if several else end
    engine = loaded(tiny_models.build(family, tmp_path, eos_token_id=ends))
    found = write(engine, *MILD, "drop 2")
    theirs = by_transformers(plain(tmp_path), prompt_ids(engine), N)
    assert theirs[-1] == end and found.ids[0].tolist() == theirs + [-1] * (N - at - 1)
    for text in range(6):  # each as far as without an end, and no further
        longer = before.ids[text].tolist()
        last = next((n for n, token in enumerate(longer) if token in ([end, other] if several else [end])), None)
        length = N if last is None else last + 1
        assert found.ended[text] == (last is not None) and found.length(text) == length == len(found.pieces[text])
        assert found.ids[text].tolist() == longer[:length] + [-1] * (N - length)
        for name in NUMBERS:
            ours, longest = getattr(found, name)[text], getattr(before, name)[text]
            written = at + 1 if name.startswith("forced") else length  # along the baseline's text: as far as that goes
            close(ours[:written], longest[:written])
            assert np.isnan(ours[written:]).all()
        apart = np.flatnonzero(found.ids[text] != found.ids[0])
        assert found.parts_at(text) == (apart[0] if len(apart) else None)
    assert found.ended[0] and len({found.length(text) for text in range(6)}) > 1


# ---------------------------------------------------------------------------- against plain transformers


def off_at(n: int, *positions: int) -> torch.Tensor:
    on = torch.ones(n, dtype=torch.bool)
    on[list(positions)] = False
    return on


def means(of: torch.Tensor, n: int) -> torch.Tensor:
    """[2, D] -> [n, D]: position 0 has its own."""
    return torch.cat([of[:1], of[1:].expand(n - 1, -1)])


def one(layer: int, **changes) -> list:
    """The plain order, but for one layer."""
    return [Place(at, **changes) if at == layer else Place(at) for at in range(6)]


# schedule -> the places to run over n tokens, means taken from the engine's averages
EDITS: dict[str, Callable] = {
    "": lambda n, of: order(*range(6)),
    "drop 2": lambda n, of: order(0, 1, 3, 4, 5),
    "drop 0-5": lambda n, of: [],
    "swap 0 5": lambda n, of: order(5, 1, 2, 3, 4, 0),
    "reverse 1-4": lambda n, of: order(0, 4, 3, 2, 1, 5),
    "repeat 1-2 x3": lambda n, of: order(0, 1, 1, 1, 2, 2, 2, 3, 4, 5),
    "loop 2-3": lambda n, of: order(0, 1, 2, 3, 2, 3, 4, 5),
    "middle-repeat 1-2": lambda n, of: order(0, 3, 3, 3, 4, 5),
    "parallel 2-4": lambda n, of: [Place(0), Place(1), order(2, 3, 4), Place(5)],
    "parallel 2-3 x2": lambda n, of: [Place(0), Place(1), order(2, 3), order(2, 3), Place(4), Place(5)],
    "attn-off 2": lambda n, of: one(2, attn_on=False),
    "mlp-off 4": lambda n, of: one(4, mlp_on=False),
    "repeat 5; attn-off 5": lambda n, of: one(5, attn_on=False) + [Place(5, attn_on=False)],
    "head-off 3.1-2": lambda n, of: one(3, heads_off=(1, 2)),
    "neuron-off 5.0-9": lambda n, of: one(5, neurons_off=tuple(range(10))),
    "neuron-off 2.7": lambda n, of: one(2, neurons_off=(7,)),
    "attn-off 0 mean": lambda n, of: one(0, attn_on=False, attn_mean=means(of.attn[0], n)),
    "drop 3 mean": lambda n, of: one(
        3, attn_on=False, mlp_on=False, attn_mean=means(of.attn[3], n), mlp_mean=means(of.mlp[3], n)
    ),
    "drop 2 @-1": lambda n, of: one(2, attn_on=off_at(n, P - 1), mlp_on=off_at(n, P - 1)),
    "attn-off 1 @2-4": lambda n, of: one(1, attn_on=off_at(n, 2, 3, 4)),
    "mlp-off 2 mean @0": lambda n, of: one(2, mlp_on=off_at(n, 0), mlp_mean=means(of.mlp[2], n)),
    f"drop 3 @0-{P - 1}": lambda n, of: one(3, attn_on=off_at(n, *range(P)), mlp_on=off_at(n, *range(P))),
}
SEQUENTIAL = {
    "order 0-2 3a 4 5m": lambda n, of: [
        *order(0, 1, 2), Place(3, mlp_on=False), Place(4), Place(5, attn_on=False)
    ],
}  # fmt: skip


def by_definition(model, ids: list[int], written: list[int], places: Callable) -> torch.Tensor:
    """[N, V] log-probabilities in float64 that each token was taken from: one run over the whole, since what follows
    changes nothing before it (the test below runs the words so far as well)."""
    words = torch.tensor(ids + written[:-1])
    return reference.lens(model, reference.run(model, words, places(len(words))).residuals[-1][len(ids) - 1 :])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_of_every_step_by_definition(models, family) -> None:
    engine, model = models(family)
    edits = EDITS if engine.net.parallel else EDITS | SEQUENTIAL
    found, ids = write(engine, *edits), prompt_ids(engine)
    plainly = edits[""]
    written = found.ids[0, : found.length(0)].tolist()
    base = by_definition(model, ids, written, lambda n: plainly(n, None))
    for text, (schedule, places) in enumerate(edits.items(), start=1):
        own = found.ids[text, : found.length(text)].tolist()
        edited = functools.partial(lambda places, n: places(n, engine.averages), places)
        p, q = (by_definition(model, ids, own, of) for of in (lambda n: plainly(n, None), edited))
        forced = by_definition(model, ids, written, edited)
        assert own == q.argmax(-1).tolist(), schedule
        theirs = {
            "p": q[range(len(own)), own].exp(),
            "base_p": p[range(len(own)), own].exp(),
            "entropy_bits": reference.entropy_bits(q),
            "base_entropy_bits": reference.entropy_bits(p),
            "kl_nats": reference.kl_nats(p, q),
            "forced_p": forced[range(len(written)), written].exp(),
            "forced_kl_nats": reference.kl_nats(base, forced),
        }
        for name, expected in theirs.items():
            ours = getattr(found, name)[text]
            close(ours[: len(expected)], expected, rtol=5e-4)
            assert np.isnan(ours[len(expected) :]).all()
        assert schedule == "" or theirs["kl_nats"].max() > 1e-4, schedule  # it is felt
    for step in range(len(own)):  # of the last schedule: the words so far and no more
        close(by_definition(model, ids, own[: step + 1], edited)[-1], q[step])
    assert found.kl_nats[0, : len(written)].tolist() == found.forced_kl_nats[0, : len(written)].tolist() == [0.0] * len(written)
    for same, other in (("p", "base_p"), ("p", "forced_p"), ("entropy_bits", "base_entropy_bits")):
        np.testing.assert_array_equal(getattr(found, same)[0], getattr(found, other)[0])
    close(found.p[0, : len(written)], base[range(len(written)), written].exp())
    close(found.entropy_bits[0, : len(written)], reference.entropy_bits(base))
    parts = {found.parts_at(text) for text in range(1, len(found.ids))}
    assert {None, 0} <= parts  # some at once, some not


# ----------------------------------------------------------------------------- with and without the cache


def some_schedules(chance: random.Random, parallel: bool, n: int) -> list[str]:
    """Random ones that can be, of one to three steps."""

    def span() -> str:
        first = chance.randrange(6)
        return f"{first}-{chance.randrange(first, 6)}" if chance.random() < 0.7 else f"{first}"

    def at() -> str:
        first = chance.randrange(P)
        return chance.choice(["", "", f" @{first}-{chance.randrange(first, P)}", f" @0-{P - 1}", f" @{first}"])

    def step() -> str:
        layer, mean = chance.randrange(6), chance.choice(["", " mean"])
        a, b = chance.sample(range(6), 2)
        sublayers = [f"{layer}{chance.choice('am')}" for layer in chance.sample(range(6), 3)]
        return chance.choice([
            f"{chance.choice(['drop', 'attn-off', 'mlp-off'])} {span()}{mean}{at()}",
            f"head-off {layer}.{chance.randrange(4)}{mean}{at()}",
            f"neuron-off {layer}.{chance.randrange(100)}-{chance.randrange(100, 128)}{mean}{at()}",
            f"swap {a} {b}",
            f"{chance.choice(['repeat', 'loop', 'parallel'])} {span()} x{chance.randrange(1, 4)}",
            f"{chance.choice(['reverse', 'middle-repeat', 'shuffle'])} {span()}",
            f"shuffle {span()} seed {chance.randrange(9)}",
            f"order {chance.randrange(6)} {' '.join(sublayers)} {layer} {layer}",
        ])  # fmt: skip

    found: list[str] = []
    while len(found) < n:
        text = "; ".join(step() for _ in range(chance.randrange(1, 4)))
        try:
            resolve(parse(text), 6, parallel_blocks=parallel, n_positions=P)
        except ScheduleError:
            continue
        found.append(text)
    return found


def run_afresh(engine: LocalEngine, ids: list[int], schedules: list[str]) -> torch.Tensor:
    """[S, V] log-probabilities after ids, by the engine's runner without keys and values."""
    net = engine.net
    begun = blocks.start(net, torch.tensor([ids]))
    root = runner.Node(x=begun.x[0])
    plans = [resolve(parse(text), 6, parallel_blocks=net.parallel, n_positions=len(ids)) for text in schedules]
    runner.run(net, begun, root, plans, engine.averages)
    return lens.log_probs(net, torch.stack([runner.path(root, plan)[-1].x[-1] for plan in plans]))


@pytest.mark.parametrize("family", FAMILIES)
def test_random_schedules_with_and_without_the_cache(models, family) -> None:
    engine, _ = models(family)
    schedules = some_schedules(random.Random(family), engine.net.parallel, 12)
    found, ids = write(engine, *schedules, tokens=6), prompt_ids(engine)
    for step in range(found.length(0)):
        base, *forced = run_afresh(engine, ids + found.ids[0, :step].tolist(), ["", *schedules])
        assert base.argmax() == found.ids[0, step]
        for text, schedule in enumerate(schedules, start=1):
            if step < found.length(text):
                p, q = run_afresh(engine, ids + found.ids[text, :step].tolist(), ["", schedule])
                assert q.argmax() == found.ids[text, step], schedule
                close(found.kl_nats[text, step], kl_nats(p, q), atol=1e-4)
            close(found.forced_kl_nats[text, step], kl_nats(base, forced[text - 1]), atol=1e-4)
            close(found.forced_p[text, step], forced[text - 1][found.ids[0, step]].exp(), atol=1e-4)


# ------------------------------------------------------------------------------------------------ together

MANY = [*MILD, "parallel 1-3 x2", "repeat 4-5", "drop 0-5", "attn-off 1 @2-4"]
SAMPLED = {"temperature": 1.3, "top_k": 50, "top_p": 0.95, "seed": 11}


def same(a: Generation, b: Generation, texts: Iterable[tuple[int, int]]) -> None:
    for i, j in texts:
        np.testing.assert_array_equal(a.ids[i], b.ids[j])
        for name in NUMBERS:
            close(getattr(a, name)[i], getattr(b, name)[j])
        assert a.pieces[i] == b.pieces[j] and a.reads_back[i].tolist() == b.reads_back[j].tolist()
        assert a.ended[i] == b.ended[j] and a.parts_at(i) == b.parts_at(j)


@pytest.fixture(params=["gpt_neox", "gemma3"])  # both sublayers at once; windows
def engine(request, models) -> LocalEngine:
    return models(request.param)[0]


@pytest.mark.parametrize("chance", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_many_in_one_request_are_each_alone(engine, chance) -> None:
    together = write(engine, *MANY, **chance)
    for text, schedule in enumerate(MANY, start=1):
        same(together, write(engine, schedule, **chance), [(0, 0), (text, 1)])


@pytest.mark.parametrize(("bound", "chance"), [("runs", {}), ("memory", SAMPLED)], ids=["runs", "memory"])
def test_waves_are_one_wave(engine, monkeypatch, bound, chance) -> None:
    whole = write(engine, *MANY, **chance)
    if bound == "runs":
        monkeypatch.setattr(generation, "RUNS_AT_ONCE", 10)  # two or three schedules
    else:
        monkeypatch.setattr(engine.net, "memory", 1)  # one
    waves, real = [], generation._prefill
    monkeypatch.setattr(generation, "_prefill", lambda *given: waves.append(real(*given)) or waves[-1])
    same(whole, write(engine, *MANY, **chance), [(text, text) for text in range(len(MANY) + 1)])
    assert [edit for wave in waves for edit in wave.edits] == list(range(1, len(MANY) + 1))
    assert len(waves) == (3 if bound == "runs" else len(MANY))


def test_answers_grow_token_by_token_through_all_waves(models, monkeypatch) -> None:
    engine, _ = models("llama")
    monkeypatch.setattr(generation, "RUNS_AT_ONCE", 7)
    replies = [reply for reply in engine.answer(Generate(PROMPT, MILD, N)) if isinstance(reply, Generation)]
    *growing, last = replies
    assert last.complete and not any(reply.complete for reply in growing) and len(growing) == 2 * N
    for now, then in zip(replies, replies[1:], strict=False):
        written = now.ids >= 0
        np.testing.assert_array_equal(now.ids[written], then.ids[written])
        np.testing.assert_array_equal(now.kl_nats[written], then.kl_nats[written])
    assert [growing[at].length(text) for at, text in ((0, 0), (0, 1), (0, 3), (N, 3), (N, 0))] == [1, 1, 0, 1, N]
    assert growing[0].parts_at(3) is None  # not begun


def test_schedules_of_which_one_is_the_beginning_of_another(engine) -> None:
    """`drop 2 5` ends where `drop 2` has a layer to go, and the same state is read by both."""
    several = ("drop 2", "drop 2 5", "drop 2 4-5", "drop 5", "drop 1-5", "drop 0-5", "swap 0 1; drop 5", "swap 0 1; drop 4-5")
    together = write(engine, *several)
    for text, schedule in enumerate(several, start=1):
        same(together, write(engine, schedule), [(text, 1)])


@pytest.mark.parametrize("chance", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_what_changes_nothing_never_parts_and_equals_write_equal_texts(engine, chance) -> None:
    unchanged = ("", ";", "swap 1 3; swap 1 3", "order 0-5")
    found = write(engine, *unchanged, "drop 0", "drop 0", "DROP 0", tokens=30, **chance)
    for text in range(1, 5):
        assert found.parts_at(text) is None and found.ids[text].tolist() == found.ids[0].tolist()
        assert np.nanmax(np.abs(found.kl_nats[text])) < 1e-6 and np.nanmax(np.abs(found.forced_kl_nats[text])) < 1e-6
    assert np.nanmax(found.kl_nats[5]) > 0.01
    same(found, found, [(5, 6), (5, 7)])
