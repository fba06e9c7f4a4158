"""A sweep beside the loops one would write, and beside its bare products: python tests/benchmarks/bench_sweep.py

drop + swap at 22 and 128 tokens, all in one run, rounds taking turns: ours; a TransformerBridge `run_with_hooks` loop;
an nnsight `.skip` loop (sweep_peers.py; both count a swap as a drop); and the matrix products of ours alone. On the
default model with one thread in CPU time; where there is a GPU, on random models of Pythia's shapes in seconds of the
wall (`bench_sweep.py gpu` does that part alone). Then the growth of peak memory with the number of schedules.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from sweep_peers import bridge_run, clock, loop, nnsight_installed, nnsight_process, random_bridge
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from stagescope.engine import load, store
from stagescope.engine.kinds import entries
from stagescope.engine.local import LocalEngine
from stagescope.engine.memory import free_cached_memory
from stagescope.engine.outcomes import Outcome, Task, outcomes
from stagescope.engine.protocol import Load
from stagescope.engine.schedule import Schedule, parse, resolve
from stagescope.engine.tokens import encode

ROUNDS = 3
LENGTHS = (22, 128)
TEXT = "The Eiffel Tower is located in the city of Paris, and the tower of Pisa is located in the country of "
NEOX = dict(vocab_size=50_304, max_position_embeddings=2048, rotary_pct=0.25)
SHAPES = {
    "Pythia-1.4B": dict(NEOX, hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192),
    "Pythia-2.8B": dict(NEOX, hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, intermediate_size=10_240),
}


def rows(net, *kinds: str) -> list:
    return [row for kind in kinds for row in entries(kind, net.n_layers, parallel_blocks=net.parallel)]


def plans(net, rows_: list, n_tokens: int) -> tuple:
    return tuple(resolve(parse(row.schedule), net.n_layers, n_positions=n_tokens) for row in rows_)


# ------------------------------------------------------------------------------- the products of a sweep alone


class Products:
    """The matrix products of one run, and the run's seconds by part."""

    def __init__(self, net):
        self.net = net
        self.linear: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)  # part -> (rows, weight [out, in])
        self.attention: list[tuple[int, int]] = []  # (rows, tokens) of every block call
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        device, handles = self.net.device.type, []

        def listen(part: str, module: nn.Module) -> None:
            def enter(_module, _args) -> None:
                self.seconds[part] -= clock(device)

            def leave(_module, args, output) -> None:
                self.seconds[part] += clock(device)
                if part == "blocks" and output is not args[0]:  # not the identity that captures a layer's arguments
                    self.attention.append(tuple(args[0].shape[:2]))

            def multiplied(linear, args) -> None:
                self.linear[part].append((args[0][..., 0].numel(), linear.weight))

            handles.extend([module.register_forward_pre_hook(enter), module.register_forward_hook(leave)])
            inner = [linear for linear in module.modules() if isinstance(linear, nn.Linear)]
            handles.extend(linear.register_forward_pre_hook(multiplied) for linear in inner)

        for block in self.net.bridge.blocks:
            listen("blocks", block.original_component)
        listen("unembedding", self.net.bridge.unembed)
        began = clock(device)
        try:
            yield
        finally:
            self.seconds["all"] = clock(device) - began
            for handle in handles:
                handle.remove()
        self._make_buffers()

    def _make_buffers(self) -> None:
        n_heads, d_head = self.net.bridge.cfg.n_heads, self.net.bridge.cfg.d_head
        linear = [(n, *weight.shape) for part in self.linear.values() for n, weight in part]
        heads = max(rows_ * n_heads * tokens * max(tokens, d_head) for rows_, tokens in self.attention)
        read, written = (max(n * width[at] for n, *width in linear) for at in (1, 0))
        sizes = (max(heads, read), max(heads, written), heads)
        like = dict(dtype=self.net.dtype, device=self.net.device)
        self.source, self.target, self.mixed = (torch.randn(size, **like) for size in sizes)

    @torch.inference_mode()
    def multiply(self, part: str) -> None:
        """No norm, no softmax, no measure; every product is written over the one before."""
        for n, weight in self.linear[part]:
            into = self.target[: n * weight.shape[0]].view(n, -1)
            torch.mm(self.source[: n * weight.shape[1]].view(n, -1), weight.T, out=into)
        d_head = self.net.bridge.cfg.d_head
        for rows_, tokens in self.attention if part == "blocks" else ():
            heads = rows_ * self.net.bridge.cfg.n_heads
            queries = self.source[: heads * tokens * d_head].view(heads, tokens, -1)
            mixed = self.mixed[: heads * tokens * d_head].view(heads, tokens, -1)
            scores = self.target[: heads * tokens**2].view(heads, tokens, tokens)
            torch.bmm(queries, queries.mT, out=scores)
            torch.bmm(scores, queries, out=mixed)


# ---------------------------------------------------------------------------------------------- the comparison


def compare(net, ids: list[int], bridge, nnsight) -> None:
    """One line of ratios at one length, and one of where ours goes. Asserts first that all do the same job.

    bridge: a TransformerBridge as transformer_lens makes it; ours, on a CPU, has its linear layers in oneDNN's layout.
    """
    device = net.device.type
    chosen = rows(net, "drop", "swap")
    task = Task(tuple(ids), plans(net, chosen, len(ids)))
    drops, n_drops = [row.layer for row in chosen], net.n_layers
    there = torch.tensor([ids], device=net.device)
    products = Products(net)

    def ours() -> dict[int, Tensor]:
        done = (step for step in outcomes(net, [task]) if isinstance(step, Outcome))
        return {outcome.plan: torch.from_numpy(outcome.values) for outcome in done}

    found = ours()  # which also warms
    with products.recorded():
        ours()
    theirs = loop(bridge_run(bridge, there), there, drops)
    if net.dtype == torch.float32:  # half precision rounds by the batch
        kl = torch.stack([found[plan][0] for plan in range(n_drops)])
        torch.testing.assert_close(kl, theirs[:n_drops, 0], atol=1e-4, rtol=1e-5)
        if nnsight:
            torch.testing.assert_close(torch.tensor(nnsight(ids, drops)["kl"]), theirs[:, 0], atol=1e-4, rtol=1e-5)

    def seconds(work) -> float:
        began = clock(device)
        work()
        return clock(device) - began

    work = {
        "ours": lambda: seconds(ours),
        "bridge": lambda: seconds(lambda: loop(bridge_run(bridge, there), there, drops)),
        "nnsight": lambda: nnsight(ids, drops)["seconds"],
        "blocks": lambda: seconds(lambda: products.multiply("blocks")),
        "unembedding": lambda: seconds(lambda: products.multiply("unembedding")),
    }
    if not nnsight:
        del work["nnsight"]
    taken = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name in work:
            taken[name].append(work[name]())
    taken["products"] = [sum(pair) for pair in zip(taken["blocks"], taken["unembedding"], strict=True)]
    middle = {name: statistics.median(values) for name, values in taken.items()}

    def ratio(a: str, b: str) -> str:
        median = statistics.median(x / y for x, y in zip(taken[a], taken[b], strict=True))
        return f"{a} / {b} {median:.2f} ({middle[a]:.2f} s, {middle[b]:.2f} s)"

    pairs = [(peer, "ours") for peer in ("bridge", "nnsight") if peer in work] + [("ours", "products")]
    print(f"  {len(ids):4} tokens: " + "; ".join(ratio(*pair) for pair in pairs), flush=True)
    spent = products.seconds
    must = len({plan[:end] for plan in (*task.plans, resolve(Schedule(), n_drops)) for end in range(1, len(plan) + 1)})
    print(
        f"       ours: blocks {spent['blocks']:.2f} s (products {middle['blocks']:.2f}), unembedding "
        f"{spent['unembedding']:.2f} s (products {middle['unembedding']:.2f}), measures and the rest "
        f"{spent['all'] - spent['blocks'] - spent['unembedding']:.2f} s; "
        f"{sum(rows_ for rows_, _ in products.attention)} rows through a block, {must} distinct prefixes",
        flush=True,
    )


def default_model() -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(threads=1, cache=False, device="cpu", dtype="float32")):
        pass
    return engine


def text_ids(engine: LocalEngine, length: int) -> list[int]:
    return encode(engine.tokenizer, TEXT * 8, engine.info.prefix.id)[:length]


def on_cpu(packages: Path | None) -> None:
    print(f"drop + swap, the default model, one thread, CPU time, medians of {ROUNDS} rounds", flush=True)
    engine = default_model()
    directory = str(store.locate("smollm2-135m").directory)
    bridge = TransformerBridge.boot_transformers(directory, dtype=torch.float32, device="cpu")
    with nnsight_process(directory, "cpu", torch.float32, packages) as nnsight:
        for length in LENGTHS:
            compare(engine.net, text_ids(engine, length), bridge, nnsight)


def on_gpu(packages: Path | None) -> None:
    if not torch.cuda.is_available():
        print("no GPU is here: the table on Pythia's shapes is left out")
        return
    for name, shape in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            kind = f"{torch.cuda.get_device_name()}, {str(dtype)[6:]}"
            print(f"drop + swap, random {name}, {kind}, seconds of the wall, medians of {ROUNDS} rounds", flush=True)
            net = load.network(random_bridge(shape, "cuda", dtype), torch.device("cuda"), dtype)
            with nnsight_process(shape, "cuda", dtype, packages) as nnsight:
                for length in LENGTHS:
                    ids = torch.randint(shape["vocab_size"], (length,), generator=torch.Generator().manual_seed(length))
                    compare(net, ids.tolist(), net.bridge, nnsight)
            del net
            free_cached_memory()


# ------------------------------------------------------------------------------------------------------ memory


def growth(n_schedules: int) -> float:
    """MiB by which the peak of this process grows in a sweep of the first so many drops, swaps and pairs."""
    engine = default_model()
    ids = text_ids(engine, 128)
    task = Task(tuple(ids), plans(engine.net, rows(engine.net, "drop", "swap", "pairs")[:n_schedules], len(ids)))
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak so far, of loading, is forgotten
    before = peak()
    for _ in outcomes(engine.net, [task]):
        pass
    return peak() - before


def peak() -> float:
    """MiB. Not ru_maxrss: that begins with the peak of the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**10


def memory() -> None:
    if not Path("/proc/self/clear_refs").exists():
        print("peak memory is measured on Linux only")
        return
    grown = {}
    for n_schedules in (10, 59, 59 + 435):
        command = [sys.executable, __file__, "memory", str(n_schedules)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        grown[n_schedules] = float(done.stdout.split()[-1])
    said = ", ".join(f"{n} schedules {mib:.0f} MiB" for n, mib in grown.items())
    flat = grown[59 + 435] / grown[59]  # 10 do not fill a wave
    print(f"growth of peak memory at 128 tokens: {said}; from 59 on {flat:.2f} x", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["memory"]:
        print(growth(int(sys.argv[2])))
        return
    with nnsight_installed() as packages:
        if sys.argv[1:] != ["gpu"]:
            on_cpu(packages)
        on_gpu(packages)
    if sys.argv[1:] != ["gpu"]:
        memory()


if __name__ == "__main__":
    main()
