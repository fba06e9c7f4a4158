"""The token put before every prompt. Known before the weights where the catalogue or the user names it."""

from __future__ import annotations

from typing import Any

from stagescope.engine.protocol import EngineError, Load
from stagescope.engine.tokens import PromptError, Token, encode, texts
from stagescope.text import printable


def prefix_text(request: Load, known: str | None) -> str | None:
    """What --bos stands for: the prefix's text, "" for no prefix, None where only the loaded tokenizer can tell.

    With --chat the template brings its own first tokens, so auto puts nothing before it. known: the catalogue's.
    """
    if request.bos == "none" or (request.bos == "auto" and request.chat):
        return ""
    return known if request.bos == "auto" else request.bos


def prefix_token(tokenizer: Any, text: str) -> Token | None:
    """The one token a prefix is, None for "". EngineError("usage") when it is several."""
    if not text:
        return None
    try:
        ids = encode(tokenizer, text, None)
    except PromptError as error:
        raise EngineError("usage", f"--bos: {error}.") from error
    if len(ids) != 1:
        raise EngineError(
            "usage",
            f"--bos {printable(text)} is {len(ids)} tokens of this tokenizer, a prefix is one.",
            "Give one token, auto or none.",
        )
    return Token(ids[0], texts(tokenizer, ids)[ids[0]])
