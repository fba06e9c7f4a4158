"""attention, norms, lens, neurons, stages and paper as a user meets them: JSON, text, exit codes. On a tiny model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import tiny_models

PROMPT = "The Eiffel Tower is located in the city of Paris, and the Colosseum"
OTHER = "She was walking along the river while the evening light was fading"


def parsed(result: SimpleNamespace) -> dict:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_attention_follows_the_contract(stagescope) -> None:
    made = parsed(stagescope("attention", PROMPT, "--json"))
    assert made["schema"] == "attention/1" and len(made["layers"]) == tiny_models.N_LAYERS
    for layer in made["layers"]:
        assert 0 < layer["prev5_mean_weight"] < 1 and 0 < layer["sink_mass"] < 1 and layer["prev5_no_sink"] > 0
    assert made["subjoiner_heads"] is None  # this tokenizer has too few words of one token to compare with
    assert "layer" in stagescope("attention", PROMPT, "-k", "2").out


def test_norms_have_the_ratio_in_both_readings(stagescope) -> None:
    made = parsed(stagescope("norms", PROMPT, OTHER, "--json"))
    assert made["schema"] == "norms/1" and len(made["layers"]) == tiny_models.N_LAYERS
    assert stagescope("norms", PROMPT).code == 0


def test_lens_at_a_position_and_over_texts(stagescope, tmp_path) -> None:
    made = parsed(stagescope("lens", PROMPT, "--edit", "drop 2", "--position", "3", "--json"))
    assert made["schema"] == "lens/1" and len(made["depths"]) == tiny_models.N_LAYERS
    means = parsed(stagescope("lens", PROMPT, "--mean", "--json"))
    assert len(means["depths"]) == tiny_models.N_LAYERS + 1
    (tmp_path / "text").write_text(f"{PROMPT}\n{OTHER}\n" * 40)
    pooled = parsed(stagescope("lens", "--corpus", str(tmp_path / "text"), "--tokens", "100", "--json"))
    assert pooled["tokens_scored"] == 100
    several = stagescope("lens", PROMPT, "--follow", "Colosseum rivers")
    assert several.code == 2 and "one can be tracked" in several.err and not several.out


def test_neurons_with_the_strongest(stagescope, monkeypatch) -> None:
    made = parsed(stagescope("neurons", "--top", "2", "--layer", "4", PROMPT, "--no-bos", "--json"))
    assert made["schema"] == "neurons/1" and made["strongest"] and made["tokens"]
    assert {neuron["layer"] for neuron in made["strongest"]} == {4}
    assert "strongest" not in parsed(stagescope("neurons", "--json"))
    monkeypatch.setattr("stagescope.engine.load.load", lambda *_: pytest.fail("the weights were loaded"))
    assert parsed(stagescope("neurons", "--top", "2", "--layer", "4", PROMPT, "--no-bos", "--json")) == made
    monkeypatch.undo()
    missing = stagescope("neurons", "--top", "2", "--layer", "99")
    assert missing.code == 2 and "99" in missing.err


def test_stages_follow_the_contract_and_the_second_time_is_known(stagescope, monkeypatch) -> None:
    made = parsed(stagescope("stages", PROMPT, OTHER, "--no-bos", "--json"))
    assert made["schema"] == "stages/1" and len(made["stages"]) == 4
    for stage in made["stages"]:
        assert {"name", "first_layer", "last_layer", "visible", "evidence"} <= stage.keys()
        assert set(stage["first_layer"]) == {"value", "low", "high"}
    monkeypatch.setattr("stagescope.engine.load.load", lambda *_: pytest.fail("the weights were loaded"))
    again = parsed(stagescope("stages", PROMPT, OTHER, "--no-bos", "--json"))
    assert again["stages"] == made["stages"]
    assert "detokenization" in stagescope("stages", PROMPT, OTHER, "--no-bos").out


def test_standard_input_is_read_once_for_all_parts(stagescope, monkeypatch) -> None:
    import io

    text = f"{PROMPT}\n{OTHER}\n".encode() * 20
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False))
    made = parsed(stagescope("stages", "--corpus", "-", "--tokens", "60", "--window", "32", "--json"))
    assert (made["source"], made["documents"], made["tokens_scored"]) == ("standard input", 2, 60)


def test_paper_is_one_file_with_its_numbers_beside_it(stagescope, tmp_path) -> None:
    page = tmp_path / "report.html"
    result = stagescope("paper", PROMPT, OTHER, "--out", str(page))
    assert result.code == 0 and str(page) in result.out
    html = page.read_text("utf-8")
    assert html.count("<svg") >= 6 and all(f"Figure {number}" in html for number in range(3, 9))
    numbers = json.loads(page.with_suffix(".json").read_text("utf-8"))
    assert numbers["schema"] == "paper/1" and numbers["claims"]
    nowhere = stagescope("paper", PROMPT, "--out", str(tmp_path / "no" / "report.html"))
    assert nowhere.code == 1 and not nowhere.out


@pytest.mark.parametrize(
    "words",
    [
        ("stages", PROMPT, "--corpus", "x"),
        ("attention", PROMPT, PROMPT),
        ("lens", PROMPT, OTHER, "--follow", "a"),
        ("lens", "--edit", "drop 1"),
        ("norms", "--tokens", "5"),
        ("neurons", "--layer", "3"),
        ("attention", PROMPT, "-k", "3"),
        ("lens", ""),
    ],
)
def test_what_contradicts_itself_is_refused(stagescope, words) -> None:
    result = stagescope(*words)
    assert result.code == 2 and not result.out


def test_a_text_that_is_not_there(stagescope) -> None:
    for command in ("attention", "stages", "paper"):
        result = stagescope(command, "--corpus", "no such file", "--json")
        assert result.code == 3 and not result.out and "no such file" in result.err


def test_a_map_of_a_text_that_changed_meanwhile_is_not_kept(stagescope, tmp_path, monkeypatch) -> None:
    """Its parts are of two texts; the next time it is measured anew."""
    from stagescope.engine import cache, neurons
    from stagescope.engine.protocol import StageMap

    text, kept, census = tmp_path / "text", [], neurons.census
    text.write_text(f"{PROMPT}\n{OTHER}\n" * 10)
    put = cache.put
    monkeypatch.setattr(cache, "put", lambda name, message: (kept.append(type(message)), put(name, message))[1])

    def changed(*asked):
        text.write_text(OTHER * 3)
        yield from census(*asked)

    monkeypatch.setattr(neurons, "census", changed)
    words = ("stages", "--corpus", str(text), "--tokens", "40", "--bos", "t", "--json")
    parsed(stagescope(*words))
    assert kept and StageMap not in kept
    monkeypatch.setattr(neurons, "census", census)
    parsed(stagescope(*words))
    assert kept[-1] is StageMap
