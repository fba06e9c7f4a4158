"""The memory of a device: what is free, what to do when it runs out."""

from __future__ import annotations

import gc

import psutil
import torch

from stagescope.engine.protocol import EngineError


def free_memory(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def free_cached_memory() -> None:
    """Give back what a model loaded before held: it lies in cycles (hooks know their network), and torch keeps it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Of the GPU (torch.OutOfMemoryError) or of the host, whose allocator raises plain RuntimeErrors."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)


def out_of_memory(device: torch.device | str) -> EngineError:
    return EngineError(
        "memory",
        f"{device} ran out of memory.",
        "Shorten the prompt, use --dtype bfloat16, another --device or a smaller model.",
    )
