"""What was computed before: readings, censuses, sweeps and what they say of stages.

One safetensors file an entry: arrays as tensors, the rest as JSON in its metadata, with a checksum of both. Its time of
change is its last use, so that the least recently used go first when the limit is passed. index.jsonl beside them says
for people and scripts what each file is; the files are the truth. A damaged entry is thrown away and computed again;
a failing disk never fails a reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from stagescope import __version__, paths
from stagescope.engine import wire
from stagescope.engine.protocol import (
    Attribution,
    Census,
    Comparison,
    Evidence,
    Generation,
    HeadPattern,
    HeadScores,
    LensCurves,
    Neurons,
    Probe,
    Reading,
    Similarity,
    StageMap,
    Sweep,
)

LIMIT_BYTES = 512 * 2**20
MEANING = 2  # raised when an answer comes to mean something else, or has other shapes, within one version
Findings = (
    Evidence | LensCurves | Neurons | StageMap | HeadScores | HeadPattern | Attribution | Similarity | Probe | Comparison
    | Generation
)
Entry = Reading | Census | Sweep | Findings
log = logging.getLogger(__name__)


def key(kind: str, *parts: Any) -> str:
    """Everything a result depends on, and the version that computed it, as a file name."""
    text = json.dumps([__version__, MEANING, kind, *parts], sort_keys=True, default=repr)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def folder() -> Path:
    return paths.describe()["cache"] / "results"


def file_of(name: str) -> Path:
    return folder() / f"{name}.safetensors"


def index_file() -> Path:
    return paths.describe()["cache"] / "index.jsonl"


def get(name: str) -> Entry | None:
    """The entry, marked as cached, or None."""
    file = file_of(name)
    try:
        data = file.read_bytes()
    except OSError:
        return None
    try:
        message = _open(data)
    except ValueError as error:
        log.warning("cache entry %s is damaged and was thrown away: %s", name, error)
        with contextlib.suppress(OSError):
            file.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(file)
    return replace(message, cached=True)


def has(name: str) -> bool:
    return file_of(name).is_file()


def put(name: str, message: Entry, limit_bytes: int = LIMIT_BYTES) -> None:
    """Store an entry atomically; now and then let the least recently used go until all fit the limit."""
    body = _closed(message)
    try:
        paths.cache_dir()
        paths.private_dir(folder())
        paths.write_atomic(file_of(name), body)
        _list(name, message, len(body))
        if name.endswith("0"):  # names are hashes, so every 16th: looking through 10,000 entries takes 40 ms
            _shrink(limit_bytes)
    except OSError as error:
        log.warning("the cache at %s cannot be written: %s", folder(), error)


def _closed(message: Entry) -> bytes:
    data, arrays = wire.flatten(message)
    text = json.dumps(data)
    metadata = {"stagescope": text, "crc32": str(_checksum(text, arrays))}
    return safetensors.numpy.save({str(n): array for n, array in enumerate(arrays)}, metadata=metadata)


def _open(body: bytes) -> Entry:
    """Raises ValueError for bytes that `put` did not write."""
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        text, checksum = header["__metadata__"]["stagescope"], header["__metadata__"]["crc32"]
        tensors = safetensors.numpy.load(body)
        arrays = [tensors[str(n)] for n in range(len(tensors))]
    except (ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise ValueError(f"it is no safetensors file of ours ({type(error).__name__})") from error
    if str(_checksum(text, arrays)) != checksum:
        raise ValueError("its checksum is wrong")
    message = wire.unflatten(json.loads(text), arrays)
    if not isinstance(message, Entry):
        raise ValueError(f"it holds a {type(message).__name__}")
    return message


def _checksum(text: str, arrays: list[np.ndarray]) -> int:
    value = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)
    return value


def _list(name: str, message: Entry, size: int) -> None:
    """A line in the index: one write at the end of the file, which two processes may do at once."""
    what = {"name": name, "bytes": size, "made": round(time.time())}
    match message:
        case Reading():
            what |= {"model": message.model.name, "prompt": message.prompt, "schedule": message.schedule}
        case Sweep():
            what |= {"model": message.model.name, "prompt": message.prompt, "sweep": message.kind}
        case Census():
            what |= {"model": message.model}
        case _ if isinstance(message, Findings):
            what |= {"model": message.model.name, "what": type(message).__name__}
    with paths.private_file(index_file(), "ab") as index:
        index.write(b"\n" + json.dumps(what).encode())  # the line end first: a line cut by a kill spoils no other


def _shrink(limit_bytes: int) -> None:
    """What a killed process left half written counts and goes like an entry."""
    files = []
    for entry in os.scandir(folder()):
        with contextlib.suppress(FileNotFoundError):  # another process is at it too
            files.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit_bytes:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size
    _shorten_index()


def _shorten_index() -> None:
    """Keep one line for each entry that is still there, its latest."""
    latest = {}
    for line in index_file().read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            name = json.loads(line)["name"]
            if has(name):
                latest[name] = line
    paths.write_atomic(index_file(), b"".join(b"\n" + line for line in latest.values()))
