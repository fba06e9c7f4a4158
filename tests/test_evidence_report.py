"""Attention and norms as JSON and text: the contract's fields, two readings of one ratio, 80 columns."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from evidences import NAMES, make_evidence
from rich.console import Console

from stagescope.engine.protocol import OFFSETS
from stagescope.reports.evidence import (
    attention_json,
    attention_text,
    norms_json,
    norms_text,
    ratio_of_means,
    strongest,
)


def printed(lines) -> list[str]:
    """As they would be with room to spare."""
    console = Console(width=1000, file=io.StringIO(), markup=False, highlight=False)
    for line in lines:
        console.print(line, no_wrap=True, crop=False)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_attention_has_the_fields_of_the_contract_and_all_offsets():
    evidence = make_evidence(6, 4, documents=5)
    data = json.loads(json.dumps(attention_json(evidence), allow_nan=False))
    assert data["schema"] == "attention/1" and data["subjoiner_heads"] is None and data["model"]["n_layers"] == 6
    assert data["documents"] == 5 and data["tokens_scored"] == 115 and data["source"] == "topics.txt"
    assert data["skipped"] == [] and data["offsets"] == list(OFFSETS)
    for at, layer in enumerate(data["layers"]):
        assert layer["layer"] == at
        for name in ("prev5_mean_weight", "prev5_no_sink", "sink_mass", "prev16_no_sink"):
            mean, _, low, high = evidence.of(name)[at]
            assert layer[name] == mean and layer["intervals"][name] == {"low": low, "high": high} and low < mean < high
        head = layer["heads"][2]
        assert head["head"] == 2 and len(layer["heads"]) == 4
        assert head["prev5_no_sink"] == pytest.approx(evidence.head_no_sink[at, 2, OFFSETS.index(5)])
        assert head["prev8_mean_weight"] == pytest.approx(evidence.head_prev[at, 2, OFFSETS.index(8)])
        assert head["sink_mass"] == pytest.approx(evidence.head_sink[at, 2])
    assert data["uniform"]["prev5_no_sink"] == evidence.uniform_no_sink[3]
    assert data["uniform"]["sink_mass"] == evidence.uniform_sink


def test_what_was_not_measured_is_null():
    short = attention_json(make_evidence(3, n_tokens=6))
    assert short["layers"][0]["prev5_no_sink"] is None and short["layers"][0]["prev4_no_sink"] is not None
    assert short["layers"][0]["intervals"]["prev4_no_sink"] == {"low": None, "high": None}
    assert short["uniform"]["prev5_no_sink"] is None and short["layers"][0]["heads"][0]["prev5_no_sink"] is None
    half = norms_json(make_evidence(4, complete=False))
    assert half["layers"][1]["mlp_norm"]["mean"] > 0 and half["layers"][2]["mlp_norm"]["mean"] is None
    json.dumps([short, half], allow_nan=False)


def test_the_ratio_is_told_in_both_readings():
    """Two tokens of one document, attn 1 and 3, MLP 1 and 1, another's 2 and 8: (1 + 3 + .25) / 3 and 6 / 10."""
    evidence = make_evidence(2, documents=2)
    planted = {"attn_norm": ([4.0, 2.0], [2, 1]), "mlp_norm": ([2.0, 8.0], [2, 1]), "attn_mlp_ratio": ([4.0, 0.25], [2, 1])}
    for name, (sums, counts) in planted.items():
        row = NAMES.index(name)
        evidence.sums[:, row, 1] = sums
        evidence.counts[:, row, 1] = counts
        evidence.summary[row, 1, 0] = sum(sums) / sum(counts)
    assert ratio_of_means(evidence)[1].tolist() == [0.6, 0.25, 2.0]  # the ends: one document drawn twice
    ratios = norms_json(evidence)["layers"][1]["attn_mlp_ratio"]
    assert ratios["mean_of_ratios"]["mean"] == pytest.approx(4.25 / 3)
    assert ratios["ratio_of_means"] == {"value": 0.6, "low": 0.25, "high": 2.0}
    row = next(line.split() for line in printed(norms_text(evidence)) if line.split()[0] == "1")
    assert row[9:11] == ["1.42", "0.600"]


def test_a_layer_whose_mlp_writes_nothing_has_no_ratio():
    evidence = make_evidence(2)
    evidence.sums[:, NAMES.index("mlp_norm"), 0] = evidence.summary[NAMES.index("mlp_norm"), 0] = 0
    ratio = norms_json(evidence)["layers"][0]["attn_mlp_ratio"]["ratio_of_means"]
    assert ratio == {"value": None, "low": None, "high": None}


def test_only_layernorm_models_are_centred_and_it_is_said():
    rms, layer = make_evidence(3), make_evidence(3, norm="layer")
    assert norms_json(rms)["centred"] is False and norms_json(layer)["centred"] is True
    assert "nothing is centred" in "\n".join(printed(norms_text(rms)))
    assert "without their mean" in "\n".join(printed(norms_text(layer)))


def test_the_strongest_head_comes_first_and_nan_never():
    values = np.array([[0.1, np.nan, 0.3], [0.2, 0.4, np.nan]])
    assert strongest(values, 3) == [(1, 1), (0, 2), (1, 0)]
    assert strongest(values * np.nan, 3) == []


@pytest.mark.parametrize("k", OFFSETS)
def test_text_has_the_last_layer_on_top_and_the_uniform_line(k):
    evidence = make_evidence(12, documents=4)
    lines = printed(attention_text(evidence, 80, k))
    title = next(at for at, line in enumerate(lines) if line.startswith("layer"))
    assert [line.split()[0] for line in lines[title + 1 : title + 13]] == [str(n) for n in reversed(range(12))]
    assert all("┊" in line for line in lines[title + 1 : title + 13])
    (at, head), *_ = strongest(evidence.head_no_sink[..., OFFSETS.index(k)], 1)
    assert any(f"strongest heads, sink-free: {at}.{head} " in line for line in lines)


@pytest.mark.parametrize("documents", [1, 900])
@pytest.mark.parametrize("n_tokens", [1, 2, 6, 2048])
def test_text_fits_80_columns(documents, n_tokens):
    """A deep, wide and large-normed model over a text with a long and hostile name."""
    evidence = make_evidence(64, 40, documents, n_tokens=n_tokens, source="a/long/folder/" * 9 + "\x1b[2J.txt")
    rows = [NAMES.index(name) for name in ("attn_norm", "mlp_norm", "resid_norm")]
    evidence.summary[rows] *= 200
    evidence = replace(evidence, n_cut=1234, n_skipped=77)
    for lines in (attention_text(evidence, 80, 16), norms_text(evidence, 80)):
        told = printed(lines)
        assert max(map(len, told)) <= 80, max(told, key=len)
        assert "\\u{1b}[2J.txt" in told[1] and "\x1b" not in "".join(told)
        assert "nan" not in "".join(told).lower()


def test_a_text_too_short_says_what_it_needs():
    assert "sink-free needs 7 tokens, this prompt has 6" in printed(attention_text(make_evidence(3, n_tokens=6)))
    told = printed(attention_text(make_evidence(3, documents=2, n_tokens=6)))
    assert "sink-free needs 7 tokens, and no document has them" in told
    assert "this needs 2 tokens, this prompt has 1" in printed(norms_text(make_evidence(3, n_tokens=1)))
