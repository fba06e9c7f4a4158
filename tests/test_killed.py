"""The app killed at any moment: what the screen said was recorded is in the session's file."""

import random
import re
import signal
from itertools import groupby
from pathlib import Path

import pytest
from test_terminal import Terminal

from stagescope.engine.fake import FakeEngine
from stagescope.sessions import files
from stagescope.sessions.events import fold

APP = """
from stagescope.app import StageApp, run_app
from stagescope.engine.fake import FakeEngine
run_app(StageApp(FakeEngine, record=True))
"""
UP, DOWN, LEFT, RIGHT = ("\x1b[A", "\x1b[B", "\x1b[D", "\x1b[C")
KEYS = [*"dams", *"uub", UP, UP, DOWN, LEFT, RIGHT, "v", "o", "p", "L"]


def actions(chance: random.Random) -> str:
    """A few keys, as fast as a person's or in one burst; now and then a note, a schedule or a prompt."""
    match chance.randrange(8):
        case 0:
            return f"nnote {chance.randrange(10**6)}\r"
        case 1:
            return f"/\x15the {chance.choice(['cat', 'dog', 'cow'])} {chance.randrange(100)}\r"
        case _:
            return "".join(chance.choices(KEYS, k=chance.randrange(1, 5)))


def letters(text: str) -> str:
    """Of a line of tokens, without what marks them."""
    return re.sub(r"[\s·\[\]]", "", text)


class Frames(Terminal):
    """Shows whole frames alone: says that it knows synchronized output (DEC mode 2026) and waits for the end of each."""

    END = b"\x1b[?2026l"

    def __init__(self, folder: Path):
        super().__init__(program=["-c", APP], env={"STAGESCOPE_HOME": str(folder)})
        self.rest = b""
        feed, self.stream.feed = self.stream.feed, lambda data: None

        def whole(data: bytes) -> None:
            frames, end, self.rest = (self.rest + data).rpartition(self.END)
            feed(frames + end)

        self.stream.feed = whole
        self.child.send("\x1b[?2026;1$y")

    def recorded(self) -> tuple[str, str] | None:
        """The tokens and the schedule, if the screen says that they are in the session."""
        lines = self.screen.display
        if "● rec" not in lines[0] or not lines[-1].startswith("d drop"):
            return None
        tokens, edit = letters(lines[-5].removeprefix("tok")), lines[-3].split("▸", 1)[1].strip()
        return (tokens, "" if edit.startswith(": types a schedule") else edit) if tokens else None


@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_was_recorded_is_lost(seed, tmp_path):
    chance, terminal = random.Random(seed), Frames(tmp_path)
    terminal.until(lambda text: terminal.recorded())
    shown, notes, noted = [terminal.recorded()], [], False
    for _ in range(chance.randrange(3, 20)):
        keys = actions(chance)
        notes += [keys[1:-1]] if keys.startswith("n") else []
        terminal.child.send(keys)
        for _ in range(chance.randrange(6)):
            terminal.draw(chance.uniform(0, 0.1))
            shown.append(terminal.recorded())
            noted = noted or "noted" in terminal.text
    terminal.child.kill(signal.SIGKILL)
    terminal.child.close()

    (path,) = (tmp_path / "data" / "sessions").glob("*.jsonl")
    session = files.read(path)
    assert not session.warnings  # nothing was cut
    states = [fold(session.events[: n + 1]) for n in range(len(session.events))]
    spell = FakeEngine().tokenize
    in_file = [(letters("".join(token.text for token in spell(of.prompt))), of.schedule) for of in states]
    # Each by itself: the engine spells the tokens, so those of the prompt before may stand beside a newer schedule.
    for seen, kept in zip(zip(*filter(None, shown), strict=True), zip(*in_file, strict=True), strict=True):
        at = 0
        for looked_at, _ in groupby(seen):  # in the order in which they were seen
            assert looked_at in kept[at:], (looked_at, seen, in_file)
            at += kept[at:].index(looked_at)
    kept = [event["note"] for event in session.events if event["event"] == "note"]
    assert kept == notes[: len(kept)] and (kept or not noted)
