"""How a line of the stack is laid out and drawn: columns by width, then pieces of text with style names.

Every changed cell travels over ssh, and a style change costs 24 bytes in 256 colours: pieces of equal style
join, blanks take the style before them, and a line has about eight styles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from stagescope.engine.tokens import Token
from stagescope.screens.rows import Folded, Row, Top
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs

Piece = tuple[str, str]  # text, style name
STYLES = ("text", "bright", "quiet", "faint", "head", "spark", "edit", "changed", "was", "kl0", "kl1", "kl2",
          "kl3")  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Where things stand on a line: name -> (start, end) in cells, in the order of drawing."""

    width: int
    spans: dict[str, tuple[int, int]]
    minimap: bool = False

    def at(self, x: int) -> str | None:
        return next((name for name, (start, end) in self.spans.items() if start <= x < end), None)

    def size(self, name: str) -> int:
        start, end = self.spans.get(name, (0, 0))
        return end - start

    def count(self, kind: str) -> int:
        return sum(name.startswith(kind) for name in self.spans)


BAND_FROM = 100  # cells of a terminal that can spare two for the stages

# What widening brings, one after the other while room remains; narrowing takes it away from the end. Names
# are the sizes of `_spans`. At 80 columns: was 1, now 2, no sparkline; at 120 all columns.
_WIDER = (
    ("was", 1), ("now", 2), ("band", 1), ("spark", 8), ("counts", 7), ("ratio", 4), ("bar", 6), ("spark", 12),
    ("token", 8), ("now", 3), ("was", 2), ("spark", 16), ("token", 10), ("now", 4), ("was", 3),
    ("bar", 10), ("spark", 32), ("now", 5), ("was", 4), ("token", 12), ("now", 6), ("was", 5),
)  # fmt: skip


def columns(width: int, *, label: int, marks: int, n_tokens: int, counts: bool, minimap: bool) -> Columns:
    """The columns that fit `width` cells. label, marks: cells of the widest; n_tokens caps sparklines."""
    room = width - 2 * minimap
    sizes = {"label": label, "marks": marks, "band": 0, "bar": 4, "ratio": 1, "spark": 0, "counts": 0, "now": 1,
             "was": 0, "token": 6}  # fmt: skip
    for name, size in _WIDER:
        if (name == "counts" and not counts) or (name == "band" and width < BAND_FROM):
            continue
        size = min(size, n_tokens) if name == "spark" else size
        wider = sizes | {name: max(size, sizes[name])}
        if _end(_spans(wider)) <= room:
            sizes = wider
    while sizes["token"] < 16 and _end(_spans(wider := sizes | {"token": sizes["token"] + 1})) <= room:
        sizes = wider
    spans = {name: (min(start, room), min(end, room)) for name, (start, end) in _spans(sizes).items()}
    return Columns(width, spans, minimap)


def _spans(sizes: dict[str, int]) -> dict[str, tuple[int, int]]:
    """name -> (start, end) for those sizes, gaps between them."""
    token = sizes["token"] + 5  # text, space, probability
    placed = [  # name, cells, gap before
        ("layer", 1 + sizes["label"] + 2 + sizes["marks"], 0),
        ("band", sizes["band"], 1),
        ("kl", sizes["bar"] + 5, 1),
        ("attn", sizes["ratio"], 2),
        ("mlp", sizes["ratio"], 1),
        ("entropy", 4, 1 if sizes["ratio"] == 1 else 2),
        ("spark", sizes["spark"], 1),
        ("counts", sizes["counts"], 2),
        ("rank", 9, 2),
        *((f"now{i}", token + (i == 0), 1) for i in range(sizes["now"])),  # the first with an echo mark
        *((f"was{i}", token, 2 if i == 0 else 1) for i in range(sizes["was"])),
    ]
    spans, x = {}, 0
    for name, cells, gap in placed:
        if cells:
            spans[name] = (x + gap, x + gap + cells)
            x += gap + cells
    return spans


def _end(spans: dict[str, tuple[int, int]]) -> int:
    return max(end for _, end in spans.values())


# ---------------------------------------------------------------------------------------------- the stack


@dataclass(frozen=True)
class Frame:
    """What all lines of one painting share."""

    columns: Columns
    glyphs: Glyphs
    label: int  # cells of the widest label
    tokens: tuple[Token, ...]
    position: int
    edited: bool  # rows that are as in the baseline are quiet
    highest: float = 1.0  # bits at the top of the sparklines
    column: str = "norms"  # what the columns of attention and MLP show: "norms", "direct" effects or their "change"
    largest: float = 0.0  # logits: the largest of those


def header(frame: Frame, rows: Sequence[Row]) -> list[Piece]:
    columns, glyphs = frame.columns, frame.glyphs
    tracked = next((row.tracked for row in reversed(rows) if row.tracked), "")
    unsigned = any(len(row.counts) == 1 for row in rows)
    names = {
        "layer": "lay".rjust(1 + frame.label),
        "band": "s",
        "kl": f"{glyphs.delta} vs base" + (", nats" if columns.size("kl") >= 15 else ""),
        **_sublayer_headings(frame),
        "entropy": "   H",
        "spark": _spark_header(frame),
        "counts": "hi-kurt" if unsigned else "sup/pre",
        "rank": glyphs.cursor + g.cell(tracked, 8, glyphs.ascii_only) if tracked else "rank",
        "now0": (" now (edited)" if columns.size("now0") > 12 else " now") if frame.edited else " top tokens",
        "was0": ("was (baseline)" if columns.size("was0") > 13 else "was") if frame.edited else "",
    }
    return assemble(columns, {name: (text, "head") for name, text in names.items() if columns.size(name)})


def row_line(row: Row, frame: Frame, cursor: bool) -> list[Piece]:
    columns, glyphs = frame.columns, frame.glyphs
    cells = {"layer": layer_cell(row, frame, cursor)}
    if row.layers and columns.size("band"):
        cells["band"] = (glyphs.hatch if row.stage is None else str(row.stage + 1), plain_style(row, frame))
    if row.depth is None:
        word, end = f"{glyphs.rule * 2} dropped ", columns.spans["mlp"][1]
        cells["kl"] = (word.ljust(end - columns.spans["kl"][0], glyphs.rule), "edit")
        return assemble(columns, cells)

    plain = plain_style(row, frame)
    if row.kl == row.kl:
        cells["kl"] = _kl(row.kl, columns.size("kl") - 5, glyphs)
    if frame.column == "norms":
        cells["attn"] = (_ratio(row.attn, columns.size("attn"), glyphs), plain)
        cells["mlp"] = (_ratio(row.mlp, columns.size("mlp"), glyphs), plain)
    else:
        attn, mlp = row.direct
        cells["attn"] = _direct(attn, columns.size("attn"), plain, frame)
        cells["mlp"] = _direct(mlp, columns.size("mlp"), plain, frame)
    cells["entropy"] = (f"{row.entropy:4.1f}" if row.entropy == row.entropy else "", plain)
    if columns.size("spark") and row.layers:  # depth 0 echoes the input: off the scale
        start, end = window(len(row.entropies), columns.size("spark"), frame.position)
        cells["spark"] = (g.sparkline(row.entropies[start:end], 0, frame.highest, glyphs),
                          "spark" if plain == "text" else "faint")
    if row.counts and columns.size("counts"):
        cells["counts"] = ("/".join(map(str, row.counts)).rjust(7), plain)
    cells["rank"] = (_ranks(row, glyphs), plain)

    drawn = drawn_tokens(row, frame)
    differs = frame.edited and bool(row.was) and row.top[:1] != () and row.was[0].id != row.top[0].id
    first = plain if plain == "quiet" else "changed" if differs else "bright"
    for name, top in drawn.items():
        echo = "=" if row.echo else " "
        text = _top(top, columns.size(name) - (name == "now0"), glyphs)
        if name == "now0":
            cells[name] = (echo + text, first)
        else:
            cells[name] = (text, "was" if frame.edited and name[:3] == "was" else plain)
    return assemble(columns, cells)


def drawn_tokens(row: Row, frame: Frame) -> dict[str, Top]:
    """Column name -> the token drawn there. Without an edit the first list runs on in place of the second."""
    n_now = frame.columns.count("now")
    was = row.top[n_now:] if not frame.edited else row.was if plain_style(row, frame) == "text" else ()
    now = {f"now{i}": top for i, top in enumerate(row.top[:n_now])}
    return now | {f"was{i}": top for i, top in enumerate(was[: frame.columns.count("was")])}


def fold_line(folded: Folded, frame: Frame) -> list[Piece]:
    columns, glyphs = frame.columns, frame.glyphs
    cells: dict[str, Piece] = {"layer": (glyphs.ellipsis + folded.text, "quiet")}
    if "attn" not in columns.spans:
        return assemble(columns, cells)
    hidden = folded.last - folded.first + 1
    if folded.kl == folded.kl and folded.changed:
        cells["kl"] = _kl(folded.kl, columns.size("kl") - 5, glyphs)
        cells["attn"] = (f"max of {hidden} rows", "quiet")
    else:
        same = " as in the baseline" if frame.edited and not folded.changed else ""
        cells["attn"] = (f"{hidden} rows{same}", "quiet")
    return assemble(columns, cells)


def layer_cell(row: Row, frame: Frame, cursor: bool) -> Piece:
    """Cursor, label, state, marks: `▸12 ■#2`."""
    glyphs = frame.glyphs
    states = {"dropped": glyphs.off, "off": glyphs.off, "attn off": glyphs.no_attn, "mlp off": glyphs.no_mlp}
    runs = glyphs.part if row.heads or row.neurons else glyphs.run
    state = " " if row.state == "embedding" else states.get(row.state, runs)
    text = f"{glyphs.cursor if cursor else ' '}{row.label:>{frame.label}} {state}{marks(row, glyphs)}"
    return text, "edit" if row.edited else plain_style(row, frame)


def marks(row: Row, glyphs: Glyphs) -> str:
    """Moved, copy number, heads off, neurons off, at some positions only, mean instead of zero."""
    copy = f"#{row.copy}" if row.copy else ""
    parts = "h" * bool(row.heads) + "n" * bool(row.neurons)
    return glyphs.moved * row.moved + copy + parts + "@" * row.partial + glyphs.mean * row.mean


def plain_style(row: Row, frame: Frame) -> str:
    return "quiet" if frame.edited and not row.changed and not row.edited else "text"


def kl_style(nats: float) -> str:
    """Blue below .01, pale below .1, then orange, then yellow: near the baseline or far from it, ever lighter."""
    if not nats > 0:
        return "quiet"
    return "kl0" if nats < 0.01 else "kl1" if nats < 0.1 else "kl2" if nats < 1 else "kl3"


def window(n: int, cells: int, position: int) -> tuple[int, int]:
    """Which `cells` of n positions are shown: `position` in the middle where more are on both sides."""
    start = max(min(position - cells // 2, n - cells), 0)
    return start, min(start + cells, n)


def _spark_header(frame: Frame) -> str:
    """A mark above the chosen position, and the unit on the side that has room."""
    start, end = window(len(frame.tokens), frame.columns.size("spark"), frame.position)
    here = min(max(frame.position - start, 0), max(end - start - 1, 0))
    left = "bits" if here > 4 else ""
    right = "" if left or end - start < here + 6 else " bits"
    return left.ljust(here) + frame.glyphs.here + right


def _kl(nats: float, length: int, glyphs: Glyphs) -> Piece:
    if nats == 0:
        return glyphs.zero, "quiet"
    return f"{g.bar(g.kl_fraction(nats), length, glyphs)} {g.number(nats):>4}", kl_style(nats)


def _ratio(value: float, size: int, glyphs: Glyphs) -> str:
    """The norm of a contribution over the norm of what it is added to, .01 to 3 on a log axis."""
    bar = g.column(g.log_fraction(value, 0.01, 3.0), glyphs) if value else glyphs.zero
    return bar + (f"{g.ratio(value, glyphs):>3}" if size > 1 and value else "")


def _sublayer_headings(frame: Frame) -> dict[str, str]:
    """attn mlp; of direct effects ±att ±mlp, of their change Δatt Δmlp; in single cells a m, a±m, aΔm."""
    glyphs, wide = frame.glyphs, frame.columns.size("attn") > 1
    if frame.column == "norms":
        return {"attn": "attn", "mlp": " mlp"} if wide else {"attn": "a", "mlp": "m"}
    mark = glyphs.plus_minus if frame.column == "direct" else glyphs.delta
    return {"attn": f"{mark}att", "mlp": f"{mark}mlp"} if wide else {"attn": f"a{mark}m", "mlp": ""}


def _direct(value: float, size: int, plain: str, frame: Frame) -> Piece:
    """Logits: the sign is told by a glyph or by + and -, and by colour; a trifle and a quiet row have no colour."""
    tilt, number = g.tilt(value, frame.largest, frame.glyphs), g.logits(value)
    text = (frame.glyphs.zero if number == "0" else number).rjust(size) if size > 1 else tilt
    trifle = tilt in (" ", frame.glyphs.zero)
    return text, plain if trifle or plain == "quiet" else "was" if value > 0 else "changed"


def _ranks(row: Row, glyphs: Glyphs) -> str:
    """`1→42`, the arrows below each other; one number where nothing changed or nothing is to compare with."""
    now = g.rank(row.rank)
    if row.rank_was != row.rank_was or row.rank_was == row.rank or not now:
        return "     " + now
    return f"{g.rank(row.rank_was):>4}{glyphs.arrow}{now}"


def _top(top: Top, size: int, glyphs: Glyphs) -> str:
    return f"{g.cell(top.text, size - 5, glyphs.ascii_only)} {g.probability(top.p):>4}"


def highlighted(columns: Columns) -> int:
    """Cells highlighted in the cursor's line: up to the top token, as a move sends all of them twice."""
    return columns.spans.get("now0", (0, columns.width))[1] + 1


# ------------------------------------------------------------------------------------------- pieces to strips


def assemble(columns: Columns, cells: dict[str, Piece]) -> list[Piece]:
    """Pieces at their columns' starts, blanks between. A text may run over empty columns to its right."""
    pieces, x = [], 0
    for name, (start, _) in columns.spans.items():
        text, style = cells.get(name, ("", ""))
        if text and start >= x:
            pieces += [(" " * (start - x), ""), (text, style)]
            x = start + cell_len(text)
    return pieces


def to_strip(pieces: Iterable[Piece], styles: dict[str, Style], width: int, highlight: int = 0) -> Strip:
    """Exactly `width` cells, pieces that start before cell `highlight` highlighted.

    Style names may end in "@": highlighted too. Blanks take the style before them.
    """
    joined: list[list[str]] = []
    x = 0
    for text, style in (*pieces, (" " * width, "")):
        lit = style.endswith("@") or x < highlight
        style = style.rstrip("@") or ("" if text.strip() or not joined else joined[-1][1].rstrip("@"))
        name = (style or "text") + "@" * lit
        if joined and joined[-1][1] == name:
            joined[-1][0] += text
        elif text:
            joined.append([text, name])
        x += cell_len(text)
    return Strip([Segment(text, styles[name]) for text, name in joined], x).crop(0, width)


def changed_width(old: Strip, new: Strip) -> int:
    """Cells from the left up to the last one that differs: what is right of it need not be sent again.

    Nor need what is left of the first, but Textual sends a widget's line from its left edge whatever part is asked for.
    """
    same = 0
    for before, after in zip(reversed(old), reversed(new), strict=False):
        if before != after:
            break
        same += before.cell_length
    return new.cell_length - same


def minimap(rows: Sequence[Row], height: int, y: int, glyphs: Glyphs) -> Piece:
    """Cell y of a map of all rows (top first, as on screen) in `height` cells, by their largest difference."""
    part = rows[y * len(rows) // height : max((y + 1) * len(rows) // height, y * len(rows) // height + 1)]
    if any(row.depth is None for row in part):
        return glyphs.off, "edit"
    largest = max((row.kl for row in part if row.kl == row.kl), default=math.nan)
    return g.shade(g.kl_fraction(largest), glyphs), kl_style(largest)
