"""How the numbers of the tour are computed: of which request, and by which function of its answer.

In a definition `written` is the number as people read it: "0.04", "20,900", "Berlin".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stagescope.engine.protocol import DEFAULT_PROMPT, FindHeads, Read, Request, TakeEvidence, TakeSweep, Texts

PROMPT = DEFAULT_PROMPT


@dataclass(frozen=True)
class Number:
    written: str  # as people read it: "0.04", "20,900", "Berlin"
    how: str  # what it is, and of which schedule
    asked: Request
    of: Callable[[Any], float | str]  # of the answer; of a TakeSweep, of its sweeps by kind


def _under(schedule: str) -> str:
    return f"under `{schedule}`" if schedule else "of the baseline"


def at_end(written: str, what: str, schedule: str, of: Callable[[Any], float | str]) -> Number:
    """Of a reading, at the last token."""
    return Number(written, f"{what} {_under(schedule)}", Read(PROMPT, schedule), of)


def kl(written: str, schedule: str) -> Number:
    return at_end(written, "KL at the last token, nats,", schedule, lambda r: r.effect_kl_nats[-1])


def paris(written: str, schedule: str = "") -> Number:
    return at_end(written, "p of “ Paris” at the last token", schedule, lambda r: r.tracked_p[-1, -1])


def kept(written: str, schedule: str) -> Number:
    return at_end(written, "top-1 kept of the 10 tokens after the prefix,", schedule, lambda r: r.effect_top1_same[1:].sum())


def entropy(written: str, depth: int, where: str) -> Number:
    return at_end(written, f"entropy of the lens at the last token {where}, bits,", "", lambda r: r.entropy_bits[depth, -1])


def lens_kl(written: str, layer: int) -> Number:
    what = f"D_KL(output || lens) at the last token after layer {layer}, nats,"
    return at_end(written, what, "", lambda r: r.kl_final_nats[layer + 1, -1])


def mlp(written: str, layer: int) -> Number:
    return at_end(written, f"norm of what layer {layer}'s MLP writes at the last token,", "", lambda r: r.mlp_norm[layer + 1, -1])


def swept(written: str, what: str, of: Callable[[dict[str, Any]], float]) -> Number:
    return Number(written, f"{what}, means over the 10 tokens after the prefix", TakeSweep((PROMPT,)), of)


def drop_kl(written: str, layer: int) -> Number:
    return swept(written, f"KL of `drop {layer}`, nats", lambda sweeps: sweeps["drop"].kl_nats[layer, 1:].mean())


def near(written: str, layer: int) -> Number:
    what = f"weight on each of the 5 tokens before, sink-free, all heads of layer {layer}"
    return Number(written, what, TakeEvidence(Texts((PROMPT,)), ()), lambda e: e.of("prev5_no_sink")[layer, 0])


def sink(written: str, layer: int) -> Number:
    what = f"mean weight on token 0, all heads of layer {layer}"
    return Number(written, what, TakeEvidence(Texts((PROMPT,)), ()), lambda e: e.of("sink_mass")[layer, 0])


def head(written: str, layer: int, head: int, held: bool = False) -> Number:
    what = f"sub-joiner score of head {layer}.{head}{', held-out words' if held else ''}, words of 3 tokens, the standard text"
    return Number(written, what, FindHeads(), lambda h: (h.held if held else h.score)[layer, head, 0])


def middle(values: Any) -> Any:
    return values[3:28]


def means(sweeps: dict[str, Any], kind: str) -> Any:
    return sweeps[kind].kl_nats[:, 1:].mean(1)
