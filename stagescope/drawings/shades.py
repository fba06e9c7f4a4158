"""A number as a shade, from a faint dot to a full cell, and where each shade begins. No meaning rests on hue."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

SHADES = "·░▒▓█", ".:=#@"  # below the first step, then from each step on; in ASCII
SHADED = "rgb(230,159,0)"  # Okabe and Ito (2008)


def shade(value: float, steps: Sequence[float], ascii_only: bool = False) -> tuple[str, str]:
    """The character of a value and its style: "" below the first step of four; NaN is blank."""
    step = bisect_right(steps, value)
    if math.isnan(value):
        return " ", ""
    return SHADES[ascii_only][step], SHADED if step else ""


def shade_key(bounds: Sequence[str], ascii_only: bool = False) -> str:
    """ "· 0 ░ .05 ▒ .20 ▓ .40 █ .70"; of four bounds without the dot."""
    glyphs = SHADES[ascii_only][-len(bounds) :]
    return " ".join(f"{glyph} {bound}" for glyph, bound in zip(glyphs, bounds, strict=True))
