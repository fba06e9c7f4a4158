"""The docs: examples of schedules that do what the page says, links and pictures that are there, messages that still stand in the source."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from stagescope import actions
from stagescope.engine.schedule import ScheduleError, parse, resolve
from stagescope.engine.switches import Switch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def loaded(name: str):
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


schedules = loaded("schedules")
EXAMPLES = [example for group in schedules.GROUPS.values() for example in group]
SHAPE = {"n_heads": schedules.HEADS, "d_mlp": schedules.NEURONS, "n_positions": schedules.POSITIONS}


# ------------------------------------------------------------------------------------------------ schedules


def shown(plan) -> list[str]:
    """The executed order as docs/schedules.md writes it, no spans."""
    return " ".join(map(_place, plan)).split() or ["nothing"]


def without_spans(runs: str) -> list[str]:
    return re.sub(r"\d+-\d+", lambda span: " ".join(map(str, range(int(span[0].split("-")[0]), int(span[0].split("-")[1]) + 1))), runs).split()


def _place(place) -> str:
    if len(place) > 1:
        return f"({' '.join(_place((run,)) for run in place)})"
    run, out = place[0], (Switch("zero", None),)
    if (run.attn, run.mlp) in ((out, ()), ((), out)) and not run.heads and not run.neurons:
        return f"{run.layer}{'m' if run.attn else 'a'}"
    return f"{run.layer}{'*' if run.attn or run.mlp or run.heads or run.neurons else ''}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.typed)
def test_an_example_is_read_and_runs_as_the_page_says(example):
    assert str(parse(example.typed)) == (example.canonical or example.typed)
    assert shown(resolve(parse(example.typed), schedules.LAYERS, **SHAPE)) == without_spans(example.runs)


def test_the_examples_use_every_verb():
    from stagescope.engine.grammar import VERBS

    assert {step.verb for example in EXAMPLES for step in parse(example.typed).steps} == set(VERBS)


@pytest.mark.parametrize("wrong", schedules.WRONG, ids=lambda wrong: wrong.typed)
def test_a_wrong_one_is_refused_as_the_page_says(wrong):
    with pytest.raises(ScheduleError) as caught:
        resolve(parse(wrong.typed), schedules.LAYERS, **SHAPE)
    assert caught.value.reason == wrong.reason
    assert f"{caught.value}\n" in schedules.markdown()  # with the carets where they stand


def test_docs_schedules_is_what_its_script_says():
    assert (DOCS / "schedules.md").read_text("utf-8") == schedules.markdown(), "stale: make schedules"


# ---------------------------------------------------------------------------------------- links and pictures


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: there is no {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: no heading #{anchor} in {file.name}"


def anchors(file: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_the_contents_name_every_page():
    named = re.findall(r"\]\(([^)#]+\.md)\)", (DOCS / "index.md").read_text("utf-8"))
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} <= set(named)


def test_the_catalogue_of_the_page_is_that_of_the_program():
    from stagescope.engine.catalog import MODELS

    page = (DOCS / "models.md").read_text("utf-8")
    for known in MODELS:
        row = next(line for line in page.splitlines() if line.startswith(f"| {known.name} "))
        cells = [cell.strip().replace(",", "") for cell in row.strip("|").split("|")]
        assert cells[2:7] == [str(n) for n in (known.layers, known.width, known.heads, known.d_mlp, known.vocabulary)], known.name


def test_every_screen_has_its_picture():
    page = (DOCS / "screens.md").read_text("utf-8")
    for place, title in actions.BESIDE.items():
        assert f"## {title}" in page and re.search(rf"## {title}\n(?:(?!\n## ).)*!\[[^\]]+\]\(pictures/", page, re.DOTALL), place


# ------------------------------------------------------------------------------------------------- messages


def source() -> str:
    """All string literals of the package run together, braces emptied: where a message breaks over lines it is one again."""
    import ast

    texts = []
    for file in sorted((ROOT / "stagescope").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return "\n".join(texts)


def test_every_message_quoted_stands_in_the_source():
    """In docs/troubleshooting.md a heading is a message, … stands for what was given."""
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    quoted, said = [message for _, message in re.findall(r"^### (`+ ?)(.+?) ?`+$", page, re.MULTILINE)], source()
    assert len(quoted) >= 25
    for message in quoted:  # of a message and its hint, each by itself
        pieces = [message] if message in said else re.split(r"(?<=[.:]) (?=[A-Z])", message)
        missing = [piece for piece in pieces if piece not in said and piece.rstrip(".") not in said]
        assert not missing, f"no such message: {missing}"
