"""What the command of this kind prints with --json, as a file."""

from __future__ import annotations

import json

from stagescope.answers import Answer, as_json


def render(answer: Answer) -> bytes:
    """On one line: indented, a reading of 30 layers and 11 tokens has 17,447. ASCII, which is UTF-8 as well: what a prompt
    may hold (controls, bidi marks, half characters) stands there as JSON escapes."""
    return (json.dumps(as_json(answer), allow_nan=False) + "\n").encode("ascii")
