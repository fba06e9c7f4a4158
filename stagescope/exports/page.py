"""What stands on a page for people, whatever it is written in: facts above, tables and lines below."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from stagescope import __version__
from stagescope.answers import Answer, as_text, sweeps
from stagescope.engine.protocol import Attribution, Comparison, LensCurves, ModelInfo, Reading, Reply, Sweep
from stagescope.engine.tokens import Token
from stagescope.reports.reading import effect
from stagescope.text import printable, visible

WIDTH = 160  # cells: nothing is left out of a table, and what is drawn still fits a wide page


def facts(answer: Answer) -> list[tuple[str, str]]:
    """Names and what they are, harmless: which model, asked what, when."""
    last = answer.last
    told = _of_two(last) if isinstance(last, Comparison) else _of_one(answer)
    if isinstance(last, Reading | Comparison):
        at, sides = looked_at(answer), [last] if isinstance(last, Reading) else [last.a, last.b]
        words = dict.fromkeys(visible(side.tokens[at].text) for side in sides)
        told.append(("looked at", f"position {at}, {' and '.join(words)}"))
    if isinstance(last, Reading):
        name = "output" if last.baseline is None else "effect"
        told.append((name, effect(last, at).removeprefix(name).strip()))
    told.append(("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by stagescope {__version__}"))
    return [(name, printable(text)) for name, text in told]


def _of_one(answer: Answer) -> list[tuple[str, str]]:
    last = answer.last
    told = _model(answer.info)
    prompts = dict.fromkeys(sweep.prompt for sweep in sweeps(answer)) or [getattr(last, "prompt", "")]
    told += [("prompt", prompt) for prompt in prompts if prompt]
    if hasattr(last, "schedule"):
        told.append(_schedule(last))
    if hasattr(last, "source"):
        counted = hasattr(last, "documents")
        size = f": {last.tokens_scored:,} tokens of {last.documents:,} documents" if counted else ""
        told.append(("over", f"{last.source}{size}"))
    return [*told, ("lens", last.lens)] if isinstance(last, Reading) else told


def _of_two(found: Comparison) -> list[tuple[str, str]]:
    """What both sides share once, the rest of each as "schedule A", "schedule B"."""
    a, b = ([*_model(side.model), ("prompt", side.prompt), _schedule(side), ("lens", side.lens)] for side in (found.a, found.b))
    told = []
    for (name, mine), (_, other) in zip(a, b, strict=True):
        told += [(name, mine)] if mine == other else [(f"{name} A", mine), (f"{name} B", other)]
    return told


def _model(info: ModelInfo) -> list[tuple[str, str]]:
    noise = "" if math.isnan(info.noise_kl) else f"; noise floor KL {info.noise_kl:.1g} nats"
    prefix = f"; prefix token {info.prefix.text} (id {info.prefix.id})" if info.prefix else "; no prefix token"
    return [
        ("model", f"{info.name}: {info.architecture}, {info.n_layers} layers, width {info.d_model:,}{prefix}"),
        ("weights", f"{info.source}; run in {info.dtype} on {info.device}{noise}"),
    ]


def _schedule(last: Reply) -> tuple[str, str]:
    return "schedule", last.schedule or "none: the baseline"


def tokens_of(answer: Answer) -> tuple[Token, ...]:
    """Of the one prompt that was asked about; () where there are none or several."""
    if sweeps(answer):
        return answer.last.tokens if len({sweep.prompt for sweep in sweeps(answer)}) == 1 else ()
    last = answer.last
    if isinstance(last, Comparison):
        return last.a.tokens if last.a.prompt == last.b.prompt else ()
    return getattr(last, "tokens", ())


def looked_at(answer: Answer) -> int | None:
    """The position that is read, where there is one."""
    last = answer.last
    if isinstance(last, Reading | Attribution):
        return answer.position % len(last.tokens)
    if isinstance(last, Comparison):
        return answer.position % len(last.a.tokens)
    if isinstance(last, Sweep):
        return last.positions[0] if last.kind == "trace" else None
    return last.position if isinstance(last, LensCurves) else None


# ------------------------------------------------------------------------------------------------ a reading


@dataclass(frozen=True)
class Row:
    """A layer on the page. depth: None where the schedule left it out. mark: what the schedule changed there."""

    name: str  # "11", "4+5", "e" for the embedding
    depth: int | None
    mark: str  # "" as in the baseline; "changed"; "another top" where its top token at `at` is another too; "not run"


def stack(reading: Reading, at: int) -> list[Row]:
    """Every depth, and every layer that did not run above the one it would follow; the last on top, as on the screen."""
    places: list[tuple[tuple[int, ...], int | None]] = [(layers, depth) for depth, layers in enumerate(reading.layers)]
    ran = {layer for layers in reading.layers for layer in layers}
    for layer in range(reading.model.n_layers):
        if layer not in ran:
            below = max((n for n, (layers, _) in enumerate(places) if layer - 1 in layers), default=0)
            places.insert(below + 1, ((layer,), None))
    rows = [Row("+".join(map(str, layers)) or "e", depth, _mark(reading, depth, at)) for layers, depth in places]
    return rows[::-1]


def _mark(reading: Reading, depth: int | None, at: int) -> str:
    if depth is None:
        return "not run"
    if reading.baseline is None or reading.kl_nats[depth, at] <= max(0, reading.model.noise_kl):  # 0 where that is NaN
        return ""
    return "another top" if reading.top1_same[depth, at] == 0 else "changed"


def tops(reading: Reading, depth: int, at: int) -> list[tuple[str, float]]:
    """Top tokens there, highest first, and their p; none where the reading does not cover the position."""
    pairs = zip(reading.top_ids[depth, at], reading.top_p[depth, at], strict=True)
    return [(visible(reading.texts[int(token)]), float(p)) for token, p in pairs if token >= 0]


# --------------------------------------------------------------------------------------------- anything else


def blocks(answer: Answer) -> Iterator[list[str] | tuple[list[str], list[str], list[list[str]]]]:
    """What the command prints: lines, or a table as headers, sides ("right" where numbers stand) and rows."""
    lines: list[str] = []
    for block in as_text(answer, WIDTH):
        if isinstance(block, Text):
            lines += block.plain.split("\n")
            continue
        if any(lines):
            yield lines
        lines = []
        yield _table(block)
    if any(lines):
        yield lines


def _table(table: Table) -> tuple[list[str], list[str], list[list[str]]]:
    headers = [_plain(column.header) for column in table.columns]
    cells = [[_plain(cell) for cell in column.cells] for column in table.columns]
    return headers, [column.justify for column in table.columns], [list(row) for row in zip(*cells, strict=True)]


def _plain(cell: Text | str) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
