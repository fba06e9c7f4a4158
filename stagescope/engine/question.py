"""A Read made definite: its token ids and plan, what it is refused for, and what its answer depends on.

Needs no torch: questions are settled, and answered from the cache, while the weights still load.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from stagescope.engine import cache
from stagescope.engine.plan import Plan, uses_means
from stagescope.engine.protocol import LENSES, Census, EngineError, Load, ModelInfo, Read, Reading
from stagescope.engine.schedule import Schedule, ScheduleError, parse, resolve
from stagescope.engine.tokens import PromptError, encode
from stagescope.text import printable

Answer = TypeVar("Answer")  # any that names its model


@dataclass(frozen=True)
class Question:
    request: Read
    ids: tuple[int, ...]
    schedule: Schedule
    plan: Plan
    position: int  # as an index
    n_layers: int

    @property
    def is_baseline(self) -> bool:
        """Whether it runs the plain order, however its schedule is written."""
        return self.plan == self.baseline().plan

    def baseline(self) -> Question:
        """The same of the empty schedule."""
        return replace(self, schedule=Schedule(), plan=resolve(Schedule(), self.n_layers))


def question(request: Read, load: Load, info: ModelInfo, tokenizer: Any) -> Question:
    """Raises EngineError for what cannot be read: empty or too long, no such position, a schedule that cannot be."""
    if not request.prompt:
        raise EngineError("usage", "the prompt is empty.", "Give some text to read.")
    if request.top < 1:
        raise EngineError("usage", f"{request.top} top tokens cannot be kept.", "Keep 1 or more.")
    if request.lens not in LENSES:
        raise EngineError("usage", f"no lens is called {request.lens!r}.", f"Use {' or '.join(LENSES)}.")
    text = chat(tokenizer, request.prompt, info) if load.chat else request.prompt
    try:
        ids = encode(tokenizer, text, info.prefix.id if info.prefix else None)
    except PromptError as error:
        raise EngineError("usage", f"{error}.") from error
    if len(ids) == (1 if info.prefix else 0):
        raise EngineError("usage", "the prompt has no tokens: this tokenizer drops every character of it.")
    if len(ids) > info.n_ctx:
        raise EngineError(
            "error",
            f"the prompt has {len(ids)} tokens, {info.name} reads at most {info.n_ctx}.",
            "Shorten it: prompts are never cut.",
        )
    schedule, plan = planned(request.schedule, info, len(ids))
    if not -len(ids) <= request.position < len(ids):
        raise EngineError(
            "usage",
            f"there is no position {request.position}: the prompt has {len(ids)} tokens.",
            f"Use 0 to {len(ids) - 1}, or -1 for the last.",
        )
    if request.tracked is not None and not 0 <= request.tracked < info.d_vocab:
        raise EngineError("usage", f"there is no token {request.tracked}.", f"Ids end at {info.d_vocab - 1}.")
    return Question(request, tuple(ids), schedule, plan, request.position % len(ids), info.n_layers)


def planned(text: str, info: ModelInfo, n_positions: int | None) -> tuple[Schedule, Plan]:
    try:
        schedule = parse(text)
        return schedule, resolve(schedule, info.n_layers, n_positions=n_positions, **shape(info))
    except ScheduleError as error:
        place = "\n".join(str(error).splitlines()[:-1])  # the text and its carets
        why = printable(error.reason)
        raise EngineError("usage", f"the schedule cannot be: {why}{'' if why.endswith('?') else '.'}", place) from error


def shape(info: ModelInfo) -> dict[str, Any]:
    """What a schedule is held against, beside the number of layers and of positions."""
    return {"parallel_blocks": info.parallel, "n_heads": info.n_heads, "d_mlp": info.d_mlp}


def chat(tokenizer: Any, prompt: str, info: ModelInfo) -> str:
    """The prompt inside the tokenizer's chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise EngineError("usage", f"{info.name} has no chat template.", "Leave --chat out.")
    message = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


# ------------------------------------------------------------------------------------------------- cache


def recalled(asked: Question, info: ModelInfo, load: Load) -> Reading | None:
    """The whole reading from the cache, its baseline attached, if both are there."""
    for dtype, device in machines(info, load):
        found = cache.get(key(asked, info, dtype, device))
        if not isinstance(found, Reading):
            continue
        baseline = None
        if not asked.is_baseline:
            baseline = cache.get(key(asked.baseline(), info, dtype, device))
            if not isinstance(baseline, Reading):
                continue
            baseline = _of(baseline, asked.baseline(), info)
        return replace(_of(found, asked, info), baseline=baseline)
    return None


def _of(found: Reading, asked: Question, info: ModelInfo) -> Reading:
    """An entry as the answer to this question: the same numbers may have been asked for under another name."""
    return replace(as_asked(found, info), prompt=asked.request.prompt, schedule=str(asked.schedule))


def as_asked(found: Answer, info: ModelInfo) -> Answer:
    """An entry of the cache, of the model as it was loaded then, under the name it is asked for now."""
    return replace(found, model=replace(found.model, name=info.name, source=info.source, prefix=info.prefix))


def machines(info: ModelInfo, load: Load) -> list[tuple[str, str]]:
    """(dtype, device) an answer may have; before the weights are loaded "auto" may turn out to be several."""
    if info.loaded:
        return [(info.dtype, info.device.split(":")[0])]
    if load.device not in (None, "cpu"):
        return []  # whether cuda:1 is there is not known yet
    dtypes = ("float32", "bfloat16") if load.dtype == "auto" else (load.dtype,)
    devices = ("cuda", "cpu") if load.device is None else ("cpu",)
    return [(dtype, device) for device in devices for dtype in dtypes]


def remember(asked: Question, reading: Reading, info: ModelInfo) -> None:
    device = info.device.split(":")[0]
    if not asked.is_baseline and not cache.has(base := key(asked.baseline(), info, info.dtype, device)):
        cache.put(base, reading.baseline)
    schedule = "" if asked.is_baseline else reading.schedule
    cache.put(key(asked, info, info.dtype, device), replace(reading, schedule=schedule, baseline=None))


def key(asked: Question, info: ModelInfo, dtype: str, device: str) -> str:
    """Everything a reading depends on. The device's kind: sums in another order differ in the last digits."""
    request = asked.request
    text = means_text(info) if uses_means(asked.plan) else None
    plan = [info.fingerprint, asked.ids, asked.plan, text]
    return cache.key("reading", *plan, request.lens, dtype, device, request.top, request.tracked, prefix_id(info))


def census_key(info: ModelInfo) -> str:
    # Not the dtype: the weights are read as stored, and the products are fp32 in any case.
    return cache.key("census", info.fingerprint, means_text(info))


def recalled_census(info: ModelInfo) -> Census | None:
    found = cache.get(census_key(info))
    return found if isinstance(found, Census) else None


def means_text(info: ModelInfo) -> list:
    """What averages.py measures on: Python's help differs from release to release, and the prefix stands before it."""
    return ["pydoc_data", platform.python_version(), prefix_id(info)]


def prefix_id(info: ModelInfo) -> int | None:
    return info.prefix.id if info.prefix else None
