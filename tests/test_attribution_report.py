"""Attributions as JSON and text: every number told, sums that add up, self-repair in words; no table too wide."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from test_lens_report import HARMFUL, printed

from stagescope.engine.fake import FakeEngine
from stagescope.engine.fake_causes import attribution
from stagescope.engine.protocol import Attribution, TakeAttribution
from stagescope.engine.tokens import Token
from stagescope.reports.attribution import (
    attribution_json,
    attribution_text,
    is_repair,
    repair_words,
    strongest,
)

AT = 2


def make(schedule: str = "", n_layers: int = 5, word: str = " Paris") -> Attribution:
    engine = FakeEngine(n_layers)
    return attribution(engine.info, TakeAttribution("one two", schedule, 7), engine.tokenize("one two"), {7: word})


def edited(own: float, others: float, scale: float) -> Attribution:
    """Layer 1 is dropped at a cost of `own`; all others of attention at AT change by `others`, the scale by `scale`."""
    found = make("drop 1")
    base = replace(found.baseline, attn=np.zeros_like(found.baseline.attn), mlp=np.zeros_like(found.baseline.mlp))
    base.attn[2, AT] = -own
    attn, mlp = np.zeros_like(found.attn), np.zeros_like(found.mlp)
    attn[-1, AT] = others
    logit = base.logit + own + others + scale
    return replace(found, attn=attn, mlp=mlp, logit=logit, scale=np.full_like(logit, scale), baseline=base)


def test_json_has_every_number_and_they_add_up() -> None:
    found = make("drop 1; swap 2 3")
    data = json.loads(json.dumps(attribution_json(found, AT - len(found.tokens)), allow_nan=False))
    assert data["schema"] == "attribution/1" and data["position"] == AT
    assert data["tracked"] == {"id": 7, "text": " Paris"}
    parts = ("constant", "embedding", "attn", "mlp", "scale", "rest")
    for run in (data, data["baseline"]):
        assert sum(run[name] for name in parts) == pytest.approx(run["logit"])
    change = data["change"]
    assert change["own"] + change["others"] + change["scale"] == pytest.approx(change["logit"])
    assert change["others"] + change["scale"] == pytest.approx(change["self_repair"])
    assert [depth["layer"] for depth in data["depths"]] == [None, 0, 3, 2, 4]
    assert data["depths"][0]["attn"] is None and data["depths"][2]["mlp"] == found.mlp[2, AT]
    for layer, row in enumerate(data["layers"]):
        assert [row["attn"], row["mlp"]] == found.by_layer()[layer, :, AT].tolist()
        assert [row["change"]["attn"], row["change"]["mlp"]] == found.changes()[layer, :, AT].tolist()
        assert [row["edited"]["attn"], row["edited"]["mlp"]] == found.edited[layer, :, AT].tolist() == [layer == 1] * 2
    plain = attribution_json(make(), AT)
    assert plain["baseline"] is plain["change"] is plain["layers"][0]["change"] is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((-2.0, 0.5, 0.25), "self-repair +0.75 undoes 38 % of the -2.00 of the edit: +0.50 by other sublayers, +0.25"),
        ((1.0, -0.5, -0.75), "no self-repair: +1.00 by the edit itself, -1.25 by what follows"),  # nothing was taken
        ((-1.0, 1.5, 0.0), "no self-repair: -1.00 by the edit itself, +1.50 by what follows"),  # more than was taken
        ((-1.0, -0.5, 0.0), "no self-repair: -1.00 by the edit itself, -0.50 by what follows: -0.50 by other"),
        ((0.001, 0.5, 0.0), "the edit changes nothing by itself; what follows: +0.50 by other sublayers"),
    ],
)
def test_self_repair_in_words(given: tuple[float, float, float], told: str) -> None:
    found = edited(*given)
    words = repair_words(found, AT)
    assert not is_repair(replace(found, schedule="swap 0 1"), AT)  # takes nothing away
    assert words.startswith(told) and words in printed(attribution_text(found, AT, 80), 80)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_text_fits_and_shows_both_runs(width: int) -> None:
    for schedule, titles in (("", "layer attention MLP both"), ("drop 1", "layer attention change MLP change change")):
        found = make(schedule)
        parts = attribution_text(found, AT, width)
        lines = printed([part for part in parts if hasattr(part, "columns")], width).splitlines()
        assert all(cell_len(line) <= width and "…" not in line for line in lines)
        table = lines[-6:]
        assert " ".join(table[0].split()) == titles
        assert [line.split()[0] for line in table[1:]] == ["4", "3", "2", "1", "0"]
        assert all("│" in line for line in table[1:])
        text = printed(parts, width)
        assert "logit of “·Paris” at position 2" in text and f"{found.logit[AT]:+.2f}" in text
        for told in ("baseline", "* changed by the edit", "largest changes"):
            assert (told in text) == bool(schedule)
        assert (lines[-2].count("*") == 2) == bool(schedule)  # layer 1 is the last but one


def test_a_bar_goes_left_for_what_is_lost() -> None:
    lines = printed(attribution_text(edited(-2.0, 1.0, 0.0), AT, 80), 80).splitlines()
    lost, won = (next(line for line in lines if line.split()[:1] == [layer]) for layer in "14")
    assert "━│" in lost and "│━" in won and lost.index("│") == won.index("│")
    assert 1.8 < lost.count("━") / won.count("━") < 2.2


def test_what_cannot_be_seen_is_not_named_and_hostile_tokens_are_harmless() -> None:
    assert strongest(np.array([[0.0, 0.004], [-3.0, 2.0]])) == [(1, 0), (1, 1)]
    hostile = "\x1b]52;c;aGk=\x07[/]\u202e"
    found = make("drop 1", word=hostile)
    found = replace(found, tokens=(Token(1, hostile), *found.tokens[1:]), schedule=hostile)
    assert not HARMFUL.search(printed(attribution_text(found, 0, 80), 80))
