"""Schedule text, its errors, and what it resolves to."""

import random
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stagescope.engine.plan import uses_means
from stagescope.engine.schedule import (
    Off,
    Run,
    Schedule,
    ScheduleError,
    Switch,
    attn_off,
    drop,
    head_off,
    mlp_off,
    neuron_off,
    parse,
    repeat,
    resolve,
    swap,
    sync_layers,
    toggle,
)

L = 12
ZERO, MEAN = Switch("zero", None), Switch("mean", None)


def plan(text, **given):
    return resolve(parse(text), L, **given)


def order(text, n_layers=L, **given):
    """The executed order as layer numbers; a parallel group is a tuple."""
    places = resolve(parse(text), n_layers, **given)
    return [p[0].layer if len(p) == 1 else tuple(run.layer for run in p) for p in places]


def runs(text, layer, **given):
    return [run for place in plan(text, **given) for run in place if run.layer == layer]


def error(text, n_layers=None, **given):
    with pytest.raises(ScheduleError) as caught:
        schedule = parse(text)
        resolve(schedule, n_layers or L, **given)
    return caught.value


# Canonical text


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("", ""),
        (" ; ;; ", ""),
        ("drop 3", "drop 3"),
        ("drop 3;", "drop 3"),
        ("  DROP\t3 ,5 ;; swap 7,3", "drop 3 5; swap 3 7"),
        ("drop 3; drop 5; drop 6; drop 7", "drop 3 5-7"),
        ("drop 7 5,6 1-3", "drop 1-3 5-7"),
        ("drop 5 6", "drop 5-6"),
        ("drop 5-5", "drop 5"),
        ("drop 007", "drop 7"),
        ("drop 3; ; drop 4", "drop 3-4"),
        ("drop 3; swap 1 2; drop 4", "drop 3; swap 1 2; drop 4"),
        ("drop 3; attn-off 4", "drop 3; attn-off 4"),
        ("attn-off 9; attn-off 8; mlp-off 2", "attn-off 8-9; mlp-off 2"),
        ("drop 3 mean; drop 4 mean", "drop 3-4 mean"),
        ("drop 3 mean; drop 4", "drop 3 mean; drop 4"),
        ("drop 3 @10; drop 4 @ 10-10", "drop 3-4 @10"),
        ("drop 3 @10; drop 4 @11", "drop 3 @10; drop 4 @11"),
        ("drop 3 MEAN @ 10-12", "drop 3 mean @10-12"),
        ("mlp-off 3@-01", "mlp-off 3 @-1"),
        ("drop 3; drop 3", "drop 3; drop 3"),  # merged, the error of the second would be lost
        ("drop 3; drop 3; drop 4", "drop 3; drop 3-4"),
        ("attn-off 3-5; attn-off 5-6", "attn-off 3-5; attn-off 5-6"),
        ("swap 7 3", "swap 3 7"),
        ("repeat 4 x2", "repeat 4"),
        ("repeat 4-5 X 3", "repeat 4-5 x3"),
        ("repeat 4 x1", "repeat 4 x1"),
        ("repeat 4; repeat 4", "repeat 4; repeat 4"),
        ("loop 4-5 x 2", "loop 4-5"),
        ("loop 4-5 x03", "loop 4-5 x3"),
        ("middle-repeat 4-6", "middle-repeat 4-6"),
        ("reverse 4-4", "reverse 4"),
        ("shuffle 4-9 seed 0", "shuffle 4-9"),
        ("shuffle 4-9 Seed 20260101", "shuffle 4-9 seed 20260101"),
        ("parallel 4-9 x1", "parallel 4-9"),
        ("parallel 4-9 x 3", "parallel 4-9 x3"),
        ("order 0 1,2 3 5 7A", "order 0-3 5 7a"),
        ("order 3 2 1-2 3 3 4", "order 3 2 1-3 3-4"),
        ("order 0a 1 2 1m 2", "order 0a 1-2 1m 2"),
        ("drop\n3", "drop 3"),
        ("head-off 5.3 5.0-2 @-1", "head-off 5.0-3 @-1"),
        ("HEAD-OFF 5.3,4.1 ; head-off 5.04", "head-off 4.1 5.3-4"),
        ("head-off 5.3 6.4", "head-off 5.3 6.4"),  # no range runs on into the next layer
        ("head-off 5.3; head-off 5.4 mean; head-off 5.6 mean", "head-off 5.3; head-off 5.4 5.6 mean"),
        ("head-off 5.3; head-off 5.3", "head-off 5.3; head-off 5.3"),
        ("neuron-off 28.1011 Mean @3", "neuron-off 28.1011 mean @3"),
        ("neuron-off 2.9 2.10 2.11; neuron-off 1.7", "neuron-off 1.7 2.9-11"),
    ],
)
def test_canonical_text(typed, canonical):
    assert str(parse(typed)) == canonical
    assert parse(typed) == parse(canonical)
    assert hash(parse(typed)) == hash(parse(canonical))


def test_only_the_empty_schedule_is_false():
    assert not parse("") and not parse(";") and parse("") == Schedule()
    assert parse("drop 3")


def test_different_schedules_differ():
    texts = "drop 3,drop 3 mean,drop 3 @3,attn-off 3,repeat 3,repeat 3 x3,loop 3,order 3,order 3a".split(",")
    assert len({parse(text) for text in texts}) == len(texts)


# Errors of the text


@pytest.mark.parametrize(
    ("text", "marked", "says"),
    [
        ("drop 3; drp 4", "drp", "'drp' is not a verb: did you mean drop?"),
        ("attn_off 4", "attn_off", "did you mean attn-off?"),
        ("frobnicate 4", "frobnicate", "a step begins with drop, attn-off, mlp-off, head-off, neuron-off, swap"),
        ("7-5", "7-5", "not a verb"),
        ("@3", "@", "not a verb"),
        ("drop", "drop", "needs at least one layer: drop 3 5-7"),
        ("drop mean", "drop", "needs at least one layer"),
        ("drop @3", "drop", "needs at least one layer"),
        ("drop 7-5", "7-5", "write 5-7"),
        ("drop 3 3", "3", "layer 3 is named twice"),
        ("drop 4 3-5", "3-5", "layer 4 is named twice"),
        ("drop 3-5 4 mean", "4", "layer 4 is named twice"),
        ("attn-off 3 1-3", "1-3", "layer 3 is named twice"),
        ("drop -3", "-3", "layers count from 0"),
        ("drop 3 - 5", "-", "without spaces"),
        ("drop 3-", "3-", "does not belong here"),
        ("drop three", "three", "'three' does not belong here: write drop 3"),
        ("drop ٣", "٣", "does not belong here"),
        ("drop 3 mean 4", "mean", "mean comes once, after the layers"),
        ("drop 3 mean mean", "mean", "mean comes once"),
        ("drop 3a", "3a", "is for order"),
        ("drop 3 x2", "x2", "does not belong here"),
        ("drop 3 swap 4 5", "swap", "semicolon: write ; swap"),
        ("drop 99999", "99999", "numbers here go to 9999"),
        ("drop 0-99999999999", "0-99999999999", "too large"),
        ("drop " + "9" * 9000, "9" * 9000, "too large"),
        ("drop 3 @", "@", "@10, @3-5 or @-1"),
        ("drop 3 @ 4 5", "5", "one position or range ends the step"),
        ("drop 3 @4 mean", "mean", "one position or range ends the step"),
        ("drop 3 @4 @5", "@", "one position or range ends the step"),
        ("drop 3 @5-4", "5-4", "write 4-5"),
        ("drop 3 @-0", "-0", "not a position"),
        ("drop 3 @-3--1", "-3--1", "not a position"),
        ("drop 3 @x", "x", "not a position"),
        ("drop 3 @100000", "100000", "numbers here go to 99999"),
        ("swap 3 4 @5", "@", "only for drop, attn-off, mlp-off"),
        ("order 3 4 @5", "@", "only for drop, attn-off, mlp-off"),
        ("swap 3 3", "3", "two different layers"),
        ("swap", "swap", "needs two layers: swap 3 7"),
        ("swap 3", "3", "needs two layers"),
        ("swap 3 4 5", "5", "takes two layers"),
        ("swap 3-4 5", "3-4", "two single layers"),
        ("swap 3 4 mean", "mean", "does not belong here"),
        ("repeat", "repeat", "needs one span"),
        ("repeat 3 5", "5", "takes one span"),
        ("repeat 4 x0", "x0", "x1 or more"),
        ("repeat 4 x 0", "0", "x1 or more"),
        ("loop 4 x0", "x0", "x1 or more"),
        ("parallel 4-5 x0", "x0", "x1 or more"),
        ("repeat 4 x", "x", "a whole number stands after x"),
        ("repeat 4 x -1", "-1", "a whole number stands after x"),
        ("repeat 4 x3 5", "5", "end the step"),
        ("repeat 4 x10000", "x10000", "numbers here go to 9999"),
        ("repeat 4x2", "4x2", "does not belong here"),
        ("middle-repeat 4 x2", "x2", "does not belong here"),
        ("reverse 4-6 seed 1", "seed", "does not belong here"),
        ("shuffle 4-6 seed", "seed", "a whole number stands after seed"),
        ("shuffle 4-6 seed 9999999999", "9999999999", "too large"),
        ("shuffle 4-6 x2", "x2", "does not belong here"),
        ("order", "order", "needs at least one layer"),
        ("order 3-5a", "3-5a", "a sublayer belongs to one layer"),
        ("order 3b", "3b", "does not belong here"),
        ("head-off 5", "5", "head 3 of layer 5 is written 5.3 (attn-off takes layers)"),
        ("neuron-off 5-6", "5-6", "neuron 3 of layer 5 is written 5.3 (mlp-off takes layers)"),
        ("drop 5.3", "5.3", "layers have no point: drop takes whole layers, a part of one is for head-off 5.3"),
        ("head-off", "head-off", "needs at least one head"),
        ("neuron-off mean", "neuron-off", "needs at least one neuron"),
        ("head-off 5.3 4.0 5.1-3", "5.1-3", "head 5.3 is named twice"),
        ("neuron-off 5.3 5.3", "5.3", "neuron 5.3 is named twice"),
        ("head-off 5.3-1", "5.3-1", "write 5.1-3"),
        ("head-off 5.3-5.6", "5.3-5.6", "a range stays within one layer"),
        ("head-off 5.3 mean 5.4", "mean", "mean comes once, after the heads"),
        ("head-off 5.3 drop 4", "drop", "semicolon: write ; drop"),
        ("head-off 5.", "5.", "does not belong here: write head-off 5.3"),
        ("head-off 5.12345", "5.12345", "numbers here go to 9999"),
        ("neuron-off 5.1234567", "5.1234567", "numbers here go to 999999"),
        ("neuron-off 0.0-99998 1.0-1", "1.0-1", "at most 100,000 heads and neurons"),
    ],
)
def test_errors_of_the_text_mark_the_place(text, marked, says):
    with pytest.raises(ScheduleError) as caught:
        parse(text)
    blamed = caught.value
    assert (blamed.text, blamed.text[blamed.start : blamed.end]) == (text, marked)
    assert says in blamed.reason


def test_the_later_of_two_equal_words_is_marked():
    assert error("drop 3 3").start == 7
    assert error("swap 3 3").start == 7
    assert error("drop 3 mean mean").start == 7


def test_error_is_three_lines_with_carets_under_the_place():
    assert str(error("drop 3; swap 4 4")).split("\n") == [
        "drop 3; swap 4 4",
        "               ^",
        "swap takes two different layers: swap 3 7",
    ]


def test_error_shows_control_characters_escaped_and_carets_stay_aligned():
    lines = str(error("drop 日本 \x1b[2J\n3")).split("\n")
    assert lines[:2] == ["drop 日本 \\u{1b}[2J\\u{a}3", "     ^^^^"]
    escaped = error("drop\n3 \x1b[2J")
    assert str(escaped).split("\n")[:2] == ["drop\\u{a}3 \\u{1b}[2J", " " * 11 + "^" * 9]
    assert "\x1b" not in escaped.reason


def test_long_text_is_refused_and_its_canonical_text_is_no_longer():
    blamed = error("drop 3" + ";" * 1999)
    assert "at most 2000 words, this one has 2001" in blamed.reason and blamed.end == len(blamed.text)
    longest = parse("swap 1 2;" * 500)
    assert parse(str(longest)) == longest


# The executed order


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("drop 0", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("drop 0-10", [11]),
        ("drop 0-11", []),
        ("swap 3 4", [0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11]),
        ("swap 3 7", [0, 1, 2, 7, 4, 5, 6, 3, 8, 9, 10, 11]),
        ("repeat 4-5", [0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 11]),
        ("repeat 4 x3", [0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("repeat 4; repeat 4", [0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("loop 4-5", [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("swap 4 5; loop 4-5", [0, 1, 2, 3, 5, 4, 5, 4, 6, 7, 8, 9, 10, 11]),
        ("repeat 4; loop 4-5", [0, 1, 2, 3, 4, 4, 5, 4, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("middle-repeat 2-4", [0, 1, 6, 6, 6, 5, 6, 7, 8, 9, 10, 11]),
        ("middle-repeat 5-7", [0, 1, 2, 3, 4, 6, 6, 6, 8, 9, 10, 11]),
        ("repeat 2; middle-repeat 2", [0, 1, 6, 6, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("drop 6; middle-repeat 2", [0, 1, 6, 3, 4, 5, 7, 8, 9, 10, 11]),
        ("reverse 5-9", [0, 1, 2, 3, 4, 9, 8, 7, 6, 5, 10, 11]),
        ("swap 3 7; reverse 5-9", [0, 1, 2, 9, 4, 8, 6, 3, 5, 7, 10, 11]),
        ("reverse 5", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("parallel 4-6", [0, 1, 2, 3, (4, 5, 6), 7, 8, 9, 10, 11]),
        ("parallel 4-6 x3", [0, 1, 2, 3, (4, 5, 6), (4, 5, 6), (4, 5, 6), 7, 8, 9, 10, 11]),
        ("reverse 4-6; parallel 4-6", [0, 1, 2, 3, (4, 5, 6), 7, 8, 9, 10, 11]),
        ("swap 5 9; swap 5 9; parallel 4-6", [0, 1, 2, 3, (4, 5, 6), 7, 8, 9, 10, 11]),
        ("parallel 4", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("order 11 0-2 2", [11, 0, 1, 2, 2]),
        ("swap 0 1; order 0-3", [0, 1, 2, 3]),
        ("drop 3; order 11 2", [11, 2]),
        # copies and groups
        ("repeat 4; drop 4", [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]),
        ("loop 4-5; drop 4", [0, 1, 2, 3, 5, 5, 6, 7, 8, 9, 10, 11]),
        ("parallel 4-6 x2; drop 5", [0, 1, 2, 3, (4, 6), (4, 6), 7, 8, 9, 10, 11]),
        ("parallel 4-6; drop 4-6", [0, 1, 2, 3, 7, 8, 9, 10, 11]),
        ("parallel 4-6; drop 4-5; swap 6 11", [0, 1, 2, 3, 11, 7, 8, 9, 10, 6]),
        ("parallel 4-6; swap 3 7", [0, 1, 2, 7, (4, 5, 6), 3, 8, 9, 10, 11]),
        ("parallel 4-6; order 3 7", [3, 7]),
    ],
)
def test_executed_order(text, expected):
    assert order(text) == expected


def test_middle_is_half_of_the_model_rounded_down():
    assert order("middle-repeat 0", n_layers=7) == [3, 1, 2, 3, 4, 5, 6]


def test_shuffle_sorts_by_draws_in_layer_order():
    draws = random.Random(5)
    drawn = {layer: draws.random() for layer in range(3, 10)}
    assert order("shuffle 3-9 seed 5") == [0, 1, 2, *sorted(drawn, key=drawn.get), 10, 11]
    assert order("reverse 2-10; shuffle 3-9 seed 5") == [0, 1, 10, *sorted(drawn, key=drawn.get), 2, 11]


def test_shuffle_is_the_same_in_every_version():
    assert order("shuffle 3-9")[3:10] == [6, 8, 5, 7, 4, 9, 3]
    assert order("shuffle 3-9 seed 1")[3:10] == [3, 6, 8, 7, 9, 5, 4]


# Sublayer switches


@pytest.mark.parametrize(
    ("text", "attn", "mlp"),
    [
        ("attn-off 3", (ZERO,), ()),
        ("mlp-off 3", (), (ZERO,)),
        ("attn-off 3 mean", (MEAN,), ()),
        ("drop 3 mean", (MEAN,), (MEAN,)),
        ("drop 3 @4", (Switch("zero", (4,)),), (Switch("zero", (4,)),)),
        ("drop 3 mean @4-6", (Switch("mean", (4, 5, 6)),), (Switch("mean", (4, 5, 6)),)),
        ("mlp-off 3 @-1", (), (Switch("zero", (9,)),)),
        ("mlp-off 3 @-10", (), (Switch("zero", (0,)),)),
        # later steps win, and one meaning has one form
        ("attn-off 3; attn-off 3", (ZERO,), ()),
        ("attn-off 3; attn-off 3 mean", (MEAN,), ()),
        ("attn-off 3 @4; attn-off 3", (ZERO,), ()),
        ("attn-off 3; attn-off 3 @4", (ZERO,), ()),
        ("attn-off 3 mean @4; attn-off 3", (ZERO,), ()),
        ("attn-off 3 @7; attn-off 3 @4-5", (Switch("zero", (4, 5, 7)),), ()),
        ("attn-off 3 @4-5; attn-off 3 @5-6", (Switch("zero", (4, 5, 6)),), ()),
        ("attn-off 3 @4-5; attn-off 3 mean @5-6", (Switch("zero", (4,)), Switch("mean", (5, 6))), ()),
        ("attn-off 3 mean @5-6; attn-off 3 @4-5", (Switch("zero", (4, 5)), Switch("mean", (6,))), ()),
        ("attn-off 3 @4; attn-off 3 mean @4", (Switch("mean", (4,)),), ()),
        ("attn-off 3; attn-off 3 mean @0-7", (Switch("zero", (8, 9)), Switch("mean", tuple(range(8)))), ()),
        ("attn-off 3; attn-off 3 mean @0-9", (Switch("mean", None),), ()),
        ("attn-off 3 @-1; attn-off 3 @9", (Switch("zero", (9,)),), ()),
        # switches stay with their layer
        ("attn-off 3; swap 3 9", (ZERO,), ()),
        ("attn-off 3; reverse 1-8", (ZERO,), ()),
        ("attn-off 3; order 9 3", (ZERO,), ()),
        ("attn-off 3; order 3a", (ZERO,), (ZERO,)),
        ("mlp-off 3 @4; order 3a", (), (ZERO,)),
        ("mlp-off 3 @4; order 3m", (ZERO,), (Switch("zero", (4,)),)),
        ("order 3a; mlp-off 3 mean", (), (MEAN,)),
        ("order 3a", (), (ZERO,)),
        ("order 3m", (ZERO,), ()),
        ("attn-off 3; parallel 2-4", (ZERO,), ()),
        ("parallel 2-4; attn-off 3", (ZERO,), ()),
    ],
)
def test_switches(text, attn, mlp):
    assert runs(text, 3, n_positions=10) == [Run(3, attn, mlp)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("drop 3 @4", "attn-off 3 @4; mlp-off 3 @4"),
        ("drop 3 mean", "mlp-off 3 mean; attn-off 3 mean"),
        ("drop 3 @4-5", "drop 3 @5; drop 3 @4"),
        ("drop 3 @-1", "drop 3 @9"),
        ("attn-off 3 @0-9", "attn-off 3"),
        ("mlp-off 3 mean @0-4; mlp-off 3 mean @5-9", "mlp-off 3 mean"),
        ("head-off 3.1 mean @0-9", "head-off 3.1 mean"),
        ("neuron-off 3.1 @2-9; neuron-off 3.1 @0-3", "neuron-off 3.1"),
        ("attn-off 3 @0-4; head-off 3.1 @5-9", "attn-off 3 @0-4; head-off 3.1"),
        ("order 0-2 3a 4-11", "mlp-off 3"),
        ("swap 3 4; swap 3 4", ""),
        ("drop 3; swap 5 6", "swap 5 6; drop 3"),
        ("loop 4", "repeat 4"),
    ],
)
def test_equal_meaning_is_an_equal_plan(one, other):
    assert plan(one, n_positions=10) == plan(other, n_positions=10)
    assert hash(plan(one, n_positions=10)) == hash(plan(other, n_positions=10))


def off(which, kind="zero", positions=None):
    return Off(Switch(kind, positions), which)


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("head-off 3.5 3.0-1", (off((0, 1, 5)),)),
        ("head-off 3.0 @-1; head-off 3.1 mean", (off((1,), "mean"), off((0,), positions=(9,)))),
        # later steps win, and one meaning has one form
        ("head-off 3.1; head-off 3.0-1 mean", (off((0, 1), "mean"),)),
        ("head-off 3.1 @4; head-off 3.1", (off((1,)),)),
        ("head-off 3.0-1 @4; head-off 3.1 @5", (off((0,), positions=(4,)), off((1,), positions=(4, 5)))),
        ("head-off 3.1; head-off 3.1 mean @0-7", (off((1,), "mean", tuple(range(8))), off((1,), positions=(8, 9)))),
        # heads go with their attention
        ("attn-off 3; head-off 3.1", ()),
        ("head-off 3.1 mean; attn-off 3", ()),
        ("head-off 3.1; drop 3 mean", ()),
        ("head-off 3.1; attn-off 3 @0-9", ()),
        ("head-off 3.1; order 3m", ()),
        ("head-off 3.1 @2-4; attn-off 3 @3", (off((1,), positions=(2, 4)),)),
        ("attn-off 3 @3; head-off 3.1 @2-3; head-off 3.2 @2", (off((1, 2), positions=(2,)),)),
        ("head-off 3.1; mlp-off 3", (off((1,)),)),
        # and with their layer
        ("head-off 3.1; swap 3 9; parallel 1-4", None),
    ],
)
def test_heads_off(text, heads):
    if heads is None:
        assert error(text).reason.startswith("parallel needs its layers side by side")
        return
    (run,) = runs(text, 3, n_positions=10)
    assert run.heads == heads and not run.neurons


def test_heads_and_neurons_are_hit_in_every_copy():
    assert runs("repeat 3; head-off 3.1", 3) == [Run(3, heads=(off((1,)),))] * 2
    assert runs("neuron-off 3.1; parallel 2-4 x2", 3) == [Run(3, neurons=(off((1,)),))] * 2
    assert plan("parallel 2-4; neuron-off 3.1") == plan("neuron-off 3.1; parallel 2-4")
    assert uses_means(plan("neuron-off 3.1 mean @2")) and uses_means(plan("head-off 3.1 mean"))
    assert not uses_means(plan("head-off 3.1; neuron-off 3.1"))


def test_a_drop_at_positions_or_by_the_mean_keeps_the_place():
    assert order("drop 3 @4; drop 5 mean") == order("")


def test_switches_hit_every_copy():
    assert runs("repeat 3 x3; attn-off 3", 3) == [Run(3, (ZERO,))] * 3
    assert runs("attn-off 3; repeat 3", 3) == [Run(3, (ZERO,))] * 2
    assert runs("order 3a 3m 3; mlp-off 3 mean", 3) == [
        Run(3, (), (MEAN,)), Run(3, (ZERO,), (MEAN,)), Run(3, (), (MEAN,))
    ]  # fmt: skip


def test_middle_copies_carry_the_middle_layers_switches():
    assert runs("attn-off 6; middle-repeat 2", 6) == [Run(6, (ZERO,))] * 2
    assert runs("middle-repeat 2; attn-off 6", 6) == [Run(6, (ZERO,))] * 2
    assert runs("attn-off 2; middle-repeat 2", 6) == [Run(6)] * 2


def test_sublayer_orders():
    assert plan("order 0a 1a 0m 1m") == (
        (Run(0, (), (ZERO,)),), (Run(1, (), (ZERO,)),), (Run(0, (ZERO,)),), (Run(1, (ZERO,)),)
    )  # fmt: skip


def test_without_a_prompt_positions_stay_as_written():
    assert runs("drop 3 @-1", 3) == [Run(3, (Switch("zero", (-1,)),), (Switch("zero", (-1,)),))]
    assert runs("attn-off 3 @40", 3) == [Run(3, (Switch("zero", (40,)),))]
    assert runs("attn-off 3; attn-off 3 mean @4", 3) == [Run(3, (ZERO, Switch("mean", (4,))))]
    assert runs("attn-off 3 mean; attn-off 3 @4", 3) == [Run(3, (MEAN, Switch("zero", (4,))))]


# Errors of carrying out


@pytest.mark.parametrize(
    ("text", "at", "marked", "says"),
    [
        ("drop 3 12", 7, "12", "layer 12 is out of range: this model has layers 0-11"),
        ("drop 10-13", 5, "10-13", "layer 12 is out of range"),
        ("drop 0-9999", 5, "0-9999", "layer 12 is out of range"),
        ("swap 20 3", 5, "20", "layer 20 is out of range"),
        ("order 0-3 12a", 10, "12a", "out of range"),
        ("drop 3; drop 40", 13, "40", "out of range"),  # marked in the text as typed, though the steps merge
        ("DROP 3;;drop 3", 13, "3", "layer 3 is already dropped: still running: 0-2 4-11"),
        ("drop 0-11; attn-off 3", 20, "3", "layer 3 is already dropped: still running: none"),
        ("drop 3; attn-off 2-4", 17, "2-4", "layer 3 is already dropped"),
        ("drop 3; drop 3 @4", 13, "3", "already dropped"),
        ("drop 3; swap 3 4", 13, "3", "already dropped"),
        ("drop 3; repeat 3", 15, "3", "already dropped"),
        ("drop 3; reverse 1-5", 16, "1-5", "already dropped"),
        ("drop 3; order 0-5", 14, "0-5", "already dropped"),
        ("order 0-5; drop 7", 16, "7", "already dropped"),
        ("middle-repeat 3; drop 3", 22, "3", "already dropped"),
        ("repeat 4; swap 3 4", 17, "4", "layer 4 stands in 2 places: swap needs it in one"),
        ("repeat 4 x3; reverse 3-5", 21, "3-5", "layer 4 stands in 3 places: reverse needs it in one"),
        ("repeat 4; shuffle 3-5", 18, "3-5", "shuffle needs it in one"),
        ("loop 4-5; parallel 3-5", 19, "3-5", "parallel needs it in one"),
        ("repeat 4; order 0-5", 16, "0-5", "order needs it in one"),
        ("middle-repeat 2; swap 6 7", 22, "6", "stands in 2 places"),
        ("parallel 4-6; swap 3 5", 21, "5", "layer 5 is in a parallel group: only drop, attn-off"),
        ("parallel 4-6; repeat 5", 21, "5", "parallel group"),
        ("parallel 4-6; loop 4-6", 19, "4-6", "parallel group"),
        ("parallel 4-6; middle-repeat 5", 28, "5", "parallel group"),
        ("parallel 4-6 x2; parallel 6-7", 26, "6-7", "parallel group"),
        ("parallel 4-6; order 0-5", 20, "0-5", "parallel group"),
        ("swap 5 9; parallel 4-6", 10, "parallel 4-6", "side by side in the executed order: layer 9"),
        ("swap 5 9; loop 4-6", 10, "loop 4-6", "layer 9 stands between"),
        ("repeat 0-11 x9", 0, "repeat 0-11 x9", "would be 108 layers long: at most 8 x 12 = 96"),
        ("repeat 3 x9999", 0, "repeat 3 x9999", "at most 8 x 12 = 96"),
        ("loop 3-4 x9999", 0, "loop 3-4 x9999", "at most 8 x 12 = 96"),
        ("parallel 3-4 x9999", 0, "parallel 3-4 x9999", "at most 8 x 12 = 96"),
        ("order" + " 0-11" * 9, 0, "order" + " 0-11" * 9, "would be 108 layers long"),
        ("order 6a 6m; middle-repeat 6", 13, "middle-repeat 6", "layer 6, to be repeated, runs in several"),
        ("drop 3; drop 4 @ 10", 17, "10", "position 10 is outside the prompt: it has 0-9, or -1 to -10"),
        ("drop 3 @8-10", 8, "8-10", "position 10 is outside"),
        ("drop 3 @-11", 8, "-11", "position -11 is outside"),
        ("head-off 3.1 12.0", 13, "12.0", "layer 12 is out of range"),
        ("head-off 3.1 3.7-9", 13, "3.7-9", "head 3.8 is out of range: layer 3 has heads 0-7"),
        ("neuron-off 3.1; neuron-off 3.100", 27, "3.100", "neuron 3.100 is out of range: layer 3 has neurons 0-99"),
        ("drop 3; head-off 2.1 3.1", 21, "3.1", "layer 3 is already dropped"),
        ("neuron-off 3.1 @10", 16, "10", "position 10 is outside"),
        ("parallel 4-6; swap 3 5", 21, "5", "head-off and neuron-off reach inside it"),
    ],
)
def test_errors_of_carrying_out_mark_the_place(text, at, marked, says):
    blamed = error(text, n_positions=10, n_heads=8, d_mlp=100)
    assert (blamed.text, blamed.start, text[blamed.start : blamed.end]) == (text, at, marked)
    assert says in blamed.reason and "\n" not in blamed.reason


def test_the_longest_order_is_allowed():
    assert len(plan("repeat 0-11 x8")) == 96
    assert len(plan("parallel 0-11 x96")) == 96


def test_sublayer_items_are_refused_on_parallel_blocks():
    blamed = error("order 3 0-2 3a", parallel_blocks=True)
    assert blamed.text[blamed.start : blamed.end] == "3a"
    assert "attention and MLP run in parallel" in blamed.reason
    assert len(plan("order 3 0-2; attn-off 3", parallel_blocks=True)) == 4


def test_schedules_built_by_code_mark_their_canonical_text():
    with pytest.raises(ScheduleError) as caught:
        resolve(Schedule((drop(5, 3), swap(40, 1))), L)
    assert caught.value.text == "drop 3 5; swap 1 40"
    assert caught.value.start == len("drop 3 5; swap 1 ")


# Steps by code, and the toggle


def test_builders():
    steps = (drop(7, 5, 6), attn_off(3), mlp_off(3, 4), swap(4, 3), repeat(4), repeat(4, 6, times=3))
    steps += (head_off(5, 3, 0, 1), neuron_off(28, 1011))
    text = "drop 5-7; attn-off 3; mlp-off 3-4; swap 3 4; repeat 4; repeat 4-6 x3"
    text += "; head-off 5.0-1 5.3; neuron-off 28.1011"
    assert str(Schedule(steps)) == text and Schedule(steps) == parse(text)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        *((drop, ()), (drop, (-1,)), (drop, (3, 3)), (swap, (3, 3)), (repeat, (4, 2))),
        *((head_off, (4,)), (neuron_off, (4, -1))),
    ],
)
def test_builders_refuse_what_the_text_refuses(build, arguments):
    with pytest.raises(ScheduleError):
        build(*arguments)


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        ("", drop(3), "drop 3"),
        ("drop 3", drop(3), ""),
        ("drop 3 5-7", drop(6), "drop 3 5 7"),
        ("drop 3 5-7", drop(4), "drop 3-7"),
        ("drop 3 5-7", drop(5, 7), "drop 3 6"),
        ("drop 3; swap 1 2", drop(3), "swap 1 2"),
        ("drop 3; swap 1 2; drop 4", swap(2, 1), "drop 3-4"),
        ("drop 3 mean", drop(3), "drop 3 mean; drop 3"),
        ("drop 3 @4", drop(3), "drop 3 @4; drop 3"),
        ("drop 3", attn_off(3), "drop 3; attn-off 3"),
        ("attn-off 3-4", attn_off(3), "attn-off 4"),
        ("attn-off 3", attn_off(3, 4), "attn-off 3; attn-off 3-4"),
        ("swap 3 4", swap(4, 3), ""),
        ("swap 3 4", swap(4, 5), "swap 3 4; swap 4 5"),
        ("repeat 4-5 x3", repeat(4, 5), ""),
        ("repeat 4; drop 1; repeat 4", repeat(4), "repeat 4; drop 1"),
        ("repeat 4-5", repeat(4), "repeat 4-5; repeat 4"),
        ("loop 4", repeat(4), "loop 4; repeat 4"),
        ("head-off 5.0-2 6.1", head_off(5, 1), "head-off 5.0 5.2 6.1"),
        ("head-off 5.0", head_off(5, 1), "head-off 5.0-1"),
        ("head-off 5.0 mean", head_off(5, 0), "head-off 5.0 mean; head-off 5.0"),
        ("head-off 5.1", neuron_off(5, 1), "head-off 5.1; neuron-off 5.1"),
        ("neuron-off 5.1; drop 3", neuron_off(5, 1), "drop 3"),
    ],
)
def test_toggle(before, step, after):
    assert str(toggle(parse(before), step)) == after


# Where the baseline is comparable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [-1, 0, 1, 2, 3, 4, 5]),
        ("drop 2", [-1, 0, 1, 3, 4, 5]),
        ("drop 0", [-1, 1, 2, 3, 4, 5]),
        ("drop 5", [-1, 0, 1, 2, 3, 4]),
        ("drop 0-5", [-1]),
        ("attn-off 2", [-1, 0, 1, 2, 3, 4, 5]),
        ("swap 2 3", [-1, 0, 1, None, 3, 4, 5]),
        ("swap 1 4", [-1, 0, None, None, None, 4, 5]),
        ("repeat 2-3", [-1, 0, 1, None, 2, None, 3, 4, 5]),
        ("loop 2-3", [-1, 0, 1, None, None, None, 3, 4, 5]),
        ("middle-repeat 1-2", [-1, 0, None, None, 3, 4, 5]),
        ("middle-repeat 4", [-1, 0, 1, 2, None, 3, 5]),
        ("reverse 0-5", [-1, None, None, None, None, None, 5]),
        ("parallel 2-3", [-1, 0, 1, 3, 4, 5]),
        ("parallel 2-3 x2", [-1, 0, 1, None, 3, 4, 5]),
        ("order 5 0", [-1, None, 5]),
    ],
)
def test_sync_layers(text, expected):
    assert list(sync_layers(resolve(parse(text), 6))) == expected


# Properties

layers = st.integers(0, L - 1)
one_span = st.tuples(layers, layers).map(lambda ends: f"{min(ends)}-{max(ends)}")
layer_sets = st.sets(layers, min_size=1, max_size=5).flatmap(lambda s: st.permutations(sorted(s)))
parts = st.tuples(layers, st.integers(0, 3))
part_sets = st.sets(parts, min_size=1, max_size=5).map(
    lambda named: [f"{layer}.{2 * n}" + f"-{2 * n + 1}" * (n % 2) for layer, n in sorted(named, reverse=True)]
)
positions = st.one_of(
    st.integers(-5, 20).map(str),
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda ends: f"{min(ends)}-{max(ends)}"),
)


@st.composite
def switching_steps(draw):
    verb = draw(st.sampled_from(["drop", "attn-off", "MLP-off", "head-off", "Neuron-off"]))
    named = draw(part_sets if verb in ("head-off", "Neuron-off") else layer_sets)
    words = [verb, draw(st.sampled_from([" ", ", "])).join(map(str, named))]
    if draw(st.booleans()):
        words.append("mean")
    if draw(st.booleans()):
        words.append(draw(st.sampled_from(["@", "@ "])) + draw(positions))
    return " ".join(words)


@st.composite
def moving_steps(draw):
    """Steps of the verbs that move, copy or remove whole layers, as text."""
    verb = draw(st.sampled_from(["drop", "swap", "repeat", "loop", "middle-repeat", "reverse", "shuffle"]))
    if verb in ("drop", "swap"):
        named = draw(layer_sets if verb == "drop" else st.permutations(range(L)).map(lambda p: p[:2]))
        return f"{verb} {' '.join(map(str, named))}"
    suffix = ""
    if verb in ("repeat", "loop"):
        suffix = draw(st.sampled_from(["", " x1", " X 2", " x3"]))
    if verb == "shuffle":
        suffix = draw(st.sampled_from(["", " seed 0", " seed 7"]))
    return f"{verb} {draw(one_span)}{suffix}"


items = st.one_of(layers.map(str), one_span, layers.map("{}a".format), layers.map("{}M".format))
orders = st.lists(items, min_size=1, max_size=6).map(lambda parts: "order " + " ".join(parts))
parallels = st.tuples(one_span, st.sampled_from(["", " x1", " x3"])).map(lambda p: f"parallel {p[0]}{p[1]}")
texts = st.lists(
    st.one_of(switching_steps(), moving_steps(), orders, parallels, st.just(" ")), max_size=6
).map(" ;".join)  # fmt: skip


@given(texts)
def test_canonical_text_reads_back(text):
    schedule = parse(text)
    assert parse(str(schedule)) == schedule
    assert str(parse(str(schedule))) == str(schedule)


@given(texts)
def test_canonical_text_keeps_the_meaning(text):
    def outcome(schedule):
        try:
            return resolve(schedule, L, n_positions=21)
        except ScheduleError as refused:
            return refused.reason

    assert outcome(parse(text)) == outcome(parse(str(parse(text)))) == outcome(Schedule(parse(text).steps))


@given(texts)
def test_a_resolved_plan_is_bounded_and_normal(text):
    try:
        places = resolve(parse(text), L, n_positions=21)
    except ScheduleError as refused:
        assert 0 <= refused.start <= refused.end <= len(text)
        assert len(str(refused).split("\n")) == 3
        return
    assert len(places) <= 8 * L
    assert len(sync_layers(places)) == len(places) + 1
    every = [run for place in places for run in place]
    for run in every:
        for offs, whole in ((run.heads, run.attn), (run.neurons, run.mlp)):
            assert not offs or all(switch.positions is not None for switch in whole)
            named = [(number, p) for o in offs for number in o.which for p in o.switch.positions or range(21)]
            assert len(named) == len(set(named)) and all(list(o.which) == sorted(set(o.which)) for o in offs)
            assert len({o.switch for o in offs}) == len(offs)
    for switches in (switches for run in every for switches in (run.attn, run.mlp)):
        assert len({switch.kind for switch in switches}) == len(switches)
        if any(switch.positions is None for switch in switches):
            assert len(switches) == 1
        named = [position for switch in switches for position in switch.positions or ()]
        assert len(named) == len(set(named)) and all(0 <= position < 21 for position in named)
        assert all(list(switch.positions or ()) == sorted(switch.positions or ()) for switch in switches)
        assert () not in [switch.positions for switch in switches]


@given(
    st.lists(
        st.tuples(st.sampled_from(["head-off 3.0", "head-off 3.1", "head-off 3.0-1", "attn-off 3"]),
                  st.sampled_from(["", " mean"]), st.sampled_from(["", " @0", " @-1", " @1-2", " @0-3"])),
        max_size=6,
    )
)  # fmt: skip
def test_of_heads_and_attention_the_later_wins_where_it_applies(steps):
    """Against a table of what is done to each of two heads, and to the attention, at each of four positions."""
    table = dict.fromkeys([(what, p) for what in (0, 1, "attn") for p in range(4)])
    for named, mean, at in steps:
        whats = {"1": [1], "0": [0], "0-1": [0, 1], "attn-off 3": ["attn"]}[named.split(".")[-1]]
        at = {"": range(4), " @-1": [3]}.get(at) or range(int(at[2]), int(at[-1]) + 1)
        table |= {(what, p): "mean" if mean else "zero" for what in whats for p in at}
    (run,) = runs("; ".join(map("".join, steps)), 3, n_positions=4)
    switches = [("attn", switch) for switch in run.attn] + [(n, o.switch) for o in run.heads for n in o.which]
    found = {(what, p): s.kind for what, s in switches for p in s.positions or range(4)}
    for (what, p), done in table.items():
        if what == "attn" or table["attn", p] is None:
            assert found.get((what, p)) == done


@given(st.one_of(st.text(), st.text("dropswaeti-fhu.xmn0123456789 ,;@\x1b\n")))
@example("drop 3 @" + "9" * 5000)
@example("İ 3")
def test_any_text_is_a_schedule_or_a_schedule_error(text):
    try:
        assert parse(str(parse(text))) == parse(text)
    except ScheduleError as refused:
        assert refused.text == text and 0 <= refused.start <= refused.end <= len(text)
        shown = str(refused)
        assert len(shown.split("\n")) == 3 and "\x1b" not in shown and "^" in shown


def simulate(text, n_layers):
    """Moving verbs on a list of layer numbers, written independently. None where the schedule is an error."""
    current = list(range(n_layers))
    for step in text.lower().replace(",", " ").split(";"):
        verb, *words = step.split()
        count = 0 if verb == "shuffle" else 2
        for word in ("x", "seed"):
            head, found, tail = " ".join(words).partition(word)
            if found:
                words, count = head.split(), int(tail)
        named = set()
        for word in words:
            first, _, last = word.partition("-")
            named |= set(range(int(first), int(last or first) + 1))
        if not named <= set(current):
            return None
        where = [i for i, layer in enumerate(current) if layer in named]
        if verb in ("swap", "reverse", "shuffle") and len(where) != len(named):
            return None
        if verb == "drop":
            current = [layer for layer in current if layer not in named]
        elif verb in ("swap", "reverse"):
            for i, layer in zip(where, [current[i] for i in where][::-1]):
                current[i] = layer
        elif verb == "shuffle":
            draws = random.Random(count)
            pairs = sorted((draws.random(), layer) for layer in sorted(named))
            for i, (_, layer) in zip(where, pairs):
                current[i] = layer
        elif verb == "middle-repeat":
            current = [n_layers // 2 if layer in named else layer for layer in current]
        elif verb == "repeat":
            current = [layer for old in current for layer in [old] * (count if old in named else 1)]
        elif verb == "loop":
            if where != list(range(where[0], where[-1] + 1)):
                return None
            current[where[0] : where[-1] + 1] = current[where[0] : where[-1] + 1] * count
        if len(current) > 8 * n_layers:
            return None
    return current


@given(st.lists(moving_steps(), min_size=1, max_size=5).map("; ".join))
def test_moving_verbs_agree_with_a_plain_list(text):
    expected = simulate(text, L)
    if expected is None:
        with pytest.raises(ScheduleError):
            resolve(parse(text), L)
    else:
        assert order(text) == expected


@given(texts, st.one_of(switching_steps(), moving_steps(), orders, parallels))
def test_toggle_twice_is_the_identity(text, step):
    """For a step the schedule does not hold; of one it holds, the layers go."""
    schedule, (step,) = parse(text), parse(step).steps
    once = toggle(schedule, step)
    assert once != schedule
    assert parse(str(once)) == once
    if once == Schedule((*schedule.steps, step)):
        assert toggle(once, step) == schedule
    else:
        named = [sum(len(s.singles) for s in steps) for steps in (schedule.steps, once.steps, (step,))]
        assert named[0] == named[1] + named[2]


@given(layer_sets, st.sampled_from([drop, attn_off, mlp_off]))
def test_toggling_layers_one_by_one_takes_all_back(named, build):
    schedule = Schedule()
    for layer in named:
        schedule = toggle(schedule, build(layer))
    assert schedule == Schedule((build(*named),))
    for layer in named:
        schedule = toggle(schedule, build(layer))
    assert schedule == Schedule()


def test_the_screen_can_import_schedules_without_torch_or_numpy():
    program = "import sys, stagescope.engine.schedule; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
