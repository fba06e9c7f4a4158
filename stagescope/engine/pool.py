"""Statistics of a sweep pooled over documents: what the paper's figures show, and how sure it is.

Means are pooled over tokens, as in arXiv 2406.19384, not over documents: a ratio of sums. The 95 % interval of each
mean is a percentile bootstrap over documents (Efron 1979), for the tokens of one are no independent draws. Medians
stand beside the means, for KL has a heavy tail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stagescope.engine.protocol import CorpusSweep, Sweep, SweepRow
from stagescope.text import printable

MEASURES = ("kl_nats", "top1_same", "entropy_change_bits", "loss_change_nats")
SAMPLE = 20_000  # tokens medians are exact up to; beyond, the sample's median has a rank within 0.7 % of the middle
RESAMPLES, PERCENTILES = 1000, (2.5, 97.5)
SAMPLE_SEED, BOOTSTRAP_SEED = 0, 1
DRAWN_AT_ONCE = 2**20  # numbers of the bootstrap held at once, 8 MiB


@dataclass(eq=False)
class Pool:
    """S rows over the documents so far. Memory: 48 S bytes a document, and 16 S bytes a token of the sample.

    The sample is uniform: the tokens of lowest priority, a random number that depends on the document's number alone.
    So it is the same whatever ran together and was interrupted, and it is the same tokens for every row.
    """

    sums: list[np.ndarray]  # a document: [S, 4] float64
    counts: list[np.ndarray]  # a document: [S, 4] int32, tokens in each sum
    holes: np.ndarray  # [S] int32: documents in which some token has no KL
    priority: np.ndarray  # [n] of the sampled tokens
    sample: np.ndarray  # [S, 4, n] float32, NaN where a token has no value

    def add(self, values: np.ndarray) -> None:
        """One more document: values [S, 4, n] of its n tokens. What is no finite number is left out."""
        there = np.isfinite(values)
        values = np.where(there, values, np.nan).astype(np.float32)
        self.priority, self.sample = draw(self.priority, self.sample, values, len(self.sums))
        self.sums.append(np.nansum(values, -1, dtype=np.float64))
        self.counts.append(there.sum(-1, dtype=np.int32))
        self.holes += ~there[:, 0].all(-1)

    def summary(self) -> dict[str, np.ndarray]:
        """Each measure's [S, 4] float64: mean and median over tokens, low and high end of the mean's interval.

        NaN where a row has no value; the ends where it has values in fewer than two documents.
        """
        sums, counts = (self.state()[name] for name in ("sums", "counts"))
        mean = ratio(sums.sum(0), counts.sum(0))
        columns = np.stack([mean, medians(self.sample), *interval(sums, counts)], -1)  # [S, measure, 4]
        return {name: columns[:, measure] for measure, name in enumerate(MEASURES)}

    def by_document(self) -> dict[str, np.ndarray]:
        """sums and counts, [D, S, 4] float64: what drawing documents anew takes."""
        return {name: self.state()[name].astype(np.float64) for name in ("sums", "counts")}

    def state(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, for `restored`."""
        shape = (len(self.sums), len(self.holes), len(MEASURES))
        sums, counts = np.array(self.sums, np.float64), np.array(self.counts, np.int32)
        stacked = {"sums": sums.reshape(shape), "counts": counts.reshape(shape)}
        return stacked | {"holes": self.holes, "priority": self.priority, "sample": self.sample}


def draw(priority: np.ndarray, sample: np.ndarray, values: np.ndarray, document: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample [..., n] of tokens and the priority [n] of each, after one more document's values [..., m].

    Written in place once it is full: it may be 100 MB.
    """
    drawn = np.random.default_rng([SAMPLE_SEED, document]).random(values.shape[-1])
    n = len(priority)
    kept = np.argsort(np.concatenate([priority, drawn]), kind="stable")[:SAMPLE]
    new, gone = kept[kept >= n] - n, np.setdiff1d(np.arange(n), kept)
    into, beyond = new[: len(gone)], new[len(gone) :]
    priority[gone], sample[..., gone] = drawn[into], values[..., into]
    if len(beyond):
        priority = np.concatenate([priority, drawn[beyond]])
        sample = np.concatenate([sample, values[..., beyond]], -1)
    return priority, sample


def empty(n_rows: int) -> Pool:
    return Pool([], [], np.zeros(n_rows, np.int32), np.empty(0), np.empty((n_rows, len(MEASURES), 0), np.float32))


def restored(state: Mapping[str, np.ndarray]) -> Pool:
    grown = {name: state[name].copy() for name in ("holes", "priority", "sample")}
    return Pool(list(state["sums"]), list(state["counts"]), **grown)


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def medians(sample: np.ndarray) -> np.ndarray:
    """[S, M, n] -> [S, M], NaN left out."""
    found = np.full(sample.shape[:2], np.nan)
    for place in np.ndindex(found.shape):
        values = sample[place][~np.isnan(sample[place])]
        if len(values):
            found[place] = np.median(values.astype(np.float64))
    return found


def interval(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end [...] of the pooled mean over resamples of D documents, given their sums and counts [D, ...].

    NaN where fewer than two documents have a value.
    """
    shape = sums.shape[1:]
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    enough = (counts > 0).sum(0) >= 2
    if not enough.any():
        return low, high
    # A row that has values in few documents may have none in a resample, which then says nothing.
    low[enough], high[enough] = np.nanpercentile(resampled(sums[:, enough], counts[:, enough]), PERCENTILES, axis=0)
    return low, high


def resampled(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pooled means [RESAMPLES, ...] over D documents drawn anew, given their sums and counts [D, ...].

    Of the same documents at every call, so that what is computed from several of them is of one resample. NaN where no
    document drawn has a value. 31 columns of 10,000 documents take 50 ms once they are drawn.
    """
    n, *shape = sums.shape
    sums, counts = sums.reshape(n, -1), counts.reshape(n, -1)
    # Layers, depths and rows of a sweep are over the same tokens, mostly: neighbours that are alike are summed once.
    new = np.append(True, (counts[:, 1:] != counts[:, :-1]).any(0))[: counts.shape[1]]
    counts, column = counts[:, new].astype(np.float64), np.cumsum(new) - 1
    times, at_once = drawn(n), max(1, DRAWN_AT_ONCE // n)
    parts = (times[first : first + at_once].astype(np.float64) for first in range(0, RESAMPLES, at_once))
    return np.concatenate([ratio(part @ sums, (part @ counts)[:, column]) for part in parts]).reshape(-1, *shape)


_drawn: dict[int, np.ndarray] = {}  # n -> what `drawing` gave: of the last two, as of a sweep and of its evidence


def drawing(n: int) -> Generator[None, None, np.ndarray]:
    """How often each of n documents is in each resample, [RESAMPLES, n] uint8: the same for the same n. Kept, for 10,000
    documents take 0.5 s and 10 MB; it gives control back every 50 ms."""
    if n not in _drawn:
        rng, at_once = np.random.default_rng(BOOTSTRAP_SEED), max(1, DRAWN_AT_ONCE // n)
        times = np.empty((RESAMPLES, n), np.uint8)  # once on average; 256 times has a chance of 1e-507
        for row in range(RESAMPLES):
            times[row] = np.bincount(rng.integers(n, size=n), minlength=n)
            if row % at_once == at_once - 1:
                yield
        times.flags.writeable = False
        while len(_drawn) > 1:
            del _drawn[next(iter(_drawn))]
        _drawn[n] = times
    return _drawn[n]


def drawn(n: int) -> np.ndarray:
    """`drawing`, all at once."""
    steps = drawing(n)
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


# ------------------------------------------------------------------------------------------- several prompts


def over_prompts(sweeps: Sequence[Sweep]) -> CorpusSweep:
    """The same statistics over several prompts, each of them a document: one Sweep for each prompt and kind.

    The rows are those of the kinds one after the other. Raises ValueError where they differ from prompt to prompt, as
    those of a trace do, and where a prompt lacks a kind that another has.
    """
    by_prompt: dict[str, dict[str, Sweep]] = {}
    for sweep in sweeps:
        by_prompt.setdefault(sweep.prompt, {})[sweep.kind] = sweep
    kinds = list(by_prompt[sweeps[0].prompt])
    for prompt, by_kind in by_prompt.items():
        if lacking := {sweep.kind for sweep in sweeps} - by_kind.keys():
            shown = printable(prompt[:40])
            raise ValueError(f"the prompt “{shown}” has no sweep of {', '.join(sorted(lacking))}, another has")
    rows = _rows(by_prompt[sweeps[0].prompt])
    pool, n_tokens, notes = empty(len(rows)), 0, [Counter() for _ in rows]
    for by_kind in by_prompt.values():
        of_prompt = {kind: by_kind[kind] for kind in kinds}
        if _rows(of_prompt) != rows:
            raise ValueError("the rows are not the same for every prompt")
        scored = by_kind[kinds[0]].mean_positions()
        pool.add(np.concatenate([_values(sweep) for sweep in of_prompt.values()])[..., scored])
        n_tokens += len(scored)
        noted = [sweep.notes.get(row) for sweep in of_prompt.values() for row in range(len(sweep.rows))]
        for seen, note in zip(notes, noted, strict=True):
            seen.update([note] if note else [])
    n_prompts = f"{len(by_prompt)} prompt{'s' * (len(by_prompt) != 1)}"
    return CorpusSweep(
        model=sweeps[0].model,
        source=n_prompts,
        rows=rows,
        documents=len(by_prompt),
        tokens_scored=n_tokens,
        notes={row: told(seen, n_prompts) for row, seen in enumerate(notes) if seen},
        cached=all(sweep.cached for sweep in sweeps),
        **pool.summary(),
        **pool.by_document(),
    )


def told(seen: Mapping[str, int], of: str) -> str:
    """What to say of a row: reason -> in how many documents it held."""
    return "; ".join(f"{why} in {times} of {of}" for why, times in seen.items() if times)


def _rows(by_kind: Mapping[str, Sweep]) -> tuple[SweepRow, ...]:
    return tuple(row for sweep in by_kind.values() for row in sweep.rows)


def _values(sweep: Sweep) -> np.ndarray:
    """[S, 4, T]"""
    return np.stack([getattr(sweep, name) for name in MEASURES], 1)
