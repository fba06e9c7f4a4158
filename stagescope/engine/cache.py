"""What was computed before: readings and censuses on disk.

One safetensors file an entry (arrays as tensors, the rest as JSON in its metadata) and an SQLite index of sizes and
last uses, so that the least recently used go first when the limit is passed. Files are the truth: an entry without a
file is forgotten, a damaged file or index is thrown away and computed again. A failing disk never fails a reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

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
    return paths.cache_dir() / "results"


def get(name: str) -> Reading | Census | None:
    """The entry, marked as cached, or None."""
    file = folder() / f"{name}.safetensors"
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            data = json.loads(opened.metadata()["stagescope"])
            arrays = [opened.get_tensor(str(index)) for index in range(len(opened.keys()))]
        message = replace(wire.unflatten(data, arrays), cached=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, safetensors.SafetensorError) as error:
        log.warning("cache entry %s is damaged and was thrown away: %s", name, error)
        with contextlib.suppress(OSError):
            file.unlink()
        return None
    with _index() as index:
        if index:
            index.execute("UPDATE entries SET used = ? WHERE name = ?", (time.time(), name))
    return message


def has(name: str) -> bool:
    return (folder() / f"{name}.safetensors").exists()


def put(name: str, message: Reading | Census, limit_bytes: int = LIMIT_BYTES) -> None:
    """Store an entry atomically, then let the least recently used go until all fit the limit."""
    data, arrays = wire.flatten(message)
    tensors = {str(index): array for index, array in enumerate(arrays)}
    body = safetensors.numpy.save(tensors, metadata={"stagescope": json.dumps(data)})
    try:
        paths.write_atomic(paths.private_dir(folder()) / f"{name}.safetensors", body)
    except OSError as error:
        log.warning("the cache at %s cannot be written: %s", folder(), error)
        return
    with _index() as index:
        if index:
            index.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (name, len(body), time.time()))
            _shrink(index, limit_bytes)


def _shrink(index: sqlite3.Connection, limit_bytes: int) -> None:
    (total,) = index.execute("SELECT COALESCE(SUM(bytes), 0) FROM entries").fetchone()
    for name, size in index.execute("SELECT name, bytes FROM entries ORDER BY used").fetchall():
        if total <= limit_bytes:
            break
        with contextlib.suppress(OSError):
            (folder() / f"{name}.safetensors").unlink(missing_ok=True)
        index.execute("DELETE FROM entries WHERE name = ?", (name,))
        total -= size


@contextlib.contextmanager
def _index() -> Iterator[sqlite3.Connection | None]:
    """The index in one transaction; None when it cannot be used. A damaged one is rebuilt from the files."""
    file = folder() / "index.sqlite"
    connection = None
    try:
        fresh = not file.exists()
        connection = sqlite3.connect(file, timeout=5)
        connection.execute("CREATE TABLE IF NOT EXISTS entries (name TEXT PRIMARY KEY, bytes INT, used REAL)")
        if fresh:
            file.chmod(0o600)
            _rebuild(connection)
    except (sqlite3.Error, OSError) as error:
        log.warning("the cache index %s is thrown away and made again: %s", file, error)
        with contextlib.suppress(OSError):
            if not isinstance(error, sqlite3.OperationalError):
                file.unlink(missing_ok=True)
        if connection:
            connection.close()
        yield None
        return
    try:
        with connection:
            yield connection
    except sqlite3.Error as error:
        log.warning("the cache index %s could not be updated: %s", file, error)
    finally:
        connection.close()


def _rebuild(connection: sqlite3.Connection) -> None:
    rows = [(f.stem, f.stat().st_size, f.stat().st_mtime) for f in folder().glob("*.safetensors")]
    connection.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", rows)

