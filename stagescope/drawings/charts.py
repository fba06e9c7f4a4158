"""Line charts and a band of layers as SVG text, for documents. Pure functions of numbers; nothing is fetched.

Every curve has its own marker and dash, so a print in black and white reads as well. Colours stand as attributes, for a
picture taken alone, and as classes (s0 to s5), so that `STYLE` in a page turns them for a dark screen. Each point tells
its numbers in a <title>, which browsers show under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from stagescope.text import printable

WIDTH, PLOT = 560, 210  # of a chart, and the height of its plot: units of the view box, about pixels
LEFT, RIGHT, FOOT = 58, 12, 40
LETTER, ROW, SWATCH = 6.6, 18, 28  # of a legend: width of a letter (12 px sans), height of a row, length of a line
COLOURS = (  # Okabe and Ito (2008); on white, on black
    *(("#0072b2", "#56b4e9"), ("#d55e00", "#f0914a"), ("#007a5a", "#35c79b")),
    *(("#a8487f", "#e59ac4"), ("#8a6a00", "#e8c35a"), ("#555555", "#b4b4b4")),
)
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2", "1.5 4")
CIRCLE = "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0Z"
MARKERS = (  # path and whether it is filled
    *((CIRCLE, True), ("M0 -3.8L3.6 2.8H-3.6Z", False), ("M-2.8 -2.8H2.8V2.8H-2.8Z", True)),
    *(("M0 -4L4 0L0 4L-4 0Z", False), ("M0 3.8L3.6 -2.8H-3.6Z", True), (CIRCLE, False)),
)
DOTTED = 'stroke="currentColor" stroke-dasharray="1 3" stroke-width="1.4"'  # of a level
BELOW = "M-4 -5L0 0L4 -5"  # a value below a log axis: an arrow onto it

_DARK = "".join(f" .s{n}{{stroke:{dark};fill:{dark}}}" for n, (_, dark) in enumerate(COLOURS))
STYLE = (
    "svg.chart{display:block;width:100%;height:auto;color:var(--ink)} svg.chart .hollow{fill:var(--paper)}"
    f" @media (prefers-color-scheme: dark){{{_DARK}}}"
)


@dataclass(frozen=True, eq=False)
class Line:
    """One curve: x [N] ascending, y [N] or [N, 3] mean, low, high. NaN is a gap (low, high: no interval)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    style: int = 0  # colour, dash and marker
    bold: bool = True  # False: a thin line with small points and no intervals
    linked: bool = True  # False: points alone

    def columns(self) -> np.ndarray:
        """[N, 3]"""
        y = np.asarray(self.y, float)
        return y if y.ndim == 2 else np.stack([y, np.full_like(y, np.nan), np.full_like(y, np.nan)], -1)


@dataclass(frozen=True, eq=False)
class Panel:
    """A chart of lines over layers. scale: log; linear; zero (from 0); share (0 to 1, in %); change (0 is drawn)."""

    title: str
    unit: str  # of y
    lines: tuple[Line, ...]
    scale: str = "linear"
    rules: tuple[tuple[float, str], ...] = ()  # level lines: y and name
    ribbons: bool = False  # intervals as ribbons instead of bars
    ends: tuple[float, float] | None = None  # least and greatest x; None: all layers
    x_title: str = "layer"


def chart(panel: Panel, ends: tuple[float, float], x_title: str = "layer") -> str:
    """An SVG element. ends: least and greatest x. On a log axis what is below stands on it as an arrow."""
    bottom, top, ticks = y_axis(panel)
    rows = _legend_rows(panel)
    head = 24 + ROW * len(rows)
    height = head + PLOT + FOOT
    left, right = ends[0] - 0.5, ends[1] + 0.5
    is_log = panel.scale == "log"

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - left) / (right - left)

    def at_y(y: float) -> float:
        scaled = (math.log10(y) if y > 0 else bottom) if is_log else y
        return head + PLOT * (1 - (min(max(scaled, bottom), top) - bottom) / (top - bottom))

    parts = [
        _opened(height, f"{panel.title}, {panel.unit}"),
        f'<text x="{LEFT}" y="14" font-weight="600">{_text(panel.title)}'
        f'<tspan dx="9" font-weight="400" fill-opacity="0.65">{_text(panel.unit)}</tspan></text>',
    ]
    parts += [part for n, row in enumerate(rows) for part in _legend(row, 24 + ROW * n + ROW / 2)]
    parts.append('<g class="axes" stroke="currentColor" stroke-width="1">')
    across = f"H{WIDTH - RIGHT}"
    parts += [f'<path d="M{LEFT} {at_y(y):.2f}{across}" stroke-opacity="{0.16 if name else 0.07}"/>' for y, name in ticks]
    parts.append(f'<path d="M{LEFT} {head}V{head + PLOT}H{WIDTH - RIGHT}" fill="none" stroke-opacity="0.6"/>')
    named = x_ticks(*ends)
    parts += [f'<path d="M{at_x(x):.2f} {head + PLOT}v4" stroke-opacity="0.6"/>' for x in named]
    parts += ["</g>", '<g class="ticks" fill-opacity="0.8" font-size="11">']
    for y, name in ticks:
        parts.append(f'<text x="{LEFT - 7}" y="{at_y(y) + 4:.2f}" text-anchor="end">{name}</text>' if name else "")
    parts += [f'<text x="{at_x(x):.2f}" y="{head + PLOT + 17}" text-anchor="middle">{x}</text>' for x in named]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{head + PLOT + 33}" text-anchor="middle">{_text(x_title)}</text></g>')
    if panel.scale == "change":
        parts.append(f'<path d="M{LEFT} {at_y(0):.2f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity="0.6"/>')
    levels = [y for y, _ in panel.rules if math.isfinite(y)]
    parts += [f'<path class="rule" d="M{LEFT} {at_y(y):.2f}{across}" {DOTTED}/>' for y in levels]
    lowest = 10**bottom if is_log else -math.inf
    for line in sorted(panel.lines, key=lambda line: line.bold):  # the bold ones on top
        parts += _drawn(line, at_x, at_y, lowest, panel)
    return "\n".join([*parts, "</svg>"])


def _opened(height: float, label: str) -> str:
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{_text(label)}" font-family="system-ui, sans-serif" '
        'font-size="12" fill="currentColor">'
    )


def _drawn(line: Line, at_x, at_y, lowest: float, panel: Panel) -> list[str]:
    """Interval, line and points of one curve, in a group of its colour."""
    x, y = np.asarray(line.x, float), line.columns()
    points = [(at_x(a), at_y(b)) if math.isfinite(b) else None for a, b in zip(x, y[:, 0], strict=True)]
    spans = [(at_y(a), at_y(b)) if math.isfinite(a) and math.isfinite(b) else None for a, b in y[:, 1:]]
    if not line.bold:
        spans = [None] * len(points)
    parts = [_group(line)]
    if panel.ribbons:
        for run in _runs([p and s and (p[0], *s) for p, s in zip(points, spans, strict=True)]):
            edge = [(a, low) for a, low, _ in run] + [(a, high) for a, _, high in run[::-1]]
            path = " ".join(f"{a:.2f},{b:.2f}" for a, b in edge)
            parts.append(f'<polygon class="ribbon" points="{path}" stroke="none" fill-opacity="0.16"/>')
    if line.linked:
        dash = f' stroke-dasharray="{DASHES[line.style % len(DASHES)]}"' if line.style % len(DASHES) else ""
        for run in _runs(points):
            path = " ".join(f"{a:.2f},{b:.2f}" for a, b in run)
            parts.append(f'<polyline class="curve" points="{path}" fill="none"{dash}/>')
    for where, point, span, values in zip(x, points, spans, y, strict=True):
        if point is None:
            continue
        if span and not panel.ribbons and abs(span[0] - span[1]) > 1:
            low, high = span
            parts.append(
                f'<path class="interval" d="M{point[0] - 2.5:.2f} {low:.2f}h5m-2.5 0V{high:.2f}m-2.5 0h5" fill="none"/>'
            )
        told = f"<title>{_text(line.name)}, {where:g}: {_told(values, panel.scale)}</title>"
        parts.append(_marker(line, *point, told, is_below=values[0] < lowest))
    return [*parts, "</g>"]


def _group(line: Line) -> str:
    n = line.style % len(COLOURS)
    colour, width = COLOURS[n][0], 1.8 if line.bold else 0.8
    return f'<g class="line s{n}" stroke="{colour}" fill="{colour}" stroke-width="{width}">'


def _marker(line: Line, x: float, y: float, inside: str = "", is_below: bool = False) -> str:
    path, is_filled = MARKERS[line.style % len(MARKERS)]
    size = "" if line.bold or is_below else " scale(0.6)"
    fill = "" if is_filled and not is_below else ' class="hollow" fill="#ffffff"'
    if is_below:
        path, fill = BELOW, ' fill="none"'
    return (
        f'<g class="point" transform="translate({x:.2f} {y:.2f}){size}"><path d="{path}"{fill} stroke-width="1.3" '
        f'stroke-dasharray="none"/>{inside}</g>'
    )


def _runs(points: Sequence) -> list[list]:
    """What lies between gaps (None)."""
    runs: list[list] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _told(values: np.ndarray, scale: str) -> str:
    percent = scale == "share"
    mean, low, high = (f"{v:.1%}" if percent else f"{v:.4g}" for v in values)
    return mean if math.isnan(values[1]) else f"{mean} [{low}, {high}]"


def _text(text: str) -> str:
    return escape(printable(text))


# ------------------------------------------------------------------------------------------------ legend


def _legend_rows(panel: Panel) -> list[list[tuple[Line | str, float]]]:
    """Lines, and names of levels, with their x: as many in a row as there is room for. A line alone needs no legend."""
    rows: list[list[tuple[Line | str, float]]] = []
    x = WIDTH + 1.0
    levels = [name for y, name in panel.rules if math.isfinite(y)]
    for item in [*panel.lines, *levels] if len(panel.lines) + len(levels) > 1 else ():
        name = item if isinstance(item, str) else item.name
        width = SWATCH + 6 + LETTER * len(printable(name)) + 10
        if x + width > WIDTH:
            rows.append([])
            x = LEFT
        rows[-1].append((item, x))
        x += width
    return rows


def _legend(row: list[tuple[Line | str, float]], y: float) -> list[str]:
    parts = ['<g class="legend">']
    for item, x in row:
        swatch = f'd="M{x:.1f} {y}h{SWATCH}"'
        if isinstance(item, str):
            parts.append(f"<path {swatch} {DOTTED}/>")
        else:
            dash = f' stroke-dasharray="{DASHES[item.style % len(DASHES)]}"' if item.style % len(DASHES) else ""
            stroke = f"<path {swatch}{dash}/>" if item.linked else ""
            parts.append(f"{_group(item)}{stroke}{_marker(item, x + SWATCH / 2, y)}</g>")
        name = item if isinstance(item, str) else item.name
        parts.append(f'<text x="{x + SWATCH + 6:.1f}" y="{y + 4}">{_text(name)}</text>')
    return [*parts, "</g>"]


# -------------------------------------------------------------------------------------------------- axes


def y_axis(panel: Panel) -> tuple[float, float, list[tuple[float, str]]]:
    """Bottom and top (log10 of them on a log axis), and ticks: a value, and its name or "" for a line without one."""
    shown = [line.columns() if line.bold else line.columns()[:, :1] for line in panel.lines]
    values = np.concatenate([np.ravel(y) for y in shown] + [[y for y, _ in panel.rules]])
    values = values[np.isfinite(values)]
    if panel.scale == "share":
        return 0.0, 1.0, [(tick / 5, f"{20 * tick} %") for tick in range(6)]
    if panel.scale == "log":
        return _log_axis(np.concatenate([y[:, 0] for y in shown] + [[y for y, _ in panel.rules]]), values)
    if panel.scale in ("zero", "change"):
        values = np.append(values, 0.0)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(high), 1e-3):
        low, high = (low, low + 1) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    step = nice((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [n * step for n in range(first, last + 1)]
    return ticks[0], ticks[-1], [(tick, number(tick)) for tick in ticks]


def _log_axis(means: np.ndarray, values: np.ndarray) -> tuple[float, float, list[tuple[float, str]]]:
    """From the least mean above 1e-6 (below is rounding): the low end of an interval does not stretch it."""
    means = means[np.isfinite(means) & (means > 1e-6)]
    if not len(means):
        return -1.0, 0.0, [(0.1, "0.1"), (1.0, "1")]
    low, high = float(means.min()), float(values.max())
    steps = [(m * 10.0**n, m) for n in range(-7, 40) for m in (1, 2, 5)]
    bottom = max(step for step, _ in steps if step <= low * 1.0001)
    top = min((step for step, _ in steps if step >= high * 0.9999), default=high)
    if top <= bottom:
        top = bottom * 10
    decades = math.log10(top / bottom)
    every = {1} if decades > 3.5 else {1, 2, 5}
    ticks = [(step, number(step) if m in every else "") for step, m in steps if bottom * 0.999 <= step <= top * 1.001]
    return math.log10(bottom), math.log10(top), ticks


def x_ticks(first: float, last: float) -> list[int]:
    """Whole numbers from first to last, both named; about ten."""
    first, last = math.ceil(first), math.floor(last)
    step = max(int(nice((last - first) / 10)), 1)
    return [*(x for x in range(first, last, step) if last - x > 0.6 * step), last]


def nice(step: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * 0.999)


def number(value: float) -> str:
    value = 0.0 if abs(value) < 1e-12 else value
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\u2212")
    return f"{value:.10g}".replace("-", "\u2212")


# -------------------------------------------------------------------------------------------------- band


@dataclass(frozen=True)
class Span:
    """Layers first to last, both within. low, high: the interval of `first`."""

    mark: str  # what stands in the band: a number
    name: str
    first: int
    last: int
    low: int | None = None
    high: int | None = None


def band(spans: Sequence[Span], n_layers: int, title: str) -> str:
    """Layers as one bar, under the x axis of `chart`: spans numbered and named, an interval above each beginning, and
    hatching where no span lies."""
    at, bar, tall = LEFT, 30, 46
    cell = (WIDTH - LEFT - RIGHT) / n_layers
    bottom = bar + tall
    parts = [
        _opened(bottom + 40 + ROW * len(spans), title),
        '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path d="M0 0V7" stroke="currentColor" stroke-opacity="0.5" stroke-width="1.5"/></pattern></defs>',
        f'<rect class="unknown" x="{at}" y="{bar}" width="{cell * n_layers:.2f}" height="{tall}" fill="url(#hatch)" '
        'stroke="currentColor" stroke-opacity="0.6"/>',
    ]
    for n, span in enumerate(spans):
        x, width = at + cell * span.first, cell * (span.last - span.first + 1)
        colour = COLOURS[n % len(COLOURS)][0]
        told = f"layer {span.first}" if span.first == span.last else f"layers {span.first} to {span.last}"
        parts += [
            f'<rect class="hollow" x="{x:.2f}" y="{bar}" width="{width:.2f}" height="{tall}" fill="#ffffff"/>',
            f'<g class="span s{n % len(COLOURS)}" stroke="{colour}" fill="{colour}"><rect x="{x:.2f}" y="{bar}" '
            f'width="{width:.2f}" height="{tall}" fill-opacity="{0.2 + 0.15 * (n % 2)}" stroke-width="1.5">'
            f"<title>{_text(span.mark)} {_text(span.name)}: {told}</title></rect></g>",
            f'<text x="{x + width / 2:.2f}" y="{bar + tall / 2 + 6}" text-anchor="middle" font-size="16" '
            f'font-weight="700">{_text(span.mark)}</text>',
            f'<text x="{at}" y="{bottom + 52 + ROW * n}">{_text(span.mark)} {_text(span.name)}: {told}</text>',
        ]
        if span.low is not None and span.high is not None and span.first > 0:
            low, high = at + cell * span.low, at + cell * span.high
            parts.append(
                f'<g class="interval"><path d="M{low:.2f} {bar - 14}v8m0 -4H{high:.2f}m0 -4v8" fill="none" '
                f'stroke="currentColor" stroke-width="1.4"/><circle cx="{x:.2f}" cy="{bar - 10}" r="3"/>'
                f"<title>begins at {span.first} [{span.low}, {span.high}]</title></g>"
            )
    parts += [
        f'<text x="{at + cell * (x + 0.5):.2f}" y="{bottom + 16}" text-anchor="middle" font-size="11">{x}</text>'
        for x in x_ticks(0, n_layers - 1)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 31}" text-anchor="middle" font-size="11">layer</text>')
    return "\n".join([*parts, "</svg>"])
