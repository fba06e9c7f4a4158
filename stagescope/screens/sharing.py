"""What every screen can give away: the answer it shows as a file, and a cell, a row or the table of it to the clipboard."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from textual.worker import Worker

from stagescope import actions, paths
from stagescope.answers import Answer, as_numbers
from stagescope.engine.protocol import Progress
from stagescope.exports import again, formats, svg_file
from stagescope.exports.formats import FORMATS, ExportError
from stagescope.screens import words
from stagescope.screens.ask import Ask, Choose, Confirm
from stagescope.screens.frame import Frame
from stagescope.text import printable

# Characters after the base64 that OSC 52 takes at most: what xterm keeps; others take more, none says so.
MOST_COPIED = 74_994
SIZES = {2**20: "MiB", 2**10: "KiB"}
NOT_RECORDED = "nothing is recorded (--no-record, STAGESCOPE_RECORD or config.toml says so)"
FILM = (sys.executable, "-m", "stagescope.film")


class Sharing(Frame):
    """Of a screen that has `answer` and `under_cursor`. Files are written by the app, which outlives the screen."""

    # Of all screens together:
    extension = "html"  # of the last answer that was written, proposed for the next
    filming: Worker | None = None

    def answer(self) -> Answer | None:
        """What is shown; None while there is nothing."""
        raise NotImplementedError

    def under_cursor(self) -> tuple[Mapping[str, Any], str]:
        """Which lines of the answer's table the cursor stands on, by columns; and the column of the cell."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------- export

    def action_export(self, extension: str = "") -> None:
        """Ask for a file name, which says the format, and write it. extension: the one that is proposed."""
        answer = self.answer()
        if answer is None:
            self.say(f"what is looked at is not there to its end yet: {actions.key('export')} when it is")
            return
        proposed = formats.default_name(answer, extension or Sharing.extension)
        known = " ".join(f".{format.extension}" for format in FORMATS)
        question = f"Write to which file? Its end says the format: {known}. Enter, or esc."
        self.app.push_screen(Ask(question, proposed), partial(self._export_to, answer))

    def _export_to(self, answer: Answer, name: str | None) -> None:
        if not name or not name.strip():
            return
        path = Path(os.path.abspath(os.path.expanduser(name.strip())))
        try:
            format = formats.format_of(path)
            if format.module:
                Sharing.extension = format.extension
            formats.refuse(path, overwrite=True)  # before a film is made for it
        except ExportError as error:
            self.say(str(error))
            return
        begin = partial(self._begin_file, answer, path, format.extension)
        if path.is_file():
            question = f"{printable(str(path))} exists. Overwrite it? {actions.key('yes')} or {actions.key('no')}."
            self.app.push_screen(Confirm(question), lambda yes: begin(overwrite=True) if yes else None)
        else:
            begin(overwrite=False)

    def _begin_file(self, answer: Answer, path: Path, extension: str, overwrite: bool) -> None:
        if extension == "cast":
            if self.is_filming():
                self.say(f"a film is being made already: {actions.key('cancel')} cancels it")
                return
            make = partial(self._film, path)
        elif extension == "svg":
            make = self._picture
        else:  # in a thread: a reading of a long prompt takes a second, as does importing what writes Parquet
            make = partial(asyncio.to_thread, formats.render, answer, extension)
        work = self.app.run_worker(self._write_file(make, path, extension, overwrite))
        if extension == "cast":
            Sharing.filming = work

    async def _write_file(
        self, make: Callable[[], Awaitable[bytes]], path: Path, extension: str, overwrite: bool
    ) -> None:
        try:
            data = await make()
            await asyncio.to_thread(formats.save, path, data, overwrite)
        except ExportError as error:
            self.tell(str(error))
            return
        except Exception as error:  # a mistake of ours: it costs the file, not the session
            self.tell(f"not written, by an error of stagescope's own: {type(error).__name__}: {printable(str(error))}")
            return
        explore = getattr(self.app, "explore", None)
        if explore is not None:
            explore.record({"event": "export", "format": extension, "path": str(path)})
        self.tell(f"written to {printable(str(path))} ({_size(len(data))})")

    def tell(self, note: str) -> None:
        """Say it on the screen that is looked at, questions and help aside."""
        shown = [screen for screen in self.app.screen_stack if isinstance(screen, Sharing)]
        if shown:
            shown[-1].say(note)

    async def _picture(self) -> bytes:
        """The screen, without a remark that has nothing to do with it: where the last file went."""
        self._unsay()
        drawn = asyncio.Event()
        self.call_after_refresh(drawn.set)
        await drawn.wait()
        return svg_file.clean(self.app.export_screenshot(title="stagescope"))

    async def _film(self, path: Path) -> bytes:
        """The session so far, played again by a process of its own; escape ends it."""
        session = self.app.explore.session
        if session is None:
            raise ExportError(f"there is no film: {self.app.explore.why_not_recorded()}")
        made = path.with_name(f".{path.name}.{os.getpid()}.cast")
        asked = (str(session.path), str(made), str(self.size.width), str(self.size.height))
        pipes = dict.fromkeys(("stdout", "stderr"), asyncio.subprocess.PIPE)
        process = await asyncio.create_subprocess_exec(*FILM, *asked, stdin=asyncio.subprocess.DEVNULL, **pipes)
        said = asyncio.create_task(process.stderr.read())
        try:
            async for line in process.stdout:
                self.tell(f"film: {words.progress(Progress(**json.loads(line)))}")
            lines = (await said).decode("utf-8", "replace").strip().splitlines() or ["it ended"]
            if await process.wait():
                raise ExportError(f"the session could not be filmed: {printable(lines[-1])}")
            return await asyncio.to_thread(made.read_bytes)
        except OSError as error:
            raise ExportError(f"the session could not be filmed: {error.strerror}") from error
        finally:
            if process.returncode is None:
                process.kill()
            said.cancel()
            made.unlink(missing_ok=True)

    def is_filming(self) -> bool:
        return Sharing.filming is not None and not Sharing.filming.is_finished

    def cancel_film(self) -> bool:
        """Whether there was one to end."""
        if not self.is_filming():
            return False
        Sharing.filming.cancel()
        self.say("no film is made")
        return True

    # ------------------------------------------------------------------------------------------------ copy

    def action_copy(self) -> None:
        """Ask what: a cell, the row, the table, the command that prints it. Says where it went."""
        choices = {"c": "cell", "r": "row", "t": "table", "y": "command"}
        self.app.push_screen(Choose("Copy", choices), self._copy)

    def _copy(self, what: str | None) -> None:
        if what is not None:
            self.app.run_worker(self._send(what), group="copy", exclusive=True)

    async def _send(self, what: str) -> None:
        text = await asyncio.to_thread(self.copied(what))  # the table of a long reading takes seconds
        self.tell(send(self.app, what, text) if text else f"there is no {what} here to be copied")

    def copied(self, what: str) -> Callable[[], str | None]:
        """What is looked at now as text, once it is called: tab-separated, the table with its header; None where there is
        nothing."""
        answer = self.answer()
        if answer is None:
            return lambda: None
        if what == "command":
            return partial(again.command, answer)
        return partial(_cells, answer, what, *(self.under_cursor() if what != "table" else ({}, "")))


def _cells(answer: Answer, what: str, where: Mapping[str, Any], column: str) -> str | None:
    numbers = as_numbers(answer)
    if what == "table":
        return "\n".join(map(_line, [numbers.columns, *numbers.rows]))
    at = {numbers.columns.index(name): value for name, value in where.items() if name in numbers.columns}
    rows = [row for row in numbers.rows if all(row[index] == value for index, value in at.items())]
    if not rows:
        return None
    if what == "row":
        return "\n".join(map(_line, rows))
    return _text(rows[0][numbers.columns.index(column)])


def send(app: Any, what: str, text: str) -> str:
    """Text to the terminal's clipboard (OSC 52, which gives no answer) and to a file, which does. What is said of it."""
    encoded = len(base64.b64encode(text.encode("utf-8", "surrogateescape")))
    tmux = " (tmux passes it on with set-clipboard on)" if os.environ.get("TMUX") else ""
    if encoded <= MOST_COPIED:
        app.copy_to_clipboard(text)
        sent = f"{what}: sent to the terminal's clipboard{tmux}"
    else:
        sent = f"{what}: {_size(len(text))} are more than terminals take"
    try:
        file = paths.data_dir() / "copied.txt"
        paths.write_atomic(file, f"{text}\n".encode("utf-8", "surrogateescape"))
    except paths.PathError as error:
        return f"{sent}; no file, as stagescope {error}"
    return f"{sent}{', and' if encoded <= MOST_COPIED else ':'} written to {printable(str(file))}"


def _line(cells: Any) -> str:
    return "\t".join(map(_text, cells))


def _text(value: Any) -> str:
    return "" if value is None else printable(str(value))


def _size(n: int) -> str:
    unit = next((unit for unit in SIZES if n >= unit), None)
    return f"{n} bytes" if unit is None else f"{n / unit:.1f} {SIZES[unit]}"
