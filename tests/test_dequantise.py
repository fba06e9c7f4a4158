"""GGUF files: bit for bit, once, and refused where the numbers would be wrong."""


import gguf
import numpy as np
import pytest
import tiny_gguf as tiny
import tiny_models
from failures import failure
from gguf.quants import dequantize
from safetensors.numpy import load_file

from stagescope.engine import store


def test_a_gguf_file_is_converted_once_and_bit_for_bit(home, tiny_gguf):
    found = store.locate(str(tiny_gguf))
    assert found.name == "tiny.gguf" and found.directory.name.startswith("gguf-")
    assert found.source == "4-bit (Q4_1, embedding Q8_0) dequantised to fp32, from tiny.gguf"
    made = (found.directory / "model.safetensors").stat().st_mtime_ns
    assert store.locate(str(tiny_gguf)) == found  # not made again
    assert (found.directory / "model.safetensors").stat().st_mtime_ns == made

    stored = load_file(found.directory / "model.safetensors")
    numbers = {t.name: dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(tiny_gguf).tensors}
    assert len(stored) == len(numbers) == 20
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], numbers["token_embd.weight"])
    np.testing.assert_array_equal(stored["model.norm.weight"], numbers["output_norm.weight"])
    for layer in (0, 1):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        for name, gguf_name in [
            ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
            ("mlp.down_proj", "ffn_down"), ("mlp.up_proj", "ffn_up"), ("mlp.gate_proj", "ffn_gate"),
            ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
        ]:
            want = numbers[f"{theirs}.{gguf_name}.weight"]
            np.testing.assert_array_equal(stored[f"{ours}.{name}.weight"], want)
        for name, heads in (("q", 4), ("k", 2)):  # llama.cpp interleaves the two halves of each rotary pair
            rows = numbers[f"{theirs}.attn_{name}.weight"].reshape(heads, 8, 2, 64)
            rows = rows.swapaxes(1, 2).reshape(-1, 64)
            np.testing.assert_array_equal(stored[f"{ours}.self_attn.{name}_proj.weight"], rows)


def test_a_converted_model_reads_as_transformers_reads_the_gguf_itself(home, tiny_gguf):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = store.locate(str(tiny_gguf)).directory
    ours = AutoModelForCausalLM.from_pretrained(directory)
    theirs = AutoModelForCausalLM.from_pretrained(
        tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32
    )
    ids = tiny_models.ids(320, 12)[None]
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert AutoTokenizer.from_pretrained(directory)("The Eiffel Tower").input_ids == (
        tiny_models.tokenizer()("The Eiffel Tower").input_ids
    )
    assert "\x1b" not in (directory / "config.json").read_text()


def test_a_changed_gguf_file_is_another_model(home, tmp_path):
    path = tiny.write(tmp_path / "mine.gguf")
    before = store.locate(str(path)).directory
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert store.locate(str(path)).directory != before


def test_conversion_draws_nothing_and_leaves_transformers_as_it_was(tiny_gguf, tmp_path, capfd):
    from transformers import modeling_gguf_pytorch_utils as loader

    before = gguf.GGUFReader, gguf.get_tensor_name_map, loader.tqdm
    store.convert_gguf(tiny_gguf, tmp_path / "out")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map, loader.tqdm) == before
    assert capfd.readouterr() == ("", "")


def test_files_that_are_no_whole_gguf_are_refused(home, tiny_gguf, tmp_path):
    text = tmp_path / "letter.gguf"
    text.write_text("Dear Sir or Madam")
    refused = failure(store.locate, str(text))
    assert refused.kind == "missing" and "letter.gguf is no GGUF file" in refused.message
    whole = tiny_gguf.read_bytes()
    for length in (4, 30, 2_000, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:length])
        refused = failure(store.locate, str(cut))
        assert refused.kind == "missing" and "cut short" in refused.message
    refused = failure(store.locate, str(tmp_path / "none.gguf"))
    assert refused.kind == "missing" and "no file" in refused.message
    assert not list((home / "data" / "models").glob(".partial-*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "rwkv6"}, "rwkv6"),
        ({"leave_out": "blk.1.ffn_up.weight"}, "holds no model.layers.1.mlp.up_proj.weight"),
        ({"add": "rope_freqs.weight"}, "rotary frequencies"),
    ],
)
def test_a_gguf_that_transformers_would_read_wrongly_is_refused(home, tmp_path, changes, words):
    refused = failure(store.locate, str(tiny.write(tmp_path / "foreign.gguf", **changes)))
    assert refused.kind == "missing" and words in refused.message and "foreign.gguf" in refused.message
    assert not list((home / "data" / "models").glob(".partial-*")) and store.on_disk() == []
