"""How answers show themselves: as a line, as tables in a terminal, as HTML in a notebook, as a DataFrame.

Importing this teaches it to the engine's answers (engine/told.py). Nothing that a model, a file or a prompt said can act on
a terminal or a page: answers.py tells it harmless, and rich escapes what goes into HTML.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stagescope import answers
from stagescope.answers import Answer
from stagescope.engine import told
from stagescope.engine.compare_messages import Comparison
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
    Neurons,
    Probe,
    Reading,
    Similarity,
    StageMap,
    Sweep,
)
from stagescope.engine.told import Told
from stagescope.reports import numbers as answer_numbers

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 120  # cells of a table where nothing says how many there are
# No colour of its own: a page may be dark or light. What rich draws dim is the grey between the two.
PAGE = '<pre style="font-family:ui-monospace,Menlo,Consolas,monospace;line-height:1.25;white-space:pre;overflow-x:auto">{code}</pre>'


def line(told: Told) -> str:
    """ "<Reading “The capital of France is”, drop 11 · smollm2-135m · 30 depths x 6 tokens>" """
    answer = answer_of(told)
    if answer is None:
        return object.__repr__(told)
    sized = f" · {_SIZES[type(answer.last)](answer.last)}" if type(answer.last) in _SIZES else ""
    if len(found := answers.sweeps(answer)) > 1:
        sized = f" · {sum(len(sweep.rows) for sweep in found)} rows"
    return f"<{type(told).__name__} {answers.title(answer)}{sized}>"


def text(told: Told) -> str:
    """The tables, as wide as the terminal; without colours, for a string may go anywhere."""
    width = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout and sys.stdout.isatty() else WIDTH
    return "\n".join(line.rstrip() for line in _printed(told, width).file.getvalue().splitlines())


def rich(told: Told, width: int) -> Sequence[Text | Table]:
    answer = answer_of(told)
    return [Text(object.__repr__(told))] if answer is None else answers.as_text(answer, width)


def html(told: Told) -> str:
    return _printed(told, WIDTH).export_html(code_format=PAGE, inline_styles=True)


def json(told: Told) -> dict[str, Any]:
    return answers.as_json(_known(told))


def pandas(told: Told) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("a DataFrame needs pandas, which is not installed: pip install pandas") from error
    numbers = answers.as_numbers(_known(told))
    columns = zip(*numbers.rows, strict=True) if numbers.rows else [()] * len(numbers.columns)
    typed = {}
    for name, kind, values in zip(numbers.columns, answer_numbers.types(numbers), columns, strict=True):
        whole = {bool: "bool", int: "int64", float: "float64", str: "string"}[kind]
        missing = {bool: "boolean", int: "Int64"}.get(kind, whole)
        typed[name] = pd.Series(list(values), dtype=missing if None in values else whole)
    return pd.DataFrame(typed)


def answer_of(told: Told) -> Answer | None:
    """The answer that something came with; of a reply by itself one that holds it alone, None where its model is not
    known."""
    if isinstance(told, Answer):
        return told
    if (asked := told._asked) is not None:
        return replace(asked, replies=tuple(told if reply is None else reply for reply in asked.replies))
    replies = tuple(told) if isinstance(told, tuple) else (told,)
    of = replies[-1].a if replies and isinstance(replies[-1], Comparison) else replies[-1] if replies else None
    if of is None or isinstance(of, Census):
        return None
    return Answer(Load(of.model.name), of.model, None, replies)


def _known(told: Told) -> Answer:
    answer = answer_of(told)
    if answer is None:
        raise ValueError(f"this {type(told).__name__} does not say of which model it is: ask a Model for it")
    return answer


def _printed(told: Told, width: int) -> Console:
    """A console that has recorded the tables, no wider than `width`, and the lines, which stay whole."""
    shape = {"markup": False, "highlight": False, "force_terminal": False, "force_jupyter": False}
    console = Console(file=StringIO(), record=True, width=width, **shape)
    for part in rich(told, width):
        whole = isinstance(part, Text)
        console.print(part, no_wrap=True, overflow="ignore" if whole else "ellipsis", crop=False)
    return console


_SIZES: dict[type, Callable[[Any], str]] = {
    Reading: lambda r: f"{r.n_depths} depths x {len(r.tokens)} tokens",
    Sweep: lambda r: f"{len(r.rows)} rows x {len(r.tokens)} tokens",
    CorpusSweep: lambda r: f"{len(r.rows)} rows over {r.tokens_scored:,} tokens",
    Evidence: lambda r: f"{r.model.n_layers} layers over {r.tokens_scored:,} tokens",
    LensCurves: lambda r: f"{len(r.layers)} depths, {len(r.followed)} tokens followed",
    Census: lambda r: f"{len(r.high)} layers x {r.d_mlp:,} neurons",
    Neurons: lambda r: f"{len(r.rows)} neurons",
    StageMap: lambda r: f"{sum(stage.visible for stage in r.stages)} of 4 stages visible",
    HeadScores: lambda r: "{} layers x {} heads".format(*r.joined.shape),
    HeadPattern: lambda r: "{} x {} tokens".format(*r.pattern.shape),
    Attribution: lambda r: f"{len(r.layers)} depths x {len(r.tokens)} tokens",
    Similarity: lambda r: f"{r.model.n_layers} layers over {r.tokens_scored:,} tokens",
    Probe: lambda r: f"{len(r.neurons)} neurons, {len(r.ensembles)} ensembles",
    Comparison: lambda r: "{} pairs of depths x {} tokens".format(*r.kl_nats.shape),
    Generation: lambda r: "{} texts x {} tokens".format(*r.ids.shape),
}

told.teller = sys.modules[__name__]
