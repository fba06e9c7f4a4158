"""The paper's Figures 9 and 10 (arXiv 2406.19384) as panels: heads that join words, neurons that tell what comes next."""

from __future__ import annotations

import math

import numpy as np

from stagescope.drawings.charts import Line, Panel
from stagescope.engine.protocol import Failure, HeadScores, Probe, ProbeScore
from stagescope.paper.figures import Figure
from stagescope.text import printable

BEST = 20  # heads drawn with their intervals
KINDS = ("prediction", "suppression", "unsigned", "partition", "all", "random")


def subjoiners(heads: HeadScores | Failure) -> Figure:
    """Figure 9, or why there is none."""
    title = "Heads that join the pieces of a word"
    if isinstance(heads, Failure):
        return Figure("9", title, f"Not measurable here: {printable(heads.message)}", ())
    n_layers, n_heads = heads.score.shape[:2]
    layers = np.repeat(np.arange(n_layers), n_heads).astype(float)
    best = heads.ranked()[: min(BEST, n_layers * n_heads)]
    rank = np.arange(1, len(best) + 1, dtype=float)
    of = lambda values: np.array([values[place] for place in best], float)  # noqa: E731
    panels = (
        Panel(
            "score of every head", "weight above the control",
            (Line("a head, searched words", layers, heads.score[..., 0].ravel().astype(float), 0, linked=False, bold=False),),
            rules=((0.0, "none"),),
        ),
        Panel(
            f"the {len(best)} best", "weight above the control",
            (Line("searched words", rank, of(heads.score), 0), Line("held-out words", rank, of(heads.held), 1)),
            rules=((0.0, "none"),), ends=(1, len(best)), x_title="rank",
        ),
        Panel(
            "what the score is made of", "weight",
            (Line("on the first piece", rank, of(heads.joined), 0), Line("as far back, word of one piece", rank, of(heads.control), 2)),
            "share", ends=(1, len(best)), x_title="rank",
        ),
    )  # fmt: skip
    named = ", ".join(f"{layer}.{head}" for layer, head in best[:5])
    caption = (
        f"Attention from the last piece of a word of {heads.pieces} to its first, less that of a word of one piece to the token just as far "
        "back, in the same contexts: without this control a head that looks at a fixed offset scores too. Heads are ranked by "
        f"{heads.words:,} searched words; {heads.held_words:,} held-out words, none in both, say what is left of it. Intervals are 95 %, by "
        f"resamples of the words. The best, layer.head: {named}. Words from {printable(heads.source)}."
    )
    return Figure("9", title, caption, panels)


def probes(probe: Probe | Failure) -> Figure:
    """Figure 10, or why there is none."""
    title = "What single neurons know of the next token"
    if isinstance(probe, Failure):
        return Figure("10", title, f"Not measurable here: {printable(probe.message)}", ())
    rules = ((0.5, "chance"), (probe.mass.accuracy, "the model's mass"), (probe.argmax.accuracy, "its top token"))
    kinds = [(style, kind) for style, kind in enumerate(KINDS) if any(one.kind == kind for one in probe.neurons)]
    longest = max((sum(one.kind == kind for one in probe.neurons) for _, kind in kinds), default=1)
    sizes = [one.size for one in probe.ensembles]
    panels = (
        Panel(
            "one neuron", "accuracy on held-out contexts",
            tuple(_line(kind, style, [one for one in probe.neurons if one.kind == kind], ranked=True) for style, kind in kinds),
            "share", rules, ends=(1, max(longest, 2)), x_title="rank in training",
        ),
        Panel(
            "the best k together", "accuracy on held-out contexts",
            tuple(
                _line(kind, style, some, ranked=False)
                for style, kind in enumerate(KINDS)
                if (some := [one for one in probe.ensembles if one.kind == kind])
            ),
            "share", rules, ends=(0, max(1.0, math.log2(max(sizes, default=2)))), x_title="log2 of k",
        ),
    )  # fmt: skip
    train, held = ("{:,} contexts, {:,} lemmas, {:,} documents".format(*split) for split in (probe.train, probe.held))
    caption = (
        f"A token that {printable(probe.asked)}: is it the next? Linear probes on the activation of single neurons, and of "
        f"the k best of a kind together, at the last of {probe.context} tokens of context; ranked on the training split ({train}), told on "
        f"the held-out one ({held}; no lemma and no document in both). Half of the contexts are positive. Random neurons of the same layers "
        "are the control. The model's own answer: its total probability on positive tokens against a threshold chosen in training, and "
        f"its top token. Intervals are 95 %, by resamples of the lemmas. Text: {printable(probe.source)}."
    )
    return Figure("10", title, caption, panels)


def _line(kind: str, style: int, some: list[ProbeScore], ranked: bool) -> Line:
    at = np.arange(1, len(some) + 1, dtype=float) if ranked else np.log2([one.size for one in some])
    y = np.array([(one.accuracy, one.low, one.high) for one in some], float)
    return Line(kind, at, y, 5 if kind == "random" else style, linked=not ranked)
