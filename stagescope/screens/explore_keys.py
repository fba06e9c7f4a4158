"""What each key, click and typed line does on the explore screen: the methods the table of actions names."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from textual import on
from textual.widgets import Input

from stagescope import actions
from stagescope.engine.protocol import LENSES, MOST_PROMPTS, FindToken
from stagescope.engine.question import shape
from stagescope.engine.schedule import Schedule, ScheduleError, parse, resolve
from stagescope.engine.tokens import Token
from stagescope.exports import again
from stagescope.screens import deck, words
from stagescope.screens.ask import Ask, Confirm
from stagescope.screens.edits import CannotEdit, key_edit
from stagescope.screens.frame import Frame
from stagescope.screens.help import Help
from stagescope.screens.models import Models
from stagescope.screens.rows import Row
from stagescope.screens.widgets.line import from_line
from stagescope.screens.widgets.stack import Stack
from stagescope.screens.widgets.tokens import TokenStrip
from stagescope.screens.words import EMPTY, UNKNOWN
from stagescope.sessions.events import COLUMNS, VIEWS
from stagescope.text import printable, visible

TOLD_COLUMNS = {  # of attention and MLP
    "norms": "what each writes, relative to the stream before it",
    "direct": "what each adds directly to the logit of the followed token",
    "change": "how the edit changes what each adds directly to that logit",
}
SLOW_LOAD = 20.0  # seconds of loading that `q` asks about


class ExploreKeys(Frame):
    """A part of the Explore screen: it changes what is wanted, then draws and asks."""

    # ---------------------------------------------------------------------------------- editing the network

    def action_drop(self) -> None:
        self._edit("drop")

    def action_attn(self) -> None:
        self._edit("attn")

    def action_mlp(self) -> None:
        self._edit("mlp")

    def action_repeat(self) -> None:
        self._edit("repeat")

    def action_swap_up(self) -> None:
        self._edit("swap", -1 if self.stack.flipped else +1)

    def action_swap_down(self) -> None:
        self._edit("swap", +1 if self.stack.flipped else -1)

    def _edit(self, verb: str, towards: int = 0, row: Row | None = None) -> None:
        row = row or self.stack.row_at_cursor()
        if row is None or self.info is None:
            self.say(UNKNOWN)
        elif not row.layers:
            self.say("the embedding is no layer: move to one with ↑ ↓")
        elif len(row.layers) > 1:
            self.say("this row is a group of layers: edit it as text with :")
        else:
            known = shape(self.info)
            plan = resolve(self.schedule, self.info.n_layers, **known)
            place = None if row.depth is None else row.depth - 1
            try:
                schedule = key_edit(verb, self.schedule, plan, row.layers[0], place, towards)
                resolve(schedule, self.info.n_layers, **known)
            except CannotEdit as error:
                self.say(str(error))
            except ScheduleError as error:
                self.say(error.reason)
            else:
                self.history.change(schedule)
                self._schedule_changed()

    def _schedule_changed(self) -> None:
        self.schedule_field.text = str(self.schedule)
        self.failure = self.note = ""
        self.draw()
        self.read()

    def action_undo(self) -> None:
        self._step(self.history.undo(), "nothing to undo")

    def action_redo(self) -> None:
        self._step(self.history.redo(), "nothing to do again")

    def action_baseline(self) -> None:
        self._step(self.history.baseline(), "this is the baseline, and no edit was set aside")

    def _step(self, changed: bool, otherwise: str) -> None:
        self._schedule_changed() if changed else self.say(otherwise)

    # --------------------------------------------------------------------------------------- moving, looking

    def action_up(self) -> None:
        self.stack.cursor_up()

    def action_down(self) -> None:
        self.stack.cursor_down()

    def action_page_up(self) -> None:
        self.stack.page(-1)

    def action_page_down(self) -> None:
        self.stack.page(+1)

    def action_top(self) -> None:
        self.stack.first()

    def action_bottom(self) -> None:
        self.stack.last()

    def action_left(self) -> None:
        self.move_to(self.position(self.output) - 1)

    def action_right(self) -> None:
        self.move_to(self.position(self.output) + 1)

    def move_to(self, position: int) -> None:
        """Look at another token; ask only if what is known does not cover it."""
        if not 0 <= position < len(self.tokens) or position == self.position(self.output):
            return
        self.at = position
        self.draw()
        if not (self.reading and position in self.reading.positions and self.reading.tokens == self.tokens):
            self.read()

    def action_view(self) -> None:
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self.draw()

    def action_flip(self) -> None:
        self.stack.flipped = not self.stack.flipped
        self.draw_status()

    def action_lens(self) -> None:
        self.lens = LENSES[(LENSES.index(self.lens) + 1) % len(LENSES)]
        meaning = {"standard": "", "v1": " (final scale at every depth, no biases)"}[self.lens]
        self.say(f"lens: {self.lens}{meaning}")
        self.read()

    def action_track(self) -> None:
        row = self.stack.row_at_cursor()
        top = Token(row.top[0].id, row.top[0].text) if row and row.top else None
        question = "Follow which token? A leading space counts; empty: the baseline's top. Enter, or esc."

        def answer(line: str | None) -> None:
            if line == "":
                self.track(None)
            elif top is not None and line == top.text:
                self.track(top)
            elif line is not None:
                work = partial(self._converse, "token", FindToken(from_line(line)), self.track)
                self.run_worker(work, group="token", exclusive=True)

        self.app.push_screen(Ask(question, top.text if top else ""), answer)

    def track(self, token: Token | None) -> None:
        self.tracked, self.tracked_text = (token.id, token.text) if token else (None, "")
        self.say(f"following {visible(token.text)}" if token else "following the baseline's top token")
        self.read()

    def action_column(self) -> None:
        """The next of COLUMNS; the last one under an edit alone."""
        names = [name for name in COLUMNS if name != "change" or self.schedule]
        at = names.index(self.shown_column)
        self.column = names[(at + 1) % len(names)]
        self.declined.pop("direct", None)
        self.stop_unwanted()
        self.say(f"attn mlp: {TOLD_COLUMNS[self.column]}")
        self.draw()
        self.next_job()

    # ------------------------------------------------------------------------------------------------- deck

    def action_pin(self) -> None:
        is_pinned = self.prompt in self.deck.prompts
        if not self.prompt:
            self.say(EMPTY)
        elif not is_pinned and not (self.output and self.output.prompt == self.prompt):
            self.to_pin = self.prompt
            self.say("this prompt was not read yet: it is pinned as soon as it was")
        elif not is_pinned and len(self.deck.prompts) == MOST_PROMPTS:
            self.say(f"the deck is full, {MOST_PROMPTS} prompts: p on one of them takes it off")
        else:
            self.deck = deck.pin(self.deck, self.prompt)
            self.set_class(bool(self.deck.prompts), "-deck")  # the effect has a line more
            left = deck.place(self.deck, self.prompt) if self.deck.prompts else "the deck is empty"
            self.say(f"taken off: {left}" if is_pinned else f"pinned: {left}")
            self.draw()
            self.stop_unwanted()
            self.next_job()

    def action_deck_back(self) -> None:
        self._step_deck(-1)

    def action_deck_forward(self) -> None:
        self._step_deck(+1)

    def _step_deck(self, towards: int) -> None:
        if not self.deck.prompts:
            self.say(f"the deck is empty: {actions.key('pin')} pins this prompt")
            return
        self.deck, prompt = deck.step(self.deck, self.prompt, towards)
        if prompt == self.prompt:
            self.say("this is the only prompt of the deck")
            return
        self._go_to(prompt)
        back = "" if prompt in self.deck.prompts else ", back at the prompt that is not pinned"
        self.say(deck.place(self.deck, prompt) + back)
        self.draw()
        self.read()

    # ---------------------------------------------------------------------------------- prompt and schedule

    def _go_to(self, prompt: str) -> None:
        """Another prompt; who calls draws and asks."""
        if prompt != self.prompt:
            self.prompt, self.at = prompt, -1
            self.prompt_field.text = prompt

    def action_prompt(self) -> None:
        self.set_focus(self.prompt_field)  # at once: focus() waits, and the next key may be here already

    def action_edit(self) -> None:
        """The old schedule stands selected: typing replaces it, an arrow goes into it."""
        self.set_focus(self.schedule_field)
        self.schedule_field.select_all()

    def action_leave(self) -> None:
        """Out of the prompt, or out of the schedule line with nothing changed."""
        if self.focused is self.schedule_field:
            self.schedule_field.text = str(self.schedule)
        self.set_focus(self.stack)

    @on(Input.Changed, "#prompt")
    def _prompt_typed(self, event: Input.Changed) -> None:
        text = event.input.text
        if text != self.prompt:
            self.prompt, self.at = text, -1
            self.draw()
            self.read(typing=True)

    @on(Input.Changed, "#schedule")
    def _schedule_typed(self, event: Input.Changed) -> None:
        self._check(event.input.text)
        self.draw_status()

    def action_apply(self) -> None:
        typed = self._check(self.schedule_field.text)
        if typed is not None:  # the empty schedule is false, and allowed
            self.set_focus(self.stack)
            self.history.change(typed)
            self._schedule_changed()
        self.draw_status()

    def _check(self, text: str) -> Schedule | None:
        """The schedule a text stands for; None, and `schedule_error` says what is wrong with it."""
        try:
            typed = parse(text)
            if self.info is not None:
                positions = len(self.tokens) or None
                resolve(typed, self.info.n_layers, **shape(self.info), n_positions=positions)
        except ScheduleError as error:
            self.schedule_error = error
            return None
        self.schedule_error = None
        return typed

    # ------------------------------------------------------------------------------------------------ mouse

    @on(Stack.Moved)
    def _row_moved(self) -> None:
        self.draw_status()

    @on(Stack.Position)
    def _position_clicked(self, event: Stack.Position) -> None:
        self.move_to(event.position)

    @on(TokenStrip.Chosen)
    def _token_chosen(self, event: TokenStrip.Chosen) -> None:
        self.move_to(event.position)

    @on(Stack.Pressed)
    def _pressed(self, event: Stack.Pressed) -> None:
        if event.what == "token":
            text = self.reading.texts.get(event.token_id, "") if self.reading else ""
            self.track(Token(event.token_id, text))
        else:
            self._edit({"layer": "drop"}.get(event.what, event.what), row=event.row)

    # ---------------------------------------------------------------------------------------------- program

    def command(self) -> str:
        """The shell command that prints this reading."""
        at = self.position(self.output) if self.output else self.at
        request = replace(self.wanted(), position=-1 if at == len(self.tokens) - 1 else at, top=again.TOP)
        return again.read_command(self.load, request, self.tracked_text)

    async def action_models(self) -> None:
        entries = await asyncio.to_thread(self.models)  # looks through the disk
        self.app.push_screen(Models(entries, self.load.model), self._model_chosen)

    def _model_chosen(self, name: str | None) -> None:
        """The model at hand stays until the other one is found: then `_loaded` lets go of it."""
        if name is not None:
            for job in ("census", "token", "deck", "direct", "sweep"):
                self.stop(job)
            self.failure = self.note = ""
            self.start(replace(self.load, model=name))

    def action_restart(self) -> None:
        if self.dead or ("load" not in self.jobs and not (self.info and self.info.loaded)):
            self.failure = ""
            self.start()
        elif "read" not in self.jobs and not self.is_complete():
            self.note = ""
            self.read()
        elif not self.census_wanted and self.census is None:
            self.note, self.census_wanted = "", True
            self.take_census()
        else:
            self.say("the engine runs")

    def action_cancel(self) -> None:
        """The last thing that was begun goes first, of those that the status line tells if it tells any."""
        order = sorted(self.jobs, key=self.told_jobs().__contains__)
        if self.cancel_film() or not order:
            return
        job = order[-1]
        request, _ = self.jobs[job]
        self.stop(job)
        if job in ("deck", "sweep"):
            self.declined[job] = request
            again = {"deck": "the next edit asks for the deck again", "sweep": f"{actions.key('sweep')} sweeps"}[job]
            self.say(f"{job} cancelled; {again}")
            self.draw()
        elif job == "direct":
            self.column = "norms"
            self.say(f"direct effects cancelled; {actions.key('column')} asks for them again")
            self.draw()
        elif job == "census":
            self.census_wanted = False
            self.say(f"census cancelled; {actions.key('restart')} takes it again")
        elif job == "read":
            self.say(f"reading cancelled; {actions.key('restart')} reads to the end")
        elif job == "load":
            self.workers.cancel_group(self, "read")
            self.say(f"loading cancelled; {actions.key('restart')} loads again, {actions.key('models', 'explore')} another model")

    def action_help(self) -> None:
        self.app.push_screen(Help())

    def action_quit(self) -> None:
        running = [name for name in ("load", "census") if name in self.jobs]
        slow = self.info is not None and self.info.load_seconds > SLOW_LOAD
        if not running and not slow and not self.is_filming():
            self.app.leave()
            return
        stages = " and ".join([*(["the film"] if self.is_filming() else []), *(words.stage(self.jobs[name][1]) for name in running)])
        why = stages or f"{printable(self.info.name)} took {self.info.load_seconds:.0f} s to load"
        lost = " would be lost" if stages else ""
        question = f"Quit? {why[0].upper()}{why[1:]}{lost}. {actions.key('yes')} quits, {actions.key('no')} goes on."

        def answer(yes: bool | None) -> None:
            if yes:
                self.app.leave()

        self.app.push_screen(Confirm(question), answer)
