"""What the evidence of a prompt costs beyond its bare products: python tests/benchmarks/bench_evidence.py

The default model, one thread, CPU time. Attention, norms and the lenses asked for, against two plain forwards of
transformers and the lens products, (L+1) x T x D x V per lens, by the same packed unembedding. Rounds take turns;
medians. Then how memory grows with the prompt, in a process of its own each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from stagescope.engine import blocks, evidence, store
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import LENSES, Load, TakeEvidence, Texts

ROUNDS = 5
TEXT = "The Eiffel Tower is located in the city of Paris, and the tower of Pisa is located in the country of "
PRODUCT_ROWS = 256


def loaded() -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(threads=1, cache=False)):
        pass
    return engine


def prompt_of(engine: LocalEngine, n_tokens: int) -> str:
    """A prompt of so many tokens, the prefix included."""
    ids = engine.tokenizer.encode(TEXT * (n_tokens // 20 + 1), add_special_tokens=False)
    return engine.tokenizer.decode(ids[: n_tokens - 1])


def take(engine: LocalEngine, prompt: str, lenses: tuple[str, ...]) -> tuple[int, float]:
    """Tokens, and the longest step in seconds."""
    longest = 0.0
    request = TakeEvidence(Texts((prompt,)), lenses)
    steps = evidence.take(engine.net, engine.info, engine.request, request, engine.tokenizer)
    while True:
        began = time.perf_counter()
        try:
            reply = next(steps)
        except StopIteration:
            return reply.tokens_scored + 1, longest
        longest = max(longest, time.perf_counter() - began)


@torch.inference_mode()
def floor(engine: LocalEngine, model, ids: torch.Tensor, n_lenses: int) -> None:
    for _ in range(2):
        model(ids, use_cache=False)
    net = engine.net
    rows = torch.zeros((net.n_layers + 1) * ids.shape[1], net.d_model)
    for _ in range(n_lenses):
        for some in rows.split(PRODUCT_ROWS):
            blocks.unembed(net, some)


def seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    engine = loaded()
    model = AutoModelForCausalLM.from_pretrained(store.locate("smollm2-135m").directory).eval()
    print("evidence / (two forwards + lens products), one thread, CPU time")
    for n_tokens in (22, 128):
        prompt = prompt_of(engine, n_tokens)
        ids = torch.zeros(1, n_tokens, dtype=torch.int64)
        for lenses in ((), LENSES[:1], LENSES):
            ours, floors = [], []
            for _ in range(ROUNDS):
                ours.append(seconds(lambda: take(engine, prompt, lenses)))  # noqa: B023
                floors.append(seconds(lambda: floor(engine, model, ids, len(lenses))))  # noqa: B023
            n, longest = take(engine, prompt, lenses)
            ratio = statistics.median(a / b for a, b in zip(ours, floors, strict=True))
            print(
                f"  {n:4} tokens, {len(lenses)} lenses: {ratio:.2f} ({statistics.median(ours):.2f} s, floor "
                f"{statistics.median(floors):.2f} s), longest step {longest * 1e3:.0f} ms"
            )
    print("memory beyond the loaded model")
    for n_tokens in (128, 512, 1024):
        subprocess.run([sys.executable, __file__, str(n_tokens)], check=True)


def peak() -> float:
    """MiB; Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory(n_tokens: int) -> None:
    engine = loaded()
    prompt = prompt_of(engine, n_tokens)
    take(engine, prompt_of(engine, 22), LENSES)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of loading, is forgotten
    before = peak()
    # Two chunks of the lens are as large as all of them.
    steps = evidence.take(engine.net, engine.info, engine.request, TakeEvidence(Texts((prompt,))), engine.tokenizer)
    for _ in range(2 * engine.net.n_layers):
        next(steps)
    grown = peak() - before
    streams = (engine.net.n_layers + 1) * n_tokens * engine.net.d_model * 4 / 2**20
    print(f"  {n_tokens:5} tokens: {grown:.0f} MiB, of which residual streams {streams:.0f}")


if __name__ == "__main__":
    memory(int(sys.argv[1])) if len(sys.argv) > 1 else main()
