"""The app records what is looked at, and a session opened again looks at it again. On the fake engine."""

import asyncio
import errno
import os
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from test_explore import PROMPT, drawn, running, settled, until
from test_write_screen import halting

from stagescope import __version__
from stagescope.app import StageApp
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import DEFAULT_PROMPT, Failure, Load, MapStages, Progress, Read, Texts
from stagescope.screens import explore_recording as recording
from stagescope.screens.ask import Ask
from stagescope.screens.lens import LensScreen
from stagescope.screens.sweep import SweepScreen
from stagescope.screens.write import WriteScreen
from stagescope.sessions import files, replay, short
from stagescope.sessions.events import fold

HOSTILE = "\x1b]52;c;AA\x07 [/b] [@click=app.quit]x[/] \u202e <script>"


@pytest.fixture(autouse=True)
def quick(home, monkeypatch):
    monkeypatch.setattr(recording, "REST", 0.01)  # seconds the cursor rests


def sessions() -> list[files.Session]:
    return [files.read(path) for path in files.session_files()]


def events(name: str = "") -> list[dict]:
    (session,) = sessions()
    return [event for event in session.events if name in ("", event["event"])]


def at_rest(app) -> bool:
    return "● rec" in drawn(app) and app.explore.state() == app.explore.recorder.recorded


async def answer(pilot, text: str) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
    pilot.app.screen.field.text = text
    await pilot.press("enter")


@asynccontextmanager
async def again(**given):
    """The last session, opened again."""
    (session, *_) = sessions()
    engine, state = FakeEngine(), replace(fold(session.events), **given)
    app = StageApp(lambda: engine, state, record=True, resumed=session)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.screen is app.explore)
        await settled(pilot)
        yield app, pilot, engine


# ------------------------------------------------------------------------------------------------ what is written


async def test_a_session_begins_with_what_its_numbers_depend_on():
    async with running(record=True) as (app, pilot, engine):
        await pilot.press("d")
        await settled(pilot)
        header, model = events("session")[0], events("model")[0]
        assert header["schema"] == "session/1" and header["version"] == __version__
        assert header["libraries"]["numpy"] and header["load"]["model"] == Load().model
        for event in (header, model):
            assert event["model"]["fingerprint"] == engine.info.fingerprint
            assert {"device", "dtype", "n_layers"} <= set(event["model"])


async def test_a_reading_is_written_with_what_the_stack_shows_of_it():
    async with running(record=True, position=2) as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        baseline, edited = events("reading")
        reading = app.explore.reading
        assert (baseline["request"]["schedule"], edited["request"]["schedule"]) == ("", "drop 11")
        assert edited["numbers"] == short.of_reading(reading, 2) and edited["position"] == 2
        assert edited["numbers"]["effect.kl_nats"] == pytest.approx(reading.effect_kl_nats, rel=1e-6)
        top = edited["numbers"]["depths.top_ids"][-1]
        assert top == reading.top_ids[-1, 2, :2].tolist()


async def test_every_kind_of_thing_that_is_done_is_written():
    async with running(record=True, size=(120, 40)) as (app, pilot, _):
        for key in ("d", "u", "v", "o", "c", "L", "p", "left", "up"):
            await pilot.press(key)
            await settled(pilot)
        await pilot.press("t")
        await answer(pilot, "Paris")
        await settled(pilot)
        await pilot.press("slash")
        app.explore.prompt_field.text = "another prompt"
        await pilot.press("enter")
        await settled(pilot)
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, SweepScreen) and len(app.screen.sweeps) == 4)
        await until(pilot, lambda: app.screen.running is None)
        await pilot.press("q")
        await until(pilot, lambda: app.screen is app.explore and at_rest(app))
        written = {event["event"] for event in events()}
        assert {"prompt", "schedule", "view", "lens", "deck", "cursor", "tracked", "screen", "reading", "answer"} <= written
        assert [(event["how"], event["schedule"]) for event in events("schedule")] == [("change", "drop 11"), ("undo", "")]
        assert events("answer")[-1]["kind"] == "Sweep"
        assert fold(sessions()[0].events) == app.explore.state()


async def test_cursor_moves_are_written_once_it_rests(monkeypatch):
    async with running(record=True) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        before = len(events("cursor"))
        monkeypatch.setattr(recording, "REST", 1e6)
        for _ in range(6):
            await pilot.press("up", "down", "left")
        assert len(events("cursor")) == before and "○ rec" in drawn(app)
        monkeypatch.setattr(recording, "REST", 0.01)
        await pilot.press("right")
        await until(pilot, lambda: at_rest(app))
        (last,) = events("cursor")[before:]
        assert last["position"] == app.explore.state().position
        assert last["numbers"] == short.of_position(app.explore.reading, app.explore.at)


async def test_where_the_cursor_is_goes_before_what_is_done_there(monkeypatch):
    async with running(record=True) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        monkeypatch.setattr(recording, "REST", 1e6)
        await pilot.press("up", "left", "n")
        await answer(pilot, "here")
        await until(pilot, lambda: events("note"))
        await pilot.press("left", "d")
        await settled(pilot)
        await pilot.press("left")
        app.leave()
    (*_, cursor), at = events("cursor"), app.explore.state().position
    names = [event["event"] for event in events()]
    assert names[names.index("note") - 1] == "cursor" and names[-2:] == ["cursor", "end"]
    assert cursor["position"] == at
    edited = names.index("schedule", names.index("note"))
    assert "cursor" in names[names.index("note") : edited + 2]  # before the reading that the edit asked for


async def test_a_reading_that_comes_by_again_is_written_without_its_numbers():
    async with running(record=True) as (app, pilot, _):
        for key in ("d", "u", "ctrl+r"):
            await pilot.press(key)
            await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        assert ["numbers" in event for event in events("reading")] == [True, True, False, False]
        app.explore.record_model(app.explore.info)  # the weights came: what the cache had may not be what they say
        app.explore.record_reading(app.explore.answered, app.explore.reading)
        assert "numbers" in events("reading")[-1]


async def test_a_map_that_is_looked_for_is_no_answer():
    engine = FakeEngine()
    async with running(engine, record=True) as (app, _, _):
        for if_known in (True, False):
            request = MapStages(Texts((PROMPT,)), if_known=if_known)
            replies = [reply async for reply in engine.ask(replace(request, if_known=False)) if not isinstance(reply, Progress)]
            app.explore.record_answer(request, replies)
        assert [event["request"]["if_known"] for event in events("answer") if event["kind"] == "StageMap"] == [False]


async def test_lens_and_position_given_with_a_session_are_recorded():
    async with running(record=True) as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        app.leave()
    async with again(lens="v1", position=2) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        app.leave()
    names = [event["event"] for event in events()]
    since = events()[names.index("opened") :]
    assert [event["lens"] for event in since if event["event"] == "lens"] == ["v1"]
    assert [event["position"] for event in since if event["event"] == "cursor"][:1] == [2]


async def test_nothing_is_drawn_before_it_is_written(monkeypatch):
    """What a kill between two frames would lose was on no screen."""
    async with running(record=True) as (app, pilot, _):
        shown, show = [], app.explore._show_output

        def seen(request, reading):
            if len(reading.positions) == len(reading.tokens):
                shown.append([event["request"]["schedule"] for event in events("reading")][-1])
                assert shown[-1] == reading.schedule
            show(request, reading)

        monkeypatch.setattr(app.explore, "_show_output", seen)
        await pilot.press("d")
        await settled(pilot)
        await pilot.press("down", "a")
        await settled(pilot)
        assert shown == ["drop 11", "drop 11; attn-off 10"]


async def test_a_note_and_a_name_are_kept_as_they_were_typed_and_do_nothing_else():
    async with running(record=True, size=(120, 40)) as (app, pilot, _):
        await pilot.press("n")
        await answer(pilot, f"{HOSTILE} #odd #two")
        await until(pilot, lambda: "noted; tagged odd, two" in drawn(app))
        await pilot.press("R")
        name = HOSTILE.replace("/", "")  # which would be the name of a file
        await answer(pilot, f"  {name}  ")
        await until(pilot, lambda: "is called" in drawn(app))
        assert "\x1b" not in drawn(app) and "\u202e" not in drawn(app) and app.is_running
        (session,) = sessions()
        assert events("note")[0]["note"] == f"{HOSTILE} #odd #two"
        assert session.tags == ("odd", "two") and session.name == name


async def test_what_the_app_answers_by_itself_is_no_reason_to_keep_a_session():
    async with running(record=True, prompt=DEFAULT_PROMPT) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        assert sessions()
        app.leave()
    assert not sessions()


async def test_a_text_that_is_written_as_the_app_is_left_is_kept_so_far(monkeypatch):
    async with running(halting(monkeypatch, after=4), record=True) as (app, pilot, _):
        await pilot.press("d", "W")
        await until(pilot, lambda: isinstance(app.screen, WriteScreen) and app.screen.n_steps == 4)
        await pilot.press("ctrl+q")
    *_, last = events("answer")
    assert last["kind"] == "Generation" and last["request"]["tokens"] == 4
    assert [len(row) for row in last["numbers"]["Generation.ids"]] == [4, 4]


# ---------------------------------------------------------------------------------------- opened again


async def test_a_session_opened_again_restores_prompt_deck_schedule_view_and_undo():
    async with running(record=True, size=(120, 40)) as (app, pilot, _):
        await pilot.press("p")
        await pilot.press("slash")
        app.explore.prompt_field.text = f"{PROMPT} {HOSTILE}"
        await pilot.press("enter")
        for key in ("d", "down", "a", "down", "m", "u", "v", "o", "left"):
            await pilot.press(key)
            await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        before = app.explore.state()
        app.leave()
    async with again() as (app, pilot, engine):
        await until(pilot, lambda: at_rest(app))
        assert app.explore.state() == before
        assert str(app.explore.schedule) == "drop 11; attn-off 10" and app.explore.prompt.endswith(HOSTILE)
        assert app.explore.deck.prompts == (PROMPT,) and app.explore.stack.flipped
        assert "drop 11; attn-off 10" in drawn(app)
        await pilot.press("ctrl+r")
        assert str(app.explore.schedule) == "drop 11; attn-off 10; mlp-off 9"
        await pilot.press("u", "u", "u")
        assert str(app.explore.schedule) == ""
        await settled(pilot)
        app.leave()
    assert len(sessions()) == 1 and [event["event"] for event in events()].count("opened") == 1
    assert fold(events()).schedule == ""


async def test_a_session_goes_on_after_the_app_was_killed_in_the_middle_of_a_line():
    async with running(record=True) as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        path = app.explore.recorder.file.path
        app.explore.recorder.file.let_go()
        app.explore.recorder.file = None
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 9)
    async with again() as (app, pilot, _):
        await until(pilot, lambda: "1 line could not be read" in drawn(app))
        assert str(app.explore.schedule) == "drop 11"
        await pilot.press("u")
        await settled(pilot)
        await until(pilot, lambda: at_rest(app))
    assert fold(files.read(path).events).schedule == ""


async def test_a_session_that_is_open_elsewhere_is_looked_at_and_recorded_as_another():
    async with running(record=True) as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        async with again() as (other, second, _):
            await until(second, lambda: "is open in another process: this is recorded as another" in drawn(other))
            assert str(other.explore.schedule) == "drop 11"
            await second.press("u")
            await settled(second)
            await until(second, lambda: at_rest(other))
            mine, theirs = app.explore.recorder.file.path, other.explore.recorder.file.path
            assert mine != theirs and fold(files.read(mine).events).schedule == "drop 11"
            assert fold(files.read(theirs).events).schedule == ""


async def test_what_was_recorded_is_run_again_and_is_equal():
    async with running(record=True, size=(120, 40)) as (app, pilot, engine):
        for key in ("d", "left", "down", "a"):
            await pilot.press(key)
            await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        recorded = files.read(app.explore.recorder.file.path)
        steps = list(replay.steps(recorded.events))
        assert len(steps) >= 3 and all(isinstance(step, replay.Step) for step in steps)
        for step in steps:
            if isinstance(step.request, Read) and step.numbers is not None:
                reading = engine.reading(step.request, tuple(range(len(engine.tokenize(PROMPT)))))
                now = (short.of_reading if "output.entropy_bits" in step.numbers else short.of_position)(
                    reading, step.position
                )
                assert replay.differing(step.numbers, now, replay.SAME) == []


async def test_a_prompt_and_an_edit_given_with_a_session_go_before_and_are_recorded():
    async with running(record=True) as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        before = app.explore.state()
        app.leave()
    steps = (*before.schedules, ("change", "swap 1 2"))
    async with again(prompt="another prompt", schedules=steps, position=-1) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        assert app.explore.reading.prompt == "another prompt" and app.explore.reading.schedule == "swap 1 2"
        await pilot.press("u")
        assert str(app.explore.schedule) == "drop 11"
        await settled(pilot)
        app.leave()
    assert [event["prompt"] for event in events("prompt")][-1] == "another prompt"
    assert [event["schedule"] for event in events("schedule")] == ["drop 11", "swap 1 2", "drop 11"]


# ------------------------------------------------------------------------------------------- what goes wrong


async def test_without_recording_there_is_no_file_and_the_header_says_so():
    async with running() as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        assert "rec off" in drawn(app) and not sessions()


async def test_a_full_disk_is_told_once_and_loses_nothing(monkeypatch):
    write, is_full = os.write, True

    def full(descriptor, data):
        if is_full and data.startswith(b'{"event"'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    async with running(record=True) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        monkeypatch.setattr(files.os, "write", full)
        await pilot.press("d")
        await settled(pilot)
        await until(pilot, lambda: "rec failed" in drawn(app))
        assert "No space left on device" in drawn(app) and "make room" in drawn(app)
        is_full = False
        await pilot.press("down", "a")
        await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        assert [event["schedule"] for event in events("schedule")] == ["drop 11", "drop 11; attn-off 10"]


async def test_a_folder_that_cannot_be_written_is_told_and_the_app_goes_on(home):
    (home / "data").mkdir(parents=True)
    (home / "data" / "sessions").touch()
    async with running(record=True, size=(160, 40)) as (app, pilot, _):
        await until(pilot, lambda: "not recorded" in drawn(app))
        await pilot.press("d")
        await settled(pilot)
        await pilot.press("n")
        await answer(pilot, "kept until then")
        await until(pilot, lambda: "the note goes into it when it can" in drawn(app))
        assert app.explore.reading.schedule == "drop 11" and "rec failed" in drawn(app)
        (home / "data" / "sessions").unlink()
        await pilot.press("down", "a")
        await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        app.leave()
    assert [event["schedule"] for event in events("schedule")][-1] == "drop 11; attn-off 10"
    assert events("prompt")[0]["prompt"] == PROMPT and events()[0]["event"] == "session" and events()[0]["model"]
    assert [event["note"] for event in events("note")] == ["kept until then"]


async def test_an_app_that_could_never_record_begins_nothing_as_it_ends(home, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    (home / "data").mkdir(parents=True)
    (home / "data" / "sessions").touch()
    async with running(record=True) as (app, pilot, _):
        await until(pilot, lambda: "rec failed" in drawn(app))
        (home / "data" / "sessions").unlink()
        app.explore.recorder.end()  # and then it draws once more
        app.explore.draw_status()
        assert not (home / "data" / "sessions").exists() and app.explore.recorder.file is None


async def test_an_app_begun_on_a_full_disk_records_when_there_is_room(home, monkeypatch):
    write, is_full = os.write, True

    def full(descriptor, data):
        if is_full and data.startswith(b'{"event"'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(files.os, "write", full)
    async with running(record=True) as (app, pilot, _):
        await until(pilot, lambda: "rec failed" in drawn(app))
        await pilot.press("d")
        await settled(pilot)
        is_full = False
        await pilot.press("down", "a")
        await settled(pilot)
        await until(pilot, lambda: at_rest(app))
        app.leave()
    assert events()[0]["event"] == "session" and not sessions()[0].warnings
    assert events("prompt")[0]["prompt"] == PROMPT
    assert [event["schedule"] for event in events("schedule")] == ["drop 11", "drop 11; attn-off 10"]
    is_full = True
    async with running(record=True) as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        await until(pilot, lambda: "rec failed" in drawn(app))
        app.leave()
    assert len(list((home / "data" / "sessions").iterdir())) == 1  # that which a full disk took nothing of is gone
    assert "was not kept to its end" in app.remark


async def test_a_note_before_the_model_is_known_says_so():
    engine = FakeEngine()
    engine.failures[Load] = [Failure("missing", "There is no such model.", "")]
    async with running(engine, record=True, settle=False) as (app, pilot, _):
        await until(pilot, lambda: "no such model" in drawn(app))
        await pilot.press("n")
        await until(pilot, lambda: "a session begins when the model is known" in drawn(app))


async def test_a_dead_engine_leaves_the_session_whole():
    engine = FakeEngine()
    async with running(engine, record=True, size=(120, 40)) as (app, pilot, _):
        await pilot.press("d")
        await settled(pilot)
        engine.gates[Read] = asyncio.Event()
        await pilot.press("down", "d")
        await until(pilot, lambda: "read" in app.explore.jobs)
        await engine.close()
        await pilot.press("n")
        await answer(pilot, "it died")
        await until(pilot, lambda: events("note"))
        assert [event["schedule"] for event in events("schedule")] == ["drop 11", "drop 10-11"]


async def test_the_mark_stands_on_every_screen():
    async with running(record=True, size=(120, 40)) as (app, pilot, _):
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, LensScreen) and "● rec" in drawn(app))


async def test_a_file_that_was_removed_is_told():
    async with running(record=True, size=(120, 40)) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        app.explore.recorder.file.path.unlink()
        await pilot.press("d")
        await settled(pilot)
        await until(pilot, lambda: "rec failed" in drawn(app) and "was removed" in drawn(app))


async def test_names_by_which_a_session_could_not_be_found_are_refused():
    async with running(record=True, size=(120, 40)) as (app, pilot, _):
        await until(pilot, lambda: at_rest(app))
        for name, told in (("last", "choose another name"), ("x" * 101, "too long"), ("layers 11/12", "name of a file")):
            await pilot.press("R")
            await answer(pilot, name)
            await until(pilot, lambda: told in drawn(app))  # noqa: B023
        assert not events("name")
