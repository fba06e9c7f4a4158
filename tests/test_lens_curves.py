"""The lens by depth at one position: against the definition on plain transformers, edited, recalled, and arrivals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference
import tiny_models
import torch
from failures import failure
from test_readings_right import Both, close, fresh_prompt, make

from stagescope.engine import lens_curves, reading, runner
from stagescope.engine.fake import FakeEngine
from stagescope.engine.fake_findings import lens_curves as fake_curves
from stagescope.engine.lens_curves import arrival
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import LENSES, LensCurves, Load, TakeLens
from stagescope.engine.schedule import parse, resolve

FOLLOWED = (7, 120, 300)
AT = 6


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox", "llama"])
def both(request, tmp_path_factory) -> Both:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def take(both: Both, schedule: str = "", tokens=FOLLOWED, **how) -> LensCurves:
    parsed = parse(schedule)
    plan = resolve(parsed, both.net.n_layers, parallel_blocks=both.net.parallel, n_positions=len(both.ids))
    request = TakeLens("x", schedule, AT, tuple(tokens))
    return lens_curves.take(both.net, both.info, both.prompt, request, str(parsed), plan, AT, **how)


def plain_streams(both: Both) -> list[torch.Tensor]:
    """x_0 .. x_L at AT by plain transformers. hidden_states[-1] is normed already: x_L is what the final norm took."""
    taken = []
    handle = reference.final_norm(both.model).register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        output = both.model(both.ids[None], output_hidden_states=True)
    handle.remove()
    assert torch.allclose(reference.final_norm(both.model)(taken[0]), output.hidden_states[-1], atol=1e-5)
    return [x[0, AT] for x in (*output.hidden_states[:-1], taken[0])]


@torch.no_grad()
def v1_logits(model, x: torch.Tensor, x_final: torch.Tensor) -> torch.Tensor:
    x = reference.centred(x.double()) if reference.family(model) in reference.LAYER_NORM else x.double()
    scaled = x / reference.final_scale(model, x_final) * reference.final_gain(model)
    return scaled @ model.get_output_embeddings().weight.double().T


def test_all_numbers_of_plain_runs_are_those_of_the_definition(both: Both) -> None:
    curves, streams, followed = take(both), plain_streams(both), list(FOLLOWED)
    assert curves.layers == ((), *((layer,) for layer in range(6))) and curves.position == AT
    final = reference.lens_logits(both.model, streams[-1]).log_softmax(-1)
    for depth, x in enumerate(streams):
        logits = (reference.lens_logits(both.model, x), v1_logits(both.model, x, streams[-1]))
        for lens, of in enumerate(logits):
            logp = of.log_softmax(-1)
            close(curves.entropy_bits[lens, depth], reference.entropy_bits(logp))
            close(curves.kl_final_nats[lens, depth], reference.kl_nats(final, logp))
            close(curves.p[lens, depth], logp[followed].exp())
            assert curves.rank[lens, depth].tolist() == [int((of > of[token]).sum()) + 1 for token in followed]
            assert curves.top_ids[lens, depth] == of.argmax()
            # a difference of two logits is the log of the tokens' odds, under either lens
            ours, theirs = curves.logit[lens, depth], of[followed]
            close(ours[0] - ours[1], theirs[0] - theirs[1])
            close(ours[0] - ours[2], np.log(curves.p[lens, depth, 0] / curves.p[lens, depth, 2]))


def test_the_last_depth_of_the_corrected_lens_is_the_output(both: Both) -> None:
    with torch.no_grad():
        output = both.model(both.ids[None]).logits[0, AT].double().log_softmax(-1)
    curves = take(both)
    close(curves.entropy_bits[0, -1], reference.entropy_bits(output))
    close(curves.p[0, -1], output[list(FOLLOWED)].exp())
    assert curves.kl_final_nats[0, -1] < 1e-6 and curves.top_ids[0, -1] == output.argmax()


@pytest.mark.parametrize("schedule", ["drop 2", "swap 1 4", "parallel 2-4", "attn-off 3 @4-5", "drop 0-5"])
def test_edited_runs_agree_with_their_readings(both: Both, schedule: str) -> None:
    curves = take(both, schedule)
    for lens, name in enumerate(LENSES):
        for column, token in enumerate(FOLLOWED):
            read = both.read(schedule, lens=name, tracked=token)
            close(curves.entropy_bits[lens], read.entropy_bits[:, AT])
            close(curves.kl_final_nats[lens], read.kl_final_nats[:, AT], atol=1e-4)
            close(curves.p[lens, :, column], read.tracked_p[:, AT])
            assert (curves.rank[lens, :, column] == read.tracked_rank[:, AT]).all()
        assert (curves.top_ids[lens] == read.top_ids[:, AT, 0]).all() and curves.layers == read.layers


def test_what_ran_is_not_run_again_and_depths_in_pieces_are_the_same(both: Both, monkeypatch) -> None:
    both.prompt = fresh_prompt(both.net, both.ids)
    both.read("drop 3")
    told, ran = [], []
    monkeypatch.setattr(runner, "_pass", lambda *_arguments: ran.append(1))
    whole = take(both, "drop 3", checkpoint=told.append)
    assert not ran and 0 <= told[0] <= 1
    monkeypatch.setitem(reading.CHUNK, "cpu", 2 * 2 * both.net.d_vocab)
    pieces = take(both, "drop 3", checkpoint=told.append)
    for name in ("entropy_bits", "kl_final_nats", "p", "logit"):
        close(getattr(pieces, name), getattr(whole, name))
    assert told == sorted(told[:1]) + told[1:] and len(told) == 1 + 3  # 6 depths, 2 at a time


def test_nothing_followed_is_an_answer_too(both: Both) -> None:
    curves = take(both, tokens=())
    assert curves.rank.shape == (2, 7, 0) and set(curves.top_ids.flatten().tolist()) <= set(curves.texts)


# ------------------------------------------------------------------------------------------------- arrival


def test_a_token_arrives_where_it_stays() -> None:
    rank = np.array([[1, 9, 4, 1, 12, 8, 1, 1], [1] * 8, [3, 1, 1, 1, 1, 1, 1, 2], [50] * 8, [np.nan] * 8]).T
    curves = fake_curves(FakeEngine(n_layers=7).info, TakeLens("x"), FakeEngine().tokenize("x"), {1: "a"})
    curves = LensCurves(**{**vars(curves), "rank": np.stack([rank, np.full_like(rank, 11)])})
    assert [arrival(curves, 0, token) for token in range(5)] == [6, 0, None, None, None]
    assert [arrival(curves, 0, token, within=10) for token in range(5)] == [5, 0, 0, None, None]
    assert arrival(curves, 1, 0, within=10) is None and arrival(curves, 1, 0, within=11) == 0


# --------------------------------------------------------------------------------------- settled, recalled


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> LocalEngine:
    directory: Path = tiny_models.build("llama", tmp_path_factory.mktemp("cached"))
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), device="cpu", bos="none")):
        pass
    return engine


TEXT = "the quick brown fox"


def test_what_cannot_be_followed_is_refused(engine) -> None:
    def refused(request: TakeLens):
        return failure(list, engine.answer(request))

    why = refused(TakeLens(TEXT, tokens=(3, 320)))
    assert why.kind == "usage" and "320" in why.message and "319" in why.hint
    for wrong in (TakeLens(TEXT, tokens=(-1,)), TakeLens(TEXT, "drop 6"), TakeLens(TEXT, position=99)):
        assert refused(wrong).kind == "usage"


@pytest.mark.usefixtures("home")
def test_curves_are_recalled_for_the_same_question_alone(engine) -> None:
    def asked(request: TakeLens) -> LensCurves:
        return list(engine.answer(request))[-1]

    curves = asked(TakeLens(TEXT, "drop 1-2", 2, (5,)))
    n = len(curves.tokens)
    same = asked(TakeLens(TEXT, "drop 2; drop 1", 2 - n, (5,)))
    assert same.cached and same.schedule == "drop 1-2" and same.followed == curves.followed and same.position == 2
    assert np.array_equal(same.rank, curves.rank) and same.texts == curves.texts
    for other in (
        TakeLens(TEXT, "drop 1-2", 2), TakeLens(TEXT, "drop 1-2", 3, (5,)), TakeLens(TEXT, "drop 1", 2, (5,)),
        TakeLens("the quick red fox", "drop 1-2", 2, (5,)),
    ):  # fmt: skip
        assert not asked(other).cached
