"""The tour: the explore screen with a panel, which says of each step what to do, where to look and what the paper says.

A step sets all that is looked at; within one every key does what it always does. It is recorded as any session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from stagescope import actions
from stagescope.engine.protocol import Load, ModelInfo
from stagescope.reports.tour import HALVES, panel_lines
from stagescope.screens.asking import Asking
from stagescope.screens.explore import Explore
from stagescope.sessions.events import State
from stagescope.text import printable
from stagescope.tour import LAYERS, MODEL, STEPS, Step, not_this_model, other_weights

if TYPE_CHECKING:
    from stagescope.model_list import Listed

LOW = 20  # rows of terminal below which a step's four lines would leave three of the stack
ROOMY = 36  # rows of terminal from which all of a step is told at once; below, in two halves of four lines of 80


def state_of(step: Step, load: Load) -> State:
    """What a step looks at. Its edit can be undone."""
    edit = (("change", step.schedule),) if step.schedule else ()
    schedules = (("start", ""), *edit)
    return State(load, step.prompt, schedules, view=step.view, position=step.position, row=step.row)


class Tour(Explore):
    """Explore until the tour is left, and after it."""

    panel = "tour"

    def __init__(
        self,
        load: Load = Load(),
        models: Callable[[], Sequence[Listed]] = tuple,
        ascii_only: bool = False,
        record: bool = False,
    ):
        self.touring = True
        self.number = 0  # of the step, from 0
        self.page = 0  # of `pages`
        self.begun = False  # whether the model was found to be one the steps are for
        super().__init__(state_of(STEPS[0], load), models, ascii_only, record)

    # ------------------------------------------------------------------------------------------ the steps

    def go_to(self, number: int) -> None:
        """Look at all that a step looks at, as if nothing had been done before."""
        self.number, self.page, self.note = number, 0, ""
        if isinstance(self.app.screen, Asking):
            self.app.pop_screen()
        self.look_at(state_of(STEPS[number], self.load))
        self.set_focus(self.stack)
        self.stop_unwanted()
        self.draw()
        if not self.is_complete():
            self.read()
        self._show_screen()

    def _show_screen(self) -> None:
        place = STEPS[self.number].screen
        if place != self.PLACE and self.info is not None:
            getattr(self, f"action_{actions.OPENS[place]}")()

    def _loaded(self, info: ModelInfo) -> None:
        """A model with other layers is refused: at the start with the whole app, later the tour alone ends."""
        refused = "" if info.n_layers == LAYERS or not self.touring else not_this_model(printable(info.name), info.n_layers)
        if refused and not self.begun:
            self.app.remark = f"stagescope: {refused}"
            self.app.leave(2)
            return
        owed, self.begun = not self.begun, True
        super()._loaded(info)
        if refused:
            self.end(refused)
        elif owed and self.touring and self.app.screen is self:
            self._show_screen()  # gone to before the layers were known

    def end(self, why: str) -> None:
        """The panel goes, all else stays."""
        self.touring = False
        for panel in self.panels():
            panel.remove()
        self.panel = ""
        self._make_room(0)
        self.tell(why)

    # ----------------------------------------------------------------------------------------------- keys

    def action_next_step(self) -> None:
        self._step_to(self.number + 1, f"this is the last step: {actions.key('leave_tour')} leaves the tour and keeps what is shown")

    def action_step_before(self) -> None:
        self._step_to(self.number - 1, "this is the first step")

    def _step_to(self, number: int, otherwise: str) -> None:
        if not self.touring:
            return
        if 0 <= number < len(STEPS):
            self.go_to(number)
        else:
            self.tell(otherwise)

    def action_more(self) -> None:
        self.page = (self.page + 1) % len(self.pages())
        self.draw_status()

    def action_leave_tour(self) -> None:
        if self.touring:
            self.end("the tour is left; all that is shown stays, and every key works on")

    # -------------------------------------------------------------------------------------------- drawing

    def pages(self) -> tuple[tuple[str, ...], ...]:
        """The parts of a step that are told together; at last its title alone, where the stack would have no room first."""
        if self.app.size.height < LOW:
            return ((), *HALVES)
        return (*((HALVES[0] + HALVES[1],) if self.app.size.height >= ROOMY else HALVES), ())

    def told_step(self) -> Content:
        step, pages, width = STEPS[self.number], self.pages(), self.app.size.width
        start = Content.styled(f"{self.number + 1}/{len(STEPS)} {step.title}", "bold $text-accent")
        keys = Content("  ").join(
            Content.assemble((actions.key_name(action.keys[0]), "bold $primary"), f" {action.label}").stylize(f"@click=app.tour('{action.name}')")
            for action in actions.of("tour")
            if action.keys
        )
        room = max(width - start.cell_length - keys.cell_length, 2)
        lines = [Content.assemble(start, " " * room, keys)]
        if self.info is not None and self.info.name != MODEL:
            lines.append(Content.styled(other_weights(printable(self.info.name)), "$text-warning"))
        lines += map(Content, panel_lines(step, pages[self.page % len(pages)], width))
        return Content("\n").join(lines)

    def draw_status(self) -> None:
        super().draw_status()
        if self.touring:
            told = self.told_step()
            self._make_room(told.plain.count("\n") + 1)
            for panel in self.panels():
                panel.show(told, layout=True)

    def _make_room(self, lines: int) -> None:
        """Pictures beside the stack are drawn for the lines that the panel leaves."""
        for screen in self.app.screen_stack:
            if isinstance(screen, Asking) and screen.taken != lines:
                screen.taken = lines
                screen.call_later(screen.draw)
