"""A model directory read without torch: its shape, whether it is whole, and its fingerprint.

The screen draws the layers from the config while the weights load, and the cache asks for the fingerprint
before they do, so everything here is JSON and a few kilobytes of the weight files.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
from dataclasses import dataclass, replace
from pathlib import Path

from stagescope.engine.catalog import FAMILIES, Family, Known, disagreements
from stagescope.engine.protocol import EngineError, ModelInfo
from stagescope.text import printable

RECORD = "stagescope.json"  # what stagescope stored in a model directory of its own, and from where
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")


@dataclass(frozen=True)
class Located:
    """A model directory that is whole: config.json, weights and tokenizer are there, no file is cut short."""

    name: str  # how the model is called on screen
    directory: Path
    source: str  # where the weights come from and what they are, one harmless sentence
    known: Known | None = None


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str  # safetensors' name: F32, BF16 ...
    shape: tuple[int, ...]
    file: Path
    start: int  # bytes from the start of the file
    end: int


def check(directory: Path) -> None:
    """Raise EngineError("missing") unless the directory holds a config, whole weights and a tokenizer."""
    read_config(directory)
    files = weight_files(directory)
    if not files:
        raise EngineError(
            "missing",
            f"There are no weights in {printable(str(directory))}: no model.safetensors, no .bin files.",
            "Give a directory as transformers' save_pretrained writes it.",
        )
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)
    if not any((directory / name).is_file() for name in TOKENIZERS):
        raise EngineError(
            "missing",
            f"There is no tokenizer in {printable(str(directory))}.",
            "Save the model's tokenizer beside it: tokenizer.json or tokenizer.model.",
        )


def read_config(directory: Path) -> dict:
    """config.json as a dict. Raises EngineError("missing") when it is not there or no JSON object."""
    hint = "Give a directory as transformers' save_pretrained writes it."
    return read_object(directory / "config.json", hint)


def end_tokens(directory: Path) -> frozenset[int]:
    """The ids that end a text: those of generation_config.json, else of config.json, as transformers' `generate` has it."""
    for file in ("generation_config.json", "config.json"):
        try:
            ends = json.loads((directory / file).read_text("utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        if ends is not None:
            return frozenset([ends] if isinstance(ends, int) else ends)
    return frozenset()


def weight_files(directory: Path) -> list[Path]:
    """The files transformers would read: one safetensors file, its shards, or the same as .bin; [] when none.

    Raises EngineError("missing") when an index names a shard that is not there.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (directory / name).is_file():
            return [directory / name]
        index = directory / f"{name}.index.json"
        if not index.is_file():
            continue
        weight_map = read_object(index).get("weight_map")
        shards = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        missing = [name for name in shards if Path(name).name != name or not (directory / name).is_file()]
        if missing or not shards:
            what = f"the file {printable(missing[0])}, which is not there" if missing else "no files"
            raise EngineError("missing", f"{printable(str(index))} names {what}.", "Fetch the model again.")
        return [directory / shard for shard in shards]
    return []


def read_header(file: Path) -> list[Tensor]:
    """The tensors of a safetensors file, from its header alone: 8 bytes of length, little-endian, then JSON.

    Raises EngineError("missing") when the file is cut short, too long, or no safetensors file.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("its header is cut short")
            header = json.loads(stream.read(length))
        base = 8 + length
        tensors = []
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = map(operator.index, entry["data_offsets"])
                if not 0 <= start <= end:
                    raise ValueError(f"its tensor {name} lies at bytes {start} to {end}")
                shape = tuple(map(operator.index, entry["shape"]))
                tensors.append(Tensor(name, str(entry["dtype"]), shape, file, base + start, base + end))
        expected = max((tensor.end for tensor in tensors), default=base)
        if expected != size:
            raise ValueError(f"it has {size:,} bytes and its header speaks of {expected:,}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # errors of JSON and of UTF-8 are ValueErrors
        told = isinstance(error, (OSError, ValueError))
        reason = str(error) if told else "its header is not as the format says"
        raise EngineError(
            "missing",
            f"{printable(str(file))} is no whole safetensors file: {printable(reason)}.",
            "Fetch or copy the model again.",
        ) from error
    return tensors


def parameters(directory: Path) -> int:
    """How many numbers the weights are, from the headers alone; times the bytes of a dtype it plans memory.

    An upper bound within about 10 %: old GPT-2 and Pythia files also store their causal masks. Where
    there are only .bin files, their numbers are taken to be of the config's dtype.
    """
    files = weight_files(directory)
    if all(file.suffix == ".safetensors" for file in files):
        floats = (tensor for file in files for tensor in read_header(file) if "F" in tensor.dtype)
        return sum(math.prod(tensor.shape) for tensor in floats)
    config = read_config(directory)
    stored = 4 if config.get("dtype", config.get("torch_dtype", "float32")) == "float32" else 2
    return sum(file.stat().st_size for file in files) // stored


def weights_bytes(directory: Path) -> int:
    """Memory the weights take in fp32."""
    return 4 * parameters(directory)


def fingerprint(directory: Path) -> str:
    """16 hex digits that stand for the model: its config, and every tensor's name, shape, dtype and a sample.

    The sample is the first, middle and last 64 bytes of each tensor, so that the weights need not be read
    (5 ms for 272 tensors). Training moves all weights and is seen; a change of a few rows by hand may not
    be. Which files hold the tensors, and which version of transformers wrote the config, do not count.
    """
    digest = hashlib.sha256()
    config = read_config(directory)
    for incidental in ("transformers_version", "_name_or_path"):
        config.pop(incidental, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    files = weight_files(directory)
    if all(file.suffix == ".safetensors" for file in files):
        places = sorted((t for file in files for t in read_header(file)), key=lambda t: t.name)
    else:  # a .bin file is a zip: its end holds a checksum of every tensor
        places = [Tensor(f.name, "file", (f.stat().st_size,), f, 0, f.stat().st_size) for f in files]
    streams = {file: open(file, "rb", buffering=0) for file in files}
    try:
        for tensor in places:
            digest.update(repr((tensor.name, tensor.dtype, tensor.shape)).encode())
            length = 65_536 if tensor.dtype == "file" else 64
            middle, last = (tensor.start + tensor.end) // 2, max(tensor.start, tensor.end - length)
            for at in (tensor.start, middle, last):
                streams[tensor.file].seek(at)
                digest.update(streams[tensor.file].read(min(length, tensor.end - at)))
    finally:
        for stream in streams.values():
            stream.close()
    return digest.hexdigest()[:16]


# ------------------------------------------------------------------------------------ shape from the config

# How configs name a number; the first that is there counts.
KEYS = {
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "d_model": ("hidden_size", "n_embd", "d_model", "dim"),
    "d_mlp": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"),
    "n_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "d_vocab": ("vocab_size", "padded_vocab_size"),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"),
}

# Gemma-3 configs with a vision tower leave out of text_config what equals the default of its class.
GEMMA3_DEFAULTS = {"vocab_size": 262_208, "num_attention_heads": 8, "max_position_embeddings": 131_072}


def preview(located: Located) -> ModelInfo:
    """The ModelInfo of a model that is not loaded, from config.json and file headers; `loaded` is False.

    Raises EngineError("missing") when the config names no number of layers or no width.
    """
    config = read_config(located.directory)
    family = str(config.get("model_type"))
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else family
    if isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if family.startswith("gemma3"):
        config = GEMMA3_DEFAULTS | config
    numbers = {field: _number(config, names) for field, names in KEYS.items()}
    for field, words in (("n_layers", "number of layers"), ("d_model", "width")):
        if not numbers[field]:
            raise EngineError(
                "missing",
                f"config.json of {located.name} names no {words} ({' or '.join(KEYS[field])}).",
                "Give a decoder-only language model.",
            )
    d_model = numbers["d_model"]
    rms = "rms_norm_eps" in config or not any(key.startswith("layer_norm") for key in config)
    norm, gated, parallel = FAMILIES.get(family, Family("rms" if rms else "layer", rms, False))
    info = ModelInfo(
        name=located.name,
        source=located.source,
        architecture=printable(str(architecture)),
        n_layers=numbers["n_layers"],
        d_model=d_model,
        d_mlp=numbers["d_mlp"] or 4 * d_model,
        n_heads=numbers["n_heads"] or max(d_model // 64, 1),
        d_vocab=numbers["d_vocab"],
        n_ctx=numbers["n_ctx"] or 2048,
        parallel=bool(config.get("use_parallel_residual", parallel)),
        norm=norm,
        gated=gated,
        bytes=weights_bytes(located.directory),
    )
    return replace(info, warnings=disagreements(located.known, info))


def _number(config: dict, names: tuple[str, ...]) -> int:
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), 0)


def read_object(file: Path, hint: str = "Fetch the model again.") -> dict:
    """A JSON object of a file. Raises EngineError("missing") when it is not there or none."""
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        message = f"There is no {file.name} in {printable(str(file.parent))}."
        raise EngineError("missing", message, hint) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is not JSON"
        raise EngineError("missing", f"Cannot read {printable(str(file))}: {reason}.", hint) from error
    if not isinstance(value, dict):
        raise EngineError("missing", f"{printable(str(file))} holds no JSON object.", hint)
    return value
