"""The engine in a child process, seen from the app: Engine (protocol.py) over the child's pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

import stagescope
from stagescope import paths
from stagescope.engine import wire
from stagescope.engine.protocol import Failure, Reply, Request
from stagescope.text import printable

LOG = "engine.log"
CLOSE_SECONDS = 2.0  # given to the child to end by itself when its stdin closes


class ChildEngine:
    """Starts the child at the first request. When the child dies every open request ends with Failure("died")."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.failure: Failure | None = None  # why the child is gone; a new ChildEngine starts a new one
        self.ended: Callable[[Failure], None] = lambda failure: None  # called when it ends by itself
        self._open: dict[int, asyncio.Queue[tuple[Reply | None, bool]]] = {}
        self._next = 0
        self._starting = asyncio.Lock()
        self._reader: asyncio.Task | None = None

    async def ask(self, request: Request) -> AsyncIterator[Reply]:
        await self._start()
        if self.failure:
            yield self.failure
            return
        number, self._next = self._next, self._next + 1
        replies = self._open[number] = asyncio.Queue()
        last = False
        try:
            self._send(number, request)
            while not last:
                reply, last = await replies.get()
                if reply is not None:
                    yield reply
        finally:
            del self._open[number]
            if not last:
                self._send(number, None)

    async def close(self) -> None:
        """End the child: its stdin closes, and CLOSE_SECONDS later it is killed if it still lives."""
        async with self._starting:
            self.failure = self.failure or Failure("died", "the engine was closed.")
        process = self.process
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reader:
            await asyncio.wait([self._reader])

    def kill(self) -> None:
        """End the child at once, for when the loop cannot wait any more (SIGTERM, SIGHUP)."""
        if self.process and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    async def _start(self) -> None:
        async with self._starting:
            if self.process or self.failure:
                return
            # -P and PYTHONPATH: the child runs this package, and never a file of the user's that is called torch.py.
            home = str(Path(stagescope.__file__).parent.parent)
            path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
            try:
                with _open_log() as log:
                    self.process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-P", "-m", "stagescope.engine.child"),
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        stderr=log,
                        env={**os.environ, "PYTHONPATH": path},
                    )
            except OSError as error:
                self.failure = Failure("died", f"the engine could not be started: {printable(str(error))}.")
                return
            self._reader = asyncio.create_task(self._read())

    def _send(self, number: int, request: Request | None) -> None:
        if self.failure is None:
            with contextlib.suppress(OSError):
                self.process.stdin.write(wire.encode((number, request)))

    async def _read(self) -> None:
        stdout = self.process.stdout
        try:
            while True:
                length = int.from_bytes(await stdout.readexactly(4), "big")
                number, reply, last = wire.decode(await stdout.readexactly(length))
                if number in self._open:
                    self._open[number].put_nowait((reply, last))
        except (asyncio.IncompleteReadError, ConnectionError):
            why = _why(await self.process.wait())
        except (ValueError, TypeError) as error:
            why = f"its answer cannot be read ({printable(str(error))})"
            self.kill()
            await self.process.wait()
        told = f"Its log is {paths.describe()['logs'] / LOG}."
        is_closed = self.failure is not None
        self.failure = self.failure or Failure("died", f"the engine ended: {why}.", told)
        for replies in self._open.values():
            replies.put_nowait((self.failure, True))
        if not is_closed:
            self.ended(self.failure)


def _open_log() -> IO:
    """The engine's log; nowhere when the disk refuses, for readings need none."""
    try:
        return paths.log_file(LOG)
    except OSError:
        return open(os.devnull, "wb")


def _why(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed (signal 9; the kernel does that when the host runs out of memory)"
    if code < 0:
        return f"signal {-code}, {signal.strsignal(-code)}"
    return f"exit code {code}"
