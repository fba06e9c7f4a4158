"""Neurons reported: the contract's fields, the strongest ones as they fire, tables that stay within their width."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from readings import make_census, make_info
from rich.cells import cell_len
from rich.console import Console

from stagescope.engine import fake_findings
from stagescope.engine.protocol import ShowNeurons
from stagescope.engine.tokens import Token
from stagescope.reports.neurons import most_active, neurons_json, neurons_text

INFO = make_info(6, d_mlp=4)
TEXTS = {0: "<|endoftext|>", 7: " Paris", 8: "\\u{1b}]52;", 9: "漢字", 10: " the", 11: "\u00a0"}
TOKENS = (Token(0, TEXTS[0]), Token(7, TEXTS[7]), Token(9, TEXTS[9]))


def make(layer=None, tokens=TOKENS, **changes):
    """A census, and what the fake engine says of its strongest neurons."""
    found = fake_findings.neurons(INFO, ShowNeurons(layer, most=3, prompt="p"), tokens, TEXTS)
    return replace(make_census(6), **changes), found


def printed(*renderables, width=300) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    for line in renderables:
        console.print(line, no_wrap=True, overflow="ellipsis", crop=False)
    return console.export_text().splitlines()


def test_json_of_the_census_alone_is_the_contract_s():
    census, _ = make()
    made = neurons_json(census, INFO)
    assert set(made) == {"schema", "model", "orientation", "text", "null", "layers"} and made["schema"] == "neurons/1"
    assert made["null"] == {"directions": 256, "above": 0.0} and made["model"]["name"] == INFO.name
    fields = {"layer", "high_kurtosis", "prediction", "suppression", "unsigned", "partition_candidates", "of"}
    assert [set(row) for row in made["layers"]] == [fields] * 6
    assert [row["prediction"] for row in made["layers"]] == census.prediction.tolist()
    json.dumps(made, allow_nan=False)


def test_json_of_the_strongest():
    census, found = make()
    made = json.loads(json.dumps(neurons_json(census, INFO, found), allow_nan=False))
    assert [token["id"] for token in made["tokens"]] == [0, 7, 9] and len(made["strongest"]) == len(found.rows)
    for told, row, activation in zip(made["strongest"], found.rows, found.activation, strict=True):
        assert (told["layer"], told["index"], told["kind"], told["sign"]) == (row.layer, row.index, row.kind, 0)
        assert [token["id"] for token in told["promoted"]] == list(row.promoted)
        assert [token["cos"] for token in told["suppressed"]] == list(row.suppressed_cos)
        assert told["suppressed"][0]["text"] == TEXTS[row.suppressed[0]]
        np.testing.assert_allclose(told["activation"], activation)
    nowhere = replace(found, rows=(replace(found.rows[0], consistency=float("nan")),), activation=found.activation[:1])
    assert neurons_json(census, INFO, nowhere)["strongest"][0]["consistency"] is None


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_of_the_strongest_stay_within_their_width(width):
    census, found = make(layer=3)
    lines = printed(*neurons_text(census, found, width)[3:])
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    titles = [line for line in lines if line.startswith("strongest")]
    assert len(titles) == 4 and all(" of layer 3, by " in line for line in titles)
    assert sum(line.lstrip().startswith("3.") for line in lines) == len(found.rows)
    assert "\x1b" not in "".join(lines)


def test_a_neuron_that_fires_negative_is_shown_as_it_fires():
    census, found = make()
    row = replace(found.rows[0], layer=2, index=1)
    found = replace(found, rows=(row,), activation=np.array([[900.0, 0.5, -3.25]], np.float32))
    census.sign[2, 1] = -1
    assert "+3.25 at 2 漢字" in "\n".join(printed(*neurons_text(census, found, 120)))  # not the sink at position 0
    assert neurons_json(census, INFO, found)["strongest"][0] | {"sign": -1, "activation": [-900.0, -0.5, 3.25]} == (
        neurons_json(census, INFO, found)["strongest"][0]
    )
    assert most_active(np.array([5.0])) == 0


def test_without_a_prompt_no_activation_is_told_and_doubts_are():
    census, found = make(tokens=(), null_above=0.02)
    text = "\n".join(printed(*neurons_text(census, found, 120)))
    assert "most active" not in text and "null: 2.0 % of 256 random directions have kurtosis > 10" in text
    assert "degenerate" in text and "oriented on" in text
