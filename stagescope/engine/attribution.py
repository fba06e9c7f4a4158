"""Direct logit attribution: what every sublayer writes, read by the unembedding as if nothing followed.

The logit of v at t, less its mean over the vocabulary and before a soft cap, is a sum over all that was written at t:
a contribution c adds (c . d) / s, where d = gain * (W_U[:, v] - mean of W_U over the vocabulary), centred over D for
LayerNorm models, and s is what the final norm divides by at t (Elhage et al. 2021). The vocabulary is every column of
W_U, padding too: so the sum is the logit that the model itself gives.

Under an edit s is the baseline's, so that an effect changes because what is written changes; what the run's own scale
adds stands apart. The change of the logit, less that of the ablated sublayers' own direct effects, is self-repair: by
later sublayers (McGrath et al. 2023, "The Hydra Effect") or by the scale (Rushing and Nanda 2024). That reading needs
an ablation: a swap has no loss to repair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stagescope.engine import cache, question
from stagescope.engine.plan import Plan, uses_means
from stagescope.engine.protocol import (
    Attribution,
    Load,
    ModelInfo,
    Read,
    TakeAttribution,
)
from stagescope.engine.question import Question
from stagescope.engine.tokens import texts

if TYPE_CHECKING:
    from torch import Tensor

    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network
    from stagescope.engine.reading import Prompt

STAGE = "direct logit attribution"
VOCABULARY_CHUNK = 2**22  # numbers of W_U summed in fp64 at once: 32 MiB


def settle(request: TakeAttribution, info: ModelInfo, load: Load, tokenizer: Any) -> Question:
    """The request made definite: ids, plan. Raises EngineError as for a Read."""
    read = Read(request.prompt, request.schedule, tracked=request.tracked)
    return question.question(read, load, info, tokenizer)


def recalled(request: TakeAttribution, info: ModelInfo, load: Load, tokenizer: Any) -> Attribution | None:
    """The answer from the cache, its baseline attached; works before the weights are loaded. Raises as `settle`."""
    asked = settle(request, info, load, tokenizer)
    for dtype, device in question.machines(info, load):
        found = cache.get(_key(request, asked, info, dtype, device))
        if isinstance(found, Attribution):  # the same numbers may have been asked for under another name
            base = found.baseline and replace(question.as_asked(found.baseline, info), prompt=request.prompt)
            found = question.as_asked(found, info)
            return replace(found, prompt=request.prompt, schedule=str(asked.schedule), baseline=base)
    return None


def _key(request: TakeAttribution, asked: Question, info: ModelInfo, dtype: str, device: str) -> str:
    text = question.means_text(info) if uses_means(asked.plan) else None
    prefix = question.prefix_id(info)
    what = [info.fingerprint, asked.ids, asked.plan, text, prefix, request.tracked]
    return cache.key("attribution", *what, dtype, device)


def take(
    net: Network,
    info: ModelInfo,
    load: Load,
    prompt: Prompt,
    request: TakeAttribution,
    asked: Question,
    averages: Averages | None = None,
    step: Callable[[float], None] = lambda fraction: None,
) -> Attribution:
    """The attribution of asked.plan, its baseline attached where it is another, kept when load.cache.

    averages: needed where the plan holds a mean replacement. step is called with the fraction done and may raise to
    stop. Baseline and edit run together in a trie of their own, in which what is written is let go as soon as it is a
    number a position. Where the baseline's top tokens are tracked, the baseline of the prompt at hand runs first, if it
    has not.
    """
    import torch

    with torch.inference_mode():
        share = 0.5 if request.tracked is None else 0.0
        tracked = _tracked(net, prompt, request, asked, lambda done: step(share * done))
        plans = [asked.baseline().plan] + ([] if asked.is_baseline else [asked.plan])
        runs = _runs(net, prompt, plans, tracked, averages, lambda done: step(share + (1 - share) * done))
    token_ids = tracked.cpu().numpy().astype(np.int32)
    spelled = texts(net.tokenizer, token_ids.tolist())
    found = None
    for schedule, plan, parts in zip(("", str(asked.schedule)), plans, runs, strict=False):
        found = Attribution(
            model=info,
            prompt=prompt.text,
            tokens=prompt.tokens,
            schedule=schedule,
            layers=((), *(tuple(run.layer for run in place) for place in plan)),
            tracked=token_ids,
            **parts,
            edited=edited(plan, net.n_layers, len(prompt.tokens)),
            texts=spelled,
            baseline=found,
        )
    found = replace(found, schedule=str(asked.schedule))
    if load.cache:
        cache.put(_key(request, asked, info, info.dtype, info.device.split(":")[0]), found)
    return found


def edited(plan: Plan, n_layers: int, n_tokens: int) -> np.ndarray:
    """[L, 2, T] bool: whose attention and MLP the schedule itself changes, and where.

    Both of a layer that does not run, runs more than once, runs in a group (its output is then a part of a mean), or
    has left its place among those that run once: "swap 3 7" moves 3 and 7, those between them only see another input.
    A sublayer alone where it, a head or a neuron of it is switched off, at those positions: what it does elsewhere
    because of that is what any other sublayer does.
    """
    order = [run.layer for place in plan for run in place]
    times = Counter(order)
    found = np.zeros((n_layers, 2, n_tokens), bool)
    found[[layer for layer in range(n_layers) if times[layer] != 1]] = True
    once = [layer for layer in order if times[layer] == 1]
    found[[layer for layer, plain in zip(once, sorted(once), strict=True) if layer != plain]] = True
    for place in plan:
        for run in place:
            found[run.layer] |= len(place) > 1
            for which, (whole, parts) in enumerate(((run.attn, run.heads), (run.mlp, run.neurons))):
                for switch in (*whole, *(off.switch for off in parts)):
                    found[run.layer, which, slice(None) if switch.positions is None else list(switch.positions)] = True
    return found


# --------------------------------------------------------------------------------------------------- running


def _tracked(
    net: Network, prompt: Prompt, request: TakeAttribution, asked: Question, step: Callable[[float], None]
) -> Tensor:
    """[T] the token whose logit is taken apart at each position."""
    import torch

    from stagescope.engine import lens, runner
    from stagescope.engine.outcomes import logits_at_once

    if request.tracked is not None:
        return torch.full((len(prompt.tokens),), request.tracked, device=net.device)
    plan = asked.baseline().plan
    runner.run(net, prompt.begun, prompt.root, [plan], checkpoint=step)
    final = runner.path(prompt.root, plan)[-1].x
    return torch.cat([lens.log_probs(net, rows).argmax(-1) for rows in final.split(logits_at_once(net))])


def _runs(
    net: Network,
    prompt: Prompt,
    plans: Sequence[Plan],
    tracked: Tensor,
    averages: Averages | None,
    step: Callable[[float], None],
) -> list[dict[str, np.ndarray]]:
    """The parts of each plan's logits by the name of their field, [T] and [N, T]; the first plan is the baseline."""
    import torch

    from stagescope.engine import runner

    direction, constant = _directions(net, tracked)

    def effect(written: Tensor) -> Tensor:
        """[T, D] -> [T] float64, before the scale."""
        return (written.to(direction) * direction).sum(-1)

    root = runner.Node(x=prompt.begun.x[0])
    embedding = effect(root.x)
    paths = [runner.path(root, plan) for plan in plans]
    ends = {id(nodes[-1]) for nodes in paths}
    nodes = list({id(node): node for path in paths for node in path[1:]}.values())
    effects: dict[int, tuple[Tensor, Tensor]] = {}  # by id of a node, which the paths hold

    def reduce() -> None:
        for node in nodes:
            if node.attn is not None:
                effects[id(node)] = effect(node.attn), effect(node.mlp)
                node.attn = node.mlp = None

    steps = runner.steps(
        net, prompt.begun, paths, averages, norms=False, contributions=True, keep=lambda node: id(node) in ends
    )
    for _ in steps:
        reduce()
        step(len(effects) / len(nodes))
    reduce()
    base_scale = _scale(net, paths[0][-1].x).to(direction)
    nothing = torch.full_like(base_scale, float("nan"))
    found = []
    for path in paths:
        attn, mlp = (torch.stack([nothing, *(effects[id(node)][which] for node in path[1:])]) for which in (0, 1))
        whole, scale = effect(path[-1].x), _scale(net, path[-1].x).to(direction)
        parts = {
            "logit": constant + whole / scale,
            "constant": constant,
            "embedding": embedding / base_scale,
            "attn": attn / base_scale,
            "mlp": mlp / base_scale,
            "scale": whole / scale - whole / base_scale,
        }
        found.append({name: part.cpu().numpy() for name, part in parts.items()})
    return found


def _directions(net: Network, tracked: Tensor) -> tuple[Tensor, Tensor]:
    """For the token tracked at each position: what a contribution is multiplied with, [T, D] float64, and the biases'
    part of its logit, [T]; both less the mean over the vocabulary."""
    import torch

    from stagescope.engine import blocks

    w_u = blocks.w_u(net)
    if w_u.device.type == "mps":  # it has no fp64
        w_u, tracked = w_u.cpu(), tracked.cpu()
    columns = w_u.split(max(1, VOCABULARY_CHUNK // net.d_model), dim=1)
    mean = sum(some.double().sum(1) for some in columns) / w_u.shape[1]
    unembedded = w_u[:, tracked].T.double() - mean
    # Of x = 0 the norm leaves its bias, and of that the unembedding its own.
    zero = torch.zeros(1, 1, net.d_model, device=net.device, dtype=net.dtype)
    norm_bias = blocks.final_norm(net, zero)[0, 0].to(mean)
    bias = blocks.unembed(replace(net, softcap=None), zero)[0, 0].to(mean)
    direction = unembedded * blocks.norm_weight(net).to(mean)
    if net.norm == "layer":
        direction = direction - direction.mean(-1, keepdim=True)
    return direction, unembedded @ norm_bias + bias[tracked] - bias.mean()


def _scale(net: Network, x: Tensor) -> Tensor:
    """[T, D] -> [T] float64: what the final norm divides by, its epsilon included."""
    from stagescope.engine import blocks

    x = (x.cpu() if x.device.type == "mps" else x).double()
    if net.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    return (x.square().mean(-1) + blocks.norm_eps(net)).sqrt()
