"""What the rows of a Sweep, several or a CorpusSweep come to; all of it as JSON (the contract of the command line) and as
CSV. sweep_table.py prints it as plain text, sweep_units.py knows more of heads and neurons.

Means are over what science.md lets into them: every position but a prefix token's. Intervals are 95 %, by bootstrap
over prompts or documents; one prompt has none.
"""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from stagescope.engine.pool import MEASURES, over_prompts
from stagescope.engine.protocol import CorpusSweep, ModelInfo, Sweep
from stagescope.reports.reading import model_json, number, numbers, truths
from stagescope.text import printable, visible

STATISTICS = ("mean", "median", "low", "high")
NOT_RUN = "not run"
NAMES = {  # one, several
    "drop": ("drop", "drops"), "swap": ("swap", "swaps"), "attn-off": ("attn-off", "attn-offs"),
    "mlp-off": ("mlp-off", "mlp-offs"), "pairs": ("pair", "pairs"), "trace": ("place", "places"),
    "repeat": ("repeat", "repeats"), "painters": ("painters variant", "painters variants"),
    "press": ("sublayer order", "sublayer orders"), "schedules": ("schedule", "schedules"),
    "heads": ("head", "heads"), "neurons": ("neuron", "neurons"), "neuron-sets": ("set of neurons", "sets of neurons"),
}  # fmt: skip
LINE = 80  # cells that the line of a corpus takes at most


# ----------------------------------------------------------------------------------------- what rows come to


def by_prompt(sweeps: Sequence[Sweep]) -> list[list[Sweep]]:
    """The sweeps of each prompt, one a kind, in the order they came."""
    groups: dict[str, list[Sweep]] = {}
    for sweep in sweeps:
        groups.setdefault(sweep.prompt, []).append(sweep)
    return list(groups.values())


def parts(data: Sequence[Sweep] | CorpusSweep) -> list[Sweep | CorpusSweep]:
    """What is drawn or tabled side by side: the sweeps of one prompt, or several prompts' pooled into one."""
    if isinstance(data, CorpusSweep):
        return [data]
    return list(data) if len(by_prompt(data)) <= 1 else [over_prompts(data)]


def summary(data: Sweep | CorpusSweep, measure: str) -> np.ndarray:
    """[S, 4] mean, median, low, high of a measure; NaN for rows not done and where nothing enters the mean."""
    values = getattr(data, measure)
    if isinstance(data, CorpusSweep):
        return values
    counted = values[:, data.mean_positions()].astype(np.float64)
    counted[~data.done] = np.nan
    present = ~np.isnan(counted).all(axis=1) if counted.size else np.zeros(len(counted), bool)
    columns = np.full((len(counted), len(STATISTICS)), np.nan)
    columns[present, 0] = np.nanmean(counted[present], axis=1)
    columns[present, 1] = np.nanmedian(counted[present], axis=1)
    return columns


def note(data: Sweep | CorpusSweep, row: int) -> str:
    """What is wrong with a row; "" where nothing is."""
    missing = isinstance(data, Sweep) and not data.done[row]
    return printable(data.notes.get(row, NOT_RUN if missing else ""))


def standing(sweep: Sweep | CorpusSweep, schedule: str) -> tuple[int, int] | None:
    """Place of a schedule (canonical text) by mean KL, 1 being the largest effect, and of how many of its kind.

    Rows without a value count for nothing; equal effects share the better place. None where the row is absent, not
    done or not a number.
    """
    at = next((index for index, row in enumerate(sweep.rows) if row.schedule == schedule), None)
    return None if at is None else standings(sweep)[at]


def standings(data: Sweep | CorpusSweep) -> list[tuple[int, int] | None]:
    """`standing` of every row."""
    means = summary(data, "kl_nats")[:, 0]
    known = {row.kind: [] for row in data.rows}
    for row, mean in zip(data.rows, means, strict=True):
        if not math.isnan(mean):
            known[row.kind].append(-mean)
    for values in known.values():
        values.sort()
    return [
        None if math.isnan(mean) else (1 + bisect_left(known[row.kind], -mean), len(known[row.kind]))
        for row, mean in zip(data.rows, means, strict=True)
    ]


def place_words(place: int, of: int, kind: str) -> str:
    """ "3rd of 30 drops" """
    return f"{ordinal(place)} of {of} {NAMES[kind][of != 1]}"


def ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


# -------------------------------------------------------------------------------------------------- JSON


def sweep_json(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """Schema sweep/1 of one prompt, a Sweep for each kind, or of several: then `rows` are pooled over the prompts and
    `prompts` holds each by itself. A trace is of one prompt and is not pooled. NaN is null."""
    head = {"schema": "sweep/1", "model": model_json(sweeps[0].model)}
    prompts = by_prompt(sweeps)
    if len(prompts) == 1:
        return {**head, **_prompt_json(prompts[0])}
    pooled = over_prompts(sweeps)
    return {
        **head,
        "tokens": None,
        "documents": pooled.documents,
        "tokens_scored": pooled.tokens_scored,
        "rows": _rows_json(pooled),
        "prompts": [_prompt_json(group) for group in prompts],
    }


def corpus_json(result: CorpusSweep) -> dict[str, Any]:
    """Schema sweep/1 of a text: `tokens` and every `per_position` are null."""
    return {
        "schema": "sweep/1",
        "model": model_json(result.model),
        "tokens": None,
        "source": result.source,
        "documents": result.documents,
        "tokens_scored": result.tokens_scored,
        "n_skipped": result.n_skipped,
        "skipped": list(result.skipped),
        "n_cut": result.n_cut,
        "rows": _rows_json(result),
    }


def _prompt_json(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """What one prompt has: its sweeps are of different kinds and share the baseline."""
    first = sweeps[0]
    tracked = [None if i < 0 else {"id": i, "text": first.texts.get(i, "")} for i in first.tracked.tolist()]
    return {
        "prompt": first.prompt,
        "tokens": [{"id": token.id, "text": token.text} for token in first.tokens],
        "baseline": {
            "entropy_bits": numbers(first.base_entropy_bits),
            "loss_nats": numbers(first.base_loss_nats),
            "tracked": tracked,
            "tracked_rank": numbers(first.base_tracked_rank),
            "tracked_p": numbers(first.base_tracked_p),
        },
        "rows": [row for sweep in sweeps for row in _rows_json(sweep)],
    }


def _rows_json(data: Sweep | CorpusSweep) -> list[dict[str, Any]]:
    summaries = {measure: summary(data, measure) for measure in MEASURES}
    return [_row_json(data, index, summaries) for index in range(len(data.rows))]


def _row_json(data: Sweep | CorpusSweep, index: int, summaries: dict[str, np.ndarray]) -> dict[str, Any]:
    def per_position(measure: str) -> list | None:
        if isinstance(data, CorpusSweep):
            return None
        values = getattr(data, measure)[index]
        return (truths if measure == "top1_same" else numbers)(np.where(data.done[index], values, np.nan))

    row = data.rows[index]
    written: dict[str, Any] = {
        "schedule": row.schedule,
        "kind": row.kind,
        "layer": row.layer,
        "variant": row.variant,
        "position": row.position,
        "index": row.index,
        "note": note(data, index),
    }
    for measure in MEASURES:
        statistics = map(number, summaries[measure][index])
        written[measure] = {**dict(zip(STATISTICS, statistics, strict=True)), "per_position": per_position(measure)}
    if isinstance(data, Sweep):
        for measure in ("tracked_rank", "tracked_p"):
            written[measure] = {"per_position": per_position(measure)}
    return written


# --------------------------------------------------------------------------------------------------- CSV


def csv_lines(data: Sequence[Sweep] | CorpusSweep) -> Iterator[str]:
    """The columns and rows of `row_numbers` as RFC 4180 quotes them, a line each, without line ends. NaN is an empty cell.

    A cell that begins with = + - @ is data, and an apostrophe before it would be a wrong prompt to every reader but a
    spreadsheet.
    """
    columns, rows = row_numbers(data)
    yield from map(csv_line, (columns, *rows))


def row_numbers(data: Sequence[Sweep] | CorpusSweep) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns, and a row for each schedule and prompt: numbers exact, NaN as None, texts with their control characters
    written out, so that a row is a line.

    `scored` is how many positions or tokens the means are over, that of the loss one fewer a prompt or document: nothing
    follows the last token. A trace, read at one position, also has the tracked token's rank and p there.
    """
    statistics = [f"{measure}_{name}" for measure in MEASURES for name in STATISTICS]
    of_row = ("prompt", "schedule", "kind", "layer", "variant", "position", "index", "scored")
    rows = []
    for sweep in [data] if isinstance(data, CorpusSweep) else data:
        summaries = np.concatenate([summary(sweep, measure) for measure in MEASURES], axis=1)
        if isinstance(sweep, CorpusSweep):
            prompt, scored = sweep.source, sweep.tokens_scored
        else:
            prompt, scored = sweep.prompt, len(sweep.mean_positions())
        for index, row in enumerate(sweep.rows):
            tracked = [None, None]
            if row.kind == "trace" and sweep.done[index]:
                (at,) = sweep.positions
                tracked = [number(sweep.tracked_rank[index, at]), number(sweep.tracked_p[index, at])]
            cells = [prompt, row.schedule, row.kind, row.layer, row.variant, row.position, row.index, scored]
            cells += [*map(number, summaries[index]), *tracked, note(sweep, index)]
            rows.append(tuple(printable(cell) if isinstance(cell, str) else cell for cell in cells))
    return (*of_row, *statistics, "tracked_rank", "tracked_p", "note"), rows


def csv_line(cells: Iterable[Any]) -> str:
    """Cells as RFC 4180 quotes them, without a line end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


# ---------------------------------------------------------------------------- what was swept over what


def over_words(part: Sweep | CorpusSweep, of: str = "document") -> str:
    """What means are over: "11 positions", "5,012 tokens of 40 documents". of: what a CorpusSweep was pooled over."""
    if isinstance(part, Sweep):
        return _count(len(part.mean_positions()), "position")
    return f"{_count(part.tokens_scored, 'token')} of {_count(part.documents, of)}"


def _count(n: int, name: str) -> str:
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def sweep_head(info: ModelInfo) -> Text:
    line = f"{printable(info.name)} · {info.n_layers} layers · {info.dtype} · {info.device}"
    return Text(line + ("" if math.isnan(info.noise_kl) else f" · noise floor KL {info.noise_kl:.1g} nats"))


def corpus_line(result: CorpusSweep) -> Text:
    """What was swept in LINE cells; a long name loses its beginning."""
    counts = [(result.n_cut, "cut"), (result.n_skipped, "left out")]
    counted = ", ".join(f"{n:,} {what}" for n, what in counts if n)
    over = f": {over_words(result)}" + (f" ({counted})" if counted else "")
    source = printable(result.source)
    if cell_len(source + over) > LINE:
        while source and cell_len(f"…{source}{over}") > LINE:
            source = source[1:]
        source = f"…{source}"
    return Text(source + over)


def tokens_line(sweep: Sweep) -> Text:
    read_at = sweep.positions[0] if sweep.kind == "trace" else None
    words = [visible(token.text) for token in sweep.tokens]
    return Text("tokens  " + " ".join(f"[{w}]" if at == read_at else w for at, w in enumerate(words)))


def trace_grid(sweep: Sweep, measure: str = "tracked_p") -> np.ndarray:
    """[L, T] of a trace: a measure at the position read, by the layer and position left out; NaN where not done."""
    (at,) = sweep.positions
    grid = np.full((sweep.model.n_layers, len(sweep.tokens)), np.nan)
    for index, row in enumerate(sweep.rows):
        if sweep.done[index]:
            grid[row.layer, row.position] = getattr(sweep, measure)[index, at]
    return grid


def trace_caption(sweep: Sweep) -> Text:
    (at,) = sweep.positions
    tracked = visible(sweep.texts.get(int(sweep.tracked[at]), ""))
    where = f"position {at} “{visible(sweep.tokens[at].text)}”"
    return Text(f"p of “{tracked}” at {where}: baseline {sweep.base_tracked_p[at]:.3f}, after drop LAYER @POSITION")
