"""Colours: told apart with every colour blindness, readable on every theme, and no more of them sent than the terminal shows."""

import itertools
import re

import pytest
from colours import BLINDNESS, contrast, distance, lab, rgb
from rich.color import ColorType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from test_terminal import Terminal
from textual.color import Color

from stagescope import config, console, readable, themes
from stagescope.app import StageApp
from stagescope.drawings import shades
from stagescope.drawings.curves import MARKS
from stagescope.engine.fake import FakeEngine
from stagescope.screens.widgets import stack

COVER = {"·": 0.04, "░": 0.25, "▒": 0.5, "▓": 0.75, "█": 1.0}  # of a cell
HOUSE = {"dark": themes.DARK, "light": themes.LIGHT}


def ramp(look: str) -> list[str]:
    """kl0 to kl3 as the style sheet has them."""
    sheet = stack.Stack.DEFAULT_CSS
    part = sheet.split("&:light")[look == "light"].split("&:ansi")[0]
    return re.findall(r"stack--kl\d \{ color: (#\w+);", part)


@pytest.mark.parametrize("look", HOUSE)
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_ramp_of_differences_is_monotone_in_lightness_and_its_steps_are_told_apart(look, blindness):
    colours, behind = list(map(rgb, ramp(look))), rgb(HOUSE[look].background)
    assert len(colours) == 4
    apart = [abs(lab(colour, blindness)[0] - lab(behind, blindness)[0]) for colour in colours]
    assert apart == sorted(apart) and min(b - a for a, b in itertools.pairwise(apart)) > 1.5
    assert min(distance(a, b, blindness) for a, b in itertools.pairwise(colours)) > 10
    assert min(contrast(colour, behind) for colour in colours) >= 3


@pytest.mark.parametrize("look", HOUSE)
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_shades_are_monotone_in_lightness_and_neighbours_are_told_apart(look, blindness):
    behind, front = rgb(HOUSE[look].background), rgb(shades.SHADED)
    cells = [behind + (front - behind) * COVER[glyph] for glyph in shades.SHADES[0]]
    lightness = [abs(lab(cell, blindness)[0] - lab(behind, blindness)[0]) for cell in cells]
    assert lightness == sorted(lightness)
    assert min(distance(a, b, blindness) for a, b in itertools.pairwise(cells)) > 5
    assert len(set(shades.SHADES[1])) == len(shades.SHADES[1])  # in ASCII, where nothing is covered, by its shape


def test_curves_are_told_apart_by_their_marks_alone():
    assert len({mark.glyph for mark in MARKS}) == len({mark.ascii for mark in MARKS}) == len(MARKS)


@pytest.mark.parametrize(("theme", "least"), [(themes.DARK, 4.5), (themes.LIGHT, 4.5), (themes.CONTRAST, 7.0)], ids=lambda x: getattr(x, "name", x))
def test_the_colours_of_a_theme_are_read_on_its_backgrounds(theme, least):
    fronts = (theme.primary, theme.secondary, theme.accent, theme.warning, theme.error, theme.success, theme.foreground)
    for front, behind in itertools.product(fronts, (theme.background, theme.surface, theme.panel)):
        assert contrast(rgb(front), rgb(behind)) >= least, (front, behind)


@pytest.mark.parametrize("behind", ["#ffffff", "#fafaf7", "#808080", "#000000"])
@pytest.mark.parametrize("mark", [mark.colour for mark in MARKS])
def test_what_could_not_be_read_is_moved_until_it_can(mark, behind):
    style = Style.parse(f"bold rgb({mark[0]},{mark[1]},{mark[2]})")
    (made,) = readable.Readable(3.0).apply([Segment("x", style)], Color.parse(behind))
    assert contrast(rgb(made.style.color.triplet.hex), rgb(behind)) >= 3 and made.style.bold
    if contrast(rgb(style.color.triplet.hex), rgb(behind)) >= 3:
        assert made.style == style


def test_text_without_a_colour_is_left_alone():
    segments = [Segment("x", None), Segment("y", Style(bold=True)), Segment("z", Style.parse("red"))]
    assert readable.Readable(7.0).apply(segments, Color.parse("white")) == segments


@pytest.mark.parametrize("theme", ["stagescope", "stagescope-light", "stagescope-contrast", "solarized-light", "nord"])
async def test_on_every_theme_what_is_drawn_can_be_read(theme):
    least = {"stagescope": 1.4, "stagescope-contrast": 6.9}.get(theme, 2.9)
    app = StageApp(FakeEngine, theme=theme)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        await pilot.press("d", "v")
        await pilot.pause()
        assert app.theme == theme
        for strip in app.screen._compositor.render_strips():
            for text, style, _ in strip:
                if text.strip() and style and style.color and style.bgcolor and style.color.triplet and style.bgcolor.triplet:
                    found = readable.contrast(style.color.triplet, style.bgcolor.triplet)
                    assert found >= least, (text, style)


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
async def test_on_a_theme_of_the_terminals_own_colours_the_stack_has_no_other(theme):
    app = StageApp(FakeEngine, theme=theme)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        for key in ("d", "v", "v"):
            await pilot.press(key)
            await pilot.pause()
            styles = [style for strip in app.screen._compositor.render_strips() for text, style, _ in strip if text.strip() and style]
            colours = [colour for style in styles for colour in (style.color, style.bgcolor) if colour]
            assert len(styles) > 50 and {colour.type for colour in colours} == {ColorType.DEFAULT, ColorType.STANDARD}
            assert not [style for style in styles if style.color and style.color == style.bgcolor and not style.color.is_default]


async def test_the_palette_offers_the_themes():
    app = StageApp(FakeEngine)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        assert {"stagescope", "stagescope-light", "stagescope-contrast", "nord"} <= set(app.available_themes)
        app.theme = "stagescope-light"
        await pilot.pause()
        assert not app.current_theme.dark


# ---------------------------------------------------------------------------------------------- what is sent

APP = """
import sys
from stagescope.app import StageApp, run_app
from stagescope.console import color_depth
from stagescope.engine.fake import FakeEngine
run_app(StageApp(FakeEngine, color=color_depth(sys.argv[1]), theme=sys.argv[2]))
"""
SGR = re.compile(rb"\x1b\[([\d;]*)m")
SIXTEEN = {*range(30, 38), *range(40, 48), *range(90, 98), *range(100, 108), 39, 49}
COLOURED = {38, 48, *SIXTEEN} - {39, 49}


def sent(raw: bytes) -> set[str]:
    """What kinds of colours: "true", "256", "16", and "other" for what is no attribute either."""
    kinds = set()
    for match in SGR.finditer(raw):
        numbers = [int(n or 0) for n in match[1].split(b";")]
        while numbers:
            first = numbers.pop(0)
            if first in (38, 48):
                kind = numbers.pop(0)
                kinds.add({2: "true", 5: "256"}[kind])
                del numbers[: 3 if kind == 2 else 1]
            elif first in COLOURED:
                kinds.add("16")
            elif first not in (39, 49) and first > 29:
                kinds.add("other")
    return kinds


CASES = [
    ("truecolor", "stagescope", {}, {"true"}),
    ("256", "stagescope", {}, {"256"}),
    ("256", "stagescope-light", {}, {"256"}),
    ("16", "stagescope", {}, {"16"}),
    ("16", "stagescope-light", {}, {"16"}),
    ("16", "nord", {}, {"16"}),
    ("mono", "stagescope", {}, set()),
    ("mono", "dracula", {}, set()),
    ("auto", "stagescope", {"TERM": "xterm-256color"}, {"256"}),  # plain ssh
    ("auto", "stagescope", {"TERM": "screen-256color", "COLORTERM": "truecolor", "TMUX": ""}, {"256"}),
    ("auto", "stagescope", {"TERM": "xterm-256color", "COLORTERM": "truecolor"}, {"true"}),
    ("auto", "stagescope", {"TERM": "linux"}, {"16"}),
    ("auto", "stagescope", {"TERM": "vt100"}, set()),
    ("auto", "stagescope", {"TERM": "xterm-256color", "NO_COLOR": "1"}, set()),
    ("256", "stagescope", {"NO_COLOR": "1", "TEXTUAL_COLOR_SYSTEM": "truecolor"}, {"256"}),  # what is said goes first
]


@pytest.mark.parametrize(("color", "theme", "env", "kinds"), CASES, ids=lambda x: str(x))
def test_no_more_colours_are_sent_than_there_are(tmp_path, color, theme, env, kinds):
    env = {"STAGESCOPE_HOME": str(tmp_path), "NO_COLOR": "", **env}
    terminal = Terminal(color, theme, columns=80, lines=24, program=["-c", APP], env=env)
    try:
        terminal.until("idle")
        for keys, seen in [("d", "dropped"), ("v", "dropped"), ("v", "dropped"), ("?", "Edit the layer"), ("q", "tok "), ("w", "show it")]:
            terminal.child.send(keys)
            terminal.until(lambda text, seen=seen: seen in text and ("Edit the layer" in text) == (seen == "Edit the layer"))
        found = sent(terminal.raw)
        assert found <= kinds and (found or not kinds)
    finally:
        terminal.child.close(force=True)


@pytest.mark.parametrize("color", ["16", "mono"])
def test_cursor_edits_and_choices_are_seen_without_hue(tmp_path, color):
    """The row under the cursor and the chosen token stand out by attribute and by a mark; so do what was edited and changed."""
    terminal = Terminal(color, "stagescope", columns=80, lines=24, program=["-c", APP], env={"STAGESCOPE_HOME": str(tmp_path)})
    try:
        terminal.until("idle")
        terminal.child.send("\x1b[Bd")
        screen = terminal.screen

        def stands_out(text: str) -> bool:
            lines = text.splitlines()
            at = next((y for y, line in enumerate(lines) if line.startswith("▸")), None)
            tokens = next((y for y, line in enumerate(lines) if line.startswith("tok")), None)
            if at is None or tokens is None:  # a frame half drawn
                return False
            chosen = "".join(screen.buffer[tokens][x].data for x in range(80) if screen.buffer[tokens][x].reverse)
            row = [screen.buffer[at][x] for x in range(10)]
            return "dropped" in text and "□" in lines[at] and all(cell.reverse for cell in row) and row[1].bold and chosen.startswith("[")

        terminal.until(stands_out, 20)
    finally:
        terminal.child.close(force=True)


async def test_in_ascii_nothing_else_is_drawn():
    app = StageApp(FakeEngine, ascii_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        for key in ("d", "v", "v", "v", "question_mark", "q", "w", "escape", "f", "escape", "M", "escape", "e"):
            await pilot.press(key)
            await pilot.pause()
            background = app.screen.styles.background
            shown = [strip.apply_filter(app.glyph_filters[0], background) for strip in app.screen._compositor.render_strips()]
            assert all(strip.text.isascii() for strip in shown), [strip.text for strip in shown if not strip.text.isascii()]


@pytest.mark.parametrize(("color", "kinds"), [("truecolor", {"true"}), ("256", {"256"}), ("16", {"16"}), ("mono", set())])
@pytest.mark.parametrize("said", ["flag", "environment", "file"])
def test_what_commands_print_has_as_many_colours_as_are_said(home, capsys, monkeypatch, color, kinds, said):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("STAGESCOPE_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    if said == "environment":
        monkeypatch.setenv("STAGESCOPE_COLOR", color)
    if said == "file":
        config.path().parent.mkdir(parents=True)
        config.path().write_text(f'color = "{color}"')
    one = f"#ff{len(color):02x}{len(said):02x}"  # rich keeps what a style is in codes, whatever the next console has
    console.print_lines(Text("x", f"bold {one}"), color=color if said == "flag" else None)
    out = capsys.readouterr().out
    assert sent(out.encode()) == kinds and "\x1b[1" in out


def test_into_a_pipe_no_colour_is_sent(home, capsys):
    console.print_lines(Text("x", "bold #ff8700"), color="truecolor")
    assert capsys.readouterr().out == "x\n"
