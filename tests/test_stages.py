"""The rule of the stage map: planted boundaries are found, noise of any smoothness shows none, doubt is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stagescope.engine import wire
from stagescope.engine.protocol import MEASURES, OF_DEPTHS, OF_LAYERS, CorpusSweep, Evidence, StageMap, SweepRow
from stagescope.engine.stages import CURVES, layer_curves, stage_map
from tests.readings import make_census, make_info

NAMES = [curve.name for curve in CURVES]
MEASURED = (*OF_DEPTHS, *OF_LAYERS)
TOKENS = 20  # of each document


def planted(n: int, boundaries: dict[int, int]) -> np.ndarray:
    """[C, L] curves without units that step by 1, as Table 1 expects, at each boundary given."""
    curves = np.zeros((len(CURVES), n))
    for row, curve in enumerate(CURVES):
        for boundary, direction in curve.says.items():
            curves[row, boundaries.get(boundary, n) :] += direction
    return curves


def measured(curves: np.ndarray, documents: int = 1, spread: float = 0.0, seed: int = 0):
    """A sweep, evidence and a census whose curves are these, each document off by `spread` of its own."""
    n = curves.shape[1]
    info, rng = make_info(n), np.random.default_rng(seed)
    of = dict(zip(NAMES, np.moveaxis(curves + spread * rng.normal(size=(documents, *curves.shape)), 1, 0), strict=True))
    rows = [SweepRow(f"drop {k}", "drop", k) for k in range(n)]
    rows += [SweepRow(f"swap {k} {k + 1}", "swap", k) for k in range(n - 1)]
    kl = 10.0 ** np.concatenate([of["drop_kl"], of["swap_kl"][:, :-1]], 1)
    sums = np.repeat(TOKENS * kl[..., None], 4, -1)
    summary = np.full((len(rows), 4), np.nan)
    sweep = CorpusSweep(
        info, "a text", tuple(rows), documents, TOKENS * documents, summary, summary, summary, summary,
        sums=sums, counts=np.full_like(sums, TOKENS),
    )  # fmt: skip

    def depths(rise: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((documents, 1)), rise.cumsum(1)], 1)

    mlp = 100 * 10.0 ** of["mlp_norm"]
    layers = {
        "mlp_norm": mlp, "attn_norm": mlp / 10.0 ** of["mlp_over_attention"], "resid_norm": np.full_like(mlp, 100),
        "prev5_no_sink": 0.1 + 0.02 * of["near_attention"],
    }  # fmt: skip
    means = np.full((documents, len(MEASURED), n + 1), np.nan)
    means[:, MEASURED.index("entropy_bits")] = 50 + depths(of["entropy_rise"])
    means[:, MEASURED.index("kl_final_nats")] = 50 - depths(of["lens_kl_fall"])
    for name, value in layers.items():
        means[:, MEASURED.index(name), :n] = value
    nothing = np.empty(0)
    evidence = Evidence(
        info, "a text", documents, TOKENS * documents, ("standard",), nothing, TOKENS * np.nan_to_num(means),
        TOKENS * np.isfinite(means), nothing, nothing, nothing, nothing, nothing, 0.1,
    )  # fmt: skip
    row = {name: curves[number] for number, name in enumerate(NAMES)}
    prediction = np.rint(300 * 10.0 ** (0.4 * row["prediction_neurons"])).astype(np.int32)
    suppression = np.rint(prediction * 10.0 ** (0.4 * row["suppression_lead"])).astype(np.int32)
    return sweep, evidence, replace(make_census(n), prediction=prediction, suppression=suppression)


def firsts(found: StageMap) -> list[int | None]:
    return [stage.first_layer for stage in found.stages]


def noise(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "white":
        return 0.3 * rng.normal(size=(len(CURVES), n))
    window = np.hanning(9)[1:-1]  # neighbours correlate by 0.9
    return np.stack([np.convolve(row, window / 2, "valid") for row in 0.3 * rng.normal(size=(len(CURVES), n + 6))])


@pytest.mark.parametrize(("n", "boundaries"), [(12, (1, 6, 11)), (24, (2, 12, 21)), (48, (3, 24, 43))])
def test_planted_boundaries_are_found(n, boundaries):
    near = 0
    for seed in range(15):
        rng = np.random.default_rng([n, seed])
        curves = planted(n, dict(enumerate(boundaries))) + 0.2 * rng.normal(size=(len(CURVES), n))
        found = firsts(stage_map(*measured(curves)))
        assert found[0] in (0, None)
        for first, true in zip(found[1:], boundaries, strict=True):
            near += first is not None and abs(first - true) <= 1
    assert near >= 0.95 * 15 * 3


@pytest.mark.parametrize("n", [6, 12, 24, 48])
@pytest.mark.parametrize("kind", ["white", "smooth"])
def test_noise_shows_no_stage(kind, n):
    rng = np.random.default_rng([n, len(kind)])
    maps = [stage_map(*measured(noise(kind, n, rng))) for _ in range(40)]
    assert sum(firsts(found) == [None] * 4 for found in maps) >= 36
    assert all(stage.why for stage in maps[0].stages)


def test_the_other_direction_is_no_stage():
    curves = planted(24, {0: 2, 1: 12, 2: 21})
    assert firsts(stage_map(*measured(-curves))) == [None] * 4
    assert firsts(stage_map(*measured(curves[:, ::-1]))) == [None] * 4


def test_layers_of_an_unknown_mix_belong_to_no_stage():
    """With 2|3 not to be seen, the second stage begins at 3 and ends nobody knows where."""
    found = stage_map(*measured(planted(24, {0: 3, 2: 21}), documents=6, spread=0.1))
    assert [stage.visible for stage in found.stages] == [True, False, False, True]
    ends = [(stage.first_layer, stage.last_layer) for stage in found.stages]
    assert ends == [(0, 2), (3, None), (None, None), (21, 23)]
    assert [found.stage_of(layer) for layer in (0, 2, 3, 12, 20, 21, 23)] == [0, 0, None, None, None, 3, 3]
    assert "where it ends is not known: 2|3 is not visible" in found.stages[1].why

    found = stage_map(*measured(planted(24, {1: 12})))
    assert [stage.visible for stage in found.stages] == [False] * 4 and found.stages[2].first_layer == 12


def test_one_instrument_alone_makes_no_boundary():
    """Where the layers 0 to 2 are catastrophic and attention is noise, it agrees by chance one time in twenty."""
    visible = 0
    for seed in range(20):
        curves = 0.05 * np.random.default_rng(seed).normal(size=(len(CURVES), 24))
        curves[[NAMES.index("drop_kl"), NAMES.index("swap_kl")], 3:] -= 1
        stage = stage_map(*measured(curves)).stages[0]
        assert [signal.agrees for signal in stage.evidence][:2] == [True, True]
        assert stage.visible == stage.evidence[2].agrees
        visible += stage.visible
    assert visible <= 3


def test_the_interval_covers_the_boundary_and_shrinks_with_more_documents():
    truth = (4, 12, 20)

    def widths(documents: int) -> list[int]:
        found = stage_map(*measured(planted(24, dict(enumerate(truth))), documents, spread=1.0, seed=1))
        stages = found.stages[1:]
        assert all(stage.low <= true <= stage.high for stage, true in zip(stages, truth, strict=True))
        assert all(stage.low <= stage.first_layer <= stage.high for stage in stages)
        return [stage.high - stage.low for stage in stages]

    few, many = widths(6), widths(60)
    assert sum(many) < sum(few) and max(many) <= 1


def test_one_document_gives_no_interval():
    stages = stage_map(*measured(planted(24, {0: 3, 1: 12, 2: 21}))).stages
    assert all(stage.visible and stage.low is None and stage.high is None for stage in stages)


def test_a_census_that_says_nothing_is_left_out():
    sweep, evidence, census = measured(planted(24, {0: 3, 1: 12, 2: 21}))
    for useless in (None, replace(census, orientation="none"), replace(census, null_above=0.5)):
        found = stage_map(sweep, evidence, useless)
        assert not {"prediction_neurons", "suppression_lead"} & {*found.signals}
        assert found.curves.shape == (len(CURVES) - 2, 24) and firsts(found) == [0, 3, 12, 21]


def test_evidence_equals_a_direct_calculation():
    curves = planted(24, {0: 3, 1: 12, 2: 21}) + 0.1 * np.random.default_rng(5).normal(size=(len(CURVES), 24))
    sweep, evidence, census = measured(curves, documents=3, spread=0.2)
    found = stage_map(sweep, evidence, census)
    (lens,) = (signal for signal in found.stages[2].evidence if signal.name == "lens_kl_fall")
    measure = MEASURED.index("kl_final_nats")
    kl = evidence.sums[:, measure].sum(0) / evidence.counts[:, measure].sum(0)
    fall = (kl[:-1] - kl[1:])[3:21]  # between the two other boundaries
    before, after = fall[:9], fall[9:]
    assert (lens.first, lens.agrees) == (12, True)
    assert lens.before == pytest.approx(before.mean()) and lens.after == pytest.approx(after.mean())
    left = ((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum()
    assert lens.explained == pytest.approx(1 - left / ((fall - fall.mean()) ** 2).sum())
    drop = layer_curves(sweep, evidence, census)[NAMES.index("drop_kl")]
    kl = sweep.sums[:, :24, MEASURES.index("kl_nats")].sum(0) / (3 * TOKENS)
    np.testing.assert_allclose(drop, np.log10(kl))


def test_what_was_not_measured_is_done_without():
    sweep, evidence, census = measured(planted(24, {0: 3, 1: 12, 2: 21}), documents=3, spread=0.1)
    counts = evidence.counts.copy()
    counts[:, : len(OF_DEPTHS)] = 0
    found = stage_map(sweep, replace(evidence, counts=counts), census)  # without a lens
    assert firsts(found) == [0, 3, 12, 21] and not {"lens_kl_fall", "entropy_rise"} & {*found.signals}
    nothing = stage_map(sweep, replace(evidence, counts=0 * counts), None)
    assert firsts(nothing) == [None] * 4 and "fewer than two instruments" in nothing.stages[0].why
    for n in (1, 2, 3):
        assert "too few" in stage_map(*measured(np.zeros((len(CURVES), n)))).stages[0].why


def test_a_map_is_the_same_again_and_comes_through_the_pipe():
    parts = measured(planted(24, {0: 3, 2: 21}), documents=4, spread=0.3)
    frame = wire.encode(stage_map(*parts))
    assert frame == wire.encode(stage_map(*parts))
    assert wire.encode(wire.decode(frame[4:])) == frame
