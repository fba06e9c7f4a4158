"""Tiny random models of seven families, saved as Hugging Face directories, for tests without a network.

The usual initialisation (std 0.02) makes every block nearly the identity, so a test could not tell a dropped
layer from a kept one. Here the weights are drawn so that every block moves the output (a drop: KL > 0.05
nats), attention is far from uniform, norm gains are not 1 and biases are not 0.

A random unembedding has no prediction neurons: c[n, v] is Gaussian, kurtosis 3. So two directions of the
residual are planted in it and some neurons written along them: the census of each layer is known (`planted`).
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

N_TOKENS = 320  # real tokens; gpt_neox and qwen2 have padding columns after them, as their big sisters do
PADDED = {"gpt_neox": 344, "qwen2": 336}
N_LAYERS, D_MODEL, N_HEADS, D_MLP = 6, 64, 4, 128
END = "<|endoftext|>"  # id 0, the only special token

TEXT = [
    "The Eiffel Tower is located in the city of Paris, and the Colosseum is located in the city of Rome.",
    "A language model reads a text token by token and says what it expects to come next.",
    "When one layer of the network is left out, the layers that follow make up for most of what it did.",
    "She was walking along the river, thinking about nothing, while the evening light was fading.",
    "In the beginning there were ten questions; by the end of the meeting there were a hundred more.",
    "The first layers join the pieces of a word, the last layers sharpen the prediction.",
]

COMMON = dict(bos_token_id=0, eos_token_id=0, pad_token_id=None, max_position_embeddings=128)
SIZES = dict(hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=N_HEADS,
             intermediate_size=D_MLP)

FAMILIES: dict[str, Callable[[], object]] = {
    # LayerNorm, sequential, learned positions, tied
    "gpt2": lambda: GPT2Config(
        vocab_size=N_TOKENS, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, n_inner=D_MLP, n_positions=128,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=True),
    # LayerNorm, parallel with two norms, a quarter of each head rotary, untied, padded vocabulary
    "gpt_neox": lambda: GPTNeoXConfig(
        vocab_size=PADDED["gpt_neox"], rotary_pct=0.25, tie_word_embeddings=False, **SIZES, **COMMON),
    # LayerNorm, parallel with one shared norm, half of each head rotary, biases (unembedding too), untied
    "phi": lambda: PhiConfig(
        vocab_size=N_TOKENS, partial_rotary_factor=0.5, tie_word_embeddings=False, **SIZES, **COMMON),
    # RMSNorm, sequential, gated, two queries a key, untied
    "llama": lambda: LlamaConfig(
        vocab_size=N_TOKENS, num_key_value_heads=2, tie_word_embeddings=False, **SIZES, **COMMON),
    # like llama with biases on q, k, v; tied, padded vocabulary
    "qwen2": lambda: Qwen2Config(
        vocab_size=PADDED["qwen2"], num_key_value_heads=2, tie_word_embeddings=True, **SIZES, **COMMON),
    # RMSNorm with gain 1 + w before and after each sublayer, norms on q and k, embeddings scaled by sqrt(D),
    # tied; two layers with a window of 4 tokens and rotary base 100, then a global one with base 10,000
    "gemma3": lambda: Gemma3TextConfig(
        vocab_size=N_TOKENS, num_key_value_heads=2, head_dim=D_MODEL // N_HEADS, query_pre_attn_scalar=16,
        sliding_window=4, layer_types=2 * ["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                         "full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
        tie_word_embeddings=True, **SIZES, **COMMON),
    # RMSNorm after each sublayer only, norms on q and k, untied
    "olmo2": lambda: Olmo2Config(vocab_size=N_TOKENS, tie_word_embeddings=False, **SIZES, **COMMON),
}


def build(family: str, directory: Path, seed: int = 0, **changes) -> Path:
    """Write a small random model and its tokenizer into `directory` (made if missing) and return it.

    The same family, seed and changes give the same bytes. `changes` are set on the config before the model is
    made: `build("gemma3", d, final_logit_softcapping=5.0)`.
    """
    config = FAMILIES[family]()
    for name, value in changes.items():
        if not hasattr(config, name):
            raise ValueError(f"{family} has no config field {name!r}")
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    # far from the seeds of tests: 256 "random" directions of seed 0 would be the first 256 unembedding rows
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    with torch.no_grad():
        draw_weights(model, generator)
        plant_neurons(model, generator)
    model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return Path(directory)


def draw_weights(model, generator: torch.Generator) -> None:
    """Std: matrices that read the residual 0.2, write it 0.1, embeddings 0.3, biases 0.1; gains +-0.2."""
    writes = re.compile(r"(c_proj|\.dense|o_proj|fc2|down_proj|dense_4h_to_h)\.weight$")
    embeds = re.compile(r"(wte|wpe|embed_in|embed_tokens|lm_head)\.weight$")
    for name, weight in sorted(model.named_parameters()):
        if name.endswith("bias"):
            weight.normal_(0, 0.1, generator=generator)
        elif weight.ndim == 1:  # a norm's gain, 1 (Gemma: 0, meaning 1) as it was made
            weight += torch.empty_like(weight).uniform_(-0.2, 0.2, generator=generator)
        else:
            std = 0.1 if writes.search(name) else 0.3 if embeds.search(name) else 0.2
            weight.normal_(0, std, generator=generator)


def planted(layer: int) -> tuple[int, int, int]:
    """(along, against, partition): how many neurons of the layer are written along the rare direction, how
    many against it, how many along the splitting direction; in this order from neuron 0. Those against
    outnumber those along from layer 5."""
    return layer, max(0, 3 * layer - 9), 1


def plant_neurons(model, generator: torch.Generator) -> None:
    """Residual coordinate 0 is the rare direction: 6 tokens hold 2.0 there and the rest nearly nothing, so a
    neuron along it has a high kurtosis and a skew of its sign. Coordinate 1 splits the vocabulary in halves
    at +-1.0, so a neuron along it has a variance above 5.12 / 64 = 0.08 and a kurtosis near 1."""
    unembedding = model.get_output_embeddings().weight  # [V, D]
    noise = torch.empty(len(unembedding)).normal_(0, 0.02, generator=generator)
    unembedding[:, 0] = noise
    unembedding[10:N_TOKENS:55, 0] = 2.0
    unembedding[:, 1] = 1.0
    unembedding[::2, 1] = -1.0
    writers = [w if name.endswith("c_proj.weight") else w.T for name, w in model.named_parameters()
               if re.search(r"mlp\.(c_proj|fc2|down_proj|dense_4h_to_h)\.weight$", name)]  # L views [M, D]
    for layer, w_out in enumerate(writers):
        along, against, partition = planted(layer)
        directions = [(0, 1.0)] * along + [(0, -1.0)] * against + [(1, 1.0)] * partition
        for neuron, (coordinate, sign) in enumerate(directions):
            w_out[neuron].normal_(0, 0.03, generator=generator)
            w_out[neuron, coordinate] = sign


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens: `<|endoftext|>` (0), 256 bytes, 63 merges learned from `TEXT`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=N_TOKENS, special_tokens=[END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    bpe.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def ids(vocabulary, n: int, seed: int = 0) -> torch.Tensor:
    """[n] random token ids, never 0 (the special token). `vocabulary`: a tokenizer or a number of tokens."""
    size = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
    return torch.randint(1, size, (n,), generator=torch.Generator().manual_seed(seed))
