"""The lens as JSON and text: both lenses side by side, arrivals, what the erratum changes; nothing wider than asked."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from evidences import make_evidence
from readings import make_info
from rich.cells import cell_len
from rich.console import Console

from stagescope.engine.fake import FakeEngine
from stagescope.engine.fake_findings import lens_curves
from stagescope.engine.protocol import LensCurves, TakeLens
from stagescope.engine.tokens import Token
from stagescope.reports.lens import (
    arrival_words,
    lens_json,
    lens_means_json,
    lens_means_text,
    lens_text,
)

HARMFUL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u200b]")


def make(n_layers: int = 5, words: tuple[str, ...] = (" Paris", " London"), **changes) -> LensCurves:
    """Of a tiny fake; ranks of the first word reach 1 at depth 3 and 10 at depth 2, the second one never does."""
    engine = FakeEngine(n_layers)
    texts = {100 + index: word for index, word in enumerate(words)}
    request = TakeLens("one two", tokens=tuple(texts))
    curves = lens_curves(engine.info, request, engine.tokenize("one two"), texts)
    rank = np.full((2, n_layers + 1, len(words)), 5000.0)
    for depth in range(n_layers + 1):
        if words:
            rank[:, depth, 0] = 1 if depth >= 3 else 10 if depth == 2 else 400
    return replace(curves, rank=rank, **changes)


def printed(parts, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    for part in parts:
        console.print(part, soft_wrap=not hasattr(part, "columns"), markup=False)
    return out.getvalue()


def test_json_has_every_number_under_both_lenses() -> None:
    curves = make()
    curves.kl_final_nats[1, 2] = np.nan
    data = json.loads(json.dumps(lens_json(curves), allow_nan=False))
    assert data["schema"] == "lens/1" and data["position"] == curves.position and len(data["depths"]) == 6
    assert data["max_entropy_bits"] == pytest.approx(np.log2(50_000))
    assert [depth["layer"] for depth in data["depths"]] == [None, 0, 1, 2, 3, 4]
    for depth, row in enumerate(data["depths"]):
        for lens, name in enumerate(("standard", "v1")):
            assert row[name]["entropy_bits"] == curves.entropy_bits[lens, depth]
            assert row[name]["top"]["id"] == curves.top_ids[lens, depth]
            told = [[one["rank"], one["p"], one["logit"]] for one in row[name]["followed"]]
            assert told == np.stack([curves.rank, curves.p, curves.logit], -1)[lens, depth].tolist()
    assert data["depths"][2]["v1"]["kl_final_nats"] is None
    first, second = data["followed"]
    assert first["text"] == " Paris" and first["arrives"]["standard"] == {"top1": 3, "top10": 2}
    assert second["arrives"]["v1"] == {"top1": None, "top10": None}


def test_arrivals_in_words() -> None:
    curves = make()
    assert arrival_words(curves, 0, 0) == "“·Paris” is the top token from depth 3 of 5 on; in the top 10 from 2 on"
    assert arrival_words(curves, 0, 1) == "“·London” does not arrive: rank 5,000 at the last depth"
    curves.rank[0, :, 0] = [9, 9, 1, 1, 1, 3]
    told = "“·Paris” is in the top 10 from depth 0 of 5 on; rank 3 at the last depth"
    assert arrival_words(curves, 0, 0) == told
    assert "from depth 3" in arrival_words(curves, 1, 0)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_text_fits_and_names_what_has_no_room(width) -> None:
    curves = make(schedule="drop 2")
    parts = lens_text(curves, width)
    text = printed(parts, width)
    table = printed([part for part in parts if hasattr(part, "columns")], width).splitlines()
    assert len(table) == 1 + 6 and all(cell_len(line) <= width and "…" not in line for line in table)
    assert [line.split()[0] for line in table[1:]] == ["4", "3", "2", "1", "0", "e"]
    assert "edit    drop 2" in text and "“·Paris” is the top token from depth 3" in text
    told = f"corrected {curves.entropy_bits[0, 1]:.2f}, v1 {curves.entropy_bits[1, 1]:.2f} bits; log2 V is 15.61"
    assert "erratum" in text and told in text
    headings = ("H bits", "H v1", "KL nats", "KL v1", "#·Paris", "p ·London", "top v1", "log odds")
    missing = next((line for line in text.splitlines() if line.startswith("no room for")), "")
    assert all((name in table[0]) != (name in missing) for name in headings)
    assert bool(missing) == (width < 200) and table[0].startswith("layer  H bits")


def test_hostile_tokens_are_harmless_and_nothing_followed_is_fine() -> None:
    hostile = "\x1b]52;c;aGk=\x07[/]\u202e"
    curves = make(words=(hostile,), prompt=hostile)
    curves = replace(curves, tokens=(Token(1, hostile), *curves.tokens[1:]), schedule="")
    assert not HARMFUL.search(printed(lens_text(curves, 120), 120))
    alone = make(words=(" a",))
    alone = replace(alone, followed=(), rank=alone.rank[..., :0], p=alone.p[..., :0], logit=alone.logit[..., :0])
    assert "H bits" in printed(lens_text(alone, 80), 80) and lens_json(alone)["followed"] == []


@pytest.mark.parametrize("documents", [1, 16])
def test_means_of_a_text(documents) -> None:
    evidence = make_evidence(6, documents=documents)
    data = json.loads(json.dumps(lens_means_json(evidence), allow_nan=False))
    assert data["schema"] == "lens/1" and data["documents"] == documents and len(data["depths"]) == 7
    mean, median, low, high = evidence.of("kl_final_nats_v1")[3]
    told = data["depths"][3]["v1"]["kl_final_nats"]
    assert (told["mean"], told["median"]) == (mean, median) and (told["low"] is None) == (documents == 1)
    assert documents == 1 or (told["low"], told["high"]) == (low, high)
    assert data["depths"][3]["layer"] == 2 and data["depths"][6]["standard"]["top1_final"]["mean"] > 0.5
    for width in (60, 80, 220):
        parts = lens_means_text(evidence, width)
        table = printed([part for part in parts if hasattr(part, "columns")], width).splitlines()
        assert len(table) == 8 and all(cell_len(line) <= width and "…" not in line for line in table)
        assert ("H 95 %" in table[0]) == (documents > 1 and width == 220)
    text = printed(lens_means_text(evidence, 220), 220)
    first = [evidence.of(name)[1, 0] for name in ("entropy_bits", "entropy_bits_v1")]
    assert f"mean entropy after the first block (depth 1): corrected {first[0]:.2f}, v1 {first[1]:.2f} bits" in text
    assert f"log2 V is {np.log2(make_info().d_vocab):.2f}" in text
