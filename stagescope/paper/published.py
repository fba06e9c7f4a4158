"""Values that others published of some models, and whether the model at hand is one of them.

Previous-5 attention: read off the figures of arXiv 2406.19384 to about 0.002. Census: Gurnee et al. 2024
(arXiv 2401.12181), mean over five training runs of GPT-2 medium.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stagescope.engine.catalog import lookup
from stagescope.engine.protocol import ModelInfo

GPT2, NEOX, PHI = "GPT2LMHeadModel", "GPTNeoXForCausalLM", "PhiForCausalLM"


@dataclass(frozen=True)
class Values:
    """Published of one model. points: layer -> value."""

    figure: str
    what: str
    unit: str
    points: dict[int, float]
    source: str
    differences: str  # of what was measured there to what is measured here


@dataclass(frozen=True)
class Reference:
    name: str  # of the published model
    sure: bool  # False: only its name and shape say so
    why: str
    values: Values


# Catalogue name: architecture, layers, D, peak of the previous-5 attention and its layer (or all layers).
_GPT2_LAYERS = dict(enumerate((0.040, 0.046, 0.102, 0.083, 0.068, 0.036, 0.042, 0.031, 0.033, 0.023, 0.020, 0.020)))
_PREV5 = {
    "gpt2": (GPT2, 12, 768, _GPT2_LAYERS),
    "gpt2-medium": (GPT2, 24, 1024, {3: 0.107}),
    "gpt2-large": (GPT2, 36, 1280, {5: 0.065}),
    "gpt2-xl": (GPT2, 48, 1600, {6: 0.061}),
    "pythia-410m": (NEOX, 24, 1024, {5: 0.088}),
    "pythia-1.4b": (NEOX, 24, 2048, {1: 0.077}),
    "pythia-2.8b": (NEOX, 32, 2560, {1: 0.084}),
    "pythia-6.9b": (NEOX, 32, 4096, {3: 0.064}),
    "phi-1": (PHI, 24, 2048, {1: 0.101}),
    "phi-1.5": (PHI, 24, 2048, {0: 0.075}),
    "phi-2": (PHI, 32, 2560, {0: 0.075}),
}
_CRFM = re.compile(r"stanford-crfm/[a-z]+-gpt2-medium-x\d+")
_CRFM_HIGH = {20: 130.8, 21: 142.2, 22: 207.2, 23: 339.2}  # neurons with kurtosis > 10, of 4096
_HUB = "Hugging Face "


def reference(info: ModelInfo) -> Reference | None:
    """What is published of this model, or of one that it may be.

    Sure: it came from the hub under the id of the published model and has its architecture, layers and width. A file or
    directory proves nothing by its name: then it may be the model, and `sure` is False. None where shape or name differ.
    """
    name = info.name.strip().lower()
    from_hub = info.source.startswith(_HUB)
    hub_id = info.source.removeprefix(_HUB).split(",")[0].strip().lower() if from_hub else ""

    shape = (info.architecture, info.n_layers, info.d_model)
    crfm = name if _CRFM.fullmatch(name) else hub_id
    if shape == (GPT2, 24, 1024) and (_CRFM.fullmatch(crfm) or re.fullmatch(r"[a-z]+-gpt2-medium-x\d+", name)):
        return Reference("stanford-crfm gpt2-medium", from_hub and bool(_CRFM.fullmatch(hub_id)), _why(info, from_hub), _census())

    known = lookup(hub_id) if from_hub else lookup(name) or lookup(name.split("/")[-1])
    if known is None and not from_hub:  # a directory is often called like the last part of a hub id
        known = next((row for key in _PREV5 if (row := lookup(key)).repo_id.lower().split("/")[-1] == name), None)
    if known is None or known.name not in _PREV5 or shape != _PREV5[known.name][:3]:
        return None
    return Reference(known.name, from_hub, _why(info, from_hub), _attention(known.name))


def _why(info: ModelInfo, from_hub: bool) -> str:
    shape = f"{info.architecture}, {info.n_layers} layers, width {info.d_model}"
    if from_hub:
        return f"It came from the hub under that id, and its shape agrees ({shape})."
    return f"Perhaps the same model: name and shape agree ({shape}), but the weights came from elsewhere ({info.source})."


def _attention(name: str) -> Values:
    points = _PREV5[name][3]
    shown = "every layer" if len(points) > 1 else "its peak only"
    return Values(
        "4", f"attention to the 5 tokens before, mean weight per offset, {shown}", "weight", points,
        "read off Figure 4 of arXiv 2406.19384, to about 0.002",
        "Another text and other windows. It is the reading with the sink; a token put before every text changes the sink.",
    )  # fmt: skip


def _census() -> Values:
    return Values(
        "6", "neurons with kurtosis > 10", "% of the MLP width",
        {layer: 100 * count / 4096 for layer, count in _CRFM_HIGH.items()},
        "Gurnee et al. 2024, arXiv 2401.12181: mean over the five runs a to e",
        "The mean of five training runs, this model is one of them.",
    )  # fmt: skip
