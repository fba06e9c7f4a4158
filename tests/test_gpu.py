"""On a CUDA device the same numbers as on the CPU. conftest.py collects this file only where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from test_default_model import exhaust
from test_outcomes import BITS, KL, LOSS, P, taken, task
from test_readings_right import FAMILIES, N_TOKENS, SCHEDULES, fresh_prompt, make

from stagescope.engine import comparison, load, neurons, plain
from stagescope.engine.directory import Located
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import (
    OF_DEPTHS,
    OF_LAYERS,
    Evidence,
    Generate,
    LensCurves,
    Load,
    Neurons,
    Read,
    Request,
    ShowNeurons,
    ShowPattern,
    TakeAttribution,
    TakeComparison,
    TakeEvidence,
    TakeLens,
    TakeSimilarity,
    Texts,
)  # fmt: skip
from stagescope.engine.reading import read
from stagescope.engine.schedule import parse, resolve
from stagescope.reports import reading as report
from stagescope.sessions import files, replay, short
from stagescope.sessions.events import plain as plain_data

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
    texts = [*SCHEDULES, "drop 1 @2", "drop 3 @-1", "head-off 1.0-2 @3; neuron-off 2.5 4.0-9", "head-off 3.1; swap 3 4"]
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


# ------------------------------------------------------------------------------------- the evidence for the stages


@pytest.fixture(scope="module", params=["gpt2", "phi", "gemma3"])  # phi: an unembedding's bias; gemma3: soft-capped
def engines(request, tmp_path_factory) -> dict[str, LocalEngine]:
    changes = {"final_logit_softcapping": 5.0} if request.param == "gemma3" else {}
    directory = tiny_models.build(request.param, tmp_path_factory.mktemp(request.param), **changes)
    found = {}
    for device in ("cuda", "cpu"):
        found[device] = LocalEngine()
        how = Load(str(directory), device=device, dtype="float32", bos=tiny_models.END, cache=False)
        assert list(found[device].answer(how))[-1].device.split(":")[0] == device
    return found


def both(engines: dict[str, LocalEngine], request: Request) -> list:
    return [list(engines[device].answer(request))[-1] for device in ("cuda", "cpu")]


def near(ours, theirs, name: str, rtol: float = 1e-3, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=name)


def test_the_evidence_of_documents_run_together_agrees_with_the_cpu(engines, tmp_path: Path, monkeypatch) -> None:
    file, really, together = tmp_path / "text.jsonl", plain.run, []
    texts = [*tiny_models.TEXT, "short"]  # six are cut to one length
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))

    def run(net, prompts, *given):
        together.append((net.device.type, len(prompts)))
        return (yield from really(net, prompts, *given))

    monkeypatch.setattr(plain, "run", run)
    ours, theirs = both(engines, TakeEvidence(Texts(file=str(file), window=12)))
    assert isinstance(ours, Evidence) and ours.documents == theirs.documents == 7
    assert ("cuda", 6) in together and ("cpu", 1) in together
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    for row, name in enumerate((*OF_DEPTHS, *OF_LAYERS)):
        near_ties = 1.0 if name.startswith("top1") else 1e-3  # of two top tokens, one in a document
        near(ours.sums[:, row], theirs.sums[:, row], name, atol=near_ties)
        if not name.startswith("top1"):
            near(ours.of(name), theirs.of(name), name)
    for name in ("head_prev", "head_no_sink", "head_sink", "uniform", "uniform_no_sink", "uniform_sink"):
        near(getattr(ours, name), getattr(theirs, name), name)


@pytest.mark.parametrize("schedule", ["", "drop 1 @2; swap 3 4"])
def test_the_lens_by_depth_agrees_with_the_cpu(engines, schedule: str) -> None:
    ours, theirs = both(engines, TakeLens(tiny_models.TEXT[0], schedule, -2, (7, 120, 300)))
    assert isinstance(ours, LensCurves) and ours.layers == theirs.layers and ours.followed == theirs.followed
    for name in ("entropy_bits", "kl_final_nats", "p", "logit"):
        near(getattr(ours, name), getattr(theirs, name), name, atol=1e-3)
    assert np.abs(ours.rank - theirs.rank).max() <= 2  # near ties may change places
    assert (ours.top_ids == theirs.top_ids).mean() > 0.9


def test_the_strongest_neurons_agree_with_the_cpu(engines) -> None:
    ours, theirs = both(engines, ShowNeurons(most=1000, prompt=tiny_models.TEXT[0]))  # all of them: order is no matter
    assert isinstance(ours, Neurons) and ours.tokens == theirs.tokens
    rows, others = ({(row.kind, row.layer, row.index): n for n, row in enumerate(one.rows)} for one in (ours, theirs))
    assert rows and rows.keys() == others.keys()
    for key, n in rows.items():
        one, other = ours.rows[n], theirs.rows[others[key]]
        for name in ("kurtosis", "skew", "variance", "consistency", "promoted_cos", "suppressed_cos"):
            near(getattr(one, name), getattr(other, name), f"{name} of {key}")
        near(ours.activation[n], theirs.activation[others[key]], f"activation of {key}")


# ------------------------------------------------------------------------------------------- heads and causes


@pytest.mark.parametrize("schedule", ["", "drop 2; head-off 1.0"])
def test_attribution_and_patterns_agree_with_the_cpu(engines, schedule: str) -> None:
    ours, theirs = both(engines, TakeAttribution(tiny_models.TEXT[0], schedule, 7))
    for name in ("logit", "constant", "embedding", "attn", "mlp", "scale"):
        near(getattr(ours, name), getattr(theirs, name), name, atol=1e-3)
    assert np.array_equal(ours.edited, theirs.edited)
    ours, theirs = both(engines, ShowPattern(tiny_models.TEXT[0], 4, 2, schedule))
    near(ours.pattern, theirs.pattern, "pattern")


def test_similarity_agrees_with_the_cpu(engines) -> None:
    ours, theirs = both(engines, TakeSimilarity(Texts(prompts=tuple(tiny_models.TEXT))))
    for name in ("influence", "angular", "cka"):
        near(getattr(ours, name), getattr(theirs, name), name, atol=1e-3)


def test_bf16_is_chosen_when_fp32_does_not_fit(tmp_path, monkeypatch) -> None:
    directory = tiny_models.build("llama", tmp_path)
    device = load.pick_device("cuda")
    net = load.network(load._boot(Located("llama", directory, "test"), device, torch.bfloat16), device, torch.bfloat16)
    ids = tiny_models.ids(net.d_vocab, N_TOKENS, seed=3)[None]
    warnings, noise_kl = load.check(net, ids, "llama")
    assert warnings == () and 1e-7 < noise_kl < 0.1


def test_two_readings_side_by_side_agree_with_the_cpu(engines) -> None:
    prompt = tiny_models.TEXT[0]
    ours, theirs = both(engines, TakeComparison(Read(prompt, "drop 2"), Read(prompt, "swap 3 4; head-off 1.0")))
    assert ours.pairs == theirs.pairs
    for name in ("kl_nats", "resid_rel", "resid_cos", "effect_kl_nats", "effect_entropy_bits"):
        near(getattr(ours, name), getattr(theirs, name), name)


def test_greedy_texts_and_their_numbers_agree_with_the_cpu(engines) -> None:
    """As far as they are the same words: a near tie may be decided otherwise."""
    schedules = ("drop 2", "repeat 3 x2", "parallel 1-3", "attn-off 1 @-1")
    ours, theirs = both(engines, Generate(tiny_models.TEXT[0], schedules, 12))
    for text in range(len(ours.schedules)):
        apart = np.flatnonzero(ours.ids[text] != theirs.ids[text])
        alike = slice(0, apart[0] + 1 if len(apart) else None)
        assert alike.stop != 1
        for name in ("entropy_bits", "base_entropy_bits", "kl_nats"):
            near(getattr(ours, name)[text, alike], getattr(theirs, name)[text, alike], name)


def test_a_seed_draws_the_same_on_either_device(engines) -> None:
    ours, theirs = both(engines, Generate(tiny_models.TEXT[0], (), 3, temperature=1.0, seed=5))
    assert ours.ids.tolist() == theirs.ids.tolist()


def test_one_model_on_two_devices_is_compared_and_is_one(engines) -> None:
    read = Read(tiny_models.TEXT[0], "drop 2")
    found = comparison.between(engines["cuda"], read, engines["cpu"], read)
    assert np.nanmax(np.abs(found.kl_nats)) < 1e-4 and np.nanmax(np.abs(found.effect_kl_nats)) < 1e-4
    assert np.isnan(found.resid_rel).all()  # of two networks, which have bases of their own


def test_a_session_of_the_cpu_is_run_again_within_what_is_stated(engines, home) -> None:
    """Recorded there, replayed here: replay.OTHER_DEVICE."""
    cpu, prompt = engines["cpu"], tiny_models.TEXT[0]
    recording = files.begin(cpu.request, cpu.info)
    recording.write({"event": "model", "load": plain_data(cpu.request), "model": report.model_json(cpu.info)})
    for schedule in ("", "drop 2", "swap 3 4"):
        *_, reading = cpu.answer(request := Read(prompt, schedule, part="whole"))
        numbers = short.of_reading(reading, -1)
        recording.write({"event": "reading", "request": plain_data(request), "position": -1, "numbers": numbers})
    recording.let_go()
    *_, found = replay.replay(files.read(recording.path), LocalEngine(), {"device": "cuda"})
    assert found.numbers > 100 and found.differences == ()
    assert any("device" in remark for remark in found.remarks)
