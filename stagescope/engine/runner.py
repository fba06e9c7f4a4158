"""Runs any set of schedules over any prompts, sharing what they share.

Schedules share prefixes: every plan is a path in a prompt's trie whose root is the embedding, a node is one executed prefix
and holds the residual stream after it. Rows about to pass the same layer are one batch: always the LOWEST waiting
layer runs, for all rows that wait for it. A sweep of L drops and L-1 swaps so takes about 2L block calls and half the
layer applications of a loop; a single edit is the same runner with one row, starting from its first change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stagescope.engine import blocks
from stagescope.engine.blocks import Network, PartsOff, Start
from stagescope.engine.keys_values import Kept, Rows
from stagescope.engine.memory import free_cached_memory, is_out_of_memory
from stagescope.engine.norms import contribution_norm
from stagescope.engine.schedule import Off, Place, Plan, Switch

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages

# Tokens that pass a block in one call. On a CPU 512, 1024 and 2048 are equally fast, and 512 (50 ms on the default
# model) lets a reading in soon and a sweep show early rows; a GPU wants many.
TOKENS_AT_ONCE = {"cpu": 512, "cuda": 32768}


@dataclass(eq=False)
class Node:
    """One executed prefix of a plan. `x` is None until it has run, or after it was let go."""

    place: Place = ()
    parent: Node | None = None
    children: dict[Place, Node] = field(default_factory=dict)
    x: Tensor | None = None  # [T, D] residual stream after the place
    attn_norm: Tensor | None = None  # [T] contribution of the place's attention
    mlp_norm: Tensor | None = None
    attn: Tensor | None = None  # [T, D] the contribution itself, where `steps` was asked for it
    mlp: Tensor | None = None
    kept: Kept = field(default_factory=dict)  # keys and values of the positions so far, where the prompt is continued
    used: int = 0  # when a reading last went through it, for letting go of the oldest


def path(root: Node, plan: Plan) -> list[Node]:
    """The nodes of a plan from the root on, len(plan) + 1 of them, made where they were missing."""
    nodes = [root]
    for place in plan:
        here = nodes[-1]
        if place not in here.children:
            here.children[place] = Node(place, here)
        nodes.append(here.children[place])
    return nodes


def run(
    net: Network,
    begun: Start,
    root: Node,
    plans: Sequence[Plan],
    averages: Averages | None = None,
    checkpoint: Callable[[float], None] = lambda fraction: None,
) -> None:
    """Fill in x and the norms of every node on the plans' paths, and keep them all.

    begun: the prompt. averages: needed where a plan holds a mean replacement. checkpoint is called before every block
    call with the fraction done; it may raise to stop: what has run stays in the trie.
    """
    paths = [path(root, plan) for plan in plans]
    wanted = len({id(node) for nodes in paths for node in nodes if node.x is None})
    done = 0
    for n_rows in steps(net, begun, paths, averages):
        checkpoint(min(done / wanted, 1.0))  # a batch that did not fit is counted twice
        done += n_rows


def steps(
    net: Network,
    begun: Start,
    paths: Sequence[Sequence[Node]],
    averages: Averages | None = None,
    *,
    norms: bool = True,
    contributions: bool = False,
    keep: Callable[[Node], bool] = lambda node: True,
) -> Iterator[int]:
    """Run what has not run on the paths, a batch of rows at a time; before each the number of its rows is given.

    The paths may lie in several tries, one a prompt, padded to the length of `begun`. A residual stream that is not
    to be kept is let go as soon as nothing waits for it. When memory runs out the batches are halved; a single row
    that does not fit raises what torch raised.
    """
    wanted = {id(node): node for nodes in paths for node in nodes if node.x is None}
    waiting = [node for node in wanted.values() if node.parent.x is not None]
    children = Counter(id(node.parent) for node in wanted.values())  # that still have to run
    at_once = rows_at_once(net, begun.x.shape[1], begun.first)
    while waiting:
        layers = min(_layers(node.place) for node in waiting)
        rows = [node for node in waiting if _layers(node.place) == layers][:at_once]
        yield len(rows)
        fitted = True
        try:
            _pass(net, begun, rows, averages, norms, contributions)
        except (MemoryError, RuntimeError) as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
            fitted = False
        if not fitted:  # here the error is gone, and what it held
            at_once = len(rows) // 2
            free_cached_memory()
            continue
        ran = {id(node) for node in rows}
        waiting = [node for node in waiting if id(node) not in ran]
        waiting += [child for node in rows for child in node.children.values() if id(child) in wanted]
        for node in rows:
            children[id(node.parent)] -= 1
            if not children[id(node.parent)] and not keep(node.parent):
                node.parent.x = None


def rows_at_once(net: Network, n_tokens: int, n_before: int = 0) -> int:
    """How many rows of n_tokens pass a block together: at most half of net.memory goes into its intermediates.

    n_before: positions whose keys and values are put beside them.
    """
    # Eager attention holds its scores three times, the MLP its hidden layer three times, and eight streams live; keys and
    # values of before are put together, and again for every head.
    scores = 3 * net.n_heads * n_tokens * (n_before + n_tokens)
    row = net.dtype.itemsize * (n_tokens * (8 * net.d_model + 3 * net.d_mlp) + scores + 4 * n_before * net.d_model)
    return max(1, min(TOKENS_AT_ONCE[net.device.type] // n_tokens, net.memory // 2 // row))


def _layers(place: Place) -> tuple[int, ...]:
    return tuple(run_.layer for run_ in place)


def _pass(
    net: Network, begun: Start, rows: list[Node], averages: Averages | None, norms: bool, contributions: bool
) -> None:
    """Run the rows' common layers as one batch. A group's members read the same input; their outputs are averaged."""
    x = torch.stack([node.parent.x for node in rows])
    after, attn, mlp = 0.0, 0.0, 0.0
    layers = _layers(rows[0].place)
    for member, layer in enumerate(layers):
        runs = [node.place[member] for node in rows]
        here = (x, begun.first)
        keep_attn, fill_attn = _switches([run_.attn for run_ in runs], *here, averages and averages.attn[layer])
        keep_mlp, fill_mlp = _switches([run_.mlp for run_ in runs], *here, averages and averages.mlp[layer])
        heads_off = _parts_off([run_.heads for run_ in runs], *here, averages and averages.heads[layer])
        neurons_off = _parts_off([run_.neurons for run_ in runs], *here, averages and averages.neurons[layer])
        kept = None if begun.past is None else Rows([node.kept for node in rows], layer, begun.past)
        passed = blocks.block(
            net, begun, layer, x, keep_attn=keep_attn, keep_mlp=keep_mlp, fill_attn=fill_attn, fill_mlp=fill_mlp,
            heads_off=heads_off, neurons_off=neurons_off, kept=kept,
        )  # fmt: skip
        after, attn, mlp = after + passed.x, attn + passed.attn, mlp + passed.mlp
    if len(layers) > 1:
        after, attn, mlp = after / len(layers), attn / len(layers), mlp / len(layers)
    for row, node in enumerate(rows):
        node.x = after[row]
    if norms:
        attn_norm, mlp_norm = contribution_norm(attn, net.norm), contribution_norm(mlp, net.norm)
        for row, node in enumerate(rows):
            node.attn_norm, node.mlp_norm = attn_norm[row], mlp_norm[row]
    if contributions:
        for row, node in enumerate(rows):
            node.attn, node.mlp = attn[row], mlp[row]


def _switches(
    switches: list[tuple[Switch, ...]], x: Tensor, first: int, means: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Masks for one sublayer of a batch x [B, T, D]: keep [B, T, 1] and fill [B, T, D], None where nothing is off.

    first: the position of x[:, 0]. means [2, D]: the sublayer's mean contribution at position 0 (the attention sink,
    apart) and at all others.
    """
    if not any(switches):
        return None, None
    keep = torch.ones(x.shape[0], x.shape[1], 1, dtype=torch.bool, device=x.device)
    fill = None
    for row, row_switches in enumerate(switches):
        for switch in row_switches:
            where = _here(switch, x, first)
            keep[row, where] = False
            if switch.kind == "mean":
                fill = torch.zeros_like(x) if fill is None else fill
                fill[row, where] = _mean_rows(means, x, first).to(x)[where]
    return keep, fill


def _parts_off(offs: list[tuple[Off, ...]], x: Tensor, first: int, means: Tensor | None) -> list[PartsOff]:
    """What is replaced of the heads or neurons of a batch x [B, T, D]. first, means [2, width]: as in _switches."""
    if not any(offs):
        return []
    uses_means = any(off.switch.kind == "mean" for row_offs in offs for off in row_offs)
    mean = _mean_rows(means, x, first) if uses_means else None
    found = []
    for row, row_offs in enumerate(offs):
        for off in row_offs:
            where = _here(off.switch, x, first)
            if where != []:
                at = None if isinstance(where, slice) else where
                found.append(PartsOff(row, off.which, at, mean if off.switch.kind == "mean" else None))
    return found


def _here(switch: Switch, x: Tensor, first: int) -> slice | list[int]:
    """Which of the positions of x [B, T, D], the first of them `first`, a switch names."""
    if switch.positions is None:
        return slice(None)
    return [position - first for position in switch.positions if first <= position < first + x.shape[1]]


def _mean_rows(means: Tensor, x: Tensor, first: int) -> Tensor:
    """[T, width] of the positions of x [B, T, D]."""
    is_first = torch.arange(first, first + x.shape[1], device=means.device) == 0
    return torch.where(is_first[:, None], means[:1], means[1:])


def let_go(root: Node, keep: Sequence[Node], budget_bytes: int) -> None:
    """Free the residuals of the prefixes read longest ago until the rest fits the budget.

    `keep` (the baseline, the reading just made) is never freed; a node whose parent is freed stays usable.
    """
    held = [node for node in _walk(root) if node.x is not None]
    kept = {id(node) for node in keep}
    total = sum(_bytes(node) for node in held)
    for node in sorted(held, key=lambda node: node.used):
        if total <= budget_bytes:
            break
        if id(node) not in kept and node is not root:
            total -= _bytes(node)
            node.x = node.attn_norm = node.mlp_norm = None
    _prune(root, kept)


def _bytes(node: Node) -> int:
    return node.x.numel() * node.x.element_size()


def _walk(root: Node) -> Iterator[Node]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())


def _prune(root: Node, kept: set[int]) -> None:
    """Take away branches that hold nothing, leaves first."""
    for node in reversed(list(_walk(root))):
        node.children = {
            place: child
            for place, child in node.children.items()
            if child.x is not None or child.children or id(child) in kept
        }
