"""The tour as text, JSON, the lines of a panel, and docs/tour.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from stagescope.tour import LAYERS, MODEL, STEPS, Step

HEADS = {"do": "", "look": "", "paper": "The paper. ", "here": "Here. "}  # what stands before each part
HALVES = (("do", "look"), ("paper", "here"))  # of a step, a paragraph each
WIDTH = 100


def tour_text() -> Iterator[str]:
    """Lines."""
    yield f"The four stages of inference on {MODEL}, step by step. In a terminal `stagescope tour` does them."
    for number, step in enumerate(STEPS, 1):
        yield ""
        yield f"{number}  {step.title}"
        for part, head in HEADS.items():
            yield from textwrap.wrap(head + step.told(part), WIDTH, initial_indent="   ", subsequent_indent="   ")
        yield f"   $ {step.command}"


def tour_json() -> dict[str, Any]:
    plain = ("title", "prompt", "schedule", "position", "screen", "view", "row", "command")
    return {
        "schema": "tour/1",
        "model": MODEL,
        "steps": [
            {
                "number": number,
                **{name: getattr(step, name) for name in plain},
                **{part: step.told(part) for part in HEADS},
                "numbers": [{"name": name, "written": one.written, "how": one.how} for name, one in step.numbers.items()],
            }
            for number, step in enumerate(STEPS, 1)
        ],
    }


def panel_lines(step: Step, parts: Sequence[str], width: int) -> list[str]:
    """Two paragraphs at most: what is done and seen; what the paper says, and what is so here."""
    paragraphs = (" ".join(HEADS[part] + step.told(part) for part in half if part in parts) for half in HALVES)
    return [line for text in paragraphs if text for line in textwrap.wrap(text, width, break_on_hyphens=False)]


def tour_markdown() -> str:
    """docs/tour.md, whole."""
    lines = ["# The tour", "", "Written by `stagescope.reports.tour.tour_markdown()` (`make tour`); a test compares the two.", ""]
    lines += textwrap.wrap(
        f'The four stages of "The Remarkable Robustness of LLMs: Stages of Inference?" (Lad, Gurnee, Tegmark, arXiv 2406.19384) on the default model, '
        f"{MODEL} ({LAYERS} layers), by doing. `stagescope tour` opens the app with each step set up: `.` goes on, `,` goes back, space shows what the "
        "paper says, `Q` leaves. Every other key does what it always does, and the next step sets all anew. `stagescope tour | cat` prints this page "
        "as text, `--json` as data. It says where this small model agrees with the paper and where it does not. Every number was computed on it in "
        "fp32, by the tests.",
        150,
    )
    lines.append("")
    for number, step in enumerate(STEPS, 1):
        lines += [f"## {number}. {step.title}", "", step.told("do"), "", step.told("look"), ""]
        lines += [f"**The paper.** {step.told('paper')}", "", f"**Here.** {step.told('here')}", ""]
        lines += ["```sh", step.command, "```", ""]
        if step.numbers:
            lines += ["| number | what it is |", "|---|---|"]
            lines += [f"| {one.written} | {one.how.strip(',').replace('|', chr(92) + '|')} |" for one in step.numbers.values()]
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tour_markdown(), end="")
