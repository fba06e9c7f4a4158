"""The numbers of an answer as one table of comma-separated values (RFC 4180)."""

from __future__ import annotations

from typing import Any

from stagescope.answers import Answer, as_numbers
from stagescope.reports.sweep import csv_line

# What a spreadsheet takes for the beginning of a formula; the last four are what East Asian ones take for = + - @.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def render(answer: Answer) -> bytes:
    """A header and a line a row. Numbers are exact, what was not measured is an empty cell.

    Text that a spreadsheet would take for a formula begins with an apostrophe. The file begins with a byte order mark:
    without one Excel reads UTF-8 as something else; pandas passes over it.
    """
    table = as_numbers(answer)
    lines = (csv_line(map(_guarded, row)) for row in (table.columns, *table.rows))
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8-sig")


def _guarded(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
