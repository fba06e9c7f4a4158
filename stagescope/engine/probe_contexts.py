"""The contexts of a probe: which tokens are asked about, where they stand in a text, which are held out.

Without torch: all of it is the tokenizer's and the text's.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stagescope.engine import bookmark, question, standard_text
from stagescope.engine.documents import Document, documents, shown_name
from stagescope.engine.protocol import EngineError, ModelInfo, TakeProbe
from stagescope.engine.tokens import encode, texts, vocabulary_size

CONTEXT = 24  # tokens before the one asked about (Lad et al. 2024, Figure 10)
WINDOW = 512  # tokens at which documents of a file are cut
FEWEST = 20  # contexts of each class in each split: with fewer an interval spans 40 points
HELD = 0.5  # of the documents, and of the lemmas: what is short is what intervals are of, not what is trained on
ENDINGS = ("", "e", "s", "es", "d", "ed", "ing")  # forms of a verb or noun, put to its stem
VOWELS = frozenset("aeiouyAEIOUY")
ENOUGH = 4  # times `most` positives are read: the split and the balance leave about a third of them
MOST_TOKENS = 2**22  # of a text are read and held, 16 MiB
OTHERS = 2  # contexts drawn for each positive one of a document, when tokens are asked about
SPELLED_AT_ONCE = 2**13  # vocabulary entries, 25 ms
PACE_SECONDS = 0.05  # between two signs of progress; readings are served there
SEED = 0

Steps = Generator[float, None, Any]  # yields the fraction done, returns the result


@dataclass(frozen=True, eq=False)
class Classes:
    """What each of V vocabulary entries is to a probe."""

    label: np.ndarray  # [V] int8: 1 positive, 0 negative, -1 neither
    lemma: np.ndarray  # [V] int32
    within: bool  # negatives are drawn from the positives' own lemmas


@dataclass(frozen=True, eq=False)
class Contexts:
    """N contexts, those of training first; half of each split are positive."""

    ids: np.ndarray  # [N, C] int64: the prefix token, if there is one, and CONTEXT tokens
    following: np.ndarray  # [N] int64: the token that comes next
    positive: np.ndarray  # [N] bool
    held: np.ndarray  # [N] bool
    lemma: np.ndarray  # [N] int32
    document: np.ndarray  # [N] int32

    def counts(self, held: bool) -> tuple[int, int, int]:
        """Contexts, lemmas and documents of a split."""
        there = self.held == held
        return int(there.sum()), len(np.unique(self.lemma[there])), len(np.unique(self.document[there]))


# ----------------------------------------------------------------------------------- which tokens are which


def classes(tokenizer: Any, suffix: str, tokens: tuple[int, ...]) -> Steps:
    """The Classes of a suffix, or of a set of tokens if there are any: then everything else is negative, and the lemma
    of a token is the token."""
    n = vocabulary_size(tokenizer)
    if tokens:
        label = np.zeros(max(n, *(token + 1 for token in tokens)), np.int8)
        label[list(tokens)] = 1
        return Classes(label, np.arange(len(label), dtype=np.int32), within=False)
    spelled: dict[int, str] = {}
    for first in range(0, n, SPELLED_AT_ONCE):
        spelled |= texts(tokenizer, range(first, min(first + SPELLED_AT_ONCE, n)))
        yield first / n
    positives, others = forms(spelled, suffix)
    numbers = {name: number for number, name in enumerate(sorted(set(positives.values())))}
    label, lemma = np.full(n, -1, np.int8), np.full(n, -1, np.int32)
    for value, found in ((1, positives), (0, others)):
        for token, name in found.items():
            label[token], lemma[token] = value, numbers[name]
    return Classes(label, lemma, within=True)


def forms(spelled: Mapping[int, str], suffix: str) -> tuple[dict[int, str], dict[int, str]]:
    """(positives, others), token id -> lemma. Positives end in the suffix, and a stem of theirs is a token too; others
    are such a stem with another ending."""
    of = {text: token for token, text in reversed(spelled.items())}
    positives, others = {}, {}
    for token, text in spelled.items():
        if text.endswith(suffix) and any(stem in of for stem in stems(text, suffix)):
            positives[token] = lemma(text, suffix)
    for token, name in positives.items():
        for form in (stem + ending for stem in stems(spelled[token], suffix) for ending in ENDINGS):
            if form in of and not form.endswith(suffix):
                others.setdefault(of[form], name)
    return positives, others


def stems(text: str, suffix: str) -> tuple[str, ...]:
    """What may stand without the suffix: " hoping" -> " hop", " hope"; " running" -> " runn", " runne", " run".

    None where no word is left. One has a vowel, which " str" and " th" do not: in vocabularies that know code both
    " str" and " the" are tokens, and " string" and " thing" would count as forms of verbs.
    """
    stem = text.removesuffix(suffix)
    bare = stem.lstrip(" ")
    if not bare.isalpha() or (bare.isascii() and VOWELS.isdisjoint(bare)):
        return ()
    return (stem, stem + "e", *([stem[:-1]] if _doubled(bare) else []))


def lemma(text: str, suffix: str) -> str:
    """A name that the forms of a lemma share, whatever the case and the space before: " Hoping", "hopping" -> "hop"."""
    bare = text.removesuffix(suffix).lstrip(" ").lower()
    return bare[:-1] if _doubled(bare) else bare


def _doubled(bare: str) -> bool:
    return len(bare) > 2 and bare[-1] == bare[-2] and bare[-1] not in VOWELS


# ------------------------------------------------------------------------------------- where they stand


def find(request: TakeProbe, info: ModelInfo, tokenizer: Any, classes: Classes) -> Steps:
    """The Contexts of a request. Raises EngineError: what `documents` raises, "usage" when there are too few."""
    rng = np.random.default_rng(SEED)
    head = () if info.prefix is None else (info.prefix.id,)
    items: list[np.ndarray] = []  # ids of each document, no prefix
    seen: list[np.ndarray] = []  # of each document: [n, 2] document, position of what comes next
    n_tokens = n_positive = 0
    shown = time.monotonic()
    for fraction, ids in _items(request.file, info, tokenizer, len(head)):
        places = _places(ids, classes, rng)
        seen.append(np.stack([np.full(len(places), len(items)), places], -1))
        items.append(ids)
        n_tokens, n_positive = n_tokens + len(ids), n_positive + int((classes.label[ids[places]] == 1).sum())
        if n_positive >= ENOUGH * request.most or n_tokens >= MOST_TOKENS:
            break
        if time.monotonic() - shown > PACE_SECONDS:
            yield max(fraction, n_positive / (ENOUGH * request.most), n_tokens / MOST_TOKENS)
            shown = time.monotonic()
    document, place = np.concatenate(seen).T if seen else np.empty((2, 0), int)
    following = np.array([items[number][at] for number, at in zip(document, place, strict=True)], int)
    positive, lemmas = classes.label[following] == 1, classes.lemma[following]
    rows, held = choose(positive, lemmas, document, classes.within, request.most, rng)
    _check_counts(request, [int((positive[rows] & (held == part)).sum()) for part in (False, True)])
    before = [(*head, *items[document[row]][place[row] - CONTEXT : place[row]]) for row in rows]
    return Contexts(
        np.array(before, np.int64), following[rows], positive[rows], held, lemmas[rows], document[rows].astype(np.int32)
    )


def _items(file: str, info: ModelInfo, tokenizer: Any, n_head: int) -> Iterator[tuple[float, np.ndarray]]:
    """(fraction of the text, ids without a prefix) of each document. Of the standard text: every topic, whole."""

    def encoded(text: str) -> list[int]:
        return encode(tokenizer, text, None)

    if not file:
        topics = standard_text.topics()
        for number, (_, text) in enumerate(topics, 1):
            yield number / len(topics), np.array(encoded(text), np.int32)
        return
    size = (bookmark.stamp(file) or [0])[0]
    for item in documents(file, encoded, question.prefix_id(info), min(WINDOW, info.n_ctx)):
        if isinstance(item, Document):
            yield min(item.end / size, 1.0) if size else 0.0, np.array(item.ids[n_head:], np.int32)


def _places(ids: np.ndarray, classes: Classes, rng: np.random.Generator) -> np.ndarray:
    """Positions with CONTEXT tokens before them that enter: all of a lemma; of tokens a sample of the others."""
    label = classes.label[ids]
    label[:CONTEXT] = -1
    if classes.within:
        return np.flatnonzero(label >= 0)
    positive, others = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    drawn = rng.choice(others, min(OTHERS * len(positive), len(others)), replace=False)
    return np.sort(np.concatenate([positive, drawn]))


# --------------------------------------------------------------------------------------- the two splits


def choose(
    positive: np.ndarray, lemma: np.ndarray, document: np.ndarray, within: bool, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, which of them are held out), those of training first.

    Documents and lemmas are dealt out each for itself; a context whose document went one way and whose lemma the other
    is lost, which is about every second. The rest is balanced: within each lemma, or over all of a split.
    """
    n_lemmas = int(lemma.max(initial=-1)) + 1
    sizes = [np.bincount(lemma[positive == value], minlength=n_lemmas) for value in (True, False)]
    both = np.minimum(*sizes)
    usable = both[lemma] > 0 if within else np.ones(len(lemma), bool)
    held_lemma = _dealt(both, rng) if within else np.where(sizes[0] > 0, *(_dealt(size, rng) for size in sizes))
    held_document = _dealt(np.bincount(document[usable & positive], minlength=document.max(initial=-1) + 1), rng)
    held = held_document[document]
    usable &= held == held_lemma[lemma]
    parts = []
    for part, share in ((False, 1 - HELD), (True, HELD)):
        there = np.flatnonzero(usable & (held == part))
        pairs = _pairs(there, positive, lemma if within else np.zeros_like(lemma), rng)
        parts.append(rng.permutation(pairs)[: round(share * most / 2)].reshape(-1))
    rows = np.concatenate(parts)
    return rows, held[rows]


def _dealt(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n] bool, which of n groups are held out: the largest dealt first, each to the part that lacks most, so that a
    few large ones do not make a split of nearly nothing."""
    held, filled, shares = np.zeros(len(sizes), bool), [0.0, 0.0], (1 - HELD, HELD)
    order = rng.permutation(len(sizes))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        held[group] = filled[1] / shares[1] < filled[0] / shares[0]
        filled[int(held[group])] += sizes[group] or 1e-3  # what holds no positive goes both ways too
    return held


def _pairs(there: np.ndarray, positive: np.ndarray, stratum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n, 2] rows, positive and negative, as many of each stratum as it has of the rarer class."""
    pairs = [np.empty((0, 2), int)]
    for one in np.unique(stratum[there]):
        rows = there[stratum[there] == one]
        yes, no = rng.permutation(rows[positive[rows]]), rng.permutation(rows[~positive[rows]])
        n = min(len(yes), len(no))
        pairs.append(np.stack([yes[:n], no[:n]], -1))
    return np.concatenate(pairs)


def _check_counts(request: TakeProbe, found: list[int]) -> None:
    if min(found) >= FEWEST:
        return
    other = "more tokens" if request.tokens else "another suffix"
    raise EngineError(
        "usage",
        f"{shown_name(request.file)} gives {found[0]} contexts of each class to train on and {found[1]} to hold out, "
        f"with no lemma and no document in both; a probe needs {FEWEST} of each.",
        f"Give a longer text of several documents, or {other}.",
    )
