"""Messages as bytes: every one comes back as it went, and bytes that are none are a ValueError."""

import dataclasses
import typing

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stagescope.engine import protocol, wire
from stagescope.engine.protocol import (
    Census,
    Failure,
    Load,
    ModelInfo,
    Read,
    Reading,
    TakeCensus,
)
from stagescope.engine.tokens import Token

PARTS = [protocol.SweepRow, protocol.Texts, protocol.NeuronRow, protocol.Signal, protocol.Stage, protocol.ProbeScore]
MESSAGES = [*typing.get_args(protocol.Request), *typing.get_args(protocol.Reply), *PARTS]

integers = st.integers(-(2**63), 2**63 - 1)
strings = st.text(st.characters())  # surrogates among them: bytes of a command line that are no text
arrays = npst.arrays(
    st.sampled_from(["?", "i1", "i2", "i4", "i8", "u1", "u4", "f2", "f4", "f8"]),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
FIELDS = {
    "str": strings,
    "str | None": st.none() | strings,
    "int": integers,
    "int | None": st.none() | integers,
    "float": st.floats(),
    "bool": st.booleans(),
    "np.ndarray": arrays,
    "Token": st.builds(Token, integers, strings),
    "tuple[str, ...]": st.lists(strings, max_size=3).map(tuple),
    "tuple[int, ...]": st.lists(integers, max_size=3).map(tuple),
    "tuple[int | None, ...]": st.lists(st.none() | integers, max_size=3).map(tuple),
    "tuple[tuple[int, ...], ...]": st.lists(st.lists(integers, max_size=3).map(tuple), max_size=3).map(tuple),
    "tuple[Token, ...]": st.lists(st.builds(Token, integers, strings), max_size=3).map(tuple),
    "dict[int, str]": st.dictionaries(integers, strings, max_size=3),
}
FIELDS["Token | None"] = st.none() | FIELDS["Token"]
FIELDS["tuple[float, ...]"] = st.lists(st.floats(), max_size=3).map(tuple)
FIELDS["Texts"] = st.deferred(lambda: messages(protocol.Texts))
FIELDS["tuple[tuple[str, ...], ...]"] = st.lists(FIELDS["tuple[str, ...]"], max_size=2).map(tuple)
FIELDS["tuple[tuple[str, str, str], ...]"] = st.lists(st.tuples(strings, strings, strings), max_size=2).map(tuple)
FIELDS["tuple[int, int, int]"] = st.tuples(integers, integers, integers)
FIELDS["ProbeScore"] = st.deferred(lambda: messages(protocol.ProbeScore))
for name in ("NeuronRow", "Signal", "Stage", "ProbeScore"):
    rows = st.deferred(lambda name=name: st.lists(messages(getattr(protocol, name)), max_size=2).map(tuple))
    FIELDS[f"tuple[{name}, ...]"] = rows
FIELDS["Read"] = st.deferred(lambda: messages(Read))
FIELDS["Reading"] = st.deferred(lambda: bare(Reading))  # of a Comparison, where they have no baseline
FIELDS["tuple[tuple[int, int], ...]"] = st.lists(st.tuples(integers, integers), max_size=2).map(tuple)
FIELDS["Generate"] = st.deferred(lambda: messages(protocol.Generate))
FIELDS["float"] = FIELDS.get("float", st.floats())
FIELDS["float | None"] = st.none() | st.floats()
FIELDS["ModelInfo"] = st.deferred(lambda: messages(ModelInfo))
FIELDS["tuple[SweepRow, ...]"] = st.deferred(lambda: st.lists(messages(protocol.SweepRow), max_size=2).map(tuple))


def messages(kind: type) -> st.SearchStrategy:
    """Messages of one kind; a field of a type that is not listed above is an error here."""
    if kind in (Reading, protocol.Attribution):
        return st.builds(dataclasses.replace, bare(kind), baseline=st.none() | bare(kind))
    return bare(kind)


def bare(kind: type) -> st.SearchStrategy:
    """Without a baseline, where there could be one."""
    fields = {field.name: field.type for field in dataclasses.fields(kind) if field.name != "baseline"}
    return st.builds(kind, **{name: FIELDS[type_] for name, type_ in fields.items()})


def assert_same(ours, theirs):
    """Equal in type and value; NaN equals NaN, arrays in dtype and shape too."""
    assert type(ours) is type(theirs)
    if dataclasses.is_dataclass(ours):
        for field in dataclasses.fields(ours):
            assert_same(getattr(ours, field.name), getattr(theirs, field.name))
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs or ours != ours and theirs != theirs


def body(message) -> bytes:
    """A message's frame without the length, which is checked."""
    frame = wire.encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    return frame[4:]


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)  # a Reading has 35 arrays
@given(st.data())
def test_a_message_comes_back(kind, data):
    message = data.draw(messages(kind))
    assert_same(wire.decode(body(message)), message)


@settings(deadline=None)
@given(arrays, st.integers(0, 2**31), st.booleans())
def test_arrays_in_an_answer_come_back(array, number, last):
    assert_same(wire.decode(body((number, array, last))), (number, array, last))


def test_an_array_that_is_a_view_comes_back():
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (whole.T, whole[::2, ::3], whole[:, ::-1]):
        assert_same(wire.decode(body((0, view, True)))[1], np.array(view, order="C"))


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\xc1")  # never used by msgpack
@example(b"\x92\x91" * 500)  # deep
@example(b"\x91" * 1000 + b"\x90")
@example(b"\xdd\xff\xff\xff\xff")  # a list of 4 billion
def test_garbage_is_a_value_error(garbage):
    try:
        wire.decode(garbage)
    except ValueError:
        pass


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=9)
    | st.sampled_from(["$array", "$type", "Reading", "Token", "<f4", "|O", "(2,3)f4"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["$array", "$type", "id", "text", "7"]) | st.integers(0, 9), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(plain, plain)
def test_foreign_data_is_a_value_error(data, packed):
    for foreign in (data, [data, packed], [data, [packed]], [{"$type": data}, []], [{"$array": data}, []]):
        try:
            wire.decode(msgpack.packb(foreign))
        except ValueError:
            pass


def test_a_damaged_frame_is_a_value_error_or_another_message():
    good = body((3, Read("The Eiffel Tower", "drop 3"), np.ones((2, 3), np.float32)))
    for place in range(len(good)):
        for byte in (0x00, 0x7F, 0xC1, 0xFF, good[place] ^ 1):
            for bad in (good[:place], good[:place] + bytes([byte]) + good[place + 1 :]):
                try:
                    wire.decode(bad)
                except ValueError:
                    pass


@pytest.mark.parametrize(
    "data",
    [
        {"$type": "os.system"},
        {"$type": ["Read"]},
        {"$type": "Failure", "kind": "usage", "message": "a field is missing"},
        {"$type": "Token", "id": 1, "text": "a", "more": 1},
        {"$type": "TakeCensus", 1: 2},
        {"$array": 0},
        {"$array": -1},
        {"$array": "0"},
        {"not a number": "a"},
    ],
    ids=repr,
)
def test_what_is_no_message_of_this_version_is_refused(data):
    with pytest.raises(ValueError):
        wire.decode(msgpack.packb([data, []]))
    with pytest.raises(ValueError):
        wire.unflatten([[data]], [])


@pytest.mark.parametrize(
    "packed",
    [("|O", [1], b"\0" * 8), (">f4", [1], b"\0" * 4), ("|V4", [1], b"\0" * 4),
     ("f4,(2)i4", [1], b"\0" * 12), (["<f4"], [1], b"\0" * 4),
     ("<f4", [2], b"\0" * 4), ("<f4", [2**63], b"\0" * 4), ("<f4", ["1"], b"\0" * 4), ("<f4", [1], "text"),
     ("<f4", [1])],
    ids=repr,
)  # fmt: skip
def test_arrays_that_are_none_are_refused(packed):
    with pytest.raises(ValueError):
        wire.decode(msgpack.packb([{"$array": 0}, [packed]]))


def test_no_message_is_left_out():
    """A dataclass added to the protocol crosses the pipe too; what is none is refused when it is sent."""
    assert set(wire._TYPES) == {kind.__name__ for kind in MESSAGES}
    assert_same(wire.decode(body((1, None, True))), (1, None, True))
    assert {Load, TakeCensus, Census, Failure} <= set(MESSAGES)
    with pytest.raises(TypeError):
        wire.encode({"a": object()})
