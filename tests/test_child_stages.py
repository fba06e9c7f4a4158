"""What is asked of the stages, through a real child process."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from test_child import WAIT, ask, holds, llama, loading, local, numbers, shared  # noqa: F401  three are fixtures

from stagescope.engine import wire
from stagescope.engine.protocol import (
    Failure,
    MapStages,
    Progress,
    Read,
    Reading,
    Reply,
    ShowNeurons,
    TakeEvidence,
    TakeLens,
    Texts,
)  # fmt: skip

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPTS = Texts(("The Eiffel Tower is located in the city of", "When one layer of the network is left out, the"))
LONG = MapStages(Texts(tokens=20_000))  # half a minute, and never waited for


def told(reply: Reply) -> bytes:
    """All of a reply but what differs from one run to the next."""
    return wire.encode(replace(reply, cached=False, model=replace(reply.model, load_seconds=0.0)))


def done(replies: list[Reply]) -> list[Reply]:
    """Without progress, and without what fills in as the clock says."""
    return [one for one in replies if not isinstance(one, Progress) and getattr(one, "complete", True)]


@pytest.mark.parametrize(
    "request_",
    [
        TakeEvidence(PROMPTS),
        TakeLens(PROMPTS.prompts[0], "swap 2 3", -1, (5, 6)),
        ShowNeurons(4, prompt=PROMPTS.prompts[0]),
        MapStages(PROMPTS),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_the_answer_is_the_engines_own_and_is_kept(shared, local, llama, request_):  # noqa: F811
    child = await shared.holding(loading(llama))
    ours, theirs = done(await ask(child, request_))[-1], done(local.answer(request_))[-1]
    assert type(ours) is type(theirs) and told(ours) == told(theirs)
    (again,) = await ask(child, replace(request_, if_known=True) if isinstance(request_, MapStages) else request_)
    assert again.cached and told(again) == told(ours)


async def test_a_reading_comes_in_between_and_a_cancelled_map_ends(shared, local, llama):  # noqa: F811
    child = await shared.holding(loading(llama))
    replies: list[Reply] = []

    async def collect() -> None:
        async with asyncio.timeout(WAIT), contextlib.aclosing(child.ask(LONG)) as answers:
            async for reply in answers:
                replies.append(reply)

    running = asyncio.create_task(collect())
    await holds(lambda: len(replies) > 2)
    (number,) = child._open
    for schedule in ("", "drop 3"):
        request = Read("asked while the stages are mapped", schedule)
        reading = (await ask(child, request))[-1]
        assert isinstance(reading, Reading) and not running.done()
        assert numbers(reading) == numbers(list(local.answer(request))[-1])
    seen = len(replies)
    await holds(lambda: len(replies) > seen)  # it goes on after a reading
    child._send(number, None)  # as when its iterator is closed, which does not hear the end
    await running
    *before, last = replies
    assert last == Failure("cancelled", "cancelled.") and all(isinstance(reply, Progress) for reply in before)
    assert isinstance((await ask(child, Read("after the map")))[-1], Reading)
    (failure,) = await ask(child, replace(LONG, if_known=True))
    assert isinstance(failure, Failure) and failure.kind == "missing"  # what was half done is no map
