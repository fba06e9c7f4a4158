"""Words of several tokens as a text has them, each in its context, and words of one token to compare with.

What sub-joiner heads are searched on (subjoiners.py). Words are found among the tokens of the running text, so that
they are split just as the model meets them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from stagescope.engine import standard_text
from stagescope.engine.documents import Document, documents, limited
from stagescope.engine.protocol import EngineError, FindHeads, ModelInfo
from stagescope.engine.tokens import encode, texts

CONTEXT = 16  # tokens before a word
FEWEST = 20  # distinct words of several tokens, and of one
MOST = 300  # words; twice as many rows of 20 tokens take the default model 30 s on one CPU thread
READ = 200_000  # tokens of a file looked through; the standard text has about 115,000
CONTROLS = 1000  # the most frequent words of one token, of which each is as likely: so most are no "the"
SEARCHED = 2, 3  # two of three words are searched, the rest held out
SEED = 0
# A blank, letters, what may end a word, and the next blank. An apostrophe, a hyphen or a digit makes it something else
# than a word of letters.
WORD = re.compile(r" ([^\W\d_]+)[.,;:!?)\]}\"'”’…]*(?=\s)")
ESCAPED = re.compile(r"\\u\{([0-9a-f]{1,5})\}")  # by text.printable


@dataclass(frozen=True)
class Item:
    """One word in one context. Ids; the prefix token, if there is one, stands first in the context."""

    context: tuple[int, ...]
    pieces: tuple[int, ...]  # of the word
    control: int  # the word of one token that stands in the same context for comparison
    held: bool  # kept out of the search


def find(request: FindHeads, info: ModelInfo, tokenizer: Any) -> Generator[float, None, list[Item]]:
    """At most MOST words of `request.pieces` tokens; those searched first. No two differ in their last piece or in case alone:
    syntactical is no news after syntactically. Words and controls that are searched are not held out. On the way the fraction of the text that was read, NaN where unknown.

    Seeded: the same text gives the same items. Raises EngineError: what `documents` raises, "usage" for too few words.
    """
    head = () if info.prefix is None else (info.prefix.id,)
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}  # all but the last piece, in one case -> context, pieces
    ones: Counter[int] = Counter()
    spelled: dict[int, str] = {}
    for ids, done in _texts(request.file, info, tokenizer, head):
        new = set(ids) - spelled.keys()
        spelled |= {token: _plain(text) for token, text in texts(tokenizer, new).items()}
        for first, end in words(ids, spelled):
            if end - first == 1:
                ones[ids[first]] += 1
            elif end - first == request.pieces and first >= CONTEXT:
                word = "".join(spelled[token] for token in ids[first : end - 1]).casefold()
                found.setdefault(word, ((*head, *ids[first - CONTEXT : first]), ids[first:end]))
        yield done
    controls: dict[str, int] = {}
    for token, _ in ones.most_common():
        if (word := spelled[token].casefold()) not in found and len(controls) < CONTROLS:
            controls.setdefault(word, token)
    for there, kind in ((found, f"{request.pieces} tokens"), (controls, "one token")):
        if len(there) < FEWEST:
            raise EngineError(
                "usage",
                f"the text has {len(there)} different words of {kind} to look at, {FEWEST} are needed.",
                "Give a longer text (only words of letters with a blank before and after them count).",
            )
    return _drawn(list(found.values()), list(controls.values()))


def words(ids: tuple[int, ...], spelled: dict[int, str]) -> Iterator[tuple[int, int]]:
    """Where words of letters begin and end, as indices of tokens: those whose first token begins with their blank."""
    text, starts = "", {}
    for index, token in enumerate(ids):
        starts[len(text)] = index
        text += spelled[token]
    for match in WORD.finditer(text):
        first, end = starts.get(match.start()), starts.get(match.end(1))
        if first is not None and end is not None:
            yield first, end


def _drawn(words: list[tuple[tuple[int, ...], tuple[int, ...]]], controls: list[int]) -> list[Item]:
    rng = random.Random(SEED)
    rng.shuffle(words)
    rng.shuffle(controls)
    words, items = words[:MOST], []
    searched, of_searched = (len(some) * SEARCHED[0] // SEARCHED[1] for some in (words, controls))
    for number, (context, pieces) in enumerate(words):
        held = number >= searched
        control = rng.choice(controls[of_searched:] if held else controls[:of_searched])
        items.append(Item(context, pieces, control, held))
    return items


def _texts(
    file: str, info: ModelInfo, tokenizer: Any, head: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Ids of running text without a prefix, and the fraction of all that is read by then."""
    if not file:
        topics = standard_text.topics()
        for number, (_, text) in enumerate(topics, 1):
            yield tuple(encode(tokenizer, text, None)), number / len(topics)
        return
    read = documents(file, lambda text: encode(tokenizer, text, None), head[0] if head else None, info.n_ctx)
    for item in limited(read, READ, len(head)):
        if isinstance(item, Document):
            yield item.ids[len(head) :], float("nan")


def _plain(text: str) -> str:
    """A token's printable text with its line ends and tabs as they were."""
    return ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)
