"""What the compare screen draws and says: both sides, what differs at the output, a line for every depth, one depth in
full. All text harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from textual.content import Content

from stagescope.engine.protocol import Comparison, Reading
from stagescope.reports.compare import Line, layer_name, mean_over, side_words
from stagescope.screens.sweep_words import CHOSEN, QUIET
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

VIEWS = {"sides": "side by side", "difference": "difference B - A"}
LAYER = 4  # cells of a layer's name, of two in a group: 10+1 is cut
BAR = 10  # cells of a KL
ALONE = "run `stagescope compare --with-model` for KL: one model is loaded here"


def side_line(name: str, reading: Reading, other: Reading, width: int, glyphs: Glyphs) -> Content:
    """A ▸ drop 7 · “The capital” """
    told = fit(side_words(reading, other, glyphs.ascii_only), width - 4, glyphs.ascii_only).rstrip()
    return Content.assemble((f"{name} {glyphs.cursor} ", "bold"), told)


def view_line(view: str, followed: str, width: int, glyphs: Glyphs) -> Content:
    """The views, the drawn one bright, a click chooses; then the token whose rank and p are told."""
    parts = [
        Content.styled(text, CHOSEN if name == view else QUIET).stylize(f"@click=screen.view('{name}')")
        for name, text in VIEWS.items()
    ]
    left = Content("   ").join(parts)
    room = width - left.cell_length - 2
    told = fit(f"rank and p of {glyphs.cursor}{followed}", room, glyphs.ascii_only).rstrip() if room > 20 else ""
    return Content.assemble(left, " " * (width - left.cell_length - cell_len(told)), (told, QUIET))


def followed(found: Comparison, at: int, glyphs: Glyphs) -> str:
    token = int(found.a.tracked[at])
    return visible(found.a.texts.get(token, f"[id {token}]"), glyphs.ascii_only)


def effect(found: Comparison, at: int, glyphs: Glyphs) -> list[str]:
    """output · KL here 1.30, mean 1.20, median .900 · ΔH here +.40 · top-1 alike 9/10"""
    over, kl, same = mean_over(found), found.effect_kl_nats, found.effect_top1_same
    told = ["output"]
    if not math.isnan(kl[at]):
        values = {"here": kl[at], **({"mean": kl[over].mean(), "median": np.median(kl[over])} if over else {})}
        told.append("KL " + ", ".join(f"{name} {g.number(float(value))}" for name, value in values.items()))
    if bits := g.signed(float(found.effect_entropy_bits[at])):
        told.append(f"{glyphs.delta}H here {bits}")
    if over and not np.isnan(same[over]).any():
        told.append(f"top-1 alike {int(same[over].sum())}/{len(over)}")
    return told if told[1:] else ["no number of the output"]


# -------------------------------------------------------------------------------------------- the table


def heading(view: str, width: int, glyphs: Glyphs) -> Content:
    """Above `row`, of the same cells."""
    layers = f" {'A':>{LAYER}} {'B':>{LAYER}}  "
    if view == "difference":
        rest = f"{'KL A||B':<{BAR + 5}}  cos  |B-A|   {glyphs.delta}H    {glyphs.delta}|x|  "
        rest += f"{'p A':>4}{glyphs.arrow}{'B':<4}  rank A{glyphs.arrow}B"
    else:
        room = _room(width)
        numbers = f"{'H':>4} {'rank':>4}"
        rest = f"{'top tokens of A':<{room}}  {numbers}  {'KL':>4} {'cos':>4}  {numbers}  top tokens of B"
    return Content.styled(fit(layers + rest, width, glyphs.ascii_only), QUIET)


def row(found: Comparison, line: Line, view: str, at: int, width: int, mark: str, glyphs: Glyphs) -> Content:
    """One line of the table; both sides at one position."""
    sides = ((found.a, line.a), (found.b, line.b))
    names = [fit(layer_name(*side), LAYER, glyphs.ascii_only).rstrip().rjust(LAYER) for side in sides]
    start = f"{mark}{names[0]} {names[1]}  "
    rest = _difference(found, line, at, glyphs) if view == "difference" else _beside(found, line, at, width, glyphs)
    text = Content(fit(start + rest, width, glyphs.ascii_only))
    return text.stylize(QUIET) if line.pair is None else text


def _room(width: int) -> int:
    """Cells of the top tokens of one side."""
    return max((width - 2 * LAYER - 39) // 2, 8)


def _beside(found: Comparison, line: Line, at: int, width: int, glyphs: Glyphs) -> str:
    """the .18 .07   6.6   43  5.0  .50  4.6    1  ·Paris .387"""
    tops, numbers = [], []
    for reading, depth in ((found.a, line.a), (found.b, line.b)):
        tops.append(_tops(reading, depth, at, _room(width), glyphs))
        bits, rank = _of(reading, "entropy_bits", depth, at), _of(reading, "tracked_rank", depth, at)
        numbers.append(f"{g.number(bits):>4} {g.rank(rank):>4}")
    kl, cos = _pair(found, "kl_nats", line, at), _pair(found, "resid_cos", line, at)
    return f"{tops[0]}  {numbers[0]}  {g.number(kl):>4} {_cosine(cos):>4}  {numbers[1]}  {tops[1]}"


def _difference(found: Comparison, line: Line, at: int, glyphs: Glyphs) -> str:
    """━━━━━━━  5.02  .50   1.1  -2.0  +3.1   .003→.387   43→1"""
    kl, cos, rel = (_pair(found, name, line, at) for name in ("kl_nats", "resid_cos", "resid_rel"))

    def both(name: str) -> list[float]:
        return [_of(found.a, name, line.a, at), _of(found.b, name, line.b, at)]

    def change(name: str) -> str:
        before, after = both(name)
        return g.signed(after - before) if line.pair is not None else ""

    bar = g.bar(g.kl_fraction(kl), BAR, glyphs)
    p, ranks = (f"{was or ' '}{glyphs.arrow}{now}" if was or now else "" for was, now in (
        map(g.probability, both("tracked_p")), map(g.rank, both("tracked_rank"))
    ))  # fmt: skip
    told = f"{bar} {g.number(kl):>4} {_cosine(cos):>4}  {g.number(rel):>4}  {change('entropy_bits'):>5}"
    return f"{told}  {change('resid_norm'):>6}  {p:>9}  {ranks}"


def _tops(reading: Reading, depth: int | None, at: int, room: int, glyphs: Glyphs) -> str:
    """Whole tokens with their p in exactly `room` cells; a first one that is too long is cut."""
    if depth is None:
        return " " * room
    told = ""
    for token, p in zip(reading.top_ids[depth, at], reading.top_p[depth, at], strict=True):
        one = f"{visible(reading.texts.get(int(token), ''), glyphs.ascii_only)} {g.probability(float(p))}"
        if token < 0 or (told and cell_len(told) + 2 + cell_len(one) > room):
            break
        told += ("  " if told else "") + one
    return fit(told, room, glyphs.ascii_only)


def _of(reading: Reading, name: str, depth: int | None, at: int) -> float:
    return math.nan if depth is None else float(getattr(reading, name)[depth, at])


def _pair(found: Comparison, name: str, line: Line, at: int) -> float:
    if line.pair is None:
        return math.nan
    value = float(getattr(found, name)[line.pair, at])
    return max(value, 0.0) if name == "kl_nats" and value == value else value  # rounding has either sign


def _cosine(value: float) -> str:
    """1.00 .98 -.12"""
    if math.isnan(value):
        return ""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


# ------------------------------------------------------------------------------------------- one in full


def point(found: Comparison, line: Line, at: int, glyphs: Glyphs) -> list[str]:
    """A after layer 12, B after layer 11 · other layers have run: not compared · H 1.5→2.5 bits · ... (A→B)"""
    sides = [("A", found.a, line.a), ("B", found.b, line.b)]
    places = [_after(reading, depth) for _, reading, depth in sides]
    told = [f"both {places[0]}" if places[0] == places[1] else f"A {places[0]}, B {places[1]}"]
    if line.pair is None:
        told.append("not compared: other layers have run")
    else:
        measured = {"KL": "kl_nats", "cos": "resid_cos", "distance": "resid_rel"}
        values = {name: _pair(found, array, line, at) for name, array in measured.items()}
        told += [f"{name} {g.number(value)}" for name, value in values.items() if value == value]
        if (same := _pair(found, "top1_same", line, at)) == same:
            told.append("same top-1" if same else "another top-1")
    named = {"H": ("entropy_bits", g.number), "rank": ("tracked_rank", g.rank), "p": ("tracked_p", g.probability)}
    named |= {name: (f"{name}_norm", g.number) for name in ("attn", "mlp")}
    for name, (array, spelled) in named.items():
        was, now = (spelled(_of(reading, array, depth, at)) for _, reading, depth in sides)
        if was or now:
            told.append(f"{name} {was or glyphs.zero}{glyphs.arrow}{now or glyphs.zero}")
    return told


def _after(reading: Reading, depth: int | None) -> str:
    if depth is None:
        return "has no such depth"
    layers = layer_name(reading, depth)
    return "at the embedding" if layers == "e" else f"after layer{'s' if '+' in layers else ''} {layers}"


def kept(schedule: str, room: int, ascii_only: bool) -> str:
    """A: drop 7"""
    return fit(f"A: {printable(schedule) or 'baseline'}", room, ascii_only).rstrip()


def shown(lines: Sequence[Line], cursor: int, room: int) -> range:
    """Which lines are drawn, the last depth on top: `room` of them about the cursor. Rows count from the embedding."""
    first = min(max(cursor - room // 2, 0), max(len(lines) - room, 0))
    return range(min(first + room, len(lines)) - 1, first - 1, -1)
