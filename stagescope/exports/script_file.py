"""A script that asks for an answer again through the Python door, and prints it."""

from __future__ import annotations

from stagescope.answers import Answer, title
from stagescope.exports import again, page
from stagescope.exports.formats import ExportError

# What a reader may go on with; a comment each.
NEXT = (
    ("answer.to_pandas()", "one table, a line a thing measured"),
    ("answer.to_json()", "what the command line prints with --json"),
)


def render(answer: Answer) -> bytes:
    """Raises ExportError for what one model cannot be asked again."""
    model, asked = parts(answer)
    told = "\n".join(about(answer))
    lines = [
        f'"""{told}\n"""\n',
        "import stagescope as ss\n",
        f"model = {model}",
        f"answer = model{asked}",
        "print(answer)\n",
        *(f"# {code}  # {why}" for code, why in NEXT),
    ]
    return ("\n".join(lines) + "\n").encode()


def parts(answer: Answer) -> tuple[str, str]:
    """again.calls; raises ExportError where there are none."""
    model, asked = again.calls(answer)
    if not model:
        line = again.command(answer)
        instead = f"`{line}` asks for it" if line else "export .json, which has its numbers"
        raise ExportError(f"no script asks one loaded model for this again: {instead}")
    return model, asked


def about(answer: Answer) -> list[str]:
    """Title and facts, as they may stand in a string between three quotes: no quote and no backslash is left."""
    facts = [f"{name}: {told}" for name, told in page.facts(answer)]
    return [line.replace("\\", "/").replace('"', "'") for line in (f"{title(answer)}\n", *facts)]
