"""The prompt deck and an edit's standing: the data by itself, then in the explore screen on the fake engine."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from sweeps import make_sweep
from test_explore import PROMPT, drawn, listed, reads, running, settled, until

from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, Load, Read, TakeCensus, TakeSweep
from stagescope.reports import sweep as sweep_report
from stagescope.screens import deck
from stagescope.screens.deck import Deck, DeckEffect
from stagescope.screens.sweep import Chosen, SweepScreen
from stagescope.screens.widgets import glyphs

pytestmark = pytest.mark.usefixtures("home")
OTHER = "The capital of Germany is"


def sweeps_of(engine: FakeEngine) -> list[TakeSweep]:
    return [request for request in engine.requests if isinstance(request, TakeSweep)]


# ------------------------------------------------------------------------------------------- the data


def test_pinning_and_taking_off():
    pinned = deck.pin(deck.pin(Deck(), "a"), "b")
    assert pinned.prompts == ("a", "b")
    assert deck.place(pinned, "b") == "deck 2 of 2" and deck.place(pinned, "c") == "deck of 2"
    assert deck.pin(pinned, "a").prompts == ("b",)


def test_stepping_goes_round_and_comes_back_to_the_prompt_that_is_not_pinned():
    pinned, seen = Deck(("a", "b")), ["own"]
    for _ in range(4):
        pinned, prompt = deck.step(pinned, seen[-1], +1)
        seen.append(prompt)
    assert seen == ["own", "a", "b", "own", "a"]
    assert deck.step(pinned, "a", -1)[1] == "own"
    assert deck.step(Deck(("a", "b")), "b", +1)[1] == "a"  # never left one: the ends meet
    assert deck.step(deck.pin(pinned, "own"), "b", +1)[1] == "own"  # pinned now: a seat of its own, once
    assert deck.step(Deck(("a",)), "a", +1)[1] == "a"


@given(
    st.lists(st.sampled_from("abcd"), max_size=8),
    st.lists(st.sampled_from([-1, 1]), max_size=8),
    st.sampled_from("abcde"),
)
def test_a_step_can_be_taken_back(pins, steps, prompt):
    pinned = Deck()
    for pin in pins:
        pinned = deck.pin(pinned, pin)
    if not pinned.prompts:
        return
    start, seen = prompt, []
    for by in steps:
        pinned, prompt = deck.step(pinned, prompt, by)
        seen.append(prompt)
    assert set(seen) <= {*pinned.prompts, start}
    for by in reversed(steps):
        pinned, prompt = deck.step(pinned, prompt, -by)
    assert prompt == start


def test_the_effect_is_a_median_over_prompts_of_means_over_positions():
    sweeps = [
        make_sweep(schedules=["drop 3"], seed=seed, prompt=f"prompt {seed}", n_tokens=5 + seed) for seed in range(4)
    ]
    kls = [float(sweep.kl_nats[0, 1:].mean()) for sweep in sweeps]  # the prefix token stays out
    found = deck.effect(sweeps)
    assert math.isclose(found.median_kl, np.median(kls), rel_tol=1e-6)
    assert math.isclose(found.worst_kl, max(kls), rel_tol=1e-6) and found.worst == f"prompt {np.argmax(kls)}"
    assert found.positions == 4 + 5 + 6 + 7 and found.kept == sum(int(s.top1_same[0, 1:].sum()) for s in sweeps)
    assert (found.counted, found.of) == (4, 4)


def test_prompts_the_schedule_does_not_fit_are_left_out_and_counted():
    fits = make_sweep(schedules=["drop 3 @9"], prompt="long")
    not_there = make_sweep(schedules=["drop 3 @9"], prompt="short", notes={0: "there is no position 9"})
    found = deck.effect([not_there, fits])
    assert (found.counted, found.of, found.worst) == (1, 2, "long")
    assert deck.told(found, glyphs.UNICODE)[0].startswith("1 of 2 counted, KL median ")
    assert deck.told(deck.effect([not_there]), glyphs.UNICODE) == [
        "none of them can be counted: there is no position 9"
    ]


@pytest.mark.parametrize("drawn_with", [glyphs.UNICODE, glyphs.ASCII])
@pytest.mark.parametrize(
    "prompt", ["short", "a prompt of more than eighteen cells", "\x1b[2J[/]\n\u202e日本語の長い単語", ""]
)
def test_a_prompt_is_named_harmlessly(prompt, drawn_with):
    text = "".join(deck.told(DeckEffect(7, 7, 0.31, 4.4, prompt, 41, 63), drawn_with))
    assert text.isprintable() and (text.isascii() or not drawn_with.ascii_only)
    assert text.startswith("KL median .310, worst 4.40 (") and text.endswith(", top-1 kept 41/63")
    assert cell_len(deck.excerpt(prompt, drawn_with)) <= deck.EXCERPT + 2


# ------------------------------------------------------------------------------------- standing among its kind


async def test_an_edit_of_one_key_says_where_it_stands_among_its_kind():
    async with running() as (app, pilot, engine):
        assert sweeps_of(engine) == []  # the baseline is of no kind
        await pilot.press("d")
        await until(pilot, lambda: " of 12" in drawn(app))
        assert sweeps_of(engine) == [TakeSweep((PROMPT,), kinds=("drop",))]
        place = sweep_report.standing(engine.sweep(sweeps_of(engine)[0], PROMPT, "drop"), "drop 11")
        assert f" {sweep_report.ordinal(place[0])} of 12" in drawn(app)
        await pilot.press("d", "down", "d")  # another drop: nothing to ask
        await until(pilot, lambda: app.explore.output.schedule == "drop 10" and " of 12" in drawn(app))
        await pilot.press("down", "d")  # two layers: of no kind
        await until(pilot, lambda: app.explore.output.schedule == "drop 9-10")
        assert " of 12" not in drawn(app)
        await settled(pilot)
        assert len(sweeps_of(engine)) == 1


@pytest.mark.parametrize(("key", "kind", "of"), [("a", "attn-off", 12), ("m", "mlp-off", 12), ("S", "swap", 11)])
async def test_every_kind_of_one_key_has_its_sweep(key, kind, of):
    async with running(size=(160, 50)) as (app, pilot, engine):
        await pilot.press(key)
        await until(pilot, lambda: f" of {of} {kind}s" in drawn(app))
        assert sweeps_of(engine) == [TakeSweep((PROMPT,), kinds=(kind,))]


async def test_the_standing_does_not_wait_for_the_census_and_can_be_cancelled():
    engine = FakeEngine()
    engine.gates = {TakeCensus: asyncio.Event(), TakeSweep: asyncio.Event()}
    async with running(engine, settle=False, schedule="drop 11", size=(120, 40)) as (app, pilot, _):
        await settled(pilot)
        await until(pilot, lambda: "sweep of drops 25 % · 0:15 left · esc cancels" in drawn(app))
        await pilot.press("escape")
        await until(pilot, lambda: "sweep cancelled" in drawn(app) and list(app.explore.jobs) == ["census"])
        engine.gates[TakeSweep].set()
        await pilot.press("d", "a")
        await until(pilot, lambda: " of 12" in drawn(app))
        assert list(app.explore.jobs) == ["census"]


async def test_a_cancelled_sweep_is_not_asked_for_again_until_the_kind_changes():
    engine = FakeEngine()
    engine.gates[TakeSweep] = asyncio.Event()
    async with running(engine) as (app, pilot, _):
        await pilot.press("d")
        await until(pilot, lambda: "sweep of drops 25 %" in drawn(app))
        await pilot.press("escape")
        await until(pilot, lambda: not app.explore.jobs and "sweep cancelled" in drawn(app))
        await pilot.press("d", "down", "d")
        await settled(pilot)
        assert len(sweeps_of(engine)) == 1 and not app.explore.jobs
        await pilot.press("d", "a")
        await until(pilot, lambda: "sweep of attn-offs" in drawn(app))
        engine.gates.clear()
        await pilot.press("a", "d")
        await until(pilot, lambda: " of 12" in drawn(app))
        assert [request.kinds for request in sweeps_of(engine)] == [("drop",), ("attn-off",), ("drop",)]


async def test_a_sweep_goes_on_through_the_baseline_and_ends_with_its_prompt():
    engine = FakeEngine()
    engine.gates[TakeSweep] = asyncio.Event()
    async with running(engine) as (app, pilot, _):
        await pilot.press("d")
        await until(pilot, lambda: "sweep" in app.explore.jobs)
        await pilot.press("d")
        await settled(pilot)
        assert "sweep" in app.explore.jobs
        await pilot.press("down", "d")
        await settled(pilot)
        assert len(sweeps_of(engine)) == 1
        await pilot.press("i", "x", "enter")
        await settled(pilot)
        await until(pilot, lambda: len(sweeps_of(engine)) == 2)
        assert sweeps_of(engine)[-1] == TakeSweep((f"{PROMPT}x",), kinds=("drop",))


async def test_readings_do_not_wait_for_a_sweep():
    engine = FakeEngine()
    engine.gates[TakeSweep] = asyncio.Event()
    async with running(engine) as (app, pilot, _):
        for _ in range(3):
            await pilot.press("d")
            await settled(pilot)
            await pilot.press("d", "down")
            await settled(pilot)
        assert "sweep" in app.explore.jobs


async def test_a_long_prompt_is_swept_where_w_was_pressed_only():
    async with running(prompt="one " * 80, schedule="drop 3") as (app, pilot, engine):
        await settled(pilot)
        assert sweeps_of(engine) == []
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen))
        app.screen.dismiss(None)
        await until(pilot, lambda: app.screen is app.explore and " of 12" in drawn(app))


async def test_a_sweep_that_fails_says_so_once_and_readings_go_on():
    engine = FakeEngine()
    engine.failures[TakeSweep] = [Failure("memory", "Out of memory on the host.")]
    async with running(engine) as (app, pilot, _):
        await pilot.press("d")
        await until(pilot, lambda: "Out of memory" in drawn(app))
        await pilot.press("d", "down", "d")
        await settled(pilot)
        assert len(sweeps_of(engine)) == 1 and "Out of memory" not in drawn(app)


async def test_an_engine_that_dies_in_a_sweep_is_started_again():
    engine = FakeEngine()
    engine.failures[TakeSweep] = [Failure("died", "The engine was killed (signal 9).")]
    async with running(engine) as (app, pilot, _):
        await pilot.press("d")
        await until(pilot, lambda: "engine stopped" in drawn(app))
        await pilot.press("r")
        await until(pilot, lambda: " of 12" in drawn(app) and "engine stopped" not in drawn(app))


async def test_q_asks_nothing_because_of_a_sweep_or_the_deck():
    engine = FakeEngine()
    engine.gates[TakeSweep] = asyncio.Event()
    async with running(engine) as (app, pilot, _):
        await pilot.press("p", "d")
        await until(pilot, lambda: "deck" in app.explore.jobs)
        await pilot.press("q")
        await until(pilot, lambda: app._exit)


async def test_another_model_has_its_own_standing():
    async with running(models=lambda: [listed("other")]) as (app, pilot, engine):
        await pilot.press("d")
        await until(pilot, lambda: " of 12" in drawn(app))
        engine.info = replace(engine.info, n_layers=20, fingerprint="another")
        await pilot.press("u", "M", *"other", "enter")
        await until(pilot, lambda: app.explore.info and app.explore.info.name == "other" and app.explore.info.loaded)
        await settled(pilot)
        await pilot.press("home", "d")
        await until(pilot, lambda: " of 20" in drawn(app))


# ------------------------------------------------------------------------------------- the deck on the screen


async def other_prompt(pilot, text: str) -> None:
    await pilot.press("i", "ctrl+u", *text, "enter")
    await settled(pilot)


async def test_every_edit_is_shown_on_the_whole_deck():
    async with running(size=(120, 40)) as (app, pilot, engine):
        await pilot.press("p")
        await until(pilot, lambda: "pinned: deck 1 of 1" in drawn(app))
        await other_prompt(pilot, OTHER)
        await pilot.press("p")
        assert sweeps_of(engine) == []  # the baseline changes nothing
        assert "deck 2 of 2: [ ] step through it, p takes this one off" in drawn(app)
        await pilot.press("d")
        request = TakeSweep((PROMPT, OTHER), schedules=("drop 11",))
        await until(pilot, lambda: "deck 2 of 2: KL median" in drawn(app))
        assert sweeps_of(engine)[0] == request
        found = deck.effect([engine.sweep(request, prompt, "schedules") for prompt in (PROMPT, OTHER)])
        assert "deck 2 of 2: " + "".join(deck.told(found, glyphs.UNICODE)) in drawn(app)
        await until(pilot, lambda: " of 12" in drawn(app))  # the standing comes after the deck
        asked = len(sweeps_of(engine))
        await pilot.press("d")
        await settled(pilot)
        assert "deck 2 of 2: [ ] step" in drawn(app)
        await pilot.press("d")
        await until(pilot, lambda: "KL median" in drawn(app))
        assert len(sweeps_of(engine)) == asked  # known


async def test_stepping_through_the_deck():
    async with running() as (app, pilot, _):
        await pilot.press("]")
        await until(pilot, lambda: "the deck is empty: p pins this prompt" in drawn(app))
        await pilot.press("p", "]")
        await until(pilot, lambda: "the only prompt of the deck" in drawn(app))
        await other_prompt(pilot, OTHER)
        await pilot.press("p")
        await other_prompt(pilot, "mine")
        for key, prompt, said in [
            ("]", PROMPT, "deck 1 of 2"),
            ("ctrl+right", OTHER, "deck 2 of 2"),
            ("]", "mine", "deck of 2, back at the prompt that is not pinned"),
            ("[", OTHER, "deck 2 of 2"),
        ]:
            await pilot.press(key)
            await until(pilot, lambda: said in drawn(app).splitlines()[-2])  # noqa: B023
            await settled(pilot)
            assert app.explore.reading.prompt == prompt and f"prompt ▸ {prompt}" in drawn(app)


async def test_the_deck_stops_with_its_edit_and_not_with_the_prompt():
    engine = FakeEngine()
    engine.gates[TakeSweep] = asyncio.Event()
    async with running(engine) as (app, pilot, _):
        await pilot.press("p", "d")
        await until(pilot, lambda: "deck 1 of 1: …" in drawn(app) and "deck of 1 25 %" in drawn(app))
        await other_prompt(pilot, OTHER)
        assert len(sweeps_of(engine)) == 1 and "deck" in app.explore.jobs
        await pilot.press("down", "d")
        await settled(pilot)
        await until(pilot, lambda: sweeps_of(engine)[-1].schedules == ("drop 10-11",))
        await pilot.press("escape")
        await until(pilot, lambda: "deck of 1: cancelled" in drawn(app) and not app.explore.jobs)
        engine.gates.clear()
        await pilot.press("d")
        await until(pilot, lambda: "KL median" in drawn(app))


async def test_the_deck_goes_before_a_sweep_that_runs():
    engine = FakeEngine()
    engine.gates[TakeSweep] = asyncio.Event()
    async with running(engine) as (app, pilot, _):
        await pilot.press("d")
        await until(pilot, lambda: "sweep" in app.explore.jobs)
        await pilot.press("p")
        await until(pilot, lambda: list(app.explore.jobs) == ["deck"])
        engine.gates[TakeSweep].set()
        await until(pilot, lambda: "KL median" in drawn(app) and " of 12" in drawn(app))
        assert [request.kinds for request in sweeps_of(engine) if not request.schedules] == [("drop",)] * 2


async def test_a_position_that_some_prompts_do_not_have():
    class Noted(FakeEngine):
        def sweep(self, request, prompt, kind):
            notes = {0: "it has no position 5"} if len(self.tokenize(prompt)) < 6 else {}
            return replace(super().sweep(request, prompt, kind), notes=notes)

    async with running(Noted()) as (app, pilot, _):
        await pilot.press("p")
        await other_prompt(pilot, "short")
        await pilot.press("p", "[")
        await settled(pilot)
        await pilot.press("colon", *"drop 3 @5", "enter")
        await until(pilot, lambda: "deck 1 of 2: 1 of 2 counted, KL median" in drawn(app))


async def test_what_was_just_typed_is_pinned_when_it_was_read():
    async with running() as (app, pilot, _):
        await pilot.press("i", *"xyz", "enter", "p")
        await until(pilot, lambda: "pinned: deck 1 of 1" in drawn(app))
        assert app.explore.deck.prompts == (f"{PROMPT}xyz",)
        await other_prompt(pilot, OTHER)
        await settled(pilot)
        assert len(app.explore.deck.prompts) == 1


async def test_what_cannot_be_pinned():
    async with running(settle=False, prompt="a " * 300) as (app, pilot, _):
        await until(pilot, lambda: "reads at most" in drawn(app))
        await pilot.press("p")
        await until(pilot, lambda: "not read yet" in drawn(app))
        await other_prompt(pilot, "b")
        app.explore.deck = Deck(tuple(map(str, range(50))))
        await pilot.press("p")
        await until(pilot, lambda: "the deck is full, 50 prompts" in drawn(app))
        await pilot.press("i", "backspace", "enter", "p")
        await until(pilot, lambda: "the prompt is empty" in drawn(app))
        assert len(app.explore.deck.prompts) == 50


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (160, 50)])
async def test_the_deck_has_a_line_of_its_own(size):
    async with running(FakeEngine(30), size=size) as (app, pilot, _):
        await pilot.press("p", "home", "d")
        await until(pilot, lambda: "deck 1 of 1: KL median" in drawn(app) and " of 30" in drawn(app))
        shown = drawn(app).splitlines()
        assert len(shown) == size[1] and max(map(cell_len, shown)) <= size[0]
        assert shown[1].startswith("out ") and " of 30" in shown[2] and shown[3].startswith("deck 1 of 1")
        await pilot.press("p")
        await until(pilot, lambda: "deck" not in drawn(app).splitlines()[3])


# ------------------------------------------------------------------------------------------- to the sweep and back


async def test_w_opens_the_sweep_of_the_prompt_and_the_deck():
    async with running(schedule="drop 3") as (app, pilot, engine):
        await pilot.press("p")
        await other_prompt(pilot, OTHER)
        await pilot.press("left", "w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen))
        assert app.screen.prompts == (PROMPT, OTHER) and app.screen.info is app.explore.info
        assert app.screen.present == OTHER and "prompt 2 of 2" in drawn(app)
        assert app.screen.position == app.explore.at
        app.screen.dismiss(Chosen("swap 4 5", PROMPT, 2))
        await until(pilot, lambda: reads(engine)[-1] == Read(PROMPT, "swap 4 5", 2))
        await settled(pilot)
        assert f"prompt ▸ {PROMPT}" in drawn(app) and "edit   ▸ swap 4 5" in drawn(app)
        await pilot.press("u")
        assert str(app.explore.schedule) == "drop 3"


async def test_w_comes_back_to_the_cell_of_a_trace_that_was_opened():
    async with running() as (app, pilot, engine):
        await pilot.press("left", "w", "v", "v")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen) and app.screen.sweep("trace"))
        trace = app.screen.wanted()
        await pilot.press("left", "up", "enter")
        await until(pilot, lambda: str(app.explore.schedule) == "drop 1 @3")
        await settled(pilot)
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen) and app.screen.sweep("trace"))
        assert app.screen.view == "trace" and app.screen.cell() == (1, 3) and app.screen.wanted() == trace


async def test_w_on_a_full_deck_leaves_out_the_prompt_that_is_not_pinned_and_says_so():
    async with running(size=(120, 40)) as (app, pilot, engine):
        app.explore.deck = Deck(tuple(f"prompt {n}" for n in range(50)))
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen) and sweeps_of(engine))
        assert sweeps_of(engine)[-1].prompts == app.explore.deck.prompts
        await until(pilot, lambda: "the prompt at hand is not pinned and is left out" in drawn(app))


async def test_w_ends_the_sweep_that_runs_by_itself():
    engine = FakeEngine()
    engine.gates[TakeSweep] = asyncio.Event()
    async with running(engine) as (app, pilot, _):
        await pilot.press("d")
        await until(pilot, lambda: "sweep" in app.explore.jobs)
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen))
        assert "sweep" not in app.explore.jobs
        engine.gates.clear()
        app.screen.dismiss(None)
        await until(pilot, lambda: app.screen is app.explore and " of 12" in drawn(app))
        assert str(app.explore.schedule) == "drop 11"


async def test_w_needs_a_model_and_a_prompt():
    engine = FakeEngine()
    engine.failures[Load] = [Failure("missing", "No model.")]
    async with running(engine, settle=False) as (app, pilot, _):
        await until(pilot, lambda: "No model." in drawn(app))
        await pilot.press("w")
        await until(pilot, lambda: "layers are not known yet" in drawn(app))
    async with running(prompt="a") as (app, pilot, _):
        await pilot.press("i", "backspace", "enter", "w")
        await until(pilot, lambda: "the prompt is empty" in drawn(app))
        assert app.screen is app.explore


async def test_an_engine_that_died_in_the_sweep_screen_is_started_again_here():
    engine = FakeEngine()
    async with running(engine) as (app, pilot, _):
        engine.failures[TakeSweep] = [Failure("died", "The engine was killed (signal 9).")]
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen) and app.screen.dead)
        app.screen.dismiss(None)
        await until(pilot, lambda: app.screen is app.explore and "engine stopped" in drawn(app))
        await pilot.press("r")
        await until(pilot, lambda: "idle" in drawn(app))
        await settled(pilot)


async def test_r_in_the_sweep_screen_starts_an_engine_that_died_there():
    engine = FakeEngine()
    async with running(engine) as (app, pilot, _):
        engine.failures[TakeSweep] = [Failure("died", "The engine was killed (signal 9).")]
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen) and app.screen.dead)
        await pilot.press("r")
        await until(pilot, lambda: app.screen is app.explore and not app.explore.dead and "idle" in drawn(app))
        await settled(pilot)
