"""The list of models: what is here first, what each takes, and whether that fits; nothing heavy is imported for it."""

import json
import os
import subprocess
import sys

import pytest
import tiny_models
from test_catalog import PARAMETERS
from test_explore import until
from textual.app import App
from textual.widgets import OptionList

from stagescope import cli, model_list
from stagescope.engine import catalog, fit, load
from stagescope.screens.models import Models
from stagescope.screens.widgets.line import Line


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


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts a tool of the driver in place, which says this of the cards."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def says(*lines: str, code: int = 0) -> None:
        tool = folder / "nvidia-smi"
        tool.write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in lines), f"exit {code}"]))
        tool.chmod(0o755)

    return says


MIB = 2**20
THREE = ("2, GPU-cccc, 200", "0, GPU-aaaa, 100", "1, GPU-bbbb, 300")  # in no order


def test_what_is_free_is_asked_of_the_host_where_there_is_no_gpu(driver):
    assert fit.free().device == "cpu" and fit.free().bytes > 0  # no tool
    assert fit.free("cuda:7") == ("cuda:7", None) and fit.free("cuda") == ("cuda:0", None)  # never the CPU's memory
    driver("no devices were found", code=6)
    assert fit.free().device == "cpu"
    driver("nonsense", "1, 2, 3, 4")
    assert fit.free().device == "cpu"


def test_one_gpu_is_the_one_there_is(driver, monkeypatch):
    driver("0, GPU-aaaa, 100")
    assert fit.free() == fit.free("cuda") == fit.free("cuda:0") == ("cuda:0", 100 * MIB)
    assert fit.free("cpu").device == "cpu" and fit.free("cuda:7") == ("cuda:7", None) and fit.free("odd") == ("odd", None)
    for nothing in ("", "-1", "1", "0,0", "GPU-b", "x"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert fit.free().device == "cpu" and fit.free("cuda:0").bytes is None, nothing
    driver("0, GPU-aaaa, [N/A]")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert fit.free() == ("cuda", None)


@pytest.mark.parametrize(
    ("visible", "order", "free"),
    [
        (None, "PCI_BUS_ID", [100, 300, 200]),
        ("2,1", "PCI_BUS_ID", [200, 300]),
        ("1,9,0", "PCI_BUS_ID", [300]),  # CUDA stops at what is none
        ("GPU-cc, GPU-aaaa", None, [200, 100]),
        ("GPU-b,GPU-", None, [300]),
        ("1,MIG-1234", "PCI_BUS_ID", [300, None]),
        (None, None, [None, None, None]),  # CUDA counts the fastest first
        ("1", "FASTEST_FIRST", [None]),
    ],
)
def test_a_card_has_its_number_where_it_is_known(driver, monkeypatch, visible, order, free):
    driver(*THREE)
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
        if value is not None:
            monkeypatch.setenv(name, value)
    sizes = [*free, None]  # there is no card after these
    assert [fit.free(f"cuda:{number}") for number in range(len(sizes))] == [(f"cuda:{n}", size and size * MIB) for n, size in enumerate(sizes)]
    if None not in free:
        assert fit.free() == (f"cuda:{free.index(max(free))}", max(free) * MIB)


def test_of_several_cards_whose_numbers_nobody_knows_the_most_free_one_is_told(driver, monkeypatch):
    driver(*THREE)
    assert fit.free() == ("cuda", 300 * MIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0,1")
    assert fit.free() == ("cuda", 300 * MIB)
    for some in ("1", "0,2", "MIG-1"):  # which two of three?
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", some)
        assert fit.free() == ("cuda", None)


def test_what_is_free_may_not_be_known(here, driver, capsys):
    found = {entry.name: entry for entry in model_list.listed(fit.Free("cuda:7", None))}
    assert (found["gpt2"].dtype, found["gpt2"].need, found["gpt2"].fits) == ("auto", "", None)
    found = {entry.name: entry for entry in model_list.listed(fit.Free("cuda:7", None), "float16")}
    assert (found["gpt2"].need, found["gpt2"].fits) == ("0.23 GiB fp16", None)
    driver("0, GPU-aaaa, 100")
    told = []
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["models", "--device", "cuda:7", *words])
        assert not ended.value.code
        told.append(capsys.readouterr().out)
    assert "what is free on cuda:7 is not known" in told[0]
    assert json.loads(told[1])["device"] == "cuda:7" and json.loads(told[1])["free_bytes"] is None


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
            self.push_screen(Models(model_list.listed(fit.Free("cpu", 8 * 2**30)), "gpt2"))

    app = Shown()
    async with app.run_test(size=(width, 30)) as pilot:
        await pilot.pause()
        options = app.screen.query_one(OptionList)
        assert options.virtual_size.height == options.option_count
        assert app.screen.entries[options.highlighted].name == "gpt2"
        await pilot.press("down")  # the end of a row is cut: its note stands below
        note = app.screen.entries[options.highlighted].note
        await until(pilot, lambda: app.screen.query_one("#note", Line).shown.plain == note)
