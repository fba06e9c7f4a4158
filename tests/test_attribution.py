"""Direct logit attribution against plain transformers, and self-repair by a backup that was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
import tiny_models
import torch
from reference import Place
from test_readings_right import N_TOKENS, Both, close, fresh_prompt, make, order
from transformers import AutoModelForCausalLM

from stagescope.engine import attribution, outcomes
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import (
    Attribution,
    Load,
    Progress,
    Read,
    TakeAttribution,
)
from stagescope.engine.question import Question
from stagescope.engine.schedule import parse, resolve

SCHEDULES = {
    "": order(0, 1, 2, 3, 4, 5),
    "drop 2": order(0, 1, 3, 4, 5),
    "attn-off 1; swap 3 4": [Place(0), Place(1, attn_on=False), *order(2, 4, 3, 5)],
    "parallel 2-3; repeat 5": [*order(0, 1), order(2, 3), *order(4, 5, 5)],
    "drop 0-5": [],
}


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox", "phi", "llama", "olmo2", "gemma3", "capped"])
def both(request, tmp_path_factory) -> Both:
    """phi has a bias on its unembedding; "capped" is gemma3 with a soft cap, which must not be seen."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param != "capped":
        return make(request.param, directory)
    with pytest.MonkeyPatch.context() as patch:
        build = tiny_models.build
        patch.setattr(tiny_models, "build", lambda *given: build(*given, final_logit_softcapping=5.0))
        return make("gemma3", directory)


def take(both: Both, schedule: str = "", tracked: int | None = None, step=lambda fraction: None) -> Attribution:
    parsed, n = parse(schedule), both.net.n_layers
    plan = resolve(parsed, n, parallel_blocks=both.net.parallel, n_positions=len(both.ids))
    asked = Question(Read("x", schedule), tuple(both.ids.tolist()), parsed, plan, len(both.ids) - 1, n)
    request = TakeAttribution("x", schedule, tracked)
    info, load = replace(both.info, d_vocab=both.net.d_vocab), Load(cache=False)
    return attribution.take(both.net, info, load, both.prompt, request, asked, None, step)


@torch.no_grad()
def by_definition(both: Both, places, tracked: np.ndarray, base: reference.RunResult) -> dict[str, np.ndarray]:
    """The parts of the logits of `tracked`, and those logits, from plain transformers, in float64."""
    model, run = both.model, reference.run(both.model, both.ids, places)
    head, norm = model.get_output_embeddings(), reference.final_norm(model)
    is_layer_norm = reference.family(model) in reference.LAYER_NORM
    weight = head.weight.double() - head.weight.double().mean(0)
    rows = weight[torch.tensor(tracked, dtype=torch.int64)]
    scale = reference.final_scale(model, base.residuals[-1])

    def effect(written: torch.Tensor) -> np.ndarray:
        written = reference.centred(written.double()) if is_layer_norm else written.double()
        return ((written / scale * reference.final_gain(model)) * rows).sum(-1).numpy()

    logits = run.logits.double()
    if cap := reference.softcap(model):
        logits = cap * torch.atanh(logits / cap)
    constant = (rows @ norm.bias.double()) if is_layer_norm else torch.zeros(len(rows))
    if head.bias is not None:
        constant = constant + head.bias.double()[tracked] - head.bias.double().mean()
    return {
        "logit": (logits - logits.mean(-1, keepdim=True))[torch.arange(len(rows)), tracked].numpy(),
        "constant": constant.numpy(),
        "embedding": effect(run.residuals[0]),
        "attn": np.array([effect(written) for written in run.attn]).reshape(-1, len(rows)),
        "mlp": np.array([effect(written) for written in run.mlp]).reshape(-1, len(rows)),
    }


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_part_is_that_of_its_definition_and_they_add_up(both: Both, schedule: str) -> None:
    found = take(both, schedule)
    base = reference.run(both.model, both.ids)
    assert found.tracked.tolist() == base.logits.argmax(-1).tolist()
    theirs = by_definition(both, SCHEDULES[schedule], found.tracked, base)
    assert np.isnan(found.attn[0]).all() and np.isnan(found.mlp[0]).all()
    for name, expected in theirs.items():
        ours = getattr(found, name)
        close(ours[1:] if name in ("attn", "mlp") else ours, expected, rtol=5e-4, atol=2e-4)
    written = np.nansum(found.attn, 0) + np.nansum(found.mlp, 0)
    total = found.constant + found.embedding + written + found.scale
    np.testing.assert_allclose(total, found.logit, rtol=1e-4, atol=1e-4)
    if not schedule:
        assert found.baseline is None and not found.scale.any() and not found.self_repair().any()
        return
    assert np.abs(found.scale).max() > 1e-3 and found.baseline.schedule == ""
    for name, expected in by_definition(both, None, found.tracked, base).items():
        ours = getattr(found.baseline, name)
        close(ours[1:] if name in ("attn", "mlp") else ours, expected, rtol=5e-4, atol=2e-4)
    # an effect is that of its layer: what by_layer tells is what was written, copies together
    np.testing.assert_allclose(found.by_layer().sum((0, 1)), written, atol=1e-9)


def test_a_token_that_is_asked_for_is_followed_in_pieces_or_not(both: Both, monkeypatch) -> None:
    told: list[float] = []
    found, base = take(both, "drop 2", tracked=7, step=told.append), reference.run(both.model, both.ids)
    assert set(found.tracked) == {7} and found.texts.keys() == {7}
    expected = by_definition(both, SCHEDULES["drop 2"], found.tracked, base)["logit"]
    close(found.logit, expected, rtol=5e-4, atol=2e-4)
    assert told == sorted(told) and 0 <= told[0] and told[-1] <= 1
    monkeypatch.setattr(attribution, "VOCABULARY_CHUNK", 50 * both.net.d_model)
    monkeypatch.setitem(outcomes.LOGITS, "cpu", 2)
    whole, pieces = take(both, "drop 2", tracked=7), take(both)
    np.testing.assert_allclose(whole.attn, found.attn, atol=1e-9)
    assert pieces.tracked.tolist() == take(both).tracked.tolist() and len(pieces.tracked) == N_TOKENS


@pytest.mark.parametrize(
    ("schedule", "attn", "mlp"),
    [
        ("", [], []),
        ("drop 2", [2], [2]),
        ("drop 2 @3", [2], [2]),
        ("attn-off 1; mlp-off 4 mean", [1], [4]),
        ("head-off 1.0; neuron-off 4.3 5.0", [1], [4, 5]),
        ("swap 1 4", [1, 4], [1, 4]),  # 2 and 3 stand where they stood
        ("drop 0; swap 3 4", [0, 3, 4], [0, 3, 4]),
        ("repeat 2-3", [2, 3], [2, 3]),
        ("parallel 3-4", [3, 4], [3, 4]),
        ("middle-repeat 1", [1, 3], [1, 3]),
        ("drop 0-5", [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_what_a_schedule_changes_itself(schedule: str, attn: list[int], mlp: list[int]) -> None:
    found = attribution.edited(resolve(parse(schedule), 6, n_positions=9, n_heads=4, d_mlp=128), 6, 9)
    assert [np.flatnonzero(column.any(1)).tolist() for column in found.swapaxes(0, 1)] == [attn, mlp]
    where = [3] if "@3" in schedule else list(range(9)) if schedule else []
    assert np.flatnonzero(found.any((0, 1))).tolist() == where


# --------------------------------------------------------------------------------------------- self-repair


HEAD, BACKUP, TOKEN = 1.0, 0.6, 7  # what the head writes along coordinate 1; the backup, if it does not; read by TOKEN


@pytest.fixture(scope="module", params=[BACKUP, 0.0])
def planted(request, tmp_path_factory) -> tuple[float, Both]:
    """Every token is (1, 0, ...). The head of layer 0 adds HEAD to coordinate 1. A gated neuron of layer 1 opens where
    coordinate 0 is more than twice coordinate 1, so without the head alone, and adds the backup there. Nothing else."""
    directory = tmp_path_factory.mktemp("planted")
    both = make("llama", directory)
    model, backup = both.model, request.param
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[TOKEN, 1] = 1.0
        head, mlp = model.model.layers[0].self_attn, model.model.layers[1].mlp
        head.v_proj.weight[0, 0], head.o_proj.weight[1, 0] = 1 / 8, HEAD  # 1 over its rms is 8, of 64 coordinates
        mlp.gate_proj.weight[0, :2] = torch.tensor([10.0, -20.0])
        mlp.up_proj.weight[0, 0] = 1.0
        mlp.down_proj.weight[1, 0] = backup / (80 * 8)  # gate, silu of 80, times up
    model.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()
    net = loaded(directory).net
    return backup, Both("llama", model, net, both.info, both.ids, fresh_prompt(net, both.ids))


def loaded(directory) -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), device="cpu", bos="none")):
        pass
    return engine


@pytest.mark.parametrize("schedule", ["attn-off 0", "head-off 0.0"])  # of four heads only this one writes
def test_a_planted_backup_is_the_self_repair(planted: tuple[float, Both], schedule: str) -> None:
    backup, both = planted
    found = take(both, schedule, tracked=TOKEN)
    rms = [np.sqrt((1 + along**2) / 64) for along in (HEAD, backup)]  # of the baseline's and of the edited stream
    one = 1 - 1 / both.net.d_vocab  # of TOKEN's row less the mean over the vocabulary
    changes = found.changes()
    close(found.baseline.logit, np.full(N_TOKENS, HEAD * one / rms[0]))
    close(changes[0, 0], np.full(N_TOKENS, -HEAD * one / rms[0]))
    close(changes[1, 1], np.full(N_TOKENS, backup * one / rms[0]))
    close(found.scale, np.full(N_TOKENS, backup * one * (1 / rms[1] - 1 / rms[0])))
    close(found.self_repair(), np.full(N_TOKENS, backup * one / rms[1]))  # and without a backup there is none
    changes[0, 0] = changes[1, 1] = 0
    assert not changes.any() and np.argwhere(found.edited.all(-1)).tolist() == [[0, 0]]


# --------------------------------------------------------------------------------------- asked, recalled


@pytest.mark.usefixtures("home")
def test_an_answer_is_kept_with_its_baseline_for_the_same_question_alone(tmp_path) -> None:
    engine = loaded(tiny_models.build("llama", tmp_path))

    def asked(*given) -> Attribution:
        *before, found = engine.answer(TakeAttribution("the quick brown fox", *given))
        assert all(isinstance(reply, Progress) for reply in before)
        return found

    found = asked("mlp-off 3 mean; drop 1-2")
    same = asked("drop 2; drop 1; mlp-off 3 mean")
    assert not found.cached and same.cached and same.schedule == "drop 1-2; mlp-off 3 mean" != found.schedule
    assert np.array_equal(same.mlp, found.mlp, equal_nan=True) and same.texts == found.texts
    assert np.array_equal(same.self_repair(), found.self_repair()) and same.edited.tolist() == found.edited.tolist()
    assert not asked("drop 1-2").cached and not asked("drop 1-2", 5).cached and not asked().cached
    assert asked().cached and asked().baseline is None
