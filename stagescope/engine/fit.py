"""What a model's weights take and whether that fits what is free: without torch, for lists of models."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NamedTuple

import psutil

FP32_SHARE = 0.4  # of the free memory: fp32 weights beyond that leave too little for residuals and the lens
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PATIENCE = 5.0  # seconds for the driver's own tool


class Free(NamedTuple):
    device: str  # cpu, or cuda:N as this process would see it
    bytes: int


def auto_dtype(parameters: int, free: int) -> str:
    """float32 when it fits in 40 % of the free memory, else bfloat16."""
    return "float32" if parameters * BYTES["float32"] <= FP32_SHARE * free else "bfloat16"


def free(device: str | None = None) -> Free:
    """What is free on a device; None: on the GPU with most, else in the host. As load.pick_device chooses."""
    gpus = [] if device == "cpu" else _gpus()
    if gpus:
        most = gpus.index(max(gpus))
        index = int((device or "").partition(":")[2] or (most if device is None else 0))
        if index < len(gpus):
            return Free(f"cuda:{index}", gpus[index])
    return Free("cpu", psutil.virtual_memory().available)


def _gpus() -> list[int]:
    """Bytes free of each GPU that is visible to this process, in its order; none without the driver's tool."""
    tool, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if tool is None or visible == "":
        return []
    chosen = [] if visible is None else ["-i", visible]
    try:
        asked = [tool, *chosen, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        return [int(line) * 2**20 for line in told.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
