"""Continuations as JSON, as plain text, as one table of numbers. NaN is null, and blank."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.protocol import Generate, Generation
from stagescope.reports.numbers import token_of
from stagescope.reports.reading import model_json, number
from stagescope.reports.sweep import sweep_head
from stagescope.text import fit, printable, visible

MEASURED = ("p", "base_p", "entropy_bits", "base_entropy_bits", "kl_nats", "forced_p", "forced_kl_nats")
TOKEN = 10, 24  # cells of a token in the table of steps: fewest, and most
SCHEDULE = 24  # cells a schedule takes at most beside its text


# ------------------------------------------------------------------------------------------------- words


def sampling_words(asked: Generate) -> str:
    """greedy, up to 40 tokens; temperature 0.8, top-k 50, seed 3, up to 40 tokens"""
    told = ["greedy"]
    if asked.temperature:
        told = [f"temperature {asked.temperature:g}"]
        told += [f"top-k {asked.top_k}"] if asked.top_k is not None else []
        told += [f"top-p {asked.top_p:g}"] if asked.top_p is not None else []
        told.append(f"seed {asked.seed}")
    return ", ".join([*told, f"up to {asked.tokens} token{'s' if asked.tokens > 1 else ''}"])


def parting_words(found: Generation, text: int) -> str:
    """Where a text parts from the baseline's, in a sentence."""
    at, n = found.parts_at(text), found.length(text)
    if text in found.notes or 0 in found.notes:
        return f"stopped: {printable(found.notes.get(text) or found.notes[0])}"
    if at is not None:
        return f"parts from the baseline at step {at}" if at else "parts from the baseline at the first step"
    return f"the baseline's, word for word, over {n} token{'s' if n != 1 else ''}"


def flowing(text: str, ascii_only: bool = False) -> str:
    """A text on one line, harmless: a line end is ⏎. ascii_only: what is not ASCII is written as its code."""
    if ascii_only:
        return " ".join(visible(word, ascii_only) if word else "" for word in text.split(" "))
    return printable(text).replace("\\u{a}", "⏎")


def ending(found: Generation, text: int) -> str:
    """What stands after a text that goes on no more: (ended), (its logits are no numbers at step 3); "" of others."""
    note = found.notes.get(text)
    return f" ({printable(note)})" if note else " (ended)" if found.ended[text] else ""


def mean(values: np.ndarray) -> float:
    """Over the steps that were written; NaN for none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def name(found: Generation, text: int) -> str:
    return printable(found.schedules[text]) or "baseline"


class Cell(NamedTuple):
    """One step of one of two texts, as tables show it; NaN where nothing is to be told."""

    token: str  # harmless; "ended" at the step after a text's last, "" where none is written
    p: float
    entropy_bits: float
    kl_nats: float  # how far the edit is from the baseline: over the baseline's text there, over its own on its side
    other_p: float  # what the other run gives the token after the same words
    parted: bool


def cell(found: Generation, text: int, step: int, ascii_only: bool = False) -> Cell:
    token, n = int(found.ids[text, step]), found.length(text)
    shown = visible(found.texts[token], ascii_only) if token >= 0 else "ended" if found.ended[text] and step == n else ""
    kl = other = math.nan
    if len(found.schedules) > 1:
        kl, other = (found.forced_kl_nats[1, step], found.forced_p[1, step]) if text == 0 else (found.kl_nats[1, step], found.base_p[1, step])
    at = found.parts_at(len(found.schedules) - 1)
    numbers = (float(value) for value in (found.p[text, step], found.entropy_bits[text, step], kl, other))
    return Cell(shown, *numbers, at is not None and step >= at)


# -------------------------------------------------------------------------------------------------- JSON


def generation_json(found: Generation) -> dict[str, Any]:
    """Schema generation/1. The first text is the baseline's; numbers are those of Generation."""
    asked = found.asked
    return {
        "schema": "generation/1",
        "model": model_json(found.model),
        "prompt": found.prompt,
        "tokens": [{"id": token.id, "text": token.text} for token in found.tokens],
        "sampling": {key: getattr(asked, key) for key in ("temperature", "top_k", "top_p", "seed")},
        "max_tokens": asked.tokens,
        "complete": found.complete,
        "texts": [_text_json(found, text) for text in range(len(found.schedules))],
    }


def _text_json(found: Generation, text: int) -> dict[str, Any]:
    return {
        "schedule": found.schedules[text],
        "text": found.text(text),
        "ended": bool(found.ended[text]),
        "note": found.notes.get(text),
        "parts_at": found.parts_at(text),
        "kl_nats_mean": number(mean(found.kl_nats[text])),
        "forced_kl_nats_mean": number(mean(found.forced_kl_nats[text])),
        "steps": [
            {
                "id": int(found.ids[text, step]),
                "text": found.texts[int(found.ids[text, step])],
                **{key: number(getattr(found, key)[text, step]) for key in MEASURED},
                "reads_back": bool(found.reads_back[text, step]),
            }
            for step in range(found.length(text))
        ],
        # The baseline's text may be longer than this one: what the schedule says of all of it.
        "forced_kl_nats": [number(value) for value in found.forced_kl_nats[text, : found.length(0)]],
    }


# ------------------------------------------------------------------------------------------- one table


def generation_numbers(found: Generation) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(columns, rows): a line a schedule and step. forced_* are of the baseline's token at the step."""
    columns = ("schedule", "step", "token_id", "token", *MEASURED, "parted")
    rows = []
    for text, schedule in enumerate(found.schedules):
        at = found.parts_at(text)
        for step in range(max(found.length(text), found.length(0))):
            parted = at is not None and step >= at
            measured = (number(getattr(found, key)[text, step]) for key in MEASURED)
            token = token_of(found.ids[text, step], found.texts)
            rows.append((printable(schedule), step, *token, *measured, parted))
    return columns, rows


# -------------------------------------------------------------------------------------------- plain text


def generation_text(found: Generation, width: int = 120) -> list[Text | Table]:
    """Two texts step by step beside each other; more of them a line each. In `width` cells."""
    if len(found.schedules) > 2:
        return [*head(found), continuations(found, width)]
    return [*head(found), *table_lines(found, width), *whole_texts(found, width)]


def head(found: Generation) -> list[Text | Table]:
    tokens = "".join(f"{visible(token.text)} " for token in found.tokens)
    return [sweep_head(found.model), Text(f"tokens  {tokens}"), Text(sampling_words(found.asked), style="dim")]


def table_lines(found: Generation, width: int) -> list[Text]:
    steps = max(map(found.length, range(len(found.schedules))))
    return [heading(found, width), *(step_line(found, step, width) for step in range(steps))]


def heading(found: Generation, width: int) -> Text:
    """Above `step_line`, of the same cells."""
    columns = [f"{'step':>4}"]
    for text in range(len(found.schedules)):
        columns.append(f"{fit(name(found, text), _room(found, width))}  {'p':>5}  {'H':>5}  {'KL':>5}")
    return Text("  ".join(columns), style="dim")


def step_line(found: Generation, step: int, width: int) -> Text:
    """Both tokens of a step with p, entropy, and the KL there."""
    line = Text(f"{step:>4}")
    for text in range(len(found.schedules)):
        of = cell(found, text, step)
        line.append("  ").append(fit(of.token, _room(found, width)), style="bold" if of.parted else "")
        line.append("".join(f"  {_form(value, form):>5}" for value, form in ((of.p, ".3f"), (of.entropy_bits, ".2f"), (of.kl_nats, ".3g"))))
    return line


def whole_texts(found: Generation, width: int) -> list[Text]:
    """Each text whole, and where they part."""
    told = [Text()]
    for text in range(len(found.schedules)):
        end = ending(found, text)
        told.append(Text.assemble((f"{name(found, text)}{end}", "bold")))
        told += [Text(f"  {line}") for line in folded(flowing(found.text(text)), width - 2)]
    if len(found.schedules) > 1:
        kl, forced = mean(found.kl_nats[1]), mean(found.forced_kl_nats[1])
        means = f"KL mean {kl:.3g} nats over its own text, {forced:.3g} over the baseline's" if found.length(1) else ""
        told.append(Text("; ".join(filter(None, (parting_words(found, 1), means))), style="bold"))
    return told


def continuations(found: Generation, width: int) -> Table:
    """A line a schedule: where it parts, how far it is from the baseline, what it writes."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    names = [name(found, text) for text in range(len(found.schedules))]
    table.add_column("schedule", no_wrap=True, max_width=SCHEDULE)
    for title in ("parts at", "KL", "KL forced"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("text", no_wrap=True)
    room = max(width - min(max(map(cell_len, [*names, "schedule"])), SCHEDULE) - 36, 10)
    for text, shown in enumerate(names):
        at = found.parts_at(text)
        kl = [_form(mean(values[text]), ".3g") if text else "" for values in (found.kl_nats, found.forced_kl_nats)]
        written = flowing(found.text(text)) + ending(found, text)
        written = fit(written, room).rstrip() if cell_len(written) > room else written
        table.add_row(Text(fit(shown, SCHEDULE).rstrip()), "" if at is None else str(at), *kl, Text(written))
    return table


def folded(text: str, width: int) -> list[str]:
    """A harmless text in lines of at most `width` cells, cut where it must be: its spaces count."""
    lines, used = [""], 0
    for character in text:
        cells = cell_len(character)
        if used + cells > max(width, 2):
            lines.append("")
            used = 0
        lines[-1] += character
        used += cells
    return lines


def _room(found: Generation, width: int) -> int:
    """Cells of a token in the table of steps."""
    n = len(found.schedules)
    return min(max((width - 4 - 23 * n) // n, TOKEN[0]), TOKEN[1])


def _form(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(max(float(value), 0.0), form)
