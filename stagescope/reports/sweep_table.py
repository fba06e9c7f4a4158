"""A Sweep, several or a CorpusSweep as plain text: what was swept over what, and tables of its rows.

Heads and neurons are ranked; classes and sets of neurons stand beside random ones of the same layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.pool import MEASURES
from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow
from stagescope.reports.sweep import (
    NAMES,
    by_prompt,
    corpus_line,
    note,
    over_words,
    parts,
    standings,
    summary,
    sweep_head,
    tokens_line,
    trace_caption,
    trace_grid,
)
from stagescope.reports.sweep_units import CLASSES, RANDOM, members, sharpening, sizes, spread
from stagescope.text import fit, printable, visible

TRACE_COLUMNS = 12  # positions side by side in the text of a trace: 76 cells
SCHEDULE = 12, 60  # cells a schedule may be cut to before columns go, and the most that it takes
GO_FIRST = ("note", "place", "95 %", "median")  # columns, where the terminal is narrow
UNITS = ("heads", "neurons", "neuron-sets")  # kinds with tables of their own
OF_SETS = {  # as columns, the first to stay where the terminal is narrow
    "entropy_change_bits": "ΔH bits", "kl_nats": "KL mean", "top1_same": "top-1 kept", "loss_change_nats": "Δloss nats",
}  # fmt: skip


def sweep_text(data: Sequence[Sweep] | CorpusSweep, width: int = 200) -> list[Text | Table]:
    """What was swept over what, and tables of all rows in `width` cells; a trace as grids of layers x positions.
    Several prompts are pooled. An effect at or below the noise floor is 0."""
    if isinstance(data, CorpusSweep):
        intervals = ", with 95 % intervals over documents" if data.documents > 1 else ""
        return [sweep_head(data.model), corpus_line(data), Text(f"means over tokens{intervals}"), *_tables(data, width)]
    lines: list[Text | Table] = [sweep_head(data[0].model)]
    lines += [tokens_line(group[0]) for group in by_prompt(data)]
    for part in parts(data):
        if isinstance(part, CorpusSweep):
            over = f"means over {over_words(part, 'prompt')}, with 95 % intervals over prompts"
            lines += [Text(over), *_tables(part, width)]
        else:
            lines += _trace_text(part) if part.kind == "trace" else [_caption(part), *_tables(part, width)]
    return lines


def _tables(data: Sweep | CorpusSweep, width: int) -> list[Table | Text]:
    """One of all rows in their order, then what ranks heads and neurons."""
    kl = summary(data, "kl_nats")[:, 0]

    def ranked(kind: str) -> list[int]:
        """The largest effect first; what has no number last."""
        rows = [at for at, row in enumerate(data.rows) if row.kind == kind]
        return sorted(rows, key=lambda at: math.inf if math.isnan(kl[at]) else -kl[at])

    plain = [at for at, row in enumerate(data.rows) if row.kind not in UNITS]
    lines = _table(data, plain, width) if plain else []
    if heads := ranked("heads"):
        lines += _table(data, heads, width, digits=3)
    if neurons := ranked("neurons"):
        lines += [_classes(data), Text(), *_table(data, neurons, width, digits=3)]
    return lines + (_sets(data, width) if sizes(data) else [])


def _caption(sweep: Sweep) -> Text:
    done = "" if sweep.complete else f", {int(sweep.done.sum())} of them run"
    of, last = len(sweep.rows), len(sweep.tokens) - 1
    no_loss = " (Δloss: all but the last)" if last in sweep.mean_positions() else ""
    return Text(f"{of} {NAMES[sweep.kind][of != 1]}{done}, over {over_words(sweep)}{no_loss}", style="bold")


def _table(data: Sweep | CorpusSweep, rows: Sequence[int], width: int, digits: int = 2) -> list[Table | Text]:
    """Some rows, and which columns are left out, if they do not fit into `width` cells. digits: of ΔH and Δloss."""
    kl, kept, entropy, loss = (summary(data, measure) for measure in MEASURES)
    nothing = kl[:, 0] <= data.model.noise_kl
    places = standings(data)
    columns = {"KL mean": [_kl(kl[row, 0], nothing[row]) for row in rows]}
    if isinstance(data, CorpusSweep):
        columns["95 %"] = [_interval(*kl[row, 2:]) for row in rows]
    columns |= {
        "median": [_kl(kl[row, 1], nothing[row]) for row in rows],
        "top-1 kept": [_kept(data, row, kept[row, 0]) for row in rows],
        "ΔH bits": [_change(entropy[row, 0], nothing[row], digits) for row in rows],
        "Δloss nats": [_change(loss[row, 0], nothing[row], digits) for row in rows],
    }
    kind = data.rows[rows[0]].kind
    if kind == "neurons":
        columns = {"class": [printable(data.rows[row].variant) for row in rows], **columns}
    if kind not in UNITS:  # those stand in their order
        columns["place"] = ["" if places[row] is None else "{}/{}".format(*places[row]) for row in rows]
    if any(notes := [note(data, row) for row in rows]):
        columns["note"] = notes
    titles = [_title(data.rows[row]) for row in rows]
    longest = max(map(cell_len, ["schedule", *titles]))
    least = longest if kind in UNITS else min(longest, SCHEDULE[0])  # a head without its number is none

    def room(gap: int) -> int:
        return width - sum(gap + max(map(cell_len, [name, *cells])) for name, cells in columns.items())

    gap, left_out = 2 if room(2) >= least else 1, []
    for name in (*GO_FIRST, *(("top-1 kept", "Δloss nats") if kind in UNITS else ())):
        if room(gap) < least and columns.pop(name, None):
            left_out.append(name)
    table = Table(box=None, pad_edge=False, collapse_padding=gap == 1, header_style="dim")
    table.add_column("schedule", no_wrap=True, overflow="ellipsis", max_width=max(min(room(gap), SCHEDULE[1]), 1))
    for name in columns:
        table.add_column(name, justify="left" if name in ("note", "class") else "right", no_wrap=True)
    for title, *cells in zip(titles, *columns.values(), strict=True):
        table.add_row(Text(title), *cells)
    return [table, *([Text(f"no room for: {', '.join(left_out)} (--csv has all)", style="dim")] if left_out else [])]


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:.3g}-{high:.3g}]"


def _title(row: SweepRow) -> str:
    """A row's schedule; in front of one too long to read, its variant: k=3  order 0a 1a 2a 0m ..."""
    return printable(f"{row.variant}  {row.schedule}" if row.kind == "press" else row.schedule)


def _kl(nats: float, is_nothing: bool) -> str:
    return "" if math.isnan(nats) else "0" if is_nothing else f"{nats:.3g}"


def _change(value: float, is_nothing: bool, digits: int = 2) -> str:
    if math.isnan(value):
        return ""
    return "0" if is_nothing else f"{round(value, digits) + 0.0:+.{digits}f}"


def _kept(data: Sweep | CorpusSweep, index: int, share: float) -> str:
    if math.isnan(share):
        return ""
    if isinstance(data, CorpusSweep):
        return f"{100 * share:.1f} %"
    values = data.top1_same[index, data.mean_positions()]
    return f"{int(np.nansum(values))}/{int((~np.isnan(values)).sum())}"


# ------------------------------------------------------------------------------------------------- neurons


def _classes(data: Sweep | CorpusSweep) -> Table:
    """Neurons off one at a time: the mean of each class, beside that of random ones."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class", no_wrap=True)
    for name in ("neurons", "KL mean", "least to greatest", "x random", "ΔH bits", "Δloss nats"):
        table.add_column(name, justify="right", no_wrap=True)
    of_random = spread(data, members(data, "neurons", "random"), "kl_nats").mean
    for name in (*CLASSES, "random"):
        rows = members(data, "neurons", name)
        kl, entropy, loss = (spread(data, rows, measure) for measure in ("kl_nats", "entropy_change_bits", "loss_change_nats"))
        if not kl.n:
            continue
        times = f"{kl.mean / of_random:.3g}" if name != "random" and of_random > 0 else ""
        floor = data.model.noise_kl
        ends = f"{_kl(kl.least, kl.least <= floor)}-{_kl(kl.greatest, kl.greatest <= floor)}"
        nothing = kl.mean <= floor
        changes = [_change(one.mean, nothing, 3) for one in (entropy, loss)]
        table.add_row(name, str(kl.n), _kl(kl.mean, nothing), ends, times, *changes)
    return table


def _sets(data: Sweep | CorpusSweep, width: int) -> list[Table | Text]:
    """For each class the k strongest off together, beside the mean and range of as many random ones; and what is said."""
    lines: list[Table | Text] = []
    for name in CLASSES:
        rows = {k: found for k in sizes(data) if (found := members(data, "neuron-sets", name, k))}
        if not rows:  # the census knows none of this class
            continue
        columns = {"k": [str(k) for k in rows]}
        for measure, title in OF_SETS.items():
            mine = {k: summary(data, measure)[at[0]] for k, at in rows.items()}
            controls = [spread(data, members(data, "neuron-sets", RANDOM[name], k), measure) for k in rows]
            pair = {
                title: [_number(measure, *of[[0, 2, 3]]) for of in mine.values()],
                f"random {title.split()[0]}": [_number(measure, *control[:3]) for control in controls],
            }
            wide = sum(2 + max(map(cell_len, [head, *cells])) for head, cells in (columns | pair).items()) - 2
            if wide <= width:
                columns |= pair
        draws = max(len(members(data, "neuron-sets", RANDOM[name], k)) for k in rows)
        told = f"{name}: the k strongest off; random: as many of the same layers, {draws} draws"
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in columns:
            table.add_column(title, justify="right" if title == "k" else "left", no_wrap=True)
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*cells)
        lines += [Text(), Text(told, "bold"), table]
        left_out = [title for title in OF_SETS.values() if title not in columns]
        lines += [Text(f"no room for: {', '.join(left_out)} (--csv has all)", "dim")] if left_out else []
        known = [k for k in rows if sharpening(data, name, k)]
        lines += map(Text, sharpening(data, name, known[-1]) if known else [])
        lines += [Text(f"k={k}: {why}") for k, at in rows.items() for why in {note(data, row) for row in at} if why]
    return lines[1:]


def _number(measure: str, value: float, low: float, high: float) -> str:
    """ "+0.312", "0.012 [0.01-0.014]": with what it lies between, where that is known."""
    if math.isnan(value):
        return ""
    if measure == "kl_nats":
        written, to = [f"{one:.3g}" for one in (value, low, high)], "-"
    elif measure == "top1_same":
        written, to = [f"{100 * one:.0f} %" for one in (value, low, high)], "-"
    else:
        written, to = [f"{round(one, 3) + 0.0:+.3f}" for one in (value, low, high)], " to "
    return written[0] if math.isnan(low) or low == high else f"{written[0]} [{written[1]}{to}{written[2]}]"


# --------------------------------------------------------------------------------------------------- traces


def _trace_text(sweep: Sweep) -> list[Text]:
    """The tracked token's p at the position read, every layer left out at every position; the last layer on top."""
    (at,) = sweep.positions
    grid = trace_grid(sweep)
    lines = [trace_caption(sweep)]
    for first in range(0, len(sweep.tokens), TRACE_COLUMNS):
        shown = range(first, min(first + TRACE_COLUMNS, len(sweep.tokens)))
        lines.append(Text("lay " + "".join(f"{f'[{p}]' if p == at else p:>6}" for p in shown), style="dim"))
        for layer in reversed(range(sweep.model.n_layers)):
            cells = (grid[layer, position] for position in shown)
            lines.append(Text(f"{layer:3} " + "".join(f"{'' if math.isnan(p) else f'{p:.3f}':>6}" for p in cells)))
        lines.append(Text("    " + "".join(f" {fit(visible(sweep.tokens[p].text), 5)}" for p in shown)))
    wrong = [f"{sweep.rows[row].schedule}: {printable(text)}" for row, text in sorted(sweep.notes.items())]
    return [*lines, *map(Text, wrong)]


