"""The tour in the app, on the fake engine with the layers that the tour is written for."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from test_explore import drawn, reads, until, unwrapped

from stagescope import actions
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Load
from stagescope.guide import TourApp
from stagescope.screens.asking import Asking
from stagescope.screens.help import Help
from stagescope.screens.tour import state_of
from stagescope.sessions import files
from stagescope.sessions.events import fold
from stagescope.tour import LAYERS, PROMPT, STEPS

SCREENS = [n for n, step in enumerate(STEPS) if step.screen != "explore"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path))
    return tmp_path


@asynccontextmanager
async def touring(n_layers=LAYERS, size=(80, 24), settle=True, **options):
    """(tour, pilot, engine), the first step read."""
    engine = FakeEngine(n_layers)
    app = TourApp(lambda: engine, **options)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen is app.tour)
        if settle:
            await until(pilot, app.tour.is_complete)
            await pilot.pause()
        yield app.tour, pilot, engine


async def go(pilot, number):
    """By keys, to a step counted from 0, its reading there."""
    tour = pilot.app.tour
    while tour.number != number:
        await pilot.press("full_stop" if tour.number < number else "comma")
    await until(pilot, lambda: tour.is_complete() and (isinstance(pilot.app.screen, Asking)) == (STEPS[number].screen != "explore"))
    await pilot.pause()


async def test_each_step_sets_all_that_is_looked_at_and_back_again():
    async with touring() as (tour, pilot, _):
        for number in [*range(len(STEPS)), *reversed(range(len(STEPS)))]:
            await go(pilot, number)
            step = STEPS[number]
            assert (tour.prompt, str(tour.schedule), tour.at, tour.view) == (step.prompt, step.schedule, step.position, step.view)
            assert tour.reading.schedule == step.schedule and getattr(pilot.app.screen, "PLACE") == step.screen
            assert tour.row_wanted is None  # the cursor is on the step's row
            await until(pilot, lambda step=step, number=number: f"{number + 1}/{len(STEPS)} {step.title}" in drawn(pilot.app))


async def test_what_was_played_with_is_set_anew_and_an_edit_of_a_step_can_be_undone():
    async with touring() as (tour, pilot, _):
        await pilot.press("v", "d", "t")
        await pilot.press("escape", "p", "left")
        assert tour.schedule and tour.deck.prompts and tour.view == "tokens"
        await go(pilot, 1)
        assert str(tour.schedule) == "drop 17" and not tour.deck.prompts and (tour.view, tour.at) == ("stack", -1)
        await pilot.press("u")
        await until(pilot, lambda: tour.is_complete() and not tour.reading.schedule)


async def test_both_halves_fit_80x24_and_leave_the_stack_readable():
    async with touring() as (tour, pilot, _):
        for number, step in enumerate(STEPS):
            await go(pilot, number)
            for part in ("do", "look"):
                assert " ".join(step.told(part).split()) in unwrapped(pilot.app)
            assert pilot.app.screen.query_one("#tour").size.height <= 5
            if step.screen == "explore":
                assert tour.stack.size.height >= 10
            await pilot.press("space")
            await until(pilot, lambda step=step: f"Here. {step.told('here')}" in unwrapped(pilot.app))
            await pilot.press("space")
            await until(pilot, lambda: pilot.app.screen.query_one("#tour").size.height == 1)


async def test_a_large_terminal_tells_all_at_once():
    async with touring(size=(160, 50)) as (tour, pilot, _):
        await go(pilot, 2)
        for part in ("do", "look", "paper", "here"):
            assert STEPS[2].told(part) in unwrapped(pilot.app)
        assert tour.stack.size.height >= 31


async def test_a_low_terminal_keeps_the_stack_until_space_tells_the_step():
    async with touring(size=(62, 17)) as (tour, pilot, _):
        await go(pilot, 2)
        await until(pilot, lambda: pilot.app.screen.query_one("#tour").size.height <= 2)
        assert "dropped" in drawn(pilot.app) and any(line.startswith("▸") for line in drawn(pilot.app).splitlines())
        await pilot.press("space")
        await until(pilot, lambda: STEPS[2].told("look") in unwrapped(pilot.app))


async def test_its_keys_can_be_clicked():
    async with touring() as (tour, pilot, _):
        line = tour.told_step().plain.split("\n")[0]
        await pilot.click("#tour", offset=(line.index("next"), 0))
        await until(pilot, lambda: tour.number == 1)
        await pilot.click("#tour", offset=(tour.told_step().plain.index("leave"), 0))
        await until(pilot, lambda: not tour.touring)


async def test_in_ascii_the_panel_is_ascii():
    async with touring(size=(160, 50), ascii_only=True) as (tour, pilot, _):
        for number in range(len(STEPS)):
            await go(pilot, number)
            panel = pilot.app.screen.query_one("#tour").region
            lines = drawn(pilot.app).split("\n")[panel.y : panel.bottom]
            assert STEPS[number].title in lines[0] and "\n".join(lines).isascii(), lines
        await go(pilot, 1)
        assert "d stays small" in drawn(pilot.app) and "d vs base" in drawn(pilot.app)  # one sign for one thing


@pytest.mark.parametrize("off", [("more",), ("next_step", "step_before", "more", "leave_tour")])
async def test_a_key_that_is_switched_off_is_not_offered(monkeypatch, off):
    monkeypatch.setattr(actions, "ACTIONS", actions.ACTIONS)  # so that it is taken back
    actions.remap({("tour", name): () for name in off})
    async with touring() as (tour, pilot, _):
        first = tour.told_step().plain.split("\n")[0]
        assert [action.label in first for action in actions.of("tour")] == [action.name not in off for action in actions.of("tour")]
        for _ in STEPS:  # faster than their screens can stand
            tour.action_next_step()
        assert f"the last step: {'ctrl+p leave' if len(off) > 1 else 'Q'} leaves" in tour.note


async def test_a_picture_is_drawn_for_the_lines_that_are_left():
    async with touring() as (tour, pilot, _):
        await go(pilot, SCREENS[0])
        screen = pilot.app.screen
        await until(pilot, lambda: screen.taken == screen.query_one("#tour").size.height)
        assert screen.lines_left == 24 - screen.taken
        await pilot.press("Q")
        await until(pilot, lambda: not screen.taken and not screen.query("#tour"))


async def test_a_screen_that_one_opens_oneself_has_the_panel_too():
    async with touring() as (tour, pilot, _):
        await pilot.press("w")
        await until(pilot, lambda: isinstance(pilot.app.screen, Asking) and STEPS[0].title in drawn(pilot.app))
        await pilot.press("full_stop")
        await until(pilot, lambda: pilot.app.screen is tour and tour.number == 1)


async def test_it_ends_at_both_ends_and_says_so():
    async with touring() as (tour, pilot, _):
        await pilot.press("comma")
        await until(pilot, lambda: "this is the first step" in drawn(pilot.app) and tour.number == 0)
        await go(pilot, len(STEPS) - 1)
        await pilot.press("full_stop")
        await until(pilot, lambda: "this is the last step" in drawn(pilot.app) and tour.number == len(STEPS) - 1)


async def test_left_it_is_the_explore_screen():
    async with touring() as (tour, pilot, engine):
        await go(pilot, 1)
        await pilot.press("Q")
        await until(pilot, lambda: not tour.query("#tour") and "the tour is left" in drawn(pilot.app))
        before = len(reads(engine))
        await pilot.press("full_stop", "comma", "space", "Q")
        assert str(tour.schedule) == "drop 17" and tour.number == 1 and len(reads(engine)) == before
        await pilot.press("w")
        await until(pilot, lambda: isinstance(pilot.app.screen, Asking))
        await pilot.pause()
        assert not pilot.app.screen.query("#tour")


async def test_its_keys_are_text_while_one_types_and_wait_under_a_question():
    async with touring() as (tour, pilot, _):
        await pilot.press("slash", "end", "full_stop", "comma", "space", "Q")
        assert tour.prompt == f"{PROMPT}., Q" and tour.number == 0 and tour.touring
        await pilot.press("enter", "?")
        assert isinstance(pilot.app.screen, Help)
        await pilot.press("full_stop")
        assert tour.number == 0


async def test_the_help_and_the_palette_have_its_keys():
    async with touring() as (tour, pilot, _):
        named = [command.title for command in pilot.app.get_system_commands(pilot.app.screen)]
        assert {action.label for action in actions.of("tour")} <= set(named)
        tour.end("")
        await pilot.pause()
        named = [command.help for command in pilot.app.get_system_commands(pilot.app.screen)]
        assert not [help for help in named if actions.of("tour")[0].help in help]


async def test_it_is_recorded_as_any_session(home):
    async with touring(record=True) as (tour, pilot, _):
        await go(pilot, 1)
        await go(pilot, SCREENS[0])
        await go(pilot, SCREENS[0] + 1)
        path = tour.recorder.file.path
        pilot.app.leave()
    recorded = files.read(path)
    state = fold(recorded.events)
    wanted = state_of(STEPS[SCREENS[0] + 1], Load())
    assert (state.prompt, state.schedules, state.position, state.row) == (wanted.prompt, wanted.schedules, -1, wanted.row)
    names = [event["event"] for event in recorded.events]
    assert names.count("reading") >= 3 and {"event": "screen", "screen": STEPS[SCREENS[0]].screen}.items() <= next(
        event for event in recorded.events if event["event"] == "screen"
    ).items()


async def test_a_step_gone_to_before_the_layers_are_known_opens_its_screen_when_they_are():
    engine = FakeEngine(LAYERS)
    gate = engine.gates[Load] = asyncio.Event()
    app = TourApp(lambda: engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen is app.tour)
        await pilot.press(*["full_stop"] * SCREENS[0])
        gate.set()
        await until(pilot, lambda: getattr(app.screen, "PLACE", "") == STEPS[SCREENS[0]].screen)


async def test_a_model_of_other_layers_is_refused_with_a_sentence():
    async with touring(12, settle=False, load=Load("other")) as (tour, pilot, _):
        await until(pilot, lambda: pilot.app.return_code == 2)
        assert pilot.app.remark == (
            "stagescope: the tour is written for smollm2-135m, which has 30 layers; other has 12. "
            "Leave --model out, or use the app itself."
        )


async def test_another_model_of_as_many_layers_is_told():
    async with touring(load=Load("other")) as (tour, pilot, _):
        assert "the numbers of the tour are of smollm2-135m, not of other" in unwrapped(pilot.app)
        await go(pilot, 1)
        assert tour.reading.schedule == "drop 17"


async def test_a_model_of_other_layers_loaded_on_the_way_ends_the_tour_alone():
    async with touring() as (tour, pilot, engine):
        await go(pilot, 1)
        engine.info = FakeEngine(12).info
        tour._model_chosen("small")
        await until(pilot, lambda: not tour.touring and not tour.query("#tour") and tour.info and tour.info.n_layers == 12)
        assert "the tour is written for smollm2-135m" in unwrapped(pilot.app)
        assert pilot.app.return_code is None
