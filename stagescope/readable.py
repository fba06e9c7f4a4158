"""What is drawn made readable where it would not be: colours that fade into the background of a theme, as drawings have their own,
made for a dark one; and in ASCII what is left of lines, dots and arrows when the drawings are ASCII already."""

from __future__ import annotations

from functools import lru_cache

from rich.color import Color as RichColor
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter


# One cell for one cell: dots, arrows, marks, then the borders and scrollbars of Textual. Letters that were typed stay.
_IN_ASCII = {
    ord(glyph): ascii
    for ascii, glyphs in {
        ".": "·", "~": "…", "<": "←≤", "^": "↑", ">": "→▸", "v": "↓▾✓", "*": "●", "o": "○", "A": "△▲", "d": "Δ", "x": "×✕",
        '"': "“”", "'": "‘’", "-": "–—─━═┄╌▔▁", "|": "│┃║┆┊▏▕▎", "_": "▂▃", "#": "▄▅▆▇▀█▌▐▊▉▋▍",
        "+": "±╭╮╰╯┌┐└┘├┤┬┴┼",
    }.items()
    for glyph in glyphs
}  # fmt: skip


class InAscii(LineFilter):
    """The marks, borders and scrollbars of a line in ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(text if text.isascii() else text.translate(_IN_ASCII), style, control) for text, style, control in segments]


class Readable(LineFilter):
    """Text whose contrast with its background is below `least` (WCAG 2: 3 for large marks, 7 for the best text) goes towards
    black or white until it has that."""

    def __init__(self, least: float):
        super().__init__()
        self.least = least

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        behind = background.rich_color.triplet
        return [Segment(text, style and _readable(style, behind, self.least), control) for text, style, control in segments]


@lru_cache(4096)
def _readable(style: Style, background: ColorTriplet | None, least: float) -> Style:
    behind = (style.bgcolor and style.bgcolor.triplet) or background
    front = style.color and style.color.triplet
    if front is None or behind is None or contrast(front, behind) >= least:
        return style
    white, black = ColorTriplet(255, 255, 255), ColorTriplet(0, 0, 0)
    end = max(white, black, key=lambda far: contrast(far, behind))
    steps = (_between(front, end, step / 16) for step in range(1, 17))
    return style + Style(color=RichColor.from_triplet(next((c for c in steps if contrast(c, behind) >= least), end)))


def _between(a: ColorTriplet, b: ColorTriplet, part: float) -> ColorTriplet:
    return ColorTriplet(*(round(one + (other - one) * part) for one, other in zip(a, b, strict=True)))


def contrast(a: ColorTriplet, b: ColorTriplet) -> float:
    """1 to 21, WCAG 2."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: ColorTriplet) -> float:
    parts = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour.normalized)
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
