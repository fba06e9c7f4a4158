"""The Textual app: one engine, one screen, and a clean end whatever ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from rich.color import ColorSystem
from textual.app import App, SystemCommand
from textual.await_complete import AwaitComplete
from textual.filter import LineFilter
from textual.screen import Screen
from textual.worker import WorkerFailed

from stagescope import actions, paths, themes
from stagescope.engine.protocol import Engine, Failure
from stagescope.exports.formats import FORMATS
from stagescope.readable import InAscii, Readable
from stagescope.screens.asking import Asking
from stagescope.screens.explore import Explore
from stagescope.screens.frame import Frame
from stagescope.screens.sharing import Sharing
from stagescope.sessions.events import State
from stagescope.sessions.files import Session
from stagescope.terminal import TerminalDriver
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.model_list import Listed

COLOURS = {"truecolor": ColorSystem.TRUECOLOR, "256": ColorSystem.EIGHT_BIT, "16": ColorSystem.STANDARD, "mono": ColorSystem.STANDARD}
_readable = lru_cache(Readable)  # strips remember what a filter made of them
CLOSE_SECONDS = 5.0  # an engine that does not end in this time is left to the end of its standard input


class StageApp(App[str]):
    """Run with `run_app`. The app's result is the shell command of the last reading.

    engine_factory makes an Engine; it is called again after an engine died. state: what is looked at at first. models: what
    the model picker lists, asked when it opens. ascii_only: no block elements in the stack. record: a session is kept;
    resumed: one that goes on. color: one of COLOURS, as `console.color_depth` finds it. theme: a name of settings.THEMES.
    Raises ScheduleError for a schedule that is wrong whatever the model.
    """

    TITLE = "stagescope"
    BINDINGS = actions.bindings("app", priority=True)
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        engine_factory: Callable[[], Engine],
        state: State = State(),
        models: Callable[[], Sequence[Listed]] = tuple,
        ascii_only: bool = False,
        record: bool = False,
        resumed: Session | None = None,
        color: str = "truecolor",
        theme: str = themes.DARK.name,
    ):
        # Textual asks the environment for colours when it is imported, or here, and takes NO_COLOR out of it; that alone
        # still sends 24-bit greys, while with an ansi theme it sends none. So what was decided is said here.
        os.environ.pop("NO_COLOR", None)
        if color == "mono":
            os.environ["NO_COLOR"] = "1"
        few = color in ("16", "mono")
        super().__init__(driver_class=TerminalDriver, ansi_color=few or None)
        self.console._color_system = COLOURS[color]
        self.glyph_filters = [InAscii()] if ascii_only else []
        self.engine_factory = engine_factory
        self.engine = self._new_engine()
        self.explore = Explore(state, models, ascii_only, record, resumed)
        self.crash = self.remark = ""  # a line each, for stderr: an error of ours, and what was lost
        for own in themes.HOUSE:
            self.register_theme(own)
        self.theme = themes.for_few_colours(theme) if few else theme

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's, and on every theme but the dark one, which the drawings are made for, one that keeps colours readable."""
        least = themes.LEAST_CONTRAST.get(self.theme, 3.0)
        fitting = [_readable(least)] if least > 1 and not self.native_ansi_color else []
        return [*super().get_line_filters(), *fitting, *self.glyph_filters]

    def on_mount(self) -> None:
        self.push_screen(self.explore)
        if not self.is_headless:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                loop.add_signal_handler(number, self.leave, 128 + number)

    async def on_unmount(self) -> None:
        await self._close_engine()

    async def restart_engine(self) -> None:
        """Another engine in place of the one that died."""
        await self._close_engine()
        self.engine = self._new_engine()

    def _new_engine(self) -> Engine:
        engine = self.engine_factory()
        engine.ended = self._engine_ended
        return engine

    def _engine_ended(self, failure: Failure) -> None:
        """Said at once: the next request may be minutes away."""
        for screen in self.screen_stack:
            if isinstance(screen, Frame):
                screen.engine_ended(failure)

    async def _close_engine(self) -> None:
        try:
            await asyncio.wait_for(self.engine.close(), CLOSE_SECONDS)
        except TimeoutError:
            self.log.error(f"the engine did not close within {CLOSE_SECONDS} s")

    def leave(self, return_code: int = 0) -> None:
        """End the app and the session; its result is the command that prints the last reading."""
        for screen in self.screen_stack:
            if isinstance(screen, Asking):
                screen.let_go()
        self.explore.end_session()
        self.exit(self.explore.command(), return_code=return_code)

    def pop_screen(self) -> AwaitComplete:
        """While the app ends it takes its screens down itself, and a key that comes then may find the last one."""
        return super().pop_screen() if len(self.screen_stack) > 1 else AwaitComplete.nothing()

    def action_interrupt(self) -> None:
        self.leave(130)

    async def action_quit(self) -> None:  # Textual's own ctrl+q
        self.leave()

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        for action in actions.of(getattr(screen, "PLACE", "")):
            run = getattr(screen, f"action_{action.name}")
            yield SystemCommand(action.label, f"{actions.keys_text(action)}   {action.help}", run)
        if isinstance(screen, Sharing):
            for extension, name, _, help in FORMATS:
                export = partial(screen.action_export, extension)
                yield SystemCommand(f"export {name}", f".{extension}: {help}.", export)
        yield SystemCommand("theme", "Change the colours.", self.action_change_theme)

    def _fatal_error(self) -> None:
        """A plain traceback to the log and one line for stderr: Textual's own shows locals, so prompts."""
        error = self._exception
        if isinstance(error, WorkerFailed):
            error = error.error
        reason = f"{type(error).__name__}: {printable(str(error))[:300]}"
        self.crash = f"stagescope: stopped by an error of its own ({reason})"
        try:
            with paths.log_file("app.log") as log:
                text = f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n"
                text += "".join(traceback.format_exception(error))
                log.write(text.encode("utf-8", "backslashreplace") + b"\n")
            self.crash += f"; the traceback is in {printable(log.name)}"
        except paths.PathError as no_log:
            self.crash += f"; its traceback could not be kept: {no_log}"
        self._close_messages_no_wait()


def run_app(app: StageApp, mouse: bool = True) -> tuple[str | None, int]:
    """Run the app to its end. Returns (shell command of the last reading, exit code).

    The command is None when the terminal is gone. Exit code 130 after ctrl+c, 143 and 129 after SIGTERM and
    SIGHUP, 1 after a crash, which stderr tells in a line.
    """
    command = app.run(mouse=mouse)
    code = app.return_code or 0
    for line in filter(None, (app.crash, app.remark)):
        print(line, file=sys.stderr)
    return (None if code == 129 else command), code  # after SIGHUP there is nobody to print to
