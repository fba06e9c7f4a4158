"""What the write screen draws and says: both texts, a line for every step, one step in full. All text harmless."""

from __future__ import annotations

import re
from dataclasses import replace

from rich.cells import cell_len
from textual.content import Content

from stagescope.engine.protocol import Generate, Generation
from stagescope.reports.generation import flowing, mean
from stagescope.screens.sweep_words import QUIET
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

SIDES = ("baseline", "edit")
TOKEN = 8, 28  # cells of a token in the table: fewest, and most
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
    return replace(default, **{re.sub("-", "_", name): value for name, value in found.items()})


# -------------------------------------------------------------------------------------------- both texts


def text_lines(found: Generation, side: int, step: int, width: int, lines: int, chosen: bool, glyphs: Glyphs) -> Content:
    """A text in `lines` lines of `width` cells that hold the step, which stands out where its side is chosen. From where it
    parts from the other it is bold."""
    parted = found.parts_at(len(found.schedules) - 1)
    rows: list[list[tuple[str, str]]] = [[]]
    used, here = 0, 0
    for index, piece in enumerate(found.pieces[side]):
        style = PARTED if parted is not None and index >= parted else ""
        style = f"{style} reverse".strip() if chosen and index == step else style
        for character in flowing(piece, glyphs.ascii_only):
            cells = cell_len(character)
            if used + cells > width:
                rows.append([])
                used = 0
            rows[-1].append((character, style))
            used += cells
        here = len(rows) - 1 if index <= step else here
    if found.ended[side]:
        rows[-1].append((" (ended)", QUIET))
    first = max(min(here - lines // 2, len(rows) - lines), 0)
    return Content("\n").join(Content.assemble(*row) for row in rows[first : first + lines])


# --------------------------------------------------------------------------------------------- the table


def token_room(n_sides: int, width: int) -> int:
    return min(max((width - 4 - NUMBERS * n_sides) // n_sides, TOKEN[0]), TOKEN[1])


def heading(found: Generation, width: int, glyphs: Glyphs) -> Content:
    """Above `row`, of the same cells."""
    room, n = token_room(len(found.schedules), width), len(found.schedules)
    others = ("p edit", "p base") if n > 1 else ("",)
    sides = [f"{fit(SIDES[side], room)} {'p':>4}  {'H':>4}  {'KL' if n > 1 else '':>4}  {other:>6}" for side, other in enumerate(others)]
    return Content.styled(fit(f" step {'  '.join(sides)}", width, glyphs.ascii_only), QUIET)


def row(found: Generation, step: int, side: int, is_here: bool, width: int, glyphs: Glyphs) -> Content:
    """One step: both tokens, with p, entropy, KL, and what the other run gives the token."""
    parts: list[tuple[str, str]] = [(f"{glyphs.cursor if is_here else ' '}{step:>4} ", "")]
    room, last = token_room(len(found.schedules), width), len(found.schedules) - 1
    at = found.parts_at(last)
    for text in range(len(found.schedules)):
        token = int(found.ids[text, step])
        shown = visible(found.texts[token], glyphs.ascii_only) if token >= 0 else "ended" if step == found.length(text) else ""
        kl, other = _beside(found, text, step)
        numbers = [g.probability(float(found.p[text, step])), g.number(float(found.entropy_bits[text, step])), g.number(kl)]
        style = "reverse" if is_here and text == side and shown else PARTED if at is not None and step >= at else ""
        parts.append((fit(shown, room, glyphs.ascii_only), style))
        parts.append((f" {numbers[0]:>4}  {numbers[1]:>4}  {numbers[2]:>4}  {g.probability(other):>6}  ", ""))
    line = Content.assemble(*parts)
    return line.truncate(width, pad=True)


def _beside(found: Generation, text: int, step: int) -> tuple[float, float]:
    """KL of a side at a step, and what the other run gives its token."""
    if len(found.schedules) == 1:
        return float("nan"), float("nan")
    if text == 0:
        return float(found.forced_kl_nats[1, step]), float(found.forced_p[1, step])
    return float(found.kl_nats[1, step]), float(found.base_p[1, step])


def summary(found: Generation, glyphs: Glyphs) -> list[str]:
    """parts at step 3 · KL mean 2.61 over the edit's text, 2.17 over the baseline's"""
    if len(found.schedules) == 1:
        return ["the baseline alone: an edit writes beside it"]
    at, n = found.parts_at(1), found.length(1)
    so_far = "" if found.complete else " so far"
    told = [f"parts at step {at}" if at is not None else f"word for word the baseline's{so_far}"]
    if n:
        kl, forced = g.number(mean(found.kl_nats[1])), g.number(mean(found.forced_kl_nats[1]))
        told.append(f"KL mean {kl} over the edit's text, {forced} over the baseline's")
    return told


def point(found: Generation, side: int, step: int, glyphs: Glyphs) -> list[str]:
    """One step of one text in full."""
    token = int(found.ids[side, step])
    if token < 0:
        return [f"step {step}", f"{SIDES[side]} ended"]
    told = [f"step {step}", f"{SIDES[side]} {visible(found.texts[token], glyphs.ascii_only)} p {g.probability(float(found.p[side, step]))}"]
    kl, other = _beside(found, side, step)
    if other == other:
        told.append(f"p {g.probability(other)} by the {SIDES[1 - side]}")
    told.append(f"H {g.number(float(found.entropy_bits[side, step]))} bits")
    told += [f"KL {g.number(kl)} nats"] if kl == kl else []
    return told
