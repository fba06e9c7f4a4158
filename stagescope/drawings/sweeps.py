"""Sweeps as pictures in text: the paper's Figure 3 (every drop and swap, by layer), a trace as a grid of layers x
positions, heads as a grid, sets of neurons by their size; any of them as SVG."""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from stagescope.drawings import head_grid
from stagescope.drawings.curves import exactly, legend
from stagescope.drawings.plot import HEADS, SETS, TITLES, axes, marked, over, panel, series, set_name, title
from stagescope.drawings.shades import SHADED, SHADES, shade, shade_key
from stagescope.engine.protocol import CorpusSweep, Sweep
from stagescope.reports.sweep import (
    by_prompt,
    corpus_line,
    parts,
    sweep_head,
    tokens_line,
    trace_caption,
    trace_grid,
)
from stagescope.reports.sweep_units import QUESTION, head_means
from stagescope.text import fit, printable, visible

__all__ = ["curves", "heads", "panel", "sets", "trace", "write_svg"]

PANELS = ("kl_nats", "top1_same", "entropy_change_bits")
LEAST_PANEL = 6  # lines: title, three of points, axis, ticks
SIDE_BY_SIDE = 132  # cells: from here on the three panels stand in one row
TRACE_STEPS = (0.05, 0.25, 0.5, 0.75)  # share of the baseline's p lost: where the next shade begins
HEAD_STEPS = {  # where the next shade begins, of what a head's absence changes
    "kl_nats": (0.001, 0.01, 0.1, 1.0),
    "top1_same": (0.05, 0.1, 0.25, 0.5),
    "entropy_change_bits": (0.01, 0.03, 0.1, 0.3),
}
RISING, FALLING = (SHADES[0], ".:*#@"), ("·-~=%", ".-~=%")  # "=" falls
DOWN = "rgb(86,180,233)"
OF_SETS = ("entropy_change_bits", "kl_nats", "top1_same")  # the question's measure first
SVG_WIDTH, SVG_HEIGHT = 120, 49  # cells; lines of a block of three panels
# As rich's own, but without fonts from the network, and with spaces kept: rsvg trims no-break spaces as well.
SVG_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""
SVG_THEME = TerminalTheme((16, 18, 22), (216, 220, 226), [(16, 18, 22)] * 8, [(216, 220, 226)] * 8)


# -------------------------------------------------------------------------------------------------- curves


def curves(data: Sequence[Sweep] | CorpusSweep, width: int, height: int, ascii_only: bool = False) -> Text:
    """KL, top-1 kept and entropy change in one row where the width allows, else below each other: `height` lines.

    Kinds with another x axis (painters, press, neurons, a list of schedules) follow in a block of their own, the heads of
    several layers as a grid of KL. What the height leaves no room for is left out, from the last. A trace is its grid.
    """
    if not isinstance(data, CorpusSweep) and data[0].kind == "trace":
        return trace(data[0], width, height, ascii_only=ascii_only)
    of = parts(data)
    n_layers, noise = of[0].model.n_layers, of[0].model.noise_kl
    drawn = {measure: series(of, measure) for measure in PANELS}
    blocks = list(dict.fromkeys(one.axis for one in drawn[PANELS[0]])) or ["layer"]
    across = 3 if width >= SIDE_BY_SIDE else 1
    down = 3 // across
    blocks = blocks[: max(height // (1 + down * LEAST_PANEL), 1)]
    lines: list[Text] = []
    for block, axis in enumerate(blocks):
        room = height // len(blocks) + (block < height % len(blocks))
        if axis == HEADS:
            part = next(part for part in of if any(row.kind == "heads" for row in part.rows))
            averaged = over(data, of)
            drawn_heads = heads(part, PANELS[0], width, room, averaged=averaged, ascii_only=ascii_only)
            lines += drawn_heads.split("\n", allow_blank=True)
            continue
        mine = {measure: [one for one in drawn[measure] if one.axis == axis] for measure in PANELS}
        marks = legend(marked(mine[PANELS[0]]), ascii_only)
        told = over(data, of, axis)
        above = [Text(f"{told}   ").append_text(marks)]
        if above[0].cell_len > width:
            above = [Text(told), marks]
        lines += above
        room -= len(above)
        shown = min(down, max(room // LEAST_PANEL, 1))
        for row in range(shown):
            high = room // shown + (row < room % shown)
            cells = (width - 2 * (across - 1)) // across
            beside = [
                [title(m, axis), *axes(m, mine[m], noise, cells, high - 1, n_layers, ascii_only=ascii_only)]
                for m in PANELS[row * across : (row + 1) * across]
            ]
            lines += _beside(beside, cells, high)
    return exactly(lines, width, height, ascii_only)


def _beside(columns: Sequence[Sequence[Text]], width: int, height: int) -> list[Text]:
    blocks = [exactly(list(column), width, height).split("\n", allow_blank=True) for column in columns]
    lines = []
    for row in zip(*blocks, strict=True):
        for text in row[:-1]:
            text.pad_right(width + 2 - text.cell_len)
        lines.append(Text().join(row))
    return lines


# --------------------------------------------------------------------------------------------------- heads


def heads(
    data: Sweep | CorpusSweep,
    measure: str,
    width: int,
    height: int,
    *,
    chosen: tuple[int, int] | None = None,
    averaged: str = "",
    ascii_only: bool = False,
) -> Text:
    """Layers, the last on top, x heads: what the output does with that head off. Exactly `height` lines of at most
    `width` cells; chosen: (layer, head), marked and in sight; averaged: what the values are a mean over."""
    values = head_means(data, measure)
    values = 1 - values if measure == "top1_same" else values
    steps, rising, falling = HEAD_STEPS[measure], RISING[ascii_only], FALLING[ascii_only]

    def shaded(value: float) -> tuple[str, str]:
        step = bisect_right(steps, abs(value))
        if math.isnan(value) or not step:
            return " " if math.isnan(value) else rising[0], ""
        return (rising[step], SHADED) if value > 0 else (falling[step], DOWN)

    name = {"kl_nats": "KL, nats", "top1_same": "top-1 changed, share", "entropy_change_bits": "entropy change, bits"}[measure]
    bounds = " ".join(f"{glyph} {step:g}" for glyph, step in zip(rising, (0, *steps), strict=True))
    key = f"from {bounds}"
    if measure == "entropy_change_bits":
        key += "; down from " + " ".join(f"{glyph} {step:g}" for glyph, step in zip(falling[1:], steps, strict=True))
    largest = sorted(zip(*np.nonzero(~np.isnan(values)), strict=True), key=lambda at: -abs(values[at]))
    side = [f"{f'{layer}.{head}':<6} {values[layer, head]:+.3g}" for layer, head in largest]
    if measure != "entropy_change_bits":
        side = [line.replace("+", "") for line in side]
    above = [Text.assemble((name, "bold"), f", one head off{' · ' * bool(averaged)}{averaged}"), Text(key, "dim")]
    return head_grid.grid(values, shaded, above, ["strongest", *side], chosen, width, height, ascii_only)


# ---------------------------------------------------------------------------------------- sets of neurons


def sets(
    data: Sequence[Sweep] | CorpusSweep,
    measure: str | None,
    width: int,
    height: int,
    *,
    chosen: tuple[str, int] | None = None,
    averaged: str = "",
    ascii_only: bool = False,
) -> Text:
    """Curves over k of the k strongest neurons of a class off together, beside random ones: `height` lines.

    measure: None for all three, below each other. chosen: variant and k. averaged: as in `panel`.
    """
    of = parts(data)
    measures = OF_SETS if measure is None else (measure,)
    drawn = {one: [made for made in series(of, one) if made.axis == SETS] for one in measures}
    marks = legend(marked(drawn[measures[0]]), ascii_only)
    told = [f"{averaged or over(data, of)}, random: range of draws", averaged or over(data, of)]
    told = next((words for words in told if len(QUESTION) + 2 + len(words) <= width), "")
    is_low = height < 10 and measure is not None  # the measure stands where else is told what means are over
    told = f"{TITLES[measure]}, by k" if is_low else told
    marks.rstrip()
    lines = [Text.assemble((QUESTION, "bold"), f"  {told}"), marks]
    at = chosen and (set_name(chosen[0]), math.log2(chosen[1]))
    room = height - len(lines)
    for row, one in enumerate(measures):
        high = room // len(measures) + (row < room % len(measures))
        head = [] if is_low else [title(one, SETS)]
        noise = of[0].model.noise_kl if of else math.nan
        body = axes(one, drawn[one], noise, width, high - len(head), 0, at, ascii_only)
        lines += exactly([*head, *body], width, high).split("\n", allow_blank=True)
    return exactly(lines, width, height, ascii_only)


# --------------------------------------------------------------------------------------------------- trace


def trace(
    sweep: Sweep, width: int, height: int, *, chosen: tuple[int, int] | None = None, ascii_only: bool = False
) -> Text:
    """Layers, the last on top, x positions: what leaving out one layer at one position does to the tracked token's p at
    the position read. Exactly `height` lines of at most `width` cells.

    Cells are shaded by the share of the baseline's p that is lost; + is a gain. chosen: (layer, position), marked and
    always in sight: what does not fit scrolls, and is counted above.
    """
    (at,) = sweep.positions
    n_layers, n_tokens = sweep.model.n_layers, len(sweep.tokens)
    p, was = trace_grid(sweep), float(sweep.base_tracked_p[at])
    head = [trace_caption(sweep), _trace_key(ascii_only)][: 2 if height >= 8 else 1]
    high = min(max(height - len(head) - 2, 1), n_layers)
    cell = min(max((width - 4) // n_tokens, 4), 8)
    wide = min(max((width - 4) // cell, 1), n_tokens)
    layer, position = chosen or (n_layers - 1, at)
    bottom = min(max(layer - high // 2, 0), n_layers - high)
    first = min(max(position - wide // 2, 0), n_tokens - wide)
    shown = range(first, first + wide)

    lines = []
    for row in reversed(range(bottom, bottom + high)):
        line = Text(f"{row:3} ", "bold" if chosen and row == layer else "dim")
        for column in shown:
            glyph, style = _trace_shade(p[row, column], was, ascii_only)
            inner = cell - 3 if chosen == (row, column) else cell - 1
            drawn = glyph * inner if style == SHADED else glyph.center(inner)
            line.append(drawn if inner == cell - 1 else f"[{drawn}]", f"not dim {style}" if style else "dim").append(" ")
        lines.append(line)
    left, right, above = first, n_tokens - first - wide, n_layers - bottom - high
    hidden = {"on the left": left, "on the right": right, "above": above, "below": bottom}
    if told := ", ".join(f"{n} {where}" for where, n in hidden.items() if n):
        head[-1] = Text.assemble(f"{'~' if ascii_only else '…'} {told.replace(' ', ' more ', 1)}  ", head[-1])
    marks = "".join(fit(f"{column}{'*' if column == at else ''}", cell) for column in shown)
    words = "".join(fit(visible(sweep.tokens[c].text, ascii_only), cell - 1, ascii_only) + " " for c in shown)
    return exactly([*head, *lines, Text("    " + marks, "dim"), Text("    " + words)], width, height, ascii_only)


def _trace_shade(p: float, was: float, ascii_only: bool) -> tuple[str, str]:
    """Shade and style of a cell. Blank: not done."""
    if math.isnan(p - was):
        return " ", ""
    lost = 1 - p / was if was > 0 else 0.0
    if lost < -TRACE_STEPS[0]:
        return "+", DOWN
    return shade(lost, TRACE_STEPS, ascii_only)


def _trace_key(ascii_only: bool) -> Text:
    """Where each shade begins."""
    key = shade_key(["0", *(f"{100 * step:.0f}" for step in TRACE_STEPS)], ascii_only)
    return Text(f"p lost from {key} %  + gained", "dim")


# ----------------------------------------------------------------------------------------------------- SVG


def write_svg(file: Path, data: Sequence[Sweep] | CorpusSweep) -> None:
    """Curves, or a trace, with what they are of, as a picture of a terminal. No font is fetched. Raises OSError."""
    first = data if isinstance(data, CorpusSweep) else data[0]
    is_trace = isinstance(first, Sweep) and first.kind == "trace"
    width = max(SVG_WIDTH, 4 + 4 * len(first.tokens)) if is_trace else SVG_WIDTH
    console = Console(
        file=io.StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor",
        markup=False, highlight=False, emoji=False, _environ={},
    )  # fmt: skip
    console.print(sweep_head(first.model))
    for line in [corpus_line(data)] if first is data else [tokens_line(group[0]) for group in by_prompt(data)]:
        console.print(line)
    console.print()
    axes_drawn = {one.axis for one in series(parts(data), PANELS[0])}
    is_grid = is_trace or axes_drawn == {HEADS}
    height = first.model.n_layers + 4 if is_grid else SVG_HEIGHT * max(len(axes_drawn), 1)
    console.print(curves(data, width, height))
    svg = console.export_svg(title=f"sweep · {printable(first.model.name)}", theme=SVG_THEME, code_format=SVG_FORMAT)
    file.write_text(svg, "utf-8")
