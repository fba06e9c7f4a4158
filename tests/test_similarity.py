"""Block influence, angular distance and CKA against plain transformers and numpy; sampled, kept, left out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import tiny_models
import torch
from transformers import AutoModelForCausalLM

from stagescope.engine import blocks, pool, similarity
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import (
    EngineError,
    Load,
    Progress,
    Similarity,
    TakeSimilarity,
    Texts,
)
from stagescope.engine.tokens import encode

pytestmark = pytest.mark.usefixtures("home")
PROMPTS = (tiny_models.TEXT[0], tiny_models.TEXT[5][:24], tiny_models.TEXT[3])


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def loaded(request, tmp_path_factory) -> tuple[LocalEngine, torch.nn.Module]:
    directory: Path = tiny_models.build(request.param, tmp_path_factory.mktemp(request.param))
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), device="cpu", bos="<|endoftext|>")):
        pass
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)
    return engine, model.eval()


def take(engine: LocalEngine, texts: Texts, cache: bool = False) -> Similarity:
    load = replace(engine.request, cache=cache)
    *before, found = similarity.take(engine.net, engine.info, load, TakeSimilarity(texts), engine.tokenizer)
    done = [reply.done for reply in before]
    assert all(isinstance(reply, Progress) for reply in before) and done == sorted(done) and done[-1] <= 1
    return found


def plain_streams(engine: LocalEngine, model, text: str) -> np.ndarray:
    """[N, T, D] float64. hidden_states[-1] is normed already: x_L is what the final norm took."""
    taken, ids = [], torch.tensor([[0, *encode(engine.tokenizer, text, None)]])
    handle = reference.final_norm(model).register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    handle.remove()
    return torch.cat([*hidden[:-1], taken[0]]).double().numpy()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def hsic(a: np.ndarray, b: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, of [n, D] each, as it is printed."""
    n = len(a)
    k, l = (x @ x.T * (1 - np.eye(n)) for x in (a, b))
    whole = np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
    return whole / (n * (n - 3))


def by_equation(streams: np.ndarray) -> np.ndarray:
    found = np.array([[hsic(a, b) for b in streams] for a in streams])
    return found / np.sqrt(np.outer(found.diagonal(), found.diagonal()))


def cka(sample: np.ndarray) -> np.ndarray:
    steps = similarity.cka(SimpleNamespace(device=torch.device("cpu")), sample.astype(np.float32))
    while True:
        try:
            assert 0 <= next(steps) <= 1
        except StopIteration as ended:
            return ended.value


def test_every_number_is_that_of_its_definition(loaded, monkeypatch) -> None:
    engine, model = loaded
    monkeypatch.setattr(similarity, "ROWS", 5)
    found = take(engine, Texts(PROMPTS))
    streams = [plain_streams(engine, model, text) for text in PROMPTS]
    n_tokens = sum(x.shape[1] - 1 for x in streams)
    assert (found.documents, found.source) == (3, "3 prompts")
    assert found.tokens_scored == found.cka_tokens == n_tokens
    cosines = [(unit(x[:-1, 1:]) * unit(x[1:, 1:])).sum(-1) for x in streams]  # [L, T - 1]
    np.testing.assert_allclose(found.influence[:, 0], 1 - np.concatenate(cosines, 1).mean(1), rtol=1e-4, atol=1e-6)
    sums = np.array([part.sum(1) for part in cosines])
    high, low = pool.interval(sums, np.array([[part.shape[1]] * len(part) for part in cosines]))
    np.testing.assert_allclose(found.influence[:, 1:], 1 - np.stack([low, high], -1), rtol=1e-4, atol=1e-6)
    mean, low, high = found.influence.T
    assert (low <= mean).all() and (mean <= high).all()
    last = [unit(x[:, -1]) for x in streams]
    angles = np.mean([np.arccos(np.clip(x @ x.T, -1, 1)) for x in last], 0) / np.pi
    np.testing.assert_allclose(found.angular, angles, atol=1e-5)
    assert not found.angular.diagonal().any()
    tokens = np.concatenate([x[:, 1:] for x in streams], 1)
    if engine.net.norm == "layer":
        tokens = tokens - tokens.mean(-1, keepdims=True)
    expected = by_equation(unit(tokens))
    np.testing.assert_allclose(found.cka, expected, rtol=1e-4, atol=1e-5)
    assert (found.cka.diagonal() == 1).all()


def test_one_token_of_a_huge_norm_is_not_all_that_cka_sees(loaded, monkeypatch) -> None:
    """As a second attention sink has: 183 times the median in the default model."""
    engine, run = loaded[0], blocks.block

    def block(net, begun, layer, x, **how):
        passed = run(net, begun, layer, x, **how)
        if layer == engine.net.n_layers - 1 and x.shape[1] > 20:
            passed.x[0, 5] *= 200
        return passed

    before = take(engine, Texts(PROMPTS))
    monkeypatch.setattr(blocks, "block", block)
    np.testing.assert_allclose(take(engine, Texts(PROMPTS)).cka, before.cka, atol=1e-4)


def test_one_document_has_no_interval_and_three_tokens_no_cka(loaded) -> None:
    found = take(loaded[0], Texts(("on",)))
    assert found.tokens_scored < 4 and np.isnan(found.cka).all() and np.isnan(found.influence[:, 1:]).all()
    assert np.isfinite(found.influence[:, 0]).all() and np.isfinite(found.angular).all()


# ------------------------------------------------------------------------------------------------------- CKA


def test_the_estimator_is_the_mean_over_all_quadruples() -> None:
    """The U-statistic that makes it unbiased: of every 4 different tokens k_ij (l_ij + l_qr - 2 l_iq)."""
    draw = np.random.default_rng(0)
    sample = np.stack([draw.normal(size=(6, 3)), draw.normal(size=(6, 3)) + 5])
    grams = [x @ x.T for x in sample]

    def mean(k: np.ndarray, l: np.ndarray) -> float:
        of = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
        return float(np.mean(of))

    own = [mean(k, k) for k in grams]
    expected = mean(*grams) / np.sqrt(own[0] * own[1])
    np.testing.assert_allclose(cka(sample)[0, 1], expected, rtol=1e-4)


def test_it_sees_neither_rotation_nor_scale_nor_shift_and_finds_nothing_in_noise() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(200, 40)) * np.linspace(0.1, 3, 40)
    turned = x @ np.linalg.qr(draw.normal(size=(40, 40)))[0]
    stretched, noise = x * np.linspace(3, 0.1, 40), draw.normal(size=(200, 40))
    found = cka(np.stack([x, turned, 1000 * turned + 700, stretched, noise, np.ones_like(x)]))
    np.testing.assert_allclose(found[:3, :3], 1, atol=1e-5)
    assert 0 < found[0, 3] < 0.9 and abs(found[0, 4]) < 0.05  # the biased one is 0.2 here
    assert np.isnan(found[5]).all() and np.isnan(found[:, 5]).all()  # every token the same


# ---------------------------------------------------------------------------------- sampled, kept, left out


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> LocalEngine:
    engine = LocalEngine()
    directory = tiny_models.build("llama", tmp_path_factory.mktemp("kept"))
    for _ in engine.answer(Load(str(directory), device="cpu", bos="none")):
        pass
    return engine


def test_long_texts_are_sampled_over_all_documents(engine, monkeypatch) -> None:
    monkeypatch.setattr(similarity, "MOST", 20)
    assert similarity.at_most(replace(engine.net, memory=8 * 4 * 7 * 64 * 10)) == 10  # an eighth of the memory
    found = take(engine, Texts(PROMPTS))
    assert found.cka_tokens == 20 < found.tokens_scored and np.isfinite(found.cka).all()
    priority, documents = np.full(20, np.inf), np.zeros(20, int)
    for number in range(1, 41):
        drawn = np.random.default_rng(number).random(30)
        slots, chosen = similarity._drawn(priority, drawn)
        priority[slots], documents[slots] = drawn[chosen], number
    assert len(set(documents)) > 12 and documents.min() < 20 < documents.max()  # not the first ones alone


def test_an_answer_is_kept_until_the_text_changes(engine, tmp_path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(tiny_models.TEXT))

    def asked(texts: Texts) -> Similarity:
        return list(engine.answer(TakeSimilarity(texts)))[-1]

    found, again = asked(Texts(file=str(file), window=32)), asked(Texts(file=str(file), window=32))
    assert found.documents > 1 and found.source.endswith("text.txt") and not found.cached and again.cached
    assert all(np.array_equal(getattr(again, name), getattr(found, name)) for name in ("influence", "angular", "cka"))
    assert not asked(Texts(file=str(file), window=16)).cached and not asked(Texts(file=str(file), tokens=40)).cached
    file.write_text(tiny_models.TEXT[0])
    assert not asked(Texts(file=str(file), window=32)).cached
    with pytest.raises(EngineError):
        asked(Texts(("the same", "the same")))


def test_a_text_that_changes_while_it_is_measured_is_measured_again(engine, tmp_path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(tiny_models.TEXT))
    request = TakeSimilarity(Texts(file=str(file), window=32))
    for reply in engine.answer(request):
        if isinstance(reply, Progress) and reply.done > similarity.OF_RUNS:  # read to its end
            file.write_text(tiny_models.TEXT[0])
    found = list(engine.answer(request))[-1]
    assert not found.cached and found.documents < reply.documents


def test_what_does_not_fit_is_left_out_by_name_and_not_kept(engine, monkeypatch) -> None:
    run, longest = blocks.block, len(encode(engine.tokenizer, PROMPTS[0], None))

    def block(net, begun, layer, x, **how):
        if layer == 3 and x.shape[1] == longest:
            raise MemoryError
        return run(net, begun, layer, x, **how)

    rest = take(engine, Texts(PROMPTS[1:]))
    monkeypatch.setattr(blocks, "block", block)
    found = take(engine, Texts(PROMPTS), cache=True)
    assert (found.documents, found.n_skipped) == (2, 1) and found.skipped[0].startswith("prompt 1: its")
    np.testing.assert_allclose(found.cka, rest.cka, atol=1e-5)
    np.testing.assert_allclose(found.influence[:, 0], rest.influence[:, 0])
    assert similarity.recalled(TakeSimilarity(Texts(PROMPTS)), engine.info, engine.request, engine.tokenizer) is None
    with pytest.raises(EngineError, match="ran out of memory"):
        take(engine, Texts(PROMPTS[:1]))
