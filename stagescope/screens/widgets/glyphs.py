"""Small drawings in single cells: bars, columns, sparklines, and numbers in four cells.

NaN is "not computed" everywhere and draws as blank. Every function returns text of a known width, so lines
stay straight. `Glyphs` comes in two sets: block elements, and ASCII for terminals or fonts without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from stagescope.text import fit, visible


@dataclass(frozen=True)
class Glyphs:
    run: str = "■"
    off: str = "□"
    no_attn: str = "◨"  # the left half stands for attention, the right half for the MLP, as their columns do
    no_mlp: str = "◧"
    part: str = "▣"  # runs without some heads or neurons
    cursor: str = "▸"
    moved: str = "↕"
    mean: str = "μ"
    zero: str = "·"
    here: str = "▾"
    rule: str = "─"
    arrow: str = "→"
    ellipsis: str = "…"
    delta: str = "Δ"
    bar: str = " ╸━"  # lines, not blocks: bars below each other stay apart
    column: str = " ▁▂▃▄▅▆▇"  # for the same reason never a full cell
    shade: str = " ░▒▓█"
    up: str = "▴▲"  # adds: some, much
    down: str = "▾▼"  # takes away
    hatch: str = "░"  # not known
    plus_minus: str = "±"
    ascii_only: bool = False


UNICODE = Glyphs()
ASCII = Glyphs(
    run="#", off="o", no_attn="m", no_mlp="a", part="*", cursor=">", moved="%", mean="~", zero=".", here="v", rule="-",
    arrow=">", ellipsis="~", delta="d", bar=" -=#", column=" .:-=+*#", shade=" .:*#", up="+A", down="-V", hatch="?",
    plus_minus="+", ascii_only=True,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- scales


def fraction(value: float, low: float, high: float) -> float:
    """Where a value stands between low and high, 0 to 1; NaN stays NaN."""
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else value * 0


def log_fraction(value: float, low: float, high: float) -> float:
    """The same on a log axis: low and below is 0. low > 0."""
    return fraction(math.log(max(value, low)), math.log(low), math.log(high)) if value == value else math.nan


def kl_fraction(nats: float) -> float:
    """KL divergences span decades: 1e-4 to 10 nats on a log axis."""
    return log_fraction(nats, 1e-4, 10.0)


# ---------------------------------------------------------------------------------------------- drawings


def bar(part: float, width: int, glyphs: Glyphs = UNICODE) -> str:
    """A horizontal bar in `width` cells, to half a cell; anything above 0 draws something."""
    if not part > 0:  # also NaN
        return " " * width
    steps = len(glyphs.bar) - 1
    filled = max(round(part * width * steps), 1)
    whole, rest = divmod(filled, steps)
    return (glyphs.bar[-1] * whole + (glyphs.bar[rest] if rest else "")).ljust(width)


def column(part: float, glyphs: Glyphs = UNICODE) -> str:
    """One cell filled from below. 0 still draws the lowest step, as it is a value; NaN is blank."""
    return _level(part, glyphs.column, 1)


def shade(part: float, glyphs: Glyphs = UNICODE) -> str:
    """One cell of grey; 0 and NaN are blank."""
    return _level(part, glyphs.shade, 1) if part > 0 else " "


def sparkline(values: Iterable[float], low: float, high: float, glyphs: Glyphs = UNICODE) -> str:
    """One `column` a value."""
    return "".join(column(fraction(float(value), low, high), glyphs) for value in values)


def _level(part: float, steps: str, lowest: int) -> str:
    if part != part:
        return " "
    return steps[min(lowest + int(part * (len(steps) - lowest)), len(steps) - 1)]


# ---------------------------------------------------------------------------------------------- numbers


def number(value: float) -> str:
    """At most four cells for 1e-9 <= value < 1e5: .753 4.93 10.9 142 4.9k 4e-3 1e-7; 0 below; "" for NaN."""
    if value != value:
        return ""
    if value < 0:
        return "-" + number(-value)
    if value == math.inf:
        return "inf"
    if value >= 9_950:
        return f"{value / 1000:.0f}k"
    if value >= 999.5:
        return f"{value / 1000:.1f}k"
    if value >= 99.95:
        return f"{value:.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    if value >= 0.9995:
        return f"{value:.2f}"
    if value >= 0.0095:
        return f"{value:.3f}"[1:]
    return f"{value:.0e}".replace("e-0", "e-") if value >= 1e-9 else "0"


def signed(value: float) -> str:
    """A change: +.9 -1.4 0; two decimals below 1."""
    if value != value:
        return ""
    text = f"{abs(value):.1f}" if abs(value) >= 9.995 else f"{abs(value):.2f}"
    return "0" if float(text) == 0 else ("-" if value < 0 else "+") + text.removeprefix("0")


def logits(value: float) -> str:
    """A change of a logit in at most four cells: +.53 -1.2 +14 -140 0; "" for NaN."""
    if value != value:
        return ""
    size = min(abs(value), 999.0)  # no logit is larger, and overflow has no place to go
    text = f"{size:.2f}"[1:] if size < 0.995 else f"{size:.1f}" if size < 9.95 else f"{size:.0f}"
    return "0" if text == ".00" else ("-" if value < 0 else "+") + text


def tilt(value: float, largest: float, glyphs: Glyphs = UNICODE) -> str:
    """One cell: the sign of a value and whether it is much, a third of the largest; less than 3 % is the zero glyph."""
    if value != value:
        return " "
    part = abs(value) / largest if largest > 0 else 0.0
    return glyphs.zero if part < 0.03 else (glyphs.up if value > 0 else glyphs.down)[part >= 1 / 3]


def ratio(value: float, glyphs: Glyphs = UNICODE) -> str:
    """At most three cells: .10 1.4 14 140; an exact 0 (switched off) is the zero glyph."""
    if value != value:
        return ""
    if value == 0:
        return glyphs.zero
    if value < 0.995:
        return f"{value:.2f}"[1:]
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def probability(p: float) -> str:
    """Four cells: .753 .081 3e-5 1.00; "" for NaN."""
    if p != p:
        return ""
    if p >= 0.0005:
        return "1.00" if p >= 0.9995 else f"{p:.3f}"[1:]
    return number(p)


def rank(value: float) -> str:
    """At most four cells: 1 42 999 4.9k 49k; "" for NaN."""
    if value != value:
        return ""
    return f"{value:.0f}" if value < 1000 else number(value)


@lru_cache(maxsize=8192)
def cell(text: str, width: int, ascii_only: bool = False) -> str:
    """A token in exactly `width` cells, blanks drawn, harmless. Cached: most of 300 repeat at every paint."""
    return fit(visible(text, ascii_only), width, ascii_only)
