"""The standard text, which every Python carries: the topics of its help. What is measured over when nothing was named.

The help differs from one Python release to the next, so the name says which.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

# Enough for the means: between two halves of 24 such windows no neuron of the default model changed from one sign to
# the other (15 to 20 % passed in or out of `unsigned`).
WINDOWS, WINDOW_TOKENS = 16, 128
CHARACTERS_PER_TOKEN = 16  # more than any tokenizer packs into a token of English


def name() -> str:
    return f"pydoc_data.topics of Python {platform.python_version()}"


def topics() -> list[tuple[str, str]]:
    """The whole of it: (name, text) of each topic, in the order of their names."""
    import pydoc_data.topics  # half a megabyte of text that nothing else needs

    return sorted(pydoc_data.topics.topics.items())


def windows(encode: Callable[[str], list[int]], head: tuple[int, ...], longest: int) -> list[tuple[int, ...]]:
    """Token ids of the 16 windows, each of 128 tokens, or `longest` if that is less; head: the prefix token, if any.

    They are spread evenly over the topics of Python's help in the order of their names, each from the start of a line.
    """
    text = "\n".join(text for _, text in topics())
    length = min(WINDOW_TOKENS, longest)
    starts = [text.index("\n", window * len(text) // WINDOWS) + 1 for window in range(WINDOWS)]
    pieces = [text[start : start + CHARACTERS_PER_TOKEN * length] for start in starts]
    return [(*head, *encode(piece))[:length] for piece in pieces]
