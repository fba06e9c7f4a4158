"""A text as documents: streamed, never held whole, what is no text left out by name.

JSON lines, when the first line that is not blank is a JSON object: one document a line, its field "text"; what goes
beyond the window is left out, for it belongs to the same document and would be scored without its beginning.
Anything else is plain text: cut into consecutive windows, each a document of its own. No name at all ("") is the
standard text (standard_text.py), of which each window is a document.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from stagescope.engine import standard_text
from stagescope.engine.protocol import EngineError
from stagescope.text import printable

# Bytes. Plain text is tokenized in pieces of whole lines, so that few tokens are cut; a line without end is cut too.
PIECE, LONGEST_PIECE = 4096, 65536
LONGEST_LINE = 16 * 2**20  # of JSON lines: four times War and Peace
CHARACTERS_PER_TOKEN = 16  # more than any tokenizer packs into a token of English
FEWEST = 2  # tokens beside the prefix: one to predict from, one to be predicted
REASONS = 3  # named when nothing was a document
BOM = b"\xef\xbb\xbf"
CONTROLS = bytes({*range(32), 127} - set(b"\t\n\v\f\r"))

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Document:
    ids: tuple[int, ...]  # the prefix token first, if there is one
    place: str  # "line 12", "tokens 512-1023", "window 3"
    end: int  # bytes of the file up to its end, about; of the standard text: windows
    cut: bool = False  # longer than the window


@dataclass(frozen=True)
class Skipped:
    place: str  # "line 12", "bytes 4096-8191", "tokens 512-512"
    why: str
    end: int


def documents(file: str, encode: Encode, prefix: int | None, window: int) -> Iterator[Document | Skipped]:
    """The documents of a file in order, and what was left out. "-" is standard input, "" the standard text.

    encode: text -> ids without a prefix; special tokens spelled out are its affair. window: most tokens of a document,
    prefix included. Raises EngineError: "missing" for a file that cannot be read, "usage" when it holds no document.
    """
    head = () if prefix is None else (prefix,)
    room = window - len(head)
    if room < FEWEST:
        raise EngineError("usage", f"a window of {window} tokens is too short.", f"Use {len(head) + FEWEST} or more.")
    if not file:
        for number, ids in enumerate(standard_text.windows(encode, head, window), 1):
            yield Document(ids, f"window {number}", number)
        return
    found, n_skipped, first_skipped = 0, 0, []
    with _opened(file) as stream:
        begun, is_json = _sniff(stream)
        chunks = itertools.chain(begun, _chunks(stream, LONGEST_LINE if is_json else LONGEST_PIECE))
        for item in _json_lines(chunks, encode, head, room) if is_json else _windows(chunks, encode, head, room):
            if isinstance(item, Document):
                found += 1
            else:
                n_skipped += 1
                first_skipped = [*first_skipped, item][:REASONS]
            yield item
    if not found:
        raise _empty(file, n_skipped, first_skipped)


def limited(items: Iterator[Document | Skipped], tokens: int | None, n_prefix: int) -> Iterator[Document | Skipped]:
    """The items until `tokens` are scored (None: all), the last document cut to that. The prefix is not scored."""
    left = float("inf") if tokens is None else tokens
    for item in items:
        if isinstance(item, Document):
            if len(item.ids) - n_prefix >= left:
                yield replace(item, ids=item.ids[: n_prefix + int(left)])
                return
            left -= len(item.ids) - n_prefix
        yield item


def shown_name(file: str) -> str:
    if not file:
        return standard_text.name()
    return "standard input" if file == "-" else printable(file)


def expect_file(file: str | None) -> None:
    """Before a model is loaded for it: raises EngineError for a file that is missing, or empty; "-" is none."""
    if file in (None, "-"):
        return
    try:
        found = os.stat(file)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise unreadable(file, error) from error
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        raise EngineError("usage", f"{shown_name(file)} is empty.", "Give a text.")


def unreadable(file: str, error: OSError) -> EngineError:
    return EngineError("missing", f"cannot read {shown_name(file)} ({error.strerror}).", "Name a text file, or -.")


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """The file to read bytes from. What the system says against it, now or while it is read, is an EngineError."""
    if file == "-" and (sys.stdin is None or sys.stdin.closed):
        raise EngineError("missing", "standard input is closed.", "Pipe a text into it, or name a file.")
    if "\0" in file:
        raise EngineError("missing", f"no file can be called {printable(file)}.", "Name a text file.")
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as stream:
            yield stream
    except OSError as error:
        hint = "Give a text file, a file of JSON lines, or - for standard input."
        raise EngineError("missing", f"cannot read {shown_name(file)} ({error.strerror}).", hint) from error


def _empty(file: str, n_skipped: int, skipped: list[Skipped]) -> EngineError:
    if not n_skipped:
        return EngineError("usage", f"{shown_name(file)} is empty.", "Give a text.")
    more = f" and {n_skipped - len(skipped)} more" if n_skipped > len(skipped) else ""
    named = "; ".join(f"{item.place}: {item.why}" for item in skipped)
    hint = "Give plain text in UTF-8, or JSON lines with a field “text”."
    return EngineError("usage", f"there is no document in {shown_name(file)}: {named}{more}.", hint)


def _chunks(stream: BinaryIO, longest: int) -> Iterator[bytes]:
    """Lines with their ends; one longer than `longest` comes in several."""
    while line := stream.readline(longest):
        yield line


def _sniff(stream: BinaryIO) -> tuple[list[bytes], bool]:
    """What was read to the end of the first line that is not blank, and whether that is a JSON object."""
    begun = [stream.readline(LONGEST_LINE)]
    blank = len(begun[0])
    while begun[-1] and not begun[-1].removeprefix(BOM).strip() and blank < LONGEST_LINE:
        begun.append(stream.readline(LONGEST_LINE))
        blank += len(begun[-1])
    return begun, isinstance(_json(begun[-1].removeprefix(BOM)), dict)


# ------------------------------------------------------------------------------------------------ JSON lines


def _json_lines(chunks: Iterator[bytes], encode: Encode, head: tuple[int, ...], room: int):
    number, end = 0, 0
    for line in chunks:
        number, end = number + 1, end + len(line)
        whole = len(line) < LONGEST_LINE or line.endswith(b"\n")
        while not whole:
            rest = next(chunks, b"\n")
            end, whole = end + len(rest), rest.endswith(b"\n")
            line = b""
        place = f"line {number}"
        text, why = _text_of(line.removeprefix(BOM) if number == 1 else line)
        ids = _first_ids(encode, text, room) if not why else []
        why = why or _too_short(ids)
        if why:
            yield Skipped(place, why, end)
        else:
            yield Document((*head, *ids[:room]), place, end, cut=len(ids) > room)


def _text_of(line: bytes) -> tuple[str, str]:
    """(text, "") of a line, or ("", what is wrong with it). A line too long to be held is given empty."""
    if not line:
        return "", f"it is longer than {LONGEST_LINE // 2**20} MiB"
    if not line.strip():
        return "", "it is empty"
    if why := _no_text(line):
        return "", why
    entry = _json(line)
    if not isinstance(entry, dict):
        return "", "it is no JSON object"
    if "text" not in entry:
        return "", "it has no field “text”"
    if not isinstance(entry["text"], str):
        return "", "its field “text” is no string"
    # What was escaped in JSON (\u0000, half a surrogate pair) shows itself only now.
    return entry["text"], _no_text(entry["text"].encode("utf-8", "surrogatepass"))


def _json(line: bytes):
    """The value of a line; None where it is no JSON."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first_ids(encode: Encode, text: str, n: int) -> list[int]:
    """The first ids of a text, all or more than n: no more of a long one is tokenized than it takes.

    Twice n, because the tokens next to where the text was cut may not be those of the whole text.
    """
    length = CHARACTERS_PER_TOKEN * n
    while len(ids := encode(text[:length])) <= 2 * n and length < len(text):
        length *= 4
    return ids


# ------------------------------------------------------------------------------------------------ plain text


def _windows(chunks: Iterator[bytes], encode: Encode, head: tuple[int, ...], room: int):
    """What is left of a piece begins the next window. After bytes that are no text a new window begins."""
    ids, at, end, density = [], 0, 0, 0.0  # at: tokens before those in ids; density: bytes to a token

    def window(n: int) -> Document | Skipped:
        nonlocal ids, at
        taken, ids, place = ids[:n], ids[n:], f"tokens {at}-{at + len(ids[:n]) - 1}"
        at += len(taken)
        why, read = _too_short(taken), end - int(density * len(ids))
        return Skipped(place, why, read) if why else Document((*head, *taken), place, read)

    for piece in _pieces(chunks):
        start, end = end, end + len(piece)
        text = piece.removeprefix(BOM) if start == 0 else piece
        if why := _no_text(text):
            if ids:
                yield window(room)
            yield Skipped(f"bytes {start}-{end - 1}", why, end)
            continue
        new = encode(text.decode())
        ids, density = ids + new, len(piece) / max(len(new), 1)
        while len(ids) >= room:
            yield window(room)
    if ids:
        yield window(room)


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines gathered to 4096 bytes or more; a line without end is cut before a character at 65536."""
    piece = b""
    for chunk in chunks:
        piece += chunk
        start = 0
        while len(piece) - start > LONGEST_PIECE:
            cut = start + LONGEST_PIECE
            cut -= next((back for back in range(4) if piece[cut - back] & 0xC0 != 0x80), 0)
            yield piece[start:cut]
            start = cut
        piece = piece[start:]
        if len(piece) >= PIECE and piece.endswith(b"\n"):
            yield piece
            piece = b""
    if piece:
        yield piece


# ---------------------------------------------------------------------------------------------- what is no text


def _no_text(data: bytes) -> str:
    """Why bytes are no text, "" when they are: the paper's measures on an archive or a picture say nothing."""
    if b"\0" in data:
        return "it holds NUL bytes"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte {error.start} of it)"
    if not text or text.isspace():
        return "it is empty"
    controls = len(data) - len(data.translate(None, CONTROLS))
    return "it is mostly control characters" if 2 * controls > len(text) else ""


def _too_short(ids: list[int]) -> str:
    return f"it is too short: {len(ids)} token{'s' * (len(ids) != 1)}" if len(ids) < FEWEST else ""
