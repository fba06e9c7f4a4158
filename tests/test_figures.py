"""Panels, curves, traces and SVG: their shape for any sweep, what is marked, and that no text harms."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text
from sweeps import make_corpus, make_sweep
from unit_sweeps import make_unit_corpus, make_units

from stagescope.drawings.curves import exactly
from stagescope.drawings.plot import TITLES, series
from stagescope.drawings.sweeps import curves, heads, panel, sets, trace, write_svg
from stagescope.engine.kinds import KINDS

HOSTILE = '=1+1,"x"\n\x1b]52;c;AAAA\x07\u202e\ud800\ufffe]]></svg>&'
UNITS = ("heads", "neurons", "neuron-sets")
WIDTHS, HEIGHTS, LAYERS = st.integers(40, 200), st.integers(5, 40), st.integers(1, 80)


def fits(text: Text, width: int, height: int) -> bool:
    lines = text.plain.split("\n")
    return len(lines) == height and all(cell_len(line) <= width for line in lines)


def styles_at(text: Text, character: str) -> set[str]:
    places = [index for index, found in enumerate(text.plain) if found == character]
    return {str(span.style) for span in text.spans for place in places if span.start <= place < span.end}


# --------------------------------------------------------------------------------------------------- panels


@settings(max_examples=60, deadline=None)
@given(LAYERS, WIDTHS, HEIGHTS, st.sampled_from(sorted(TITLES)), st.booleans(), st.data())
def test_a_panel_has_its_size_whatever_is_done(n_layers, width, height, measure, ascii_only, data):
    done = st.sets(st.integers(0, n_layers - 1))
    sweeps = [make_sweep(kind, n_layers, 3, done=data.draw(done)) for kind in ("drop", "swap")]
    chosen = data.draw(st.none() | st.tuples(st.sampled_from(["drop", "swap"]), st.integers(0, n_layers)))
    drawn = panel(measure, sweeps, width, height, n_layers=n_layers, chosen=chosen, ascii_only=ascii_only)
    assert fits(drawn, width, height)
    assert not ascii_only or drawn.plain.isascii()
    assert ("drop" in drawn.plain) == (width > 60) or width <= 90  # the legend, where there is room


@settings(max_examples=30, deadline=None)
@given(LAYERS, WIDTHS, HEIGHTS, st.sampled_from(sorted(TITLES)), st.sampled_from([1, 2, 40]))
def test_a_panel_of_a_corpus_has_its_size(n_layers, width, height, measure, documents):
    corpus = make_corpus(("drop", "swap"), n_layers, documents=documents)
    assert fits(panel(measure, corpus, width, height, n_layers=n_layers), width, height)


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e-6, 3e-5, 1.0, 700.0, 3e38])
@pytest.mark.parametrize("measure", TITLES)
def test_a_single_value_can_be_drawn(measure, value):
    sweep = make_sweep("drop", 1)
    for name in TITLES:
        getattr(sweep, name)[:] = value
    drawn = panel(measure, [sweep], 80, 12, n_layers=1)
    assert fits(drawn, 80, 12) and drawn.plain.count("●") == 1 + 1


def test_axes_stand_before_there_is_a_point():
    for data in ([], [make_sweep("drop", done=[])]):
        drawn = panel("kl_nats", data, 80, 10, n_layers=30)
        assert fits(drawn, 80, 10) and "└" in drawn.plain and " 25 " in drawn.plain
        assert drawn.plain.count("●") <= 1


def test_every_row_done_is_a_marker():
    drawn = panel(
        "top1_same", [make_sweep("drop", done=range(7)), make_sweep("swap", done=range(3))], 160, 12, n_layers=30
    )
    assert drawn.plain.count("●") == 1 + 7 and drawn.plain.count("△") == 1 + 3


def test_a_swap_stands_between_the_drops_of_its_layers():
    drop, swap = series([make_sweep("drop", 4), make_sweep("swap", 4)], "kl_nats")
    assert drop.x.tolist() == [0, 1, 2, 3] and swap.x.tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize("height", range(6, 20))
def test_only_what_is_below_the_floor_stands_on_the_axis_however_low_the_panel(height):
    sweep = make_sweep("drop", 4)
    sweep.kl_nats[:] = np.float32([[9.0], [0.1], [2e-6], [1e-7]])
    lines = panel("kl_nats", [sweep], 80, height, n_layers=4).plain.split("\n")
    assert lines[-3].startswith(" ≤1e-6┤") and lines[-3].count("●") == 1


@pytest.mark.parametrize("measure", TITLES)
@pytest.mark.parametrize("height", range(5, 16))
def test_no_tick_stands_on_the_row_of_another(measure, height):
    lines = panel(measure, [make_sweep("drop", 4)], 80, height, n_layers=4).plain.split("\n")[1:-2]
    labels = [line[:6].strip() for line in lines]
    assert labels[0] and labels[-1]
    if measure in ("entropy_change_bits", "loss_change_nats"):
        numbers = [float(label) for label in labels if label]
        assert numbers == sorted(numbers, reverse=True) and (numbers[0] >= 0 >= numbers[-1])


def test_what_is_below_the_noise_floor_stands_on_the_axis():
    sweep = make_sweep("drop", 4, noise_kl=1e-3)
    sweep.kl_nats[:] = np.float32([[1.0], [0.1], [9e-4], [1e-5]])
    lines = panel("kl_nats", [sweep], 80, 12, n_layers=4).plain.split("\n")
    assert "≤0.001" in lines[9] and lines[9].count("●") == 2
    assert sum(line.count("●") for line in lines[1:9]) == 2


def test_the_chosen_point_is_marked():
    sweeps = [make_sweep("drop"), make_sweep("swap")]
    plain, marked = (panel("kl_nats", sweeps, 160, 12, n_layers=30, chosen=c) for c in (None, ("drop", 11)))
    assert "┊" in marked.plain and "┊" not in plain.plain
    assert any("reverse" in style for style in styles_at(marked, "●"))
    assert not any("reverse" in style for style in styles_at(plain, "●") | styles_at(marked, "△"))


def test_intervals_are_bars_and_one_document_has_none():
    bars, none = (panel("top1_same", make_corpus(documents=n), 160, 30, n_layers=30) for n in (40, 1))
    inside = [line[8:] for line in bars.plain.split("\n")[1:-2]]
    assert any("│" in line for line in inside) and "bars 95 %" in bars.plain
    assert "bars" not in none.plain and not any("│" in line[8:] for line in none.plain.split("\n"))


def test_the_title_says_what_over_how_many():
    one = panel("entropy_change_bits", [make_sweep("drop")], 160, 12, n_layers=30).plain.split("\n")[0]
    assert one.startswith("entropy change, bits, by layer · mean over 11 positions") and one.endswith("● drop  ")
    many = panel("kl_nats", [make_sweep("drop", prompt=p) for p in "ab"], 160, 12, n_layers=30).plain.split("\n")[0]
    assert "22 tokens of 2 prompts, bars 95 %" in many


# --------------------------------------------------------------------------------------------------- curves


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), WIDTHS, HEIGHTS, st.booleans(), st.sets(st.sampled_from(sorted(KINDS)), min_size=1))
def test_curves_of_any_kinds_have_their_size(n_layers, width, height, ascii_only, kinds):
    sweeps = [(make_units if kind in UNITS else make_sweep)(kind, n_layers, 3) for kind in kinds]
    drawn = curves(sweeps, width, height, ascii_only)
    assert fits(drawn, width, height)
    assert not ascii_only or drawn.plain.isascii()


def test_the_three_panels_stand_side_by_side_where_there_is_room():
    data = [make_sweep("drop"), make_sweep("swap")]
    wide, narrow = (curves(data, width, 30).plain.split("\n") for width in (160, 80))
    for line in ("KL, nats", "top-1 kept", "entropy change"):
        assert line in wide[1] and sum(line in one for one in narrow) == 1
    assert curves(make_corpus(), 160, 30).plain.startswith("mean over 5,012 tokens of 40 documents, bars 95 %")


def test_kinds_without_a_layer_axis_have_blocks_of_their_own():
    sweeps = [make_sweep(kind, 12) for kind in ("drop", "press", "painters")]
    sweeps.append(make_sweep(n_layers=12, schedules=["drop 3", "order 0-11", "swap 1 2"]))
    drawn = curves(sweeps, 160, 80).plain
    for axis in ("by layer", "by k of s^k (sf)^(n-k) f^k", "by first layer of the span", "by place in the list"):
        assert drawn.count(axis) == 3
    assert "shuffle (mean of 5)" in drawn and "looped parallel" in drawn


def test_pairs_are_the_mean_over_partners():
    sweep = make_sweep("pairs", 5)
    (drawn,) = series([sweep], "kl_nats")
    mine = [row for row, it in enumerate(sweep.rows) if it.schedule in ("drop 0 3", "drop 1 3", "drop 2-3", "drop 3-4")]
    assert drawn.name == "pairs (mean of 4)" and drawn.x.tolist() == [0, 1, 2, 3, 4]
    assert drawn.y[3, 0] == pytest.approx(sweep.kl_nats[mine, 1:].mean())


# ---------------------------------------------------------------------------------------- heads and neurons


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), WIDTHS, HEIGHTS, st.booleans(), st.data())
def test_heads_and_sets_have_their_size_whatever_is_done(n_layers, n_heads, width, height, ascii_only, data):
    done, measure = range(0, 64, data.draw(st.integers(1, 9))), data.draw(st.sampled_from(list(TITLES)[:3]))
    look = {"ascii_only": ascii_only}
    chosen = (n_layers - 1, n_heads // 2)
    made = make_units("heads", n_layers, 3, n_heads=n_heads, done=done)
    for drawn in (
        heads(made, measure, width, height, chosen=chosen, **look),
        sets([make_units("neuron-sets", n_layers, 3, done=done)], measure, width, height, chosen=("suppression", 8), **look),
        sets(make_unit_corpus("neuron-sets", n_layers), None, width, height, **look),
    ):
        assert fits(drawn, width, height) and (not ascii_only or drawn.plain.isascii())


def test_a_head_is_shaded_by_its_effect_and_a_fall_looks_unlike_a_rise():
    made = make_units("heads", 2, 3, n_heads=3, done=range(5))
    for measure in ("kl_nats", "entropy_change_bits"):
        getattr(made, measure)[:5, 1:] = np.float32([[2.0], [0.02], [1e-4], [-0.5], [0.0]])
    up, down = heads(made, "entropy_change_bits", 80, 6).plain.split("\n")[1:3]
    assert down.split()[1:4] == ["█████", "░░░░░", "·"] and up.split()[1:3] == ["%%%%%", "·"]
    assert "▒▒▒▒▒" in heads(made, "kl_nats", 80, 6).plain


def test_sets_stand_at_their_size_and_random_ones_have_the_range_of_their_draws():
    made = make_units("neuron-sets")
    drawn = {one.name: one for one in series([made], "entropy_change_bits")}
    assert set(drawn) == {"prediction", "suppression", "random pred.", "random supp."}
    assert drawn["suppression"].x.tolist() == [0, 1, 2, 3, 4, 5, 6, 7] and np.isnan(drawn["suppression"].y[:, 1:]).all()
    mean, low, high = drawn["random supp."].y[7]
    rows = [at for at, row in enumerate(made.rows) if (row.variant, row.index) == ("random as suppression", 128)]
    means = made.entropy_change_bits[rows, 1:].mean(1)
    assert (mean, low, high) == pytest.approx((means.mean(), means.min(), means.max()))
    ticks = curves([made], 100, 40).plain.split("\n")
    assert any(line.split() == ["1", "2", "4", "8", "16", "32", "64", "128"] for line in ticks)


# ---------------------------------------------------------------------------------------------------- trace


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), WIDTHS, HEIGHTS, st.booleans(), st.data())
def test_a_trace_has_its_size_and_shows_the_chosen_cell(n_layers, n_tokens, width, height, ascii_only, data):
    done = range(0, n_layers * n_tokens, data.draw(st.integers(1, 4)))
    sweep = make_sweep("trace", n_layers, n_tokens, done=done)
    chosen = data.draw(st.none() | st.tuples(st.integers(0, n_layers - 1), st.integers(0, n_tokens - 1)))
    drawn = trace(sweep, width, height, chosen=chosen, ascii_only=ascii_only)
    assert fits(drawn, width, height)
    assert not ascii_only or drawn.plain.isascii()
    if chosen:
        (row,) = [line for line in drawn.plain.split("\n") if line.startswith(f"{chosen[0]:3} ")]
        assert row.count("[") == row.count("]") == 1


def test_a_trace_shades_by_the_share_of_p_that_is_lost():
    sweep = make_sweep("trace", 2, 3, done=range(5))  # the last row, layer 1 at position 2, is not done
    sweep.tracked_p[:5, 2] = np.float32([0.75, 0.6, 0.05, 0.9, 0.4])  # the baseline has 0.75
    lines = trace(sweep, 80, 12, chosen=(0, 1)).plain.split("\n")
    assert lines[2].split() == ["1", "+", "▒▒▒▒▒▒▒"] and lines[3].split() == ["0", "·", "[░░░░░]", "███████"]


def test_a_trace_says_which_part_is_in_sight():
    drawn = trace(make_sweep("trace", 30, 30), 60, 16, chosen=(2, 20)).plain
    assert "\n… 13 more on the left, 3 on the right, 18 above  p lost" in drawn
    assert " 13 " in drawn and " 26 " in drawn and " 27 " not in drawn and "\n 11 " in drawn and "\n 12 " not in drawn
    ascii_only = trace(make_sweep("trace", 30, 3), 80, 17, chosen=(29, 0), ascii_only=True).plain
    assert "\n~ 17 more below  p lost" in ascii_only
    assert "more" not in trace(make_sweep("trace", 30, 3), 80, 34).plain


def test_curves_of_a_trace_are_its_grid():
    sweep = make_sweep("trace", 6, 4)
    assert curves([sweep], 80, 12) == trace(sweep, 80, 12)


# ------------------------------------------------------------------------------------------------------ SVG


@pytest.mark.parametrize("kind", ["drop", "trace"])
def test_svg_is_xml_whatever_the_prompt_holds(tmp_path, kind):
    sweep = make_sweep(kind, 4, words=["a", HOSTILE], prompt=HOSTILE, name=HOSTILE)
    write_svg(tmp_path / "a.svg", [sweep])
    text = (tmp_path / "a.svg").read_text("utf-8")
    root = ET.fromstring(text)
    assert root.tag.endswith("svg") and "\x1b" not in text
    assert text.count("http") == 1  # the namespace: no font is fetched
    words = "".join(root.itertext()).replace("\u00a0", " ")
    assert "noise floor" in words and ("top-1 kept" in words or "baseline 0.750" in words)


def test_svg_of_a_corpus_and_of_kinds_with_other_axes(tmp_path):
    for name, data in (("a", make_corpus()), ("b", [make_sweep(kind, 12) for kind in ("drop", "press")])):
        write_svg(tmp_path / f"{name}.svg", data)
        words = "".join(ET.parse(tmp_path / f"{name}.svg").getroot().itertext()).replace("\u00a0", " ")
        assert ("5,012 tokens" in words) == (name == "a") and ("by k of s^k" in words) == (name == "b")


def test_lines_are_cut_and_filled_up():
    assert exactly([Text("界界界"), Text("ab")], 4, 3).plain.split("\n") == ["界 …", "ab", ""]
