"""How child processes begin and end: killed, closed, fed with garbage, left alone by a parent that died."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from test_child import WAIT, ask, holds, is_preview, loading, until

import stagescope
from stagescope import paths
from stagescope.engine import client, wire
from stagescope.engine.client import ChildEngine
from stagescope.engine.protocol import Failure, FindToken, Read, Reply, TakeCensus

CHILD = (sys.executable, "-P", "-m", "stagescope.engine.child")


def gone(pid: int) -> bool:
    """Ended; an orphan that nobody has waited for yet counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest_asyncio.fixture
async def fresh():
    """Makes children that the test need not close."""
    engines = []

    def start() -> ChildEngine:
        engines.append(ChildEngine())
        return engines[-1]

    yield start
    for engine in engines:
        await engine.close()
        assert engine.process is None or not psutil.pid_exists(engine.process.pid)


async def test_requests_before_any_load_are_failures(fresh):
    child = fresh()
    for request in (Read("a"), Read("a", "drop 1", part="output"), TakeCensus(), FindToken("a"), Read("")):
        (failure,) = await ask(child, request)
        assert isinstance(failure, Failure) and failure.kind in ("error", "usage")
        assert "Error" not in failure.message, failure  # a sentence, not the name of an exception


async def test_a_child_killed_while_nothing_is_asked_says_so_and_one_that_is_closed_does_not(fresh):
    child, told = fresh(), asyncio.get_running_loop().create_future()
    child.ended = told.set_result
    await ask(child, FindToken("a"))
    child.kill()
    failure = await asyncio.wait_for(told, WAIT)
    assert failure.kind == "died" and "it was killed" in failure.message
    other, told = fresh(), []
    other.ended = told.append
    await ask(other, FindToken("a"))
    await other.close()
    assert not told


async def test_a_killed_child_ends_every_open_request(fresh, gpt2_dir):
    child = fresh()
    previewed = asyncio.Event()

    async def load() -> list[Reply]:
        replies = []
        async for reply in child.ask(loading(gpt2_dir)):
            replies.append(reply)
            if is_preview(reply):
                previewed.set()
        return replies

    requests = (Read("never read in any test"), TakeCensus(), FindToken("a"))
    tasks = [asyncio.create_task(job) for job in (load(), *(ask(child, request) for request in requests))]
    async with asyncio.timeout(WAIT):
        await previewed.wait()
        os.kill(child.process.pid, signal.SIGKILL)
        answers = await asyncio.gather(*tasks)
    for replies in (answers[0], answers[1], answers[2]):
        assert replies[-1].kind == "died" and "signal 9" in replies[-1].message
        assert client.LOG in replies[-1].hint
    assert await ask(child, Read("a")) == [answers[0][-1]]


async def test_a_child_that_was_asked_to_end_says_so(fresh):
    child = fresh()
    await ask(child, FindToken("a"))
    child.process.terminate()
    await child.process.wait()
    (failure,) = await ask_until_dead(child)
    assert failure.kind == "died" and "signal 15" in failure.message


async def ask_until_dead(child: ChildEngine) -> list[Reply]:
    await holds(lambda: child.failure)
    return await ask(child, FindToken("a"))


async def test_closing_ends_the_child_whatever_it_does(fresh, gpt2_dir):
    idle, busy, unused = fresh(), fresh(), fresh()
    await ask(idle, FindToken("a"))
    load = asyncio.create_task(ask(busy, loading(gpt2_dir)))
    await holds(lambda: busy.process and busy._open)
    for engine in (idle, busy, unused):
        async with asyncio.timeout(WAIT):
            await asyncio.gather(engine.close(), engine.close())
            await engine.close()
        assert await ask(engine, FindToken("a")) == [Failure("died", "the engine was closed.")]
    assert idle.process.returncode == 0  # it was not killed
    assert gone(idle.process.pid) and gone(busy.process.pid) and unused.process is None
    assert (await load)[-1].kind == "died"


async def test_a_child_that_cannot_start_is_a_failure(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(client.sys, "executable", str(tmp_path / "python"))
    child = fresh()
    for _ in range(2):
        (failure,) = await ask(child, Read("a"))
        assert failure.kind == "died" and "could not be started" in failure.message


async def test_answers_that_are_none_end_the_child(fresh, monkeypatch, tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nprintf '\\000\\000\\000\\004junk'\nexec cat\n")
    other.chmod(0o700)
    monkeypatch.setattr(client.sys, "executable", str(other))
    child = fresh()
    (failure,) = await ask(child, Read("a"))
    assert failure.kind == "died" and "cannot be read" in failure.message
    assert gone(child.process.pid)


async def test_folders_that_cannot_be_do_not_keep_the_engine_from_starting(fresh, monkeypatch, tmp_path, gpt2_dir):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path / "file"))
    child = fresh()
    assert (await until(child, loading(gpt2_dir), is_preview)).n_layers == 6
    child.kill()
    assert (await ask_until_dead(child))[-1].kind == "died"


async def test_what_libraries_print_goes_to_the_log(fresh, monkeypatch, tmp_path, gpt2_dir):
    """A torch that prints in every way there is, and asks a question on standard input, instead of the real one."""
    (tmp_path / "torch.py").write_text(
        "import os, sys, subprocess\n"
        "print('printed'); sys.stdout.flush(); sys.__stdout__.write('written\\n')\n"
        "os.write(1, b'raw \\xff\\n'); subprocess.run(['echo', 'by a process'])\n"
        "try:\n    input('Trust this code? ')\nexcept EOFError:\n    raise ImportError('nobody answers')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path / "home"))
    child = fresh()
    *_, failure = await ask(child, loading(gpt2_dir))
    assert failure.kind == "error" and "nobody answers" in failure.message
    assert (await ask(child, FindToken("e")))[0].text == "e"
    await child.close()
    log = (paths.log_dir() / "engine.log").read_bytes()
    for printed in (b"printed", b"written", b"raw \xff", b"by a process", b"Trust this code?", b"Traceback"):
        assert printed in log


async def test_files_of_the_current_folder_are_not_run(fresh, monkeypatch, tmp_path, gpt2_dir):
    for name in ("numpy", "msgpack", "stagescope"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run by mistake')")
    monkeypatch.chdir(tmp_path)
    assert (await until(fresh(), loading(gpt2_dir), is_preview)).loaded is False


# ------------------------------------------------------------------------- without a client: pipes by hand


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(stagescope.__file__).parent.parent)}


@pytest.fixture
def by_hand(tmp_path):
    """Starts children that have ended, one way or the other, when the test has; their stderr is `log`."""
    running = []

    def start(log: str = "log") -> subprocess.Popen:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        with open(tmp_path / log, "wb") as stderr:
            running.append(subprocess.Popen(CHILD, stderr=stderr, env=environment(), **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def replies_of(process: subprocess.Popen):
    """(id, reply, last) as they come, to the end of the stream."""
    with open(process.stdout.fileno(), "rb", closefd=False) as stream:
        while len(head := stream.read(4)) == 4:
            yield wire.decode(stream.read(int.from_bytes(head, "big")))


def test_the_end_of_stdin_ends_the_child_in_the_middle_of_loading(by_hand, gpt2_dir, tmp_path):
    process = by_hand()
    process.stdin.write(wire.encode((0, loading(gpt2_dir))))
    assert any(is_preview(reply) for _, reply, _ in replies_of(process))
    process.stdin.close()
    assert process.wait(WAIT) == 0
    assert not (tmp_path / "log").read_bytes()


def test_garbage_on_stdin_ends_the_child(by_hand, tmp_path):
    """With stdin still open: neither waiting for ever nor spinning."""
    garbage = {
        "a length of 4 GiB": b"\xff\xff\xff\xffgarbage",
        "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "no msgpack": b"\0\0\0\4\xc1\xc1\xc1\xc1",
        "no pair": wire.encode(5),
        "no request": wire.encode((0, Failure("usage", "sent the wrong way"))),
        "no number": wire.encode(([], None)),
        "an unknown request": wire.encode((0, TakeCensus())).replace(b"TakeCensus", b"TakeCensuz"),
    }
    running = {what: by_hand(what) for what in garbage}
    for what, process in running.items():
        process.stdin.write(garbage[what])
    for what, process in running.items():
        assert process.wait(WAIT) == 1, what
        assert b"Traceback" in (tmp_path / what).read_bytes(), what
        assert process.stdout.read() == b""


def test_a_frame_cut_short_ends_the_child(by_hand):
    process = by_hand()
    process.stdin.write(wire.encode((0, FindToken("a")))[:-3])
    process.stdin.close()
    assert process.wait(WAIT) == 0


def test_ctrl_c_in_the_terminal_is_not_for_the_child(by_hand):
    process = by_hand()
    replies = replies_of(process)
    for number in range(2):
        process.stdin.write(wire.encode((number, FindToken("a"))))
        assert next(replies)[0] == number
        process.send_signal(signal.SIGINT)
    process.stdin.close()
    assert process.wait(WAIT) == 0


PARENT = """
import asyncio, sys
from stagescope.engine.client import ChildEngine
from stagescope.engine.protocol import Load, ModelInfo

async def main():
    engine = ChildEngine()
    async for reply in engine.ask(Load(sys.argv[1], device="cpu", threads=1)):
        if isinstance(reply, ModelInfo):
            print(engine.process.pid, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_parent_takes_the_child_along(gpt2_dir):
    command = [sys.executable, "-c", PARENT, str(gpt2_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as parent:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
        await holds(lambda: gone(pid))
