"""Exports read back by programs that are not ours: a browser, pandas, pyarrow, safetensors, Jupyter, Python itself.

Of a tiny model, whose answers can be asked for again.
"""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from nbclient import NotebookClient
from pyarrow import parquet
from safetensors import safe_open
from test_exports import HOSTILE as UNPRINTABLE
from test_exports import Page, lines_of

import stagescope as ss
from stagescope import __version__
from stagescope.answers import Answer, as_json, as_numbers, title
from stagescope.engine import wire
from stagescope.exports import again, formats

PROMPT = "the quick brown fox"
HOSTILE = UNPRINTABLE.replace("\ud800", "")  # half a character no tokenizer takes
COMMANDS = {
    **{ss.Read: "read", ss.TakeSweep: "sweep", ss.TakeLens: "lens", ss.TakeEvidence: "attention", ss.TakeCensus: "neurons"},
    **{ss.ShowNeurons: "neurons", ss.TakeSimilarity: "similarity", ss.ShowPattern: "heads", ss.TakeAttribution: "attribution"},
    **{ss.TakeComparison: "compare", ss.Generate: "generate"},
}
FORMATS_OF_ANSWERS = [format.extension for format in formats.FORMATS if format.module]


@pytest.fixture(scope="module")
def model(llama_dir):
    return ss.load(str(llama_dir), device="cpu")


@pytest.fixture(scope="module")
def answers(model) -> list[Answer]:
    texts = ss.Texts((PROMPT,))
    return [
        model.ask(request)
        for request in (
            *(ss.Read(PROMPT), ss.Read(PROMPT, "drop 2"), ss.Read(HOSTILE, "swap 0 1", lens="v1", top=3)),
            *(ss.TakeSweep((PROMPT, HOSTILE)), ss.TakeSweep((PROMPT,), ("trace",)), ss.TakeLens(PROMPT, tokens=(5, 7))),
            *(ss.TakeEvidence(texts), ss.TakeCensus(), ss.ShowNeurons(prompt=PROMPT), ss.TakeSimilarity(texts)),
            *(ss.ShowPattern(PROMPT, 1, 2), ss.TakeAttribution(PROMPT, "drop 1")),
            *(ss.TakeComparison(ss.Read(PROMPT), ss.Read(PROMPT, "attn-off 1 @2")), ss.Generate(PROMPT, ("drop 2",), 6)),
        )
    ]


def test_csv_in_pandas(answers):
    for answer in answers:
        table, numbers = pd.read_csv(io.BytesIO(formats.render(answer, "csv"))), as_numbers(answer)
        assert list(table.columns) == list(numbers.columns) and len(table) == len(numbers.rows)
        for name, values in zip(numbers.columns, zip(*numbers.rows, strict=True), strict=True):
            floats = [value for value in values if isinstance(value, float)]
            if floats and all(isinstance(value, float | None) for value in values):
                assert table[name].dropna().tolist() == floats


def test_parquet_in_pyarrow_and_pandas(answers):
    for answer in answers:
        data, numbers = formats.render(answer, "parquet"), as_numbers(answer)
        table = parquet.read_table(io.BytesIO(data))
        assert table.column_names == list(numbers.columns)
        assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == numbers.rows
        about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        assert about["title"] == title(answer) and json.loads(about["model"])["n_layers"] == answer.info.n_layers
        assert about["stagescope"] == __version__ and about["command"] == again.command(answer)
        assert about["command"].startswith(f"stagescope {COMMANDS[type(answer.request)]} ") or isinstance(answer.request, ss.TakeLens)
        lines_of("\n".join(about.values()).encode())  # nothing in it acts
        assert len(pd.read_parquet(io.BytesIO(data))) == len(numbers.rows)


def test_a_parquet_column_has_the_type_of_what_it_holds(answers):
    schema = parquet.read_schema(io.BytesIO(formats.render(answers[1], "parquet")))
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert kinds["position"] == kinds["top1_id"] == "int64"
    assert kinds["entropy_bits"] == kinds["effect_kl_nats"] == "double"
    assert kinds["token"] == kinds["layers"] == "string" and kinds["top1_same"] == "bool"


def test_safetensors_hold_every_array_and_the_manifest_says_which(answers, tmp_path):
    for answer in answers:
        file = tmp_path / "answer.safetensors"
        file.write_bytes(formats.render(answer, "safetensors"))
        with safe_open(file, "numpy") as opened:
            manifest = json.loads(opened.metadata()["manifest"])
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        assert {name: [str(of.dtype), list(of.shape)] for name, of in found.items()} == {
            name: [of["dtype"], of["shape"]] for name, of in manifest["tensors"].items()
        }
        for reply, told in zip(answer.replies, manifest["replies"], strict=True):
            assert_told(told, reply, found)
        assert wire.unflatten(manifest["request"], []) == answer.request
        assert wire.unflatten(manifest["load"], []) == answer.load and manifest["other"] is None
        assert manifest["title"] == title(answer) and manifest["position"] == answer.position


def assert_told(told, value, tensors) -> None:
    """What stands in a manifest is the value, its arrays to the last bit."""
    match told:
        case {"$tensor": name}:
            np.testing.assert_array_equal(tensors[name], value)
        case {"$type": kind}:
            assert type(value).__name__ == kind
            for name in told.keys() - {"$type"}:
                assert_told(told[name], getattr(value, name), tensors)
        case dict():
            assert told == {str(key): of for key, of in value.items()}
        case list():
            for one, other in zip(told, value, strict=True):
                assert_told(one, other, tensors)
        case None:
            assert value is None or np.isnan(value)
        case _:
            assert told == value


def test_names_of_tensors_are_those_of_the_fields(answers):
    tensors = safetensors.numpy.load(formats.render(answers[1], "safetensors"))
    np.testing.assert_array_equal(tensors["Reading.entropy_bits"], answers[1].last.entropy_bits)
    np.testing.assert_array_equal(tensors["Reading.baseline.top_p"], answers[1].last.baseline.top_p)


# ------------------------------------------------------------------------------------------------ a browser


def test_html_in_a_browser(answers, tmp_path):
    """The page as a browser has it is what was written: the same elements and cells, and nothing ran."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None and "CI" not in os.environ:
        pytest.skip("no chromium on this machine; .ci/run installs it")
    for n, answer in enumerate((answers[1], answers[2], answers[3])):
        data = formats.render(answer, "html")
        (page := tmp_path / f"{n}.html").write_bytes(data)
        quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
        command = [browser, "--headless", *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, check=True, timeout=120)
        seen, written = Page(done.stdout), Page(data)
        assert [tag for tag, _ in seen.elements if tag != "tbody"] == [tag for tag, _ in written.elements if tag != "tbody"]
        assert cells_of(seen) == cells_of(written)


def cells_of(page: Page) -> list[list[list[str]]]:
    return [[[cell[2] for cell in row] for row in table] for table in page.tables]


# ------------------------------------------------------------------------------------- what can be run again


def test_the_script_runs_and_prints_the_same(answers, tmp_path):
    """Every kind's; one process for all of them, as each would import torch."""
    scripts = []
    for n, answer in enumerate(answers):
        data = formats.render(answer, "py")
        lines_of(data)
        (tmp_path / f"script_{n}.py").write_bytes(data)
        scripts.append(f"script_{n}.py")
    run_all = "import runpy, sys\nfor name in sys.argv[1:]:\n    runpy.run_path(name)\n    print('---')"
    done = subprocess.run(
        [sys.executable, "-c", run_all, *scripts], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    printed = done.stdout.split("\n---\n")
    assert [text.strip() for text in printed[:-1]] == [str(answer).strip() for answer in answers]


def test_the_script_is_a_title_an_import_and_three_lines(answers):
    for answer in answers:
        tree = ast.parse(formats.render(answer, "py"))
        assert title(answer).split("\\")[0] in ast.get_docstring(tree)
        assert [type(node) for node in tree.body[1:]] == [ast.Import, ast.Assign, ast.Assign, ast.Expr]


def test_the_notebook_is_valid_shows_what_was_seen_and_runs(answers, tmp_path):
    for answer in answers:
        data = formats.render(answer, "ipynb")
        lines_of(data)
        notebook = nbformat.reads(data.decode(), as_version=4)
        nbformat.validate(notebook)
        shown = notebook.cells[2].outputs[0].data
        assert shown["text/plain"] == str(answer) and Page(shown["text/html"].encode()).elements
        assert {tag for tag, _ in Page(shown["text/html"].encode()).elements} <= {"pre", "span"}
    notebook = nbformat.reads(formats.render(answers[1], "ipynb").decode(), as_version=4)
    ran = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    again, table = (cell.outputs[-1].data for cell in ran.cells[2:])
    assert again["text/plain"].startswith("<Reading") and str(answers[1].last.effect_kl_nats.shape[0])
    assert Page(again["text/html"].encode()).elements == Page(shown_html(answers[1])).elements
    assert "entropy_bits" in table["text/plain"]


def shown_html(answer: Answer) -> bytes:
    return answer._repr_html_().encode()


def test_what_one_model_cannot_be_asked_again_is_no_script(answers):
    alone = Answer(answers[0].load, answers[0].info, None, answers[0].replies)
    for extension in ("py", "ipynb"):
        with pytest.raises(formats.ExportError, match=r"no script asks.*export \.json"):
            formats.render(alone, extension)
    for extension in set(FORMATS_OF_ANSWERS) - {"py", "ipynb"}:
        assert formats.render(alone, extension)


def test_every_kind_has_every_format(answers):
    for answer in answers:
        for extension in FORMATS_OF_ANSWERS:
            assert formats.render(answer, extension)
        assert json.loads(formats.render(answer, "json")) == as_json(answer)


def test_of_two_models_a_manifest_says_what_loaded_each(answers):
    other = replace(answers[0].load, dtype="bfloat16")
    *_, compared, _ = answers
    with_both = formats.render(replace(compared, other=other, position=3), "safetensors")
    manifest = json.loads(json.loads(with_both[8 : 8 + int.from_bytes(with_both[:8], "little")])["__metadata__"]["manifest"])
    assert wire.unflatten(manifest["other"], []) == other and wire.unflatten(manifest["load"], []) == compared.load
    assert manifest["position"] == 3
