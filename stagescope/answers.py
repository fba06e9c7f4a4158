"""What was asked and what came, as one thing: it is what a screen shows, a session records, an export writes, and the
Python door gives. Here is how an answer of each kind is told: as JSON, as lines of text, as one table of numbers.

A kind of answer is the type of its last reply. A new kind is a row in the table at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stagescope.engine.compare_messages import Comparison, TakeComparison
from stagescope.engine.protocol import (
    Attribution,
    Census,
    CorpusSweep,
    Evidence,
    Generation,
    HeadPattern,
    HeadScores,
    LensCurves,
    Load,
    ModelInfo,
    Neurons,
    Probe,
    Reading,
    Reply,
    Request,
    Similarity,
    StageMap,
    Sweep,
)
from stagescope.engine.tokens import Token
from stagescope.engine.told import Told
from stagescope.reports import attribution as attribution_report
from stagescope.reports import compare as compare_report
from stagescope.reports import evidence as evidence_report
from stagescope.reports import generation as generation_report
from stagescope.reports import heads as heads_report
from stagescope.reports import lens as lens_report
from stagescope.reports import neurons as neurons_report
from stagescope.reports import numbers as answer_numbers
from stagescope.reports import probe as probe_report
from stagescope.reports import reading as report
from stagescope.reports import similarity as similarity_report
from stagescope.reports import stages as stages_report
from stagescope.reports import sweep as sweep_report
from stagescope.reports import sweep_table
from stagescope.reports.numbers import Numbers
from stagescope.text import fit, printable, visible

QUOTED = 40  # cells of a prompt in a title
Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Told):
    """replies: without progress, of those that replace each other the last (of sweeps: of each prompt and kind)."""

    load: Load
    info: ModelInfo
    request: Request | None  # None: of a reply by itself, however it came
    replies: tuple[Reply, ...]
    position: int = -1  # the token looked at, where there is one; negative counts from the end
    other: Load | None = None  # that read b of a comparison; None: the one above

    @property
    def last(self) -> Reply:
        return self.replies[-1]

    def find(self, kind: type[Kind]) -> Kind | None:
        """The last reply of a type: a map of stages comes with what it rests on, neurons may come with their census."""
        return next((reply for reply in reversed(self.replies) if isinstance(reply, kind)), None)


def as_json(answer: Answer) -> dict[str, Any]:
    """The JSON that the command of this kind prints with --json. Of an Evidence, which several commands print: all that
    they do. NaN is null; texts of tokens are harmless, the prompt is as it was typed."""
    return _report(answer).json(answer)


def as_text(answer: Answer, width: int = 120) -> list[Text | Table]:
    """The lines that the command of this kind prints, in `width` cells where it can keep to them."""
    return _report(answer).text(answer, width)


def as_numbers(answer: Answer) -> Numbers:
    """Long form: of a reading a line a depth and position; of a sweep a line a schedule and prompt (reports/numbers.py)."""
    return _report(answer).numbers(answer)


def title(answer: Answer) -> str:
    """In a few words, harmless: what was asked of which model."""
    return f"{printable(_report(answer).title(answer))} · {printable(answer.info.name)}"


def position_of(request: Request) -> int:
    """The token looked at, as far as the request says which: of two readings the first one's."""
    return request.a.position if isinstance(request, TakeComparison) else getattr(request, "position", -1)


def collected(replies: Sequence[Reply]) -> tuple[Reply, ...]:
    """Replies in order of their first coming; one that replaces another takes its place."""
    kept: dict[tuple, Reply] = {}
    for reply in replies:
        of = (reply.prompt, reply.kind) if isinstance(reply, Sweep) else ()
        kept[type(reply), *of] = reply
    return tuple(kept.values())


def sweeps(answer: Answer) -> list[Sweep]:
    return [reply for reply in answer.replies if isinstance(reply, Sweep)]


# --------------------------------------------------------------------------------- what takes more than a line


def _reading_json(answer: Answer) -> dict[str, Any]:
    return {**report.reading_json(answer.last), "position": answer.position % len(answer.last.tokens)}


def _evidence_json(answer: Answer) -> dict[str, Any]:
    evidence = answer.last
    heads = answer.find(HeadScores)
    attention = evidence_report.attention_json(evidence, heads and heads_report.subjoiner_heads(heads))
    return {
        "schema": "evidence/1",
        "attention": attention,
        "norms": evidence_report.norms_json(evidence),
        "lens": lens_report.lens_means_json(evidence) if evidence.lenses else None,
    }


def _evidence_text(answer: Answer, width: int) -> list[Text | Table]:
    evidence = answer.last
    told = [evidence_report.attention_text(evidence, width), evidence_report.norms_text(evidence, width)]
    told += [lens_report.lens_means_text(evidence, width)] if evidence.lenses else []
    return [line for at, lines in enumerate(told) for line in ([Text()] if at else []) + lines]


def _token_json(token: Token) -> dict[str, Any]:
    return {"schema": "token/1", "id": token.id, "text": token.text}


def _of_sweep(answer: Answer) -> str:
    found = sweeps(answer)
    prompts = list(dict.fromkeys(sweep.prompt for sweep in found))
    over = _quoted(prompts[0]) if len(prompts) == 1 else f"{len(prompts)} prompts"
    return f"sweep of {_kinds(sweep.kind for sweep in found)} over {over}"


def _of_neurons(found: Neurons) -> str:
    of = "" if found.layer is None else f" of layer {found.layer}"
    return f"strongest neurons{of}" + (f", {_quoted(found.prompt)}" if found.prompt else "")


def _run(found: Reading | LensCurves | HeadPattern | Attribution) -> str:
    """ "“The capital of France is”, drop 11" """
    return f"{_quoted(found.prompt)}, {found.schedule}" if found.schedule else _quoted(found.prompt)


def _of_two(found: Comparison) -> str:
    """ "“The capital of France is”: the baseline against drop 11" """
    sides = ((found.a, found.b), (found.b, found.a))
    told = " against ".join(compare_report.side_words(*side) for side in sides)
    return told if found.a.prompt != found.b.prompt else f"{_quoted(found.a.prompt)}: {told}"


def _of_texts(found: Generation) -> str:
    """ "what follows “The capital of France is”: the baseline, drop 11" """
    edits = found.schedules[1:]
    told = ", ".join(edits) if len(edits) < 4 else f"{len(edits)} schedules"
    return f"what follows {_quoted(found.prompt)}" + (f", {told}" if told else "")


def _kinds(kinds) -> str:
    return ", ".join(sweep_report.NAMES[kind][1] for kind in dict.fromkeys(kinds))


def _quoted(text: str) -> str:
    safe = printable(text)
    return f"“{safe if cell_len(safe) <= QUOTED else fit(safe, QUOTED).rstrip()}”"


# ------------------------------------------------------------------------------------------------ the table


class _Report(NamedTuple):
    """How one kind is told. width: cells there are."""

    title: Callable[[Answer], str]
    json: Callable[[Answer], dict[str, Any]]
    text: Callable[[Answer, int], list[Text | Table]]
    numbers: Callable[[Answer], Numbers]


def _report(answer: Answer) -> _Report:
    return _KINDS[type(answer.last)]


_KINDS: dict[type, _Report] = {
    Reading: _Report(
        lambda a: _run(a.last),
        _reading_json,
        lambda a, width: report.reading_text(a.last, a.position),
        lambda a: answer_numbers.of_reading(a.last),
    ),
    Sweep: _Report(
        _of_sweep,
        lambda a: sweep_report.sweep_json(sweeps(a)),
        lambda a, width: sweep_table.sweep_text(sweeps(a), width),
        lambda a: Numbers(*sweep_report.row_numbers(sweeps(a))),
    ),
    CorpusSweep: _Report(
        lambda a: f"sweep of {_kinds(row.kind for row in a.last.rows)} over {a.last.source}",
        lambda a: sweep_report.corpus_json(a.last),
        lambda a, width: sweep_table.sweep_text(a.last, width),
        lambda a: Numbers(*sweep_report.row_numbers(a.last)),
    ),
    Evidence: _Report(
        lambda a: f"attention, norms{', lens' if a.last.lenses else ''} over {a.last.source}",
        _evidence_json,
        _evidence_text,
        lambda a: answer_numbers.of_evidence(a.last),
    ),
    LensCurves: _Report(
        lambda a: f"both lenses at position {a.last.position} of {_run(a.last)}",
        lambda a: lens_report.lens_json(a.last),
        lambda a, width: lens_report.lens_text(a.last, width),
        lambda a: answer_numbers.of_lens(a.last),
    ),
    Census: _Report(
        lambda a: "census of neurons",
        lambda a: neurons_report.neurons_json(a.last, a.info),
        lambda a, width: neurons_report.neurons_text(a.last, None, width),
        lambda a: answer_numbers.of_census(a.last),
    ),
    Neurons: _Report(
        lambda a: _of_neurons(a.last),
        lambda a: neurons_report.neurons_json(a.find(Census), a.info, a.last),
        lambda a, width: neurons_report.neurons_text(a.find(Census), a.last, width),
        lambda a: answer_numbers.of_neurons(a.last, a.find(Census)),
    ),
    StageMap: _Report(
        lambda a: f"stages over {a.last.source}",
        lambda a: stages_report.stages_json(a.last, a.last.model),
        lambda a, width: stages_report.stages_text(a.last, max(width, 60)),
        lambda a: answer_numbers.of_stages(a.last),
    ),
    HeadScores: _Report(
        lambda a: f"sub-joiner heads over {a.last.source}",
        lambda a: heads_report.heads_json(a.last),
        lambda a, width: heads_report.heads_text(a.last, width),
        lambda a: answer_numbers.of_heads(a.last),
    ),
    HeadPattern: _Report(
        lambda a: f"head {a.last.layer}.{a.last.head} on {_run(a.last)}",
        lambda a: heads_report.pattern_json(a.last),
        lambda a, width: heads_report.pattern_text(a.last, width),
        lambda a: answer_numbers.of_pattern(a.last),
    ),
    Attribution: _Report(
        lambda a: f"attribution at position {a.position % len(a.last.tokens)} of {_run(a.last)}",
        lambda a: attribution_report.attribution_json(a.last, a.position),
        lambda a, width: attribution_report.attribution_text(a.last, a.position, width),
        lambda a: answer_numbers.of_attribution(a.last),
    ),
    Similarity: _Report(
        lambda a: f"layers compared over {a.last.source}",
        lambda a: similarity_report.similarity_json(a.last),
        lambda a, width: similarity_report.similarity_text(a.last, width),
        lambda a: answer_numbers.of_similarity(a.last),
    ),
    Probe: _Report(
        lambda a: f"probes whether the next token {a.last.asked} over {a.last.source}",
        lambda a: probe_report.probe_json(a.last),
        lambda a, width: probe_report.probe_text(a.last, width),
        lambda a: answer_numbers.of_probe(a.last),
    ),
    Comparison: _Report(
        lambda a: _of_two(a.last),
        lambda a: compare_report.comparison_json(a.last, a.position),
        lambda a, width: compare_report.comparison_text(a.last, a.position, width),
        lambda a: Numbers(*compare_report.comparison_numbers(a.last)),
    ),
    Generation: _Report(
        lambda a: _of_texts(a.last),
        lambda a: generation_report.generation_json(a.last),
        lambda a, width: generation_report.generation_text(a.last, width),
        lambda a: Numbers(*generation_report.generation_numbers(a.last)),
    ),
    Token: _Report(
        lambda a: f"the token “{visible(a.last.text)}”",
        lambda a: _token_json(a.last),
        lambda a, width: [Text(f"{a.last.id}  {visible(a.last.text)}")],
        lambda a: Numbers(("id", "text"), [(a.last.id, a.last.text)]),
    ),
}
