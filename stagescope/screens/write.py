"""The write screen: the prompt goes on, the baseline's text and the edit's side by side, a line for every step.

What is wanted is one Generate; every token replaces the answer so far. Escape keeps what is written. A step opens in the
stack as a prompt: the one at hand and what was written before the step. write_words.py draws and words it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from textual import events, on
from textual.app import ComposeResult
from textual.content import Content

from stagescope import actions
from stagescope.answers import Answer
from stagescope.engine.generation import check
from stagescope.engine.protocol import EngineError, Generate, Generation
from stagescope.engine.schedule import anchored, parse
from stagescope.reports.generation import flowing
from stagescope.screens import write_words as said
from stagescope.screens.ask import Ask
from stagescope.screens.asking import Chosen, Listing, Looked
from stagescope.screens.neurons_words import HERE
from stagescope.screens.sweep_words import CHOSEN, QUIET, wrapped
from stagescope.screens.widgets.line import Line
from stagescope.text import fit

HIGH = 30  # lines from which the texts take more of them
TEXT_LINES = 2, 5  # of each text: least and most
AROUND = 7  # lines beside texts and steps: header, sampling, summary, heading, detail, status, footer


class WriteScreen(Listing):
    """Dismissed with a step to look at in the stack, or None."""

    PLACE = "write"
    BINDINGS = actions.bindings(PLACE, priority=True)
    CSS_PATH = "write.tcss"

    def __init__(self, looked: Looked, sampling: Generate = Generate("")):
        """sampling: what it says of tokens and chance is asked for at first."""
        super().__init__(looked.info, looked.load, looked.ascii_only)
        schedules = (looked.schedule,) if looked.schedule else ()
        self.request = replace(sampling, prompt=looked.prompt, schedules=schedules)
        # what is looked at
        self.side = len(schedules)
        self.step = 0
        self.follows = True  # the newest step
        # what is known
        self.found: dict[Generate, Generation] = {}
        self.drawn_steps = range(0)

        self.sampling, self.summary, self.table, self.detail = Line("sampling"), Line("summary"), Line("table"), Line("detail")
        self.names = (Line("name-a"), Line("name-b"))
        self.texts = (Line("text-a"), Line("text-b"))

    def compose(self) -> ComposeResult:
        yield from (self.small, self.header, self.sampling)
        for side in range(2):
            yield from (self.names[side], self.texts[side])
        yield from (self.summary, self.table, self.detail, self.status, self.footer)

    # --------------------------------------------------------------------------------- asking the engine

    def wanted(self) -> Generate:
        return self.request

    def is_known(self, request: Generate) -> bool:
        return request in self.found and self.found[request].complete

    def receive(self, request: Generate, reply: Generation) -> None:
        self.found[request] = reply
        if request == self.request:
            newest = self.n_steps - 1
            self.step = newest if self.follows else min(self.step, newest)

    def cut_short(self, request: Generate) -> None:
        """The text as far as it is written goes into the session, as one of so many tokens."""
        found = self.found.get(request)
        if found is not None and not found.complete:
            written = found.as_far()
            self.record(written.asked, (written,))

    @property
    def generation(self) -> Generation | None:
        return self.found.get(self.request)

    @property
    def n_steps(self) -> int:
        found = self.generation
        return max(map(found.length, range(len(found.schedules)))) if found else 0

    def answer(self) -> Answer | None:
        """As far as it is written, which is all of a shorter text."""
        found = self.generation and self.generation.as_far()
        return found and Answer(self.load, self.info, found.asked, (found,))

    def under_cursor(self) -> tuple[dict[str, Any], str]:
        return {"schedule": self.generation.schedules[self.side], "step": self.step}, "token"

    # --------------------------------------------------------------------------------------------- keys

    def _move(self, by: int) -> None:
        self.step = min(max(self.step + by, 0), max(self.n_steps - 1, 0))
        self.follows = by > 0 and self.step == self.n_steps - 1
        self.draw_after_keys()

    def action_left(self) -> None:
        self._choose(0)

    def action_right(self) -> None:
        self._choose(1)

    def _choose(self, side: int) -> None:
        self.side = min(side, len(self.request.schedules))
        self.draw_after_keys()

    def action_parting(self) -> None:
        found = self.generation
        at = found.parts_at(1) if found and len(found.schedules) > 1 else None
        if at is None:
            self.say("the two texts are alike so far" if self.request.schedules else "there is no edit beside the baseline")
            return
        self.step, self.follows = at, False
        self.draw_after_keys()

    def action_sampling(self) -> None:
        question = "Sampling: greedy, or such as temperature 0.8 top-k 50 top-p 0.9 seed 1; tokens 60. Enter, or esc."

        def answer(line: str | None) -> None:
            if line is None:
                return
            try:
                asked = said.with_settings(self.request, line)
                check(asked, self.info)
            except (ValueError, EngineError) as error:
                self.say(str(error))
            else:
                self._ask_for(asked)

        self.app.push_screen(Ask(question, said.settings(self.request)), answer)

    def action_rest(self) -> None:
        self.follows = True
        super().action_rest()

    def action_seed(self) -> None:
        if not self.request.temperature:
            self.say(f"greedy draws nothing: {actions.key('sampling')} gives a temperature, such as temperature 0.8")
            return
        self._ask_for(replace(self.request, seed=self.request.seed + 1))

    def _ask_for(self, request: Generate) -> None:
        self.request, self.step, self.follows = request, 0, True
        self.failure = self.failure if self.dead else ""
        self.go_on()

    def action_open(self) -> None:
        """Leave, with the prompt as it stands before the step in the stack."""
        found, step = self.generation, self.step
        if found is None or step > found.length(self.side):
            self.say("nothing is written there")
        elif step and not found.reads_back[self.side, step - 1]:
            why = "the prompt stands in a chat template" if self.load.chat else "typed anew, the words before it are other tokens"
            self.say(f"{why}: this step cannot be looked at as a prompt{'' if self.load.chat else ', its neighbours may'}")
        else:
            schedule = anchored(parse(found.schedules[self.side]), len(found.tokens))
            self.dismiss(Chosen(str(schedule), found.prompt + found.text(self.side, step), -1))

    @on(events.Click, "#table")
    def _clicked(self, event: events.Click) -> None:
        """A click on a step chooses it, and the text it was made on; above them stands a heading."""
        place = event.get_content_offset(self.table)
        if place is not None and 1 <= place.y <= len(self.drawn_steps):
            self.step, self.follows = self.drawn_steps[place.y - 1], False
            self._choose(said.side_at(place.x, self.generation, self.side, self.size.width))

    # ------------------------------------------------------------------------------------------ drawing

    def draw(self) -> None:
        """Everything, from what is known now."""
        self.drawn()
        found, width, glyphs = self.generation, self.size.width, self.glyphs
        self.sampling.show(Content.assemble(("sampling ", QUIET), said.settings(self.request)))
        for side in range(2):
            is_there = side <= len(self.request.schedules)
            self.names[side].display = self.texts[side].display = is_there and not self.has_class("-small")
            if is_there:
                self._draw_text(found, side)
        self.summary.show(wrapped(said.summary(found, glyphs), width, 1, glyphs) if found else self.why_nothing())
        self.table.show(self._table(found, width) if found else "")
        self.detail.show(wrapped(said.point(found, self.side, self.step, glyphs), width, 1, glyphs) if found else "")
        self.draw_status()

    def _draw_text(self, found: Generation | None, side: int) -> None:
        is_chosen = side == self.side and bool(self.request.schedules)
        name = (self.request.schedules[side - 1] if side else "baseline") or "baseline"
        mark = self.glyphs.cursor if is_chosen else " "
        name = fit(f"{mark} {name}", self.size.width, self.glyphs.ascii_only).rstrip()
        self.names[side].show(Content.styled(name, CHOSEN if is_chosen else QUIET))
        self.texts[side].styles.height = self.text_height
        if found is None:
            self.texts[side].show("")
            return
        shown = (self.step, self.size.width, self.text_height, side == self.side)
        self.texts[side].show(said.text_window(found, side, *shown, self.glyphs))

    def _table(self, found: Generation, width: int) -> Content:
        room, n = self.room(), self.n_steps
        first = max(min(self.step - room // 2, n - room), 0)
        self.drawn_steps = range(first, min(first + room, n))
        drawn = [said.heading(found, self.side, width, self.glyphs)]
        for step in self.drawn_steps:
            line = said.row(found, step, self.side, step == self.step, width, self.glyphs)
            drawn.append(line.stylize(HERE) if step == self.step else line)
        return Content("\n").join(drawn)

    @property
    def text_height(self) -> int:
        """Of each text: two, and where the terminal is high as many as the longer one needs."""
        least, most = TEXT_LINES
        if self.lines_left < HIGH or self.generation is None:
            return least
        cells = max(cell_len(flowing(self.generation.text(side))) for side in range(len(self.generation.schedules)))
        return min(max(cells // max(self.size.width, 1) + 1, least), most)

    def room(self) -> int:
        """Steps that fit below the heading."""
        return max(self.lines_left - AROUND - (1 + self.text_height) * (1 + len(self.request.schedules)), 1)

    def doing(self) -> str:
        return "writing" if self.running and not self.dead else super().doing()

    def idle_keys(self) -> set[str]:
        alone = set() if self.request.schedules else {"parting"}
        return super().idle_keys() | alone | (set() if self.request.temperature else {"seed"})

    def known(self) -> str:
        found = self.generation
        if found is None:
            return ""
        stopped = "" if found.complete or self.running else f"; stopped: {actions.key('rest', self.PLACE)} writes it anew"
        return f"{self.n_steps} of at most {self.request.tokens} tokens{stopped}"
