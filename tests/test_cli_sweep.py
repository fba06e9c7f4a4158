"""`stagescope sweep` as a user meets it: what it asks of the engine, what it prints, what it refuses.

The engine is a stand-in with the sweeps of tests/sweeps.py, so no model is needed.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from readings import make_info
from sweeps import make_corpus, make_sweep

from stagescope import cli
from stagescope.engine import local
from stagescope.engine.kinds import KINDS
from stagescope.engine.protocol import EngineError, FindToken, Load, Progress, SweepCorpus, TakeSweep
from stagescope.engine.tokens import Token

L = 6


class StandIn:
    """An engine that has every answer ready. `asked`: the requests, in order."""

    def __init__(self, *, answers=(), cached=(), light=True, parallel=False):
        self.answers, self.cached, self.parallel = answers, cached, parallel
        self.info, self.tokenizer, self.asked, self.loaded = None, object() if light else None, [], False

    def answer(self, request):
        self.asked.append(request)
        if isinstance(request, Load):
            yield Progress("reading weights", 0.5)
            self.info = make_info(L, parallel=self.parallel, loaded=False)
            yield self.info
            self.loaded, self.tokenizer = True, object()
            yield make_info(L, parallel=self.parallel, loaded=True)
        elif isinstance(request, FindToken):
            assert self.tokenizer is not None
            yield Token(7, f" {request.text}")
        else:
            for answer in self.answers or self.made(request):
                if isinstance(answer, BaseException):
                    raise answer
                yield answer

    def made(self, request):
        yield Progress("sweep", 0.5)
        if isinstance(request, SweepCorpus):
            yield make_corpus(request.kinds, L)
            return
        for prompt in request.prompts:
            for kind in request.kinds if not request.schedules else ["schedules"]:
                given = {"prompt": prompt, "schedules": request.schedules}
                yield make_sweep(kind, L, done=[0], **given)  # partial, then whole
                yield make_sweep(kind, L, **given)

    def known(self, request):
        self.asked.append(("cached", request))
        return self.cached


@pytest.fixture
def engine(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(local, "LocalEngine", lambda: stand_in)
    return stand_in


def stagescope(capsys, *words: str) -> SimpleNamespace:
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", *words])
    out, err = capsys.readouterr()
    return SimpleNamespace(code=ended.value.code or 0, out=out, err=err)


def stdin(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# --------------------------------------------------------------------------------------------- what is asked


def test_a_sweep_is_of_drops_and_swaps_unless_said(capsys, engine) -> None:
    result = stagescope(capsys, "the prompt", "--json")
    assert (result.code, result.err) == (0, "")
    assert engine.asked[-1] == TakeSweep(("the prompt",))
    sweep = json.loads(result.out)
    assert sweep["schema"] == "sweep/1" and sweep["prompt"] == "the prompt"
    assert [row["schedule"] for row in sweep["rows"]] == [
        *(f"drop {layer}" for layer in range(L)),
        *(f"swap {layer} {layer + 1}" for layer in range(L - 1)),
    ]
    assert all(row["note"] == "" for row in sweep["rows"])  # the whole sweep, not the partial one before it


@pytest.mark.parametrize(
    "words, asked",
    [
        (["a", "b", "--kind", "swap"], TakeSweep(("a", "b"), ("swap",))),
        (["a", "--kind", "swap", "b"], TakeSweep(("a", "b"), ("swap",))),
        (["--kind", "swap+mlp-off", "--", "-a", "--json"], TakeSweep(("-a", "--json"), ("swap", "mlp-off"))),
        (["a", "--kind", "trace", "--position", "-2"], TakeSweep(("a",), ("trace",), position=-2)),
        (["a", "--track", "Rome"], TakeSweep(("a",), tracked=7)),
        (["--corpus", "FILE"], SweepCorpus("FILE")),
        (["--corpus", "-", "--kind", "drop"], SweepCorpus("-", ("drop",))),
        (["--corpus", "FILE", "--tokens", "500", "--window", "64"], SweepCorpus("FILE", tokens=500, window=64)),
    ],
)
def test_words_become_a_request(capsys, engine, tmp_path, monkeypatch, words, asked) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("some text")
    engine.answers = [make_sweep("trace", L, 11)] if "trace" in words else ()
    result = stagescope(capsys, *words)
    assert result.code == 0, result.err
    assert engine.asked[-1] == asked


def test_what_is_cached_needs_no_weights(capsys, engine) -> None:
    engine.cached = (make_sweep("drop", L, prompt="a"),)
    result = stagescope(capsys, "a", "--kind", "drop", "--track", "Rome", "--json")
    assert result.code == 0 and len(json.loads(result.out)["rows"]) == L
    assert not engine.loaded and engine.asked[-1] == ("cached", TakeSweep(("a",), ("drop",), tracked=7))
    engine.cached = (make_corpus(["drop"], L),)
    assert json.loads(stagescope(capsys, "--corpus", "-", "--kind", "drop", "--json").out)["documents"] == 40
    assert not engine.loaded and engine.asked[-1] == ("cached", SweepCorpus("-", ("drop",)))


def test_a_token_is_looked_up_once_there_is_a_tokenizer(capsys, engine) -> None:
    engine.tokenizer = None  # none that is light: it comes with the weights
    assert stagescope(capsys, "a", "--track", "Rome", "--json").code == 0
    assert engine.asked[1:] == [FindToken("Rome"), TakeSweep(("a",), tracked=7)]  # the cache needs it too


def test_prompt_and_schedules_from_standard_input(capsys, engine, monkeypatch) -> None:
    stdin(monkeypatch, b"the prompt\n")
    assert stagescope(capsys, "-", "--json").code == 0 and engine.asked[-1].prompts == ("the prompt",)
    stdin(monkeypatch, b"\xef\xbb\xbf# mine\r\nDROP 3\r\n\r\nswap 4,3 # back\r\ndrop 3\r\n")
    result = stagescope(capsys, "a", "--schedules", "-", "--json")
    assert engine.asked[-1].schedules == ("drop 3", "swap 3 4", "drop 3")
    assert [row["kind"] for row in json.loads(result.out)["rows"]] == ["schedules"] * 3


# ------------------------------------------------------------------------------------------- what is printed


def test_several_prompts_are_pooled_and_kept(capsys, engine) -> None:
    sweep = json.loads(stagescope(capsys, "a", "b", "--kind", "drop", "--json").out)
    assert sweep["documents"] == 2 and [each["prompt"] for each in sweep["prompts"]] == ["a", "b"]
    assert len(sweep["rows"]) == len(sweep["prompts"][0]["rows"]) == L


def test_a_corpus_is_pooled(capsys, engine) -> None:
    sweep = json.loads(stagescope(capsys, "--corpus", "-", "--json").out)
    assert (sweep["documents"], sweep["tokens_scored"], sweep["tokens"]) == (40, 5012, None)
    assert sweep["rows"][0]["kl_nats"]["per_position"] is None


def test_csv_has_a_line_for_each_row(capsys, engine) -> None:
    result = stagescope(capsys, 'a, "b"\nc', "--csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert result.code == 0 and len(rows) == 2 * L - 1
    assert rows[L]["schedule"] == "swap 0 1" and float(rows[L]["kl_nats_mean"]) > 0


def test_the_table_and_above_it_the_curves(capsys, engine) -> None:
    table = stagescope(capsys, "a")
    drawn = stagescope(capsys, "a", "--plot")
    assert table.code == drawn.code == 0 and "swap 4 5" in table.out
    assert drawn.out.endswith(table.out) and len(drawn.out) > len(table.out) + 1000


def test_an_svg_beside_the_data(capsys, engine, tmp_path) -> None:
    file = tmp_path / "curves.svg"
    plain = stagescope(capsys, "a", "--json")
    result = stagescope(capsys, "a", "--json", "--svg", str(file))
    assert (result.code, result.out, result.err) == (0, plain.out, "") and "<svg" in file.read_text()


@pytest.mark.parametrize("file", ["no/such/folder/curves.svg", ".", "\x1b]52;c.svg/x"])
def test_a_figure_that_cannot_be_written_is_refused_before_anything_runs(capsys, engine, tmp_path, monkeypatch, file) -> None:
    monkeypatch.chdir(tmp_path)
    result = stagescope(capsys, "a", "--json", "--svg", file)
    assert result.code == 1 and result.out == "" and not engine.asked
    assert "the figure cannot be written" in result.err and "Give a file" in result.err
    assert "Traceback" not in result.err and "\x1b" not in result.err


def test_prompts_stand_as_given_however_they_come(capsys, engine) -> None:
    engine.answers = [make_sweep(kind, L, prompt=prompt) for prompt in "cab" for kind in ("swap", "drop")]
    result = stagescope(capsys, "b", "a", "c", "--json")
    prompts = json.loads(result.out)["prompts"]
    assert [one["prompt"] for one in prompts] == ["b", "a", "c"]
    assert [row["kind"] for row in prompts[0]["rows"]] == ["drop"] * L + ["swap"] * (L - 1)


def test_marked_rows_are_said_once_and_fail_nothing(capsys, engine) -> None:
    broken = "its logits are not numbers"
    engine.answers = [
        make_sweep("drop", L, prompt=prompt, notes=notes)
        for prompt, notes in [("a", {3: broken}), ("b", {3: broken, 4: broken}), ("c", {0: "it names \x1b position"})]
    ]
    result = stagescope(capsys, "a", "b", "c", "--json")
    assert result.code == 0 and json.loads(result.out)["rows"]
    assert result.err == (
        "stagescope: drop 3, drop 4: its logits are not numbers\nstagescope: drop 0: it names \\u{1b} position\n"
    )
    engine.answers = [make_sweep("pairs", L, prompt="a", notes=dict.fromkeys(range(15), broken))]
    assert "drop 0 5 and 10 more: its" in stagescope(capsys, "a", "--csv").err


def test_warnings_of_the_model_are_said(capsys, engine) -> None:
    engine.answers = [make_sweep("drop", L, warnings=("it is odd.",))]
    assert stagescope(capsys, "a", "--csv").err == "stagescope: it is odd.\n"


@pytest.mark.parametrize("form", [["--json"], ["--csv"], []])
def test_documents_left_out_and_cut_are_said(capsys, engine, form) -> None:
    engine.answers = [make_corpus(n_layers=L)]
    result = stagescope(capsys, "--corpus", "-", "--window", "64", *form)
    assert result.code == 0 and result.err == (
        "stagescope: 1 document was left out: document 3 (line 17): no text\n"
        "stagescope: 2 documents were cut at the window of 64 tokens\n"
    )
    named = tuple(f"line {n}: it is \x1bempty" for n in range(20))
    engine.answers = [replace(make_corpus(n_layers=L), skipped=named, n_skipped=1234, n_cut=1)]
    said = stagescope(capsys, "--corpus", "-", "--window", "9999", *form).err
    assert "1,234 documents were left out: line 0: it is \\u{1b}empty; line 1:" in said and "; and 1,214 more\n" in said
    assert "1 document was cut at the window of 2,048 tokens\n" in said and "\x1b" not in said
    engine.answers = [replace(make_corpus(n_layers=L), skipped=(), n_skipped=0, n_cut=0)]
    assert stagescope(capsys, "--corpus", "-", *form).err == ""


# ------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "give a PROMPT or --corpus FILE"),
        (["a", "--corpus", "FILE"], "two sweeps"),
        (["a", "--tokens", "9"], "--tokens and --window are for --corpus"),
        (["a", "--window", "9"], "--tokens and --window are for --corpus"),
        (["--corpus", "FILE", "--tokens", "0"], "whole number above 0"),
        (["--corpus", "FILE", "--window", "-1"], "whole number above 0"),
        (["a", "--kind", "drop", "--schedules", "FILE"], "not allowed with"),
        ([*map(str, range(51))], "at most 50 prompts, these are 51"),
        (["a", "b", "a"], "alike"),
        ([""], "empty"),
        (["a", ""], "empty"),
        (["a", "--json", "--csv"], "not allowed with"),
        (["a", "--json", "--plot"], "--plot goes with the table"),
        (["a", "--csv", "--plot"], "--plot goes with the table"),
        (["a", "b", "--kind", "trace"], "a trace is of one prompt"),
        (["--corpus", "FILE", "--kind", "trace"], "a trace is of one prompt"),
        (["a", "--kind", "trace,drop"], "stands alone"),
        (["a", "--kind", "dorp"], "The kinds are drop, swap"),
        (["a", "--kind", ""], "The kinds are drop, swap"),
        (["a", "--position", "3"], "where a trace is read"),
        (["--corpus", "FILE", "--track", "x"], "not of a corpus"),
        (["-", "--schedules", "-"], "read once"),
        (["--corpus", "-", "--schedules", "-"], "read once"),
        (["-", "-"], "read once"),
        (["a", "--frobnicate"], "--frobnicate"),
    ],
)
def test_usage_errors(capsys, engine, words, said) -> None:
    result = stagescope(capsys, *words)
    assert (result.code, result.out) == (2, "") and said in result.err and "Traceback" not in result.err
    assert engine.asked == []


def test_an_empty_or_repeated_prompt_from_standard_input(capsys, engine, monkeypatch) -> None:
    stdin(monkeypatch, b"\n")
    result = stagescope(capsys, "-", "--json")
    assert (result.code, result.out) == (2, "") and "the prompt is empty" in result.err
    stdin(monkeypatch, b"a\n")
    result = stagescope(capsys, "a", "-", "--json")
    assert (result.code, result.out) == (2, "") and "alike" in result.err
    assert engine.asked == []


@pytest.mark.parametrize(
    "data, said",
    [
        (b"drop 3\ndorp 4\ndrop 99 # all\n", "2 lines are no schedules of this model:\nline 2:\ndorp 4\n^^^^\n"),
        (b"# none\n", "there is no schedule in it"),
        (b"", "there is no schedule in it"),
        (b"drop 3\xff\n", "is not UTF-8 (byte 6 of it)"),
    ],
)
def test_a_file_without_good_schedules_costs_no_loading(capsys, engine, tmp_path, data, said) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(data)
    result = stagescope(capsys, "a", "--schedules", str(file), "--json")
    assert (result.code, result.out) == (2, "") and f"{file}" in result.err and said in result.err
    assert not engine.loaded


def test_a_sublayer_order_is_refused_on_parallel_blocks(capsys, engine, monkeypatch) -> None:
    engine.parallel = True
    stdin(monkeypatch, b"order 0a 1 0m\n")
    result = stagescope(capsys, "a", "--schedules", "-", "--json")
    assert (result.code, result.out) == (2, "") and "standard input: 1 line is no schedule" in result.err


@pytest.mark.parametrize("option", ["--schedules", "--corpus"])
@pytest.mark.parametrize("file", ["no/such/file", "\x1b]52;c"])
def test_a_missing_file_is_named_before_a_model_is_looked_for(capsys, engine, option, file) -> None:
    result = stagescope(capsys, *(["a"] if option == "--schedules" else []), option, file, "--json")
    assert (result.code, result.out) == (3, "") and "cannot read" in result.err and "\x1b" not in result.err
    assert engine.asked == []


def test_a_folder_is_no_file_of_schedules(capsys, engine, tmp_path) -> None:
    result = stagescope(capsys, "a", "--schedules", str(tmp_path))
    assert (result.code, result.out) == (3, "") and str(tmp_path) in result.err


@pytest.mark.parametrize("kind, code", [("usage", 2), ("missing", 3), ("memory", 1), ("error", 1)])
def test_what_fails_halfway_prints_no_data(capsys, engine, kind, code) -> None:
    engine.answers = [make_sweep("drop", L, done=[0, 1]), EngineError(kind, "it went wrong.", "Do better.")]
    result = stagescope(capsys, "a", "--json")
    assert (result.code, result.out, result.err) == (code, "", "stagescope: it went wrong.\nDo better.\n")


def test_interrupted_is_130_and_no_data(capsys, engine) -> None:
    engine.answers = [make_sweep("drop", L, done=[0, 1]), KeyboardInterrupt()]
    assert vars(stagescope(capsys, "a", "--json")) == {"code": 130, "out": "", "err": ""}
    result = stagescope(capsys, "--corpus", "-", "--json")
    assert (result.code, result.out) == (130, "") and "The same command goes on" in result.err
    assert stagescope(capsys, "--corpus", "-", "--no-cache").err == ""  # no checkpoint is kept


def test_help_lists_the_kinds_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from stagescope import cli\n"
        "try: cli.main(['sweep', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit([m for m in ('torch', 'textual', 'numpy', 'transformers', 'plotext') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {kind:12} {sentence}" in done.stdout for kind, sentence in KINDS.items())
