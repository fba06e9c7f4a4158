"""The rows of the stack: what each place is, what a reading says of it, and how rows fold."""

import math

import numpy as np
import pytest

from stagescope.engine import fake_causes
from stagescope.engine.protocol import TakeAttribution
from stagescope.engine.schedule import parse
from stagescope.screens.rows import Folded, fold, rows, with_direct
from tests.readings import make_census, make_info, make_reading


def stack(schedule: str, n_layers: int = 12, **arguments):
    return rows(make_info(n_layers, **arguments), None, None, parse(schedule), 0)


def labels(schedule: str, n_layers: int = 12) -> list[str]:
    return [row.label for row in stack(schedule, n_layers)]


def row_of(schedule: str, label: str, n_layers: int = 12):
    return next(row for row in stack(schedule, n_layers) if row.label == label)


def test_the_baseline_is_the_embedding_and_every_layer():
    plain = stack("", 6)
    assert [row.label for row in plain] == ["e", "0", "1", "2", "3", "4", "5"]
    assert [row.depth for row in plain] == [0, 1, 2, 3, 4, 5, 6]
    assert not any(row.edited for row in plain)


def test_a_dropped_layer_keeps_its_row_and_has_no_depth():
    dropped = row_of("drop 5", "5")
    assert (dropped.state, dropped.depth, dropped.edited) == ("dropped", None, True)
    assert labels("drop 5 6 0") == ["e", *map(str, range(12))]
    assert row_of("drop 5", "6").depth == 6  # the sixth block that runs


def test_dropped_layers_stand_after_the_nearest_lower_one():
    assert labels("reverse 3-5; drop 4", 6) == ["e", "0", "1", "2", "5", "3", "4"]
    assert labels("loop 2-3; drop 4", 6) == ["e", "0", "1", "2", "3", "2", "3", "4", "5"]
    assert labels("drop 0-5", 6) == ["e", "0", "1", "2", "3", "4", "5"]


def test_a_swap_marks_both_and_nothing_between():
    swapped = stack("swap 3 7")
    assert [row.label for row in swapped][1:10] == ["0", "1", "2", "7", "4", "5", "6", "3", "8"]
    assert [row.label for row in swapped if row.moved] == ["7", "3"]


def test_copies_are_numbered_and_not_moved():
    for schedule, expected in (("repeat 4-5", [("4", 1), ("4", 2), ("5", 1), ("5", 2)]),
                               ("loop 4-5", [("4", 1), ("5", 1), ("4", 2), ("5", 2)])):  # fmt: skip
        copies = [(row.label, row.copy) for row in stack(schedule) if row.copy]
        assert copies == expected
        assert not any(row.moved for row in stack(schedule))
    middle = [row for row in stack("middle-repeat 2-4") if row.copy]
    assert [(row.label, row.copy, row.copies) for row in middle] == [("6", i, 4) for i in (1, 2, 3, 4)]
    assert len({row.key for row in middle}) == 4


def test_a_parallel_group_is_one_row():
    groups = [row for row in stack("parallel 4-6 x2") if len(row.layers) > 1]
    assert [(row.label, row.layers, row.copy) for row in groups] == [("[4-6]", (4, 5, 6), i) for i in (1, 2)]


@pytest.mark.parametrize(("schedule", "state", "mean", "partial"), [
    ("attn-off 3", "attn off", False, False),
    ("mlp-off 3 mean", "mlp off", True, False),
    ("attn-off 3; mlp-off 3", "off", False, False),
    ("drop 3 mean", "off", True, False),
    ("drop 3 @0", "off", False, True),
])  # fmt: skip
def test_sublayer_states(schedule, state, mean, partial):
    row = row_of(schedule, "3")
    assert (row.state, row.mean, row.partial, row.edited) == (state, mean, partial, True)


def test_sublayers_out_of_order_are_moved_and_not_copies():
    halves = [row for row in stack("order 0m 0a 1-11") if row.label == "0"]
    assert [(row.state, row.moved) for row in halves] == [("attn off", True), ("mlp off", True)]
    assert not any(row.copy for row in halves)


def test_values_are_those_of_the_reading_at_the_position():
    reading = make_reading(12, 8, "drop 5")
    census = make_census(12)
    drawn = rows(reading.model, reading, census, parse("drop 5"), 3)
    for row in drawn:
        if row.depth is None:
            continue
        depth, base_depth = row.depth, reading.baseline_depth[row.depth]
        assert row.entropy == pytest.approx(reading.entropy_bits[depth, 3])
        assert row.kl == pytest.approx(reading.kl_nats[depth, 3])
        assert [top.id for top in row.top] == reading.top_ids[depth, 3].tolist()
        assert [top.id for top in row.was] == reading.baseline.top_ids[base_depth, 3].tolist()
        assert (row.rank, row.rank_was) == (
            reading.tracked_rank[depth, 3], reading.baseline.tracked_rank[base_depth, 3])  # fmt: skip
        assert row.echo == (row.top[0].id == reading.tokens[3].id)
        assert row.texts[row.top[0].id] == row.top[0].text
    last = drawn[-1]
    before = reading.resid_norm[10, 3]
    assert last.attn == pytest.approx(reading.attn_norm[11, 3] / before)
    assert last.mlp == pytest.approx(reading.mlp_norm[11, 3] / before)
    assert last.counts == (census.suppression[11], census.prediction[11])
    assert math.isnan(drawn[0].attn)


def test_rows_before_the_edit_are_unchanged_and_after_it_changed():
    reading = make_reading(12, 8, "drop 5")
    drawn = rows(reading.model, reading, None, parse("drop 5"), 7)
    assert [row.changed for row in drawn] == [False] * 6 + [True] * 7
    baseline = make_reading(12, 8, "")
    assert not any(row.changed for row in rows(baseline.model, baseline, None, parse(""), 7))


def test_between_sync_points_nothing_is_compared():
    reading = make_reading(12, 8, "swap 3 4")
    first = next(row for row in rows(reading.model, reading, None, parse("swap 3 4"), 7) if row.label == "4")
    assert not first.synced and math.isnan(first.kl) and first.was == () and first.changed


def test_differences_below_the_noise_are_zero():
    reading = make_reading(12, 8, "drop 5", noise_kl=1e9)
    drawn = rows(reading.model, reading, None, parse("drop 5"), 7)
    assert {row.kl for row in drawn if row.synced} == {0.0}
    assert not np.nansum([row.kls.sum() for row in drawn])


def test_a_position_not_covered_is_nan_and_no_tokens():
    reading = make_reading(12, 8, "drop 5", positions=(7,))
    row = rows(reading.model, reading, None, parse("drop 5"), 2)[-1]
    assert math.isnan(row.entropy) and math.isnan(row.rank) and math.isnan(row.kl) and row.top == ()
    assert not row.echo and not math.isnan(row.attn)


def test_a_reading_of_another_schedule_is_not_used():
    reading = make_reading(12, 8, "drop 5")
    drawn = rows(reading.model, reading, None, parse("drop 6"), 7)
    assert drawn[7].state == "dropped" and math.isnan(drawn[-1].kl)


def test_counts_without_a_sign_are_the_total():
    reading, census = make_reading(12, 8, ""), make_census(12, orientation="none")
    assert rows(reading.model, reading, census, parse(""), 7)[-1].counts == (census.high[-1],)
    group = make_reading(12, 8, "parallel 4-6")
    drawn = rows(group.model, group, census, parse("parallel 4-6"), 7)
    assert [row.counts for row in drawn if len(row.layers) != 1] == [(), ()]


def test_heads_and_neurons_off_are_on_their_row():
    row = row_of("head-off 5.3 5.0-1; neuron-off 5.28 @2", "5")
    assert (row.state, row.heads, row.neurons, row.edited, row.partial) == ("run", ("0", "1", "3"), ("28",), True, False)
    assert row_of("neuron-off 5.28 mean @2", "5").partial and row_of("neuron-off 5.28 mean @2", "5").mean
    assert row_of("head-off 5.3; attn-off 5", "5").state == "attn off"
    (group,) = (row for row in stack("head-off 5.3; parallel 4-6") if len(row.layers) > 1)
    assert group.heads == ("5.3",)


def direct(schedule: str, change: bool, n_layers: int = 6):
    """Rows by their keys, and the attribution they show at position 2."""
    reading = make_reading(n_layers, 4, schedule)
    made = fake_causes.attribution(reading.model, TakeAttribution("a", reading.schedule), reading.tokens, reading.texts)
    drawn = with_direct(rows(reading.model, reading, None, parse(schedule), 2), made, 2, change)
    return {row.key: row for row in drawn}, made


def test_direct_effects_stand_at_the_depth_that_writes_them():
    found, made = direct("swap 2 3; drop 1", change=False)
    assert found[(3,), 1].direct == (made.attn[2, 2], made.mlp[2, 2])  # the second block that runs
    assert all(math.isnan(found[key].direct[0]) for key in (((), 1), ((1,), 1)))


def test_the_change_of_a_dropped_layer_is_all_it_added_and_copies_are_told_once():
    found, made = direct("drop 1", change=True)
    assert found[(1,), 1].direct == pytest.approx(tuple(-made.baseline.by_layer()[1, :, 2]))
    assert found[(2,), 1].direct == (0, 0)
    found, made = direct("repeat 4", change=True)
    assert found[(4,), 1].direct == pytest.approx(tuple(made.changes()[4, :, 2]))
    assert math.isnan(found[(4,), 2].direct[0])


@pytest.mark.parametrize(
    "schedule", ["", "drop 11", "shuffle 0-29", "drop 3 9-12 28; swap 20 25", "loop 4-9 x5"]
)
@pytest.mark.parametrize("height", [4, 7, 14, 25, 30])
def test_folding_keeps_order_hides_nothing_and_fits(schedule, height):
    reading = make_reading(30, 4, schedule)
    drawn = rows(reading.model, reading, None, parse(schedule), 3)
    for cursor in range(len(drawn)):
        lines = fold(drawn, height, cursor)
        assert len(lines) <= height
        covered = []
        for line in lines:
            covered += range(line.first, line.last + 1) if isinstance(line, Folded) else [drawn.index(line)]
        assert covered == list(range(len(drawn)))
        assert drawn[cursor] in lines


def test_folding_hides_what_is_as_in_the_baseline_first():
    reading = make_reading(30, 4, "drop 11")
    drawn = rows(reading.model, reading, None, parse("drop 11"), 3)
    lines = fold(drawn, 25, 30)
    (folded,) = [line for line in lines if isinstance(line, Folded)]
    assert not folded.changed and not any(row.changed for row in drawn[folded.first : folded.last + 1])
    lines = fold(drawn, 14, 30)
    assert drawn[12] in lines and drawn[0] in lines  # the dropped layer and the embedding
    changed = next(line for line in lines if isinstance(line, Folded) and line.changed)
    assert changed.kl == max(row.kl for row in drawn[changed.first : changed.last + 1])


def test_nothing_folds_when_all_fits():
    drawn = stack("", 12)
    assert fold(drawn, 13, 5) == drawn
