"""The player on the fake engine: a session written by hand stepped through, sought in and played."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from test_explore import HARMFUL, drawn, until, unwrapped
from watched import EVENTS, HOSTILE, PROMPT, read, session

from stagescope.answers import collected
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, Generate, Load, Read, Sweep, TakeSweep
from stagescope.screens.help import Help
from stagescope.screens.neurons import NeuronsScreen
from stagescope.screens.sweep import SweepScreen
from stagescope.sessions import files, short, words
from stagescope.sessions.events import plain
from stagescope.watch import WatchApp


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path))
    return tmp_path


@asynccontextmanager
async def watching(recorded, engine=None, size=(80, 24), playing=False, **options):
    """(player, pilot, engine), the first event settled."""
    engine = engine or FakeEngine()
    app = WatchApp(lambda: engine, recorded, playing=playing, **options)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen is app.player)
        if not playing:
            await settled(pilot)
        yield app.player, pilot, engine


async def settled(pilot):
    await pilot.pause()
    await until(pilot, pilot.app.player.is_settled, "the engine ends")
    await pilot.pause()


async def press(pilot, *keys):
    for key in keys:
        await pilot.press(key)
        await settled(pilot)


async def test_each_step_shows_what_was_looked_at_and_back_again(home):
    async with watching(session(home)) as (player, pilot, engine):
        assert player.prompt == PROMPT and "1 of 16" in drawn(pilot.app)  # what the app opened with
        await press(pilot, "full_stop", "full_stop")
        assert "3 of 16" in drawn(pilot.app) and "as recorded" in drawn(pilot.app)
        await press(pilot, "full_stop", "full_stop", "full_stop")
        assert str(player.schedule) == "drop 3" and player.stack.row_at_cursor().layers == (3,)
        assert player.reading.schedule == "drop 3" and "as recorded" in drawn(pilot.app)
        await press(pilot, "full_stop")
        assert EVENTS[5]["note"] in unwrapped(pilot.app).replace(" ", " ")
        await press(pilot, "comma", "comma", "comma", "comma")
        assert str(player.schedule) == "" and player.reading.schedule == "" and "3 of 16" in drawn(pilot.app)
        await press(pilot, "full_stop")
        assert str(player.schedule) == "drop 3" and player.session is None
    assert not list((home / "data").glob("sessions/*"))  # a player records nothing


async def test_it_seeks_by_ten_to_the_ends_and_to_notes(home):
    async with watching(session(home)) as (player, pilot, _):
        places = []
        for key in ("n", "n", "n", "p", "0", ">", ">", "<", "$", "$", "0", "comma", "p"):
            await press(pilot, key)
            places.append(player.done)
            assert not HARMFUL.search(drawn(pilot.app))
        assert places == [7, 14, 14, 7, 1, 11, 16, 6, 16, 16, 1, 1, 1]
        await press(pilot, "$")
        assert player.prompt == HOSTILE and player.view == "tokens" and player.stack.flipped
        # drop 3 was undone: the undo history is that of the session as well
        assert [str(schedule) for schedule in player.history.undone] == ["drop 3"]


async def test_the_screens_of_the_session_open_and_close_and_keys_play_on_them_too(home):
    neurons = {"event": "screen", "screen": "neurons"}
    recorded = session(home, [*EVENTS[:8], neurons, *EVENTS[8:10]])
    async with watching(recorded) as (player, pilot, engine):
        await press(pilot, *["full_stop"] * 7)
        assert isinstance(pilot.app.screen, SweepScreen) and "8 of 12" in drawn(pilot.app)
        await press(pilot, "full_stop", "full_stop")
        assert isinstance(pilot.app.screen, NeuronsScreen) and len(pilot.app.screen_stack) == 3
        assert "10 of 12" in drawn(pilot.app)
        await press(pilot, "comma")
        assert isinstance(pilot.app.screen, SweepScreen)
        await press(pilot, "enter")  # would show a schedule in the stack
        assert pilot.app.screen is player and str(player.schedule) == "drop 3"
        await press(pilot, "$")
        assert pilot.app.screen is player and str(player.schedule) == ""


async def test_it_plays_to_the_end_with_no_wait_above_three_seconds_and_pauses(home, monkeypatch):
    monkeypatch.setattr(words, "LONGEST", 0.01)
    async with watching(session(home, every=1000.0), playing=True) as (player, pilot, engine):
        await until(pilot, lambda: player.done == len(player.events) and not player.playing, "played to the end")
        await settled(pilot)
        assert "paused" in drawn(pilot.app) and "the end" in drawn(pilot.app) and player.prompt == HOSTILE
        assert {request.prompt for request in engine.requests if isinstance(request, Read)} == {PROMPT, HOSTILE}
        monkeypatch.setattr(words, "LONGEST", 1000.0)
        await pilot.press("space", "+", "+")
        assert player.playing and player.speed == 8 and "8x" in drawn(pilot.app)
        await until(pilot, lambda: player.done == 1)
        await pilot.press("space")
        assert not player.playing


async def test_playing_waits_for_the_engine(home):
    engine = FakeEngine()
    async with watching(session(home), engine) as (player, pilot, _):
        gate = engine.gates[Read] = asyncio.Event()
        await pilot.press("space")
        await until(pilot, lambda: "waiting for the engine" in drawn(pilot.app))
        assert player.done == 4  # the edit, which is not read yet
        gate.set()
        await until(pilot, lambda: player.done == len(player.events))


async def test_it_says_what_differs(home):
    async with watching(session(home, [EVENTS[0], read("", engine=FakeEngine(seed=1))])) as (player, pilot, _):
        await press(pilot, "$")
        shown = unwrapped(pilot.app)
        assert "differs: output.entropy_bits[0] was" in shown and "more" in shown and "as recorded" not in shown


async def test_another_model_or_one_that_cannot_be_had_is_told_and_watched_all_the_same(home):
    events = [*EVENTS[:2], {"event": "schedule", "how": "change", "schedule": "drop 99"}, {"event": "model"}, *EVENTS[2:6]]
    events[3] |= {"load": None}
    async with watching(session(home, events), other={"model": "another"}) as (player, pilot, engine):
        assert engine.requests[0] == Load("another")
        await press(pilot, *["full_stop"] * 3)
        assert "drop 99 does not fit another" in unwrapped(pilot.app) and str(player.schedule) == ""
        engine.failures[Read] = [Failure("memory", "Not enough memory.")]
        await press(pilot, "$")
        assert "9 of 9" in drawn(pilot.app) and str(player.schedule) == "drop 3"


async def test_stepping_back_over_a_change_of_the_model_while_it_loads_goes_back_to_the_one_before(home):
    from stagescope.sessions.events import plain

    other = {"event": "model", "load": plain(Load("other")), "model": None}
    async with watching(session(home, [*EVENTS[:2], other])) as (player, pilot, engine):
        await pilot.press("$", "comma")
        await settled(pilot)
        assert player.load == Load() and player.info.name == Load().model and player.prompt == PROMPT
        await press(pilot, "$")
        assert player.load == Load("other") and player.info.name == "other"


async def test_nothing_is_edited(home):
    async with watching(session(home)) as (player, pilot, _):
        await press(pilot, "$", "d", "x", "u", "colon", "slash", "tab", "s", "M", "b")
        assert (str(player.schedule), player.prompt) == ("", HOSTILE) and pilot.app.screen is player
        await pilot.press("?")
        assert isinstance(pilot.app.screen, Help)
        await pilot.press("space", "escape")
        assert pilot.app.screen is player and not player.playing


ODD = [
    {"event": "note", "note": 7},
    {"event": "cursor"},
    {"event": "reading"},
    {key: value for key, value in read("").items() if key != "position"},
    {**read(""), "position": "2"},
    {**read(""), "milliseconds": "soon"},
    {**read(""), "numbers": {"output.entropy_bits": [[[1]], {}], "depths.top_p": 7, "tracked": None}},
    {**read(""), "request": {**plain(Read(PROMPT)), "schedule": 7}},
    {"event": "answer", "request": {"$type": "TakeSweep"}, "numbers": {}},
]


@pytest.mark.parametrize("events", [[], *([event] for event in ODD), ODD])
async def test_a_session_edited_by_hand_is_watched(home, events):
    async with watching(session(home, events), size=(60, 16), ascii_only=True) as (player, pilot, _):
        for n in range(2, len(events) + 2):
            await press(pilot, "full_stop")
            assert player.done == n
        await press(pilot, "n", "0")
        assert player.done == 1 and pilot.app.is_running


def test_a_number_that_no_arithmetic_stands_is_skipped_and_told(home):
    recorded = session(home, [read("")])
    text = recorded.path.read_text()
    recorded.path.write_text(text.replace('"position": -1', f'"position": -1, "milliseconds": 1{"0" * 400}'))
    assert files.read(recorded.path).warnings == ("line 2 is skipped: it is no JSON",)


async def test_a_session_that_looked_at_heads_is_watched_with_its_bar(home):
    events = [*EVENTS[:2], {"event": "screen", "screen": "heads"}, {"event": "end"}]
    async with watching(session(home, events), size=(120, 40)) as (player, pilot, _):
        await press(pilot, "full_stop", "full_stop", "full_stop")
        assert pilot.app.screen.PLACE == "heads" and "4 of 5" in drawn(pilot.app)


async def test_a_key_that_edits_says_why_it_does_not(home):
    async with watching(session(home), size=(120, 40)) as (player, pilot, _):
        for key in ("d", "u", "slash", "M", "C"):
            await pilot.press(key)
            await until(pilot, lambda: "a session that is watched is not edited" in drawn(pilot.app))
            player._unsay()


async def test_what_another_model_answered_is_not_held_against_this_one_s(home):
    request = TakeSweep((PROMPT,))
    answer = {"event": "answer", "request": plain(request), "kind": "Sweep", "numbers": {"Sweep.kl_nats": [7.0]}}
    events = [answer, {"event": "model", "load": plain(Load("another")), "model": None}, answer]
    async with watching(session(home, events)) as (player, _, engine):
        replies = [reply async for reply in engine.ask(request) if isinstance(reply, Sweep)]
        player.record_answer(request, replies)
        player.done = 2
        assert player.compared().startswith("differs: Sweep.kl_nats[0] was 7")
        player.done = 4
        assert player.compared() in ("not measured again", "to be compared")
        player.load = Load("another")
        player.record_answer(request, replies)
        assert player.compared().startswith("differs: Sweep.kl_nats[0] was 7")


async def test_what_the_cache_kept_is_said_of_any_answer(home):
    request = TakeSweep((PROMPT,))
    async with watching(session(home)) as (_, _, engine):
        replies = [reply async for reply in engine.ask(request) if isinstance(reply, Sweep)]
    numbers = short.of_replies(collected(replies))
    events = [{"event": "answer", "request": plain(request), "kind": "Sweep", "numbers": numbers}]
    async with watching(session(home, events)) as (player, _, _):
        player.done = 2
        for cached, told in ((False, "as recorded"), (True, "as recorded, which the cache kept")):
            player.record_answer(request, [replace(reply, cached=cached) for reply in collected(replies)])
            assert player.compared() == told


async def test_a_device_that_is_not_here_is_said_and_the_session_watched(home):
    engine = FakeEngine()
    engine.failures[Load] = [Failure("usage", "cuda:7 was asked for, but there are 0 CUDA devices visible here.", "Use --device cpu.")]
    recorded = session(home, EVENTS[:2], load=Load(device="cuda:7"))
    async with watching(recorded, engine, size=(120, 30)) as (player, pilot, _):
        await until(pilot, lambda: "cuda:7 is not here" in drawn(pilot.app))
        await press(pilot, "full_stop", "full_stop")
        assert player.load == Load() and "as recorded" in drawn(pilot.app)


async def test_texts_are_written_again_as_they_were_drawn_then(home):
    asked = [Generate(PROMPT, ("drop 3",), 6), Generate(PROMPT, ("drop 3",), 6, 0.8, 5, seed=3)]
    replies = [reply async for reply in FakeEngine(12).ask(Load())]
    engine = FakeEngine()
    engine.info, _ = replies[-1], engine.loaded.set()
    events = [*EVENTS[:3], {"event": "screen", "screen": "write"}]
    for request in asked:
        *_, found = [reply async for reply in engine.ask(request)]
        events.append({"event": "answer", "request": plain(request), "kind": "Generation", "numbers": short.of_replies([found])})
    async with watching(session(home, events), size=(120, 40)) as (player, pilot, _):
        await press(pilot, *["full_stop"] * 4)
        assert pilot.app.screen.PLACE == "write" and pilot.app.screen.request == asked[0]
        await press(pilot, "full_stop")
        assert "as recorded" in unwrapped(pilot.app)
        await press(pilot, "full_stop")
        assert pilot.app.screen.request == asked[1] and "as recorded" in unwrapped(pilot.app) and "seed 3" in unwrapped(pilot.app)
        await press(pilot, "comma")
        assert pilot.app.screen.request == asked[0]
