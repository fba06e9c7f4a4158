"""The help page, written from the table of actions."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from stagescope import actions


class Help(ModalScreen[None]):
    """All keys with one sentence each, of the explore screen or of one beside it. Scrolls; escape, q or ? closes."""

    BINDINGS = actions.bindings("help")
    CSS_PATH = "help.tcss"

    def __init__(self, place: str = "explore"):
        super().__init__()
        self.place = place

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(page(self.place), markup=False)

    def action_close(self) -> None:
        self.dismiss()


FIRST = {
    "explore": "↑ ↓ move through the layers, ← → through the tokens. ctrl+p finds an action by name.",
    "sweep": "Every layer is dropped, every pair swapped, one at a time; ← → move through the layers, enter shows one.",
    "lens": "What each depth would say at this token, under the corrected lens and under the paper's first one.",
    "attention": "How much each layer and head looks at the tokens just before (paper, Figure 4).",
    "neurons": "Neurons whose output raises or lowers few tokens much: prediction and suppression neurons.",
    "stages": "The paper's four stages, with boundaries by a rule of this tool, from what was measured.",
}
SHOWN = {
    "explore": (
        ("Δ vs base", "how far this depth is from the baseline: KL in nats on a log scale; · is none, blank no value"),
        ("attn mlp", "what each sublayer wrote, relative to the stream before it"),
        ("H bits", "entropy of what the layer would say here; beside it at every position, ▾ marks the chosen one"),
        ("sup/pre", "suppression and prediction neurons of the layer's MLP"),
        ("▸token", "the rank of the followed token, before→now"),
        ("■ □ ↕ [ ]", "runs, dropped, moved, a group of layers whose outputs are averaged"),
        ("=", "the layer would repeat the token it reads: no certainty"),
        ("· ⏎ ⍽", "in tokens: a space, a line end, a no-break space"),
    ),
    "sweep": (
        ("KL", "how far the output is from the baseline's: nats on a log axis, mean over the tokens but the prefix"),
        ("top-1 kept", "share of the tokens after which the top token is the baseline's"),
        ("ΔH", "entropy of the output, in bits, minus the baseline's"),
        ("loss", "cross-entropy of the token that follows in the prompt, in nats, minus the baseline's"),
        ("swap 4 5", "stands between its layers, at 4.5"),
        ("trace", "one layer left out at one token: what becomes of the followed token where the trace is read"),
        ("deck", "[ ] lead through its prompts and to all: the median of their means; the detail also tells the worst"),
    ),
    "lens": (),
    "attention": (),
    "neurons": (),
    "stages": (),
}


def page(place: str = "explore") -> Content:
    """The whole page: a heading a group, a line a key, then what the screen shows."""
    sections = actions.help_sections(place)
    column = max(len(keys) for _, rows in sections for keys, _ in rows) + 2
    parts = [Content(f"{FIRST[place]} What the screen shows is below.\n")]
    for heading, rows in sections:
        parts.append(Content.styled(f"\n{heading}\n", "bold $primary"))
        parts += [Content.assemble((f"{keys:<{column}}", "bold"), sentence, "\n") for keys, sentence in rows]
    parts.append(Content.styled("\nThe screen\n", "bold $primary"))
    parts += [Content.assemble((f"{name:<{column}}", "bold"), meaning, "\n") for name, meaning in SHOWN[place]]
    parts.append(Content.styled("\nescape closes this page", "dim"))
    return Content("").join(parts)
