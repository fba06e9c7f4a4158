"""A sweep pooled over the documents of a text: streamed, a few documents at a time.

Where it stands is written down as it goes. Asked again, the text is read once more and what was done is passed by, if
it is still the same; the same documents then run together as before, so the numbers are the same to the last bit. Only
documents that did not fit into memory run again; while there are any, the sweep is not finished.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import cache as memo
from typing import TYPE_CHECKING, Any

import numpy as np

from stagescope.engine import bookmark, cache, kinds, pool, question, standard_text, sweep
from stagescope.engine.bookmark import Done
from stagescope.engine.documents import Document, Skipped, documents, limited, shown_name
from stagescope.engine.progress import told
from stagescope.engine.protocol import (
    Census,
    CorpusSweep,
    EngineError,
    Load,
    ModelInfo,
    Progress,
    SweepCorpus,
    SweepRow,
)
from stagescope.engine.schedule import Plan, ScheduleError, parse, resolve
from stagescope.engine.tokens import encode

if TYPE_CHECKING:
    from stagescope.engine.averages import Averages
    from stagescope.engine.blocks import Network

STAGE = "sweep of a text"
TOGETHER = 16  # documents run together at most: short ones fill a batch, long ones run alone
READ_AT_ONCE = 256  # documents and what was skipped, read between two signs of progress
SAVE_SECONDS, SAVE_SHARE = 5.0, 0.05  # between two writings; the share of the time that writing may take
NAMED = 20  # documents left out that are named
BROKEN, ABSENT = "its logits are not numbers", "it names a position that is not there"

Plans = Callable[[int], tuple[Plan | None, ...]]  # of a number of tokens; None: names a position beyond them
Measure = Callable[[], Generator[Progress, None, "Averages"]]
Item = Document | Skipped
Numbered = tuple[int, Item]  # its place among all that was read


# --------------------------------------------------------------------------------------------- what is asked


def check(request: SweepCorpus, info: ModelInfo) -> None:
    """Raises EngineError("usage") for what cannot be swept over a text."""
    if request.tokens is not None and request.tokens < 1:
        raise EngineError("usage", f"{request.tokens} tokens cannot be scored.", "Give 1 or more.")
    sweep.check_kinds(request, info)
    if not request.schedules and "trace" in kinds.parse_kinds(",".join(request.kinds)):
        raise EngineError("usage", "a trace is of one prompt, not of a text.", "Give a prompt, or another kind.")


def rows_of(request: SweepCorpus, info: ModelInfo, census: Census | None = None) -> tuple[SweepRow, ...]:
    """The schedules of a request. census: where `sweep.wants_census`. Raises EngineError("usage") as `check` does, and
    where there is none."""
    check(request, info)
    if request.schedules:
        return kinds.listed(request.schedules)
    wanted = kinds.parse_kinds(",".join(request.kinds))
    known = {"parallel_blocks": info.parallel, "n_heads": info.n_heads, "census": census, "layer": request.layer}
    rows = tuple(row for kind in wanted for row in kinds.entries(kind, info.n_layers, **known))
    if not rows:
        raise EngineError("usage", f"{info.name} has too few layers for {', '.join(wanted)}.", "Ask for another kind.")
    return rows


def wants_means(rows: tuple[SweepRow, ...]) -> bool:
    """Whether some row replaces by a mean over a text, which must be measured first."""
    return any(step.mean for row in rows for step in parse(row.schedule).steps)


def recalled(
    request: SweepCorpus, info: ModelInfo, load: Load, census: Census | None = None
) -> CorpusSweep | None:
    """The answer found before, if the file was not touched since; works before the weights are loaded, if the prefix is
    known for sure."""
    rows, stamp = rows_of(request, info, census), bookmark.stamp(request.file)
    for dtype, device in question.machines(info, load) if stamp else ():
        found = bookmark.get(_key(request, rows, info, dtype, device))
        if found and found.finished and found.stamp == stamp:
            return _kept(found, request, rows, info)
    return None


def sweep_corpus(
    net: Network,
    info: ModelInfo,
    load: Load,
    request: SweepCorpus,
    tokenizer: Any,
    measure: Measure,
    census: Census | None = None,
) -> Iterator[Progress | CorpusSweep]:
    """Progress after every block call, last the answer. Closing it keeps what is done, unless load.cache is False.

    measure: gives the averages, asked for where some row needs them and something is left to run. A document that does
    not fit into memory is left out, and named. Raises EngineError: what `documents` raises, "memory" when none fits.
    """
    rows = rows_of(request, info, census)
    name = _key(request, rows, info, info.dtype, info.device.split(":")[0])
    stamp = bookmark.stamp(request.file)
    done = (bookmark.get(name) if load.cache else None) or bookmark.fresh(len(rows), info)
    if done.finished and stamp and done.stamp == stamp:
        yield _kept(done, request, rows, info)
        return
    progress = _progress(request, stamp, done)
    prefix = info.prefix.id if info.prefix else None

    def read() -> Iterator[Item]:
        window = min(request.window, info.n_ctx)
        items = documents(request.file, lambda text: encode(tokenizer, text, None), prefix, window)
        return limited(items, request.tokens, int(prefix is not None))

    items, digest, again = read(), hashlib.sha256(), []
    if done.items:
        other, again = yield from _pass_by(items, done, digest, request.file == "-", progress)
        if other is None and done.finished:
            done.stamp = stamp
            bookmark.put(name, done)
            yield _kept(done, request, rows, info)
            return
        if other is not None:  # another text: begin anew
            items = itertools.chain(other, items) if request.file == "-" else read()
            digest, done, again = hashlib.sha256(), bookmark.fresh(len(rows), info), []
            progress = _progress(request, stamp, done)

    averages = (yield from measure()) if wants_means(rows) else None
    plans, first = _plans(rows, info), int(prefix is not None)
    numbered = itertools.chain(again, enumerate(items, done.items))
    done.model, done.stamp, changed, save_at = info, stamp, False, time.monotonic() + SAVE_SECONDS
    try:
        while group := _take(numbered, net.device.type):
            texts = [item for _, item in group if isinstance(item, Document)]
            at = _within(progress, done, group, first)
            yield at(0.0)
            values = yield from told(_run(net, texts, plans, averages), at)
            changed = False  # a ctrl+c in the midst of it: what is on disk stays
            _add(done, digest, group, values, plans, first)
            changed = True
            if load.cache and time.monotonic() >= save_at:
                began = time.monotonic()
                bookmark.put(name, done)
                changed, took = False, time.monotonic() - began
                save_at = time.monotonic() + max(SAVE_SECONDS, took / SAVE_SHARE)
        if not done.pool.sums:
            changed = False  # another time there may be more memory
            from stagescope.engine.memory import out_of_memory

            raise out_of_memory(info.device)
        done.finished, changed = not done.beyond, True
    finally:
        if load.cache and changed:
            bookmark.put(name, done)
    yield _answer(done, request, rows, info)


# ------------------------------------------------------------------------------------------------ the text


def _take(items: Iterator[Numbered], device: str) -> list[Numbered]:
    """The next documents to run together: a quarter of a batch, which the schedules fill. What runs when it is
    interrupted is lost: 26 s of the default model's drops and swaps on one thread."""
    from stagescope.engine.runner import TOKENS_AT_ONCE

    group, n_texts, n_tokens = [], 0, 0
    while n_texts < TOGETHER and n_tokens < TOKENS_AT_ONCE[device] // 4 and len(group) < READ_AT_ONCE:
        if (numbered := next(items, None)) is None:
            break
        group.append(numbered)
        if isinstance(item := numbered[1], Document):
            n_texts, n_tokens = n_texts + 1, n_tokens + len(item.ids)
    return group


def _pass_by(
    items: Iterator[Item], done: Done, digest: hashlib._Hash, hold: bool, progress: Callable[[int, float], Progress]
) -> Generator[Progress, None, tuple[list[Item] | None, list[Numbered]]]:
    """Read past what is done. (None, documents to run again) if it is the same text; else (what was read of it, []).

    hold: keep what is read, for standard input is read only once; 2 kB a document.
    """
    held: list[Item] = []
    again: list[Numbered] = []
    read = 0
    for item in items:
        digest.update(_identity(item))
        if read in done.beyond:
            again.append((read, item))
        read += 1
        if hold:
            held.append(replace(item, ids=array("i", item.ids)) if isinstance(item, Document) else item)
        if read % READ_AT_ONCE == 0:
            yield progress(done.tokens, done.end)
        if read == done.items and not done.finished:
            break
    return (None, again) if read == done.items and digest.hexdigest() == done.digest else (held, [])


def _identity(item: Item) -> bytes:
    what = [*item.ids, item.cut] if isinstance(item, Document) else [item.place, item.why]
    return json.dumps(what).encode() + b"\n"


# -------------------------------------------------------------------------------------------------- running


def _plans(rows: tuple[SweepRow, ...], info: ModelInfo) -> Plans:
    """Rows that name positions are resolved for every length, the others once."""
    schedules = [parse(row.schedule) for row in rows]
    placed = [any(step.positions for step in schedule.steps) for schedule in schedules]

    @memo
    def plan(row: int, n_tokens: int | None) -> Plan | None:
        try:
            return resolve(schedules[row], info.n_layers, parallel_blocks=info.parallel, n_positions=n_tokens)
        except ScheduleError:
            return None

    return lambda n_tokens: tuple(plan(row, n_tokens if placed[row] else None) for row in range(len(rows)))


def _run(
    net: Network, texts: list[Document], plans: Plans, averages: Averages | None
) -> Generator[float, None, list[np.ndarray | None]]:
    """Values [S, 4, T] of each document, None for one beyond memory; gives the fraction done. Documents that do not
    fit together run one by one."""
    from stagescope.engine.memory import free_cached_memory, is_out_of_memory

    try:
        return (yield from _run_together(net, texts, plans, averages))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    free_cached_memory()
    if len(texts) == 1:
        return [None]
    values = []
    for number, text in enumerate(texts):
        steps = _run(net, [text], plans, averages)
        values += yield from told(steps, lambda fraction, before=number: (before + fraction) / len(texts))
    return values


def _run_together(
    net: Network, texts: list[Document], plans: Plans, averages: Averages | None
) -> Generator[float, None, list[np.ndarray]]:
    from stagescope.engine.outcomes import MEASURES, Outcome, Task, outcomes

    if not texts:
        return []
    columns = [MEASURES.index(name) for name in pool.MEASURES]
    of_text = [plans(len(text.ids)) for text in texts]
    rows = [[row for row, plan in enumerate(of_one) if plan is not None] for of_one in of_text]
    shapes = [(len(of_one), len(columns), len(text.ids)) for of_one, text in zip(of_text, texts, strict=True)]
    values = [np.full(shape, np.nan, np.float32) for shape in shapes]
    tasks = [
        Task(tuple(text.ids), tuple(plan for plan in of_one if plan is not None))
        for text, of_one in zip(texts, of_text, strict=True)
    ]
    for found in outcomes(net, tasks, averages):
        if isinstance(found, Outcome):
            values[found.task][rows[found.task][found.plan]] = found.values[columns]
        elif isinstance(found, float):
            yield found
    return values


def _add(
    done: Done, digest: hashlib._Hash, group: list[Numbered], values: list[np.ndarray | None], plans: Plans, first: int
) -> None:
    """A group that has run."""
    of_text = iter(values)
    for number, item in group:
        if number == done.items:  # not one that ran again
            digest.update(_identity(item))
            done.items, done.end = number + 1, item.end
            done.n_cut += isinstance(item, Document) and item.cut
        if isinstance(item, Skipped):
            done.n_skipped += 1
            done.skipped = [*done.skipped, f"{item.place}: {item.why}"][:NAMED]
        elif (found := next(of_text)) is None:
            done.beyond[number] = f"{item.place}: its {len(item.ids)} tokens do not fit into memory"
        else:
            done.beyond.pop(number, None)
            done.pool.add(found[..., first:])
            done.absent += [plan is None for plan in plans(len(item.ids))]
            done.tokens += len(item.ids) - first
    done.digest = digest.hexdigest()


def _progress(request: SweepCorpus, stamp: list[int] | None, start: Done) -> Callable[[float, float], Progress]:
    """A function of tokens scored and bytes read. The text may end before the tokens wanted: whichever is further."""

    def fraction(tokens: float, end: float) -> float:
        shares = [tokens / request.tokens] if request.tokens else []
        shares += [end / stamp[0]] if stamp and stamp[0] else []
        return min(max(shares, default=float("nan")), 1.0)

    began, at_first = time.monotonic(), fraction(start.tokens, start.end)

    def progress(tokens: float, end: float) -> Progress:
        now = fraction(tokens, end)
        left = (time.monotonic() - began) * (1 - now) / (now - at_first) if now > at_first else float("nan")
        return Progress(STAGE, now, left)

    return progress


def _within(
    progress: Callable[[float, float], Progress], done: Done, group: list[Numbered], first: int
) -> Callable[[float], Progress]:
    """Progress by the fraction of a group that has run."""
    n_tokens = sum(len(item.ids) - first for _, item in group if isinstance(item, Document))
    n_bytes = max(group[-1][1].end - done.end, 0)  # of documents that run again: 0
    return lambda fraction: progress(done.tokens + fraction * n_tokens, done.end + fraction * n_bytes)


def _answer(done: Done, request: SweepCorpus, rows: tuple[SweepRow, ...], info: ModelInfo) -> CorpusSweep:
    n = len(done.pool.sums)
    of = f"{n} document{'s' * (n != 1)}"
    faults = zip((done.pool.holes - done.absent).tolist(), done.absent.tolist(), strict=True)
    notes = {row: pool.told({BROKEN: broken, ABSENT: absent}, of) for row, (broken, absent) in enumerate(faults)}
    return CorpusSweep(
        model=info,
        source=shown_name(request.file),
        rows=rows,
        documents=n,
        tokens_scored=done.tokens,
        notes={row: note for row, note in notes.items() if note},
        skipped=tuple([*done.beyond.values(), *done.skipped][:NAMED]),
        n_skipped=len(done.beyond) + done.n_skipped,
        n_cut=done.n_cut,
        **done.pool.summary(),
        **done.pool.by_document(),
    )


def _kept(done: Done, request: SweepCorpus, rows: tuple[SweepRow, ...], info: ModelInfo) -> CorpusSweep:
    """The answer of a finished sweep: of the model as it was loaded then, under the name it is asked for now."""
    return replace(question.as_asked(_answer(done, request, rows, done.model), info), cached=True)


def _key(request: SweepCorpus, rows: tuple[SweepRow, ...], info: ModelInfo, dtype: str, device: str) -> str:
    """Everything the numbers depend on but the text itself, which is compared when it is read."""
    means = question.means_text(info) if wants_means(rows) else None
    schedules, window = [row.schedule for row in rows], min(request.window, info.n_ctx)
    how = [window, request.tokens, question.prefix_id(info), dtype, device, means]
    return cache.key("corpus", info.fingerprint, name_of(request.file), schedules, *how)


def name_of(file: str) -> str:
    """A text under one name, whatever the folder it is named from."""
    if not file:
        return standard_text.name()
    return file if file == "-" else os.path.realpath(file)
