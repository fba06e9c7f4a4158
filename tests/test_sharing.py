"""Export and copy in the app: what a screen shows becomes a file, nothing is overwritten unasked, and it says where it went."""

import asyncio
import csv
import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from beside import PROMPT, beside
from test_explore import drawn, running, until

from stagescope import paths
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Read
from stagescope.exports import formats
from stagescope.exports.formats import FORMATS
from stagescope.screens import sharing
from stagescope.screens.ask import Ask, Choose, Confirm
from stagescope.screens.attention import AttentionScreen
from stagescope.screens.attribution import AttributionScreen
from stagescope.screens.heads import HeadsScreen
from stagescope.screens.lens import LensScreen
from stagescope.screens.neurons import NeuronsScreen
from stagescope.screens.probe import ProbeScreen
from stagescope.screens.similarity import SimilarityScreen
from stagescope.screens.stages import StagesScreen
from stagescope.screens.sweep import SweepScreen
from stagescope.sessions import files

SCREENS = {
    LensScreen: "lens/1", AttentionScreen: "evidence/1", NeuronsScreen: "neurons/1", StagesScreen: "stages/1",
    AttributionScreen: "attribution/1", HeadsScreen: "heads/1", ProbeScreen: "probe/1", SimilarityScreen: "similarity/1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(home, tmp_path, monkeypatch) -> Path:
    """Files without a folder are written here."""
    monkeypatch.setattr(sharing.Sharing, "extension", "html")
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def export(pilot, name: str) -> None:
    """Press `e`, type a name in place of the proposed one, enter."""
    await pilot.press("e")
    await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
    pilot.app.screen.query_one("#answer").text = name
    await pilot.press("enter")


async def written(pilot, path: Path) -> str:
    await until(pilot, lambda: f"written to {path}"[:60] in drawn(pilot.app).replace("\n", ""))
    return path.read_text("utf-8-sig")


async def test_a_reading_becomes_a_file_of_the_format_its_name_says(here):
    async with running(schedule="drop 2", size=(160, 40)) as (app, pilot, _):
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Ask) and ".safetensors" in drawn(app))
        assert app.screen.proposed.endswith("-drop-2.html")
        await pilot.press("escape")
        await export(pilot, "a.json")
        assert json.loads(await written(pilot, here / "a.json"))["schedule"] == "drop 2"
        await export(pilot, "a.svg")
        svg = await written(pilot, here / "a.svg")
        assert "<script" not in svg and "drop" in svg and not re.search(r"url\((?!#)|href=", svg)
        assert oct((here / "a.svg").stat().st_mode)[-3:] == "600"
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        assert app.screen.proposed.endswith(".json")  # as the last answer; a picture is no format of an answer


async def test_what_exists_is_overwritten_only_when_asked(here):
    (here / "a.json").write_text("mine")
    async with running(size=(160, 40)) as (app, pilot, _):
        await export(pilot, "a.json")
        await until(pilot, lambda: isinstance(app.screen, Confirm) and "exists. Overwrite it?" in drawn(app))
        await pilot.press("enter", "space", "o")  # y alone: the rest may have been meant for what comes after
        await pilot.pause()
        assert isinstance(app.screen, Confirm)
        await pilot.press("n")
        await until(pilot, lambda: app.screen is app.explore)
        assert (here / "a.json").read_text() == "mine"
        await export(pilot, "a.json")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        assert json.loads(await written(pilot, here / "a.json"))["schema"] == "reading/1"


@pytest.mark.parametrize(
    ("name", "told"),
    [("folder.json", "is a folder"), ("none/a.json", "there is no folder"), ("a.doc", "does not say which format"),
     ("a.cast", "nothing is recorded"), ("n" * 300 + ".json", "give it a shorter name"), ("~nobody/a.json", "there is no folder"), ("\x1b[2J.json", "written to")],
)  # fmt: skip
async def test_what_cannot_be_written_is_told(here, name, told):
    (here / "folder.json").mkdir()
    async with running(size=(160, 40)) as (app, pilot, _):
        await export(pilot, name)
        await until(pilot, lambda: told in drawn(app))
        assert "\x1b" not in drawn(app) and app.screen is app.explore


@pytest.mark.parametrize("kind", SCREENS, ids=lambda kind: kind.__name__)
async def test_every_screen_exports_and_copies_what_it_shows(here, kind):
    async with beside(kind, settled=None, size=(160, 50)) as (screen, pilot, _):
        await until(pilot, lambda: screen.answer() is not None and screen.running is None)
        await export(pilot, str(here / "a.json"))
        assert json.loads(await written(pilot, here / "a.json"))["schema"] == SCREENS[kind]
        await export(pilot, str(here / "a.csv"))
        rows = list(csv.DictReader((await written(pilot, here / "a.csv")).splitlines()))
        assert rows
        table, row, cell = (screen.copied(what)() for what in ("table", "row", "cell"))
        assert len(table.splitlines()) == len(rows) + 1
        assert cell and cell in re.split("[\t\n]", row) and set(row.splitlines()) <= set(table.splitlines())


async def test_what_is_being_written_is_not_lost_to_the_next_file_or_by_leaving_the_screen(here, monkeypatch):
    """Importing what writes Parquet takes a second: meanwhile people go on."""
    may_go_on, render = threading.Event(), formats.render

    def slow(answer, extension):
        if extension == "parquet":
            may_go_on.wait(20)
        return render(answer, extension)

    monkeypatch.setattr(formats, "render", slow)
    async with running(size=(160, 40)) as (app, pilot, _):
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, LensScreen) and app.screen.answer() is not None)
        await export(pilot, "a.parquet")
        await export(pilot, "a.json")
        await written(pilot, here / "a.json")
        assert not (here / "a.parquet").exists()
        await pilot.press("q")
        await until(pilot, lambda: app.screen is app.explore)
        may_go_on.set()
        await until(pilot, lambda: f"written to {here / 'a.parquet'}" in drawn(app))
        assert (here / "a.parquet").read_bytes().startswith(b"PAR1")


async def test_an_error_of_our_own_costs_the_file_and_not_the_session(here, monkeypatch):
    def broken(answer, extension):
        raise KeyError("\x1b[2Jno such")

    monkeypatch.setattr(formats, "render", broken)
    async with running(size=(160, 40)) as (app, pilot, _):
        await export(pilot, "a.json")
        await until(pilot, lambda: "not written, by an error of stagescope's own: KeyError" in drawn(app))
        assert not (here / "a.json").exists() and app.is_running


FILM = """
import json, pathlib, sys, time
session, file, width, height = sys.argv[1:]
print(json.dumps({"stage": "event 1 of 2", "done": 0.5, "seconds_left": 31.0}), flush=True)
while not pathlib.Path(session).with_name("go").exists():
    time.sleep(0.01)
if pathlib.Path(session).with_name("go").read_text() == "fail":
    sys.exit("the engine \x1b[2J ended")
pathlib.Path(file).write_text(f"{width}x{height}")
"""


@pytest.fixture
def film(here, monkeypatch, home) -> Path:
    """A program in place of the one that films; it ends when this file is there."""
    (here / "film.py").write_text(FILM)
    monkeypatch.setattr(sharing, "FILM", (sys.executable, str(here / "film.py")))
    return home / "data" / "sessions" / "go"


async def test_a_film_tells_how_far_it_is_and_is_written_whatever_is_looked_at(here, film):
    async with running(size=(160, 40), record=True) as (app, pilot, _):
        await export(pilot, "a.cast")
        await until(pilot, lambda: "film: event 1 of 2 50 % · 0:31 left · esc cancels" in drawn(app))
        await export(pilot, "b.cast")
        await until(pilot, lambda: "a film is being made already" in drawn(app))
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, LensScreen))
        film.write_text("")
        await until(pilot, lambda: f"written to {here / 'a.cast'}" in drawn(app))
        assert (here / "a.cast").read_text() == "160x40" and sorted(here.glob("*.cast")) == [here / "a.cast"]
        events = files.read(app.explore.recorder.file.path).events
        assert [event["path"] for event in events if event["event"] == "export"] == [str(here / "a.cast")]


async def test_escape_ends_a_film_and_another_can_be_made(here, film):
    async with running(size=(160, 40), record=True) as (app, pilot, _):
        await export(pilot, "a.cast")
        await until(pilot, lambda: "film: event 1 of 2" in drawn(app))
        await pilot.press("escape")
        await until(pilot, lambda: "no film is made" in drawn(app) and not app.explore.is_filming())
        assert not list(here.glob(".*cast"))
        film.write_text("fail")
        await export(pilot, "a.cast")
        await until(pilot, lambda: "the session could not be filmed: the engine \\u{1b}[2J ended" in drawn(app))
        assert not list(here.glob("*.cast"))


async def test_the_palette_has_every_format(here):
    async with running(size=(160, 40)) as (app, pilot, _):
        offered = {command.title: command for command in app.get_system_commands(app.screen)}
        assert {f"export {format.name}" for format in FORMATS} <= set(offered)
        offered["export Markdown"].callback()
        await until(pilot, lambda: isinstance(app.screen, Ask))
        assert app.screen.proposed.endswith(".md")


async def test_the_sweep_exports_all_prompts_and_kinds_of_its_view(here):
    engine = FakeEngine()

    def of_two(looked):
        return SweepScreen(looked.info, looked.load, (PROMPT, "a b c"), PROMPT, None, -1)

    async with beside(of_two, engine, settled=None, size=(160, 50)) as (screen, pilot, _):
        await until(pilot, lambda: len(screen.sweeps) == 4 and screen.running is None)
        await export(pilot, str(here / "a.csv"))
        rows = list(csv.DictReader((await written(pilot, here / "a.csv")).splitlines()))
        assert {(row["prompt"], row["kind"]) for row in rows} == {(p, k) for p in (PROMPT, "a b c") for k in ("drop", "swap")}
        assert screen.copied("row")().split("\t")[1].startswith("drop ")


async def test_copy_says_where_it_went(monkeypatch):
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    async with running(schedule="drop 2", size=(160, 40)) as (app, pilot, _):
        file = paths.describe()["data"] / "copied.txt"
        for key, what in {"c": "cell", "r": "row", "t": "table", "y": "command"}.items():
            await pilot.press("y")
            await until(pilot, lambda: isinstance(app.screen, Choose))
            await pilot.press(key)
            told = f"{what}: sent to the terminal's clipboard (tmux passes it on with set-clipboard on), and written to"
            await until(pilot, lambda told=told: told in drawn(app))
            assert app.clipboard == app.explore.copied(what)() == file.read_text().rstrip("\n")
        assert app.explore.copied("cell")() == app.explore.reading.texts[int(app.explore.reading.top_ids[-1, -1, 0])]
        await pilot.press("y", "escape")
        await until(pilot, lambda: app.screen is app.explore)


async def test_what_terminals_would_cut_goes_to_the_file_alone(monkeypatch):
    monkeypatch.setattr(sharing, "MOST_COPIED", 40)
    async with running(size=(160, 40)) as (app, pilot, _):
        before = app.clipboard
        await pilot.press("y", "t")
        await until(pilot, lambda: "are more than terminals take: written to" in drawn(app))
        assert app.clipboard == before
        assert (paths.describe()["data"] / "copied.txt").read_text().startswith("position\t")


async def test_nothing_is_there_yet():
    engine = FakeEngine()
    engine.gates[Read] = asyncio.Event()
    async with running(engine, settle=False, size=(160, 40)) as (app, pilot, _):
        await pilot.press("e")
        await until(pilot, lambda: "not there to its end yet: e when it is" in drawn(app))
        await pilot.press("y", "r")
        await until(pilot, lambda: "there is no row here to be copied" in drawn(app))


async def test_a_reading_that_is_not_read_to_its_end_is_not_exported(here):
    """The chosen position comes first: its means would be of one token."""
    async with running(prompt="The Eiffel Tower is in the city", size=(160, 40)) as (app, pilot, _):
        whole = app.explore.reading
        part = replace(whole, positions=whole.positions[-1:])
        app.explore.reading = part
        await pilot.press("e")
        await until(pilot, lambda: "not there to its end yet" in drawn(app))
        app.explore.reading = whole
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Ask))


async def test_a_picture_does_not_tell_where_the_last_file_went(here):
    async with running(size=(160, 40)) as (app, pilot, _):
        await export(pilot, "a.json")
        await written(pilot, here / "a.json")
        await export(pilot, "a.svg")
        assert "written to" not in await written(pilot, here / "a.svg")


async def test_every_screen_copies_the_command_that_prints_it(here):
    async with running(schedule="drop 2", size=(160, 40)) as (app, pilot, _):
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, LensScreen) and app.screen.answer() is not None)
        await pilot.press("y", "y")
        await until(pilot, lambda: app.screen.PLACE == "lens" and app.clipboard.startswith("stagescope lens"))
        assert re.fullmatch(r"stagescope lens --edit 'drop 2' --position 5 --follow .+ 'The Eiffel Tower is in'", app.clipboard)


async def test_a_file_asks_for_the_position_that_was_looked_at(here):
    async with running(schedule="drop 2", size=(160, 40)) as (app, pilot, _):
        await pilot.press("left", "left")
        await export(pilot, "a.py")
        assert "schedule='drop 2', position=3)" in await written(pilot, here / "a.py")
        await pilot.press("y", "y")
        await until(pilot, lambda: app.clipboard.startswith("stagescope"))
        assert "--position 3" in app.clipboard
