"""A map of the stages as JSON, the contract of the command line, and as text for people."""

import json
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from stagescope.engine import fake_findings
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Signal, StageMap, Texts
from stagescope.reports.stages import band, stages_json, stages_text


def make_map(n_layers: int = 30, texts: Texts = Texts()) -> StageMap:
    """Stages 1, 3 and 4 are visible, 2 is not."""
    return fake_findings.stage_map(FakeEngine(n_layers).info, texts)


def test_json_is_the_contract():
    made = make_map()
    unknown = Signal("lens_kl", "lens KL, nats", None, math.nan, math.nan, math.nan, 0.3, False)
    made = replace(made, stages=(*made.stages[:3], replace(made.stages[3], evidence=(unknown,))))
    data = json.loads(json.dumps(stages_json(made, made.model), allow_nan=False))
    assert data["schema"] == "stages/1" and data["model"]["fingerprint"] == made.model.fingerprint
    assert (data["source"], data["documents"], data["tokens_scored"]) == ("the standard text", 16, 320)
    first, second, third, fourth = data["stages"]
    assert third["first_layer"] == {"value": 15, "low": 14, "high": 16} and third["last_layer"] == 26
    assert third["name"] == "prediction ensembling" and third["visible"] is True and third["why"]
    assert third["evidence"]["near_attention"] == {
        "title": "attention to the 5 tokens before", "first": 3, "before": 0.2, "after": 0.1, "explained": 0.8,
        "needed": 0.3, "agrees": True,
    }  # fmt: skip
    assert second["visible"] is False
    assert second["first_layer"] == {"value": None, "low": None, "high": None} and second["last_layer"] is None
    assert fourth["evidence"]["lens_kl"]["before"] is None and fourth["evidence"]["lens_kl"]["first"] is None
    assert len(data["curves"]["near_attention"]) == 30
    assert set(first) == {"name", "first_layer", "last_layer", "visible", "why", "evidence"}


def test_layers_of_no_stage_are_hatched():
    assert band(make_map(12), 12) == "1░░░░░333334"
    assert band(make_map(12), 12, ascii_only=True) == "1?????333334"
    assert band(None, 3) == "░░░"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("n_layers", [12, 100])
def test_text_fits_and_says_what_it_is(width, n_layers):
    made = make_map(n_layers)
    signal = Signal("x", "a title longer than any column is" * 3, 99, 1.2345e-5, 9.8765e-5, 0.5, 0.1, False)
    hostile = replace(made.stages[1], why="\x1b]52;c;AAAA\x07 nothing " * 9, evidence=(signal,))
    made = replace(made, stages=(made.stages[0], hostile, *made.stages[2:]))
    lines = [line.plain for line in stages_text(made, width)]
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)
    text = " ".join(lines)
    assert "not visible in this model" in text and made.rule in text and "16 documents, 320" in text
    drawn = "".join(line.removeprefix("stage   ") for line in lines if line.startswith("stage   "))
    assert drawn == band(made, n_layers)  # folded where it is longer than a line
    if width >= 80:
        assert any(line.endswith("  no") for line in lines) and any(line.endswith("  yes") for line in lines)


def test_one_prompt_has_no_interval():
    one = make_map(12, Texts(("a prompt",)))
    assert "no interval" in " ".join(line.plain for line in stages_text(one))
    assert stages_json(one, one.model)["stages"][2]["first_layer"] == {"value": 6, "low": None, "high": None}
