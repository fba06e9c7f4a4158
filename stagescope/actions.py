"""The one table of keys: bindings, footer, help screen, command palette and docs/keys.md all come from it.

An action called "drop" is the method `action_drop` of the screen it works in. Its place is that screen
("explore", "sweep", "lens", "help", "ask" ...), one of the two lines of the explore screen that take
text ("prompt", "schedule"), or the whole "app". Keys are spelled as Textual spells them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.binding import Binding


@dataclass(frozen=True)
class Action:
    name: str
    keys: tuple[str, ...]
    label: str  # footer and palette, as short as it can be
    help: str  # one sentence
    group: str  # heading in the help
    place: str
    footer: int  # 1 is the last to go when the terminal is narrow; 0 never stands in the footer


EDIT, MOVE, LOOK = "Edit the layer under the cursor", "Move", "Look"
ASK, KEEP, PROGRAM = "Prompt and schedule", "Keep and share", "Program"
PLAY, TOUR = "Watch a session", "On the tour"
# The screens beside the stack, as the help calls them.
BESIDE = {
    "sweep": "Sweep", "lens": "Lens", "attention": "Attention", "neurons": "Neurons", "stages": "Stages",
    "attribution": "Attribution", "heads": "Heads", "probe": "Probe", "similarity": "Similarity", "compare": "Compare",
    "write": "Write",
}  # fmt: skip
# The action of the explore screen that opens each.
OPENS = {place: "lens_curves" if place == "lens" else place for place in BESIDE}

# Of every screen beside the stack, after its own.
_OF_ALL = (
    ("export", "e", "export", "Write what is shown into a file; its extension says in which format.", KEEP, 0),
    ("copy", "y", "copy", "Copy a cell, the row, the table or the shell command; y again: the command.", KEEP, 0),
    ("rest", "r", "go on", "Run what was cancelled or failed; start an engine that died.", PROGRAM, 5),
    ("back", "escape q", "back", "Cancel what runs and keep what is done; again: back to the stack.", PROGRAM, 1),
    ("help", "?", "help", "Show this page.", PROGRAM, 1),
)
_TABLE = {  # place -> rows of (name, keys, label, help, group, footer)
    "explore": (
        ("drop", "d", "drop", "Take the layer out: the residual stream passes by (again: back).", EDIT, 2),
        ("attn", "a", "attn", "Switch the layer's attention off (again: on).", EDIT, 5),
        ("mlp", "m", "mlp", "Switch the layer's MLP off (again: on).", EDIT, 6),
        ("swap_up", "s", "swap↑", "Exchange the layer with the one drawn above it.", EDIT, 7),
        ("swap_down", "S", "swap↓", "Exchange the layer with the one drawn below it.", EDIT, 13),
        ("repeat", "x", "repeat", "Run the layer twice in place (again: once).", EDIT, 11),
        ("undo", "u", "undo", "Undo the last change of the schedule.", EDIT, 8),
        ("redo", "ctrl+r", "redo", "Do again what was undone.", EDIT, 0),
        ("baseline", "b", "baseline", "Show the baseline; again: the edit. Undo works here too.", EDIT, 9),
        ("edit", ":", "edit", "Type a schedule: drop 3-5; swap 7 8; attn-off 2 @ -1.", ASK, 4),
        ("prompt", "/ i", "prompt", "Type the prompt; tokens, output and stack follow.", ASK, 3),
        ("up", "up k", "row up", "Move one row up.", MOVE, 0),
        ("down", "down j", "row down", "Move one row down.", MOVE, 0),
        ("page_up", "pageup", "page up", "Move one screenful up.", MOVE, 0),
        ("page_down", "pagedown", "page down", "Move one screenful down.", MOVE, 0),
        ("top", "home g", "first row", "Move to the topmost row.", MOVE, 0),
        ("bottom", "end G", "last row", "Move to the lowest row.", MOVE, 0),
        ("left", "left h", "token left", "Look at the token before.", MOVE, 0),
        ("right", "right l", "token right", "Look at the token after.", MOVE, 0),
        ("view", "v", "view", "Cycle: stack, grid of top tokens, grid of the change.", LOOK, 10),
        ("track", "t", "track", "Follow one token: type it, or take the row's top token.", LOOK, 12),
        ("lens", "L", "lens", "Logit lens: standard, or the paper's v1 (final scale everywhere).", LOOK, 0),
        ("flip", "o", "flip", "Draw the last layer on top, or at the bottom.", LOOK, 0),
        ("note", "n", "note", "Write a note into the session; words that begin with # are its tags.", KEEP, 0),
        ("name", "R", "name", "Name the session, or look which it is.", KEEP, 0),
        ("export", "e", "export", "Write what is shown into a file; its extension says in which format.", KEEP, 0),
        ("copy", "y", "copy", "Copy a cell, the row, the table or the shell command; y again: the command.", KEEP, 0),
        ("sweep", "w", "sweep", "Drop every layer, swap every pair: the effect by depth.", LOOK, 3),
        ("lens_curves", "f", "follow", "The lens by depth, corrected and v1; where tokens of yours arrive.", LOOK, 0),
        ("attention", "A", "near", "Attention to near tokens, by layer and head.", LOOK, 0),
        ("neurons", "N", "neurons", "The strongest prediction and suppression neurons, and what they write.", LOOK, 0),
        ("stages", "E", "stages", "The four stages: their boundaries, and every curve they rest on.", LOOK, 4),
        ("attribution", "D", "direct", "What each sublayer adds to the token's logit; under an edit, what repairs it.", LOOK, 0),
        ("column", "c", "column", "Attention and MLP: their norms, what they add to the token's logit, its change by the edit.", LOOK, 0),
        ("heads", "H", "heads", "Heads that join the pieces of words; one head's pattern on the prompt.", LOOK, 0),
        ("probe", "P", "probe", "Can single neurons tell that the next token ends in -ing?", LOOK, 0),
        ("compare", "C", "compare", "Keep this reading; again, on another: hold the two side by side.", LOOK, 0),
        ("write", "W", "write", "Go on writing, token by token: the baseline beside the edit, and where they part.", LOOK, 0),
        ("similarity", "B", "alike", "How alike the layers are: block influence, angular distance, CKA.", LOOK, 0),
        ("pin", "p", "pin", "Pin the prompt to the deck; again: take it off.", ASK, 0),
        ("deck_back", "[ ctrl+left", "deck back", "Go to the pinned prompt before.", ASK, 0),
        ("deck_forward", "] ctrl+right", "deck on", "Go to the next pinned prompt.", ASK, 0),
        ("models", "M ctrl+o", "model", "Load another model.", PROGRAM, 14),
        ("restart", "r", "go on", "Start an engine that died; run what was cancelled.", PROGRAM, 0),
        ("cancel", "escape", "cancel", "Cancel the job that runs.", PROGRAM, 0),
        ("help", "?", "help", "Show this page.", PROGRAM, 1),
        ("quit", "q", "quit", "Quit; asks first when that would lose time.", PROGRAM, 1),
    ),
    "sweep": (
        ("left", "left h", "layer down", "Move to the layer before; in a grid: to the token or head; of sets: a smaller one.", MOVE, 0),
        ("right", "right l", "layer up", "Move to the layer after; in a grid: to the token or head; of sets: a larger one.", MOVE, 0),
        ("up", "up k", "series", "Move to the other series; in a grid: to the layer above.", MOVE, 0),
        ("down", "down j", "series", "Move to the other series; in a grid: to the layer below.", MOVE, 0),
        ("first", "home g", "first", "Move to the first layer; in a grid: to the first token or head.", MOVE, 0),
        ("last", "end G", "last", "Move to the last layer; in a grid: to the last token or head.", MOVE, 0),
        ("open", "enter", "show it", "Show the chosen schedule in the stack.", LOOK, 2),
        ("view", "v", "view", "Cycle: drop and swap, attention and MLP off, trace, single heads, sets of neurons.", LOOK, 3),
        ("measure", "m", "measure", "Cycle: KL, top-1 kept, entropy change; all three where they fit.", LOOK, 4),
        ("deck_back", "[ ctrl+left", "deck back", "Go to the pinned prompt before; before the first: all.", ASK, 7),
        ("deck_forward", "] ctrl+right", "deck on", "Go to the next pinned prompt; after the last: all.", ASK, 6),
    ),
    "lens": (
        ("left", "left h", "depth down", "Move to the depth before.", MOVE, 0),
        ("right", "right l", "depth up", "Move to the depth after.", MOVE, 0),
        ("up", "up k", "token back", "Look at the token before.", MOVE, 8),
        ("down", "down j", "token on", "Look at the token after.", MOVE, 7),
        ("first", "home g", "first", "Move to the embedding.", MOVE, 0),
        ("last", "end G", "last", "Move to the last depth, the output.", MOVE, 0),
        ("open", "enter", "to the stack", "Show this token in the stack.", LOOK, 6),
        ("track", "t", "follow", "Follow one more token: type it, or take the depth's top token.", LOOK, 2),
        ("untrack", "T backspace", "take off", "Take the last followed token off.", LOOK, 4),
        ("view", "v", "view", "Cycle: all panels where they fit, then two by two, or one by one.", LOOK, 3),
        ("lens", "L", "lens", "Draw the followed tokens under the corrected lens, or under v1.", LOOK, 9),
    ),
    "attention": (
        ("left", "left h", "layer down", "Move to the layer before; among the heads: to the head before.", MOVE, 0),
        ("right", "right l", "layer up", "Move to the layer after; among the heads: to the head after.", MOVE, 0),
        ("up", "up", "layer up", "Move to the layer above.", MOVE, 0),
        ("down", "down", "layer down", "Move to the layer below.", MOVE, 0),
        ("first", "home g", "first", "Move to the first layer; among the heads: to the first head.", MOVE, 0),
        ("last", "end G", "last", "Move to the last layer; among the heads: to the last head.", MOVE, 0),
        ("open", "enter", "attn off", "Show the stack with the attention of the chosen layer switched off.", LOOK, 6),
        ("head_off", "x", "off", "Switch the head under the cursor off as well, in the stack (again: on).", LOOK, 5),
        ("view", "v", "view", "Cycle: attention by layer (Figure 4), layers x heads, norms (Figures 5 and 7).", LOOK, 2),
        ("offset", "k", "tokens before", "Cycle k, how many tokens before: 1, 2, 4, 5, 8, 16.", LOOK, 3),
        ("measure", "m s", "measure", "Cycle the panels; of the heads: sink-free, with the sink, the sink's mass.", LOOK, 4),
        ("text", "c", "text", "Measure over the standard text, with intervals; again: over the prompt.", LOOK, 5),
    ),
    "neurons": (
        ("up", "up k", "line up", "Move to the layer above; in the list to the neuron above.", MOVE, 0),
        ("down", "down j", "line down", "Move to the layer below; in the list to the neuron below.", MOVE, 0),
        ("page_up", "pageup", "page up", "Move one screenful up.", MOVE, 0),
        ("page_down", "pagedown", "page down", "Move one screenful down.", MOVE, 0),
        ("first", "home g", "first", "Move to the first line: all layers; in the list the strongest.", MOVE, 0),
        ("last", "end G", "last", "Move to the last line.", MOVE, 0),
        ("left", "left h", "layers", "Back to the layers.", MOVE, 8),
        ("right", "right l", "neurons", "Into the list: the neuron under the cursor is told in full.", MOVE, 4),
        ("token_back", "[ ctrl+left", "token back", "Show the activation at the token before.", MOVE, 0),
        ("token_forward", "] ctrl+right", "token on", "Show the activation at the token after.", MOVE, 9),
        ("open", "enter", "mlp off", "Show the stack with the layer's MLP switched off.", LOOK, 7),
        ("neuron_off", "x", "off", "Switch the neuron under the cursor off as well, in the stack (again: on).", LOOK, 5),
        ("view", "v", "view", "The strongest neurons, or skew against kurtosis of every neuron.", LOOK, 2),
        ("kind", "c", "class", "Cycle: all classes, prediction, suppression, unsigned, partition candidates.", LOOK, 3),
        ("more", "m", "more", "List the 50 strongest of each class; again: 10.", LOOK, 6),
    ),
    "stages": (
        ("left", "left h", "layer down", "Move to the layer before.", MOVE, 0),
        ("right", "right l", "layer up", "Move to the layer after.", MOVE, 0),
        ("up", "up k", "before", "The panel before, where not all fit; of the evidence: the boundary.", MOVE, 7),
        ("down", "down j", "next", "The next panel, where not all fit; of the evidence: the boundary.", MOVE, 6),
        ("first", "home g", "first", "Move to the first layer.", MOVE, 0),
        ("last", "end G", "last", "Move to the last layer.", MOVE, 0),
        ("open", "enter", "drop it", "Drop the layer under the cursor, in the stack.", LOOK, 4),
        ("view", "v", "evidence", "What each curve of the rule says of a boundary; again: the paper's.", LOOK, 2),
        ("text", "c", "text", "Measure over the standard text (minutes on a CPU); again: over the prompt.", LOOK, 3),
    ),
    "attribution": (
        ("left", "left h", "layer down", "Move to the layer before.", MOVE, 0),
        ("right", "right l", "layer up", "Move to the layer after.", MOVE, 0),
        ("up", "up k", "token back", "Look at the token before.", MOVE, 7),
        ("down", "down j", "token on", "Look at the token after.", MOVE, 6),
        ("first", "home g", "first", "Move to the first layer.", MOVE, 0),
        ("last", "end G", "last", "Move to the last layer.", MOVE, 0),
        ("open", "enter", "drop it", "Drop the layer under the cursor, in the stack.", LOOK, 4),
        ("track", "t", "follow", "Follow another token: type it; nothing typed is the baseline's top token.", LOOK, 2),
        ("view", "v", "view", "Under an edit cycle: both panels where they fit, then each alone.", LOOK, 3),
    ),
    "heads": (
        ("up", "up k", "head up", "Move to the line above; in the grid to the layer above.", MOVE, 0),
        ("down", "down j", "head down", "Move to the line below; in the grid to the layer below.", MOVE, 0),
        ("page_up", "pageup", "page up", "Move one screenful up.", MOVE, 0),
        ("page_down", "pagedown", "page down", "Move one screenful down.", MOVE, 0),
        ("first", "home g", "first", "Move to the highest score; in the grid to the first head.", MOVE, 0),
        ("last", "end G", "last", "Move to the lowest score; in the grid to the last head.", MOVE, 0),
        ("left", "left h", "token back", "Look from the token before; in the grid: the head before.", MOVE, 0),
        ("right", "right l", "token on", "Look from the token after; in the grid: the head after.", MOVE, 0),
        ("token_back", "[ ctrl+left", "token back", "Look from the token before.", MOVE, 8),
        ("token_forward", "] ctrl+right", "token on", "Look from the token after.", MOVE, 7),
        ("open", "enter x", "head off", "Switch this head off as well, in the stack (again: on).", LOOK, 4),
        ("view", "v", "view", "Heads ranked by their score, or layers x heads.", LOOK, 2),
        ("pieces", "c", "pieces", "Cycle how many tokens the words have: 2, 3, 4.", LOOK, 3),
    ),
    "probe": (
        ("up", "up k", "neuron up", "Move to the neuron above.", MOVE, 0),
        ("down", "down j", "neuron down", "Move to the neuron below.", MOVE, 0),
        ("page_up", "pageup", "page up", "Move one screenful up.", MOVE, 0),
        ("page_down", "pagedown", "page down", "Move one screenful down.", MOVE, 0),
        ("first", "home g", "first", "Move to the best neuron.", MOVE, 0),
        ("last", "end G", "last", "Move to the last neuron.", MOVE, 0),
        ("left", "left h", "fewer", "Tell the ensembles of fewer neurons.", MOVE, 8),
        ("right", "right l", "more", "Tell the ensembles of more neurons.", MOVE, 7),
        ("open", "enter x", "neuron off", "Switch this neuron off as well, in the stack (again: on).", LOOK, 4),
        ("view", "v", "view", "Cycle: single neurons, ensembles by size; both where they fit.", LOOK, 2),
        ("kind", "c", "class", "Cycle: all classes, then each alone.", LOOK, 6),
        ("suffix", "s t", "suffix", "Ask for another ending of the next token.", LOOK, 3),
    ),
    "similarity": (
        ("left", "left h", "layer down", "Move to the layer before; of CKA: the depth on the left.", MOVE, 0),
        ("right", "right l", "layer up", "Move to the layer after; of CKA: the depth on the right.", MOVE, 0),
        ("up", "up k", "more layers", "More layers together: 1, 2, 4, 8; of CKA: the depth above.", MOVE, 6),
        ("down", "down j", "fewer", "Fewer layers together; of CKA: the depth below.", MOVE, 7),
        ("first", "home g", "first", "Move to the first layer.", MOVE, 0),
        ("last", "end G", "last", "Move to the last layer.", MOVE, 0),
        ("open", "enter", "drop them", "Drop the layers under the cursor, in the stack.", LOOK, 4),
        ("view", "v", "view", "Cycle: block influence and angular distance, CKA of every two depths.", LOOK, 2),
        ("text", "c", "text", "Measure over the standard text, with intervals; again: over the prompt.", LOOK, 3),
    ),
    "compare": (
        ("up", "up k", "depth up", "Move to the depth above.", MOVE, 0),
        ("down", "down j", "depth down", "Move to the depth below.", MOVE, 0),
        ("page_up", "pageup", "page up", "Move one screenful up.", MOVE, 0),
        ("page_down", "pagedown", "page down", "Move one screenful down.", MOVE, 0),
        ("first", "home g", "output", "Move to the outputs.", MOVE, 0),
        ("last", "end G", "embedding", "Move to the embeddings.", MOVE, 0),
        ("left", "left h", "token left", "Look at the token before.", MOVE, 0),
        ("right", "right l", "token right", "Look at the token after.", MOVE, 0),
        ("open", "enter", "show B", "Show side B in the stack.", LOOK, 4),
        ("exchange", "x", "A and B", "Exchange the sides: KL is of A against B.", LOOK, 3),
        ("view", "v", "view", "Cycle: side by side, what differs.", LOOK, 2),
    ),
    "write": (
        ("up", "up k", "step back", "Move to the step before.", MOVE, 0),
        ("down", "down j", "step on", "Move to the next step.", MOVE, 0),
        ("page_up", "pageup", "page up", "Move one screenful up.", MOVE, 0),
        ("page_down", "pagedown", "page down", "Move one screenful down.", MOVE, 0),
        ("first", "home g", "first", "Move to the first step.", MOVE, 0),
        ("last", "end G", "last", "Move to the newest step, and stay there while more come.", MOVE, 0),
        ("left", "left h", "baseline", "Look at the baseline's text.", MOVE, 0),
        ("right", "right l", "edit", "Look at the edit's text.", MOVE, 0),
        ("parting", "p", "parting", "Move to the step where the two part.", MOVE, 5),
        ("open", "enter", "show it", "Show this step in the stack: the prompt goes on to the token before it.", LOOK, 2),
        ("sampling", "t", "sampling", "Greedy or drawn, and how many tokens: temperature 0.8, top-k 50, seed 1, tokens 60.", LOOK, 3),
        ("seed", "s", "next seed", "Draw once more, with the next seed.", LOOK, 4),
        ("rest", "r", "write anew", "Write what was stopped or failed from its first token; start an engine that died.", PROGRAM, 5),
    ),
    "app": (
        ("interrupt", "ctrl+c", "quit now", "Quit without a question.", PROGRAM, 0),
        ("command_palette", "ctrl+p", "palette", "Find any of these by name.", PROGRAM, 0),
        ("focus_next", "tab", "next", "Go to the next pane: stack, prompt, schedule.", MOVE, 0),
        ("focus_previous", "shift+tab", "back", "Go to the pane before.", MOVE, 0),
    ),
    "prompt": (("leave", "enter up down escape", "to the stack", "To the stack; the text stays.", ASK, 1),),
    "schedule": (
        ("apply", "enter", "apply", "Apply the typed schedule.", ASK, 1),
        ("leave", "escape up down", "forget it", "Go to the stack; the schedule stays as it was.", ASK, 2),
    ),
    "tour": (
        ("next_step", "full_stop", "next", "Go to the next step of the tour, which sets all that is looked at.", TOUR, 1),
        ("step_before", "comma", "back", "Go to the step before.", TOUR, 2),
        ("more", "space", "more", "Tell the other half of the step, where not all fits; at last its title alone.", TOUR, 3),
        ("leave_tour", "Q", "leave", "Leave the tour; what is shown stays.", TOUR, 4),
    ),
    "help": (("close", "escape q ?", "close", "Back to the stack.", PROGRAM, 0),),
    "models": (("close", "escape", "close", "Back to the stack.", PROGRAM, 0),),
    "ask": (("close", "escape", "close", "Back to the stack.", PROGRAM, 0),),
    "confirm": (
        ("yes", "y q", "yes", "Yes.", PROGRAM, 0),
        ("no", "n escape", "no", "No, go on.", PROGRAM, 0),
    ),
}
# What the explore screen does in the player as well: it looks, it changes nothing.
_IN_PLAYER = (
    "up", "down", "page_up", "page_down", "top", "bottom", "left", "right", "view", "flip", "column", "export", "copy",
    "sweep", "lens_curves", "attention", "neurons", "stages", "attribution", "heads", "probe", "similarity", "restart",
    "cancel", "help", "quit",
)  # fmt: skip
_TABLE["player"] = (
    ("play", "space", "play", "Play the session, or pause it; at its end: from the start.", PLAY, 1),
    ("step_back", "comma", "back", "One event back.", PLAY, 4),
    ("step_forward", "full_stop", "on", "One event on.", PLAY, 3),
    ("ten_back", "<", "10 back", "Ten events back.", PLAY, 9),
    ("ten_forward", ">", "10 on", "Ten events on.", PLAY, 8),
    ("note_back", "p", "note before", "Go to the note before.", PLAY, 7),
    ("note_forward", "n", "next note", "Go to the next note.", PLAY, 6),
    ("to_start", "0", "start", "Go to the start.", PLAY, 0),
    ("to_end", "$", "end", "Go to the end.", PLAY, 0),
    ("speed", "+", "speed", "Cycle: as fast as it was, 2 times, 8 times. No wait is longer than 3 s.", PLAY, 5),
    *((*row[:5], 2 if row[0] in ("help", "quit") else 0) for row in _TABLE["explore"] if row[0] in _IN_PLAYER),
)
ACTIONS = tuple(
    Action(name, tuple(keys.split()), label, help, group, place, footer)
    for place, rows in _TABLE.items()
    for name, keys, label, help, group, footer in (*rows, *(row for row in _OF_ALL if place in BESIDE and row[0] not in {own[0] for own in rows}))
)

_ARROWS = {"up": "↑", "down": "↓", "left": "←", "right": "→"}
_KEY_NAMES = _ARROWS | {"pageup": "pgup", "pagedown": "pgdn", "escape": "esc", "comma": ",", "full_stop": "."}


def of(place: str) -> list[Action]:
    """The actions of one place, in table order."""
    return [action for action in ACTIONS if action.place == place]


def find(place: str, name: str) -> Action | None:
    return next((action for action in of(place) if action.name == name), None)


def remap(keys: Mapping[tuple[str, str], tuple[str, ...]]) -> None:
    """Other keys for some actions, by (place, name). To be called before the app is imported: its classes bind the keys."""
    global ACTIONS
    ACTIONS = tuple(replace(action, keys=keys.get((action.place, action.name), action.keys)) for action in ACTIONS)


def bindings(place: str, priority: bool = False) -> list[Binding]:
    """Textual bindings of one place. `priority`: they work whatever has the focus."""
    from textual.binding import Binding  # here: config.toml is checked against the table without Textual

    of_what = "app" if place == "app" else "screen"
    return [
        Binding(",".join(a.keys), f"{of_what}.{a.name}", a.label, show=False, priority=priority)
        for a in of(place)
        if a.keys
    ]


def app_bindings(place: str, group: str) -> list[Binding]:
    """Bindings of an app that has one screen more than the others: `action_` and the place, with the action's name. So the
    keys work on every screen, whose own come first."""
    from textual.binding import Binding

    return [
        Binding(",".join(a.keys), f"app.{place}('{a.name}')", a.label, show=False)
        for a in of(place)
        if a.group == group and a.keys
    ]


def key_name(key: str) -> str:
    """A key as people write it: ctrl+r, ↑, esc, ?."""
    return _KEY_NAMES.get(key, key)


def keys_text(action: Action) -> str:
    return " ".join(key_name(key) for key in action.keys)


def key(name: str, place: str = "") -> str:
    """The first key of an action as sentences name it, of one place or of the first that has the action."""
    action = next(action for action in ACTIONS if action.name == name and place in ("", action.place))
    return key_name(action.keys[0]) if action.keys else f"ctrl+p {action.label}"


def footer(width: int, place: str = "explore", without: Collection[str] = ()) -> list[Action]:
    """The actions whose "key label" fit in `width` cells, two apart: the most wanted ones, in table order.

    without: names of actions that can do nothing now.
    """
    room, kept = width, []
    for action in sorted((a for a in of(place) if a.footer and a.keys and a.name not in without), key=lambda a: a.footer):
        cells = len(key_name(action.keys[0])) + 1 + len(action.label) + 2
        if cells > room:
            break
        room -= cells
        kept.append(action)
    return [action for action in of(place) if action in kept]


def _everywhere() -> list[Action]:
    """What works on every screen; of one pane, where there is nowhere to go with tab."""
    return [action for action in of("app") if not action.name.startswith("focus_")]


def help_sections(place: str = "explore") -> list[tuple[str, list[tuple[str, str]]]]:
    """[(heading, [(keys, sentence)])] of all there is for the explore screen; for another, of what works on it."""
    if place == "player":
        groups = (PLAY, MOVE, LOOK, KEEP, PROGRAM)
        members = (*of(place), *_everywhere())
        sections = {group: [a for a in members if a.group == group] for group in groups}
    elif place != "explore":
        sections = {BESIDE[place]: of(place), PROGRAM: _everywhere()}
    else:
        everywhere = (*of("explore"), *of("app"))
        groups = (EDIT, ASK, MOVE, LOOK, KEEP, PROGRAM)
        sections = {group: [a for a in everywhere if a.group == group] for group in groups}
        sections |= {"While typing the prompt": of("prompt"), "While typing a schedule": of("schedule")}
        sections |= {f"On the screen {title!r}": of(beside) for beside, title in BESIDE.items()}
        sections |= {TOUR: of("tour")}
        sections |= {PLAY: [a for a in of("player") if a.group == PLAY]}
    return [(title, [(keys_text(a), a.help) for a in members]) for title, members in sections.items()]


def keys_markdown() -> str:
    """docs/keys.md, whole."""
    lines = ["# Keys", "", "Written by `stagescope.actions.keys_markdown()`; a test compares the two.", ""]
    lines += ["Every action is also found by name with ctrl+p.", ""]
    lines += ["Layers, sublayers, tokens, the views and measures of a sweep and the footer can be clicked.", ""]
    for heading, rows in help_sections():
        lines += [f"## {heading}", "", "| keys | what it does |", "|---|---|"]
        for keys, sentence in rows:
            lines.append(f"| {' '.join(f'`{key}`' for key in keys.split())} | {sentence} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(keys_markdown(), end="")
