"""One plain run of a document, or of several of one length: what every layer and depth of it shows."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stagescope.engine import attention, blocks, lens
from stagescope.engine.blocks import Network
from stagescope.engine.metrics import entropy_bits, kl_nats
from stagescope.engine.norms import contribution_norm
from stagescope.engine.outcomes import logits_at_once
from stagescope.engine.protocol import LENSES, OF_DEPTHS, OF_LAYERS

OF_TOKENS = len(OF_DEPTHS) + len(OF_LAYERS) - attention.SUMS  # measures with a value a token: of depths, then norms
PER_LENS = len(OF_DEPTHS) // len(LENSES)
# Rows of logits made by one product on a CPU. The packed unembedding of the default model takes 0.6 ms a row from 24
# rows on, and with both lenses these are a step of 30 ms, after which a reading may come in.
CPU_ROWS = 24
MEASURED = {"cpu": 4, "cuda": 2048}  # rows measured together: 4 stay in the cache, 64 took 1.5 times as long


@dataclass(eq=False)
class Found:
    """What one document shows, filled in as it runs: NaN where not measured yet. n of its T tokens are scored."""

    values: np.ndarray  # [N, 12, n] float32; norms are NaN in the last row
    attention: np.ndarray  # [L, H, 13] sums of attention.reduced
    triples: np.ndarray  # [13] how many weights are in each sum
    uniform: np.ndarray  # [13] the sums of even attention


@torch.inference_mode()
def run(
    net: Network, prompts: Sequence[tuple[int, ...]], first: int, lenses: Sequence[str]
) -> Generator[tuple[float, list[Found]], None, list[Found]]:
    """Run prompts of T ids each; gives the fraction done and what was found so far after every step.

    first: how many tokens of each, a prefix, are left out of the lens measures. Norms and attention leave out position
    0 always. Raises what torch raises when it does not fit into memory.
    """
    n_tokens, n_layers = len(prompts[0]), net.n_layers
    begun, which = blocks.start(net, torch.tensor(prompts)), attention.triples(n_tokens, net.device)
    values = np.full((n_layers + 1, OF_TOKENS, len(prompts), n_tokens - first), np.nan, np.float32)
    found = [_blank(net, values[:, :, row], which) for row in range(len(prompts))]
    # Multiply-adds of a token: about 12 D^2 a block, D V a depth of the lens.
    of_blocks, of_lens = 12 * net.d_model * n_layers, net.d_vocab * (n_layers + 1) if lenses else 0
    share = of_blocks / (of_blocks + of_lens)
    x, streams = begun.x, [_scored(begun.x, first)] if lenses else []
    for layer in range(n_layers):
        passed, sums = attention.block(net, begun, layer, x, which)
        values[layer, len(OF_DEPTHS) :, :, 1 - first :] = _norms(net, x, passed)[..., 1:].cpu().numpy()
        for one, heads in zip(found, () if sums is None else sums.cpu().numpy(), strict=sums is not None):
            one.attention[layer] = heads
        x = passed.x
        if lenses:
            streams.append(_scored(x, first))
        yield share * (layer + 1) / n_layers, found
    del passed, begun
    flat = values.reshape(n_layers + 1, OF_TOKENS, -1)
    done = 0
    for depths, columns, measured in _lens(net, streams, lenses) if lenses else ():
        flat[depths, : len(OF_DEPTHS), columns] = measured.movedim(0, 1).cpu().numpy()
        done += measured[0].numel()
        yield share + (1 - share) * done / flat[:, 0].size, found
    return found


def _blank(net: Network, values: np.ndarray, which: Tensor) -> Found:
    heads = np.full((net.n_layers, net.n_heads, attention.SUMS), np.nan)
    counts, even = which.sum((0, 1)), attention.uniform(which)
    return Found(values, heads, *(sums.cpu().numpy().astype(np.float64) for sums in (counts, even)))


def _scored(x: Tensor, first: int) -> Tensor:
    """[B, T, D] -> [B (T - first), D]"""
    return x[:, first:].reshape(-1, x.shape[-1])


def _norms(net: Network, x: Tensor, passed: blocks.Passed) -> Tensor:
    """[6, B, T] in the order of OF_LAYERS: attn, mlp, resid, attn_rel, mlp_rel, attn_mlp_ratio."""
    attn, mlp = (contribution_norm(part, net.norm) for part in (passed.attn, passed.mlp))
    resid = x.float().norm(dim=-1)
    return torch.stack([attn, mlp, resid, attn / resid, mlp / resid, attn / mlp])


# ------------------------------------------------------------------------------------------------ the lens


class _Final(NamedTuple):
    """The output at C positions."""

    logp: Tensor  # [C, V]
    p: Tensor
    top: Tensor  # [C]


def _lens(net: Network, streams: list[Tensor], lenses: Sequence[str]) -> Iterator[tuple[slice, slice, Tensor]]:
    """(depths, columns, the measures OF_DEPTHS [6, depths, columns]) of streams, N of [R, D]: the last depth, which is
    the output, then the others; a few rows of logits at a time."""
    n_columns, last = len(streams[0]), len(streams) - 1
    size = min(CPU_ROWS, logits_at_once(net)) if net.device.type == "cpu" else logits_at_once(net)
    offset = _offset(net)
    for start in range(0, n_columns, size):
        columns = slice(start, min(start + size, n_columns))
        x_final, final = streams[last][columns], None
        n = max(1, size // len(x_final))
        for depths in (slice(last, last + 1), *(slice(depth, min(depth + n, last)) for depth in range(0, last, n))):
            x = torch.stack([stream[columns] for stream in streams[depths]])
            logits = blocks.unembed(net, blocks.final_norm(net, x))  # [depths, C, V]
            if final is None:
                logp = logits[0].log_softmax(-1)
                final = _Final(logp, logp.exp(), logp.argmax(-1))
            measured = torch.full((len(OF_DEPTHS), *x.shape[:2]), float("nan"), device=x.device)
            if "standard" in lenses:
                measured[:PER_LENS] = _compared(logits, final)
            if "v1" in lenses and net.softcap:  # what is capped has no scale that could be changed
                measured[PER_LENS:] = _compared(lens.log_probs_v1(net, x, x_final), final)
            elif "v1" in lenses:
                ratio = _scale(net, x) / _scale(net, x_final)
                measured[PER_LENS:] = _compared(logits, final, offset, ratio)
            yield depths, columns, measured


def _offset(net: Network) -> Tensor | None:
    """What the v1 lens leaves out, W_U beta + b_U [V]: what is made of x = 0. None where that is zero.

    The standard lens is W_U (gain (x - mean) / sigma_l + beta) + b_U, the v1 lens W_U gain (x - mean) / sigma_L. So the
    second is (the first - offset) sigma_l / sigma_L, at no product of its own. In bf16 both routes are as far from fp32:
    entropies by 0.012 bits on average and 0.11 at most here, by 0.010 and 0.11 with a product (default model).
    """
    zero = torch.zeros(1, 1, net.d_model, device=net.device, dtype=net.dtype)
    offset = blocks.unembed(net, blocks.final_norm(net, zero))
    return offset[0, 0] if offset.any() else None


def _scale(net: Network, x: Tensor) -> Tensor:
    """[..., D] -> [..., 1]: what the final norm divides by."""
    x = x.float()
    if net.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    return (x.square().mean(-1, keepdim=True) + blocks.norm_eps(net)).sqrt()


def _compared(logits: Tensor, final: _Final, offset: Tensor | None = None, ratio: Tensor | None = None) -> Tensor:
    """Entropy in bits, D_KL(final || lens) in nats and whether the top token is the same: [3, n, C] of
    (logits [n, C, V] - offset [V]) ratio [n, C, 1]. NaN where logits are no numbers."""
    n, n_columns = logits.shape[:2]
    found = torch.empty(PER_LENS, n, n_columns, device=logits.device)
    step = MEASURED.get(logits.device.type, MEASURED["cpu"])
    for depth in range(n):
        for start in range(0, n_columns, step):
            at = slice(start, start + step)
            rows = logits[depth, at]
            if offset is not None:
                rows = rows - offset
            if ratio is not None:
                rows = rows * ratio[depth, at]
            logq = rows.log_softmax(-1)
            kl = kl_nats(final.logp[at], logq, final.p[at])
            same = logq.argmax(-1) == final.top[at]
            columns = torch.stack([column.float() for column in (entropy_bits(logq), kl, same)])
            found[:, depth, at] = columns.masked_fill(~kl.isfinite(), float("nan"))
    return found
