"""Keys of one's own: in the bindings of every place, in footer, help and palette, and under a person's fingers."""

import json
import os
import subprocess
import sys

import pytest
from test_actions import PLACES
from test_terminal import Terminal

from stagescope import actions, keymap

SEEN = """
import json, sys
from stagescope import actions, keymap
actions.remap(keymap.checked(json.loads(sys.argv[1])))
sys.path.insert(0, sys.argv[2])
from test_actions import PLACES
from stagescope.screens.help import page
from stagescope.screens.widgets.line import PromptField, ScheduleField
from stagescope.guide import TourApp
from stagescope.watch import WatchApp
bound = {"prompt": PromptField, "schedule": ScheduleField, "tour": TourApp}
found = {
    place: {
        "bound": {key: binding[0].action for key, binding in bound.get(place, screen)._merged_bindings.key_to_bindings.items()},
        "footer": [actions.key_name(action.keys[0]) for action in actions.footer(200, place)],
        "help": page(place).plain if place in ("explore", "player", *actions.BESIDE) else "",
    }
    for place, screen in PLACES.items()
}
found["watched"] = sorted(WatchApp._merged_bindings.key_to_bindings)
print(json.dumps(found))
"""


def seen(keys: dict) -> dict:
    """What every place binds, offers in its footer and says in its help, in a process that remaps before it imports them."""
    done = subprocess.run([sys.executable, "-c", SEEN, json.dumps(keys), os.path.dirname(__file__)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def every_place() -> dict:
    """One action of every place on ctrl+alt+x; those that have a footer, of the footer."""
    chosen = {place: next((a for a in actions.of(place) if a.footer), actions.of(place)[0]).name for place in PLACES}
    return {"chosen": chosen, "seen": seen({place: {name: f"ctrl+alt+{letter}"} for letter, (place, name) in zip("abcdefghijklmnopqrstu", chosen.items(), strict=False)})}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_binds_offers_and_explains_the_new_key(place, every_place):
    name, found = every_place["chosen"][place], every_place["seen"][place]
    action = actions.find(place, name)
    (key,) = [key for key, run in found["bound"].items() if key.startswith("ctrl+alt+") and run.endswith((f".{name}", f"('{name}')"))]
    assert not any(found["bound"].get(key, "").endswith(f".{name}") for key in action.keys)
    assert key in found["footer"] or not action.footer
    assert key in found["help"] or not found["help"] or place == "app"


def test_an_action_is_remapped_wherever_it_is_or_in_one_place_alone():
    everywhere = keymap.checked({"export": "ctrl+e"})
    assert {place for place, _ in everywhere} == {action.place for action in actions.ACTIONS if action.name == "export"}
    both = keymap.checked({"view": "ctrl+v", "sweep": {"view": "V"}})
    assert both["sweep", "view"] == ("V",) and both["lens", "view"] == ("ctrl+v",)
    assert keymap.checked({"sweep": {"view": "V"}, "view": "ctrl+v"}) == both  # whichever stands first


def test_keys_are_spelled_as_the_table_spells_them():
    spelled = keymap.checked({"explore": {"drop": [",", ".", " ", "Ctrl+Up", "exclamation_mark", "F5", "+", "alt+enter"], "help": "f1"}})
    assert spelled["explore", "drop"] == ("comma", "full_stop", "space", "ctrl+up", "!", "f5", "+", "alt+enter")


def test_two_actions_may_exchange_their_keys():
    assert keymap.checked({"explore": {"drop": "a", "attn": "d"}}) == {("explore", "drop"): ("a",), ("explore", "attn"): ("d",)}


def test_an_action_without_a_key_is_neither_bound_nor_offered():
    found = seen({"drop": []})["explore"]
    assert not any("drop" in run for run in found["bound"].values()) and "d" not in found["footer"]


@pytest.mark.parametrize("name", sorted(keymap.ESSENTIAL))
def test_what_one_needs_to_get_out_keeps_a_key(name):
    with pytest.raises(keymap.KeymapError, match="no key left"):
        keymap.checked({name: []})


def test_nothing_essential_is_missing():
    """Every place that is a screen has at least one way out that cannot be taken away."""
    for place in PLACES:
        if place not in ("app", "prompt", "schedule", "tour"):  # the tour is a panel on the stack
            assert {action.name for action in actions.of(place)} & keymap.ESSENTIAL


def test_under_a_persons_fingers(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text('[keys]\ndrop = ["Z", "f9"]\nquit = "ctrl+x"\nexplore.help = "!"\n')
    program = ["-c", APP]
    terminal = Terminal(columns=100, lines=30, program=program, env={"STAGESCOPE_HOME": str(tmp_path)})
    try:
        text = terminal.until(lambda text: "idle" in text and "Z drop" in text)
        assert "ctrl+x quit" in text and "! help" in text
        terminal.child.send("d")  # nothing any more
        terminal.child.send("Z")
        terminal.until("dropped")
        terminal.child.send("u")
        terminal.until(lambda text: "dropped" not in text)
        terminal.child.send("\x1b[20~")  # f9
        terminal.until("dropped")
        terminal.child.send("!")
        terminal.until("Z f9")
        terminal.until("Look at the token after")  # the page is drawn to its end
        terminal.child.send("\x1b")
        terminal.until(lambda text: "ctrl+x quit" in text and "Edit the layer" not in text)
        terminal.child.send("\x18")
        terminal.draw(1)
        if "Quit?" in terminal.text:
            terminal.child.send("y")
        assert terminal.end() == 0
    finally:
        terminal.child.close(force=True)


APP = """
import sys
from stagescope import cli
from stagescope.engine import client, fake
client.ChildEngine = fake.FakeEngine
cli.main(["--no-record"])
"""


SENTENCES = """
import asyncio, sys
from stagescope import actions, keymap
actions.remap(keymap.checked({"back": ["ctrl+g"], "rest": "f4", "pin": "ctrl+t", "export": [], "cancel": "f8"}))
from stagescope.app import StageApp
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Progress
from stagescope.screens import attention_words, sweep_words, words

async def run():
    app = StageApp(FakeEngine)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("]")
        print(app.explore.note)
        app.explore.reading = None
        app.explore.action_export()
        print(app.explore.note)

print(words.progress(Progress("x", 0.5)), words.progress(Progress("x", 0.5), "cancel"), sweep_words.count(0, 3, False), sep="; ")
asyncio.run(run())
"""


def test_sentences_name_the_keys_of_ones_own():
    done = subprocess.run([sys.executable, "-c", SENTENCES], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "x 50 % · ctrl+g cancels; x 50 % · f8 cancels; 0 of 3 rows; f4 goes on",
        "the deck is empty: ctrl+t pins this prompt",
        "what is looked at is not there to its end yet: ctrl+p export when it is",
    ], done.stderr
