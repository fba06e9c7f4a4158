"""Pictures and films of a session on the fake engine: what a terminal shows of them is what the app showed."""

import asyncio
import json
import re
import xml.etree.ElementTree as ET
from contextlib import suppress

import pyte
import pytest
from test_explore import HARMFUL, drawn
from test_player import settled
from watched import EVENTS, session

from stagescope import film
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Progress
from stagescope.sessions import files
from stagescope.watch import WatchApp

WIDTH, HEIGHT = 90, 30


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path))
    return tmp_path


async def screens(recorded) -> list[str]:
    """What the app shows after each event."""
    shown = []
    app = WatchApp(FakeEngine, recorded, playing=False, filmed=True)
    async with app.run_test(size=(WIDTH, HEIGHT)) as pilot:
        for n in range(1, len(recorded.events) + 1):
            app.player.go_to(n)
            await settled(pilot)
            shown.append(drawn(app))
    return shown


def played(cast: list) -> list[str]:
    """What a terminal shows after each frame of a film."""
    screen = pyte.Screen(WIDTH, HEIGHT)
    stream, shown = pyte.Stream(screen), []
    for _, _, data in cast:
        stream.feed(data)
        shown.append("\n".join(line.rstrip() for line in screen.display))
    return shown


async def test_a_cast_is_asciinema_version_2_and_plays_what_the_app_showed(home):
    recorded = session(home, every=0.5)
    data = await film.cast(recorded, WIDTH, HEIGHT, engine_factory=FakeEngine)
    header, *frames = map(json.loads, data.decode().splitlines())
    # https://docs.asciinema.org/manual/asciicast/v2/: version, width and height are required; timestamp counts seconds
    assert header["version"] == 2 and (header["width"], header["height"]) == (WIDTH, HEIGHT)
    assert header["timestamp"] == 1767323045 and set(header["env"]) == {"TERM"}
    times = [time for time, _, _ in frames]
    assert times == sorted(times) and times[0] == 0 and all(kind == "o" for _, kind, _ in frames)
    assert times[-2] <= 0.5 * len(EVENTS)  # no wait is longer than it was

    shown = [text.replace("\xa0", " ") for text in played(frames)]
    expected = ["\n".join(line.rstrip() for line in text.splitlines()) for text in await screens(recorded)]
    bare = [text.replace("\xa0", " ") for text in dict.fromkeys(expected)]
    assert without_times(shown[-1]) == without_times(bare[-1])
    assert [text for text in map(without_times, bare) if text not in map(without_times, shown)] == []


def without_times(text: str) -> str:
    """The header tells how long a reading took."""
    return "\n".join(text.splitlines()[1:])


async def test_a_film_has_no_keys_and_does_not_wait_for_any(home):
    for shown in await screens(session(home)):
        assert "space play" not in shown and "paused" not in shown and "of 16" in shown


async def test_an_app_that_ends_ends_the_film(home, monkeypatch):
    def broken(player, done):
        player.app.crash = "stagescope: stopped by an error of its own"

    monkeypatch.setattr("stagescope.screens.player.Player.go_to", broken)
    monkeypatch.setattr("stagescope.screens.player.Player.is_settled", lambda player: False)
    with pytest.raises(film.FilmError, match="the app ended at event 1: stagescope: stopped by an error"):
        await film.cast(session(home), WIDTH, HEIGHT, engine_factory=FakeEngine)


async def test_nothing_in_a_film_acts_but_its_own_colours_and_places(home):
    data = await film.cast(session(home), WIDTH, HEIGHT, engine_factory=FakeEngine)
    drawn_ = "".join(json.loads(line)[2] for line in data.decode().splitlines()[1:])
    rest = re.sub(r"\x1b\[[0-9;]*[mHJ]|\x1b\[\?25l", "", drawn_)
    assert "alert(1)" in rest and not HARMFUL.search(rest)


async def test_no_wait_is_longer_than_three_seconds(home):
    recorded = session(home, every=100.0)
    data = await film.cast(recorded, WIDTH, HEIGHT, engine_factory=FakeEngine)
    times = [json.loads(line)[0] for line in data.decode().splitlines()[1:]]
    assert 3.0 in times and times[-1] <= 3.0 * len(recorded.events) + film.LAST


async def test_a_picture_shows_the_screen_after_an_event_and_nothing_that_acts(home):
    recorded = session(home)
    svg = await film.picture(recorded, 6, WIDTH, HEIGHT, engine_factory=FakeEngine)
    root = ET.fromstring(svg)
    words = "".join(root.itertext()).replace("\xa0", " ")
    assert "drop 3" in words and "as recorded" in words
    last = ET.fromstring(await film.picture(recorded, -1, WIDTH, HEIGHT, engine_factory=FakeEngine))
    assert "alert(1)" in "".join(last.itertext()) and not [one for one in last.iter() if one.tag.endswith("script")]
    assert b"http" not in svg.replace(b"http://www.w3.org", b"")  # no font is fetched


async def test_an_empty_session_has_no_picture(home):
    (home / "empty.jsonl").touch()
    with pytest.raises(film.FilmError, match="the session is empty"):
        await film.picture(files.read(home / "empty.jsonl"), 0, engine_factory=FakeEngine)


async def test_an_engine_that_never_ends_is_told_by_event(home, monkeypatch):
    class Stuck(FakeEngine):
        async def ask(self, request):
            if getattr(request, "schedule", "") == "drop 3":
                yield Progress("reading", 0.1)
                await asyncio.Event().wait()
            async for reply in super().ask(request):
                yield reply

    settled = film._settled

    async def patient_until_the_edit(app, pilot):
        monkeypatch.setattr(film, "PATIENCE", 0.2 if app.player.done == 4 else 60.0)
        await settled(app, pilot)

    monkeypatch.setattr(film, "_settled", patient_until_the_edit)
    with pytest.raises(film.FilmError, match=r"did not end what event 4 \(drop 3\) asks"):
        await film.cast(session(home), WIDTH, HEIGHT, engine_factory=Stuck)


async def test_a_film_that_is_cancelled_ends_the_app(home):
    made = []

    class Seen(FakeEngine):
        def __init__(self):
            super().__init__()
            made.append(self)
            self.closed = False

        async def close(self):
            self.closed = True
            await super().close()

    begun = asyncio.Event()

    def progress(stage: str, done: float, seconds_left: float) -> None:
        begun.set()

    task = asyncio.create_task(film.cast(session(home), WIDTH, HEIGHT, progress, Seen))
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled() and made[0].closed
