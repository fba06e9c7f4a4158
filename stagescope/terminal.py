"""A terminal that may go away: a dropped ssh must end the app, not hang it.

Textual writes from a thread through a queue of 30 entries. When the terminal is gone that thread dies of an
OSError and the next writes wait for it for ever, the engine with its GPU memory beside them.
"""

from __future__ import annotations

from typing import TextIO

from textual.drivers.linux_driver import LinuxDriver


class TerminalDriver(LinuxDriver):
    """Textual's own driver, minding that the terminal may be lost. The app then ends by SIGHUP or `leave`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._file = _MayVanish(self._file)

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:  # reading from a lost terminal
            self._app.call_later(self._app.leave, 129)


class _MayVanish:
    """A text file whose writes go nowhere once the terminal behind it is gone."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError:
            pass  # said by SIGHUP

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError:
            pass

    def __getattr__(self, name: str):
        return getattr(self._file, name)
