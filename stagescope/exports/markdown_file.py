"""An answer as Markdown: facts, tables, and how to get it again.

Nothing that came from a model or a prompt can begin a link, HTML or another cell: what is more than words and numbers stands
in a code span, where nothing of that means anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from stagescope.answers import Answer, title
from stagescope.engine.protocol import Reading
from stagescope.exports import again, page
from stagescope.text import printable, visible

# A dot is safe between digits alone (www.name.org becomes a link), a colon and a dot before a space.
PLAIN = re.compile(r"(?:[A-Za-z0-9 ,;·“”%()/=±×…–−→ΔΣ?'+-]|\.(?=[0-9 ]|$)|:(?= |$))*")


def render(answer: Answer) -> bytes:
    parts = [head(answer)]
    if isinstance(answer.last, Reading):
        parts += _reading(answer.last, answer.position % len(answer.last.tokens))
    else:
        for block in page.blocks(answer):
            parts.append(_table(*block) if isinstance(block, tuple) else _fenced(block))
    told = ((again.command(answer), "sh"), (again.python(answer), "python"))
    lines = [_fenced([line], language) for line, language in told if line]
    parts += ["## Again", *lines] if lines else []
    return ("\n\n".join(parts) + "\n").encode()


def head(answer: Answer) -> str:
    """Title and facts."""
    facts = "\n".join(f"- {name}: {_inline(told)}" for name, told in page.facts(answer))
    return f"# {_inline(title(answer))}\n\n{facts}"


def _reading(reading: Reading, at: int) -> list[str]:
    """What every layer was about to say at the position looked at, and the top token at every other."""
    words = [visible(token.text) for token in reading.tokens]
    measures = ("entropy_bits", "kl_final_nats", "kl_nats", "attn_norm", "mlp_norm")
    headers = ["layer", "H bits", "KL final", "KL to baseline", "attn norm", "mlp norm", "", "top tokens"]
    rows = []
    for row in page.stack(reading, at):
        numbers, tops = [""] * len(measures), []
        if row.depth is not None:
            numbers = [_number(getattr(reading, name)[row.depth, at]) for name in measures]
            tops = page.tops(reading, row.depth, at)
        rows.append([row.name, *numbers, row.mark, " ".join(f"{_cell(token)} {p:.3f}" for token, p in tops)])
    at_each = [
        [row.name, *(_cell(top[0][0]) if (top := page.tops(reading, row.depth, p)) else "" for p in range(len(words)))]
        for row in page.stack(reading, at)
        if row.depth is not None
    ]
    sides = ["right"] * 6 + ["left"] * 2
    heads = ["layer", *(f"{p} {_cell(word)}" for p, word in enumerate(words))]
    return [
        f"## At position {at}, {_code(words[at])}",
        _rows(headers, sides, rows),
        "## The top token at every position",
        _rows(heads, ["right"] + ["left"] * len(words), at_each),
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


# ------------------------------------------------------------------------------------------------- Markdown


def _table(headers: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    headers, *rows = [[_inline(cell, _cell) for cell in row] for row in (headers, *rows)]
    return _rows(headers, sides, rows)


def _rows(headers: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = ["--:" if side == "right" else "---" for side in sides]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rules, *rows))


def _inline(text: str, code: Callable[[str], str] | None = None) -> str:
    """As it is where that is harmless, else as code."""
    text = printable(text).strip()
    return text if PLAIN.fullmatch(text) else (code or _code)(text)


def _code(text: str) -> str:
    """A code span, its fence longer than any run of backticks within."""
    text = printable(text)
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text[:1] in ("`", " ") or text[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def _cell(text: str) -> str:
    r"""A code span within a table: there "\|" is a pipe, unless a backslash stands before it."""
    return _code(printable(text).replace("|", r"\u{7c}" if "\\" in printable(text) else r"\|"))


def _fenced(lines: Iterable[str], language: str = "") -> str:
    text = "\n".join(printable(line).rstrip() for line in lines)
    fence = "`" * max(_longest_run(text) + 1, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
