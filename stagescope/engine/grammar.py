"""One step of a schedule: how it is read from its words, and its one canonical text.

The grammar stands in schedule.py. All that is wrong with a step whatever the model is said here, with its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len

from stagescope.engine.plan import Item, Part, Span, join_items, overlap
from stagescope.text import printable

# verb -> how it is written, as errors say it
VERBS = {
    "drop": "drop 3 5-7, drop 3 mean, drop 3 @10",
    "attn-off": "attn-off 3 5-7, attn-off 3 mean, attn-off 3 @10",
    "mlp-off": "mlp-off 3 5-7, mlp-off 3 mean, mlp-off 3 @10",
    "head-off": "head-off 5.3 5.0-2, head-off 5.3 mean, head-off 5.3 @10",
    "neuron-off": "neuron-off 5.101 5.0-9, neuron-off 5.101 mean, neuron-off 5.101 @10",
    "swap": "swap 3 7",
    "repeat": "repeat 4-5 or repeat 4-5 x3",
    "loop": "loop 4-5 or loop 4-5 x3",
    "middle-repeat": "middle-repeat 4-9",
    "reverse": "reverse 4-9",
    "shuffle": "shuffle 4-9 or shuffle 4-9 seed 1",
    "parallel": "parallel 4-9 or parallel 4-9 x3",
    "order": "order 0-3 5 7a 7m",
}
PARTS = {"head-off": "head", "neuron-off": "neuron"}  # verbs that name parts of a layer: what a part is called
SWITCHING = ("drop", "attn-off", "mlp-off", *PARTS)
COUNTS = {"repeat": ("x", 2), "loop": ("x", 2), "parallel": ("x", 1), "shuffle": ("seed", 0)}  # word, default
MAX_WORDS = 2_000  # the longest `order` of a 126-layer model, 8 x 126 sublayers, takes half of it
MAX_PARTS = 100_000  # heads and neurons of one schedule: they are counted out, and a layer has 53,248 at most
MOST = {"head": 9_999, "neuron": 999_999}  # the largest number that is read



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
    items: tuple[tuple[Item, tuple[int, int]], ...]  # as written, before sorting and joining
    positions: tuple[int, int] | None

    def place(self, at: Item | str | None) -> tuple[int, int]:
        if at == "positions" and self.positions:
            return self.positions
        if isinstance(at, Span | Part):
            for item, place in self.items:
                if item.names(at):
                    return place
        return self.step


@dataclass(frozen=True)
class Step:
    """One verb with its arguments, in canonical form. Build with `parse` or the functions below."""

    verb: str
    items: tuple[Item, ...]  # Parts for head-off and neuron-off, Spans for all others
    mean: bool = False
    positions: tuple[int, int] | None = None  # first and last, inclusive; -1 is (-1, -1)
    count: int | None = None  # times, rounds or seed; None for verbs without
    source: Source | None = field(default=None, compare=False, repr=False)

    @property
    def layers(self) -> frozenset[int]:
        return frozenset(layer for item in self.items for layer in item.layers)

    @property
    def singles(self) -> frozenset[Item]:
        """What is named, one by one."""
        return frozenset(single for item in self.items for single in item.singles)

    def __str__(self) -> str:
        words = [self.verb, *map(str, self.items)]
        if self.mean:
            words.append("mean")
        if self.positions:
            words.append(f"@{Span(*self.positions)}")
        if self.verb in COUNTS and self.count != COUNTS[self.verb][1]:
            words.append({"x": f"x{self.count}", "seed": f"seed {self.count}"}[COUNTS[self.verb][0]])
        return " ".join(words)


class Word(NamedTuple):
    """A word of the text in lower case, with its place."""

    text: str
    start: int
    end: int
    whole: str  # the schedule it stands in

    def error(self, reason: str) -> ScheduleError:
        return ScheduleError(self.whole, self.start, self.end, reason)


def read_step(verb: Word, *words: Word) -> Step:
    """Raises ScheduleError."""
    if verb.text not in VERBS:
        close = difflib.get_close_matches(verb.text[:20], VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"a step begins with {', '.join(VERBS)}"
        raise verb.error(f"{_quote(verb)} is not a verb: {hint}")
    step_place = (verb.start, (verb, *words)[-1].end)
    words, positions, positions_place = _read_positions(verb, words)
    mean = verb.text in SWITCHING and words[-1:] != () and words[-1].text == "mean"
    words, count = _read_count(verb, words[:-1] if mean else words)
    read = _read_part if verb.text in PARTS else _read_span
    items = [read(verb, word) for word in words]
    _check_number_of_items(verb, words)

    source = Source(step_place, tuple((i, (w.start, w.end)) for i, w in zip(items, words)), positions_place)
    if verb.text == "swap":
        if items[0] == items[1]:
            raise words[1].error(f"swap takes two different layers: {VERBS['swap']}")
        items.sort()
    elif verb.text in SWITCHING:
        items = _sorted(verb, items, words)
    return Step(verb.text, tuple(items) if verb.text == "swap" else join_items(items), mean, positions, count, source)


def _sorted(verb: Word, items: list[Item], words: Sequence[Word]) -> list[Item]:
    ordered = sorted(zip(items, words))
    for (left, one), (right, other) in pairwise(ordered):
        if overlap(left, right):
            what = PARTS.get(verb.text, "layer")
            again = max(one, other, key=lambda word: word.start)
            first = right._replace(last=right.first)
            raise again.error(f"{what} {first} is named twice in one step: name each {what} once")
    return [item for item, _ in ordered]


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


def _read_part(verb: Word, word: Word) -> Part:
    match = re.fullmatch(r"([0-9]+)\.([0-9]+)(?:-([0-9]+))?", word.text)
    if not match:
        raise word.error(_why_no_part(verb, word))
    most = MOST[PARTS[verb.text]]
    layer, first = _number(word, match[1], 9_999), _number(word, match[2], most)
    last = _number(word, match[3], most) if match[3] else first
    if last < first:
        raise word.error(f"a range runs upward: write {layer}.{last}-{first}")
    return Part(layer, first, last)


def _why_no_part(verb: Word, word: Word) -> str:
    what = PARTS[verb.text]
    if word.text in VERBS:
        return f"steps are parted by a semicolon: write ; {word.text}"
    if word.text == "mean":
        return f"mean comes once, after the {what}s: {verb.text} 5.3 mean"
    if re.fullmatch("[0-9]+(-[0-9]+)?", word.text):
        whole = "attn-off" if what == "head" else "mlp-off"
        return f"{_quote(word)} names a layer: {what} 3 of layer 5 is written 5.3 ({whole} takes layers)"
    if re.fullmatch(r"[0-9]+-[0-9]+\.[0-9-]+|[0-9]+\.[0-9]+-[0-9]+\.[0-9]+", word.text):
        return f"{_quote(word)}: a range stays within one layer: {verb.text} 5.0-2 6.0-2"
    return f"{_quote(word)} does not belong here: write {VERBS[verb.text]}"


def _why_no_span(verb: Word, word: Word) -> str:
    if word.text in VERBS:
        return f"steps are parted by a semicolon: write ; {word.text}"
    if word.text == "mean" and verb.text in SWITCHING:
        return f"mean comes once, after the layers: {verb.text} 3 mean"
    if re.fullmatch(r"[0-9]+\.[0-9]+(-[0-9]+)?", word.text):
        parts = " or ".join(f"{other} {_quote(word)[1:-1]}" for other in PARTS)
        return f"{_quote(word)}: layers have no point: {verb.text} takes whole layers, a part of one is for {parts}"
    if re.fullmatch("-[0-9]+", word.text):
        return f"{_quote(word)} is not a layer: layers count from 0, a span is written 5-9"
    if word.text == "-":
        return "a span is written without spaces: 5-9"
    return f"{_quote(word)} does not belong here: write {VERBS[verb.text]}"


def _check_number_of_items(verb: Word, words: tuple[Word, ...]) -> None:
    least = 2 if verb.text == "swap" else 1
    most = None if verb.text in (*SWITCHING, "order") else least
    several = f"at least one {PARTS.get(verb.text, 'layer')}"
    wanted = "two layers" if verb.text == "swap" else "one span of layers" if most else several
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
