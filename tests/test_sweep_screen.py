"""The sweep screen on the fake engine: rows flow in while keys work, cancelling keeps, a point can be opened."""

import asyncio
import math
import re
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from sweeps import make_sweep
from test_explore import HARMFUL, drawn, until, unwrapped
from textual.app import App

from stagescope import actions
from stagescope.engine.fake import PARTS, FakeEngine
from stagescope.engine.protocol import Failure, Load, TakeSweep
from stagescope.screens import sweep_words
from stagescope.screens.ask import Ask, Choose
from stagescope.screens.help import Help
from stagescope.screens.sweep import Chosen, SweepScreen
from stagescope.screens.sweep_deck import median_and_worst, median_sweep
from stagescope.screens.widgets import glyphs

PROMPT = "The Eiffel Tower is in"  # 6 tokens with the prefix in the fake's tokenizer
DECK = (PROMPT, "The capital of Germany is", "one two three four")
ROWS = 12 + 11  # of drop and swap in the fake's 12 layers


class Turnstile(asyncio.Semaphore):
    """A gate of the fake engine that lets so many replies through, and more with `release`."""

    wait = asyncio.Semaphore.acquire


class Bench(App):
    """The sweep screen alone; `results` is what it was dismissed with."""

    def __init__(self, engine: FakeEngine, screen: SweepScreen):
        super().__init__()
        self.engine, self.sweep, self.results = engine, screen, []

    def on_mount(self) -> None:
        self.push_screen(self.sweep, self.results.append)


@asynccontextmanager
async def running(
    engine=None, prompts=(PROMPT,), size=(100, 30), settle=True, present=PROMPT, tracked=None, position=-1, **options
):  # fmt: skip
    """(screen, pilot, engine), by default with all of the first view there."""
    engine = engine or FakeEngine()
    engine.info = replace(engine.info, loaded=True)
    engine.loaded.set()
    screen = SweepScreen(engine.info, Load(), tuple(prompts), present, tracked, position, **options)
    app = Bench(engine, screen)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen is screen and engine.requests)
        if settle:
            await settled(pilot)
        yield screen, pilot, engine


async def settled(pilot) -> None:
    """Until all of the view is there, and drawn."""
    screen = pilot.app.sweep
    await until(pilot, lambda: not screen.unswept(screen.wanted()) and not screen.running and not is_due(screen))


def is_due(screen: SweepScreen) -> bool:
    return screen.drawing is not None or screen.moved


async def press(pilot, *keys: str) -> None:
    """The keys, and the drawing that follows them."""
    await pilot.press(*keys)
    await until(pilot, lambda: not is_due(pilot.app.sweep))


def asked(engine: FakeEngine) -> list[TakeSweep]:
    return [request for request in engine.requests if isinstance(request, TakeSweep)]


def footer(app: App) -> list[str]:
    """Labels of what the footer offers."""
    return [part.partition(" ")[2] for part in drawn(app).splitlines()[-1].split("  ")]


# ------------------------------------------------------------------------------------------ the numbers


def test_the_median_over_prompts_is_of_each_prompt_s_mean():
    sweeps = [make_sweep("drop", 6, n_tokens=5 + seed, seed=seed, prompt=str(seed)) for seed in range(3)]
    median = median_sweep(sweeps)
    for measure in ("kl_nats", "top1_same", "entropy_change_bits", "loss_change_nats"):
        means = [np.nanmean(getattr(s, measure)[:, s.mean_positions()].astype(float), axis=1) for s in sweeps]
        np.testing.assert_allclose(getattr(median, measure)[:, 0], np.median(means, axis=0), rtol=1e-6)
    assert median.mean_positions() == [0] and median.complete and median.rows == sweeps[0].rows


def test_a_median_is_of_the_prompts_that_have_the_row():
    one, two = make_sweep("drop", 4, seed=1, prompt="a"), make_sweep("drop", 4, seed=2, prompt="b", done=[0, 1])
    median = median_sweep([one, two])
    alone = median_sweep([one])
    assert median.kl_nats[3, 0] == alone.kl_nats[3, 0] and median.kl_nats[0, 0] != alone.kl_nats[0, 0]
    nothing = median_sweep([make_sweep("drop", 4, done=[0])])
    assert nothing.done.tolist() == [True, False, False, False] and math.isnan(nothing.kl_nats[2, 0])


def test_the_worst_prompt_is_named():
    sweeps = [make_sweep("drop", 4, seed=seed, prompt=str(seed)) for seed in range(5)]
    means = [float(s.kl_nats[2, s.mean_positions()].mean()) for s in sweeps]
    median, worst, where = median_and_worst(sweeps, 2)
    assert median == pytest.approx(np.median(means)) and worst == pytest.approx(max(means))
    assert where is sweeps[int(np.argmax(means))]
    assert median_and_worst([make_sweep("drop", 4, done=[0])], 2) is None


def test_a_point_is_told_in_full():
    sweep = make_sweep("drop", 6, n_tokens=8, notes={4: "its logits are not numbers"}, done=[0, 1, 2, 4])
    kl = sweep.kl_nats[1, 1:]
    words = " · ".join(sweep_words.point(sweep, 1, 7, glyphs.UNICODE))
    number = glyphs.number
    assert f"drop 1 · KL mean {number(kl.mean())}, median {number(np.median(kl))} (n=7), here {number(kl[-1])}" in words
    assert f"top-1 kept {int(sweep.top1_same[1, 1:].sum())}/7 · ΔH" in words and "nats" in words
    assert "of 3 drops" in words
    assert sweep_words.point(sweep, 4, 7, glyphs.UNICODE) == ["drop 4", "its logits are not numbers"]
    assert sweep_words.point(sweep, 5, 7, glyphs.UNICODE) == ["drop 5", "not run yet"]


@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_words_are_wrapped_between_parts_and_never_wider(width):
    parts = [f"part number {n}" for n in range(9)]
    lines = sweep_words.wrapped(parts, width, 3, glyphs.UNICODE).plain.split("\n")
    assert len(lines) <= 3 and all(len(line) <= width for line in lines)
    assert "".join(lines).startswith("part number 0")


# ------------------------------------------------------------------------------------------ rows flow in


async def test_it_fills_in_while_keys_work():
    engine = FakeEngine()
    engine.gates[TakeSweep] = Turnstile(2)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: f"6 of {ROWS} rows · sweep" in drawn(pilot.app))
        assert "esc cancels" in drawn(pilot.app)
        assert screen.sweep("drop").done.sum() == 6 and screen.sweep("swap") is None
        await press(pilot, "right", "right")
        assert "drop 2 · KL mean" in drawn(pilot.app) and "of 6 drops" in unwrapped(pilot.app)
        await press(pilot, *["right"] * 7)
        assert "drop 9 · not run yet" in drawn(pilot.app)
        for _ in range(2 * PARTS):
            engine.gates[TakeSweep].release()
        await settled(pilot)
        assert "drop 9 · KL mean" in drawn(pilot.app) and "of 12 drops" in unwrapped(pilot.app)
        assert asked(engine) == [TakeSweep((PROMPT,), ("drop", "swap"))]


async def test_all_of_it_is_drawn():
    async with running() as (screen, pilot, engine):
        assert f"{ROWS} rows" in drawn(pilot.app) and "6 tokens" in drawn(pilot.app) and "idle" in drawn(pilot.app)
        assert "● drop" in drawn(pilot.app) and "△ swap" in drawn(pilot.app)
        assert drawn(pilot.app).count("●") > 10
        assert "1st of 12 drops" in unwrapped(pilot.app)
        await press(pilot, "r")
        assert "all of it is there" in drawn(pilot.app) and len(asked(engine)) == 1


async def test_escape_keeps_what_is_done_and_r_goes_on():
    engine = FakeEngine()
    engine.gates[TakeSweep] = Turnstile(2)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: f"6 of {ROWS} rows" in drawn(pilot.app))
        await press(pilot, "escape")
        await until(pilot, lambda: f"6 of {ROWS} rows; r goes on" in drawn(pilot.app) and "idle" in drawn(pilot.app))
        assert screen.sweep("drop").done.sum() == 6 and not pilot.app.results
        await press(pilot, *"vvvvv")  # the other views run, this one only when it is told to
        await until(pilot, lambda: screen.view == "curves" and f"6 of {ROWS} rows" in drawn(pilot.app))
        engine.gates.clear()
        await press(pilot, "r")
        await settled(pilot)
        assert f"{ROWS} rows" in drawn(pilot.app)


async def test_a_view_that_is_complete_lets_go_of_what_ran_for_another():
    engine = FakeEngine()
    async with running(engine) as (screen, pilot, _):
        await press(pilot, "v")
        await settled(pilot)
        engine.gates[TakeSweep] = Turnstile(1)
        await press(pilot, "v")
        await until(pilot, lambda: screen.running and screen.running.kinds == ("trace",) and screen.sweep("trace"))
        assert "sweeping" in drawn(pilot.app)
        await press(pilot, "v", "v", "v")
        await until(pilot, lambda: screen.view == "curves" and f"{ROWS} rows" in drawn(pilot.app))
        assert screen.running is None and "idle" in drawn(pilot.app) and not screen.sweep("trace").complete
        await press(pilot, "escape")
        await until(pilot, lambda: pilot.app.results == [None])


async def test_what_it_waits_for_is_told_and_the_footer_offers_what_can_be_done():
    engine = FakeEngine()
    async with running(engine) as (screen, pilot, _):
        assert not {"go on", "deck on", "deck back"} & set(footer(pilot.app))
        engine.loaded.clear()
        await press(pilot, "v")
        told = "0 of 24 rows · waiting for a reading or another job of the engine · esc cancels"
        await until(pilot, lambda: told in unwrapped(pilot.app))
        assert "go on" not in footer(pilot.app)
        await press(pilot, "escape")
        await until(pilot, lambda: "go on" in footer(pilot.app))


async def test_a_sweep_that_begins_anew_takes_nothing_away():
    async with running() as (screen, pilot, _):
        whole = screen.sweep("drop")
        screen.receive(screen.wanted(), replace(whole, done=np.arange(12) < 3))
        assert screen.sweep("drop") is whole


async def test_leaving_a_view_lets_its_sweep_go_and_coming_back_goes_on():
    engine = FakeEngine()
    engine.gates[TakeSweep] = Turnstile(1)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: screen.sweep("drop"))
        await press(pilot, "v")
        await until(pilot, lambda: screen.running and screen.running.kinds == ("attn-off", "mlp-off"))
        del engine.gates[TakeSweep]
        await press(pilot, "v", "v", "v", "v")
        await settled(pilot)
        assert screen.view == "curves" and screen.sweep("drop").complete


# ------------------------------------------------------------------------------------------------- keys


async def test_every_key_does_what_the_help_says():
    """One entry for every row of the table: keys before it, and what must come true after it."""
    checks = {
        "left": (["right", "right"], lambda s: "drop 1 ·" in drawn(s.app)),
        "right": ([], lambda s: "drop 1 ·" in drawn(s.app)),
        "up": ([], lambda s: "swap 0 1 ·" in drawn(s.app)),
        "down": (["right"], lambda s: "swap 1 2 ·" in drawn(s.app)),
        "first": (["right"], lambda s: "drop 0 ·" in drawn(s.app)),
        "last": ([], lambda s: "drop 11 ·" in drawn(s.app)),
        "open": (["right"], lambda s: s.app.results == [Chosen("drop 1", PROMPT, None)]),
        "view": ([], lambda s: "▸attn-off" in drawn(s.app)),
        "measure": ([], lambda s: "top-1 kept, share" in drawn(s.app)),
        "deck_back": ([], lambda s: "all 3 prompts: median" in drawn(s.app)),
        "deck_forward": ([], lambda s: "prompt 2 of 3" in drawn(s.app)),
        "rest": ([], lambda s: "all of it is there" in drawn(s.app)),
        "export": ([], lambda s: isinstance(s.app.screen, Ask)),
        "copy": ([], lambda s: isinstance(s.app.screen, Choose)),
        "back": ([], lambda s: s.app.results == [None]),
        "help": ([], lambda s: isinstance(s.app.screen, Help) and "Cancel what runs" in unwrapped(s.app)),
    }
    assert set(checks) == {action.name for action in actions.of("sweep")}
    for action in actions.of("sweep"):
        before, after = checks[action.name]
        for key in action.keys:
            async with running(prompts=DECK) as (screen, pilot, _):
                await pilot.press(*before, key)
                await until(pilot, lambda: after(screen), f"{action.name} after {key}")  # noqa: B023


async def test_the_cursor_starts_on_the_schedule_at_hand():
    for schedule, view, told in (
        ("swap 4 5", "curves", "swap 4 5 ·"), ("mlp-off 3", "sublayers", "mlp-off 3 ·"),
        ("drop 3; swap 7 8", "curves", "drop 0 ·"), ("drop 3 @2", "trace", "drop 3 @2"),
    ):  # fmt: skip
        async with running(schedule=schedule) as (screen, pilot, _):
            assert screen.view == view and told in drawn(pilot.app)


async def test_the_last_layer_has_no_swap_of_its_own():
    async with running() as (screen, pilot, _):
        await press(pilot, "end", "down")
        assert "swap 10 11 ·" in drawn(pilot.app)
        await press(pilot, "left")
        assert "swap 9 10 ·" in drawn(pilot.app)
        await press(pilot, "down")
        assert "drop 9 ·" in drawn(pilot.app)


@pytest.mark.parametrize("size", [(60, 30), (100, 30), (160, 50)])
async def test_a_click_on_a_view_or_a_measure_chooses_that_one(size):
    async with running(size=size) as (screen, pilot, _):

        async def click(name: str) -> None:
            await pilot.click("#views", offset=(drawn(pilot.app).splitlines()[2].index(name) + 1, 0))

        for name, view, kind in [
            ("mlp-off", "sublayers", "mlp-off"), ("heads", "heads", "heads"), ("neurons", "sets", "neuron-sets"),
            ("trace", "trace", "trace"), ("swap", "curves", "swap"),
            ("drop", "curves", "drop"),
        ]:  # fmt: skip
            await click(name.removesuffix("-off") if size[0] == 60 else name)
            await until(pilot, lambda: (screen.view, screen.kind) == (view, kind))  # noqa: B023
        every = screen.measure
        assert (every is None) == screen._all_fit() == (size[1] == 50)
        await click("top-1")
        await until(pilot, lambda: screen.measure == "top1_same")
        await click("top-1")
        await until(pilot, lambda: screen.measure == (every if screen._all_fit() else "top1_same"))
        await click("KL")
        await until(pilot, lambda: screen.measure == "kl_nats")


async def test_a_click_moves_to_the_nearest_layer_and_the_footer_acts():
    async with running(size=(160, 50)) as (screen, pilot, _):
        panel = screen.panels["kl_nats"]
        await press(pilot, *["right"] * 7)
        column = max(line.find("┊") for line in drawn(pilot.app).splitlines())
        await press(pilot, "home")
        await pilot.click(panel, offset=(column, 5))
        await until(pilot, lambda: "drop 7 ·" in drawn(pilot.app))
        await pilot.click("#footer", offset=(1, 0))
        await until(pilot, lambda: pilot.app.results == [Chosen("drop 7", PROMPT, None)])


# ------------------------------------------------------------------------------------------------ the trace


async def test_the_trace_is_run_when_it_is_first_opened():
    async with running(tracked=7, position=3) as (screen, pilot, engine):
        assert all(request.kinds != ("trace",) for request in asked(engine))
        await press(pilot, "v", "v")
        await settled(pilot)
        assert asked(engine)[-1] == TakeSweep((PROMPT,), ("trace",), position=3, tracked=7)
        assert f"{12 * 6} rows" in drawn(pilot.app) and "drop 0 @3" in drawn(pilot.app)
        assert re.search(r"KL \S+, \d+.. of 72 places", unwrapped(pilot.app))
        await press(pilot, "up", "up", "left")
        assert "drop 2 @2" in drawn(pilot.app) and screen.cell() == (2, 2)
        await press(pilot, "home", *["down"] * 5)
        assert screen.cell() == (0, 0)
        await press(pilot, "end", "right", "up")
        assert screen.cell() == (1, 5)
        n = len(asked(engine))
        await press(pilot, *"vvvvv")
        await settled(pilot)
        assert all(request.kinds != ("trace",) for request in asked(engine)[n:]) and "drop 1 @5" in drawn(pilot.app)
        await press(pilot, "left", "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("drop 1 @4", PROMPT, 3)])


async def test_all_of_a_trace_is_in_sight_where_it_can_be():
    async with running(FakeEngine(30), size=(120, 40), schedule="drop 0 @5") as (screen, pilot, _):
        await until(pilot, lambda: "\n 29 " in drawn(pilot.app) and "\n  0 " in drawn(pilot.app))
        assert "above" not in drawn(pilot.app) and "drop 0 @5" in drawn(pilot.app)
        await press(pilot, *"vvvvv")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "…" in drawn(pilot.app) and "more above" in drawn(pilot.app))


async def test_a_trace_that_is_not_there_yet_can_be_left():
    engine = FakeEngine()
    async with running(engine) as (screen, pilot, _):
        engine.gates[TakeSweep] = Turnstile(0)
        await press(pilot, "v", "v", "up", "left", "end")
        await until(pilot, lambda: screen.running and screen.running.kinds == ("trace",))
        await press(pilot, "enter")
        await until(pilot, lambda: "no row is known here yet" in drawn(pilot.app))
        await press(pilot, "escape", "escape")
        await until(pilot, lambda: pilot.app.results == [None])


# ---------------------------------------------------------------------------------------- heads and neurons


async def test_heads_are_a_grid_and_one_can_be_opened():
    async with running() as (screen, pilot, engine):
        await press(pilot, *"vvv")
        await settled(pilot)
        assert asked(engine)[-1] == TakeSweep((PROMPT,), ("heads",)) and f"{12 * 4} rows" in drawn(pilot.app)
        await press(pilot, *["up"] * 5, "right", "right", "right", "right")
        assert "head-off 5.3 · KL mean" in drawn(pilot.app) and "of 48 heads" in unwrapped(pilot.app)
        for title in ("top-1 changed, share", "entropy change, bits", "KL, nats"):
            await press(pilot, "m")
            assert f"{title}, one head off · mean over 5 positions" in drawn(pilot.app)
        await press(pilot, "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("head-off 5.3", PROMPT, None)])
    async with running(schedule="head-off 5.3") as (screen, pilot, _):
        assert screen.view == "heads" and "head-off 5.3 ·" in drawn(pilot.app)


@pytest.mark.parametrize("prompts", [(PROMPT,), DECK])
async def test_sets_of_neurons_answer_whether_they_sharpen(prompts):
    async with running(prompts=prompts, size=(100, 30)) as (screen, pilot, engine):
        await press(pilot, *"vvvv", *("[" * (len(prompts) > 1)))
        await settled(pilot)
        assert asked(engine)[-1] == TakeSweep(prompts, ("neuron-sets",))
        assert "do suppression neurons sharpen?" in drawn(pilot.app) and "entropy change, bits" in drawn(pilot.app)
        k = screen.set_sizes()[-1]
        assert f"the {k} strongest suppression neurons off" in drawn(pilot.app)
        assert ("Median of 3 prompts: " in drawn(pilot.app)) == (len(prompts) > 1)
        assert f"Without the {k} strongest suppression neurons entropy" in unwrapped(pilot.app)
        assert "Random ones of the same layers:" in unwrapped(pilot.app) and "in 3 draws" in unwrapped(pilot.app)
        await press(pilot, "home", "up")
        assert "1 random neuron off, as suppression" in drawn(pilot.app)
        await press(pilot, "down", "right", "m")
        assert "the 2 strongest suppression neurons off" in drawn(pilot.app) and "KL, nats, log axis" in drawn(pilot.app)
        await press(pilot, "enter")
        await until(pilot, lambda: pilot.app.results)
        assert pilot.app.results[0].schedule == screen.chosen()[0].schedule
        assert pilot.app.results[0].schedule.startswith("neuron-off ")


# ------------------------------------------------------------------------------------------------- the deck


async def test_a_deck_is_drawn_as_its_median_and_stepped_through():
    async with running(prompts=DECK) as (screen, pilot, engine):
        assert asked(engine) == [TakeSweep(DECK, ("drop", "swap"))]
        assert "prompt 1 of 3" in drawn(pilot.app) and "median of 3 prompts" not in drawn(pilot.app)
        await press(pilot, "[")
        assert "all 3 prompts: median" in drawn(pilot.app) and "median of 3 prompts" in drawn(pilot.app)
        assert f"{3 * ROWS} rows" in drawn(pilot.app)
        assert "deck of 3: KL median" in drawn(pilot.app) and "worst" in drawn(pilot.app)
        await press(pilot, "]", "]")
        assert "capital of Germany" in drawn(pilot.app) and "prompt 2 of 3" in drawn(pilot.app)
        assert "mean over" in drawn(pilot.app) and "median of 3 prompts" not in drawn(pilot.app)
        await press(pilot, "right", "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("drop 1", DECK[1], None)])


async def test_the_deck_keeps_its_order_and_the_prompt_at_hand_comes_first():
    """Of a deck: shown as the deck numbers it, swept first, told in full beside the median."""
    for shown_as, keys in (("prompt 2 of 3", []), ("all 3 prompts: median", ["[", "["])):
        async with running(prompts=DECK, present=DECK[1], position=2) as (screen, pilot, engine):
            assert asked(engine) == [TakeSweep((DECK[1], DECK[0], DECK[2]), ("drop", "swap"))]
            await press(pilot, *keys)
            assert shown_as in drawn(pilot.app) and DECK[1] in drawn(pilot.app)
            told = sweep_words.point(screen.sweeps[DECK[1], "drop"], 0, 2, glyphs.UNICODE)
            assert " · ".join(told[:2]) in unwrapped(pilot.app)
            await press(pilot, "v", "v")
            await settled(pilot)
            assert asked(engine)[-1] == TakeSweep((DECK[1],), ("trace",), position=2)
            assert "prompt 2 of 3" in drawn(pilot.app)


async def test_a_prompt_that_is_left_out_is_told():
    async with running(prompts=DECK, present="") as (screen, pilot, engine):
        assert asked(engine) == [TakeSweep(DECK, ("drop", "swap"))]
        assert "the deck is full: the prompt at hand is not pinned and is left out" in drawn(pilot.app)
        assert "all 3 prompts: median" in drawn(pilot.app)
        await press(pilot, "v", "v")
        await settled(pilot)
        assert asked(engine)[-1] == TakeSweep((DECK[0],), ("trace",))


async def test_the_trace_of_another_prompt_of_the_deck_is_read_at_its_end():
    async with running(prompts=DECK, position=2) as (screen, pilot, engine):
        await press(pilot, "v", "v")
        await settled(pilot)
        assert asked(engine)[-1] == TakeSweep((PROMPT,), ("trace",), position=2)
        await press(pilot, "]")
        await settled(pilot)
        assert asked(engine)[-1] == TakeSweep((DECK[1],), ("trace",))
        assert screen.sweep("trace").prompt == DECK[1] and "prompt 2 of 3" in drawn(pilot.app)


async def test_the_deck_fills_in_prompt_by_prompt():
    engine = FakeEngine()
    engine.gates[TakeSweep] = Turnstile(2 * PARTS + 1)  # all of the first prompt, some of the second
    async with running(engine, prompts=DECK, settle=False) as (screen, pilot, _):
        await press(pilot, "[")
        await until(pilot, lambda: "median of 2 of 3 prompts" in drawn(pilot.app))
        assert "deck, 2 of 3 so far: KL median" in drawn(pilot.app)
        await press(pilot, "escape", "right", "right", "right", "right", "right")
        assert "deck, 1 of 3 so far: KL median" in drawn(pilot.app)
        engine.gates.clear()
        await press(pilot, "r")
        await settled(pilot)
        assert asked(engine)[-1].prompts == DECK[1:]  # the first is there


async def test_one_prompt_has_no_deck_to_step_through():
    async with running() as (screen, pilot, _):
        await press(pilot, "]")
        assert "one prompt only" in drawn(pilot.app)


# ------------------------------------------------------------------------------------------------- failures


async def test_a_failure_is_told_and_r_tries_again():
    engine = FakeEngine()
    engine.failures[TakeSweep] = [Failure("memory", "Out of memory on cuda:0.", "Choose another device.")]
    async with running(engine, settle=False) as (screen, pilot, _):
        told = "Out of memory on cuda:0. Choose another device. r tries again."
        await until(pilot, lambda: told in unwrapped(pilot.app))
        await press(pilot, "right", "down", "m")
        await press(pilot, "r")
        await settled(pilot)
        assert "Out of memory" not in drawn(pilot.app) and f"{ROWS} rows" in drawn(pilot.app)


@pytest.mark.parametrize("key", ["escape", "r"])
async def test_an_engine_that_died_is_told_and_can_be_left(key):
    engine = FakeEngine()
    engine.gates[TakeSweep] = Turnstile(2)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: f"6 of {ROWS} rows" in drawn(pilot.app))
        await press(pilot, "escape")
        engine.failures[TakeSweep] = [Failure("died", "The engine was killed (signal 9).")]
        await press(pilot, "r")
        told = "(signal 9). r goes back to the stack and starts the engine again."
        await until(pilot, lambda: told in unwrapped(pilot.app) and "go on" in footer(pilot.app))
        assert screen.dead and "engine stopped" in drawn(pilot.app) and screen.sweep("drop").done.sum() == 6
        n = len(asked(engine))
        await press(pilot, "v", "right", *"vvvv")
        assert "(signal 9)" in drawn(pilot.app) and len(asked(engine)) == n
        await press(pilot, key)
        await until(pilot, lambda: pilot.app.results == [None])
        assert screen.restart == (key == "r") and len(asked(engine)) == n


async def test_a_row_that_is_not_a_number_is_told_and_the_rest_drawn():
    engine = FakeEngine()
    whole = engine.sweep

    def broken(request, prompt, kind):
        sweep = whole(request, prompt, kind)
        for measure in ("kl_nats", "top1_same", "entropy_change_bits", "loss_change_nats", "tracked_rank", "tracked_p"):
            getattr(sweep, measure)[1] = np.nan
        return replace(sweep, notes={1: "its logits are not numbers"})

    engine.sweep = broken
    async with running(engine, prompts=DECK) as (screen, pilot, _):
        await press(pilot, "right")
        assert "drop 1 · its logits are not numbers" in drawn(pilot.app)
        for key in "mmm]vv":
            await press(pilot, key)
            await settled(pilot)
        await press(pilot, "down", "home", "right")
        assert "drop 0 @1" in drawn(pilot.app) and "its logits are not numbers" in unwrapped(pilot.app)


async def test_opening_a_point_while_it_runs_ends_the_sweep():
    engine = FakeEngine()
    engine.gates[TakeSweep] = Turnstile(1)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: screen.sweep("drop"))
        await press(pilot, "right", "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("drop 1", PROMPT, None)] and screen.running is None)


# -------------------------------------------------------------------------------------- sizes, hostile text


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (120, 40), (160, 50)])
@pytest.mark.parametrize("ascii_only", [False, True])
async def test_sizes(size, ascii_only):
    async with running(FakeEngine(30), prompts=DECK, size=size, ascii_only=ascii_only) as (screen, pilot, _):
        for _ in range(5):
            shown = drawn(pilot.app).splitlines()
            assert len(shown) == size[1] and max(map(len, shown)) <= size[0]
            for part in ("stagescope", "prompt", "? help", "177 rows" if screen.view == "curves" else "rows"):
                assert any(part in line for line in shown), part
            titles = sum("by layer" in line for line in shown)
            assert titles == (0 if screen.view not in ("curves", "sublayers") else 3 if size[1] >= 40 else 1)
            if ascii_only:
                assert not set("●△▲○┊█░▸▼─│") & set(drawn(pilot.app))
            await press(pilot, "v")
            await settled(pilot)


async def test_a_terminal_too_small_says_so_and_a_larger_one_draws_again():
    async with running() as (screen, pilot, _):
        await pilot.resize_terminal(50, 12)
        await until(pilot, lambda: drawn(pilot.app).strip() == "stagescope needs 60x16, this terminal is 50x12")
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: drawn(pilot.app).count("by layer") == 3 and "needs" not in drawn(pilot.app))
        await press(pilot, "m")
        await until(pilot, lambda: drawn(pilot.app).count("by layer") == 1)
        await press(pilot, "m", "m", "m")
        await until(pilot, lambda: drawn(pilot.app).count("by layer") == 3)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: drawn(pilot.app).count("by layer") == 1)


async def test_hostile_text_never_reaches_the_terminal():
    hostile = "\x1b]52;c;aGk=\x07 [/] [@click=app.quit]x[/] \u202e\u200b\n\x9b2J"
    engine = FakeEngine()
    engine.info = replace(engine.info, name=hostile, source=hostile)
    async with running(engine, prompts=(hostile, PROMPT)) as (screen, pilot, _):
        for key in ("]", "v", "v", "up", "right", "v"):
            await press(pilot, key)
            await settled(pilot)
            assert not HARMFUL.search(drawn(pilot.app))
        assert "\\u{1b}]52" in drawn(pilot.app)
        engine.failures[TakeSweep] = [Failure("error", hostile, hostile)]
        screen.sweeps.clear()
        await press(pilot, "r")
        await until(pilot, lambda: "r tries again" in unwrapped(pilot.app))
        assert not HARMFUL.search(drawn(pilot.app)) and not pilot.app._exit
