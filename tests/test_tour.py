"""The tour's table: every number computed on the default model, texts that fit their panel, commands that parse, a page not stale."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from stagescope import actions, cli, tour
from stagescope.commands import compare, parsers
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import Load, Sweep, TakeSweep
from stagescope.engine.schedule import parse, resolve
from stagescope.reports import tour as report
from stagescope.screens.explore_keys import VIEWS

STEPS = tour.STEPS
NUMBERS = [(n, name) for n, step in enumerate(STEPS) for name in step.numbers]
PARTS = ("do", "look", "paper", "here")


@pytest.fixture(scope="module")
def answer(default_model_dir):
    """Gives the last answer to a request, of a sweep its sweeps by kind; each is asked once."""
    engine, known = LocalEngine(), {}
    for _ in engine.answer(Load(device="cpu", dtype="float32")):
        pass

    def of(request):
        if request not in known:
            replies = list(engine.answer(request))
            sweeps = {reply.kind: reply for reply in replies if isinstance(reply, Sweep)}
            known[request] = sweeps if isinstance(request, TakeSweep) else replies[-1]
        return known[request]

    return of


def last_place(written: str) -> float:
    """What one step of the last digit is worth; zeros at the end of 1,000 and more are no digits."""
    digits = written.replace(",", "")
    if "." in digits:
        return 10.0 ** -len(digits.partition(".")[2])
    return 10.0 ** (len(digits) - len(digits.rstrip("0"))) if len(digits) > 3 else 1.0


@pytest.mark.parametrize(("step", "name"), NUMBERS, ids=lambda value: str(value))
def test_every_number_is_what_the_model_says(answer, step, name):
    """To what is written: half of the last place, and a tenth for another machine's rounding."""
    number = STEPS[step].numbers[name]
    found = number.of(answer(number.asked))
    if isinstance(found, str):
        assert found == number.written
    else:
        assert abs(float(found) - float(number.written.replace(",", ""))) <= 0.6 * last_place(number.written), float(found)


def test_last_places():
    assert [last_place(text) for text in (".04", "13.2", "8", "44", "20,900", "1,536", "0")] == [0.01, 0.1, 1, 1, 100, 1, 1]


def test_every_number_is_named_in_a_text_and_every_name_has_one():
    for step in STEPS:
        named = {name for part in PARTS for name in re.findall(r"\{(\w+)\}", getattr(step, part))}
        assert named == step.numbers.keys(), step.title
    assert 8 <= len(STEPS) <= 12


def test_no_other_measured_number_stands_in_the_texts():
    """What is written as a fraction or a count of nats and bits is one of the numbers."""
    for step in STEPS:
        for part in PARTS:
            told = re.sub(r"Figures? \d+(( and|,) \d+)?|arXiv [\d.]+|head \d+\.\d+|then \d+\.\d+|and \d+\.\d+ \(", "", getattr(step, part))
            assert not re.search(r"\d*\.\d|\d (nats|bits)", told), told


def test_each_step_can_be_carried_out():
    for step in STEPS:
        assert str(parse(step.schedule)) == step.schedule
        resolve(parse(step.schedule), tour.LAYERS, n_positions=11, n_heads=9, d_mlp=1536)
        assert step.view in VIEWS and step.screen in ("explore", *actions.BESIDE)
        assert step.row is None or 0 <= step.row < tour.LAYERS


def test_the_schedules_that_the_texts_tell_to_type_can_be_typed():
    typed = [text for step in STEPS for text in re.findall(r"“:” (.+?) Enter", step.told("do"))]
    assert len(typed) >= 8
    for text in typed:
        assert str(parse(text)) == text
        resolve(parse(text), tour.LAYERS, n_positions=11)


def test_the_keys_that_lead_to_a_screen_are_those_of_the_table():
    keys = {action.name: action.keys for action in actions.of("explore")}
    for step in STEPS:
        if step.screen != "explore":
            opens = {"lens": "lens_curves"}.get(step.screen, step.screen)
            assert step.told("do").split()[0] in keys[opens], step.title


def test_its_keys_are_free_on_every_screen():
    keys = {key for action in actions.of("tour") for key in action.keys}
    for place in ("explore", "app", *actions.BESIDE):
        assert not keys & {key for action in actions.of(place) for key in action.keys}, place


def test_each_half_of_a_step_fits_four_lines_of_80():
    for step in STEPS:
        for half in (("do", "look"), ("paper", "here")):
            lines = report.panel_lines(step, half, 80)
            assert len(lines) <= 4 and all(cell_len(line) <= 80 for line in lines), (step.title, lines)


def test_every_command_parses():
    for step in STEPS:
        program, *words = shlex.split(step.command)
        command, rest = cli.split(words)
        assert program == "stagescope"
        match command:
            case "sweep":
                parsers.sweep_arguments(rest)
            case "compare":
                compare.arguments(rest)
            case _ if command in parsers.STAGE_COMMANDS:
                parsers.stage_arguments(command, rest)
            case _:
                parsers.command_parser(command).parse_args(rest)


def test_docs_tour_is_what_the_table_says():
    page = Path(__file__).parents[1] / "docs" / "tour.md"
    assert page.read_text(encoding="utf-8") == report.tour_markdown(), "stale: make tour"


# ----------------------------------------------------------------------------------------- the command, without a terminal


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["tour", *words])
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


@pytest.mark.usefixtures("home")
def test_without_a_terminal_the_steps_are_printed(capsys):
    code, out, err = run(capsys)
    assert code == 0 and not err
    for number, step in enumerate(STEPS, 1):
        assert f"{number}  {step.title}" in out and step.command in out and "{" not in out


@pytest.mark.usefixtures("home")
def test_as_json(capsys):
    code, out, err = run(capsys, "--json")
    made = json.loads(out)
    assert code == 0 and not err and made["schema"] == "tour/1" and made["model"] == tour.MODEL
    assert [step["title"] for step in made["steps"]] == [step.title for step in STEPS]
    first = made["steps"][1]
    assert (first["schedule"], first["position"], first["screen"]) == ("drop 17", -1, "explore")
    assert first["numbers"][0] == {"name": "kl", "written": ".04", "how": STEPS[1].numbers["kl"].how} and "{" not in first["look"]


@pytest.mark.usefixtures("home")
def test_another_model_is_told_in_a_line(capsys):
    code, out, err = run(capsys, "--model", "gpt2")
    assert code == 0 and out and err == "stagescope: the numbers of the tour are of smollm2-135m, not of gpt2\n"


@pytest.mark.usefixtures("home")
def test_a_terminal_that_cannot_show_the_app_is_told_how_to_read_it(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    code, out, err = run(capsys)
    assert code == 2 and not out and "TERM is dumb" in err and "stagescope tour | cat" in err


@pytest.mark.usefixtures("home")
def test_a_wrong_setting_is_told_before_the_app_opens(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("STAGESCOPE_RECORD", "perhaps")
    code, out, err = run(capsys)
    assert code == 2 and not out and err == "stagescope: STAGESCOPE_RECORD is perhaps: give true or false (in the environment 1 or 0).\n"


@pytest.mark.usefixtures("home")
def test_it_takes_no_prompt(capsys):
    code, out, err = run(capsys, "a prompt")
    assert code == 2 and not out and "unrecognized arguments: a prompt" in err


def test_the_steps_name_keys_of_ones_own(monkeypatch):
    monkeypatch.setattr(actions, "ACTIONS", actions.ACTIONS)
    actions.remap({("explore", "drop"): ("Z",), ("explore", "edit"): ("ctrl+e",), ("explore", "undo"): (), ("sweep", "back"): ("q",)})
    assert tour.STEPS[1].told("do") == "“ctrl+e” drop 17 Enter, or Z with the cursor on 17. ctrl+p undo takes it back."
    assert tour.STEPS[3].told("do").endswith("q goes back.")
