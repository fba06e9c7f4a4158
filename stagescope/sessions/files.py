"""Session files: append-only JSON lines under the data folder, one session a file, 0600.

Every event is in the system's hands before `write` returns, so that killing the process loses none. A line that was cut
(the machine went down) stays as it is: who appends begins a new line, who reads skips it and says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from stagescope import paths
from stagescope.engine.protocol import DEFAULT_PROMPT, Load, ModelInfo
from stagescope.sessions.events import CARRIED, SCHEMA, SYNCED, Event, about, is_sound, plain
from stagescope.text import printable

SUFFIX = ".jsonl"
LONGEST = 16 * 2**20  # bytes of a line: a reading of 2,000 tokens and 100 layers has about 100 KB
LONGEST_NAME = 100
MOST_WARNINGS = 20
_KNOWN = {*CARRIED, *SYNCED, "model", "schedule", "reading"}
_BEGIN = b'{"event": "session"'
_LARGE = (b'{"event": "reading"', b'{"event": "answer"')


class SessionError(Exception):
    """A session that cannot be found, read or written: says what, which and what to do."""


# ------------------------------------------------------------------------------------------------- writing


@dataclass(eq=False)
class Recording:
    """A session file being written, held by this process alone."""

    path: Path
    descriptor: int
    began: float = field(default_factory=time.monotonic)
    left: deque[bytes] = field(default_factory=deque)  # what could not be written yet
    load: Load = Load()  # that it was begun with,
    prompt: str = DEFAULT_PROMPT  # and the prompt
    worth_keeping: bool = False
    syncing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))  # fsync takes 1 to 50 ms
    synced: Future | None = None

    @property
    def id(self) -> str:
        return self.path.stem

    def write(self, event: Event) -> None:
        """Append one event with its time; synced to the disk as well if it is one of SYNCED.

        Raises SessionError (a full disk, a file that was removed): what is left is written before the next event.
        """
        event = {"event": event["event"], "t": round(time.monotonic() - self.began, 3), **event}
        self.worth_keeping = self.worth_keeping or _is_done_by_someone(event, self.load, self.prompt)
        if not os.fstat(self.descriptor).st_nlink:  # 1 us
            self.left.clear()
            raise SessionError(f"the file of the session was removed: {printable(str(self.path))}")
        self.left.append(json.dumps(event, allow_nan=False).encode() + b"\n")
        try:
            while self.left:
                self.left[0] = self.left[0][os.write(self.descriptor, self.left[0]) :]
                if not self.left[0]:
                    self.left.popleft()
            if self.synced and self.synced.done():
                self.synced.result()  # raises what the disk said
        except OSError as error:
            self.synced = None
            why = f"cannot write the session {printable(str(self.path))} ({error.strerror})"
            raise SessionError(f"{why}: make room; what is left is written with the next event") from error
        if event["event"] in SYNCED:
            self.synced = self.syncing.submit(os.fsync, self.descriptor)

    def close(self) -> None:
        """Write "end". A session in which nothing was done but looking at what the app opened with is removed."""
        if self.descriptor < 0:
            return
        try:
            if self.worth_keeping:
                self.write({"event": "end"})
            else:
                self.path.unlink(missing_ok=True)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close the file as it is; one that a full disk took nothing of is removed."""
        if not os.fstat(self.descriptor).st_size:
            self.path.unlink(missing_ok=True)
        self.syncing.shutdown()
        os.close(self.descriptor)
        self.descriptor = -1


def _is_done_by_someone(event: Event, load: Load, prompt: str) -> bool:
    match event["event"]:
        case "model":
            return event["load"] != plain(load)
        case "prompt":
            return event["prompt"] != prompt
        case "schedule":
            return event["how"] != "start"
        case name:
            return name in ("opened", "note", "name", "tags", "export", "deck", "tracked", "screen", "lens", "view")


def begin(load: Load, info: ModelInfo | None = None, prompt: str = DEFAULT_PROMPT) -> Recording:
    """A new session. prompt: what the app opens with. Where the disk is full its header is written with the next event.

    Raises SessionError where there can be no file.
    """
    while True:
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        try:
            recording = _held(_folder() / f"{name}{SUFFIX}", os.O_CREAT | os.O_EXCL)
            break
        except FileExistsError:  # of another app, begun in the same second
            continue
    recording.load, recording.prompt = load, prompt
    with contextlib.suppress(SessionError):  # the next event tells it again
        recording.write({"event": "session", "schema": SCHEMA, "id": name, **about(load, info)})
    return recording


def go_on(path: Path, load: Load = Load(), info: ModelInfo | None = None) -> Recording:
    """A session of before goes on. Raises SessionError when another process holds it; a full disk as for `begin`."""
    recording = held(path)
    with contextlib.suppress(SessionError):
        recording.write({"event": "opened", **about(load, info)})
    return recording


def held(path: Path) -> Recording:
    """A session of before, to be appended to; nothing is written yet. Raises SessionError as `go_on`."""
    recording = _held(path, 0)
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if file.read(1) not in (b"\n", b""):
            recording.left.append(b"\n")  # the last line was cut
    return recording


def _held(path: Path, flags: int) -> Recording:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | flags, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise SessionError(f"cannot write the session {printable(str(path))} ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SessionError(f"the session {printable(path.stem)} is open in another process") from error
    return Recording(path, descriptor)


def _folder() -> Path:
    try:
        return paths.private_dir(paths.data_dir() / "sessions")
    except paths.PathError as error:
        raise SessionError(f"no session can be kept: {error}") from error


def named(name: str) -> Event:
    """The event that gives a session a name. Raises SessionError for one by which it could not be found."""
    name = name.strip()
    if name == "last":
        raise SessionError("last is the latest session: choose another name")
    if os.sep in name or name.endswith(SUFFIX):
        raise SessionError(f"{printable(name)[:LONGEST_NAME]} would be the name of a file: leave {os.sep} and {SUFFIX} out")
    if len(name) > LONGEST_NAME:
        raise SessionError(f"a name of {len(name):,} characters is too long: {LONGEST_NAME} at most")
    return {"event": "name", "name": name}


def added_to(path: Path) -> Recording:
    """As `held`, for what is added from outside: its time goes on from the last event's."""
    recording = held(path)
    try:
        events = read(path).events
    except SessionError:
        recording.let_go()
        raise
    recording.began -= events[-1]["t"] if events else 0.0
    return recording


def remove(path: Path) -> None:
    """Raises SessionError when another process holds it."""
    recording = held(path)
    try:
        path.unlink()
    except OSError as error:
        raise SessionError(f"cannot remove the session {printable(str(path))} ({error.strerror})") from error
    finally:
        recording.let_go()


# ------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Session:
    """A session file as read."""

    path: Path
    events: tuple[Event, ...]
    warnings: tuple[str, ...]  # lines skipped, with their number and why; harmless, the first twenty

    @property
    def id(self) -> str:
        return self.path.stem

    @property
    def name(self) -> str:
        """As given last; "" without one."""
        return next(reversed([e["name"] for e in self.events if e["event"] == "name" and _is_text(e.get("name"))]), "")

    @property
    def tags(self) -> tuple[str, ...]:
        """All that were given, in order, each once."""
        given = [event.get("tags") for event in self.events if event["event"] == "tags"]
        return tuple(dict.fromkeys(tag for tags in given if isinstance(tags, list) for tag in tags if _is_text(tag)))


def read(path: Path, numbers: bool = True) -> Session:
    """Raises SessionError for what is no session at all. numbers: False leaves readings and answers empty, which are nearly
    all of a file."""
    events, warnings, unknown = [], [], Counter()
    try:
        with open(path, "rb") as file:
            first = file.readline(LONGEST)
            if not (_BEGIN.startswith(first[: len(_BEGIN)]) or _is_header(_event(first))):
                raise SessionError(f"{printable(str(path))} is no session: name a .jsonl file that stagescope wrote")
            file.seek(0)
            for number, line in enumerate(_lines(file), 1):
                event = _event(line) if numbers or not line.startswith(_LARGE) else {"event": "reading", "t": 0.0}
                if isinstance(event, str):
                    warnings += [f"line {number} is skipped: {event}"]
                    continue
                events.append(event)
                if not is_sound(event):
                    warnings += [f"line {number} changes nothing: what it carries cannot be"]
                if event["event"] not in _KNOWN:
                    unknown[event["event"]] += 1
    except OSError as error:
        raise SessionError(f"cannot read the session {printable(str(path))} ({error.strerror})") from error
    schema = events[0].get("schema") if events else SCHEMA
    if schema != SCHEMA:
        told = printable(str(schema))[:40]
        warnings.insert(0, f"it was written as {told}, this version knows {SCHEMA}: what it does not know is skipped")
    for name, count in unknown.items():
        warnings.append(f"{count} events of a kind that this version does not know are skipped: {printable(name)[:40]}")
    return Session(path, tuple(events), tuple(warnings[:MOST_WARNINGS]))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Of one that is too long the beginning."""
    while line := file.readline(LONGEST):
        yield line
        while len(line) == LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST)


def _event(line: bytes) -> Event | str:
    """An event, or why the line is none."""
    if not line.endswith(b"\n"):
        return "it was cut" if len(line) < LONGEST else f"it is longer than {LONGEST >> 20} MiB"
    try:
        event = json.loads(line, parse_int=_whole, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return "it is no JSON"
    if not isinstance(event, dict) or not _is_text(event.get("event")):
        return "it is no event"
    if type(event.get("t")) not in (int, float) or not 0 <= event["t"] < 1e9:
        return "it has no time"
    return event


def _whole(digits: str) -> int:
    """No number of ours has more digits than a seed (below 2**63), and arithmetic with some that have fails."""
    if len(digits.lstrip("-")) > 19:
        raise ValueError("too large")
    return int(digits)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _is_header(event: Event | str) -> bool:
    return isinstance(event, dict) and event["event"] == "session"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# ------------------------------------------------------------------------------------------------- finding


def find(name: str, whole: bool = False) -> Path:
    """A session by path, by id or the beginning of one, by its name, or "last". whole: the beginning does not do. Raises
    SessionError."""
    if os.sep in name or name.endswith(SUFFIX):
        path = Path(name).expanduser()
        if not path.is_file():
            raise SessionError(f"there is no file {printable(name)}: `stagescope session list` tells which there are")
        return path
    files = session_files()
    if name == "last" and files:
        return files[0]
    found = [path for path in files if path.stem == name]
    longer = [path for path in files if name and path.stem.startswith(name)]
    found = found or ([] if whole else longer)
    found = found or [session.path for session in all_sessions() if name and session.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(printable(path.stem) for path in found[:5])
        raise SessionError(f"{len(found)} sessions are called {printable(name)}: {several}: give more of the id")
    if longer:
        raise SessionError(f"{printable(name)} is only the beginning of an id: give the whole of it, such as {printable(longer[0].stem)}")
    if not files:
        raise SessionError(f"there is no session {printable(name)}, nor any other: the app records one when it runs")
    raise SessionError(f"there is no session {printable(name)}: `stagescope session list` tells which there are")


def session_files() -> list[Path]:
    """Those of the data folder, that written last first. Raises SessionError where something else is in its place."""
    folder, found = paths.describe()["data"] / "sessions", []
    if folder.exists() and not folder.is_dir():
        raise SessionError(f"{printable(str(folder))} is no folder: no session can be kept or found there until it is out of the way")
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):  # of another process that has just removed it
            if (about := path.stat()).st_size:  # a full disk took nothing of the others
                found.append((about.st_mtime_ns, path.stem, path))
    return [path for _, _, path in sorted(found, reverse=True)]


def all_sessions() -> Iterator[Session]:
    """Those of the data folder that can be read, the latest first, without their numbers."""
    for path in session_files():
        with contextlib.suppress(SessionError):
            yield read(path, numbers=False)
