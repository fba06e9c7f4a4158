"""Token text on screen: nothing acts on the terminal, nothing is taken for markup, columns stay straight."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from textual.content import Content

from stagescope.engine.tokens import light_tokenizer, texts, vocabulary_size
from stagescope.text import fit, printable, visible

UNSAFE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
MARKUP = ["[/]", "[/", "[x=1]", "[@click=app.quit]", "[bold]a[/bold]", "\\["]
SEQUENCES = ["\x1b]52;c;aGk=\x07", "\x1b[2J", "\x9b31m"]
tricky_text = st.text("aé中👩\u200d\ufe0f\u0301\u1161🇫🇷🏽 \n\t\u00a0\u3000\x1b\u202e·")
any_text = st.text(st.characters(codec=None)) | tricky_text


@pytest.mark.parametrize(
    "text, written",
    [
        ("plain [text] \\ stays", "plain [text] \\ stays"),
        ("été 中文 हिन्दी e\u0301", "été 中文 हिन्दी e\u0301"),
        ("\x1b]52;c;\x07", "\\u{1b}]52;c;\\u{7}"),
        ("a\n\tb\x7f\x85", "a\\u{a}\\u{9}b\\u{7f}\\u{85}"),
        ("\u202eabc\u2066", "\\u{202e}abc\\u{2066}"),
        ("a\u200bb\u200dc\ufeff\u00ad", "a\\u{200b}b\\u{200d}c\\u{feff}\\u{ad}"),
        ("a\u2028\u2029", "a\\u{2028}\\u{2029}"),
        ("❤\ufe0f \u3164 \u115f", "❤\\u{fe0f} \\u{3164} \\u{115f}"),
        ("\ue000\udcff\U0010ffff", "\\u{e000}\\u{dcff}\\u{10ffff}"),
        ("\u0301e\u0301", "\\u{301}e\u0301"),
        ("\n\u0301", "\\u{a}\\u{301}"),
        ("\u1161a", "\\u{1161}a"),
        ("\u00a0\u3000", "\u00a0\u3000"),
        ("", ""),
    ],
)
def test_printable_writes(text, written):
    assert printable(text) == written


@given(any_text)
def test_printable_has_nothing_that_acts_or_hides(text):
    assert not {unicodedata.category(c) for c in printable(text)} & UNSAFE
    assert not text or cell_len(printable(text)[0]) > 0
    assert visible(printable(text)) == visible(text)


@pytest.mark.parametrize(
    "text, drawn, ascii_drawn",
    [
        (" the", "·the", "_the"),
        ("a b ", "a·b·", "a_b_"),
        ("\n\n", "⏎⏎", "\\n\\n"),
        ("\tx", "⇥x", "\\tx"),
        ("\u00a0", "⍽", "\\u{a0}"),
        ("", "∅", "''"),
        ("·", "\\u{b7}", "\\u{b7}"),
        ("\u3000", "\\u{3000}", "\\u{3000}"),
        ("é", "é", "\\u{e9}"),
        ("👩\u200d👧", "👩\\u{200d}👧", "\\u{1f469}\\u{200d}\\u{1f467}"),
        ("🇫🇷", "\\u{1f1eb}\\u{1f1f7}", "\\u{1f1eb}\\u{1f1f7}"),
        ("👍🏽", "👍\\u{1f3fd}", "\\u{1f44d}\\u{1f3fd}"),
        ("#\ufe0f\u20e3", "#\\u{fe0f}\\u{20e3}", "#\\u{fe0f}\\u{20e3}"),
    ],
)
def test_visible_draws(text, drawn, ascii_drawn):
    assert visible(text) == drawn
    assert visible(text, ascii_only=True) == ascii_drawn


@given(any_text)
def test_visible_has_no_blank_and_ascii_is_ascii(text):
    assert not any(c.isspace() for c in visible(text))
    assert visible(text, ascii_only=True).isascii()
    assert visible(text, ascii_only=True).isprintable()


@pytest.mark.parametrize(
    "text, width, fitted",
    [
        ("the", 5, "the  "),
        ("the", 3, "the"),
        ("there", 4, "the…"),
        ("there", 1, "t"),
        ("there", 0, ""),
        ("中文字", 4, "中… "),
        ("中文字", 5, "中文…"),
        ("中文", 1, " "),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
    ],
)
def test_fit_cuts_between_cells(text, width, fitted):
    assert fit(text, width) == fitted


def test_fit_ascii_cuts_with_a_tilde():
    assert fit("there", 4, ascii_only=True) == "the~"


@given(any_text, st.integers(0, 30))
def test_fit_is_exactly_as_wide_as_asked(text, width):
    for cell in (fit(text, width), fit(visible(text), width), fit(visible(text, ascii_only=True), width)):
        assert cell_len(cell) == width
        assert not {unicodedata.category(c) for c in cell} & UNSAFE


@pytest.mark.parametrize("text", MARKUP + SEQUENCES)
def test_markup_and_escape_sequences_remain_literal(text):
    for shown in (printable(text), visible(text), fit(visible(text), 20)):
        assert_literal(shown)
        terminal = io.StringIO()
        Console(file=terminal, force_terminal=True, color_system=None, width=80).print(Text(shown), end="")
        assert terminal.getvalue() == shown


def assert_literal(shown):
    """Rich and Textual keep the text and attach no style, link or action to it."""
    assert (Text(shown).plain, Text(shown).spans) == (shown, [])
    assert (Content(shown).plain, Content(shown).spans) == (shown, [])


def test_every_token_of_the_default_model_is_harmless(default_model_dir):
    tokenizer = light_tokenizer(default_model_dir)
    vocabulary = texts(tokenizer, range(vocabulary_size(tokenizer)))
    assert len(vocabulary) == 49152
    for text in vocabulary.values():
        assert text and not {unicodedata.category(c) for c in text} & UNSAFE
        assert_literal(text)
        cell = visible(text)
        assert_literal(cell)
        assert cell_len(fit(cell, 8)) == 8
        assert cell_len(fit(cell, cell_len(cell))) == cell_len(cell)
