"""What words of the command line stand for: prompts, files, the model to load. Nothing heavy is imported at start."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagescope import config

if TYPE_CHECKING:
    from stagescope.engine.protocol import Load, Texts


def load_request(args: argparse.Namespace) -> Load:
    """What is to be loaded: as given, else as the settings say. Raises ConfigError."""
    said = config.of_load()  # before anything that takes time
    from stagescope.engine.protocol import Load

    return Load(**said | load_changes(args))


def load_changes(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a Load that were given, to stand in place of the settings or of those of a session."""
    names = ("model", "device", "dtype", "threads", "bos", "memory")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given |= {name: None for name in ("device", "threads") if given.get(name) == "auto"}
    given |= {name: True for name in ("chat", "offline") if getattr(args, name)}
    return given if args.cache else given | {"cache": False}


def app_look(args: argparse.Namespace) -> dict[str, Any]:
    """What the app is made and run with: ascii_only, color, theme, record, mouse. A flag that a command has not is None.

    Keys of one's own take their place in the table: to be called before the app is imported, whose classes bind them.
    Raises ConfigError.
    """
    from stagescope import actions
    from stagescope.console import color_depth

    actions.remap(config.keys())
    glyphs, color, theme, record, mouse = (
        config.value(name, getattr(args, name, None)) for name in ("glyphs", "color", "theme", "recording", "mouse")
    )
    return {"ascii_only": glyphs == "ascii", "color": color_depth(color), "theme": theme, "record": record, "mouse": mouse}


def prompt_of(word: str) -> str:
    """PROMPT as given; - is standard input, without the line end a shell adds."""
    return stdin().decode("utf-8", "surrogateescape").removesuffix("\n") if word == "-" else word


def prompts_of(words: list[str]) -> tuple[str, ...]:
    from stagescope.engine.protocol import EngineError

    prompts = tuple(map(prompt_of, words))
    if "" in prompts:
        raise EngineError("usage", "the prompt is empty.", "Give some text to read.")
    if len(set(prompts)) < len(prompts):
        raise EngineError("usage", "two prompts are alike.", "Give each once.")
    return prompts


@contextmanager
def file_of(word: str | None) -> Iterator[str | None]:
    """The file a word names. Standard input is put into a file, for it is read more than once."""
    from stagescope.engine.documents import expect_file

    expect_file(word)
    if word != "-":
        yield word
        return
    with tempfile.TemporaryDirectory(prefix="stagescope-") as folder:
        file = os.path.join(folder, "standard input")
        Path(file).write_bytes(stdin())
        yield file


@contextmanager
def texts_of(args: argparse.Namespace) -> Iterator[Texts]:
    """What is measured over."""
    from stagescope.engine.protocol import Texts

    prompts = prompts_of(args.prompts)
    with file_of(args.corpus) as file:
        yield Texts(prompts, file, args.tokens, args.window or 512)


def stdin() -> bytes:
    return sys.stdin.buffer.read() if sys.stdin else b""


def expect_place(file: str | None, what: str) -> None:
    """Say that a file cannot be written before an hour is spent on it."""
    from stagescope.engine.protocol import EngineError
    from stagescope.text import printable

    if file is not None and (os.path.isdir(file) or not os.access(os.path.dirname(file) or ".", os.W_OK)):
        raise EngineError("error", f"{what} cannot be written to {printable(file)}.", "Give a file in a folder of yours.")
