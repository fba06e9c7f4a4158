"""generate, and sweep --generate, as a user meets them: text, JSON, exit codes. On tiny models and the default one."""

from __future__ import annotations

import json
import sys

import pexpect
import pytest

from stagescope.engine import load
from stagescope.reports.generation import flowing, folded

PROMPT = "the quick brown fox"


@pytest.mark.usefixtures("home")
def test_two_texts_as_json_and_as_a_table(stagescope):
    words = ("generate", PROMPT, "--edit", "drop 2", "--tokens", "6")
    ran = stagescope(*words, "--json")
    made = json.loads(ran.out)
    assert made["schema"] == "generation/1" and made["complete"] and made["max_tokens"] == 6
    assert made["sampling"] == {"temperature": 0.0, "top_k": None, "top_p": None, "seed": 0}
    baseline, edit = made["texts"]
    assert (baseline["schedule"], edit["schedule"]) == ("", "drop 2")
    ids = [[step["id"] for step in text["steps"]] for text in (baseline, edit)]
    apart = next((at for at, (a, b) in enumerate(zip(*ids, strict=True)) if a != b), None)
    assert edit["parts_at"] == apart is not None  # this drop changes the text
    assert edit["kl_nats_mean"] == pytest.approx(sum(step["kl_nats"] for step in edit["steps"]) / len(edit["steps"]))
    assert [step["kl_nats"] for step in baseline["steps"]] == [0] * len(ids[0])

    shown = stagescope(*words).out  # from the cache
    assert f"parts from the baseline at step {apart}" in shown or (apart == 0 and "at the first step" in shown)
    assert flowing(edit["text"])[:20] in shown and f"KL mean {edit['kl_nats_mean']:.3g} nats" in shown
    assert sum(line.strip()[:2].strip().isdigit() for line in shown.splitlines()) == 6
    alone = stagescope("generate", PROMPT, "--tokens", "3").out
    assert "KL mean" not in alone and "baseline" in alone


@pytest.mark.usefixtures("home")
def test_several_edits_stand_below_each_other_and_a_seed_draws_the_same(stagescope):
    words = ("generate", PROMPT, "--edit", "drop 2", "--edit", "swap 3 4", "--temperature", "0.9", "--top-k", "40", "--seed", "3")
    one, again = (stagescope(*words, "--tokens", "5", "--no-cache").out for _ in range(2))
    assert one == again and "temperature 0.9, top-k 40, seed 3, up to 5 tokens" in one
    assert [line.split()[0] for line in one.splitlines()[-3:]] == ["baseline", "drop", "swap"]


@pytest.mark.usefixtures("home")
def test_every_schedule_of_a_sweep_is_continued(stagescope, monkeypatch):
    words = ("sweep", PROMPT, "the cat sat", "--no-bos", "--kind", "drop", "--generate", "4")  # its prefix is known without weights
    made = json.loads(stagescope(*words, "--json").out)
    assert [one["prompt"] for one in made["generations"]] == [PROMPT, "the cat sat"]
    assert [text["schedule"] for text in made["generations"][0]["texts"]] == ["", *(f"drop {layer}" for layer in range(6))]
    alone = json.loads(stagescope("generate", PROMPT, "--no-bos", "--edit", "drop 4", "--tokens", "4", "--json").out)
    of_sweep = made["generations"][0]["texts"][5]
    assert [step["id"] for step in of_sweep["steps"]] == [step["id"] for step in alone["texts"][1]["steps"]]
    monkeypatch.setattr(load, "load", None)  # the cache needs no weights
    shown = stagescope(*words).out
    assert shown.count("greedy, up to 4 tokens") == 2 and shown.count("KL forced") == 2
    assert "generations" not in json.loads(stagescope(*words[:-2], "--json").out)
    assert "drop 4" in stagescope("generate", PROMPT, "--no-bos", "--edit", "drop 4", "--tokens", "4").out


@pytest.mark.usefixtures("home")
def test_a_schedule_that_a_prompt_has_no_place_for_is_marked_and_the_rest_continued(stagescope, tmp_path):
    (tmp_path / "schedules").write_text("drop 1 @12\ndrop 2\n")
    words = ("sweep", PROMPT, "the", "--schedules", str(tmp_path / "schedules"), "--generate", "2", "--json")
    ran = stagescope(*words)
    of = {one["prompt"]: [text["schedule"] for text in one["texts"]] for one in json.loads(ran.out)["generations"]}
    assert ran.code == 0 and of == {PROMPT: ["", "drop 1 @12", "drop 2"], "the": ["", "drop 2"]} and "position 12" in ran.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("",), "the prompt is empty"),
        ((PROMPT, "--tokens", "0"), "0 tokens cannot be written"),
        ((PROMPT, "--edit", "drop 99"), "out of range"),
        ((PROMPT, "--top-k", "5"), "nothing is drawn at temperature 0"),
        ((PROMPT, "--temperature", "nan"), "the temperature cannot be nan"),
        ((PROMPT, "--temperature", "1e-39"), "the temperature cannot be 1e-39"),
        ((PROMPT, "--temperature", "-1"), "the temperature cannot be -1"),
        ((PROMPT, "--temperature", "1", "--top-p", "2"), "top-p cannot be 2.0"),
        ((PROMPT, "--temperature", "1", "--seed", "-3"), "the seed cannot be -3"),
        ((PROMPT, "--tokens", "many"), "invalid int value"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:40],
)
@pytest.mark.usefixtures("home")
def test_what_cannot_be_written_is_refused_with_exit_2(stagescope, words, why):
    ran = stagescope("generate", *words, "--json")
    assert ran.code == 2 and why in ran.err and not ran.out


@pytest.mark.usefixtures("home")
def test_beyond_the_window_is_refused_with_the_count(stagescope):
    ran = stagescope("generate", PROMPT, "--tokens", "120", "--json")
    assert ran.code == 1 and "120 more were asked for" in ran.err and "reads at most 128" in ran.err and not ran.out


@pytest.mark.parametrize(("more", "why"), [(("--csv",), "not with --csv"), (("--generate", "0"), "above 0")])
def test_generate_of_a_sweep_contradicts(stagescope, more, why):
    ran = stagescope("sweep", PROMPT, "--generate", "3", *more)
    assert ran.code == 2 and why in ran.err


def test_in_a_terminal_steps_are_printed_as_they_come(default_model_dir, tmp_path):
    words = ["-m", "stagescope", "generate", "The capital of France is", "--edit", "drop 14", "--tokens", "5", "--no-cache"]
    child = pexpect.spawn(sys.executable, words, dimensions=(40, 100), encoding="utf-8", timeout=180)
    for step in range(5):  # each before the texts whole, in order
        child.expect(rf"\n +{step}  ")
    child.expect("parts from the baseline|word for word")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_long_texts_are_folded_by_cells():
    assert folded("日本語abc", 4) == ["日本", "語ab", "c"] and folded("", 5) == [""]
    assert flowing("a\nb\x1b") == "a⏎b\\u{1b}" and flowing("a \né", True) == "a \\n\\u{e9}"
