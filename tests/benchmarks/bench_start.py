"""From a cold start to the first reading, whole processes: python tests/benchmarks/bench_start.py

`stagescope read --no-cache` of the default model against a bare script that imports transformer_lens, boots the same
directory and runs one forward, and against the same in plain transformers. One thread, processes take turns, medians
of CPU time (user + system of the whole process).
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

from stagescope.engine import store

PROMPT = "The Eiffel Tower is located in the city of"
ROUNDS = 5
BRIDGE = """
import sys, torch
torch.set_num_threads(1)
from transformer_lens.model_bridge import TransformerBridge
bridge = TransformerBridge.boot_transformers(sys.argv[1], dtype=torch.float32, device="cpu")
with torch.inference_mode():
    print(bridge(bridge.to_tokens(sys.argv[2]))[0, -1].argmax())
"""
PLAIN = """
import sys, torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="eager").eval()
ids = AutoTokenizer.from_pretrained(sys.argv[1])(sys.argv[2], return_tensors="pt").input_ids
with torch.inference_mode():
    print(model(ids).logits[0, -1].argmax())
"""


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    directory = str(store.locate("smollm2-135m").directory)
    read = [sys.executable, "-m", "stagescope", "read", PROMPT]
    commands = {
        "stagescope": [*read, "--no-cache", "--threads", "1"],
        "bridge": [sys.executable, "-c", BRIDGE, directory, PROMPT],
        "transformers": [sys.executable, "-c", PLAIN, directory, PROMPT],
        "cached": read,
    }
    taken = {name: [] for name in commands}
    for round_ in range(ROUNDS + 1):
        for name, command in commands.items():
            seconds = cpu_seconds(command)
            if round_:  # the first warms the file cache
                taken[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print("start to the first whole reading (11 tokens x 31 depths), one thread, CPU time of the process")
    for name, against in (("stagescope", "bridge"), ("stagescope", "transformers"), ("cached", "bridge")):
        ratio = statistics.median(a / b for a, b in zip(taken[name], taken[against], strict=True))
        print(f"  {name} / {against}: {ratio:.2f} ({medians[name]:.1f} s, {medians[against]:.1f} s)")


if __name__ == "__main__":
    main()
