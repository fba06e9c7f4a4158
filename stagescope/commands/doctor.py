"""What this machine has and lacks for stagescope, each finding with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import Any, NamedTuple

from stagescope import __version__, config, console, paths

PACKAGES = ("textual", "torch", "transformer_lens", "transformers", "plotext", "numpy", "safetensors", "gguf")


class Finding(NamedTuple):
    what: str
    state: str  # ok | note | fail
    detail: str


def findings(device: str | None = None) -> list[Finding]:
    """device: as --device gives it; None: as the settings say, if they can be read."""
    settings, said = _settings()
    device = device or said.get("device")
    model = said.get("model") or config.NAMED["model"].default
    return [*_software(), *_machine(None if device == "auto" else device), *_folders(), settings, _model(model), _terminal()]


def _settings() -> tuple[Finding, dict[str, Any]]:
    """What is found of config.toml, and what it and the environment say of what is loaded."""
    file = config.path()
    try:
        said = config.of_load()
    except config.ConfigError as error:
        return Finding("settings", "fail", str(error)), {}
    return Finding("settings", "ok", f"{file}{'' if file.exists() else ', not there: all defaults'}"), said


def _software() -> list[Finding]:
    found = [Finding("stagescope", "ok", f"{__version__} on Python {platform.python_version()}, {sys.executable}")]
    for name in PACKAGES:
        try:
            found.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "fail", "not installed: pip install stagescope"))
    return found


def _machine(wanted: str | None) -> list[Finding]:
    import torch

    from stagescope.engine.load import free_memory, pick_device, threads
    from stagescope.engine.protocol import EngineError

    found = [Finding("threads", "ok", f"{threads(None)} of {os.cpu_count()} logical cores")]
    try:
        device = pick_device(wanted)
    except EngineError as error:
        return [*found, Finding("device", "fail", str(error))]
    free = f"{device}, {free_memory(device) / 2**30:.1f} GiB free"
    if device.type == "cuda":
        free += f", {torch.cuda.get_device_name(device)}"
    found.append(Finding("device", "ok", free))
    if not torch.cuda.is_available():
        found.append(Finding("gpu", "note", "no CUDA device is visible: models run on the CPU"))
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "note", "Apple's GPU has given silently wrong results and is not chosen"))
    return found


def _folders() -> list[Finding]:
    found = []
    for name, path in paths.describe().items():
        parent = next(folder for folder in (path, *path.parents) if folder.exists())
        writable = parent.is_dir() and os.access(parent, os.W_OK)
        free = shutil.disk_usage(parent).free / 2**30  # of a file too: its disk
        detail = f"{path}, {free:.0f} GiB free" if writable else f"{path} cannot be written: set STAGESCOPE_HOME"
        found.append(Finding(name, "ok" if writable else "fail", detail))
    return found


def _model(name: str) -> Finding:
    """The model that is loaded when none is named."""
    from stagescope.engine import store
    from stagescope.text import printable

    here = [entry for entry in store.on_disk() if name in (entry.name, str(entry.directory))]
    if here or os.path.exists(os.path.expanduser(name)):
        return Finding(printable(name), "ok", str(here[0].directory) if here else "a file or directory")
    return Finding(printable(name), "note", "not here yet: stagescope models pull")


def _terminal() -> Finding:
    term, colour = os.environ.get("TERM", ""), os.environ.get("COLORTERM", "")
    size = shutil.get_terminal_size()
    detail = f"TERM={term or 'unset'}, COLORTERM={colour or 'unset'}, {size.columns}x{size.lines}"
    detail += f"; sent: {console.color_depth()}"
    if not colour:
        detail += " (ssh does not forward COLORTERM)"
    small = size.columns < 60 or size.lines < 16
    return Finding("terminal", "note" if small else "ok", detail + (": the app needs 60x16" if small else ""))
