"""Token text made safe to print, and cut to terminal cells.

A model's vocabulary is hostile input: some tokens hold ESC, bidi overrides or lone combining marks, and
Textual passes control characters through to the terminal (ESC ] 52 would set the user's clipboard).
Everything shown, exported or put in JSON goes through `printable`; grid cells through `visible` and `fit`.
None of these strings is markup: give them to `rich.text.Text` or `textual.content.Content`, never to a
function that parses markup.
"""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

# Control, format (bidi controls, zero-width joiners, tags), line and paragraph separators, surrogates,
# private use and unassigned.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})

# Default-ignorable code points of other categories (Unicode DerivedCoreProperties): drawn as nothing at all.
_IGNORABLE = frozenset(
    [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0]
    + [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]
)

# What `visible` draws for a space, no-break space, newline, tab and the empty string: one cell each.
_GLYPHS = {" ": "·", "\u00a0": "⍽", "\\u{a}": "⏎", "\\u{9}": "⇥", "": "∅"}
_ASCII_GLYPHS = {" ": "_", "\\u{a}": "\\n", "\\u{9}": "\\t", "": "''"}


def printable(text: str) -> str:
    r"""The same text with every character that could act on the terminal or hide written as \u{1b}.

    Escaped (lower-case hex, no padding): control characters, newline and tab among them, bidi controls,
    zero-width and other default-ignorable or format characters, line and paragraph separators, surrogates,
    private-use and unassigned code points, and a zero-width character (combining mark, Hangul vowel) with no
    base before it, since it would attach to whatever stands to its left on screen.
    Kept: letters, symbols, spaces of all widths, combining marks on their base, backslashes.
    """
    if text.isascii() and text.isprintable():
        return text
    written = []
    has_base = False
    for character in text:
        safe = not _is_unsafe(character) and (has_base or not _attaches(character))
        written.append(character if safe else _escape(character))
        has_base = safe
    return "".join(written)


def visible(text: str, ascii_only: bool = False) -> str:
    r"""Text for one grid cell: printable, with blanks drawn, so that " the" and "the" look different.

    A space is "·", no-break space "⍽", newline "⏎", tab "⇥", the empty string "∅"; other blanks, the parts of
    emoji clusters (variation selectors, joiners, regional indicators, skin tones, enclosing marks: terminals
    disagree on their width) and those five glyphs themselves are escaped. `visible(printable(t))` equals
    `visible(t)`: token texts that were made printable earlier can be given as they are.

    ascii_only: every character of the result is ASCII ("_" is a space, "\n" and "\t" are spelled so, "''" is
    empty, the rest is escaped).
    """
    glyphs = _ASCII_GLYPHS if ascii_only else _GLYPHS
    if not text:
        return glyphs[""]
    safe = printable(text)
    drawn = "".join(glyphs.get(c) or (_escape(c) if _blurs_cells(c, ascii_only) else c) for c in safe)
    return drawn.replace("\\u{a}", glyphs["\\u{a}"]).replace("\\u{9}", glyphs["\\u{9}"])


def fit(text: str, width: int, ascii_only: bool = False) -> str:
    """The text, made printable, in exactly `width` terminal cells: padded with spaces, or cut.

    Where it is cut the last cell is "…" ("~" with ascii_only) if width >= 2. A wide character that would be
    split gives way to a space. `cell_len(fit(text, width)) == width` for every text and width >= 0.
    """
    safe = printable(text)
    missing = width - cell_len(safe)
    if missing >= 0:
        return safe + " " * missing
    ellipsis = ("~" if ascii_only else "…") if width >= 2 else ""
    room = max(width - len(ellipsis), 0)
    kept, used = [], 0
    for character in safe:  # zero-width characters stay with the base before them
        if used + cell_len(character) > room:
            break
        kept.append(character)
        used += cell_len(character)
    return "".join(kept) + ellipsis + " " * (room - used)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE_CATEGORIES or ord(character) in _IGNORABLE


def _attaches(character: str) -> bool:
    return unicodedata.category(character).startswith("M") or cell_len(character) == 0


def _blurs_cells(character: str, ascii_only: bool) -> bool:
    if character.isascii():
        return False
    return (
        ascii_only
        or character in "·⍽⏎⇥∅"
        or unicodedata.category(character) in ("Zs", "Me")
        or "\U0001f1e6" <= character <= "\U0001f1ff"  # regional indicators: two make a flag
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
    )


def _escape(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"
