"""The lens screen's panels and the words of its lines: views, arrivals, one depth in full. All text harmless."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.content import Content

from stagescope.engine.lens_curves import arrival
from stagescope.engine.protocol import LENSES, Census, LensCurves
from stagescope.reports.lens import LENS_NAMES, NEAR_TOP, arrival_words
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

PANELS = {  # in the order they stand in
    "kl": "KL", "neurons": "neurons", "entropy": "entropy", "rank": "rank", "p": "p", "difference": "logit difference",
}  # fmt: skip
# What is looked at together where not all fit; KL above the census is the paper's Figure 6.
PAIRS = (("entropy", "kl"), ("rank", "p"), ("kl", "neurons"), ("difference",))
NAME = 14  # cells of a token in a legend
QUIET, CHOSEN = "$foreground 60%", "bold $primary"


def panels(curves: LensCurves | None, census: Census | None) -> list[str]:
    """Those there is something to draw in."""
    n_followed = len(curves.followed) if curves else 1
    there = {"neurons": census is not None, "rank": n_followed, "p": n_followed, "difference": n_followed == 2}
    return [name for name in PANELS if there.get(name, True)]


def views(there: Sequence[str], at_once: int) -> list[tuple[str, ...]]:
    """What `v` goes through: all where so many fit, then pairs, or each alone."""
    if at_once < 2:
        return [(name,) for name in there]
    pairs = [tuple(name for name in pair if name in there) for pair in PAIRS]
    several = [pair for pair in pairs if pair and pair != ("kl",)]  # of which entropy has it already
    return [tuple(there), *several] if at_once >= len(there) else several


# ------------------------------------------------------------------------------------------------ panels


def panel(
    name: str, curves: LensCurves, census: Census | None, lens: int, at: int, width: int, height: int, glyphs: Glyphs
) -> Text:
    """One panel by depth, depth 0 left out of its scale: there the corrected lens echoes the token it reads, with 100
    to 550 nats, and looks certain. lens: of the followed tokens, an index of LENSES. at: the depth of the rule."""
    from stagescope.drawings import curves as drawing

    of_lens = f", {LENS_NAMES[LENSES[lens]]} lens" if lens else ""
    title, scale = {
        "kl": ("KL to the output, nats", "log"),
        "neurons": (neurons_title(census), "linear"),
        "entropy": ("entropy, bits", "linear"),
        "rank": (f"rank, 1 is the top{of_lens}", "log"),
        "p": (f"p{of_lens}", "share"),
        "difference": (f"logit difference{of_lens}", "change"),
    }[name]
    columns = {
        "kl": lambda: {LENS_NAMES[one]: curves.kl_final_nats[which] for which, one in enumerate(LENSES)},
        "neurons": lambda: counts(curves, census),
        "entropy": lambda: {LENS_NAMES[one]: curves.entropy_bits[which] for which, one in enumerate(LENSES)},
        "rank": lambda: _of_followed(curves, curves.rank[lens], glyphs),
        "p": lambda: _of_followed(curves, curves.p[lens], glyphs),
        "difference": lambda: {" - ".join(names(curves, glyphs)): curves.logit[lens, :, 0] - curves.logit[lens, :, 1]},
    }[name]()
    drawn = [_curve(told, y, mark) for (told, y), mark in zip(columns.items(), drawing.MARKS, strict=False)]
    last = max(len(curves.layers) - 1, 1)
    look = {"scale": scale, "last": float(last), "chosen": float(at), "ascii_only": glyphs.ascii_only}
    return drawing.panel(title, drawn, width, height, **look)


def _curve(name: str, y: np.ndarray, mark):
    from stagescope.drawings.curves import Curve

    y = np.asarray(y, float)[1:]
    absent = np.full_like(y, np.nan)
    return Curve(name, mark, np.arange(1.0, len(y) + 1), np.stack([y, absent, absent], -1))


def _of_followed(curves: LensCurves, values: np.ndarray, glyphs: Glyphs) -> dict[str, np.ndarray]:
    return dict(zip(names(curves, glyphs), values.T, strict=True))


def names(curves: LensCurves, glyphs: Glyphs) -> list[str]:
    """Of the followed tokens, as legends have them; no two alike."""
    short = [fit(visible(token.text, glyphs.ascii_only), NAME, glyphs.ascii_only).rstrip() for token in curves.followed]
    twice = {name for name in short if short.count(name) > 1}
    return [f"{name} {t.id}" if name in twice else name for name, t in zip(short, curves.followed, strict=True)]


def counts(curves: LensCurves, census: Census) -> dict[str, np.ndarray]:
    """[N] neurons of each class in the MLPs that ran on the way to a depth; 0 at the embedding."""
    kinds = {"prediction": census.prediction, "suppression": census.suppression}
    if census.orientation == "none":
        kinds = {"kurtosis > 10": census.high}
    elif census.unsigned.any():
        kinds["unsigned"] = census.unsigned
    return {kind: np.array([of[list(layers)].sum() for layers in curves.layers], float) for kind, of in kinds.items()}


def neurons_title(census: Census | None) -> str:
    return "neurons: degenerate vocabulary, they say little" if census and census.degenerate else "neurons"


# ------------------------------------------------------------------------------------------------- lines


def view_line(
    there: Sequence[str], shown: Sequence[str], lens: int, schedule: str, width: int, glyphs: Glyphs
) -> Content:
    """The panels, those that are drawn bright, a click chooses; then the lens of the tokens, and the edit."""
    parts = [
        Content.styled(PANELS[name], CHOSEN if name in shown else QUIET).stylize(f"@click=screen.view('{name}')")
        for name in there
    ]
    left = Content("  ").join(parts)
    told = [f"edit {glyphs.cursor} {printable(schedule)}"] if schedule else []
    told = [*([f"tokens: {LENS_NAMES[LENSES[lens]]} lens"] if lens else []), *told]
    room = width - left.cell_length - 2
    if not told or room < 8:
        return left
    right = fit(f" {glyphs.zero} ".join(told), room, glyphs.ascii_only).rstrip()
    return Content.assemble(left, " " * (width - left.cell_length - Content(right).cell_length), (right, QUIET))


def arrivals(curves: LensCurves, lens: int, width: int, glyphs: Glyphs) -> Content:
    """When each followed token arrives, in a line: in sentences where they fit, else in short."""
    under = f"{LENS_NAMES[LENSES[lens]]}: " if lens else ""
    dot = f" {glyphs.zero} "
    told = [arrival_words(curves, lens, index, glyphs.ascii_only) for index in range(len(curves.followed))]
    line = under + dot.join(told)
    if cell_len(line) > width:
        line = under + dot.join(_arrives(curves, lens, index, name) for index, name in enumerate(names(curves, glyphs)))
    return Content.styled(fit(line, width, glyphs.ascii_only).rstrip(), "bold")


def _arrives(curves: LensCurves, lens: int, token: int, name: str) -> str:
    """·Paris top from 28, top 10 from 27"""
    top, near = (arrival(curves, lens, token, within) for within in (1, NEAR_TOP))
    parts = [f"top from {top}"] if top is not None else []
    parts += [f"top {NEAR_TOP} from {near}"] if near not in (None, top) else []
    return f"{name} {', '.join(parts) or f'ends at rank {g.rank(curves.rank[lens, -1, token])}'}"


def point(curves: LensCurves, at: int, glyphs: Glyphs) -> list[str]:
    """One depth in full, each number under both lenses.

    depth 27 of 30, layer 26 · entropy 4.70 bits, v1 4.88 · KL .667 nats, v1 .684 · top “·Paris”, v1 “,” ·
    ▸·Paris rank 1 p .426, v1 3 p .115 · logit difference +3.1, v1 +2.9
    """
    layers, last = curves.layers[at], len(curves.layers) - 1
    where = f"layer {'+'.join(map(str, layers))}" if layers else "the embedding"
    parts = [
        f"depth {at} of {last}, {where}",
        f"entropy {g.number(curves.entropy_bits[0, at])} bits, v1 {g.number(curves.entropy_bits[1, at])}",
        f"KL {_nats(curves.kl_final_nats[0, at])} nats, v1 {_nats(curves.kl_final_nats[1, at])}",
        f"top {_top(curves, 0, at, glyphs)}, v1 {_top(curves, 1, at, glyphs)}",
    ]
    told = names(curves, glyphs)
    for index, name in enumerate(told):
        rank, p = curves.rank[:, at, index], curves.p[:, at, index]
        parts.append(
            f"{glyphs.cursor}{name} rank {g.rank(rank[0])} p {g.probability(p[0])}, "
            f"v1 {g.rank(rank[1])} p {g.probability(p[1])}"
        )
    if len(told) == 2:
        change = [g.signed(float(one)) for one in curves.logit[:, at, 0] - curves.logit[:, at, 1]]
        parts.append(f"logit difference {change[0]}, v1 {change[1]}")
    return parts


def _top(curves: LensCurves, lens: int, at: int, glyphs: Glyphs) -> str:
    token = int(curves.top_ids[lens, at])
    text = visible(curves.texts.get(token, f"[id {token}]"), glyphs.ascii_only)
    text = f'"{text}"' if glyphs.ascii_only else f"“{text}”"
    return f"{text} (= it reads that)" if token == curves.tokens[curves.position].id else text


def _nats(value: float) -> str:
    return "0" if abs(value) < 1e-6 else g.number(value)  # rounding, of either sign
