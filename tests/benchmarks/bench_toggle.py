"""What a key press costs beyond the layers it recomputes: python tests/benchmarks/bench_toggle.py

The default model, a 22-token and a 128-token prompt, one thread, CPU time. A toggle (`drop k`, the baseline known,
no cache on disk) up to the reading at the chosen position, against the floor: the layers after k and the lens of the
chosen position at their depths, run with plain transformers. Rounds take turns; medians over all k.
"""

from __future__ import annotations

import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from stagescope.engine import store
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import Load, Read

LAYERS = (1, 6, 11, 16, 21, 26)
ROUNDS = 5
TEXT = "The Eiffel Tower is located in the city of Paris, and the tower of Pisa is located in the country of "


def floor(model, ids: torch.Tensor, x: torch.Tensor, first: int, position: int) -> None:
    """Plain transformers: blocks first.., then the lens of one position at each of their depths."""
    inner = model.model
    n_tokens = x.shape[1]
    places = torch.arange(n_tokens)[None]
    mask = torch.full((1, 1, n_tokens, n_tokens), torch.finfo(torch.float32).min).triu(1)
    rotary = inner.rotary_emb(x, places)
    rows = []
    for layer in inner.layers[first:]:
        x = layer(x, attention_mask=mask, position_ids=places, position_embeddings=rotary)
        rows.append(x[0, position])
    logp = model.lm_head(inner.norm(torch.stack(rows))).log_softmax(-1)
    logp.topk(8)
    (logp.exp() * logp).sum(-1)


def first_reading(engine: LocalEngine, request: Read) -> None:
    replies = engine.answer(request)
    next(replies)
    replies.close()


def seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@torch.inference_mode()
def main() -> None:
    engine = LocalEngine()
    for _ in engine.answer(Load(threads=1, cache=False)):
        pass
    directory = store.locate("smollm2-135m").directory
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    print("toggle to the chosen position's reading / recomputed layers and their lens, one thread, CPU time")
    for n_words in (1, 6):
        prompt = TEXT * n_words
        whole = list(engine.answer(Read(prompt)))[-1]
        ids = torch.tensor([[token.id for token in whole.tokens]])
        x = model.model.embed_tokens(ids)
        ratios, toggles, floors = [], [], []
        for _ in range(ROUNDS):
            for layer in LAYERS:
                request = Read(prompt, f"drop {layer}", part="position")
                for child in list(engine.prompt.root.children.values()):
                    forget(child, layer)
                ours = seconds(lambda request=request: first_reading(engine, request))
                theirs = seconds(lambda layer=layer: floor(model, ids, x, layer + 1, -1))
                toggles.append(ours)
                floors.append(theirs)
                ratios.append(ours / theirs)
        print(
            f"  {ids.shape[1]:4} tokens: {statistics.median(ratios):.2f} "
            f"(toggle {statistics.median(toggles) * 1e3:.0f} ms, floor {statistics.median(floors) * 1e3:.0f} ms)"
        )


def forget(node, layer: int) -> None:
    """Cut the branch of `drop layer` off the trie, so that the next toggle computes it again."""
    depth = 1
    while depth < layer:
        node = next(child for place, child in node.children.items() if place[0].layer == depth)
        depth += 1
    for place in [place for place in node.children if place[0].layer == layer + 1]:
        del node.children[place]


if __name__ == "__main__":
    main()
