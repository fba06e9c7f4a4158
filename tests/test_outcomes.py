"""Many schedules at once against the independent calculation in reference.py, and against one at a time."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import tiny_models
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Place
from test_readings_right import FAMILIES, SCHEDULES, Both, close, make, order

from stagescope.engine import blocks, kinds, runner
from stagescope.engine import outcomes as outcomes_module
from stagescope.engine.averages import over
from stagescope.engine.outcomes import MEASURES, Base, Outcome, Task, outcomes
from stagescope.engine.protocol import EngineError
from stagescope.engine.schedule import ScheduleError, parse, resolve

KL, SAME, BITS, LOSS, RANK, P = range(len(MEASURES))


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory) -> Both:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Both:
    return make("llama", tmp_path_factory.mktemp("llama"))


def plan(net, text: str, n_tokens: int):
    return resolve(parse(text), net.n_layers, parallel_blocks=net.parallel, n_positions=n_tokens)


def task(net, ids, texts, **how) -> Task:
    ids = tuple(int(token) for token in ids)
    return Task(ids, tuple(plan(net, text, len(ids)) for text in texts), **how)


def taken(net, *tasks: Task, averages=None) -> tuple[list[Base], list[list[np.ndarray]]]:
    """The baselines and, for each task, the values of its plans in order. Every one comes exactly once."""
    bases, found, fractions = {}, {}, []
    for step in outcomes(net, tasks, averages):
        if isinstance(step, Base):
            assert bases.setdefault(step.task, step) is step
        elif isinstance(step, Outcome):
            assert found.setdefault((step.task, step.plan), step) is step
        else:
            fractions.append(step)
    assert fractions == sorted(fractions) and 0 <= fractions[0] and fractions[-1] <= 1
    values = [[found.pop((t, p)).values for p in range(len(task.plans))] for t, task in enumerate(tasks)]
    assert not found
    return [bases[index] for index in range(len(tasks))], values


def expected(model, ids, places) -> np.ndarray:
    """The six measures [6, T] by definition, of an order of places against the plain order."""
    with torch.no_grad():
        q = reference.lens(model, reference.run(model, ids, places).residuals[-1])
        p = reference.lens(model, reference.run(model, ids).residuals[-1])
    tracked = p.argmax(-1)[:, None]
    loss = torch.full((len(ids),), float("nan"), dtype=torch.float64)
    loss[:-1] = reference.loss_nats(q, ids)[: len(ids) - 1] - reference.loss_nats(p, ids)[: len(ids) - 1]
    q_of_tracked = q.gather(-1, tracked)
    return torch.stack([
        reference.kl_nats(p, q),
        (q.argmax(-1) == p.argmax(-1)).double(),
        reference.entropy_bits(q) - reference.entropy_bits(p),
        loss,
        (q > q_of_tracked).sum(-1).double() + 1,
        q_of_tracked[:, 0].exp(),
    ]).numpy()  # fmt: skip


def near(ours: np.ndarray, theirs: np.ndarray) -> None:
    for measure in (KL, BITS, LOSS, P):
        close(ours[measure], theirs[measure], atol=3e-5)
    assert (ours[SAME] == theirs[SAME]).mean() > 0.9  # near ties may change places, and ranks by one or two
    assert np.abs(ours[RANK] - theirs[RANK]).max() <= 2


def test_every_measure_of_many_schedules_at_once(both: Both) -> None:
    texts = list(SCHEDULES)
    (base,), (values,) = taken(both.net, task(both.net, both.ids, texts))
    for text, ours in zip(texts, values, strict=True):
        near(ours, expected(both.model, both.ids, SCHEDULES[text]))
    with torch.no_grad():
        p = reference.lens(both.model, reference.run(both.model, both.ids).residuals[-1])
    close(base.entropy_bits, reference.entropy_bits(p))
    close(base.loss_nats[:-1], reference.loss_nats(p, both.ids)[: len(both.ids) - 1])
    assert np.isnan(base.loss_nats[-1]) and (base.tracked_rank == 1).all()
    close(base.tracked_p, p.exp().amax(-1))


@pytest.mark.parametrize("variant", ["skip", "middle-repeat", "reverse", "shuffle", "parallel", "looped parallel"])
def test_painters_against_a_direct_loop(both: Both, variant: str) -> None:
    """Sun et al.'s variants on the span 1-4 of six layers, written out as loops over layers."""
    import random

    rows = [row for row in kinds.entries("painters", 6) if row.layer == 1 and row.variant == variant]
    _, (values,) = taken(both.net, task(both.net, both.ids, [row.schedule for row in rows]))
    for seed, ours in enumerate(values):
        draw = random.Random(seed)
        drawn = {layer: draw.random() for layer in range(1, 5)}
        middle = {
            "skip": [],
            "middle-repeat": order(3, 3, 3, 3),
            "reverse": order(4, 3, 2, 1),
            "shuffle": order(*sorted(drawn, key=drawn.get)),
            "parallel": [order(1, 2, 3, 4)],
            "looped parallel": 3 * [order(1, 2, 3, 4)],
        }[variant]
        near(ours, expected(both.model, both.ids, [*order(0), *middle, *order(5)]))
    assert len(values) == (kinds.SHUFFLES if variant == "shuffle" else 1)


def test_press_orders_against_sublayers_one_by_one(both: Both) -> None:
    if both.net.parallel:
        with pytest.raises(EngineError):
            kinds.entries("press", 6, parallel_blocks=True)
        return
    _, (values,) = taken(both.net, task(both.net, both.ids, [row.schedule for row in kinds.entries("press", 6)]))
    for k, ours in enumerate(values, 1):
        halves = [(layer, "a") for layer in range(k)]
        for step in range(6 - k):
            halves += [(k + step, "a"), (step, "m")]
        halves += [(layer, "m") for layer in range(6 - k, 6)]
        places = [Place(layer, attn_on=part == "a", mlp_on=part == "m") for layer, part in halves]
        near(ours, expected(both.model, both.ids, places))


layers = st.integers(0, 5)
spans = st.tuples(layers, layers).map(lambda two: f"{min(two)}-{max(two)}")
positions = st.sampled_from(["", "", " @0", " @-1", " @1-3", " @2"])
steps = st.one_of(
    st.builds("{} {}{}{}".format, st.sampled_from(["drop", "attn-off", "mlp-off"]), spans,
              st.sampled_from(["", "", " mean"]), positions),
    st.builds("swap {} {}".format, layers, layers),
    st.builds("{} {}".format, st.sampled_from(["repeat", "loop", "reverse", "shuffle", "middle-repeat", "parallel"]), spans),
    st.builds("parallel {} x2".format, spans),
    st.permutations(["0", "1-2", "3a", "3m", "5", "4"]).map(lambda items: "order " + " ".join(items)),
)  # fmt: skip
schedules = st.lists(steps, max_size=2).map("; ".join)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(schedules, min_size=1, max_size=12), lengths=st.lists(st.integers(5, 12), min_size=1, max_size=4),
       at_once=st.sampled_from([8, 40, 512]))  # fmt: skip
def test_batched_equals_one_by_one(both: Both, texts, lengths, at_once) -> None:
    """Any schedules over prompts of any lengths, in waves of any size: as each alone, in fp32 within 1e-5 of numbers
    of size 1. Entropy and loss are of size 5 to 10, so are their differences' errors: 5e-5.

    Bit for bit it is not: a product over more rows adds up in another order, and so does attention over padding.
    """
    net, prompts = both.net, [tiny_models.ids(both.net.d_vocab, length, seed=length) for length in lengths]

    def possible(text: str) -> bool:
        try:
            return all(plan(net, text, len(ids)) is not None for ids in prompts)
        except ScheduleError:
            return False

    texts = [text for text in texts if possible(text)]
    averages = list(over(net, torch.stack([tiny_models.ids(net.d_vocab, 8, seed=5)]), "text"))[-1]
    before = runner.TOKENS_AT_ONCE["cpu"]
    runner.TOKENS_AT_ONCE["cpu"] = at_once
    try:
        bases, batched = taken(net, *(task(net, ids, texts) for ids in prompts), averages=averages)
    finally:
        runner.TOKENS_AT_ONCE["cpu"] = before
    for ids, base, values in zip(prompts, bases, batched, strict=True):
        for text, ours in zip(texts, values, strict=True):
            (alone,), ((theirs,),) = taken(net, task(net, ids, [text]), averages=averages)
            close(base.entropy_bits, alone.entropy_bits, rtol=1e-5, atol=1e-5)
            for measure, atol in ((KL, 2e-5), (BITS, 5e-5), (LOSS, 5e-5), (P, 1e-5)):
                close(ours[measure], theirs[measure], rtol=1e-4, atol=atol)


def test_what_means_the_same_is_the_same(llama: Both) -> None:
    """The plain order however written is the baseline, to the bit; repeated schedules have one outcome."""
    texts = ["", "swap 1 2; swap 1 2", "repeat 3 x1", "drop 2", "drop 4", "drop 2", "drop 0-5"]
    _, (values,) = taken(llama.net, task(llama.net, llama.ids, texts))
    for same in values[:3]:
        assert (same[KL] == 0).all() and (same[SAME] == 1).all() and np.abs(same[BITS]).max() == 0
    np.testing.assert_array_equal(values[3], values[5])
    assert (values[3][KL] > 1e-3).any() and (values[4][KL] != values[3][KL]).any()


def test_one_position_and_one_token_followed(llama: Both) -> None:
    texts = ["drop 1", "drop 3 @2", "swap 3 4"]
    (base,), (all_,) = taken(llama.net, task(llama.net, llama.ids, texts, tracked=7))
    (one,), (at,) = taken(llama.net, task(llama.net, llama.ids, texts, tracked=7, positions=(4,)))
    assert (base.tracked == 7).all() and base.tracked_rank.max() > 1
    for whole, single in zip(all_, at, strict=True):
        close(single[:, 4], whole[:, 4], rtol=1e-5, atol=1e-5)
        assert np.isnan(np.delete(single, 4, axis=1)).all()
    assert one.tracked[4] == 7 and (np.delete(one.tracked, 4) == -1).all()


def test_prefixes_are_shared_and_waves_let_go(llama: Both, monkeypatch) -> None:
    """Every node of the trie runs once, and what is held at a time does not grow with the number of schedules."""
    ran, held = [], []
    pass_ = runner._pass

    def counted(net, begun, rows, *rest):
        pass_(net, begun, rows, *rest)
        ran.extend(rows)
        root = rows[0]
        while root.parent:
            root = root.parent
        held.append(sum(node.x is not None for node in runner._walk(root)))

    monkeypatch.setattr(runner, "_pass", counted)
    monkeypatch.setitem(runner.TOKENS_AT_ONCE, "cpu", 4 * len(llama.ids))
    monkeypatch.setattr(outcomes_module, "WAVE_ROWS", 4)
    texts = [row.schedule for kind in ("drop", "swap", "pairs") for row in kinds.entries(kind, 6)]
    texts += [f"attn-off {a}; mlp-off {b}" for a in range(6) for b in range(6)]
    peak = {}
    for n in (6, len(texts)):
        held.clear()
        taken(llama.net, task(llama.net, llama.ids, texts[:n]))
        peak[n] = max(held)
    assert peak[len(texts)] <= 7 + 3 * 4  # the baseline, and a wave with the branches it still needs
    assert peak[len(texts)] <= peak[6] + 4

    monkeypatch.setattr(outcomes_module, "WAVE_ROWS", len(texts))  # one wave: a shared prefix runs once
    ran.clear()
    taken(llama.net, task(llama.net, llama.ids, texts))
    plans = [plan(llama.net, text, len(llama.ids)) for text in ("", *texts)]
    assert len(ran) == len({one[:depth] for one in plans for depth in range(1, len(one) + 1)})


def test_batches_shrink_when_memory_runs_out(llama: Both, monkeypatch) -> None:
    texts = [row.schedule for row in kinds.entries("drop", 6)]
    _, (whole,) = taken(llama.net, task(llama.net, llama.ids, texts))
    sizes = []
    block, unembed = blocks.block, blocks.unembed

    def small(net, begun, layer, x, **how):
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return block(net, begun, layer, x, **how)

    def small_unembed(net, normed):
        if normed.ndim == 3 and len(normed) > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return unembed(net, normed)

    monkeypatch.setattr(blocks, "block", small)
    monkeypatch.setattr(blocks, "unembed", small_unembed)
    _, (values,) = taken(llama.net, task(llama.net, llama.ids, texts))
    assert max(sizes) > 2
    close(np.array(values), np.array(whole), rtol=1e-4, atol=1e-5)

    monkeypatch.setattr(blocks, "block", lambda *_a, **_k: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        taken(llama.net, task(llama.net, llama.ids, texts))


def test_logits_that_are_no_numbers_mark_their_row_only(llama: Both, monkeypatch) -> None:
    block = blocks.block

    def broken(net, begun, layer, x, **how):
        passed = block(net, begun, layer, x, **how)
        if layer == 5 and how["keep_attn"] is not None:
            passed.x[~how["keep_attn"][..., 0].all(-1), 3:] = float("nan")
        return passed

    monkeypatch.setattr(blocks, "block", broken)
    _, ((fine, bad),) = taken(llama.net, task(llama.net, llama.ids, ["drop 2", "attn-off 5"]))
    assert np.isfinite(fine[KL]).all() and np.isfinite(bad[:LOSS, :3]).all()
    assert np.isnan(bad[:, 3:]).all()


def test_the_memory_that_a_sweep_may_take_is_kept_to(llama: Both, monkeypatch) -> None:
    """What passes together shrinks with it, down to one row, and the numbers stay."""
    texts = [row.schedule for kind in ("drop", "swap") for row in kinds.entries(kind, 6)]
    _, (expected,) = taken(llama.net, task(llama.net, llama.ids, texts))
    sizes = []
    for memory in (2**31, 2**16, 1):
        monkeypatch.setattr(llama.net, "memory", memory)
        sizes.append((runner.rows_at_once(llama.net, len(llama.ids)), outcomes_module.logits_at_once(llama.net)))
        _, (found,) = taken(llama.net, task(llama.net, llama.ids, texts))
        for ours, theirs in zip(found, expected, strict=True):
            close(ours, theirs, rtol=1e-4, atol=5e-5)
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3 and sizes[-1] == (1, 1)
