"""A Probe as JSON (the contract of the command line) and as plain text.

Accuracies are on held-out contexts, half of them positive: chance is 50 %. Intervals are 95 %, by bootstrap over
lemmas. Beside every number of some neurons stands that of random ones: as many, or of the same rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.protocol import Probe, ProbeScore
from stagescope.reports.reading import model_json, number
from stagescope.reports.sweep import LINE, sweep_head
from stagescope.text import fit, printable, visible

CHANCE = 0.5
COUNTED = ("contexts", "lemmas", "documents")
MEASURED = ("train", "accuracy", "low", "high")
SINGLY = 5  # neurons of each kind that are shown
KINDS = {  # kind -> many of it
    "prediction": "prediction neurons", "suppression": "suppression neurons", "unsigned": "neurons without a sign",
    "partition": "partition candidates", "random": "random neurons", "all": "neurons of all these kinds",
}  # fmt: skip


# -------------------------------------------------------------------------------------------------- JSON


def probe_json(probe: Probe) -> dict[str, Any]:
    """Schema probe/1. `contrast`: |mean over positive tokens - mean over the rest| of W_U'.w_out. `neurons` and
    `ensembles` are ranked and chosen on the training split. NaN is null."""
    return {
        "schema": "probe/1",
        "model": model_json(probe.model),
        "source": probe.source,
        "asked": probe.asked,
        "context": probe.context,
        "chance": CHANCE,
        "train": dict(zip(COUNTED, probe.train, strict=True)),
        "held": dict(zip(COUNTED, probe.held, strict=True)),
        "neurons": [
            {
                **{name: getattr(one, name) for name in ("kind", "layer", "index")},
                "contrast": number(one.contrast),
                **_measured(one),
            }
            for one in probe.neurons
        ],
        "ensembles": [{"kind": one.kind, "size": one.size, **_measured(one)} for one in probe.ensembles],
        "mass": _measured(probe.mass),
        "argmax": _measured(probe.argmax),
        "examples": [{"context": end, "next": following, "class": name} for end, following, name in probe.examples],
    }


def _measured(one: ProbeScore) -> dict[str, float | None]:
    return {name: number(getattr(one, name)) for name in MEASURED}


# -------------------------------------------------------------------------------------------- plain text


def probe_text(probe: Probe, width: int = LINE) -> list[Text | Table]:
    """What was asked and of how much, ensembles, the model's own answer, the best single neurons, what it comes to."""
    asked = f"the next token {printable(probe.asked)}"
    lines: list[Text | Table] = [
        sweep_head(probe.model),
        Text(printable(probe.source)),
        Text(f"{asked}: linear probes at the last of {probe.context} tokens (Figure 10)", style="bold"),
        *map(Text, split_lines(probe)),
        Text(f"\nseveral neurons together, right on held-out contexts, %; chance {100 * CHANCE:.0f}", style="bold"),
        _ensembles(probe),
    ]
    if probe.neurons:
        lines.append(Text(f"\none neuron, the best {SINGLY} of each kind in training, %", style="bold"))
        lines.append(_singly(probe))
    if probe.examples:
        lines.append(Text("\nheld-out contexts", style="bold"))
        lines += [Text(_example(*example, width)) for example in probe.examples]
    return [*lines, Text(""), *map(Text, reading(probe))]


def split_lines(probe: Probe) -> list[str]:
    """Of how much: contexts, lemmas, documents of both splits, and what the split costs."""
    kept = [
        f"{name}: {', '.join(f'{n:,} {what}' for n, what in zip(counts, COUNTED, strict=True))}"
        for name, counts in (("trained on", probe.train), ("held out", probe.held))
    ]
    return [
        *kept,
        "half of each are positive; no lemma and no document is in both, which costs about every second context",
        "95 % intervals over lemmas; ranked and chosen on the training contexts alone",
    ]


def _ensembles(probe: Probe) -> Table:
    rows = []
    for one in probe.ensembles:
        if one.kind != "random":
            rows.append([one.kind, str(one.size), *_cells(one), *_cells(control(probe, one))[1:]])
    rows += [["random", str(one.size), *_cells(one), "", ""] for one in probe.ensembles if one.kind == "random"]
    rows += [[name, "", *_cells(one), "", ""] for name, one in own_answers(probe)]
    return _table(("", "neurons", "training", "held out", "95 %", "random", "95 %"), rows)


def _singly(probe: Probe) -> Table:
    rows = []
    for kind, members in by_kind(probe.neurons).items():
        for rank, one in enumerate(members[:SINGLY]):
            other = nth(probe.neurons, "random", rank) if kind != "random" else None
            rows.append([kind, f"{one.layer}.{one.index}", *_cells(one), *_cells(other)[1:]])
    return _table(("", "neuron", "training", "held out", "95 %", "random", "95 %"), rows)


def _table(titles: Sequence[str], rows: list[list[str]]) -> Table:
    """67 cells at most: it fits where a terminal is 80 wide."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _example(end: str, following: str, name: str, width: int) -> str:
    """The end of a context, cut at its beginning; what came next; what it counts as."""
    shown, tail = visible(end), f" → {visible(following)}"
    room = max(width - cell_len(tail) - len(name) - 4, 8)
    while cell_len(shown) > room:
        shown = shown[1:]
    return f"{name:<8}  {fit(shown + tail, width - 10).rstrip()}"


def _cells(one: ProbeScore | None) -> list[str]:
    """Training, held out, interval."""
    return [percent(one.train), percent(one.accuracy), between(one)] if one else ["", "", ""]


# ---------------------------------------------------------------------------- what the screen says as well


def by_kind(scores: Iterable[ProbeScore]) -> dict[str, list[ProbeScore]]:
    """In the order they stand."""
    found: dict[str, list[ProbeScore]] = {}
    for one in scores:
        found.setdefault(one.kind, []).append(one)
    return found


def nth(scores: Iterable[ProbeScore], kind: str, rank: int) -> ProbeScore | None:
    members = by_kind(scores).get(kind, [])
    return members[rank] if rank < len(members) else None


def control(probe: Probe, one: ProbeScore) -> ProbeScore | None:
    """As many random neurons as an ensemble has, or the most there are."""
    random = by_kind(probe.ensembles).get("random", [])
    return next((other for other in random if other.size == one.size), random[-1] if random else None)


def own_answers(probe: Probe) -> list[tuple[str, ProbeScore]]:
    return [("model's mass", probe.mass), ("model's top token", probe.argmax)]


def best(probe: Probe, kind: str) -> ProbeScore | None:
    """The ensemble of a kind that is best in training, the smaller of equals."""
    return max(by_kind(probe.ensembles).get(kind, []), key=lambda one: (one.train, -one.size), default=None)


def percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def between(one: ProbeScore) -> str:
    return "" if math.isnan(one.low) else f"{100 * one.low:.0f}-{100 * one.high:.0f}"


def reading(probe: Probe) -> list[str]:
    """What it comes to, in a sentence for each of three kinds: no more than the intervals say."""
    found = []
    for kind in ("prediction", "suppression", "all"):
        one = best(probe, kind)
        if one is None:
            found += [f"none of the neurons probed are {KINDS[kind]}"] if kind != "all" else []
            continue
        many = f"the {one.size} best {KINDS[kind]}" if one.size > 1 else f"the best of the {KINDS[kind]}"
        said = [_chance(one)]
        if other := control(probe, one):
            said.append(f"{_against(one, other)} {other.size} random ({_told(other)})")
        said.append(f"{_against(one, probe.mass)} the model's own probability ({_told(probe.mass)})")
        found.append(f"{many}: {_told(one)}, {', '.join(said)}")
    return found


def _told(one: ProbeScore) -> str:
    span = between(one)
    return f"{percent(one.accuracy)} %" + (f", {span}" if span else "")


def _chance(one: ProbeScore) -> str:
    if math.isnan(one.low):
        return "without an interval, for there are too few lemmas"
    return "above chance" if one.low > CHANCE else "below chance" if one.high < CHANCE else "not told apart from chance"


def _against(one: ProbeScore, other: ProbeScore) -> str:
    """Better or worse only where the intervals are apart."""
    return "better than" if one.low > other.high else "worse than" if one.high < other.low else "not told apart from"
