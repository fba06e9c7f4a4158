"""Pooled statistics, against numpy on all values at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagescope.engine import pool
from stagescope.engine.pool import MEASURES, Pool, over_prompts
from stagescope.engine.protocol import ModelInfo, Sweep, SweepRow
from stagescope.engine.tokens import Token

some = settings(max_examples=60, deadline=None)
lengths = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def drawn(sizes: list[int], n_rows: int = 3, seed: int = 0, holes: float = 0.0) -> list[np.ndarray]:
    """Documents' values [S, 4, n]; the loss of a last token is NaN, and so are some tokens of row 1."""
    rng = np.random.default_rng(seed)
    values = [rng.lognormal(size=(n_rows, 4, size)).astype(np.float32) for size in sizes]
    for of_one in values:
        of_one[:, 3, -1] = np.nan
        of_one[1, :, rng.random(of_one.shape[-1]) < holes] = rng.choice([np.nan, np.inf, -np.inf])
    return values


def pooled(values: list[np.ndarray]) -> Pool:
    into = pool.empty(len(values[0]))
    for of_one in values:
        into.add(of_one)
    return into


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k], equal_nan=True) for k in ours)


@some
@given(sizes=lengths, seed=st.integers(0, 99), holes=st.sampled_from([0.0, 0.3, 1.0]))
def test_means_and_medians_are_those_of_all_tokens(sizes, seed, holes):
    values = drawn(sizes, seed=seed, holes=holes)
    everything = np.concatenate(values, -1).astype(np.float64)
    everything[~np.isfinite(everything)] = np.nan
    found = pooled(values)
    for measure, name in enumerate(MEASURES):
        summary = found.summary()[name]
        assert summary.shape == (3, 4)
        for row in range(3):
            there = everything[row, measure][~np.isnan(everything[row, measure])]
            expected = [there.mean(), np.median(there)] if len(there) else [np.nan, np.nan]
            np.testing.assert_allclose(summary[row, :2], expected, rtol=1e-12)
    assert found.holes.tolist() == [0, sum(not np.isfinite(of_one[1, 0]).all() for of_one in values), 0]


@some
@given(sizes=lengths, seed=st.integers(0, 99))
def test_the_interval_is_a_bootstrap_over_documents(sizes, seed):
    values = drawn(sizes, seed=seed)
    summary = pooled(values).summary()
    documents = np.random.default_rng(pool.BOOTSTRAP_SEED).integers(len(sizes), size=(pool.RESAMPLES, len(sizes)))
    for measure, name in enumerate(MEASURES[:3]):
        if len(sizes) == 1:
            assert np.isnan(summary[name][:, 2:]).all()
            continue
        means = [np.concatenate([values[d] for d in draw], -1)[:, measure].mean(-1, dtype=float) for draw in documents]
        np.testing.assert_allclose(summary[name][:, 2:].T, np.percentile(means, [2.5, 97.5], axis=0), rtol=1e-6)
        assert (summary[name][:, 2] <= summary[name][:, 0]).all() or len(sizes) < 4


def test_the_interval_holds_the_mean_in_about_95_of_100_worlds():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(100):
        shifts = rng.normal(size=40)  # tokens of one document resemble each other
        found = pooled([np.full((1, 4, 3), shift) + rng.normal(size=(1, 4, 3)) for shift in shifts]).summary()
        _, _, low, high = found["kl_nats"][0]
        held += low <= 0 <= high
    assert 88 <= held <= 99


def test_a_row_that_few_documents_have():
    values = drawn([5, 5, 5, 5])
    for of_one in values[1:]:
        of_one[1] = np.nan
    values[2][2] = np.nan
    summary = pooled(values).summary()["kl_nats"]
    assert np.isnan(summary[1, 2:]).all() and np.isfinite(summary[[0, 2]]).all()
    assert summary[1, 0] == pytest.approx(values[0][1, 0].mean(dtype=float))
    assert np.isnan(pooled([np.full((1, 4, 3), np.nan)] * 3).summary()["kl_nats"]).all()


def test_beyond_the_sample_the_median_is_of_a_uniform_sample(monkeypatch):
    monkeypatch.setattr(pool, "SAMPLE", 2000)
    counted = np.arange(20_000, dtype=np.float32).reshape(200, 100)
    values = [np.broadcast_to(of_one, (2, 4, 100)) for of_one in counted]
    found = pooled(values)
    assert found.sample.shape == (2, 4, 2000) and np.array_equal(found.sample[0], found.sample[1])
    taken = np.sort(found.sample[0, 0])
    assert len(np.unique(taken)) == 2000
    assert np.abs(taken - np.arange(0, 20_000, 10)).max() < 20_000 * 0.05  # Kolmogorov-Smirnov, p < 1e-4
    by_hand = np.concatenate([np.random.default_rng([pool.SAMPLE_SEED, d]).random(100) for d in range(200)])
    assert np.array_equal(taken, np.sort(np.argsort(by_hand)[:2000]))
    assert found.summary()["kl_nats"][0, 1] == np.median(taken)


@some
@given(sizes=lengths, cut=st.integers(0, 8), sample=st.sampled_from([1, 7, 50, 20_000]))
def test_put_away_and_taken_up_again_it_is_the_same(sizes, cut, sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "SAMPLE", sample)
        values = drawn(sizes, holes=0.2)
        into = pool.empty(3)
        for of_one in values[:cut]:
            into.add(of_one)
        into = pool.restored(into.state())
        for of_one in values[cut:]:
            into.add(of_one)
        assert same(into.summary(), pooled(values).summary()) and same(into.state(), pooled(values).state())


# ------------------------------------------------------------------------------------------- several prompts


def a_sweep(prompt: str, values: np.ndarray, kind: str = "drop", prefix: bool = True, **changes) -> Sweep:
    n_rows, _, n_tokens = values.shape
    info = ModelInfo("tiny", "test", "Test", 3, 8, 16, 2, 50, 128, prefix=Token(0, "⟨eot⟩") if prefix else None)
    nothing = np.full(n_tokens, np.nan, np.float32)
    cells = np.full((n_rows, n_tokens), np.nan, np.float32)
    fields = {
        "model": info, "prompt": prompt, "tokens": tuple(Token(i, "") for i in range(n_tokens)), "kind": kind,
        "rows": tuple(SweepRow(f"drop {layer}", kind, layer) for layer in range(n_rows)),
        "positions": tuple(range(n_tokens)), "done": np.ones(n_rows, bool), "notes": {},
        "tracked": np.zeros(n_tokens, np.int32), "tracked_rank": cells, "tracked_p": cells,
        **{name: values[:, measure] for measure, name in enumerate(MEASURES)},
        **{f"base_{name}": nothing for name in ("entropy_bits", "loss_nats", "tracked_rank", "tracked_p")},
    }  # fmt: skip
    return Sweep(**fields | changes)


@pytest.mark.parametrize("prefix", [True, False])
def test_prompts_are_pooled_as_documents_and_kinds_stand_one_after_the_other(prefix: bool):
    drops, swaps = drawn([5, 9, 4]), drawn([5, 9, 4], n_rows=2, seed=1)
    sweeps = [a_sweep(f"prompt {n}", drops[n], "drop", prefix) for n in range(3)]
    sweeps += [a_sweep(f"prompt {n}", swaps[n], "swap", prefix) for n in (2, 0, 1)]
    found = over_prompts(sweeps)
    expected = pooled([np.concatenate(pair)[..., int(prefix) :] for pair in zip(drops, swaps, strict=True)]).summary()
    assert same({name: getattr(found, name) for name in MEASURES}, expected)
    assert [row.kind for row in found.rows] == ["drop"] * 3 + ["swap"] * 2
    assert (found.documents, found.tokens_scored, found.source) == (3, 18 - 3 * prefix, "3 prompts")
    assert not found.notes and not found.cached


def test_what_is_wrong_with_a_row_is_counted_over_the_prompts():
    values = drawn([5, 6])
    values[0][2] = np.nan
    sweeps = [a_sweep("a", values[0], notes={2: "its logits are not numbers"}), a_sweep("b", values[1])]
    found = over_prompts(sweeps)
    assert found.notes == {2: "its logits are not numbers in 1 of 2 prompts"}
    assert found.kl_nats[2, 0] == pytest.approx(values[1][2, 0, 1:].mean(dtype=float))
    assert over_prompts(sweeps[:1]).notes == {2: "its logits are not numbers in 1 of 1 prompt"}


def test_rows_of_their_own_cannot_be_pooled():
    with pytest.raises(ValueError, match="same for every prompt"):
        over_prompts([a_sweep("a", *drawn([5])), a_sweep("b", *drawn([5], n_rows=2))])


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_kind_that_a_prompt_lacks_cannot_be_pooled(lacking: int):
    values = drawn([5, 6])
    sweeps = [a_sweep("ab"[n], values[n], kind) for n in (0, 1) for kind in ("drop", "swap")]
    del sweeps[2 * lacking + 1]
    with pytest.raises(ValueError, match=f"“{'ab'[lacking]}” has no sweep of swap"):
        over_prompts(sweeps)
