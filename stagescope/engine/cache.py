"""What was computed before: readings and censuses on disk.

One file an entry: CRC-32, then the message as it crosses the pipe (wire.py). Its time of change is its last use, so
that the least recently used go first when the limit is passed. There is no index that could be wrong, locked or
damaged. A damaged entry is thrown away and computed again; a failing disk never fails a reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from stagescope import __version__, paths
from stagescope.engine import wire
from stagescope.engine.protocol import Census, Reading

LIMIT_BYTES = 512 * 2**20
log = logging.getLogger(__name__)


def key(kind: str, *parts: Any) -> str:
    """Everything a result depends on, and the version that computed it, as a file name."""
    text = json.dumps([__version__, kind, *parts], sort_keys=True, default=repr)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def folder() -> Path:
    return paths.describe()["cache"] / "results"


def get(name: str) -> Reading | Census | None:
    """The entry, marked as cached, or None."""
    file = folder() / name
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
    return (folder() / name).is_file()


def put(name: str, message: Reading | Census, limit_bytes: int = LIMIT_BYTES) -> None:
    """Store an entry atomically; now and then let the least recently used go until all fit the limit."""
    body = wire.encode(message)
    try:
        paths.cache_dir()
        paths.write_atomic(paths.private_dir(folder()) / name, zlib.crc32(body).to_bytes(4, "big") + body)
        if name.endswith("0"):  # names are hashes, so every 16th: looking through 10,000 entries takes 40 ms
            _shrink(limit_bytes)
    except OSError as error:
        log.warning("the cache at %s cannot be written: %s", folder(), error)


def _open(data: bytes) -> Reading | Census:
    """Raises ValueError for bytes that `put` did not write."""
    if zlib.crc32(data[4:]) != int.from_bytes(data[:4], "big"):
        raise ValueError("its checksum is wrong")
    message = wire.decode(data[8:])  # after the frame's length
    if not isinstance(message, Reading | Census):
        raise ValueError(f"it holds a {type(message).__name__}")
    return message


def _shrink(limit_bytes: int) -> None:
    """What a killed process left half written counts and goes like an entry."""
    files = []
    for file in folder().iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process is at it too
            files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit_bytes:
            break
        file.unlink(missing_ok=True)
        total -= size
