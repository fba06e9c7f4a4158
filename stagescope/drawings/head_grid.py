"""Layers x heads as shades: one number of every head, the last layer on top, in as many cells as there are.

What does not fit scrolls, with the cursor in sight. No meaning rests on hue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from stagescope.text import fit

CELL = 2, 6  # cells of a head, the mark of the cursor included: fewest and most
SIDE = 24  # cells of the list of the strongest heads, and of the gap before it
NUMBERS = 4  # cells of a layer's number and the gap after it


class Window(NamedTuple):
    """What of a grid is in sight, and where."""

    top: int  # lines above the layers
    bottom: int  # the lowest layer
    high: int  # layers
    first: int  # the leftmost head
    wide: int  # heads
    cell: int  # cells a head
    listed: bool  # there is room for the strongest heads on the right

    def at(self, x: int, y: int) -> tuple[int, int] | None:
        """Layer and head of a cell of the screen."""
        row, column = y - self.top, (x - NUMBERS) // self.cell
        if 0 <= row < self.high and 0 <= column < self.wide:
            return self.bottom + self.high - 1 - row, self.first + column
        return None


def window(n_layers: int, n_heads: int, layer: int, head: int, width: int, height: int) -> Window:
    """Always with the cursor in sight."""
    listed = width - NUMBERS - SIDE >= n_heads * CELL[0]
    room = width - NUMBERS - SIDE * listed
    cell = min(max(room // n_heads, CELL[0]), CELL[1])
    top = 2 if height >= 8 else 1
    high = min(max(height - top - 1, 1), n_layers)
    wide = min(max(room // cell, 1), n_heads)
    bottom = min(max(layer - high // 2, 0), n_layers - high)
    first = min(max(head - wide // 2, 0), n_heads - wide)
    return Window(top, bottom, high, first, wide, cell, listed)


def grid(
    values: np.ndarray,
    shade: Callable[[float], tuple[str, str]],
    above: Sequence[Text],
    side: Sequence[str],
    chosen: tuple[int, int] | None,
    width: int,
    height: int,
    ascii_only: bool = False,
) -> Text:
    """values [L, H] as exactly `height` lines of at most `width` cells.

    shade: of a value the character and its style, which fills the cell; without a style it stands alone, dim. above: two
    lines, of which the first alone where it is low. side: lines on the right, where there is room. chosen: (layer, head).
    """
    from stagescope.drawings.curves import exactly  # brings plotext: 0.3 s, once

    n_layers, n_heads = values.shape
    seen = window(n_layers, n_heads, *(chosen or (n_layers - 1, 0)), width, height)
    hidden = {
        "on the left": seen.first, "on the right": n_heads - seen.first - seen.wide,
        "above": n_layers - seen.bottom - seen.high, "below": seen.bottom,
    }  # fmt: skip
    told = ", ".join(f"{n} {where}" for where, n in hidden.items() if n)
    more = f"{'~' if ascii_only else '…'} {told.replace(' ', ' more ', 1)}  " if told else ""
    if cell_len(more) > width:
        more = more.replace(" more", "").replace("on the ", "")

    side = side[: seen.high] if seen.listed and seen.high > 1 else []  # a heading alone says nothing
    lines = []
    for at in reversed(range(seen.bottom, seen.bottom + seen.high)):
        line = Text(f"{at:3} ", "bold" if chosen and at == chosen[0] else "dim")
        for column in range(seen.first, seen.first + seen.wide):
            drawn, style = shade(float(values[at, column]))
            drawn = drawn * (seen.cell - 1) if style else drawn.center(seen.cell - 1)
            line.append((">" if ascii_only else "▸") if (at, column) == chosen else " ", "not dim bold")
            line.append(drawn, f"not dim {style}" if style else "not bold dim")
        if len(lines) < len(side):
            line.append(f"   {side[len(lines)]}", "not dim not bold")
        lines.append(line)
    below = numbers(NUMBERS + 1, range(seen.first, seen.first + seen.wide), seen.cell)
    above = [Text.assemble(more, above[0]), *above[1:]][: seen.top]
    return exactly([*above, *lines, below], width, height, ascii_only)


def numbers(left: int, columns: range, cell: int) -> Text:
    """Numbers below columns of `cell` cells, the first `left` cells from the edge; as many as stay apart."""
    apart = -(-4 // cell)
    shown = [column for column in columns if column % apart == 0]
    lead = " " * (left + cell * (-columns.start % apart))
    return Text((lead + "".join(fit(f"{column}", cell * apart) for column in shown)).rstrip(), "dim")
