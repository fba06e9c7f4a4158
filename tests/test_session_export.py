"""What `stagescope session export` asks again: the last answer up to an event, of the token that was looked at then."""

from dataclasses import replace

import pytest

from stagescope.answers import Answer
from stagescope.commands.session import answer_at
from stagescope.commands.session_parser import arguments
from stagescope.engine.protocol import EngineError, Load, Read, Reading, TakeAttribution, TakeComparison, TakeSweep
from stagescope.exports import again
from stagescope.sessions import files
from stagescope.sessions.events import plain

PROMPT = "the quick brown fox"  # 17 tokens, of which the first is the prefix
ASKED = Read(PROMPT, "drop 2", position=5)


@pytest.fixture
def load(llama_dir, home) -> Load:
    return Load(str(llama_dir), device="cpu", threads=1)


def recorded(load: Load, *events: dict) -> files.Session:
    recording = files.begin(load)
    for event in events:
        recording.write(event)
    recording.let_go()
    return files.read(recording.path)


def asked_again(session: files.Session, event: int) -> list:
    return list(answer_at(session, arguments(["export", "last", "x.json", "--device", "cpu", "--event", str(event)])))


def exported(session: files.Session, event: int) -> Answer:
    *_, answer = asked_again(session, event)
    assert isinstance(answer, Answer)
    return answer


def read_at(position: int) -> dict:
    return {"event": "reading", "request": plain(ASKED), "position": position, "numbers": {}}


def cursor(position: int) -> dict:
    return {"event": "cursor", "position": position, "row": 0, "numbers": {"position": position}}


def test_a_reading_is_of_the_token_the_cursor_was_at(load) -> None:
    session = recorded(load, read_at(5), cursor(1), cursor(16))
    for event, position, wanted, flag in ((1, 5, 5, "--position 5 "), (2, 1, 1, "--position 1 "), (3, 16, -1, "")):
        found = exported(session, event)
        assert isinstance(found.last, Reading) and found.last.positions == tuple(range(17))
        assert (found.position, found.request) == (position, replace(ASKED, position=wanted))
        assert flag in again.command(found) and ("--position" in again.command(found)) == bool(flag)
        assert (f"position={wanted}" in again.python(found)) == bool(flag)


@pytest.mark.parametrize(
    ("request_", "position"),
    [
        (TakeComparison(replace(ASKED, position=2), Read(PROMPT, position=2)), 2),
        (TakeSweep((PROMPT,), ("trace",), position=3), 3),
        (TakeAttribution(PROMPT), -1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_another_answer_is_of_the_token_its_request_names(load, request_, position) -> None:
    session = recorded(load, read_at(5), {"event": "answer", "request": plain(request_), "kind": "", "numbers": {}})
    found = exported(session, 2)
    assert (found.request, found.position) == (request_, position)
    assert type(found.last).__name__ != "Reading" and found.load == load


def test_numbers_are_not_needed(load) -> None:
    """A reading that came by again keeps none, and neither does a cursor over positions whose numbers are kept already."""
    session = recorded(load, read_at(5), read_at(3) | {"numbers": None}, {"event": "cursor", "position": 2, "row": 0})
    assert [exported(session, event).position for event in (1, 2, 3)] == [5, 3, 2]


def test_what_was_never_answered_gives_nothing_and_a_position_that_is_not_there_is_told(load) -> None:
    session = recorded(load, {"event": "note", "note": "a"}, read_at(17))
    assert asked_again(session, 1) == []
    with pytest.raises(EngineError, match="no position 17: the prompt has 17 tokens"):
        asked_again(session, 2)
