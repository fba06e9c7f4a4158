"""One head's pattern on a prompt: plain transformers' attentions, under edits too, and what cannot be shown."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import tiny_models
import torch
from failures import failure
from test_readings_right import Both, close, make, order

from stagescope.engine import blocks, pattern, runner
from stagescope.engine.protocol import HeadPattern, Load, ShowPattern
from stagescope.engine.schedule import parse, resolve

SHOWN = ((0, 0), (2, 3), (3, 1), (5, 2))  # layer, head: of gemma3 windowed layers and global ones


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox", "llama", "gemma3"])
def both(request, tmp_path_factory) -> Both:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def show(both: Both, layer: int, head: int, schedule: str = "") -> HeadPattern:
    request, parsed = ShowPattern("x", layer, head, schedule), parse(schedule)
    plan = resolve(parsed, both.net.n_layers, parallel_blocks=both.net.parallel, n_positions=len(both.ids))
    asked = SimpleNamespace(plan=plan, schedule=parsed)
    return pattern.take(both.net, both.info, Load(), both.prompt, request, asked)


@torch.no_grad()
def attentions(both: Both, x: torch.Tensor, layer: int) -> torch.Tensor:
    """[H, T, T] of a layer that reads x [T, D]: its own attention module, which returns the weights as well."""
    seen = []
    part = "attention" if both.family == "gpt_neox" else "attn" if both.family == "gpt2" else "self_attn"
    module = getattr(reference.blocks(both.model)[layer], part)
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output[1][0]))
    reference.attention(both.model, layer, x)
    handle.remove()
    return seen[0]


def test_a_plain_pattern_is_that_of_plain_transformers(both: Both) -> None:
    with torch.no_grad():
        theirs = both.model(both.ids[None], output_attentions=True).attentions
    for layer, head in SHOWN:
        ours = show(both, layer, head)
        close(ours.pattern, theirs[layer][0, head], atol=1e-6)
        close(ours.pattern.sum(-1), np.ones(len(both.ids)))
        assert ours.pattern.dtype == np.float32 and (ours.layer, ours.head, ours.schedule) == (layer, head, "")


ORDERS = {
    "swap 1 2; drop 3": order(0, 2, 1, 4, 5),
    "parallel 2-3": [*order(0, 1), order(2, 3), *order(4, 5)],
    "repeat 2": order(0, 1, 2, 2, 3, 4, 5),  # the first time it runs
    "attn-off 2": [*order(0, 1), reference.Place(2, attn_on=False), *order(3, 4, 5)],  # its write is off, not its look
}


@pytest.mark.parametrize("schedule", ORDERS)
def test_an_edited_pattern_is_of_what_comes_into_the_layer(both: Both, schedule: str) -> None:
    places = [place if isinstance(place, list) else [place] for place in ORDERS[schedule]]
    residuals = reference.run(both.model, both.ids, ORDERS[schedule]).residuals
    for layer, head in ((0, 0), (2, 3), (4, 1)):
        at = next(number for number, group in enumerate(places) if any(place.layer == layer for place in group))
        close(show(both, layer, head, schedule).pattern, attentions(both, residuals[at], layer)[head], atol=1e-5)


def test_a_head_that_is_off_still_has_its_pattern(both: Both) -> None:
    """It looks as before; what it does not write changes what later layers look at."""
    for layer, head, same in ((2, 3, True), (4, 1, False)):
        off, on = (show(both, layer, head, schedule).pattern for schedule in ("head-off 2.3", ""))
        assert np.allclose(off, on, atol=1e-6) is same


def test_what_ran_is_not_run_again_and_no_hook_is_left(both: Both, monkeypatch) -> None:
    both.read("drop 1")
    ran, block = [], blocks.block
    monkeypatch.setattr(runner, "_pass", lambda *_arguments: ran.append("prefix"))
    monkeypatch.setattr(blocks, "block", lambda *given, **how: ran.append(given[2]) or block(*given, **how))
    point = both.net.bridge.blocks[4].attn.hook_pattern
    before = len(point._forward_hooks)
    show(both, 4, 0, "drop 1")
    assert ran == [4] and len(point._forward_hooks) == before


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_head_that_is_not_there_or_does_not_run_is_refused(both: Both) -> None:
    def refused(layer: int, head: int, prompt: str = "the river", schedule: str = ""):
        request = ShowPattern(prompt, layer, head, schedule)
        return failure(pattern.settle, request, both.info, Load(), tiny_models.tokenizer())

    assert "no layer 6" in refused(6, 0).message and "0 to 5" in refused(6, 0).hint
    assert "no head 4" in refused(2, 4).message and "0 to 3" in refused(2, 4).hint
    assert "no head -1" in refused(2, -1).message
    assert "layer 3 does not run under “drop 3-4”" in refused(3, 0, schedule="drop 3; drop 4").message
    assert refused(3, 0, schedule="drop 9").kind == "usage" and refused(3, 0, prompt="").kind == "usage"


def test_a_prompt_beyond_what_can_be_shown_is_refused(both: Both) -> None:
    info = replace(both.info, n_ctx=4096)
    why = failure(pattern.settle, ShowPattern("qz" * 600, 0, 0), info, Load(), tiny_models.tokenizer())
    assert why.kind == "usage" and "1200 tokens" in why.message and "1024" in why.message
