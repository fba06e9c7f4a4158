"""What a continuation costs: two texts with all their numbers beside one of transformers, and what keys and values save.

    python tests/benchmarks/bench_generate.py

On the default model in fp32; ratios from one run.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

import stagescope as ss  # noqa: E402
from stagescope.engine import blocks, lens, runner  # noqa: E402
from stagescope.engine.reading import plain_plan  # noqa: E402

PROMPTS = {"11 tokens": "The Eiffel Tower is located in the city of", "128 tokens": "The cat sat on the mat and " * 18 + "the"}
N, TIMES = 32, 5


def median(*works: Callable[[], object]) -> list[float]:
    """Seconds of each; one after the other, again and again, so that a busy moment falls on all of them."""
    took: list[list[float]] = [[] for _ in works]
    for _ in range(TIMES):
        for kept, work in zip(took, works, strict=True):
            began = time.perf_counter()
            work()
            kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in took]


def main() -> None:
    model = ss.load(cache=False)
    net = model._engine.net
    for name, prompt in PROMPTS.items():
        ids = [token.id for token in model.read(prompt).tokens]

        def plain() -> None:
            with torch.inference_mode():
                net.bridge.original_model.generate(torch.tensor([ids]), max_new_tokens=N, do_sample=False)  # noqa: B023

        def uncached() -> None:
            """The baseline, every token by a run over all before it."""
            so_far = list(ids)  # noqa: B023
            plan = plain_plan(net.n_layers)
            for _ in range(N):
                begun = blocks.start(net, torch.tensor([so_far]))
                root = runner.Node(x=begun.x[0])
                runner.run(net, begun, root, [plan])
                so_far.append(int(lens.log_probs(net, runner.path(root, plan)[-1].x[-1:]).argmax()))

        ours = {
            "the baseline": lambda: model.generate(prompt, tokens=N),  # noqa: B023
            "and drop 14": lambda: model.generate(prompt, "drop 14", tokens=N),  # noqa: B023
            "and 29 drops": lambda: model.generate(prompt, *(f"drop {layer}" for layer in range(1, 30)), tokens=N),  # noqa: B023
        }
        took = dict(zip(("plain", "uncached", *ours), median(plain, uncached, *ours.values()), strict=True))
        print(f"{name} ({len(ids)}), {N} written:")
        for what in ours:
            print(f"  {what} / transformers' generate of one text {took[what] / took['plain']:.2f} ({took[what]:.2f} s, {took['plain']:.2f} s)")
        print(f"  the baseline without keys and values / with them {took['uncached'] / took['the baseline']:.2f}")


if __name__ == "__main__":
    main()
