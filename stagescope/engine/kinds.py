"""The kinds of sweep: which schedules each one runs, and where each row stands in the figures.

The interventions are those of arXiv 2406.19384 (drop, swap; repeat in its 2025 version), 2407.09298 (painters) and
1911.03864 (press). Which neurons are strong a census says; beside them stand random ones of the same layers, the same
ones every time. A list of one's own is the kind "schedules": rows by `listed`, read from a file by `read_schedules`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from stagescope.engine.schedule import (
    Schedule,
    ScheduleError,
    Step,
    attn_off,
    drop,
    head_off,
    mlp_off,
    neuron_off,
    parse,
    resolve,
    swap,
)
from stagescope.text import printable

if TYPE_CHECKING:  # protocol.py brings numpy, and `stagescope sweep --help` prints KINDS without
    from stagescope.engine.protocol import Census, SweepRow

    Neuron = tuple[int, int]  # layer, index

KINDS = {
    "drop": "every layer taken out, one at a time: the residual stream passes by",
    "swap": "every layer exchanged with the next one",
    "attn-off": "the attention of every layer taken out, its MLP kept",
    "mlp-off": "the MLP of every layer taken out, its attention kept",
    "pairs": "every pair of layers taken out together",
    "trace": "every layer taken out at every position alone, read at one position (--position) of one prompt",
    "repeat": "every span of 3 and of 5 layers with each of its layers run twice in place",
    "painters": "a middle span that shrinks: skipped, its middle repeated, reversed, shuffled, parallel, looped parallel",
    "press": "the sublayers in sandwich order: k attentions first, k MLPs last, for every k",
    "heads": "every attention head switched off, one at a time (of one layer with --layer)",
    "neurons": "the strongest prediction and suppression neurons off, one at a time, and random ones (also --layer)",
    "neuron-sets": "the strongest 1, 2, 4 .. 128 neurons of a class off together, and as many random ones",
}
OF_LAYER = ("heads", "neurons")  # kinds that can be asked for of one layer
OF_PARTS = ("heads", "neurons", "neuron-sets")  # kinds that take parts of layers out
OF_CENSUS = ("neurons", "neuron-sets")  # kinds whose rows a census decides
SINGLY = 20  # neurons of each class, and random ones
TOGETHER = (1, 2, 4, 8, 16, 32, 64, 128)
CONTROLS = 3  # seeds of the random neurons of each set
SHUFFLES = 5  # seeds of each shuffled span
ROUNDS = 3  # of looped parallel, as in the paper
SHOWN = 5  # lines of a file that are named when many are wrong
EXCERPT = 80  # characters of a wrong line that are shown


def entries(
    kind: str,
    n_layers: int,
    *,
    n_positions: int | None = None,
    parallel_blocks: bool = False,
    n_heads: int = 0,
    census: Census | None = None,
    layer: int | None = None,
) -> tuple[SweepRow, ...]:
    """The rows of one kind for a model of `n_layers`; none where it has too few layers (swap needs two).

    n_positions: tokens of the prompt, prefix included; trace needs it. parallel_blocks: attention and MLP read the
    same input (Pythia, Phi): press is then refused with EngineError("usage"). n_heads: of a layer. census: needed for
    OF_CENSUS, which are refused with EngineError("usage") where it knows no neuron of either class. layer: of
    OF_LAYER, those of this layer alone.
    """
    match kind:
        case "drop":
            return tuple(_row(kind, drop(layer), layer) for layer in range(n_layers))
        case "swap":
            return tuple(_row(kind, swap(layer, layer + 1), layer) for layer in range(n_layers - 1))
        case "attn-off":
            return tuple(_row(kind, attn_off(layer), layer) for layer in range(n_layers))
        case "mlp-off":
            return tuple(_row(kind, mlp_off(layer), layer) for layer in range(n_layers))
        case "pairs":
            pairs = [(a, b) for a in range(n_layers) for b in range(a + 1, n_layers)]
            return tuple(_row(kind, drop(a, b), a, str(drop(a, b))) for a, b in pairs)
        case "trace":
            if n_positions is None:
                raise ValueError("a trace is of one prompt: n_positions says how many tokens it has")
            cells = [(layer, position) for layer in range(n_layers) for position in range(n_positions)]
            return tuple(_row(kind, f"drop {layer} @{position}", layer, "", position) for layer, position in cells)
        case "repeat":
            spans = [(first, n) for n in (3, 5) for first in range(n_layers - n + 1)]
            return tuple(_row(kind, f"repeat {first}-{first + n - 1}", first, f"{n} layers") for first, n in spans)
        case "painters":
            return tuple(_painters(n_layers))
        case "press":
            return tuple(_press(n_layers, parallel_blocks))
        case "heads":
            layers = range(n_layers) if layer is None else [layer]
            heads = [(at, head) for at in layers for head in range(n_heads)]
            return tuple(_row(kind, head_off(at, head), at, f"head {head}", index=head) for at, head in heads)
        case "neurons" | "neuron-sets":
            if census is None:
                raise ValueError(f"{kind} are chosen by a census")
            return tuple(_neurons(census, layer) if kind == "neurons" else _neuron_sets(census))
    raise ValueError(f"there is no kind {kind!r}: {', '.join(KINDS)}")


def listed(texts: Sequence[str]) -> tuple[SweepRow, ...]:
    """One row of the kind "schedules" for each text, in order, repeats kept. Raises ScheduleError."""
    return tuple(_row("schedules", schedule, _layer(schedule), str(schedule)) for schedule in map(parse, texts))


def parse_kinds(text: str) -> tuple[str, ...]:
    """The kinds of "drop,swap" or "drop+swap", each once. Raises EngineError("usage")."""
    from stagescope.engine.protocol import EngineError

    kinds = tuple(dict.fromkeys(word.strip().lower() for word in re.split("[,+]", text)))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        named = ", ".join(f"“{printable(kind[:40])}”" for kind in unknown[:3])
        raise EngineError("usage", f"there is no kind of sweep {named}.", f"The kinds are {', '.join(KINDS)}.")
    if "trace" in kinds and len(kinds) > 1:
        raise EngineError("usage", "a trace is read at one position and stands alone.", "Give --kind trace by itself.")
    return kinds


def read_schedules(
    lines: Iterable[str],
    n_layers: int,
    parallel_blocks: bool,
    *,
    n_heads: int | None = None,
    d_mlp: int | None = None,
) -> tuple[str, ...]:
    """The canonical texts of a file of schedules: one a line; blank lines and comments (# to the end) left out.

    Every line that is no schedule, or none of a model of `n_layers`, is named in one EngineError("usage"). Positions
    (`drop 3 @10`) are not checked: they belong to a prompt.
    """
    from stagescope.engine.protocol import EngineError

    read, wrong = [], []
    for number, line in enumerate(lines, 1):
        text = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not text:
            continue
        try:
            schedule = parse(text)
            resolve(schedule, n_layers, parallel_blocks=parallel_blocks, n_heads=n_heads, d_mlp=d_mlp)
            read.append(str(schedule))
        except ScheduleError as error:
            wrong.append((number, error))
    hint = "One schedule a line, such as drop 3; swap 5 6. A # begins a comment."
    if wrong:
        said = "1 line is no schedule" if len(wrong) == 1 else f"{len(wrong)} lines are no schedules"
        shown = [f"\nline {number}:\n{_excerpt(error)}" for number, error in wrong[:SHOWN]]
        more = f"\nand {len(wrong) - SHOWN} more." if len(wrong) > SHOWN else ""
        raise EngineError("usage", f"{said} of this model:{''.join(shown)}{more}", hint)
    if not read:
        raise EngineError("usage", "there is no schedule in it.", hint)
    return tuple(read)


def _row(
    kind: str,
    text: Schedule | Step | str,
    layer: int | None,
    variant: str = "",
    position: int | None = None,
    index: int | None = None,
) -> SweepRow:
    from stagescope.engine.protocol import SweepRow

    schedule = text if isinstance(text, Schedule) else parse(str(text))
    return SweepRow(str(schedule), kind, layer, variant, position, index)


def _painters(n_layers: int) -> Iterator[SweepRow]:
    """Sun et al., "Transformer Layers as Painters", arXiv 2407.09298: the spans m..L-1-m for m = 1, 2, .."""
    for first in range(1, (n_layers - 2) // 2 + 1):
        span = f"{first}-{n_layers - 1 - first}"
        yield _row("painters", f"drop {span}", first, "skip")
        yield _row("painters", f"middle-repeat {span}", first, "middle-repeat")
        yield _row("painters", f"reverse {span}", first, "reverse")
        for seed in range(SHUFFLES):
            yield _row("painters", f"shuffle {span} seed {seed}", first, "shuffle")
        yield _row("painters", f"parallel {span}", first, "parallel")
        yield _row("painters", f"parallel {span} x{ROUNDS}", first, "looped parallel")


def _press(n_layers: int, parallel_blocks: bool) -> Iterator[SweepRow]:
    """Press et al., "Improving Transformer Models by Reordering their Sublayers", arXiv 1911.03864.

    s^k (sf)^(n-k) f^k: attentions (s) of layers 0, 1, .. in this order among the s, MLPs (f) likewise. k = 0 is the
    baseline, and k = n the same order as k = n-1.
    """
    from stagescope.engine.protocol import EngineError

    if parallel_blocks:
        reason = "attention and MLP of a layer run in parallel in this model, so its sublayers have no order to change."
        raise EngineError("usage", f"press cannot be: {reason}", "Ask for another kind.")
    for k in range(1, n_layers):
        attentions, mlps = ([f"{layer}{part}" for layer in range(n_layers)] for part in "am")
        middle = [word for pair in zip(attentions[k:], mlps, strict=False) for word in pair]
        yield _row("press", " ".join(["order", *attentions[:k], *middle, *mlps[n_layers - k :]]), None, f"k={k}")


def _neurons(census: Census, layer: int | None) -> Iterator[SweepRow]:
    """The strongest of each class by kurtosis, then a random neuron for each of SINGLY of them, chosen by lot."""
    strongest, draw = _strongest(census, layer, SINGLY), random.Random(0).random
    every = [neuron for neurons in strongest.values() for neuron in neurons]
    control = _controls(census, sorted(every, key=lambda _: draw())[:SINGLY], seed=0)
    for variant, neurons in {**strongest, "random": sorted(control)}.items():
        for at, neuron in neurons:
            yield _row("neurons", neuron_off(at, neuron), at, variant, index=neuron)


def _neuron_sets(census: Census) -> Iterator[SweepRow]:
    """The k strongest of a class, and k random neurons; a larger set holds the smaller ones."""
    for name, neurons in _strongest(census, None, TOGETHER[-1]).items():
        drawn = [(f"random as {name}", _controls(census, neurons, seed)) for seed in range(CONTROLS)]
        for variant, ordered in [(name, neurons), *drawn]:
            for k in TOGETHER:
                if k <= len(ordered):
                    words = " ".join(f"{layer}.{neuron}" for layer, neuron in ordered[:k])
                    yield _row("neuron-sets", f"neuron-off {words}", None, variant, index=k)


def _strongest(census: Census, layer: int | None, most: int) -> dict[str, list[Neuron]]:
    """The neurons of each class that has any, strongest first. Raises EngineError("usage") where none has."""
    from stagescope.engine import strongest
    from stagescope.engine.protocol import EngineError

    where = "" if layer is None else f" in layer {layer}"
    if census.degenerate:
        share = f"{census.null_above:.1%} of random directions have kurtosis > 10"
        reason = f"the vocabulary of {printable(census.model)} is degenerate ({share}), so its census tells no classes"
        raise EngineError("usage", f"{reason}.", "Switch off neurons by name: neuron-off 5.101.")
    signed = strongest.signed(census)
    found = {name: strongest.ranked(members, census.kurtosis, layer, most) for name, members in signed.items()}
    if not any(found.values()):
        reason = f"the census of {printable(census.model)} has no prediction and no suppression neuron{where}"
        raise EngineError("usage", f"{reason}.", "Switch off neurons by name: neuron-off 5.101.")
    return {name: neurons for name, neurons in found.items() if neurons}


def _controls(census: Census, neurons: Sequence[Neuron], seed: int) -> list[Neuron]:
    """For each neuron another of its layer, of neither class, none twice; fewer where a layer has no more."""
    from stagescope.engine import strongest

    prediction, suppression = strongest.signed(census).values()
    free = ~(prediction | suppression)
    ordinary = {layer: free[layer].nonzero()[0].tolist() for layer, _ in neurons}
    draw = random.Random(seed).random  # the same in every version of Python
    return [(at, left.pop(int(draw() * len(left)))) for at, _ in neurons if (left := ordinary[at])]


def _layer(schedule: Schedule) -> int | None:
    """The lowest layer a schedule of one step names; a whole order has none."""
    if len(schedule.steps) != 1 or schedule.steps[0].verb == "order":
        return None
    return min(schedule.steps[0].layers)


def _excerpt(error: ScheduleError) -> str:
    """Text, carets and reason, cut to what stands around the place: a line may be a megabyte."""
    first = max(error.start - EXCERPT // 2, 0)
    last = first + EXCERPT
    before, after = "…" if first else "", "…" if last < len(error.text) else ""
    start, end = (min(place, last) - first + len(before) for place in (error.start, error.end))
    return str(ScheduleError(before + error.text[first:last] + after, start, end, error.reason))
