"""The stages screen on the fake engine: what was mapped is shown first, the rest fills in, nothing ends it."""

from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, is_due, press
from rich.cells import cell_len
from test_explore import drawn, until, unwrapped
from test_sweep_screen import Turnstile

from stagescope.engine import fake_findings
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, MapStages, TakeEvidence, Texts
from stagescope.screens import stages_panels, stages_words
from stagescope.screens.asking import Chosen
from stagescope.screens.stages import StagesScreen
from stagescope.screens.stages_words import Found

PROBE, STANDARD, OF_PROMPT = MapStages(if_known=True), MapStages(), MapStages(Texts((PROMPT,)))
MISSING = Failure("missing", "the stages were not mapped.", "Map them first.")
TITLES = ("KL, nats", "attention to the 5 before", "attention / MLP", "MLP norm", "lens KL after, nats",
          "lens entropy after, bits", "written / stream", "neurons")  # fmt: skip


def running(failures=(), gate=None, settle=True, **looked):
    engine = FakeEngine()
    engine.failures[MapStages] = list(failures)
    if gate is not None:
        engine.gates[MapStages] = gate
    return beside(StagesScreen, engine, settled if settle else None, **looked)


async def settled(pilot) -> None:
    s = pilot.app.shown
    await until(pilot, lambda: s.here.whole and not s.running and not is_due(s))


# ------------------------------------------------------------------------------------------ which text


async def test_a_map_of_the_standard_text_is_shown_first():
    async with running() as (screen, pilot, engine):
        assert engine.requests[0] == PROBE and OF_PROMPT not in engine.requests
        assert "over the standard text: 16 documents, 320 tokens" in drawn(pilot.app)
        assert screen.map.documents == 16
        await press(pilot, "c")
        await settled(pilot)
        assert engine.requests[-1] == OF_PROMPT and "one has no interval" in drawn(pilot.app)
        assert screen.map.documents == 1
        asked = len(engine.requests)
        await press(pilot, "c")
        assert len(engine.requests) == asked and "the standard text" in drawn(pilot.app)  # it is there


async def test_where_it_was_not_mapped_the_prompt_is_and_nothing_has_failed():
    async with running([MISSING]) as (screen, pilot, engine):
        assert engine.requests == [PROBE, OF_PROMPT]
        assert not screen.failure and "not mapped" not in drawn(pilot.app)
        assert "0-0 " in drawn(pilot.app) and "not visible in this model" in drawn(pilot.app)
        assert screen.map.rule in drawn(pilot.app)


# ------------------------------------------------------------------------------------------ filling in


async def test_parts_are_shown_as_they_come_and_escape_keeps_them():
    gate = Turnstile(0)
    async with running([MISSING], gate=gate, settle=False) as (screen, pilot, engine):
        await until(pilot, lambda: screen.running == OF_PROMPT)
        gate.release()
        await until(pilot, lambda: "● drop" in drawn(pilot.app) and "0:05 left · esc cancels" in unwrapped(pilot.app))
        assert "this tool's own: the paper gives none" in drawn(pilot.app)
        assert "not known yet" in drawn(pilot.app) and "drop 0: KL" in drawn(pilot.app) and screen.map is None
        assert "measured: drops and swaps" in drawn(pilot.app)
        await press(pilot, "escape")
        assert screen.running is None and "measured: drops and swaps; r goes on" in drawn(pilot.app)
        assert "● drop" in drawn(pilot.app) and not screen.failure
        for _ in range(8):
            gate.release()
        await press(pilot, "r")
        await settled(pilot)
        assert engine.requests == [PROBE, OF_PROMPT, OF_PROMPT] and "0-0 " in drawn(pilot.app)
        await press(pilot, "escape")
        assert pilot.app.results == [None]


async def test_a_dead_engine_is_told_and_left():
    async with running([MISSING, Failure("died", "The engine ended.", "")], settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "The engine ended. r goes back to the stack" in unwrapped(pilot.app))
        await press(pilot, "right", "v", "v")  # what needs no engine still works
        await pilot.press("r")
        await until(pilot, lambda: pilot.app.results == [None])
        assert screen.dead and screen.restart


# --------------------------------------------------------------------------------------------- looking


async def test_the_cursor_tells_every_number_and_opens_its_layer():
    async with running() as (screen, pilot, _):
        await press(pilot, "right", "right", "right", "left")
        told = unwrapped(pilot.app)
        for words in ("layer 2, depth 0.18, stage not known", "drop 2: KL", "swap 2 3: KL", "near .", "with sink .",
                      "attn/MLP 1.", "of means", "MLP norm", "sup/pre", "lens KL", "bits", "of x"):  # fmt: skip
            assert words in told
        await press(pilot, "G")
        assert "layer 11, depth 1.00, stage 4 · drop 11" in drawn(pilot.app) and "swap 11" not in drawn(pilot.app)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("drop 11", PROMPT, None)])


async def test_the_evidence_of_each_boundary():
    async with running() as (screen, pilot, _):
        await press(pilot, "v", "down")
        told = drawn(pilot.app)
        assert "where stage 3 begins: layer 6, 95 % of 5-7" in told
        assert "attention to the 5 tokens before" in told and "0.2→0.1" in told and "at 1 " in told and "yes" in told
        await press(pilot, "up")
        assert "feature engineering, where stage 2 begins: not visible" in drawn(pilot.app)
        await press(pilot, "v")
        assert "● drop" in drawn(pilot.app)


async def test_the_evidence_shows_the_curves_of_the_rule_and_the_boundary():
    async with running(size=(160, 50)) as (screen, pilot, _):
        made = screen.here.map
        signals = tuple(replace(made.stages[2].evidence[0], name=f"s{n}", title=f"title {n}") for n in range(4))
        signals = (*signals[:3], replace(signals[3], agrees=False))
        stages = (*made.stages[:2], replace(made.stages[2], evidence=signals), made.stages[3])
        names, curves = ("near_attention", *(one.name for one in signals)), np.tile(made.curves, (5, 1))
        screen.here.map = replace(made, stages=stages, signals=names, curves=curves)
        await press(pilot, "v", "down", "G")
        lines = drawn(pilot.app).splitlines()
        assert sum(line.count("● agrees") for line in lines) == 3 and "title 3   ● does not agree" in drawn(pilot.app)
        width = screen.picture.size.width // 2 - 1
        edges = {line.index("┃") for line in lines if "┃" in line}
        assert edges == {stages_panels.column(6 - 0.5, width, 12)}  # between layers 5 and 6
        await pilot.resize_terminal(120, 40)  # as many as have room
        await until(pilot, lambda: "3 of its 4 curves: a larger terminal" in drawn(pilot.app))
        await until(pilot, lambda: "● agrees" in drawn(pilot.app) and "● does not agree" not in drawn(pilot.app))
        await press(pilot, "up")  # not visible: no boundary
        assert "● agrees" in drawn(pilot.app) and "┃" not in drawn(pilot.app)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "● agrees" not in drawn(pilot.app) and "at 1 " in drawn(pilot.app))


async def test_all_panels_where_they_fit_one_by_one_where_not():
    async with running(size=(160, 50)) as (screen, pilot, _):
        assert all(title in drawn(pilot.app) for title in TITLES)
        assert "↓ next" not in drawn(pilot.app)

        def bands() -> list[str]:
            return [line for line in drawn(pilot.app).splitlines() if line.startswith(" stage ")]

        await until(pilot, lambda: len(bands()) == 4 and all(set("1░34") < set(line) for line in bands()))
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "1 of 8" in drawn(pilot.app) and "↓ next" in drawn(pilot.app))
        await press(pilot, "down", "down", "up", "down")
        assert "attention / MLP   3 of 8" in drawn(pilot.app)
        await pilot.resize_terminal(50, 12)
        await until(pilot, lambda: "needs 60x16" in drawn(pilot.app))


async def test_a_click_goes_to_the_nearest_layer_and_to_a_stage():
    async with running(size=(160, 50)) as (screen, pilot, _):
        width = screen.picture.size.width // 2 - 1
        x = 80 + stages_panels.column(7, width, 12)  # in the panel on the right
        await pilot.click("#picture", offset=(x, 4))
        await until(pilot, lambda: screen.at_layer == 7)
        await pilot.click("#table", offset=(5, 4))
        await until(pilot, lambda: "where stage 4 begins" in drawn(pilot.app))


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_ascii_is_ascii(size):
    async with running(size=size, ascii_only=True) as (screen, pilot, _):
        for keys in ((), ("right", "v")):
            await press(pilot, *keys)
            lines = drawn(pilot.app).splitlines()
            assert all(line.isascii() for line in lines[2:-4]), lines
        assert "?" in drawn(pilot.app)


# ------------------------------------------------------------------------------------ panels and words


def test_a_layer_is_told_what_is_drawn_at_it():
    """Of the lens what the layer says after it ran, never the embedding; of the ratio also what the rule reads."""
    evidence = fake_findings.evidence(FakeEngine(12).info, TakeEvidence())
    found = Found(evidence=evidence)
    panels = {panel.title: panel.series for panel in stages_words.panels(found, 12)}
    corrected = panels["lens KL after, nats"][0]
    assert corrected.x.tolist() == list(range(12))
    assert corrected.y[:, 0].tolist() == evidence.of("kl_final_nats")[1:, 0].tolist()
    ratios, of_means = panels["attention / MLP"]
    assert ratios.y[:, 0].tolist() == evidence.of("attn_mlp_ratio")[:, 0].tolist()
    assert np.allclose(of_means.y[:, 0], evidence.of("attn_norm")[:, 0] / evidence.of("mlp_norm")[:, 0])
    for layer in (0, 11):
        told = " ".join(stages_words.point(found, layer, 12))
        assert f"lens KL {stages_words.g.number(corrected.y[layer, 0])}," in told
        assert f"of means {stages_words.g.number(of_means.y[layer, 0])}" in told


@pytest.mark.parametrize(("n_layers", "width"), [(12, 79), (30, 79), (48, 159), (30, 39)])
def test_the_rule_stands_where_plotext_draws_the_layer(n_layers, width):
    x = np.arange(n_layers, dtype=float)
    y = np.c_[x, x * np.nan, x * np.nan]
    for layer in (0, n_layers // 3, n_layers - 1):
        one = stages_words.Series("one", x[[layer]], y[[layer]])
        lines = stages_panels.plotted(stages_words.Panel("", "linear", (one,)), width, 12, n_layers, 1e-6, False)
        (mark,) = [line.plain.index("●") for line in lines[1:] if "●" in line.plain]
        assert abs(mark - stages_panels.column(layer, width, n_layers)) <= (n_layers > width - 8)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_screen_and_none_is_harmful(width):
    info = FakeEngine(30).info
    made = fake_findings.stage_map(info, Texts())
    hostile = replace(made.stages[0], why="\x1b]52;c;AAAA\x07 [/] 日本語 " * 9)
    made = replace(made, source="\u202efile", rule="\x1b[2J rule", stages=(hostile, *made.stages[1:]))
    found, glyphs = Found(map=made), stages_words.g.UNICODE
    contents = [
        stages_words.table(found, 1, 30, width, glyphs),
        stages_words.rule_line(found, width, glyphs),
        stages_words.text_line(Texts(), found, "x", "", width, glyphs),
        stages_words.text_line(Texts(("\x07 prompt",)), Found(), "\x07 prompt" * 30, "drop 3", width, glyphs),
        *stages_words.evidence(made, 0, width, False),
    ]
    for content in contents:
        for line in content.plain.split("\n"):
            assert line.isprintable() and cell_len(line) <= width
