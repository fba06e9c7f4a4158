"""The app with the tour in place of the explore screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand
from textual.screen import Screen

from stagescope import actions
from stagescope.app import StageApp, run_app
from stagescope.engine.client import ChildEngine
from stagescope.engine.protocol import Engine, Load
from stagescope.screens.tour import Tour

if TYPE_CHECKING:
    from stagescope.model_list import Listed


class TourApp(StageApp):
    """The tour on the model of `load`. record: a session is kept. Ends with code 2 where the model has other layers."""

    CSS_PATH = "screens/tour.tcss"  # the panel stands on every screen
    BINDINGS = actions.app_bindings("tour", actions.TOUR)

    def __init__(
        self,
        engine_factory: Callable[[], Engine],
        load: Load = Load(),
        models: Callable[[], Sequence[Listed]] = tuple,
        ascii_only: bool = False,
        record: bool = False,
        **look: str,
    ):
        """look: color and theme, as of StageApp."""
        super().__init__(engine_factory, ascii_only=ascii_only, **look)
        self.explore = self.tour = Tour(load, models, ascii_only, record)

    def action_tour(self, name: str) -> None:
        getattr(self.tour, f"action_{name}")()

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        for action in actions.of("tour") if self.tour.touring else ():
            run = getattr(self.tour, f"action_{action.name}")
            yield SystemCommand(action.label, f"{actions.keys_text(action)}   {action.help}", run)
        yield from super().get_system_commands(screen)


def guide(
    load: Load,
    models: Callable[[], Sequence[Listed]] = tuple,
    mouse: bool = True,
    **look: Any,
) -> tuple[str | None, int]:
    """The tour in this terminal to the end of the app. look: ascii_only, record, color and theme. Gives what `run_app` gives."""
    return run_app(TourApp(ChildEngine, load, models, **look), mouse)
