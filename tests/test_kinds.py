"""The rows of every kind of sweep, and files of schedules."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagescope.engine import kinds, strongest
from stagescope.engine.kinds import KINDS, entries, listed, parse_kinds, read_schedules
from stagescope.engine.plan import Switch
from stagescope.engine.protocol import Census, EngineError
from stagescope.engine.schedule import ScheduleError, parse, resolve
from stagescope.text import printable

DEPTHS = (1, 2, 3, 6, 30)
ZERO = (Switch("zero", None),)


def schedules(kind, n_layers, **given):
    return [row.schedule for row in entries(kind, n_layers, **given)]


def census(n_layers: int, d_mlp: int = 64, high: int = 12, null: float = 0.0) -> Census:
    """The first neurons of every layer have a high kurtosis, later layers' more: two prediction, one suppression, .."""
    number = np.arange(n_layers * d_mlp).reshape(n_layers, d_mlp)
    kurtosis = np.where(number % d_mlp < high, 11.0 + number / 7, 3.0)
    skew = np.where(number % 3 < 2, 1.0, -1.0)
    counts = [np.zeros(n_layers, np.int32)] * 5
    ones = np.ones_like(number, np.int8)
    return Census("tiny", "f", "weights", 256, null, d_mlp, *counts, kurtosis * 0, skew, kurtosis, ones, kurtosis * np.nan)


def members(found: Census, name: str) -> set[tuple[int, int]]:
    return {(int(layer), int(n)) for layer, n in np.argwhere(strongest.classes(found, 64)[name])}


def off(row) -> list[tuple[int, int]]:
    (step,) = parse(row.schedule).steps
    return sorted((single.layer, single.first) for single in step.singles)


def order(row, n_layers):
    """The executed order as layer numbers; a parallel group is a tuple."""
    places = resolve(parse(row.schedule), n_layers)
    return [p[0].layer if len(p) == 1 else tuple(run.layer for run in p) for p in places]


def refusal(work, *given):
    with pytest.raises(EngineError) as caught:
        work(*given)
    assert caught.value.failure.kind == "usage"
    return caught.value.failure.message, caught.value.failure.hint


@pytest.mark.parametrize("n_layers", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_canonical_and_can_be_carried_out(kind, n_layers):
    rows = entries(kind, n_layers, n_positions=4, n_heads=3, census=census(n_layers))
    for row in rows:
        assert row.kind == kind and row.schedule == str(parse(row.schedule))
        resolve(parse(row.schedule), n_layers, n_positions=4, n_heads=3, d_mlp=64)
        assert (row.layer is None) == (kind in ("press", "neuron-sets")) and (row.position is None) == (kind != "trace")
        assert (row.index is not None) == (kind in kinds.OF_PARTS)
    assert len({row.schedule for row in rows}) == len(rows) or kind == "neuron-sets"


@pytest.mark.parametrize("n_layers", DEPTHS)
def test_how_many_rows_each_kind_has(n_layers):
    spans = max((n_layers - 2) // 2, 0)
    known = {"n_positions": 4, "n_heads": 3, "census": census(n_layers)}
    prediction, suppression = (len(members(known["census"], name)) for name in strongest.SIGNED)
    singly = min(prediction, 20), min(suppression, 20)
    sets = sum(k <= n for n in (prediction, suppression) for k in kinds.TOGETHER)
    assert {kind: len(entries(kind, n_layers, **known)) for kind in KINDS} == {
        "drop": n_layers,
        "swap": n_layers - 1,
        "attn-off": n_layers,
        "mlp-off": n_layers,
        "pairs": n_layers * (n_layers - 1) // 2,
        "trace": n_layers * 4,
        "repeat": max(n_layers - 2, 0) + max(n_layers - 4, 0),
        "painters": spans * (5 + kinds.SHUFFLES),
        "press": n_layers - 1,
        "heads": 3 * n_layers,
        "neurons": sum(singly) + min(sum(singly), 20),
        "neuron-sets": sets * (1 + kinds.CONTROLS),
    }


def test_rows_name_their_layers():
    assert schedules("drop", 3) == ["drop 0", "drop 1", "drop 2"]
    assert schedules("swap", 3) == ["swap 0 1", "swap 1 2"]
    assert schedules("attn-off", 2) == ["attn-off 0", "attn-off 1"]
    assert schedules("mlp-off", 2) == ["mlp-off 0", "mlp-off 1"]
    assert [row.layer for kind in ("drop", "swap", "attn-off", "mlp-off") for row in entries(kind, 2)] == [
        *(0, 1, 0, 0, 1, 0, 1)
    ]
    pairs = entries("pairs", 4)
    assert [(row.layer, row.variant) for row in pairs] == [
        *((0, "drop 0-1"), (0, "drop 0 2"), (0, "drop 0 3"), (1, "drop 1-2"), (1, "drop 1 3"), (2, "drop 2-3"))
    ]
    assert [row.schedule for row in pairs] == [row.variant for row in pairs]


def test_a_trace_has_every_layer_at_every_position():
    rows = entries("trace", 3, n_positions=2)
    assert [(row.layer, row.position) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert rows[3].schedule == "drop 1 @1"
    with pytest.raises(ValueError, match="n_positions"):
        entries("trace", 3)


@pytest.mark.parametrize("n_layers", (3, 6, 30))
def test_repeat_runs_each_layer_of_a_span_twice_in_place(n_layers):
    rows = entries("repeat", n_layers)
    for row in rows:
        n = int(row.variant.removesuffix(" layers"))
        span = range(row.layer, row.layer + n)
        assert order(row, n_layers) == sorted([*range(n_layers), *span])
    assert Counter(row.variant for row in rows)["3 layers"] == n_layers - 2


def test_painters_spans_shrink_about_the_middle():
    def spans(n_layers):
        return list(dict.fromkeys(row.schedule.split()[1] for row in entries("painters", n_layers)))

    assert spans(1) == spans(2) == spans(3) == []
    assert spans(4) == ["1-2"] and spans(6) == ["1-4", "2-3"] and spans(7) == ["1-5", "2-4"]
    assert spans(30) == [f"{m}-{29 - m}" for m in range(1, 15)]


@pytest.mark.parametrize("n_layers", (4, 7, 30))
def test_painters_variants_do_what_the_paper_says(n_layers):
    shuffled = Counter()
    for row in entries("painters", n_layers):
        m = row.layer
        before, span, after = list(range(m)), list(range(m, n_layers - m)), list(range(n_layers - m, n_layers))
        executed = order(row, n_layers)
        if row.variant == "shuffle":
            shuffled[m] += 1
            assert executed[:m] == before and executed[len(executed) - m :] == after
            assert sorted(executed) == list(range(n_layers))
            continue
        middle = {
            "skip": [],
            "middle-repeat": [n_layers // 2] * len(span),
            "reverse": span[::-1],
            "parallel": [tuple(span)],
            "looped parallel": [tuple(span)] * 3,
        }[row.variant]
        assert executed == before + middle + after
    assert set(shuffled.values()) == {kinds.SHUFFLES}


@pytest.mark.parametrize("n_layers", DEPTHS)
def test_press_is_a_sandwich(n_layers):
    for k, row in enumerate(entries("press", n_layers), 1):
        assert row.variant == f"k={k}" and row.layer is None
        executed = []
        for (run,) in resolve(parse(row.schedule), n_layers):
            assert (run.attn, run.mlp) in (((), ZERO), (ZERO, ()), ((), ()))  # both: its MLP right after
            executed += [("s", run.layer)] * (not run.attn) + [("f", run.layer)] * (not run.mlp)
        assert "".join(part for part, _ in executed) == "s" * k + "sf" * (n_layers - k) + "f" * k
        for part in "sf":
            assert [layer for which, layer in executed if which == part] == list(range(n_layers))


def test_heads_of_every_layer_or_of_one():
    rows = entries("heads", 3, n_heads=2)
    assert [(row.schedule, row.layer, row.index, row.variant) for row in rows][2:4] == [
        *(("head-off 1.0", 1, 0, "head 0"), ("head-off 1.1", 1, 1, "head 1")),
    ]
    assert entries("heads", 3, n_heads=2, layer=1) == rows[2:4]


def test_neurons_are_the_strongest_of_each_class_and_random_ones_of_their_layers():
    found = census(6)
    for layer in (None, 2):
        rows = entries("neurons", 6, census=found, layer=layer)
        variants = (*strongest.SIGNED, "random")
        by_variant = {name: [off(row)[0] for row in rows if row.variant == name] for name in variants}
        assert all(off(row) == [(row.layer, row.index)] for row in rows)
        for name in strongest.SIGNED:
            here = [at for at in members(found, name) if layer in (None, at[0])]
            ranked = sorted(here, key=lambda at: -found.kurtosis[at])
            assert by_variant[name] == ranked[:20]
        taken = Counter(at for name in strongest.SIGNED for at, _ in by_variant[name])
        assert not set(by_variant["random"]) & (members(found, "prediction") | members(found, "suppression"))
        assert Counter(at for at, _ in by_variant["random"]) <= taken
        assert len(set(by_variant["random"])) == min(20, taken.total())
    assert entries("neurons", 6, census=found) == entries("neurons", 6, census=census(6))  # the same every time


def test_sets_grow_and_their_controls_are_of_the_same_layers_in_the_same_numbers():
    found = census(6)
    strong = members(found, "prediction") | members(found, "suppression")
    rows = entries("neuron-sets", 6, census=found)
    for name in strongest.SIGNED:
        sets = {row.index: off(row) for row in rows if row.variant == name}
        assert list(sets) == [k for k in kinds.TOGETHER if k <= len(members(found, name))]
        controls = [row for row in rows if row.variant == f"random as {name}"]
        drawn = {row.schedule for row in controls if row.index == 8}
        assert len(controls) == kinds.CONTROLS * len(sets) and len(drawn) == kinds.CONTROLS
        for row in controls:
            assert len(off(row)) == row.index and not strong & set(off(row))
            assert Counter(at for at, _ in off(row)) == Counter(at for at, _ in sets[row.index])
        assert all(set(sets[k]) < set(sets[2 * k]) <= members(found, name) for k in sets if 2 * k in sets)


@pytest.mark.parametrize("kind", kinds.OF_CENSUS)
def test_without_classes_there_are_no_neurons_to_sweep(kind):
    assert "no prediction and no suppression" in refusal(lambda: entries(kind, 6, census=census(6, high=0)))[0]
    assert "degenerate (2.0%" in refusal(lambda: entries(kind, 6, census=census(6, null=0.02)))[0]
    with pytest.raises(ValueError, match="census"):
        entries(kind, 6)


def test_press_is_refused_where_sublayers_have_no_order():
    message, _ = refusal(lambda: entries("press", 6, parallel_blocks=True))
    assert "in parallel" in message and "press" in message
    assert entries("drop", 6, parallel_blocks=True) == entries("drop", 6)


def test_listed_keeps_order_and_repeats():
    rows = listed(["SWAP 4 3", "drop 5; drop 3", "", "swap 3,4", "order 2 1", "drop 1; swap 2 3"])
    assert [row.schedule for row in rows] == ["swap 3 4", "drop 3 5", "", "swap 3 4", "order 2 1", "drop 1; swap 2 3"]
    assert [row.layer for row in rows] == [3, 3, None, 3, None, None]
    assert {row.kind for row in rows} == {"schedules"}
    with pytest.raises(ScheduleError):
        listed(["dorp 3"])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("drop", ("drop",)),
        ("drop,swap", ("drop", "swap")),
        ("swap+drop", ("swap", "drop")),
        (" Drop , swap ", ("drop", "swap")),
        ("drop,swap+drop", ("drop", "swap")),
        ("trace", ("trace",)),
        ("trace,trace", ("trace",)),
    ],
)
def test_kinds_are_read(text, expected):
    assert parse_kinds(text) == expected


@pytest.mark.parametrize("text", ["", "drop,", "dorp", "schedules", "drop;swap", "drop swap", "x" * 5000, "\x1b]52"])
def test_a_kind_that_is_none_is_told_which_there_are(text):
    message, hint = refusal(parse_kinds, text)
    assert hint == f"The kinds are {', '.join(KINDS)}." and len(message) < 300 and message.isprintable()


def test_a_trace_stands_alone():
    assert "alone" in refusal(parse_kinds, "drop,trace")[0]


@given(st.text())
def test_any_text_is_kinds_or_a_refusal(text):
    try:
        assert set(parse_kinds(text)) <= KINDS.keys()
    except EngineError as error:
        assert error.failure.kind == "usage"


# ------------------------------------------------------------------------------------------ files


def test_a_file_of_schedules():
    text = ["# mine", "", "  DROP 3", "\tswap 5,4 # the neighbours", "drop 3#not a comment"]
    assert read_schedules(text[:-1], 6, False) == ("drop 3", "swap 4 5")
    assert "3#not" in refusal(read_schedules, text, 6, False)[0]
    assert read_schedules(["  # drop 1\n", "drop 2 @99999\r\n", ";\n", "drop 2\n", "drop 2"], 6, False) == (
        *("drop 2 @99999", "", "drop 2", "drop 2"),
    )


def test_a_file_that_names_heads_the_model_has_not():
    assert read_schedules(["head-off 5.9"], 6, False) == ("head-off 5.9",)
    assert "layer 5 has heads 0-3" in refusal(lambda: read_schedules(["head-off 5.9"], 6, False, n_heads=4))[0]


def test_every_wrong_line_is_named_with_its_place():
    message, hint = refusal(read_schedules, ["drop 3", "drop 99; swap 1 2", "", "dorp 3 # mine", "swap 3 3"], 6, False)
    assert message == (
        "3 lines are no schedules of this model:\n"
        "line 2:\ndrop 99; swap 1 2\n     ^^\nlayer 99 is out of range: this model has layers 0-5\n"
        "line 4:\ndorp 3\n^^^^\n'dorp' is not a verb: did you mean drop?\n"
        "line 5:\nswap 3 3\n       ^\nswap takes two different layers: swap 3 7"
    )
    assert "One schedule a line" in hint


def test_of_many_wrong_lines_the_first_are_shown():
    message, _ = refusal(read_schedules, ["drop 9"] * 12, 6, False)
    assert message.startswith("12 lines are") and message.endswith("and 7 more.") and message.count("\nline ") == 5
    assert refusal(read_schedules, ["drop 9"], 6, False)[0].startswith("1 line is no schedule")


def test_a_sublayer_order_is_no_schedule_on_parallel_blocks():
    assert read_schedules(["order 0a 1 0m"], 2, False) == ("order 0a 1 0m",)
    assert "parallel" in refusal(read_schedules, ["order 0a 1 0m"], 2, True)[0]


def test_a_file_without_schedules():
    for lines in ([], ["", "# none"]):
        assert "no schedule in it" in refusal(read_schedules, lines, 6, False)[0]


def test_a_long_line_is_cut_about_the_place():
    line = "drop 1; " * 9 + "drop 99; " + "swap 1 2; " * 50
    text, carets = refusal(read_schedules, [line], 120, False)[0].split("\n")[2:4]  # drop 1 twice
    assert text.startswith("drop 1; drop 1") and text.endswith("…") and carets.strip("^ ") == "" and len(text) == 81
    line = "drop 1; " + "swap 2 3; " * 30 + "dorp 99; " + "swap 2 3; " * 30
    text, carets = refusal(read_schedules, [line], 120, False)[0].split("\n")[2:4]
    assert text[0] == text[-1] == "…" and text[carets.index("^") :].startswith("dorp")
    assert len(refusal(read_schedules, ["x" * 1_000_000], 6, False)[0]) < 1000


@given(st.lists(st.text() | st.sampled_from(["drop 3", "swap 1 2 # a", "reverse 0-9", "# all", "parallel 1-3 x2"])))
def test_any_lines_are_schedules_or_a_refusal(lines):
    try:
        for text in read_schedules(lines, 6, False):
            assert text == str(parse(text))
            resolve(parse(text), 6)
    except EngineError as error:
        assert error.failure.kind == "usage"
        assert all(line == printable(line) for line in error.failure.message.split("\n"))


def test_the_table_comes_without_numpy():
    code = "import sys; from stagescope.engine.kinds import KINDS; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
