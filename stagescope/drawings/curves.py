"""Curves over layers or depths, drawn with plotext: axes, lines between neighbours, intervals, points.

No meaning rests on hue: curves differ in their markers. What is NaN is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import plotext
from rich.text import Text

from stagescope.text import printable

LEAST = 1e-6  # nats: below it is rounding (science.md)
ROUND = [float(f"{m}e{n}") for n in range(-9, 39) for m in (1, 2, 5)]  # ends of the log axis
LEAST_STEP = 0.01  # bits or nats from tick to tick: no axis is drawn around rounding
LABEL = 6  # cells of a label on the y axis, the same everywhere, so panels below each other share their x axis


class Mark(NamedTuple):
    glyph: str
    ascii: str
    colour: tuple[int, int, int]  # Okabe and Ito (2008)


MARKS = (
    *(Mark("●", "o", (86, 180, 233)), Mark("△", "^", (230, 159, 0)), Mark("■", "#", (240, 228, 66))),
    *(Mark("◇", "*", (204, 121, 167)), Mark("○", "0", (0, 158, 115)), Mark("▲", "A", (240, 138, 75))),
    *(Mark("□", "u", (216, 220, 226)), Mark("◆", "x", (86, 180, 233))),
)
ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼≤·…→“”⎵", '-|+++++++++<.~>""_')


@dataclass(frozen=True, eq=False)
class Curve:
    """The points of one marker: x ascending, y [N, 3] mean, low, high (NaN: no interval)."""

    name: str
    mark: Mark
    x: np.ndarray
    y: np.ndarray
    level: bool = False  # the same everywhere: it has no point to mark


def curves(**named: np.ndarray) -> list[Curve]:
    """By name, marked in turn: each y [N], or [N, 3] with an interval, at x = 0, 1, 2 ..."""
    made = []
    for (name, y), mark in zip(named.items(), MARKS, strict=False):
        y = np.asarray(y, float)
        y = y if y.ndim == 2 else np.stack([y, np.full_like(y, np.nan), np.full_like(y, np.nan)], -1)
        made.append(Curve(name, mark, np.arange(len(y), dtype=float), y))
    return made


def panel(
    title: str,
    drawn: Sequence[Curve],
    width: int,
    height: int,
    *,
    scale: str = "linear",
    last: float | None = None,
    chosen: float | None = None,
    floor: float = LEAST,
    ascii_only: bool = False,
) -> Text:
    """A title that is the legend too, then the plot: exactly `height` lines of at most `width` cells.

    scale: linear, log, share (0 to 1), or change (with a line at 0). last: the greatest x of the axis, which begins at 0
    (default: of the curves). chosen: x of an upright rule.
    """
    last = max((float(one.x[-1]) for one in drawn if len(one.x)), default=0.0) if last is None else last
    head = Text.assemble((printable(title), "bold"), "   ").append_text(legend(drawn, ascii_only))
    rule = None if chosen is None else (chosen, None)
    body = plot(drawn, width, height - 1, scale=scale, ends=(0.0, last), rule=rule, floor=floor, ascii_only=ascii_only)
    return exactly([head, *body], width, height, ascii_only)


def legend(drawn: Sequence[Curve], ascii_only: bool) -> Text:
    line = Text()
    for one in drawn:
        line.append(one.mark.ascii if ascii_only else one.mark.glyph, f"rgb({','.join(map(str, one.mark.colour))})")
        line.append(f" {printable(one.name)}  ")
    return line


def plot(
    drawn: Sequence[Curve],
    width: int,
    height: int,
    *,
    scale: str,
    ends: tuple[float, float],
    rule: tuple[float, str | None] | None = None,
    floor: float = LEAST,
    share: tuple[float, float] = (0, 1),
    named: Callable[[int], str] = str,
    ascii_only: bool = False,
) -> list[Text]:
    """Axes, lines between neighbours, intervals, points: `height` lines.

    ends: least and greatest x. rule: x of an upright rule, and the name of the one curve whose point is marked there
    (None: of all). floor: on a log axis what is not above it stands on the axis. share: the ends of y on an axis of
    shares; what is below stands on the axis. named: what is written at a whole x. About 6 ms at 160 x 12.
    """
    if height < 3 or width < LABEL + 8:
        return []
    rows = height - 2  # below the points stand the axis and its ticks
    values = np.concatenate([one.y for one in drawn]) if drawn else np.zeros((0, 3))
    bottom, top, ticks = _log_axis(values, floor, rows) if scale == "log" else _linear_axis(scale, values, rows, share)
    ticks = _apart(ticks, (top - bottom) / max(rows - 1, 1))
    left, right, x_ticks = _x_axis(*ends, width, named)

    def up(y: np.ndarray) -> list[float]:
        scaled = np.where(y > floor, np.log10(np.maximum(y, floor)), bottom) if scale == "log" else y
        return np.clip(scaled, bottom, top).tolist()

    figure = _figure(width, height)
    figure.ruler("x").lim(left, right).ticks(*x_ticks)
    figure.ruler("y").lim(bottom, top).ticks([y for y, _ in ticks], [f"{label:>{LABEL}}" for _, label in ticks])
    if scale == "change" and (0, "0") in ticks:
        zero = plotext.marker("." if ascii_only else "┄", plotext.pixel(style="dim"))
        figure.draw(figure.signal([left, right], [0, 0], marker=zero).lines().density("full"))
    if rule is not None:
        upright = plotext.marker(":" if ascii_only else "┊", plotext.pixel())
        figure.draw(figure.signal([rule[0]] * 2, [bottom, top], marker=upright).lines().density("full"))
    for one in drawn:
        mark = one.mark
        if len(one.x) > 1 and not ascii_only:
            line = figure.signal(one.x.tolist(), up(one.y[:, 0]), marker=plotext.marker("braille", _pixel(mark, "dim")))
            for index in 1 + np.flatnonzero(np.diff(one.x) < 1.01):  # a gap in the layers is a gap in the line
                line.line(int(index))
            figure.draw(line)
    for one in drawn:
        mark = one.mark
        known = ~np.isnan(one.y[:, 1:]).any(axis=1)
        if known.any():
            ends = [y for pair in zip(up(one.y[known, 1]), up(one.y[known, 2]), strict=True) for y in pair]
            bar = plotext.marker("|" if ascii_only else "│", _pixel(mark))
            bars = figure.signal(np.repeat(one.x[known], 2).tolist(), ends, marker=bar).density("full")
            for index in range(1, len(ends), 2):
                bars.line(index)
            figure.draw(bars)
    for one in drawn:
        mark = one.mark
        if len(one.x):
            glyph = mark.ascii if ascii_only else mark.glyph
            figure.draw(figure.signal(one.x.tolist(), up(one.y[:, 0]), marker=plotext.marker(glyph, _pixel(mark))))
    for one in drawn if rule else ():  # on top of all points
        here = (one.x == rule[0]) & (rule[1] in (None, one.name)) & (not one.level)
        if here.any():
            at = plotext.marker(one.mark.ascii if ascii_only else one.mark.glyph, _pixel(one.mark, "inverted"))
            figure.draw(figure.signal(one.x[here].tolist(), up(one.y[here, 0]), marker=at))
    return list(Text.from_ansi(figure.build().string(), no_wrap=True).split("\n"))[:height]


def _figure(width: int, height: int):
    """A figure of its own: `plotext.figure` is one for the whole process, and no larger than the terminal."""
    figure = type(plotext.figure)(parent=type(plotext.terminal)().limit(False, False))
    figure.theme("colorless").plot_size(width, height)
    figure.axes(False, axis="x", side="upper")
    figure.axes(False, axis="y", side="right")
    figure.legend(False)
    return figure


def _pixel(mark: Mark, style: str | None = None):
    return plotext.pixel(foreground=mark.colour, style=style)


def _log_axis(values: np.ndarray, floor: float, rows: int) -> tuple[float, float, list[tuple[float, str]]]:
    """log10 nats, from 1, 2 or 5 x 10^n to another, around what is above the floor; half a decade, and a row at least,
    below them stands all that is not, as "≤1e-6". Ticks: ends, then decades."""
    known = values[~np.isnan(values)]
    above = known[known > floor]
    low, high = (float(above.min()), float(above.max())) if len(above) else (0.01, 1.0)
    low = max(step for step in ROUND if step <= low)
    high = min((step for step in ROUND if step >= high and step > low), default=ROUND[-1])
    bottom, top = math.log10(low), math.log10(high)
    decades = [step for step in ROUND if low < step < high and math.log10(step) % 1 < 1e-9]
    ticks = [(math.log10(step), _short(step)) for step in (high, low, *decades)]
    if len(above) < len(known):
        bottom -= max(0.5, 1.1 * (top - bottom) / max(rows - 2.1, 0.1))
        ticks.insert(0, (bottom, f"≤{_short(floor)}"))
    return bottom, top, ticks


def _short(nats: float) -> str:
    return f"{nats:g}" if 0.001 <= nats < 10_000 else f"{nats:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _linear_axis(
    scale: str, values: np.ndarray, rows: int, share: tuple[float, float]
) -> tuple[float, float, list[tuple[float, str]]]:
    """The ends given for a share; else round ends around the values and 0. Ticks: ends, 0, the rest."""
    known = values[~np.isnan(values)]
    if scale == "share":
        low, high = share
        ticks = [(y, f"{y:g}") for y in (low + (high - low) * part for part in (1, 0, 0.5, 0.25, 0.75))]
        if (known < low).any():
            ticks[1] = (low, f"≤{low:g}")
        return low, high, ticks
    low, high = (min(known.min(), 0.0), max(known.max(), 0.0)) if len(known) else (0.0 if scale == "linear" else -1.0, 1.0)
    step = max(_round_step((high - low) / max(min(rows - 1, 4), 1)), LEAST_STEP)
    first, last = math.floor(low / step), math.ceil(high / step)
    last += first == last
    inner = sorted(range(first + 1, last), key=abs)
    return first * step, last * step, [(n * step, format(n * step, "+.3g" if scale == "change" else ".3g") if n else "0") for n in (last, first, *inner)]


def _apart(ticks: list[tuple[float, str]], least: float) -> list[tuple[float, str]]:
    """Those that do not come nearer than `least` to one before them in the list."""
    kept: list[tuple[float, str]] = []
    for tick in ticks:
        if all(abs(tick[0] - other) >= least for other, _ in kept):
            kept.append(tick)
    return kept


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 x 10^n that is not below `least`."""
    decade = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(step * decade for step in (1, 2, 5, 10) if step * decade >= least * 0.999)


def _x_axis(
    first: float, last: float, width: int, named: Callable[[int], str]
) -> tuple[float, float, tuple[list, list]]:
    """A tick at most every five cells."""
    step = max(int(_round_step((last - first + 1) * 5 / max(width - LABEL - 2, 1))), 1)
    ticks = list(range(-(-int(first) // step) * step, int(last) + 1, step))
    return first - 0.5, last + 0.5, (ticks, [named(x) for x in ticks])


def power_of_two(x: int) -> str:
    """What an axis of log2 k says: k."""
    return str(2**x)


def exactly(lines: list[Text], width: int, height: int, ascii_only: bool = False) -> Text:
    """Exactly `height` lines of at most `width` cells."""
    lines = [*lines[:height], *[Text()] * (height - len(lines))]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        if ascii_only:
            line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
    return Text("\n", no_wrap=True).join(lines)
