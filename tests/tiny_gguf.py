"""A tiny GGUF file, written as llama.cpp writes them, for tests that need no network."""

import json
from pathlib import Path

import gguf
import numpy as np
import tiny_models
from gguf.quants import quantize

Q = gguf.GGMLQuantizationType


def write(path: Path, architecture: str = "llama", leave_out: str = "", add: str = "") -> Path:
    """A llama of 2 layers, width 64, 4 heads, 2 key-value heads; Q4_1 and Q8_0, as the default model is."""
    tokenizer = json.loads(tiny_models.tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("a name \x1b[31m in red")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int, kind=Q.Q4_1) -> None:
        if name == leave_out:
            return
        values = random.normal(0, 0.1, shape).astype(np.float32)
        writer.add_tensor(name, values if kind == Q.F32 else quantize(values, kind), raw_dtype=kind)

    tensor("token_embd.weight", len(tokens), 64, kind=Q.Q8_0)
    tensor("output_norm.weight", 64, kind=Q.F32)
    for block in ("blk.0", "blk.1"):
        tensor(f"{block}.attn_norm.weight", 64, kind=Q.F32)
        tensor(f"{block}.ffn_norm.weight", 64, kind=Q.F32)
        tensor(f"{block}.attn_q.weight", 64, 64)
        tensor(f"{block}.attn_k.weight", 32, 64)
        tensor(f"{block}.attn_v.weight", 32, 64)
        tensor(f"{block}.attn_output.weight", 64, 64)
        tensor(f"{block}.ffn_gate.weight", 96, 64)
        tensor(f"{block}.ffn_up.weight", 96, 64)
        tensor(f"{block}.ffn_down.weight", 64, 96)
    if add:
        tensor(add, 8, kind=Q.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
