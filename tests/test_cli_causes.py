"""attribution, heads, probe and similarity as a user meets them: JSON, text, exit codes. On a tiny model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

PROMPT = "The Eiffel Tower is located in the city of Paris, and the Colosseum"
OTHER = "She was walking along the river while the evening light was fading"


def parsed(result: SimpleNamespace) -> dict:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_attribution_of_an_edit(stagescope):
    made = parsed(stagescope("attribution", PROMPT, "--edit", "drop 2", "--position", "3", "--json"))
    assert made["schema"] == "attribution/1" and made["schedule"] == "drop 2"
    assert "logit" in stagescope("attribution", PROMPT).out
    beyond = stagescope("attribution", PROMPT, "--position", "9999")
    assert beyond.code == 2 and "9999" in beyond.err and not beyond.out
    assert stagescope("attribution", PROMPT, "--edit", "drop 99", "--json").code == 2


def test_similarity_of_prompts_and_of_the_standard_text(stagescope):
    made = parsed(stagescope("similarity", PROMPT, OTHER, "--json"))
    assert made["schema"] == "similarity/1" and made["documents"] == 2
    assert "influence" in stagescope("similarity", PROMPT).out


def test_one_heads_pattern_and_the_search(stagescope, tmp_path):
    made = parsed(stagescope("heads", PROMPT, "--head", "1.3", "--json"))
    assert (made["layer"], made["head"]) == (1, 3)
    assert all(abs(sum(row) - 1) < 1e-4 for row in made["pattern"])
    missing = stagescope("heads", PROMPT, "--head", "1.99")
    assert missing.code == 2 and "99" in missing.err and not missing.out
    (tmp_path / "short").write_text(PROMPT)
    few = stagescope("heads", "--corpus", str(tmp_path / "short"))
    assert few.code == 2 and "words" in few.err
    assert stagescope("heads", "--corpus", str(tmp_path / "none")).code == 3


def test_a_probe_of_too_little_says_so(stagescope, tmp_path):
    (tmp_path / "short").write_text(f"{PROMPT}\n{OTHER}\n")
    few = stagescope("probe", "--corpus", str(tmp_path / "short"), "--json")
    assert few.code == 2 and not few.out


@pytest.mark.parametrize(
    "words",
    [
        ("heads", PROMPT),
        ("heads", "--head", "1.2"),
        ("heads", PROMPT, "--head", "one"),
        ("heads", "--edit", "drop 1"),
        ("heads", PROMPT, "--head", "1.2", "--corpus", "x"),
        ("probe", "--suffix", ""),
        ("similarity", PROMPT, PROMPT),
        ("similarity", PROMPT, "--corpus", "x"),
        ("attribution",),
    ],
    ids=" ".join,
)
def test_what_contradicts_itself_is_refused(stagescope, words):
    result = stagescope(*words)
    assert result.code == 2 and result.err and not result.out
