"""Two readings held side by side: against plain transformers, against the engine's own edits, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
import tiny_models
import torch
from test_readings_right import close, order
from transformers import AutoModelForCausalLM

from stagescope.engine import at_hand, comparison, wire
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import Comparison, EngineError, Load, Read, Reading, TakeComparison

PROMPT, OTHER = "the quick brown fox", "the quick crown box"  # 16 tokens each

A, B = "drop 2", "swap 3 4"
ORDERS = {A: order(0, 1, 3, 4, 5), B: order(0, 1, 2, 4, 3, 5)}
PAIRS = ((0, 0), (1, 1), (2, 2), (4, 5), (5, 6))  # (3, 3) and what runs between ran other layers


def loaded(directory, bos: str = "none", **changes) -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), device="cpu", bos=bos, threads=1, cache=False, **changes)):
        pass
    return engine


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])  # one sublayer after the other, and both at once
def engine(request, tmp_path_factory) -> LocalEngine:
    return loaded(tiny_models.build(request.param, tmp_path_factory.mktemp(request.param)))


def compare(engine: LocalEngine, a: Read, b: Read) -> Comparison:
    *_, found = engine.answer(TakeComparison(a, b))
    return found


def whole(engine: LocalEngine, schedule: str, **changes) -> Reading:
    *_, found = engine.answer(Read(PROMPT, schedule, part="whole", **changes))
    return found


def by_definition(model, ids_a, places_a, ids_b, places_b, pairs) -> dict[str, np.ndarray]:
    """KL, agreement, distance and cosine at the pairs of depths, from plain transformers, in float64."""
    a, b = (reference.run(model, ids, places) for ids, places in ((ids_a, places_a), (ids_b, places_b)))
    found = {"kl_nats": [], "top1_same": [], "resid_rel": [], "resid_cos": []}
    for i, j in pairs:
        x, y = a.residuals[i], b.residuals[j]
        p, q = (reference.lens_logits(model, each).double().log_softmax(-1) for each in (x, y))
        found["kl_nats"].append((p.exp() * (p - q)).sum(-1))
        found["top1_same"].append((p.argmax(-1) == q.argmax(-1)).double())
        found["resid_rel"].append((y - x).double().norm(dim=-1) / x.double().norm(dim=-1))
        found["resid_cos"].append(torch.cosine_similarity(x.double(), y.double(), dim=-1))
    return {name: torch.stack(values).numpy() for name, values in found.items()}


@torch.no_grad()
def test_two_schedules_and_two_prompts_against_plain_transformers(engine: LocalEngine) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        engine.request.model, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids, other = (torch.tensor(engine.tokenizer(text, add_special_tokens=False).input_ids) for text in (PROMPT, OTHER))
    assert len(ids) == len(other) and ids.tolist() != other.tolist()
    plain = order(*range(6))
    for a, b, runs, pairs in (
        (Read(PROMPT, A), Read(PROMPT, B), (ids, ORDERS[A], ids, ORDERS[B]), PAIRS),
        (Read(PROMPT), Read(OTHER), (ids, plain, other, plain), tuple((depth, depth) for depth in range(7))),
    ):
        found = compare(engine, a, b)
        assert found.pairs == pairs and (found.a.schedule, found.b.schedule) == (a.schedule, b.schedule)
        theirs = by_definition(model, *runs, pairs)
        for name, expected in theirs.items():
            close(getattr(found, name), expected, rtol=5e-4, atol=5e-5)
        close(found.effect_kl_nats, theirs["kl_nats"][-1], rtol=5e-4, atol=5e-5)
        assert theirs["kl_nats"][-1].max() > 0.05  # what is compared differs
        # b tells the rank of the tokens that a follows
        logits = reference.run(model, runs[2], runs[3]).logits
        assert found.b.tracked.tolist() == found.a.tracked.tolist()
        rank = 1 + (logits > logits.gather(-1, torch.tensor(found.a.tracked, dtype=torch.int64)[:, None])).sum(-1)
        assert found.b.tracked_rank[-1].tolist() == rank.tolist()


@pytest.mark.parametrize("lens", ["standard", "v1"])
def test_a_reading_against_itself_is_zero_and_an_edit_against_the_baseline_is_the_edit(engine, lens) -> None:
    same = compare(engine, Read(PROMPT, A, lens=lens), Read(PROMPT, A, lens=lens))
    for name in ("kl_nats", "resid_rel", "effect_kl_nats", "effect_entropy_bits"):
        assert not getattr(same, name).any()
    assert all(getattr(same, name).all() for name in ("top1_same", "resid_cos", "effect_top1_same"))
    assert same.pairs == ((0, 0), (1, 1), (2, 2), (4 - 1, 4 - 1), (4, 4), (5, 5))

    for schedule in (A, B, "drop 5"):  # of the last one the outputs pair though the layers before them differ
        edit = whole(engine, schedule, lens=lens)
        found = compare(engine, Read(PROMPT, lens=lens), Read(PROMPT, schedule, lens=lens))
        synced = [(of, depth) for depth, of in enumerate(edit.baseline_depth) if of is not None]
        assert list(found.pairs[: len(synced)]) == synced and found.pairs[-1] == (6, edit.n_depths - 1)
        depths = [depth for _, depth in synced]
        for name in ("kl_nats", "top1_same", "resid_rel", "resid_cos"):
            close(getattr(found, name)[: len(synced)], getattr(edit, name)[depths])
        for name in ("effect_kl_nats", "effect_top1_same", "effect_entropy_bits"):
            close(getattr(found, name), getattr(edit, name))


def test_what_cannot_be_compared_is_refused_with_the_reason(engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match="one has 16 tokens, the other 2"):
        compare(engine, Read(PROMPT), Read("the"))
    with pytest.raises(EngineError, match="lens"):
        compare(engine, Read(PROMPT), Read(PROMPT, A, lens="v1"))
    with pytest.raises(EngineError, match="out of range"):
        compare(engine, Read(PROMPT), Read(PROMPT, "drop 99"))
    assert not np.isnan(whole(engine, "").entropy_bits).any()  # and the engine goes on


def test_two_models_of_one_vocabulary(tmp_path) -> None:
    one = loaded(tiny_models.build("llama", tmp_path / "one"))
    two = loaded(tiny_models.build("llama", tmp_path / "two", seed=5))
    short = loaded(tiny_models.build("llama", tmp_path / "short", num_hidden_layers=4))
    found = comparison.between(one, Read(PROMPT, A), two, Read(PROMPT, A))
    assert found.pairs == tuple((depth, depth) for depth in range(6))
    assert np.isnan(found.resid_rel).all() and (found.kl_nats[-1] > 0.01).all()
    p, q = (logits.double().log_softmax(-1) for logits in (plain_logits(one), plain_logits(two)))
    close(found.kl_nats[-1], (p.exp() * (p - q)).sum(-1), rtol=5e-4, atol=5e-5)
    apart = comparison.between(one, Read(PROMPT), short, Read(PROMPT))
    assert apart.pairs == ((0, 0), (6, 4)) and not np.isnan(apart.kl_nats).any()
    padded = loaded(tiny_models.build("qwen2", tmp_path / "padded"))
    with pytest.raises(EngineError, match="do not share a vocabulary: one has 320 tokens, the other 336"):
        comparison.between(one, Read(PROMPT), padded, Read(PROMPT))


def test_two_models_that_put_other_tokens_before_a_prompt_are_refused(llama_dir) -> None:
    """Their positions would be off by one: "the quick" after a prefix token, "the quick brown" without."""
    one, two = (loaded(llama_dir, bos=bos) for bos in ("<|endoftext|>", "none"))
    with pytest.raises(EngineError, match="they put token 0 and nothing before a prompt.*--bos"):
        comparison.between(one, Read("ab"), two, Read("abc"))
    readings = [whole_of(engine, text) for engine, text in ((one, "ab"), (two, "abc"))]
    assert len({len(reading.tokens) for reading in readings}) == 1
    with pytest.raises(EngineError, match="other prefix tokens"):
        comparison.of_readings(*readings)


def test_comparing_two_models_keeps_no_more_residuals_than_reading_does(llama_dir, monkeypatch) -> None:
    monkeypatch.setattr(at_hand, "KEPT_BYTES", 0)
    one, two = loaded(llama_dir), loaded(llama_dir)
    held = set()
    for layer in range(4):
        comparison.between(one, Read(PROMPT, f"drop {layer}"), two, Read(PROMPT, f"swap {layer} 5"))
        held.add(max(sum(node.x is not None for node in nodes(engine.prompt.root)) for engine in (one, two)))
    assert max(held) <= 2 * (one.info.n_layers + 1)


def nodes(node):
    yield node
    for child in node.children.values():
        yield from nodes(child)


def whole_of(engine: LocalEngine, text: str):
    *_, reading = engine.answer(Read(text, part="whole"))
    return reading


def plain_logits(engine: LocalEngine) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(engine.request.model, attn_implementation="eager").eval()
    ids = torch.tensor(engine.tokenizer(PROMPT, add_special_tokens=False).input_ids)
    with torch.no_grad():
        return reference.run(model, ids, ORDERS[A]).logits


@pytest.mark.usefixtures("home")
def test_an_answer_is_kept_and_crosses_the_pipe(engine: LocalEngine) -> None:
    engine.request = replace(engine.request, cache=True)
    request = TakeComparison(Read(PROMPT, A), Read(PROMPT, B))
    assert not engine.known(request)
    found = compare(engine, request.a, request.b)
    (again,) = engine.known(TakeComparison(Read(PROMPT, "DROP 2"), Read(PROMPT, "swap 4 3")))
    crossed = wire.decode(wire.encode(found)[4:])
    for other in (again, crossed):
        assert other.pairs == found.pairs == PAIRS and other.b.schedule == B
        np.testing.assert_array_equal(other.kl_nats, found.kl_nats)
    assert not engine.known(TakeComparison(request.b, request.a))  # KL is of one side
    # under other names: the same plans, written otherwise, and a text that another had the tokens of
    others = TakeComparison(Read(PROMPT, "order 0-1 3-5"), Read(PROMPT, "order 0-2 4 3 5"))
    (renamed,) = engine.known(others)
    assert [(side.prompt, side.schedule) for side in (renamed.a, renamed.b)] == [(PROMPT, one.schedule) for one in (others.a, others.b)]
    engine.request = replace(engine.request, cache=False)


def test_a_kept_answer_has_the_prompts_that_are_asked_for_now(engine: LocalEngine, monkeypatch) -> None:
    found = compare(engine, Read(PROMPT), Read(OTHER))
    as_typed_then = replace(found, **{side: replace(getattr(found, side), prompt=side) for side in "ab"})
    monkeypatch.setattr(comparison.cache, "get", lambda key: as_typed_then)
    again = comparison.recalled(TakeComparison(Read(PROMPT), Read(OTHER)), engine.info, engine.request, engine.tokenizer)
    assert (again.a.prompt, again.b.prompt) == (PROMPT, OTHER)


def test_of_the_v1_lens_the_last_depth_is_no_output(engine: LocalEngine) -> None:
    for lens, is_output in (("standard", True), ("v1", False)):
        alone = comparison.of_readings(whole(engine, A, lens=lens), whole(engine, B, lens=lens))
        assert not np.isnan(alone.top1_same[-1]).any() and np.isnan(alone.effect_kl_nats).all()
        for known in (alone.effect_top1_same, alone.effect_entropy_bits):
            assert (~np.isnan(known)).all() == (~np.isnan(known)).any() == is_output


def test_a_comparison_of_two_models_stops_where_either_is_told_to(llama_dir) -> None:
    one, two = loaded(llama_dir), loaded(llama_dir)
    stop = []

    def checkpoint() -> None:
        if stop:
            raise at_hand.Cancelled

    for engine, other in ((one, two), (two, one)):
        stop.clear()
        engine.checkpoint, other.checkpoint = checkpoint, lambda: None
        two.tell = lambda told: stop.append(told)  # it is under way
        with pytest.raises(at_hand.Cancelled):
            comparison.between(one, Read(PROMPT, "drop 1"), two, Read(PROMPT, "drop 2"))
        assert len(stop) == 1


def test_two_readings_by_themselves_tell_what_needs_no_run(engine: LocalEngine) -> None:
    a, b = whole(engine, A), whole(engine, B)
    ran, alone = compare(engine, Read(PROMPT, A), Read(PROMPT, B)), comparison.of_readings(a, b)
    assert alone.pairs == ran.pairs and np.isnan(alone.kl_nats).all() and np.isnan(alone.resid_cos).all()
    np.testing.assert_array_equal(alone.top1_same, ran.top1_same)
    close(alone.effect_entropy_bits, ran.effect_entropy_bits)
    *_, other = engine.answer(Read(OTHER, part="whole"))
    followed, exact = comparison.of_readings(a, other).b, compare(engine, Read(PROMPT, A), Read(OTHER)).b
    known = ~np.isnan(followed.tracked_rank)
    assert known.any() and not known.all()
    np.testing.assert_array_equal(followed.tracked_rank[known], exact.tracked_rank[known])
    close(followed.tracked_p[known], exact.tracked_p[known])
    with pytest.raises(EngineError, match="vocabulary"):
        comparison.of_readings(a, replace(other, model=replace(other.model, d_vocab=7)))
