"""The heads screen on the fake engine: scores first, then the pattern of what the cursor rests on."""

import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, settled
from rich.cells import cell_len
from test_explore import HARMFUL, drawn, until, unwrapped

from stagescope import actions
from stagescope.engine import fake_causes
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, FindHeads, ShowPattern
from stagescope.engine.tokens import Token
from stagescope.reports.heads import strongest_keys
from stagescope.screens import heads_words
from stagescope.screens.ask import Ask, Choose
from stagescope.screens.asking import Chosen
from stagescope.screens.heads import HeadsScreen
from stagescope.screens.help import Help
from stagescope.screens.widgets import glyphs
from stagescope.text import printable

HOSTILE = ["\x1b]52;c;x\x07", "漢字テスト", "\u200b", "\u0301", "👩\u200d🚀", "\u202e", "[/b]", "\u00a0", "", "עברית"]
BEST = (2, 3)  # of the fake


def running(engine=None, settle=True, **looked):
    return beside(HeadsScreen, engine, settled if settle else None, **looked)


async def press(pilot, *keys: str) -> None:
    await pilot.press(*keys)
    await settled(pilot)


def show(layer: int, head: int, schedule: str = "") -> ShowPattern:
    return ShowPattern(PROMPT, layer, head, schedule)


# ------------------------------------------------------------------------------------- asking the engine


async def test_the_scores_come_first_then_the_pattern_of_the_best_and_of_where_the_cursor_rests():
    async with running() as (screen, pilot, engine):
        assert engine.requests == [FindHeads(), show(*BEST)]
        assert "head 2.3 · score .600 [.55 .65], 1 of 48 · held out .540 [.49 .59]" in unwrapped(pilot.app)
        assert "120 words of 3 tokens searched, 60 held out" in drawn(pilot.app)
        assert "such as ent|angle|ment" in drawn(pilot.app)
        order = screen.of_words.ranked()
        for _ in range(3):  # those passed by are not asked for
            screen.action_down()
        await settled(pilot)
        assert engine.requests[2:] == [show(*order[3])]
        await press(pilot, "home")
        assert len(engine.requests) == 3  # it is known
        await press(pilot, "c")
        assert engine.requests[3:] == [FindHeads(pieces=4)] and "of 4 tokens" in drawn(pilot.app)


async def test_a_search_that_is_cancelled_leaves_any_head_to_be_shown_and_r_searches_again():
    engine = FakeEngine()
    engine.gates[FindHeads] = asyncio.Event()
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "measuring" in drawn(pilot.app) and "esc cancels" in drawn(pilot.app))
        await pilot.press("escape")
        await until(pilot, lambda: "48 heads, not scored; r searches" in drawn(pilot.app) and not pilot.app.results)
        await pilot.press("down", "down")
        await until(pilot, lambda: show(0, 2) in screen.patterns and "0.2 looks from row to column" in drawn(pilot.app))
        engine.gates.clear()
        await press(pilot, "r")
        assert engine.requests == [FindHeads(), show(0, 2), FindHeads()] and screen.chosen == (0, 2)


async def test_why_there_is_no_answer_is_told_and_an_engine_that_died_is_asked_nothing_more():
    engine = FakeEngine()
    few = Failure("usage", "This text has 7 words of 3 pieces; 20 are needed.", "Give a longer one.")
    engine.failures = {FindHeads: [few], ShowPattern: [Failure("usage", "layer 0 does not run")]}
    async with running(engine, settle=False) as (screen, pilot, _):
        told = "This text has 7 words of 3 pieces; 20 are needed. Give a longer one. r tries again."
        await until(pilot, lambda: told in unwrapped(pilot.app))
        await pilot.press("down")
        await until(pilot, lambda: "layer 0 does not run r tries again" in unwrapped(pilot.app))
        assert "no scores: This text has 7 words" in drawn(pilot.app)  # the reason stays
        engine.failures[FindHeads] = [Failure("died", "The engine stopped.")]
        await pilot.press("r")
        await until(pilot, lambda: screen.dead and "engine stopped" in drawn(pilot.app))
        asked = len(engine.requests)
        await pilot.press("down", "c", "v", "up")
        await until(pilot, lambda: not screen.pause and not screen.moved)
        assert len(engine.requests) == asked and "The engine stopped." in drawn(pilot.app)
        await pilot.press("r")
        await until(pilot, lambda: pilot.app.results == [None])
        assert screen.restart


# ------------------------------------------------------------------------------------------------- keys


async def test_every_key_does_what_the_help_says(monkeypatch):
    """One entry for every row of the table: keys before it, and what must come true after it."""
    checks = {
        "up": (["home", "down", "down"], lambda s: s.chosen == s.order()[1]),
        "down": (["home"], lambda s: s.chosen == s.order()[1]),
        "page_up": (["end"], lambda s: s.chosen == s.order()[47 - (s.body_height() - 2)]),
        "page_down": (["home"], lambda s: s.chosen == s.order()[s.body_height() - 2]),
        "first": (["down"], lambda s: s.chosen == BEST),
        "last": ([], lambda s: ", 48 of 48" in drawn(s.app)),
        "left": ([], lambda s: " at 4 ·is looks at" in drawn(s.app)),
        "right": ([], lambda s: " at 5 ·in looks at" in drawn(s.app)),
        "token_back": ([], lambda s: " at 4 ·is looks at" in drawn(s.app)),
        "token_forward": ([], lambda s: " at 5 ·in looks at" in drawn(s.app)),
        "view": ([], lambda s: "▸layers x heads" in drawn(s.app) or "▸by score" in drawn(s.app)),
        "pieces": ([], lambda s: f"{s.words_of} tokens" in drawn(s.app) and s.words_of != 3),
        "rest": ([], lambda s: "all of it is there" in drawn(s.app)),
        "export": ([], lambda s: isinstance(s.app.screen, Ask)),
        "copy": (["escape"], lambda s: isinstance(s.app.screen, Choose)),
        "help": (["escape"], lambda s: isinstance(s.app.screen, Help) and "Cycle how many tokens" in unwrapped(s.app)),
    }
    monkeypatch.setattr("stagescope.screens.asking.PAUSE", 0.01)
    rows = {action.name: action for action in actions.of("heads")}
    assert set(rows) == {*checks, "open", "back"}
    async with running() as (screen, pilot, _):
        for name, (before, after) in checks.items():
            await press(pilot, *before, *rows[name].keys[:1])
            await until(pilot, lambda: after(screen), name)  # noqa: B023
        await pilot.press("escape", "q")
        await until(pilot, lambda: pilot.app.results == [None])


async def test_in_the_grid_arrows_move_among_layers_and_heads_and_enter_switches_the_head_off():
    async with running(schedule="head-off 5.3") as (screen, pilot, engine):
        assert engine.requests[-1] == show(5, 3, "head-off 5.3")  # the cursor starts where it was
        await press(pilot, "v", "up", "left", "left")
        assert screen.chosen == (6, 1) and re.search(r"^  6 .*▸", drawn(pilot.app), re.MULTILINE)
        await press(pilot, "home")
        assert screen.chosen == (0, 0)
        await press(pilot, "end", "down")
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("head-off 10.3", PROMPT, None, adds=True)])


async def test_a_click_chooses_a_head_and_a_token():
    async with running() as (screen, pilot, _):
        await pilot.click("#table", offset=(3, 4))
        await settled(pilot)
        assert screen.chosen == screen.order()[3]
        await pilot.click("#pattern", offset=(5, 2))
        await until(pilot, lambda: " at 1 The looks at" in drawn(pilot.app))
        await press(pilot, "v", "home")
        y = next(y for y, line in enumerate(drawn(pilot.app).splitlines()) if re.match(r"  2 ", line))
        await pilot.click("#grid", offset=(4 + 3 * 5 + 1, y - screen.grid.region.y))
        await settled(pilot)
        assert screen.chosen == BEST


# ------------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize(("sizes", "ascii_only"), [(((80, 24), (160, 50)), False), (((100, 30), (60, 16)), True)])
async def test_lines_stay_straight_whatever_the_tokens_are_and_at_every_size(sizes, ascii_only):
    engine = FakeEngine()
    tokens = tuple(Token(n, printable(text)) for n, text in enumerate(HOSTILE))
    words = tuple((printable(text), "x") for text in HOSTILE)
    scores, pattern = fake_causes.head_scores, fake_causes.head_pattern
    engine._cause = lambda request: iter([
        replace(scores(engine.info, request), examples=words, source=printable(HOSTILE[0]))
        if isinstance(request, FindHeads) else pattern(engine.info, request, tokens)
    ])  # fmt: skip
    async with running(engine, ascii_only=ascii_only) as (screen, pilot, _):
        for width, height in sizes:
            await pilot.resize_terminal(width, height)
            await until(pilot, lambda: screen.size == (width, height))  # noqa: B023
            await until(pilot, lambda: screen.picture.size.height == height - 8)  # noqa: B023
            for _view in ("score", "layers"):
                await press(pilot, "v")
                lines = [strip.text for strip in pilot.app.screen._compositor.render_strips()]
                assert {cell_len(line) for line in lines} == {width} and len(lines) == height
                assert "48 heads" in lines[-2] and "? help" in lines[-1]
                assert not any(HARMFUL.search(line) for line in lines)
                assert not ascii_only or all(line.isascii() for line in lines[2:-1])
                assert "2.3 looks from" in "\n".join(lines)


def pattern_of(n_tokens: int, weights=None):
    info = FakeEngine().info
    tokens = tuple(Token(n, f" t{n}") for n in range(n_tokens))
    made = fake_causes.head_pattern(info, ShowPattern("", 1, 2), tokens)
    return made if weights is None else replace(made, pattern=np.array(weights, np.float32))


def test_shades_follow_the_weights_and_bars_stand_for_one_row_where_a_grid_has_no_room():
    small = pattern_of(3, [[1, 0, 0], [0.75, 0.25, 0], [0.01, np.nan, 0.2]])
    lines = heads_words.pattern(small, 1, True, 40, 20, glyphs.UNICODE).plain.split("\n")
    assert lines[1:4] == ["   0 ·t0 ███", "▸  1 ·t1 ███▒▒▒", "   2 ·t2  ·    ▒▒▒"]
    assert "from 1 ·t1" in lines[6]
    assert [line.split()[:3] for line in lines[7:9]] == [["0", "·t0", ".750"], ["1", "·t1", ".250"]]
    assert strongest_keys(small, 2, 9) == [(2, pytest.approx(0.2)), (0, pytest.approx(0.01))]
    many = pattern_of(100)
    lines = heads_words.pattern(many, 60, True, 40, 12, glyphs.ASCII).plain.split("\n")
    best = int(many.pattern[60].argmax())
    assert lines[0].startswith("1.2 looks from 60 _t60") and len(lines) == 12
    assert lines[1].split()[:2] == [str(best), f"_t{best}"]
    nothing = pattern_of(2, np.full((2, 2), np.nan))
    assert "no number" in heads_words.pattern(nothing, 1, True, 40, 12, glyphs.UNICODE).plain


def test_scores_that_are_no_numbers_come_last_and_say_so():
    engine = FakeEngine()
    made = fake_causes.head_scores(engine.info, FindHeads())
    for values in (made.score, made.held):
        values[BEST] = np.nan
    made.held[0, 0] = -0.1, -0.2, 0.1
    scores = heads_words.table_line(made, *BEST, 80, " ", glyphs.UNICODE).plain
    assert made.ranked()[-1] == BEST and scores.split() == ["2.3"]
    assert heads_words.told(made, *BEST, glyphs.UNICODE)[1] == "no score: a layer without attention, or no number"
    ticks = [heads_words.table_line(made, *head, 80, " ", glyphs.UNICODE).plain.count("✓") for head in made.ranked()]
    assert sum(ticks) == int((made.held[..., 1] > 0).sum()) and not ticks[made.ranked().index((0, 0))]
    grid = heads_words.grid(made, (12, 4), (0, 0), 26, 16, glyphs.UNICODE).plain.split("\n")
    assert next(line for line in grid if line.startswith("  2 ")).endswith("   ")
