"""Similarities as JSON and text: every number told, what the matrices come to in words; no line wider than asked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from test_lens_report import HARMFUL, printed

from stagescope.engine.fake import FakeEngine
from stagescope.engine.fake_causes import similarity
from stagescope.engine.protocol import Similarity, TakeSimilarity, Texts
from stagescope.reports.similarity import (
    blocks,
    blocks_words,
    nearest,
    nearest_words,
    similarity_json,
    similarity_text,
)


def make(n_layers: int = 5, documents: int = 16, **changes) -> Similarity:
    texts = Texts() if documents > 1 else Texts(("one two",))
    return replace(similarity(FakeEngine(n_layers).info, TakeSimilarity(texts)), **changes)


def test_json_has_every_number() -> None:
    found = make(documents=1)
    data = json.loads(json.dumps(similarity_json(found), allow_nan=False))
    assert data["schema"] == "similarity/1" and data["documents"] == 1 and data["cka_tokens"] == found.cka_tokens
    for layer, row in enumerate(data["layers"]):
        assert row["layer"] == layer
        assert row["influence"] == {"mean": found.influence[layer, 0], "low": None, "high": None}
    assert data["angular"] == found.angular.tolist() and data["cka"] == found.cka.tolist()
    assert [row["n"] for row in data["nearest"]] == [1, 2, 4]  # 8 in a row it has not
    assert similarity_json(make())["layers"][2]["influence"]["high"] == make().influence[2, 2]


def test_the_least_distance_and_the_blocks_are_found() -> None:
    angular, cka = np.full((6, 6), 0.5), np.full((6, 6), 0.5)
    angular[3, 4], angular[1, 3], angular[0, 4] = 0.1, 0.2, np.nan
    found = make(angular=angular)
    assert nearest(found, 1) == (3, 0.1) and nearest(found, 2) == (1, 0.2) and nearest(found, 4) == (1, 0.5)
    assert nearest(found, 8) is None and nearest_words(found, 8) == ""
    assert nearest_words(found, 1) == "  1 layer   0.100 over 3"
    assert nearest_words(found, 2) == "  2 layers  0.200 over 1-2"
    cka[1:4, 1:4] = cka[3:5, 3:5] = 0.95  # 4 is like 3, not like 1 and 2
    np.fill_diagonal(cka, 1)
    found = make(cka=cka)
    assert blocks(found) == [(0, 0), (1, 3), (4, 4), (5, 5)]
    assert blocks_words(found) == "CKA over 320 tokens, in blocks of depths alike to 0.9: e, 1-3, 4, 5"
    assert blocks(make(cka=np.ones((6, 6)))) == [(0, 5)] and "0.9: e-5" in blocks_words(make(cka=np.ones((6, 6))))


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("documents", [1, 16])
def test_text_fits(width: int, documents: int) -> None:
    found = make(documents=documents, n_skipped=2, n_cut=1)
    parts = similarity_text(found, width)
    table = printed([part for part in parts if hasattr(part, "columns")], width).splitlines()
    assert len(table) == 6 and all(cell_len(line) <= width and "…" not in line for line in table)
    assert [line.split()[:2] for line in table[1:]] == [
        [str(layer), f"{found.influence[layer, 0]:.4f}"] for layer in reversed(range(5))
    ]
    assert ("95 %" in table[0]) == (documents > 1) and "━" in table[1]
    text = printed(parts, width)
    assert "1 cut, 2 left out" in text and "  4 layers" in text and "CKA over 320 tokens" in text


def test_nothing_measured_and_hostile_names_are_harmless() -> None:
    nothing = np.full((6, 6), np.nan)
    found = make(documents=1, influence=np.full((5, 3), np.nan), angular=nothing, cka=nothing, cka_tokens=1)
    found = replace(found, source="\x1b]0;x\x07\u202e")
    text = printed(similarity_text(found, 80), 80)
    assert not HARMFUL.search(text) and "no document has two tokens" in text and "no CKA: 1 tokens" in text
    assert json.dumps(similarity_json(found), allow_nan=False) and similarity_json(found)["nearest"] == []
