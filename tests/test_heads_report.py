"""Sub-joiner heads and patterns as JSON and text: what is ranked, what is confirmed, 80 columns."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from stagescope.engine.fake import FakeEngine
from stagescope.engine.fake_causes import head_pattern, head_scores
from stagescope.engine.protocol import FindHeads, ShowPattern
from stagescope.engine.tokens import Token
from stagescope.reports.heads import (
    heads_json,
    heads_text,
    pattern_json,
    pattern_text,
    subjoiner_heads,
)


def printed(lines) -> list[str]:
    """As they would be with room to spare."""
    console = Console(width=1000, file=io.StringIO(), markup=False, highlight=False)
    for line in lines:
        console.print(line, no_wrap=True, crop=False)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def scores():
    """Six layers: 2.3 joins, 1.0 did so by chance, and layer 5 has no attention."""
    found = head_scores(FakeEngine(n_layers=6).info, FindHeads())
    found.score[1, 0], found.held[1, 0] = (0.5, 0.4, 0.6), (0.02, -0.05, 0.1)
    for values in (found.score, found.held, found.joined, found.control):
        values[5] = np.nan
    return found


def pattern_of(n_tokens: int, text: str = " a", schedule: str = ""):
    tokens = tuple(Token(number, text) for number in range(n_tokens))
    return head_pattern(FakeEngine(n_layers=6).info, ShowPattern("x", 3, 1, schedule), tokens)


def test_all_heads_are_told_in_order_of_their_scores(scores) -> None:
    data = json.loads(json.dumps(heads_json(scores), allow_nan=False))
    assert data["schema"] == "heads/1" and data["model"]["n_layers"] == 6 and data["pieces"] == 3
    assert (data["words"], data["held_words"]) == (120, 60) and data["examples"][0] == ["ent", "angle", "ment"]
    heads, n_heads = data["heads"], scores.model.n_heads
    assert len({(one["layer"], one["head"]) for one in heads}) == 6 * n_heads
    values = [one["score"] for one in heads[: 5 * n_heads]]
    assert values == sorted(values, reverse=True) and {one["layer"] for one in heads[5 * n_heads :]} == {5}
    first, second = heads[:2]
    assert (first["layer"], first["head"], first["confirmed"]) == (2, n_heads - 1, True)
    assert first["low"] < first["score"] < first["high"]
    assert first["joined"] - first["control"] == pytest.approx(first["score"])
    assert first["held_low"] < first["held"] < first["held_high"]
    assert (second["layer"], second["head"], second["confirmed"]) == (1, 0, False)
    assert heads[-1]["score"] is None and heads[-1]["confirmed"] is False
    assert subjoiner_heads(scores, 2) == [{key: one[key] for key in ("layer", "head", "score")} for one in heads[:2]]
    assert len(subjoiner_heads(scores, 10_000)) == 5 * n_heads


def test_the_table_says_which_hold_and_how_it_was_measured(scores) -> None:
    told = printed(heads_text(scores, 80))
    title = next(at for at, line in enumerate(told) if line.startswith("head "))
    assert told[title + 1].startswith(f"2.{scores.model.n_heads - 1} ") and told[title + 1].endswith("yes")
    assert told[title + 2].startswith("1.0 ") and told[title + 2].endswith("no")
    assert any("120 words of 3 tokens searched, 60 held out" in line for line in told)
    assert any("2 tokens back" in line for line in told) and any("ent|angle|ment" in line for line in told)
    assert not any("only" in line for line in told) and "nan" not in "".join(told).lower()
    assert any("only 24 words" in line for line in printed(heads_text(replace(scores, words=24))))


def test_text_fits_80_columns_and_harms_no_terminal(scores) -> None:
    word = (" \x1b[2Jvery", "\u202elong", "word" * 20)
    hostile = replace(scores, source="a/folder/" * 20 + "\x1b[2J", examples=(word,) * 9)
    hostile.score[:2] *= -1
    edited = pattern_of(5, "\x1b]52;" + "字" * 9, "drop 2")
    for lines in (heads_text(hostile, 80), pattern_text(edited, 80), pattern_text(pattern_of(400), 80)):
        told = printed(lines)
        assert max(map(len, told)) <= 80, max(told, key=len)
        assert "\x1b" not in "".join(told) and "\u202e" not in "".join(told)


# ----------------------------------------------------------------------------------------------- one pattern


def test_a_pattern_is_told_whole() -> None:
    data = json.loads(json.dumps(pattern_json(pattern_of(7, schedule="drop 2")), allow_nan=False))
    assert data["schema"] == "pattern/1" and (data["layer"], data["head"], data["schedule"]) == (3, 1, "drop 2")
    np.testing.assert_allclose(np.sum(data["pattern"], -1), 1, atol=1e-6)
    assert len(data["tokens"]) == len(data["pattern"]) == 7 and data["pattern"][2][3] == 0


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_short_prompt_is_a_grid_of_shades(ascii_only: bool) -> None:
    pattern = pattern_of(4)
    pattern.pattern[:] = [[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.5, 0.25, 0.25, 0], [0.02, 0.03, 0.95, 0]]
    told = printed(pattern_text(pattern, 80, ascii_only))
    rows = [line.split()[2:] for line in told if line[:1].isdigit()]
    shades = ".:=#@" if ascii_only else "·░▒▓█"
    expected = ["4", "41", "322", "0040"]
    assert rows == [[shades[int(step)] for step in row] for row in expected]
    assert not ascii_only or "".join(told[1:]).isascii()
    last = next(at for at, line in enumerate(told) if line.startswith("from the last token"))
    keys = [line.split()[:2] for line in told[last + 1 :]]
    assert keys == [[".950", "2"], [".030", "1"], [".020", "0"], [".0000", "3"]]


def test_a_long_prompt_is_the_last_token_alone() -> None:
    pattern = pattern_of(400)
    told = printed(pattern_text(pattern, 80))
    last = next(at for at, line in enumerate(told) if line.startswith("from the last token, 399"))
    assert any("too many for a grid" in line for line in told) and len(told[last + 1 :]) == 8
    assert int(told[last + 1].split()[1]) == pattern.pattern[-1].argmax()
