"""Planted worlds: one in which the paper holds in every point, and the same with one thing changed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evidences import NAMES, make_evidence
from readings import make_census, make_info
from sweeps import make_corpus

from stagescope.engine import fake_causes
from stagescope.engine.pool import BOOTSTRAP_SEED, RESAMPLES
from stagescope.engine.protocol import Census, Failure, FindHeads, ProbeScore, TakeProbe
from stagescope.paper.claim_numbers import drawn
from stagescope.paper.claims import CLAIMS, HELD, NOT_HELD, OPEN, Claim, claim_json, judge

L, DOCUMENTS = 20, 12
LAYER, DEPTH = np.linspace(0, 1, L), np.linspace(0, 1, L + 1)


def bump(at: float, width: float = 0.1) -> np.ndarray:
    return np.exp(-(((LAYER - at) / width) ** 2))


def at(**layers: float) -> np.ndarray:
    """Curve of a sweep: `middle` everywhere but in the `first` and `last` layer."""
    return np.array([layers["first"], *[layers["middle"]] * (L - 2), layers["last"]])


SWEEP = {  # measure, kind
    "drop_kl": at(first=8, middle=0.3, last=2), "drop_top1": at(first=0.02, middle=0.8, last=0.5),
    "drop_entropy": at(first=4, middle=0.2, last=-1), "swap_kl": at(first=8, middle=0.2, last=2),
    "swap_top1": at(first=0.02, middle=0.9, last=0.5), "swap_entropy": at(first=4, middle=0.1, last=1),
}  # fmt: skip
SWEEP["swap_top1"][L - 2] = 0.2  # a swap of the last pair stands at its lower layer
EVIDENCE = {
    "prev5_no_sink": 0.02 + 0.1 * bump(0.1), "prev5_mean_weight": 0.02 + 0.1 * bump(0.1),
    "attn_norm": 10 + 10 * LAYER, "mlp_norm": 5 + 60 * LAYER**3, "attn_mlp_ratio": 2.5 - 2 * LAYER,
    "kl_final_nats": 10 * np.minimum(1, 2.2 - 2.2 * DEPTH), "kl_final_nats_v1": 9 * (1 - DEPTH),
    "top1_final": DEPTH**4, "entropy_bits": 12 - 9 * np.maximum(0, DEPTH - 0.4) + 12 * np.maximum(0, DEPTH - 0.9),
}  # fmt: skip
CAUSES = {"join": 0.4, "join_at": 2, "alone": 0.75, "together": 0.85, "random": 0.55}
PREDICTION, SUPPRESSION = 100 * bump(0.85), 120 * bump(1.0, 0.06)


def world(
    documents: int = DOCUMENTS, noise: float = 0.01, orientation: str = "corpus", null: float = 0.0,
    prediction: np.ndarray = PREDICTION, suppression: np.ndarray = SUPPRESSION, info: dict | None = None,
    long: int | None = None, **changes,
) -> dict[str, Claim]:  # fmt: skip
    """The claims over planted curves. noise: how far documents are from each other, relative. long: how many of them
    have queries beyond 5, and so attention that is sink-free; None: all."""
    draw = np.random.default_rng(0)
    model = make_info(L, **(info or {}))
    curves = SWEEP | EVIDENCE | changes
    sweep = make_corpus(("drop", "swap"), L, documents=documents)
    rows = [[curves[f"{row.kind}_{measure}"][row.layer] for measure in ("kl", "top1", "entropy", "kl")] for row in sweep.rows]
    counts = np.full((documents, len(rows), 4), 50.0)
    sums = counts * np.array(rows) * (1 + noise * draw.normal(size=counts.shape))
    sweep = replace(sweep, model=model, sums=sums, counts=counts)

    evidence = make_evidence(L, documents=documents)
    sums = evidence.sums.copy()
    for name in EVIDENCE:
        y, row = curves[name], NAMES.index(name)
        sums[:, row, : len(y)] = y * evidence.counts[:, row, : len(y)] * (1 + noise * draw.normal(size=(documents, len(y))))
    if long is not None:
        evidence.counts[long:, NAMES.index("prev5_no_sink")] = sums[long:, NAMES.index("prev5_no_sink")] = 0
    flat = np.zeros((L, 4), np.float32)
    counted = [np.rint(each).astype(np.int32) for each in (prediction, suppression)]
    census = Census(
        model="m", fingerprint="", orientation=orientation, null_directions=256, null_above=null, d_mlp=1536,
        high=sum(counted), prediction=counted[0], suppression=counted[1], unsigned=counted[0] * 0, partition=counted[0] * 0,
        variance=flat, skew=flat, kurtosis=flat, sign=flat.astype(np.int8), consistency=flat,
    )  # fmt: skip
    told = CAUSES | changes
    heads = fake_causes.head_scores(model, FindHeads())
    score = np.zeros((L, 4, 3))
    score[told["join_at"], 1] = told["join"] + np.array([0, -0.02, 0.02])
    probe = fake_causes.probe(model, TakeProbe())
    scores = [
        ProbeScore(kind, 1, 1, size, 1.0, told[name], told[name], told[name] - 0.03, told[name] + 0.03)
        for kind, size, name in (("prediction", 1, "alone"), ("random", 1, "random"), ("prediction", 8, "together"))
    ]
    causes = replace(heads, score=score, held=score), replace(probe, neurons=tuple(scores[:2]), ensembles=tuple(scores[2:]))
    return {claim.id: claim for claim in judge(model, sweep, replace(evidence, sums=sums), census, *causes)}


def test_where_the_paper_holds_every_claim_is_held():
    claims = world()
    assert list(claims) == [row.id for row in CLAIMS] and len(claims) == 20
    others = {name: (claim.verdict, claim.reason) for name, claim in claims.items() if claim.verdict != HELD}
    assert list(others) == ["last-swap-gpt2"] and "no GPT-2" in others["last-swap-gpt2"][1]
    for claim in claims.values():
        assert claim.text and claim.where and claim.test and claim.reason
        assert all(one.low <= one.high for one in claim.numbers)


BROKEN = {
    "robust-middle": {"drop_top1": at(first=0.02, middle=0.6, last=0.5)},
    "first-drop": {"drop_top1": at(first=0.7, middle=0.8, last=0.5)},
    "first-swap": {"swap_top1": at(first=0.7, middle=0.9, last=0.5)},
    "first-entropy": {"drop_entropy": at(first=-5, middle=0.2, last=-1)},
    "milder-swaps": {"swap_kl": at(first=8, middle=0.6, last=2)},
    "near-attention": {"prev5_no_sink": 0.02 + 0.1 * bump(0.6)},
    "attention-early": {"attn_mlp_ratio": 0.5 + 2 * LAYER},
    "lens-falls": {"kl_final_nats": 10 * (1 - DEPTH) ** 3},
    "little-progress": {"top1_final": DEPTH**0.5},
    "prediction-appears": {"prediction": 100 * bump(0.2)},
    "prediction-peaks": {"prediction": 100 * bump(0.6)},
    "suppression-overtakes": {"suppression": 5 * bump(1.0)},
    "mlp-peaks-late": {"mlp_norm": 5 + 60 * bump(0.3)},
    "entropy-falls": {"entropy_bits": 12 - 0.1 * DEPTH},
    "entropy-turns": {"entropy_bits": 12 - 9 * DEPTH},
    "heads-join": {"join_at": L - 1},
    "neurons-tell": {"alone": 0.52},
    "ensembles-tell": {"together": 0.6},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_planted_the_other_way_is_not_held(name):
    claim = world(**BROKEN[name])[name]
    assert claim.verdict == NOT_HELD, claim
    deciding = [one for one in claim.numbers if one.asks and one.verdict == NOT_HELD]
    assert deciding and deciding[0].name.lower() in claim.reason.lower()


def test_one_model_is_no_evidence_against_some_models():
    kept = SWEEP["swap_top1"].copy()
    kept[L - 2] = 0.85
    claim = world(swap_top1=kept)["last-swap"]
    assert claim.verdict == OPEN and "some models" in claim.reason and claim.numbers[0].value > 0.9
    gpt2 = {"architecture": "GPT2LMHeadModel"}
    assert world(swap_top1=kept, info=gpt2)["last-swap-gpt2"].verdict == HELD
    assert world(info=gpt2)["last-swap-gpt2"].verdict == NOT_HELD


def test_a_difference_within_its_interval_decides_nothing():
    claims = world(noise=0.4, swap_kl=SWEEP["drop_kl"], swap_top1=SWEEP["drop_top1"], mlp_norm=np.full(L, 9.0))
    for name in ("milder-swaps", "mlp-peaks-late"):
        assert claims[name].verdict == OPEN and "edge" in claims[name].reason, claims[name]
    assert claims["first-drop"].verdict == HELD  # large enough to be seen through the noise


CENSUS = ("prediction-appears", "prediction-peaks", "suppression-overtakes")
CAUSED = ("heads-join", "neurons-tell", "ensembles-tell")  # by words and contexts of their own
NOTHING = Failure("usage", "12 words are too few."), Failure("usage", "3 contexts are too few.")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"orientation": "none"}, "gated"),
        ({"null": 0.62}, "degenerate"),
        ({"prediction": 0.05 * PREDICTION, "suppression": 0.05 * SUPPRESSION}, "too few"),
    ],
    ids=["unoriented", "degenerate", "few neurons"],
)
def test_a_census_that_says_little_decides_nothing(changes, why):
    claims = world(**changes)
    for name in CENSUS[1:]:
        assert claims[name].verdict == OPEN and why in claims[name].reason
    of_probe = OPEN if why != "too few" else HELD  # it chose its own neurons
    assert claims["neurons-tell"].verdict == claims["ensembles-tell"].verdict == of_probe
    assert claims["lens-falls"].verdict == HELD


def test_a_control_without_a_value_decides_nothing():
    claims = world(random=float("nan"))
    assert claims["neurons-tell"].verdict == OPEN and "no value" in claims["neurons-tell"].reason


def test_one_document_has_no_interval_and_few_layers_no_middle():
    claims = world(documents=1)
    assert {claim.verdict for name, claim in claims.items() if name not in (*CENSUS, *CAUSED)} == {OPEN}
    assert "one document" in claims["mlp-peaks-late"].reason.lower() and claims["prediction-peaks"].verdict == HELD
    small = judge(make_info(6), make_corpus(n_layers=6), make_evidence(6, documents=4), None, *NOTHING)
    assert {claim.verdict for claim in small} == {OPEN} and "6 layers" in small[0].reason


@pytest.mark.parametrize(
    ("documents", "long", "verdict", "why"),
    [
        (3, 2, HELD, "intervals included"),  # one resample in 27 has neither of them
        (3, 1, OPEN, "two documents"),
        (3, 0, OPEN, "not measured"),
        (1, 0, OPEN, "one document"),
    ],
)
def test_short_prompts_leave_every_claim_a_verdict(documents, long, verdict, why):
    claims = world(documents=documents, long=long)
    assert len(claims) == 20 and {claim.verdict for claim in claims.values()} <= {HELD, NOT_HELD, OPEN}
    near = claims["near-attention"]
    assert near.verdict == verdict and why in near.reason.lower(), near
    assert claims["mlp-peaks-late"].verdict == (HELD if documents > 1 else OPEN)  # what needs no long one is as before
    json.dumps([claim_json(claim) for claim in claims.values()], allow_nan=False)


def test_all_curves_are_of_the_same_documents_drawn_anew():
    """So a difference of two curves that differ by a constant in every document has no interval to speak of."""
    draw = np.random.default_rng(0)
    sums, counts = draw.normal(size=(40, 6)) * 100, np.full((40, 6), 10.0)
    one, other = drawn(sums, counts), drawn(sums[:, 1:3] + 5 * counts[:, 1:3], counts[:, 1:3])
    assert one[:, 1].std() > 1
    np.testing.assert_allclose(other - one[:, 1:3], 5, rtol=1e-9)
    rng = np.random.default_rng(BOOTSTRAP_SEED)  # by the definition, document by document
    expected = [sums[rows].sum(0) / counts[rows].sum(0) for rows in rng.integers(40, size=(RESAMPLES, 40))]
    np.testing.assert_allclose(one[1:], expected, rtol=1e-9, atol=1e-12)


def test_what_was_not_measured_is_not_measurable():
    info, sweep, evidence = make_info(L), make_corpus(("swap",), L), make_evidence(L, documents=4, lenses=())
    claims = {claim.id: claim for claim in judge(info, sweep, evidence, make_census(L), *NOTHING)}
    assert "no drop" in claims["first-drop"].reason and "were not kept" in claims["first-swap"].reason
    assert "12 words" in claims["heads-join"].reason and claims["neurons-tell"].verdict == OPEN
    assert "not measured" in claims["lens-falls"].reason and claims["near-attention"].verdict == HELD


def test_json_has_nulls_for_what_is_not_asked():
    told = json.loads(json.dumps(claim_json(world()["robust-middle"]), allow_nan=False))
    assert told["verdict"] == HELD and told["numbers"][0]["at_least"] == 0.72 and told["numbers"][0]["at_most"] is None
    assert told["numbers"][0]["low"] < told["numbers"][0]["value"] < told["numbers"][0]["high"]
