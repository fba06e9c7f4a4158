"""What the heads screen draws and says: the ranked table, layers x heads as shades, where one head looks.

All text harmless. No meaning rests on hue: scores and weights are shades, bars and numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.content import Content

from stagescope.engine.protocol import PIECES, HeadPattern, HeadScores
from stagescope.evidence_report import weigh
from stagescope.heads_report import STEPS, confirmed, examples, few_words, over_words
from stagescope.screens import attention_words
from stagescope.screens.attention_words import NUMBERS, SHADES, Window
from stagescope.screens.neurons_words import HEAD
from stagescope.screens.sweep_words import CHOSEN, QUIET
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

VIEWS = {"score": "by score", "layers": "layers x heads"}
SCORES = (0.05, 0.1, 0.25, 0.5)  # where the next shade of the grid begins
SHADED = "rgb(230,159,0)"
NAME, SCORE, INTERVAL, HELD = 6, 6, 11, 8  # cells of the table's columns
TWO_MORE, ALL = 96, 124  # cells of the screen from which joined and control stand there too; the held-out interval
TOKEN = 14  # cells of a token beside its row: most
MANY_HEADS = 24  # heads from which a grid has two cells each, not three
LEAST_GRID = 26  # cells


# --------------------------------------------------------------------------------------------------- lines


def text_line(scores: HeadScores | None, pieces: int, refused: str, width: int, glyphs: Glyphs) -> Content:
    """ "text ▸ the standard text · 120 words of 3 tokens searched, 60 held out" """
    if scores is None and refused:
        return Content(fit(f"no scores: {refused}", width, glyphs.ascii_only))
    if scores is None:
        return attention_words.text_line("text", "the standard text", f"words of {pieces} tokens", width, glyphs)
    told = few_words(scores).partition(":")[0] or over_words(scores)
    return attention_words.text_line("text", scores.source, told, width, glyphs)


def view_line(view: str, pieces: int, width: int, glyphs: Glyphs) -> Content:
    """Views, then how many pieces a word has; a click chooses."""

    def choice(text: str, chosen: bool, does: str) -> Content:
        told = f"{glyphs.cursor}{text}" if chosen else text
        return Content.styled(told, CHOSEN if chosen else QUIET).stylize(f"@click=screen.{does}")

    left = Content("   ").join(choice(VIEWS[one], one == view, f"view('{one}')") for one in VIEWS)
    numbers = Content("  ").join(choice(str(n), n == pieces, f"pieces({n})") for n in PIECES)
    right = Content.assemble(("tokens of a word  ", QUIET), numbers)
    return Content.assemble(left, " " * max(width - left.cell_length - right.cell_length, 2), right)


def decimals(value: float, places: int = 3) -> str:
    """.612 -.012 1.000; -.00 is just below 0; "" for NaN."""
    text = "" if math.isnan(value) else f"{value:.{places}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def interval(low: float, high: float) -> str:
    """[.56 .66]; "" where there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{decimals(low, 2)} {decimals(high, 2)}]"


# --------------------------------------------------------------------------------------------------- table


def table_width(width: int) -> int:
    """Of a screen of `width` cells."""
    columns = [NAME, SCORE, INTERVAL, HELD]
    columns += [SCORE, SCORE + 1] * (width >= TWO_MORE) + [INTERVAL] * (width >= ALL)
    return sum(columns) + len(columns)


def table_head(width: int) -> Content:
    titles = [f"{'head':<{NAME}}", f"{'score':>{SCORE}}", f"{'95 %':<{INTERVAL}}", f"{'held out':>{HELD}}"]
    titles += [f"{'95 %':<{INTERVAL}}"] * (width >= ALL)
    titles += [f"{'joined':>{SCORE}}", f"{'control':>{SCORE + 1}}"] * (width >= TWO_MORE)
    return Content.styled(" " + " ".join(titles), HEAD)


def table_line(scores: HeadScores | None, layer: int, head: int, width: int, mark: str, glyphs: Glyphs) -> Content:
    """One head in `table_width(width)` cells. mark: the cell before it."""
    name = f"{mark}{f'{layer}.{head}':<{NAME}}"
    if scores is None:
        return Content(fit(name, table_width(width)))
    score, held = scores.score[layer, head], scores.held[layer, head]
    tick = ("+" if glyphs.ascii_only else "✓") if confirmed(scores, layer, head) else " "
    cells = [name, f"{decimals(score[0]):>{SCORE}}", f"{interval(*score[1:]):<{INTERVAL}}"]
    cells += [f"{decimals(held[0]):>{HELD - 2}} {tick}"]
    cells += [f"{interval(*held[1:]):<{INTERVAL}}"] * (width >= ALL)
    if width >= TWO_MORE:
        joined, control = decimals(scores.joined[layer, head]), decimals(scores.control[layer, head])
        cells += [f"{joined:>{SCORE}}", f"{control:>{SCORE + 1}}"]
    return Content(fit(" ".join(cells), table_width(width)))


def told(scores: HeadScores | None, layer: int, head: int, glyphs: Glyphs) -> list[str]:
    """5.3 · score .612 [.56 .66], 1 of 270 · held out .551 [.50 .60] · joined .700, control .088 · such as ent|ment"""
    name = f"head {layer}.{head}"
    if scores is None:
        return [name, "no score yet"]
    score, held = scores.score[layer, head], scores.held[layer, head]
    if math.isnan(score[0]):
        return [name, "no score: a layer without attention, or no number", _examples(scores, glyphs)]
    place = scores.ranked().index((layer, head)) + 1
    return [
        name,
        f"score {decimals(score[0])} {interval(*score[1:])}".rstrip() + f", {place} of {scores.score[..., 0].size}",
        f"held out {decimals(held[0]) or 'no number'} {interval(*held[1:])}".rstrip(),
        f"joined {decimals(scores.joined[layer, head])}, control {decimals(scores.control[layer, head])}",
        _examples(scores, glyphs),
    ]


def _examples(scores: HeadScores, glyphs: Glyphs) -> str:
    return f"such as {examples(scores, glyphs.ascii_only)}"


# ---------------------------------------------------------------------------------------- layers x heads


def grid_width(n_heads: int, width: int) -> int:
    """So that `window` lists nothing beside the heads: the table does that."""
    return min(max(NUMBERS + n_heads * (3 if n_heads < MANY_HEADS else 2), LEAST_GRID), width // 2)


def window(shape: tuple[int, int], at: tuple[int, int], width: int, height: int) -> Window:
    """What of the grid is in sight."""
    return attention_words.window(*shape, *at, width, height)


def grid(
    scores: HeadScores | None, shape: tuple[int, int], at: tuple[int, int], width: int, height: int, glyphs: Glyphs
) -> Text:
    """Layers, the last on top, x heads, as shades of the score; the cursor is marked and in sight."""
    seen, shades = window(shape, at, width, height), SHADES[glyphs.ascii_only]
    hidden = {
        "left": seen.first, "right": shape[1] - seen.first - seen.wide,
        "above": shape[0] - seen.bottom - seen.high, "below": seen.bottom,
    }  # fmt: skip
    more = ", ".join(f"{n} {where}" for where, n in hidden.items() if n)
    key = " ".join(f"{shade}{decimals(step, 2)}" for shade, step in zip(shades[1:], SCORES, strict=True))
    told = f"{glyphs.ellipsis} {more}" if more else "score"
    heading = [Text(fit(told, width, glyphs.ascii_only)), Text(fit(key, width), "dim")]
    lines = heading[: seen.top]
    for layer in reversed(range(seen.bottom, seen.bottom + seen.high)):
        line = Text(f"{layer:3} ", "bold" if layer == at[0] else "dim")
        for head in range(seen.first, seen.first + seen.wide):
            value = math.nan if scores is None else float(scores.score[layer, head, 0])
            line.append(glyphs.cursor if (layer, head) == at else " ", "not dim bold")
            line.append_text(_shade(value, SCORES, seen.cell - 1, shades))
        lines.append(line)
    lines.append(_numbers(NUMBERS, seen.first, seen.wide, seen.cell, 1))
    return Text("\n", no_wrap=True).join(lines[:height])


def _shade(value: float, steps: tuple[float, ...], cells: int, shades: str) -> Text:
    """NaN is blank; below the first step a faint dot."""
    step = bisect_right(steps, value)
    if math.isnan(value):
        return Text(" " * cells)
    return Text(shades[step] * cells, f"not dim {SHADED}") if step else Text(shades[0].center(cells), "not bold dim")


def _numbers(left: int, first: int, n: int, cell: int, indent: int) -> Text:
    """Numbers below columns of `cell` cells, as many as stay apart."""
    apart = -(-4 // cell)
    lead = " " * (left + cell * (-first % apart))
    marks = "".join(fit(" " * indent + str(at), cell * apart) for at in range(first, first + n) if at % apart == 0)
    return Text(lead + marks, "dim")


# ------------------------------------------------------------------------------------------------- pattern


def is_grid(found: HeadPattern, width: int, height: int) -> bool:
    """Whether all rows and columns fit; else one row is drawn, as bars."""
    n = len(found.tokens)
    return n + 2 <= height and _label(found) + n <= width


def pattern(found: HeadPattern, at: int, current: bool, width: int, height: int, glyphs: Glyphs) -> Text:
    """Where a head looks: all queries x keys as shades, and beneath the strongest keys of query `at`; only these where
    not all fits. current: it is the head under the cursor, not the one before."""
    title, under = f"{found.layer}.{found.head} looks from", f", {printable(found.schedule)}" if found.schedule else ""
    query = f"{at} {g.cell(found.tokens[at].text, TOKEN, glyphs.ascii_only).rstrip()}"
    if is_grid(found, width, height):
        lines = [_title(f"{title} row to column{under}", width, glyphs), *_rows(found, at, width, glyphs)]
        if (left := height - len(lines) - 2) >= 2:
            lines += [Text(), _title(f"from {query}", width, glyphs), *_bars(found, at, width, left, glyphs)]
    else:
        lines = [_title(f"{title} {query}{under}", width, glyphs), *_bars(found, at, width, height - 1, glyphs)]
    drawn = Text("\n", no_wrap=True).join(lines[:height])
    if not current:
        drawn.stylize("dim")
    return drawn


def row_of(found: HeadPattern, width: int, height: int, y: int) -> int | None:
    """The query whose row was clicked."""
    return y - 1 if is_grid(found, width, height) and 1 <= y <= len(found.tokens) else None


def _label(found: HeadPattern) -> int:
    """Cells of a row's mark, number and token, and of the gap after it."""
    return 5 + min(max(cell_len(visible(token.text)) for token in found.tokens), TOKEN) + 1


def _rows(found: HeadPattern, at: int, width: int, glyphs: Glyphs) -> list[Text]:
    n, label, shades = len(found.tokens), _label(found), SHADES[glyphs.ascii_only]
    size = min((width - label) // n, 3)
    lines = []
    for query, token in enumerate(found.tokens):
        here = query == at
        text = g.cell(token.text, label - 6, glyphs.ascii_only)
        line = Text(f"{glyphs.cursor if here else ' '}{query:3} {text} ", "bold" if here else "dim")
        for key in range(query + 1):
            line.append_text(_shade(float(found.pattern[query, key]), STEPS, size, shades))
        lines.append(line)
    return [*lines, _numbers(label, 0, n, size, 0)]


def _title(text: str, width: int, glyphs: Glyphs) -> Text:
    return Text(fit(text, width, glyphs.ascii_only), "bold")


def _bars(found: HeadPattern, at: int, width: int, most: int, glyphs: Glyphs) -> list[Text]:
    """The keys that one query looks at most."""
    lines, room = [], max(width - 5 - TOKEN - 7, 0)
    for key, weight in strongest_keys(found, at, most):
        text = g.cell(found.tokens[key].text, TOKEN, glyphs.ascii_only)
        line = Text(f"{key:4} {text} {weigh(weight):<5} ")
        lines.append(line.append(g.bar(min(weight, 1.0), room, glyphs), SHADED))
    return lines or [Text("no number", "dim")]


def strongest_keys(found: HeadPattern, at: int, most: int) -> list[tuple[int, float]]:
    """(key, weight) of a query, greatest first; what is NaN is none."""
    weights = found.pattern[at, : at + 1]
    order = np.argsort(-weights, kind="stable")[: max(most, 0)]
    return [(int(key), float(weights[key])) for key in order if not np.isnan(weights[key])]


def looks(found: HeadPattern, at: int, glyphs: Glyphs) -> str:
    """5.3 at 10 ·city looks at 8 ·in .421, 0 <|endoftext|> .302 ..."""
    name = f"{found.layer}.{found.head} at {at} {visible(found.tokens[at].text, glyphs.ascii_only)}"
    keys = [
        f"{key} {visible(found.tokens[key].text, glyphs.ascii_only)} {weigh(weight)}"
        for key, weight in strongest_keys(found, at, 6)
    ]
    return f"{name} looks at {', '.join(keys)}" if keys else f"{name}: no number"
