"""From a directory of weights to a Network: device, dtype, threads, and the checks everything else relies on."""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import torch
from torch import Tensor

from stagescope.engine import blocks, directory, fit, lens, packed
from stagescope.engine.blocks import Network
from stagescope.engine.catalog import disagreements
from stagescope.engine.directory import Located
from stagescope.engine.memory import free_memory, is_out_of_memory, out_of_memory
from stagescope.engine.metrics import kl_nats
from stagescope.engine.prefix import prefix_text, prefix_token
from stagescope.engine.protocol import EngineError, Load, ModelInfo, Progress
from stagescope.engine.tokens import encode
from stagescope.text import printable

PROBE = "The quick brown fox jumps over the lazy dog, and"  # what the checks at load run on
# Largest difference allowed at load between two ways to the same logits, as a share of their spread: 7 families agree
# to 1e-6 in fp32; half precision rounds each block's output (2^-8 in bf16), and L blocks add up.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
SUPPORTED = "Supported and tried: GPT-2, GPT-NeoX (Pythia), Phi, Llama, Qwen2, Gemma-3, OLMo-2."
DEVICES = r"cpu|cuda(:\d{1,3})?"  # not mps: it has no fp64, and has given silently wrong results
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(request: Load, located: Located) -> Iterator[Progress | tuple[Network, ModelInfo]]:
    """Progress, and last the network with what is known of it. Raises EngineError."""
    began = time.perf_counter()
    yield Progress("starting transformer_lens", 0.0)
    torch.set_num_threads(threads(request.threads))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = pick_device(request.device)
    dtype = pick_dtype(request.dtype, device, directory.parameters(located.directory))
    _import_bridge()
    yield Progress(f"reading weights onto {device}", 0.4)
    bridge = _boot(located, device, dtype)
    net = network(bridge, device, dtype, request.memory)
    yield Progress("checking the model", 0.9)
    preview = directory.preview(located)
    text = prefix_text(request, located.known.prefix if located.known else None)
    if text is None:  # as transformer_lens prepends: BOS, or EOS where there is none
        text = net.tokenizer.bos_token or net.tokenizer.eos_token or ""
    prefix = prefix_token(net.tokenizer, text)
    probe = torch.tensor([encode(net.tokenizer, PROBE, prefix.id if prefix else None)])
    try:
        warnings, noise_kl = check(net, probe, located.name, has_prefix=prefix is not None)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise _unknown_between_blocks(located.name, f"{bridge.cfg.architecture}: {first_line(error)}") from error
    copy = packed.pack(net)  # after the check, which so compares with torch alone
    info = replace(
        preview,
        architecture=bridge.cfg.architecture or preview.architecture,
        n_layers=net.n_layers,
        d_model=net.d_model,
        d_mlp=net.d_mlp,
        d_vocab=net.d_vocab,
        n_ctx=net.n_ctx,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        parallel=net.parallel,
        norm=net.norm,
        gated=net.gated,
        prefix=prefix,
        loaded=True,
        bytes=sum({p.data_ptr(): p.numel() * p.element_size() for p in bridge.parameters()}.values()) + copy,
        noise_kl=noise_kl,
    )
    warnings += disagreements(located.known, info)
    yield net, replace(info, warnings=warnings, load_seconds=time.perf_counter() - began)


def threads(wanted: int | None) -> int:
    """Physical cores minus one, at least one: two threads on two busy cores ran a forward 5 times slower than one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or max(1, min(psutil.cpu_count(logical=False) or 1, allowed) - 1)


def pick_device(wanted: str | None) -> torch.device:
    """The device asked for, else the visible GPU with most free memory, else the CPU."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        free = [_free_on_gpu(gpu) for gpu in range(n_gpus)] if n_gpus > 1 else [0] * n_gpus
        return torch.device("cuda", free.index(max(free))) if free else torch.device("cpu")
    if not re.fullmatch(DEVICES, wanted):
        raise EngineError("usage", f"no device is called {printable(wanted)!r}.", "Use cpu, cuda or cuda:N.")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        seen = f"{n_gpus} CUDA device{'s' * (n_gpus != 1)} visible here"
        raise EngineError("usage", f"{wanted} was asked for, but there are {seen}.", "Use --device cpu, or cuda:N.")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _free_on_gpu(gpu: int) -> int:
    """Bytes free, asked of the driver where it can be: torch's own question opens a context on every card (300 MB)."""
    try:
        return torch.cuda.get_device_properties(gpu).total_memory - torch.cuda.device_memory_used(gpu)
    except (ModuleNotFoundError, AttributeError, RuntimeError):  # no NVML here
        pass
    try:
        return torch.cuda.mem_get_info(gpu)[0]
    except RuntimeError:  # an exclusive or broken card
        return 0


def pick_dtype(wanted: str, device: torch.device, n_parameters: int) -> torch.dtype:
    """fp32 when it fits in 40 % of the free memory, else bf16. EngineError("memory") when that does not fit either."""
    if wanted != "auto" and wanted not in DTYPES:
        raise EngineError("usage", f"no dtype is called {wanted!r}.", f"Use auto, {', '.join(DTYPES)}.")
    free = free_memory(device)
    dtype = DTYPES[fit.auto_dtype(n_parameters, free) if wanted == "auto" else wanted]
    need = n_parameters * dtype.itemsize
    if need > free:
        raise EngineError(
            "memory",
            f"the weights take {need / 2**30:.1f} GiB in {str(dtype)[6:]} and {device} has {free / 2**30:.1f} GiB free.",
            "Choose a smaller model, --dtype bfloat16 or another --device.",
        )
    return dtype


def _import_bridge() -> None:
    import transformer_lens.model_bridge  # noqa: F401 (takes about 4 s)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _boot(located: Located, device: torch.device, dtype: torch.dtype):
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return TransformerBridge.boot_transformers(str(located.directory), dtype=dtype, device=str(device))
    except MemoryError as error:
        raise out_of_memory(device) from error
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, AttributeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(device) from error
        raise EngineError(
            "error",
            f"transformer_lens could not load {located.name}: {type(error).__name__}: {printable(first_line(error))}",
            SUPPORTED,
        ) from error


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"


def network(bridge, device: torch.device, dtype: torch.dtype, memory: int | None = None) -> Network:
    """The bridge as a Network, taps in place. EngineError when a block has no attention or MLP to speak of."""
    bridge.eval().requires_grad_(False)
    cfg = bridge.cfg
    try:
        w_u = bridge.W_U
        net = Network(
            bridge=bridge,
            tokenizer=bridge.tokenizer,
            n_layers=len(bridge.blocks),
            d_model=cfg.d_model,
            d_mlp=cfg.d_mlp,
            n_heads=cfg.n_heads,
            d_vocab=w_u.shape[1],
            n_ctx=cfg.n_ctx,
            device=device,
            dtype=dtype,
            norm="rms" if cfg.uses_rms_norm or cfg.normalization_type in ("RMS", "RMSPre") else "layer",
            gated=bool(cfg.gated_mlp),
            parallel=bool(cfg.parallel_attn_mlp),
            softcap=cfg.output_logits_soft_cap if (cfg.output_logits_soft_cap or -1) > 0 else None,
            memory=memory or blocks.MEMORY,
        )
        blocks.listen(net)
    except (AttributeError, IndexError) as error:
        raise EngineError(
            "error",
            f"{cfg.architecture} has no plain stack of attention and MLP blocks ({first_line(error)}).",
            "stagescope needs a decoder of the GPT, Llama or Pythia kind.",
        ) from error
    return net


@torch.inference_mode()
def check(net: Network, probe: Tensor, name: str, has_prefix: bool = False) -> tuple[tuple[str, ...], float]:
    """What the readouts rely on, tried on a short probe [1, T]: (warnings, noise floor).

    Identity schedule = plain forward and lens at L = the logits: EngineError where they are not. Attention + MLP
    contributions add up to the residual, logits are finite: a warning where not. The noise floor is the mean KL in
    nats between the fp32 baseline and the baseline as run (dtype, two rows batched), a prefix token left out: in bf16
    its position alone was 100 times the others. An effect below it is nothing.
    """
    plain = blocks.forward(net, probe)
    begun = blocks.start(net, probe.expand(2, -1))
    if len(begun.calls) != net.n_layers:
        raise EngineError("error", f"{name}: {len(begun.calls)} of {net.n_layers} blocks take part in a forward.")
    x, missing = begun.x, 0.0
    for layer in range(net.n_layers):
        passed = blocks.block(net, begun, layer, x)
        gap = (x.float() + passed.attn.float() + passed.mlp.float() - passed.x.float()).norm(dim=-1)
        missing = max(missing, float((gap / passed.x.float().norm(dim=-1)).max()))
        x = passed.x
    if not bool(plain.isfinite().all()):
        broken = f"the logits of {name} are not finite on a plain sentence: its weights are broken, or fp16 overflows."
        return (broken,), float("nan")
    as_run = lens.log_probs(net, x[0])
    gap, allowed = float((as_run - plain[0].log_softmax(-1)).abs().max()), TOLERANCE[net.dtype] * float(plain.std())
    if gap > allowed:
        far = f"blocks run one by one end {gap:.2g} nats from the model's own forward (allowed {allowed:.2g})"
        raise _unknown_between_blocks(name, far)
    shape = tuple(blocks.w_out(net, 0).shape)
    if shape != (net.d_mlp, net.d_model):
        raise _unknown_between_blocks(name, f"its MLPs write by weights of shape {shape}, not one matrix a layer")
    exact = plain[0].log_softmax(-1) if net.dtype == torch.float32 else _fp32_log_probs(net, probe)
    noise = float(kl_nats(exact, as_run)[int(has_prefix) :].mean().abs())
    if missing > TOLERANCE[net.dtype]:
        return (f"attention + MLP miss the residual of {name} by {missing:.1%}: norm bars, sublayer edits are off.",), noise
    return (), noise


def _unknown_between_blocks(name: str, what: str) -> EngineError:
    return EngineError(
        "error",
        f"{name} does something between or within blocks that stagescope does not know: {what}.",
        SUPPORTED,
    )


def _fp32_log_probs(net: Network, probe: Tensor) -> Tensor:
    """The baseline of a half-precision network in fp32, one block at a time: memory stays at 1x, nothing is lost."""
    bridge = net.bridge
    with _in_fp32(*(module for name, module in bridge.named_children() if name != "blocks")):
        begun = blocks.start(net, probe)
        x = begun.x.float()
        for layer in range(net.n_layers):
            with _in_fp32(bridge.blocks[layer]):
                x = blocks.block(net, begun, layer, x).x
        return lens.log_probs(net, x)[0]


@contextlib.contextmanager
def _in_fp32(*modules: torch.nn.Module) -> Iterator[None]:
    """The modules' half-precision tensors in fp32 for a while; what was fp32 already (rotary bases) stays as it is."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    halves = [(tensor, tensor.data) for tensor in tensors if tensor.dtype in (torch.bfloat16, torch.float16)]
    try:
        for tensor, data in halves:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in halves:
            tensor.data = data
