"""The lens screen on the fake engine: it opens and asks, follows typed tokens, tells a depth, and can be left."""

from dataclasses import replace

import numpy as np
import pytest
from beside import PROMPT, beside, is_due, press
from beside import settled as beside_settled
from readings import make_census
from test_explore import HARMFUL, drawn, until, unwrapped
from test_sweep_screen import Turnstile, footer

from stagescope import actions
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Failure, FindToken, LensCurves, TakeLens
from stagescope.screens import lens_words
from stagescope.screens.ask import Ask
from stagescope.screens.asking import Chosen
from stagescope.screens.help import Help
from stagescope.screens.lens import LensScreen
from stagescope.screens.widgets import glyphs

LAST = 5


def running(engine=None, settle=True, census=True, **looked):
    engine = engine or FakeEngine()
    counted = make_census(engine.info.n_layers) if census else None
    return beside(LensScreen, engine, settled if settle else None, census=counted, **looked)


async def settled(pilot) -> None:
    await until(pilot, lambda: pilot.app.shown.followed)
    await beside_settled(pilot)


async def follow(pilot, text: str) -> None:
    """Type a token into the dialog, over what is proposed."""
    await pilot.press("t")
    await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
    await pilot.press(*text, "enter")
    await until(pilot, lambda: pilot.app.screen is pilot.app.shown)


def asked(engine: FakeEngine) -> list[TakeLens]:
    return [request for request in engine.requests if isinstance(request, TakeLens)]


@pytest.mark.parametrize("size, ascii_only", [((80, 24), False), ((160, 50), False), ((60, 16), False), ((80, 24), True)])
async def test_it_opens_with_the_output_s_top_token(size, ascii_only) -> None:
    async with running(size=size, ascii_only=ascii_only) as (screen, pilot, engine):
        first, second = asked(engine)
        top = int(screen.found[LAST, ()].top_ids[0, -1])
        assert first == TakeLens(PROMPT, "", -1) and second == TakeLens(PROMPT, "", LAST, (top,))
        n_shown, mark = {80: 2, 160: 5, 60: 1}[size[0]], "o" if ascii_only else "●"
        titles = ("KL to the output, nats", "neurons", "entropy, bits", "rank, 1 is the top", "p")
        await until(pilot, lambda: sum(f"{title}   {mark}" in drawn(pilot.app) for title in titles) == n_shown)
        text = drawn(pilot.app)
        assert "depth 12 of 12, layer 11" in text and "depth 0 is not drawn" in text and len(screen.view) == n_shown
        assert all(len(line) <= size[0] for line in text.splitlines())
        assert not ascii_only or "".join(text.splitlines()[1:-1]).isascii()  # the header and the footer are shared


async def test_what_is_tracked_is_followed_and_edit_and_position_are_those_at_hand() -> None:
    async with running(schedule="drop 3", tracked=7, position=2) as (_, pilot, engine):
        assert asked(engine) == [TakeLens(PROMPT, "drop 3", 2, (7,))]
        assert "edit ▸ drop 3" in drawn(pilot.app)
        await press(pilot, "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("drop 3", PROMPT, 2)])


async def test_keys_move_the_depth_and_the_token() -> None:
    async with running() as (screen, pilot, engine):
        await press(pilot, "left", "h")
        assert "depth 10 of 12, layer 9" in drawn(pilot.app)
        await press(pilot, "up")
        await settled(pilot)
        assert screen.position == LAST - 1 and "depth 10 of 12" in drawn(pilot.app) and "[·is]" in drawn(pilot.app)
        plain = screen.found[LAST - 1, ()]
        assert screen.curves.position == LAST - 1 and screen.followed == (plain.top_ids[0, -1],)
        n_asked = len(asked(engine))
        await press(pilot, "down", "down")
        assert screen.position == LAST and len(asked(engine)) == n_asked  # known already, and there is no next token
        await press(pilot, "home", "left")
        assert "depth 0 of 12, the embedding" in drawn(pilot.app)
        await press(pilot, "G", "enter")
        await until(pilot, lambda: pilot.app.results == [Chosen("", PROMPT, LAST)])


async def test_typed_tokens_are_followed_two_have_a_logit_difference() -> None:
    async with running(size=(160, 50)) as (screen, pilot, engine):
        (top,) = screen.followed
        await follow(pilot, "London")
        await until(pilot, lambda: len(screen.followed) == 2)
        await settled(pilot)
        assert engine.requests[-2] == FindToken("London") and screen.followed[0] == top
        assert "London" in drawn(pilot.app) and "logit difference   ●" in drawn(pilot.app)
        logit = screen.curves.logit[0, -1]
        assert f"logit difference {glyphs.signed(float(logit[0] - logit[1]))}, v1" in unwrapped(pilot.app)
        await follow(pilot, "London")
        await until(pilot, lambda: "London is followed already" in drawn(pilot.app))
        await follow(pilot, "Rome")
        await until(pilot, lambda: len(screen.followed) == 3)
        await settled(pilot)
        assert "difference" not in screen.view
        n_asked = len(asked(engine))
        await press(pilot, "T", "backspace")
        assert screen.followed == (top,) and len(asked(engine)) == n_asked
        await press(pilot, "T")
        assert screen.ids is None and screen.followed == (top,)
        await press(pilot, "T")
        assert "while there is no other" in drawn(pilot.app)


async def test_the_depth_s_top_token_is_proposed_and_esc_and_empty_do_as_they_say() -> None:
    async with running(tracked=7) as (screen, pilot, engine):
        await press(pilot, "left")
        token = int(screen.curves.top_ids[0, screen.depth])
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.followed == (7,) and not pilot.app.results
        await follow(pilot, "")
        await settled(pilot)
        assert screen.followed == (7, token) and not any(isinstance(r, FindToken) for r in engine.requests)
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("backspace", "enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        await settled(pilot)
        assert screen.ids is None and screen.followed == (int(screen.found[LAST, ()].top_ids[0, -1]),)


async def test_text_of_several_tokens_is_refused_kindly() -> None:
    async with running() as (screen, pilot, _):
        before = screen.followed
        await follow(pilot, "San Francisco")
        await until(pilot, lambda: "tokens. Give the text of one token." in unwrapped(pilot.app))
        assert screen.followed == before and not screen.dead


async def test_at_most_so_many_tokens_as_marks_are_told_apart() -> None:
    async with running(tracked=1) as (screen, pilot, _):
        screen.ids = tuple(range(1, 9))
        screen.go_on()
        await settled(pilot)
        await press(pilot, "t")
        assert "8 tokens are followed" in drawn(pilot.app) and pilot.app.screen is screen


async def test_v_cycles_the_panels_and_l_the_lens_of_the_tokens() -> None:
    async with running() as (screen, pilot, _):
        views = []
        for _ in range(4):
            views.append(screen.view)
            await press(pilot, "v")
        assert views == [("entropy", "kl"), ("rank", "p"), ("kl", "neurons"), ("entropy", "kl")]
        assert "rank, 1 is the top   ●" in drawn(pilot.app)
        before = drawn(pilot.app)
        await press(pilot, "L")
        assert "rank, 1 is the top, v1 lens   ●" in drawn(pilot.app) and "tokens: v1 lens" in drawn(pilot.app)
        assert drawn(pilot.app) != before
        await pilot.click("#views", offset=(5, 0))  # neurons
        assert screen.view == ("kl", "neurons") and "● prediction  △ suppression" in drawn(pilot.app)


async def test_a_click_moves_to_the_nearest_depth_or_token_and_all_panels_come_back() -> None:
    async with running(size=(160, 50)) as (screen, pilot, _):
        await pilot.click(screen.panels["entropy"], offset=(8, 5))
        await until(pilot, lambda: screen.depth == 0 and not is_due(screen))
        await pilot.click(screen.panels["rank"], offset=(screen.panels["rank"].size.width - 1, 5))
        await until(pilot, lambda: screen.depth == 12 and not is_due(screen))
        for shown in (("kl", "neurons"), screen.choices()[0]):
            await pilot.click("#views", offset=(5, 0))
            assert screen.view == shown
        await pilot.click("#tokens", offset=(6, 0))
        await settled(pilot)
        assert screen.position == 0


async def test_without_a_census_there_is_no_panel_of_neurons() -> None:
    async with running(census=False, size=(160, 50)) as (screen, pilot, _):
        assert "neurons" not in drawn(pilot.app) and len(screen.view) == 4


async def test_escape_stops_what_runs_r_goes_on_and_escape_leaves() -> None:
    engine = FakeEngine()
    engine.gates[TakeLens] = Turnstile(0)
    async with running(engine, settle=False) as (_, pilot, _):
        await until(pilot, lambda: "measuring 10 %" in unwrapped(pilot.app))
        await press(pilot, "left", "up", "v", "L", "home")  # nothing is there yet, and nothing breaks
        await press(pilot, "escape")
        await until(pilot, lambda: "not run yet; r runs it" in drawn(pilot.app))
        assert not pilot.app.results and "go on" in footer(pilot.app)
        engine.gates.clear()
        await press(pilot, "r")
        await settled(pilot)
        assert "rank, 1 is the top, v1 lens" in drawn(pilot.app)
        await press(pilot, "escape")
        await until(pilot, lambda: pilot.app.results == [None])


async def test_a_failure_is_told_and_a_dead_engine_can_be_left() -> None:
    engine = FakeEngine()
    engine.failures[TakeLens] = [Failure("error", "it broke.", "Try less.")]
    async with running(engine, settle=False) as (screen, pilot, _):
        await until(pilot, lambda: "it broke. Try less. r tries again." in unwrapped(pilot.app))
        await press(pilot, "r")
        await settled(pilot)
        engine.failures[FindToken] = [Failure("died", "The engine ended.", "")]
        await follow(pilot, "London")
        await until(pilot, lambda: screen.dead and "r goes back to the stack" in unwrapped(pilot.app))
        await press(pilot, "r")
        await until(pilot, lambda: pilot.app.results == [None])
        assert screen.restart


async def test_a_terminal_too_small_says_so_and_a_larger_one_draws_again() -> None:
    async with running() as (screen, pilot, _):
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: "stagescope needs" in drawn(pilot.app))
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: len(screen.view) == 5 and "neurons   ●" in drawn(pilot.app))
        assert "rank, 1 is the top" in drawn(pilot.app) and "depth 12 of 12" in drawn(pilot.app)


async def test_hostile_text_never_reaches_the_terminal() -> None:
    hostile = "\x1b]52;c;aGk=\x07[/][@click=app.quit]x\u202e\u200b"

    class Hostile(FakeEngine):
        def _finding(self, request):
            for reply in super()._finding(request):
                if isinstance(reply, LensCurves):
                    bad = {token: hostile for token in reply.texts}
                    tokens = [tuple(replace(t, text=hostile) for t in of) for of in (reply.tokens, reply.followed)]
                    reply = replace(reply, texts=bad, tokens=tokens[0], followed=tokens[1])
                yield reply

    async with running(Hostile(), size=(160, 50), tracked=9) as (screen, pilot, engine):
        assert not HARMFUL.search(drawn(pilot.app)) and "\\u{1b}]52" in drawn(pilot.app)
        engine.failures[FindToken] = [Failure("usage", hostile, hostile)]
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        assert not HARMFUL.search(drawn(pilot.app))
        await pilot.press("x", "enter")
        await until(pilot, lambda: pilot.app.screen is screen and screen.note)
        assert not HARMFUL.search(drawn(pilot.app)) and not pilot.app._exit


async def test_the_help_has_every_key() -> None:
    async with running() as (screen, pilot, _):
        await pilot.press("?")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        from stagescope.screens.help import page

        shown = page("lens").plain
        for action in actions.of("lens"):
            assert action.help in shown and callable(getattr(screen, f"action_{action.name}"))


def test_counts_are_of_the_layers_that_ran() -> None:
    census = make_census(4, orientation="corpus")
    engine = FakeEngine(4)
    from stagescope.engine.fake_findings import lens_curves

    curves = lens_curves(engine.info, TakeLens("x"), engine.tokenize("x"), {1: "a"})
    curves = replace(curves, layers=((), (0,), (2, 3), (1,)))
    counted = lens_words.counts(curves, census)
    p = census.prediction
    assert counted["prediction"].tolist() == [0, p[0], p[2] + p[3], p[1]] and set(counted) == {"prediction", "suppression"}
    unsigned = lens_words.counts(curves, replace(census, unsigned=np.ones(4, np.int32)))
    assert unsigned["unsigned"].tolist() == [0, 1, 2, 1]
    assert list(lens_words.counts(curves, replace(census, orientation="none"))) == ["kurtosis > 10"]


def test_arrivals_are_told_in_short_where_sentences_do_not_fit() -> None:
    engine = FakeEngine(4)
    from stagescope.engine.fake_findings import lens_curves

    request = TakeLens("x", tokens=(1, 2))
    curves = lens_curves(engine.info, request, engine.tokenize("x"), {1: " Paris", 2: " Rome"})
    rank = np.array([[900, 900], [12, 900], [9, 900], [1, 40], [1, 33.0]])
    curves = replace(curves, rank=np.stack([rank, rank]))
    short = lens_words.arrivals(curves, 1, 60, glyphs.UNICODE).plain
    assert short == "v1: ·Paris top from 3, top 10 from 2 · ·Rome ends at rank 33"
    assert "is the top token from depth 3 of 4 on" in lens_words.arrivals(curves, 0, 200, glyphs.UNICODE).plain
