"""Heads and neurons switched off, against plain transformers with their weight columns zeroed, or hooked where only
some positions are meant or a mean stands instead."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest
import reference
import tiny_models
import torch
from reference import Place
from test_readings_right import Both, close, fresh_prompt, make, order

from stagescope.engine import averages, blocks, load, runner
from stagescope.engine.blocks import Network
from stagescope.engine.directory import Located
from stagescope.engine.protocol import EngineError
from stagescope.engine.schedule import parse, resolve

T = 9
HEADS, WIDTH = tiny_models.N_HEADS, tiny_models.D_MODEL // tiny_models.N_HEADS
TEXT = torch.stack([tiny_models.ids(tiny_models.N_TOKENS, 12, seed) for seed in range(3)])


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox", "phi", "llama", "gemma3", "olmo2"])
def both(request, tmp_path_factory) -> Both:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def plan(net: Network, text: str):
    known = {"parallel_blocks": net.parallel, "n_heads": net.n_heads, "d_mlp": net.d_mlp}
    return resolve(parse(text), net.n_layers, n_positions=T, **known)


def writer(model, part: str, layer: int):
    """The module by which a layer's heads (neurons) write, and its weight [D, columns], a view."""
    block = reference.blocks(model)[layer]
    if part == "heads":
        names = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense", "phi": "self_attn.dense"}
        module = block.get_submodule(names.get(reference.family(model), "self_attn.o_proj"))
    else:
        names = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h", "phi": "mlp.fc2"}
        module = block.get_submodule(names.get(reference.family(model), "mlp.down_proj"))
    return module, module.weight.data.T if reference.family(model) == "gpt2" else module.weight.data


def columns(part: str, which: list[int]) -> list[int]:
    return [n * WIDTH + i for n in which for i in range(WIDTH)] if part == "heads" else which


@contextmanager
def zeroed(model, part: str, layer: int, which: list[int]):
    _, weight = writer(model, part, layer)
    here = columns(part, which)
    before = weight[:, here].clone()
    weight[:, here] = 0
    try:
        yield
    finally:
        weight[:, here] = before


@contextmanager
def hooked(model, part: str, layer: int, which: list[int], positions: list[int], means=None):
    """means [2, columns]: at position 0 and elsewhere; zero without."""
    module, _ = writer(model, part, layer)

    def replace(_module, inputs):
        x = inputs[0].clone()
        for position in positions:
            for column in columns(part, which):
                x[:, position, column] = 0 if means is None else means[min(position, 1), column]
        return (x,)

    handle = module.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def means_of(model, part: str, layer: int) -> torch.Tensor:
    """[2, columns] float64 over TEXT: what W_O (W_out) reads at position 0, and elsewhere."""
    seen = []
    handle = writer(model, part, layer)[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for ids in TEXT:
        model(ids[None])
    handle.remove()
    read = torch.cat(seen).double()
    return torch.stack([read[:, 0].mean(0), read[:, 1:].flatten(0, 1).mean(0)])


ALL = list(range(T))
MEAN = "mean"
# schedule -> the executed order, and what is done to the model: (part, layer, numbers[, positions[, mean]])
SCHEDULES = {
    "head-off 2.1": (None, [("heads", 2, [1])]),
    "head-off 0.0 5.2-3": (None, [("heads", 0, [0]), ("heads", 5, [2, 3])]),
    "neuron-off 3.7 3.100-127 5.0": (None, [("neurons", 3, [7, *range(100, 128)]), ("neurons", 5, [0])]),
    "head-off 2.1; neuron-off 2.0-63": (None, [("heads", 2, [1]), ("neurons", 2, list(range(64)))]),
    "head-off 2.1 @4-5": (None, [("heads", 2, [1], [4, 5])]),
    "neuron-off 2.0-63 @-1": (None, [("neurons", 2, list(range(64)), [T - 1])]),
    "head-off 2.1-2 mean": (None, [("heads", 2, [1, 2], ALL, MEAN)]),
    "neuron-off 3.0-40 mean @0-6": (None, [("neurons", 3, list(range(41)), list(range(7)), MEAN)]),
    "head-off 2.1; head-off 2.1 mean @3-4": (
        *(None, [("heads", 2, [1], [0, 1, 2, 5, 6, 7, 8]), ("heads", 2, [1], [3, 4], MEAN)]),
    ),
    "repeat 4; head-off 4.0; neuron-off 4.3-9": (
        *(order(0, 1, 2, 3, 4, 4, 5), [("heads", 4, [0]), ("neurons", 4, list(range(3, 10)))]),
    ),
    "swap 2 3; head-off 2.1; attn-off 3": (
        *([*order(0, 1), Place(3, attn_on=False), *order(2, 4, 5)], [("heads", 2, [1])]),
    ),
    "attn-off 2 @3; head-off 2.1": (
        *([*order(0, 1), Place(2, attn_on=torch.arange(T) != 3), *order(3, 4, 5)], [("heads", 2, [1])]),
    ),
    "parallel 2-3; head-off 2.1": ([*order(0, 1), order(2, 3), *order(4, 5)], [("heads", 2, [1])]),
}  # fmt: skip


@torch.no_grad()
def expected(both: Both, text: str) -> torch.Tensor:
    """[T, V] logits; in the model's own order by the model's own forward."""
    places, parts = SCHEDULES[text]
    means = [means_of(both.model, part, layer) if MEAN in how else None for part, layer, _, *how in parts]
    with ExitStack() as stack:
        for (part, layer, which, *how), mean in zip(parts, means, strict=True):
            if not how:
                stack.enter_context(zeroed(both.model, part, layer, which))
            else:
                stack.enter_context(hooked(both.model, part, layer, which, how[0], mean))
        if places is None:
            return both.model(both.ids[None]).logits[0]
        return reference.run(both.model, both.ids, places).logits


def logits(net: Network, x: torch.Tensor) -> torch.Tensor:
    return blocks.unembed(net, blocks.final_norm(net, x))


def test_heads_and_neurons_off_equal_zeroed_columns_together_and_alone(both: Both) -> None:
    *_, averages_ = averages.over(both.net, TEXT, "random tokens")
    plans = {text: plan(both.net, text) for text in SCHEDULES}
    together = fresh_prompt(both.net, both.ids)
    runner.run(both.net, together.begun, together.root, list(plans.values()), averages_)
    with torch.no_grad():
        plain = both.model(both.ids[None]).logits[0]
    for text, mine in plans.items():
        ours = logits(both.net, runner.path(together.root, mine)[-1].x)
        theirs = expected(both, text)
        assert float((theirs - plain).abs().max()) > 1e-3, text  # the edit says something
        close(ours, theirs, rtol=1e-3, atol=1e-4)
        alone = fresh_prompt(both.net, both.ids)
        runner.run(both.net, alone.begun, alone.root, [mine], averages_)
        close(logits(both.net, runner.path(alone.root, mine)[-1].x), ours, rtol=1e-4, atol=1e-5)


def test_means_of_heads_and_neurons_leave_the_sink_apart(both: Both) -> None:
    *_, found = averages.over(both.net, TEXT, "random tokens")
    for layer in range(both.net.n_layers):
        close(found.heads[layer], means_of(both.model, "heads", layer))
        close(found.neurons[layer], means_of(both.model, "neurons", layer))
        close(found.activation[layer], found.neurons[layer][1])


def test_a_layer_without_heads_loads_and_refuses_by_name(tmp_path, monkeypatch) -> None:
    directory = tiny_models.build("gpt2", tmp_path)
    bridge = load._boot(Located("tiny", directory, "test"), torch.device("cpu"), torch.float32)
    monkeypatch.setattr(Network, "head_outputs", lambda net, layer: None)
    net = load.network(bridge, torch.device("cpu"), torch.float32)
    prompt = fresh_prompt(net, tiny_models.ids(net.d_vocab, T))
    runner.run(net, prompt.begun, prompt.root, [plan(net, "neuron-off 2.5")])
    with pytest.raises(EngineError, match="layer 2 of this model has no heads"):
        runner.run(net, prompt.begun, prompt.root, [plan(net, "head-off 2.1")])
    *_, averages_ = averages.over(net, TEXT, "random tokens")
    with pytest.raises(EngineError, match="layer 2 of this model has no heads"):
        runner.run(net, prompt.begun, prompt.root, [plan(net, "head-off 2.1 mean")], averages_)
