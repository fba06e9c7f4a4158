"""What stands where on an exported page: the token looked at, headers over their own numbers, curves on their own axes."""

import ast
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from test_exports import PROMPT, Page, ask, every_kind, lines_of, markdown_tables

from stagescope.answers import Answer, as_json, as_text, collected, title
from stagescope.engine.protocol import (
    Census,
    Evidence,
    FindHeads,
    Generate,
    MapStages,
    Read,
    Reading,
    ShowNeurons,
    Sweep,
    TakeAttribution,
    TakeCensus,
    TakeComparison,
    TakeEvidence,
    TakeLens,
    TakeSweep,
    Texts,
)
from stagescope.exports import again, formats, page
from stagescope.text import visible

AT = 2


@pytest.fixture(scope="module")
def edited() -> Answer:
    """A reading in which a lens is another at each token, looked at before the last."""
    (answer,) = ask(Read(PROMPT, "drop 3"))
    found, depths = answer.last, np.arange(6)[:, None]
    same = ((depths + np.arange(7)) % 3 > 0).astype(np.float32)
    kl = np.where(depths > 3, 1.0, 0.0) * np.ones_like(found.kl_nats)
    return replace(answer, replies=(replace(found, kl_nats=kl, top1_same=same),), position=AT)


def rendered(answer: Answer, extension: str) -> str:
    return formats.render(answer, extension).decode()


def tops(reading: Reading, at: int) -> list[str]:
    return [visible(reading.texts[int(token)]) for token in reading.top_ids[:, at, 0]]


# ------------------------------------------------------------------------------------------------- Markdown


def test_markdown_looks_at_the_token_that_was_looked_at(edited) -> None:
    data, reading = formats.render(edited, "md"), edited.last
    layers, grid = markdown_tables(data)
    assert layers[0] == ["layer", "H bits", "KL final", "KL to baseline", "attn norm", "mlp norm", "", "top tokens"]
    assert f"## At position {AT}, `·capita`" in data.decode()
    run = [row for row in layers[2:] if row[6] != "not run"][::-1]
    assert [row[1] for row in run] == [f"{value:.4g}" for value in reading.entropy_bits[:, AT]]
    for p in range(7):
        assert [row[1 + p].strip("`") for row in grid[2:][::-1]] == tops(reading, p)


def test_every_page_says_how_to_get_it_again() -> None:
    for answer in ask(*every_kind(PROMPT)):
        text, page_ = rendered(answer, "md"), rendered(answer, "html")
        for line, language in ((again.command(answer), "sh"), (again.python(answer), "python")):
            assert not line or (f"```{language}\n{line}\n```" in text and escape(line) in page_)


# ----------------------------------------------------------------------------------------------------- HTML


def test_html_marks_the_token_that_was_looked_at(edited) -> None:
    data = rendered(edited, "html")
    tokens = [element for element in ET.fromstring(data).iter() if element.tag.endswith("}li")]
    assert [token.get("class") for token in tokens] == [None, None, "at", None, None, None, None]
    assert "".join(tokens[AT].itertext()) == "2 ·capita" and f"<h2>Position {AT}, ·capita</h2>" in data
    _, grid = Page(data.encode()).tables
    for row in grid:
        if len(row) == 8:
            assert [cell[1].get("class") for cell in row[1:]] == [None, None, "at", None, None, None, None]


def test_html_of_a_reading_has_headers_over_their_own_numbers(edited) -> None:
    layers, _ = Page(formats.render(edited, "html")).tables
    assert [cell[2] for cell in layers[0]] == ["layer", "", "", "H bits", "KL final", "KL base", "attn", "MLP", "resid", "top tokens and their p"]
    wide = sum(int(cell[1].get("colspan", 1)) for cell in layers[0])
    for row in layers[1:]:
        assert sum(int(cell[1].get("colspan", 1)) for cell in row) == wide
    (plain,) = ask(Read(PROMPT))
    layers, _ = Page(formats.render(plain, "html")).tables
    assert "KL base" not in [cell[2] for cell in layers[0]] and len(layers[1]) == wide - 1
    assert "≈" not in rendered(plain, "html") and "≈ the schedule changed" in rendered(edited, "html")


def test_html_draws_entropy_as_a_share_of_the_greatest(edited) -> None:
    widths = [float(width) for width in re.findall(r'<i style="width:([\d.]+)%', rendered(edited, "html"))]
    entropy = edited.last.entropy_bits[:, AT]
    assert widths[::-1] == pytest.approx(100 * entropy / entropy.max(), abs=0.051) and max(widths) == 100


def test_html_underlines_the_tokens_that_are_others(edited) -> None:
    reading, data = edited.last, rendered(edited, "html")
    layers, grid = data.split('<table class="layers')[1:]
    rows = [row for row in re.findall(r"<tr>.*</tr>", grid) if "--p:" in row][::-1]
    for depth, row in enumerate(rows):
        assert [bool(other) for other in re.findall(r'<span( class="other")?>', row)] == list(reading.top1_same[depth] == 0)
        shades = [float(p) for p in re.findall("--p:([^\"]*)", row)]
        assert shades == pytest.approx(reading.top_p[depth, :, 0], abs=6e-4)
    rows = [row for row in re.findall(r"<tr.*</tr>", layers) if "<small>" in row][::-1]
    for depth, row in enumerate(rows):
        others = [bool(other) for other in re.findall(r'<span( class="other")?>[^<]', row)]
        changed = reading.kl_nats[depth, AT] > 0
        assert others == [bool(changed and reading.top1_same[depth, AT] == 0)] + [False] * 7
        assert row.startswith('<tr class="changed">') == changed


def test_html_draws_each_kind_on_its_own_axes() -> None:
    drops, sets, heads, evidence, stages = ask(
        TakeSweep((PROMPT,), ("drop", "swap")), TakeSweep((PROMPT,), ("neuron-sets",)), TakeSweep((PROMPT,), ("heads",)),
        TakeEvidence(Texts((PROMPT,))), MapStages(Texts((PROMPT,))),
    )  # fmt: skip
    charts = rendered(drops, "html").split('<svg class="chart"')[1:]
    for chart in charts:
        is_share = "top-1 kept" in chart.split("</text>")[0]
        assert ("%</title>" in chart) == is_share  # of the scale of shares alone
        assert ">0, 1" not in chart and ">layer</text>" in chart
    assert "Means over" in charts[-1]
    assert ">log2 of " in rendered(sets, "html")
    drawn = rendered(heads, "html")
    assert "<h2>By layer and head</h2>" in drawn and '<svg class="chart"' not in drawn
    for of_evidence in (evidence, stages):
        drawn = rendered(of_evidence, "html").split('<svg class="chart"')[1:]
        ends = {max(map(int, re.findall(r'text-anchor="middle">(\d+)</text>', one))) for one in drawn}
        assert len(drawn) > 3 and ends == {5}  # the last layer of six


def test_html_sets_numbers_to_the_right() -> None:
    (answer,) = ask(TakeSweep((PROMPT,)))
    tables = Page(formats.render(answer, "html")).tables
    all_sides = [block[1] for block in page.blocks(answer) if isinstance(block, tuple)]
    for table, sides in zip(tables, all_sides, strict=True):
        for row in table:
            assert [cell[1].get("class") == "n" for cell in row] == [side == "right" for side in sides]
    assert {"right", "left"} <= {side for sides in all_sides for side in sides}


# --------------------------------------------------------------------------------------------- pages and names


def test_a_token_whose_id_is_0_is_one(edited) -> None:
    found = edited.last
    ids = found.top_ids.copy()
    ids[1, AT] = [0, 5, -1, -1, -1, -1, -1, -1]
    reading = replace(found, top_ids=ids, texts=found.texts | {0: "<|endoftext|>", 5: " x"})
    assert [token for token, _ in page.tops(reading, 1, AT)] == ["<|endoftext|>", "·x"]


def test_a_script_begins_with_what_was_asked(edited) -> None:
    told = ast.get_docstring(ast.parse(rendered(edited, "py")))
    for line in ("prompt: The capital of France is", "schedule: drop 3", "lens: standard", f"looked at: position {AT}, ·capita"):
        assert line in told.splitlines()
    lines_of(formats.render(edited, "py"))


def test_a_kind_is_in_a_name_once() -> None:
    (sweep,) = ask(TakeSweep((PROMPT, "b")))
    assert formats.default_name(sweep, "csv") == "smollm2-135m-sweep-drop-swap.csv"


def test_a_link_to_nowhere_is_refused_before_anything_is_made(tmp_path) -> None:
    (link := tmp_path / "loose.json").symlink_to(tmp_path / "nowhere.json")
    with pytest.raises(formats.ExistsError):
        formats.refuse(link)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20a"], ids=ascii)
def test_a_spreadsheet_finds_no_formula(text) -> None:
    from stagescope.exports.csv_file import _guarded

    assert _guarded(text) == f"'{text}" and _guarded("a=1") == "a=1" and _guarded(-1.5) == -1.5


# ---------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (ShowNeurons(2, 4, PROMPT), f"strongest neurons of layer 2, “{PROMPT}”"),
        (ShowNeurons(), "strongest neurons"),
        (TakeComparison(Read(PROMPT), Read(PROMPT, "drop 3")), f"“{PROMPT}”: the baseline against drop 3"),
        (TakeComparison(Read("a b"), Read("a c", "drop 3")), "the baseline · “a b” against drop 3 · “a c”"),
        (Generate(PROMPT), f"what follows “{PROMPT}”"),
        (Generate(PROMPT, ("drop 1", "drop 2", "drop 3")), f"what follows “{PROMPT}”, drop 1, drop 2, drop 3"),
        (Generate(PROMPT, ("drop 1", "drop 2", "drop 3", "drop 4")), f"what follows “{PROMPT}”, 4 schedules"),
        (TakeAttribution(PROMPT, "drop 3"), f"attribution at position 6 of “{PROMPT}”, drop 3"),
        (TakeLens(PROMPT, position=AT), f"both lenses at position {AT} of “{PROMPT}”"),
        (TakeSweep((PROMPT, "b")), "sweep of drops, swaps over 2 prompts"),
        (TakeEvidence(lenses=()), "attention, norms over the standard text"),
    ],
    ids=repr,
)
def test_a_title_says_what_was_asked(request_, told) -> None:
    assert title(ask(request_)[0]) == f"{told} · smollm2-135m"


def told_lines(answer: Answer) -> list[str]:
    return [line.plain for line in as_text(answer) if hasattr(line, "plain")]


def test_what_is_told_of_a_comparison_is_of_the_token_looked_at() -> None:
    (answer,) = ask(TakeComparison(Read(PROMPT), Read(PROMPT, "drop 3")))
    assert any(line.startswith(f"output at position {AT}:") for line in told_lines(replace(answer, position=AT)))
    assert any(line.startswith("output at position 6:") for line in told_lines(answer))


def test_neurons_and_evidence_are_told_with_what_came_beside_them() -> None:
    census, neurons, evidence, heads = ask(TakeCensus(), ShowNeurons(prompt=PROMPT), TakeEvidence(Texts((PROMPT,))), FindHeads())
    both = replace(neurons, replies=(census.last, neurons.last))
    assert both.find(Census) is census.last and both.find(Evidence) is None
    assert told_lines(both)[: len(told_lines(census))] == told_lines(census) != told_lines(neurons)[: len(told_lines(census))]
    with_heads = replace(evidence, replies=(heads.last, evidence.last))
    assert as_json(evidence)["attention"]["subjoiner_heads"] is None
    assert as_json(with_heads)["attention"]["subjoiner_heads"]


def test_a_reply_takes_the_place_of_the_one_it_replaces() -> None:
    (answer,) = ask(TakeSweep((PROMPT, "b"), ("drop",)))
    first, second = answer.replies
    newer = replace(first)
    assert isinstance(first, Sweep) and first is not newer
    for found, wanted in zip(collected((first, second, newer)), (newer, second), strict=True):
        assert found is wanted
