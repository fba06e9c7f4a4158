"""How much longer a census takes than its bare products: python tests/benchmarks/bench_census.py

The shape of the default model (D = 576, M = 1,536, V = 49,152), random weights, one thread, CPU time. A
census of one layer and the bare products of the same tiles take turns; medians. What is done once (the
vocabulary, the null) is counted at a 30th a layer.
"""

import statistics
import time

import torch

from stagescope.engine import neurons

D, M, V, LAYERS = 576, 1536, 49_152, 30
ROUNDS = 7


def products(w_out: torch.Tensor, spread: torch.Tensor) -> None:
    rows_step, entries_step = neurons.CPU_TILE
    c = torch.empty(rows_step, entries_step)
    for rows in w_out.split(rows_step):
        for entries in spread.split(entries_step):
            torch.mm(rows, entries.T, out=c)


def finish(steps: neurons.Steps):
    """What a generator returns, and its longest step in seconds."""
    longest = 0.0
    while True:
        began = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            return end.value, longest
        longest = max(longest, time.perf_counter() - began)


def seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    w_u, w_out = (torch.randn(n, D, generator=generator) for n in (V, M))
    vocabulary, _ = finish(neurons.prepare(w_u, "rms", None))
    null = neurons.random_directions(D)
    work = {
        "products": lambda: products(w_out, vocabulary.spread),
        "layer": lambda: finish(neurons.moments(w_out, vocabulary, "rms")),
        "vocabulary": lambda: finish(neurons.prepare(w_u, "rms", None)),
        "null": lambda: finish(neurons.moments(null, vocabulary, "rms")),
    }
    taken = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name in work:
            taken[name].append(seconds(work[name]))
    median = {name: statistics.median(times) for name, times in taken.items()}
    for name in work:
        print(f"{name:12} {median[name]:7.3f} s   ({min(taken[name]):.3f} to {max(taken[name]):.3f})")
    _, longest = finish(neurons.moments(w_out, vocabulary, "rms"))
    bare, whole = median["products"], LAYERS * median["layer"] + median["vocabulary"] + median["null"]
    print(f"products at {2e-9 * D * M * V / bare:.0f} GFLOP/s, longest step {longest * 1e3:.0f} ms")
    print(f"one layer: {median['layer'] / bare:.3f} x its products")
    print(f"{LAYERS} layers: {whole / LAYERS / bare:.3f} x their products, {whole:.1f} s")


if __name__ == "__main__":
    main()
