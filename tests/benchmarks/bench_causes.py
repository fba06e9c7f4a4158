"""What switching off heads, attribution and similarity cost: python tests/benchmarks/bench_causes.py

The default model, one thread, CPU time, rounds take turns, medians. Heads: one head of every layer off, six measures
each, against a loop of plain transformers' forwards with that head's columns zeroed in a hook and KL alone measured.
Attribution of an edit against the two forwards it needs; similarity against one forward a document.
"""

from __future__ import annotations

import statistics

import torch
from bench_evidence import loaded, prompt_of, seconds
from transformers import AutoModelForCausalLM

from stagescope.engine import store
from stagescope.engine.protocol import Read, TakeAttribution, TakeSimilarity, TakeSweep, Texts

ROUNDS = 3


def answer(engine, request) -> None:
    for _ in engine.answer(request):
        pass


@torch.inference_mode()
def loop(model, ids: torch.Tensor, d_head: int) -> None:
    """Head 0 of every layer off, one forward each; KL to the baseline, fp32."""
    base = model(ids, use_cache=False).logits[0].log_softmax(-1)
    for layer in model.model.layers:

        def off(_module, inputs):
            z = inputs[0].clone()
            z[..., :d_head] = 0
            return (z,)

        handle = layer.self_attn.o_proj.register_forward_pre_hook(off)
        logp = model(ids, use_cache=False).logits[0].log_softmax(-1)
        handle.remove()
        (base.exp() * (base - logp)).sum(-1)


def main() -> None:
    engine = loaded()
    model = AutoModelForCausalLM.from_pretrained(store.locate("smollm2-135m").directory, attn_implementation="eager").eval()
    heads = tuple(f"head-off {layer}.0" for layer in range(engine.info.n_layers))
    for n_tokens in (22, 128):
        prompt = prompt_of(engine, n_tokens)
        ids = torch.zeros(1, n_tokens, dtype=torch.int64)
        plain = lambda: model(ids, use_cache=False)  # noqa: B023, E731
        works = {
            "loop": lambda: loop(model, ids, engine.info.d_model // engine.info.n_heads),  # noqa: B023
            "heads": lambda: (engine.swept.clear(), answer(engine, TakeSweep((prompt,), schedules=heads))),  # noqa: B023
            "forward": plain,
            "attribution": lambda: answer(engine, TakeAttribution(prompt, "drop 11", 7)),  # noqa: B023
            "similarity": lambda: answer(engine, TakeSimilarity(Texts((prompt,)))),  # noqa: B023
        }
        answer(engine, Read(prompt, part="output"))
        with torch.inference_mode():
            for work in works.values():
                work()
            taken = {name: [] for name in works}
            for _ in range(ROUNDS):
                for name, work in works.items():
                    taken[name].append(seconds(work))
        median = {name: statistics.median(values) for name, values in taken.items()}
        print(
            f"{n_tokens:4} tokens: 30 heads off, loop / ours {median['loop'] / median['heads']:.2f} "
            f"({median['loop']:.2f} s, {median['heads']:.2f} s); attribution of an edit / two forwards "
            f"{median['attribution'] / median['forward'] / 2:.2f} ({median['attribution']:.2f} s); similarity of a prompt / one forward "
            f"{median['similarity'] / median['forward']:.2f} ({median['similarity']:.2f} s)"
        )


if __name__ == "__main__":
    main()
