"""Where tests keep things: a folder of their own for the session, and the default model once per machine."""

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

# The GPU's own tests; everything else runs the same with and without one.
collect_ignore = [] if shutil.which("nvidia-smi") else ["test_gpu.py"]

USER_HOME = os.environ.get("STAGESCOPE_HOME")
HOME = Path(tempfile.mkdtemp(prefix="stagescope-tests-"))

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = str(HOME / "hub")
os.environ["STAGESCOPE_HOME"] = str(HOME)


def pytest_unconfigure(config):
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty STAGESCOPE_HOME of the test's own."""
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    import tiny_gguf as tiny

    return tiny.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def gpt2_dir(tmp_path_factory) -> Path:
    """A tiny random GPT-2. Tests that change it change a copy."""
    import tiny_models

    return tiny_models.build("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory) -> Path:
    """A tiny random Llama. Tests that change it change a copy."""
    import tiny_models

    return tiny_models.build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def stagescope(llama_dir, capsys):
    """Runs a command on the tiny Llama in this process: an object with code, out, err."""
    from stagescope import cli

    def run(command: str, *words: str) -> SimpleNamespace:
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--model", str(llama_dir), "--device", "cpu", *words])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=out, err=err)

    return run


@pytest.fixture(scope="session")
def default_model_dir() -> Path:
    """The directory of the default model, under the tests' STAGESCOPE_HOME: `smollm2-135m` is found there.

    It is a link to the user's own copy; the first session on a machine pulls that (93 MB, 12 s to
    dequantise).
    """
    from stagescope.engine import store

    with pytest.MonkeyPatch.context() as patch:
        if USER_HOME:
            patch.setenv("STAGESCOPE_HOME", USER_HOME)
        else:
            patch.delenv("STAGESCOPE_HOME")
        directory = store.pull("smollm2-135m")
    link = HOME / "data" / "models" / directory.name
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    link.symlink_to(directory, target_is_directory=True)
    return link
