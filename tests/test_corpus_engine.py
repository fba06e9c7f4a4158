"""The engine's answers to SweepCorpus: as the file says, before and after the weights, interrupted, from the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from stagescope.engine import averages, bookmark, pool
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import CorpusSweep, EngineError, Load, ModelInfo, Progress, SweepCorpus

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return tiny_models.build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def request_(tmp_path) -> SweepCorpus:
    file = tmp_path / "text"
    file.write_text(" ".join(tiny_models.TEXT * 2))
    return SweepCorpus(str(file), ("drop",), window=24)


def loaded(directory: Path, bos: str = "<|endoftext|>", **how) -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), device="cpu", bos=bos, **how)):
        pass
    return engine


def preview(directory: Path, bos: str = "<|endoftext|>", **how) -> LocalEngine:
    """An engine whose weights are still to come."""
    engine = LocalEngine()
    for reply in engine.answer(Load(str(directory), device="cpu", bos=bos, **how)):
        if isinstance(reply, ModelInfo):
            return engine


def answer(engine: LocalEngine, request: SweepCorpus) -> CorpusSweep:
    *progress, found = engine.answer(request)
    assert all(isinstance(reply, Progress) for reply in progress) and (found.cached or progress)
    return found


def same(one: CorpusSweep, other: CorpusSweep) -> bool:
    """To the last bit."""
    plain = ("rows", "documents", "tokens_scored", "notes", "skipped", "n_skipped", "n_cut", "source")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in pool.MEASURES
    )


def test_means_are_measured_on_a_text_first_and_only_once(directory, request_, monkeypatch):
    really, measured = averages.measure, []

    def counting(*given):
        measured.append(given)
        return really(*given)

    monkeypatch.setattr(averages, "measure", counting)
    engine, schedules = loaded(directory), ("drop 2", "drop 2 mean", "attn-off 3 mean")
    replies = list(engine.answer(replace(request_, schedules=schedules)))
    stages = list(dict.fromkeys(reply.stage for reply in replies[:-1]))
    assert len(stages) == 2 and stages[-1] == "sweep of a text" and len(measured) == 1
    found = replies[-1]
    assert [row.schedule for row in found.rows] == [*schedules] and len({*found.kl_nats[:, 0].tolist()}) == 3
    fresh = loaded(directory)
    assert same(answer(fresh, replace(request_, schedules=schedules)), found) and len(measured) == 1  # from the cache
    assert same(answer(loaded(directory, cache=False), replace(request_, schedules=schedules)), found)


@pytest.mark.parametrize("schedules", [(), ("drop 2 mean", "swap 1 2")])
def test_closed_and_asked_again_it_goes_on_to_the_same_numbers(directory, request_, schedules, monkeypatch):
    monkeypatch.setattr("stagescope.engine.corpus.TOGETHER", 3)
    request = replace(request_, schedules=schedules)
    straight = answer(loaded(directory, cache=False), request)
    assert not bookmark.folder().exists()
    begun = []
    for _ in range(10):
        replies, first = loaded(directory).answer(request), None
        for reply in replies:
            if isinstance(reply, CorpusSweep):
                break
            if reply.stage == "sweep of a text":
                first = reply.done if first is None else first
                if reply.done > first + 0.3:
                    break
        replies.close()
        if isinstance(reply, CorpusSweep):
            break
        begun.append(first)
    assert len(begun) > 1 and begun == sorted(set(begun))
    assert isinstance(reply, CorpusSweep) and not reply.cached and same(reply, straight)


def test_what_is_known_needs_no_weights(directory, request_):
    engine = loaded(directory)
    first = answer(engine, request_)
    assert not first.cached and first.model is engine.info
    for _ in range(2):
        again = answer(engine, request_)
        assert again.cached and same(again, first)
    early = preview(directory)
    (found,) = early.known(request_)
    assert found.cached and same(found, first) and early.net is None
    assert same(answer(early, request_), first) and early.net is None
    other = replace(request_, window=25)
    assert not early.known(other)
    with pytest.raises(EngineError, match="weights are not loaded"):
        list(early.answer(other))


def test_a_recalled_answer_is_of_the_model_as_it_ran(directory, request_):
    engine = loaded(directory, dtype="bfloat16")
    first = answer(engine, request_)
    engine.info = replace(engine.info, warnings=("it is odd.",))
    first = answer(engine, replace(request_, window=30))
    assert first.model.dtype == "bfloat16" and first.model.noise_kl > 0
    early = preview(directory, dtype="bfloat16")
    early.info = replace(early.info, name="by another name")
    (found,) = early.known(replace(request_, window=30))
    assert (early.info.dtype, early.info.loaded) == ("bfloat16", False) and np.isnan(early.info.noise_kl)  # before the weights
    model = found.model
    assert (model.dtype, model.device, model.noise_kl) == ("bfloat16", "cpu", first.model.noise_kl)
    assert (model.warnings, model.loaded, model.prefix) == (("it is odd.",), True, first.model.prefix)
    assert model.name == "by another name" and model.source == early.info.source


def test_another_prefix_is_never_recalled(directory, request_):
    """The prefix of a model outside the catalogue is not known before its weights."""
    none = answer(loaded(directory, "none"), request_)
    early = preview(directory, "auto")
    assert not early.certain and not early.known(request_)
    with pytest.raises(EngineError, match="weights are not loaded"):
        list(early.answer(request_))
    auto = answer(loaded(directory, "auto"), request_)
    assert not auto.cached and auto.model.prefix and not none.model.prefix
    assert same(auto, answer(loaded(directory, "auto", cache=False), request_))
    assert auto.kl_nats[0, 0] != none.kl_nats[0, 0] and auto.tokens_scored == none.tokens_scored
    assert same(*preview(directory, "none").known(request_), none)


def test_without_the_cache_nothing_is_kept_or_recalled(directory, request_):
    first = answer(loaded(directory, cache=False), request_)
    assert not bookmark.folder().exists()
    answer(loaded(directory), request_)
    assert not preview(directory, cache=False).known(request_)
    again = answer(loaded(directory, cache=False), request_)
    assert not again.cached and same(again, first)


@pytest.mark.parametrize("bos, cache", [("auto", True), ("none", True), ("none", False)])
def test_what_is_wrong_is_wrong_before_the_weights(directory, request_, bos, cache):
    for wrong in ({"kinds": ("trace",)}, {"schedules": ("drop 99",)}, {"kinds": ()}, {"tokens": 0}):
        engine = preview(directory, bos, cache=cache)
        for ask in (engine.known, lambda request, engine=engine: list(engine.answer(request))):
            with pytest.raises(EngineError) as refused:
                ask(replace(request_, **wrong))
            assert refused.value.failure.kind == "usage"


def test_a_kept_answer_is_read_once(directory, request_, monkeypatch):
    engine, really, read = loaded(directory), bookmark.get, []
    answer(engine, request_)

    def counting(name: str):
        found = really(name)
        read.extend([name] if found else [])
        return found

    monkeypatch.setattr(bookmark, "get", counting)
    assert answer(engine, request_).cached and len(read) == 1
    assert preview(directory).known(request_)[0].cached and len(read) == 2
