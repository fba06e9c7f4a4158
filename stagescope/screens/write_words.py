"""What the write screen draws and says: both texts, a line for every step, one step in full. All text harmless."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

from textual.content import Content

from stagescope.engine.protocol import Generate, Generation
from stagescope.reports.generation import cell, ending, flowing, folded, mean
from stagescope.screens.sweep_words import QUIET
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable

SIDES = ("baseline", "edit")
TOKEN = 8, 28  # cells of a token in the table: fewest, and most
START = 6  # cells of cursor and step
NUMBERS = 27  # cells of the numbers of a side and of what keeps it from the next
PARTED = "bold"
SETTINGS = {"temperature": float, "top-k": int, "top-p": float, "seed": int, "tokens": int}


# ----------------------------------------------------------------------------------------------- sampling


def settings(asked: Generate) -> str:
    """As `with_settings` reads it: temperature 0.8, top-k 50, seed 1, tokens 60"""
    values = {"temperature": asked.temperature, "top-k": asked.top_k, "top-p": asked.top_p, "seed": asked.seed}
    told = [f"{name} {value:g}" for name, value in values.items() if value is not None] if asked.temperature else ["greedy"]
    return ", ".join([*told, f"tokens {asked.tokens}"])


def with_settings(asked: Generate, text: str) -> Generate:
    """What a line of settings says, in any order; what it leaves out is as at first. Raises ValueError with a sentence."""
    found: dict[str, float | int] = {}
    for part in filter(None, (part.strip().lower() for part in text.split(","))):
        name, _, value = part.replace("=", " ").partition(" ")
        if name == "greedy" and not value.strip():
            name, value = "temperature", "0"
        if name not in SETTINGS:
            raise ValueError(f"“{printable(part)[:30]}” is no setting: there is greedy, {', '.join(SETTINGS)}")
        try:
            found[name] = SETTINGS[name](value)
        except ValueError:
            kind = "a whole number" if SETTINGS[name] is int else "a number"
            raise ValueError(f"{name} takes {kind}, not “{printable(value.strip())[:30]}”") from None
    default = Generate(asked.prompt, asked.schedules)
    return replace(default, **{name.replace("-", "_"): value for name, value in found.items()})


# -------------------------------------------------------------------------------------------- both texts


def text_window(found: Generation, side: int, step: int, width: int, lines: int, chosen: bool, glyphs: Glyphs) -> Content:
    """A text in `lines` lines of `width` cells that hold the step, which stands out where its side is chosen. From where it
    parts from the other it is bold."""
    flowed = [flowing(piece, glyphs.ascii_only) for piece in found.pieces[side]]
    starts = [0, *accumulate(map(len, flowed))]  # of each piece, in characters
    parted, here = found.parts_at(len(found.schedules) - 1), min(step, len(flowed) - 1)
    rows, at, line_of_step = [], 0, 0
    for row in folded("".join(flowed), width):
        line = Content(row)
        if parted is not None and parted < len(starts):
            line = line.stylize(PARTED, max(starts[parted] - at, 0))
        if here >= 0:
            first, end = starts[here] - at, starts[here + 1] - at
            if chosen and here == step and end > 0:
                line = line.stylize("reverse", max(first, 0), end)
            line_of_step = len(rows) if first >= 0 and first < len(row) else line_of_step
        rows.append(line)
        at += len(row)
    rows[-1] = Content.assemble(rows[-1], (ending(found, side), QUIET))
    first = max(min(line_of_step - lines // 2, len(rows) - lines), 0)
    return Content("\n").join(rows[first : first + lines])


# --------------------------------------------------------------------------------------------- the table


def token_room(n_sides: int, width: int) -> int:
    return min(max((width - START + 2 - NUMBERS * n_sides) // n_sides, TOKEN[0]), TOKEN[1])


def heading(found: Generation, width: int, glyphs: Glyphs) -> Content:
    """Above `row`, of the same cells."""
    room, n = token_room(len(found.schedules), width), len(found.schedules)
    others = ("p edit", "p base") if n > 1 else ("",)
    sides = [f"{fit(SIDES[side], room)} {'p':>4}  {'H':>4}  {'KL' if n > 1 else '':>4}  {other:>6}" for side, other in enumerate(others)]
    return Content.styled(fit(f" step {'  '.join(sides)}", width, glyphs.ascii_only), QUIET)


def row(found: Generation, step: int, side: int, is_here: bool, width: int, glyphs: Glyphs) -> Content:
    """One step: both tokens, with p, entropy, KL, and what the other run gives the token."""
    parts: list[tuple[str, str]] = [(f"{glyphs.cursor if is_here else ' '}{step:>4} ", "")]
    room = token_room(len(found.schedules), width)
    for text in range(len(found.schedules)):
        of = cell(found, text, step, glyphs.ascii_only)
        style = "reverse" if is_here and text == side and of.token else PARTED if of.parted else ""
        parts.append((fit(of.token, room, glyphs.ascii_only), style))
        numbers = (g.probability(of.p), g.number(of.entropy_bits), g.number(of.kl_nats), g.probability(of.other_p))
        parts.append((" {:>4}  {:>4}  {:>4}  {:>6}  ".format(*numbers), ""))
    return Content.assemble(*parts).truncate(width, pad=True)


def side_at(x: int, found: Generation, width: int) -> int:
    """Which side of a row a cell belongs to."""
    n = len(found.schedules)
    return int(n > 1 and x >= START + token_room(n, width) + NUMBERS)


def summary(found: Generation, glyphs: Glyphs) -> list[str]:
    """parts at step 3 · KL mean 2.61 over the edit's text, 2.17 over the baseline's"""
    if len(found.schedules) == 1:
        return ["the baseline alone: an edit writes beside it"]
    at, n = found.parts_at(1), found.length(1)
    if found.notes:
        return [f"{SIDES[text]}: {printable(note)}" for text, note in found.notes.items()]
    so_far = "" if found.complete else " so far"
    told = [f"parts at step {at}" if at is not None else f"word for word the baseline's{so_far}"]
    if n:
        kl, forced = g.number(mean(found.kl_nats[1])), g.number(mean(found.forced_kl_nats[1]))
        told.append(f"KL mean {kl} over the edit's text, {forced} over the baseline's")
    return told


def point(found: Generation, side: int, step: int, glyphs: Glyphs) -> list[str]:
    """One step of one text in full."""
    of = cell(found, side, step, glyphs.ascii_only)
    if math.isnan(of.p):
        return [f"step {step}", f"{SIDES[side]} {of.token or 'not written yet'}"]
    told = [f"step {step}", f"{SIDES[side]} {of.token} p {g.probability(of.p)}"]
    if not math.isnan(of.other_p):
        told.append(f"p {g.probability(of.other_p)} by the {SIDES[1 - side]}")
    told.append(f"H {g.number(of.entropy_bits)} bits")
    return told + ([] if math.isnan(of.kl_nats) else [f"KL {g.number(of.kl_nats)} nats"])
