"""The requests of the explore screen while they run, and those it makes by itself once a reading stands: the census of
the model, what the edit does to the deck, what each sublayer adds to the token's logit, where the edit stands among its
kind. These three stop when nothing would be shown of them any more."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache, partial

from stagescope.engine.kinds import entries
from stagescope.engine.protocol import (
    Attribution,
    Census,
    Failure,
    FindToken,
    Load,
    MapStages,
    Progress,
    Read,
    Reply,
    Request,
    StageMap,
    Sweep,
    TakeAttribution,
    TakeCensus,
    TakeSweep,
    Texts,
)
from stagescope.reports import sweep as sweep_report
from stagescope.screens import deck, words
from stagescope.screens.frame import Frame

JOBS = {
    "load": "loading", "read": "reading", "map": "stages", "census": "census of neurons", "token": "finding the token",
    "direct": "direct effects",
}  # fmt: skip
BRIEF = ("read", "map", "deck", "direct", "sweep")  # told once they say how far they are: most are over before
KINDS = ("drop", "swap", "attn-off", "mlp-off")  # an edit of one key is one of L of these
# A longer prompt is swept only where `w` was pressed. A kind is about L/2 forwards: on one CPU thread the 30 layers of
# the default model take 1.6 s at 11 tokens and 23 s at 114. Readings run in between, and were no slower for it.
MOST_TOKENS = 64
STANDARD = Texts()
# Answers that are kept. A sweep has a few KB; the direct effects of 30 layers on 2,000 tokens are 2 MB.
MOST_FOUND = {TakeSweep: 64, TakeAttribution: 8}


class ExploreJobs(Frame):
    """A part of the Explore screen: it asks, shows how far each job is, and begins what is due."""

    async def _converse(self, job: str, request: Request, receive: Callable[[Reply], None], stage: str = "") -> bool:
        """Ask, show progress and failures in the status line, give results to `receive`. False: it failed.

        stage: the words for the progress, where the engine's own would not do.
        """
        self.jobs.pop(job, None)
        self.jobs[job] = (request, Progress(stage or JOBS[job], math.nan))
        self.draw_status()
        came: list[Reply] = []
        try:
            async with aclosing(self.app.engine.ask(request)) as replies:
                async for reply in replies:
                    match reply:
                        case Progress():
                            self.jobs[job] = (request, replace(reply, stage=stage or reply.stage))
                            self.draw_status()
                        case Failure():
                            self._failed(job, reply)
                            return False
                        case _:
                            came.append(reply)
                            receive(reply)
            if not isinstance(request, Load | Read | FindToken):  # which are written otherwise
                self.record_answer(request, came)
            return True
        finally:  # a newer request of the same job may have taken the place already
            if job in self.jobs and self.jobs[job][0] is request:
                del self.jobs[job]
            self.draw_status()

    def running_jobs(self) -> str:
        """Each with its fraction and time left; escape cancels the last one."""
        told = [self.jobs[name][1] for name in self.told_jobs()]
        return "   ".join([*map(words.stage, told[:-1]), *(words.progress(job, "cancel") for job in told[-1:])])

    def told_jobs(self) -> list[str]:
        """The jobs that the status line tells, the one begun last at the end."""
        return [name for name, (_, job) in self.jobs.items() if name not in BRIEF or not math.isnan(job.done)]

    def stop(self, job: str) -> None:
        self.workers.cancel_group(self, job)
        self.jobs.pop(job, None)

    # ------------------------------------------------------------------------------- begun without a key

    def next_job(self) -> None:
        """Begin what is due: once the census, and a look for a map of the stages that was kept; after each reading the
        deck, then the direct effects if their column is shown, then the standing, census or not."""
        if self.info is None or not self.info.loaded or self.dead or self.answered is None:
            return
        if self.info.fingerprint not in self.map_looked_for:
            self.map_looked_for.add(self.info.fingerprint)
            request = MapStages(STANDARD, if_known=True)
            self._begin("map", request, JOBS["map"], partial(self._converse, "map", request, self._mapped))
        if self.census_wanted and self.census is None and "census" not in self.jobs:
            self.take_census()
        if not self.is_current or "read" in self.jobs or not self.is_complete():
            return
        on_deck, of_kind = self.deck_request(), self.kind_request()
        if self._is_due("deck", on_deck):
            self.stop("sweep")  # the engine answers long requests in turn, and the deck was asked for
            self._take("deck", on_deck, f"deck of {len(on_deck.prompts)}")
        direct = self.direct_request()
        if self._is_due("direct", direct):
            self.stop("sweep")  # which nobody asked for
            self._begin("direct", direct, JOBS["direct"], partial(self._take_direct, direct))
        short = len(self.reading.tokens) <= MOST_TOKENS or self.prompt == self.swept
        if not self.jobs.keys() & {"load", "deck", "direct", "sweep"} and short and self._is_due("sweep", of_kind):
            self._take("sweep", of_kind, f"sweep of {sweep_report.NAMES[of_kind.kinds[0]][1]}")

    def on_screen_resume(self) -> None:
        self.record_changes()
        self.next_job()

    def _begin(self, job: str, request: Request, stage: str, work: Callable[[], Awaitable[None]]) -> None:
        self.jobs[job] = (request, Progress(stage, math.nan))  # at once: what is due next depends on what runs
        self.run_worker(work, group=job)

    # ------------------------------------------------------------------------------------------- stages

    def _mapped(self, reply: Reply) -> None:
        if isinstance(reply, StageMap):  # what it rests on may come as well
            self.keep_maps({STANDARD: reply})

    def keep_maps(self, maps: dict[Texts, StageMap]) -> None:
        self.maps |= {(map.model.fingerprint, texts): map for texts, map in maps.items()}
        self.draw()

    def stage_map(self) -> StageMap | None:
        """Of the model at hand, over the standard text, which has many documents; else over the prompt at hand."""
        over = (STANDARD, Texts((self.prompt,)))
        known = (self.maps.get((self.info.fingerprint, texts)) for texts in over)
        return next((map for map in known if map is not None), None)

    # ------------------------------------------------------------------------------------------- census

    def take_census(self) -> None:
        self._begin("census", request := TakeCensus(), JOBS["census"], partial(self._take_census, request))

    async def _take_census(self, request: TakeCensus) -> None:
        await self._converse("census", request, self._counted)
        self.next_job()

    def _counted(self, census: Census) -> None:
        self.census = census
        self.draw()

    # ------------------------------------------------------------------------------- deck and standing

    def deck_request(self, schedule: str | None = None) -> TakeSweep | None:
        """One schedule, by default the one wanted, on every pinned prompt. None without a deck or an edit."""
        schedule = str(self.schedule) if schedule is None else schedule
        return TakeSweep(self.deck.prompts, schedules=(schedule,)) if self.deck.prompts and schedule else None

    def kind_request(self, prompt: str | None = None, schedule: str | None = None) -> TakeSweep | None:
        """All schedules of the kind that one is of, by default the one wanted. None when it is of no kind."""
        schedule = str(self.schedule) if schedule is None else schedule
        kind = _kinds(self.info.n_layers).get(schedule)
        return TakeSweep((self.prompt if prompt is None else prompt,), kinds=(kind,)) if kind else None

    def _key(self, request: TakeSweep | TakeAttribution) -> tuple[str, TakeSweep | TakeAttribution]:
        return self.info.fingerprint, request

    def _is_due(self, job: str, request: TakeSweep | TakeAttribution | None) -> bool:
        if request is None or (job in self.jobs and self.jobs[job][0] == request):
            return False
        return self._key(request) not in self.found and self.declined.get(job) != request

    def _take(self, job: str, request: TakeSweep, stage: str) -> None:
        self.declined.pop(job, None)
        self._begin(job, request, stage, partial(self._take_sweep, job, request, stage))

    async def _take_sweep(self, job: str, request: TakeSweep, stage: str) -> None:
        key, sweeps = self._key(request), {}

        def receive(sweep: Sweep) -> None:
            sweeps[sweep.prompt] = sweep

        if await self._converse(job, request, receive, stage):
            self._keep(key, deck.effect(list(sweeps.values())) if job == "deck" else sweeps[request.prompts[0]])
        else:
            self.declined[job] = request
        self.draw()
        self.next_job()

    def _keep(self, key: tuple[str, TakeSweep | TakeAttribution], found: Sweep | deck.DeckEffect | Attribution) -> None:
        self.found[key] = found
        alike = [one for one in self.found if type(one[1]) is type(key[1])]
        for old in alike[: -MOST_FOUND[type(key[1])]]:
            del self.found[old]

    def stop_unwanted(self) -> None:
        """Stop what an edit, a prompt or a pin made pointless. A kind is still swept while the edit is of none: a layer
        is dropped and brought back, and the next one dropped."""
        if "deck" in self.jobs and self.jobs["deck"][0] != self.deck_request():
            self.stop("deck")
        if "direct" in self.jobs and self.jobs["direct"][0] != self.direct_request():
            self.stop("direct")
        if "sweep" in self.jobs:
            running, wanted = self.jobs["sweep"][0], self.kind_request()
            if running.prompts != (self.prompt,) or wanted not in (None, running):
                self.stop("sweep")

    # ------------------------------------------------------------------------------------- direct effects

    def direct_request(self) -> TakeAttribution | None:
        """None while the columns show norms."""
        wanted = TakeAttribution(self.prompt, str(self.schedule), self.tracked)
        return None if self.shown_column == "norms" else wanted

    async def _take_direct(self, request: TakeAttribution) -> None:
        key = self._key(request)
        if not await self._converse("direct", request, partial(self._keep, key)):
            self.declined["direct"] = request
        self.draw()
        self.next_job()

    def direct_effects(self) -> Attribution | None:
        """Of what the stack shows; none while that is not what is wanted."""
        request = self.direct_request()
        return self.found.get(self._key(request)) if request and self._is_wanted(self.answered) else None

    @property
    def shown_column(self) -> str:
        """Without an edit nothing changes: the effects themselves are shown."""
        return "direct" if self.column == "change" and not self.schedule else self.column

    # --------------------------------------------------------------------------------- what is known of an edit

    def standing(self) -> str:
        """Where the edit drawn stands: "3rd of 30 drops"; "" when not known."""
        output = self.output
        request = self.kind_request(output.prompt, output.schedule) if self.info else None
        sweep = self.found.get(self._key(request)) if request else None
        place = sweep_report.standing(sweep, output.schedule) if sweep else None
        return sweep_report.place_words(*place, sweep.kind) if place else ""

    def on_deck(self) -> list[str]:
        """What the edit drawn does to the deck, in parts; [] without a deck."""
        if not self.deck.prompts:
            return []
        name, glyphs = deck.place(self.deck, self.prompt), self.stack.glyphs
        request = self.deck_request(self.output.schedule) if self.info else None
        if request is None:
            pins = "takes this one off" if self.prompt in self.deck.prompts else "pins this one"
            return [f"{name}: ", "[ ] step through it", f", p {pins}"]
        found = self.found.get(self._key(request))
        if found is None:
            return [f"{name}: ", "cancelled" if self.declined.get("deck") == request else glyphs.ellipsis]
        return [f"{name}: ", *deck.told(found, glyphs)]


@lru_cache(maxsize=4)
def _kinds(n_layers: int) -> dict[str, str]:
    """Canonical text of every schedule of KINDS -> its kind."""
    return {row.schedule: kind for kind in KINDS for row in entries(kind, n_layers)}
