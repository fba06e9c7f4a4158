"""From residual streams to a Reading: the vocabulary readouts of one run and of its baseline, chunked over positions.

Nothing of shape [depths, T, V] is ever held: a chunk of positions passes the unembedding, what is kept is entropy,
KL, top tokens and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stagescope.engine import lens as lenses
from stagescope.engine import runner
from stagescope.engine.blocks import Network, Start
from stagescope.engine.metrics import entropy_bits, kl_nats, rank
from stagescope.engine.protocol import ModelInfo, Read, Reading
from stagescope.engine.runner import Node
from stagescope.engine.schedule import Plan, Schedule, resolve, sync_layers
from stagescope.engine.tokens import Token, texts

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages

# Elements of one chunk's log-probabilities [depths, positions, V]: 64 MiB of fp32. Larger gained nothing on a CPU.
CHUNK = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}


@dataclass(eq=False)
class Prompt:
    """A prompt being looked at: its ids, what its blocks take, and every prefix that has run so far."""

    text: str
    tokens: tuple[Token, ...]
    begun: Start
    root: Node
    # Log-probabilities [N, 1, V] of the baseline at the position last read, so that a toggle costs no baseline lens.
    at_position: dict[tuple[int, str], Tensor] = field(default_factory=dict)


@dataclass
class Columns:
    """The readouts of one run on the engine's side: tensors [N, T], NaN (ids -1) where not computed."""

    entropy_bits: Tensor
    kl_final_nats: Tensor
    tracked_rank: Tensor
    tracked_p: Tensor
    kl_nats: Tensor
    top1_same: Tensor
    top_ids: Tensor  # [N, T, K]
    top_p: Tensor

    @classmethod
    def blank(cls, n_depths: int, n_tokens: int, top: int, device: torch.device) -> Columns:
        def nan(*shape: int) -> Tensor:
            return torch.full(shape, float("nan"), device=device)

        ids = torch.full((n_depths, n_tokens, top), -1, dtype=torch.int64, device=device)
        return cls(*(nan(n_depths, n_tokens) for _ in range(6)), ids, nan(n_depths, n_tokens, top))

    def describe(self, depths: slice, positions: slice, logp: Tensor, tracked: Tensor) -> None:
        """Write what log-probabilities [depths, C, V] show. tracked [C]: the token followed at each position."""
        values, ids = logp.topk(self.top_ids.shape[-1], dim=-1)
        followed = tracked.expand(logp.shape[:2])
        self.entropy_bits[depths, positions] = entropy_bits(logp).float()
        self.top_ids[depths, positions], self.top_p[depths, positions] = ids, values.exp()
        self.tracked_rank[depths, positions] = rank(logp, followed).float()
        self.tracked_p[depths, positions] = logp.gather(-1, followed[..., None])[..., 0].exp()


@torch.inference_mode()
def read(
    net: Network,
    info: ModelInfo,
    prompt: Prompt,
    request: Read,
    schedule: str,
    plan: Plan,
    positions: Sequence[int],
    baseline: Reading | None = None,
    averages: Averages | None = None,
    checkpoint: Callable[[float], None] = lambda fraction: None,
    followed: Tensor | None = None,
) -> Reading:
    """The Reading of `plan` over `positions`, its baseline attached.

    schedule: the canonical text of the plan. baseline: a reading of the empty schedule over the same positions, when
    there is one already: its numbers are not computed again. checkpoint may raise to stop. followed [T]: the tokens to
    track, in place of what the request says.
    """
    base_plan = plain_plan(net.n_layers)
    # Matrix products of a position: about 12 D^2 a block, V D a depth of the lens.
    blocks_share = 12 * net.d_model / (12 * net.d_model + net.d_vocab)
    runner.run(
        net, prompt.begun, prompt.root, [base_plan, plan], averages, lambda done: checkpoint(done * blocks_share)
    )
    base_nodes, nodes = runner.path(prompt.root, base_plan), runner.path(prompt.root, plan)
    n_base, n_depths, n_tokens = len(base_nodes), len(nodes), len(prompt.tokens)
    synced = [None if layer is None else layer + 1 for layer in sync_layers(plan)]
    n_shared = sum(a is b for a, b in zip(base_nodes, nodes, strict=False))  # the first depths, in a trie
    top, is_edit, device = min(request.top, net.d_vocab), plan != base_plan, net.device

    base, edit = (Columns.blank(len(_rows), n_tokens, top, device) for _rows in (base_nodes, nodes))
    tracked = torch.full((n_tokens,), -1, dtype=torch.int64, device=device)
    effect_kl, effect_same, effect_bits = (torch.full((n_tokens,), float("nan"), device=device) for _ in range(3))
    only_output = request.part == "output"
    base_depths = slice(n_base - 1 if only_output else 0, n_base)
    # A shared depth has the baseline's lens, except under the v1 lens, which scales by each run's own last depth.
    inherited = slice(0, n_shared if request.lens == "standard" and not only_output else 0)
    own_depths = slice(n_depths - 1 if only_output else inherited.stop, n_depths)
    known = baseline is not None and set(positions) <= set(baseline.positions) and not only_output
    for chunk in chunks(positions, n_base + n_depths - n_shared, net.d_vocab, device):
        if len(positions) > 1:
            done = (chunk.start - positions[0]) / len(positions)
            checkpoint(blocks_share + (1 - blocks_share) * done)
        keep = len(positions) == 1 and not only_output
        base_logp = _base_log_probs(net, prompt, base_nodes[base_depths], chunk, request.lens, keep)
        last, base_last = nodes[-1].x[chunk], base_nodes[-1].x[chunk]
        base_final = base_logp[-1] if request.lens == "standard" else lenses.log_probs(net, base_last)
        if followed is not None:
            tracked[chunk] = followed[chunk]
        else:
            tracked[chunk] = base_final.argmax(-1) if request.tracked is None else request.tracked
        if not known:
            base.describe(base_depths, chunk, base_logp, tracked[chunk])
            base.kl_final_nats[base_depths, chunk] = kl_nats(base_final, base_logp).float()
        if not is_edit:
            continue
        own, final = None, None
        if own_depths.start < n_depths:
            own = log_probs(net, nodes[own_depths], chunk, request.lens)
            final = own[-1] if request.lens == "standard" else None
        if final is None:  # the v1 lens, or an edit that only drops the last layers
            final = lenses.log_probs(net, last)
        if own is not None:
            edit.describe(own_depths, chunk, own, tracked[chunk])
            edit.kl_final_nats[own_depths, chunk] = kl_nats(final, own).float()
            for row, depth in enumerate(range(own_depths.start, n_depths)):
                if synced[depth] is not None and synced[depth] >= base_depths.start:
                    reference = base_logp[synced[depth] - base_depths.start]
                    edit.kl_nats[depth, chunk] = kl_nats(reference, own[row]).float()
                    edit.top1_same[depth, chunk] = (reference.argmax(-1) == own[row].argmax(-1)).float()
        edit.kl_final_nats[inherited, chunk] = kl_nats(final, base_logp[inherited]).float()
        effect_kl[chunk] = kl_nats(base_final, final).float()
        effect_same[chunk] = (base_final.argmax(-1) == final.argmax(-1)).float()
        effect_bits[chunk] = (entropy_bits(final) - entropy_bits(base_final)).float()

    covered = tuple(positions)
    if known:
        base_reading = baseline
    else:
        same = torch.full((n_base, n_tokens), float("nan"), device=device)
        same[base_depths, list(covered)] = 1.0
        base.kl_nats, base.top1_same = same - 1.0, same
        base_reading = _reading(net, info, prompt, request, "", base_nodes, base, covered, tracked)
    if not is_edit:
        return base_reading if not schedule else replace(base_reading, schedule=schedule)
    reading = _reading(net, info, prompt, request, schedule, nodes, edit, covered, tracked)
    _inherit(reading, base_reading, inherited, synced)
    return replace(
        reading,
        baseline=base_reading,
        baseline_depth=tuple(synced),
        texts={**base_reading.texts, **reading.texts},
        **_against(nodes, base_nodes, synced, n_shared, slice(positions[0], positions[-1] + 1)),
        effect_kl_nats=_numpy(effect_kl),
        effect_top1_same=_numpy(effect_same),
        effect_entropy_bits=_numpy(effect_bits),
    )


def _inherit(reading: Reading, base: Reading, inherited: slice, synced: list[int | None]) -> None:
    """Copy what the shared depths show from the baseline's reading, at the positions the reading covers."""
    at = list(reading.positions)
    for name in ("entropy_bits", "top_ids", "top_p", "tracked_rank", "tracked_p"):
        getattr(reading, name)[inherited, at] = getattr(base, name)[inherited, at]
    comparable = [depth for depth in range(inherited.stop) if synced[depth] is not None]
    reading.kl_nats[np.ix_(comparable, at)] = 0.0
    reading.top1_same[np.ix_(comparable, at)] = 1.0


def plain_plan(n_layers: int) -> Plan:
    """The executed order of the empty schedule."""
    return resolve(Schedule(), n_layers)


def chunks(positions: Sequence[int], n_rows: int, d_vocab: int, device: torch.device) -> list[slice]:
    """The positions, which are contiguous, in slices whose log-probabilities fit CHUNK."""
    elements = CHUNK.get(device.type, CHUNK["cpu"])
    if device.type == "cuda":  # 4 bytes each, in about 6 arrays at once
        elements = min(elements, torch.cuda.mem_get_info(device)[0] // 32)
    size = max(1, elements // (max(1, n_rows) * d_vocab))
    first, last = positions[0], positions[-1] + 1
    return [slice(begin, min(begin + size, last)) for begin in range(first, last, size)]


def log_probs(net: Network, nodes: list[Node], chunk: slice, lens: str) -> Tensor:
    """The lens [len(nodes), C, V] of a run's last depths."""
    x = torch.stack([node.x[chunk] for node in nodes])
    return lenses.log_probs(net, x) if lens == "standard" else lenses.log_probs_v1(net, x, x[-1:])


def _base_log_probs(
    net: Network, prompt: Prompt, nodes: list[Node], chunk: slice, lens: str, keep: bool
) -> Tensor:
    """The baseline's lens [depths, C, V]; kept when it is all depths of the one position wanted."""
    key = (chunk.start, lens)
    if keep and key in prompt.at_position:
        return prompt.at_position[key]
    logp = log_probs(net, nodes, chunk, lens)
    if keep:
        prompt.at_position.clear()
        prompt.at_position[key] = logp
    return logp


def _against(
    nodes: list[Node], base_nodes: list[Node], synced: list[int | None], n_shared: int, positions: slice
) -> dict[str, np.ndarray]:
    """Relative distance and cosine of the residual streams [N, T] where the depths can be compared."""
    rel, cos = (np.full((len(nodes), len(nodes[0].x)), np.nan, np.float32) for _ in range(2))
    for depth, other in enumerate(synced):
        if other is None:
            continue
        if depth < n_shared:
            rel[depth, positions], cos[depth, positions] = 0.0, 1.0
            continue
        rel[depth, positions], cos[depth, positions] = apart(nodes[depth].x[positions], base_nodes[other].x[positions])
    return {"resid_rel": rel, "resid_cos": cos}


def apart(x: Tensor, reference: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """||x - reference|| / ||reference|| and their cosine, [C] each, of residual streams [C, D]."""
    x, reference = x.double(), reference.double()
    relative = (x - reference).norm(dim=-1) / reference.norm(dim=-1)
    return _numpy(relative), _numpy(torch.cosine_similarity(x, reference, dim=-1))


def _reading(
    net: Network,
    info: ModelInfo,
    prompt: Prompt,
    request: Read,
    schedule: str,
    nodes: list[Node],
    columns: Columns,
    covered: tuple[int, ...],
    tracked: Tensor,
) -> Reading:
    """A Reading compared with itself: what an edit says against its baseline is replaced by the caller."""
    n_tokens = len(prompt.tokens)
    resid = torch.stack([node.x.float().norm(dim=-1) for node in nodes])
    absent = torch.full((n_tokens,), float("nan"), device=resid.device)
    attn = torch.stack([absent if node.attn_norm is None else node.attn_norm for node in nodes])
    mlp = torch.stack([absent if node.mlp_norm is None else node.mlp_norm for node in nodes])
    same = np.full(n_tokens, np.nan, np.float32)
    same[list(covered)] = 1.0
    seen = torch.cat([columns.top_ids[:, list(covered)].flatten(), tracked]).unique().tolist()
    return Reading(
        model=info,
        prompt=prompt.text,
        tokens=prompt.tokens,
        schedule=schedule,
        lens=request.lens,
        positions=covered,
        layers=tuple(tuple(run.layer for run in node.place) for node in nodes),
        entropy_bits=_numpy(columns.entropy_bits),
        kl_final_nats=_numpy(columns.kl_final_nats),
        top_ids=columns.top_ids.cpu().numpy().astype(np.int32),
        top_p=_numpy(columns.top_p),
        tracked=tracked.cpu().numpy().astype(np.int32),
        tracked_rank=_numpy(columns.tracked_rank),
        tracked_p=_numpy(columns.tracked_p),
        resid_norm=_numpy(resid),
        attn_norm=_numpy(attn),
        mlp_norm=_numpy(mlp),
        baseline_depth=tuple(range(len(nodes))),
        kl_nats=_numpy(columns.kl_nats),
        resid_rel=np.zeros((len(nodes), n_tokens), np.float32),
        resid_cos=np.ones((len(nodes), n_tokens), np.float32),
        top1_same=_numpy(columns.top1_same),
        effect_kl_nats=same - 1.0,
        effect_top1_same=same,
        effect_entropy_bits=same - 1.0,
        texts=texts(net.tokenizer, [token for token in seen if token >= 0]),
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
