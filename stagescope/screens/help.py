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
    "attribution": "What each attention and MLP adds directly to the logit of the followed token.",
    "heads": "Heads that look from the last piece of a word at its first, and where one head looks on the prompt.",
    "probe": "How well single neurons, few together, and the model itself tell what the next token ends in.",
    "similarity": "How alike the layers are: what each changes of the stream, and how near any two depths are.",
    "compare": "Two readings depth by depth: A was kept with C on the stack, B is what the stack shows.",
    "write": "The prompt goes on, token by token: what the baseline writes, and beside it what the edit does.",
    "player": "A recorded session, an event at a time: what was looked at is measured again and held against it.",
}
SHOWN = {
    "explore": (
        ("Δ vs base", "how far this depth is from the baseline: KL in nats on a log scale; · is none, blank no value"),
        ("attn mlp", "what each sublayer wrote, relative to the stream before it"),
        ("±att ±mlp", "key c: what each adds directly to the followed token's logit; ▲ adds much, ▴ some, ▼ ▾ take away"),
        ("Δatt Δmlp", "c once more under an edit: the change of that, such as later layers that repair"),
        ("H bits", "entropy of what the layer would say here; beside it at every position, ▾ marks the chosen one"),
        ("s", "stage of the layer, 1 to 4 (key e), from 100 columns on; ░ (? in ASCII) where it is not known"),
        ("sup/pre", "suppression and prediction neurons of the layer's MLP"),
        ("▸token", "the rank of the followed token, before→now"),
        ("■ □ ↕ [ ]", "runs, dropped, moved, a group of layers whose outputs are averaged"),
        ("◨ ◧ ▣ h n", "attention off, MLP off (each is half of the square), some heads (h) or neurons (n) off"),
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
        ("heads", "one head's write set to zero: the output by layer and head"),
        ("neurons", "the k strongest neurons of a class off together, beside as many random ones of the same layers"),
        ("deck", "[ ] lead through its prompts and to all: the median of their means; the detail also tells the worst"),
    ),
    "lens": (
        ("depth", "how many blocks have run: 0 is the embedding, the last one feeds the output"),
        ("corrected v1", "the final norm computed anew at each depth; the paper's first lens: the last depth's scale everywhere"),
        ("entropy", "of what the depth would say, in bits; early depths of v1 come out near uniform, log2 of the vocabulary"),
        ("KL", "how far the output is from what the depth would say: nats on a log axis, of this run's own output"),
        ("neurons", "prediction and suppression neurons of the MLP that ran last, beneath the KL as in Figure 6"),
        ("rank p", "of the followed tokens, 1 is the top; t adds one, the output's top is followed at first"),
        ("logit", "with two tokens followed: the first one's logit minus the second's, log of p over p"),
        ("arrives", "a token is the top one from a depth on when it stays on top to the end"),
        ("depth 0", "is not drawn: there the corrected lens echoes the token it reads, which looks like certainty"),
    ),
    "attention": (
        ("weight", "mean attention weight to each of the k tokens before, over all queries but position 0"),
        ("sink-free", "the same over queries beyond k, so that token 0, the attention sink, is never among the k"),
        ("sink mass", "mean weight on token 0"),
        ("uniform", "what every query would give if it looked evenly at all it can see"),
        ("shades", "layers x heads; where each shade begins stands above; blank has no number yet"),
        ("norm", "L2 of what attention and MLP write to the stream x, a token; centred in LayerNorm models alone"),
        ("ratio", "attn / MLP: the mean of the tokens' ratios, and the ratio of the mean norms"),
        ("the text", "c: the standard text that every Python carries; bars are 95 % intervals over its documents"),
    ),
    "neurons": (
        ("pred supp", "neurons of kurtosis > 10: those that raise few tokens much, and those that lower few much"),
        ("unsi", "of a gated MLP, active about as much below 0 as above: which way it writes cannot be said"),
        ("part", "partition candidates: they raise about half of the tokens and lower the rest"),
        ("kurt skew var", "of its cosines with every token's unembedding; a Gaussian has kurtosis 3 and skew 0"),
        ("sign", "how much the neuron keeps to one sign over a text, 0 to 1; below .30 it is unsigned"),
        ("here", "its activation on the prompt, at the token chosen with [ ]; above 0 it promotes what is listed"),
        ("null", "as many random directions reach that kurtosis; above 1 % the counts say little and have no colour"),
    ),
    "stages": (
        ("1 2 3 4", "the stage of each layer, beneath every panel; ░ (? in ASCII) where it is not known"),
        ("3-7 (2-4)", "first and last layer, and the 95 % interval of the first over resampled documents"),
        ("depth", "0 is the first layer, 1 the last; of the lens, 0 is the embedding and 1 the output"),
        ("drop swap", "KL of the output from the baseline's with that layer out, or exchanged with the next"),
        ("near", "mean weight on each of the 5 tokens before; sink free: without the first token of the text"),
        ("v1", "the paper's first lens: the final layer's scale everywhere"),
        ("│", "95 % interval over resampled documents"),
        ("alone", "in the evidence: the layer at which this curve by itself would put the boundary"),
        ("explains", "share of the variance that a step at the boundary explains; noise: what 95 % of noise stays below"),
    ),
    "attribution": (
        ("logit", "of the followed token, less the mean over the vocabulary, before any soft cap: a sum of what all write"),
        ("attn MLP", "what each adds to that sum, through the final norm at the scale it has in the baseline"),
        ("was", "of the baseline, in grey beneath an edited run"),
        ("change", "of each sublayer by the edit; what is edited itself is told above and marked on the line at 0"),
        ("repaired", "what later layers make good of the edited ones' own loss (self-repair), the scale told by itself"),
        ("scale", "what the final norm's own scale of the edited run adds"),
    ),
    "heads": (
        ("score", "how much more a word's last piece looks at its first than a word of one token just as far back"),
        ("95 %", "interval over resampled words; held out are words that the search never saw"),
        ("✓", "+ in ASCII: it holds, the held-out score is above 0 with its whole interval"),
        ("joined", "the mean weight from last piece to first; control: the same distance where no word is joined"),
        ("layers x heads", "shades of the score, the last layer on top; where each begins stands above; blank: no number"),
        ("pattern", "where the head looks on the prompt, under the present edit: rows are queries, columns keys"),
        ("░▒▓█", ":=#@ in ASCII: weight from .05, .20, .40, .70; bars are the strongest keys of the row ▸"),
    ),
    "probe": (
        ("held out", "accuracy on contexts whose lemma and document no probe saw; half are positive: chance is 50 %"),
        ("95 %", "interval over resampled lemmas"),
        ("trained", "accuracy in training, by which neurons are ranked; the number to believe is the held-out one"),
        ("contrast", "how much more the neuron writes to the tokens asked for than to the rest"),
        ("random", "the control: as many neurons of the same layers, drawn at random"),
        ("ensembles", "the k neurons best in training together, by k on a log axis; all: of every class but random"),
        ("model's mass", "the model's own probability on the tokens asked for, against a threshold chosen in training"),
        ("model's top", "whether the model's top token is one of them"),
    ),
    "similarity": (
        ("influence", "1 - cos of the stream before and after the layer, a mean over tokens; small: the layer changes little"),
        ("angular", "angle of the stream at the last token before one and after so many layers, as a share of half a turn"),
        ("which can go", "a low angle over n layers: leaving these n out changes least what comes after (enter does it)"),
        ("CKA", "how alike any two depths arrange the tokens, 0 to 1: unbiased linear CKA; shades are told above"),
        ("│", "95 % interval over resampled documents; a single prompt has none"),
    ),
    "compare": (
        ("A B", "the layer that ran last on either side; dim where other layers have run before: there nothing is compared"),
        ("KL", "how far B is from A, D_KL(A || B) in nats of what the depth would say; at the output of what the model says"),
        ("cos |B-A|", "cosine of the two residual streams, and their distance relative to A's length"),
        ("H rank p", "entropy of what the depth would say in bits; rank and p of the token that A follows, on both sides"),
        ("Δ", "B less A: of the entropy in bits, of the length of the residual stream"),
        ("two models", "without KL and distances: they need both at once, `stagescope compare --with-model` has both"),
    ),
    "write": (
        ("p H", "probability of the token under the run that wrote it, and the entropy in bits that it was taken from"),
        ("KL", "D_KL(baseline || edit) in nats at this step: left over the baseline's text, right over the edit's own"),
        ("p base", "right: what the baseline gives the edit's token after the same words; left: what the edit gives the baseline's"),
        ("bold", "tokens from where the two texts part"),
        ("ended", "the model ended the text by itself"),
        ("seed", "of a draw, one for both texts: they part where their distributions do, not by luck"),
        ("@-1", "in a schedule: the last token of the prompt, whatever comes after it"),
    ),
    "player": (
        ("12 of 80", "events that are behind, the time of the last one, and what it was; notes stand in full"),
        ("as recorded", "the numbers came out again, within what device and dtype allow"),
        ("differs", "the first number that did not, and how many more; the cache may have kept what was recorded"),
        ("waiting", "the engine still owes what this event shows: the next one comes when it is there"),
    ),
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
