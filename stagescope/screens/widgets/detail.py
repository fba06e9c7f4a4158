"""Two texts beside the stack: the effect of the edit on the output, and what stands behind one row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from rich.cells import cell_len
from textual.content import Content

from stagescope.engine.protocol import Reading
from stagescope.screens.rows import Row, Top, noise_floor, top_tokens
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, visible

QUIET, BRIGHT, CHANGED, WAS = "$foreground 60%", "bold", "bold #ff8700", "#5f87af"
Part = tuple[str, str]  # text, style


def effect_line(
    reading: Reading,
    position: int,
    width: int,
    *,
    lines: int = 2,
    glyphs: Glyphs = g.UNICODE,
    standing: str = "",
    deck: Sequence[str] = (),
) -> Content:
    """What comes out after the token at `position`, how far from the baseline: 1 or 2 lines of `width` cells.

    Of the baseline itself: its top tokens and entropy. Every number says whether it is at the cursor ("here")
    or a mean and of how many positions; while only one position is covered the means are "…".

    standing: "3rd of 30 drops", ends the numbers and always stays. deck: what the edit does to other prompts, in parts
    after a label, on a line more.
    """
    position = min(position, len(reading.tokens) - 1)
    is_baseline = reading.baseline is None
    output, numbers = (_baseline_output, _baseline_numbers) if is_baseline else (_output, _effects)
    token = visible(reading.tokens[position].text, glyphs.ascii_only)
    label = "out " if reading.lens == "standard" else f"{reading.lens} lens "  # its last depth is not the output
    first = [(label, QUIET), (f"{token} {glyphs.cursor} ", QUIET), *output(reading, position, glyphs)]
    second = _ending(numbers(reading, position, glyphs), standing, width, glyphs)
    shown = _lines(first, second, width, lines, glyphs)
    if not deck:
        return shown
    label, *parts = deck
    return Content.assemble(shown, "\n", *_cut([(label, QUIET), *((part, "") for part in parts)], width, glyphs))


def row_line(
    row: Row,
    reading: Reading | None,
    position: int,
    width: int,
    *,
    lines: int = 2,
    glyphs: Glyphs = g.UNICODE,
    column: str = "norms",
) -> Content:
    """The row in full, 1 or 2 lines of `width` cells: what it is, contributions, distance, tokens, theirs.

    column: what the stack's columns of attention and MLP show; direct effects are told with their token.
    """
    what: list[Part] = [(_what(row) + ": ", "")]
    direct = _direct(row, reading, position, column, glyphs)
    if row.state == "dropped":
        passes = [("the residual stream passes by", ""), *((f" {glyphs.zero} {told}", "") for told in direct)]
        return _lines([*what, *passes], [], width, lines, glyphs)
    edited = bool(row.was) and row.changed
    # Few styles: this line is sent again at every move of the cursor.
    now = [("now ", "")] * edited + [(text, "") for text, _ in _tops(row.top, glyphs)]
    was = [("was ", WAS), *((text, WAS) for text, _ in _tops(row.was, glyphs))] if edited else []
    numbers = [(f"{number} {glyphs.zero} ", "") for number in (*direct, *_numbers(row, reading, position, glyphs))]
    if lines > 1:
        return _lines([*what, *now], [*numbers, *was], width, lines, glyphs)
    room = width - sum(cell_len(text) for text, _ in (*what, *numbers))
    if room < 40:  # too little for tokens that the stack does not show anyway
        return _lines([*what, *numbers], [], width, lines, glyphs)
    now = _cut(now, room // 2 if edited else room, glyphs)
    return _lines([*what, *numbers, *now, ("  ", "")], was, width, lines, glyphs)


# ---------------------------------------------------------------------------------------------- the effect


def _output(reading: Reading, position: int, glyphs: Glyphs) -> list[Part]:
    """Paris .753→.003 rank 1→42, now the .081."""
    base = reading.baseline
    top = int(reading.top_ids[-1, position, 0])
    if top < 0:
        return [(glyphs.ellipsis, QUIET)]
    tracked = int(reading.tracked[position])
    p_was, p_now = float(base.tracked_p[-1, position]), float(reading.tracked_p[-1, position])
    rank_was, rank_now = float(base.tracked_rank[-1, position]), float(reading.tracked_rank[-1, position])
    parts: list[Part] = [(_text(reading, tracked, glyphs), BRIGHT)]
    parts += [(f" {g.probability(p_was)}{glyphs.arrow}", ""), (g.probability(p_now), BRIGHT)]
    before = "" if rank_was == rank_now else f"{g.rank(rank_was)}{glyphs.arrow}"
    parts.append((f" rank {before}{g.rank(rank_now)}", ""))
    if reading.effect_top1_same[position] == 1:
        kept = "still the top token" if top == tracked else f"top token still {_text(reading, top, glyphs)}"
        parts.append((f", {kept}", QUIET))
    else:
        parts += [(", now ", QUIET), (_text(reading, top, glyphs), CHANGED)]
        parts.append((f" {g.probability(float(reading.top_p[-1, position, 0]))}", ""))
    return parts


def _effects(reading: Reading, position: int, glyphs: Glyphs) -> list[Part]:
    """here KL 4.93, ΔH +.90 bits · mean of 10: KL 1.20, top-1 kept 4/10, ΔH +.32, median KL .81."""
    kl, same, bits = reading.effect_kl_nats, reading.effect_top1_same, reading.effect_entropy_bits
    h, more, dot = f"{glyphs.delta}H", glyphs.ellipsis, f" {glyphs.zero} "
    noise = " (noise)" if kl[position] <= noise_floor(reading) else ""
    here: list[Part] = [
        ("here ", QUIET), (f"KL {g.number(float(kl[position])) or more}{noise}", BRIGHT), (", ", ""),
        (f"{h} {g.signed(float(bits[position])) or more}", BRIGHT), (" bits", ""), (dot, QUIET),
    ]  # fmt: skip
    if not (at := _meant(reading, kl)):
        return [*here, (f"means {more}", "")]
    return [
        *here,
        (f"mean of {len(at)}: ", QUIET),
        (f"KL {g.number(float(np.mean(kl[at])))}", ""),
        (f", top-1 kept {int(np.nansum(same[at]))}/{len(at)}", ""),
        (f", {h} {g.signed(float(np.mean(bits[at])))}", ""),
        (f", median KL {g.number(float(np.median(kl[at])))}", ""),  # the mean has a heavy tail
    ]


def _baseline_output(reading: Reading, position: int, glyphs: Glyphs) -> list[Part]:
    return _tops(top_tokens(reading, -1, position), glyphs) or [(glyphs.ellipsis, QUIET)]


def _baseline_numbers(reading: Reading, position: int, glyphs: Glyphs) -> list[Part]:
    """baseline: here H 1.76 bits, mean of 11: 2.01."""
    entropy = reading.entropy_bits[-1]
    at = _meant(reading, entropy)
    here = g.number(float(entropy[position])) or glyphs.ellipsis
    mean = f"mean of {len(at)}: {g.number(float(np.mean(entropy[at])))}" if at else f"mean {glyphs.ellipsis}"
    return [("baseline: here ", QUIET), (f"H {here}", BRIGHT), (" bits", ""), (f", {mean}", "")]


def _meant(reading: Reading, values: np.ndarray) -> list[int]:
    """Positions that enter a mean of values: none while not all are covered, and none that overflowed."""
    whole = len(reading.positions) == len(reading.tokens)
    return [p for p in reading.mean_positions() if not np.isnan(values[p])] if whole else []


# ----------------------------------------------------------------------------------------- words and lines


def _what(row: Row) -> str:
    """row 12 (copy 2 of 3, moved, attention off at some positions)."""
    if not row.layers:
        return "embedding"
    one = len(row.layers) == 1
    name = f"layer {row.layers[0]}" if one else f"mean of layers {', '.join(map(str, row.layers))}"
    by = "mean contribution instead" if row.mean else "off"
    parts = [
        f"copy {row.copy} of {row.copies}" if row.copy else "",
        "moved" if row.moved else "",
        {"off": f"both sublayers {by}", "attn off": f"attention {by}", "mlp off": f"MLP {by}",
         "dropped": "dropped"}.get(row.state, ""),
        f"{_counted('head', row.heads)} {by}" if row.heads else "",
        f"{_counted('neuron', row.neurons)} {by}" if row.neurons else "",
    ]  # fmt: skip
    said = ", ".join(part for part in parts if part) + (" at some positions" if row.partial else "")
    return f"{name} ({said})" if said else name


def _counted(one: str, names: Sequence[str]) -> str:
    """head 3; heads 3, 5; 12 heads"""
    if len(names) > 4:
        return f"{len(names)} {one}s"
    return f"{one}{'s' * (len(names) > 1)} {', '.join(names)}"


def _direct(row: Row, reading: Reading | None, position: int, column: str, glyphs: Glyphs) -> list[str]:
    """attn +.53, mlp -1.2 on the logit of ▸·Paris"""
    attn, mlp = map(g.logits, row.direct)
    if column == "norms" or reading is None or not (attn or mlp):
        return []
    tracked = _text(reading, int(reading.tracked[min(position, len(reading.tokens) - 1)]), glyphs)
    changed = "changed by the edit: " if column == "change" else ""
    return [f"{changed}attn {attn}, mlp {mlp} on the logit of {glyphs.cursor}{tracked}"]


def _numbers(row: Row, reading: Reading | None, position: int, glyphs: Glyphs) -> list[str]:
    """x is the residual stream before the layer; base that of the baseline at the matching depth."""
    numbers = []
    if row.layers and row.attn == row.attn:
        numbers += [f"attn {g.ratio(row.attn, glyphs)} of x, mlp {g.ratio(row.mlp, glyphs)} of x"]
    if reading is not None and reading.baseline is not None and row.depth is not None:
        if not row.synced:
            numbers += ["no baseline depth to compare with"]
        elif row.changed:
            relative, cosine = (float(a[row.depth, position]) for a in (reading.resid_rel, reading.resid_cos))
            if cosine == cosine:
                numbers += [f"x off by {g.number(relative)} of base, cos {cosine:.3f}"]
    if row.echo:
        numbers += ["= echoes the input"]
    return numbers


def _tops(tops: tuple[Top, ...], glyphs: Glyphs) -> list[Part]:
    """Each token a part of its own, so that a line that is too short loses whole tokens."""
    return [(f"{visible(t.text, glyphs.ascii_only)} {g.probability(t.p)}  ", BRIGHT if i == 0 else "")
            for i, t in enumerate(tops)]  # fmt: skip


def _text(reading: Reading, token: int, glyphs: Glyphs) -> str:
    return visible(reading.texts.get(token, f"[id {token}]"), glyphs.ascii_only)


def _lines(first: list[Part], second: list[Part], width: int, lines: int, glyphs: Glyphs) -> Content:
    """Below each other, or side by side in one line; each line cut to `width` cells."""
    if lines == 1 or not second:
        return Content.assemble(*_cut([*first, *([("  ", "")] if second else []), *second], width, glyphs))
    return Content.assemble(*_cut(first, width, glyphs), "\n", *_cut(second, width, glyphs))


def _ending(parts: list[Part], end: str, width: int, glyphs: Glyphs) -> list[Part]:
    """Parts that fit `width` cells with `end` behind them: words go before numbers do."""
    if not end:
        return parts
    dot = f" {glyphs.zero} "
    room = width - cell_len(dot + end)
    for long, short in ((" bits", ""), ("top-1 kept", "top-1")):
        if sum(cell_len(text) for text, _ in parts) > room:
            parts = [(text.replace(long, short), style) for text, style in parts]
    return [*_cut(parts, room, glyphs), (dot, QUIET), (end, "")]


def _cut(parts: list[Part], width: int, glyphs: Glyphs) -> list[Part]:
    """As many whole parts as fit; what would only announce the next one goes too. The line never wraps."""
    kept: list[Part] = []
    used = 0
    for text, style in parts:
        if used + cell_len(text.rstrip()) > width:
            kept = kept or [(fit(text, width, glyphs.ascii_only), style)]
            while len(kept) > 1 and (kept[-1][1] == QUIET or kept[-1][0] in ("now ", "was ")):
                kept.pop()  # a separator or label of what did not fit
            break
        kept.append((text, style))
        used += cell_len(text)
    if kept:
        text, style = kept[-1]
        kept[-1] = (text.rstrip().removesuffix(f" {glyphs.zero}"), style)
    joined = groupby(kept, key=lambda part: part[1])  # a style that changes costs 24 bytes, also to itself
    return [("".join(text for text, _ in parts), style) for style, parts in joined]
