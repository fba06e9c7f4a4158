"""The probe screen on the fake engine: what is asked, neurons and ensembles as they are drawn, NaN and hostile text."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, settled
from rich.cells import cell_len
from test_explore import HARMFUL, drawn, until, unwrapped

from stagescope import actions
from stagescope.engine import fake_causes
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, TakeProbe
from stagescope.screens import probe_words
from stagescope.screens.ask import Ask, Choose
from stagescope.screens.asking import Chosen
from stagescope.screens.help import Help
from stagescope.screens.probe import ProbeScreen
from stagescope.screens.widgets import glyphs
from stagescope.text import printable

HOSTILE = "\x1b]52;c;x\x07 漢字\u202e\u200b[/b]"


def running(engine=None, settle=True, **looked):
    return beside(ProbeScreen, engine, settled if settle else None, **looked)


async def press(pilot, *keys: str) -> None:
    await pilot.press(*keys)
    await settled(pilot)


def made(**changes):
    return replace(fake_causes.probe(FakeEngine().info, TakeProbe()), **changes)


# ------------------------------------------------------------------------------------- asking the engine


async def test_progress_escape_and_r():
    engine = FakeEngine()
    engine.gates[TakeProbe] = asyncio.Event()
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "measuring 10 %" in drawn(pilot.app) and "esc cancels" in drawn(pilot.app))
        await pilot.press("v", "down", "c", "right", "enter", "escape")  # with nothing to draw
        await until(pilot, lambda: "stopped: r goes on" in drawn(pilot.app) or screen.view == "ensembles")
        assert not screen.running and not pilot.app.results and engine.requests == [TakeProbe()]
        engine.gates.clear()
        engine.failures[TakeProbe] = [Failure("died", "The engine stopped.")]
        await pilot.press("r")
        await until(pilot, lambda: screen.dead and "The engine stopped. r goes back" in unwrapped(pilot.app))
        await pilot.press("s")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("e", "d", "enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert len(engine.requests) == 2  # a dead engine is asked nothing more
        await pilot.press("r")
        await until(pilot, lambda: pilot.app.results == [None])
        assert screen.restart


async def test_another_suffix_is_asked_for_once_and_a_failure_is_told():
    async with running() as (screen, pilot, engine):
        for word in ("ed", "ing", "zz"):
            engine.failures[TakeProbe] = [Failure("usage", "No token ends in zz.")] * (word == "zz")
            await pilot.press("s")
            await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
            await pilot.press(*word, "enter")
            await until(pilot, lambda: pilot.app.screen is screen and not screen.running)
            await until(pilot, lambda: f"ends in “{word}”" in drawn(pilot.app))  # noqa: B023
        assert engine.requests == [TakeProbe(), TakeProbe(suffix="ed"), TakeProbe(suffix="zz")]
        await until(pilot, lambda: "No token ends in zz. r tries again." in unwrapped(pilot.app))


# ------------------------------------------------------------------------------------------------- keys


async def test_every_key_does_what_the_help_says():
    """One entry for every row of the table: keys before it, and what must come true after it."""
    checks = {
        "up": (["down", "down"], lambda s: s.place() == (2, 48)),
        "down": (["home"], lambda s: s.place() == (2, 48)),
        "page_up": (["end"], lambda s: s.place() == (48 - s.room(), 48)),
        "page_down": (["home"], lambda s: s.place() == (1 + s.room(), 48)),
        "first": ([], lambda s: s.place() == (1, 48)),
        "last": ([], lambda s: ", 48 of 48" in drawn(s.app)),
        "kind": ([], lambda s: {one.kind for one in s.listed()} == {"prediction"}),
        "view": ([], lambda s: "▸ensembles" in drawn(s.app) and "the best neuron alone" in drawn(s.app)),
        "right": ([], lambda s: "the 2 best together" in drawn(s.app)),
        "left": (["right"], lambda s: "the 2 best together" in drawn(s.app)),
        "rest": ([], lambda s: "all of it is there" in drawn(s.app)),
        "export": ([], lambda s: isinstance(s.app.screen, Ask)),
        "copy": (["escape"], lambda s: isinstance(s.app.screen, Choose)),
        "suffix": (["escape"], lambda s: isinstance(s.app.screen, Ask) and "Which ending" in drawn(s.app)),
        "help": (["escape"], lambda s: isinstance(s.app.screen, Help) and "another ending" in unwrapped(s.app)),
    }
    rows = {action.name: action for action in actions.of("probe")}
    assert set(rows) == {*checks, "open", "back"}
    async with running() as (screen, pilot, _):
        for name, (before, after) in checks.items():
            await press(pilot, *before, *rows[name].keys[:1])
            await until(pilot, lambda: after(screen), name)  # noqa: B023
        await pilot.press("escape", "v", "c", "down")
        one = probe_words.ranked(screen.probe, "suppression")[1]
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.results == [Chosen(f"neuron-off {one.layer}.{one.index}", PROMPT, None, adds=True)])


async def test_a_click_chooses_a_neuron_a_class_and_a_size():
    async with running() as (screen, pilot, _):
        await pilot.click("#list", offset=(3, 5))
        await until(pilot, lambda: screen.place() == (3, 48) and ", 3 of 48" in drawn(pilot.app))
        await pilot.click("#views", offset=(drawn(pilot.app).splitlines()[2].index("random") + 1, 0))
        await until(pilot, lambda: screen.place() == (1, 16))
        await press(pilot, "v")
        ticks = drawn(pilot.app).splitlines()[screen.picture.region.bottom - 1]
        await pilot.click("#ensembles", offset=(ticks.index("8") + 1, 5))
        await until(pilot, lambda: "the 8 best together" in drawn(pilot.app))


# ------------------------------------------------------------------------------------------------ drawing


async def test_a_wide_terminal_shows_neurons_and_ensembles_beside_each_other_with_all_n():
    async with running(size=(160, 50)) as (screen, pilot, _):
        await until(pilot, lambda: "by k" in drawn(pilot.app))
        shown = unwrapped(pilot.app)
        first = screen.chosen()
        assert f"{first.layer}.{first.index} prediction · held out {100 * first.accuracy:.1f} (" in shown
        for told in (
            "model's mass 88.0 (85-91)", "trained on 600 contexts: 80 lemmas, 300 documents", "held out 200: 30, 100",
            "after 24 tokens of the standard text", "chance is 50 %", "yes: was·seen → ·walking",
        ):  # fmt: skip
            assert told in shown, told


def test_neurons_are_ranked_by_training_and_a_bar_begins_at_chance():
    probe = made()
    low, high, none = (
        replace(probe.neurons[0], layer=n, index=0, train=train, accuracy=accuracy)
        for n, (train, accuracy) in enumerate(((0.6, 0.5), (0.9, 0.75), (math.nan, math.nan)))
    )
    assert probe_words.ranked(replace(probe, neurons=(none, low, high)), None) == [high, low, none]
    whole = replace(high, accuracy=1.0)
    drawn_bars = [probe_words.list_line(probe, one, 70, " ", glyphs.UNICODE).plain for one in (low, high, none, whole)]
    *bars, most = [line.count("━") for line in drawn_bars]
    assert bars == [0, most // 2, 0] and most > 20


def test_curves_stand_at_their_accuracy_and_what_is_no_number_is_not_drawn():
    probe = made()
    lone = replace(probe.ensembles[0], low=math.nan, high=math.nan)
    ensembles = [replace(lone, size=k, accuracy=y) for k, y in ((2, 0.5), (4, 0.75), (8, 1.0), (16, math.nan))]
    probe = replace(probe, neurons=(), ensembles=tuple(ensembles), argmax=replace(probe.argmax, accuracy=math.nan))
    lines = probe_words.curves(probe, 2, 60, 12, glyphs.ASCII).plain.split("\n")
    at = {line[:6].strip(): line.index("o", 7) for line in lines[1:-1] if "o" in line[7:] and line[:6].strip()}
    assert len(lines) == 12 and set(at) == {"100", "75", "50"} and "model's top" not in lines[0]
    assert [lines[-1].index(k) for k in ("2", "4", "8")] == [at["50"], at["75"], at["100"]]
    assert any(line.count("-") > 30 for line in lines[2:6])  # the model's mass, from end to end
    empty = replace(probe, ensembles=(), mass=replace(probe.mass, accuracy=math.nan))
    assert len(probe_words.curves(empty, 1, 60, 12, glyphs.ASCII).plain.split("\n")) == 12


@pytest.mark.parametrize(("sizes", "ascii_only"), [(((80, 24), (160, 50)), False), (((100, 30), (60, 16)), True)])
async def test_lines_stay_straight_at_every_size_with_hostile_text_and_nan(sizes, ascii_only):
    engine, safe = FakeEngine(), printable(HOSTILE)
    probe = made(source=safe, examples=((safe, safe, "positive"),))
    nan = {name: np.nan for name in ("accuracy", "low", "high", "train", "contrast")}
    engine._cause = lambda request: [
        replace(
            probe, neurons=(*probe.neurons[:40], replace(probe.neurons[0], **nan)), argmax=replace(probe.argmax, **nan)
        )
    ]
    async with running(engine, ascii_only=ascii_only) as (screen, pilot, _):
        for width, height in sizes:
            await pilot.resize_terminal(width, height)
            await until(pilot, lambda: screen.size == (width, height))  # noqa: B023
            await settled(pilot)
            for _view in screen.choices():
                await press(pilot, "end", "v")
                await until(pilot, lambda: "41 neurons" in drawn(pilot.app).splitlines()[-2])
                lines = [strip.text for strip in pilot.app.screen._compositor.render_strips()]
                assert {cell_len(line) for line in lines} == {width} and len(lines) == height and "? help" in lines[-1]
                assert not any(HARMFUL.search(line) for line in lines)
                assert not ascii_only or not set("●△■╌┈━─│┤·▸✓“…") & set("".join(lines[1:-1]))
                if screen.view == "neurons":
                    assert "held out no number" in drawn(pilot.app)
