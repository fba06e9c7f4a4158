"""On a CUDA device the same numbers as on the CPU. conftest.py collects this file only where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from test_default_model import exhaust
from test_outcomes import BITS, KL, LOSS, P, task, taken
from test_readings_right import FAMILIES, N_TOKENS, SCHEDULES, fresh_prompt, make

from stagescope.engine import load, neurons
from stagescope.engine.directory import Located
from stagescope.engine.protocol import Read
from stagescope.engine.reading import read
from stagescope.engine.schedule import parse, resolve

if not torch.cuda.is_available():  # a driver without a card, or a CPU build of torch beside one
    pytest.skip("torch sees no CUDA device", allow_module_level=True)
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("family", FAMILIES)
def test_readings_agree_with_the_cpu(tmp_path, family: str) -> None:
    cpu = make(family, tmp_path)
    device = load.pick_device(None)
    assert device.type == "cuda"
    net = load.network(load._boot(Located(family, tmp_path, "test"), device, torch.float32), device, torch.float32)
    warnings, noise_kl = load.check(net, cpu.ids[None], family)
    assert warnings == () and noise_kl < 1e-5
    prompt = fresh_prompt(net, cpu.ids)
    for text in SCHEDULES:
        schedule = parse(text)
        plan = resolve(schedule, net.n_layers, parallel_blocks=net.parallel, n_positions=N_TOKENS)
        ours = read(net, cpu.info, prompt, Read("x", top=5), str(schedule), plan, range(N_TOKENS))
        theirs = cpu.read(text)
        for name in ("entropy_bits", "kl_final_nats", "kl_nats", "attn_norm", "resid_rel", "effect_kl_nats"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_sweeps_agree_with_the_cpu(tmp_path, family: str) -> None:
    cpu = make(family, tmp_path)
    device = load.pick_device(None)
    net = load.network(load._boot(Located(family, tmp_path, "test"), device, torch.float32), device, torch.float32)
    texts = [*SCHEDULES, "drop 1 @2", "drop 3 @-1"]
    tasks = [task(net, tiny_models.ids(net.d_vocab, n, seed=n), texts) for n in (7, 9, 30)]
    tasks.append(task(net, cpu.ids, texts, tracked=7, positions=(4,)))
    (bases, ours), (theirs_bases, theirs) = taken(net, *tasks), taken(cpu.net, *tasks)
    for base, other in zip(bases, theirs_bases, strict=True):
        np.testing.assert_allclose(base.entropy_bits, other.entropy_bits, rtol=1e-3, atol=1e-4)
    for one, other in zip(ours, theirs, strict=True):
        for measure in (KL, BITS, LOSS, P):
            a, b = np.array(one)[:, measure], np.array(other)[:, measure]
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_census_agrees_with_the_cpu(tmp_path) -> None:
    net = make("gpt2", tmp_path).net
    w_u = torch.randn(5000, 64, generator=torch.Generator().manual_seed(1))
    w_out = torch.randn(300, 64, generator=torch.Generator().manual_seed(2))

    def of(device: str):
        vocabulary = exhaust(neurons.prepare(w_u.to(device), net.norm, None))
        return exhaust(neurons.moments(w_out.to(device), vocabulary, net.norm))

    for ours, theirs in zip(of("cuda"), of("cpu"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_bf16_is_chosen_when_fp32_does_not_fit(tmp_path, monkeypatch) -> None:
    directory = tiny_models.build("llama", tmp_path)
    device = load.pick_device("cuda")
    net = load.network(load._boot(Located("llama", directory, "test"), device, torch.bfloat16), device, torch.bfloat16)
    ids = tiny_models.ids(net.d_vocab, N_TOKENS, seed=3)[None]
    warnings, noise_kl = load.check(net, ids, "llama")
    assert warnings == () and 1e-7 < noise_kl < 0.1
