"""The band of stages beside the rows of the stack: hatched where unknown, never another model's."""

import re
from dataclasses import replace

import pytest
from test_explore import drawn, running, settled, until
from test_stack import Show, text_of
from test_stages_report import make_map
from test_stages_screen import MISSING, PROBE

from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import MapStages, Texts
from stagescope.engine.schedule import parse
from stagescope.screens.rows import rows
from stagescope.screens.stages import StagesScreen
from tests.readings import make_reading

WIDE = (120, 40)


def band_of(lines: list[str]) -> dict[str, str]:
    """Label of each row -> what stands in the band's column."""
    (head,) = [index for index, line in enumerate(lines) if re.match(r" *lay +s ", line)]
    column = lines[head].index(" s ") + 1
    labels = [(re.match(r"[ ▸>] *(\d+) ", line), line) for line in lines[head + 1 :]]
    return {label[1]: line[column] for label, line in labels if label}


@pytest.mark.parametrize(("width", "ascii_only"), [(100, False), (120, True), (220, False)])
async def test_each_row_has_the_number_of_its_stage(width, ascii_only):
    reading = make_reading(schedule="drop 16; swap 2 20; parallel 26-28")
    drawn_rows = rows(reading.model, reading, None, parse(reading.schedule), 2, make_map(reading.model.n_layers))
    app = Show(ascii_only)
    async with app.run_test(size=(width, 40)):
        stack = app.draw(reading)
        stack.show(drawn_rows, position=2, tokens=reading.tokens)
        band = band_of(text_of(stack))
    hatch = "?" if ascii_only else "░"
    assert (band["0"], band["2"], band["3"], band["16"], band["20"], band["29"]) == ("1", "1", hatch, "3", "3", "4")
    group = next(row for row in drawn_rows if len(row.layers) > 1)
    assert group.stage is None  # its layers are of two stages


async def test_a_narrow_stack_has_no_band():
    reading = make_reading()
    app = Show()
    async with app.run_test(size=(99, 40)):
        assert "░" not in "".join(text_of(app.draw(reading)))


async def test_a_move_sends_two_rows():
    reading = make_reading()
    stages = make_map(reading.model.n_layers)
    app = Show()
    async with app.run_test(size=(120, 40)) as pilot:
        stack = app.draw(reading)
        stack.show(rows(reading.model, reading, None, parse(""), 2, stages), position=2, tokens=reading.tokens)
        await pilot.pause()
        sent = []
        stack.refresh = lambda *regions, **_: sent.extend(regions)
        stack.cursor_down()
        assert sorted(region.y for region in sent) == [1, 2]


# ------------------------------------------------------------------------------------------- in Explore


async def test_what_was_mapped_before_is_shown_and_asked_for_once():
    async with running(size=WIDE) as (app, pilot, engine):
        await until(pilot, lambda: app.explore.stage_map())
        assert band_of(drawn(app).splitlines())["11"] == "4"
        await pilot.press("d")
        await settled(pilot)
        assert engine.requests.count(PROBE) == 1


async def test_hatched_until_the_stages_screen_has_mapped_them():
    engine = FakeEngine()
    engine.failures[MapStages] = [MISSING, MISSING]  # to Explore, and to the stages screen
    async with running(engine, size=WIDE) as (app, pilot, _):
        await until(pilot, lambda: not app.explore.jobs)
        assert set(band_of(drawn(app).splitlines()).values()) == {"░"}
        assert not app.explore.failure and "not mapped" not in drawn(app)
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, StagesScreen) and app.screen.map)
        await until(pilot, lambda: app.screen.running is None)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.explore)
        band = band_of(drawn(app).splitlines())
        assert (band["0"], band["1"], band["6"], band["11"]) == ("1", "░", "3", "4")
        await pilot.press("slash", *" of")  # over one prompt, and of that prompt only
        assert set(band_of(drawn(app).splitlines()).values()) == {"░"}


async def test_a_map_of_another_model_is_never_shown():
    engine = FakeEngine()
    engine.failures[MapStages] = [MISSING]
    async with running(engine, size=WIDE) as (app, pilot, _):
        await until(pilot, lambda: not app.explore.jobs)
        made = make_map(12)
        app.explore.keep_maps({Texts(): replace(made, model=replace(made.model, fingerprint="another"))})
        assert set(band_of(drawn(app).splitlines()).values()) == {"░"}
        app.explore.keep_maps({Texts(): replace(made, model=app.explore.info)})
        assert "3" in band_of(drawn(app).splitlines()).values()
