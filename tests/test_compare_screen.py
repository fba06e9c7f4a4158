"""The compare screen on the fake engine: both sides at every size, what is kept on the stack, two models."""

from dataclasses import replace
from functools import partial

import pytest
from beside import PROMPT, beside, press, settled
from test_explore import HARMFUL, drawn, running, until, unwrapped

from stagescope.answers import Answer
from stagescope.engine.comparison import of_readings
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, Load, Read, TakeComparison
from stagescope.reports.compare import lines
from stagescope.screens.asking import Chosen
from stagescope.screens.compare import CompareScreen

OTHER = "The Eiffel Column is in"  # as many tokens as PROMPT


def side(engine: FakeEngine, schedule: str, prompt: str = PROMPT, **info) -> Answer:
    reading = engine.reading(Read(prompt, schedule), tuple(range(len(engine.tokenize(prompt)))))
    model = replace(engine.info, loaded=True, **info)
    return Answer(Load(), model, Read(prompt, schedule), (replace(reading, model=model),))


def comparing(a=("drop 3",), b=("swap 4 5",), engine=None, settled=settled, **looked):
    """The screen over two sides, each a schedule, maybe with a prompt; as many of the engine's layers."""
    engine = engine or FakeEngine()
    sides = [one if isinstance(one, Answer) else side(engine, *one) for one in (a, b)]
    return beside(partial(CompareScreen, a=sides[0], b=sides[1]), engine, settled, **looked)


@pytest.mark.parametrize(("size", "ascii_only"), [((60, 16), True), ((80, 24), False), ((160, 50), False)])
@pytest.mark.parametrize(("a", "b"), [(("drop 3",), ("swap 4 5",)), (("",), ("parallel 4-7", OTHER))])
async def test_it_draws_both_sides_at_every_size(size, ascii_only, a, b):
    async with comparing(a, b, size=size, ascii_only=ascii_only) as (screen, pilot, _):
        for keys in ((), ("down", "pagedown"), ("v",), ("left",), ("end",), ("home", "x")):
            await press(pilot, *keys)
            await settled(pilot)
            shown = drawn(pilot.app)
            assert "A " in shown and "B " in shown and ("KL" in shown or ascii_only) and not HARMFUL.search(shown)
            rows = shown.splitlines()
            assert ascii_only is False or "".join(rows[1:-1]).isascii()
            assert sum(line.startswith(">" if ascii_only else "▸") for line in rows) == 1  # the cursor is in view
            assert all(len(line.rstrip()) <= size[0] for line in rows)
        assert screen.sides[0].last.schedule == b[0]


async def test_keys_move_and_enter_shows_side_b():
    async with comparing() as (screen, pilot, engine):
        assert screen.row == len(screen.lines) - 1 == 12  # a dropped layer takes no line: the swap stands beside
        await press(pilot, "down", "left", "v")
        assert (screen.row, screen.position, screen.view) == (11, 4, "difference")
        assert "both after layer 10" in drawn(pilot.app) and len(engine.requests) == 1
        assert screen.answer().request == engine.requests[0] and screen.answer().position == 4
        await press(pilot, "x")
        await settled(pilot)
        assert engine.requests[1] == TakeComparison(engine.requests[0].b, engine.requests[0].a)
        await press(pilot, "enter")
        assert pilot.app.results == [Chosen("drop 3", PROMPT, 4)]


async def test_two_models_are_compared_as_far_as_their_readings_tell():
    engine, small = FakeEngine(), FakeEngine(6)
    a = side(small, "", name="small", n_layers=6, fingerprint="another")
    none = lambda pilot: until(pilot, lambda: "A ▸" in drawn(pilot.app))  # noqa: E731
    engine.requests.append(Read(PROMPT))
    async with comparing(a, ("drop 3",), engine, settled=none, size=(120, 40)) as (screen, pilot, _):
        shown = unwrapped(pilot.app)
        assert "small" in shown and "compare --with-model" in shown and "top-1 alike" in shown
        assert screen.wanted() is None and engine.requests == [Read(PROMPT)]
        assert screen.answer().request is None
        await press(pilot, "x", "enter")
        assert not pilot.app.results and "is not loaded" in unwrapped(pilot.app)


async def test_a_failure_is_told_and_r_tries_again():
    engine = FakeEngine()
    engine.failures[TakeComparison] = [Failure("memory", "Out of memory.", "Take a shorter prompt.")]
    async with comparing(engine=engine, settled=None) as (_, pilot, _):
        await until(pilot, lambda: "Out of memory. Take a shorter prompt. r tries again." in unwrapped(pilot.app))
        assert "both after layer 11" in drawn(pilot.app)  # what needs no run is there
        await press(pilot, "r")
        await settled(pilot)
        assert "KL" in drawn(pilot.app).split("both after")[1]


async def test_depths_stand_beside_each_other_in_executed_order():
    engine, small = FakeEngine(), FakeEngine(6)
    found = of_readings(side(engine, "drop 3").last, side(engine, "swap 5 6").last)
    drawn_lines = [(line.a, line.b) for line in lines(found)]
    assert drawn_lines == [*((n, n) for n in range(4)), (None, 4), *((n, n + 1) for n in range(4, 12))]
    apart = of_readings(side(engine, "").last, side(small, "", n_layers=6).last)
    beside = [(line.a, line.b) for line in lines(apart)]
    assert [a for a, _ in beside] == list(range(13)) and [b for _, b in beside if b is not None] == list(range(7))
    assert all(abs(a / 12 - b / 6) < 0.1 for a, b in beside if b is not None)


async def test_c_keeps_a_reading_and_opens_the_two():
    async with running() as (app, pilot, _):
        explore = app.explore
        await pilot.press("d")
        await until(pilot, explore.is_complete)
        edit = str(explore.schedule)
        await pilot.press("C")
        assert f"A: {edit}" in drawn(app).splitlines()[0]
        await pilot.press("C")
        assert "C again lets go of it" in unwrapped(app) and explore.side_a is not None
        await pilot.press("C")
        assert explore.side_a is None and f"A: {edit}" not in drawn(app).splitlines()[0]
        await pilot.press("C", "u")
        await until(pilot, explore.is_complete)
        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        await until(pilot, lambda: app.screen.is_known(app.screen.wanted()))
        assert (app.screen.sides[0].last.schedule, app.screen.sides[1].last.schedule) == (edit, "")
        await pilot.press("x", "enter")
        await until(pilot, lambda: app.screen is explore)
        assert str(explore.schedule) == edit and explore.side_a.last.schedule == ""  # as they were exchanged


async def test_prompts_of_two_lengths_are_refused_with_both():
    async with running() as (app, pilot, _):
        explore = app.explore
        await until(pilot, explore.is_complete)
        n = len(explore.reading.tokens)
        await pilot.press("C", "i", *" more", "enter")
        await until(pilot, lambda: explore.is_complete() and len(explore.reading.tokens) == n + 1)
        await pilot.press("C")
        assert f"one has {n} tokens, the other {n + 1}" in unwrapped(app) and app.screen is explore
        await pilot.press("C")  # again: this one in its place
        assert explore.side_a.last is explore.reading and "is kept" in unwrapped(app)
