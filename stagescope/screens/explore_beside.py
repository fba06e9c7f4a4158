"""The screens beside the stack: how the explore screen opens one for what is looked at, and what comes back from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from stagescope import actions
from stagescope.answers import Answer
from stagescope.engine.protocol import EngineError, Generate, Read
from stagescope.engine.question import shape
from stagescope.engine.schedule import ScheduleError, parse, resolve, toggle
from stagescope.screens import compare_words, deck
from stagescope.screens.asking import Asking, Chosen, Looked
from stagescope.screens.attention import AttentionScreen
from stagescope.screens.attribution import AttributionScreen
from stagescope.screens.compare import CompareScreen, one_model
from stagescope.screens.frame import Frame
from stagescope.screens.heads import HeadsScreen
from stagescope.screens.lens import LensScreen
from stagescope.screens.neurons import NeuronsScreen
from stagescope.screens.probe import ProbeScreen
from stagescope.screens.similarity import SimilarityScreen
from stagescope.screens.stages import StagesScreen
from stagescope.screens.sweep import SweepScreen
from stagescope.screens.widgets.line import Line
from stagescope.screens.words import EMPTY, UNKNOWN
from stagescope.screens.write import WriteScreen
from stagescope.text import fit

ROOM = 40  # cells of a schedule in a remark: one of 128 neurons would fill the screen
SHORT = 20  # ... in the header


class ExploreBeside(Frame):
    """A quarter of the Explore screen: the methods the table of actions names for the other screens."""

    sampling = Generate("")  # how the write screen was left
    side_a: Answer | None = None  # a reading kept for the compare screen
    told_alike: Read | None = None  # what C was pressed on in vain: again lets go of side A, or takes its place

    def action_sweep(self) -> None:
        """On a screen of its own, which asks for more than what runs here by itself."""
        if self.info is None or not self.prompt:
            self.say(EMPTY if self.info else UNKNOWN)
            return
        self.stop("sweep")
        self.swept = self.prompt
        self.declined.pop("sweep", None)
        prompts = deck.together(self.deck, self.prompt)
        present = self.prompt if self.prompt in prompts else ""
        looked_at = (self.tracked, self.at, str(self.schedule), self.stack.glyphs.ascii_only)
        screen = SweepScreen(self.info, self.load, prompts, present, *looked_at)
        self._push(screen)

    def action_lens_curves(self) -> None:
        self._open(LensScreen)

    def action_attention(self) -> None:
        self._open(AttentionScreen)

    def action_neurons(self) -> None:
        self._open(NeuronsScreen)

    def action_stages(self) -> None:
        self._open(StagesScreen)

    def action_attribution(self) -> None:
        self._open(AttributionScreen)

    def action_heads(self) -> None:
        self._open(HeadsScreen)

    def action_probe(self) -> None:
        self._open(ProbeScreen)

    def action_similarity(self) -> None:
        self._open(SimilarityScreen)

    def action_write(self) -> None:
        self._open(partial(WriteScreen, sampling=self.sampling))

    def action_compare(self) -> None:
        """Keep this reading as side A; with one kept, open the two. On the same again: drop it."""
        here, told = self.answer(), self.told_alike
        self.told_alike = None
        if here is None:
            self.say(f"this is not read to the end yet: {actions.key('compare')} when it is")
        elif self.side_a is None:
            self._keep_side(here)
        elif not self._is_side_a(here):
            try:
                self._open(partial(CompareScreen, a=self.side_a, b=here))
            except EngineError as error:
                if told == here.request:
                    self._keep_side(here)
                    return
                self.told_alike = here.request
                self.say(f"{self._name_of_a()}: {error} {actions.key('compare')} again keeps this one in its place.")
        elif told == here.request:
            self.side_a = None
            self.say("side A is let go of")
        else:
            self.told_alike = here.request
            self.say(f"{self._name_of_a()} is this itself: change something, or {actions.key('compare')} again lets go of it")

    def _keep_side(self, here: Answer) -> None:
        self.side_a = here
        self.say(f"{self._name_of_a()} is kept; {actions.key('compare')} on another schedule, prompt or model compares")

    def _is_side_a(self, here: Answer) -> bool:
        a, b = (replace(side.request, position=-1, tracked=None) for side in (self.side_a, here))
        return a == b and one_model(self.side_a, here)

    def _name_of_a(self) -> str:
        return compare_words.kept(self.side_a.last.schedule, ROOM, self.stack.glyphs.ascii_only)

    def side_kept(self) -> str:
        """What the header says of it."""
        if self.side_a is None:
            return ""
        return f" · {compare_words.kept(self.side_a.last.schedule, SHORT, self.stack.glyphs.ascii_only)}"

    def _open(self, kind: Callable[[Looked], Asking]) -> None:
        """A screen beside the stack, for what is looked at."""
        if self.info is None or not self.prompt:
            self.say(EMPTY if self.info else UNKNOWN)
            return
        edit = (self.prompt, str(self.schedule), self.at, self.tracked)
        screen = kind(Looked(self.info, self.load, *edit, self.census, self.stack.glyphs.ascii_only))
        self._push(screen)

    def _push(self, screen: Asking) -> None:
        screen.record, screen.mark = self.record_answer, self.mark
        self.app.push_screen(screen, partial(self._point_chosen, screen))
        self.record_changes()
        if self.panel:
            screen.call_later(self._put_panel, screen)

    async def _put_panel(self, screen: Asking) -> None:
        await screen.mount(Line(self.panel), before=screen.footer)
        self.draw_status()

    def _point_chosen(self, screen: Asking, chosen: Chosen | None) -> None:
        """The schedule of a point, on its prompt, read where it was read there."""
        if isinstance(screen, CompareScreen):  # where the sides may have been exchanged
            self.side_a = screen.sides[0]
        if isinstance(screen, WriteScreen):
            self.sampling = screen.request
        if screen.dead:
            self.dead, self.failure = True, screen.failure
            self.draw_status()
            if screen.restart:
                self.action_restart()
        elif chosen is not None:
            self._go_to(chosen.prompt)
            self.at = self.at if chosen.position is None else chosen.position
            before, schedule = str(self.schedule), parse(chosen.schedule)
            if chosen.adds:
                schedule = toggle(self.schedule, schedule.steps[0])
                try:
                    resolve(schedule, self.info.n_layers, **shape(self.info))
                except ScheduleError as error:
                    self.say(error.reason)
                    return
            self.history.change(schedule)
            self._schedule_changed()
            if before and before != str(self.schedule) and not chosen.adds:
                now, before = (fit(text, ROOM).rstrip() for text in (str(self.schedule) or "the baseline", before))
                self.say(f"{now} in place of {before}: {actions.key('undo')} takes it back")
