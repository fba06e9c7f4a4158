"""What a session looked at last."""

import pytest

from stagescope import actions
from stagescope.engine.protocol import FindHeads, Generate, Load, Read, Request, ShowPattern, TakeCensus, TakeSweep
from stagescope.sessions.events import plain
from stagescope.sessions.looked import OF_SCREEN, looked_at

EDIT, SWEEP, TEXT = Read("a", "drop 3"), TakeSweep(("a",)), Generate("a", ("drop 3",))


def events(*happened: Request | str) -> list[dict]:
    """Requests that were answered, and screens that came on top."""
    made = [{"event": "session", "t": 0, "load": plain(Load())}]
    for what in happened:
        if isinstance(what, str):
            made.append({"event": "screen", "t": 0, "screen": what})
        elif isinstance(what, Read):
            made.append({"event": "reading", "t": 0, "request": plain(what), "position": 2, "numbers": {}})
        else:
            made.append({"event": "answer", "t": 0, "request": plain(what), "numbers": {}})
    return made


@pytest.mark.parametrize(
    ("happened", "expected"),
    [
        ((Read("a"), EDIT, SWEEP, TakeCensus()), EDIT),  # those ran by themselves
        ((EDIT, "sweep", SWEEP, TakeCensus()), SWEEP),
        ((EDIT, "sweep", SWEEP, "explore"), EDIT),
        ((EDIT, "sweep", SWEEP, "explore", "write", TEXT, SWEEP), TEXT),
        ((EDIT, "write", TEXT, "explore", "heads", SWEEP), EDIT),  # the heads did not come
        ((EDIT, "neurons", TakeCensus()), TakeCensus()),
        ((EDIT, "heads", FindHeads(), ShowPattern("a", 1, 2)), FindHeads()),  # the table, and beside it one head's pattern
        ((EDIT, "heads", ShowPattern("a", 1, 2)), ShowPattern("a", 1, 2)),
        ((TakeCensus(),), TakeCensus()),
        ((EDIT, "of tomorrow", SWEEP), EDIT),
        ((), None),
    ],
)
def test_what_was_looked_at_last(happened, expected):
    step = looked_at(events(*happened))
    assert (step and step.request) == expected


def test_an_undo_is_looked_at_though_its_numbers_stand_before():
    made = events(Read("a"), EDIT)
    again = {name: value for name, value in made[1].items() if name != "numbers"}
    assert looked_at([*made, again]).request == Read("a")
    moved = {"event": "cursor", "t": 0, "position": 1, "row": 2}
    assert (looked_at([*made, again, moved]).request, looked_at([*made, again, moved]).position) == (Read("a"), 1)


def test_every_screen_is_known():
    assert set(OF_SCREEN) == set(actions.BESIDE)
    assert looked_at(events(EDIT, "heads", FindHeads())).request == FindHeads()
