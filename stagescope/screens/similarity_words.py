"""What the similarity screen draws and says: block influence, angular distance some layers apart, CKA as shades, a span
of layers in full. All text harmless. No meaning rests on hue: curves differ in their markers, CKA has shades."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.text import Text
from textual.content import Content

from stagescope.drawings.shades import SHADED, SHADES, shade, shade_key
from stagescope.engine.protocol import Similarity
from stagescope.reports.similarity import APART, nearest, span_words
from stagescope.screens.sweep_words import CHOSEN, QUIET
from stagescope.screens.widgets.glyphs import Glyphs, number
from stagescope.text import fit, printable

PANELS = {"influence": "block influence", "angular": "angular distance", "cka": "CKA"}
STEPS = (0.25, 0.5, 0.75, 0.9)  # of CKA: where the next shade begins
NUMBERS = 4  # cells of a depth's number and the gap after it
WIDEST = 4  # cells of one depth
LEAST = 3  # spans named


def apart(n_layers: int) -> tuple[int, ...]:
    return tuple(n for n in APART if n <= n_layers)


def distances(similarity: Similarity, n: int) -> np.ndarray:
    """[L - n + 1] from the stream before layer a to that after layer a + n - 1, for each a: what those n layers turn."""
    return np.diagonal(similarity.angular, n)


# --------------------------------------------------------------------------------------------------- lines


def view_line(shown: Sequence[str], skipped: Sequence[str], width: int, glyphs: Glyphs) -> Content:
    """The panels, those that are drawn bright, a click chooses; then the first document that was left out."""
    parts = [
        Content.styled(title, CHOSEN if name in shown else QUIET).stylize(f"@click=screen.view('{name}')")
        for name, title in PANELS.items()
    ]
    left = Content("   ").join(parts)
    room = width - left.cell_length - 3
    if not skipped or room < 12:
        return left
    told = fit(f"left out: {printable(skipped[0])}", room, glyphs.ascii_only).rstrip()
    return Content.assemble(left, "   ", (told, QUIET))


def over(similarity: Similarity) -> str:
    """ "12 tokens"; "5,012 tokens of 16 documents, 2 cut, 1 left out, 95 % intervals" """
    if similarity.documents == 1 and not similarity.n_skipped:
        return f"{similarity.tokens_scored:,} tokens"
    counts = ((similarity.n_cut, "cut"), (similarity.n_skipped, "left out"))
    told = [f"{n:,} {what}" for n, what in counts if n] + ["95 % intervals"] * (similarity.documents > 1)
    return ", ".join([f"{similarity.tokens_scored:,} tokens of {similarity.documents:,} documents", *told])


def summary(similarity: Similarity, width: int, lines: int) -> list[str]:
    """As many parts as fit.

    least influence: layer 20 .021, 21 .023, 19 .025 · 2 layers turn least: 20-21 .041 · 4 layers turn least: 19-22 .062
    """
    influence = similarity.influence[:, 0]
    least = [layer for layer in np.argsort(influence, kind="stable")[:LEAST].tolist() if not np.isnan(influence[layer])]
    parts = [f"least influence: layer {', '.join(f'{layer} {number(influence[layer])}' for layer in least)}"][: len(least)]
    for n in apart(similarity.model.n_layers):
        if n > 1 and (best := nearest(similarity, n)):
            parts.append(f"{n} layers turn least: {span_words(best[0], n)} {number(best[1])}")
    while len(parts) > 1 and not _fit(parts, width, lines):
        parts.pop()
    return parts or ["no numbers"]


def _fit(parts: Sequence[str], width: int, lines: int) -> bool:
    """Whether whole parts, three cells between two, take no more lines than there are."""
    used = 0
    for part in parts:
        if used and used + 3 + len(part) > width:
            lines, used = lines - 1, len(part)
        else:
            used += 3 * bool(used) + len(part)
    return lines > 0 and used <= width


def point(similarity: Similarity, first: int, n: int, view: str) -> list[str]:
    """The layers first to first + n - 1: what each does, and what all of them turn the stream by.

    layer 12 · block influence .031 [.028-.034], 3rd least of 30 · angular distance .081 · CKA before and after .97
    """
    influence, angular = similarity.influence, distances(similarity, n)
    parts = [f"layer{'s' * (n > 1)} {span_words(first, n)}"]
    if view == "cka":
        parts.append(f"depth {first} against depth {first + n}")
    elif n == 1:
        value, low, high = influence[first].tolist()
        spread = "" if math.isnan(low) else f" [{number(low)}-{number(high)}]"
        parts.append(f"block influence {number(value) or 'no number'}{spread}{_place(influence[:, 0], first)}")
    turned = float(angular[first])
    parts.append(f"angular distance {number(turned) or 'no number'}{_place(angular, first) if n > 1 else ''}")
    parts.append(f"CKA before and after {number(float(similarity.cka[first, first + n])) or 'no number'}")
    return parts


def _place(values: np.ndarray, at: int) -> str:
    """, 3rd least of 30; from the nearer end; "" for NaN."""
    below, above = int((values < values[at]).sum()), int((values > values[at]).sum())
    if np.isnan(values[at]):
        return ""
    place, end = (below, "least") if below <= above else (above, "most")
    return f", {f'{_ordinal(place + 1)} ' if place else ''}{end} of {len(values)}"


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


# -------------------------------------------------------------------------------------------------- curves


def panel(
    name: str, similarity: Similarity, first: int, n: int, width: int, height: int, glyphs: Glyphs
) -> Text:
    """One panel of curves by layer: exactly `height` lines. n: layers apart, whose curve is marked at the cursor."""
    from stagescope.drawings import curves

    def curve(title: str, y: np.ndarray, mark: curves.Mark) -> curves.Curve:
        y = np.stack([y, y * np.nan, y * np.nan], -1) if y.ndim == 1 else y
        known = np.isfinite(y[:, 0])
        return curves.Curve(title, mark, np.flatnonzero(known).astype(float), y[known])

    if name == "influence":
        title, scale, marked = "block influence 1 - cos(before, after), log axis", "log", None
        drawn = [curve("mean", similarity.influence, curves.MARKS[0])]
    else:
        title, scale, marked = "angular distance / pi, from layer", "linear", str(n)
        some = apart(similarity.model.n_layers)
        drawn = [curve(str(one), distances(similarity, one), mark) for one, mark in zip(some, curves.MARKS, strict=False)]
    head = Text.assemble((title, "bold"), "   ").append_text(curves.legend(drawn, glyphs.ascii_only))
    if name == "angular":
        head.append("layers on", "dim")
    look = {"scale": scale, "ends": (0.0, similarity.model.n_layers - 1.0), "rule": (float(first), marked), "floor": 1e-4}
    body = curves.plot(drawn, width, height - 1, **look, ascii_only=glyphs.ascii_only)
    return curves.exactly([head, *body], width, height, glyphs.ascii_only)


# ----------------------------------------------------------------------------------------------------- CKA


class Shape(NamedTuple):
    """How a matrix of depths lies on the screen: `down` depths a line, `across` depths a cell of `cell` cells."""

    top: int  # lines above it
    n: int  # depths
    down: int
    across: int
    cell: int

    @property
    def rows(self) -> int:
        return -(-self.n // self.down)

    @property
    def columns(self) -> int:
        return -(-self.n // self.across)

    def at(self, x: int, y: int) -> tuple[int, int] | None:
        """Depths of the row and the column of a cell of the screen."""
        row, column = self.rows - 1 - (y - self.top), (x - NUMBERS) // self.cell
        if 0 <= row < self.rows and 0 <= column < self.columns:
            return row * self.down, column * self.across
        return None


def shape(n_depths: int, width: int, height: int) -> Shape:
    """All depths, as large as they go; more than fit share a cell."""
    top = 2 if height >= 10 else 1
    lines, cells = max(height - top - 1, 1), max(width - NUMBERS, 1)
    across = -(-n_depths // cells)
    return Shape(top, n_depths, -(-n_depths // lines), across, min(max(cells // n_depths, 1), WIDEST))


def grid(similarity: Similarity, first: int, n: int, width: int, height: int, glyphs: Glyphs) -> Text:
    """Depth x depth as shades of CKA, the last depth on top; the cursor stands at the depths before and after its layers.
    Exactly `height` lines of at most `width` cells."""
    from stagescope.drawings.curves import exactly

    seen = shape(len(similarity.cka), width, height)
    here = (first + n) // seen.down, first // seen.across
    lines = []
    for row in reversed(range(seen.rows)):
        line = Text(f"{row * seen.down:3} ", "bold" if row == here[0] else "dim")
        for column in range(seen.columns):
            drawn = shade(_mean(similarity.cka, row, column, seen), STEPS, glyphs.ascii_only)[0] * seen.cell
            if (row, column) == here:
                line.append(glyphs.cursor + drawn[1:], "not dim bold reverse")
            else:
                line.append(drawn, f"not dim not bold {SHADED}")
        lines.append(line)
    step = -(-4 // seen.cell)  # columns from number to number
    marks = "".join(fit(f"{column * seen.across}", seen.cell * step) for column in range(0, seen.columns, step))
    several = {n for n in (seen.down, seen.across) if n > 1}
    share = f", {' x '.join(map(str, (seen.down, seen.across)))} depths a cell: their mean" if several else ""
    key = shade_key([number(step) for step in STEPS], glyphs.ascii_only)
    title = Text(f"CKA of every two depths, 0 is the embedding{share}", "bold")
    head = [title, Text(f"from {key}; {SHADES[glyphs.ascii_only][0]} less; blank: no number", "dim")][: seen.top]
    return exactly([*head, *lines, Text(" " * NUMBERS + marks, "dim")], width, height, glyphs.ascii_only)


def _mean(values: np.ndarray, row: int, column: int, seen: Shape) -> float:
    part = values[row * seen.down : (row + 1) * seen.down, column * seen.across : (column + 1) * seen.across]
    known = part[~np.isnan(part)]
    return float(known.mean()) if known.size else math.nan
