"""The table of formats, and how a file comes to be: nothing existing is overwritten unasked, nothing half-written stays."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from stagescope import paths
from stagescope.answers import Answer, sweeps
from stagescope.text import printable

LONGEST = 100  # characters of a default name, without the extension: file systems allow 255 bytes
ADVICE = {  # what to do, by errno
    errno.ENOSPC: "free some space, or name a file on another disk",
    errno.EDQUOT: "free some space, or name a file on another disk",
    errno.ENAMETOOLONG: "give it a shorter name",
}


class Format(NamedTuple):
    extension: str  # without the dot
    name: str
    module: str  # of this package, imported when it is used: its `render(answer) -> bytes`
    help: str


class ExportError(Exception):
    """A file that cannot be written: says which, why, and what to do."""


class ExistsError(ExportError):
    """A file that would be overwritten, and nobody asked for that."""


# In the order in which they are offered. "svg" is a picture of the screen and "cast" a film of the session: who has a
# screen or a session makes these bytes himself (screens/sharing.py, film.py).
FORMATS = (
    Format("json", "JSON", "json_file", "the schema of the command line"),
    Format("csv", "CSV", "csv_file", "one table, a line a thing measured"),
    Format("html", "HTML", "html_file", "one file, dark and light"),
    Format("svg", "SVG", "", "a picture of the screen"),
    Format("md", "Markdown", "markdown_file", "text and tables"),
    Format("py", "Python", "script_file", "a script that gives the same through the Python door"),
    Format("ipynb", "Jupyter", "notebook_file", "the same as a notebook"),
    Format("parquet", "Parquet", "parquet_file", "the table, typed"),
    Format("safetensors", "safetensors", "tensors_file", "every array, with a manifest"),
    Format("cast", "asciinema", "", "a film of the session"),
)
_BY_EXTENSION = {format.extension: format for format in FORMATS}


def format_of(path: Path, also: Sequence[str] = ()) -> Format:
    """By extension. Raises ExportError naming those there are, and those that who asks knows as well."""
    if found := _BY_EXTENSION.get(Path(path).suffix.lower().removeprefix(".")):
        return found
    known = ", ".join(f".{extension}" for extension in (*_BY_EXTENSION, *also))
    raise ExportError(f"{_shown(path)} does not say which format it is: end its name in one of {known}")


def default_name(answer: Answer, extension: str) -> str:
    """ "smollm2-135m-drop-11.html": letters, digits, dots and dashes alone."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(answer.last).__name__).lower()
    kinds = dict.fromkeys(sweep.kind for sweep in sweeps(answer))
    schedule = getattr(answer.last, "schedule", "")
    words = [answer.info.name, *([] if kind == "reading" and schedule else [kind]), *kinds, schedule]
    plain = re.sub(r"(?:[^A-Za-z0-9.]|(?<![0-9])\.|\.(?![0-9]))+", "-", "-".join(words))  # qwen2.5 keeps its dot
    stem = plain.strip("-")[:LONGEST].rstrip("-.")
    return f"{stem}.{extension}"


def render(answer: Answer, extension: str) -> bytes:
    """The file's bytes. Raises ExportError where a format needs a package that is not installed, naming it."""
    format = format_of(Path(f"export.{extension}"))
    if not format.module:
        raise ExportError(f"{format.help} (.{extension}) is not made of an answer: name another format")
    try:
        return import_module(f"stagescope.exports.{format.module}").render(answer)
    except ModuleNotFoundError as error:
        needed = (error.name or "?").partition(".")[0]
        raise ExportError(f"{format.name} needs the package {needed}: pip install {needed}") from error


def refuse(path: Path, overwrite: bool = False) -> None:
    """Before anything is made for a file: raises ExportError where it could not be written, as far as that can be told."""
    with as_export_error(path := Path(os.path.expanduser(path))):
        if path.is_dir():
            raise ExportError(f"{_shown(path)} is a folder: name a file in it")
        if not path.parent.is_dir():
            raise ExportError(f"there is no folder {_shown(path.parent)} to write {_shown(path.name)} in: make it first")
        if path.exists() and not path.is_file():  # a terminal, /dev/null, a pipe that nobody reads
            raise ExportError(f"{_shown(path)} is no regular file, and stays as it is: name another")
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path))


def save(path: Path, data: bytes, overwrite: bool = False) -> None:
    """Write a file whole or not at all, 0600. Raises ExportError: it exists, is a folder, cannot be written.

    `~` is the home folder. A symbolic link stays, and its target is what is overwritten.
    """
    refuse(path, overwrite)
    with as_export_error(path := Path(os.path.expanduser(path))):
        if overwrite:
            paths.write_atomic(path, data)
            return
        whole = path.with_name(f".{path.name}.{os.getpid()}.whole")
        try:
            paths.write_atomic(whole, data)
            os.link(whole, path)  # takes the name in one step: of two that write at once one has it
        finally:
            whole.unlink(missing_ok=True)


@contextmanager
def as_export_error(path: Path) -> Iterator[None]:
    """What a system says of a file, as an ExportError."""
    try:
        yield
    except FileExistsError as error:
        raise ExistsError(f"{_shown(path)} exists: name another file, or ask for it to be overwritten") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL or half a character in the name
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        number = getattr(cause, "errno", None)
        why = getattr(cause, "strerror", None) or printable(str(cause))
        advice = ADVICE.get(number, "name a file in a folder that you can write")
        raise ExportError(f"cannot write {_shown(path)} ({why}): {advice}") from error


def _shown(path: Path | str) -> str:
    return f"“{printable(str(path))}”"
