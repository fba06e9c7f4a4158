"""The numbers of an answer in short form: what a session keeps of it, and what a replay compares.

A flat dict of names to numbers or (nested) lists of them; floats with 7 significant digits, None where there is none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stagescope.engine import wire
from stagescope.engine.protocol import CorpusSweep, Reading, Reply, Sweep

MOST = 512  # numbers of an array that is kept whole
MOST_PARTS = 64  # of a list of things that have numbers
# Of the machine and the hour, or told in the request, or texts; tokens, where nothing tells which of two nearly as likely.
_NOT_MEASURED = {
    *("model", "prompt", "tokens", "texts", "notes", "milliseconds", "cached", "source", "skipped"),
    *("tracked", "top_ids"),
}

Numbers = dict[str, Any]


def of_reading(reading: Reading, position: int) -> Numbers:
    """effect.* and output.* of every position [T] (of more than 512: so many), and depths.* of one position [N]."""
    kept: Numbers = {}
    at = sampled(len(reading.tokens))
    if reading.baseline is not None:
        kept["effect.kl_nats"] = listed(reading.effect_kl_nats[at])
        kept["effect.top1_same"] = listed(reading.effect_top1_same[at])
        kept["effect.entropy_change_bits"] = listed(reading.effect_entropy_bits[at])
    kept["output.entropy_bits"] = listed(reading.entropy_bits[-1, at])
    kept["output.top_ids"] = listed(reading.top_ids[-1, at, :2])
    kept["output.top_p"] = listed(reading.top_p[-1, at, :2])
    return kept | of_position(reading, position)


def of_position(reading: Reading, position: int) -> Numbers:
    """What the stack shows at one position: depths.* [N], ids and p of the two top tokens [N, 2]."""
    at = position % len(reading.tokens)
    kept: Numbers = {"position": at, "tracked": int(reading.tracked[at])}
    names = ["entropy_bits", "kl_final_nats", "tracked_rank", "tracked_p", "attn_norm", "mlp_norm"]
    names += ["kl_nats", "top1_same"] if reading.baseline is not None else []
    kept |= {f"depths.{name}": listed(getattr(reading, name)[:, at]) for name in names}
    return kept | {f"depths.{name}": listed(getattr(reading, name)[:, at, :2]) for name in ("top_ids", "top_p")}


def of_replies(replies: Sequence[Reply]) -> Numbers:
    """Of any other answer. Of an array of more than 512 floats so many, evenly spaced; of top1_same how many are."""
    kept: Numbers = {}
    seen: Counter[str] = Counter()
    for reply in replies:
        seen[name := type(reply).__name__] += 1
        name += f" {seen[name]}" if seen[name] > 1 else ""  # another kind beside does not shift them
        data, arrays = wire.flatten(reply)
        if isinstance(reply, Sweep | CorpusSweep):
            del data["rows"]  # the schedules that were asked for; the rows of neurons were found
        kept |= {f"{name}.{path}": value for path, value in _walk(data, arrays, isinstance(reply, CorpusSweep))}
    return kept


def _walk(value: Any, arrays: list[np.ndarray], pooled: bool, path: str = "") -> Iterator[tuple[str, Any]]:
    """pooled: top1_same is a share of tokens, not 1 or 0 at each."""
    match value:
        case {"$array": int(index)} if path.endswith("top1_same") and not pooled:
            yield path.removesuffix("same") + "count", np.nansum(arrays[index], -1).astype(int).reshape(-1)[:MOST].tolist()
        case {"$array": int(index)}:
            if (kept := _reduced(arrays[index])) is not None:
                yield path, kept
        case dict():
            for name, inner in value.items():
                if name not in _NOT_MEASURED and not name.startswith("$"):
                    yield from _walk(inner, arrays, pooled, f"{path}.{name}" if path else name)
        case list() if all(isinstance(inner, (dict, list)) for inner in value):
            for index, inner in enumerate(value[:MOST_PARTS]):
                yield from _walk(inner, arrays, pooled, f"{path}[{index}]")
        case list() if len(value) <= MOST and all(isinstance(inner, (int, float, type(None))) for inner in value):
            yield path, [_short(inner) for inner in value]
        case int() | float() | None:
            yield path, _short(value)


def _reduced(array: np.ndarray) -> Any:
    if array.size <= MOST:
        return listed(array)
    if array.dtype.kind not in "fb":  # every eighth id says nothing
        return None
    return listed(array.reshape(-1)[sampled(array.size)])


def sampled(n: int) -> np.ndarray:
    """Which of n are kept: all, or MOST, evenly spaced. The row means of a pattern, say, are those of any pattern."""
    return np.arange(n) if n <= MOST else np.linspace(0, n - 1, MOST).round().astype(int)


def listed(array: np.ndarray) -> Any:
    """An array as nested lists."""
    if array.ndim > 1:
        return [listed(row) for row in array]
    return [_short(value) for value in array.tolist()]


def _short(value: float | None) -> Any:
    if value is None or isinstance(value, int):  # bool is one
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
