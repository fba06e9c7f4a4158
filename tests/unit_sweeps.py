"""Random sweeps of heads, neurons and sets of neurons, for tests of what is drawn and printed: no network, no torch."""

from dataclasses import replace

import numpy as np
from sweeps import make_corpus, make_sweep

from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow

CLASSES = ("prediction", "suppression")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SEEDS = 3


def rows_of(kind: str, n_layers: int, n_heads: int = 9, *, layer: int | None = None, sizes=SIZES) -> tuple[SweepRow, ...]:
    """As the kinds have them."""
    layers = range(n_layers) if layer is None else [layer]
    if kind == "heads":
        heads = [(at, head) for at in layers for head in range(n_heads)]
        return tuple(SweepRow(f"head-off {at}.{head}", kind, at, f"head {head}", index=head) for at, head in heads)
    if kind == "neurons":
        neurons = [(name, layers[-1 - n % len(layers)], 7 + n) for name in (*CLASSES, "random") for n in range(20)]
        return tuple(SweepRow(f"neuron-off {at}.{n}", kind, at, name, index=n) for name, at, n in neurons)

    def schedule(first: int, k: int) -> str:
        return "neuron-off " + " ".join(f"{n_layers - 1 - n % min(4, n_layers)}.{first + n}" for n in range(k))

    return tuple(
        SweepRow(schedule(200 * which + 50 * seed, k), kind, None, f"random as {name}" if seed else name, index=k)
        for which, name in enumerate(CLASSES) for seed in range(SEEDS + 1) for k in sizes
    )  # fmt: skip


def make_units(kind: str, n_layers: int = 30, n_tokens: int = 12, *, n_heads: int = 9, layer=None, sizes=SIZES, **options) -> Sweep:
    """One kind over one prompt; options are those of make_sweep. Sets of suppression neurons sharpen."""
    rows = rows_of(kind, n_layers, n_heads, layer=layer, sizes=sizes)
    made = make_sweep("drop", len(rows), n_tokens, **options)
    sweep = replace(made, kind=kind, rows=rows, model=replace(made.model, n_layers=n_layers, n_heads=n_heads))
    return replace(sweep, **{name: _scaled(rows, name, getattr(sweep, name).copy()) for name in ("kl_nats", "entropy_change_bits")})


def make_unit_corpus(kind: str, n_layers: int = 30, *, n_heads: int = 9, **options) -> CorpusSweep:
    rows = rows_of(kind, n_layers, n_heads)
    made = make_corpus(("drop",), len(rows), **options)
    made = replace(made, rows=rows, model=replace(made.model, n_layers=n_layers, n_heads=n_heads))
    return replace(made, **{name: _scaled(rows, name, getattr(made, name).copy()) for name in ("kl_nats", "entropy_change_bits")})


def _scaled(rows, name: str, values: np.ndarray) -> np.ndarray:
    """KL of the size that one head or neuron has; the more neurons, the more; only suppression neurons sharpen."""
    for at, row in enumerate(rows):
        if row.kind != "neuron-sets":
            values[at] *= 0.01 if name == "kl_nats" else 0.1
        elif name == "kl_nats":
            values[at] = np.abs(values[at] * 0.001 + 0.02 * row.index / 128 * (1 + 9 * (not row.variant.startswith("random"))))
        else:
            values[at] = values[at] * 0.01 + row.index / 128 * {"suppression": 0.5, "prediction": -0.2}.get(row.variant, 0.02)
    return values
