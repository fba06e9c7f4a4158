"""The numbers of an answer as one typed table: Parquet, which pandas, polars and DuckDB read."""

from __future__ import annotations

import json

import pyarrow
from pyarrow import parquet

from stagescope import __version__
from stagescope.answers import Answer, as_numbers, title
from stagescope.exports import again
from stagescope.reports import reading as report
from stagescope.reports.numbers import types

_KINDS = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}


def render(answer: Answer) -> bytes:
    """Columns as in CSV, null where nothing was measured. What was asked of which model stands in the schema's metadata."""
    numbers = as_numbers(answer)
    columns = [list(column) for column in zip(*numbers.rows, strict=True)] or [[] for _ in numbers.columns]
    arrays = [pyarrow.array(column, _KINDS[kind]) for column, kind in zip(columns, types(numbers), strict=True)]
    about = {
        "stagescope": __version__,
        "title": title(answer),
        "model": json.dumps(report.model_json(answer.info)),
        "command": again.command(answer),
    }
    out = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(arrays, names=list(numbers.columns), metadata=about), out)
    return out.getvalue().to_pybytes()
