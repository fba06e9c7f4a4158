"""The prompt deck: prompts pinned to see an edit on all of them, and what it does to them. No screen in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.cells import cell_len

from stagescope.engine.protocol import MOST_PROMPTS, Sweep
from stagescope.screens.sweep_deck import median_and_worst
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable, visible

EXCERPT = 18  # cells of a prompt that is named beside numbers on the explore screen


@dataclass(frozen=True)
class Deck:
    """Pinned prompts in the order they were pinned, no two alike, and one seat for a prompt that is not."""

    prompts: tuple[str, ...] = ()
    guest: str | None = None  # the prompt that is not pinned from which the deck was last stepped through


@dataclass(frozen=True)
class DeckEffect:
    """What one schedule does to the prompts of a deck: KL in nats, a mean over the positions of each prompt."""

    counted: int  # prompts the schedule could be carried out on, and gave numbers
    of: int  # all of them
    median_kl: float = float("nan")
    worst_kl: float = float("nan")
    worst: str = ""  # the prompt with the largest KL
    kept: int = 0  # positions of all counted prompts whose top token stayed
    positions: int = 0
    note: str = ""  # why the first prompt was left out


def pin(deck: Deck, prompt: str) -> Deck:
    """The prompt pinned after the others, or taken off if it was pinned."""
    if prompt in deck.prompts:
        return replace(deck, prompts=tuple(other for other in deck.prompts if other != prompt))
    return replace(deck, prompts=(*deck.prompts, prompt))


def step(deck: Deck, prompt: str, towards: int) -> tuple[Deck, str]:
    """The next prompt (towards +1) or the one before (-1), going round.

    A prompt that is not pinned has a seat between the last and the first: stepping past the end comes back to it.
    """
    if prompt not in deck.prompts:
        deck = replace(deck, guest=prompt)
    is_guest = deck.guest is not None and deck.guest not in deck.prompts
    seats = (*deck.prompts, deck.guest) if is_guest else deck.prompts
    return deck, seats[(seats.index(prompt) + towards) % len(seats)]


def place(deck: Deck, prompt: str) -> str:
    """ "deck 3 of 7", or "deck of 7" from a prompt that is not pinned."""
    at = f"{deck.prompts.index(prompt) + 1} " if prompt in deck.prompts else ""
    return f"deck {at}of {len(deck.prompts)}"


def together(deck: Deck, prompt: str) -> tuple[str, ...]:
    """What is swept together: the deck in its order, then the prompt if it is not pinned and one more can be swept."""
    room = prompt not in deck.prompts and len(deck.prompts) < MOST_PROMPTS
    return (*deck.prompts, prompt) if room else deck.prompts


def effect(sweeps: Sequence[Sweep]) -> DeckEffect:
    """From sweeps of one schedule, one sweep a prompt."""
    counted = [sweep for sweep in sweeps if sweep.complete and 0 not in sweep.notes]
    note = next((sweep.notes[0] for sweep in sweeps if 0 in sweep.notes), "")
    found = median_and_worst(counted, 0)
    if found is None:
        return DeckEffect(0, len(sweeps), note=note)
    median, worst, where = found
    same = np.concatenate([sweep.top1_same[0, sweep.mean_positions()] for sweep in counted])
    same = same[~np.isnan(same)]
    return DeckEffect(len(counted), len(sweeps), median, worst, where.prompt, int(same.sum()), len(same), note)


def told(found: DeckEffect, glyphs: Glyphs) -> list[str]:
    """KL median .31, worst 4.4 (“The capital of…”), top-1 kept 41/63: in parts, the last ones to go first."""
    if not found.counted:
        return [f"none of them can be counted: {printable(found.note)}"]
    counted = f"{found.counted} of {found.of} counted, " if found.counted < found.of else ""
    return [
        f"{counted}KL median {g.number(found.median_kl)}",
        f", worst {g.number(found.worst_kl)}",
        f" ({excerpt(found.worst, glyphs)})",
        f", top-1 kept {found.kept}/{found.positions}",
    ]


def excerpt(prompt: str, glyphs: Glyphs, cells: int = EXCERPT) -> str:
    """The beginning of a prompt in quotation marks, harmless."""
    text = visible(prompt, True) if glyphs.ascii_only else printable(prompt)
    text = fit(text, min(cells, cell_len(text)), glyphs.ascii_only).rstrip()
    return f'"{text}"' if glyphs.ascii_only else f"“{text}”"
