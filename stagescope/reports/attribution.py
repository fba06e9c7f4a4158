"""An Attribution at one position as JSON and as plain text: which sublayers make the logit, what an edit changes.

All in logits, less the mean over the vocabulary. Under an edit: change of the logit = change of the edited sublayers'
own direct effects + change of the others' + what the run's own final scale adds. The last two together are
self-repair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.protocol import Attribution
from stagescope.engine.schedule import SWITCHING
from stagescope.reports.reading import model_json, number
from stagescope.reports.sweep import LINE, sweep_head
from stagescope.text import printable, visible

PARTS = ("constant", "embedding", "attn", "mlp", "scale")
NAMES = {"attn": "attention", "mlp": "MLP"}  # for people
SMALLEST = 0.005  # what is less is 0.00 to a reader
MOST_NAMED = 6  # sublayers named below the table
BAR = 6, 48  # cells: fewest worth drawing, and most


# ----------------------------------------------------------------------------------------- what it comes to


def sums(found: Attribution, position: int) -> dict[str, float]:
    """The PARTS of the logit at a position, all sublayers of a kind together, and the `logit`. `rest`: what they leave
    of it, rounding of a residual stream that is summed in half precision."""
    parts = {name: getattr(found, name)[position] for name in PARTS if name not in NAMES}
    parts |= {name: np.nansum(getattr(found, name)[:, position]) for name in NAMES}
    logit = float(found.logit[position])
    whole = {name: float(parts[name]) for name in PARTS}
    return {**whole, "rest": logit - sum(whole.values()), "logit": logit}


def repair(found: Attribution, position: int) -> dict[str, float]:
    """Where the change of the logit comes from: `logit` = `own` (of the edited sublayers) + `self_repair`, and this is
    `others` (sublayers the edit leaves alone) + `scale`, but for rounding."""
    changes = found.changes()[..., position]
    baseline = found.baseline or found
    return {
        "logit": float(found.logit[position] - baseline.logit[position]),
        "own": float(changes[found.edited[..., position]].sum()),
        "others": float(changes[~found.edited[..., position]].sum()),
        "scale": float(found.scale[position]),
        "self_repair": float(found.self_repair()[position]),
    }


def is_repair(found: Attribution, position: int) -> bool:
    """Whether what follows makes good a part of what an ablation took: own < 0 < self-repair <= -own. An edit that moves or
    repeats layers takes nothing away that could be repaired, and what exceeds the loss is another effect."""
    ablates = all(step.split()[0] in SWITCHING for step in found.schedule.split(";") if step.strip())
    of = repair(found, position)
    return ablates and of["own"] <= -SMALLEST and 0 < of["self_repair"] <= -of["own"]


def repair_words(found: Attribution, position: int) -> str:
    """ "self-repair +0.80 undoes 38 % of the -2.10 of the edit: +0.75 by other sublayers, +0.05 by the final scale" """
    of = repair(found, position)
    own, rest = of["own"], of["self_repair"]
    by = f"{_signed(of['others'])} by other sublayers, {_signed(of['scale'])} by the final scale"
    if abs(own) < SMALLEST:
        return f"the edit changes nothing by itself; what follows: {by}"
    if not is_repair(found, position):
        return f"no self-repair: {_signed(own)} by the edit itself, {_signed(rest)} by what follows: {by}"
    return f"self-repair {_signed(rest)} undoes {-100 * rest / own:.0f} % of the {_signed(own)} of the edit: {by}"


def strongest(values: np.ndarray, most: int = MOST_NAMED) -> list[tuple[int, int]]:
    """(layer, 0 for attention or 1 for the MLP) of the largest of [L, 2] by size, those that a reader would see."""
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[:most]
    return [divmod(int(at), 2) for at in order if abs(values.flat[at]) >= SMALLEST]


# -------------------------------------------------------------------------------------------------- JSON


def attribution_json(found: Attribution, position: int = -1) -> dict[str, Any]:
    """Schema attribution/1 of one position. `depths` are as executed, `layers` the model's own, all copies together;
    `change` is null where nothing is edited."""
    at = position % len(found.tokens)
    tracked = int(found.tracked[at])
    by_layer, changes = found.by_layer()[..., at], found.changes()[..., at]
    is_edit = found.baseline is not None
    return {
        "schema": "attribution/1",
        "model": model_json(found.model),
        "prompt": found.prompt,
        "tokens": [{"id": token.id, "text": token.text} for token in found.tokens],
        "schedule": found.schedule,
        "position": at,
        "tracked": {"id": tracked, "text": found.texts.get(tracked, f"[id {tracked}]")},
        **_numbers(sums(found, at)),
        "baseline": _numbers(sums(found.baseline, at)) if is_edit else None,
        "change": _numbers(repair(found, at)) if is_edit else None,
        "depths": [
            {
                "depth": depth,
                "layer": layers[0] if len(layers) == 1 else None,
                "layers": list(layers),
                **{name: number(getattr(found, name)[depth, at]) for name in NAMES},
            }
            for depth, layers in enumerate(found.layers)
        ],
        "layers": [
            {
                "layer": layer,
                **_both(by_layer[layer]),
                "change": _both(changes[layer]) if is_edit else None,
                "edited": {name: bool(value) for name, value in zip(NAMES, found.edited[layer, :, at], strict=True)},
            }
            for layer in range(found.model.n_layers)
        ],
    }


def _numbers(values: dict[str, float]) -> dict[str, float | None]:
    return {name: number(value) for name, value in values.items()}


def _both(values: np.ndarray) -> dict[str, float | None]:
    return {name: number(value) for name, value in zip(NAMES, values, strict=True)}


# -------------------------------------------------------------------------------------------- plain text


def attribution_text(found: Attribution, position: int = -1, width: int = LINE) -> list[Text | Table]:
    """The logit at one position, part by part and layer by layer, the last on top, in `width` cells."""
    at = position % len(found.tokens)
    words = [visible(token.text) for token in found.tokens]
    tokens = " ".join(f"[{word}]" if index == at else word for index, word in enumerate(words))
    lines: list[Text | Table] = [sweep_head(found.model), Text(f"tokens  {tokens}")]
    lines += [Text(f"edit    {printable(found.schedule)}")] if found.schedule else []
    tracked = int(found.tracked[at])
    name = visible(found.texts.get(tracked, f"[id {tracked}]"))
    lines.append(Text(f"logit of “{name}” at position {at}, over the mean of the vocabulary", style="bold"))
    lines.append(_parts_table(found, at))
    shown = found.by_layer()[..., at]
    if found.baseline:
        lines.append(Text(repair_words(found, at), style="bold"))
        shown = found.changes()[..., at]
    kinds = list(NAMES.values())
    named = ", ".join(f"L{layer} {kinds[kind]} {_signed(shown[layer, kind])}" for layer, kind in strongest(shown))
    lines.append(_layers_table(found, at, shown.sum(1), width))
    if named:
        lines.append(Text(f"largest {'changes' if found.baseline else 'effects'}: {named}"))
    if found.edited[..., at].any():
        lines.append(Text("* changed by the edit itself", style="dim"))
    return lines


def _parts_table(found: Attribution, at: int) -> Table:
    """58 cells: a row for the run, under an edit with the baseline and the change."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    rows = {"edited" if found.baseline else "": sums(found, at)}
    if found.baseline:
        base, mine = sums(found.baseline, at), rows["edited"]
        rows = {"baseline": base, **rows, "change": {name: mine[name] - base[name] for name in mine}}
    columns = [*PARTS, *(["rest"] if any(abs(row["rest"]) >= SMALLEST for row in rows.values()) else []), "logit"]
    for name in columns:
        table.add_column(NAMES.get(name, name), justify="right", no_wrap=True)
    for title, row in rows.items():
        table.add_row(title, *(_signed(row[name]) for name in columns))
    return table


def _layers_table(found: Attribution, at: int, values: np.ndarray, width: int) -> Table:
    """Direct effects by layer, under an edit each with its change; bars of `values` [L], both sublayers together."""
    by_layer, changes = found.by_layer()[..., at], found.changes()[..., at]
    titles, rows = ["layer"], []
    for name in NAMES.values():
        titles += [name, *(["change"] if found.baseline else [])]
    for layer in reversed(range(found.model.n_layers)):
        row = [str(layer)]
        for kind in range(2):
            row.append(_signed(by_layer[layer, kind]))
            if found.baseline:
                row.append(_signed(changes[layer, kind]) + ("*" if found.edited[layer, kind, at] else " "))
        rows.append(row)
    taken = sum(2 + max(map(cell_len, column)) for column in zip(titles, *rows, strict=True))
    room = min(width - taken, BAR[1])
    bars = _bars(values, room) if room >= BAR[0] else []
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    if bars:
        table.add_column("change" if found.baseline else "both", no_wrap=True)
    for row, bar in zip(rows, reversed(bars) if bars else [""] * len(rows), strict=True):
        table.add_row(*row, *([Text(bar)] if bars else []))
    return table


def _bars(values: np.ndarray, width: int) -> list[str]:
    """Bars of [L] to the left and the right of a common zero, as long as the largest allows."""
    values = np.nan_to_num(values)
    low, high = min(values.min(initial=0), 0.0), max(values.max(initial=0), 0.0)
    scale = (width - 1) / (high - low) if high > low else 0.0
    zero = min(round(-low * scale), width - 1)
    bars = []
    for value in values:
        n = min(round(abs(value) * scale), zero if value < 0 else width - 1 - zero)
        left, right = ("━" * n, "") if value < 0 else ("", "━" * n)
        bars.append(f"{left.rjust(zero)}│{right}")
    return bars


def _signed(value: float) -> str:
    """ "+1.23"; what would be -0.00 or +0.00 is 0."""
    return "" if np.isnan(value) else "0" if abs(value) < SMALLEST else f"{value:+.2f}"
