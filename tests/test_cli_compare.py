"""compare as a user meets it: JSON, text, exit codes; two models. On tiny ones."""

from __future__ import annotations

import json

import pytest
import tiny_models

from stagescope.commands import compare
from stagescope.engine import averages, comparison
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import Load, Read, TakeComparison
from stagescope.reports.compare import comparison_numbers

PROMPT, OTHER = "the quick brown fox", "the quick crown box"  # as many tokens


@pytest.mark.usefixtures("home")
def test_two_schedules_as_json_text_and_numbers(stagescope, llama_dir):
    words = ("compare", PROMPT, "--edit", "drop 2", "--with-edit", "swap 3 4")
    ran = stagescope(*words, "--json", "--position", "3")
    made = json.loads(ran.out)
    assert (made["schema"], made["position"]) == ("comparison/1", 3)
    assert [made[side]["schedule"] for side in "ab"] == ["drop 2", "swap 3 4"]
    assert [pair["layers"] for pair in made["pairs"]][-2:] == [[[4], [3]], [[5], [5]]]
    assert made["pairs"][-1]["kl_nats"] == pytest.approx(made["output"]["kl_nats"], rel=1e-4, abs=1e-6)
    shown = stagescope(*words, "--position", "3").out  # from the cache
    assert "swap 3 4" in shown and f"KL(A||B) {made['output']['kl_nats'][3]:.3g} nats" in shown

    engine = LocalEngine()
    for _ in engine.answer(Load(str(llama_dir), device="cpu")):
        pass
    *_, found = engine.answer(TakeComparison(Read(PROMPT, "drop 2"), Read(PROMPT, "swap 3 4")))
    columns, rows = comparison_numbers(found)
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    n_tokens = len(found.a.tokens)
    last = [row for row in table if row["effect_kl_nats"] is not None]
    assert [row["effect_kl_nats"] for row in last] == pytest.approx(made["output"]["kl_nats"])
    assert sum(row["paired"] for row in table) == len(found.pairs) * n_tokens
    assert all(row["kl_nats"] is None for row in table if not row["paired"])
    assert {row["depth_b"] for row in table} >= set(range(7))


@pytest.mark.usefixtures("home")
def test_two_prompts_and_two_models(stagescope, llama_dir, tmp_path):
    made = json.loads(stagescope("compare", PROMPT, "--with-prompt", OTHER, "--json").out)
    assert [made[side]["prompt"] for side in "ab"] == [PROMPT, OTHER] and any(made["output"]["kl_nats"])
    short = tiny_models.build("llama", tmp_path / "short", num_hidden_layers=4)
    text = stagescope("compare", PROMPT, "--with-model", str(short)).out
    assert "4 layers" in text and "by relative depth" in text and "KL(A||B)" in text
    one = json.loads(stagescope("compare", PROMPT, "--with-model", str(short), "--json").out)
    assert [pair["depths"] for pair in one["pairs"]] == [[0, 0], [6, 4]]
    assert one["pairs"][-1]["resid_cos"] == [None] * len(one["a"]["tokens"])
    other = tiny_models.build("qwen2", tmp_path / "other")
    refused = stagescope("compare", PROMPT, "--with-model", str(other))
    assert refused.code == 2 and "320 tokens, the other 336" in refused.err and not refused.out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((PROMPT,), "compare with what"),
        ((PROMPT, "--edit", "swap 4 3", "--with-edit", "swap 3 4"), "stagescope read PROMPT --edit"),
        ((PROMPT, "--with-prompt", "the"), "tokens, the other"),
        ((PROMPT, "--with-edit", "drop 99"), "out of range"),
        ((PROMPT, "--with-edit", "drop"), "drop"),
        ((PROMPT, "--with-edit", "drop 1", "--position", "999"), "999"),
        (("-", "--with-prompt", "-"), "read once"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_compared_is_refused(stagescope, words, why):
    result = stagescope("compare", *words, "--json")
    assert result.code == 2 and why in result.err and not result.out


@pytest.mark.usefixtures("home")
def test_what_both_models_are_measured_for_is_shown_meanwhile(stagescope, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(compare.Progress, "show", lambda self, stage, done, left: shown.append((stage, done)))
    other = tiny_models.build("llama", tmp_path / "other", seed=5)
    ran = stagescope("compare", PROMPT, "--edit", "drop 2 mean", "--with-model", str(other))
    assert ran.code == 0
    assert shown.count((averages.STAGE, 0.0)) == 2  # one a model
    assert any(stage == comparison.STAGE for stage, _ in shown)
