"""The list of models: what is here first, what each takes, and whether that fits; nothing heavy is imported for it."""

import json
import os
import subprocess
import sys

import pytest
import tiny_models
from test_catalog import PARAMETERS
from textual.app import App
from textual.widgets import OptionList

from stagescope import cli, model_list
from stagescope.engine import catalog, fit, load
from stagescope.screens.models import Models


@pytest.fixture
def here(home, tmp_path):
    """A hub model in the cache is none of ours to make; a converted one lies in the folder of models."""
    (home / "data" / "models").mkdir(parents=True)
    place = home / "data" / "models" / "mine"
    tiny_models.build("llama", place)
    (place / "stagescope.json").write_text(json.dumps({"source": "a test's"}))
    return place


def test_the_catalogue_knows_how_many_parameters_are_loaded_and_what_is_fetched():
    assert {known.name: known.parameters for known in catalog.MODELS if known.name in PARAMETERS} == PARAMETERS
    assert catalog.lookup("gpt2").download == 4 * PARAMETERS["gpt2"]  # its file is 548 MB: the masks
    assert catalog.lookup("phi-2").download == 2 * PARAMETERS["phi-2"]
    assert catalog.lookup("smollm2-135m").download == 92_871_040


def test_what_is_here_comes_first_with_its_size_and_memory(here):
    free = fit.Free("cpu", 8 * 2**30)
    found = model_list.listed(free)
    assert found[0].directory == here and found[0].size.startswith("on disk ") and found[0].fits
    assert found[0].bytes == sum(file.stat().st_size for file in here.iterdir())
    assert found[0].memory == 4 * found[0].parameters
    assert all(entry.directory is None for entry in found[1:])
    rest = {entry.name: entry for entry in found}
    assert (rest["gpt2"].size, rest["gpt2"].need) == ("fetch  ~0.46 GiB", "0.46 GiB fp32")
    assert rest["phi-2"].need == "5.18 GiB bf16"  # 10.4 GiB are more than 40 % of what is free
    assert rest["qwen2.5-14b"].need == "27.5 GiB bf16, 8.00 free" and not rest["qwen2.5-14b"].fits
    assert {entry.name: entry for entry in model_list.listed(free, "float32")}["phi-2"].need == "10.4 GiB fp32, 8.00 free"


def test_a_model_that_is_not_whole_is_listed_without_its_memory(here, monkeypatch):
    (entry,) = [entry for entry in model_list.store.on_disk() if entry.directory == here]
    (here / "model.safetensors").unlink()
    monkeypatch.setattr(model_list.store, "on_disk", lambda: [entry])
    found = model_list.listed(fit.Free("cpu", 2**30))[0]
    assert (found.memory, found.fits, found.need) == (None, None, "")


@pytest.mark.parametrize("parameters", [10**6, 134_515_008, 10**9, 2 * 10**9])
def test_the_dtype_listed_is_the_dtype_loaded(parameters):
    import torch

    free = load.free_memory(torch.device("cpu"))
    assert fit.auto_dtype(parameters, free) == str(load.pick_dtype("auto", torch.device("cpu"), parameters))[6:]


def test_what_is_free_is_asked_of_the_driver_and_else_of_the_host(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert fit.free().device == "cpu" and fit.free().bytes > 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 100\necho 300\n")
    tool.chmod(0o755)
    assert fit.free() == ("cuda:1", 300 * 2**20)
    assert fit.free("cuda:0") == fit.free("cuda") == ("cuda:0", 100 * 2**20)
    assert fit.free("cpu").device == "cpu" and fit.free("cuda:7").device == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert fit.free().device == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
    assert fit.free().device == "cpu"


def test_models_lists_it_without_torch(here):
    code = (
        "import sys; from stagescope import cli\n"
        "try: cli.main(['models', '--json'])\n"
        "except SystemExit: pass\n"
        "sys.exit([m for m in ('torch', 'textual', 'transformers') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["models"][0]["directory"] == str(here) and found["free_bytes"] > 0
    gpt2 = next(model for model in found["models"] if model["name"] == "gpt2")
    assert gpt2["bytes"] is None and gpt2["download_bytes"] == 4 * PARAMETERS["gpt2"] and gpt2["parameters"] == PARAMETERS["gpt2"]


def test_a_broken_file_of_settings_does_not_hide_the_models(here, capsys):
    from stagescope import config

    config.path().parent.mkdir()
    config.path().write_text("dtyp = 1")
    with pytest.raises(SystemExit) as ended:
        cli.main(["models"])
    out, err = capsys.readouterr()
    assert not ended.value.code and str(here) in out and "dtyp" in err


@pytest.mark.parametrize("width", [60, 80, 160])
async def test_the_picker_keeps_one_line_a_model(here, width):
    class Shown(App):
        def on_mount(self) -> None:
            found = model_list.listed(fit.Free("cpu", 8 * 2**30))
            entries = [(e.name, e.note, e.directory is not None, e.size, e.need) for e in found]
            self.push_screen(Models(entries, "gpt2"))

    app = Shown()
    async with app.run_test(size=(width, 30)) as pilot:
        await pilot.pause()
        options = app.screen.query_one(OptionList)
        assert options.virtual_size.height == options.option_count
        assert app.screen.entries[options.highlighted].name == "gpt2"
