"""Protocol dataclasses as plain data: numpy arrays apart, the rest what msgpack and JSON can hold.

The same bytes cross the pipe to the child process and lie in the cache. Never pickle: the protocol will be served on
a socket one day.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import numpy as np

from stagescope.engine import protocol
from stagescope.engine.tokens import Token

_ARRAY = "$array"
_TYPE = "$type"
_DTYPES = {np.dtype(code).str for code in "?bBhHiIqQefd"}  # numpy reads far more into a string than a dtype
_FAULTS = (TypeError, LookupError, ArithmeticError, RecursionError)  # what bytes that are no message run into
_TYPES = {
    kind.__name__: kind
    for kind in (
        protocol.Load,
        protocol.Read,
        protocol.TakeCensus,
        protocol.FindToken,
        protocol.TakeSweep,
        protocol.SweepCorpus,
        protocol.Texts,
        protocol.TakeEvidence,
        protocol.TakeLens,
        protocol.ShowNeurons,
        protocol.MapStages,
        protocol.FindHeads,
        protocol.ShowPattern,
        protocol.TakeAttribution,
        protocol.TakeSimilarity,
        protocol.TakeProbe,
        protocol.TakeComparison,
        protocol.Generate,
        protocol.Progress,
        protocol.Failure,
        protocol.ModelInfo,
        protocol.Reading,
        protocol.Census,
        protocol.SweepRow,
        protocol.Sweep,
        protocol.CorpusSweep,
        protocol.Evidence,
        protocol.LensCurves,
        protocol.NeuronRow,
        protocol.Neurons,
        protocol.Signal,
        protocol.Stage,
        protocol.StageMap,
        protocol.HeadScores,
        protocol.HeadPattern,
        protocol.Attribution,
        protocol.Similarity,
        protocol.ProbeScore,
        protocol.Probe,
        protocol.Comparison,
        protocol.Generation,
        Token,
    )
}


def flatten(message: Any) -> tuple[Any, list[np.ndarray]]:
    """A message as plain data with its arrays taken out: each stands as {"$array": index}."""
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(np.asarray(value, order="C"))
            return {_ARRAY: len(arrays) - 1}
        if dataclasses.is_dataclass(value):
            fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {_TYPE: type(value).__name__, **fields}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        if isinstance(value, dict):  # texts: {token id: text}
            return {str(key): plain(item) for key, item in value.items()}
        return value

    return plain(message), arrays


def unflatten(data: Any, arrays: list[np.ndarray]) -> Any:
    """The message back. Raises ValueError for data that is no message (an older version's, a foreign one's)."""

    def message(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(message(item) for item in value)
        if not isinstance(value, dict):
            return value
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        if _TYPE not in value:
            return {int(key): message(item) for key, item in value.items()}
        if value[_TYPE] not in _TYPES:
            raise ValueError(f"no message is called {value[_TYPE]!r}")
        kind = _TYPES[value[_TYPE]]
        given = {key: message(item) for key, item in value.items() if key != _TYPE}
        expected = {f.name for f in dataclasses.fields(kind)}
        if given.keys() != expected:
            raise ValueError(f"not a {value[_TYPE]} of this version: {sorted(expected ^ given.keys(), key=str)}")
        return kind(**given)

    try:
        return message(data)
    except _FAULTS as error:
        raise ValueError(f"no message: {error!r}") from error


def encode(message: Any) -> bytes:
    """One frame: 4 bytes of length, big-endian, then msgpack."""
    data, arrays = flatten(message)
    packed = [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]
    body = msgpack.packb([data, packed], unicode_errors="surrogatepass")  # a prompt may hold bytes that are no text
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> Any:
    """The message of a frame's body. Raises ValueError."""
    try:
        data, packed = msgpack.unpackb(body, strict_map_key=False, unicode_errors="surrogatepass")
        if unknown := {dtype for dtype, _, _ in packed} - _DTYPES:
            raise ValueError(f"arrays of {unknown} are not sent")
        arrays = [np.frombuffer(raw, dtype).reshape(shape) for dtype, shape, raw in packed]
    except _FAULTS as error:
        raise ValueError(f"no frame: {error!r}") from error
    return unflatten(data, arrays)
