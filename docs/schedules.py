"""docs/schedules.md, and the examples it is made of: make schedules.

Each example is parsed and resolved by tests/test_docs.py on a model of LAYERS layers and a prompt of POSITIONS tokens: its
canonical text, and what runs, are what stands here.
"""

from __future__ import annotations

from typing import NamedTuple

LAYERS, HEADS, NEURONS, POSITIONS = 12, 8, 256, 10


class Example(NamedTuple):
    typed: str
    runs: str  # the executed order, as the page's second paragraph says
    means: str
    canonical: str = ""  # where it is not what was typed


class Wrong(NamedTuple):
    typed: str
    marked: str  # what the carets stand under
    reason: str


GROUPS = {
    "Whole layers out": (
        Example("drop 3", "0-2 4-11", "The block of layer 3 does not run: the residual stream passes it by (zero ablation)."),
        Example("drop 3 5-7", "0-2 4 8-11", "Several, and spans, both ends included."),
        Example("drop 0-11", "nothing", "All of them: the embedding goes straight to the output."),
        Example("drop 3 mean", "0-2 3* 4-11", "Attention and MLP of layer 3 give their mean contribution over a text instead of nothing."),
        Example("DROP 7,5;; drop 6", "0-4 8-11", "Capitals, commas and empty steps are read; one text is kept.", "drop 5-7"),
    ),
    "One sublayer out": (
        Example("attn-off 4", "0-3 4m 5-11", "Layer 4's attention writes nothing, its MLP runs."),
        Example("mlp-off 4-5", "0-3 4a 5a 6-11", "The MLPs of two layers write nothing."),
        Example("attn-off 4 mean", "0-3 4* 5-11", "The attention gives its mean over a text."),
        Example("attn-off 4; mlp-off 4", "0-3 4* 5-11", "Both: layer 4 has its place and writes nothing; the output is that of `drop 4`."),
    ),
    "Single heads and neurons": (
        Example("head-off 5.3", "0-4 5* 6-11", "Head 3 of layer 5 writes nothing."),
        Example("head-off 5.0-2 6.1", "0-4 5* 6* 7-11", "Several, of several layers: a range stays within its layer."),
        Example("neuron-off 2.101 mean", "0-1 2* 3-11", "Neuron 101 of layer 2's MLP has its mean activation; without mean: zero."),
    ),
    "At some tokens only": (
        Example("drop 3 @0", "0-2 3* 4-11", "Layer 3 is out at token 0 and runs at all others. Tokens count from 0, the prefix token included."),
        Example("mlp-off 4 @3-5", "0-3 4* 5-11", "At a range."),
        Example("drop 3 @-1", "0-2 3* 4-11", "At the last token; -2 is the one before it."),
        Example("head-off 5.3 @ 2", "0-4 5* 6-11", "Positions are for the five verbs above, not for orders.", "head-off 5.3 @2"),
    ),
    "Another order": (
        Example("swap 3 4", "0-2 4 3 5-11", "Two blocks exchanged; neighbours, as in the paper's Figure 3,"),
        Example("swap 7 3", "0-2 7 4-6 3 8-11", "or any two.", "swap 3 7"),
        Example("reverse 5-9", "0-4 9 8 7 6 5 10-11", "A span in reverse."),
        Example("shuffle 3-9", "0-2 6 8 5 7 4 9 3 10-11", "A span in random order, always the same one,"),
        Example("shuffle 3-9 seed 1", "0-2 3 6 8 7 9 5 4 10-11", "or that of another seed."),
        Example("order 11 0-2 2", "11 0-2 2", "The whole order: what is left out does not run, what is named twice runs twice."),
        Example("order 0-2 3m 3a 4-11", "0-2 3m 3a 4-11",
                "Sublayers apart: here layer 3's MLP before its attention. Refused where both read the same input (Pythia, Phi)."),
    ),
    "Layers more than once": (
        Example("repeat 4-5", "0-3 4 4 5 5 6-11", "Each layer twice in place,"),
        Example("repeat 4 x3", "0-3 4 4 4 5-11", "or so many times."),
        Example("loop 4-5", "0-3 4-5 4-5 6-11", "The span twice over; `x3`: three times."),
        Example("middle-repeat 2-4", "0-1 6 6 6 5-11", "Every layer of the span becomes the middle one, L // 2 (Painters)."),
        Example("parallel 4-6", "0-3 (4 5 6) 7-11", "One group: all read the same stream, and the mean of their outputs goes on (Painters)."),
        Example("parallel 4-6 x3", "0-3 (4 5 6) (4 5 6) (4 5 6) 7-11", "The same, three rounds (looped parallel)."),
    ),
    "Steps after each other": (
        Example("swap 3 7; reverse 5-9", "0-2 9 4 8 6 3 5 7 10-11", "Steps act left to right. A span names layers, wherever they stand now."),
        Example("repeat 4; drop 4", "0-3 5-11", "Switching off hits every copy of a layer."),
        Example("drop 3; drop 5; drop 6", "0-2 4 7-11", "Neighbouring steps of one kind are joined.", "drop 3 5-6"),
        Example("attn-off 3; attn-off 3 mean", "0-2 3* 4-11", "Where two say something of one place the later one holds."),
    ),
}  # fmt: skip

WRONG = (
    Wrong("drp 4", "drp", "'drp' is not a verb: did you mean drop?"),
    Wrong("drop 7-5", "7-5", "a span runs upward: write 5-7"),
    Wrong("drop 3 12", "12", "layer 12 is out of range: this model has layers 0-11"),
    Wrong("drop 3; drop 3", "3", "layer 3 is already dropped: still running: 0-2 4-11"),
    Wrong("swap 3 3", "3", "swap takes two different layers: swap 3 7"),
    Wrong("drop 3 swap 4 5", "swap", "steps are parted by a semicolon: write ; swap"),
    Wrong("repeat 4; swap 3 4", "4", "layer 4 stands in 2 places: swap needs it in one"),
    Wrong("swap 3 4 @5", "@", "positions are only for drop, attn-off, mlp-off, head-off, neuron-off: swap acts at every position"),
)


def markdown() -> str:
    """docs/schedules.md, whole."""
    from stagescope.engine import schedule

    grammar = schedule.__doc__.split("\n\n")[1]
    lines = [
        "# Schedules",
        "",
        "Written by docs/schedules.py (`make schedules`); tests parse and resolve every example, and compare the page.",
        "",
        "A schedule is one text for every intervention: which blocks run, in which order, with which sublayers, at which tokens. It is the",
        "same in the app (`:`), in `--edit`, in a file of `sweep --schedules`, in Python, in a session and in the cache. The empty one is the baseline.",
        "",
        f"What runs is shown for a model of {LAYERS} layers and a prompt of {POSITIONS} tokens: layers from the first to the last that",
        "passes, `3a` or `3m` its attention or MLP alone, `(4 5 6)` a group whose outputs are averaged, `3*` a layer that runs with a part of it off,",
        "or on its mean.",
        "",
    ]
    for heading, examples in GROUPS.items():
        lines += [f"## {heading}", "", "| typed | what runs | what it means |", "|---|---|---|"]
        for one in examples:
            kept = f" It is kept as `{one.canonical}`." if one.canonical else ""
            lines.append(f"| `{one.typed}` | {one.runs.replace('*', chr(92) + '*')} | {one.means}{kept} |")
        lines.append("")
    lines += ["## What is wrong is marked", "", "The place is marked by carets, on screen and in a shell; nothing is run. On the same model:", "", "```"]
    for one in WRONG:
        start = one.typed.rindex(one.marked) if one.marked.isdigit() else one.typed.index(one.marked)
        lines += [one.typed, f"{' ' * start}{'^' * len(one.marked)}", one.reason, ""]
    lines[-1:] = ["```", "", "## The grammar", "", "```", *grammar.splitlines(), "```", ""]
    lines += [
        "An executed order has at most 8 L places, a text at most 2,000 words and 100,000 heads and neurons. Sources of the",
        "interventions: [science.md](science.md#interventions).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
