"""Where everything lives: the one module that knows stagescope's folders.

Folders come from platformdirs, or, when STAGESCOPE_HOME is set, are its subfolders cache/, data/, logs/ and
config/. Prompts are private: folders are 0700 and files 0600. Nothing is created before it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from platformdirs import PlatformDirs


CACHE_BYTES = 512 * 2**20  # what computed results may take, unless STAGESCOPE_CACHE says otherwise


class PathError(OSError):
    """A folder or file that cannot be made or written; says which and what to do."""


def describe() -> dict[str, Path]:
    """The folders by name ("cache", "data", "logs", "config"), without creating anything."""
    home = os.environ.get("STAGESCOPE_HOME")
    if home:
        root = Path(os.path.abspath(os.path.expanduser(home)))
        return {name: root / name for name in ("cache", "data", "logs", "config")}
    dirs = PlatformDirs("stagescope", appauthor=False)
    return {
        "cache": dirs.user_cache_path,
        "data": dirs.user_data_path,
        "logs": dirs.user_log_path,
        "config": dirs.user_config_path,
    }


def cache_dir() -> Path:
    """What can be computed again. Created 0700; raises PathError."""
    return private_dir(describe()["cache"])


def cache_bytes() -> int:
    """What computed results may take: STAGESCOPE_CACHE, where the settings put it for every process of ours."""
    try:
        return size(os.environ["STAGESCOPE_CACHE"])
    except (KeyError, ValueError):  # a reading is not to fail of it; commands refuse it at start
        return CACHE_BYTES


def size(text: str) -> int:
    """Bytes of "512M", "2G" or a plain number above 0. Raises ValueError."""
    digits, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in ("K", "M", "G") else (text, "")
    if not (digits.isdecimal() and digits.isascii() and int(digits) > 0):
        raise ValueError(f"{text!r} is no size: give bytes, or a number with K, M or G")
    return int(digits) * 1024 ** " KMG".index(unit or " ")


def data_dir() -> Path:
    """Models and recorded sessions. Created 0700; raises PathError."""
    return private_dir(describe()["data"])


def log_dir() -> Path:
    """Logs of the app and of the engine. Created 0700; raises PathError."""
    return private_dir(describe()["logs"])


def config_dir() -> Path:
    """The user's settings. Created 0700; raises PathError."""
    return private_dir(describe()["config"])


def private_dir(path: Path) -> Path:
    """Create `path`, and the parents that are missing, with mode 0700; tighten `path` itself if it was wider.

    For stagescope's own folders only. Parents that exist are left alone, and so is a folder reached through a
    symbolic link: its owner chose it.
    """
    if not path.is_absolute():  # platformdirs without a home folder answers "~/..."
        raise PathError(f"no home folder to put {path} in: set STAGESCOPE_HOME to a folder you can write")
    try:
        missing = [parent for parent in path.parents if not parent.exists()]
        for folder in (*reversed(missing), path):
            folder.mkdir(mode=0o700, exist_ok=True)  # a file in the folder's place fails here
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise PathError(
            f"cannot use {path} as a private folder ({error.strerror}): "
            "make it a folder you own and can write, or set STAGESCOPE_HOME to another one"
        ) from error
    return path


def private_file(path: Path, mode: str = "wb") -> IO:
    """Open `path` for writing (mode "wb", "ab", "w", "a"; text is UTF-8); created with mode 0600.

    For files that grow, a log or a session; what is written whole goes through `write_atomic`. A file that
    exists keeps its mode. Raises PathError.
    """
    encoding = None if "b" in mode else "utf-8"
    try:
        return open(path, mode, encoding=encoding, opener=lambda name, flags: os.open(name, flags, 0o600))
    except OSError as error:
        raise _cannot_write(path, error.strerror) from error


LOG_BYTES = 4 * 2**20


def log_file(name: str) -> IO:
    """A log opened to write at its end, 0600; a long one is set aside as NAME.1 first. Raises PathError."""
    path = log_dir() / name
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_name(f"{name}.1"))
    return private_file(path, "ab")


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` (0600) so that a reader sees the old file or the whole new one, never a part.

    The folder must exist: `private_dir` makes stagescope's own, and the user's are not ours to make. A
    symbolic link stays, its target is replaced. Raises PathError and leaves what was there.
    """
    temporary = None
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():  # renaming over /dev/stdout would destroy it
            raise _cannot_write(path, "not a regular file")
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".stagescope-")
        with os.fdopen(descriptor, "wb") as file:  # mkstemp made it 0600
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, PathError):
            raise _cannot_write(path, error.strerror) from error
        raise


def _cannot_write(path: Path, reason: str | None) -> PathError:
    return PathError(f"cannot write {path} ({reason}): name a file in a folder that exists and you can write")
