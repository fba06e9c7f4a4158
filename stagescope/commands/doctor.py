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


def findings(device: str | None = None, color: str | None = None) -> list[Finding]:
    """device, color: as their flags give them; None: as the settings say, if they can be read."""
    settings, said = _settings()
    device, color = device or said["device"], color or said["color"]
    machine = _machine(None if device == "auto" else device)
    return [*_software(), *machine, *_folders(), settings, _model(said["model"]), _terminal(color)]


def _settings() -> tuple[Finding, dict[str, Any]]:
    """What is found of config.toml, and what the settings say; their defaults where that cannot be read."""
    file = config.path()
    try:
        said = {name: found.value for name, found in config.settings().items()}
    except config.ConfigError as error:
        return Finding("settings", "fail", str(error)), {name: setting.default for name, setting in config.NAMED.items()}
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


def _terminal(color: str) -> Finding:
    term, colour = os.environ.get("TERM", ""), os.environ.get("COLORTERM", "")
    size = shutil.get_terminal_size()
    detail = f"TERM={term or 'unset'}, COLORTERM={colour or 'unset'}, {size.columns}x{size.lines}"
    sent = console.color_depth(color)
    detail += f"; sent: {sent}"
    if not colour and sent != console.color_depth(color, {**os.environ, "COLORTERM": "truecolor"}):
        detail += " (ssh does not forward COLORTERM)"
    small = size.columns < 60 or size.lines < 16
    return Finding("terminal", "note" if small else "ok", detail + (": the app needs 60x16" if small else ""))
