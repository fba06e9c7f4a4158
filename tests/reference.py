"""The measures of stagescope once more, from their definitions, simple and slow: what tests the engine.

Plain torch and transformers: no part of stagescope, no hooks. A model is an `AutoModelForCausalLM` with
`attn_implementation="eager"`, float32, in eval mode. One prompt at a time: ids [T], residuals [T, D].
Everything after the residual stream (final norm, unembedding, logarithms, moments) is float64.

Symbols: T positions, V vocabulary, L layers, M MLP width, D model width.
Families: gpt2, gpt_neox, phi, llama, qwen2, gemma3_text, olmo2.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LAYER_NORM = {"gpt2", "gpt_neox", "phi"}  # the others have RMSNorm
GATED = {"llama", "qwen2", "gemma3_text", "olmo2"}


class Place(NamedTuple):
    """One executed block. A sublayer is on, off, or on at the positions of a [T] mask; where it is off it
    contributes zero, or the [D] vector (or [T, D], one a position) given as its `_mean`. Heads and neurons named are
    off at every position: nothing is read of what they write."""

    layer: int
    attn_on: bool | Tensor = True
    mlp_on: bool | Tensor = True
    attn_mean: Tensor | None = None
    mlp_mean: Tensor | None = None
    heads_off: tuple[int, ...] = ()
    neurons_off: tuple[int, ...] = ()


Item = Place | tuple | list  # a list of places is a parallel group: the mean of its blocks' outputs


@dataclass
class RunResult:
    residuals: list[Tensor]  # len(order) + 1 of [T, D] float32: the embedding, then after each item
    attn: list[Tensor]       # len(order) of [T, D]: what attention added to the residual (a group: the mean)
    mlp: list[Tensor]        # the same for the MLP; residuals[i] + attn[i] + mlp[i] = residuals[i + 1]
    logits: Tensor           # [T, V] float32, by the model's own final norm and unembedding


# --- where each family keeps its parts ---


def family(model) -> str:
    return model.config.model_type


def parallel(model) -> bool:
    """Attention and MLP of a block read the same residual."""
    return family(model) == "phi" or getattr(model.config, "use_parallel_residual", False)


def blocks(model):
    match family(model):
        case "gpt2": return model.transformer.h
        case "gpt_neox": return model.gpt_neox.layers
        case _: return model.model.layers


def final_norm(model):
    match family(model):
        case "gpt2": return model.transformer.ln_f
        case "gpt_neox": return model.gpt_neox.final_layer_norm
        case "phi": return model.model.final_layernorm
        case _: return model.model.norm


def final_gain(model) -> Tensor:
    """[D] float64: what the final norm multiplies by. Gemma stores the gain less one."""
    weight = final_norm(model).weight.double()
    return 1 + weight if family(model) == "gemma3_text" else weight


def epsilon(model) -> float:
    norm = final_norm(model)
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps


def softcap(model) -> float | None:
    return getattr(model.config, "final_logit_softcapping", None)


def embed(model, ids: Tensor) -> Tensor:
    """[T] -> [T, D]: tokens, with gpt2's positions or Gemma's scale."""
    match family(model):
        case "gpt2": return model.transformer.wte(ids) + model.transformer.wpe(torch.arange(len(ids)))
        case "gpt_neox": return model.gpt_neox.embed_in(ids)
        case _: return model.model.embed_tokens(ids)


def w_out_stored(model, layer: int) -> Tensor:
    """[M, D]: what each neuron of the layer writes, a view of the model's own weights."""
    mlp = blocks(model)[layer].mlp
    match family(model):
        case "gpt2": return mlp.c_proj.weight  # Conv1D keeps [in, out]
        case "gpt_neox": return mlp.dense_4h_to_h.weight.T
        case "phi": return mlp.fc2.weight.T
        case _: return mlp.down_proj.weight.T


def w_out(model, layer: int) -> Tensor:
    """The same in float64, a copy."""
    return w_out_stored(model, layer).detach().double()


def w_o_stored(model, layer: int) -> Tensor:
    """[H * d_head, D]: what each head of the layer writes, head after head, a view of the model's own weights."""
    block = blocks(model)[layer]
    match family(model):
        case "gpt2": return block.attn.c_proj.weight
        case "gpt_neox": return block.attention.dense.weight.T
        case "phi": return block.self_attn.dense.weight.T
        case _: return block.self_attn.o_proj.weight.T


@contextmanager
def writing_nothing(weight: Tensor, rows: Sequence[int]) -> Iterator[None]:
    """Rows of a view of the model's weights are zero for a while."""
    held = weight[list(rows)].clone()
    weight[list(rows)] = 0.0
    yield
    weight[list(rows)] = held


# --- one block, sublayer by sublayer ---


def mask(model, layer: int, length: int) -> Tensor:
    """[1, 1, T, T] to add to the scores: causal, and within the layer's window where it has one."""
    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    seen = key <= query
    types = getattr(model.config, "layer_types", None)
    if types and types[layer] == "sliding_attention":
        seen &= key > query - model.config.sliding_window
    return torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]


def rotary(model, layer: int, x: Tensor):
    """(cos, sin) of the layer: Gemma has one base for its windowed layers and one for its global layers."""
    positions = torch.arange(x.shape[1])[None]
    match family(model):
        case "gpt_neox": return model.gpt_neox.rotary_emb(x, positions)
        case "gemma3_text": return model.model.rotary_emb(x, positions, model.config.layer_types[layer])
        case _: return model.model.rotary_emb(x, positions)


def attention(model, layer: int, x: Tensor) -> Tensor:
    """[T, D] -> [T, D]: what the layer's attention adds, given the residual before the block."""
    block, x = blocks(model)[layer], x[None]
    own = {"attention_mask": mask(model, layer, x.shape[1])}
    if family(model) != "gpt2":
        own["position_embeddings"] = rotary(model, layer, x)
    match family(model):
        case "gpt2": return block.attn(block.ln_1(x), **own)[0][0]
        case "gpt_neox": return block.attention(block.input_layernorm(x), **own)[0][0]
        case "gemma3_text":
            return block.post_attention_layernorm(block.self_attn(block.input_layernorm(x), **own)[0])[0]
        case "olmo2": return block.post_attention_layernorm(block.self_attn(x, **own)[0])[0]
        case "phi" | "llama" | "qwen2": return block.self_attn(block.input_layernorm(x), **own)[0][0]
        case other: raise ValueError(f"no reference for the family {other!r}")


def mlp_input(model, layer: int, x: Tensor) -> Tensor:
    """[T, D] -> [T, D]: what the layer's MLP reads, given the residual before it (in a parallel block:
    before the block). gpt_neox, llama and qwen2 call the norm before the MLP `post_attention_layernorm`."""
    block = blocks(model)[layer]
    match family(model):
        case "gpt2": return block.ln_2(x)
        case "phi": return block.input_layernorm(x)  # shared with attention
        case "gemma3_text": return block.pre_feedforward_layernorm(x)
        case "olmo2": return x
        case _: return block.post_attention_layernorm(x)


def mlp(model, layer: int, x: Tensor) -> Tensor:
    """[T, D] -> [T, D]: the layer's MLP contribution to the residual, given the residual before it."""
    block = blocks(model)[layer]
    out = block.mlp(mlp_input(model, layer, x))
    return block.post_feedforward_layernorm(out) if family(model) in ("gemma3_text", "olmo2") else out


def neurons(model, layer: int, x: Tensor) -> Tensor:
    """[T, D] -> [T, M]: activations after the nonlinearity; for gated MLPs act(gate) * up."""
    part, h = blocks(model)[layer].mlp, mlp_input(model, layer, x)
    match family(model):
        case "gpt2": return part.act(part.c_fc(h))
        case "gpt_neox": return part.act(part.dense_h_to_4h(h))
        case "phi": return part.activation_fn(part.fc1(h))
        case _: return part.act_fn(part.gate_proj(h)) * part.up_proj(h)


def switched(contribution: Tensor, on: bool | Tensor, mean: Tensor | None) -> Tensor:
    """[T, D]: the contribution where it is on, the mean (or zero) elsewhere."""
    where = torch.as_tensor(on, dtype=torch.bool).expand(len(contribution))[:, None]
    instead = torch.zeros(contribution.shape[1]) if mean is None else mean.float()
    return torch.where(where, contribution, instead)


def contributions(model, place: Place, x: Tensor) -> tuple[Tensor, Tensor]:
    """What attention and MLP of one block add to x [T, D]. Sequential: the MLP reads x plus the attention
    that was left on. Parallel: it reads x."""
    w_o, width = w_o_stored(model, place.layer), len(w_o_stored(model, place.layer)) // model.config.num_attention_heads
    with writing_nothing(w_o, [head * width + n for head in place.heads_off for n in range(width)]):
        attn = switched(attention(model, place.layer, x), place.attn_on, place.attn_mean)
    middle = x if parallel(model) else x + attn
    with writing_nothing(w_out_stored(model, place.layer), place.neurons_off):
        return attn, switched(mlp(model, place.layer, middle), place.mlp_on, place.mlp_mean)


# --- runs ---


def identity(model) -> list[Place]:
    """Every block once, in the model's own order: the baseline."""
    return [Place(layer) for layer in range(len(blocks(model)))]


@torch.no_grad()
def run(model, ids: Tensor, order: list[Item] | None = None) -> RunResult:
    """Run the blocks in the given order over ids [T]. None is the model's own order; [] runs no block."""
    x = embed(model, ids)
    residuals, attns, mlps = [x], [], []
    for item in identity(model) if order is None else order:
        group = item if isinstance(item, list) else [item]
        added = [contributions(model, Place(*place), x) for place in group]
        attns.append(torch.stack([attn for attn, _ in added]).mean(0))
        mlps.append(torch.stack([mlp for _, mlp in added]).mean(0))
        x = x + attns[-1] + mlps[-1]
        residuals.append(x)
    logits = model.get_output_embeddings()(final_norm(model)(x))
    if softcap(model):
        logits = softcap(model) * torch.tanh(logits / softcap(model))
    return RunResult(residuals, attns, mlps, logits)


@torch.no_grad()
def neuron_activations(model, ids_batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(mean a, mean |a|), each [L, M] float64, over all tokens of all prompts but each prompt's first."""
    tokens = [[] for _ in blocks(model)]
    for ids in ids_batch:
        base = run(model, ids)
        for layer, (x, attn) in enumerate(zip(base.residuals, base.attn)):
            middle = x if parallel(model) else x + attn
            tokens[layer].append(neurons(model, layer, middle)[1:].double())
    a = torch.stack([torch.cat(rows) for rows in tokens])  # [L, tokens, M]
    return a.mean(1), a.abs().mean(1)


@torch.no_grad()
def mean_contributions(model, ids_batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(attention, MLP), each [L, D] float64: the mean contribution of each sublayer over the same tokens."""
    runs = [run(model, ids) for ids in ids_batch]
    attn = torch.cat([torch.stack(base.attn)[:, 1:].double() for base in runs], dim=1)  # [L, tokens, D]
    mlp = torch.cat([torch.stack(base.mlp)[:, 1:].double() for base in runs], dim=1)
    return attn.mean(1), mlp.mean(1)


# --- readouts ---


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def final_scale(model, x: Tensor) -> Tensor:
    """[.., D] -> [.., 1] float64: what the final norm divides x by (sigma, or the rms), epsilon included."""
    x = centred(x.double()) if family(model) in LAYER_NORM else x.double()
    return (x.pow(2).mean(-1, keepdim=True) + epsilon(model)).sqrt()


@torch.no_grad()
def lens_logits(model, x: Tensor) -> Tensor:
    """[.., D] -> [.., V] float64: W_U norm_f(x) + b_U, the final norm recomputed on x, and the model's
    soft-capping."""
    x = x.double()
    normed = (centred(x) if family(model) in LAYER_NORM else x) / final_scale(model, x) * final_gain(model)
    if family(model) in LAYER_NORM:
        normed = normed + final_norm(model).bias.double()
    head = model.get_output_embeddings()
    logits = normed @ head.weight.double().T
    if head.bias is not None:
        logits = logits + head.bias.double()
    return logits if not softcap(model) else softcap(model) * torch.tanh(logits / softcap(model))


def lens(model, x: Tensor) -> Tensor:
    """[.., D] -> [.., V] log-probabilities, float64: the logit lens."""
    return lens_logits(model, x).log_softmax(-1)


@torch.no_grad()
def lens_v1(model, x: Tensor, x_final: Tensor) -> Tensor:
    """[.., T, D], [T, D] -> [.., T, V] log-probabilities, float64: the lens of the paper's first version.
    x (centred for LayerNorm models) over the scale of x_final at the same position, times the gain-folded
    unembedding; no bias of any kind and no soft-capping."""
    x = centred(x.double()) if family(model) in LAYER_NORM else x.double()
    scaled = x / final_scale(model, x_final) * final_gain(model)
    return (scaled @ model.get_output_embeddings().weight.double().T).log_softmax(-1)


def entropy_bits(logp: Tensor) -> Tensor:
    """[.., V] -> [..]"""
    return -(logp.exp() * logp).sum(-1) / torch.log(torch.tensor(2.0, dtype=torch.float64))


def kl_nats(p_log: Tensor, q_log: Tensor) -> Tensor:
    """[.., V], [.., V] -> [..]: D_KL(p || q); the baseline is p."""
    return (p_log.exp() * (p_log - q_log)).sum(-1)


def loss_nats(logp: Tensor, ids: Tensor) -> Tensor:
    """[T, V], [T] -> [T - 1]: cross entropy on the true next token; the last position has none."""
    return -logp[:-1].gather(-1, ids[1:, None])[:, 0]


def top(logp: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """[.., V] -> (ids, p), each [.., k], most likely first; of equals the lower id first."""
    p, ids = torch.sort(logp.exp(), stable=True, dim=-1, descending=True)
    return ids[..., :k], p[..., :k]


def norms(contribution: Tensor, layer_norm_model: bool) -> Tensor:
    """[.., D] -> [..] float64: L2, the mean over D taken out first for LayerNorm models."""
    contribution = contribution.double()
    return (centred(contribution) if layer_norm_model else contribution).norm(dim=-1)


def vs_baseline(x: Tensor, x_base: Tensor) -> tuple[Tensor, Tensor]:
    """[.., D], [.., D] -> (||x - x_base|| / ||x_base||, cosine), each [..] float64."""
    x, x_base = x.double(), x_base.double()
    cosine = (x * x_base).sum(-1) / (x.norm(dim=-1) * x_base.norm(dim=-1))
    return (x - x_base).norm(dim=-1) / x_base.norm(dim=-1), cosine


# --- prediction and suppression neurons ---


@dataclass
class Census:
    mean: Tensor      # [L, M] float64, population moments of c[n, v] over v
    var: Tensor
    skew: Tensor      # E[z^3] as the weights have it, not oriented
    kurtosis: Tensor  # E[z^4], 3 for a Gaussian
    sign: Tensor      # [L, M] of the mean activation, 0 for unsigned neurons; 1 everywhere in ungated models
    high_kurtosis: Tensor          # [L] counts
    prediction: Tensor | None      # None where a gated model comes without activations
    suppression: Tensor | None
    unsigned: Tensor | None
    partition_candidates: Tensor


@torch.no_grad()
def folded_unembedding(model, n_tokens: int | None = None) -> Tensor:
    """[D, V'] float64: W_U with the final gain folded in; LayerNorm models: each column centred over D;
    models without soft-capping: then centred over the vocabulary, cut to `n_tokens` before that."""
    w_u = final_gain(model)[:, None] * model.get_output_embeddings().weight.double().T[:, :n_tokens]
    if family(model) in LAYER_NORM:
        w_u = w_u - w_u.mean(0, keepdim=True)
    if not softcap(model):
        w_u = w_u - w_u.mean(1, keepdim=True)
    return w_u


def moments(directions: Tensor, w_u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[N, D], [D, V'] -> mean, variance, skew, kurtosis of the cosines over V', each [N] float64."""
    directions = directions.double()
    c = (directions / directions.norm(dim=1, keepdim=True)) @ (w_u / w_u.norm(dim=0, keepdim=True))
    mean, var = c.mean(1), c.var(1, correction=0)
    z = (c - mean[:, None]) / var.sqrt()[:, None]
    return mean, var, z.pow(3).mean(1), z.pow(4).mean(1)


def null_share(model, directions: Tensor, n_tokens: int | None = None) -> float:
    """The share of the directions [N, D] with kurtosis > 10: near 0 if random, in a healthy vocabulary."""
    return (moments(directions, folded_unembedding(model, n_tokens))[3] > 10).double().mean().item()


def census(model, activations: tuple[Tensor, Tensor] | None = None, n_tokens: int | None = None) -> Census:
    """The counter of Gurnee et al. 2024 ("Universal Neurons") over every MLP neuron.

    `activations` are (mean a, mean |a|) of `neuron_activations`, used for gated models only; `n_tokens` is
    the number of real tokens (None: padding columns too).
    """
    w_u = folded_unembedding(model, n_tokens)
    layers = [w_out(model, layer) for layer in range(len(blocks(model)))]
    if family(model) in LAYER_NORM:
        layers = [centred(w) for w in layers]
    mean, var, skew, kurtosis = (torch.stack(rows) for rows in zip(*(moments(w, w_u) for w in layers)))
    high = kurtosis > 10
    known = family(model) not in GATED or activations is not None
    sign = torch.ones_like(skew)
    if family(model) in GATED and known:
        a, size = activations
        sign = torch.where(a.abs() < 0.3 * size, 0.0, a.sign())
    return Census(
        mean, var, skew, kurtosis, sign,
        high_kurtosis=high.sum(1),
        prediction=(high & (skew * sign > 0)).sum(1) if known else None,
        suppression=(high & (skew * sign < 0)).sum(1) if known else None,
        unsigned=(high & (sign == 0)).sum(1) if known else None,
        partition_candidates=(var > 5.12 / w_u.shape[0]).sum(1),
    )
