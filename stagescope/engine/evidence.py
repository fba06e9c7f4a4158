"""What every layer shows in plain runs over some texts: attention, norms and both lenses, pooled over documents.

A document passes the blocks once; each pattern is reduced inside its hook (attention.py), norms are taken as the
contributions pass. Then the residual streams, (L+1) T D, pass the unembedding a few positions and depths at a time:
nothing of shape [depths, T, V] or [layers, H, T, T] is ever held.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stagescope.engine import bookmark, cache, corpus, question
from stagescope.engine.documents import Document, Skipped, documents, limited, shown_name
from stagescope.engine.progress import progress
from stagescope.engine.protocol import (
    LENSES,
    MOST_PROMPTS,
    EngineError,
    Evidence,
    Load,
    ModelInfo,
    Progress,
    Read,
    TakeEvidence,
)
from stagescope.engine.tokens import encode
from stagescope.text import printable

if TYPE_CHECKING:
    from stagescope.engine.blocks import Network
    from stagescope.engine.plain import Found
    from stagescope.engine.totals import Totals

STAGE = "evidence of a text"
SHOW_EVERY = 0.3  # seconds between two states of an Evidence that fills in
CUDA_TOKENS = 4096  # of documents of one length run together; their streams of all depths are held, 290 MB by default
NAMED = 20  # documents left out that are named


# --------------------------------------------------------------------------------------------- what is asked


def recalled(request: TakeEvidence, info: ModelInfo, load: Load, tokenizer: Any) -> Evidence | None:
    """The answer found before, if the text is still the same; works before the weights are loaded, if the prefix is
    known for sure. Raises EngineError for what cannot be measured."""
    what = _what(request, info, load, tokenizer)
    if not what or not load.cache:
        return None
    wider = replace(request, lenses=LENSES)  # its answer holds this one
    for dtype, device in question.machines(info, load):
        found = cache.get(_key(request, what, info, dtype, device)) or cache.get(_key(wider, what, info, dtype, device))
        if isinstance(found, Evidence):
            return replace(question.as_asked(found, info), source=source_of(request))
    return None


def key(
    request: TakeEvidence, info: ModelInfo, load: Load, tokenizer: Any, dtype: str, device: str
) -> str | None:
    """Everything the answer depends on; None where it is not kept, as of standard input."""
    what = _what(request, info, load, tokenizer)
    return what and _key(request, what, info, dtype, device)


def check(request: TakeEvidence) -> None:
    """What can be refused before the tokens are known. Raises EngineError."""
    texts = request.texts
    for name in request.lenses:
        if name not in LENSES:
            raise EngineError("usage", f"no lens is called {name!r}.", f"Use {' or '.join(LENSES)}.")
    if texts.prompts and texts.file is not None:
        raise EngineError("usage", "prompts and a file were given.", "Give one or the other.")
    if len(texts.prompts) > MOST_PROMPTS:
        hint = f"At most {MOST_PROMPTS} are taken; a file of JSON lines holds any number."
        raise EngineError("usage", f"{len(texts.prompts)} prompts were given.", hint)
    if len(set(texts.prompts)) < len(texts.prompts):
        raise EngineError("usage", "two of the prompts are the same.", "Give each once.")
    if texts.tokens is not None and texts.tokens < 1:
        raise EngineError("usage", f"{texts.tokens} tokens cannot be scored.", "Give 1 or more.")


def _prompts(request: TakeEvidence, info: ModelInfo, load: Load, tokenizer: Any) -> list[Document]:
    """Prompts as documents, their ends counted in tokens."""
    found: list[Document] = []
    for number, prompt in enumerate(request.texts.prompts, 1):
        try:
            ids = question.question(Read(prompt), load, info, tokenizer).ids
        except EngineError as error:
            if len(request.texts.prompts) == 1:
                raise
            which, failure = f"prompt {number} (“{printable(prompt[:40])}”)", error.failure
            raise EngineError(failure.kind, f"{which}: {failure.message}", failure.hint) from error
        found.append(Document(ids, f"prompt {number}", len(ids) + (found[-1].end if found else 0)))
    return found


def _what(request: TakeEvidence, info: ModelInfo, load: Load, tokenizer: Any) -> list | None:
    """What stands for the texts in a key: ids of prompts; of a file its name, size and time. None: is not kept."""
    check(request)
    texts = request.texts
    if texts.prompts:
        return [item.ids for item in _prompts(request, info, load, tokenizer)]
    stamp = bookmark.stamp(texts.file or "")
    limits = [min(texts.window, info.n_ctx), texts.tokens]
    return stamp and [corpus.name_of(texts.file or ""), stamp, *limits]


def _key(request: TakeEvidence, what: list, info: ModelInfo, dtype: str, device: str) -> str:
    lenses = sorted(set(request.lenses))
    return cache.key("evidence", info.fingerprint, what, lenses, question.prefix_id(info), dtype, device)


def source_of(request: TakeEvidence) -> str:
    n = len(request.texts.prompts)
    return f"{n} prompt{'s' * (n != 1)}" if n else shown_name(request.texts.file or "")


# --------------------------------------------------------------------------------------------------- running


def take(
    net: Network, info: ModelInfo, load: Load, request: TakeEvidence, tokenizer: Any
) -> Iterator[Progress | Evidence]:
    """Progress after every block call and product with the unembedding; Evidences as they fill in, their medians and
    intervals NaN and their `sums` empty until the last, which is complete and kept.

    A document that does not fit into memory is left out, and named. Raises EngineError: what `documents` raises and
    question.question of a prompt, "memory" when nothing fits.
    """
    what = _what(request, info, load, tokenizer)
    if found := recalled(request, info, load, tokenizer):
        yield found
        return
    from stagescope.engine.memory import out_of_memory
    from stagescope.engine.totals import Totals

    items, size = items_of(request, info, load, tokenizer)
    totals = Totals(info, request.lenses, int(info.prefix is not None))
    source, skipped, n_skipped, n_cut, fits = source_of(request), [], 0, 0, True
    began, show_at, before = time.monotonic(), time.monotonic() + SHOW_EVERY, (0, 0)
    yield Progress(STAGE, 0.0)
    for group in _groups(net, items):
        if isinstance(group, Skipped):
            n_skipped, skipped = n_skipped + 1, [*skipped, f"{group.place}: {group.why}"][:NAMED]
            continue
        n_cut += sum(item.cut for item in group)
        after = before[0] + sum(len(item.ids) - totals.first for item in group), group[-1].end
        steps = _run(net, group, totals)
        while True:
            try:
                fraction, sofar = next(steps)
            except StopIteration as ended:
                found = ended.value
                break
            at = [start + fraction * (end - start) for start, end in zip(before, after, strict=True)]
            shares = [at[0] / request.texts.tokens] if request.texts.tokens and not request.texts.prompts else []
            shares += [at[1] / size] if size else []
            yield progress(STAGE, began, min(max(shares, default=float("nan")), 1.0))
            if time.monotonic() >= show_at:
                yield replace(totals.so_far(source, sofar), n_skipped=n_skipped, skipped=tuple(skipped), n_cut=n_cut)
                show_at = time.monotonic() + SHOW_EVERY
        for item, one in zip(group, found, strict=True):
            if one is None:
                why = f"{item.place}: its {len(item.ids)} tokens do not fit into memory"
                n_skipped, skipped, fits = n_skipped + 1, [*skipped, why][:NAMED], False
            else:
                totals.add(one)
        before = after
    if not totals.documents:
        raise out_of_memory(info.device)
    for answer in totals.whole(source):
        yield progress(STAGE, began, 1.0)
    answer = replace(answer, n_skipped=n_skipped, skipped=tuple(skipped), n_cut=n_cut)
    if what and load.cache and fits:  # another time there may be more memory
        cache.put(_key(request, what, info, info.dtype, info.device.split(":")[0]), answer)
    yield answer


def items_of(
    request: TakeEvidence, info: ModelInfo, load: Load, tokenizer: Any
) -> tuple[Iterator[Document | Skipped], int | None]:
    """The documents, and where the last one ends, if that is known."""
    texts = request.texts
    if texts.prompts:
        prompts = _prompts(request, info, load, tokenizer)
        return iter(prompts), prompts[-1].end
    file, stamp = texts.file or "", bookmark.stamp(texts.file or "")
    window = min(texts.window, info.n_ctx)
    items = documents(file, lambda text: encode(tokenizer, text, None), question.prefix_id(info), window)
    return limited(items, texts.tokens, int(info.prefix is not None)), stamp and stamp[0]


def _groups(net: Network, items: Iterator[Document | Skipped]) -> Iterator[list[Document] | Skipped]:
    """Documents to run together: neighbours of one length, on a GPU; on a CPU one by one, which is as fast."""
    from stagescope.engine.runner import rows_at_once

    for length, same in itertools.groupby(items, lambda item: len(item.ids) if isinstance(item, Document) else 0):
        if not length:
            yield from same
            continue
        most = min(rows_at_once(net, length), CUDA_TOKENS // length) if net.device.type == "cuda" else 1
        while group := list(itertools.islice(same, max(1, most))):
            yield group


def _run(
    net: Network, group: list[Document], totals: Totals
) -> Generator[tuple[float, list[Found]], None, list[Found | None]]:
    """What each document shows, None for one beyond memory; on the way the fraction done and what is known so far.
    Documents that do not fit together run one by one."""
    from stagescope.engine import plain
    from stagescope.engine.memory import free_cached_memory, is_out_of_memory

    try:
        return (yield from plain.run(net, [item.ids for item in group], totals.first, totals.lenses))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    free_cached_memory()
    if len(group) == 1:
        return [None]
    found: list[Found | None] = []
    for number, item in enumerate(group):
        steps = _run(net, [item], totals)
        while True:
            try:
                fraction, sofar = next(steps)
            except StopIteration as ended:
                found += ended.value
                break
            yield (number + fraction) / len(group), [*(one for one in found if one), *sofar]
    return found
