"""Schedule text: which blocks run, in which order, with which sublayers, at which positions.

    schedule := "" | step (";" step)* [";"]
    step     := verb ["@" positions]            positions: 10 | 3-5 | -1; only for drop, attn-off, mlp-off
    verb     := "drop" span+ ["mean"]           whole blocks out: the residual passes by (or gets their mean)
              | ("attn-off" | "mlp-off") span+ ["mean"]
              | "swap" n n                      exchange two blocks
              | "repeat" span ["x" k]           4 4 5 5 (k = 2 by default)
              | "loop" span ["x" k]             4 5 4 5 (k = 2 by default)
              | "middle-repeat" span            each becomes layer L//2
              | "reverse" span | "shuffle" span ["seed" k]
              | "parallel" span ["x" r]         one group: the mean of the blocks' outputs, r rounds
              | "order" item+                   the whole order; item := span | n"a" | n"m"
    span     := n | n "-" n                     original layer indices, inclusive

The interventions are those of arXiv 2406.19384, 2407.09298 (painters) and 1911.03864 (sublayer orders).
Empty steps, commas as spaces and capitals are read too; `str()` gives the one canonical text. Numbers are
bounded (layers and counts below 10,000, positions below 100,000), and so is their number (2,000 words).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import NamedTuple

from rich.cells import cell_len

from stagescope.engine.plan import Place, Plan, Refused, Run, Span, Switch, carry_out, join_spans, sync_layers
from stagescope.text import printable

__all__ = ["Place", "Plan", "Run", "Schedule", "ScheduleError", "Step", "Switch", "attn_off", "drop",
           "mlp_off", "parse", "repeat", "resolve", "swap", "sync_layers", "toggle"]  # fmt: skip

# verb -> how it is written, as errors say it
VERBS = {
    "drop": "drop 3 5-7, drop 3 mean, drop 3 @10",
    "attn-off": "attn-off 3 5-7, attn-off 3 mean, attn-off 3 @10",
    "mlp-off": "mlp-off 3 5-7, mlp-off 3 mean, mlp-off 3 @10",
    "swap": "swap 3 7",
    "repeat": "repeat 4-5 or repeat 4-5 x3",
    "loop": "loop 4-5 or loop 4-5 x3",
    "middle-repeat": "middle-repeat 4-9",
    "reverse": "reverse 4-9",
    "shuffle": "shuffle 4-9 or shuffle 4-9 seed 1",
    "parallel": "parallel 4-9 or parallel 4-9 x3",
    "order": "order 0-3 5 7a 7m",
}
SWITCHING = ("drop", "attn-off", "mlp-off")
COUNTS = {"repeat": ("x", 2), "loop": ("x", 2), "parallel": ("x", 1), "shuffle": ("seed", 0)}  # word, default
MAX_WORDS = 2_000  # the longest `order` of a 126-layer model, 8 x 126 sublayers, takes half of it


class ScheduleError(ValueError):
    """A schedule that cannot be read, or cannot be carried out on this model.

    text: the schedule as given; start, end: the characters to blame; reason: one line, with what is allowed.
    str() is three lines: the text, carets under the place, the reason. Nothing in it can act on a terminal.
    """

    def __init__(self, text: str, start: int, end: int, reason: str):
        super().__init__(text, start, end, reason)
        self.text, self.start, self.end, self.reason = text, start, end, reason

    def __str__(self) -> str:
        before, through = (cell_len(printable(self.text[:stop])) for stop in (self.start, self.end))
        return f"{printable(self.text)}\n{' ' * before}{'^' * max(through - before, 1)}\n{self.reason}"


class Source(NamedTuple):
    """Where a step stood in the text it was read from, for marking errors: character ranges."""

    step: tuple[int, int]
    spans: tuple[tuple[Span, tuple[int, int]], ...]  # as written, before sorting and joining
    positions: tuple[int, int] | None

    def place(self, at: Span | str | None) -> tuple[int, int]:
        if at == "positions" and self.positions:
            return self.positions
        if isinstance(at, Span):
            for span, place in self.spans:
                if span.first <= at.first <= span.last and at.part in ("", span.part):
                    return place
        return self.step


@dataclass(frozen=True)
class Step:
    """One verb with its arguments, in canonical form. Build with `parse` or the functions below."""

    verb: str
    items: tuple[Span, ...]
    mean: bool = False
    positions: tuple[int, int] | None = None  # first and last, inclusive; -1 is (-1, -1)
    count: int | None = None  # times, rounds or seed; None for verbs without
    source: Source | None = field(default=None, compare=False, repr=False)

    @property
    def layers(self) -> frozenset[int]:
        return frozenset(n for span in self.items for n in range(span.first, span.last + 1))

    def __str__(self) -> str:
        words = [self.verb, *map(str, self.items)]
        if self.mean:
            words.append("mean")
        if self.positions:
            words.append(f"@{Span(*self.positions)}")
        if self.verb in COUNTS and self.count != COUNTS[self.verb][1]:
            words.append({"x": f"x{self.count}", "seed": f"seed {self.count}"}[COUNTS[self.verb][0]])
        return " ".join(words)


@dataclass(frozen=True)
class Schedule:
    """An intervention: steps acting left to right on the executed order. Empty: the baseline.

    `str(schedule)` is the canonical text. `typed` is the text it was parsed from, None if built by code.
    """

    steps: tuple[Step, ...] = ()
    typed: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        joined: list[Step] = []
        for step in self.steps:
            both = _join(joined[-1], step) if joined else None
            joined[-1:] = [both] if both else [*joined[-1:], step]
        object.__setattr__(self, "steps", tuple(joined))

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps))

    def __bool__(self) -> bool:
        return bool(self.steps)


def resolve(
    schedule: Schedule, n_layers: int, *, parallel_blocks: bool = False, n_positions: int | None = None
) -> Plan:
    """The executed order of a model of `n_layers` blocks: one Place per depth, () if every layer is dropped.

    parallel_blocks: attention and MLP read the same input (Pythia, Phi), so `order` takes whole layers only.
    n_positions: tokens of the prompt, prefix included; negative positions then become plain ones. With None
    positions stay as written, and an all-positions Switch may stand first with one overriding it after it.
    The order has at most 8 x n_layers depths, after every step. Raises ScheduleError.
    """
    if schedule.typed is None:  # built by code: errors mark the canonical text
        schedule = parse(str(schedule))
    plan: Plan = tuple((Run(layer),) for layer in range(n_layers))
    for step in schedule.steps:
        try:
            plan = carry_out(step, plan, n_layers, parallel_blocks, n_positions)
        except Refused as refused:
            raise ScheduleError(schedule.typed, *step.source.place(refused.at), refused.reason) from None
    return plan


def toggle(schedule: Schedule, step: Step) -> Schedule:
    """What a key press does: the step taken back if the schedule holds it, else appended.

    drop, attn-off and mlp-off are held by a step of the same kind, mean and positions naming all their
    layers; other verbs by the same verb on the same layers, whatever its count.
    """
    for index in reversed(range(len(schedule.steps))):
        held = schedule.steps[index]
        if step.verb in SWITCHING and _same_switch(held, step) and step.layers <= held.layers:
            left = join_spans(Span(n, n) for n in sorted(held.layers - step.layers))
            kept = (replace(held, items=left),) if left else ()
        elif step.verb not in SWITCHING and (held.verb, held.items) == (step.verb, step.items):
            kept = ()
        else:
            continue
        return Schedule(schedule.steps[:index] + kept + schedule.steps[index + 1 :])
    return Schedule((*schedule.steps, step))


def drop(*layers: int) -> Step:
    return _build("drop", *layers)


def attn_off(*layers: int) -> Step:
    return _build("attn-off", *layers)


def mlp_off(*layers: int) -> Step:
    return _build("mlp-off", *layers)


def swap(a: int, b: int) -> Step:
    return _build("swap", a, b)


def repeat(first: int, last: int | None = None, times: int = 2) -> Step:
    """Each layer of first..last (default: first alone) `times` times in place."""
    return _build("repeat", first if last is None else f"{first}-{last}", "x", times)


def _build(*words: str | int) -> Step:
    return parse(" ".join(map(str, words))).steps[0]


def _same_switch(a: Step, b: Step) -> bool:
    return (a.verb, a.mean, a.positions) == (b.verb, b.mean, b.positions)


def _join(a: Step, b: Step) -> Step | None:
    """One step for both, if it means the same. `drop 3; drop 3` stays two: the second is an error."""
    items = sorted(a.items + b.items)
    shared = any(left.last >= right.first for left, right in pairwise(items))
    if a.verb not in SWITCHING or not _same_switch(a, b) or shared:
        return None
    source = None
    if a.source and b.source:
        whole = (a.source.step[0], b.source.step[1])
        source = Source(whole, a.source.spans + b.source.spans, a.source.positions)
    return replace(a, items=join_spans(items), source=source)


# Reading


class Word(NamedTuple):
    """A word of the text in lower case, with its place."""

    text: str
    start: int
    end: int
    whole: str  # the schedule it stands in

    def error(self, reason: str) -> ScheduleError:
        return ScheduleError(self.whole, self.start, self.end, reason)


def parse(text: str) -> Schedule:
    """Read a schedule. Raises ScheduleError for all that is wrong whatever the model."""
    words = [Word(m[0].lower(), *m.span(), text) for m in re.finditer(r"[;@]|[^\s,;@]+", text)]
    if len(words) > MAX_WORDS:  # words, since the canonical text of a schedule never has more of them
        raise words[MAX_WORDS].error(f"a schedule has at most {MAX_WORDS} words, this one has {len(words)}")
    steps = groupby(words, key=lambda word: word.text == ";")
    return Schedule(tuple(_read_step(*step) for separator, step in steps if not separator), text)


def _read_step(verb: Word, *words: Word) -> Step:
    if verb.text not in VERBS:
        close = difflib.get_close_matches(verb.text[:20], VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"a step begins with {', '.join(VERBS)}"
        raise verb.error(f"{_quote(verb)} is not a verb: {hint}")
    step_place = (verb.start, (verb, *words)[-1].end)
    words, positions, positions_place = _read_positions(verb, words)
    mean = verb.text in SWITCHING and words[-1:] != () and words[-1].text == "mean"
    words, count = _read_count(verb, words[:-1] if mean else words)
    spans = [_read_span(verb, word) for word in words]
    _check_number_of_spans(verb, words)

    source = Source(step_place, tuple((s, (w.start, w.end)) for s, w in zip(spans, words)), positions_place)
    if verb.text == "swap":
        if spans[0] == spans[1]:
            raise words[1].error(f"swap takes two different layers: {VERBS['swap']}")
        items = tuple(sorted(spans))
    elif verb.text in SWITCHING:
        ordered = sorted(zip(spans, words))
        for (left, one), (right, other) in pairwise(ordered):
            if right.first <= left.last:
                again = max(one, other, key=lambda word: word.start)
                raise again.error(f"layer {right.first} is named twice in one step: name each layer once")
        items = join_spans(span for span, _ in ordered)
    else:
        items = join_spans(spans)
    return Step(verb.text, items, mean, positions, count, source)


def _read_positions(verb: Word, words: tuple[Word, ...]):
    """The words before "@", the positions after it (None without), and where they stand."""
    index = next((i for i, word in enumerate(words) if word.text == "@"), None)
    if index is None:
        return words, None, None
    at, *after = words[index:]
    if verb.text not in SWITCHING:
        raise at.error(f"positions are only for {', '.join(SWITCHING)}: {verb.text} acts at every position")
    if len(after) != 1:
        raise (after[1:] or [at])[0].error("one position or range ends the step: @10, @3-5 or @-1 (the last)")
    match = re.fullmatch("([0-9]+)(?:-([0-9]+))?|-(0*[1-9][0-9]*)", after[0].text)
    if not match:
        raise after[0].error(f"{_quote(after[0])} is not a position: 10, 3-5, or -1 for the last")
    first, last, from_end = (part and _number(after[0], part, 99_999) for part in match.groups())
    if from_end:
        first = last = -from_end
    last = first if last is None else last
    if last < first:
        raise after[0].error(f"{_quote(after[0])} runs downward: write {last}-{first}")
    return words[:index], (first, last), (after[0].start, after[0].end)


def _read_count(verb: Word, words: tuple[Word, ...]) -> tuple[tuple[Word, ...], int | None]:
    """The words before "x3", "x 3" or "seed 3", and that number: None for verbs that have none."""
    name, count = COUNTS.get(verb.text, (None, None))
    for index, word in enumerate(words):
        if name is None or not (match := re.fullmatch(f"{name}([0-9]*)", word.text)):
            continue
        after = list(words[index + 1 :])
        given = word if match[1] else after.pop(0) if after else None
        digits = match[1] or (given.text if given else "")
        if not re.fullmatch("[0-9]+", digits):
            raise (given or word).error(f"a whole number stands after {name}: {VERBS[verb.text]}")
        if after:
            raise after[0].error(f"{name} and its number end the step: {VERBS[verb.text]}")
        count = _number(given, digits, 9_999 if name == "x" else 999_999_999)
        if name == "x" and count == 0:
            raise given.error("x0 would leave nothing to run: x1 or more, or drop the layers")
        return words[:index], count
    return words, count


def _read_span(verb: Word, word: Word) -> Span:
    match = re.fullmatch("([0-9]+)(?:-([0-9]+))?([am]?)", word.text)
    if not match:
        raise word.error(_why_no_span(verb, word))
    first = _number(word, match[1], 9_999)
    last = _number(word, match[2], 9_999) if match[2] else first
    if last < first:
        raise word.error(f"a span runs upward: write {last}-{first}")
    if match[3] and verb.text != "order":
        raise word.error(f"{_quote(word)} is for order: attn-off and mlp-off take one sublayer out")
    if match[2] and match[3]:
        raise word.error(f"{_quote(word)}: a sublayer belongs to one layer: {first}{match[3]}")
    if match[2] and verb.text == "swap":
        raise word.error(f"swap takes two single layers: {VERBS['swap']}")
    return Span(first, last, match[3])


def _why_no_span(verb: Word, word: Word) -> str:
    if word.text in VERBS:
        return f"steps are parted by a semicolon: write ; {word.text}"
    if word.text == "mean" and verb.text in SWITCHING:
        return f"mean comes once, after the layers: {verb.text} 3 mean"
    if re.fullmatch("-[0-9]+", word.text):
        return f"{_quote(word)} is not a layer: layers count from 0, a span is written 5-9"
    if word.text == "-":
        return "a span is written without spaces: 5-9"
    return f"{_quote(word)} does not belong here: write {VERBS[verb.text]}"


def _check_number_of_spans(verb: Word, words: tuple[Word, ...]) -> None:
    least = 2 if verb.text == "swap" else 1
    most = None if verb.text in (*SWITCHING, "order") else least
    wanted = "two layers" if verb.text == "swap" else "one span of layers" if most else "at least one layer"
    if len(words) < least:
        raise (verb, *words)[-1].error(f"{verb.text} needs {wanted}: {VERBS[verb.text]}")
    if most and len(words) > most:
        raise words[most].error(f"{verb.text} takes {wanted}: {VERBS[verb.text]}")


def _number(word: Word, digits: str, most: int) -> int:
    if len(digits) > len(str(most)):
        raise word.error(f"{_quote(word)} is too large: numbers here go to {most}")
    return int(digits)


def _quote(word: Word) -> str:
    return f"'{printable(word.text[:20])}{'…' if len(word.text) > 20 else ''}'"
