"""The app with a player in place of the explore screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stagescope import actions
from stagescope.app import StageApp, run_app
from stagescope.engine.client import ChildEngine
from stagescope.engine.protocol import Engine
from stagescope.screens.player import Player
from stagescope.sessions.files import Session


class WatchApp(StageApp):
    """A session watched. other: fields of Load in place of the recorded ones."""

    CSS_PATH = "screens/player.tcss"  # the player's bar stands on every screen
    BINDINGS = actions.app_bindings("player", actions.PLAY)

    def __init__(
        self,
        engine_factory: Callable[[], Engine],
        session: Session,
        other: dict[str, Any] | None = None,
        ascii_only: bool = False,
        playing: bool = True,
        filmed: bool = False,
        **look: str,
    ):
        """look: color and theme, as of StageApp."""
        super().__init__(engine_factory, ascii_only=ascii_only, **look)
        self.explore = self.player = Player(session, other, ascii_only, playing, filmed)
        self.set_class(filmed, "-film")

    def action_player(self, name: str) -> None:
        getattr(self.player, f"action_{name}")()


def watch(session: Session, other: dict[str, Any] | None = None, mouse: bool = True, **look: Any) -> int:
    """Watch a session in this terminal to the end of the app. look: ascii_only, color and theme, as of StageApp. Gives
    the exit code."""
    _, code = run_app(WatchApp(ChildEngine, session, other, **look), mouse)
    return code
