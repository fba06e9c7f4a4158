"""Random models of the catalogue's true shapes: layers, width, heads, MLP, vocabulary, positions; no hub, no download.

Weights are scaled so that every block moves the output, as in tiny_models: at the usual initialisation (std 0.02) a
dropped layer would look like a kept one. Two neurons of each layer are written along a direction that eight tokens of
the unembedding share, one with it and one against it, so the census of each layer is known.
"""

import json
import re
from pathlib import Path

import tiny_models
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from stagescope.engine.catalog import BEGIN_OF_TEXT, Known, lookup

KEY_VALUE_HEADS = {"qwen2.5-14b": 8, "llama-3.2-1b": 8, "llama-3.2-3b": 8}  # other Qwen2.5: 2
REAL_TOKENS = {"gpt2": 50_257, "gpt_neox": 50_277, "phi": 50_295, "qwen2": 151_665, "llama": 128_256}  # then padding
SHARED = tuple(range(300, 40_000, 5000))  # eight tokens along the planted direction


def config(known: Known):
    """The config of transformers, of the facts of the catalogue and what else the family is known for."""
    sizes = {
        "vocab_size": known.vocabulary, "hidden_size": known.width, "num_hidden_layers": known.layers,
        "num_attention_heads": known.heads, "intermediate_size": known.d_mlp, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    kv = KEY_VALUE_HEADS.get(known.name, 2)
    match known.family:
        case "gpt2":
            return GPT2Config(
                vocab_size=known.vocabulary, n_embd=known.width, n_layer=known.layers, n_head=known.heads,
                n_inner=known.d_mlp, n_positions=1024, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True,
            )
        case "gpt_neox":
            return GPTNeoXConfig(**sizes, rotary_pct=0.25, max_position_embeddings=2048, tie_word_embeddings=False)
        case "phi":
            sizes["partial_rotary_factor"] = 0.4 if known.name == "phi-2" else 0.5
            return PhiConfig(**sizes, max_position_embeddings=2048, tie_word_embeddings=False)
        case "qwen2":
            rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
            return Qwen2Config(
                **sizes, num_key_value_heads=kv, rope_parameters=rope, rms_norm_eps=1e-6,
                tie_word_embeddings=known.name != "qwen2.5-14b", max_position_embeddings=32_768,
            )
        case "llama":
            rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
            return LlamaConfig(
                **sizes, num_key_value_heads=kv, rope_parameters=rope, rms_norm_eps=1e-5, tie_word_embeddings=True,
                max_position_embeddings=131_072,
            )  # fmt: skip
    raise ValueError(f"no config for {known.family}")


def build(name: str, directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a random model of the shape of a catalogue model, and a tokenizer of as many tokens."""
    known = lookup(name)
    model = AutoModelForCausalLM.from_config(config(known), dtype=dtype)
    generator = torch.Generator().manual_seed(1_000_003)
    with torch.no_grad():
        draw(model, known.width, generator)
        plant(model, generator)
    model.save_pretrained(directory)
    tokenizer(known).save_pretrained(directory)
    return directory


def draw(model, width: int, generator: torch.Generator) -> None:
    """What reads the residual gives numbers of std 1.6, what writes adds about 0.8, logits spread by 2.4; biases and
    gains as in tiny_models."""
    writes = re.compile(r"(c_proj|\.dense|o_proj|fc2|down_proj|dense_4h_to_h)\.weight$")
    unembeds = {id(model.get_output_embeddings().weight)}
    for name, weight in sorted(model.named_parameters()):
        if name.endswith("bias"):
            weight.normal_(0, 0.1, generator=generator)
        elif weight.ndim == 1:
            weight.uniform_(0.8, 1.2, generator=generator)
        elif id(weight) in unembeds:
            weight.normal_(0, 2.4 / width**0.5, generator=generator)
        elif re.search(r"(wte|wpe|embed_in|embed_tokens)\.weight$", name):
            weight.normal_(0, 0.3, generator=generator)
        else:
            inputs = weight.shape[0] if "c_" in name else weight.shape[1]  # GPT-2 keeps [in, out]
            weight.normal_(0, (0.8 if writes.search(name) else 1.6) / inputs**0.5, generator=generator)


def plant(model, generator: torch.Generator) -> None:
    unembedding = model.get_output_embeddings().weight
    unembedding[:, 0] = 0
    unembedding[list(SHARED), 0] = 4.8  # twice the length of the rest of a row
    for name, weight in model.named_parameters():
        if re.search(r"mlp\.(c_proj|fc2|down_proj|dense_4h_to_h)\.weight$", name):
            w_out = weight if name.endswith("c_proj.weight") else weight.T
            for neuron, sign in enumerate((1.0, -1.0)):
                w_out[neuron].normal_(0, 0.1 * w_out.shape[1] ** -0.5, generator=generator)
                w_out[neuron, 0] = sign


def tokenizer(known: Known) -> PreTrainedTokenizerFast:
    """tiny_models' byte pairs, then tokens that no text comes to: as many as the family's tokenizer has in all."""
    bpe = json.loads(tiny_models.tokenizer().backend_tokenizer.to_str())
    end = known.prefix or BEGIN_OF_TEXT
    if end != tiny_models.END:
        bpe["model"]["vocab"][end] = bpe["model"]["vocab"].pop(tiny_models.END)
        bpe["added_tokens"][0]["content"] = end
    for token in range(len(bpe["model"]["vocab"]), REAL_TOKENS[known.family]):
        bpe["model"]["vocab"][f"never{token}"] = token
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(bpe)), bos_token=end, eos_token=end)
