"""What the stack, the token strip and the two detail texts draw."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from textual import events
from textual.app import App

from stagescope.engine.schedule import parse
from stagescope.engine.tokens import Token
from stagescope.screens.rows import Folded, rows
from stagescope.screens.widgets import glyphs
from stagescope.screens.widgets.detail import effect_line, row_line
from stagescope.screens.widgets.stack import Stack
from stagescope.screens.widgets.tokens import TokenStrip
from tests.readings import make_census, make_info, make_reading

MODES = ["stack", "tokens", "delta"]
HOSTILE = [
    "[/]", "[/bold]", "[@click=app.quit]x", "[red]", "\u202e", "\x1b]52;c;AAAA\x07", "\\u{1b}[2J", "日本語の長い単語",
    "\u0301", "👩‍👩‍👧", "\u200b", "", " ", "\t", "\\u{a}\\u{a}", "\\xf0\\x9f", "x" * 300, "\ufeff", "ก็็็",
]  # fmt: skip


class Show(App):
    CSS = "Stack { height: 1fr; }"

    def __init__(self, ascii_only: bool = False):
        super().__init__()
        self.ascii_only = ascii_only
        self.said = []

    def compose(self):
        yield Stack(ascii_only=self.ascii_only)
        yield TokenStrip(ascii_only=self.ascii_only)

    def on_stack_moved(self, message):
        self.said.append(message)

    on_stack_position = on_stack_pressed = on_token_strip_chosen = on_stack_moved

    def draw(self, reading, position=-1, mode="stack", census=None, settled=True):
        position %= len(reading.tokens)
        drawn = rows(reading.model, reading, census, parse(reading.schedule), position)
        stack = self.query_one(Stack)
        stack.show(drawn, position=position, tokens=reading.tokens, mode=mode, settled=settled)
        self.query_one(TokenStrip).show(reading.tokens, position)
        return stack


def text_of(widget) -> list[str]:
    return [widget.render_line(y).text for y in range(widget.size.height)]


def check_lines(widget):
    for y in range(widget.size.height):
        strip = widget.render_line(y)
        assert cell_len(strip.text) == widget.size.width == strip.cell_length
        assert strip.text.isprintable()


def with_nan(reading):
    """The same reading with every float array NaN and no tokens."""
    changes = {name: np.full_like(value, np.nan) for name, value in vars(reading).items()
               if isinstance(value, np.ndarray) and value.dtype == np.float32}  # fmt: skip
    return replace(reading, **changes, top_ids=np.full_like(reading.top_ids, -1))


# ---------------------------------------------------------------------------------------------- lines


@pytest.mark.parametrize("width", [60, 80, 120, 160, 220])
@pytest.mark.parametrize("ascii_only", [False, True])
async def test_direct_effects_tell_their_sign_without_colour(width, ascii_only):
    """In one cell by its glyph, in four by + and -; NaN is blank, and overflow is no scale for the rest."""
    app = Show(ascii_only)
    effects = [(0.0, 1e-9), (5.21, -4.0), (-0.25, 0.4), (math.nan, math.nan), (math.inf, -math.inf), (-18.0, 0.04)]
    async with app.run_test(size=(width, 24)):
        reading = make_reading(6, schedule="head-off 1.2; neuron-off 2.7 @2; attn-off 3 mean")
        for column in ("direct", "change"):
            drawn = rows(reading.model, reading, None, parse(reading.schedule), 2)
            drawn = [replace(row, direct=pair) for row, pair in zip(drawn, [(math.nan, math.nan), *effects], strict=True)]
            stack = app.query_one(Stack)
            stack.show(drawn, position=2, tokens=reading.tokens, column=column)
            check_lines(stack)
            lines = text_of(stack)
            assert not ascii_only or all(line.isascii() for line in lines)
            wide = "mlp" in lines[0]
            mark = stack.glyphs.delta if column == "change" else stack.glyphs.plus_minus
            assert (f"{mark}att {mark}mlp" if wide else f"a{mark}m") in lines[0]
            second = next(line for line in lines if line[:4].strip() == "1")
            assert ("+5.2 -4.0" if wide else "+ -" if ascii_only else "▴ ▾") in second  # of 18 less than a third


@pytest.mark.parametrize("width", [60, 80, 120, 160, 220])
async def test_every_line_is_as_wide_as_the_widget(width):
    schedules = ["", "drop 11", "swap 3 7; drop 11; attn-off 20 mean; mlp-off 4 @3",
                 "parallel 10-14 x2; repeat 3-4", "loop 4-9 x4"]  # fmt: skip
    app = Show()
    async with app.run_test(size=(width, 24)):
        for schedule in schedules:
            reading = make_reading(schedule=schedule)
            for mode in MODES:
                for flipped in (False, True):
                    stack = app.draw(reading, mode=mode, census=make_census())
                    stack.flipped = flipped
                    check_lines(stack)
        check_lines(app.query_one(TokenStrip))


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [60, 120])
async def test_hostile_tokens_are_harmless(width, ascii_only):
    app = Show(ascii_only)
    async with app.run_test(size=(width, 30)):
        reading = make_reading(words=HOSTILE)
        reading = replace(reading, tokens=tuple(Token(500 + i, text) for i, text in enumerate(HOSTILE[:12])))
        for mode in MODES:
            stack = app.draw(reading, mode=mode)
            check_lines(stack)
            assert not ascii_only or all(line.isascii() for line in text_of(stack))
        strip = app.query_one(TokenStrip)
        for position in range(12):
            app.draw(reading, position)
            check_lines(strip)
            assert not ascii_only or strip.render_line(0).text.isascii()
        row = stack.row_at_cursor()
        for lines in (1, 2):
            for drawn in (
                effect_line(reading, 3, width, lines=lines, glyphs=stack.glyphs),
                row_line(row, reading, 3, width, lines=lines, glyphs=stack.glyphs),
            ):
                split = drawn.plain.split("\n")
                assert len(split) <= lines
                assert all(line.isprintable() and cell_len(line) <= width for line in split)
                assert not ascii_only or drawn.plain.isascii()


@pytest.mark.parametrize(("n_layers", "n_tokens"), [(1, 1), (4, 1), (30, 2), (48, 12), (48, 400), (126, 40)])
@pytest.mark.parametrize("schedule", ["", "drop 0"])
async def test_small_and_large_readings(n_layers, n_tokens, schedule):
    app = Show()
    async with app.run_test(size=(100, 20)):
        reading = make_reading(n_layers, n_tokens, schedule)
        for mode in MODES:
            for position in {0, n_tokens // 2, n_tokens - 1}:
                stack = app.draw(reading, position, mode, census=make_census(n_layers))
                check_lines(stack)
                check_lines(app.query_one(TokenStrip))
                assert "[" in app.query_one(TokenStrip).render_line(0).text


async def test_nan_everywhere_is_blank():
    app = Show()
    async with app.run_test(size=(120, 40)):
        for reading in (make_reading(schedule=""), make_reading()):
            empty = with_nan(reading)
            for mode in MODES:
                stack = app.draw(empty, mode=mode)
                check_lines(stack)
                assert "nan" not in "".join(text_of(stack)).lower()
            for drawn in (effect_line(empty, 5, 120), row_line(stack.row_at_cursor(), empty, 5, 120)):
                assert "nan" not in drawn.plain.lower()


async def test_the_stack_stands_before_there_is_a_reading():
    app = Show()
    async with app.run_test(size=(100, 40)):
        stack = app.query_one(Stack)
        check_lines(stack)  # nothing shown yet
        info = make_info(30, loaded=False)
        stack.show(rows(info, None, None, parse("drop 3"), 0), position=0, tokens=())
        check_lines(stack)
        assert "dropped" in text_of(stack)[27]
        for mode in MODES[1:]:
            stack.show(rows(info, None, None, parse("drop 3"), 0), position=0, tokens=(), mode=mode)
            check_lines(stack)


async def test_data_flows_up_unless_flipped():
    app = Show()
    async with app.run_test(size=(100, 40)):
        stack = app.draw(make_reading())
        assert [line.split()[0] for line in text_of(stack)[1:4]] == ["▸29", "28", "27"]
        assert text_of(stack)[31].split()[0] == "e"
        stack.flipped = True
        assert [line.split()[0] for line in text_of(stack)[1:4]] == ["e", "0", "1"]


async def test_columns_by_width():
    headers = {}
    for width in (60, 80, 120, 220):
        app = Show()
        async with app.run_test(size=(width, 24)):
            headers[width] = text_of(app.draw(make_reading(), census=make_census()))[0].split()
    assert not {"was", "sup/pre", "bits"} & set(headers[60])
    assert not {"sup/pre", "attn", "bits"} & set(headers[80])
    for width in headers:
        assert {"lay", "Δ", "H", "▸·Paris", "now"} <= set(headers[width])
    assert {"was"} <= set(headers[80])
    assert {"was", "attn", "mlp", "sup/pre", "bits"} <= set(headers[120])


async def test_a_row_that_departs_shows_both_lists_and_one_that_does_not_is_quiet():
    app = Show()
    async with app.run_test(size=(120, 40)):
        reading = make_reading()
        stack = app.draw(reading)
        last, same = text_of(stack)[1], text_of(stack)[25]
        tops = (int(r.top_ids[-1, -1, 0]) for r in (reading, reading.baseline))
        now, was = (reading.texts[top].replace(" ", "·") for top in tops)
        assert now in last and was in last
        assert " · " in same
        quiet = stack.get_component_rich_style("stack--quiet").color
        colours = {segment.style.color for segment in stack.render_line(25) if segment.text.strip()}
        assert colours == {quiet, stack.get_component_rich_style("stack--faint").color}


async def test_an_earlier_prompts_values_are_quiet():
    app = Show()
    async with app.run_test(size=(120, 40)):
        stack = app.draw(make_reading(), settled=False)
        colours = {s.style.color for y in range(1, 32) for s in stack.render_line(y) if s.text.strip()}
        assert colours == {stack.get_component_rich_style("stack--quiet").color}


# ---------------------------------------------------------------------------------------------- what is sent


def record(stack, monkeypatch) -> list:
    sent, refresh = [], stack.refresh

    def recorded(*regions, **options):
        sent.append(regions)
        return refresh(*regions, **options)

    monkeypatch.setattr(stack, "refresh", recorded)
    return sent


async def test_only_changed_lines_are_sent(monkeypatch):
    app = Show()
    async with app.run_test(size=(120, 40)) as pilot:
        reading = make_reading()
        stack = app.draw(reading)
        await pilot.pause()
        sent = record(stack, monkeypatch)
        stack = app.draw(reading)
        assert sent == []
        stack.cursor_down()
        lines = sorted(region.y for (region,) in sent)
        assert lines == [1, 2]
        assert all(region.width < 120 for (region,) in sent)  # the baseline's tokens are not sent again
        sent.clear()
        other = replace(reading, entropy_bits=reading.entropy_bits.copy())
        other.entropy_bits[5, -1] = 12.3
        app.draw(other)
        assert [region.y for (region,) in sent] == [26]  # layer 4


async def test_a_new_theme_draws_anew():
    app = Show()
    async with app.run_test(size=(120, 40)) as pilot:
        stack = app.draw(make_reading())
        dark = stack.render_line(1)
        app.theme = "textual-light"
        await pilot.pause()
        assert stack.render_line(1) != dark
        assert stack.render_line(1).text == dark.text
        await pilot.resize_terminal(80, 24)
        check_lines(stack)


# ------------------------------------------------------------------------------------------ cursor and mouse


async def test_the_cursor_moves_as_seen_on_screen():
    app = Show()
    async with app.run_test(size=(100, 40)) as pilot:
        stack = app.draw(make_reading())
        assert stack.row_at_cursor().label == "29"
        stack.cursor_down()
        await pilot.pause()
        assert stack.row_at_cursor().label == "28"
        assert app.said[-1].row.label == "28"
        stack.cursor_up()
        stack.cursor_up()  # stays at the top
        assert stack.row_at_cursor().label == "29"
        stack.last()
        assert stack.row_at_cursor().label == "e"
        stack.first()
        assert stack.row_at_cursor().label == "29"
        stack.page(1)
        assert stack.cursor < 10
        stack.page(-1)
        assert stack.row_at_cursor().label == "29"
        stack.flipped = True
        stack.cursor_up()
        assert stack.row_at_cursor().label == "28"
        stack.first()
        assert stack.row_at_cursor().label == "e"


async def test_the_cursor_follows_its_layer():
    app = Show()
    async with app.run_test(size=(100, 40)):
        stack = app.draw(make_reading(schedule=""))
        stack.cursor = 13
        assert stack.row_at_cursor().label == "12"
        for schedule in ("swap 12 20", "drop 12", "repeat 3-5", "drop 3 12"):
            app.draw(make_reading(schedule=schedule))
            assert stack.row_at_cursor().label == "12"
        app.draw(make_reading(6, schedule=""))  # a smaller model
        assert stack.row_at_cursor().label == "5"


async def test_the_cursor_is_in_view_when_rows_fold():
    app = Show()
    async with app.run_test(size=(80, 16)):
        stack = app.draw(make_reading())
        for _ in range(31):
            assert sum(line.startswith("▸") for line in text_of(stack)) == 1
            stack.cursor_down()
        assert any("…" in line for line in text_of(stack))


async def test_clicks():
    app = Show()
    async with app.run_test(size=(120, 40)) as pilot:
        reading = make_reading()
        stack = app.draw(reading)
        spans = stack._frame.columns.spans

        async def click(y, name, inside=0):
            app.said.clear()
            await pilot.click(Stack, offset=(spans[name][0] + inside, y))
            return [(type(m).__name__, getattr(m, "what", None), m.row.label) for m in app.said]

        assert await click(2, "layer", 1) == [("Moved", None, "28")]  # the number only moves the cursor
        assert await click(3, "layer", 4) == [("Moved", None, "27"), ("Pressed", "layer", "27")]
        assert await click(3, "attn") == [("Pressed", "attn", "27")]
        assert await click(3, "mlp", 2) == [("Pressed", "mlp", "27")]
        assert await click(3, "kl") == []
        assert await click(4, "now1", 2) == [("Moved", None, "26"), ("Pressed", "token", "26")]
        assert app.said[-1].token_id == reading.top_ids[26, -1, 1]
        assert await click(4, "was0", 2) == [("Pressed", "token", "26")]
        assert app.said[-1].token_id == reading.baseline.top_ids[27, -1, 0]
        assert await click(31, "layer") == [("Moved", None, "e")]  # the embedding cannot be dropped
        assert await click(0, "layer") == []
        app.said.clear()
        await pilot.click(Stack, offset=(5, 36))  # below the rows
        assert app.said == []


async def test_a_click_in_a_grid_chooses_the_position_and_one_on_a_fold_goes_there():
    app = Show()
    async with app.run_test(size=(120, 16)) as pilot:
        stack = app.draw(make_reading(), mode="delta")
        start, _ = stack._frame.columns.spans["p4"]
        await pilot.click(Stack, offset=(start + 1, 2))
        assert [m.position for m in app.said if isinstance(m, Stack.Position)] == [4]
        y = next(i for i, line in enumerate(stack._lines) if isinstance(line, Folded)) + 1
        folded = stack._lines[y - 1]
        await pilot.click(Stack, offset=(1, y))
        assert folded.first <= stack.cursor <= folded.last


async def test_a_fold_claims_no_likeness_it_cannot_know():
    app = Show()
    async with app.run_test(size=(120, 12)):
        stack = app.draw(make_reading(schedule="drop 25"))
        assert any("as in the baseline" in line for line in text_of(stack))
        stack = app.draw(make_reading(schedule="swap 0 29"))  # no depth between the two can be compared
        assert any("…" in line for line in text_of(stack))
        assert not any("as in the baseline" in line for line in text_of(stack))


async def test_the_wheel_moves_the_cursor():
    app = Show()
    async with app.run_test(size=(100, 40)) as pilot:
        stack = app.draw(make_reading())
        stack.post_message(events.MouseScrollDown(stack, 5, 5, 0, 1, 0, False, False, False))
        await pilot.pause()
        assert stack.row_at_cursor().label == "28"


# ---------------------------------------------------------------------------------------------- token strip


async def test_the_token_strip_keeps_the_chosen_one_in_view():
    app = Show()
    async with app.run_test(size=(60, 10)):
        reading = make_reading(6, 60, "")
        strip = app.query_one(TokenStrip)
        for position in [*range(60), 3, 59, 0, 30]:
            app.draw(reading, position)
            check_lines(strip)
            drawn = reading.tokens[position].text.replace(" ", "·")
            assert f"[{drawn}]" in strip.render_line(0).text


async def test_a_move_of_the_position_shifts_nothing():
    app = Show()
    async with app.run_test(size=(120, 10)):
        reading = make_reading(6, 12, "")
        strip = app.query_one(TokenStrip)
        lines = set()
        for position in range(12):
            app.draw(reading, position)
            lines.add(strip.render_line(0).text.replace("[", " ").replace("]", " "))
        assert len(lines) == 1


async def test_a_click_on_a_token_chooses_it():
    app = Show()
    async with app.run_test(size=(120, 10)) as pilot:
        app.draw(make_reading(6, 12, ""), 11)
        line = app.query_one(TokenStrip).render_line(0).text
        await pilot.click(TokenStrip, offset=(line.index("·Tower"), 0))
        assert [m.position for m in app.said if isinstance(m, TokenStrip.Chosen)] == [5]
        app.said.clear()
        await pilot.click(TokenStrip, offset=(119, 0))
        assert app.said == []


# ---------------------------------------------------------------------------------------------- details


def test_the_effect_says_here_or_mean_of_how_many():
    reading = make_reading()
    text = effect_line(reading, 11, 120).plain
    here = glyphs.number(float(reading.effect_kl_nats[11]))
    mean = glyphs.number(float(reading.effect_kl_nats[1:].mean()))  # the prefix token is left out
    kept = int(reading.effect_top1_same[1:].sum())
    assert f"here KL {here}" in text
    assert f"mean of 11: KL {mean}, top-1 kept {kept}/11" in text
    assert "rank" in text and "·Paris" in text
    partly = effect_line(make_reading(positions=(11,)), 11, 120).plain
    assert "means …" in partly and "mean of" not in partly and f"here KL {here}" in partly


def test_the_baselines_effect_is_its_output():
    reading = make_reading(schedule="")
    text = effect_line(reading, 11, 120).plain
    assert "baseline" in text and "mean of 11" in text and "KL" not in text
    assert glyphs.probability(float(reading.top_p[-1, 11, 0])) in text
    assert "mean …" in effect_line(make_reading(schedule="", positions=(11,)), 11, 120).plain


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize("drawn", [glyphs.UNICODE, glyphs.ASCII])
def test_the_standing_ends_the_numbers_at_every_width(width, drawn):
    reading = make_reading()
    _, numbers = effect_line(reading, 11, width, glyphs=drawn, standing="3rd of 30 drops").plain.split("\n")
    assert cell_len(numbers) <= width and (numbers.isascii() or not drawn.ascii_only)
    assert numbers.endswith(f" {drawn.zero} 3rd of 30 drops")
    assert numbers.startswith("here KL") and ("top-1" in numbers or width < 80)
    one = effect_line(reading, 11, width, lines=1, glyphs=drawn, standing="3rd of 30 drops").plain
    assert "\n" not in one and cell_len(one) <= width


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("lines", [1, 2])
def test_the_deck_has_a_line_more_and_loses_its_last_parts_first(width, lines):
    counted = "6 of 7 counted, KL median .31"
    deck = ["deck of 7: ", counted, ", worst 4.4", " (“The capital of…”)", ", top-1 kept 41/63"]
    drawn = effect_line(make_reading(), 11, width, lines=lines, deck=deck).plain.split("\n")
    assert len(drawn) == lines + 1 and all(cell_len(line) <= width for line in drawn)
    assert "".join(deck).startswith(drawn[-1]) and "worst 4.4" in drawn[-1]
    assert drawn[-1].endswith("41/63") == (width > 80)


def test_a_row_in_words():
    reading = make_reading(schedule="swap 3 7; drop 11; mlp-off 5 mean")
    drawn = {row.label: row for row in rows(reading.model, reading, None, parse(reading.schedule), 11)}

    def text(label):
        return row_line(drawn[label], reading, 11, 200).plain

    assert "layer 11 (dropped)" in text("11")
    assert "layer 7 (moved)" in text("7") and "no baseline depth" in text("7")
    assert "layer 5 (MLP mean contribution instead)" in text("5")
    assert "now " in text("29") and "was " in text("29") and "attn ." in text("29")
    assert text("e").startswith("embedding")
    assert "was " not in text("2")


@pytest.mark.parametrize(("value", "text"), [
    (0.753, ".753"), (4.926, "4.93"), (10.94, "10.9"), (142.2, "142"), (4932.0, "4.9k"), (49_320.0, "49k"),
    (0.0042, "4e-3"), (1e-7, "1e-7"), (0.0, "0"), (math.nan, ""), (0.99951, "1.00"), (0.9994, ".999"),
    (9.996, "10.0"), (99.96, "100"), (999.6, "1.0k"), (-0.5, "-.500"), (math.inf, "inf"),
])  # fmt: skip
def test_numbers_take_four_cells(value, text):
    assert glyphs.number(value) == text
    assert len(text) <= 4 or value < 0


def test_probabilities_and_ranks_take_four_cells():
    for p in np.geomspace(1e-9, 1, 500):
        assert 0 < len(glyphs.probability(float(p))) <= 4
    for value in np.geomspace(1, 300_000, 500):
        assert 0 < len(glyphs.rank(round(value))) <= 4


@pytest.mark.parametrize("drawn", [glyphs.UNICODE, glyphs.ASCII])
def test_bars_have_their_width(drawn):
    for part in (math.nan, 0, 1e-9, 0.3, 1.0, 5.0):
        assert cell_len(glyphs.bar(min(part, 1.0), 6, drawn)) == 6
        assert cell_len(glyphs.column(part, drawn)) == cell_len(glyphs.shade(part, drawn)) == 1
    assert glyphs.bar(1e-9, 6, drawn).strip()
    assert not glyphs.sparkline([math.nan, math.nan], 0, 1, drawn).strip()
