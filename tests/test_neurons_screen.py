"""The neurons screen on the fake engine: the census first, then what the cursor rests on; lines stay straight."""

import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, settled
from rich.cells import cell_len
from test_explore import HARMFUL, drawn, until, unwrapped
from textual.app import App

from stagescope import actions
from stagescope.drawings.scatter import scatter
from stagescope.engine import fake_findings
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Census, Failure, ShowNeurons, TakeCensus
from stagescope.engine.strongest import classes
from stagescope.screens.ask import Ask, Choose
from stagescope.screens.asking import Chosen
from stagescope.screens.help import Help
from stagescope.screens.neurons import FEW, MANY, TOP, NeuronsScreen
from stagescope.screens.neurons_words import spark
from stagescope.screens.widgets import glyphs
from stagescope.text import printable

HOSTILE = ["\x1b]52;c;x\x07", "漢字テスト", "\u200b", "\u0301", "e\u0301", "👩\u200d🚀", "\u202e", "[/b]", "\u00a0", ""]


def make_census(n_layers=12, d_mlp=256, **changes) -> Census:
    """Skew and kurtosis as heavy tails have them, all classes among them."""
    draw = np.random.default_rng(0)
    skew = draw.standard_t(3, (n_layers, d_mlp))
    flat = np.zeros(n_layers, np.int32)
    census = Census(
        model="fake", fingerprint="", orientation="corpus", null_directions=256, null_above=0.004, d_mlp=d_mlp,
        high=flat, prediction=flat, suppression=flat, unsigned=flat, partition=flat,
        variance=draw.exponential(0.02, skew.shape), skew=skew, kurtosis=3 + 2 * skew**2,
        sign=draw.choice([-1, 0, 1], skew.shape).astype(np.int8), consistency=draw.random(skew.shape), text="some text",
    )  # fmt: skip
    counts = {kind: members.sum(1).astype(np.int32) for kind, members in classes(census, 64).items()}
    return replace(census, high=(census.kurtosis > 10).sum(1).astype(np.int32), **{**counts, **changes})


CENSUS = make_census()


def running(engine=None, settle=True, census=CENSUS, **looked):
    return beside(NeuronsScreen, engine, settled if settle else None, census=census, gated=True, **looked)


async def press(pilot, *keys: str) -> None:
    await pilot.press(*keys)
    await until(pilot, lambda: not pilot.app.shown.moved)


def asked(engine: FakeEngine) -> list:
    return [request for request in engine.requests if isinstance(request, TakeCensus | ShowNeurons)]


def show(layer: int | None, most: int = FEW) -> ShowNeurons:
    return ShowNeurons(layer, most, PROMPT, TOP)


def screen_lines(app: App) -> list[str]:
    return [strip.text for strip in app.screen._compositor.render_strips()]


# ------------------------------------------------------------------------------------- asking the engine


async def test_the_census_is_asked_for_only_if_it_is_not_there():
    async with running(census=None) as (screen, pilot, engine):
        assert asked(engine) == [TakeCensus(), show(None)]
        assert "null: 0.0 %" in drawn(pilot.app) and "10 strongest of each class" in drawn(pilot.app)
    async with running() as (_screen, pilot, engine):
        assert asked(engine) == [show(None)]
        assert "null: 0.4 % of 256 random directions · gated: signs from some text" in drawn(pilot.app)
        for kind in ("prediction", "suppression", "unsigned", "partition"):
            assert str(getattr(CENSUS, kind).sum()) in drawn(pilot.app).splitlines()[3]


async def test_a_layer_is_asked_for_when_the_cursor_rests_and_never_again():
    async with running() as (_screen, pilot, engine):
        await press(pilot, *["down"] * 5)
        await settled(pilot)
        assert asked(engine) == [show(None), show(7)]  # the last layer stands on top; those passed by were not asked
        assert " 7.1" in drawn(pilot.app) or " 7." in drawn(pilot.app)
        await press(pilot, "up")
        await settled(pilot)
        await press(pilot, "down")
        await settled(pilot)
        assert asked(engine)[2:] == [show(8)]


async def test_what_runs_is_let_go_when_another_layer_is_wanted():
    engine = FakeEngine()
    engine.gates[ShowNeurons] = asyncio.Event()
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: screen.running == show(None) and "measuring" in drawn(pilot.app))
        await press(pilot, "down")
        await until(pilot, lambda: screen.running == show(11))
        engine.gates[ShowNeurons].set()
        await settled(pilot)
        assert set(screen.answers) == {show(11)}
        late = fake_findings.neurons(engine.info, show(3), (), dict(engine.texts))
        screen.receive(show(3), late)  # let go, and on its way already
        assert screen.answers[show(3)] is late and set(screen.answers) == {show(11), show(3)}


async def test_escape_cancels_r_goes_on_and_a_failure_is_told():
    engine = FakeEngine()
    engine.gates[ShowNeurons] = asyncio.Event()
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: screen.running)
        await press(pilot, "escape")
        await until(pilot, lambda: "stopped: r goes on" in drawn(pilot.app) and "idle" in drawn(pilot.app))
        engine.gates.clear()
        engine.failures[ShowNeurons] = [Failure("memory", "out of memory.", "Use bf16.")]
        await press(pilot, "r")
        await until(pilot, lambda: "out of memory. Use bf16. r tries again." in drawn(pilot.app))
        await press(pilot, "r")
        await settled(pilot)
        assert "out of memory" not in drawn(pilot.app) and len(screen.listed()) == 4 * FEW


# ------------------------------------------------------------------------------------------------- keys


async def test_every_key_does_what_the_help_says():
    """One entry for every row of the table: keys before it, and what must come true after it."""
    checks = {
        "up": (["down", "down"], lambda s: s.at_layer == 11),
        "down": ([], lambda s: s.at_layer == 11 and "layer 11 ·" in drawn(s.app)),
        "page_up": (["right", "end"], lambda s: s.row == 4 * FEW - 1 - s.room()),
        "page_down": (["right"], lambda s: s.row == s.room()),
        "first": (["down", "down"], lambda s: s.at_layer is None and "all 12 layers ·" in drawn(s.app)),
        "last": ([], lambda s: s.at_layer == 0),
        "left": (["right"], lambda s: not s.in_list and "all 12 layers ·" in drawn(s.app)),
        "right": ([], lambda s: s.in_list and "promotes   " in drawn(s.app)),
        "token_back": (["right"], lambda s: " at 4 " in drawn(s.app)),
        "token_forward": (["right", "[", "["], lambda s: " at 4 " in drawn(s.app)),
        "neuron_off": (["right", "down"], lambda s: s.app.results == [
            Chosen(f"neuron-off {s.listed()[1][0].layer}.{s.listed()[1][0].index}", PROMPT, None, adds=True)
        ]),
        "open": (["down", "down"], lambda s: s.app.results == [Chosen("mlp-off 10", PROMPT, None)]),
        "view": ([], lambda s: "kurtosis by skew" in drawn(s.app)),
        "kind": (["c"], lambda s: {row.kind for row, _ in s.listed()} == {"suppression"}),
        "more": ([], lambda s: len(s.listed()) == 4 * MANY),
        "rest": ([], lambda s: "all of it is there" in drawn(s.app)),
        "export": ([], lambda s: isinstance(s.app.screen, Ask)),
        "copy": ([], lambda s: isinstance(s.app.screen, Choose)),
        "back": ([], lambda s: s.app.results == [None]),
        "help": ([], lambda s: isinstance(s.app.screen, Help) and "partition candidates" in unwrapped(s.app)),
    }
    assert set(checks) == {action.name for action in actions.of("neurons")}
    for action in actions.of("neurons"):
        before, after = checks[action.name]
        async with running() as (screen, pilot, _):
            await pilot.press(*before, action.keys[0])
            await until(pilot, lambda: after(screen), action.name)  # noqa: B023


async def test_a_neuron_is_told_in_full_as_it_fires():
    async with running(size=(160, 50)) as (screen, pilot, _):
        strongest = screen.answers[show(None)]
        row, activation = strongest.rows[1], strongest.activation[1]
        await press(pilot, "right", "down")
        told = "\n".join(drawn(pilot.app).splitlines()[-6:-2])
        assert told.startswith(f"{row.layer}.{row.index} prediction · kurtosis 59.0 · skew +4.90 · variance .010")
        sign = -1 if CENSUS.sign[row.layer, row.index] < 0 else 1
        assert f"here {glyphs.number(sign * float(activation[5]))} at 5 ·in" in told
        assert len(re.findall(r" \.\d\d\d", told.splitlines()[2])) == TOP  # promoted
        assert len(re.findall(r" -\.\d\d\d", told.splitlines()[3])) == TOP
        await press(pilot, "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen(f"mlp-off {row.layer}", PROMPT, None)])


async def test_a_click_chooses_a_layer_and_a_neuron():
    async with running() as (screen, pilot, _):
        await pilot.click("#layers", offset=(3, 4))
        await until(pilot, lambda: screen.at_layer == 9 and not screen.in_list)
        await settled(pilot)
        await pilot.click("#list", offset=(3, 3))
        await until(pilot, lambda: screen.in_list and screen.chosen() == screen.answers[show(9)].rows[2])


# ------------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("ascii_only", [False, True])
async def test_lines_stay_straight_whatever_the_tokens_are_and_at_every_size(ascii_only):
    engine = FakeEngine()
    engine.texts |= {900 + n: printable(text) for n, text in enumerate(HOSTILE)}
    async with running(engine, ascii_only=ascii_only) as (screen, pilot, _):
        await press(pilot, "right")
        for width, height in ((80, 24), (160, 50), (60, 16), (100, 30)):
            await pilot.resize_terminal(width, height)
            drawn_rows = lambda: screen.list_pane.shown.plain.split("\n")
            room = lambda: screen.list_pane.size
            await until(pilot, lambda: screen.size == (width, height))  # noqa: B023
            await until(pilot, lambda: cell_len(drawn_rows()[0]) == room().width)  # noqa: B023
            await until(pilot, lambda: len(drawn_rows()) == min(room().height, 1 + 4 * FEW))  # noqa: B023
            for line in (*screen_lines(pilot.app), *drawn_rows()):
                assert not HARMFUL.search(line) and (not ascii_only or "字" not in line)
            assert {cell_len(row) for row in drawn_rows()} == {room().width}
            assert all(cell_len(line) == width for line in screen_lines(pilot.app))
            assert "▸" in drawn(pilot.app) or ascii_only


async def test_a_degenerate_vocabulary_is_told_and_its_counts_have_no_colour():
    def colours(screen) -> set[str]:
        styled = (*screen.layer_pane.shown.spans, *screen.list_pane.shown.spans)
        return {str(span.style) for span in styled if "$text" in str(span.style)}

    async with running() as (screen, pilot, _):
        assert colours(screen) == {"$text-primary", "$text-warning"}
    async with running(census=make_census(null_above=0.02)) as (screen, pilot, _):
        assert "degenerate vocabulary: the counts say little · null: 2.0 %" in drawn(pilot.app)
        assert colours(screen) == set()


async def test_without_signs_the_total_stands_alone():
    unsigned = make_census(orientation="none", sign=np.zeros_like(CENSUS.sign))
    async with running(census=unsigned) as (_screen, pilot, _):
        assert " lay high part" in drawn(pilot.app) and "no text: no neuron has a sign" in drawn(pilot.app)


def test_the_scatter_shows_each_class_where_it_stands():
    width, height = 100, 30
    plain = scatter(CENSUS, 64, None, width, height).plain
    lines = plain.split("\n")
    assert len(lines) == height and all(cell_len(line) <= width for line in lines)
    assert "● prediction" in lines[0] and "△ suppression" in lines[0] and "┄" in plain and "    10┤" in plain
    middle = lines[-1].index("skew 0") + len("skew 0") - 1
    marks = [(x, glyph) for line in lines[1:-2] for x, glyph in enumerate(line) if glyph in "●△"]
    assert marks and all((x > middle) == (glyph == "●") for x, glyph in marks)
    ten = next(y for y, line in enumerate(lines) if line.startswith("    10┤"))
    assert not any(glyph in line for line in lines[ten + 1 : -2] for glyph in "●△◇")
    one = scatter(CENSUS, 64, 3, width, height, chosen=(3, 5))
    assert one.plain.startswith("layer 3") and any("reverse" in str(span.style) for span in one.spans)
    ascii_only = scatter(CENSUS, 64, None, width, height, ascii_only=True).plain
    assert ascii_only.isascii() and "?" not in ascii_only


def test_a_sparkline_of_more_tokens_than_cells_keeps_the_peaks():
    activation = np.zeros(100, np.float32)
    activation[[0, 42]] = 500.0, 3.0  # the sink sets no scale
    line = spark(activation, 10, glyphs.UNICODE)
    assert len(line) == 10 and line[4] == "▇" and line[1] == "▁"
    assert spark(activation[:1], 10, glyphs.UNICODE).rstrip() == "▇"
