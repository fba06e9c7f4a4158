"""The Hugging Face hub, on loopback."""

import shutil

import pytest
from failures import failure
from hub_server import serving

from stagescope.engine import hub, store


@pytest.fixture
def hub_server(tmp_path, gpt2_dir, monkeypatch):
    """The hub on loopback, an empty cache, and no ban on the network."""
    from huggingface_hub import constants

    files = shutil.copytree(gpt2_dir, tmp_path / "repository")
    (files / "modeling_evil.py").write_text("raise SystemExit")
    (files / "pytorch_model.bin").write_bytes(b"a pickle")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "WAITS", (0.01, 0.01))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with serving(files) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield server


def test_a_model_of_the_hub_comes_without_code_and_pickles_and_stays(hub_server, home):
    said = []
    found = store.locate("org/tiny", report=lambda *a: said.append(a))
    assert sorted(path.name for path in found.directory.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert found.name == "org/tiny" and found.source == "Hugging Face org/tiny, revision 01234567"
    assert said[-1][0] == "fetching org/tiny from the Hugging Face hub" and said[-1][1] == pytest.approx(1.0)
    asked = len(hub_server.asked)
    assert store.locate("org/tiny") == found and store.locate("org/tiny", offline=True) == found
    assert len(hub_server.asked) == asked  # what is there is taken as it is
    assert store.pull("org/tiny") == found.directory and len(hub_server.asked) > asked
    entry = store.on_disk()[-1]
    assert (entry.name, entry.directory, entry.note) == ("org/tiny", found.directory, "Hugging Face cache")


def test_bin_files_come_only_where_there_are_no_safetensors(hub_server):
    (hub_server.files / "model.safetensors").unlink()
    found = store.locate("org/tiny")
    assert (found.directory / "pytorch_model.bin").exists()
    assert not (found.directory / "modeling_evil.py").exists()


def test_a_half_fetched_model_is_completed_or_offline_refused(hub_server):
    found = store.locate("org/tiny")
    (found.directory / "model.safetensors").resolve().unlink()
    (found.directory / "model.safetensors").unlink()
    refused = failure(store.locate, "org/tiny", offline=True)
    assert refused.kind == "missing" and "not all of it" in refused.message
    assert "not whole" in store.on_disk()[-1].note
    assert (store.locate("org/tiny").directory / "model.safetensors").exists()


def test_a_repository_without_a_model_is_refused_by_name(hub_server):
    (hub_server.files / "config.json").unlink()
    refused = failure(store.locate, "org/tiny")
    assert refused.kind == "missing" and "org/tiny" in refused.message and "no config.json" in refused.message


@pytest.mark.parametrize(
    ("repo_id", "words", "hint"),
    [
        ("org/gated", "is gated", "HF_TOKEN"),
        ("org/forbidden", "is gated", "Accept them"),
        ("org/none", "not at the Hugging Face hub", "Check the id"),
        ("org/none-gpt2-xl", "not at the Hugging Face hub", "gpt2-xl"),
        ("org/secret", "not at the Hugging Face hub", "HF_TOKEN"),
        ("org/ill", "answered 500", "Check the network"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(hub_server, repo_id, words, hint, monkeypatch):
    refused = failure(store.locate, repo_id)
    assert refused.kind == "missing"
    assert repo_id in refused.message and words in refused.message and hint in refused.hint
    assert "\n" not in refused.message


def test_a_hub_that_cannot_be_reached_is_said(hub_server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused = failure(store.locate, "org/tiny")
    assert refused.kind == "missing" and "org/tiny cannot be fetched" in refused.message


def test_offline_nothing_is_asked_of_the_hub(hub_server, monkeypatch):
    assert "forbidden" in failure(store.locate, "gpt2", offline=True).message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused = failure(store.locate, "org/tiny")
    assert "forbidden" in refused.message and "models pull org/tiny" in refused.hint
    assert failure(store.pull, "org/tiny").kind == "missing"
    assert hub_server.asked == []


def test_a_download_from_the_hub_is_cancelled(hub_server):
    said = []
    stopped = failure(store.locate, "org/tiny", report=lambda *a: said.append(a[1]), cancelled=lambda: said)
    assert stopped.kind == "cancelled"


def test_an_empty_or_odd_cache_holds_no_models(tmp_path, monkeypatch):
    for cache in (tmp_path / "none", tmp_path / "file"):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        (tmp_path / "file").touch()
        assert hub.cached() == []
