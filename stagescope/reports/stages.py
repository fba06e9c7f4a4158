"""A StageMap as JSON (the contract of the command line) and as plain text; how its parts are put into words."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.text import Text

from stagescope.engine.protocol import ModelInfo, Signal, Stage, StageMap
from stagescope.reports.reading import model_json, number, numbers
from stagescope.text import fit, printable

NO_MAP = "the boundaries will be this tool's own: the paper gives none"
UNKNOWN, UNKNOWN_ASCII = "░", "?"  # a layer of no stage
SIGNAL = 50  # cells that the title of a curve takes at most
MANY = 100  # scored tokens from which a map speaks of the model, and not of the prompt
EXPLAINED = (
    "depth: 0 is the first layer, 1 the last. before, after: means over the layers looked at on either side. alone: where this "
    "curve by itself would put the boundary. explains: share of the curve's variance that a step there explains; "
    "noise: what 95 % of noise stays below."
)


# -------------------------------------------------------------------------------------------------- JSON


def stages_json(map: StageMap, info: ModelInfo) -> dict[str, Any]:
    """Schema stages/1. What is not visible or not known is null; `evidence` and `curves` are by the curve's name."""
    return {
        "schema": "stages/1",
        "model": model_json(info),
        "source": map.source,
        "documents": map.documents,
        "tokens_scored": map.tokens_scored,
        "rule": map.rule,
        "stages": [_stage_json(stage) for stage in map.stages],
        "curves": {name: numbers(curve) for name, curve in zip(map.signals, map.curves, strict=True)},
    }


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "first_layer": {"value": stage.first_layer, "low": stage.low, "high": stage.high},
        "last_layer": stage.last_layer,
        "visible": stage.visible,
        "why": stage.why,
        "evidence": {signal.name: _signal_json(signal) for signal in stage.evidence},
    }


def _signal_json(signal: Signal) -> dict[str, Any]:
    measured = {name: number(getattr(signal, name)) for name in ("before", "after", "explained", "needed")}
    return {"title": signal.title, "first": signal.first, **measured, "agrees": bool(signal.agrees)}


# ------------------------------------------------------------------------------------------------- words


def band(map: StageMap | None, n_layers: int, ascii_only: bool = False) -> str:
    """One character a layer: 1 2 3 4, hatched where its stage is not known."""
    unknown = UNKNOWN_ASCII if ascii_only else UNKNOWN
    stages = [None if map is None else map.stage_of(layer) for layer in range(n_layers)]
    return "".join(unknown if stage is None else str(stage + 1) for stage in stages)


def over(map: StageMap) -> str:
    """Which text, how much of it, and what follows from that."""
    documents = "1 document" if map.documents == 1 else f"{map.documents:,} documents"
    single = "; a single one has no interval" if map.documents == 1 else ""
    return f"{printable(map.source)}: {documents}, {map.tokens_scored:,} tokens{single}"


def layers(stage: Stage) -> str:
    """3-7 (2-4): first and last layer, and the 95 % interval of the first, which is 0 for stage 1 and not in doubt."""
    if not stage.visible:
        return ""
    interval = f" ({stage.low}-{stage.high})" if stage.low is not None and stage.first_layer else ""
    return f"{stage.first_layer}-{stage.last_layer}{interval}"


def depths(stage: Stage, n_layers: int) -> str:
    """.00-.07: the same as a share of the way from the first layer to the last."""
    if not stage.visible:
        return ""
    return "-".join(_depth(layer, n_layers) for layer in (stage.first_layer, stage.last_layer))


def _depth(layer: int, n_layers: int) -> str:
    return f"{layer / max(n_layers - 1, 1):.2f}".removeprefix("0")


def boundary(index: int, stage: Stage) -> str:
    """Which boundary the evidence of a stage is of: the one it begins at; of stage 1, the one it ends at."""
    if index == 0:
        return "where stage 1 ends: " + (f"after layer {stage.last_layer}" if stage.visible else "not visible")
    where = "not visible" if stage.first_layer is None else f"layer {stage.first_layer}"
    interval = "" if stage.low is None else f", 95 % of {stage.low}-{stage.high}"
    return f"where stage {index + 1} begins: {where}{interval}"


def evidence_table(stage: Stage, width: int, ascii_only: bool = False) -> list[str]:
    """A heading and a line a curve, each at most `width` cells; nothing where there is no evidence."""
    if not stage.evidence:
        return []
    arrow = ">" if ascii_only else "→"
    title = min(max(width - 47, 12), SIGNAL)
    lines = [f"{'curve':{title}}  {'before' + arrow + 'after':>13} {'alone':>6} {'explains':>9} {'noise':>6}"]
    for one in stage.evidence:
        change = f"{_short(one.before)}{arrow}{_short(one.after)}"
        alone = "none" if one.first is None else f"at {one.first}"
        shares = f"{_share(one.explained):>9} {_share(one.needed):>6}"
        agrees = "yes" if one.agrees else "no"
        lines.append(f"{fit(one.title, title, ascii_only)}  {change:>13} {alone:>6} {shares}  {agrees}")
    lines[0] += "  agrees"
    return [fit(line, width, ascii_only).rstrip() for line in lines]


def _short(value: float) -> str:
    return format(value, ".3g") if value == value else "?"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value == value else "?"


# -------------------------------------------------------------------------------------------- plain text


def stages_text(map: StageMap, width: int = 80) -> list[Text]:
    """The map for people: lines of at most `width` cells (60 or more)."""
    n_layers = map.model.n_layers
    few = f"A map over {map.tokens_scored} tokens says more of them than of the model: give it a text."
    lines = [
        *wrapped(f"stages of {printable(map.model.name)} over {over(map)}", width),
        *wrapped(printable(map.rule), width, style="dim"),
        *(wrapped(few, width, style="bold") if map.tokens_scored < MANY else []),
        Text(),
        *_bands(map, width),
        Text(),
        Text(f"  {'stage':23} {'layers (first, 95 %)':22} depth", style="dim"),
    ]
    for index, stage in enumerate(map.stages):
        place = f"{layers(stage):22} {depths(stage, n_layers)}" if stage.visible else unseen(map)
        lines += [Text(f"{index + 1} {fit(stage.name, 23)} {place}".rstrip(), style="bold" if stage.visible else "")]
        lines += wrapped(printable(stage.why), width, indent="  ")
    later = [stage.evidence for stage in map.stages[1:]]
    for index, stage in enumerate(map.stages):
        table = evidence_table(stage, width)
        if table and (index or stage.evidence not in later):  # of stage 1 it is that of the boundary it ends at
            lines += [Text(), Text(boundary(index, stage)), Text(table[0], style="dim")]
            lines += [Text(line) for line in table[1:]]
    lines += [Text(), *wrapped(EXPLAINED, width, style="dim")]
    return lines


def unseen(map: StageMap) -> str:
    """What is said of a stage that is not visible: little was asked of a few tokens."""
    return "not visible in this model" if map.tokens_scored >= MANY else f"not visible over {map.tokens_scored} tokens"


def _bands(map: StageMap, width: int) -> list[Text]:
    """Layer numbers above 1 2 3 4 or a hatch, folded where a model has more layers than the line has cells."""
    drawn, room, lines = band(map, map.model.n_layers), width - 8, []
    for start in range(0, len(drawn), room):
        part = drawn[start : start + room]
        ticks = "".join(f"{layer:<5}" for layer in range(start, start + len(part), 5)).rstrip()
        lines += [Text(f"layer   {ticks}"[:width], style="dim"), Text(f"stage   {part}")]
    return lines


def wrapped(text: str, width: int, indent: str = "", style: str = "") -> list[Text]:
    wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)
    return [Text(fit(line, width).rstrip(), style=style) for line in wrapped]
