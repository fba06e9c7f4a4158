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
    device: str  # cpu, or cuda:N as this process would see it; cuda: a GPU whose number is not known
    bytes: int | None  # None: not known


def auto_dtype(parameters: int, free: int) -> str:
    """float32 when it fits in 40 % of the free memory, else bfloat16."""
    return "float32" if parameters * BYTES["float32"] <= FP32_SHARE * free else "bfloat16"


def free(device: str | None = None) -> Free:
    """What is free on a device; None: on the GPU with most, else in the host. As load.pick_device chooses."""
    gpus = [] if device == "cpu" else _visible(_cards())
    if device is None and gpus:
        return Free("cuda", None) if any(gpu.bytes is None for gpu in gpus) else max(gpus, key=lambda gpu: gpu.bytes)
    if device in (None, "cpu"):
        return Free("cpu", psutil.virtual_memory().available)
    name = "cuda:0" if device == "cuda" else device
    return next((gpu for gpu in gpus if gpu.device == name), Free(name, None))


class _Card(NamedTuple):
    index: int  # in the order of PCI
    uuid: str
    free: int | None  # bytes; None: the driver does not say


def _cards() -> list[_Card]:
    """The GPUs of the machine by index; none without the driver's tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        asked = [tool, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()]
        return sorted(_Card(int(index), uuid, int(free) * 2**20 if free.isdecimal() else None) for index, uuid, free in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _visible(cards: list[_Card]) -> list[Free]:
    """What this process would see of the cards, as CUDA_VISIBLE_DEVICES says it.

    CUDA counts the fastest card first, which nobody here can tell, unless CUDA_DEVICE_ORDER is PCI_BUS_ID: then a card has
    a number only if it is the only one or named by its UUID, and what is free on it is known if all cards are seen.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    words = [str(card.index) for card in cards] if visible is None else visible.split(",")
    found: list[_Card | None] = []  # None: a part of a card (MIG)
    for word in map(str.strip, words):
        if word.startswith("MIG-"):
            found.append(None)
            continue
        named = [card for card in cards if (card.index == int(word) if word.isdecimal() else word and card.uuid.startswith(word))]
        if len(named) != 1:
            break  # CUDA sees nothing from there on
        found += named
    if len(set(found) - {None}) < len(found) - found.count(None):
        return []  # nor anything where one is named twice
    counted = any(word.strip().isdecimal() for word in words)
    if not counted or len(cards) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return [Free(f"cuda:{number}", card and card.free) for number, card in enumerate(found)]
    return [Free("cuda", card.free if card and set(found) == set(cards) else None) for card in found]
