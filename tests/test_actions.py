"""The table of keys: no collisions, a method behind every row, a page that is not stale."""

import re
from collections import Counter
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.binding import BindingsMap

from stagescope import actions
from stagescope.app import StageApp
from stagescope.screens.ask import Ask, Confirm
from stagescope.screens.attention import AttentionScreen
from stagescope.screens.attribution import AttributionScreen
from stagescope.screens.compare import CompareScreen
from stagescope.screens.explore import Explore
from stagescope.screens.heads import HeadsScreen
from stagescope.screens.help import Help, page
from stagescope.screens.lens import LensScreen
from stagescope.screens.models import Models
from stagescope.screens.neurons import NeuronsScreen
from stagescope.screens.player import Player
from stagescope.screens.probe import ProbeScreen
from stagescope.screens.similarity import SimilarityScreen
from stagescope.screens.stages import StagesScreen
from stagescope.screens.sweep import SweepScreen
from stagescope.screens.tour import Tour
from stagescope.screens.write import WriteScreen

PLACES = {
    "explore": Explore, "prompt": Explore, "schedule": Explore, "sweep": SweepScreen, "help": Help, "models": Models,
    "ask": Ask, "confirm": Confirm, "app": StageApp, "lens": LensScreen, "attention": AttentionScreen,
    "neurons": NeuronsScreen, "stages": StagesScreen, "attribution": AttributionScreen, "heads": HeadsScreen,
    "probe": ProbeScreen, "similarity": SimilarityScreen, "compare": CompareScreen, "write": WriteScreen,
    "player": Player, "tour": Tour,
}  # fmt: skip
WHOLE = ["explore", "player", *actions.BESIDE]  # screens with a help of their own


@pytest.mark.parametrize("place", PLACES)
def test_every_key_means_one_thing_in_its_place(place):
    keys = Counter(key for action in actions.of(place) for key in action.keys)
    if place != "app":
        keys += Counter(key for action in actions.of("app") for key in action.keys)
    assert {key for key, count in keys.items() if count > 1} == set()


@pytest.mark.parametrize("action", actions.ACTIONS, ids=lambda action: f"{action.place}-{action.name}")
def test_every_action_has_its_method(action):
    assert callable(getattr(PLACES[action.place], f"action_{action.name}"))
    assert action.help.endswith((".", "?")) and len(action.label) <= 14


def test_no_key_is_one_that_terminals_or_multiplexers_take():
    keys = {key for action in actions.ACTIONS for key in action.keys}
    assert not keys & {"ctrl+a", "ctrl+b", "ctrl+h", "ctrl+i", "ctrl+m", "ctrl+s", "ctrl+q", "ctrl+z", "esc"}


@pytest.mark.parametrize("place", WHOLE)
def test_textual_understands_every_key(place):
    bound = BindingsMap(actions.bindings(place)).key_to_bindings
    assert len(bound) == sum(len(action.keys) for action in actions.of(place))


@pytest.mark.parametrize("width", [16, 60, 80, 120, 220])
@pytest.mark.parametrize("place", ["prompt", "schedule", *WHOLE])
def test_the_footer_fits(width, place):
    shown = actions.footer(width, place)
    assert sum(cell_len(f"{actions.key_name(a.keys[0])} {a.label}  ") for a in shown) <= width
    assert place != "explore" or {"help", "quit"} <= {action.name for action in shown}


def test_the_footer_leaves_out_what_cannot_be_done_and_offers_more_instead():
    names = [action.name for action in actions.footer(60, "sweep", {"view", "rest"})]
    assert not {"view", "rest"} & set(names) and len(names) >= len(actions.footer(60, "sweep")) - 1


@pytest.mark.parametrize("place", WHOLE)
def test_the_help_of_a_screen_has_all_its_keys(place):
    shown = page(place).plain
    for action in (*actions.of(place), *actions.of("app")):
        is_shown = place == "explore" or not action.name.startswith("focus_")  # one pane: nowhere to go with tab
        assert (action.help in shown) == is_shown
        assert actions.keys_text(action) in shown or not is_shown


def test_docs_keys_is_what_the_table_says():
    page = Path(__file__).parents[1] / "docs" / "keys.md"
    assert page.read_text(encoding="utf-8") == actions.keys_markdown(), "stale: see the top of docs/keys.md"


def test_every_key_that_a_sentence_names_is_of_an_action_there():
    for file in sorted((Path(actions.__file__).parent / "screens").glob("*.py")):
        text = file.read_text("utf-8")
        here = re.search(r'^    PLACE = "(\w+)"', text, re.MULTILINE)
        for name, place in re.findall(r"actions\.key\(['\"](\w+)['\"](?:, ([^)]+))?\)", text):
            places = [here[1]] if place == "self.PLACE" and here else actions.BESIDE if place == "self.PLACE" else [place.strip("'\"")]
            assert all(actions.key(name, place) for place in places)
