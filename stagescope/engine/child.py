"""The engine as a child process: frames in on fd 0, frames out on what was fd 1, everything printed to the log.

A frame (wire.py) holds (id, request) or (id, None) to cancel on the way in, (id, reply, last) on the way out. A
reader thread takes requests while a block runs: for readings the latest wins, and long jobs (loading, sweeps, the census) give
way to readings between their chunks. End of file on fd 0 ends the process at once, whatever it does: a dead ssh never
leaves a process holding a GPU.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # before anything is imported that might print, or ask on standard input
    IN, OUT = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

import logging
import queue
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import BinaryIO

from stagescope.engine import wire
from stagescope.engine.at_hand import Cancelled
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import EngineError, Failure, FindToken, Load, Read, Reply, Request, SweepCorpus, TakeCensus
from stagescope.text import printable

MAX_REQUEST = 2**26  # bytes; a prompt is far below, and a length beyond is not from a stagescope


class Inbox:
    """Requests as they come in, with what a running job must know: was it cancelled, is there a newer reading."""

    def __init__(self, stream: BinaryIO):
        self.arrived: queue.SimpleQueue[tuple[int, Request | None]] = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self.newest_read = -1
        threading.Thread(target=self._take, args=(stream,), daemon=True).start()

    def _take(self, stream: BinaryIO) -> None:
        try:
            while body := read_frame(stream):
                number, request = wire.decode(body)
                if type(number) is not int or not isinstance(request, Request | None):
                    raise ValueError(f"no request: {request!r}")
                if request is None:
                    self.cancelled.add(number)
                if isinstance(request, Read):
                    self.newest_read = number
                self.arrived.put((number, request))
        except (ValueError, TypeError):  # who speaks like this is no parent of this version: nothing to stay for
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # the parent is gone; a block that runs now may take minutes

    def unwanted(self, number: int, request: Request) -> bool:
        return number in self.cancelled or (isinstance(request, Read) and number < self.newest_read)


def read_frame(stream: BinaryIO) -> bytes:
    """A frame's body; empty at the end of the stream. Raises ValueError for a length that no request has."""
    length = int.from_bytes(head, "big") if len(head := stream.read(4)) == 4 else 0
    if length > MAX_REQUEST:
        raise ValueError(f"a frame of {length:,} bytes")
    body = stream.read(length) if length else b""
    return body if len(body) == length else b""


def serve(inbox: Inbox, out: BinaryIO, engine: LocalEngine) -> None:
    """Answer until the process ends: readings first, then the long jobs a step at a time, in the order asked."""
    jobs: dict[int, tuple[Request, Iterator[Reply]]] = {}
    waiting: tuple[int, Read] | None = None  # a reading asked for before the weights of the newest Load are there
    current: tuple[int, Request] | None = None

    def checkpoint() -> None:
        if current and inbox.unwanted(*current):
            raise Cancelled

    def send(number: int, reply: Reply | None, last: bool) -> None:
        out.write(wire.encode((number, reply, last)))
        out.flush()

    def step(number: int, request: Request, replies: Iterator[Reply]) -> bool:
        """One reply of a job sent; False when it has ended."""
        nonlocal current
        current = (number, request)
        try:
            checkpoint()
            send(number, next(replies), False)
            return True
        except StopIteration:
            send(number, None, True)
        except Cancelled:
            replies.close()
            inbox.cancelled.discard(number)
            send(number, Failure("cancelled", "cancelled."), True)
        except EngineError as error:
            send(number, error.failure, True)
        except Exception as error:  # the boundary of the process: logged whole, told in a line, and life goes on
            traceback.print_exc()
            told = printable(str(error)).strip()[:300] or "no message"
            send(number, Failure("error", f"{type(error).__name__}: {told}.", "The log has the details."), True)
        finally:
            current = None
        return False

    def admit(number: int, request: Request | None) -> None:
        nonlocal waiting
        if request is None:
            if waiting and waiting[0] == number:
                send(number, Failure("cancelled", "cancelled."), True)
                waiting = None
            if number not in jobs:
                inbox.cancelled.discard(number)
        elif isinstance(request, Read):
            if waiting:
                send(waiting[0], Failure("cancelled", "a newer reading was asked for."), True)
            waiting = (number, request)
        else:
            jobs[number] = (request, engine.answer(request))

    engine.checkpoint = checkpoint
    engine.tell = lambda progress: send(current[0], progress, False) if current else None
    asked_cache = -1
    while True:
        while not (jobs or waiting) or not inbox.arrived.empty():
            admit(*inbox.arrived.get())
        loads = [request for request, _ in jobs.values() if isinstance(request, Load)]
        known = loads and engine.request is loads[-1] and engine.info is not None
        if waiting and not loads:
            (number, request), waiting = waiting, None
            replies = engine.answer(request)
            while step(number, request, replies):
                pass
        elif waiting and known and asked_cache != waiting[0]:  # no weights yet: it can only come from the cache
            asked_cache, request = waiting
            try:
                found = engine.known(request)
            except EngineError:
                found = ()  # told once the model is there and the reading is really tried
            except Exception:  # the same, and never the end of the process
                traceback.print_exc()
                found = ()
            if found:
                send(asked_cache, *found, False)
                send(asked_cache, None, True)
                waiting = None
        elif jobs:
            number = min(jobs, key=lambda number: _rank(jobs[number][0], engine))  # of equals, the first asked for
            if not step(number, *jobs[number]):
                del jobs[number]


def _rank(request: Request, engine: LocalEngine) -> int:
    """Whose next step comes first: somebody waits for a token, a sweep, a map, while the census and the sweep
    of a text run by themselves. Nothing can be done before the weights are there."""
    if isinstance(request, FindToken) and engine.tokenizer:
        return 0
    return 2 if isinstance(request, Load | TakeCensus | SweepCorpus) or engine.net is None else 1


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl+c in the terminal is for the parent
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    serve(Inbox(os.fdopen(IN, "rb")), os.fdopen(OUT, "wb"), LocalEngine())


if __name__ == "__main__":
    main()
