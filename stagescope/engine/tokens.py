r"""The one door to tokenizers: prompt -> ids, id -> text.

It serves the light tokenizer read from tokenizer.json before torch is imported (the `tokenizers` library) and
whatever tokenizer transformers gave the model. One id is written here as its own piece of text, which is not
what decoding a sequence does: the leading space is kept, special tokens are shown, and bytes that are no
UTF-8 by themselves (half of an emoji) are written \xNN instead of "\ufffd".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagescope.text import printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Token:
    id: int
    text: str  # spaces kept, made harmless by stagescope.text.printable, lone bytes as \xNN


class PromptError(ValueError):
    """A prompt that cannot be tokenized; says why and where."""


def light_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer of a Hugging Face directory without transformers or torch; None without a tokenizer.json.

    Truncation and padding stored in the file are switched off: a prompt is never cut. Raises ValueError when
    the file cannot be read as a tokenizer.
    """
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} is not a tokenizer file ({error}): fetch the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Any, prompt: str, prefix_id: int | None) -> list[int]:
    """Ids of the prompt, `prefix_id` first unless it is None; no other special token is added.

    Special tokens spelled out in the prompt ("<|im_start|>") become their ids. What the vocabulary cannot
    spell is lost or becomes its unknown token, as in transformers (SmolLM2 drops six control characters).
    Raises PromptError for a prompt that holds surrogates: bytes of the command line that are not UTF-8 arrive
    as such (PEP 383).
    """
    _refuse_surrogates(prompt)
    if _is_light(tokenizer):
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    else:
        ids = tokenizer.encode(prompt, add_special_tokens=False, verbose=False)
    return ([] if prefix_id is None else [prefix_id]) + list(ids)


def token_text(tokenizer: Any, token_id: int) -> str:
    """The text of one id, printable; "[id 50300]" beyond the vocabulary (padding of the unembedding)."""
    return texts(tokenizer, [token_id])[int(token_id)]


def texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """`token_text` of many ids at once, by id."""
    spell = _speller(tokenizer)
    return {token_id: spell(token_id) for token_id in map(int, ids)}


def vocabulary_size(tokenizer: Any) -> int:
    """Number of tokens, added ones included; the unembedding may have more columns."""
    return tokenizer.get_vocab_size(with_added_tokens=True) if _is_light(tokenizer) else len(tokenizer)


def _is_light(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "id_to_token")


def _speller(tokenizer: Any) -> Callable[[int], str]:
    """The function from an id to its text for this tokenizer's kind, read off its own decoder (3 us)."""
    light = tokenizer if _is_light(tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    if light is not None:
        piece_of = light.id_to_token
        added = light.get_added_tokens_decoder()
        text_of = _KINDS[_kind(light)]
    else:
        # A slow transformers tokenizer says nothing about its decoder. By guess: byte-level when the space
        # of the GPT-2 byte table is one of its tokens, else sentencepiece.
        def piece_of(token_id: int) -> str | None:
            return tokenizer.convert_ids_to_tokens(token_id) if token_id < len(tokenizer) else None

        added = tokenizer.added_tokens_decoder
        text_of = _KINDS["byte-level" if "Ġ" in tokenizer.get_vocab() else "sentencepiece"]

    def spell(token_id: int) -> str:
        piece = piece_of(token_id)
        if piece is None:
            return f"[id {token_id}]"
        # Special tokens stand as they are. So do added ones of byte-level vocabularies (runs of spaces in
        # gpt-neox), while those of sentencepiece ones are spelled like its pieces (runs of ▁ in gemma).
        if token_id in added and (added[token_id].special or text_of is not _sentencepiece_text):
            return printable(piece)
        return printable(text_of(piece))

    return spell


def _kind(light: Tokenizer) -> str:
    """byte-level, sentencepiece or plain: by the decoder, or the pre-tokenizer where there is none."""
    for part in (light.decoder, light.pre_tokenizer):
        if part is None:
            continue
        state = json.loads(part.__getstate__())
        steps = state.get("decoders") or state.get("pretokenizers") or [state]
        if any(step["type"] == "ByteLevel" for step in steps):
            return "byte-level"
        if any(
            step["type"] in ("Metaspace", "ByteFallback") or step.get("pattern") == {"String": "▁"}
            for step in steps
        ):
            return "sentencepiece"
    return "plain"


def _gpt2_byte_table() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 is itself, the other 68 bytes are U+0100 on.

    Source: bytes_to_unicode in the GPT-2 release (openai/gpt-2, src/encoder.py).
    """
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in themselves]
    return {chr(b): b for b in themselves} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _gpt2_byte_table()
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_text(piece: str) -> str:
    if not all(character in _BYTE_OF for character in piece):  # not spelled in bytes; the library's own rule
        return piece
    return _decode(bytes(_BYTE_OF[character] for character in piece))


def _sentencepiece_text(piece: str) -> str:
    if byte := _BYTE_PIECE.fullmatch(piece):
        return _decode(bytes.fromhex(byte[1]))
    return piece.replace("▁", " ")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", errors="backslashreplace")


_KINDS: dict[str, Callable[[str], str]] = {
    "byte-level": _byte_level_text,
    "sentencepiece": _sentencepiece_text,
    "plain": str,
}


def _refuse_surrogates(prompt: str) -> None:
    lone = [
        f"{_surrogate_name(character)} at character {place}"
        for place, character in enumerate(prompt, start=1)
        if "\ud800" <= character <= "\udfff"
    ]
    if lone:
        more = f" and {len(lone) - 3} more" if len(lone) > 3 else ""
        raise PromptError(
            f"the prompt holds bytes that are not UTF-8 text: {', '.join(lone[:3])}{more}; "
            "give it in UTF-8 (a file can be converted with iconv)"
        )


def _surrogate_name(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else printable(character)
