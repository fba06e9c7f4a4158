"""A sweep over a text: the right numbers, the same ones when interrupted, and what is wrong named and left out."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import tiny_models

from stagescope.engine import bookmark, corpus, documents, outcomes, pool, question, runner
from stagescope.engine.local import LocalEngine
from stagescope.engine.outcomes import Outcome, Task
from stagescope.engine.protocol import CorpusSweep, EngineError, Load, Progress, SweepCorpus
from stagescope.engine.schedule import parse, resolve
from stagescope.engine.tokens import encode

pytestmark = pytest.mark.usefixtures("home")
TEXT = " ".join(tiny_models.TEXT * 3) + "\n"  # about 800 tokens
SHORT = {"kinds": ("drop",), "window": 24}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> LocalEngine:
    engine = LocalEngine()
    directory = tiny_models.build("llama", tmp_path_factory.mktemp("llama"))
    for _ in engine.answer(Load(str(directory), device="cpu", bos="<|endoftext|>")):
        pass
    return engine


@pytest.fixture
def file(tmp_path) -> Path:
    file = tmp_path / "text"
    file.write_text(TEXT)
    return file


@pytest.fixture
def lines(tmp_path) -> Path:
    file = tmp_path / "lines"
    texts = [text[: 20 + 7 * n] for n, text in enumerate(tiny_models.TEXT)] * 6
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return file


def start(engine: LocalEngine, file: Path | str, cache: bool = True, **request) -> Iterator:
    request = SweepCorpus(str(file), **(SHORT | request))
    load = replace(engine.request, cache=cache)

    def measure() -> Iterator:
        yield from engine.measure_averages()
        return engine.averages

    return corpus.sweep_corpus(engine.net, engine.info, load, request, engine.tokenizer, measure)


def sweep(engine: LocalEngine, file: Path | str, **how) -> CorpusSweep:
    *progress, answer = start(engine, file, **how)
    assert all(isinstance(reply, Progress) for reply in progress)
    return answer


def same(ours: CorpusSweep, theirs: CorpusSweep) -> bool:
    """To the last bit."""
    plain = ("rows", "documents", "tokens_scored", "notes", "skipped", "n_skipped", "n_cut")
    return all(getattr(ours, name) == getattr(theirs, name) for name in plain) and all(
        np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True) for name in pool.MEASURES
    )


@pytest.fixture
def ran(monkeypatch) -> list[int]:
    """How many documents each group that ran had, filled in as they run."""
    counted, really = [], outcomes.outcomes

    def counting(net, tasks, averages=None):
        counted.append(len(tasks))
        yield from really(net, tasks, averages)

    monkeypatch.setattr(outcomes, "outcomes", counting)
    return counted


@pytest.fixture
def standin(monkeypatch) -> None:
    """In place of the network: values that depend on the ids alone; row 1 of a document that ends evenly is NaN."""

    def made_up(net, tasks, averages=None):
        for number, task in enumerate(tasks):
            yield number / len(tasks)
            for plan in range(len(task.plans)):
                values = np.random.default_rng([*task.ids, plan]).random((6, len(task.ids))).astype(np.float32)
                values[3, -1] = np.nan
                if plan == 1 and task.ids[-1] % 2 == 0:
                    values[:] = np.nan
                yield Outcome(number, plan, values)

    monkeypatch.setattr(outcomes, "outcomes", made_up)


# ------------------------------------------------------------------------------------------ right numbers


def by_hand(engine: LocalEngine, file: Path, schedules: list[str], window: int) -> dict[str, np.ndarray]:
    """Every document alone, its values beside each other: [S, 4, all tokens] -> means and medians."""
    prefix = engine.info.prefix.id
    found = []
    for item in documents.documents(str(file), lambda text: encode(engine.tokenizer, text, None), prefix, window):
        plans = tuple(resolve(parse(text), engine.info.n_layers, n_positions=len(item.ids)) for text in schedules)
        values = np.empty((len(plans), 4, len(item.ids)), np.float32)
        for step in outcomes.outcomes(engine.net, [Task(item.ids, plans)]):
            if isinstance(step, Outcome):
                values[step.plan] = step.values[:4]
        found.append(values[..., 1:])
    everything = np.concatenate(found, -1)
    assert np.isnan(everything).sum() == len(schedules) * len(found)  # the loss of each last token
    means, medians = np.nanmean(everything, -1, dtype=float), np.nanmedian(everything, -1)
    return {name: np.stack([means[:, m], medians[:, m]], -1) for m, name in enumerate(pool.MEASURES)}


@pytest.mark.parametrize("which", ["file", "lines"])
def test_the_numbers_are_those_of_every_document_alone(engine, which, request):
    file = request.getfixturevalue(which)
    found = sweep(engine, file, kinds=("drop", "swap"))
    schedules = [row.schedule for row in found.rows]
    assert schedules == [f"drop {n}" for n in range(6)] + [f"swap {n} {n + 1}" for n in range(5)]
    for name, expected in by_hand(engine, file, schedules, 24).items():
        np.testing.assert_allclose(getattr(found, name)[:, :2], expected, rtol=1e-4, atol=1e-5)
        low, high = getattr(found, name)[:, 2:].T
        assert (low <= high).all() and (found.documents > 20)
    assert found.model is engine.info and not found.cached and not found.notes and found.source == str(file)
    assert (found.n_cut > 0) == (which == "lines")


def test_listed_schedules_and_means(engine, file):
    schedules = ("drop 2 mean", "attn-off 1; swap 3 4", "drop 2 mean")
    request = SweepCorpus(str(file), schedules=schedules, window=60)
    assert corpus.wants_means(corpus.rows_of(request, engine.info))
    assert not corpus.wants_means(corpus.rows_of(SweepCorpus(str(file)), engine.info))
    found = sweep(engine, file, schedules=schedules)
    assert [row.kind for row in found.rows] == ["schedules"] * 3
    assert np.array_equal(found.kl_nats[0], found.kl_nats[2]) and found.kl_nats[0, 0] > 0


@pytest.mark.parametrize("tokens", [1, 22, 23, 24, 100, 500])
def test_exactly_the_tokens_asked_for_are_scored(engine, standin, file, tokens):
    found = sweep(engine, file, tokens=tokens)
    assert (found.tokens_scored, found.documents) == (tokens, -(-tokens // 23))


def test_a_text_that_ends_before_the_tokens_asked_for(engine, standin, file):
    whole, limited = sweep(engine, file), sweep(engine, file, tokens=10**6)
    assert 600 < limited.tokens_scored == whole.tokens_scored and same(whole, limited)


def test_a_window_is_no_longer_than_the_models(engine, standin, file):
    assert sweep(engine, file, window=10**6).documents == -(-sweep(engine, file).tokens_scored // (128 - 1))


@pytest.fixture(autouse=True)
def groups(monkeypatch) -> None:
    """Of at most 512 tokens, whatever a CPU is given in one call: the counts below rest on it."""
    monkeypatch.setitem(runner.TOKENS_AT_ONCE, "cpu", 4 * 512)


def test_short_documents_run_together_and_long_ones_fill_a_batch(engine, ran, file, lines):
    sweep(engine, lines)
    sweep(engine, file, window=128)
    sweep(engine, file, window=23, tokens=22 * 18)
    assert ran == [16, 16, 4, 4, 3, 16, 2]


# --------------------------------------------------------------------------------- progress, interruptions


@pytest.mark.parametrize("how", [{}, {"tokens": 300}, {"tokens": 10**6}])
def test_progress_grows_to_the_end(engine, file, how):
    *progress, _ = start(engine, file, **how)
    done = [reply.done for reply in progress]
    assert {reply.stage for reply in progress} == {"sweep of a text"} and done[0] == 0 and 0.9 < done[-1] <= 1
    assert all(later >= earlier - 0.02 for earlier, later in itertools.pairwise(done))
    assert all(reply.seconds_left >= 0 for reply in progress[1:] if reply.done > 0)
    assert len(progress) > 30


def test_of_standard_input_the_end_is_not_known(engine, standin, monkeypatch):
    feed(monkeypatch, TEXT)
    *progress, answer = start(engine, "-")
    assert all(np.isnan(reply.done) and np.isnan(reply.seconds_left) for reply in progress)
    assert answer.source == "standard input" and answer.tokens_scored > 600


def feed(monkeypatch, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(documents.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), closed=False))


def interrupted(engine, file, after: int, **how) -> bool:
    """Whether it was, after so many signs of progress, before the answer came."""
    replies = start(engine, file, **how)
    early = [isinstance(reply, Progress) for reply in itertools.islice(replies, after)]
    replies.close()
    return all(early)


@pytest.mark.parametrize("source", ["file", "-"])
def test_interrupted_anywhere_it_ends_in_the_same_numbers(engine, lines, monkeypatch, source):
    where = lines if source == "file" else "-"
    *progress, straight = start(engine, lines, cache=False, tokens=550)
    assert not bookmark.folder().exists()
    for after in range(1, len(progress), len(progress) // 6):
        feed(monkeypatch, lines.read_bytes())
        assert interrupted(engine, where, after, tokens=550)
        feed(monkeypatch, lines.read_bytes())
        assert same(sweep(engine, where, tokens=550), straight)
        shutil.rmtree(bookmark.folder())


def test_interrupted_again_and_again_it_ends_in_the_same_numbers(engine, standin, lines, monkeypatch):
    monkeypatch.setattr(corpus, "TOGETHER", 3)
    straight = sweep(engine, lines, cache=False)
    times = 0
    while interrupted(engine, lines, 6):
        times += 1
    assert times == 11 and same(sweep(engine, lines), straight)


@pytest.mark.parametrize("seconds", [0, 5])
@pytest.mark.parametrize("at", [0, 10, 16, 20])
def test_a_ctrl_c_while_a_document_is_added(engine, standin, lines, monkeypatch, at, seconds):
    straight, really, added = sweep(engine, lines, cache=False), pool.Pool.add, []

    def stopped(self, values):
        if len(added) == at:
            raise KeyboardInterrupt
        added.append(really(self, values))

    with monkeypatch.context() as patch:
        patch.setattr(pool.Pool, "add", stopped)
        patch.setattr(corpus, "TOGETHER", 4)
        patch.setattr(corpus, "SAVE_SECONDS", seconds)
        with pytest.raises(KeyboardInterrupt):
            sweep(engine, lines)
    kept = [bookmark.get(file.name) for file in bookmark.folder().glob("*")]
    assert len(kept) == (at >= 4 and seconds == 0) and all(done.items % 4 == 0 for done in kept)
    assert same(sweep(engine, lines), straight)


def test_what_is_done_does_not_run_again(engine, lines, ran):
    replies = start(engine, lines)
    while len(ran) < 3:
        next(replies)
    replies.close()
    first = sweep(engine, lines)
    assert ran == [16, 16, 4, 4] and not first.cached
    *progress, again = start(engine, lines)
    assert not progress and again.cached and same(first, again) and len(ran) == 4
    assert corpus.recalled(SweepCorpus(str(lines), **SHORT), replace(engine.info, loaded=False), engine.request).cached
    os.utime(lines)  # touched, not changed: read again, and found to be the same
    *progress, again = start(engine, lines)
    assert again.cached and same(first, again) and len(ran) == 4


def test_progress_goes_on_where_it_was(engine, standin, lines):
    assert interrupted(engine, lines, 36)
    resumed = next(start(engine, lines))
    assert 0.3 < resumed.done < 1 and np.isnan(resumed.seconds_left)


def test_saved_now_and_then_whatever_ends_the_process(engine, ran, lines, monkeypatch):
    monkeypatch.setattr(corpus, "SAVE_SECONDS", 0)
    monkeypatch.setattr(corpus, "SAVE_SHARE", 1e9)
    replies = start(engine, lines)
    while len(ran) < 2:
        next(replies)
    (kept,) = bookmark.folder().iterdir()
    assert len(bookmark.get(kept.name).pool.sums) == 16 and not bookmark.get(kept.name).finished
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("source", ["file", "-"])
@pytest.mark.parametrize("change", ["first", "last", "shorter", "longer", "skipped"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_text_that_changed_is_swept_anew(engine, standin, lines, monkeypatch, source, change, finished):
    where, before = lines if source == "file" else "-", lines.read_text().splitlines()
    feed(monkeypatch, "\n".join(before))
    if finished:
        sweep(engine, where)
    else:
        assert interrupted(engine, where, 36)
    after = {
        "first": [json.dumps({"text": "something else"}), *before[1:]],
        "last": [*before[:30], json.dumps({"text": "something else"}), *before[31:]],
        "shorter": before[:20],
        "longer": before + before[:20],
        "skipped": [*before[:3], "nothing", *before[3:]],
    }[change]
    lines.write_text("\n".join(after))
    feed(monkeypatch, lines.read_bytes())
    found = sweep(engine, where)
    assert not found.cached
    feed(monkeypatch, lines.read_bytes())
    assert same(found, sweep(engine, where, cache=False))


def test_without_the_cache_nothing_is_kept_or_recalled(engine, ran, file, home):
    sweep(engine, file)
    ran.clear()
    assert not sweep(engine, file, cache=False).cached and ran
    file.write_text(TEXT * 2)
    before = [kept.stat().st_mtime_ns for kept in bookmark.folder().iterdir()]
    sweep(engine, file, cache=False)
    assert before == [kept.stat().st_mtime_ns for kept in bookmark.folder().iterdir()]


def test_a_key_depends_on_all_that_the_numbers_do(engine, file, tmp_path, monkeypatch):
    def key(info=engine.info, dtype: str = "float32", device: str = "cpu", **changes) -> str:
        request = SweepCorpus(**({"file": str(file)} | SHORT | changes))
        return corpus._key(request, corpus.rows_of(request, info), info, dtype, device)

    keys = [key(), key(window=25), key(tokens=9), key(file=str(tmp_path / "other")), key(file="-")]
    keys += [key(kinds=("swap",)), key(schedules=("drop 1",)), key(schedules=("drop 1 mean",))]
    keys += [key(replace(engine.info, prefix=None)), key(replace(engine.info, fingerprint="other"))]
    keys += [key(dtype="bfloat16"), key(device="cuda")]
    assert len(set(keys)) == len(keys)
    monkeypatch.chdir(tmp_path)
    assert key(file="text") == key() and key(window=128) == key(window=500)
    mean, plain = key(schedules=("drop 1 mean",)), key(schedules=("drop 1",))
    monkeypatch.setattr(question.platform, "python_version", lambda: "9.9")
    assert key(schedules=("drop 1 mean",)) != mean and key(schedules=("drop 1",)) == plain


def test_a_damaged_file_is_thrown_away(engine, standin, lines):
    expected = sweep(engine, lines)
    (kept,) = bookmark.folder().iterdir()
    whole = kept.read_bytes()
    n = len(whole)
    flipped = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in (0, 3, 4, 12, 40, n // 3, n // 2, n - 1)]
    for damaged in (b"", whole[:4], whole[:100], whole[:-1], whole + b"\0", bytes(n), *flipped):
        kept.write_bytes(damaged)
        found = sweep(engine, lines)
        assert not found.cached and same(found, expected)
        assert kept.read_bytes()[4:12] == whole[4:12]


def test_a_disk_that_fails_fails_no_sweep(engine, standin, lines, home):
    expected = sweep(engine, lines, cache=False)
    (home / "cache").mkdir(parents=True)
    bookmark.folder().write_text("in the way")
    assert same(sweep(engine, lines), expected) and bookmark.folder().read_text() == "in the way"


@pytest.mark.parametrize("change", [
    lambda plain: plain.pop("model"), lambda plain: plain.update(new=1), lambda plain: plain["model"].pop("norm"),
])  # fmt: skip
def test_a_file_of_another_version_is_thrown_away(engine, standin, lines, change):
    expected = sweep(engine, lines)
    (kept,) = bookmark.folder().iterdir()
    body = kept.read_bytes()[4:]
    plain = json.loads(json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]["stagescope"])
    change(plain)
    body = safetensors.numpy.save(safetensors.numpy.load(body), metadata={"stagescope": json.dumps(plain)})
    kept.write_bytes(zlib.crc32(body).to_bytes(4, "big") + body)
    found = sweep(engine, lines)
    assert not found.cached and same(found, expected)


def test_the_last_used_are_kept(engine, standin, lines, monkeypatch):
    monkeypatch.setattr(bookmark, "KEPT", 3)
    for window in range(10, 15):
        sweep(engine, lines, window=window)
        for minute, kept in enumerate(sorted(bookmark.folder().iterdir(), key=lambda file: file.stat().st_mtime_ns)):
            os.utime(kept, (1e9 + 60 * minute, 1e9 + 60 * minute))
    assert len(list(bookmark.folder().iterdir())) == 3
    assert [sweep(engine, lines, window=window, cache=True).cached for window in (12, 13, 14)] == [True] * 3
    sweep(engine, lines, window=10)
    assert not sweep(engine, lines, window=12).cached  # used longest ago


def test_they_are_kept_within_their_bytes_and_the_newest_whatever_its_size(engine, standin, lines, monkeypatch):
    def kept() -> list[int]:
        files = sorted(bookmark.folder().iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for minute, file in enumerate(files):
            os.utime(file, (1e9 + 60 * minute, 1e9 + 60 * minute))
        return [file.stat().st_size for file in files]

    sweep(engine, lines, window=10)
    (size,) = kept()
    monkeypatch.setattr(bookmark, "KEPT_BYTES", int(2.5 * size))
    for window in (11, 12, 10):
        sweep(engine, lines, window=window)
        assert sum(kept()) <= 2.5 * size
    assert len(kept()) == 2
    monkeypatch.setattr(bookmark, "KEPT_BYTES", size // 2)
    sweep(engine, lines, window=13)
    assert len(kept()) == 1 and sweep(engine, lines, window=13).cached


# --------------------------------------------------------------------------------------------- bad input


def test_what_is_left_out_is_named(engine, standin, tmp_path):
    file = tmp_path / "lines"
    wrong = ["nothing", "", '{"body": 1}', '{"text": ""}'] * 8
    first, last = (json.dumps({"text": text}) for text in (tiny_models.TEXT[0], "a few words"))
    file.write_text("\n".join([first, *wrong, last]))
    found = sweep(engine, file)
    assert (found.documents, found.n_skipped, len(found.skipped), found.n_cut) == (2, 32, 20, 1)
    assert found.skipped[:2] == ("line 2: it is no JSON object", "line 3: it is empty")


def test_very_much_that_is_no_text(engine, standin, tmp_path):
    file = tmp_path / "lines"
    file.write_text(json.dumps({"text": tiny_models.TEXT[0]}) + "\nx" * 2000)
    *progress, found = start(engine, file)
    assert found.n_skipped == 2000 and len(progress) > 2000 // corpus.READ_AT_ONCE
    (kept,) = bookmark.folder().iterdir()
    assert bookmark.get(kept.name).items == 2001


def test_a_schedule_that_names_a_position_a_document_lacks(engine, lines):
    schedules = ("drop 1", "drop 1 @20", "drop 1 @-1", "drop 1 @40")
    found = sweep(engine, lines, schedules=schedules)
    assert found.notes.keys() == {1, 3}
    assert found.notes[3] == "it names a position that is not there in 36 of 36 documents"
    short = int(found.notes[1].removeprefix(corpus.ABSENT + " in ").split()[0])
    assert 0 < short < 36 and np.isnan(found.kl_nats[3]).all() and np.isfinite(found.kl_nats[:3]).all()
    assert found.kl_nats[0, 0] > found.kl_nats[2, 0]


def test_logits_that_are_no_numbers_are_counted_and_left_out(engine, standin, lines):
    found = sweep(engine, lines)
    assert list(found.notes) == [1]
    n = int(found.notes[1].removeprefix("its logits are not numbers in ").removesuffix(" of 36 documents"))
    assert 0 < n < 36 and np.isfinite(found.kl_nats).all()


def test_a_model_that_is_broken_throughout(engine, file, monkeypatch):
    weight = engine.net.bridge.blocks[2].mlp.out.weight
    whole = weight.data.clone()
    try:
        weight.data[0] = float("nan")
        found = sweep(engine, file, cache=False)
    finally:
        weight.data.copy_(whole)
    assert len(found.notes) == 6 and np.isnan(found.kl_nats).all()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_document_beyond_memory_is_left_out(engine, lines, monkeypatch, error):
    lines.write_text("\n".join(lines.read_text().splitlines()[:8]))
    expected, really, alone = sweep(engine, lines, cache=False), outcomes.outcomes, []

    def small(net, tasks, averages=None):
        yield 0.0
        if any(len(task.ids) == 24 for task in tasks):
            raise error
        alone.append(len(tasks))
        yield from really(net, tasks, averages)

    monkeypatch.setattr(outcomes, "outcomes", small)
    found = sweep(engine, lines)
    assert 0 < found.documents < 8 == found.documents + found.n_skipped and set(alone) == {1}
    assert all(text.endswith("its 24 tokens do not fit into memory") for text in found.skipped)
    assert found.tokens_scored == expected.tokens_scored - 23 * found.n_skipped
    alone.clear()
    again = sweep(engine, lines)  # only those that did not fit are tried again
    assert not again.cached and not alone and same(again, found)
    monkeypatch.setattr(outcomes, "outcomes", really)
    for cached in (False, True):  # there is more memory
        whole = sweep(engine, lines)
        assert (whole.cached, whole.n_skipped, whole.skipped) == (cached, 0, ())
        assert (whole.documents, whole.tokens_scored, whole.n_cut) == (8, expected.tokens_scored, expected.n_cut)
        for name in pool.MEASURES:  # the interval's draws are of the documents in another order
            ours, theirs = getattr(whole, name)[:, :2], getattr(expected, name)[:, :2]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(outcomes, "outcomes", small)
    with pytest.raises(EngineError) as refused:
        sweep(engine, long_line(lines))
    assert refused.value.failure.kind == "memory"


@pytest.mark.parametrize("source", ["file", "-"])
@pytest.mark.parametrize("stop", [1, 3, 8])
def test_interrupted_while_some_do_not_fit_into_memory(engine, lines, monkeypatch, source, stop):
    """Stopped with documents left out and others not yet read, and again while those run once more."""
    where, expected, really = lines if source == "file" else "-", sweep(engine, lines, cache=False), outcomes.outcomes
    monkeypatch.setattr(corpus, "TOGETHER", 4)
    tried = []

    def full(net, tasks, averages=None):
        tried.append(len(tasks))
        if any(len(task.ids) == 24 for task in tasks):
            raise MemoryError
        yield from really(net, tasks, averages)

    monkeypatch.setattr(outcomes, "outcomes", full)
    feed(monkeypatch, lines.read_bytes())
    replies = start(engine, where)
    while len(tried) < 20:
        next(replies)
    replies.close()
    (kept,) = bookmark.folder().iterdir()
    assert 0 < len(bookmark.get(kept.name).beyond) < bookmark.get(kept.name).items < 36
    monkeypatch.setattr(outcomes, "outcomes", really)
    feed(monkeypatch, lines.read_bytes())
    assert interrupted(engine, where, stop)
    feed(monkeypatch, lines.read_bytes())
    found = sweep(engine, where)
    assert (found.documents, found.n_skipped, found.tokens_scored) == (36, 0, expected.tokens_scored)
    np.testing.assert_allclose(found.kl_nats[:, :2], expected.kl_nats[:, :2], rtol=1e-4, atol=1e-5)


def long_line(beside: Path) -> Path:
    file = beside.with_name("long line")
    file.write_text(json.dumps({"text": tiny_models.TEXT[0]}))
    return file


def test_another_error_is_not_taken_for_memory(engine, lines, monkeypatch):
    def broken(net, tasks, averages=None):
        yield 0.0
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(outcomes, "outcomes", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        sweep(engine, lines)


@pytest.mark.parametrize("how, said", [
    ({"kinds": ("trace",)}, "one prompt"), ({"kinds": ("nothing",)}, "nothing"), ({"tokens": 0}, "0 tokens"),
    ({"schedules": ("drop 1", "drop 99")}, "layer 99"), ({"schedules": ("dorp 1",)}, "dorp"), ({"window": 2}, "window"),
])  # fmt: skip
def test_what_cannot_be_swept_is_refused(engine, file, how, said):
    with pytest.raises(EngineError, match=said) as refused:
        sweep(engine, file, **how)
    assert refused.value.failure.kind == "usage"


def test_no_file_and_no_document(engine, tmp_path):
    with pytest.raises(EngineError) as refused:
        sweep(engine, tmp_path / "nowhere")
    assert refused.value.failure.kind == "missing"
    (tmp_path / "zeros").write_bytes(bytes(100))
    with pytest.raises(EngineError, match="NUL") as refused:
        sweep(engine, tmp_path / "zeros")
    assert refused.value.failure.kind == "usage" and not bookmark.folder().exists()
