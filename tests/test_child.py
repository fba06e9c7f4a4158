"""Requests and replies through a real child process, which all tests share."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio
import tiny_models

from stagescope.engine import wire
from stagescope.engine.client import ChildEngine
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import (
    DEFAULT_PROMPT,
    Census,
    Failure,
    FindToken,
    Load,
    ModelInfo,
    Progress,
    Read,
    Reading,
    Reply,
    Request,
    Sweep,
    TakeCensus,
    TakeSweep,
)
from stagescope.engine.tokens import Token

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT = 120  # seconds until a test gives up; nothing here takes a tenth of it
END = tiny_models.END


async def ask(engine, request: Request) -> list[Reply]:
    """All replies to one request."""
    async with asyncio.timeout(WAIT), contextlib.aclosing(engine.ask(request)) as replies:
        return [reply async for reply in replies]


async def until(engine, request: Request, wanted) -> Reply:
    """The first reply that is wanted; then the request is cancelled."""
    async with asyncio.timeout(WAIT), contextlib.aclosing(engine.ask(request)) as replies:
        async for reply in replies:
            if wanted(reply):
                return reply
    raise AssertionError(f"{request} ended without the reply")


async def holds(condition) -> None:
    """Wait until a condition holds that no event announces."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.02)


def is_preview(reply: Reply) -> bool:
    return isinstance(reply, ModelInfo) and not reply.loaded


def numbers(reading: Reading) -> bytes:
    """All of a reading but what differs from one run to the next: how long it took."""
    plain = replace(reading, milliseconds=0.0, cached=False, model=replace(reading.model, load_seconds=0.0))
    return wire.encode(replace(plain, baseline=None)) + (numbers(plain.baseline) if plain.baseline else b"")


# ------------------------------------------------------------------------------- one child for all tests


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return tiny_models.build("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=2048)


def loading(model: Path | str, **changes) -> Load:
    """With its prefix token spelled out a directory's readings are found before its weights are there."""
    return Load(str(model), device="cpu", threads=1, bos=END, **changes)


@dataclass
class Shared:
    """A child and what it holds: a model is loaded when a test needs another than the one before it left."""

    engine: ChildEngine
    replies: dict[Load, list[Reply]]  # of every load
    held: Load | None = None

    async def holding(self, load: Load) -> ChildEngine:
        if self.held != load:
            self.held, self.replies[load] = load, await ask(self.engine, load)
            assert isinstance(self.replies[load][-1], ModelInfo), self.replies[load]
        return self.engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    shared = Shared(ChildEngine(), {})
    yield shared
    await shared.engine.close()
    assert shared.engine.process is None or shared.engine.process.returncode == 0  # it went by itself
    assert shared.engine.process is None or not psutil.pid_exists(shared.engine.process.pid)


@pytest.fixture(scope="module")
def local(llama) -> LocalEngine:
    engine = LocalEngine()
    assert list(engine.answer(loading(llama, cache=False)))[-1].loaded
    return engine


async def test_loading_tells_the_shape_at_once_then_progress_then_the_model(shared, llama):
    await shared.holding(loading(llama))
    replies = shared.replies[loading(llama)]
    infos = [at for at, reply in enumerate(replies) if isinstance(reply, ModelInfo)]
    assert [replies[at].loaded for at in infos] == [False, True] and infos[1] == len(replies) - 1
    assert any(isinstance(reply, Progress) for reply in replies[infos[0] : infos[1]])
    assert all(isinstance(reply, ModelInfo | Progress) for reply in replies)
    preview, info = (replies[at] for at in infos)
    assert preview.n_layers == info.n_layers == 6 and preview.fingerprint == info.fingerprint != ""
    assert preview.prefix == info.prefix == Token(0, END)


@pytest.mark.parametrize("schedule", ["", "drop 2; swap 3 4", "parallel 1-3", "drop 1 mean"])
async def test_a_reading_is_the_engines_own(shared, local, llama, schedule):
    child = await shared.holding(loading(llama))
    request = Read("A reading is the same through the pipe.", schedule, position=3, top=4)
    replies = [reply for reply in await ask(child, request) if not isinstance(reply, Progress)]
    expected = [reply for reply in local.answer(request) if not isinstance(reply, Progress)]
    n_tokens = len(expected[-1].tokens)
    assert [reply.positions for reply in replies] == [(3,), tuple(range(n_tokens))]
    assert (expected[-1].baseline is None) == (schedule == "")
    for ours, theirs in zip(replies, expected, strict=True):
        assert numbers(ours) == numbers(theirs)
    again = await ask(child, request)
    assert len(again) == 1 and again[0].cached and numbers(again[0]) == numbers(replies[-1])


async def test_the_latest_reading_wins(shared, llama):
    child = await shared.holding(loading(llama))
    requests = [Read(f"{number} " + "never read before " * 100, "drop 1") for number in range(10)]
    answers = await asyncio.gather(*(ask(child, request) for request in requests))
    for request, replies in zip(requests, answers, strict=True):
        last = replies[-1]
        complete = isinstance(last, Reading) and len(last.positions) == len(last.tokens) > 1000
        assert complete or isinstance(last, Failure) and last.kind == "cancelled"
        assert all(reply.prompt == request.prompt for reply in replies if isinstance(reply, Reading))
    assert isinstance(answers[-1][-1], Reading)
    assert sum(isinstance(replies[-1], Failure) for replies in answers) > 5


async def test_a_reading_that_runs_gives_way_to_a_newer_one(shared, llama):
    child = await shared.holding(loading(llama))
    long = child.ask(Read("first the position, then all " * 60, "reverse 1-4"))
    async with asyncio.timeout(WAIT):
        first = await anext(long)
        assert len(first.positions) == 1
        newer = await ask(child, Read("quick"))
        assert isinstance(newer[-1], Reading) and newer[-1].prompt == "quick"
        rest = [reply async for reply in long]
    *whole, last = rest  # it may have been complete just then
    assert isinstance(last, Failure) and last.kind == "cancelled" or len(last.positions) > 1
    assert [len(reply.positions) for reply in whole] in ([], [len(first.tokens)])


async def test_closing_the_iterator_cancels_a_census_and_the_next_one_works(shared, local, llama):
    child = await shared.holding(loading(llama))
    assert (await until(child, TakeCensus(), lambda reply: True)).done < 1
    assert isinstance((await ask(child, Read("between two censuses")))[-1], Reading)
    *progress, census = await ask(child, TakeCensus())
    assert not census.cached and all(isinstance(reply, Progress) for reply in progress)  # the first one never ended
    expected = list(local.answer(TakeCensus()))[-1]
    assert isinstance(census, Census) and wire.encode(census) == wire.encode(expected)
    (again,) = await ask(child, TakeCensus())
    assert again.cached and wire.encode(replace(again, cached=False)) == wire.encode(expected)


async def test_a_cancelled_task_leaves_nothing_open(shared, llama):
    child = await shared.holding(loading(llama))
    tasks = [asyncio.create_task(ask(child, Read(f"{n} given up " * 200))) for n in range(5)]
    await holds(lambda: child._open)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ends[-1], asyncio.CancelledError) and not child._open
    assert isinstance((await ask(child, Read("after them")))[-1], Reading)


@pytest.mark.parametrize(
    ("request_", "kind", "said"),
    [
        (Read("caf\udce9"), "usage", "\\xe9"),
        (Read("\ud800"), "usage", "not UTF-8"),
        (Read(""), "usage", "empty"),
        (Read("word " * 5000), "error", "2048"),
        (Read("a", "dorp 3"), "usage", "drop"),
        (Read("a", "drop 99"), "usage", "99"),
        (Read("a", position=50), "usage", "50"),
        (Read("a", lens="v3"), "usage", "v3"),
        (Read("a", tracked=-5), "usage", "-5"),
        (FindToken("several tokens here"), "usage", "tokens"),
        (FindToken("\udcff"), "usage", "\\xff"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_cannot_be_read_is_a_failure_in_words(shared, llama, request_, kind, said):
    child = await shared.holding(loading(llama))
    (failure,) = await ask(child, request_)
    assert isinstance(failure, Failure) and failure.kind == kind
    assert said in failure.message + failure.hint
    assert "Error" not in failure.message and failure.message.isprintable()
    assert isinstance((await ask(child, Read("and it lives on")))[-1], Reading)


async def test_what_cannot_be_sent_is_an_error_of_the_caller_alone(shared, llama):
    child = await shared.holding(loading(llama))
    with pytest.raises(OverflowError):
        await ask(child, Read("a", position=2**70))
    assert not child._open
    assert await ask(child, FindToken("e")) == [Token(list(tiny_models.tokenizer()("e").input_ids)[0], "e")]


async def test_a_failed_load_then_a_good_one_and_each_replaces_the_one_before(shared, llama, gpt2_dir, tmp_path):
    child = await shared.holding(loading(llama))
    shared.held = None
    (*_, failure) = await ask(child, loading(tmp_path / "not-there"))
    assert isinstance(failure, Failure) and failure.kind == "missing" and "not-there" in failure.message
    reading = (await ask(child, Read("the model before is still there")))[-1]
    assert isinstance(reading, Reading) and reading.model.architecture == "LlamaForCausalLM"

    await shared.holding(loading(gpt2_dir))
    reading = (await ask(child, Read("Which model reads this?")))[-1]
    assert reading.model.name == gpt2_dir.name and reading.model.architecture == "GPT2LMHeadModel"
    await shared.holding(loading(llama))
    other = (await ask(child, Read("Which model reads this?")))[-1]
    assert other.model.name == llama.name and not other.cached
    assert not np.array_equal(other.top_p, reading.top_p)


async def test_a_reading_asked_for_behind_a_load_is_the_new_models(shared, llama, gpt2_dir):
    child = await shared.holding(loading(llama))
    prompt = Read("asked for while the old model is still there")
    assert (await ask(child, prompt))[-1].model.name == llama.name  # so it is in the cache, too
    busy = asyncio.create_task(ask(child, Read("so that both requests below are there at once " * 40)))
    await holds(lambda: child._open)
    shared.held = loading(gpt2_dir)
    _, loaded, replies = await asyncio.gather(busy, ask(child, shared.held), ask(child, prompt))
    assert loaded[-1].loaded and {reply.model.name for reply in replies} == {gpt2_dir.name}


async def test_means_of_one_model_are_not_used_for_the_next(shared, local, llama, gpt2_dir):
    other = LocalEngine()
    assert list(other.answer(loading(gpt2_dir, cache=False)))[-1].loaded
    request = Read("what is usual in one model is not in another", "drop 2 mean")
    for directory, alone in ((llama, local), (gpt2_dir, other), (llama, local)):
        child = await shared.holding(loading(directory, cache=False))
        assert numbers((await ask(child, request))[-1]) == numbers(list(alone.answer(request))[-1])


async def test_the_default_model_reads_while_its_census_runs(shared, default_model_dir):
    child = await shared.holding(Load(device="cpu", threads=1))
    census = asyncio.create_task(ask(child, TakeCensus()))
    await holds(lambda: child._open)
    for schedule in ("", "drop 5-9"):
        replies = await ask(child, Read(DEFAULT_PROMPT, schedule))
        assert isinstance(replies[-1], Reading) and not census.done()
    assert replies[-1].baseline.texts[int(replies[-1].baseline.top_ids[-1, -1, 0])] == " Paris"
    (found,) = await ask(child, FindToken("Paris"))  # quick questions overtake the census
    assert found.text == " Paris" and not census.done()
    census.cancel()
    assert isinstance(await until(child, TakeCensus(), lambda reply: True), Progress)
    assert isinstance((await ask(child, Read("after the census", "drop 3")))[-1], Reading)


PAIRS = TakeSweep(("The first layers join the pieces of a word, and the last ones say what comes next. " * 12,), ("pairs", "drop", "mlp-off"))  # waves of 16


async def test_a_sweep_through_the_pipe_is_the_engines_own(shared, local, llama):
    child = await shared.holding(loading(llama))
    request = TakeSweep(("a prompt", "another one"), ("drop", "swap"))
    found = {(reply.prompt, reply.kind): reply for reply in await ask(child, request) if isinstance(reply, Sweep)}
    expected = {(r.prompt, r.kind): r for r in local.answer(request) if isinstance(r, Sweep)}
    assert list(found) == list(expected) and all(sweep.complete for sweep in found.values())
    for key, sweep in found.items():
        assert sweep.rows == expected[key].rows and sweep.texts == expected[key].texts
        np.testing.assert_array_equal(sweep.kl_nats, expected[key].kl_nats)


async def test_a_cancelled_sweep_keeps_what_is_done(shared, llama):
    child = await shared.holding(loading(llama))
    partial = await until(child, PAIRS, lambda reply: isinstance(reply, Sweep) and not reply.complete)
    assert 0 < partial.done.sum() < len(partial.rows)
    assert isinstance((await ask(child, Read("between two sweeps")))[-1], Reading)
    found = [reply for reply in await ask(child, PAIRS) if isinstance(reply, Sweep) and reply.kind == partial.kind]
    assert found[-1].complete and found[0].done.sum() >= partial.done.sum()
    np.testing.assert_array_equal(found[-1].kl_nats[partial.done], partial.kl_nats[partial.done])
    assert all(reply.cached for reply in await ask(child, PAIRS))


async def test_the_default_model_reads_while_it_sweeps_and_sweeps_before_its_census(shared, default_model_dir):
    child = await shared.holding(Load(device="cpu", threads=1, cache=False))
    census = asyncio.create_task(ask(child, TakeCensus()))
    await holds(lambda: child._open)
    sweep = asyncio.create_task(ask(child, TakeSweep((DEFAULT_PROMPT,), ("drop",))))
    await holds(lambda: len(child._open) == 2)
    assert isinstance((await ask(child, Read(DEFAULT_PROMPT, "drop 3")))[-1], Reading)
    assert not sweep.done() and not census.done()
    assert (await sweep)[-1].complete and not census.done()
    census.cancel()


async def test_a_second_start_answers_from_the_cache_before_the_weights_are_there(shared, llama):
    request = Read("a prompt of yesterday", "drop 4")
    before = (await ask(await shared.holding(loading(llama)), request))[-1]
    child = ChildEngine()
    load = asyncio.create_task(ask(child, loading(llama)))
    replies = await ask(child, request)
    assert not load.done()  # torch takes seconds to import
    assert len(replies) == 1 and replies[0].cached and numbers(replies[0]) == numbers(
        replace(before, model=replies[0].model, baseline=replace(before.baseline, model=replies[0].baseline.model))
    )
    await child.close()
    assert (await load)[-1] == Failure("died", "the engine was closed.")
