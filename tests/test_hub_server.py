"""What goes wrong on the way from the hub: cut connections, errors that pass, short files; and the command itself."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from failures import failure
from hub_server import serving
from test_hub import hub_server  # noqa: F401 (a fixture)

from stagescope.engine import hub, store

WEIGHTS = "model.safetensors"


def test_a_cut_connection_is_taken_up_where_it_broke(hub_server, monkeypatch):  # noqa: F811
    monkeypatch.setattr(hub, "CHUNK", 4096)
    hub_server.faults[WEIGHTS] = ["cut"]
    place = store.pull("org/tiny")
    half = (hub_server.files / WEIGHTS).stat().st_size // 2
    assert hub_server.got(WEIGHTS) == [None, f"bytes={half - half % 4096}-"]  # what made a whole chunk
    assert (place / WEIGHTS).read_bytes() == (hub_server.files / WEIGHTS).read_bytes()


def test_after_a_failed_try_only_what_was_not_whole_is_fetched(hub_server):  # noqa: F811
    hub_server.faults[WEIGHTS] = ["cut", 404]
    refused = failure(store.pull, "org/tiny")
    assert refused.kind == "missing" and "org/tiny" in refused.message
    others = ("config.json", "tokenizer.json")
    fetched = [name for name in others if hub_server.got(name)]  # some may not have begun
    store.pull("org/tiny")
    assert [len(hub_server.got(name)) for name in fetched] == [1] * len(fetched)
    assert hub_server.got(WEIGHTS)[-1] is None  # huggingface_hub 2.4 keeps no half file from one try to the next


@pytest.mark.parametrize("where", ["list", "config.json", WEIGHTS])
def test_an_error_of_the_hub_that_passes_is_waited_for(hub_server, where):  # noqa: F811
    hub_server.faults[where] = [500, 503]
    assert (store.pull("org/tiny") / WEIGHTS).is_file() and hub_server.faults[where] == []


def test_an_error_that_stays_is_said_and_asking_ends(hub_server):  # noqa: F811
    hub_server.faults["list"] = [500] * 99
    assert "answered 500" in failure(store.pull, "org/tiny").message
    assert len(hub_server.faults["list"]) == 99 - 1 - len(hub.WAITS)


def test_a_file_that_ends_early_is_no_model(hub_server):  # noqa: F811
    hub_server.faults[WEIGHTS] = ["short"]
    refused = failure(store.pull, "org/tiny")
    assert refused.kind == "missing" and "should be of size" in refused.message and WEIGHTS in refused.message
    assert failure(store.locate, "org/tiny", offline=True).kind == "missing"
    store.pull("org/tiny")


def test_waiting_for_an_ill_hub_is_cancelled_at_once(hub_server, monkeypatch):  # noqa: F811
    monkeypatch.setattr(hub, "WAITS", (600.0,))
    hub_server.faults["list"] = [500] * 99
    stopped = failure(store.pull, "org/tiny", cancelled=lambda: len(hub_server.asked) > 0)
    assert stopped.kind == "cancelled"


# --------------------------------------------------------------------------------------------- as a user has it


class User:
    def __init__(self, address: str, home):
        self.started = []
        self.environment = os.environ | {
            "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "HF_HOME": str(home / "hf"),
            "HF_HUB_CACHE": str(home / "cache"), "STAGESCOPE_HOME": str(home),
        }  # fmt: skip

    def start(self, *words: str, **more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "stagescope", *words]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A shell starts jobs in the background with SIGINT ignored, and so would be what they start.
        pipe["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.started.append(subprocess.Popen(command, env=self.environment | more, **pipe))
        return self.started[-1]

    def run(self, *words: str, **more: str) -> tuple[int, str, str]:
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def user(gpt2_dir, tmp_path):
    with serving(shutil.copytree(gpt2_dir, tmp_path / "repository")) as server:
        user = User(server.address, tmp_path)
        user.server = server
        yield user
        for process in user.started:
            process.kill()
            process.wait()


def test_pull_then_offline(user):
    for words, more in ((("--offline",), {}), ((), {"HF_HUB_OFFLINE": "1"})):
        code, out, err = user.run("models", "pull", "org/tiny", *words, **more)
        assert (code, out) == (3, "") and "models pull org/tiny" in err
    assert user.server.asked == []
    user.server.faults[WEIGHTS] = ["cut"]
    code, out, err = user.run("models", "pull", "org/tiny")
    assert (code, err) == (0, "") and os.path.isfile(os.path.join(out.strip(), WEIGHTS))
    asked = len(user.server.asked)
    code, out, _ = user.run("models", "info", "org/tiny", "--offline")
    assert code == 0 and "GPT2LMHeadModel" in out and len(user.server.asked) == asked


def test_a_gated_model_says_how_to_get_it(user):
    code, out, err = user.run("models", "pull", "org/gated")
    assert (code, out) == (3, "") and "gated" in err and "Accept" in err and "hf auth login" in err


def test_ctrl_c_ends_a_download(user):
    """The client's threads know no interrupt: left alone they would take the last byte first."""
    user.server.faults[WEIGHTS] = ["endless"]
    process = user.start("models", "pull", "org/tiny")
    assert user.server.streaming.wait(60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "") and user.server.hung_up.wait(10)
