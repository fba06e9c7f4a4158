"""Folders and files: private, made on demand, whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stagescope import paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path / "new" / "home"))
    previous = os.umask(0)  # the widest: privacy must not hang on the user's umask
    yield tmp_path / "new" / "home"
    os.umask(previous)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_describe_names_the_folders_and_creates_nothing(home):
    assert paths.describe() == {name: home / name for name in ("cache", "data", "logs", "config")}
    assert not home.parent.exists()


def test_without_the_variable_the_folders_are_the_platforms(tmp_path, monkeypatch):
    monkeypatch.delenv("STAGESCOPE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    folders = paths.describe()
    assert list(folders) == ["cache", "data", "logs", "config"]
    assert all(tmp_path in folder.parents and "stagescope" in folder.parts for folder in folders.values())


def test_a_home_relative_to_the_current_folder_or_with_a_tilde_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("here", "~/here"):
        monkeypatch.setenv("STAGESCOPE_HOME", given)
        assert paths.describe()["data"] == tmp_path / "here" / "data"


@pytest.mark.parametrize(
    "folder, name",
    [
        (paths.cache_dir, "cache"),
        (paths.data_dir, "data"),
        (paths.log_dir, "logs"),
        (paths.config_dir, "config"),
    ],
)
def test_folders_are_made_private(home, folder, name):
    assert folder() == home / name
    assert [mode(p) for p in (home / name, home, home.parent)] == [0o700] * 3
    (home / name).chmod(0o755)
    assert mode(folder()) == 0o700


def test_parents_and_links_that_were_there_are_left_alone(home, tmp_path):
    home.mkdir(parents=True, mode=0o755)
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    (home / "cache").symlink_to(disk)
    assert paths.cache_dir() == home / "cache"
    assert (mode(home), mode(disk)) == (0o755, 0o755)


def test_a_folder_that_cannot_be_made_says_which_and_what_to_do(home):
    home.parent.mkdir()
    home.write_text("a file in the way")
    home.chmod(0o644)
    with pytest.raises(paths.PathError, match="STAGESCOPE_HOME") as error:
        paths.data_dir()
    assert str(home / "data") in str(error.value)
    with pytest.raises(paths.PathError):
        paths.private_dir(home)
    assert mode(home) == 0o644
    with pytest.raises(paths.PathError, match="no home folder"):
        paths.private_dir(Path("~/.cache/stagescope"))


def test_write_atomic_replaces_privately(home):
    path = paths.data_dir() / "index.json"
    paths.write_atomic(path, b"old")
    path.chmod(0o644)
    paths.write_atomic(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_write_atomic_keeps_a_symbolic_link(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    paths.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    path = tmp_path / "kept"
    paths.write_atomic(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(paths.PathError, match="No space left on device") as error:
        paths.write_atomic(path, b"new")
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_refuses_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(paths.PathError, match="not a regular file"):
            paths.write_atomic(path, b"")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(paths.PathError, match="No such file"):
        paths.write_atomic(tmp_path / "missing" / "file", b"")


def test_private_file_appends_privately(home):
    path = paths.log_dir() / "engine.log"
    for line in ("été\n", "two\n"):
        with paths.private_file(path, "a") as file:
            file.write(line)
    assert (path.read_text("utf-8"), mode(path)) == ("été\ntwo\n", 0o600)
    with pytest.raises(paths.PathError, match="cannot write"):
        paths.private_file(path / "below a file")


def test_text_and_paths_import_nothing_heavy():
    program = "import sys, stagescope.text, stagescope.paths; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert not {"numpy", "torch", "textual", "tokenizers", "transformers", "rich.console"} & set(loaded)
