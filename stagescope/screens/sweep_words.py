"""The words of the sweep screen's lines: the prompt, the views, one point in full. All text harmless."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from textual.content import Content

from stagescope import actions
from stagescope.engine.protocol import Sweep, SweepRow
from stagescope.reports import sweep as sweep_report
from stagescope.reports import sweep_units
from stagescope.screens.deck import excerpt
from stagescope.screens.sweep_deck import median_and_worst
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

VIEWS = {
    "curves": ("drop", "swap"), "sublayers": ("attn-off", "mlp-off"), "trace": ("trace",), "heads": ("heads",),
    "sets": ("neuron-sets",),
}  # fmt: skip
OF_ONE = ("trace", "heads")  # views of one prompt
MEASURES = {"kl_nats": "KL", "top1_same": "top-1 kept", "entropy_change_bits": "entropy change"}
QUIET, CHOSEN = "$foreground 60%", "bold $primary"


def prompt_line(
    prompts: Sequence[str], prompt: str, shown: int | None, n_tokens: int | None, width: int, glyphs: Glyphs
) -> Content:
    """The prompt told in full, how long, and which of how many. shown: None when the median of all is drawn."""
    told = [f"{n_tokens} tokens"] if n_tokens else []
    if len(prompts) > 1:
        which = f"all {len(prompts)} prompts: median" if shown is None else f"prompt {shown + 1} of {len(prompts)}"
        told += [f"[ ] {which}"]
    after = "".join(f" {glyphs.zero} {part}" for part in told)
    room = width - len("prompt   ") - cell_len(after)
    text = fit(prompt, room, glyphs.ascii_only).rstrip()
    return Content.assemble((f"prompt {glyphs.cursor} ", QUIET), text, (after, QUIET))


def view_line(view: str, kind: str, measure: str | None, width: int, glyphs: Glyphs) -> Content:
    """Views and measures, the ones that are shown bright, a mark at the chosen series; a click chooses.

    measure: None when all three are drawn. Names are as long as the width allows.
    """

    def clicked(name: str, style: str, does: str) -> Content:
        return Content.styled(name, style).stylize(f"@click=screen.{does}")

    def kinds_of(name: str, joined: str) -> Content:
        style = CHOSEN if name == view else QUIET
        names = {one: "neurons" if one == "neuron-sets" else one for one in VIEWS[name]}
        names = names if " " in joined else {one: told.removesuffix("-off") for one, told in names.items()}
        marked = {one: f"{glyphs.cursor}{told}" if one == kind else told for one, told in names.items()}
        parts = [clicked(told, style, f"view('{one}')") for one, told in marked.items()]
        return Content.styled(joined, style).join(parts)

    def line(gap: str, joined: str, names: dict[str, str]) -> Content:
        left = Content(gap).join(kinds_of(name, joined) for name in VIEWS)
        if view == "trace":
            return left
        styles = {key: CHOSEN if measure in (None, key) else QUIET for key in names}
        right = Content("  ").join(clicked(name, styles[key], f"measure('{key}')") for key, name in names.items())
        return Content.assemble(left, " " * max(width - left.cell_length - right.cell_length, 2), right)

    short = {**MEASURES, "top1_same": "top-1", "entropy_change_bits": f"{glyphs.delta}H"}
    lines = [line("   ", " + ", MEASURES), line("   ", " + ", short), line("  ", "+", short)]
    return next((one for one in lines if one.cell_length <= width), lines[-1])


def point(sweep: Sweep, row: int, here: int, glyphs: Glyphs) -> list[str]:
    """One row of a sweep of curves in full; `here` is the position looked at.

    drop 11 · KL mean 4.28, median 3.90 (n=10), here 4.93 · top-1 kept 1/10 · ΔH +2.1 bits · loss +3.2 nats · 1st of ..
    """
    if said := _unknown(sweep, row):
        return said
    name = sweep_units.row_name(sweep.rows[row])
    kl, same, bits, loss = (
        values[row] for values in (sweep.kl_nats, sweep.top1_same, sweep.entropy_change_bits, sweep.loss_change_nats)
    )
    at = [position for position in sweep.mean_positions() if not np.isnan(kl[position])]
    if not at:
        return [name, *_note(sweep, row)]
    noise = " (noise)" if kl[at].mean() <= sweep.model.noise_kl else ""
    spread = f"mean {g.number(float(kl[at].mean()))}{noise}, median {g.number(float(np.median(kl[at])))} (n={len(at)})"
    losses = loss[at][~np.isnan(loss[at])]
    return [
        name,
        f"KL {spread}, here {g.number(float(kl[here])) or glyphs.ellipsis}",
        f"top-1 kept {int(np.nansum(same[at]))}/{len(at)}",
        f"{glyphs.delta}H {g.signed(float(bits[at].mean()))} bits",
        *([f"loss {g.signed(float(losses.mean()))} nats"] if losses.size else []),
        *_place(sweep, row),
        *_note(sweep, row),
    ]


def traced_point(sweep: Sweep, row: int, glyphs: Glyphs) -> list[str]:
    """One cell of a trace in full.

    drop 5 @3 ·Tower · after ·of ▸·Paris p .753→.204, rank 1→3 · KL 1.20, 3rd of 330 places · top-1 changed · ΔH ..
    """
    if said := _unknown(sweep, row):
        return said
    here, of = sweep.positions[0], sweep.rows[row].position

    def token(position: int) -> str:
        return visible(sweep.tokens[position].text, glyphs.ascii_only)

    text = visible(sweep.texts.get(int(sweep.tracked[here]), f"[id {sweep.tracked[here]}]"), glyphs.ascii_only)
    p_was, rank_was = float(sweep.base_tracked_p[here]), float(sweep.base_tracked_rank[here])
    p, rank = float(sweep.tracked_p[row, here]), float(sweep.tracked_rank[row, here])
    change = f"p {g.probability(p_was)}{glyphs.arrow}{g.probability(p)}"
    ranks = g.rank(rank) if rank == rank_was else f"{g.rank(rank_was)}{glyphs.arrow}{g.rank(rank)}"
    kl = float(sweep.kl_nats[row, here])
    return [
        sweep.rows[row].schedule + ("" if of is None else f" {token(of)}"),
        *([] if np.isnan(kl) else [
            f"after {token(here)} {glyphs.cursor}{text} {change}, rank {ranks}",
            ", ".join([f"KL {g.number(kl)}", *_place(sweep, row)]),
            "top-1 kept" if sweep.top1_same[row, here] == 1 else "top-1 changed",
            f"{glyphs.delta}H {g.signed(float(sweep.entropy_change_bits[row, here]))} bits",
        ]),
        *_note(sweep, row),
    ]  # fmt: skip


def set_said(drawn: Sweep, row: SweepRow, averaged: str) -> str:
    """What a set of neurons says of the question, then the numbers: a narrow screen cuts the end. averaged: "median of
    3 prompts", or ""."""
    name = row.variant.removeprefix("random as ")
    told = sweep_units.sharpening(drawn, name, row.index) if name in sweep_units.CLASSES else []
    said = " ".join([*told[2:], *told[:2]])
    return f"{averaged[0].upper()}{averaged[1:]}: {said}" if averaged and said else said


def point_and(said: str, parts: Sequence[str], width: int, lines: int, glyphs: Glyphs) -> Content:
    """A point in the first lines, below it sentences, in `lines` lines of `width` cells."""
    below = textwrap.wrap(said, width)[: lines - 1]
    return Content("\n").join([wrapped(parts, width, lines - len(below), glyphs), *map(Content, below)])


def deck_words(sweeps: Sequence[Sweep], row: int, n_prompts: int, glyphs: Glyphs) -> list[str]:
    """deck of 7: KL median .31, worst 4.4 on “prompt…”"""
    found = median_and_worst(sweeps, row)
    if found is None:
        return []
    median, worst, where = found
    known = sum(bool(sweep.done[row]) for sweep in sweeps)
    of = f"deck of {n_prompts}" if known == n_prompts else f"deck, {known} of {n_prompts} so far"
    return [f"{of}: KL median {g.number(median)}, worst {g.number(worst)} on {excerpt(where.prompt, glyphs, 30)}"]


def wrapped(parts: Sequence[str], width: int, lines: int, glyphs: Glyphs) -> Content:
    """Whole parts, a dot between two, in `lines` lines of `width` cells; the first is bold, what is too much is cut."""
    dot = f" {glyphs.zero} "
    rows = [""]
    for part in parts:
        longer = rows[-1] + dot + part if rows[-1] else part
        if cell_len(longer) > width and rows[-1] and len(rows) < lines:
            rows.append(part)
        else:
            rows[-1] = longer
    shown = [row if cell_len(row) <= width else fit(row, width, glyphs.ascii_only) for row in rows]
    text = Content("\n".join(shown))
    return text.stylize("bold", 0, len(parts[0])) if parts else text


def count(done: int, rows: int | None, running: bool) -> str:
    """59 rows; 12 of 59 rows; r goes on. rows: None while it is not known how many there are."""
    if rows is None:
        return "" if running else f"not run yet; {actions.key('rest', 'sweep')} runs it"
    if done == rows:
        return f"{rows} rows"
    return f"{done} of {rows} rows" + ("" if running else f"; {actions.key('rest', 'sweep')} goes on")


def _unknown(sweep: Sweep, row: int) -> list[str]:
    """What to say of a row that was not run."""
    return [] if sweep.done[row] else [sweep_units.row_name(sweep.rows[row]), "not run yet", *_note(sweep, row)]


def _note(sweep: Sweep, row: int) -> list[str]:
    return [printable(sweep.notes[row])] if row in sweep.notes else []


def _place(sweep: Sweep, row: int) -> list[str]:
    """1st of 30 drops; a set is larger than another, not stronger, and has none."""
    if sweep.kind == "neuron-sets":
        return []
    place = sweep_report.standing(sweep, sweep.rows[row].schedule)
    return [] if place is None else [sweep_report.place_words(*place, sweep.kind)]
