"""How an answer shows itself, in a terminal, in a notebook, to a program.

What that looks like is not the engine's to know: who does know sets `teller` (stagescope/showing.py). Without it an
answer has the plain repr of any object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas


class Teller(Protocol):
    def line(self, told: Told) -> str: ...
    def text(self, told: Told) -> str: ...
    def rich(self, told: Told, width: int) -> Iterable[Any]: ...
    def html(self, told: Told) -> str: ...
    def json(self, told: Told) -> dict[str, Any]: ...
    def pandas(self, told: Told) -> pandas.DataFrame: ...


teller: Teller | None = None


class Told:
    """What every answer with arrays can do. `repr` is a line, `print` tables, a notebook shows them as HTML."""

    _asked: Any = None  # the Answer it came with (stagescope/answers.py), if the Python door gave it

    def to_json(self) -> dict[str, Any]:
        """What the command of this kind prints with --json: plain data, NaN as None."""
        return _teller().json(self)

    def to_pandas(self) -> pandas.DataFrame:
        """One table, a line a thing measured (docs/api.md lists the columns); what is not measured is missing.

        Raises ImportError where pandas is not installed.
        """
        return _teller().pandas(self)

    def __repr__(self) -> str:
        return object.__repr__(self) if teller is None else teller.line(self)

    def __str__(self) -> str:
        return object.__repr__(self) if teller is None else teller.text(self)

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        return [object.__repr__(self)] if teller is None else teller.rich(self, options.max_width)

    def _repr_html_(self) -> str | None:
        return None if teller is None else teller.html(self)


def _teller() -> Teller:
    if teller is None:
        raise NotImplementedError("how answers are written is not loaded: `import stagescope.showing` first")
    return teller
