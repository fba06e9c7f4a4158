"""The help page, written from the table of actions."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from stagescope import actions


class Help(ModalScreen[None]):
    """All keys with one sentence each. Scrolls; escape, q or ? closes."""

    BINDINGS = actions.bindings("help")
    CSS_PATH = "help.tcss"

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(page(), markup=False)

    def action_close(self) -> None:
        self.dismiss()


SCREEN = (
    ("Δ vs base", "how far this depth departs from the baseline: KL in nats on a log scale; · is none, blank no value"),
    ("attn mlp", "what each sublayer wrote, relative to the stream before it"),
    ("H bits", "entropy of what the layer would say here; beside it at every position, ▾ marks the chosen one"),
    ("sup/pre", "suppression and prediction neurons of the layer's MLP"),
    ("▸token", "the rank of the followed token, before→now"),
    ("■ □ ↕ [ ]", "runs, dropped, moved, a group of layers whose outputs are averaged"),
    ("=", "the layer would repeat the token it reads: no certainty"),
    ("· ⏎ ⍽", "in tokens: a space, a line end, a no-break space"),
)


def page() -> Content:
    """The whole page: a heading a group, a line a key."""
    sections = actions.help_sections()
    column = max(len(keys) for _, rows in sections for keys, _ in rows) + 2
    first = "↑ ↓ move through the layers, ← → through the tokens. ctrl+p finds an action by name. What the columns mean is below.\n"
    parts = [Content(first)]
    for heading, rows in sections:
        parts.append(Content.styled(f"\n{heading}\n", "bold $primary"))
        parts += [Content.assemble((f"{keys:<{column}}", "bold"), sentence, "\n") for keys, sentence in rows]
    parts.append(Content.styled("\nThe screen\n", "bold $primary"))
    parts += [Content.assemble((f"{name:<{column}}", "bold"), meaning, "\n") for name, meaning in SCREEN]
    parts.append(Content.styled("\nescape closes this page", "dim"))
    return Content("").join(parts)
