"""The explore screen on the fake engine: what keys do, what is asked, what is shown; nothing ends it."""

import asyncio
import re
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual import events
from textual.app import App
from textual.pilot import Pilot

from stagescope import actions
from stagescope.app import StageApp
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, FindToken, Load, Read, TakeAttribution, TakeCensus
from stagescope.engine.tokens import Token
from stagescope.model_list import Listed
from stagescope.screens.ask import Ask, Choose, Confirm
from stagescope.screens.attention import AttentionScreen
from stagescope.screens.attribution import AttributionScreen
from stagescope.screens.heads import HeadsScreen
from stagescope.screens.help import Help
from stagescope.screens.lens import LensScreen
from stagescope.screens.models import Models
from stagescope.screens.neurons import NeuronsScreen
from stagescope.screens.probe import ProbeScreen
from stagescope.screens.similarity import SimilarityScreen
from stagescope.screens.stages import StagesScreen
from stagescope.screens.sweep import SweepScreen
from stagescope.screens.widgets.line import Field, from_line, to_line
from stagescope.screens.write import WriteScreen
from stagescope.sessions.events import begun

PROMPT = "The Eiffel Tower is in"  # 6 tokens with the prefix in the fake's tokenizer
HARMFUL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u200b]")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path))
    return tmp_path


async def until(pilot: Pilot, holds: Callable[[], object], what: str = "") -> None:
    """Let the app work until `holds()`; the limit is one that only a hang meets."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + 20
    while not holds():
        assert loop.time() < give_up, f"never came true: {what}\n{drawn(pilot.app)}"
        await pilot.pause(0.005)


def drawn(app: App) -> str:
    """What the terminal shows."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def unwrapped(app: App) -> str:
    return re.sub(r"\s+", " ", drawn(app))


def listed(name: str, note: str = "") -> Listed:
    """As the picker shows it, on this machine."""
    return Listed(name, Path("/models"), 2**30 // 10, 10**6, "float32", 4 * 10**6, 2**30, note)


def reads(engine: FakeEngine) -> list[Read]:
    return [request for request in engine.requests if isinstance(request, Read)]


@asynccontextmanager
async def running(engine: FakeEngine | None = None, size=(80, 24), settle=True, prompt=PROMPT, **options):
    """(app, pilot, engine), by default with the reading and the census there."""
    engine = engine or FakeEngine()
    first = {name: options.pop(name) for name in ("load", "schedule", "position", "lens") if name in options}
    app = StageApp(lambda: engine, begun(prompt=prompt, **first), **options)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen is app.explore)
        if settle:
            await settled(pilot)
            await until(pilot, lambda: app.explore.census or not app.explore.census_wanted)
        yield app, pilot, engine


async def settled(pilot: Pilot) -> None:
    """Until the stack shows what is wanted, at all positions, and nothing is being read."""
    explore = pilot.app.explore

    def is_settled() -> bool:
        answered, wanted = explore.answered, explore.wanted()
        same = answered and (answered.prompt, answered.schedule, answered.lens, answered.tracked) == (
            wanted.prompt, wanted.schedule, wanted.lens, wanted.tracked)  # fmt: skip
        whole = explore.reading and len(explore.reading.positions) == len(explore.reading.tokens)
        return bool(same and whole and "read" not in explore.jobs)

    await until(pilot, is_settled, "settled")


# ------------------------------------------------------------------------------------------------ start


async def test_the_screen_stands_while_the_weights_load():
    engine = FakeEngine()
    engine.gates[Load] = asyncio.Event()
    async with running(engine, settle=False) as (app, pilot, _):
        await until(pilot, lambda: "reading weights 80 % · 0:02 left · esc cancels" in drawn(app))
        assert "12 layers" in drawn(app) and "loading 80 %" in drawn(app)
        await pilot.press("slash", *" of")
        assert app.explore.prompt == f"{PROMPT} of"
        engine.gates[Load].set()
        await settled(pilot)
        assert app.explore.reading.prompt == f"{PROMPT} of"
        assert "idle" in drawn(app)


async def test_a_reading_may_come_before_the_weights():
    engine = FakeEngine()
    engine.loaded.set()  # as an engine with a cache
    engine.gates[Load] = asyncio.Event()
    async with running(engine, settle=False) as (app, pilot, _):
        engine.loaded.set()
        await settled(pilot)
        assert not app.explore.info.loaded and TakeCensus() not in engine.requests
        engine.gates[Load].set()
        await until(pilot, lambda: app.explore.census)
        assert len(reads(engine)) == 1


async def test_a_screen_opened_before_the_weights_knows_the_model_when_they_are_there():
    engine = FakeEngine()
    engine.loaded.set()
    engine.gates[Load] = asyncio.Event()
    async with running(engine, settle=False) as (app, pilot, _):
        await until(pilot, lambda: app.explore.info is not None)
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, LensScreen))
        assert not app.screen.info.loaded
        engine.gates[Load].set()
        await until(pilot, lambda: app.screen.info.loaded and app.screen.answer())
        assert app.screen.answer().info.loaded
        app.explore._loaded(replace(app.explore.info, name="another"))
        assert app.screen.info.name == "another"
        app.explore.load = Load("another")  # which takes the place of this one: the screen is of the one before
        app.explore._loaded(replace(app.explore.info, name="a third"))
        assert app.screen.info.name == "another"


async def test_keys_typed_ahead_of_an_app_that_ends_find_no_screen_to_leave():
    async with running() as (app, pilot, _):
        shown = app._screen_stack[:]
        del app._screen_stack[:-1]  # as while it takes its screens down
        await app.pop_screen()
        assert app._screen_stack == shown[-1:]
        app._screen_stack[:0] = shown[:-1]


async def test_a_schedule_that_does_not_fit_the_model_is_taken_away():
    async with running(schedule="drop 20") as (app, pilot, _):
        assert str(app.explore.schedule) == ""
        assert "drop 20" in drawn(app) and "layers 0-11" in drawn(app)


async def test_loading_can_be_cancelled_and_begun_again():
    engine = FakeEngine()
    engine.gates[Load] = asyncio.Event()
    async with running(engine, settle=False) as (app, pilot, _):
        await until(pilot, lambda: "loading 80 %" in drawn(app))
        await pilot.press("escape")
        await until(pilot, lambda: not app.explore.jobs and "r loads again" in drawn(app))
        engine.gates.clear()
        await pilot.press("r")
        await settled(pilot)


async def test_another_model_can_be_chosen_before_any_has_loaded():
    engine = FakeEngine()
    engine.gates[Load] = asyncio.Event()
    async with running(engine, settle=False, models=lambda: [listed("small", "a note")]) as (app, pilot, _):
        await until(pilot, lambda: "load" in app.explore.jobs)
        await pilot.press("M")
        await until(pilot, lambda: isinstance(app.screen, Models) and "on disk 0.10 GiB" in drawn(app))
        await pilot.press("enter")
        await until(pilot, lambda: Load(model="small") in engine.requests)
        engine.gates[Load].set()
        await settled(pilot)
        assert app.explore.load.model == "small"


async def test_a_load_that_fails_says_so_and_another_model_can_be_chosen():
    engine = FakeEngine()
    engine.failures[Load] = [Failure("missing", "No model “nope” here.", "stagescope models lists them.")]
    models = [listed("nope"), listed("small", "a note")]
    async with running(engine, settle=False, load=Load(model="nope"), models=lambda: models) as (app, pilot, _):
        await until(pilot, lambda: "No model “nope” here. stagescope models lists them." in drawn(app))
        await pilot.press("M")
        await until(pilot, lambda: isinstance(app.screen, Models) and "a note" in drawn(app))
        await pilot.press("down", "enter")
        await settled(pilot)
        assert engine.requests[-1] == TakeCensus() or Load(model="small") in engine.requests
        assert "No model" not in drawn(app) and "small" in drawn(app)


# ------------------------------------------------------------------------------------------------- keys


async def test_every_key_does_what_the_help_says():
    """One entry for every row of the table: keys before it, and what must come true after it."""
    on_layer_5 = ["home", *["down"] * 6]
    checks: dict[str, tuple[list[str], Callable]] = {
        "drop": (on_layer_5, lambda app: str(app.explore.schedule) == "drop 5"),
        "attn": (on_layer_5, lambda app: str(app.explore.schedule) == "attn-off 5"),
        "mlp": (on_layer_5, lambda app: str(app.explore.schedule) == "mlp-off 5"),
        "swap_up": (on_layer_5, lambda app: str(app.explore.schedule) == "swap 5 6"),
        "swap_down": (on_layer_5, lambda app: str(app.explore.schedule) == "swap 4 5"),
        "repeat": (on_layer_5, lambda app: str(app.explore.schedule) == "repeat 5"),
        "undo": ([*on_layer_5, "d", "down", "a"], lambda app: str(app.explore.schedule) == "drop 5"),
        "redo": ([*on_layer_5, "d", "u"], lambda app: str(app.explore.schedule) == "drop 5"),
        "baseline": ([*on_layer_5, "d"], lambda app: not app.explore.schedule and app.explore.history.before),
        "edit": ([], lambda app: app.screen.focused.id == "schedule"),
        "prompt": ([], lambda app: app.screen.focused.id == "prompt"),
        "up": (["down", "down"], lambda app: layer(app) == 10),
        "down": ([], lambda app: layer(app) == 10),
        "page_up": (["end"], lambda app: app.explore.stack.cursor > 6),
        "page_down": (["home"], lambda app: app.explore.stack.cursor < 6),
        "top": (["end"], lambda app: layer(app) == 11),
        "bottom": ([], lambda app: app.explore.stack.row_at_cursor().layers == ()),
        "left": ([], lambda app: app.explore.at == 4),
        "right": (["left", "left"], lambda app: app.explore.at == 4),
        "view": ([], lambda app: app.explore.view == "tokens"),
        "track": ([], lambda app: isinstance(app.screen, Ask)),
        "lens": ([], lambda app: app.explore.lens == "v1"),
        "flip": ([], lambda app: app.explore.stack.flipped),
        "note": ([], lambda app: "there is no note: nothing is recorded" in unwrapped(app)),
        "name": ([], lambda app: "there is no name: nothing is recorded" in unwrapped(app)),
        "export": ([], lambda app: isinstance(app.screen, Ask)),
        "compare": ([], lambda app: "C on another schedule, prompt or model compares" in drawn(app)),
        "sweep": ([], lambda app: isinstance(app.screen, SweepScreen)),
        "lens_curves": ([], lambda app: isinstance(app.screen, LensScreen)),
        "attention": ([], lambda app: isinstance(app.screen, AttentionScreen)),
        "neurons": ([], lambda app: isinstance(app.screen, NeuronsScreen)),
        "stages": ([], lambda app: isinstance(app.screen, StagesScreen)),
        "attribution": ([], lambda app: isinstance(app.screen, AttributionScreen)),
        "heads": ([], lambda app: isinstance(app.screen, HeadsScreen)),
        "probe": ([], lambda app: isinstance(app.screen, ProbeScreen)),
        "similarity": ([], lambda app: isinstance(app.screen, SimilarityScreen)),
        "write": ([], lambda app: isinstance(app.screen, WriteScreen)),
        "column": ([], lambda app: "a±m" in drawn(app) and "▲" in drawn(app)),
        "pin": ([], lambda app: app.explore.deck.prompts == (PROMPT,)),
        "deck_back": ([], lambda app: "the deck is empty: p pins this prompt" in drawn(app)),
        "deck_forward": ([], lambda app: "the deck is empty: p pins this prompt" in drawn(app)),
        "copy": ([], lambda app: isinstance(app.screen, Choose)),
        "models": ([], lambda app: isinstance(app.screen, Models)),
        "restart": ([], lambda app: "the engine runs" in drawn(app)),
        "cancel": ([], lambda app: not app.explore.jobs),
        "help": ([], lambda app: isinstance(app.screen, Help)),
        "quit": ([], lambda app: app._exit),
    }
    assert set(checks) == {action.name for action in actions.of("explore")}
    for action in actions.of("explore"):
        before, after = checks[action.name]
        for key in action.keys:
            async with running() as (app, pilot, _):
                await pilot.press(*before, key)
                await until(pilot, lambda: after(app), f"{action.name} after {key}")  # noqa: B023


def layer(app: StageApp) -> int:
    return app.explore.stack.row_at_cursor().layers[0]


async def test_the_same_key_takes_an_edit_back():
    async with running() as (app, pilot, _):
        edits = {"d": "drop 11", "a": "attn-off 11", "m": "mlp-off 11", "x": "repeat 11", "S": "swap 10 11"}
        for key, text in edits.items():
            await pilot.press(key)
            assert str(app.explore.schedule) == text
            await settled(pilot)
            await pilot.press("s" if key == "S" else key)
            assert str(app.explore.schedule) == ""


async def test_direct_effects_come_after_the_reading_and_go_at_once_with_it():
    engine = FakeEngine()
    engine.gates[TakeAttribution] = asyncio.Event()
    async with running(engine, schedule="drop 3") as (app, pilot, _):
        marks = lambda: any(mark in drawn(app) for mark in "▲▼")  # noqa: E731
        await pilot.press("c")
        await until(pilot, lambda: TakeAttribution(PROMPT, "drop 3") in engine.requests)
        assert "a±m" in drawn(app) and not marks()
        await pilot.press("d")  # they are not there yet, and the next reading is
        await settled(pilot)
        await until(pilot, lambda: TakeAttribution(PROMPT, "drop 3 11") in engine.requests)
        engine.gates[TakeAttribution].set()
        await until(pilot, marks)
        engine.gates[Read] = asyncio.Event()
        await pilot.press("b")
        await until(pilot, lambda: not marks())
        engine.gates[Read].set()
        await until(pilot, lambda: marks() and engine.requests[-1] == TakeAttribution(PROMPT))


async def test_the_column_shows_the_change_under_an_edit_alone():
    async with running(schedule="drop 3") as (app, pilot, engine):
        await pilot.press("c", "c")
        await until(pilot, lambda: "aΔm" in drawn(app) and "▲" in drawn(app))
        await pilot.press("b")
        await until(pilot, lambda: "a±m" in drawn(app))
        await pilot.press("c")
        await until(pilot, lambda: "a m" in drawn(app))
        engine.gates[TakeAttribution] = asyncio.Event()
        await pilot.press("t", *["backspace"] * 9, "space", *"Rome", "enter")
        await settled(pilot)
        await pilot.press("c")
        await until(pilot, lambda: "direct" in app.explore.jobs)
        await pilot.press("escape")
        await until(pilot, lambda: "a m" in drawn(app) and not app.explore.jobs)


async def test_heads_off_are_marked_and_their_attention_still_toggles():
    async with running(schedule="head-off 11.1-2") as (app, pilot, _):
        await until(pilot, lambda: "▸11 ▣h" in drawn(app) and "layer 11 (heads 1, 2 off)" in drawn(app))
        for key, text in {"a": "attn-off 11", "m": "mlp-off 11", "d": "drop 11"}.items():
            await pilot.press(key)
            assert str(app.explore.schedule) == f"head-off 11.1-2; {text}"
            await settled(pilot)
            await pilot.press(key)
            assert str(app.explore.schedule) == "head-off 11.1-2"
        await pilot.press("colon", *"head-off 2.9", "enter")
        await until(pilot, lambda: "layer 2 has heads 0-3" in drawn(app))


async def test_a_head_switched_off_where_it_is_shown_joins_the_schedule_and_leaves_it():
    async with running(schedule="drop 3") as (app, pilot, _):
        for schedule in ("drop 3; head-off 2.3", "drop 3"):
            await pilot.press("H")
            await until(pilot, lambda: isinstance(app.screen, HeadsScreen) and app.screen.of_words and not app.screen.running)
            await pilot.press("x")
            await until(pilot, lambda: str(app.explore.schedule) == schedule, schedule)
        await pilot.press(":", *"drop 2", "enter", "H")
        await until(pilot, lambda: isinstance(app.screen, HeadsScreen) and app.screen.of_words and not app.screen.running)
        await pilot.press("x")
        await until(pilot, lambda: "layer 2 is already dropped" in drawn(app))
        assert str(app.explore.schedule) == "drop 2"


async def test_undo_redo_and_the_baseline():
    async with running() as (app, pilot, _):
        shown = lambda: str(app.explore.schedule)  # noqa: E731
        await pilot.press("d", "down", "a")
        edit = shown()
        assert edit == "drop 11; attn-off 10"
        await pilot.press("b")
        assert shown() == ""
        await pilot.press("b")
        assert shown() == edit
        await pilot.press("u")
        assert shown() == ""
        await pilot.press("u", "u")
        assert shown() == "drop 11"
        await pilot.press("ctrl+r")
        assert shown() == edit
        await pilot.press("u", "m")  # a new change ends what could be redone
        await pilot.press("ctrl+r")
        assert shown() == "drop 11; mlp-off 10" and "nothing to do again" in drawn(app)
        await settled(pilot)
        assert app.explore.reading.schedule == shown()


async def test_an_edit_that_cannot_be_says_why():
    async with running() as (app, pilot, _):
        await pilot.press("s")
        assert "layer 11 already runs last" in drawn(app)
        await pilot.press("end", "d")
        assert "the embedding is no layer" in drawn(app)
        await pilot.press("home", "d", "a")
        assert "layer 11 is already dropped" in drawn(app)
        assert str(app.explore.schedule) == "drop 11"


async def test_swaps_follow_the_screen_when_it_is_flipped():
    async with running() as (app, pilot, _):
        await pilot.press("o", "s")
        assert str(app.explore.schedule) == "swap 10 11"


async def test_a_burst_of_keys_acts_in_order():
    """As a slow line delivers it: nothing of `:drop 3` may act as an edit key, nor `a` land in the prompt."""
    async with running() as (app, pilot, _):
        for key in (":", *"drop 34", "backspace", "enter", "a", "/", " ", "a", "enter", "m"):
            character = {"enter": "\r", "backspace": "\x7f"}.get(key, key)
            app.post_message(events.Key({":": "colon", "/": "slash", " ": "space"}.get(key, key), character))
        await until(pilot, lambda: str(app.explore.schedule) == "drop 3; attn-off 11; mlp-off 11")
        assert app.explore.prompt == f"{PROMPT} a"


async def test_the_mouse_edits_moves_and_presses_the_footer():
    async with running() as (app, pilot, _):
        await pilot.click("#footer", offset=(1, 0))
        await until(pilot, lambda: str(app.explore.schedule) == "drop 11")
        await settled(pilot)
        await pilot.click("#stack", offset=(1, 4))  # the header line, then layers 11, 10, 9, 8: its number
        await until(pilot, lambda: app.explore.stack.row_at_cursor().layers == (8,))
        await pilot.click("#stack", offset=(4, 3))  # the state of layer 9
        await until(pilot, lambda: str(app.explore.schedule) == "drop 9 11")
        await pilot.click("#tokens", offset=(21, 0))
        await until(pilot, lambda: app.explore.at == 1)


async def test_a_model_that_is_not_found_leaves_the_one_at_hand():
    async with running() as (app, pilot, engine):
        await settled(pilot)
        engine.failures[Load] = [Failure("missing", "No model is called 'nonesuch'.", "Did you mean gpt2?")]
        await pilot.press("M", *"nonesuch", "enter")  # typed over the list
        await until(pilot, lambda: "No model is called" in drawn(app))
        assert app.explore.load.model != "nonesuch" and app.explore.info.loaded
        await pilot.press("d")
        await until(pilot, lambda: "dropped" in drawn(app))
        await settled(pilot)


async def test_a_typed_schedule_replaces_the_old_one():
    async with running() as (app, pilot, _):
        await pilot.press("colon", *"drop 3", "enter")
        await until(pilot, lambda: str(app.explore.schedule) == "drop 3")
        await pilot.press("colon", *"drop 5", "enter")
        await until(pilot, lambda: str(app.explore.schedule) == "drop 5")


async def test_the_palette_finds_actions_by_name():
    async with running() as (app, pilot, _):
        await pilot.press("ctrl+p")
        await until(pilot, lambda: app.screen is not app.explore)
        await pilot.press(*"drop")
        await until(pilot, lambda: "Take the layer out" in drawn(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: str(app.explore.schedule) == "drop 11")


# ------------------------------------------------------------------------------------- prompt and schedule


async def test_typing_the_prompt_reads_the_output_first_then_the_stack():
    async with running() as (app, pilot, engine):
        engine.requests.clear()
        await pilot.press("slash", *" the")
        await settled(pilot)
        asked = [(request.part, request.prompt) for request in reads(engine)]
        assert asked[-2:] == [("output", f"{PROMPT} the"), ("all", f"{PROMPT} the")]
        assert app.explore.reading.tokens[-1].text == " the" and " the" in drawn(app)
        await pilot.press("enter")
        assert app.screen.focused is app.explore.stack


async def test_an_empty_prompt_is_not_asked_for():
    async with running(prompt="a") as (app, pilot, engine):
        engine.requests.clear()
        await pilot.press("i", "backspace")
        await until(pilot, lambda: "the prompt is empty" in drawn(app))
        await pilot.press("b")
        await settled(pilot)
        assert {request.prompt for request in reads(engine)} == {"b"}


@pytest.mark.parametrize("key", ["enter", "up", "down", "escape"])
async def test_keys_that_leave_the_prompt(key):
    async with running() as (app, pilot, _):
        await pilot.press("i", "x", key)
        await until(pilot, lambda: app.screen.focused is app.explore.stack)
        assert app.explore.prompt == f"{PROMPT}x"


async def test_a_schedule_error_is_marked_while_typing_and_goes_when_mended():
    async with running() as (app, pilot, _):
        await pilot.press("colon", *"drop 99")
        await until(pilot, lambda: "layer 99 is out of range" in drawn(app))
        text, carets = re.search(r"(.*drop 99)\n(.*)", drawn(app)).groups()
        assert carets.index("^^") == text.index("99")
        await pilot.press("enter")
        assert str(app.explore.schedule) == "" and app.screen.focused.id == "schedule"
        await pilot.press("backspace", "backspace", "3")
        await until(pilot, lambda: "out of range" not in drawn(app))
        await pilot.press("enter")
        await until(pilot, lambda: str(app.explore.schedule) == "drop 3")
        assert app.screen.focused is app.explore.stack


async def test_a_schedule_left_alone_stays_as_it_was():
    async with running(schedule="drop 3") as (app, pilot, _):
        await pilot.press("colon", *"; drop 9", "escape")
        await until(pilot, lambda: app.explore.query_one("#schedule", Field).value == "drop 3")
        assert str(app.explore.schedule) == "drop 3"


async def test_the_empty_schedule_can_be_typed():
    async with running(schedule="drop 3") as (app, pilot, _):
        await pilot.press("colon", "ctrl+u", "enter")
        await until(pilot, lambda: str(app.explore.schedule) == "")


# --------------------------------------------------------------------------------------------- positions


async def test_a_position_that_is_covered_is_drawn_without_asking():
    async with running() as (app, pilot, engine):
        engine.requests.clear()
        await pilot.press("left", "left")
        assert app.explore.position(app.explore.reading) == 3
        assert not reads(engine)


async def test_a_position_that_is_not_covered_is_asked_for_first():
    engine = FakeEngine()
    async with running(engine) as (app, pilot, _):
        engine.gates[Read] = asyncio.Event()
        await pilot.press("d", "left")
        await until(pilot, lambda: reads(engine)[-1].schedule == "drop 11")
        engine.gates[Read].set()
        await settled(pilot)
        assert app.explore.position(app.explore.reading) == 4


# ------------------------------------------------------------------------------------- tracking, the lens


async def test_tracking_a_typed_token_the_row_s_own_and_the_baseline_s():
    async with running() as (app, pilot, engine):
        await pilot.press("t", "backspace", *" Rome", "enter")
        await until(pilot, lambda: FindToken(" Rome") in engine.requests)
        await settled(pilot)
        typed = app.explore.tracked
        assert typed is not None and app.explore.reading.texts[typed] == " Rome"
        top = app.explore.stack.row_at_cursor().top[0].id
        await pilot.press("t", "enter")
        await until(pilot, lambda: app.explore.tracked == top)
        await pilot.press("t", "backspace", "enter")
        await until(pilot, lambda: app.explore.tracked is None)
        await pilot.press("t", *"two tokens", "enter")
        await until(pilot, lambda: "Give the text of one token." in drawn(app))


# ------------------------------------------------------------------------------------- failures, the census


@pytest.mark.parametrize("key", ["", "f"])
async def test_an_engine_that_ends_while_nothing_is_asked_is_told_at_once(key):
    async with running() as (app, pilot, engine):
        if key:
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, LensScreen) and app.screen.running is None)
        engine.ended(Failure("died", "the engine ended: it was killed.", ""))
        await until(pilot, lambda: "engine stopped" in drawn(app) and "it was killed" in unwrapped(app))
        await pilot.press("r")
        await until(pilot, lambda: app.screen is app.explore and not app.explore.dead)
        await settled(pilot)
        assert engine.closed


async def test_a_failure_is_shown_in_full_and_the_session_goes_on():
    async with running() as (app, pilot, engine):
        full = "Out of memory on cuda:0: 79 GiB of 80 GiB are in use by others."
        engine.failures[Read] = [Failure("memory", full, "Choose another device with --device.")]
        await pilot.press("d")
        await until(pilot, lambda: "--device." in unwrapped(app))
        assert "79 GiB of 80 GiB" in unwrapped(app)
        await pilot.press("u")
        await settled(pilot)
        await until(pilot, lambda: "79 GiB" not in drawn(app))


async def test_a_prompt_beyond_the_window_fails_and_is_mended():
    async with running(prompt="a " * 300, settle=False) as (app, pilot, _):
        await until(pilot, lambda: "this model reads at most 256" in unwrapped(app))
        await pilot.press("i", "ctrl+u", "b", "enter")
        await settled(pilot)
        assert "reads at most" not in drawn(app)


async def test_an_engine_that_died_is_started_again_with_everything_kept():
    engines = [FakeEngine(), FakeEngine()]
    waiting = iter(engines)
    app = StageApp(lambda: next(waiting), begun(prompt=PROMPT))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.screen is app.explore and app.explore.census)
        engines[0].failures[Read] = [Failure("died", "The engine was killed (signal 9).")]
        await pilot.press("d")
        await until(pilot, lambda: "(signal 9). r starts the engine again" in unwrapped(app))
        assert "engine stopped" in drawn(app) and "drop 11" in drawn(app) and "Eiffel" in drawn(app)
        await pilot.press("r")
        await settled(pilot)
        assert engines[0].closed and app.engine is engines[1]
        assert app.explore.reading.schedule == "drop 11" and "engine stopped" not in drawn(app)
    assert engines[1].closed


async def test_escape_cancels_the_census_and_it_does_not_come_back_by_itself():
    engine = FakeEngine()
    engine.gates[TakeCensus] = asyncio.Event()
    async with running(engine, settle=False) as (app, pilot, _):
        await until(pilot, lambda: "census of neurons 90 % · 0:06 left · esc cancels" in drawn(app))
        await pilot.press("escape")
        await until(pilot, lambda: "census" not in app.explore.jobs and "r takes it again" in drawn(app))
        await pilot.press("d")
        await settled(pilot)
        assert engine.requests.count(TakeCensus()) == 1
        engine.gates.clear()
        await pilot.press("r")
        await until(pilot, lambda: app.explore.census)


async def test_the_latest_request_wins():
    async with running() as (app, pilot, engine):
        engine.gates[Read] = asyncio.Event()
        await pilot.press("d", "down", "d", "down", "d")
        await until(pilot, lambda: reads(engine)[-1].schedule == "drop 9-11")
        engine.gates[Read].set()
        await settled(pilot)
        assert app.explore.reading.schedule == "drop 9-11" and not app.explore.failure


# ----------------------------------------------------------------------------------------------- the end


async def test_quitting_hands_back_the_command_and_closes_the_engine():
    load = Load(dtype="bfloat16")
    async with running(schedule="drop 3; swap 7 8", load=load, lens="v1") as (app, pilot, engine):
        await pilot.press("left", "q")
        await until(pilot, lambda: app._exit)
    command = "stagescope read --edit 'drop 3; swap 7 8' --position 4 --lens v1 --dtype bfloat16"
    assert app.return_value == f"{command} '{PROMPT}'" and app.return_code == 0
    assert engine.closed


@pytest.mark.parametrize(("token", "words"), [(" Paris", "--track ' Paris' "), ("Paris", "--track-id 7 "), (" \\u{1b}", "--track-id 7 ")])
async def test_the_command_names_the_token_that_is_followed_where_its_text_finds_it(token, words):
    async with running() as (app, _, _):
        app.explore.track(Token(7, token))
        assert app.explore.command() == f"stagescope read {words}'{PROMPT}'"


async def test_q_asks_when_a_job_runs():
    engine = FakeEngine()
    engine.gates[TakeCensus] = asyncio.Event()
    async with running(engine, settle=False) as (app, pilot, _):
        await until(pilot, lambda: "census" in app.explore.jobs)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, Confirm) and "Quit? Census of" in drawn(app))
        await pilot.press("n")
        await until(pilot, lambda: app.screen is app.explore)
        await pilot.press("q", "q")
        await until(pilot, lambda: app._exit)


async def test_q_asks_when_loading_took_long():
    engine = FakeEngine()
    engine.info = replace(engine.info, load_seconds=61.0)
    async with running(engine) as (app, pilot, _):
        await pilot.press("q")
        await until(pilot, lambda: "took 61 s to load" in drawn(app))
        await pilot.press("y")
        await until(pilot, lambda: app._exit)


async def test_ctrl_c_quits_without_a_question_even_while_typing():
    async with running() as (app, pilot, _):
        await pilot.press("i", "ctrl+c")
        await until(pilot, lambda: app._exit)
    assert app.return_code == 130


# -------------------------------------------------------------------------------------- sizes, hostile text


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (120, 40), (220, 50)])
async def test_sizes(size):
    async with running(FakeEngine(30), size=size, schedule="drop 11") as (app, pilot, _):
        shown = drawn(app).splitlines()
        assert len(shown) == size[1] and max(map(len, shown)) <= size[0]
        for part in ("stagescope", "prompt ▸ The Eiffel", "edit   ▸ drop 11", "29", "? help"):
            assert any(part in line for line in shown), part


async def test_a_terminal_too_small_says_so():
    async with running(size=(50, 12)) as (app, pilot, _):
        assert drawn(app).strip() == "stagescope needs 60x16, this terminal is 50x12"
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "prompt ▸" in drawn(app) and "needs" not in drawn(app))


async def test_hostile_text_never_reaches_the_terminal():
    hostile = "\x1b]52;c;aGk=\x07 [/] [@click=app.quit]x[/] \u202e\u200b\n\x9b2J"
    engine = FakeEngine()
    engine.info = replace(engine.info, source=hostile, warnings=(hostile,))
    load = Load(model="evil\x1b[2J[/red]")
    models = [listed(hostile, hostile)]
    async with running(engine, prompt=hostile, size=(160, 40), load=load, models=lambda: models) as (app, pilot, _):
        assert app.explore.reading.prompt == hostile
        for keys in (["left"] * 3, ["v"], ["v"], ["t"], ["escape", "M"], ["escape"]):
            await pilot.press(*keys)
            await until(pilot, lambda: not HARMFUL.search(drawn(app)))
        engine.failures[Read] = [Failure("error", hostile, hostile)]
        await pilot.press("d")
        await until(pilot, lambda: "\\u{1b}]52" in drawn(app))
        assert not HARMFUL.search(drawn(app))
        assert not app._exit


@pytest.mark.parametrize(
    "text",
    ["", "plain", "two\nlines\t", "\\u{a}", "\\u{5c}", "\x1b[2J", "é e\u0301 \u0301", "👩\u200d🚀", "\u202e"],
)
def test_a_line_stands_for_its_text(text):
    assert from_line(to_line(text)) == text
    assert "\n" not in to_line(text) and "\x1b" not in to_line(text)


async def test_a_pasted_text_keeps_its_lines():
    async with running() as (app, pilot, _):
        await pilot.press("i", "ctrl+u")
        app.screen.focused.post_message(events.Paste("one\r\ntwo\x1b[2J\n"))
        await until(pilot, lambda: app.explore.prompt == "one\ntwo\x1b[2J")
        await settled(pilot)
        assert "one\\u{a}two\\u{1b}[2J" in drawn(app)
