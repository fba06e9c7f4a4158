"""A text as documents: nothing is lost or twice, nothing crashes, and what is left out is named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagescope.engine import documents as module
from stagescope.engine.documents import Document, Skipped, documents, limited
from stagescope.engine.protocol import EngineError

PREFIX = 999
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encode(text: str) -> list[int]:
    """Two bytes a token, so that tokens know nothing of windows."""
    data = text.encode()
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def letters(text: str) -> list[int]:
    return list(text.encode())


def read(data: bytes | str, window: int = 8, prefix: int | None = PREFIX, encode=letters) -> list[Document | Skipped]:
    """The items of a text on standard input."""
    data = data.encode() if isinstance(data, str) else data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), closed=False))
        return list(documents("-", encode, prefix, window))


def texts(items) -> list[str]:
    return [bytes(item.ids[1:]).decode() for item in items if isinstance(item, Document)]


def refused(data: bytes | str, **how) -> tuple[str, str]:
    with pytest.raises(EngineError) as error:
        read(data, **how)
    return error.value.failure.kind, error.value.failure.message


# ------------------------------------------------------------------------------------------------ plain text


def test_plain_text_is_cut_into_windows_and_the_rest_begins_the_next():
    found = read("abcdefghijklmnopq")
    assert texts(found) == ["abcdefg", "hijklmn", "opq"]
    assert [item.place for item in found] == ["tokens 0-6", "tokens 7-13", "tokens 14-16"]
    assert all(item.ids[0] == PREFIX and not item.cut for item in found)
    assert [item.ids for item in read("abc", prefix=None)] == [(97, 98, 99)]


def test_a_rest_of_one_token_is_too_short():
    found = read("abcdefgh")
    assert texts(found) == ["abcdefg"]
    assert (found[1].place, found[1].why) == ("tokens 7-7", "it is too short: 1 token")


@many
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), window=st.integers(3, 40))
def test_the_windows_together_are_the_token_stream(text: str, window: int, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 16)
    monkeypatch.setattr(module, "LONGEST_PIECE", 32)
    pieces = []

    def spying(piece: str) -> list[int]:
        pieces.append(piece)
        return encode(piece)

    try:
        items = read(text, window, encode=spying)
    except EngineError:
        assert text.isspace() or text.startswith("\ufeff") or len(encode(text)) < 2
        return
    if any("empty" in getattr(item, "why", "") for item in items):
        return  # a piece of nothing but spaces is left out, below
    stream = [token for piece in pieces for token in encode(piece)]
    whole = [item for item in items if isinstance(item, Document)]
    assert [token for item in whole for token in item.ids[1:]] == stream[: sum(len(item.ids) - 1 for item in whole)]
    assert sum(len(item.ids) - 1 for item in whole) >= len(stream) - 1
    assert "".join(pieces) == text.removeprefix("\ufeff")
    assert all(len(item.ids) == window for item in whole[:-1]) and all(len(item.ids) <= window for item in whole)
    assert [item.end for item in items] and all(0 < item.end <= len(text.encode()) for item in items)


def test_lines_are_tokenized_whole_and_a_line_without_end_is_cut_before_a_character(monkeypatch):
    assert b"".join(module._pieces([b"x" * 5000 + b"\n", b"y\n", b"z"])) == b"x" * 5000 + b"\ny\nz"
    assert [len(piece) for piece in module._pieces([b"x\n" * 2] * 3000)] == [4096, 4096, 3808]
    endless = ("é" * 100_000).encode()  # two bytes each, after one that makes the cut fall within a character
    pieces = list(module._pieces(module._chunks(io.BytesIO(b"x" + endless), module.LONGEST_PIECE)))
    assert [len(piece) for piece in pieces] == [65535, 65536, 65536, 3394]
    assert all(piece.decode() for piece in pieces)


@pytest.mark.parametrize("bad, why", [
    (b"\0" * 50, "NUL"), (b"\xff\xfe\xfd" * 9, "UTF-8 (byte 0"), (b"\x01\x02\x03x" * 9, "control"),
    (b"\n\n  \t", "empty"),
])  # fmt: skip
def test_what_is_no_text_is_skipped_and_the_text_goes_on(bad: bytes, why: str, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 4)
    items = read(b"abcd\n" + bad + b"\nefgh\n")
    assert texts(items) == ["abcd\n", "efgh\n"]  # not one window: what stood between them is not there
    assert items[1].place == f"bytes 5-{5 + len(bad)}" and why in items[1].why
    assert items[2].place == "tokens 5-9"


def test_a_mark_at_the_start_is_no_text():
    assert texts(read(b"\xef\xbb\xbfabc")) == ["abc"]
    assert texts(read(b'\xef\xbb\xbf{"text": "abc"}')) == ["abc"]


# ------------------------------------------------------------------------------------------------ JSON lines


def test_a_json_line_is_a_document_cut_at_the_window():
    found = read('\n{"text": "abc", "id": 7}\n{"text": "abcdefghijk"}\n{"text": "abcdefg"}')
    assert texts(found) == ["abc", "abcdefg", "abcdefg"]
    assert [(item.place, getattr(item, "cut", None)) for item in found] == [
        ("line 1", None), ("line 2", False), ("line 3", True), ("line 4", False)
    ]  # fmt: skip
    assert found[-1].end == 69


@pytest.mark.parametrize("line, why", [
    ("[1, 2]", "no JSON object"), ("{not json}", "no JSON object"), ("text", "no JSON object"), ("", "empty"),
    ('{"body": "abc"}', "no field"), ('{"text": null}', "no string"), ('{"text": ["a"]}', "no string"),
    ('{"text": ""}', "empty"), ('{"text": " \\n "}', "empty"), ('{"text": "a"}', "too short: 1 token"),
    ('{"text": "a\\u0000b"}', "NUL"), ('{"text": "ab\\ud800"}', "UTF-8"), (b'{"text": "\xff\xfe"}', "UTF-8"),
    (b'{"text": "a\0b"}', "NUL"), ('{"text": "\\u0001\\u0002a"}', "control"), ('{"text": ' * 90_000, "no JSON object"),
    ('{"text": "abc", "n": ' + "9" * 5000 + "}", "no JSON object"), (b"\x80\x81", "UTF-8"),
])  # fmt: skip
def test_a_line_that_is_no_document_is_named(line: str | bytes, why: str):
    line = line.encode() if isinstance(line, str) else line
    good, wrong, last = read(b'{"text": "abc"}\n' + line + b'\n{"text": "abcd"}\n')
    assert texts([good, last]) == ["abc", "abcd"] and last.place == "line 3"
    assert wrong.place == "line 2" and why in wrong.why


def test_a_line_too_long_to_be_held_is_skipped_whole(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 40)
    for text in ("x" * 20, "x" * 200, "x" * 1000):
        items = read('{"text": "abc"}\n' + json.dumps({"text": text}) + '\n{"text": "abcd"}')
        assert [item.place for item in items] == ["line 1", "line 2", "line 3"]
        assert ("longer than" in getattr(items[1], "why", "")) == (len(text) > 20)


def test_no_more_of_a_long_text_is_tokenized_than_the_window_takes():
    seen = []

    def spying(text: str) -> list[int]:
        seen.append(len(text))
        return letters(text)

    (found,) = read(json.dumps({"text": "abcdefghij" * 100_000}), encode=spying)
    assert found.cut and texts([found]) == ["abcdefg"] and seen == [16 * 7]
    seen.clear()
    (found,) = read(json.dumps({"text": " " * 4000 + "abcdefghij" * 9}), encode=lambda text: spying(text.lstrip()))
    assert texts([found]) == ["abcdefg"] and seen == [0, 0, 0, 90]


@pytest.mark.parametrize("text", ["{", "{\n  text\n}", '["a"]', '"text"', "12", '{"a": 1} and so on', "text {}"])
def test_what_only_looks_like_json_is_plain_text(text: str):
    assert "".join(texts(read(text + "\nabc", window=100))) == text + "\nabc"


some_bytes = st.binary() | st.lists(st.binary() | st.just(b'{"text": "abcdef"}')).map(b"\n".join)


@many
@given(data=some_bytes, size=st.integers(3, 20))
def test_no_bytes_crash(data: bytes, size: int):
    try:
        items = read(data, size)
    except EngineError as error:
        assert error.failure.kind == "usage"
        return
    assert any(isinstance(item, Document) for item in items)
    for item in items:
        assert item.place.isprintable() and item.end <= len(data)
        assert len(item.ids) in range(3, size + 1) if isinstance(item, Document) else item.why.isprintable()


# ------------------------------------------------------------------------------------------- files, refusals


def test_a_file_reads_as_standard_input_does(tmp_path: Path):
    file = tmp_path / "a text"
    file.write_bytes(b"abcdefghijk\n" * 999)
    assert list(documents(str(file), letters, PREFIX, 64)) == read(file.read_bytes(), 64)


@pytest.mark.parametrize("name", ["nowhere", ".", "a\0b", "x" * 300])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str):
    with pytest.raises(EngineError) as error:
        next(documents(str(tmp_path / name), letters, PREFIX, 8))
    assert error.value.failure.kind == "missing" and error.value.failure.hint
    assert error.value.failure.message.isprintable()


def test_a_file_that_breaks_off(monkeypatch):
    class Broken(io.BytesIO):
        def readline(self, size: int = -1) -> bytes:
            if self.tell() > 9:
                raise OSError(5, "Input/output error")
            return super().readline(size)

    monkeypatch.setattr(module.sys, "stdin", SimpleNamespace(buffer=Broken(b"abcdefghijkl\nm\n"), closed=False))
    with pytest.raises(EngineError, match="standard input .Input/output error"):
        list(documents("-", letters, PREFIX, 8))
    monkeypatch.setattr(module.sys, "stdin", None)
    with pytest.raises(EngineError, match="closed"):
        list(documents("-", letters, PREFIX, 8))


def test_a_text_without_a_document_says_why():
    assert refused(b"") == ("usage", "standard input is empty.")
    kind, message = refused(b"\0\0\0\0")
    assert kind == "usage" and "bytes 0-3: it holds NUL bytes." in message
    _, message = refused("\n".join(['{"a": 1}', "", '{"text": 3}', "{}", "x"]))
    assert "line 1: it has no field “text”; line 2: it is empty; line 3:" in message and message.endswith("and 2 more.")
    assert "too short" in refused("a")[1]


def test_a_window_needs_room_for_two_tokens():
    for prefix, window in ((PREFIX, 2), (None, 1), (PREFIX, 0), (PREFIX, -3)):
        assert "too short" in refused("abc", prefix=prefix, window=window)[1]
    assert texts(read("abcd", window=3)) == ["ab", "cd"]


@given(lengths=st.lists(st.integers(2, 9), min_size=1), tokens=st.integers(1, 40))
def test_a_limit_cuts_the_last_document(lengths: list[int], tokens: int):
    items = [Document((PREFIX, *range(n)), f"line {n}", n) for n in lengths]
    kept = list(limited(iter(items), tokens, 1))
    assert sum(len(item.ids) - 1 for item in kept) == min(tokens, sum(lengths))
    assert kept[:-1] == items[: len(kept) - 1] and list(limited(iter(items), None, 1)) == items
