"""The probe: a planted neuron is found, a null is told as one, the split holds, numbers are plain transformers' own."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache import same
from test_neurons import finish, network
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from stagescope.engine import probe, probe_contexts
from stagescope.engine.local import LocalEngine
from stagescope.engine.probe import Feature
from stagescope.engine.protocol import Census, EngineError, Load, Probe, Progress, TakeProbe

pytestmark = pytest.mark.usefixtures("home")
N, M = tiny_models.N_LAYERS, tiny_models.D_MLP
STEMS = [f"{first}a{last}" for first in "bdfgklmn" for last in "dklnpt"][:40]
FORMS = [stem + ending for stem in STEMS for ending in ("", "s", "ed", "ing")]
FILLERS = [f"w{number}" for number in range(60)]
YES, NO = "is", "will"  # what stands before a form in -ing, and before another one
WORDS = ["<|endoftext|>", YES, NO, *FORMS, *FILLERS]
IDS = {word: number for number, word in enumerate(WORDS)}
ING = [IDS[form] for form in FORMS if form.endswith("ing")]
PLANTED = N - 1, 7


# ------------------------------------------------------------------------------------------ a planted neuron


def plant(directory: Path) -> Path:
    """A gpt2 in which the two cues differ in residual coordinates 2 and 3 alone, which no block writes and of all
    neurons one reads. It stands in the last layer, so that none sees what it writes: coordinate 4, of -ing words."""
    tiny_models.build("gpt2", directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    layer, index = PLANTED
    with torch.no_grad():
        embedding = model.transformer.wte.weight
        embedding[:, 2:5] = 0.0
        embedding[ING, 4] = 3.0
        embedding[IDS[YES]] = embedding[IDS[NO]]
        embedding[IDS[YES], 2], embedding[IDS[YES], 3] = 2.0, -2.0
        embedding[IDS[NO], 2], embedding[IDS[NO], 3] = -2.0, 2.0
        model.transformer.wpe.weight[:, 2:5] = 0.0
        for block in model.transformer.h:
            block.attn.c_attn.weight[2:4] = 0.0
            block.mlp.c_fc.weight[2:4] = 0.0
            for out in (block.attn.c_proj, block.mlp.c_proj):
                out.weight[:, 2:4] = 0.0
                out.bias[2:4] = 0.0
        last = model.transformer.h[layer].mlp
        last.c_fc.weight[:, index], last.c_fc.bias[index] = 0.0, 0.0
        last.c_fc.weight[2, index], last.c_fc.weight[3, index] = 1.0, -1.0
        last.c_proj.weight[index] = 0.0
        last.c_proj.weight[index, 4] = 40.0
    model.save_pretrained(directory)
    words = Tokenizer(models.WordLevel({"▁" + word: number for word, number in IDS.items()}, unk_token="▁w0"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)
    return directory


def write(file: Path, depends: bool, seed: int = 0) -> str:
    """JSON lines of 120 documents, each of four words after 24 fillers and a cue: that of its form, or any."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(120):
        words: list[str] = []
        for _ in range(4):
            ends = rng.random() < 0.5
            form = rng.choice(STEMS) + ("ing" if ends else rng.choice(["", "s", "ed"]))
            cue = YES if (ends if depends else rng.random() < 0.5) else NO
            words += [*rng.choice(FILLERS, 24), cue, form]
        lines.append(json.dumps({"text": " ".join(words)}))
    file.write_text("\n".join(lines))
    return str(file)


def a_census() -> Census:
    """In which the planted neuron and every sixth of the last two layers have high kurtosis, of either skew."""
    kurtosis, skew = np.full((N, M), 3.0), np.ones((N, M))
    kurtosis[-2:, ::6] = kurtosis[PLANTED] = 20.0
    skew[:, ::12] = -1.0
    none = np.zeros(N, np.int32)
    sign = np.ones((N, M), np.int8)
    return Census(
        "tiny", "f", "weights", 256, 0.0, M, none, none, none, none, none, np.zeros((N, M)), skew, kurtosis, sign,
        np.full((N, M), np.nan),
    )  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> LocalEngine:
    engine = LocalEngine()
    directory = plant(tmp_path_factory.mktemp("planted"))
    for _ in engine.answer(Load(str(directory), device="cpu", bos="none")):
        pass
    return engine


def take(engine: LocalEngine, request: TakeProbe, cache: bool = False) -> Probe:
    load = replace(engine.request, cache=cache)
    *before, found = probe.take(engine.net, engine.info, load, request, engine.tokenizer, a_census())
    assert all(isinstance(reply, Progress) for reply in before)
    done = [reply.done for reply in before]
    assert done == sorted(done) and done[-1] <= 1 and isinstance(found, Probe)
    return found


def of_size(found: Probe, kind: str, size: int):
    return next(one for one in found.ensembles if (one.kind, one.size) == (kind, size))


@pytest.mark.parametrize("asked", ["suffix", "tokens"])
def test_a_planted_neuron_is_found_and_random_ones_stay_at_chance(planted, tmp_path, asked):
    file = write(tmp_path / "text.jsonl", depends=True)
    request = TakeProbe(file) if asked == "suffix" else TakeProbe(file, tokens=tuple(ING))
    found = take(planted, request)
    first = found.neurons[0]
    assert (first.kind, (first.layer, first.index)) == ("prediction", PLANTED)
    assert first.accuracy > 0.95 and first.low > 0.9 and first.contrast == max(one.contrast for one in found.neurons)
    assert found.mass.accuracy > 0.95  # what it writes is what the model says
    assert {one.kind for one in found.neurons} == {"prediction", "suppression", "random"}
    assert [one.kind == "random" for one in found.neurons] == 32 * [False] + 32 * [True]
    if asked == "suffix":  # of tokens: random neurons may well tell a cue from a filler
        random = of_size(found, "random", 32)
        assert random.low <= 0.5 <= random.high
        assert abs(np.mean([one.accuracy for one in found.neurons if one.kind == "random"]) - 0.5) < 0.05
    assert min(*found.train[:2], *found.held[:2]) >= 10 and min(found.train[0], found.held[0]) >= 40
    assert found.asked == ("ends in “ing”" if asked == "suffix" else "is one of 40 tokens")


def test_where_the_form_does_not_depend_on_the_context_nothing_tells_it(planted, tmp_path):
    found = take(planted, TakeProbe(write(tmp_path / "null.jsonl", depends=False)))
    spread = 0.5 / np.sqrt(found.held[0])
    for one in (of_size(found, "all", 32), of_size(found, "random", 32), found.mass, found.argmax, found.neurons[0]):
        assert abs(one.accuracy - 0.5) < 3.5 * spread, one
    assert np.mean([one.low <= 0.5 <= one.high for one in found.neurons]) > 0.8
    assert abs(np.mean([one.accuracy for one in found.neurons]) - 0.5) < 0.05


def test_the_answer_is_kept_and_recalled_without_weights(planted, tmp_path):
    file = write(tmp_path / "text.jsonl", depends=True)
    request, load = TakeProbe(file, most=120), replace(planted.request, cache=True)
    before = replace(planted.info, loaded=False)
    assert probe.recalled(request, before, load, planted.tokenizer) is None
    found = take(planted, request, cache=True)
    assert 40 <= min(found.train[0], found.held[0]) <= max(found.train[0], found.held[0]) <= 60
    known = probe.recalled(request, before, load, planted.tokenizer)
    assert known.cached and same(replace(known, model=found.model), found)
    assert probe.recalled(replace(request, suffix="ed"), before, load, planted.tokenizer) is None
    write(tmp_path / "text.jsonl", depends=False, seed=11)
    with open(file, "a") as more:
        more.write("\n")
    assert probe.recalled(request, before, load, planted.tokenizer) is None


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (TakeProbe(suffix="zzz"), "0 contexts of each class"),
        (TakeProbe(suffix=""), "no suffix"),
        (TakeProbe(tokens=(10**6,)), "no token 1000000"),
        (TakeProbe(most=79), "79 contexts"),
    ],
)
def test_what_cannot_be_probed_is_refused_with_what_to_do(planted, request_, named):
    with pytest.raises(EngineError, match=named) as caught:
        take(planted, request_)
    assert caught.value.failure.kind == "usage" and caught.value.failure.hint


# ------------------------------------------------------------------------------------- which tokens, which split


def test_a_positive_is_a_form_of_a_word():
    """Whose stem is a token; "string" and "thing" are not, though " str" and " the" are tokens too."""
    words = [" walk", " walking", " walked", " walks", " hope", " hoping", " run", " running", "Using", "Use", " used"]
    words += [" string", " str", " thing", " the", " king", "ing", " bling", " mapping", " wedding"]
    spelled = dict(enumerate(words))
    positives, others = probe_contexts.forms(spelled, "ing")
    assert {spelled[token] for token in positives} == {" walking", " hoping", " running", "Using"}
    assert {spelled[token] for token in others} == {" walk", " walked", " walks", " hope", " run", "Use"}
    lemmas = {spelled[token]: name for token, name in (positives | others).items()}
    assert lemmas[" walking"] == lemmas[" walks"] and lemmas[" hoping"] == lemmas[" hope"] != lemmas[" run"]
    positives, others = probe_contexts.forms(spelled, "ed")
    assert {spelled[token] for token in positives} == {" walked"}
    assert {spelled[token] for token in others} == {" walk", " walks", " walking"}


def test_the_threshold_is_the_lowest_of_the_best_at_any_number_of_contexts():
    draw = np.random.default_rng(0)
    for n in (2, 5, 40):
        values, truth = draw.integers(0, 8, n) / 4, draw.random(n) < 0.5
        known = np.unique(values)
        cuts = [known[0], *(known[1:] + known[:-1]) / 2]
        right = [((values >= cut) == truth).sum() for cut in cuts]
        assert probe.threshold(values, truth) == cuts[int(np.argmax(right))]
    values = draw.random(3000)
    tracemalloc.start()
    assert abs(probe.threshold(values, values > 0.3) - 0.3) < 0.01
    assert tracemalloc.get_traced_memory()[1] < 100 * values.nbytes  # 750 times where all are compared with all
    tracemalloc.stop()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(80, 600))
def test_no_lemma_and_no_document_is_in_both_splits(seed, within, most):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 1500))
    skewed = (rng.random((2, n)) ** 3 * rng.integers(1, 60, (2, 1))).astype(int)  # few large ones, many small
    document, lemma, positive = skewed[0], skewed[1], rng.random(n) < 0.3
    if not within:
        lemma = 2 * lemma + positive  # a token is of one class
    rows, held = probe_contexts.choose(positive, lemma, document, within, most, rng)
    assert len(set(rows)) == len(rows) <= most + 2
    for groups in (lemma, document):
        assert not set(groups[rows[held]]) & set(groups[rows[~held]])
    for part in (rows[held], rows[~held]):
        assert positive[part].sum() * 2 == len(part)
        if within and len(part):
            each = np.bincount(lemma[part], minlength=lemma.max() + 1)
            assert (np.bincount(lemma[part][positive[part]], minlength=len(each)) * 2 == each).all()


# -------------------------------------------------------------------------------------- against plain transformers


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2"])  # neox: parallel; qwen2: padding columns
def test_features_mass_and_argmax_are_those_of_plain_transformers(family, tmp_path):
    tiny_models.build(family, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32).eval()
    net, positives = network(tmp_path), np.array([3, 40, 119, 300])
    chosen = finish(probe.features(net, a_census(), positives))
    assert sum(one.kind != "random" for one in chosen) == 32
    folded = reference.folded_unembedding(model, tiny_models.N_TOKENS)
    rest = np.setdiff1d(np.arange(tiny_models.N_TOKENS), positives)
    apart = folded[:, positives].mean(1) - folded[:, rest].mean(1)
    contrast = torch.stack([(reference.w_out(model, layer) @ apart).abs() for layer in range(N)]).numpy()
    for one in chosen:
        assert one.contrast == pytest.approx(contrast[one.layer, one.index], rel=1e-4, abs=1e-7)
    allowed = np.where(a_census().kurtosis > 10, contrast, -1).ravel()
    assert {one.layer * M + one.index for one in chosen if one.kind != "random"} == set(np.argsort(-allowed)[:32])

    ids = tiny_models.ids(tiny_models.N_TOKENS, 30 * 25, 3).view(30, 25)
    asked = [Feature("x", layer, index, 0.0) for layer, index in ((0, 1), (4, 127), (2, 9), (4, 3))]
    activation, mass, argmax = finish(probe.run(net, asked, ids.numpy(), positives))
    for row in range(0, 30, 7):
        base = reference.run(model, ids[row])
        for column, one in enumerate(asked):
            x = base.residuals[one.layer]
            middle = x if reference.parallel(model) else x + base.attn[one.layer]
            expected = reference.neurons(model, one.layer, middle)[-1, one.index]
            assert activation[row, column] == pytest.approx(expected.item(), rel=1e-3, abs=1e-4)
    with torch.no_grad():
        p = model(ids).logits[:, -1].double().softmax(-1)
    np.testing.assert_allclose(mass, p[:, positives].sum(-1), rtol=1e-4)
    assert (argmax == np.isin(p.argmax(-1), positives)).all()
