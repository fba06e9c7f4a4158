"""Where a sweep of a text stands, kept on disk so that it can be interrupted.

One file a sweep: its arrays as safetensors with the rest as JSON in the metadata, after a checksum of both. A damaged
one is thrown away; a failing disk never fails a sweep.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy

from stagescope import paths
from stagescope.engine import pool, standard_text, wire
from stagescope.engine.pool import Pool
from stagescope.engine.protocol import ModelInfo

# The last used: drops and swaps of the default model take 20 MB, nearly all of it the sample, pairs of it 139 MB.
KEPT, KEPT_BYTES = 20, 512 * 2**20
log = logging.getLogger(__name__)


@dataclass
class Done:
    """All that going on needs, and all that the answer does."""

    pool: Pool
    absent: np.ndarray  # [S] int32: documents too short for a row's positions
    model: ModelInfo  # as it ran
    items: int = 0  # documents read, and what was skipped between them
    digest: str = ""  # of those
    end: int = 0  # bytes of the file they take
    tokens: int = 0  # scored
    n_cut: int = 0
    n_skipped: int = 0
    skipped: list[str] = field(default_factory=list)
    beyond: dict[int, str] = field(default_factory=dict)  # which items did not fit into memory -> place and reason
    finished: bool = False  # never with some beyond memory: another time there may be more of it
    stamp: list[int] | None = None  # size and time of change of the file


def fresh(n_rows: int, model: ModelInfo) -> Done:
    return Done(pool.empty(n_rows), np.zeros(n_rows, np.int32), model)


def stamp(file: str) -> list[int] | None:
    """What tells a file from itself changed, its size first; None for what is no regular file, such as "-"."""
    if not file:  # the standard text: its name in the key of what was kept says which
        return [standard_text.WINDOWS, 0]
    with contextlib.suppress(OSError, ValueError):  # ValueError: a NUL in the name
        seen = os.stat(file)
        if file != "-" and stat.S_ISREG(seen.st_mode):
            return [seen.st_size, seen.st_mtime_ns]
    return None


def folder() -> Path:
    return paths.describe()["cache"] / "corpora"


def put(name: str, done: Done) -> None:
    """Write it atomically, and let those go that were used longest ago."""
    plain = {key: value for key, value in vars(done).items() if key not in ("pool", "absent")}
    plain["model"], _ = wire.flatten(done.model)
    arrays = {key: np.ascontiguousarray(value) for key, value in done.pool.state().items()} | {"absent": done.absent}
    body = safetensors.numpy.save(arrays, metadata={"stagescope": json.dumps(plain)})
    try:
        paths.cache_dir()
        paths.private_dir(folder())
        paths.write_atomic(folder() / name, zlib.crc32(body).to_bytes(4, "big") + body)
        _forget()
    except OSError as error:
        log.warning("the sweep of a text cannot be kept in %s: %s", folder(), error)


def get(name: str) -> Done | None:
    file = folder() / name
    try:
        data = file.read_bytes()
    except OSError:
        return None
    try:
        done = _open(data)
    except ValueError as error:
        log.warning("the sweep kept in %s is damaged and was thrown away: %s", file, error)
        with contextlib.suppress(OSError):
            file.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(file)
    return done


def _open(data: bytes) -> Done:
    """Raises ValueError for bytes that `put` of this version did not write."""
    body = data[4:]
    if not body or zlib.crc32(body).to_bytes(4, "big") != data[:4]:
        raise ValueError("its checksum is wrong")
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    plain, arrays = json.loads(header["__metadata__"]["stagescope"]), safetensors.numpy.load(body)
    try:
        plain["model"] = wire.unflatten(plain["model"], [])
        plain["beyond"] = {int(number): why for number, why in plain["beyond"].items()}
        return Done(pool.restored(arrays), arrays["absent"].copy(), **plain)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is of another version ({error})") from error


def _forget() -> None:
    """Keep the last used within both limits, the newest always. What a killed process left half written counts and goes
    like a file."""
    used, total = [], 0
    for entry in os.scandir(folder()):
        with contextlib.suppress(FileNotFoundError):  # another process is at it too
            used.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
    for newer, (_, size, path) in enumerate(sorted(used, reverse=True)):
        total += size
        if newer and (newer >= KEPT or total > KEPT_BYTES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
