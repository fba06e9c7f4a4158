"""Every array of an answer, as the engine gave it, in one safetensors file. Its metadata hold a manifest: what was asked,
what was answered, and which tensor stands where."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import save

from stagescope import __version__
from stagescope.answers import Answer, title
from stagescope.engine import wire
from stagescope.reports.reading import finite

SCHEMA = "tensors/1"


def render(answer: Answer) -> bytes:
    """Tensors are called as their fields are: "Reading.entropy_bits", "Reading.baseline.entropy_bits", "Sweep 2.kl_nats".

    The manifest, JSON under "manifest": {"schema", "version", "title", "load", "other", "model", "request", "replies",
    "position", "tensors": {name: {"dtype", "shape"}}}. Replies are plain data, {"$tensor": name} for an array.
    """
    tensors: dict[str, np.ndarray] = {}
    seen: dict[str, int] = {}
    replies = []
    for reply in answer.replies:
        kind = type(reply).__name__
        seen[kind] = seen.get(kind, 0) + 1
        data, arrays = wire.flatten(reply)
        replies.append(_named(data, arrays, kind if seen[kind] == 1 else f"{kind} {seen[kind]}", tensors))
    about = {"load": answer.load, "other": answer.other, "model": answer.info, "request": answer.request}
    manifest = {
        "schema": SCHEMA,
        "version": __version__,
        "title": title(answer),
        **{name: wire.flatten(of)[0] for name, of in about.items()},
        "replies": replies,
        "position": answer.position,
        "tensors": {name: {"dtype": str(of.dtype), "shape": list(of.shape)} for name, of in tensors.items()},
    }
    return save(tensors, metadata={"manifest": json.dumps(finite(manifest), allow_nan=False)})


def _named(data: Any, arrays: list[np.ndarray], path: str, tensors: dict[str, np.ndarray]) -> Any:
    """The plain data with the names of its tensors, which are added to `tensors`."""
    match data:
        case {"$array": int(index)}:
            tensors[path] = arrays[index]
            return {"$tensor": path}
        case dict():
            return {key: _named(value, arrays, f"{path}.{key}", tensors) for key, value in data.items()}
        case list():
            return [_named(value, arrays, f"{path}[{n}]", tensors) for n, value in enumerate(data)]
    return data
