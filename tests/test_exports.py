"""Exports read back by others: numbers as the engine gave them, nothing in them that acts, and no file harmed."""

import ast
import asyncio
import csv
import errno
import io
import json
import math
import os
import re
import shlex
import stat
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sweeps import make_corpus, make_sweep

import stagescope as ss
from stagescope import cli
from stagescope.answers import Answer, as_json, as_numbers, collected
from stagescope.commands import compare as compare_command
from stagescope.commands import generate as generate_command
from stagescope.commands import parsers
from stagescope.engine import fake
from stagescope.engine.protocol import (
    FindHeads,
    FindToken,
    Generate,
    Load,
    MapStages,
    Progress,
    Read,
    ShowNeurons,
    ShowPattern,
    SweepCorpus,
    TakeAttribution,
    TakeCensus,
    TakeComparison,
    TakeEvidence,
    TakeLens,
    TakeProbe,
    TakeSimilarity,
    TakeSweep,
    Texts,
)
from stagescope.exports import again, formats, page
from stagescope.exports.csv_file import FORMULA
from stagescope.text import printable, visible

PROMPT = "The capital of France is"
HOSTILE = "=cmd|'/C calc'!A0 <script>alert(1)</script> [x](javascript:a) \x1b]52;c;AA\x07 \u202e`a`|\\|b\n"
HOSTILE += "https://e.vil 'q' www.e.vil \ud800"
WORDS = [
    *("=cmd|' /C'!A0", "+1", "-1", "@SUM(1)", "<script>x()</script>", "[x](javascript:a)", "![x](http://e.vil)", "|", "`"),
    *("``|`", "\\|", "\\", "\x1b]52;c;AA\x07", "\u202eabc", "www.e.vil", "https://e.vil", "<https://e.vil>", "a@e.vil"),
    *("&lt;", '" onload="x()', "' onload='x()", "]]>", "-->", "\r\n", "*_~"),
]


def ask(*requests, name="smollm2-135m", n_layers=6) -> list[Answer]:
    """The seeded engine's answers."""

    async def replies(engine, request):
        return [reply async for reply in engine.ask(request) if not isinstance(reply, Progress)]

    async def asked():
        engine, load = fake.FakeEngine(n_layers), Load(name)
        await replies(engine, load)
        return [Answer(load, engine.info, one, collected(await replies(engine, one))) for one in requests]

    return asyncio.run(asked())


def every_kind(prompt: str):
    texts = Texts((prompt,))
    return (
        *(Read(prompt), Read(prompt, "drop 3; parallel 1-2", lens="v1"), TakeSweep((prompt,)), TakeSweep((prompt, "b"))),
        *(TakeSweep((prompt,), (kind,)) for kind in ("trace", "heads", "press")),
        *(TakeSweep((prompt,), ("neurons", "neuron-sets")), TakeSweep((prompt,), schedules=("drop 1", "drop 2"))),
        *(TakeEvidence(texts), TakeLens(prompt), ShowNeurons(prompt=prompt), ShowNeurons(), TakeCensus(), MapStages(texts)),
        *(FindHeads(), ShowPattern(prompt, 2, 1), TakeAttribution(prompt, "drop 3"), TakeSimilarity(texts), TakeProbe()),
        *(TakeComparison(Read(prompt), Read(prompt, "drop 3")), FindToken(" the")),
        *(Generate(prompt, ("drop 3",), temperature=0.7, top_k=5, seed=2), Generate(prompt, ("drop 3", "swap 1 2"), 4), Generate(prompt)),
    )


@pytest.fixture(scope="module")
def hostile() -> list[Answer]:
    """An answer of every kind, whose model, prompt and tokens mean harm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake, "WORDS", WORDS)
        asked = ask(*every_kind(HOSTILE), name="=evil|<script>`[x](http://e.vil)`\x1b[2J")
    corpus = replace(make_corpus(("drop", "heads"), 6, notes={1: HOSTILE}), source=HOSTILE)
    stopped = make_sweep("drop", 6, prompt=HOSTILE, words=["a", HOSTILE], done=())
    load, info = asked[0].load, asked[0].info
    more = ((SweepCorpus(HOSTILE, ("drop", "heads")), corpus), (TakeSweep((HOSTILE,), ("drop",)), stopped))
    return [*asked, *(Answer(load, info, request, (reply,)) for request, reply in more)]


def lines_of(data: bytes) -> list[str]:
    """As text, once it is sure that no character of it acts or hides."""
    lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    for line in lines:
        assert printable(line) == line
    return lines


# ----------------------------------------------------------------------------------------------- JSON and CSV


def test_json_is_what_the_command_prints(hostile):
    for answer in hostile:
        data = formats.render(answer, "json")
        assert data.isascii() and json.loads(data) == json.loads(json.dumps(as_json(answer), allow_nan=False))


def test_csv_has_every_number_and_no_formula(hostile):
    for answer in hostile:
        data = formats.render(answer, "csv")
        lines_of(data)
        assert data.startswith(b"\xef\xbb\xbf") and data.endswith(b"\r\n")
        columns, *rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        table = as_numbers(answer)
        assert tuple(columns) == table.columns and len(rows) == len(table.rows)
        for cells, row in zip(rows, table.rows, strict=True):
            for cell, value in zip(cells, row, strict=True):
                if isinstance(value, str):
                    assert not cell.startswith(FORMULA) and cell.removeprefix("'") == value.removeprefix("'")
                else:
                    assert cell == ("" if value is None else str(value))  # to the last digit: str(float) is exact


# ---------------------------------------------------------------------------------------------------- HTML


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, and tables as rows of (tag, attributes, text)."""

    def __init__(self, data: bytes):
        super().__init__()
        self.elements, self.tables, self._cell = [], [], None
        self.feed(data.decode())
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = [tag, dict(attributes), ""]
            self.tables[-1][-1].append(self._cell)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._cell = None if tag in ("td", "th") else self._cell

    def handle_data(self, data):
        if self._cell:
            self._cell[2] += data


ELEMENTS = """html head meta title style body main header section p h1 h2 dl dt dd ol ul li small span i br pre div table
    thead tbody tr th td figure figcaption svg g path text tspan polyline"""
ATTRIBUTES = """lang xmlns charset http-equiv content name class style title colspan aria-label role viewbox width height d x y
    dx fill fill-opacity stroke stroke-width stroke-opacity stroke-dasharray font-size font-family font-weight text-anchor
    transform points"""


def test_html_has_nothing_that_acts_or_leads_away(hostile):
    for answer in hostile:
        data = formats.render(answer, "html")
        text = "\n".join(lines_of(data))
        page = Page(data)
        assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
        assert {name for _, attributes in page.elements for name in attributes} <= set(ATTRIBUTES.split())
        policy = next(of["content"] for _, of in page.elements if of.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert not re.search(r"url\(|@import", text)
        assert ET.fromstring(text).tag.endswith("html")  # so that no browser has to guess


def test_html_of_a_reading_has_its_numbers_and_says_what_changed():
    (answer,) = ask(Read(PROMPT, "drop 3"))
    reading, at = answer.last, answer.position % len(answer.last.tokens)
    layers, grid = Page(formats.render(answer, "html")).tables
    assert [row[0][2] for row in layers[1:]] == [row[0][2] for row in grid[1:]] == ["5", "4", "3", "2", "1", "0", "e"]
    assert layers[3][1][2] == grid[3][1][2] == "not run"
    measures = ("entropy_bits", "kl_final_nats", "kl_nats", "attn_norm", "mlp_norm", "resid_norm")
    for depth, row in enumerate([row for row in layers[1:] if len(row) > 2][::-1]):
        shown = [float(cell[1].get("title", "nan")) for cell in row[3:9]]
        measured = [float(getattr(reading, name)[depth, at]) for name in measures]
        assert shown == pytest.approx(measured, rel=0, abs=0, nan_ok=True)
        tops = zip(reading.top_ids[depth, at], reading.top_p[depth, at], strict=True)
        assert [cell[2] for cell in row[9:]] == [f"{visible(reading.texts[int(token)])}{p:.3f}" for token, p in tops]
        is_changed = reading.kl_nats[depth, at] > 0
        assert (row[1][2] in ("≈", "≠")) == is_changed == (depth > 3)
    for depth, row in enumerate([row for row in grid[1:] if len(row) > 2][::-1]):
        assert [cell[2] for cell in row[1:]] == [visible(reading.texts[int(one)]) for one in reading.top_ids[depth, :, 0]]


def test_html_of_a_sweep_draws_every_point_and_tables_every_row():
    (answer,) = ask(TakeSweep((PROMPT,)))
    data = formats.render(answer, "html")
    points = re.findall(r"<title>(drop|swap), [\d.]+: (\S+)</title>", data.decode())
    table = as_numbers(answer)
    kl = table.columns.index("kl_nats_mean")
    assert len(points) == 4 * len(table.rows)  # four measures
    assert points[: len(table.rows)] == [(row[table.columns.index("kind")], f"{row[kl]:.4g}") for row in table.rows]
    rows = [[cell[2] for cell in row] for of in Page(data).tables for row in of if row[0][0] == "td"]
    assert [(row[0], row[1]) for row in rows] == [(row[1], f"{row[kl]:.3g}") for row in table.rows]


def drawn_points(data: bytes) -> dict[tuple[str, str], list[float]]:
    """(panel, curve) -> what its points tell, in their order."""
    found: dict[tuple[str, str], list[float]] = {}
    for panel in data.decode().split('<svg class="chart"')[1:]:
        name = re.search(r'font-weight="600">([^<]*)<', panel)[1]
        for curve, _, value in re.findall(r"<title>(.*?), ([\d.]+): ([^<]*)</title>", panel):
            found.setdefault((name, curve), []).append(float(value.rstrip("%")))
    return found


def test_html_of_both_lenses_draws_each_under_its_own_name():
    (answer,) = ask(TakeLens(PROMPT, tokens=tuple(range(1, 9))))
    followed = tuple(replace(token, text=f"t{n}") for n, token in enumerate(answer.last.followed))
    found = replace(answer.last, followed=followed)
    points = drawn_points(formats.render(replace(answer, replies=(found,)), "html"))
    corrected, v1 = 0, 1
    for lens, name in ((corrected, "corrected"), (v1, "v1")):
        assert points["entropy", name] == pytest.approx(found.entropy_bits[lens, 1:], rel=1e-3)
        assert points["KL from the output", name] == pytest.approx(found.kl_final_nats[lens, 1:], rel=1e-3)
    for n in range(6):
        assert points["p of tokens, corrected lens", f"t{n}"] == pytest.approx(100 * found.p[corrected, 1:, n], abs=0.051)
    assert not {name for name in points if name[1] in ("t6", "t7")}  # as many as there are styles
    assert abs(found.p[0] - found.p[1]).max() > 0.01 and abs(found.entropy_bits[0] - found.entropy_bits[1])[1:].max() > 0.1


# ------------------------------------------------------------------------------------- what stands above, and marks


def facts(answer: Answer) -> dict[str, str]:
    return dict(page.facts(answer))


def test_a_comparison_names_both_sides():
    a, b = "a b c d", "a b c e"
    (answer,) = ask(TakeComparison(Read(a, "drop 3"), Read(b, "swap 1 2")))
    told = facts(replace(answer, position=-1))
    assert (told["schedule A"], told["schedule B"], told["prompt A"], told["prompt B"]) == ("drop 3", "swap 1 2", a, b)
    assert told["model"].startswith("smollm2-135m: ") and told["lens"] == "standard" and told["looked at"] == "position 4, ·d and ·e"
    assert page.looked_at(answer) == 4 and page.tokens_of(answer) == ()  # of one prompt or of none

    found = answer.last
    other = replace(found.b, prompt=a, schedule="drop 3", model=replace(found.b.model, dtype="bfloat16", noise_kl=2e-3))
    two = replace(answer, replies=(replace(found, b=other),), position=1)
    told = facts(two)
    assert told["schedule"] == "drop 3" and told["prompt"] == a and told["looked at"] == "position 1, a"
    assert "run in float32" in told["weights A"] and told["weights B"].endswith("run in bfloat16 on cpu; noise floor KL 0.002 nats")
    assert page.tokens_of(two) == found.a.tokens
    named = replace(two, replies=(replace(found, b=replace(other, model=replace(other.model, name="half")), a=found.a),))
    assert facts(named)["model A"].startswith("smollm2-135m:") and facts(named)["model B"].startswith("half:")
    for extension in ("html", "md"):
        shown = formats.render(two, extension).decode()
        assert "bfloat16" in shown and "weights B" in shown


def test_a_reading_says_where_it_is_looked_at_and_what_came_of_it():
    plain, edited, sweep = ask(Read(PROMPT, lens="v1"), Read(PROMPT, "drop 3"), TakeSweep((PROMPT, "b"), ("drop",)))
    told = facts(replace(plain, position=1))
    assert told["lens"] == "v1" and told["looked at"] == "position 1, The" and told["schedule"] == "none: the baseline"
    assert "effect" not in told and told["output"]
    assert page.looked_at(replace(plain, position=1)) == 1 and page.looked_at(plain) == len(plain.last.tokens) - 1
    told = facts(edited)
    assert told["schedule"] == "drop 3" and told["effect"].startswith("at position 6: KL") and "output" not in told
    assert [told for name, told in page.facts(sweep) if name == "prompt"] == [PROMPT, "b"]
    assert page.tokens_of(sweep) == () and page.looked_at(sweep) is None
    (trace, alone) = ask(TakeSweep((PROMPT,), ("trace",), position=2), TakeSweep((PROMPT,)))
    assert page.looked_at(trace) == 2 and page.looked_at(alone) is None and page.tokens_of(alone) == alone.last.tokens
    lens, attribution = ask(TakeLens(PROMPT, position=2), TakeAttribution(PROMPT))
    assert page.looked_at(lens) == 2 and page.looked_at(replace(attribution, position=3)) == 3


def test_what_a_text_was_counted_over_is_told():
    corpus = make_corpus(("drop",), 6)
    told = facts(Answer(Load(), corpus.model, None, (corpus,)))
    assert told["over"] == f"{corpus.source}: {corpus.tokens_scored:,} tokens of {corpus.documents:,} documents"
    assert "prompt" not in told and "schedule" not in told


def test_a_change_within_rounding_is_none():
    (answer,) = ask(Read(PROMPT, "drop 3"))
    found = answer.last
    kl, same = np.zeros_like(found.kl_nats), np.ones_like(found.top1_same)
    kl[:, 2] = [0, 0.01, 0.1, 0.11, 5, np.nan]
    same[4, 2] = 0

    def marks(floor: float, **changes) -> list[str]:
        reading = replace(found, kl_nats=kl, top1_same=same, model=replace(found.model, noise_kl=floor), **changes)
        return [row.mark for row in page.stack(reading, 2)[::-1] if row.depth is not None]

    assert marks(0.1 + 1e-7) == ["", "", "", "changed", "another top", "changed"]
    assert marks(0.0) == marks(-1.0) == marks(math.nan) == ["", "changed", "changed", "changed", "another top", "changed"]
    assert set(marks(0.0, baseline=None)) == {""}
    rows = page.stack(found, 2)
    assert [row.name for row in rows] == ["5", "4", "3", "2", "1", "0", "e"] and rows[2] == page.Row("3", None, "not run")


# ------------------------------------------------------------------------------------------------- Markdown


def spans_removed(line: str) -> str:
    """A line without its code spans, as CommonMark finds them: from a run of backticks to the next run as long."""
    return re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", line)


def cells(line: str) -> list[str]:
    r"""Of a table's line, as GFM splits it: at every | without a backslash before it; two backslashes are one of them."""
    return [cell.strip() for cell in re.findall(r"(?:\\[^\w\s]|[^|])+", line.strip()[1:-1])]


def markdown_tables(data: bytes) -> list[list[list[str]]]:
    """Rows of cells, the headers first. Raises where something stands outside of code that could be markup."""
    tables, fence = [[]], ""
    for line in lines_of(data):
        if fence or line.startswith("```"):
            fence = "" if line == fence else fence or re.match("`+", line)[0]
            continue
        is_row = line.startswith("| ")
        plain = spans_removed(line)
        assert not re.search(r"[<>\[\]`\\@&!*_~]|://|www\.", plain), line
        assert is_row or "|" not in plain
        if not is_row and tables[-1]:
            tables.append([])
        elif is_row:
            tables[-1].append(cells(line))
    assert not fence
    return [table for table in tables if table]


def test_markdown_keeps_its_tables_whatever_a_token_holds(hostile):
    for answer in hostile:
        for table in markdown_tables(formats.render(answer, "md")):
            assert {len(row) for row in table} == {len(table[0])} and set("".join(table[1])) <= set("-:")


def test_markdown_of_a_reading_has_its_numbers():
    (answer,) = ask(Read(PROMPT, "drop 3"))
    reading, at = answer.last, answer.position % len(answer.last.tokens)
    layers, grid = markdown_tables(formats.render(answer, "md"))
    assert [row[0] for row in layers[2:]] == ["5", "4", "3", "2", "1", "0", "e"]
    run = [row for row in layers[2:] if row[6] != "not run"][::-1]
    for depth, row in enumerate(run):
        names = ("entropy_bits", "kl_final_nats", "kl_nats", "attn_norm", "mlp_norm")
        measured = [float(getattr(reading, name)[depth, at]) for name in names]
        assert row[1:6] == ["" if math.isnan(value) else f"{value:.4g}" for value in measured]
        top, p = reading.texts[int(reading.top_ids[depth, at, 0])], reading.top_p[depth, at, 0]
        assert row[7].startswith(f"`{visible(top)}` {p:.3f} ")
    assert [len(row) for row in grid] == [1 + len(reading.tokens)] * (2 + reading.n_depths)


# -------------------------------------------------------------------------------------------- to get it again


def parsed(words: list[str]):
    command, rest = cli.split(words)
    if command == "compare":
        return compare_command.arguments(rest)
    if command == "generate":
        return generate_command.arguments(rest)
    if command == "sweep":
        return parsers.sweep_arguments(rest)
    kind = parsers.stage_arguments if command in cli.STAGE_COMMANDS else parsers.cause_arguments
    return kind(command, rest) if command != "read" else parsers.command_parser("read").parse_args(rest)


def test_the_command_line_asks_for_the_same_through_a_shell():
    prompt = HOSTILE.replace("\ud800", "") + " - é"
    asked = (*every_kind(prompt), Read("-1 of", "drop 1", position=-2, top=3), SweepCorpus("a b.txt", ("drop",), tokens=9))
    for answer in ask(*asked[:-1], name="a 'b"):
        line = again.command(answer)
        if not line:
            assert isinstance(answer.request, FindToken | TakeSweep)
            continue
        echoed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
        args, request = parsed(echoed.stdout.decode().split("\0")[1:-1]), answer.request
        if isinstance(request, TakeComparison):
            assert (args.with_edit, args.with_prompt, args.with_model) == ("drop 3", None, None)
            request = request.a
        if isinstance(request, Generate):
            given = (tuple(args.edit), args.tokens, args.temperature, args.top_k, args.top_p, args.seed)
            assert Generate(args.prompt, *given) == request
        prompts = getattr(args, "prompts", None) or [getattr(args, "prompt", None)]
        texts = getattr(request, "texts", request)
        assert tuple(prompts) == getattr(texts, "prompts", (getattr(texts, "prompt", None) or None,))
        assert args.model == "a 'b"
        for name, flag in {"schedule": "edit", "position": "position", "kinds": "kind", "layer": "layer"}.items():
            if hasattr(request, name) and hasattr(args, flag) and not isinstance(request, ShowPattern):
                assert getattr(args, flag) == getattr(request, name)
    corpus = again.command(Answer(Load(), answer.info, asked[-1], answer.replies))
    assert shlex.split(corpus) == ["stagescope", "sweep", "--corpus", "a b.txt", "--kind", "drop", "--tokens", "9"]
    for prompt in ("-", "a\0b", "\ud800"):  # standard input there, or not to be written there
        assert again.command(ask(Read(prompt))[0]) == ""


def test_no_command_is_given_where_none_asks_for_the_same():
    for request in (ShowNeurons(top=3), TakeSweep((PROMPT,), schedules=("drop 1",))):
        assert again.command(ask(request)[0]) == ""
    (answer,) = ask(TakeComparison(Read(PROMPT), Read(PROMPT, "drop 3")))
    assert again.command(replace(answer, position=2)).endswith("--with-edit 'drop 3' --position 2 'The capital of France is'")


def test_the_line_of_python_is_python_that_says_the_same(hostile):
    for answer in hostile:
        line = again.python(answer)
        tree = ast.parse(line)
        assert printable(line) == line and line.startswith("import stagescope as ss; ss.load(")
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert answer.load.model in said
        assert (HOSTILE in said) == (repr(HOSTILE) in repr(answer.request))
        for call in (node.func for node in ast.walk(tree) if isinstance(node, ast.Call)):
            assert isinstance(call, ast.Attribute)
            assert call.attr in ("read", "ask") or (call.value.id == "ss" and hasattr(ss, call.attr))
    (answer,) = ask(Read(PROMPT, "drop 3"))
    assert again.python(answer).endswith(f".read('{PROMPT}', schedule='drop 3')")


# ------------------------------------------------------------------------------------------------- the file


def test_names_and_formats():
    plain, edited, sweep, other = ask(Read(PROMPT), Read(PROMPT, "drop 3"), TakeSweep((PROMPT,)), TakeLens(PROMPT))
    assert formats.default_name(plain, "json") == "smollm2-135m-reading.json"
    assert formats.default_name(edited, "html") == "smollm2-135m-drop-3.html"
    assert formats.default_name(sweep, "csv") == "smollm2-135m-sweep-drop-swap.csv"
    assert formats.default_name(other, "md") == "smollm2-135m-lens-curves.md"
    (odd,) = ask(Read(PROMPT, "order " + " ".join(map(str, range(40)))), name="../Qwen2.5/a..b\n", n_layers=40)
    assert re.fullmatch(r"Qwen2\.5-a-b-order-[0-9-]+[0-9]\.json", formats.default_name(odd, "json"))
    assert len(formats.default_name(odd, "json")) <= 110

    assert formats.format_of(Path("a/b.c/x.HTML")).name == "HTML"
    for name in ("notes", "a.json/x", "x.docx", ".json"):
        with pytest.raises(formats.ExportError, match=r"\.json, \.csv, \.html"):
            formats.format_of(Path(name))
    with pytest.raises(formats.ExportError, match="picture of the screen"):
        formats.render(plain, "svg")


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name}", name="pyarrow.parquet")

    monkeypatch.setattr(formats, "import_module", missing)
    with pytest.raises(formats.ExportError, match="Parquet needs the package pyarrow: pip install pyarrow"):
        formats.render(ask(Read(PROMPT))[0], "parquet")


def test_a_file_is_written_whole_and_private_and_never_over_another(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    formats.save(Path("~/a.json"), b"one")
    path = tmp_path / "a.json"
    assert path.read_bytes() == b"one" and stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(formats.ExportError, match=r"a\.json” exists: name another"):
        formats.save(path, b"two")
    assert path.read_bytes() == b"one"
    formats.save(path, b"two", overwrite=True)
    assert path.read_bytes() == b"two"

    monkeypatch.setattr(formats, "refuse", lambda *_: None)  # as if another came first after we had looked
    with pytest.raises(formats.ExportError, match="exists"):
        formats.save(path, b"three")
    assert path.read_bytes() == b"two" and os.listdir(tmp_path) == ["a.json"]


def test_links_stay_and_are_not_written_through_unasked(tmp_path):
    target, link, loose = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "loose.json"
    target.write_bytes(b"mine")
    link.symlink_to(target)
    loose.symlink_to(tmp_path / "nowhere.json")
    for path in (link, loose):
        with pytest.raises(formats.ExportError, match="exists"):
            formats.save(path, b"new")
    assert target.read_bytes() == b"mine" and not loose.exists()
    formats.save(link, b"new", overwrite=True)
    assert link.is_symlink() and target.read_bytes() == b"new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cannot_be_a_file_is_refused_and_told(tmp_path, overwrite):
    odd = tmp_path / "a\x1b[2J\u202e.json"
    formats.save(odd, b"x")
    (tmp_path / "pipe.json").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe.json")
    for path, told in {
        tmp_path: "is a folder: name a file in it",
        tmp_path / "none" / "a.json": "there is no folder .*none.* make it first",
        odd / "a.json": r"there is no folder .*a\\u\{1b\}\[2J\\u\{202e\}",
        tmp_path / "pipe.json": "is no regular file",
        Path("/dev/null"): "is no regular file",
        tmp_path / ("é" * 300 + ".json"): "File name too long.*give it a shorter name",
        tmp_path / "a\0b.json": r"a\\u\{0\}b\.json.*null",
        Path(""): "is a folder",
    }.items():
        with pytest.raises(formats.ExportError, match=told) as raised:
            formats.save(path, b"x", overwrite)
        assert printable(str(raised.value)) == str(raised.value)
    assert sorted(os.listdir(tmp_path)) == sorted([odd.name, "pipe.json"])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "number, advice",
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EROFS, "a folder that you can write")],
)
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, overwrite, number, advice):
    path = tmp_path / "a.json"
    if overwrite:
        path.write_bytes(b"mine")

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(formats.ExportError, match=rf"a\.json” \({os.strerror(number)}\): .*{advice}"):
        formats.save(path, b"new", overwrite)
    assert os.listdir(tmp_path) == (["a.json"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"mine"


def test_the_help_of_session_export_names_every_format():
    """session_parser.py cannot import the table: --help would take a second."""
    from stagescope.commands.session_parser import KINDS

    assert [f".{format.extension}" for format in formats.FORMATS] == re.findall(r"\.\w+", KINDS)[: len(formats.FORMATS)]
