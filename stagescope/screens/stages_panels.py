"""The curves of the stages screen over relative depth, the stages beneath each panel. Brings plotext: imported late."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from stagescope.drawings import curves
from stagescope.screens.stages_words import Panel

LEFT = curves.LABEL + 1  # cells of the labels and the axis
BELOW = 3  # lines below the points: axis, depth, stages
TICKS = {0.0: "0", 0.25: ".25", 0.5: ".5", 0.75: ".75", 1.0: "1"}


def plotted(panel: Panel, width: int, height: int, n_layers: int, floor: float, ascii_only: bool) -> list[Text]:
    """Title, points, axis, relative depth: `height` - 1 lines. About 10 ms; it stands still while the cursor moves."""
    drawn = [curves.Curve(one.name, mark, one.x, one.y) for one, mark in zip(panel.series, curves.MARKS, strict=False)]
    look = {"scale": panel.scale, "last": n_layers - 1, "floor": floor, "ascii_only": ascii_only}
    lines = curves.panel(panel.title, drawn, width, height - 1, **look).split("\n", allow_blank=True)
    return [*lines[:-1], depth_line(width, n_layers)]


def depth_line(width: int, n_layers: int) -> Text:
    cells = list("depth ".rjust(LEFT).ljust(width))
    for share, label in TICKS.items():
        start = min(column(share * (n_layers - 1), width, n_layers), width - len(label))
        cells[start : start + len(label)] = label
    return Text("".join(cells)[:width], "dim")


def column(layer: float, width: int, n_layers: int) -> int:
    """The cell that plotext draws a layer in: its axis goes half a layer beyond both ends."""
    return LEFT + round((layer + 0.5) / n_layers * (width - LEFT - 1))


def layer_at(x: int, width: int, n_layers: int) -> int:
    """The layer nearest to a cell."""
    layer = round((x - LEFT) / max(width - LEFT - 1, 1) * n_layers - 0.5)
    return min(max(layer, 0), n_layers - 1)


def finished(
    lines: Sequence[Text], band: str, cursor: int, edge: int | None, width: int, ascii_only: bool
) -> list[Text]:
    """The lines of a panel with upright rules, where nothing is drawn, and the stages below.

    The cursor's rule stands at its layer, that of a boundary between the layers before and from `edge` on.
    """
    rules = [(cursor, ":" if ascii_only else "┊")]
    rules += [] if edge is None else [(edge - 0.5, "|" if ascii_only else "┃")]
    for layer, rule in rules:
        at = column(layer, width, len(band))
        lines = [_ruled(line, at, rule) if 0 < y < len(lines) - 2 else line for y, line in enumerate(lines)]
    return [*lines, band_line(band, cursor, width)]


def _ruled(line: Text, at: int, rule: str) -> Text:
    if line.plain[at : at + 1] not in ("", " ", "\u2800"):
        return line
    missing = max(at - len(line.plain), 0)
    return Text.assemble(line[:at], " " * missing, rule, line[at + 1 :], no_wrap=True)


def band_line(band: str, cursor: int, width: int) -> Text:
    """1 2 3 4 or a hatch under each layer, every second stage shaded; the cursor's layer inverted."""
    line = Text("stage ".rjust(LEFT), "dim", no_wrap=True)
    for x in range(LEFT, width):
        letter = band[layer_at(x, width, len(band))]
        here = x == column(cursor, width, len(band))
        line.append(letter, "bold reverse" if here else "on grey23" if letter in "24" else "")
    return line


def beside(panels: Sequence[Sequence[Text]], columns: int, width: int) -> list[Text]:
    """Panels of equal size in rows of `columns`."""
    share, lines = width // columns, []
    for start in range(0, len(panels), columns):
        for row in zip(*panels[start : start + columns], strict=True):
            whole = Text(no_wrap=True)
            for part in row:
                whole.append_text(part[: share - 1]).append(" " * max(share - len(part.plain[: share - 1]), 0))
            lines.append(whole)
    return lines
