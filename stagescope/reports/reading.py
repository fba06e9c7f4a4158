"""A Reading as JSON (the contract of the command line) and as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from stagescope.engine.protocol import CorpusSweep, Evidence, ModelInfo, Reading
from stagescope.text import printable, visible

MODEL_FIELDS = (
    *("name", "source", "architecture", "n_layers", "d_model", "d_mlp", "n_heads", "d_vocab"),
    *("dtype", "device", "fingerprint"),
)


# -------------------------------------------------------------------------------------------------- JSON


def model_json(info: ModelInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in MODEL_FIELDS}


def reading_json(reading: Reading) -> dict[str, Any]:
    """Schema reading/1. Depths follow the executed order; NaN is null."""
    return {
        "schema": "reading/1",
        "model": model_json(reading.model),
        "prompt": reading.prompt,
        "tokens": [{"id": token.id, "text": token.text} for token in reading.tokens],
        "schedule": reading.schedule,
        "lens": reading.lens,
        "depths": [_depth_json(reading, depth) for depth in range(reading.n_depths)],
        "against_baseline": {
            "kl_nats": numbers(reading.effect_kl_nats),
            "top1_same": truths(reading.effect_top1_same),
            "entropy_change_bits": numbers(reading.effect_entropy_bits),
        },
        "tracked": [{"id": int(token), "text": reading.texts[int(token)]} for token in reading.tracked],
    }


def _depth_json(reading: Reading, depth: int) -> dict[str, Any]:
    layers, other = reading.layers[depth], reading.baseline_depth[depth]
    top = [
        [
            {"id": int(token), "text": reading.texts[int(token)], "p": number(p)}
            for token, p in zip(reading.top_ids[depth, position], reading.top_p[depth, position], strict=True)
            if token >= 0
        ]
        for position in range(len(reading.tokens))
    ]
    versus = None
    if other is not None:
        versus = {
            "baseline_depth": other,
            "kl_nats": numbers(reading.kl_nats[depth]),
            "resid_rel": numbers(reading.resid_rel[depth]),
            "resid_cos": numbers(reading.resid_cos[depth]),
            "top1_same": truths(reading.top1_same[depth]),
        }
    return {
        "depth": depth,
        "layer": layers[0] if len(layers) == 1 else None,
        "layers": list(layers),
        "entropy_bits": numbers(reading.entropy_bits[depth]),
        "kl_final_nats": numbers(reading.kl_final_nats[depth]),
        "top": top,
        "tracked_rank": numbers(reading.tracked_rank[depth]),
        "tracked_p": numbers(reading.tracked_p[depth]),
        "attn_norm": numbers(reading.attn_norm[depth]),
        "mlp_norm": numbers(reading.mlp_norm[depth]),
        "vs_baseline": versus,
    }


def number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def numbers(values) -> list[float | None]:
    return [number(value) for value in values.tolist()]


def finite(value: Any) -> Any:
    """Plain data as strict JSON can hold it: None for what is no number."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return number(value) if isinstance(value, float) else value


def truths(values) -> list[bool | None]:
    return [None if math.isnan(value) else bool(value) for value in values.tolist()]


def left_out(result: CorpusSweep | Evidence, window: int) -> Iterator[str]:
    """What is missing of a text whose documents were cut at `window` tokens, in sentences."""

    def were(n: int) -> str:
        return "1 document was" if n == 1 else f"{n:,} documents were"

    if n := result.n_skipped:
        more = f"; and {n - len(result.skipped):,} more" if n > len(result.skipped) else ""
        yield f"{were(n)} left out: {'; '.join(result.skipped)}{more}"
    if n := result.n_cut:
        yield f"{were(n)} cut at the window of {min(window, result.model.n_ctx):,} tokens"


# -------------------------------------------------------------------------------------------- plain text


def reading_text(reading: Reading, position: int, followed: bool = False) -> list[Text | Table]:
    """The reading at one position as lines and a table, last depth on top as on screen. followed: a token that was asked for,
    with its rank and p."""
    at = position % len(reading.tokens)
    tokens = Text("tokens  ")
    for index, token in enumerate(reading.tokens):
        mark = f"[{visible(token.text)}]" if index == at else visible(token.text)
        tokens.append(f"{mark} ", style="bold" if index == at else "")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("layer", "H bits", "KL final", "Δ base", "attn", "mlp", *(("rank", "p") if followed else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"top {reading.top_ids.shape[-1]}")  # which alone gives way where the table is too wide
    for depth in reversed(range(reading.n_depths)):
        layers = reading.layers[depth]
        table.add_row(
            "e" if not layers else "+".join(map(str, layers)),
            f"{reading.entropy_bits[depth, at]:.2f}",
            f"{reading.kl_final_nats[depth, at]:.3g}",
            _blank_nan(reading.kl_nats[depth, at], ".3g") if reading.schedule else "",
            _blank_nan(reading.attn_norm[depth, at], ".1f"),
            _blank_nan(reading.mlp_norm[depth, at], ".1f"),
            *((f"{reading.tracked_rank[depth, at]:,.0f}", f"{reading.tracked_p[depth, at]:.2g}") if followed else ()),
            Text(_top(reading, depth, at), no_wrap=True, overflow="ellipsis"),
        )
    info = reading.model
    header = f"{printable(info.name)} · {info.n_layers} layers · {info.dtype} · {info.device} · lens {reading.lens}"
    header += f" · weights {info.bytes / 2**30:.1f} GiB" if info.bytes else ""
    header += "" if math.isnan(info.noise_kl) else f" · noise floor KL {info.noise_kl:.1g}"
    lines: list[Text | Table] = [Text(header), Text(printable(info.source), style="dim"), tokens]
    if reading.schedule:
        lines.append(Text(f"edit    {reading.schedule}"))
    if followed:
        lines.append(Text(f"follow  {visible(reading.texts[int(reading.tracked[at])])}, its rank and p"))
    return [*lines, Text(effect(reading, at)), table]


def effect(reading: Reading, at: int) -> str:
    """What the edit did, each number with where it holds."""
    if reading.baseline is None:
        final = reading.n_depths - 1
        label = "output" if reading.lens == "standard" else f"{reading.lens} lens at the last depth"
        return f"{label}  {_top(reading, final, at)}  at position {at}, entropy {reading.entropy_bits[final, at]:.2f} bits"
    over = reading.mean_positions()
    kl, kept = reading.effect_kl_nats, reading.effect_top1_same
    return (
        f"effect  at position {at}: KL {kl[at]:.3g} nats, entropy {reading.effect_entropy_bits[at]:+.2f} bits"
        f"  |  over {len(over)} positions: KL mean {kl[over].mean():.3g}, median {np.median(kl[over]):.3g}, "
        f"top-1 kept {int(kept[over].sum())}/{len(over)}"
    )


def _top(reading: Reading, depth: int, at: int) -> str:
    pairs = zip(reading.top_ids[depth, at], reading.top_p[depth, at], strict=True)
    return "  ".join(f"{visible(reading.texts[int(token)])} {p:.3f}" for token, p in pairs if token >= 0)


def _blank_nan(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
