"""The one door to the network: embed, run block l on rows, final norm, unembedding, and switches on sublayers.

Blocks of a transformer_lens bridge are called by hand with the keyword arguments each received in one forward, so
what belongs to a layer (its mask, its rotary base) travels with it when the order changes. Batched over rows this
equals the plain forward to 6e-7 on gpt2, neox, phi, llama, qwen2, gemma3 and olmo2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from stagescope.engine.messages import EngineError

if TYPE_CHECKING:
    from stagescope.engine.keys_values import Past, Rows

MEMORY = 2 * 2**30  # bytes: what Network.memory is when nobody says


class PartsOff(NamedTuple):
    """Heads or neurons of one row that are replaced."""

    row: int
    which: Sequence[int]
    positions: Sequence[int] | None  # None: every position
    mean: Tensor | None  # [T, H * d_head] or [T, M]: what stands there instead; None is zero


@dataclass
class Tap:
    """What one block call is to do to its heads, its neurons and its sublayers' contributions, and what these were."""

    off: dict[str, Sequence[PartsOff]]  # "heads" | "neurons", taken out when it is done
    keep: dict[str, Tensor | None]  # "attn" | "mlp" -> bool [B, T, 1], False where the contribution is replaced
    fill: dict[str, Tensor | None]  # what stands there instead, broadcast to [B, T, D]; None is zero
    seen: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Network:
    """A bridge with the facts the readouts need. Everything below runs without gradients."""

    bridge: Any  # transformer_lens.model_bridge.TransformerBridge
    tokenizer: Any
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    d_vocab: int
    n_ctx: int
    device: torch.device
    dtype: torch.dtype
    norm: str  # rms | layer
    gated: bool
    parallel: bool
    softcap: float | None  # final logits are softcap * tanh(logits / softcap)
    memory: int = MEMORY  # bytes that schedules run together may take, beside the weights and their baselines
    tap: Tap | None = None

    def post_activation(self, layer: int):
        """Hook point [B, T, M]: what each neuron multiplies its output weights with; None where a layer has none."""
        return getattr(getattr(self.bridge.blocks[layer], "mlp", None), "hook_post", None)

    def head_outputs(self, layer: int):
        """Hook point [B, T, H * d_head]: what W_O reads, head after head; None where a layer has none."""
        return getattr(getattr(self.bridge.blocks[layer], "attn", None), "hook_z", None)

    def pattern(self, layer: int):
        """Hook point [B, H, T, T]: where each head looks; None where a layer has no pattern to show."""
        return getattr(getattr(self.bridge.blocks[layer], "attn", None), "hook_pattern", None)


@dataclass
class Start:
    """A prompt on its way: embedded, with the arguments each layer takes beside the residual stream."""

    ids: Tensor  # [B, T]
    x: Tensor  # [B, T, D] the embedding, position and scaling included
    calls: list[tuple[tuple, dict]]  # per layer, of one row: they broadcast over any number
    past: Past | None = None  # the positions before ids, where keys and values are kept; it stands in calls for the cache

    @property
    def first(self) -> int:
        """The position of the first id."""
        return self.past.length if self.past else 0


@dataclass
class Passed:
    x: Tensor  # [B, T, D] residual stream after the block
    attn: Tensor  # [B, T, D] attention's contribution to it (after the post-norm where there is one)
    mlp: Tensor  # [B, T, D]


class _Reached(Exception):
    """The forward got to the final norm: all that was wanted is captured."""


def listen(net: Network) -> None:
    """Put the four taps on every block, once, when the network is made."""

    def tap(kind: str):
        def hook(_module, _inputs, output: Tensor) -> Tensor | None:
            if net.tap is None:
                return None
            keep, fill = net.tap.keep[kind], net.tap.fill[kind]
            if keep is not None:
                replacement = output.new_zeros(()) if fill is None else fill.to(output.dtype)
                output = torch.where(keep, output, replacement)
            net.tap.seen[kind] = output
            return output

        return hook

    def parts(kind: str, n_parts: int):
        def hook(_module, _inputs, output: Tensor) -> Tensor | None:
            if net.tap is None or not (off := net.tap.off.pop(kind, ())):
                return None
            return _replaced(output, off, output.shape[-1] // n_parts)

        return hook

    for layer, block_ in enumerate(net.bridge.blocks):
        block_.hook_attn_out.register_forward_hook(tap("attn"))
        block_.hook_mlp_out.register_forward_hook(tap("mlp"))
        if (head_outputs := net.head_outputs(layer)) is not None:
            head_outputs.register_forward_hook(parts("heads", net.n_heads))
        if (post_activation := net.post_activation(layer)) is not None:
            post_activation.register_forward_hook(parts("neurons", net.d_mlp))


def _replaced(values: Tensor, off: Sequence[PartsOff], width: int) -> Tensor:
    """values [B, T, parts * width]: a copy of it in which some parts of some rows are zero or their mean."""
    values = values.clone()
    for row, which, positions, mean in off:
        columns = torch.tensor(which, device=values.device)[:, None] * width
        columns = (columns + torch.arange(width, device=values.device)).flatten()
        at = slice(None) if positions is None else torch.tensor(positions, device=values.device)[:, None]
        values[row][at, columns] = 0.0 if mean is None else mean.to(values)[at, columns]
    return values


@contextmanager
def watching(point: Any | None, keep: Callable[[Tensor], object]) -> Iterator[None]:
    """`keep` is given what comes by a hook point; None: nothing does. For one block call and no longer: between two
    calls the network serves readings."""

    def hook(_module, _inputs, output: Tensor) -> None:  # what it returned would replace the output
        keep(output)

    handle = None if point is None else point.register_forward_hook(hook)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _inner(net: Network, layer: int):
    """The wrapped block, its sublayers and norms bridged: the wrapper inspects signatures at every call (0.1 ms)."""
    return net.bridge.blocks[layer].original_component


@torch.inference_mode()
def start(net: Network, ids: Tensor, past: Past | None = None) -> Start:
    """Embed ids [B, T] and capture every layer's arguments, for any number of rows.

    Prompts of different lengths are padded on the right: under a causal mask what follows changes nothing, so that
    the arguments are those of one row of full length. past: the ids follow these positions, whose keys and values each
    block call is given.
    """
    x, calls = _identity_forward(net, ids, past)
    if len(ids) > 1:
        _, calls = _identity_forward(net, ids[:1], past)
    return Start(ids, x, calls, past)


def _identity_forward(net: Network, ids: Tensor, past: Past | None) -> tuple[Tensor, list[tuple[tuple, dict]]]:
    """The embedding, and what each block was called with beside it in a forward in which all blocks are the identity."""
    calls: list[tuple[tuple, dict]] = []
    streams: list[Tensor] = []

    def capture(_module, args: tuple, kwargs: dict) -> None:
        rest = dict(kwargs)
        stream = args[0] if args else rest.pop("hidden_states")
        streams.append(stream)
        calls.append((args[1:], rest))

    def reached(_module, _args) -> None:
        raise _Reached

    inner = [_inner(net, layer) for layer in range(net.n_layers)]
    handles = [module.register_forward_pre_hook(capture, with_kwargs=True) for module in inner]
    handles.append(net.bridge.ln_final.register_forward_pre_hook(reached))
    before = [vars(module).get("forward") for module in inner]
    try:
        for module in inner:
            module.forward = lambda hidden_states, *_, **__: hidden_states
        if past is None:
            net.bridge(ids.to(net.device), use_cache=False)
        else:  # the bridge's own forward would not let the cache through
            net.bridge.original_model(ids.to(net.device), past_key_values=past, use_cache=True)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
        for module, forward in zip(inner, before, strict=True):
            if forward is None:
                del vars(module)["forward"]
            else:
                module.forward = forward
    return streams[0], calls


@torch.inference_mode()
def block(
    net: Network,
    begun: Start,
    layer: int,
    x: Tensor,
    *,
    keep_attn: Tensor | None = None,
    keep_mlp: Tensor | None = None,
    fill_attn: Tensor | None = None,
    fill_mlp: Tensor | None = None,
    heads_off: Sequence[PartsOff] = (),
    neurons_off: Sequence[PartsOff] = (),
    kept: Rows | None = None,
) -> Passed:
    """Run block `layer` on rows x [B, T, D].

    keep_*: bool [B, T, 1], False where the sublayer's contribution is replaced by fill_* (zero when None).
    *_off: heads and neurons replaced, a later one winning. Raises EngineError where the layer has none to replace.
    kept: the rows' keys and values, where `begun` follows a past.
    """
    args, kwargs = begun.calls[layer]
    if kept is not None:
        args = tuple(kept if value is begun.past else value for value in args)
        kwargs = {name: kept if value is begun.past else value for name, value in kwargs.items()}
    off = {name: parts for name, parts in (("heads", heads_off), ("neurons", neurons_off)) if parts}
    tap = Tap(off, {"attn": keep_attn, "mlp": keep_mlp}, {"attn": fill_attn, "mlp": fill_mlp})
    net.tap = tap
    try:
        output = _inner(net, layer)(x, *args, **kwargs)
    finally:
        net.tap = None
    if tap.off:  # no hook came by
        reason = f"layer {layer} of this model has no {' and no '.join(tap.off)} that could be switched off"
        raise EngineError("error", f"{reason}.", "Switch off whole layers: drop, attn-off, mlp-off.")
    if kept is not None and not kept.used:
        raise EngineError("error", f"the attention of layer {layer} keeps no keys and values: this model cannot be continued.")
    if len(tap.seen) != 2:
        raise ValueError(f"block {layer} has no {' and no '.join({'attn', 'mlp'} - tap.seen.keys())} of its own")
    return Passed(output[0] if isinstance(output, tuple) else output, tap.seen["attn"], tap.seen["mlp"])


@torch.inference_mode()
def final_norm(net: Network, x: Tensor) -> Tensor:
    """The final norm, recomputed on x [..., D]."""
    return net.bridge.ln_final(x)


@torch.inference_mode()
def unembed(net: Network, normed: Tensor) -> Tensor:
    """Logits [..., V] in fp32, as the model makes them (bias and soft cap included)."""
    return cap(net, net.bridge.unembed(normed).float())


def cap(net: Network, logits: Tensor) -> Tensor:
    if net.softcap:
        logits = net.softcap * torch.tanh(logits / net.softcap)
    return logits


@torch.inference_mode()
def forward(net: Network, ids: Tensor) -> Tensor:
    """Logits [B, T, V] of the bridge's own forward: what everything else is checked against at load."""
    return net.bridge(ids.to(net.device), use_cache=False).float()


def norm_weight(net: Network) -> Tensor:
    """The final norm's gain [D] in fp32 (Gemma stores it minus one)."""
    weight = net.bridge.ln_final.original_component.weight.float()
    return weight + 1.0 if net.bridge.cfg.rmsnorm_uses_offset else weight


def norm_eps(net: Network) -> float:
    module = net.bridge.ln_final.original_component
    return float(next(getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)))


def w_u(net: Network) -> Tensor:
    """The unembedding as stored, [D, V]."""
    return net.bridge.W_U


def unembedding(net: Network) -> Tensor:
    """W_U' [V, D] in fp32: the unembedding with the final norm's gain folded in, one row a vocabulary entry."""
    return w_u(net).T.float() * norm_weight(net)


def w_out(net: Network, layer: int) -> Tensor:
    """What each neuron of a layer's MLP writes, [M, D] in fp32."""
    return net.bridge.blocks[layer].mlp.W_out.float()
