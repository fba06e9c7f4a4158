"""Curves of a sweep by layer, as in Figure 3 of arXiv 2406.19384: what is drawn where, and one panel of it by plotext.

No meaning rests on hue: series differ in their markers. Whatever is not done is not drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import plotext
from rich.text import Text

from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow
from stagescope.sweep_report import over_words, parts, summary
from stagescope.text import printable

TITLES = {
    "kl_nats": "KL, nats, log axis",
    "top1_same": "top-1 kept, share",
    "entropy_change_bits": "entropy change, bits",
    "loss_change_nats": "loss change, nats",
}
LEAST_KL = 1e-6  # nats: below it is rounding (science.md)
ROUND = [float(f"{m}e{n}") for n in range(-9, 39) for m in (1, 2, 5)]  # nats: ends of the log axis
LEAST_STEP = 0.01  # bits or nats from tick to tick: no axis is drawn around rounding
LABEL = 6  # cells of a label on the y axis, the same everywhere, so panels below each other share their x axis


class Mark(NamedTuple):
    glyph: str
    ascii: str
    colour: tuple[int, int, int]  # Okabe and Ito (2008)


MARKS = {
    "drop": Mark("●", "o", (86, 180, 233)),
    "swap": Mark("△", "^", (230, 159, 0)),
    "attn-off": Mark("◇", "a", (204, 121, 167)),
    "mlp-off": Mark("■", "m", (240, 228, 66)),
    "pairs": Mark("○", "0", (0, 158, 115)),
}
MORE_MARKS = (
    *(Mark("●", "o", (86, 180, 233)), Mark("△", "^", (230, 159, 0)), Mark("■", "#", (240, 228, 66))),
    *(Mark("◇", "*", (204, 121, 167)), Mark("○", "0", (0, 158, 115)), Mark("▲", "A", (240, 138, 75))),
    *(Mark("□", "u", (216, 220, 226)), Mark("◆", "x", (86, 180, 233))),
)
ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼≤·…→“”⎵", '-|+++++++++<.~>""_')


# -------------------------------------------------------------------------------------------- what is drawn


@dataclass(frozen=True, eq=False)
class Series:
    """The points of one marker: x ascending, y [N, 3] mean, low, high (NaN: no interval)."""

    name: str
    kind: str
    axis: str  # what x is, in words
    span: tuple[float, float]  # least and greatest x of its rows, done or not
    x: np.ndarray
    y: np.ndarray


def series(of: Sequence[Sweep | CorpusSweep], measure: str) -> list[Series]:
    """One for each kind, and for each variant of painters and repeat. Where several rows stand at one x (seeds of a
    shuffle, partners of a pair) their mean is drawn, without an interval."""
    points: dict[tuple[str, str, str], dict[float, list[np.ndarray]]] = {}
    for part in of:
        outcomes = summary(part, measure)[:, [0, 2, 3]]
        for index, row in enumerate(part.rows):
            name, axis, places = _place(row, index)
            at = points.setdefault((name, row.kind, axis), {})
            for x in places:
                here = at.setdefault(x, [])
                if math.isfinite(outcomes[index, 0]):
                    here.append(outcomes[index])
    return [_one_series(*names, at) for names, at in points.items()]


def _place(row: SweepRow, index: int) -> tuple[str, str, list[float]]:
    """Series, axis and x of a row. A swap stands between its layers, so between the drops it is compared with."""
    match row.kind:
        case "swap":
            return "swap", "layer", [row.layer + 0.5]
        case "repeat":
            return f"repeat {row.variant}", "layer, of a span the first", [row.layer]
        case "painters":
            return row.variant, "first layer of the span", [row.layer]
        case "pairs":
            return "pairs", "layer", [float(layer) for layer in _layers_named(row.schedule)]
        case "press":
            return "press", "k of s^k (sf)^(n-k) f^k", [float(row.variant.removeprefix("k="))]
        case "schedules":
            return "schedules", "place in the list", [index + 1.0]
        case kind:
            return kind, "layer", [float(row.layer)]


def _layers_named(schedule: str) -> list[int]:
    """The two layers of `drop 4 9` or `drop 4-5`."""
    return [int(layer) for layer in re.findall(r"\d+", schedule)]


def _one_series(name: str, kind: str, axis: str, at: dict[float, list[np.ndarray]]) -> Series:
    most = max(map(len, at.values()))
    xs = sorted(x for x in at if at[x])
    y = [at[x][0] if len(at[x]) == 1 else [np.mean([one[0] for one in at[x]]), math.nan, math.nan] for x in xs]
    name = f"{name} (mean of {most})" if most > 1 else name
    return Series(name, kind, axis, (min(at), max(at)), np.array(xs, float), np.array(y, float).reshape(-1, 3))


def _marks(drawn: Sequence[Series]) -> list[Mark]:
    return [MARKS.get(one.kind) or MORE_MARKS[index % len(MORE_MARKS)] for index, one in enumerate(drawn)]


# -------------------------------------------------------------------------------------------------- curves


def panel(
    measure: str,
    data: Sequence[Sweep] | CorpusSweep,
    width: int,
    height: int,
    *,
    n_layers: int,
    chosen: tuple[str, float] | None = None,
    averaged: str = "",
    ascii_only: bool = False,
) -> Text:
    """One measure of all series that share the first one's x axis: `height` lines of at most `width` cells.

    The first line says what is drawn over what and is the legend. chosen: kind and x of a point to mark. averaged: what
    the values are a mean of, where it is not as the data say. KL at or below 1e-6 nats or the noise floor stands on the
    axis. Takes about 6 ms at 160 x 12.
    """
    of = parts(data)
    drawn = series(of, measure)
    drawn = [one for one in drawn if one.axis == drawn[0].axis]
    head = title(measure, drawn[0].axis if drawn else "layer")
    head.append_text(Text(f" · {averaged or over(data, of)}   ")).append_text(legend(drawn, ascii_only))
    noise = of[0].model.noise_kl if of else math.nan
    body = plot(measure, drawn, noise, width, height - 1, n_layers, chosen, ascii_only)
    return exactly([head, *body], width, height, ascii_only)


def plot(
    measure: str,
    drawn: Sequence[Series],
    noise: float,
    width: int,
    height: int,
    n_layers: int,
    chosen: tuple[str, float] | None,
    ascii_only: bool,
) -> list[Text]:
    """Axes, lines between neighbours, intervals, points: `height` lines."""
    if height < 3 or width < LABEL + 8:
        return []
    rows = height - 2  # below the points stand the axis and its ticks
    values = np.concatenate([one.y for one in drawn]) if drawn else np.zeros((0, 3))
    floor = np.nanmax([LEAST_KL, noise])
    bottom, top, ticks = _log_axis(values, floor, rows) if measure == "kl_nats" else _linear_axis(measure, values, rows)
    ticks = _apart(ticks, (top - bottom) / max(rows - 1, 1))
    left, right, x_ticks = _x_axis(drawn, n_layers, width)

    def up(y: np.ndarray) -> list[float]:
        scaled = np.where(y > floor, np.log10(np.maximum(y, floor)), bottom) if measure == "kl_nats" else y
        return np.clip(scaled, bottom, top).tolist()

    figure = _figure(width, height)
    figure.ruler("x").lim(left, right).ticks(*x_ticks)
    figure.ruler("y").lim(bottom, top).ticks([y for y, _ in ticks], [f"{label:>{LABEL}}" for _, label in ticks])
    if measure in ("entropy_change_bits", "loss_change_nats") and (0, "0") in ticks:
        zero = plotext.marker("." if ascii_only else "┄", plotext.pixel(style="dim"))
        figure.draw(figure.signal([left, right], [0, 0], marker=zero).lines().density("full"))
    if chosen is not None:
        rule = plotext.marker(":" if ascii_only else "┊", plotext.pixel())
        figure.draw(figure.signal([chosen[1]] * 2, [bottom, top], marker=rule).lines().density("full"))
    marks = _marks(drawn)
    for one, mark in zip(drawn, marks, strict=True):
        if len(one.x) > 1 and not ascii_only:
            line = figure.signal(one.x.tolist(), up(one.y[:, 0]), marker=plotext.marker("braille", _pixel(mark, "dim")))
            for index in 1 + np.flatnonzero(np.diff(one.x) < 1.01):  # a gap in the layers is a gap in the line
                line.line(int(index))
            figure.draw(line)
    for one, mark in zip(drawn, marks, strict=True):
        known = ~np.isnan(one.y[:, 1:]).any(axis=1)
        if known.any():
            ends = [y for pair in zip(up(one.y[known, 1]), up(one.y[known, 2]), strict=True) for y in pair]
            bar = plotext.marker("|" if ascii_only else "│", _pixel(mark))
            bars = figure.signal(np.repeat(one.x[known], 2).tolist(), ends, marker=bar).density("full")
            for index in range(1, len(ends), 2):
                bars.line(index)
            figure.draw(bars)
    for one, mark in zip(drawn, marks, strict=True):
        if len(one.x):
            glyph = mark.ascii if ascii_only else mark.glyph
            figure.draw(figure.signal(one.x.tolist(), up(one.y[:, 0]), marker=plotext.marker(glyph, _pixel(mark))))
            here = (one.x == chosen[1]) & (one.kind == chosen[0]) if chosen else np.zeros(len(one.x), bool)
            if here.any():
                at = plotext.marker(glyph, _pixel(mark, "inverted"))
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
    return f"{nats:g}" if 0.001 <= nats < 10_000 else f"{nats:.0e}".replace("e-0", "e-")


def _linear_axis(measure: str, values: np.ndarray, rows: int) -> tuple[float, float, list[tuple[float, str]]]:
    """0 to 1 for a share; else round ends around the values and 0. Ticks: ends, 0, the rest."""
    if measure == "top1_same":
        return 0.0, 1.0, [(y, f"{y:g}") for y in (1, 0, 0.5, 0.25, 0.75)]
    known = values[~np.isnan(values)]
    low, high = (min(known.min(), 0.0), max(known.max(), 0.0)) if len(known) else (-1.0, 1.0)
    step = max(_round_step((high - low) / max(min(rows - 1, 4), 1)), LEAST_STEP)
    first, last = math.floor(low / step), math.ceil(high / step)
    last += first == last
    inner = sorted(range(first + 1, last), key=abs)
    return first * step, last * step, [(n * step, f"{n * step:+.3g}" if n else "0") for n in (last, first, *inner)]


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


def _x_axis(drawn: Sequence[Series], n_layers: int, width: int) -> tuple[float, float, tuple[list, list]]:
    """All layers, or what the rows span; a tick at most every five cells."""
    first, last = 0, n_layers - 1
    if drawn and not drawn[0].axis.startswith("layer"):
        first, last = int(min(one.span[0] for one in drawn)), int(max(one.span[1] for one in drawn))
    step = max(int(_round_step((last - first + 1) * 5 / max(width - LABEL - 2, 1))), 1)
    ticks = list(range(-(-first // step) * step, last + 1, step))
    return first - 0.5, last + 0.5, (ticks, [str(x) for x in ticks])


def title(measure: str, axis: str) -> Text:
    return Text.assemble((f"{TITLES[measure]}, by {axis}", "bold"))


def legend(drawn: Sequence[Series], ascii_only: bool) -> Text:
    line = Text()
    for one, mark in zip(drawn, _marks(drawn), strict=True):
        line.append(mark.ascii if ascii_only else mark.glyph, f"rgb({','.join(map(str, mark.colour))})")
        line.append(f" {printable(one.name)}  ")
    return line


def over(data: Sequence[Sweep] | CorpusSweep, of: Sequence[Sweep | CorpusSweep]) -> str:
    """What the means of `parts(data)` are over."""
    if not of:
        return "nothing run"
    bars = "" if isinstance(of[0], Sweep) or of[0].documents == 1 else ", bars 95 %"
    return f"mean over {over_words(of[0], 'document' if of[0] is data else 'prompt')}{bars}"


def exactly(lines: list[Text], width: int, height: int, ascii_only: bool = False) -> Text:
    """Exactly `height` lines of at most `width` cells."""
    lines = [*lines[:height], *[Text()] * (height - len(lines))]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        if ascii_only:
            line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
    return Text("\n", no_wrap=True).join(lines)
