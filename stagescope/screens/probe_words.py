"""What the probe screen draws and says: neurons with their accuracy, ensembles by size beside the model's own answer.

All text harmless. No meaning rests on hue: classes are named, curves differ in their markers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.content import Content

from stagescope.engine.protocol import Probe, ProbeScore
from stagescope.reports.probe import KINDS, between, percent
from stagescope.screens import attention_words
from stagescope.screens.neurons_words import COLOURS, HEAD
from stagescope.screens.sweep_words import CHOSEN, QUIET
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs, fraction
from stagescope.text import fit, printable, visible

TITLES = {"both": "both", "neurons": "single neurons", "ensembles": "ensembles"}
CHANCE = 0.5
MASS, TOP = "model's mass", "model's top"  # the model's own answers
DASHED, DOTTED = ("╌", "-", (216, 220, 226)), ("┈", ".", (216, 220, 226))  # and their lines
KIND, ACCURACY, INTERVAL, LAST = 4, 5, 7, 9  # cells of the list's columns
TRAINED, CONTRAST = 72, 84  # cells of the list from which there are such columns too
AXIS, TWO_LINES = "%, by k", 10  # what y and x are; lines from which the legend may take two


# --------------------------------------------------------------------------------------------------- lines


def text_line(probe: Probe | None, suffix: str, width: int, glyphs: Glyphs) -> Content:
    """ "next token ▸ ends in “ing” · after 24 tokens · the standard text" """
    asked = probe.asked if probe else f"ends in “{suffix}”"
    if glyphs.ascii_only:
        asked = asked.replace("“", '"').replace("”", '"')
    after = f"after {probe.context} tokens" if probe else ""
    choices = [f"{after} of {printable(probe.source)}", after] if probe else []
    room = width - len("next token   ") - cell_len(asked) - 3  # what is asked comes first
    told = next((one for one in choices if cell_len(one) <= room), "")
    return attention_words.text_line("next token", asked, told, width, glyphs)


def view_line(
    views: Sequence[str], view: str, kinds: Sequence[str], kind: str | None, width: int, glyphs: Glyphs
) -> Content:
    """Views, then the classes; a click chooses."""

    def choice(text: str, chosen: bool, does: str) -> Content:
        told = f"{glyphs.cursor}{text}" if chosen else text
        return Content.styled(told, CHOSEN if chosen else QUIET).stylize(f"@click=screen.{does}")

    left = Content("   ").join(choice(TITLES[one], one == view, f"view('{one}')") for one in views)
    names = [choice("all", kind is None, "kind('')"), *(choice(one, one == kind, f"kind('{one}')") for one in kinds)]
    right = Content("  ").join(names) if kinds and view != "ensembles" else Content()
    if left.cell_length + 2 + right.cell_length > width:
        right = Content.styled(f"{glyphs.cursor}{kind or 'all'}", CHOSEN)
    return Content.assemble(left, " " * max(width - left.cell_length - right.cell_length, 2), right)


def ranked(probe: Probe, kind: str | None) -> list[ProbeScore]:
    """Single neurons of a class, or of all, the best in training first; NaN last. Held-out accuracy ranks nothing: the
    best of many would be lucky."""
    rows = [one for one in probe.neurons if kind in (None, one.kind)]
    return sorted(rows, key=lambda one: -math.inf if math.isnan(one.train) else one.train, reverse=True)


def kinds_of(scores: Sequence[ProbeScore]) -> list[str]:
    """Classes there are, the control after them."""
    found = {one.kind for one in scores}
    return [kind for kind in KINDS if kind in found]


# ---------------------------------------------------------------------------------------------------- list


def _name_cells(probe: Probe) -> int:
    return max(len(f"{probe.model.n_layers - 1}.{probe.model.d_mlp - 1}"), len(MASS) - 1 - KIND)


def _bar_cells(probe: Probe, width: int) -> int:
    more = LAST * ((width >= TRAINED) + (width >= CONTRAST))
    return max(width - 2 - _name_cells(probe) - KIND - ACCURACY - INTERVAL - 3 - more, 0)


def list_head(probe: Probe, width: int, glyphs: Glyphs) -> Content:
    """Above the bars their scale."""
    cells = _bar_cells(probe, width)
    middle = "75 %" if cells >= 18 else ""
    scale = f"50 %{middle:^{cells - 9}}100 %" if cells > 9 else " " * cells
    line = f" {'neuron':<{_name_cells(probe)}} {'kind':<{KIND}} {'held':>{ACCURACY}} {'95 %':<{INTERVAL}} {scale}"
    line += f"{'trained':>{LAST}}" * (width >= TRAINED) + f"{'contrast':>{LAST}}" * (width >= CONTRAST)
    return Content.styled(fit(line, width, glyphs.ascii_only), HEAD)


def list_line(probe: Probe, one: ProbeScore, width: int, mark: str, glyphs: Glyphs) -> Content:
    """A neuron, or the model's own answer (layer None), in exactly `width` cells. mark: the cell before it."""
    bar = g.bar(fraction(one.accuracy, CHANCE, 1.0), _bar_cells(probe, width), glyphs)
    after = f"{percent(one.train):>{LAST}}" * (width >= TRAINED)
    after += f"{g.number(one.contrast):>{LAST}}" * (width >= CONTRAST)
    names = _name_cells(probe)
    if one.layer is None:
        start = [mark, f"{MASS if one is probe.mass else TOP:<{names + 1 + KIND}}"]
    else:
        kind = fit(one.kind[:KIND], KIND), COLOURS.get(one.kind, "")
        start = [mark, f"{f'{one.layer}.{one.index}':<{names}} ", kind]
    numbers = f" {percent(one.accuracy):>{ACCURACY}} {between(one):<{INTERVAL}} "
    return Content.assemble(*start, fit(f"{numbers}{bar}{after}", max(width - len(mark) - names - 1 - KIND, 0)))


# ------------------------------------------------------------------------------------------------ ensembles


def sizes(probe: Probe | None) -> list[int]:
    """k, ascending; 1 is the best single neuron."""
    return sorted({1, *(one.size for one in probe.ensembles)}) if probe else []


def of_size(probe: Probe, size: int) -> list[ProbeScore]:
    """One a class: the k best in training together; of 1 the best alone."""
    found = {one.kind: ranked(probe, one.kind)[0] for one in probe.neurons} if size == 1 else {}
    found |= {one.kind: one for one in probe.ensembles if one.size == size}
    return list(found.values())


def curves(probe: Probe, size: int, width: int, height: int, glyphs: Glyphs) -> Text:
    """Held-out accuracy against k, on a log axis, of each class; the model's own mass and argmax as lines. Exactly
    `height` lines of at most `width` cells."""
    from stagescope.drawings import curves as drawing

    ks = sizes(probe)
    last, marks = math.log2(ks[-1]), iter(drawing.MARKS)
    drawn = []
    known = [(k, one) for k in ks for one in of_size(probe, k) if not math.isnan(one.accuracy)]
    for kind in kinds_of((*probe.neurons, *probe.ensembles)):
        points = [(k, one) for k, one in known if one.kind == kind]
        y = 100 * np.array([[one.accuracy, one.low, one.high] for _, one in points]).reshape(-1, 3)
        drawn.append(drawing.Curve(kind, next(marks), np.log2([k for k, _ in points]), y))
    x = np.linspace(0, last, max(width, 2))
    lone = x * np.nan  # no interval: it would fill the panel
    levels = [
        drawing.Curve(name, drawing.Mark(*mark), x, np.stack([x * 0 + 100 * one.accuracy, lone, lone], -1), level=True)
        for name, mark, one in ((MASS, DASHED, probe.mass), (TOP, DOTTED, probe.argmax))
        if not math.isnan(one.accuracy)
    ]  # fmt: skip
    legends = [drawing.legend(each, glyphs.ascii_only) for each in (drawn, levels)]
    head = [Text.assemble((f"{AXIS}  ", "bold"), *legends)]
    if head[0].cell_len > width and height >= TWO_LINES:
        head = [Text.assemble((f"{AXIS}  ", "bold"), legends[0]), Text(" " * len(f"{AXIS}  ")).append_text(legends[1])]
    look = {"scale": "share", "share": (100 * CHANCE, 100), "ends": (0.0, last), "named": drawing.power_of_two}
    look |= {"rule": (math.log2(size), None), "ascii_only": glyphs.ascii_only}
    body = drawing.plot([*levels, *reversed(drawn)], width, height - len(head), **look)
    return drawing.exactly([*head, *body], width, height, glyphs.ascii_only)


def at_cell(ks: Sequence[int], x: int, cells: int) -> float:
    """log2 k at a cell right of the axis."""
    return x / max(cells - 1, 1) * (math.log2(ks[-1]) + 1) - 0.5


# ------------------------------------------------------------------------------------------------- one of them


def neuron_told(probe: Probe, one: ProbeScore, place: int, of: int) -> list[str]:
    """28.1011 prediction · held out 81.2 (78-84) · trained 83.0, 3 of 48 · contrast .120"""
    told = [f"{one.layer}.{one.index} {one.kind}", f"held out {_told(one)}"]
    told += [f"trained {percent(one.train) or 'no number'}, {place} of {of}"]
    told += [f"contrast {g.number(one.contrast)}"] if not math.isnan(one.contrast) else []
    return told


def _told(one: ProbeScore) -> str:
    """81.2 (78-84)"""
    span = between(one)
    return (percent(one.accuracy) or "no number") + (f" ({span})" if span else "")


def size_told(probe: Probe, size: int) -> list[str]:
    """the 8 best together · prediction 83.1 (79-87) · suppression ... · model's mass 88.0 (85-91) · model's top 80.1"""
    told = ["the best neuron alone" if size == 1 else f"the {size} best together"]
    found = {one.kind: one for one in of_size(probe, size)}
    scores = [(kind, found[kind]) for kind in kinds_of(tuple(found.values()))]
    scores += [(MASS, probe.mass), (TOP, probe.argmax)]
    return told + [f"{name} {_told(one)}" for name, one in scores]


def split_told(probe: Probe) -> list[str]:
    """trained on 600 contexts: 80 lemmas, 300 documents · held out 200: 30, 100"""
    (n, lemmas, documents), (n_held, held_lemmas, held_documents) = probe.train, probe.held
    return [
        f"trained on {n} contexts: {lemmas} lemmas, {documents} documents",
        f"held out {n_held}: {held_lemmas}, {held_documents}",
    ]


def examples_told(probe: Probe, glyphs: Glyphs) -> list[str]:
    """yes: was·seen → ·walking · no: he·had → ·walked"""
    marks = {"positive": "yes", "negative": "no"}

    def shown(text: str) -> str:
        return visible(text, glyphs.ascii_only)

    to = glyphs.arrow
    return [f"{marks.get(kind, kind)}: {shown(end)} {to} {shown(token)}" for end, token, kind in probe.examples]
