"""The real program on the real default model in a pseudo-terminal: what a person types, what the screen shows."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

import pexpect
import psutil
import pyte
import pytest

PATIENCE = 120  # seconds for transformer_lens to load on a busy machine
pytestmark = pytest.mark.usefixtures("default_model_dir")


class Terminal:
    """A pty with a screen in memory; whatever the program sends is drawn there."""

    def __init__(
        self,
        *words: str,
        columns: int = 120,
        lines: int = 40,
        env: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "stagescope"),
    ):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.child = pexpect.spawn(
            sys.executable,
            [*program, *words],
            dimensions=(lines, columns),
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "", **(env or {})},
        )

        self.child.delaybeforesend = None  # pexpect waits 50 ms before it sends

    def draw(self, seconds: float) -> bool:
        """Take in what comes within the time; False at the end of the program's output."""
        try:
            data = self.child.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self.stream.feed(data)
        return True

    def until(self, what, seconds: float = PATIENCE) -> str:
        """Read until `what` (a string, or a test of the text) is on the screen."""
        found = what if callable(what) else lambda text: what in text
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if found(self.text):
                return self.text
            if not self.draw(0.2):
                break
        assert found(self.text), f"{what} never came; the screen:\n{self.text}"
        return self.text

    def end(self, seconds: float = 20) -> int:
        """Read to the end; the exit code."""
        limit = time.monotonic() + seconds
        while self.draw(0.2):
            assert time.monotonic() < limit, f"did not end; the screen:\n{self.text}"
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def row(self, layer: str) -> str:
        return next(line for line in self.screen.display if line.lstrip("▸ ").startswith(f"{layer} "))

    def engine(self) -> psutil.Process:
        """The child process with the engine in it."""
        (engine,) = psutil.Process(self.child.pid).children()
        return engine


@pytest.fixture
def open_terminal():
    opened: list[Terminal] = []

    def start(*words: str, **how) -> Terminal:
        opened.append(Terminal(*words, **how))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.child.close(force=True)


@pytest.fixture(scope="module")
def shared():
    """One running app for the tests that leave it as they found it."""
    terminal = Terminal("--no-cache")
    terminal.until(lambda text: "idle" in text or "census" in text or "means" in text)
    yield terminal
    terminal.child.close(force=True)


def test_the_main_job(shared: Terminal) -> None:
    """Type a prompt, drop a layer, see every layer and what the edit did, undo, swap, type a schedule."""
    shared.until("·Paris .753")
    assert "smollm2-135m" in shared.screen.display[0] and "float32" in shared.screen.display[0]
    for _ in range(18):
        shared.child.send("\x1b[B")  # down from layer 29 to layer 11
    shared.until(lambda text: any(line.startswith("▸11") for line in text.splitlines()))
    shared.child.send("d")
    text = shared.until("here KL 4.93")
    assert "dropped" in shared.row("11") and "drop 11" in text
    shared.until("top-1 kept 1/10")
    shared.child.send("u")
    shared.until(lambda text: "·Paris .753" in text and "dropped" not in text)
    shared.child.send(":swap 28 29\r")
    shared.until("here KL 2.53")
    shared.child.send("u")
    shared.until("·Paris .753")
    shared.child.send("/\x15The capital of Germany is\r")
    shared.until(lambda text: "·Germany" in text and "·Berlin" in text)
    shared.child.send("/\x15The Eiffel Tower is located in the city of\r")
    shared.until("·Paris .753")


def test_a_hostile_prompt_stays_on_its_line(shared: Terminal) -> None:
    hostile = "[/] [@click=app.quit]x[/] \u202egnp \u200b"
    shared.child.send("/\x15" + hostile + "\r")
    shared.until("click")
    assert b"\x1b]52" not in shared.raw
    shared.child.send("/\x15The Eiffel Tower is located in the city of\r")
    shared.until("·Paris .753")


def test_quitting_prints_the_command_and_leaves_nothing(open_terminal) -> None:
    terminal = open_terminal("--edit", "drop 11", columns=80, lines=24)
    terminal.until("4.93")
    engine = terminal.engine()
    terminal.child.send("q")
    terminal.draw(1)
    terminal.child.send("q")  # a job may run: asked once more
    assert terminal.end() == 0
    tail = terminal.raw.decode().split("\x1b[?1049l")[-1]
    assert "stagescope read" in tail and "--edit 'drop 11'" in tail
    psutil.wait_procs([engine], timeout=20)
    assert not engine.is_running()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_restore_the_terminal_and_leave_no_engine(open_terminal, number: int, code: int) -> None:
    terminal = open_terminal()
    terminal.until(lambda text: "29 ■" in text)
    engine = terminal.engine()
    os.kill(terminal.child.pid, number)
    assert terminal.end() == code
    assert b"\x1b[?1049l" in terminal.raw and b"\x1b[?1000l" in terminal.raw
    psutil.wait_procs([engine], timeout=20)
    assert not engine.is_running()


def test_a_killed_app_leaves_no_engine(open_terminal) -> None:
    terminal = open_terminal()
    terminal.until(lambda text: "29 ■" in text)
    engine = terminal.engine()
    os.kill(terminal.child.pid, signal.SIGKILL)
    terminal.end()
    psutil.wait_procs([engine], timeout=20)
    assert not engine.is_running()


def test_a_killed_engine_leaves_a_living_screen(open_terminal) -> None:
    terminal = open_terminal("--no-cache")
    terminal.until("·Paris .753")
    os.kill(terminal.engine().pid, signal.SIGKILL)
    terminal.until("engine stopped")
    text = terminal.until("signal 9")
    assert "·Paris .753" in text  # what was read stays
    terminal.child.send("r")
    terminal.until(lambda text: "engine stopped" not in text)
    terminal.child.send("d")
    terminal.until("dropped")
    terminal.until("here KL .546")


def test_an_unknown_model_and_a_missing_directory_leave_a_screen(open_terminal) -> None:
    terminal = open_terminal("--model", "gpt22")
    terminal.until("gpt22")
    terminal.until("Did you mean")
    terminal.child.send("q")
    assert terminal.end() == 0


def test_too_small_says_so(open_terminal) -> None:
    terminal = open_terminal(columns=50, lines=12)
    terminal.until("60x16")
