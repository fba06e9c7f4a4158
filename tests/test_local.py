"""The engine in this process: what it remembers, of what its answers depend, and what it lets go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models

from stagescope.engine import at_hand, question
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import EngineError, Load, Read, TakeCensus
from stagescope.engine.runner import _walk

pytestmark = pytest.mark.usefixtures("home")
TEXT = "the quick brown fox"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return tiny_models.build("llama", tmp_path_factory.mktemp("llama"))


def loaded(directory: Path, **how) -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), **{"device": "cpu", **how})):
        pass
    return engine


def last(engine: LocalEngine, request):
    return list(engine.answer(request))[-1]


def preview(directory: Path, **how) -> LocalEngine:
    """An engine that knows the model from its config, its weights still to come."""
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), **{"device": "cpu", **how})):
        if engine.info is not None:
            return engine


@pytest.mark.parametrize("cache", [True, False])
def test_an_edit_that_changes_nothing_is_not_taken_for_the_baseline(llama, cache: bool) -> None:
    engine = loaded(llama, cache=cache, bos="none")
    nothing = "swap 3 4; swap 3 4"
    assert last(engine, Read(TEXT, nothing)).schedule == nothing
    assert last(engine, Read(TEXT)).schedule == ""
    edit = last(engine, Read(TEXT, "drop 3"))
    assert edit.baseline.schedule == "" and edit.baseline.baseline is None
    assert last(engine, Read(TEXT, nothing)).schedule == nothing
    again = last(engine, Read(TEXT, "drop 3"))
    assert again.cached is cache and again.baseline.schedule == ""


def test_a_prefix_and_the_same_token_typed_are_two_questions(llama) -> None:
    tokenizer = loaded(llama, bos="none").tokenizer
    first = tokenizer.convert_ids_to_tokens(20).replace("Ġ", " ")
    with_prefix = loaded(llama, bos=first)
    assert last(with_prefix, Read(TEXT, "drop 1")).mean_positions()[0] == 1
    typed = last(loaded(llama, bos="none"), Read(first + TEXT, "drop 1"))
    assert typed.mean_positions()[0] == 0 and not typed.cached


def test_the_same_weights_elsewhere_keep_the_name_asked_for(llama, tmp_path) -> None:
    import shutil

    last(loaded(llama, bos="none"), Read(TEXT))
    other = shutil.copytree(llama, tmp_path / "other")
    found = last(loaded(other, bos="none"), Read(TEXT))
    assert found.cached and found.model.name == loaded(other, bos="none").info.name != loaded(llama).info.name


def test_what_is_wrong_is_wrong_before_the_cache_is_asked(llama) -> None:
    last(loaded(llama, bos="none"), Read(TEXT))
    assert preview(llama, bos="none").known(Read(TEXT))[0].cached
    assert not preview(llama, bos="none", device="cuda:7").known(Read(TEXT))
    with pytest.raises(EngineError, match="--bos"):
        preview(llama, bos="the quick brown fox")
    with pytest.raises(EngineError, match="layer 99"):
        preview(llama).known(Read(TEXT, "drop 99"))


def test_a_census_is_not_recalled_for_another_prefix(llama) -> None:
    none = last(loaded(llama, bos="none"), TakeCensus())
    assert preview(llama, bos="none").known(TakeCensus())[0].cached
    assert not preview(llama, bos="auto").known(TakeCensus())  # the prefix is not known yet
    other = last(loaded(llama, bos="t"), TakeCensus())
    assert not other.cached and np.array_equal(other.kurtosis, none.kurtosis)


def test_a_key_depends_on_all_that_the_answer_does(llama, monkeypatch) -> None:
    engine = loaded(llama, bos="none")

    def key(dtype: str = "float32", device: str = "cpu", **changes) -> str:
        asked = question.question(Read(**{"prompt": TEXT, **changes}), engine.request, engine.info, engine.tokenizer)
        return question.key(asked, engine.info, dtype, device)

    keys = [key(), key(dtype="bfloat16"), key(device="cuda"), key(schedule="drop 1"), key(lens="v1"), key(top=3)]
    keys += [key(tracked=4), key(prompt="the quick"), key(schedule="drop 1 mean")]
    assert len(set(keys)) == len(keys)
    assert key(schedule="drop 1-2") == key(schedule="drop 2; drop 1") and key(position=0) == key()
    mean, plain = key(schedule="drop 1 mean"), key(schedule="drop 1")
    monkeypatch.setattr(question.platform, "python_version", lambda: "9.9")
    assert key(schedule="drop 1 mean") != mean and key(schedule="drop 1") == plain


def test_readings_cut_short_let_go_of_what_they_kept(llama, monkeypatch) -> None:
    monkeypatch.setattr(at_hand, "KEPT_BYTES", 0)
    engine = loaded(llama, cache=False, bos="none")
    for layer in range(6):
        replies = engine.answer(Read(TEXT, f"drop {layer}; swap {(layer + 1) % 6} {(layer + 3) % 6}"))
        next(replies)
        replies.close()
    held = [node for node in _walk(engine.prompt.root) if node.x is not None]
    assert len(held) <= 7 + 6


def test_a_second_model_forgets_the_first(llama, tmp_path) -> None:
    engine = loaded(llama, cache=False, bos="none")
    last(engine, Read(TEXT, "drop 1 mean"))
    for _ in engine.answer(Load(str(tiny_models.build("gpt2", tmp_path)), device="cpu", cache=False)):
        pass
    assert engine.averages is None and engine.prompt is None
    assert last(engine, Read(TEXT, "drop 1 mean")).model.norm == "layer"


def test_out_of_memory_is_a_sentence_and_the_engine_lives(llama, monkeypatch) -> None:
    from stagescope.engine import blocks

    engine = loaded(llama, cache=False, bos="none")
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")):

        def full(*_args, error=error, **_keywords):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(blocks, "block", full)
            with pytest.raises(EngineError, match="cpu ran out of memory") as refused:
                last(engine, Read(TEXT))
        assert refused.value.failure.kind == "memory"
    assert last(engine, Read(TEXT)).n_depths == 7


def test_what_was_asked_for_is_what_the_model_is_said_to_be_until_its_weights_are_there(llama) -> None:
    assert (preview(llama).info.dtype, preview(llama).info.device) == ("float32", "cpu")
    early = preview(llama, dtype="bfloat16", device="cuda:1").info
    assert (early.loaded, early.dtype, early.device) == (False, "bfloat16", "cuda:1")
