"""The attribution screen on the fake engine: the sum that adds up, what is edited and repaired, keys, odd numbers."""

import re
from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, press, settled
from test_explore import HARMFUL, drawn, until, unwrapped

from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, FindToken, TakeAttribution
from stagescope.screens import attribution_words
from stagescope.screens.asking import Chosen
from stagescope.screens.attribution import AttributionScreen
from stagescope.screens.widgets import glyphs


def running(engine=None, settle=True, **looked):
    return beside(AttributionScreen, engine, settled if settle else None, **looked)


async def answer(schedule: str, n_layers: int = 12):
    engine = FakeEngine(n_layers)
    engine.loaded.set()
    return [reply async for reply in engine.ask(TakeAttribution(PROMPT, schedule))][-1]


def numbers(parts) -> list[float]:
    return [float(found) for found in re.findall(r"[+-]?\d*\.\d+", " ".join(parts))]


@pytest.mark.parametrize("schedule", ["", "drop 3", "attn-off 2; mlp-off 5-6", "repeat 4", "shuffle 0-11"])
async def test_the_numbers_of_the_sentence_add_up(schedule):
    made = await answer(schedule)
    for position in range(len(made.tokens)):
        parts = attribution_words.sentence(made, position, False, glyphs.UNICODE)
        head, *rest = " · ".join(parts).replace("→", " ").split("=" if not schedule else " · ", 1)
        ends, terms = numbers([head]), numbers(rest)
        assert sum(terms) == pytest.approx(ends[-1] - (ends[0] if schedule else 0), abs=1e-6)


async def test_the_sentence_tells_own_effect_repair_and_scale():
    made = await answer("drop 3")
    base = made.baseline
    lost = replace(  # 4 logits are lost with layer 3, 1.5 come back in layer 11, .25 by the scale
        made, attn=made.attn * 0, mlp=made.mlp * 0, scale=made.scale * 0 + 0.25, logit=made.logit * 0 + 2.75,
        baseline=replace(base, attn=base.attn * 0, mlp=base.mlp * 0, logit=base.logit * 0 + 5),
    )  # fmt: skip
    lost.baseline.mlp[4], lost.mlp[11] = 4.0, 1.5  # depths: 11 of the edited run is layer 11
    parts = attribution_words.sentence(lost, -1, False, glyphs.UNICODE)
    assert parts[0].endswith("5.00→2.75")
    assert parts[1:] == ["own effect of layer 3 -4.00", "repaired by later layers +1.50", "final norm's scale +.25"]
    told = attribution_words.point(lost, -1, 3, glyphs.UNICODE)
    assert told[:2] == ["layer 3", "does not run"] and "MLP +4.00→gone (edited, -4.00)" in told
    assert told[-1] == "most changed by the edit: MLP 11 +1.50"


@pytest.mark.parametrize("mode", ["", "drop 3", "swap 2 3; mlp-off 7", "repeat 4"])
@pytest.mark.parametrize(("size", "ascii_only"), [((60, 16), True), ((80, 24), False), ((160, 50), False)])
async def test_it_draws_at_every_size(mode, size, ascii_only):
    async with running(size=size, schedule=mode, ascii_only=ascii_only) as (screen, pilot, _):
        for key in ("v", "v", "left", "home", "up"):
            await press(pilot, key)
            shown = drawn(pilot.app)
            assert "logit of" in shown and f"layer {screen.at_layer} " in shown
            body = "".join(shown.splitlines()[1:-1])  # header and footer name things as every screen does
            assert not HARMFUL.search(shown) and (not ascii_only or body.isascii())
        assert ("MLP was" in shown) == (bool(mode) and "adds to the logit" in shown)


async def test_without_a_number_it_says_so():
    class Overflowed(FakeEngine):
        def _cause(self, request):
            *first, made = super()._cause(request)
            return [*first, overflowed(replace(made, baseline=made.baseline and overflowed(made.baseline)))]

    def overflowed(made):
        names = ("logit", "attn", "mlp", "scale", "constant", "embedding")
        return replace(made, **{name: getattr(made, name) * np.nan for name in names})

    for schedule in ("", "drop 3"):
        async with running(Overflowed(), schedule=schedule) as (_, pilot, _):
            await press(pilot, "v", "left")
            assert "no number at this token" in drawn(pilot.app)


async def test_tokens_need_no_question_and_another_followed_token_does():
    async with running(size=(120, 40), schedule="drop 3") as (screen, pilot, engine):
        await press(pilot, "up", "up", "left")
        assert (screen.position, screen.at_layer, len(engine.requests)) == (3, 10, 1)
        await press(pilot, "t")
        await press(pilot, *["backspace"], "space", *"Rome", "enter")
        await until(pilot, lambda: any(isinstance(request, FindToken) for request in engine.requests))
        await until(pilot, lambda: screen.tracked is not None)
        await settled(pilot)
        assert "logit of ▸·Rome" in drawn(pilot.app)
        await press(pilot, "enter")
        await until(pilot, lambda: pilot.app.results)
        assert pilot.app.results == [Chosen("drop 10", PROMPT, 3)]


async def test_a_failure_is_told_and_r_tries_again():
    engine = FakeEngine()
    engine.failures[TakeAttribution] = [Failure("memory", "Out of memory.", "Take a shorter prompt.")]
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "Out of memory. Take a shorter prompt. r tries again." in unwrapped(pilot.app))
        await press(pilot, "r")
        await settled(pilot)
        assert "logit of" in drawn(pilot.app)
