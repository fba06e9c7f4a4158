"""What many schedules do to the output of some prompts: one outcome a schedule and prompt, against the baseline.

All plans run in the runner's tries, a wave at a time: plans sorted so that those with a long common prefix are
neighbours, as many in a wave as pass a block in one call. So memory is flat in the number of schedules: the baselines'
residual streams, (L+1) T D, and one wave's. The outputs of a wave pass the unembedding in chunks; nothing of shape
[schedules, T, V] is ever held.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stagescope.engine import blocks, lens, runner
from stagescope.engine.blocks import Network, Start
from stagescope.engine.memory import free_cached_memory, is_out_of_memory
from stagescope.engine.metrics import entropy_bits, kl_nats, rank
from stagescope.engine.protocol import MEASURES
from stagescope.engine.runner import Node
from stagescope.engine.schedule import Place, Plan, Schedule, resolve

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages

# Rows of logits made by one product, and how many of them are measured together. On a CPU the unembedding of the
# default model takes 0.9 ms a row with 256 and 1.8 ms with 16; temporaries of 64 rows come from memory already mapped,
# those of 256 cost three times as much a row.
LOGITS, MEASURED = {"cpu": 256, "cuda": 2048}, {"cpu": 64, "cuda": 2048}
WAVE_ROWS = 16  # of long prompts, where memory allows: enough that a baseline made anew for a wave costs little
# Of net.memory a block call takes half at most (runner.py), and each of these an eighth: a wave's residual streams, one
# product's logits, log-probabilities of baselines run together, residual streams kept from one call to the next.
SHARES = 8
PADDING = 1.25  # prompts run together when the longest is at most so much longer than the shortest


@dataclass(frozen=True)
class Task:
    """One prompt and what is to run on it."""

    ids: tuple[int, ...]
    plans: tuple[Plan, ...]
    tracked: int | None = None  # token followed everywhere; None: the baseline's top-1 at each position
    positions: tuple[int, ...] | None = None  # what is measured; None: every position


@dataclass(frozen=True, eq=False)
class Base:
    """A task's baseline at each position: float32 [T], NaN where not measured (tracked: int32, -1)."""

    task: int
    entropy_bits: np.ndarray
    loss_nats: np.ndarray  # of the true next token; NaN at the last position
    tracked: np.ndarray
    tracked_rank: np.ndarray
    tracked_p: np.ndarray


@dataclass(frozen=True, eq=False)
class Outcome:
    """One plan of a task: values [6, T] float32 in the order of MEASURES, NaN where not measured or no number."""

    task: int
    plan: int
    values: np.ndarray


class _Job(NamedTuple):
    """One distinct plan of one task."""

    task: int
    plan: Plan
    which: list[int]  # the task's plans that are this one


class Baseline(NamedTuple):
    """The baselines of prompts run together, every depth of them."""

    begun: Start
    paths: list[list[Node]]  # one a prompt


Kept = dict[tuple[tuple[int, ...], ...], Baseline]  # by the ids of the prompts run together


@torch.inference_mode()
def outcomes(
    net: Network, tasks: Sequence[Task], averages: Averages | None = None, kept: Kept | None = None
) -> Iterator[float | Base | Outcome]:
    """The fraction done before every block call and every product with the unembedding, and results as they come.

    averages: needed where a plan holds a mean replacement. kept: baselines of the call before; what is used again is
    not run again, and those of this call take its place where they fit into their share of memory. Plans are resolved for their
    task's number of tokens. Raises what torch raises when a single row does not fit into memory.
    """
    jobs = [_jobs(index, task) for index, task in enumerate(tasks)]
    total = sum(_work(net, jobs[index], task) for index, task in enumerate(tasks))
    done = 0.0
    before = dict(kept or {})
    if kept is not None:
        kept.clear()
    for group in _groups([len(task.ids) for task in tasks], runner.TOKENS_AT_ONCE[net.device.type]):
        ids = tuple(tasks[index].ids for index in group)
        baseline = before.pop(ids, None) or _baseline(net, ids)
        if kept is not None and sum(map(_bytes, (*kept.values(), baseline))) <= net.memory // SHARES:
            kept[ids] = baseline
        mine = {index: tasks[index] for index in group}
        for step in _group(net, baseline, mine, [job for index in group for job in jobs[index]], averages):
            if not isinstance(step, _Cost):
                yield step
                continue
            yield min(done / total, 1.0)
            done += step.products


class _Cost(NamedTuple):
    products: float  # about to be done, in multiply-adds


def _baseline(net: Network, prompts: tuple[tuple[int, ...], ...]) -> Baseline:
    """Nothing of it has run yet but the embedding, of prompts padded to the longest."""
    length = max(map(len, prompts))
    begun = blocks.start(net, torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in prompts]))
    plain = resolve(Schedule(), net.n_layers)
    return Baseline(begun, [runner.path(Node(x=x), plain) for x in begun.x])


def _bytes(baseline: Baseline) -> int:
    x = baseline.begun.x
    return x.numel() * x.element_size() * len(baseline.paths[0])


def _group(
    net: Network, baseline: Baseline, tasks: dict[int, Task], jobs: list[_Job], averages: Averages | None
) -> Iterator[_Cost | Base | Outcome]:
    """Tasks whose baselines are run together."""
    begun, length = baseline.begun, baseline.begun.x.shape[1]
    bases = dict(zip(tasks, baseline.paths, strict=True))
    of_base = {id(node) for nodes in baseline.paths for node in nodes}
    rows = min(WAVE_ROWS, net.memory // SHARES // (length * net.d_model * net.dtype.itemsize))
    rows = max(rows, runner.rows_at_once(net, length))
    references: dict[int, _Reference] = {}
    for wave in _waves(jobs, rows) or [[]]:
        paths = [runner.path(bases[job.task][0], job.plan) for job in wave]
        ends = [nodes[-1] for nodes in paths]
        kept = of_base | {id(node) for node in ends}
        # The baselines go with the first wave: by themselves they would take a block call a layer.
        yield from _steps(net, begun, [*baseline.paths, *paths], averages, kept)
        if not references:
            measured = sum(len(task.ids if task.positions is None else task.positions) for task in tasks.values())
            keep = measured * net.d_vocab * 8 <= net.memory // SHARES
            for index, task in tasks.items():
                references[index] = _Reference(net, task, bases[index][-1].x, min(rows, len(task.plans)), keep)
                yield from references[index].measure(index)
        for index in dict.fromkeys(job.task for job in wave):
            changed = []
            for job, end in zip(wave, ends, strict=True):
                if job.task == index and end is bases[index][-1]:  # the plain order, however it is written
                    yield from (Outcome(index, number, references[index].unchanged()) for number in job.which)
                elif job.task == index:
                    changed.append((job, end.x))
            values = yield from _measure(net, references[index], [x for _, x in changed])
            for (job, _), row in zip(changed, values, strict=True):
                yield from (Outcome(index, number, row) for number in job.which)
        for end in ends:  # let go of the wave: not its cycles of nodes, which wait for the collector, but what they hold
            if id(end) not in of_base:
                end.x = None
        for nodes in baseline.paths:
            for node in nodes:
                node.children = {place: child for place, child in node.children.items() if id(child) in of_base}


def _steps(net: Network, begun: Start, paths: list[list[Node]], averages: Averages | None, kept: set[int]):
    per_row = begun.x.shape[1] * _block_products(net)
    keep = lambda node: id(node) in kept  # noqa: E731
    for n_rows in runner.steps(net, begun, paths, averages, norms=False, keep=keep):
        yield _Cost(n_rows * per_row)


# ------------------------------------------------------------------------------------------- what runs when


def _jobs(index: int, task: Task) -> list[_Job]:
    """The task's distinct plans, sorted as a depth-first walk of their trie meets them, late departures first."""
    order: dict[Place, int] = {}
    which: dict[tuple[int, ...], _Job] = {}
    for number, plan in enumerate(task.plans):
        key = tuple(order.setdefault(place, len(order)) for place in plan)
        which.setdefault(key, _Job(index, plan, [])).which.append(number)
    layers = {number: tuple(run.layer for run in place) for place, number in order.items()}
    return [which[key] for key in sorted(which, key=lambda key: [(layers[number], number) for number in key])]


def _work(net: Network, jobs: list[_Job], task: Task) -> float:
    """Multiply-adds of a task: what each plan runs beyond its neighbour's prefix, and the unembedding."""
    places, before = 0, resolve(Schedule(), net.n_layers)
    for job in jobs:
        shared = next((depth for depth, (a, b) in enumerate(zip(job.plan, before)) if a != b), len(before))  # noqa: B905
        places += max(len(job.plan) - shared, 0)
        before = job.plan
    measured = len(task.ids) if task.positions is None else len(task.positions)
    blocks_ = (places + net.n_layers) * len(task.ids) * _block_products(net)
    return blocks_ + (len(jobs) + 1) * measured * net.d_model * net.d_vocab


def _block_products(net: Network) -> float:
    """Multiply-adds of one token in one block, about."""
    return net.d_model * (4 * net.d_model + (3 if net.gated else 2) * net.d_mlp)


def _groups(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Prompts to be padded together: of similar length, and no more than pass a block in one call.

    The group of the first prompt, which somebody looks at, comes first.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        group = groups[-1] if groups else []
        fits = (len(group) + 1) * lengths[index] <= most_tokens
        if group and fits and lengths[index] <= PADDING * lengths[group[0]]:
            group.append(index)
        else:
            groups.append([index])
    return sorted((sorted(group) for group in groups), key=min)


def _waves(jobs: list[_Job], size: int) -> list[list[_Job]]:
    return [jobs[first : first + size] for first in range(0, len(jobs), size)]


# ----------------------------------------------------------------------------------------------- the measures


class _Chunk(NamedTuple):
    """The baseline at C positions of a task."""

    at: Tensor  # [C] the positions
    logp: Tensor  # [C, V] log-probabilities
    p: Tensor
    top: Tensor  # [C] argmax
    bits: Tensor  # [C] entropy
    target: Tensor  # [C] the true next token
    loss: Tensor  # [C] nats; NaN at the prompt's last position
    tracked: Tensor  # [C] the token followed


class _Reference:
    """A task's baseline, a chunk of positions at a time: kept where that is little, made anew for each wave else."""

    def __init__(self, net: Network, task: Task, x: Tensor, most_rows: int, keep: bool):
        """x [T, D]: the baseline's last residual stream. most_rows: schedules measured together at most."""
        self.net, self.task, self.x = net, task, x
        at = range(len(task.ids)) if task.positions is None else task.positions
        size = max(1, logits_at_once(net) // max(most_rows, 1))
        self.positions = torch.tensor(list(at), device=x.device).split(size)
        self.kept: dict[int, _Chunk] | None = {} if keep else None

    def measure(self, index: int) -> Iterator[_Cost | Base]:
        columns = [torch.full((len(self.task.ids),), float("nan")) for _ in range(4)]
        tracked = torch.full((len(self.task.ids),), -1)
        for chunk in self.chunks():
            yield _Cost(len(chunk.at) * self.net.d_model * self.net.d_vocab)
            at = chunk.at.cpu()
            tracked[at] = chunk.tracked.cpu()
            p = chunk.p.gather(-1, chunk.tracked[:, None])[:, 0]
            seen = (chunk.bits, chunk.loss, rank(chunk.logp, chunk.tracked), p)
            for column, values in zip(columns, seen, strict=True):
                column[at] = values.float().cpu()
        bits, loss, ranks, p = (column.numpy() for column in columns)
        self.found = Base(index, bits, loss, tracked.numpy().astype(np.int32), ranks, p)
        yield self.found

    def unchanged(self) -> np.ndarray:
        """The measures [6, T] of the baseline against itself."""
        zero = self.found.entropy_bits * 0  # NaN where not measured
        return np.stack([zero, zero + 1, zero, self.found.loss_nats * 0, self.found.tracked_rank, self.found.tracked_p])

    def chunks(self) -> Iterator[_Chunk]:
        for number, at in enumerate(self.positions):
            chunk = (self.kept or {}).get(number) or self._chunk(at)
            if self.kept is not None:
                self.kept[number] = chunk
            yield chunk

    def _chunk(self, at: Tensor) -> _Chunk:
        logp = lens.log_probs(self.net, self.x[at])
        target = torch.tensor([*self.task.ids[1:], 0], device=at.device)[at]
        loss = -logp.gather(-1, target[:, None])[:, 0]
        loss[at == len(self.task.ids) - 1] = float("nan")
        top = logp.argmax(-1)
        tracked = top if self.task.tracked is None else torch.full_like(top, self.task.tracked)
        return _Chunk(at, logp, logp.exp(), top, entropy_bits(logp), target, loss, tracked)


def _measure(net: Network, reference: _Reference, ends: list[Tensor]) -> Generator[_Cost, None, np.ndarray]:
    """values [len(ends), 6, T] of last residual streams [T, D]."""
    values = torch.full((len(ends), len(MEASURES), len(reference.task.ids)), float("nan"))
    at_once = logits_at_once(net)
    for chunk in reference.chunks():
        first = 0
        while first < len(ends):
            n = max(1, at_once // len(chunk.at))
            some = ends[first : first + n]
            yield _Cost(len(some) * len(chunk.at) * net.d_model * net.d_vocab)
            found = None
            try:
                found = _compare(net, chunk, torch.stack([x[chunk.at] for x in some]))
            except (MemoryError, RuntimeError) as error:
                if n == 1 or not is_out_of_memory(error):
                    raise
            if found is None:  # here the error is gone, and what it held
                at_once //= 2
                free_cached_memory()
                continue
            values[first : first + n, :, chunk.at.cpu()] = found.cpu()
            first += n
    return values.numpy()


def _compare(net: Network, chunk: _Chunk, x: Tensor) -> Tensor:
    """The measures [R, 6, C] of last residual streams x [R, C, D], float32."""
    logits = blocks.unembed(net, blocks.final_norm(net, x))
    found = []
    for rows in logits.split(max(1, MEASURED[net.device.type] // len(chunk.at))):
        logq = rows.log_softmax(-1)
        target, tracked = (ids.expand(logq.shape[:-1])[..., None] for ids in (chunk.target, chunk.tracked))
        columns = (
            kl_nats(chunk.logp, logq, chunk.p),
            logq.argmax(-1) == chunk.top,
            entropy_bits(logq) - chunk.bits,
            -logq.gather(-1, target)[..., 0] - chunk.loss,
            rank(logq, tracked[..., 0]),
            logq.gather(-1, tracked)[..., 0].exp(),
        )
        found.append(torch.stack([column.float() for column in columns], 1))
    values = torch.cat(found)
    return values.masked_fill(~values[:, :1].isfinite(), float("nan"))  # logits that are no numbers


def logits_at_once(net: Network) -> int:
    """Rows of logits made by one product."""
    return max(1, min(LOGITS[net.device.type], net.memory // SHARES // (4 * net.d_vocab)))
