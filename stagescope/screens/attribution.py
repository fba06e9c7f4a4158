"""Being built."""

from __future__ import annotations

from textual.app import ComposeResult

from stagescope.engine.protocol import Reply, Request, TakeAttribution
from stagescope.screens.asking import Asking, Looked


class AttributionScreen(Asking):
    PLACE = "attribution"

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked, self.found = looked, None

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.status, self.footer)

    def wanted(self) -> Request:
        return TakeAttribution(self.looked.prompt, self.looked.schedule)

    def is_known(self, request: Request) -> bool:
        return self.found is not None

    def receive(self, request: Request, reply: Reply) -> None:
        self.found = reply

    def draw(self) -> None:
        self.drawn()
        self.draw_status()

    def action_left(self) -> None: ...

    def action_right(self) -> None: ...

    def action_first(self) -> None: ...

    def action_last(self) -> None: ...
