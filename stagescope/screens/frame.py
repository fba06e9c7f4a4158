"""What the explore and the sweep screen share: remarks in the status line, an engine that ended, and what a terminal
too small is told."""

from __future__ import annotations

from textual import events
from textual.screen import Screen

from stagescope.engine.protocol import Failure
from stagescope.screens import words

SMALLEST = (60, 16)
NOTE = 8.0  # seconds a remark stays in the status line


class Frame(Screen):
    """Of a screen that has `draw`, `draw_status`, a line `small`, and `failure` and `dead` of the engine."""

    note, note_timer = "", None

    def say(self, note: str) -> None:
        """A remark in the status line, for a while."""
        self.note = note
        if self.note_timer:
            self.note_timer.stop()
        self.note_timer = self.set_timer(NOTE, self._unsay)
        self.draw_status()

    def _unsay(self) -> None:
        self.note = ""
        self.draw_status()

    def engine_ended(self, failure: Failure) -> None:
        self.dead, self.failure = True, words.failure(failure)
        self.draw_status()

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size
        self.set_class(width < SMALLEST[0] or height < SMALLEST[1], "-small")
        self.small.show(f"stagescope needs {SMALLEST[0]}x{SMALLEST[1]}, this terminal is {width}x{height}")
        self.call_after_refresh(self.draw)
