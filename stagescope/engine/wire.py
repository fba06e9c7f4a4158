"""Protocol dataclasses as plain data: numpy arrays apart, the rest what msgpack and JSON can hold.

The same form crosses the pipe to the child process (frames) and lies in the cache (safetensors). Never pickle: the
protocol will be served on a socket one day.
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
_TYPES = {
    kind.__name__: kind
    for kind in (
        protocol.Load,
        protocol.Read,
        protocol.TakeCensus,
        protocol.FindToken,
        protocol.Progress,
        protocol.Failure,
        protocol.ModelInfo,
        protocol.Reading,
        protocol.Census,
        Token,
    )
}


def flatten(message: Any) -> tuple[Any, list[np.ndarray]]:
    """A message as plain data with its arrays taken out: each stands as {"$array": index}."""
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(np.ascontiguousarray(value))
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
    if isinstance(data, list):
        return tuple(unflatten(item, arrays) for item in data)
    if not isinstance(data, dict):
        return data
    if _ARRAY in data:
        return arrays[data[_ARRAY]]
    if _TYPE not in data:
        return {int(key): unflatten(item, arrays) for key, item in data.items()}
    kind = _TYPES.get(data[_TYPE])
    if kind is None:
        raise ValueError(f"no message is called {data[_TYPE]!r}")
    try:
        return kind(**{key: unflatten(item, arrays) for key, item in data.items() if key != _TYPE})
    except TypeError as error:
        raise ValueError(f"not a {data[_TYPE]} of this version: {error}") from error


def encode(message: Any) -> bytes:
    """One frame: 4 bytes of length, big-endian, then msgpack."""
    data, arrays = flatten(message)
    packed = [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]
    body = msgpack.packb([data, packed], unicode_errors="surrogatepass")  # a prompt may hold bytes that are no text
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> Any:
    """The message of a frame's body. Raises ValueError."""
    data, packed = msgpack.unpackb(body, strict_map_key=False, unicode_errors="surrogatepass")
    arrays = [np.frombuffer(raw, np.dtype(dtype)).reshape(shape) for dtype, shape, raw in packed]
    return unflatten(data, arrays)
