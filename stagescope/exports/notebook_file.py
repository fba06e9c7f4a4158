"""An answer as a Jupyter notebook (nbformat 4.5): what script_file.py writes, as cells, with what it shows as of now."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stagescope import showing
from stagescope.answers import Answer
from stagescope.exports import markdown_file, script_file


def render(answer: Answer) -> bytes:
    """Raises ExportError as the script."""
    model, asked = script_file.parts(answer)
    shown = {"text/html": showing.html(answer), "text/plain": showing.text(answer)}
    cells = [
        _cell("markdown", markdown_file.head(answer)),
        _cell("code", f"import stagescope as ss\n\nmodel = {model}"),
        _cell("code", f"answer = model{asked}\nanswer", shown),
        _cell("code", "answer.to_pandas()"),
    ]
    notebook = {
        "cells": [{"id": hashlib.sha256(f"{n}".encode()).hexdigest()[:8], **cell} for n, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return (json.dumps(notebook, indent=1) + "\n").encode("ascii")


def _cell(kind: str, source: str, shown: dict[str, str] | None = None) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": _lines(source)}
    if kind == "code":
        data = {name: _lines(text) for name, text in (shown or {}).items()}
        output = {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data}
        cell |= {"execution_count": None, "outputs": [output] if data else []}
    return cell


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
