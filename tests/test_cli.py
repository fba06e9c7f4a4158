"""The command line as a user meets it: text, JSON, exit codes. In this process, on the default model."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import torch
from transformers import AutoModelForCausalLM

from stagescope import cli
from stagescope.commands import parsers
from stagescope.commands import plain as commands

PROMPT = "The Eiffel Tower is located in the city of"


pytestmark = pytest.mark.usefixtures("default_model_dir")


def stagescope(capsys, *words: str) -> SimpleNamespace:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--device", "cpu"] if words[:1] == ("read",) and "--device" not in words else list(words))
    out, err = capsys.readouterr()
    return SimpleNamespace(code=ended.value.code or 0, out=out, err=err)


def test_read_as_json_follows_the_contract(capsys, default_model_dir) -> None:
    result = stagescope(capsys, "read", PROMPT, "--edit", "DROP 11; swap 21,20", "--json", "--top", "3")
    assert result.code == 0
    reading = json.loads(result.out)
    assert list(reading)[:8] == [
        *("schema", "model", "prompt", "tokens", "schedule", "lens", "depths", "against_baseline")
    ]
    assert reading["schema"] == "reading/1" and reading["schedule"] == "drop 11; swap 20 21"
    assert reading["tokens"][0] == {"id": 0, "text": "<|endoftext|>"} and reading["tokens"][-1]["text"] == " of"
    assert set(reading["model"]) == {
        *("name", "source", "architecture", "n_layers", "d_model", "d_mlp", "n_heads", "d_vocab"),
        *("dtype", "device", "fingerprint"),
    }
    depths, n_tokens = reading["depths"], len(reading["tokens"])
    assert [d["layer"] for d in depths] == [None, *range(11), *range(12, 20), 21, 20, *range(22, 30)]
    assert [d["depth"] for d in depths] == list(range(30))
    for depth in depths:
        assert len(depth["entropy_bits"]) == len(depth["top"]) == len(depth["attn_norm"]) == n_tokens
        assert all(len(top) == 3 for top in depth["top"])
    assert depths[0]["attn_norm"] == [None] * n_tokens
    assert depths[20]["layer"] == 21 and depths[20]["vs_baseline"] is None  # 21 has run, 20 is still to come
    assert depths[21]["vs_baseline"]["baseline_depth"] == 22
    effect = reading["against_baseline"]
    assert effect["top1_same"][-1] in (True, False) and len(effect["entropy_change_bits"]) == n_tokens

    model = AutoModelForCausalLM.from_pretrained(default_model_dir, attn_implementation="eager").eval()
    ids = torch.tensor([token["id"] for token in reading["tokens"]])
    order = [reference.Place(d["layer"]) for d in depths[1:]]
    theirs, base = reference.run(model, ids, order), reference.run(model, ids)
    lens = [reference.lens(model, x) for x in theirs.residuals]
    base_final = reference.lens(model, base.residuals[-1])
    close = lambda ours, other: np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-4)  # noqa: E731
    for depth, logp in zip(depths, lens, strict=True):
        close(depth["entropy_bits"], reference.entropy_bits(logp))
        close(depth["kl_final_nats"], reference.kl_nats(lens[-1], logp))
    for depth, attn, mlp in zip(depths[1:], theirs.attn, theirs.mlp, strict=True):
        close(depth["attn_norm"], attn.norm(dim=-1))
        close(depth["mlp_norm"], mlp.norm(dim=-1))
    close(effect["kl_nats"], reference.kl_nats(base_final, lens[-1]))


def test_the_baseline_says_paris(capsys) -> None:
    reading = json.loads(stagescope(capsys, "read", PROMPT, "--json").out)
    top = reading["depths"][-1]["top"][-1][0]
    assert top["text"] == " Paris" and top["p"] == pytest.approx(0.753, abs=0.001)
    assert reading["against_baseline"]["kl_nats"] == [0.0] * 11
    assert reading["against_baseline"]["top1_same"] == [True] * 11
    # depth 0 echoes the input token and looks certain
    assert reading["depths"][0]["top"][-1][0]["text"] == " of"


def test_a_second_read_comes_from_the_cache_and_says_the_same(capsys, monkeypatch) -> None:
    first = stagescope(capsys, "read", PROMPT, "--edit", "drop 5", "--json")
    from stagescope.engine import load

    monkeypatch.setattr(load, "load", lambda *_: pytest.fail("the weights were loaded"))
    second = stagescope(capsys, "read", PROMPT, "--edit", "DROP 5", "--json")
    assert second.code == 0 and json.loads(second.out) == json.loads(first.out)


def test_plain_text_and_stdin(capsys, monkeypatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(PROMPT.encode() + b"\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    result = stagescope(capsys, "read", "-", "--edit", "drop 11", "--no-cache")
    assert result.code == 0 and result.err == ""
    assert "[·of]" in result.out and "top-1 kept" in result.out and "edit    drop 11" in result.out


def test_a_token_is_followed_through_the_depths(capsys) -> None:
    made = json.loads(stagescope(capsys, "read", PROMPT, "--track", "London", "--json").out)
    assert {token["text"] for token in made["tracked"]} == {" London"}
    last = made["depths"][-1]
    assert 1 < last["tracked_rank"][-1] < 1000 and 0 < last["tracked_p"][-1] < last["top"][-1][0]["p"]
    baseline = json.loads(stagescope(capsys, "read", PROMPT, "--json").out)
    assert [token["id"] for token in baseline["tracked"]] == [top[0]["id"] for top in baseline["depths"][-1]["top"]]
    assert set(baseline["depths"][-1]["tracked_rank"]) == {1.0}
    told = stagescope(capsys, "read", PROMPT, "--track", "London").out
    (line,) = [line for line in told.splitlines() if line.split()[:1] == ["29"]]
    assert "follow  ·London, its rank and p" in told and f" {last['tracked_rank'][-1]:.0f} " in line
    by_id = json.loads(stagescope(capsys, "read", PROMPT, "--track-id", str(made["tracked"][0]["id"]), "--json").out)
    assert by_id["tracked"] == made["tracked"] and by_id["depths"][-1]["tracked_p"] == last["tracked_p"]
    assert "rank" not in stagescope(capsys, "read", PROMPT).out


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["read", "x", "--track", "two words"], 2, "“two words” is"),
        (["read", "x", "--track", ""], 2, "names no token"),
        (["read", "x", "--track-id", "99999999"], 2, "there is no token 99999999"),
        (["read", "x", "--track-id", "7", "--track", "a"], 2, "not allowed with"),
        (["read", ""], 2, "the prompt is empty"),
        (["read", "x", "--edit", "drop 99"], 2, "layer 99 is out of range"),
        (["read", "x", "--edit", "drop 3; drop 3"], 2, "dropped"),
        (["read", "x", "--edit", "swap 3 3"], 2, "two different layers"),
        (["read", "x", "--edit", "dorp 3"], 2, "did you mean drop"),
        (["read", "x", "--position", "7"], 2, "there is no position 7"),
        (["read", "x", "--top", "0"], 2, "whole number above 0"),
        (["read", "x\udcff"], 2, r"\xff"),
        (["read", "word " * 9000], 1, "9002 tokens"),
        (["read", "x", "--device", "cuda:77", "--no-cache"], 2, "cuda:77"),
        (["read", "x", "--bos", "two words", "--no-cache"], 2, "2 tokens"),
        (["read", "x", "--model", "gpt22"], 3, "gpt2"),
        (["read", "x", "--model", "/no/such/place"], 3, "/no/such/place"),
        (["models", "info", "nothing-like-it"], 3, "nothing-like-it"),
        (["read"], 2, "PROMPT"),
    ],
)
def test_each_mistake_is_one_clear_sentence(capsys, words: list[str], code: int, said: str) -> None:
    result = stagescope(capsys, *words, *(["--json"] if words[0] == "read" else []))
    assert (result.code, result.out) == (code, "")
    assert said in result.err and "Traceback" not in result.err


def test_a_first_word_that_is_a_command_is_one_and_after_two_dashes_it_is_not() -> None:
    assert cli.split(["read", "x"]) == ("read", ["x"])
    assert cli.split(["--model", "read", "read", "x"]) == ("read", ["--model", "read", "x"])
    assert cli.split(["--quiet", "where"]) == ("where", ["--quiet"])
    assert cli.split(["--", "read"]) == (None, ["--", "read"])
    assert cli.split(["hello", "read"]) == (None, ["hello", "read"])
    assert parsers.app_parser().parse_args(["--", "read"]).prompt == "read"


def test_without_a_terminal_the_app_gives_way_to_the_report(capsys, default_model_dir) -> None:
    result = stagescope(capsys)
    assert result.code == 0 and "Paris" in result.out and "not a terminal" in result.err


def test_a_dumb_terminal_is_told_what_to_use(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("TERM", "dumb")
    result = stagescope(capsys, "hello")
    assert result.code == 2 and "stagescope read" in result.err
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdin", None)
    assert stagescope(capsys, "hello").code == 2


def test_where_models_doctor(capsys, default_model_dir) -> None:
    places = json.loads(stagescope(capsys, "where", "--json").out)
    assert set(places) == {"schema", "cache", "data", "logs", "config", "settings"}
    models = json.loads(stagescope(capsys, "models", "--json").out)
    assert {"gpt2", "smollm2-135m"} <= {model["name"] for model in models["models"]}
    info = json.loads(stagescope(capsys, "models", "info", str(default_model_dir), "--json").out)
    assert (info["n_layers"], info["d_model"], info["norm"]) == (30, 576, "rms")
    found = json.loads(stagescope(capsys, "doctor", "--json").out)
    assert {"torch", "device", "threads", "terminal"} <= {finding["what"] for finding in found["findings"]}


def test_surprises_are_one_line_and_a_log(capsys, monkeypatch) -> None:
    def broken(_args):
        raise RuntimeError("boom \x1b[31m")

    monkeypatch.setattr(commands, "where", broken)
    result = stagescope(capsys, "where")
    assert result.code == 1 and "boom \\u{1b}[31m" in result.err and "Traceback" not in result.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from stagescope import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit([m for m in ('torch', 'textual', 'numpy', 'transformers', 'rich') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_interrupted_is_130(capsys, monkeypatch) -> None:
    def interrupted(_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "where", interrupted)
    assert stagescope(capsys, "where").code == 130


def test_tokens_are_printed_harmless(capsys) -> None:
    result = stagescope(capsys, "read", "a\x1b]52;c;AAAA\x07b \u202e[/]", "--json", "--top", "1")
    assert result.code == 0
    reading = json.loads(result.out)
    assert all("\x1b" not in token["text"] and "\u202e" not in token["text"] for token in reading["tokens"])
    plain = stagescope(capsys, "read", "a\x1b]52;c;AAAA\x07b \u202e[/]")
    assert "\x1b" not in plain.out and "\u202e" not in plain.out
