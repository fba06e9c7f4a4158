"""How the app ends: in a real pseudo-terminal, by key, by signal, by a lost terminal and by a crash."""

import os
import re
import signal
import sys

import pexpect
import pytest

PROGRAM = """
import sys
from stagescope.app import StageApp, run_app
from stagescope.engine.fake import FakeEngine

class Engine(FakeEngine):
    async def close(self):
        open({closed!r}, "w").close()

from stagescope.console import color_depth
from stagescope.sessions.events import begun
app = StageApp(Engine, begun(prompt="a secret prompt"), color=color_depth())
{more}
command, code = run_app(app)
if command:
    print(command)
sys.exit(code)
"""
LEAVE_ALTERNATE_SCREEN, MOUSE_OFF, SHOW_CURSOR = "\x1b[?1049l", "\x1b[?1000l", "\x1b[?25h"


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TERM", "xterm-256color")

    def start(more: str = "") -> pexpect.spawn:
        source = PROGRAM.format(closed=str(tmp_path / "closed"), more=more)
        size = (24, 80)
        child = pexpect.spawn(sys.executable, ["-c", source], dimensions=size, encoding="utf-8", timeout=60)
        child.expect("idle")
        return child

    return start


def end(child: pexpect.spawn) -> str:
    """What it wrote last; afterwards its exit status is known."""
    child.expect(pexpect.EOF)
    child.close()
    return child.before


def test_q_restores_the_terminal_and_prints_the_command(terminal, tmp_path):
    child = terminal()
    child.send("q")
    child.expect("Quit\\?|stagescope read")  # asks when the census still ran
    if "Quit" in child.after:
        child.send("y")
        child.expect("stagescope read")
    assert "a secret prompt" in end(child)
    assert child.exitstatus == 0 and (tmp_path / "closed").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_restores_the_terminal_and_closes_the_engine(terminal, tmp_path, number):
    child = terminal()
    os.kill(child.pid, number)
    written = end(child)
    for sequence in (LEAVE_ALTERNATE_SCREEN, MOUSE_OFF, SHOW_CURSOR):
        assert sequence in written
    assert child.exitstatus == 128 + number and (tmp_path / "closed").exists()


def test_a_lost_terminal_ends_it(terminal, tmp_path):
    child = terminal()
    os.close(child.child_fd)  # what a dropped ssh does: the kernel sends SIGHUP, and writing fails
    _, status = os.waitpid(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert (tmp_path / "closed").exists()
    child.closed = child.terminated = True


def test_a_crash_is_one_line_and_a_traceback_without_locals(terminal, tmp_path):
    more = "def crash(secret='hunter2'): raise RuntimeError('boom')\napp.explore.action_flip = crash"
    child = terminal(more)
    child.send("o")
    written = end(child)
    assert child.exitstatus == 1 and (tmp_path / "closed").exists()
    assert "stopped by an error of its own (RuntimeError: boom)" in written
    log = (tmp_path / "home" / "logs" / "app.log").read_text()
    assert "Traceback" in log and "RuntimeError: boom" in log
    assert "hunter2" not in written + log and "a secret prompt" not in log


def test_no_color_sends_no_colour(terminal, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    child = terminal()
    child.send("d")
    child.expect("drop 11")
    child.send("\x03")
    written = child.before + end(child)
    assert not re.search(r"\x1b\[[\d;]*\b[34]8;[25];", written)
