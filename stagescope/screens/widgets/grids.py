"""The two grids, depth x position: what every depth is about to say, and how far it is from the baseline."""

from __future__ import annotations

from stagescope.screens.rows import Folded, Row
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.lines import (
    Columns,
    Frame,
    Piece,
    assemble,
    kl_style,
    layer_cell,
    plain_style,
    window,
)

MODES = ("tokens", "delta")


def grid_columns(
    mode: str, width: int, *, label: int, marks: int, n_tokens: int, position: int, minimap: bool
) -> Columns:
    """A column "p7" for each position, as many as fit, the chosen one among them; rather narrow than few."""
    left = 1 + label + 2 + marks
    room = max(width - left - 1 - 2 * minimap, 1)
    fair = room // max(n_tokens, 1)
    if mode == "tokens":
        size = min(max(fair, 9), 15)
    else:  # a number takes 5 cells, a column glyph one, with or without a gap
        size = min(fair, 7) if fair >= 5 else 2 if fair >= 2 else 1
    start, end = window(n_tokens, max(room // size, 1), position)
    spans = {"layer": (0, left)}
    for index, at in enumerate(range(start, end)):
        x = left + 1 + index * size
        spans[f"p{at}"] = (x, min(x + size, width - 2 * minimap))
    return Columns(width, spans, minimap)


def grid_header(mode: str, frame: Frame) -> list[Piece]:
    columns, glyphs = frame.columns, frame.glyphs
    cells: dict[str, Piece] = {"layer": ("lay".rjust(1 + frame.label), "head")}
    for name, at in _positions(columns):
        size = columns.size(name)
        here = at == frame.position
        if size > 2:
            cells[name] = (_cell(frame.tokens[at].text, mode, size, frame), "bright@" if here else "head")
        elif here:
            cells[name] = (glyphs.here, "bright@")
        elif at % 10 == 0:
            cells[name] = (str(at), "head")
    return assemble(columns, cells)


def grid_line(mode: str, row: Row, frame: Frame, cursor: bool) -> list[Piece]:
    cells = {"layer": layer_cell(row, frame, cursor)}
    if row.depth is None:
        first = next(iter(_positions(frame.columns)), ("layer", 0))[0]
        return assemble(frame.columns, cells | {first: (f"{frame.glyphs.rule * 2} dropped", "edit")})
    draw = _token if mode == "tokens" else _difference
    for name, at in _positions(frame.columns):
        text, style = draw(row, at, frame.columns.size(name), frame)
        if at == frame.position:
            text, style = text.ljust(frame.columns.size(name)), style + "@"
        cells[name] = (text, style)
    return assemble(frame.columns, cells)


def grid_fold(folded: Folded, frame: Frame) -> list[Piece]:
    hidden = folded.last - folded.first + 1
    known = f", {frame.glyphs.delta} at most {g.number(folded.kl)}" if folded.kl > 0 else ""
    return [(f"{frame.glyphs.ellipsis}{folded.text}  {hidden} rows{known}", "quiet")]


def _positions(columns: Columns) -> list[tuple[str, int]]:
    return [(name, int(name[1:])) for name in columns.spans if name != "layer"]


def _cell(text: str, mode: str, size: int, frame: Frame) -> str:
    ascii_only = frame.glyphs.ascii_only
    if mode == "tokens":
        return g.cell(text, size - 1, ascii_only)
    return " " + g.cell(text, size - 1, ascii_only).rstrip().rjust(size - 1)  # above numbers flush right


def _token(row: Row, at: int, size: int, frame: Frame) -> Piece:
    """The top token: bright where its probability is over half, quiet below a tenth, orange if changed."""
    if at >= len(row.top_ids) or (token := int(row.top_ids[at])) < 0:
        return "", "text"
    text = g.cell(row.texts.get(token, f"[id {token}]"), size - 1, frame.glyphs.ascii_only)
    if frame.edited and at < len(row.same) and row.same[at] == 0:
        return text, "changed"
    if plain_style(row, frame) == "quiet" or row.top_p[at] < 0.1:
        return text, "quiet"
    return text, "bright" if row.top_p[at] >= 0.5 else "text"


def _difference(row: Row, at: int, size: int, frame: Frame) -> Piece:
    nats = float(row.kls[at]) if at < len(row.kls) else float("nan")
    if nats != nats:
        return "", "text"
    if size > 2:
        return (g.number(nats) if nats > 0 else frame.glyphs.zero).rjust(size), kl_style(nats)
    return (g.column(g.kl_fraction(nats), frame.glyphs) if nats > 0 else frame.glyphs.zero), kl_style(nats)
