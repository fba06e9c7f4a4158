"""What was looked at last in a session, of all that was answered in it: sweeps and censuses that run by themselves come after it."""

from __future__ import annotations

from collections.abc import Sequence

from stagescope.engine.protocol import (
    FindHeads,
    Generate,
    MapStages,
    Read,
    ShowNeurons,
    ShowPattern,
    SweepCorpus,
    TakeAttribution,
    TakeCensus,
    TakeComparison,
    TakeEvidence,
    TakeLens,
    TakeProbe,
    TakeSimilarity,
    TakeSweep,
)
from stagescope.sessions.events import Event
from stagescope.sessions.replay import Step, steps

OF_SCREEN = {  # place of the screen on top -> what it gives away, the first that there is
    "sweep": (TakeSweep, SweepCorpus),
    "lens": (TakeLens,),
    "attention": (TakeEvidence,),
    "neurons": (ShowNeurons, TakeCensus),
    "stages": (MapStages, TakeEvidence),
    "attribution": (TakeAttribution,),
    "heads": (FindHeads, ShowPattern),
    "probe": (TakeProbe,),
    "similarity": (TakeSimilarity,),
    "compare": (TakeComparison,),
    "write": (Generate,),
}


def looked_at(events: Sequence[Event], event: int | None = None) -> Step | None:
    """The last answer of the screen that is on top in the end, or the last reading of the stack. None without any.

    event: as it stood after this one; where that is an answer itself, it.
    """
    events = events if event is None else events[: event + 1]
    found = [step for step in steps(events) if isinstance(step, Step)]
    if found and found[-1].event == event:
        return found[-1]
    opened = next((index for index, event in reversed(list(enumerate(events))) if event["event"] == "screen"), -1)
    kinds = OF_SCREEN.get(str(events[opened].get("screen")), ()) if opened >= 0 else ()
    shown = [[step for step in found if step.event > opened and isinstance(step.request, kind)] for kind in kinds]
    readings = [step for step in found if isinstance(step.request, Read)]
    return next((of[-1] for of in (*shown, readings, found) if of), None)
