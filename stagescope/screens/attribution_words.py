"""The attribution screen's panels and the words of its lines: views, the logit as a sum, one layer in full. All text
harmless. No meaning rests on hue: curves differ in their markers, what goes up or down has its sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.text import Text
from textual.content import Content

from stagescope.engine.protocol import Attribution
from stagescope.reports.attribution import is_repair
from stagescope.screens.sweep_words import CHOSEN, QUIET
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

PANELS = {"direct": "direct effect", "change": "change by the edit"}
SUBLAYERS = ("attn", "MLP")
GREY, WHITE = (128, 128, 128), (238, 238, 238)
WAS = (("◦", ".", GREY), ("▵", ",", GREY))  # attention and MLP of the baseline
EDITED = ("✕", "X", WHITE)
NAMES = 24  # cells of the edited sublayers' names; longer ones are counted
STRONGEST = 3


class Here(NamedTuple):
    """An attribution at one position. L layers; NaN where there is no number."""

    effects: np.ndarray  # [L, 2] attention, MLP; NaN of a layer that does not run
    before: np.ndarray | None  # [L, 2] of the baseline; None when this is it
    edited: np.ndarray  # [L, 2] bool

    @property
    def changes(self) -> np.ndarray:
        """[L, 2] against the baseline: a layer that does not run loses all it added."""
        return np.nan_to_num(self.effects, nan=0.0) - self.before


def here(attribution: Attribution, position: int) -> Here:
    runs = {layer for layers in attribution.layers for layer in layers}
    effects = attribution.by_layer()[:, :, position]
    effects[[layer for layer in range(len(effects)) if layer not in runs]] = np.nan
    base = attribution.baseline
    return Here(effects, None if base is None else base.by_layer()[:, :, position], attribution.edited[..., position])


def panels(attribution: Attribution | None) -> list[str]:
    """Those there is something to draw in: without an edit nothing changes."""
    return list(PANELS) if attribution is not None and attribution.baseline is not None else ["direct"]


# ------------------------------------------------------------------------------------------------ panels


def panel(
    name: str, attribution: Attribution, position: int, layer: int, width: int, height: int, glyphs: Glyphs
) -> Text:
    """By layer: what attention and MLP add to the logit, the baseline's in grey beneath; or how the edit changed that.
    What is edited itself has a mark on the line at 0: beside its own loss the repair would hardly be seen."""
    from stagescope.drawings import curves

    def curve(title: str, y: np.ndarray, mark: tuple) -> curves.Curve:
        known = np.isfinite(y)
        points = np.stack([y, y * np.nan, y * np.nan], -1)[known]
        return curves.Curve(title, curves.Mark(*mark), np.flatnonzero(known).astype(float), points)

    at = here(attribution, position)
    if name == "direct":
        title, shown = "adds to the logit", at.effects
    else:
        title, shown = "changed by the edit", np.where(at.edited, np.nan, at.changes)
    drawn = []
    if name == "direct" and at.before is not None:
        drawn = [curve(f"{one} was", y, mark) for one, y, mark in zip(SUBLAYERS, at.before.T, WAS, strict=True)]
    drawn += [curve(one, y, mark) for one, y, mark in zip(SUBLAYERS, shown.T, curves.MARKS, strict=False)]
    if at.edited.any():
        drawn.append(curve("edited", np.where(at.edited.any(1), 0.0, np.nan), EDITED))
    look = {"scale": "change", "last": float(len(shown) - 1), "chosen": float(layer), "ascii_only": glyphs.ascii_only}
    return curves.panel(title, drawn, width, height, **look)


# ------------------------------------------------------------------------------------------------- lines


def view_line(there: Sequence[str], shown: Sequence[str], schedule: str, width: int, glyphs: Glyphs) -> Content:
    """The panels, those that are drawn bright, a click chooses; then the edit."""
    parts = [
        Content.styled(PANELS[name], CHOSEN if name in shown else QUIET).stylize(f"@click=screen.view('{name}')")
        for name in there
    ]
    left = Content("   ").join(parts)
    room = width - left.cell_length - 2
    if room < 8:
        return left
    told = f"edit {glyphs.cursor} {printable(schedule)}" if schedule else "the baseline"
    right = fit(told, room, glyphs.ascii_only).rstrip()
    return Content.assemble(left, " " * (width - left.cell_length - Content(right).cell_length), (right, QUIET))


def sentence(attribution: Attribution, position: int, short: bool, glyphs: Glyphs) -> list[str]:
    """The logit as a sum. The numbers drawn add up: the largest part takes what rounding left.

    logit of ▸·Paris 14.20 = constant +.10 · embedding -.30 · attention +3.20 · MLPs +11.20
    logit of ▸·Paris 14.20→9.10 · own effect of layer 11 -7.00 · repaired by later layers +1.60 · final norm's scale
    +.30
    short: logit of ▸·Paris 14.20→9.10 · layer 11 own -7.00 · later layers +1.60 · scale +.30
    """
    run, base = attribution, attribution.baseline
    name = f"logit of {glyphs.cursor}{token(attribution, position, glyphs)}"
    logit = float(run.logit[position])
    at = here(attribution, position)
    if base is None:
        parts = {
            "constant": run.constant[position], "embedding": run.embedding[position],
            "attention": np.nansum(at.effects[:, 0]), "MLPs": np.nansum(at.effects[:, 1]),
        }  # fmt: skip
        start, told = 0.0, f"{name} {_two(logit)}"
    else:
        start = float(base.logit[position])
        told = f"{name} {_two(start)}{glyphs.arrow}{_two(logit)}"
        own, later = float(at.changes[at.edited].sum()), float(at.changes[~at.edited].sum())
        named, by = edited_words(at.edited), "repaired by" if later > 0 and is_repair(run, position) else "from"
        parts = {f"{named} own" if short else f"own effect of {named}": own} if at.edited.any() else {}
        parts["later layers" if short else f"{by} later layers"] = later
        parts["scale" if short else "final norm's scale"] = float(run.scale[position])
    if not np.isfinite([start, logit, *parts.values()]).all():
        return [name, "no number at this token"]
    drawn = _adding(start, logit, parts).items()
    terms = [f"{part} {_change(value)}" for part, value in drawn if value or part != "constant"]  # few have biases
    return [f"{told} = {terms[0]}", *terms[1:]] if base is None else [told, *terms]


def _adding(start: float, end: float, parts: dict[str, float]) -> dict[str, float]:
    """The parts to two decimals, the largest such that they add up to what is drawn of both ends."""
    rounded = {name: round(float(value), 2) for name, value in parts.items()}
    largest = max(parts, key=lambda name: abs(parts[name]))
    rest = round(end, 2) - round(start, 2) - sum(rounded.values())
    if abs(rest) < 0.01 * (len(parts) + 2):  # more is no rounding
        rounded[largest] = round(rounded[largest] + rest, 2)
    return rounded


def edited_words(edited: np.ndarray) -> str:
    """layer 11; layers 3-5; attn 4, MLP 9; 7 sublayers, where the names are too long."""
    both = edited.all(1)
    named = {"layer": both, "attn": edited[:, 0] & ~both, "MLP": edited[:, 1] & ~both}
    words = []
    for name, which in named.items():
        if which.any():
            several = "s" if name == "layer" and which.sum() > 1 else ""
            words.append(f"{name}{several} {_ranges(np.flatnonzero(which).tolist())}")
    told = ", ".join(words)
    return told if len(told) <= NAMES else f"{int(edited.sum())} edited sublayers"


def _ranges(layers: list[int]) -> str:
    """3-5 9"""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and spans[-1][-1] == layer - 1:
            spans[-1][1:] = [layer]
        else:
            spans.append([layer])
    return " ".join("-".join(map(str, span)) for span in spans)


def point(attribution: Attribution, position: int, layer: int, glyphs: Glyphs) -> list[str]:
    """One layer in full, then where most is added, or changed by the edit.

    layer 28 · attn +.12→+.15 (+.03) · MLP +3.10→+4.20 (+1.10) · most changed: MLP 28 +1.10, attn 27 +.40
    """
    at = here(attribution, position)
    parts = [f"layer {layer}"]
    ran = not np.isnan(at.effects[layer]).all()
    for which, name in enumerate(SUBLAYERS):
        value, change = float(at.effects[layer, which]), at.edited[layer, which]
        if at.before is None:
            parts.append(f"{name} {_change(value) or 'no number'}")
            continue
        was, now = _change(float(at.before[layer, which])), _change(value) or "gone"
        by = f"{'edited, ' if change else ''}{_change(float(at.changes[layer, which]))}"
        parts.append(f"{name} {was}{glyphs.arrow}{now} ({by})")
    if not ran:
        parts.insert(1, "does not run")
    copies = sum(layer in layers for layers in attribution.layers)
    parts += [f"{copies} copies together"] if copies > 1 else []
    ranked = at.effects if at.before is None else np.where(at.edited, np.nan, at.changes)
    best = _strongest(ranked)
    title = "most" if at.before is None else "most changed by the edit"
    return [*parts, f"{title}: {', '.join(best)}"] if best else parts


def _strongest(values: np.ndarray) -> list[str]:
    """MLP 28 +3.10"""
    sizes = np.where(np.isfinite(values), np.abs(values), 0.0)
    order = np.argsort(-sizes, axis=None, kind="stable")[:STRONGEST].tolist()
    places = [divmod(at, values.shape[1]) for at in order]
    return [
        f"{SUBLAYERS[which]} {layer} {_change(float(values[layer, which]))}"
        for layer, which in places
        if sizes[layer, which] >= 0.005
    ]


def token(attribution: Attribution, position: int, glyphs: Glyphs) -> str:
    """The one whose logit it is."""
    one = int(attribution.tracked[position])
    return visible(attribution.texts.get(one, f"[id {one}]"), glyphs.ascii_only)


def _two(value: float) -> str:
    return f"{value:.2f}"


def _change(value: float) -> str:
    """+3.20 -.04 0: two decimals, as all parts of a sum have; "" for NaN."""
    if value != value:
        return ""
    text = f"{abs(value):.2f}"
    return "0" if float(text) == 0 else ("-" if value < 0 else "+") + (text[1:] if text[0] == "0" else text)
