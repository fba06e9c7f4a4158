"""The write screen on the fake engine: two texts as they come, settings, a step in the stack, what goes wrong."""

import asyncio
from functools import partial
from unittest.mock import Mock

import pytest
from beside import PROMPT, beside, press, settled
from rich.cells import cell_len
from test_explore import HARMFUL, drawn, unwrapped, until

from stagescope.answers import as_numbers
from stagescope.engine import fake, fake_texts
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, Generate
from stagescope.exports import again
from stagescope.screens.asking import Chosen
from stagescope.screens.write import WriteScreen
from stagescope.screens.write_words import settings, with_settings
from stagescope.text import visible

EDIT = "drop 3"


def writing(schedule=EDIT, engine=None, settled=settled, sampling=Generate(""), **looked):
    return beside(partial(WriteScreen, sampling=sampling), engine, settled, schedule=schedule, **looked)


@pytest.mark.parametrize(("size", "ascii_only"), [((60, 16), True), ((80, 24), False), ((160, 50), False)])
@pytest.mark.parametrize("schedule", ["", EDIT])
async def test_it_draws_texts_and_steps_at_every_size(size, ascii_only, schedule, monkeypatch):
    monkeypatch.setattr(fake, "WORDS", [" the", "\x1b[2J", "\u202eabc", "a\u0301", " \n", "日本", "\u200d", "[bold]"])
    async with writing(schedule, size=size, ascii_only=ascii_only) as (screen, pilot, _):
        for keys in ((), ("up", "pageup"), ("home",), ("left",), ("end", "right")):
            await press(pilot, *keys)
            cursor = f"{'>' if ascii_only else '▸'}{screen.step:>4} "
            await until(pilot, lambda at=cursor: sum(line.startswith(at) for line in drawn(pilot.app).splitlines()) == 1)
            shown = drawn(pilot.app)
            rows = shown.splitlines()
            assert not HARMFUL.search(shown) and all(cell_len(line.rstrip()) <= size[0] for line in rows)
            heading = next(line for line in rows if line.startswith(" step"))
            assert heading.count("KL") == (0 if not schedule else 1 if size[0] == 60 else 2)  # in 60 cells the side looked at
            assert not ascii_only or "".join(rows[1:-1]).isascii()


async def test_texts_grow_token_by_token_and_the_cursor_follows_until_it_is_moved():
    engine = FakeEngine()
    engine.gates[Generate] = asyncio.Event()
    async with writing(engine=engine, settled=None) as (screen, pilot, _):
        await until(pilot, lambda: "sampling greedy" in drawn(pilot.app) and screen.generation is None)
        engine.gates[Generate].set()
        await settled(pilot)
        found = screen.generation
        assert found.complete and screen.step == screen.n_steps - 1 == 39
        await press(pilot, "up")
        assert screen.step == 38 and not screen.follows
        await press(pilot, "end")
        assert screen.follows
        await press(pilot, "p")
        assert screen.step == found.parts_at(1) and f"parts at step {screen.step}" in drawn(pilot.app)


def halting(monkeypatch, after: int) -> FakeEngine:
    """It writes so many steps of a text, and then is at work until its gate is opened."""
    engine, real = FakeEngine(), fake_texts.generations

    def some(*asked):
        for step, found in enumerate(real(*asked)):
            if step == after and not engine.gates[Generate].opened:
                engine.gates[Generate].clear()
            yield found

    monkeypatch.setattr(fake_texts, "generations", some)
    engine.gates[Generate] = asyncio.Event()
    engine.gates[Generate].opened = False  # for good
    engine.gates[Generate].set()
    return engine


async def test_escape_keeps_what_is_written_and_r_writes_it_anew(monkeypatch):
    engine = halting(monkeypatch, after=3)
    async with writing(engine=engine, settled=None) as (screen, pilot, _):
        recorded = screen.record = Mock()
        await until(pilot, lambda: screen.n_steps == 3 and not engine.gates[Generate].is_set())
        await press(pilot, "home", "right")
        assert "ended" not in drawn(pilot.app)  # what is not written yet has not ended
        await pilot.press("escape")
        assert screen.running is None and screen.n_steps == 3
        await until(pilot, lambda: "stopped: r writes it anew" in drawn(pilot.app))
        answer = screen.answer()
        assert len(as_numbers(answer).rows) == 6 and again.command(answer).count("--tokens 3") == 1  # can be exported
        (request, (found,)), _ = recorded.call_args
        assert request == Generate(PROMPT, (EDIT,), 3) == found.asked and found.complete and found.ids.shape == (2, 3)
        engine.gates[Generate].opened = True
        engine.gates[Generate].set()
        await pilot.press("r")
        await settled(pilot)
        assert screen.n_steps == 40 and screen.step == 39 and len(engine.requests) == 2
        assert [call.args[0].tokens for call in recorded.call_args_list] == [3, 40]


@pytest.mark.parametrize("how", ["the engine dies", "another seed", "the app is left"])
async def test_a_text_cut_short_is_recorded_as_far_as_it_is_written(how, monkeypatch):
    engine = halting(monkeypatch, after=5)
    async with writing(engine=engine, settled=None, sampling=Generate("", temperature=1.0)) as (screen, pilot, _):
        recorded = screen.record = Mock()
        await until(pilot, lambda: screen.n_steps == 5)
        match how:
            case "the engine dies":
                screen._failed(screen.running, Failure("died", "The engine ended.", ""))
            case "another seed":
                await pilot.press("s")
            case "the app is left":
                screen.let_go()
        (request, (found,)), _ = recorded.call_args_list[0]
        assert request == Generate(PROMPT, (EDIT,), 5, 1.0) == found.asked and found.p.shape == (2, 5)


async def test_a_step_opens_in_the_stack_as_a_prompt():
    async with writing("attn-off 1 @-1") as (screen, pilot, _):
        await press(pilot, "home", "down", "down", "left")
        found = screen.generation
        await press(pilot, "enter")
        assert pilot.app.results == [Chosen("", PROMPT + found.text(0, 2), -1)]
    async with writing("attn-off 1 @-1") as (screen, pilot, _):
        await press(pilot, "home", "down", "right", "enter")
        # the position of the prompt it was, whatever stands after it now
        assert pilot.app.results == [Chosen("attn-off 1 @5", PROMPT + screen.generation.text(1, 1), -1)]


async def test_a_step_whose_words_are_other_tokens_typed_anew_is_not_opened():
    async with writing() as (screen, pilot, _):
        screen.generation.reads_back[1, 4] = False
        await press(pilot, "home", *["down"] * 5, "enter")
        assert not pilot.app.results and "other tokens" in unwrapped(pilot.app)
        await press(pilot, "up", "enter")
        assert len(pilot.app.results) == 1


async def test_sampling_is_typed_and_s_draws_with_the_next_seed():
    async with writing() as (screen, pilot, engine):
        await press(pilot, "s")
        assert "greedy draws nothing" in unwrapped(pilot.app) and len(engine.requests) == 1
        await pilot.press("t", *["backspace"] * 30, *"temperature 0.8, top-k 5, tokens 7", "enter")
        await settled(pilot)
        assert engine.requests[-1] == Generate(PROMPT, (EDIT,), 7, 0.8, 5) and screen.n_steps == 7
        await press(pilot, "s")
        await settled(pilot)
        assert engine.requests[-1].seed == 1 and "seed 1" in drawn(pilot.app)
        for wrong, why in {"warmth 3": "“warmth” is no setting", "temperature -1": "the temperature cannot be -1.0"}.items():
            await pilot.press("t", *["backspace"] * 60, *wrong, "enter")
            await until(pilot, lambda why=why: why in unwrapped(pilot.app))
            assert len(engine.requests) == 3 and screen.generation.complete  # the texts stay
    async with writing("", sampling=screen.request) as (_, _, engine):  # as the last one was left
        assert engine.requests[0] == Generate(PROMPT, (), 7, 0.8, 5, seed=1)


@pytest.mark.parametrize("width", [80, 160, 200])
async def test_a_click_chooses_the_step_and_the_text_it_is_made_on(width):
    async with writing(size=(width, 40)) as (screen, pilot, _):
        row = next(line for line in drawn(pilot.app).splitlines() if line.startswith("▸  39"))
        edge = row.index(visible(screen.generation.texts[int(screen.generation.ids[1, 39])]), 40 if width == 80 else 60)
        for x, side in ((edge, 1), (edge - 2, 0), (1, 0), (edge + 3, 1)):
            step = screen.drawn_steps[1]
            await pilot.click("#table", offset=(x, 2))
            await until(pilot, lambda wanted=(side, step): (screen.side, screen.step) == wanted and not screen.moved)


async def test_a_text_whose_logits_are_no_numbers_says_so():
    async with writing() as (screen, pilot, _):
        screen.generation.notes[1] = "its logits are no numbers at step 7"
        screen.draw()
        await until(pilot, lambda: "edit: its logits are no numbers at step 7" in drawn(pilot.app))


async def test_a_failure_is_told():
    engine = FakeEngine()
    engine.failures[Generate] = [Failure("error", "The prompt has 300 tokens.", "Ask for less.")]
    async with writing(engine=engine, settled=None) as (_, pilot, _):
        await until(pilot, lambda: "The prompt has 300 tokens. Ask for less. r tries again." in unwrapped(pilot.app))


@pytest.mark.parametrize(
    "asked",
    [Generate("a"), Generate("a", (), 7), Generate("a", ("drop 1",), 9, 0.75, 3, 0.5, 12), Generate("a", temperature=2.0)],
)
def test_settings_are_read_as_they_are_written(asked):
    assert with_settings(asked, settings(asked).replace(",", "")) == asked  # with or without commas
    assert with_settings(Generate("a", asked.schedules, 99, 1.0, 1, 0.1, 5), settings(asked)) == asked


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hot", "“hot” is no setting: there is greedy, temperature, top-k, top-p, seed, tokens"),
        ("temperature", "temperature takes a number, not “”"),
        ("seed 1, tokens 4 seed 2", "seed is said twice"),
        ("tokens 1.5", "tokens takes a whole number, not “1.5”"),
        ("greedy 3", "“3” is no setting"),
        ("seed \x1b[2J", "seed takes a whole number, not “\\u{1b}[2j”"),
    ],
)
def test_a_wrong_setting_is_told(text, why):
    with pytest.raises(ValueError) as error:
        with_settings(Generate("a"), text)
    assert why in str(error.value)
