"""Model directories, read without torch."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from failures import failure
from safetensors.numpy import load_file, save_file

from stagescope.engine import store


def test_a_directory_is_taken_as_it_is(gpt2_dir):
    found = store.locate(str(gpt2_dir))
    assert found.directory == gpt2_dir and found.known is None
    assert found.source == f"directory {gpt2_dir}"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: shutil.rmtree(d), "no directory or file"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "not JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "no JSON object"),
        (lambda d: (d / "model.safetensors").unlink(), "no weights"),
        (lambda d: os.truncate(d / "model.safetensors", 5), "cut short"),
        (lambda d: os.truncate(d / "model.safetensors", 900), "cut short"),
        (lambda d: os.truncate(d / "model.safetensors", 100_000), "100,000 bytes"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"[]"), "as the format says"),
        (lambda d: [path.unlink() for path in d.glob("tokenizer*")], "no tokenizer"),
        (lambda d: (d / "config.json").rename(d / "model.gguf"), "but a .gguf file"),
    ],
)
def test_a_directory_that_is_not_whole_is_refused(gpt2_dir, tmp_path, spoil, words):
    directory = shutil.copytree(gpt2_dir, tmp_path / "copy")
    spoil(directory)
    refused = failure(store.locate, str(directory))
    assert refused.kind == "missing" and words in refused.message and str(directory) in refused.message
    assert refused.hint


def test_a_missing_shard_is_named(gpt2_dir, tmp_path):
    directory = shard(gpt2_dir, tmp_path / "sharded")
    assert store.locate(str(directory)).directory == directory
    (directory / "model-00002-of-00002.safetensors").unlink()
    refused = failure(store.locate, str(directory))
    assert "model-00002-of-00002.safetensors" in refused.message


def shard(source: Path, directory: Path) -> Path:
    """The same model in two weight files."""
    shutil.copytree(source, directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, directory / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


# ------------------------------------------------------------------------------------ fingerprint and preview


def test_the_fingerprint_follows_the_weights_and_not_the_files(gpt2_dir, tmp_path):
    first = store.fingerprint(gpt2_dir)
    assert len(first) == 16 and int(first, 16) >= 0
    assert store.fingerprint(shard(gpt2_dir, tmp_path / "sharded")) == first

    tensors = load_file(gpt2_dir / "model.safetensors")
    for change in ("value", "name", "shape", "dtype", "config", "version"):
        changed, directory = dict(tensors), shutil.copytree(gpt2_dir, tmp_path / change)
        weight = changed.pop("transformer.wpe.weight")
        if change == "value":
            weight = weight + np.float32(1e-3)
        if change == "shape":
            weight = weight.reshape(64, -1)
        if change == "dtype":
            weight = weight.view(np.int32)
        changed["transformer.other" if change == "name" else "transformer.wpe.weight"] = weight
        save_file(changed, directory / "model.safetensors", {"format": "pt"})
        if change in ("config", "version"):
            config = json.loads((directory / "config.json").read_text())
            config |= {"layer_norm_epsilon": 1e-6} if change == "config" else {"transformers_version": "0"}
            (directory / "config.json").write_text(json.dumps(config))
        assert (store.fingerprint(directory) == first) is (change == "version"), change


def test_a_bin_only_directory_has_a_fingerprint_and_a_size(gpt2_dir, tmp_path):
    import torch

    directory = shutil.copytree(gpt2_dir, tmp_path / "bin")
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, directory / "pytorch_model.bin")
    first = store.fingerprint(store.locate(str(directory)).directory)
    assert store.parameters(directory) == pytest.approx(store.parameters(gpt2_dir), rel=0.1)
    tensors["transformer.ln_f.bias"] += 1
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, directory / "pytorch_model.bin")
    assert store.fingerprint(directory) != first


@pytest.mark.parametrize(
    ("family", "norm", "gated", "parallel"),
    [("gpt2", "layer", False, False), ("gpt_neox", "layer", False, True), ("phi", "layer", False, True),
     ("llama", "rms", True, False), ("qwen2", "rms", True, False), ("gemma3", "rms", True, False),
     ("olmo2", "rms", True, False)],
)
def test_the_preview_of_every_family_is_right(family, norm, gated, parallel, tmp_path):
    info = store.preview(store.locate(str(tiny_models.build(family, tmp_path / family))))
    assert (info.norm, info.gated, info.parallel, info.loaded) == (norm, gated, parallel, False)
    assert (info.n_layers, info.d_model, info.n_heads, info.d_mlp, info.n_ctx) == (
        tiny_models.N_LAYERS, tiny_models.D_MODEL, tiny_models.N_HEADS, tiny_models.D_MLP, 128
    )
    assert info.d_vocab == tiny_models.PADDED.get(family, tiny_models.N_TOKENS)


def test_the_preview_fills_in_what_a_config_leaves_out(gpt2_dir, tmp_path):
    directory = shutil.copytree(gpt2_dir, tmp_path / "sparse")

    def preview(**config):
        (directory / "config.json").write_text(json.dumps(config))
        return store.preview(store.Located("sparse", directory, ""))

    gpt2 = preview(model_type="gpt2", n_layer=12, n_embd=768, n_head=12, n_inner=None, n_positions=1024)
    assert (gpt2.d_mlp, gpt2.n_ctx, gpt2.architecture) == (3072, 1024, "gpt2")
    neox = dict(model_type="gpt_neox", num_hidden_layers=2, hidden_size=64)
    assert preview(**neox).parallel and not preview(**neox, use_parallel_residual=False).parallel
    vision = preview(
        model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"],
        text_config={"model_type": "gemma3_text", "num_hidden_layers": 34, "hidden_size": 2560},
    )
    assert (vision.n_layers, vision.n_heads, vision.d_vocab, vision.n_ctx) == (34, 8, 262_208, 131_072)
    assert preview(model_type="new", num_layers=3, d_model=64, rms_norm_eps=1e-6).norm == "rms"
    assert preview(model_type="new", num_layers=3, d_model=64, layer_norm_eps=1e-6).norm == "layer"
    assert "number of layers" in failure(preview, model_type="resnet", hidden_size=64).message
    assert "width" in failure(preview, num_hidden_layers="many", n_layer=3, hidden_size=-1).message
