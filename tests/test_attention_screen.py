"""The attention screen on the fake engine: parts come in, views and keys, what a short prompt cannot tell."""

import re
from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, press, settled
from evidences import make_evidence
from test_explore import HARMFUL, drawn, until, unwrapped
from test_sweep_screen import Turnstile, footer

from stagescope import actions
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import OFFSETS, Failure, TakeEvidence, Texts
from stagescope.reports.evidence import strongest, weigh
from stagescope.screens import attention_words
from stagescope.screens.ask import Ask, Choose
from stagescope.screens.asking import Chosen
from stagescope.screens.attention import AttentionScreen
from stagescope.screens.help import Help
from stagescope.screens.widgets import glyphs

OF_PROMPT, OF_TEXT = TakeEvidence(Texts((PROMPT,)), lenses=()), TakeEvidence(Texts(), lenses=())


class Measured(FakeEngine):
    """Answers with evidences that have the shapes of real ones: also what a short prompt lacks."""

    def __init__(self, n_layers=12, n_heads=4, n_tokens=24):
        super().__init__(n_layers)
        self.n_tokens = n_tokens
        self.info = replace(self.info, n_heads=n_heads)

    def _finding(self, request):
        for complete in (False, True):
            yield self.evidence(1 if request.texts.prompts else 16, complete)

    def evidence(self, documents=1, complete=True):
        shape = (self.info.n_layers, self.info.n_heads, documents)
        made = make_evidence(*shape, lenses=(), complete=complete, n_tokens=self.n_tokens)
        return replace(made, model=self.info)


def running(engine=None, settle=True, **looked):
    return beside(AttentionScreen, engine or Measured(), settled if settle else None, **looked)


# ------------------------------------------------------------------------------------------ parts come in


async def test_it_asks_for_one_plain_forward_and_fills_in_while_keys_work():
    engine = FakeEngine()
    engine.gates[TakeEvidence] = Turnstile(1)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "6 of 12 layers · measuring" in drawn(pilot.app))
        assert engine.requests == [OF_PROMPT] and "esc cancels" in drawn(pilot.app)
        await press(pilot, *["right"] * 8)
        assert "layer 8 · not measured yet" in drawn(pilot.app)
        engine.gates[TakeEvidence].release()
        await settled(pilot)
        assert "12 layers" in drawn(pilot.app) and "layer 8 · to each of 5 before: sink-free" in drawn(pilot.app)
        assert "idle" in drawn(pilot.app) and "21 tokens" in drawn(pilot.app)


async def test_escape_cancels_and_keeps_then_leaves_and_r_goes_on():
    engine = FakeEngine()
    engine.gates[TakeEvidence] = Turnstile(1)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "6 of 12 layers" in drawn(pilot.app))
        await press(pilot, "escape")
        await until(pilot, lambda: "6 of 12 layers; r goes on" in drawn(pilot.app) and not pilot.app.results)
        assert "go on" in footer(pilot.app)
        engine.gates.clear()
        await press(pilot, "r")
        await settled(pilot)
        assert "go on" not in footer(pilot.app) and "r goes on" not in drawn(pilot.app)
        await press(pilot, "escape")
        await until(pilot, lambda: pilot.app.results == [None])


async def test_a_text_that_is_cancelled_has_all_layers_and_goes_on():
    """Of a text every document brings all layers: what is not complete there still says so."""
    engine = Measured()
    whole, begun = engine.evidence(16), engine.evidence(2)
    engine._finding = lambda request: [replace(begun, complete=False), replace(whole, complete=False), whole]
    engine.gates[TakeEvidence] = Turnstile(2)
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "368 tokens of 16 documents" in drawn(pilot.app))
        await press(pilot, "escape")
        assert "12 layers so far; r goes on" in drawn(pilot.app)
        engine.gates[TakeEvidence] = Turnstile(1)
        await press(pilot, "r")  # it begins anew, and takes nothing away
        await until(pilot, lambda: engine.gates[TakeEvidence].locked() and screen.running)
        assert screen.evidence.documents == 16
        engine.gates[TakeEvidence].release()
        engine.gates[TakeEvidence].release()
        await settled(pilot)
        assert "so far" not in drawn(pilot.app)


async def test_a_failure_is_told_and_r_tries_again():
    engine = FakeEngine()
    engine.failures[TakeEvidence] = [Failure("memory", "Out of memory on cuda:0.", "Choose another device.")]
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "Out of memory on cuda:0. Choose another device. r tries" in unwrapped(pilot.app))
        await press(pilot, "v", "right", "up", "k", "m", "v")  # with nothing to draw
        await press(pilot, "r")
        await settled(pilot)
        assert "Out of memory" not in drawn(pilot.app)


async def test_x_switches_the_head_under_the_cursor_off_and_starts_there():
    async with running() as (screen, pilot, _):
        await press(pilot, "x")
        assert "x switches a head off" in drawn(pilot.app) and "off" not in footer(pilot.app)
        await press(pilot, "home", "v", "up", "right")
        assert "off" in footer(pilot.app)
        await press(pilot, "x")
        await until(pilot, lambda: pilot.app.results == [Chosen("head-off 1.1", PROMPT, None, adds=True)])
    async with running(schedule="head-off 5.3") as (screen, pilot, _):
        assert (screen.at_layer, screen.at_head) == (5, 3)


# ------------------------------------------------------------------------------------------------- keys


async def test_every_key_does_what_the_help_says():
    """One entry for every row of the table: keys before it, and what must come true after it."""
    checks = {
        "left": (["end"], lambda s: "layer 10 ·" in drawn(s.app)),
        "right": (["home"], lambda s: "layer 1 ·" in drawn(s.app)),
        "up": (["home"], lambda s: "layer 1 ·" in drawn(s.app)),
        "down": (["end"], lambda s: "layer 10 ·" in drawn(s.app)),
        "first": (["right"], lambda s: "layer 0 ·" in drawn(s.app)),
        "last": (["left"], lambda s: "layer 11 ·" in drawn(s.app)),
        "measure": ([], lambda s: "▸weight" in drawn(s.app) or "▸sink mass" in drawn(s.app)),
        "offset": ([], lambda s: "to each of 8 before" in drawn(s.app) and "▸8" in drawn(s.app)),
        "view": (["home"], lambda s: "▸heads" in drawn(s.app) and "layer 0 head 0 ·" in drawn(s.app)),
        "text": ([], lambda s: "368 tokens of 16 documents" in drawn(s.app)),
        "rest": ([], lambda s: "all of it is there" in drawn(s.app)),
        "export": ([], lambda s: isinstance(s.app.screen, Ask)),
        "copy": (["escape"], lambda s: isinstance(s.app.screen, Choose)),
        "help": (["escape"], lambda s: isinstance(s.app.screen, Help) and "Cycle k" in unwrapped(s.app)),
    }
    rows = {action.name: action for action in actions.of("attention")}
    assert set(rows) == {*checks, "open", "back", "head_off"}
    async with running() as (screen, pilot, _):
        for name, (before, after) in checks.items():
            for key in rows[name].keys:
                await pilot.press(*before, key)
                await until(pilot, lambda: after(screen), f"{name} after {key}")  # noqa: B023
        await pilot.press("escape", "q")
        await until(pilot, lambda: pilot.app.results == [None])
    async with running() as (screen, pilot, _):
        await pilot.press("right", "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("attn-off 1", PROMPT, None)])


async def test_k_goes_through_all_offsets_with_the_numbers_of_each():
    async with running() as (screen, pilot, engine):
        for k in (8, 16, 1, 2, 4, 5):
            await press(pilot, "k")
            assert screen.k == k
            mean = engine.evidence().of(f"prev{k}_no_sink")[0, 0]
            uniform = engine.evidence().uniform_no_sink[OFFSETS.index(k)]
            told = f"sink-free {weigh(mean)}, {glyphs.number(mean / uniform)} x uniform ({weigh(uniform)})"
            assert told in unwrapped(pilot.app)
        await press(pilot, "v", "v", "k")
        assert "norms have no k" in drawn(pilot.app) and screen.k == 5


async def test_the_cursor_starts_on_the_layer_that_is_off():
    async with running(schedule="attn-off 7") as (screen, pilot, _):
        assert "layer 7 ·" in drawn(pilot.app)


# ------------------------------------------------------------------------------------------------- views


async def test_heads_are_shaded_and_told_in_full():
    async with running() as (screen, pilot, engine):
        evidence = engine.evidence()
        await press(pilot, "v", "up", "up", "right", "right", "right", "right", "right")
        free, sink, with_sink = (evidence.head_no_sink[2, 3, 3], evidence.head_sink[2, 3], evidence.head_prev[2, 3, 3])
        shown = unwrapped(pilot.app)
        assert f"layer 2 head 3 · to each of 5 before: sink-free {weigh(free)}," in shown
        assert f"with sink {weigh(with_sink)}, " in shown and f"sink mass {weigh(sink)}, " in shown
        assert "mean weight from · 0 ░ .020 ▒ .050 ▓ .100 █ .150; .200 is all it has" in shown
        (layer, head), *_ = strongest(evidence.head_no_sink[..., 3], 1)
        assert re.search(rf"strongest, x uniform\s+.*L{layer} +H{head} ", drawn(pilot.app), re.DOTALL)
        await press(pilot, "s")
        assert "▸with sink" in drawn(pilot.app) and "with sink weight to each of 5 before" in drawn(pilot.app)
        await press(pilot, "s")
        assert "sink mass; uniform" in drawn(pilot.app) and "█ .750; 1.00 is all it has" in drawn(pilot.app)


def test_shades_follow_the_numbers():
    """Heads that give the 5 tokens before nothing, half, three quarters of their attention; one not measured."""
    evidence = make_evidence(1, 4)
    evidence.head_no_sink[0, :, OFFSETS.index(5)] = [0, 0.5 / 5, 0.76 / 5, np.nan]
    line = attention_words.grid(evidence, "no_sink", 5, 0, 1, 40, 10, glyphs.UNICODE).plain.split("\n")[2]
    assert line == "  0  · ▸▓▓ ██   "
    ascii_line = attention_words.grid(evidence, "no_sink", 5, 0, 1, 40, 10, glyphs.ASCII).plain
    assert ascii_line.isascii() and ">#" in ascii_line and "@" in ascii_line


async def test_a_wide_and_deep_model_scrolls_with_the_cursor():
    async with running(Measured(64, 40)) as (screen, pilot, _):
        await press(pilot, "v")
        assert "more on the right" in drawn(pilot.app) and "above" in drawn(pilot.app)
        screen.at_layer = 62
        await press(pilot, "end", "up", "up")
        assert "layer 63 head 39 ·" in drawn(pilot.app) and "more on the left" in drawn(pilot.app)
        assert re.search(r"^ 63 .*▸\S$", drawn(pilot.app), re.MULTILINE)
        await press(pilot, "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("attn-off 63", PROMPT, None)])


async def test_norms_tell_both_readings_of_the_ratio():
    async with running(size=(130, 40)) as (screen, pilot, engine):
        await press(pilot, "v", "v", "right")
        evidence = engine.evidence()
        means = evidence.of("attn_norm")[1, 0] / evidence.of("mlp_norm")[1, 0]
        ratios = evidence.of("attn_mlp_ratio")[1, 0]
        told = f"attn/MLP {glyphs.number(ratios)} mean of ratios, {glyphs.number(means)} ratio of means"
        assert told in unwrapped(pilot.app)
        for title in ("norm, log axis", "contribution / ||x||, log axis", "attn norm / MLP norm", "● attn writes"):
            assert title in drawn(pilot.app)
        await press(pilot, "m", "m", "m")
        assert "attn norm / MLP norm" in drawn(pilot.app) and "norm, log axis" not in drawn(pilot.app)


async def test_the_standard_text_comes_with_intervals_and_once():
    async with running() as (screen, pilot, engine):
        await press(pilot, "c")
        await settled(pilot)
        assert engine.requests == [OF_PROMPT, OF_TEXT]
        _, _, low, high = engine.evidence(16).of("prev5_no_sink")[0]
        assert "95 % intervals" in drawn(pilot.app) and f"[{weigh(low)}-{weigh(high)}]" in drawn(pilot.app)
        await press(pilot, "c", "c")
        await settled(pilot)
        assert len(engine.requests) == 2 and screen.evidence.documents == 16


async def test_a_short_prompt_says_what_is_needed():
    async with running(Measured(n_tokens=6)) as (screen, pilot, _):
        why = "sink-free needs 7 tokens, this prompt has 6"
        assert f"layer 0 · {why}" in drawn(pilot.app) and f"△ {why}" in drawn(pilot.app)
        assert "with sink ." in drawn(pilot.app)
        await press(pilot, "v")
        assert drawn(pilot.app).count(why) == 2
        await press(pilot, "s")
        assert "mean weight from" in drawn(pilot.app) and drawn(pilot.app).count(why) == 1
    async with running(Measured(n_tokens=1)) as (screen, pilot, _):
        for _ in range(3):
            assert "needs 2 tokens, this prompt has 1" in drawn(pilot.app)
            await press(pilot, "v")


# ------------------------------------------------------------------------------ mouse, sizes, hostile text


async def test_what_is_clicked_is_chosen():
    async with running(size=(100, 30)) as (screen, pilot, _):
        lines = drawn(pilot.app).splitlines()
        await pilot.click("#views", offset=(lines[2].index("16") + 1, 0))
        await until(pilot, lambda: screen.k == 16)
        await pilot.click("#views", offset=(lines[2].index("heads") + 1, 0))
        await until(pilot, lambda: screen.view == "heads" and "▸" in drawn(pilot.app))
        await press(pilot, "up", "up", "up", "right", "right")
        lines = drawn(pilot.app).splitlines()
        y = next(y for y, line in enumerate(lines) if re.match(r"  3 .*▸", line))
        x = lines[y].index("▸") + 1
        await press(pilot, "home", *["up"] * 5)
        await pilot.click(screen.heads, offset=(x, y - screen.heads.region.y))
        await until(pilot, lambda: "layer 3 head 2 ·" in drawn(pilot.app))


@pytest.mark.parametrize(("size", "ascii_only"), [((60, 16), True), ((80, 24), False), ((160, 50), True)])
async def test_sizes(size, ascii_only):
    async with running(Measured(30, 9), size=size, ascii_only=ascii_only) as (screen, pilot, _):
        for key in ("v", "v", "c"):
            shown = drawn(pilot.app).splitlines()
            assert len(shown) == size[1] and max(map(len, shown)) <= size[0]
            assert "30 layers" in shown[-2] and "? help" in shown[-1]
            assert not ascii_only or not set("●△┊█▒░▸─│╌┈") & set(drawn(pilot.app))
            await press(pilot, key)
            await settled(pilot)


async def test_a_terminal_too_small_says_so_and_a_larger_one_draws_again():
    async with running() as (screen, pilot, _):
        await pilot.resize_terminal(50, 12)
        await until(pilot, lambda: drawn(pilot.app).strip() == "stagescope needs 60x16, this terminal is 50x12")
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: "mean weight to each of 5 tokens before" in drawn(pilot.app))
        await pilot.resize_terminal(60, 16)
        await until(pilot, lambda: "▸weight" in drawn(pilot.app) and "token 0, the sink" not in drawn(pilot.app))


async def test_hostile_text_never_reaches_the_terminal():
    hostile = "\x1b]52;c;aGk=\x07 [/] [@click=app.quit]x[/] \u202e\u200b\n\x9b2J"
    engine = FakeEngine()
    engine.info = replace(engine.info, name=hostile, source=hostile)
    async with running(engine, prompt=hostile) as (screen, pilot, _):
        assert "\\u{1b}]52" in drawn(pilot.app)
        screen.found = {texts: replace(each, source=hostile) for texts, each in screen.found.items()}
        engine.failures[TakeEvidence] = [Failure("error", hostile, hostile)]
        for key in ("v", "v", "c"):
            await press(pilot, key)
            assert not HARMFUL.search(drawn(pilot.app))
        await until(pilot, lambda: "r tries again" in unwrapped(pilot.app))
        assert not HARMFUL.search(drawn(pilot.app)) and not pilot.app._exit


async def test_it_says_that_it_shows_the_baseline_when_there_is_an_edit():
    async with running(schedule="drop 11", size=(160, 50)) as (_, pilot, _):
        assert "the baseline, not drop 11" in drawn(pilot.app)
