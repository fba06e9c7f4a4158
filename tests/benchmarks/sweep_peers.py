"""The loops one would write for a sweep without stagescope: TransformerBridge hooks, and nnsight's `.skip`.

Both run one forward a schedule and measure it against a baseline run once, in plain torch. Neither can swap blocks in a
loop of hooks, so a swap is a drop here. As a program this is the nnsight loop alone, in a process of its own: nnsight
patches torch, and is installed for the benchmark only (bench_sweep.py). Lines of JSON in, lines of JSON out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

# nnsight and what it needs beyond stagescope's own requirements; torch is not touched
NNSIGHT = ("nnsight==0.8.1", "greenlet", "cloudpickle", "websocket-client", "zstandard")

Run = Callable[[int | None], Tensor]  # a forward without one layer, or with all: logits [1, T, V]


@torch.inference_mode()
def loop(run: Run, ids: Tensor, drops: Sequence[int]) -> Tensor:
    """[S, 6, T]: KL in nats, top-1 same, entropy change in bits, loss change in nats (NaN at the last position), rank and
    p of the baseline's top token: what ours measures."""

    def said(layer: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logp = run(layer)[0].float().log_softmax(-1)
        p = logp.exp()
        loss = torch.full_like(logp[:, 0], math.nan)
        loss[:-1] = -logp[:-1].gather(-1, ids[0, 1:, None])[:, 0]
        return logp, p, -(p * logp).sum(-1) / math.log(2), loss

    logp, p, entropy, loss = said(None)
    top = logp.argmax(-1)
    rows = []
    for layer in drops:
        logq, q, entropy_q, loss_q = said(layer)
        kl = (p * (logp - logq)).sum(-1)
        rank = (logq > logq.gather(-1, top[:, None])).sum(-1) + 1
        followed = [rank.float(), q.gather(-1, top[:, None])[:, 0]]
        rows.append(torch.stack([kl, (logq.argmax(-1) == top).float(), entropy_q - entropy, loss_q - loss, *followed]))
    return torch.stack(rows).cpu()


def bridge_run(bridge, ids: Tensor) -> Run:
    kept: dict[str, Tensor] = {}

    def keep(x: Tensor, hook) -> None:
        kept["x"] = x

    def put(x: Tensor, hook) -> Tensor:
        return kept["x"]

    def run(layer: int | None) -> Tensor:
        hooks = [] if layer is None else [(f"blocks.{layer}.hook_in", keep), (f"blocks.{layer}.hook_out", put)]
        return bridge.run_with_hooks(ids, fwd_hooks=hooks, use_cache=False)

    return run


def nnsight_run(model, ids: Tensor) -> Run:
    """nnsight 0.8 over a transformers model whose decoder holds its blocks as `layers` (Llama, GPT-NeoX)."""
    from nnsight import NNsight

    traced = NNsight(model)
    layers = getattr(traced, model.base_model_prefix).layers

    def run(layer: int | None) -> Tensor:
        with traced.trace(input_ids=ids, use_cache=False):
            if layer is not None:
                layers[layer].skip(layers[layer].input)
            logits = traced.output.logits.save()
        return logits

    return run


def random_neox(shape: dict, device: str, dtype: torch.dtype):
    """A random GPT-NeoX made on the device: the same weights in every process that makes one there."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(**shape, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    return model.eval()


def random_bridge(shape: dict, device: str, dtype: torch.dtype):
    from transformer_lens.model_bridge import TransformerBridge

    torch.backends.cuda.matmul.allow_tf32 = False
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))  # no text is read
    said = dict(name_or_path="random", add_bos_token=True, bos_token="a", eos_token="a", pad_token="a")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **said)
    given = dict(hf_model=random_neox(shape, device, dtype), tokenizer=tokenizer)
    return TransformerBridge.boot_transformers("random", **given, dtype=dtype, device=device)


def clock(device: str) -> float:
    """Seconds of CPU time of this process; on a GPU seconds of the wall, all its work done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def nnsight_process(model: str | dict, device: str, dtype: torch.dtype, packages: Path | None):
    """ask(ids, drops) -> {"seconds", "kl"} of the loop in a process of its own, or None where nnsight does not run."""
    if packages is None:
        yield None
        return
    command = [sys.executable, __file__, json.dumps(model), device]
    environment = {**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    with subprocess.Popen([*command, str(dtype)[6:]], env=environment, **pipes) as process:

        def ask(ids: list[int], drops: list[int]) -> dict:
            process.stdin.write(json.dumps({"ids": ids, "drops": drops}) + "\n")
            return json.loads(process.stdout.readline())

        ready = process.stdout.readline() == "ready\n"
        if not ready:
            print("nnsight does not run here: what it said stands above", flush=True)
        yield ask if ready else None
        process.stdin.close()


@contextlib.contextmanager
def nnsight_installed() -> Iterator[Path | None]:
    with tempfile.TemporaryDirectory(prefix="stagescope-bench-") as target:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, *NNSIGHT]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            print(f"nnsight could not be installed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}")
        yield None if done.returncode else Path(target)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is not an answer
    model_, device, dtype = json.loads(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3])
    torch.set_num_threads(1)
    disable_progress_bar()
    if isinstance(model_, dict):
        model = random_neox(model_, device, dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(model_, attn_implementation="eager", dtype=dtype).eval().to(device)
    model.requires_grad_(False)
    nnsight_run(model, torch.zeros(1, 1, dtype=torch.long, device=device))
    answers.write("ready\n")
    for line in sys.stdin:
        asked = json.loads(line)
        ids = torch.tensor([asked["ids"]], device=device)
        began = clock(device)
        values = loop(nnsight_run(model, ids), ids, asked["drops"])
        answers.write(json.dumps({"seconds": clock(device) - began, "kl": values[:, 0].tolist()}) + "\n")


if __name__ == "__main__":
    main()
