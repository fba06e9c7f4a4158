"""GGUF files, turned once into plain fp32 model directories that hold exactly the numbers of the file."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from stagescope.engine.directory import RECORD
from stagescope.engine.progress import Report, quiet, timed
from stagescope.engine.protocol import EngineError
from stagescope.text import printable


def read_gguf(path: Path):
    """The gguf.GGUFReader of a file, which is whole. Raises EngineError("missing") when it is not.

    Takes 3 s for a vocabulary of 49,152: the package reads it in Python.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EngineError(
            "missing",
            f"Cannot read {printable(str(path))}: {error.strerror}.",
            "Give a file that you can read.",
        ) from error
    if magic != b"GGUF":
        raise EngineError(
            "missing",
            f"{printable(str(path))} is no GGUF file: it begins with {magic!r}, not b'GGUF'.",
            "Give a .gguf file, or a directory with a config.json.",
        )
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise EngineError(
            "missing",
            f"{printable(str(path))} ({path.stat().st_size:,} bytes) is a GGUF file cut short or damaged.",
            "Fetch or copy the file again.",
        ) from error


def quantisations(reader) -> dict[str, int]:
    """How many of the file's numbers are stored in each GGML type, most first: {"Q4_1": 106168320, ...}."""
    counts: dict[str, int] = {}
    for tensor in reader.tensors:
        counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def describe(reader) -> str:
    """What the numbers are: "4-bit (Q4_1, embedding Q8_0) dequantised to fp32".

    The bits are the commonest type's. fp32 beside another type is not mentioned: norms are always stored so.
    """
    types = [name for name in quantisations(reader) if name != "F32"]
    if not types:
        return "fp32"
    blocks = {tensor.tensor_type.name for tensor in reader.tensors if tensor.name.startswith("blk.")}
    named = [name if name in blocks else f"embedding {name}" for name in types]
    bits = re.search(r"\d+", types[0])
    verb = "widened" if all(name in ("F16", "BF16") for name in types) else "dequantised"
    return f"{bits[0] if bits else '?'}-bit ({', '.join(named)}) {verb} to fp32"


def convert_gguf(
    path: Path, out_dir: Path, report: Report = quiet, origin: str | None = None, about: dict | None = None
) -> None:
    """Write the model of a GGUF file into `out_dir`: fp32 safetensors, config, tokenizer, stagescope.json.

    The weights are bit for bit what the gguf package dequantises (transformers undoes the row order of
    llama's q and k). `origin` ends the sentence on where they come from, `about` goes into stagescope.json
    as it is; both are the file's own name and path if not given. Takes about 12 s for 135 M parameters, and
    their fp32 in memory once. Raises EngineError: "missing" for a file that is damaged, of an architecture
    that transformers does not read, or with tensors it would leave out or make up; "error" for a full disk.
    """
    at = timed(report, "reading the GGUF file")
    reader = read_gguf(path)
    numbers = quantisations(reader)
    _room_for(4 * sum(numbers.values()), out_dir.parent)
    at(1.0)
    _refuse_rotary_tensors(reader, path)
    report("starting torch and transformers", 0.0, math.nan)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out_dir.mkdir(mode=0o700, exist_ok=True)
    try:
        with _lent_to_transformers(reader, report):
            # The file is given by its full path and looked up in out_dir, empty until the end: what lies
            # beside the user's file (configs, code) plays no part.
            given = dict(gguf_file=str(path.resolve()), trust_remote_code=False)
            loaded, info = AutoModelForCausalLM.from_pretrained(
                out_dir, dtype=torch.float32, output_loading_info=True, **given
            )
            if made_up := sorted(info["missing_keys"]):
                raise ValueError(f"it holds no {', '.join(made_up[:3])}")
            report("reading the tokenizer", 0.0, math.nan)
            tokenizer = AutoTokenizer.from_pretrained(out_dir, **given)
            # transformers does not save a model it read from a GGUF: its weights move into a fresh one.
            config = loaded.config
            config.__dict__.pop("quantization_config", None)
            config.__dict__.pop("_model_name_or_path", None)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.load_state_dict(loaded.state_dict(), assign=True)
            model.tie_weights()
            report("writing the weights", 0.0, math.nan)
            model.save_pretrained(out_dir)
            tokenizer.save_pretrained(out_dir)
    except SafetensorError as error:
        message = f"Cannot write the weights into {printable(str(out_dir))}: {printable(str(error))}."
        raise EngineError("error", message, "Make room, or set STAGESCOPE_HOME to another folder.") from error
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise EngineError(
            "missing",
            f"transformers cannot read {printable(str(path))}: {printable(_first_line(error))}",
            "Give the model's Hugging Face id or directory instead.",
        ) from error
    source = f"{describe(reader)}, from {origin or printable(path.name)}"
    about = about or {"from": str(path)}
    record = {"schema": "stored/1", "source": source, "quantisation": numbers, **about}
    (out_dir / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
    for file in out_dir.iterdir():  # on the disk before the folder gets its name
        file.chmod(0o600)
        with open(file, "rb+") as stream:
            os.fsync(stream.fileno())
    report("writing the weights", 1.0, 0.0)


def _room_for(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EngineError(
            "error",
            f"The weights take {needed / 2**30:.1f} GiB in fp32 and {printable(str(folder))} has "
            f"{free / 2**30:.1f} GiB free.",
            "Make room, or set STAGESCOPE_HOME to a folder on a larger disk.",
        )


def _refuse_rotary_tensors(reader, path: Path) -> None:
    """Llama-3 and Phi-3 files carry the scaling of their rotary frequencies as tensors; transformers drops
    them without a word, and every attention pattern would be a little wrong."""
    scaling = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_f")]
    if scaling:
        raise EngineError(
            "missing",
            f"{printable(str(path))} scales its rotary frequencies ({printable(scaling[0])}), which "
            "transformers does not read from GGUF files: its numbers would be wrong.",
            "Give the model's Hugging Face id or directory instead.",
        )


@contextmanager
def _lent_to_transformers(reader, report: Report) -> Iterator[None]:
    """Lend transformers one parsed file, one name map and our progress.

    transformers 5.23 parses the file at every step, builds the map of tensor names anew for each of 397
    modules and draws bars on stderr. So 135 M parameters take 12 s with its import, else 28 s. The names
    it imports them by are put back in the end.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as loader
    from transformers.utils import logging

    def counted(tensors, **kwargs):
        at = timed(report, "dequantising")
        for done, tensor in enumerate(tensors):
            at(done / len(tensors))
            yield tensor
        at(1.0)

    lent = [
        (gguf, "GGUFReader", lambda *_args, **_kwargs: reader),
        (gguf, "get_tensor_name_map", lru_cache(gguf.get_tensor_name_map)),
        (loader, "tqdm", counted),
    ]
    lent = [(module, name, value) for module, name, value in lent if hasattr(module, name)]  # other versions
    before = [(module, name, getattr(module, name)) for module, name, _ in lent]
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    for module, name, value in lent:
        setattr(module, name, value)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
