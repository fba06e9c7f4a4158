"""Sweeps as JSON, CSV and text, and where a schedule stands among its kind."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from sweeps import MEASURES, make_corpus, make_sweep
from unit_sweeps import make_unit_corpus, make_units

from stagescope.engine.protocol import CorpusSweep, Sweep
from stagescope.reports.sweep import (
    corpus_json,
    corpus_line,
    csv_lines,
    ordinal,
    place_words,
    standing,
    summary,
    sweep_json,
)
from stagescope.reports.sweep_table import GO_FIRST, sweep_text
from stagescope.reports.sweep_units import sharpening
from stagescope.text import printable

HOSTILE = '=1+1,"x"\n\x1b]52;c;AAAA\x07\u202e\ud800</svg>'


def strict(data: dict) -> dict:
    return json.loads(json.dumps(data, allow_nan=False))


def read_csv(data) -> list[dict[str, str]]:
    return list(csv.DictReader(csv_lines(data), strict=True))


def drawn(lines, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    for line in lines:
        console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis", crop=False)
    return console.file.getvalue()


def set_kl(sweep: Sweep, values: list[float]) -> Sweep:
    return replace(sweep, kl_nats=np.repeat(np.float32(values)[:, None], len(sweep.tokens), axis=1))


# ------------------------------------------------------------------------------------------------- numbers


def test_means_leave_out_the_prefix_token_and_rows_not_done():
    sweep = make_sweep(n_layers=4, done=[0, 2])
    kl = summary(sweep, "kl_nats")
    assert kl[0, 0] == pytest.approx(sweep.kl_nats[0, 1:].mean())
    assert kl[2, 1] == pytest.approx(np.median(sweep.kl_nats[2, 1:]))
    assert np.isnan(kl[[1, 3]]).all() and np.isnan(kl[:, 2:]).all()


def test_loss_is_a_mean_over_the_positions_that_have_a_next_token():
    sweep = make_sweep(n_layers=4)
    assert summary(sweep, "loss_change_nats")[0, 0] == pytest.approx(sweep.loss_change_nats[0, 1:-1].mean())


def test_a_prompt_of_one_token_has_no_mean_loss():
    sweep = make_sweep(n_layers=4, n_tokens=1)
    assert np.isnan(summary(sweep, "loss_change_nats")).all()
    assert strict(sweep_json([sweep]))["rows"][0]["loss_change_nats"]["mean"] is None


# ---------------------------------------------------------------------------------------------------- JSON


def test_json_of_one_prompt_follows_the_contract():
    sweeps = [make_sweep("drop", 4), make_sweep("swap", 4)]
    data = strict(sweep_json(sweeps))
    assert data["schema"] == "sweep/1" and data["model"]["name"] == "smollm2-135m"
    assert [token["id"] for token in data["tokens"]] == [token.id for token in sweeps[0].tokens]
    assert [(row["kind"], row["layer"]) for row in data["rows"]] == [
        *(("drop", layer) for layer in range(4)),
        *(("swap", layer) for layer in range(3)),
    ]
    row = data["rows"][5]
    assert row["schedule"] == "swap 1 2" and row["note"] == ""
    assert set(row) == {
        "schedule",
        "kind",
        "layer",
        "variant",
        "position",
        "index",
        "note",
        "tracked_rank",
        "tracked_p",
        *MEASURES,
    }
    for measure in MEASURES:
        assert set(row[measure]) == {"mean", "median", "low", "high", "per_position"}
        assert row[measure]["low"] is None and len(row[measure]["per_position"]) == 12
    assert row["kl_nats"]["per_position"] == sweeps[1].kl_nats[1].tolist()
    assert set(row["top1_same"]["per_position"]) <= {True, False}
    assert row["loss_change_nats"]["per_position"][-1] is None
    assert data["baseline"]["tracked"][3] == {"id": int(sweeps[0].tracked[3]), "text": " Paris"}
    assert data["baseline"]["tracked_p"] == [0.75] * 12


def test_rows_not_done_and_rows_with_a_note_are_null():
    note = "its logits are not numbers"
    rows = strict(sweep_json([make_sweep("drop", 4, done=[0, 1, 2], notes={1: note})]))["rows"]
    assert [row["note"] for row in rows] == ["", note, "", "not run"]
    for row in (rows[1], rows[3]):
        assert row["kl_nats"]["mean"] is None and set(row["top1_same"]["per_position"]) == {None}
        assert set(row["tracked_p"]["per_position"]) == {None}


def test_json_of_a_trace_covers_one_position():
    data = strict(sweep_json([make_sweep("trace", 3, 5)]))
    assert [(row["layer"], row["position"]) for row in data["rows"]][:6] == [*((0, p) for p in range(5)), (1, 0)]
    assert data["baseline"]["tracked"][:4] == [None] * 4
    assert data["rows"][0]["tracked_p"]["per_position"][:4] == [None] * 4


def test_json_of_several_prompts_pools_them_and_keeps_each():
    sweeps = [make_sweep(kind, 4, n, prompt=f"prompt {n}") for n in (8, 12) for kind in ("drop", "swap")]
    data = strict(sweep_json(sweeps))
    assert data["tokens"] is None and data["documents"] == 2 and data["tokens_scored"] == 7 + 11
    assert [prompt["prompt"] for prompt in data["prompts"]] == ["prompt 8", "prompt 12"]
    for rows in (data["rows"], *(prompt["rows"] for prompt in data["prompts"])):
        assert [row["kind"] for row in rows] == ["drop"] * 4 + ["swap"] * 3
    assert data["rows"][0]["kl_nats"]["per_position"] is None
    first = [prompt["rows"][0]["kl_nats"]["mean"] for prompt in data["prompts"]]
    assert data["rows"][0]["kl_nats"]["mean"] == pytest.approx((7 * first[0] + 11 * first[1]) / 18)


def test_json_of_a_corpus():
    data = strict(corpus_json(make_corpus(n_layers=4, notes={2: "no numbers in 1 of 40 documents"})))
    assert data["documents"] == 40 and data["tokens_scored"] == 5012 and data["tokens"] is None
    assert data["n_skipped"] == 1 and data["skipped"] == ["document 3 (line 17): no text"] and data["n_cut"] == 2
    row = data["rows"][0]["kl_nats"]
    assert row["low"] < row["mean"] < row["high"] and row["per_position"] is None
    assert data["rows"][2]["kl_nats"]["mean"] is None and data["rows"][2]["note"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_any_pattern_of_nan_is_strict_json_csv_and_text(n_layers, n_tokens, data):
    cells = st.lists(st.booleans(), min_size=n_layers * n_tokens, max_size=n_layers * n_tokens)
    hole = np.array(data.draw(cells)).reshape(n_layers, n_tokens)
    sweep = make_sweep("drop", n_layers, n_tokens, done=data.draw(st.sets(st.integers(0, n_layers - 1))))
    holed = {name: np.where(hole, np.nan, getattr(sweep, name)) for name in (*MEASURES, "tracked_p", "tracked_rank")}
    sweep = replace(sweep, **holed)
    assert len(strict(sweep_json([sweep]))["rows"]) == n_layers
    assert len(read_csv([sweep])) == n_layers
    drawn(sweep_text([sweep]))


# ----------------------------------------------------------------------------------------------------- CSV


def test_csv_reads_back_the_same_numbers():
    sweeps = [make_sweep(kind, 5, done=[0, 1, 2]) for kind in ("drop", "swap")]
    lines = read_csv(sweeps)
    assert [line["schedule"] for line in lines][3:7] == ["drop 3", "drop 4", "swap 0 1", "swap 1 2"]
    for measure in MEASURES:
        means = np.concatenate([summary(sweep, measure)[:, 0] for sweep in sweeps])
        read = [float(line[f"{measure}_mean"] or "nan") for line in lines]
        np.testing.assert_array_equal(read, means)
    assert {line["kl_nats_low"] for line in lines} == {""} and lines[3]["note"] == "not run"
    assert {line["scored"] for line in lines} == {"11"}


def test_csv_keeps_hostile_prompts_as_data_on_one_line():
    prompts = [HOSTILE, "@SUM(1)", "-1", "plain"]
    lines = list(csv_lines([make_sweep("drop", 2, prompt=prompt) for prompt in prompts]))
    assert len(lines) == 1 + 2 * 4 and all(line.isprintable() for line in lines)
    read = [row[0] for row in csv.reader(lines, strict=True)][1::2]
    assert read == [printable(prompt) for prompt in prompts]


def test_csv_of_a_corpus_has_intervals_and_of_a_trace_the_tracked_token():
    line = read_csv(make_corpus(n_layers=3))[0]
    assert float(line["kl_nats_low"]) < float(line["kl_nats_mean"]) < float(line["kl_nats_high"])
    assert line["prompt"] == "topics.txt" and line["scored"] == "5012"
    trace = make_sweep("trace", 3, 4)
    line = read_csv([trace])[5]
    assert (line["layer"], line["position"]) == ("1", "1")
    assert float(line["tracked_p"]) == pytest.approx(float(trace.tracked_p[5, 3]))


# ---------------------------------------------------------------------------------------------------- text


def test_text_says_how_many_positions_and_where_each_row_stands():
    text = drawn(sweep_text([make_sweep("drop", 30)]))
    assert "30 layers · float32 · cpu · noise floor KL 2e-07 nats" in text
    assert "<|endoftext|> The ·E iff el" in text and "30 drops, over 11 positions" in text
    assert "1/30" in text and "/11" in text


def test_effects_at_or_below_the_noise_floor_are_0():
    sweep = set_kl(make_sweep("drop", 3, noise_kl=1e-3), [9e-4, 2e-3, 0.5])
    (table,) = (line for line in sweep_text([sweep]) if isinstance(line, Table))
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["KL mean"] == ["0", "0.002", "0.5"]
    assert columns["ΔH bits"][0] == "0" and columns["ΔH bits"][1] != "0"


def test_text_of_a_corpus_has_intervals_percentages_and_counts():
    text = drawn(sweep_text(make_corpus(n_layers=4)))
    assert "topics.txt: 5,012 tokens of 40 documents (2 cut, 1 left out)\nmeans over tokens, with 95 % int" in text
    assert " %" in text and "1/4" in text and "1/3" in text
    assert "interval" not in drawn(sweep_text(make_corpus(documents=1)))
    whole = replace(make_corpus(n_layers=4), n_cut=0, n_skipped=0, skipped=())
    assert "topics.txt: 5,012 tokens of 40 documents\n" in drawn(sweep_text(whole))


@pytest.mark.parametrize("source", ["topics.txt", "/home/someone/" + "corpora/" * 12 + "english.jsonl", "表" * 60])
def test_the_line_of_a_corpus_fits_80_columns_and_keeps_the_end_of_a_long_name(source):
    most = {"documents": 123_456, "tokens_scored": 12_345_678, "n_cut": 99_999, "n_skipped": 9_999}
    for changes in ({}, most):
        line = corpus_line(replace(make_corpus(n_layers=4), source=source, **changes)).plain
        assert cell_len(line) <= 80 and line.split(": ")[0].removeprefix("…")[-5:] == source[-5:]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("kinds", [("drop", "swap"), ("pairs",), ("painters",), ("press",)])
@pytest.mark.parametrize("notes", [None, {1: "its logits are not numbers in 12 of 40 documents"}])
def test_a_table_that_does_not_fit_leaves_columns_out_and_says_so(width, kinds, notes):
    corpus = make_corpus(kinds, notes=notes)
    text = drawn(lines := sweep_text(corpus, width), width)
    (table,) = (line for line in lines if isinstance(line, Table))
    whole = {"KL mean", "95 %", "median", "top-1 kept", "ΔH bits", "Δloss nats", "place", *(["note"] if notes else [])}
    shown = {column.header for column in table.columns} - {"schedule"}
    left_out = [name for name in GO_FIRST if name in whole - shown]
    assert shown | {*left_out} == whole and (f"no room for: {', '.join(left_out)} (" in text) == bool(left_out)
    rows = text.split("\n")
    (at,) = (number for number, row in enumerate(rows) if row.startswith("schedule"))
    for number, row in enumerate(rows[at + 1 : at + 1 + len(corpus.rows)]):
        numbers = [column for column in table.columns if column.header != "schedule"]
        assert cell_len(row) <= width and all(list(column.cells)[number] in row for column in numbers)
        assert "…" not in row[12:] or kinds in (("press",), ("painters",))
    if (width, kinds, notes) == (80, ("drop", "swap"), None):
        assert "95 %" in shown
    assert not left_out or width < 200


@pytest.mark.parametrize("prompts", ["a", "ab"])
def test_a_sweep_of_prompts_fits_80_columns(prompts):
    text = drawn(sweep_text([make_sweep(kind, 30, prompt=p) for p in prompts for kind in ("drop", "swap")], 80), 80)
    assert "…" not in text and ("no room" in text) == (len(prompts) > 1)  # intervals from 1e-08 up take 19 cells


def test_text_of_several_prompts_is_pooled():
    text = drawn(sweep_text([make_sweep("drop", 4, n, prompt=f"prompt {n}") for n in (8, 12)]))
    assert text.count("tokens  ") == 2 and "18 tokens of 2 prompts" in text and text.count("drop 3") == 1


def test_text_of_a_trace_is_a_grid_with_the_baseline_named():
    sweep = make_sweep("trace", 3, 14, done=range(10))
    text = drawn(sweep_text([sweep]))
    assert "p of “·Paris” at position 13 “The”: baseline 0.750" in text and "[13]" in text
    assert f"  0  {sweep.tracked_p[0, 13]:.3f}" in text


def test_text_lets_no_hostile_text_through():
    sweeps = [make_sweep(kind, 2, words=["a", HOSTILE], prompt=HOSTILE) for kind in ("drop", "trace")]
    for sweep in (*sweeps, make_sweep("drop", 2, notes={0: HOSTILE}), make_sweep("drop", 2, name=HOSTILE)):
        plain = drawn(sweep_text([sweep]))
        assert all(line.isprintable() for line in plain.split("\n"))
    corpus = replace(make_corpus(n_layers=2), source=HOSTILE, skipped=(HOSTILE,))
    assert all(line.isprintable() for line in drawn(sweep_text(corpus)).split("\n"))


# ---------------------------------------------------------------------------------------- heads and neurons


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("kind", ["heads", "neurons", "neuron-sets"])
def test_heads_and_neurons_are_tabled_whole_at_any_width(kind, width):
    for data in ([make_units(kind, 4)], make_unit_corpus(kind, 4), [make_units(kind, 4, done=[0])]):
        assert "…" not in drawn(sweep_text(data, width), max(width, 100)).replace("·", "")


def test_heads_are_ranked_and_written_with_layer_and_index():
    made = make_units("heads", 3, layer=2)
    table = next(line for line in sweep_text([made]) if isinstance(line, Table))
    names, kl = ([str(cell) for cell in column.cells] for column in list(table.columns)[:2])
    assert sorted(names) == [f"head-off 2.{head}" for head in range(9)]
    assert [float(value) for value in kl] == sorted(map(float, kl), reverse=True)
    assert [(row["kind"], row["layer"], row["index"]) for row in strict(sweep_json([made]))["rows"]][3] == ("heads", 2, 3)
    assert read_csv([made])[3]["index"] == "3" and read_csv([make_sweep("drop", 2)])[0]["index"] == ""


def test_classes_of_neurons_stand_beside_random_ones():
    made = make_units("neurons", 6)
    made.kl_nats[:] = np.repeat([0.4, 0.2, 0.1], 20)[:, None]
    rows = [line.split() for line in drawn(sweep_text([made])).split("\n")]
    assert [row[:5] for row in rows if row and row[0] in ("prediction", "suppression", "random")] == [
        ["prediction", "20", "0.4", "0.4-0.4", "4"], ["suppression", "20", "0.2", "0.2-0.2", "2"],
        ["random", "20", "0.1", "0.1-0.1", made_change(made)],
    ]  # fmt: skip


def made_change(made: Sweep) -> str:
    return f"{made.entropy_change_bits[40:, 1:].mean():+.3f}"


def test_the_verdict_is_against_the_range_of_the_random_draws():
    made = make_units("neuron-sets", sizes=(4,))
    at = {row.variant: [n for n, it in enumerate(made.rows) if it.variant == row.variant] for row in made.rows}
    random = at["random as suppression"]
    for off, draws, said in (
        (0.5, (0.1, 0.2, 0.3), "Above every random draw (1 in 4 by chance), as if they sharpen."),
        (0.25, (0.1, 0.2, 0.3), "No more than random neurons do."),
        (-0.1, (0.1, 0.2, 0.3), "Below every random draw (1 in 4 by chance): no sign that they sharpen."),
        (-0.1, (-0.2, -0.3, -0.4), "Above every random draw (1 in 4 by chance), but not above 0."),
    ):
        made.entropy_change_bits[at["suppression"]] = off
        made.entropy_change_bits[random] = np.float32(draws)[:, None]
        told = sharpening(made, "suppression", 4)
        assert told[0] == f"Without the 4 strongest suppression neurons entropy changes by {off:+.3f} bits."
        assert f"{np.mean(draws):+.3f} ({min(draws):+.3f} to {max(draws):+.3f} in 3 draws)" in told[1] and told[2] == said
    made.entropy_change_bits[random] = np.nan
    assert sharpening(made, "suppression", 4)[1:] == ["The random control is not known yet."]


# ------------------------------------------------------------------------------------------------ standing


def test_standing_counts_the_largest_effect_first():
    sweep = set_kl(make_sweep("drop", 4), [0.5, 2.0, 0.1, 2.0])
    assert [standing(sweep, f"drop {layer}") for layer in range(4)] == [(3, 4), (1, 4), (4, 4), (1, 4)]


def test_standing_needs_a_number():
    sweep = make_sweep("drop", 5, done=[0, 1, 2, 3], notes={2: "its logits are not numbers"})
    assert standing(sweep, "drop 4") is None and standing(sweep, "drop 2") is None
    assert standing(sweep, "swap 0 1") is None
    assert standing(sweep, "drop 0")[1] == 3


def test_rows_of_a_corpus_stand_among_their_own_kind():
    corpus: CorpusSweep = make_corpus(n_layers=6)
    assert standing(corpus, "drop 0")[1] == 6 and standing(corpus, "swap 0 1")[1] == 5


def test_place_words():
    assert place_words(3, 30, "drop") == "3rd of 30 drops"
    assert place_words(1, 1, "swap") == "1st of 1 swap"
    assert place_words(12, 435, "pairs") == "12th of 435 pairs"
    ordinals = "1st 2nd 3rd 4th 10th 11th 12th 13th 21st 22nd 101st 111th 112th 1003rd"
    assert [ordinal(int(word[:-2])) for word in ordinals.split()] == ordinals.split()
