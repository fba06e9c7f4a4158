"""The neurons screen."""

from __future__ import annotations

from stagescope import actions
from stagescope.screens.asking import Asking, Looked


class NeuronsScreen(Asking):
    PLACE = "neurons"
    BINDINGS = actions.bindings(PLACE, priority=True)

    def __init__(self, looked: Looked):
        super().__init__(looked.info, looked.load, looked.ascii_only)
        self.looked = looked
