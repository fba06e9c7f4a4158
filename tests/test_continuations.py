"""Continuations beside their numbers: what is drawn, how it is spelled, what is refused, stopped, kept."""

from __future__ import annotations

import math
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import tiny_models
import torch
from test_comparison import loaded
from test_generation import MILD, N, NUMBERS, PROMPT, prompt_ids, write
from transformers import AutoTokenizer

from stagescope.engine import blocks, generation, runner, sampling, wire
from stagescope.engine.at_hand import Cancelled
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import EngineError, Generate, Generation, Read

EDITS = ("drop 2", "repeat 4-5", "attn-off 1 @2-4")


@pytest.fixture(scope="module")
def engine(llama_dir) -> LocalEngine:
    return loaded(llama_dir)


def equal(a: Generation, b: Generation) -> None:
    """All but what says how it came about."""
    for field in fields(Generation):
        if field.name not in ("milliseconds", "cached", "asked", "model"):
            ours, theirs = getattr(a, field.name), getattr(b, field.name)
            if isinstance(ours, np.ndarray):
                np.testing.assert_array_equal(ours, theirs)
            else:
                assert ours == theirs, field.name
    assert a.asked == b.asked


# -------------------------------------------------------------------------------------------------- drawn


def test_one_seed_says_the_same_and_another_something_else(engine: LocalEngine) -> None:
    def drawn(seed: int) -> Generation:
        return write(engine, *EDITS, temperature=1.0, seed=seed)

    equal(drawn(3), drawn(3))
    texts = {tuple(drawn(seed).ids[0]) for seed in range(6)}
    assert len(texts) == 6 and tuple(write(engine).ids[0]) not in texts


def test_near_zero_the_likeliest_token_is_drawn(engine: LocalEngine) -> None:
    greedy = write(engine, *MILD, *EDITS)
    cold = write(engine, *MILD, *EDITS, temperature=generation.COLDEST)
    np.testing.assert_array_equal(cold.ids, greedy.ids)
    np.testing.assert_array_equal(cold.kl_nats, greedy.kl_nats)  # of p before temperature


def test_numbers_are_of_the_distributions_before_temperature_and_cuts(engine: LocalEngine) -> None:
    found = write(engine, *MILD, temperature=2.0, top_k=7, top_p=0.5, seed=1)
    plain = write(engine, *MILD)
    for name in ("entropy_bits", "base_entropy_bits", "kl_nats", "forced_kl_nats"):  # the first token is after the same words
        np.testing.assert_allclose(getattr(found, name)[:, 0], getattr(plain, name)[:, 0], rtol=1e-5)


def probabilities(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """By hand: what a token is drawn with."""
    p = np.exp(logits / temperature - (logits / temperature).max())
    order = np.argsort(-p)
    if top_k is not None:
        p[order[top_k:]] = 0.0
    p /= p.sum()
    if top_p is not None:
        before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])  # what is above each
        p[order[before >= top_p]] = 0.0
    return p / p.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (2.5, None, None), (1.0, 4, None), (1.0, 1, None), (1.0, 50, None),
     (1.0, None, 0.6), (1.0, None, 1.0), (1.7, None, 0.05), (1.5, 6, 0.7), (0.7, 3, 0.9)],
)  # fmt: skip
def test_what_is_drawn_follows_the_distribution(temperature, top_k, top_p) -> None:
    n = 8_000
    logp = torch.randn(20, generator=torch.Generator().manual_seed(5)).mul(1.5).log_softmax(-1)
    draw = sampling.sampler(Generate("x", temperature=temperature, top_k=top_k, top_p=top_p, seed=7))
    drawn = np.array([draw(logp[None]).item() for _ in range(n)])
    p = probabilities(logp.double().numpy(), temperature, top_k, top_p)
    counts = np.bincount(drawn, minlength=20)
    assert not counts[p == 0].any()
    expected = n * p[p > 0]
    chi_square, freedom = ((counts[p > 0] - expected) ** 2 / expected).sum(), (p > 0).sum() - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom) + 1e-9  # four deviations: 1 in 1,000 to 10,000
    if freedom:
        assert abs(np.mean(drawn[1:] == drawn[:-1]) - (p**2).sum()) < 0.03  # one step says nothing of the next


def test_texts_of_a_request_share_their_chance() -> None:
    draw = sampling.sampler(Generate("x", temperature=1.0, seed=2))
    logp = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    alone = sampling.sampler(Generate("x", temperature=1.0, seed=2))
    differ = 0
    for _ in range(200):
        tokens = draw(torch.cat([logp, logp[:1], logp[:1]])).tolist()
        assert tokens[0] == tokens[2] == tokens[3] == alone(logp[:1]).item()
        differ += tokens[0] != tokens[1]
    assert 20 < differ < 200


# ------------------------------------------------------------------------------------------------ spelled


def scripted(monkeypatch, engine: LocalEngine, *texts: list[int]) -> Generation:
    """A text a schedule, as if the model had written it: the first is the baseline's."""
    steps = iter(torch.tensor(texts).T)
    monkeypatch.setattr(sampling, "sampler", lambda request: lambda logp: next(steps))
    return write(engine, *EDITS[: len(texts) - 1], tokens=len(texts[0]))


@pytest.mark.parametrize("broken", [False, True])
def test_pieces_are_the_text_and_half_a_character_is_none(engine: LocalEngine, monkeypatch, broken) -> None:
    tokenizer = engine.tokenizer
    written = "s été the 中🙂"
    ids = tokenizer(written, add_special_tokens=False).input_ids
    if broken:  # half a character, and on; half a character at the end
        half = tokenizer("🙂", add_special_tokens=False).input_ids[:2]
        ids = [*ids[:1], *half, *ids[1:], *half]
    found = scripted(monkeypatch, engine, ids)
    before = prompt_ids(engine)
    whole = tokenizer.decode(before + ids)
    assert whole.startswith(PROMPT) and whole.count("\ufffd") == 2 * broken
    assert found.text(0) == "".join(found.pieces[0]) == whole.removeprefix(PROMPT).removesuffix("\ufffd")
    assert "" in found.pieces[0] and "\ufffd" not in written == (found.text(0) if not broken else written)
    for step in range(len(ids)):
        now = tokenizer.decode(before + ids[: step + 1])
        reads_back = tokenizer(now, add_special_tokens=False).input_ids == before + ids[: step + 1]
        assert found.reads_back[0, step] == reads_back
        shown = PROMPT + found.text(0, step + 1)
        assert now.startswith(shown.rstrip("\ufffd")) and (not reads_back or now == shown)
    assert found.reads_back[0].any() and not found.reads_back[0].all()
    assert set(ids) <= set(found.texts) and found.texts[ids[0]] == "s"


def test_what_is_read_as_other_tokens_does_not_read_back(engine: LocalEngine, monkeypatch) -> None:
    """`i` `n` `g` one by one are read as fewer tokens; the end token is read as itself."""
    spelled = [engine.tokenizer.convert_tokens_to_ids(piece) for piece in ("i", "n", "g", "<|endoftext|>")]
    found = scripted(monkeypatch, engine, spelled, [*reversed(spelled[:3]), 5])
    assert found.text(0) == "ing<|endoftext|>" and found.text(0, 2) == "in" and found.ended.tolist() == [True, False]
    for text in (0, 1):
        for step in range(4):
            again = prompt_ids(engine, PROMPT + found.text(text, step + 1))
            assert found.reads_back[text, step] == (again == prompt_ids(engine) + found.ids[text, : step + 1].tolist())
    assert not found.reads_back[0, 1:3].any() and found.reads_back[0, 0]


def test_where_texts_part(engine: LocalEngine, monkeypatch) -> None:
    a, b, end = 70, 71, 0
    found = scripted(monkeypatch, engine, [a, b, a, b], [a, b, b, b], [a, b, a, b], [b, b, a, b])
    assert [found.parts_at(text) for text in range(4)] == [None, 2, None, 0]
    assert [found.length(text) for text in range(4)] == [4] * 4 and not found.ended.any()

    def at(*texts: list[int], ended: tuple[bool, ...]) -> int | None:
        made = replace(found, ids=np.array(texts, np.int32), ended=np.array(ended))
        return made.parts_at(1)

    assert at([a, b, -1], [a, b, -1], ended=(False, False)) is None
    assert at([a, end, -1], [a, end, -1], ended=(True, True)) is None
    assert at([a, end, -1], [a, b, a], ended=(True, False)) == 1
    assert at([a, b, a], [a, -1, -1], ended=(False, False)) is None  # not written so far
    assert at([a, -1, -1], [b, -1, -1], ended=(False, False)) == 0
    assert at([a, b, a], [a, -1, -1], ended=(False, True)) == 1


def test_in_a_chat_nothing_reads_back(llama_dir, tmp_path, monkeypatch) -> None:
    directory = shutil.copytree(llama_dir, tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = "user: {{ messages[0]['content'] }}\nmodel:"
    tokenizer.save_pretrained(directory)
    for chat in (False, True):
        engine = loaded(directory, chat=chat)
        ids = engine.tokenizer(" a river", add_special_tokens=False).input_ids
        found = scripted(monkeypatch, engine, ids)
        assert found.text(0) == " a river" and found.prompt == PROMPT
        assert "".join(token.text for token in found.tokens).startswith("user: ") == chat
        assert found.reads_back[0].any() == (not chat)


def test_a_prefix_stands_before_and_is_not_read_twice(llama_dir, monkeypatch) -> None:
    engine = loaded(llama_dir, bos="<|endoftext|>")
    found = scripted(monkeypatch, engine, engine.tokenizer(" a river", add_special_tokens=False).input_ids)
    assert found.tokens[0].id == 0 and found.text(0) == " a river" and found.reads_back[0].any()
    other = loaded(llama_dir)
    monkeypatch.undo()
    assert write(engine, "drop 1 @0").kl_nats[1, 0] > 0 and len(write(other).tokens) == len(found.tokens) - 1


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"tokens": 0}, "0 tokens cannot be written"),
        ({"tokens": -3}, "-3 tokens cannot be written"),
        ({"tokens": 2_001}, "2001 tokens cannot be written.*Give 1 to 2,000"),
        ({"tokens": 113}, "the prompt has 16 tokens and 113 more were asked for, .* reads at most 128.*Ask for 112 or less"),
        ({"prompt": 150 * "~"}, "the prompt has 150 tokens"),
        ({"temperature": -0.1}, "the temperature cannot be -0.1"),
        ({"temperature": 1e-39}, "the temperature cannot be 1e-39.*0.001 to 100"),
        ({"temperature": float("nan")}, "the temperature cannot be nan"),
        ({"temperature": float("inf")}, "the temperature cannot be inf"),
        ({"temperature": 1.0, "top_k": 0}, "top-k cannot be 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top-p cannot be 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top-p cannot be 1.5"),
        ({"temperature": 1.0, "top_p": float("nan")}, "top-p cannot be nan"),
        ({"top_k": 5}, "nothing is drawn at temperature 0.*Give a temperature"),
        ({"top_p": 0.5}, "nothing is drawn at temperature 0"),
        ({"temperature": 1.0, "seed": -1}, "the seed cannot be -1"),
        ({"temperature": 1.0, "seed": 2**63}, "the seed cannot be"),
        ({"schedules": ("drop 2", "drop 99")}, "the schedule cannot be: layer 99 is out of range"),
        ({"schedules": ("dorp 2",)}, "did you mean drop"),
        ({"schedules": ("drop 2 @16",)}, "position 16 is outside the prompt"),  # a position that will be written
    ],
)
def test_what_cannot_be_is_refused_by_its_reason(engine: LocalEngine, changes, message) -> None:
    with pytest.raises(EngineError) as refused:
        list(engine.answer(Generate(**{"prompt": PROMPT, **changes})))
    failure = refused.value.failure
    assert pytest.raises(EngineError, match="(?s)" + message).matches(EngineError("usage", f"{failure.message} {failure.hint}"))
    assert write(engine, tokens=1).complete


def test_the_window_is_used_to_its_end(engine: LocalEngine) -> None:
    assert write(engine, "drop 2 @-1", tokens=112).ids.shape == (2, 112)


# --------------------------------------------------------------------------------- stopped, between, kept


def test_it_stops_between_block_calls(engine: LocalEngine, monkeypatch) -> None:
    expected, events = write(engine, *EDITS), []
    real = blocks.block
    monkeypatch.setattr(blocks, "block", lambda *given, **more: events.append("block") or real(*given, **more))
    monkeypatch.setattr(engine, "checkpoint", lambda: events.append("checkpoint"))
    equal(write(engine, *EDITS), expected)
    assert events.count("block") > 30
    assert all("checkpoint" in pair for pair in zip(events, events[1:], strict=False))  # no two blocks in a row

    def stop_at(n: int) -> None:
        calls = iter(range(n))

        def checkpoint() -> None:
            if next(calls, None) is None:
                raise Cancelled

        engine.checkpoint = checkpoint

    for n in (0, 1, 2, 9, 15, 30, 50):
        events.clear()
        stop_at(n)
        with pytest.raises(Cancelled):
            list(engine.answer(Generate(PROMPT, EDITS, N)))
        assert events.count("block") <= n
        engine.checkpoint = lambda: None
        assert engine.net.tap is None
        equal(write(engine, *EDITS), expected)


@pytest.mark.parametrize("chance", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 3}])
def test_a_text_that_is_stopped_is_all_of_a_shorter_one(engine: LocalEngine, chance) -> None:
    parts = [reply for reply in engine.answer(Generate(PROMPT, EDITS[:1], N, **chance)) if isinstance(reply, Generation)]
    for n in (1, 4, N):
        stopped, shorter = parts[n - 1].as_far(), write(engine, *EDITS[:1], tokens=n, **chance)
        assert stopped.complete and stopped.asked == shorter.asked == Generate(PROMPT, EDITS[:1], n, **chance)
        equal(stopped, shorter)


def test_a_model_is_read_while_it_writes(engine: LocalEngine) -> None:
    def read(text: str):
        *_, found = engine.answer(Read(PROMPT, text, part="whole"))
        return found

    schedules, other = EDITS, ("parallel 1-3", "drop 5 @-1")
    alone, beside = write(engine, *schedules, temperature=1.0), write(engine, *other, prompt="a river", tokens=5)
    readings = [read(text) for text in ("drop 3", "head-off 2.1 @-1")]
    one = engine.answer(Generate(PROMPT, schedules, N, temperature=1.0))
    two = engine.answer(Generate("a river", other, 5))
    engine.forget_prompt()
    last = {}
    for at in range(N + 1):
        for name, replies in (("one", one), ("two", two)):
            for _ in range(2):  # progress and a token more
                last[name] = next(replies, last.get(name))
        again = read(("drop 3", "head-off 2.1 @-1")[at % 2])
        for name in ("kl_nats", "entropy_bits", "resid_norm", "effect_kl_nats"):
            np.testing.assert_allclose(getattr(again, name), getattr(readings[at % 2], name), rtol=1e-4, atol=1e-5)
    assert not list(one) and not list(two)
    equal(last["one"], alone)
    equal(last["two"], beside)


@pytest.fixture
def kept(llama_dir, home) -> LocalEngine:
    engine = loaded(llama_dir)
    engine.request = replace(engine.request, cache=True)
    return engine


def test_what_was_written_is_kept_and_crosses_the_pipe(kept: LocalEngine) -> None:
    request = Generate(PROMPT, ("drop 2", "drop 3 mean"), N, temperature=1.0, top_k=40, seed=4)
    assert not kept.known(request)
    *_, found = kept.answer(request)
    spelled = replace(request, schedules=("DROP 2;", "drop 3 mean"))
    (again,), crossed = kept.known(spelled), wire.decode(wire.encode(found)[4:])
    assert again.cached and not found.cached and again.asked == spelled
    equal(replace(again, asked=request), found)
    equal(crossed, found)
    (answered,) = kept.answer(request)
    assert answered.cached and answered.complete
    others = ({"seed": 5}, {"tokens": 7}, {"temperature": 1.1}, {"top_k": 41}, {"top_p": 0.9}, {"prompt": "the quick brown"})
    others += ({"schedules": ("drop 2",)}, {"schedules": ("drop 3 mean", "drop 2")}, {"schedules": ("drop 2", "drop 3")})
    for changes in others:
        assert not kept.known(replace(request, **changes)), changes
    # a schedule over all of the prompt is not one over everything
    *_, _ = kept.answer(Generate(PROMPT, ("attn-off 3",), 3))
    assert not kept.known(Generate(PROMPT, ("attn-off 3 @0-15",), 3))


def test_what_was_stopped_is_not_kept(kept: LocalEngine) -> None:
    request = Generate(PROMPT, ("drop 2",), N)
    replies = kept.answer(request)
    for _ in range(5):
        next(replies)
    replies.close()
    assert not kept.known(request)
    *_, last = kept.answer(request)
    assert not last.cached and last.length(1) == N and set(NUMBERS) <= set(vars(last))


def test_a_text_kept_is_not_one_that_other_tokens_end(kept: LocalEngine, monkeypatch) -> None:
    *_, found = kept.answer(Generate(PROMPT, (), N))
    assert kept.known(Generate(PROMPT, (), N, seed=9))[0].cached  # greedy draws nothing
    monkeypatch.setattr(kept, "ends", frozenset([int(found.ids[0, 2])]))
    *_, sooner = kept.answer(Generate(PROMPT, (), N))
    assert sooner.length(0) <= 3 and sooner.ended[0] and not sooner.cached


def test_a_wave_later_stands_beside_the_text_that_the_first_one_wrote(engine: LocalEngine, monkeypatch) -> None:
    """In another batch a near tie may fall otherwise: here the second wave's baseline is made to say something else."""
    whole = write(engine, "drop 2", "drop 3")
    monkeypatch.setattr(generation, "RUNS_AT_ONCE", 1)  # a schedule a wave
    draw, calls = sampling.sampler, []

    def other(request):
        choose, wave = draw(request), len(calls)
        calls.append(wave)
        return lambda logp: torch.cat([(choose(logp)[:1] + wave) % 300, choose(logp)[1:]])

    monkeypatch.setattr(sampling, "sampler", other)
    found = write(engine, "drop 2", "drop 3")
    assert len(calls) == 2
    np.testing.assert_array_equal(found.ids, whole.ids)
    np.testing.assert_allclose(found.forced_kl_nats, whole.forced_kl_nats, rtol=1e-4, atol=1e-5)


def test_logits_that_are_no_numbers_end_their_text_with_a_note(tmp_path) -> None:
    """Of a layer that the edit leaves out, and the other way round."""
    engine = loaded(tiny_models.build("llama", tmp_path))
    with torch.no_grad():
        engine.net.bridge.blocks[3].original_component.mlp.down_proj.weight.fill_(float("inf"))
    for schedules, sound in ((("drop 3", "drop 2"), (1,)), (("drop 3",), (1,))):
        found = write(engine, *schedules)
        assert found.complete and set(found.notes) == set(range(len(schedules) + 1)) - set(sound)
        assert found.notes[0] == "its logits are no numbers at step 0" and not found.ended.any()
        assert [found.length(text) for text in range(len(schedules) + 1)] == [N * (text in sound) for text in range(len(schedules) + 1)]
        assert np.isnan(found.kl_nats[1]).all() and not np.isnan(found.p[1]).any()


def test_another_model_loaded_meanwhile_changes_nothing(kept: LocalEngine, tmp_path) -> None:
    load = kept.request
    request = Generate(PROMPT, ("drop 2",), N)
    replies = kept.answer(request)
    seen = [next(replies) for _ in range(4)]
    first = next(reply for reply in seen if isinstance(reply, Generation))
    for _ in kept.answer(replace(load, model=str(tiny_models.build("gpt2", tmp_path)))):
        pass
    *_, last = replies
    assert last.model == first.model and last.length(1) == N
    assert not kept.known(request)  # it is not this model's
    for _ in kept.answer(load):
        pass
    (again,) = kept.known(request)
    assert again.cached and again.ids.tolist() == last.ids.tolist()
