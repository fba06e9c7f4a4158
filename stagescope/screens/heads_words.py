"""What the heads screen draws and says: the ranked table, layers x heads as shades, where one head looks.

All text harmless. No meaning rests on hue: scores and weights are shades, bars and numbers.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.content import Content

from stagescope.drawings import head_grid
from stagescope.drawings.shades import SHADED, shade, shade_key
from stagescope.engine.protocol import PIECES, HeadPattern, HeadScores
from stagescope.reports.evidence import weigh
from stagescope.reports.heads import STEPS, confirmed, examples, few_words, over_words, strongest_keys
from stagescope.screens import attention_words
from stagescope.screens.neurons_words import HEAD
from stagescope.screens.sweep_words import CHOSEN, QUIET
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

VIEWS = {"score": "by score", "layers": "layers x heads"}
SCORES = (0.05, 0.1, 0.25, 0.5)  # where the next shade of the grid begins
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


def view_line(view: str, pieces: int, scored: bool, width: int, glyphs: Glyphs) -> Content:
    """Views, then how many pieces a word has; a click chooses. Heads without scores stand by their numbers."""

    def choice(text: str, chosen: bool, does: str) -> Content:
        told = f"{glyphs.cursor}{text}" if chosen else text
        return Content.styled(told, CHOSEN if chosen else QUIET).stylize(f"@click=screen.{does}")

    names = VIEWS if scored else VIEWS | {"score": "by number"}
    left = Content("   ").join(choice(names[one], one == view, f"view('{one}')") for one in VIEWS)
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
    """So that nothing is listed beside the heads: the table does that."""
    return min(max(head_grid.NUMBERS + n_heads * (3 if n_heads < MANY_HEADS else 2), LEAST_GRID), width // 2)


def grid(
    scores: HeadScores | None, shape: tuple[int, int], at: tuple[int, int], width: int, height: int, glyphs: Glyphs
) -> Text:
    """Layers, the last on top, x heads, as shades of the score; the cursor is marked and in sight."""
    values = np.full(shape, math.nan) if scores is None else scores.score[..., 0]
    drawn = partial(shade, steps=SCORES, ascii_only=glyphs.ascii_only)
    above = [Text("score"), Text(_key(SCORES, glyphs), "dim")]
    return head_grid.grid(values, drawn, above, (), at, width, height, glyphs.ascii_only)


def _key(steps: tuple[float, ...], glyphs: Glyphs) -> str:
    return shade_key([decimals(step, 2) for step in steps], glyphs.ascii_only)


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
        key = _key(STEPS, glyphs)
        lines.append(Text(told if len(told := f"weight from {key}") <= width else key, "dim"))
        if (left := height - len(lines) - 1) >= 2:
            lines += [_title(f"from {query}", width, glyphs), *_bars(found, at, width, left, glyphs)]
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
    n, label = len(found.tokens), _label(found)
    size = min((width - label) // n, 3)
    lines = []
    for query, token in enumerate(found.tokens):
        here = query == at
        text = g.cell(token.text, label - 6, glyphs.ascii_only)
        line = Text(f"{glyphs.cursor if here else ' '}{query:3} {text} ", "bold" if here else "dim")
        for key in range(query + 1):
            drawn, style = shade(float(found.pattern[query, key]), STEPS, glyphs.ascii_only)
            line.append(drawn * size if style else drawn.center(size), f"not dim {style}" if style else "not bold dim")
        lines.append(line)
    return [*lines, head_grid.numbers(label, range(n), size)]


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


def looks(found: HeadPattern, at: int, glyphs: Glyphs) -> str:
    """5.3 at 10 ·city looks at 8 ·in .421, 0 <|endoftext|> .302 ..."""
    name = f"{found.layer}.{found.head} at {at} {visible(found.tokens[at].text, glyphs.ascii_only)}"
    keys = [
        f"{key} {visible(found.tokens[key].text, glyphs.ascii_only)} {weigh(weight)}"
        for key, weight in strongest_keys(found, at, 6)
    ]
    return f"{name} looks at {', '.join(keys)}" if keys else f"{name}: no number"
