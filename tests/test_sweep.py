"""The engine's answers to TakeSweep: what is refused, what the cache gives back, what an interrupted sweep keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_models

from stagescope.engine import blocks, outcomes, question, runner, sweep
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import EngineError, Load, Progress, Read, Sweep, SweepCorpus, TakeSweep

TEXT, OTHER = "The Eiffel Tower is located in", "Ten questions were left at the end of the evening"
ARRAYS = (*sweep.MEASURES, *sweep.BASE_COLUMNS, "done", "tracked")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_models.build("llama", tmp_path_factory.mktemp("llama"))


def loaded(directory, **how) -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), device="cpu", bos="<|endoftext|>", **how)):
        pass
    return engine


@pytest.fixture
def engine(directory, home) -> LocalEngine:
    return loaded(directory)


def take(engine: LocalEngine, *prompts: str, **how) -> dict[tuple[str, str], Sweep]:
    """The last Sweep of each prompt and kind; on the way each only fills in, and each ends complete."""
    last: dict[tuple[str, str], Sweep] = {}
    for reply in engine.answer(TakeSweep(prompts, **how)):
        if isinstance(reply, Progress):
            assert 0 <= reply.done <= 1 and reply.stage.startswith(("sweep", "reading a text"))
            continue
        before = last.get((reply.prompt, reply.kind))
        if before:
            assert not (before.done & ~reply.done).any()
            np.testing.assert_array_equal(before.kl_nats[before.done], reply.kl_nats[before.done])
        last[reply.prompt, reply.kind] = reply
    assert all(found.complete for found in last.values())
    return last


def same(one: Sweep, other: Sweep) -> None:
    assert [row.schedule for row in one.rows] == [row.schedule for row in other.rows]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_row_is_what_a_reading_of_its_schedule_says(engine) -> None:
    found = take(engine, TEXT, kinds=("drop", "swap", "attn-off"))
    assert [kind for _, kind in found] == ["drop", "swap", "attn-off"]
    for taken in found.values():
        for index, row in enumerate(taken.rows):
            *_, reading = engine.answer(Read(TEXT, row.schedule))
            np.testing.assert_allclose(taken.kl_nats[index], reading.effect_kl_nats, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(taken.top1_same[index], reading.effect_top1_same)
            np.testing.assert_allclose(taken.entropy_change_bits[index], reading.effect_entropy_bits, atol=1e-4)
            np.testing.assert_allclose(taken.tracked_p[index], reading.tracked_p[-1], atol=1e-5)
        np.testing.assert_array_equal(taken.tracked, reading.tracked)
        np.testing.assert_allclose(taken.base_entropy_bits, reading.baseline.entropy_bits[-1], atol=1e-4)
        assert taken.mean_positions() == list(range(1, len(taken.tokens)))
        assert set(taken.texts) == set(taken.tracked.tolist())


def test_a_trace_reads_one_position_of_every_layer_at_every_position(engine) -> None:
    trace = take(engine, TEXT, kinds=("trace",), position=-2)[TEXT, "trace"]
    n, at = len(trace.tokens), len(trace.tokens) - 2
    assert trace.positions == (at,) and len(trace.rows) == 6 * n
    for index in (0, n - 1, 3 * n + at, 6 * n - 1):
        row = trace.rows[index]
        *_, reading = engine.answer(Read(TEXT, f"drop {row.layer} @{row.position}"))
        np.testing.assert_allclose(trace.tracked_p[index, at], reading.tracked_p[-1, at], atol=1e-5)
        np.testing.assert_allclose(trace.kl_nats[index, at], reading.effect_kl_nats[at], rtol=1e-4, atol=1e-5)
    later = [index for index, row in enumerate(trace.rows) if row.position > at]
    assert (np.abs(trace.kl_nats[later, at]) < 1e-6).all()  # what comes after a position cannot change it
    assert np.isnan(np.delete(trace.kl_nats, at, axis=1)).all()


def test_heads_and_neurons(engine, directory) -> None:
    """Rows of heads are what a reading says; neurons come with the census they need, and both from the cache later."""
    heads = take(engine, TEXT, kinds=("heads",), layer=2)[TEXT, "heads"]
    assert [(row.schedule, row.index) for row in heads.rows] == [(f"head-off 2.{head}", head) for head in range(4)]
    *_, reading = engine.answer(Read(TEXT, "head-off 2.3"))
    np.testing.assert_allclose(heads.kl_nats[3], reading.effect_kl_nats, rtol=1e-4, atol=1e-5)
    asked = TakeSweep((TEXT,), kinds=("neurons", "neuron-sets"))
    assert not engine.known(asked)
    replies = list(engine.answer(asked))
    assert {reply.stage for reply in replies if isinstance(reply, Progress)} >= {"sweep: neurons, neuron-sets"}
    whole = {reply.kind: reply for reply in replies if isinstance(reply, Sweep)}  # no Census among the replies
    assert {type(reply) for reply in replies} == {Progress, Sweep} and all(one.complete for one in whole.values())
    assert {row.variant for row in whole["neurons"].rows} > {"random"}
    assert whole["neuron-sets"].kl_nats[:, 1:].mean() > 0

    early = LocalEngine()
    loading = early.answer(Load(str(directory), device="cpu", bos="<|endoftext|>"))
    while early.info is None:
        next(loading)
    for found in early.known(asked):
        same(found, whole[found.kind])


def test_heads_and_neurons_over_a_text(engine, tmp_path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in (TEXT, OTHER)))
    asked = SweepCorpus(str(file), kinds=("heads",), layer=2)
    *_, heads = engine.answer(asked)
    one, other = (take(engine, text, kinds=("heads",), layer=2)[text, "heads"] for text in (TEXT, OTHER))
    both = np.concatenate([one.kl_nats[:, 1:], other.kl_nats[:, 1:]], axis=1)
    np.testing.assert_allclose(heads.kl_nats[:, 0], both.mean(1), rtol=1e-3, atol=1e-5)
    assert engine.known(asked)[0].cached
    assert not engine.known(replace(asked, layer=3))
    *_, sets = engine.answer(SweepCorpus(str(file), kinds=("neuron-sets",)))
    assert {row.variant for row in sets.rows} > {"prediction", "random as prediction"} and sets.documents == 2


def test_a_layer_is_for_heads_and_neurons_and_must_be_there(engine) -> None:
    def refused(**how) -> str:
        with pytest.raises(EngineError) as caught:
            list(engine.answer(TakeSweep((TEXT,), **how)))
        assert caught.value.failure.kind == "usage"
        return str(caught.value)

    assert "not for drop" in refused(kinds=("heads", "drop"), layer=2)
    assert "not for neuron-sets" in refused(kinds=("neuron-sets",), layer=2)
    assert "not for schedules" in refused(schedules=("drop 1",), layer=2)
    assert "no layer 6" in refused(kinds=("heads",), layer=6)
    assert "layer 1 has heads 0-3" in refused(schedules=("head-off 1.4",))
    assert "layer 1 has neurons 0-127" in refused(schedules=("neuron-off 1.128",))


def test_the_cache_answers_per_prompt_and_kind_before_the_weights(engine, directory) -> None:
    first = take(engine, TEXT)
    again = take(engine, TEXT, OTHER, kinds=("swap", "drop", "mlp-off"))
    for key in first:
        assert again[key].cached and not first[key].cached
        same(first[key], again[key])
    assert not again[OTHER, "drop"].cached and not again[TEXT, "mlp-off"].cached

    early = LocalEngine()
    loading = early.answer(Load(str(directory), device="cpu", bos="<|endoftext|>"))
    while early.info is None:
        next(loading)
    assert not early.info.loaded
    found = early.known(TakeSweep((OTHER, TEXT)))
    assert [(one.prompt, one.kind) for one in found] == [(p, k) for p in (OTHER, TEXT) for k in ("drop", "swap")]
    assert not early.known(TakeSweep((TEXT,), kinds=("press",)))
    with pytest.raises(EngineError, match="not loaded"):
        list(early.answer(TakeSweep((TEXT,), kinds=("press",))))


@pytest.mark.parametrize("how", [{"tracked": 9}, {"kinds": ("trace",), "position": 2}, {"schedules": ("drop 1", "drop 2 mean")}])
def test_what_the_numbers_depend_on_is_in_the_key(engine, how) -> None:
    take(engine, TEXT)
    take(engine, TEXT, kinds=("trace",))
    found = take(engine, TEXT, **how)
    assert not any(one.cached for one in found.values())
    assert all(one.cached for one in take(engine, TEXT, **how).values())


def test_a_key_depends_on_all_that_the_numbers_do(engine) -> None:
    """On what the weights, the machine and the tokens are; not on how prompt and schedules are written."""
    info, load = engine.info, engine.request

    def key(info=info, dtype="float32", device="cpu", load=load, **how) -> str:
        request = TakeSweep(**{"prompts": (TEXT,), "kinds": ("drop",)} | how)
        return sweep.key(sweep.settle(request, load, info, engine.tokenizer)[0], info, dtype, device)

    same = key()
    assert key(schedules=("drop 1", "drop 2")) == key(schedules=("drop  1", "DROP 2;"))
    changed = [
        key(dtype="bfloat16"), key(device="cuda"), key(prompts=(OTHER,)), key(kinds=("swap",)), key(tracked=5),
        key(info=replace(info, fingerprint="another")), key(info=replace(info, prefix=None)),
        key(kinds=("trace",)), key(kinds=("trace",), position=1),
        key(schedules=("drop 1",)), key(schedules=("drop 1 mean",)),
    ]  # fmt: skip
    assert len({same, *changed}) == len(changed) + 1


def test_the_text_of_a_mean_is_in_the_key(engine, monkeypatch) -> None:
    def key(text: str) -> str:
        (unit,) = sweep.settle(TakeSweep((TEXT,), schedules=(text,)), engine.request, engine.info, engine.tokenizer)
        return sweep.key(unit, engine.info, "float32", "cpu")

    before = key("drop 1"), key("drop 1 mean")
    monkeypatch.setattr(question, "means_text", lambda info: ["another text"])
    assert (key("drop 1") == before[0], key("drop 1 mean") == before[1]) == (True, False)


def test_one_answer_is_of_one_machine(engine, directory) -> None:
    """What was swept in bf16 and what was swept in fp32 do not stand side by side."""
    take(loaded(directory, dtype="bfloat16"), TEXT, kinds=("drop",))
    take(engine, TEXT, kinds=("swap",))
    early = LocalEngine()
    loading = early.answer(Load(str(directory), device="cpu", bos="<|endoftext|>"))
    while early.info is None:
        next(loading)
    assert not early.known(TakeSweep((TEXT,)))
    assert {one.model.dtype for one in early.known(TakeSweep((TEXT,), ("drop",)))} == {"bfloat16"}


def test_what_is_not_whole_is_not_shown_before_the_weights(engine, directory, monkeypatch) -> None:
    monkeypatch.setitem(runner.TOKENS_AT_ONCE, "cpu", 16)
    monkeypatch.setattr(outcomes, "WAVE_ROWS", 3)
    monkeypatch.setattr(sweep, "SHOW_EVERY", 0.0)
    monkeypatch.setattr(sweep, "PACE", 0.0)
    replies = engine.answer(TakeSweep((TEXT,), ("pairs",)))
    next(reply for reply in replies if isinstance(reply, Sweep))
    replies.close()
    early = LocalEngine()
    loading = early.answer(Load(str(directory), device="cpu", bos="<|endoftext|>"))
    while early.info is None:
        next(loading)
    assert not early.known(TakeSweep((TEXT,), ("pairs",)))


def test_a_deck_edited_again_does_not_run_its_baselines_again(engine, monkeypatch) -> None:
    deck = (TEXT, OTHER, "The first layers join the pieces of a word")
    take(engine, *deck, schedules=("drop 4",))
    ran = []
    pass_ = runner._pass
    monkeypatch.setattr(runner, "_pass", lambda net, begun, rows, *rest: (ran.extend(rows), pass_(net, begun, rows, *rest))[1])
    found = take(engine, *deck, schedules=("drop 5",))
    assert not ran  # all it needs is the baselines up to layer 5
    take(engine, *deck, schedules=("drop 3",))
    assert len(ran) == 2 * len(deck)
    alone = take(loaded_like(engine), *deck, schedules=("drop 5",))
    for key, one in found.items():
        np.testing.assert_allclose(one.kl_nats, alone[key].kl_nats, rtol=1e-4, atol=1e-5)
    *_, _ = engine.answer(Read("another prompt"))
    ran.clear()
    take(engine, *deck, schedules=("drop 2",))
    assert len(ran) == 3 * len(deck)


def loaded_like(engine: LocalEngine) -> LocalEngine:
    return loaded(engine.request.model, cache=False)


def test_the_baseline_is_one_of_the_schedules(engine) -> None:
    found = take(engine, TEXT, schedules=("", "drop 3"))[TEXT, "schedules"]
    assert (found.kl_nats[0] == 0).all() and (found.top1_same[0] == 1).all()
    np.testing.assert_array_equal(found.tracked_p[0], found.base_tracked_p)
    assert take(engine, TEXT, schedules=("",))


def test_no_cache_stores_and_recalls_nothing(directory, home) -> None:
    engine = loaded(directory, cache=False)
    take(engine, TEXT)
    assert not any(one.cached for one in take(engine, TEXT).values())
    assert not loaded(directory).known(TakeSweep((TEXT,)))


def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on(engine, directory, monkeypatch) -> None:
    whole = take(loaded(directory, cache=False), TEXT, kinds=("pairs", "drop"))
    monkeypatch.setattr(sweep, "SHOW_EVERY", 0.0)
    monkeypatch.setattr(sweep, "PACE", 0.0)
    monkeypatch.setitem(runner.TOKENS_AT_ONCE, "cpu", 16)
    monkeypatch.setattr(outcomes, "WAVE_ROWS", 3)
    request = TakeSweep((TEXT,), ("pairs", "drop"))
    replies = engine.answer(request)
    partial = next(reply for reply in replies if isinstance(reply, Sweep) and reply.done.sum() > 2)
    assert 2 < partial.done.sum() < len(partial.rows) and np.isnan(partial.kl_nats[~partial.done]).all()
    replies.close()

    ran = []
    block = blocks.block
    monkeypatch.setattr(blocks, "block", lambda net, begun, layer, x, **how: (ran.append(len(x)), block(net, begun, layer, x, **how))[1])
    rest = take(engine, TEXT, kinds=("pairs", "drop"))
    after = sum(ran)
    ran.clear()
    take(loaded(directory, cache=False), TEXT, kinds=("pairs", "drop"))
    assert after < sum(ran)
    for key, one in rest.items():
        np.testing.assert_allclose(one.kl_nats, whole[key].kl_nats, rtol=1e-4, atol=1e-5)
    assert all(one.cached for one in take(engine, TEXT, kinds=("pairs", "drop")).values())


def test_replies_are_not_changed_afterwards(engine, monkeypatch) -> None:
    monkeypatch.setattr(sweep, "SHOW_EVERY", 0.0)
    monkeypatch.setattr(sweep, "PACE", 0.0)
    monkeypatch.setitem(runner.TOKENS_AT_ONCE, "cpu", 16)
    monkeypatch.setattr(outcomes, "WAVE_ROWS", 3)
    sweeps = [reply for reply in engine.answer(TakeSweep((TEXT,), ("pairs",))) if isinstance(reply, Sweep)]
    counts = [int(one.done.sum()) for one in sweeps]
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_a_position_a_prompt_does_not_have_is_a_note_of_that_row(engine) -> None:
    found = take(engine, "The", TEXT, schedules=("drop 1 @4", "drop 1", "drop 2 @-1"))
    short, long = found["The", "schedules"], found[TEXT, "schedules"]
    assert list(short.notes) == [0] and "position 4" in short.notes[0]
    assert short.done.all() and np.isnan(short.kl_nats[0]).all() and np.isfinite(short.kl_nats[1:]).all()
    assert not long.notes and np.isfinite(long.kl_nats).all()


def test_logits_that_are_no_numbers_are_named(engine, monkeypatch) -> None:
    block = blocks.block

    def broken(net, begun, layer, x, **how):
        passed = block(net, begun, layer, x, **how)
        if layer == 5 and how["keep_mlp"] is not None:
            passed.x[~how["keep_mlp"][..., 0].all(-1), 2:] = float("nan")
        return passed

    monkeypatch.setattr(blocks, "block", broken)
    found = take(engine, TEXT, kinds=("mlp-off",))[TEXT, "mlp-off"]
    assert list(found.notes) == [5] and "not numbers at" in found.notes[5]
    assert np.isfinite(found.kl_nats[:5]).all()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (TakeSweep(()), "0 prompts"),
        (TakeSweep(tuple(map(str, range(51)))), "51 prompts"),
        (TakeSweep(("a", "a")), "same"),
        (TakeSweep(("",)), "empty"),
        (TakeSweep(("fine", "")), "prompt 2"),
        (TakeSweep(("a",), kinds=("dorp",)), "dorp"),
        (TakeSweep(("a",), kinds=()), "no kind"),
        (TakeSweep(("a",), kinds=("trace", "drop")), "alone"),
        (TakeSweep(("a",), schedules=("drop 1", "dorp 2", "drop 77")), "line 2"),
        (TakeSweep(("a",), kinds=("trace",), position=40), "position"),
        (TakeSweep(("word " * 400,)), "tokens"),
        (TakeSweep(("a",), tracked=10**6), "token"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_words(engine, request_, words) -> None:
    with pytest.raises(EngineError, match=words):
        list(engine.answer(request_))


def test_a_sweep_too_large_to_hold_is_refused(engine, monkeypatch) -> None:
    monkeypatch.setattr(sweep, "MOST_VALUES", 300)
    with pytest.raises(EngineError, match="too many"):
        list(engine.answer(TakeSweep((TEXT,), ("trace",))))


def test_press_is_refused_where_sublayers_have_no_order(tmp_path, home) -> None:
    engine = loaded(tiny_models.build("gpt_neox", tmp_path))
    with pytest.raises(EngineError, match="parallel"):
        list(engine.answer(TakeSweep((TEXT,), ("press",))))
    assert take(engine, TEXT, kinds=("painters", "repeat"))
