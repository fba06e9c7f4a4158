"""The similarity screen on the fake engine: influence, angular distance, CKA; which layers can go."""

from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, press, settled
from test_explore import HARMFUL, drawn, until

from stagescope.engine import fake_causes
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import TakeSimilarity, Texts
from stagescope.screens import similarity_words
from stagescope.screens.asking import Chosen
from stagescope.screens.similarity import SimilarityScreen
from stagescope.screens.widgets import glyphs


class Measured(FakeEngine):
    """Layers 6 to 9 hardly turn the stream; of one document there is no interval."""

    def __init__(self, n_layers=12, broken=False):
        super().__init__(n_layers)
        self.broken = broken

    def _cause(self, request):
        made = fake_causes.similarity(self.info, request)
        angular = np.array(made.angular)
        angular[6:7, 10:11] = 0.01
        if self.broken:
            nothing = {name: getattr(made, name) * np.nan for name in ("influence", "angular", "cka")}
            return [replace(made, **nothing)]
        one = len(request.texts.prompts) == 1
        influence = np.where([True, not one, not one], made.influence, np.nan)
        return [replace(made, angular=angular, influence=influence, documents=1 if one else 16)]


def running(engine=None, **looked):
    return beside(SimilarityScreen, engine or Measured(), **looked)


async def test_the_layers_that_turn_least_are_found_and_dropped_together():
    async with running(size=(120, 40)) as (screen, pilot, _):
        assert "4 layers turn least: 6-9 .010" in drawn(pilot.app)
        await press(pilot, "up", "up", *["right"] * 6)
        assert "layers 6-9 · angular distance .010, least of 9" in drawn(pilot.app)
        await press(pilot, "G", "up")  # 8 layers: no more than there are
        assert (screen.first, screen.n) == (4, 8)
        await press(pilot, "down", "enter")
        await until(pilot, lambda: pilot.app.results)
        assert pilot.app.results == [Chosen("drop 4-7", PROMPT, None)]


async def test_cka_stands_at_the_depths_before_and_after_the_layers():
    async with running(size=(120, 40)) as (screen, pilot, _):
        await press(pilot, "v", "up", "up", "right")
        assert "CKA of every two depths" in drawn(pilot.app)
        assert "layers 1-2 · depth 1 against depth 3" in drawn(pilot.app)
        await press(pilot, *["right"] * 5, *["down"] * 5)  # the depths never meet
        assert (screen.first, screen.n) == (2, 1)
        await press(pilot, *["up"] * 20)
        assert (screen.first, screen.first + screen.n) == (2, 12)
        await press(pilot, "v")
        assert "layers 2-11" in drawn(pilot.app)


async def test_the_text_brings_intervals():
    async with running(size=(120, 40), schedule="drop 3") as (_, pilot, engine):
        assert "[" not in drawn(pilot.app).split("block influence .4")[1].split("CKA")[0]
        await press(pilot, "c")
        await settled(pilot)
        await press(pilot, "h")
        assert engine.requests == [TakeSimilarity(Texts((PROMPT,))), TakeSimilarity(Texts())]
        assert "of 16 documents, 95 % intervals" in drawn(pilot.app) and "the baseline, not drop 3" in drawn(pilot.app)
        assert "block influence .450 [.430-.470]" in drawn(pilot.app)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize(("size", "ascii_only", "n_layers"), [
    ((60, 16), True, 30), ((80, 24), False, 1), ((80, 24), True, 126), ((160, 50), False, 48)
])  # fmt: skip
async def test_it_draws_at_every_size(size, ascii_only, n_layers, broken):
    engine = Measured(n_layers, broken)
    async with running(engine, size=size, ascii_only=ascii_only) as (_, pilot, _):
        for key in ("v", "v", "up", "right", "end", "v", "down"):
            await press(pilot, key)
            shown = drawn(pilot.app)
            assert not HARMFUL.search(shown) and "layer" in shown
            assert not ascii_only or "".join(shown.splitlines()[1:-1]).isascii()
        assert broken == ("no numbers" in drawn(pilot.app))


@pytest.mark.parametrize(("width", "height"), [(52, 8), (76, 14), (160, 40)])
@pytest.mark.parametrize("n", [2, 31, 127])
def test_a_click_finds_the_depths_it_was_made_on(n, width, height):
    seen = similarity_words.shape(n, width, height)
    assert seen.rows + seen.top + 1 <= height and 4 + seen.columns * seen.cell <= width
    made = fake_causes.similarity(replace(FakeEngine(n - 1).info), TakeSimilarity())
    for first, last in ((0, n - 1), (n // 3, max(n // 2, n // 3 + 1))):
        lines = similarity_words.grid(made, first, last - first, width, height, glyphs.UNICODE).plain.split("\n")
        y = next(y for y, line in enumerate(lines) if "▸" in line)
        row, column = seen.at(lines[y].index("▸"), y)
        assert row <= last < row + seen.down and column <= first < column + seen.across
