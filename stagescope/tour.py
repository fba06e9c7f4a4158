"""The tour: the paper's four stages on the default model, by doing. One table of steps, from which the app's tour, the text of
`stagescope tour` and docs/tour.md are made.

Every number that a step names stands in its `numbers`, as it is written and with how it is computed; tests compute each on
the default model. In the texts a number is named in braces.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stagescope import actions
from stagescope.engine.protocol import DEFAULT_MODEL, TakeAttribution, TakeCensus, TakeEvidence, TakeLens, Texts
from stagescope.tour_numbers import PROMPT, Number, at_end, drop_kl, entropy, head, kept, kl, lens_kl, means, middle, mlp, near, paris, sink, swept

MODEL = DEFAULT_MODEL
LAYERS = 30  # of that model: the steps name layers
SHELL = f'"{PROMPT}"'


@dataclass(frozen=True)
class Step:
    """What is looked at, and what is said of it. The texts are plain, a line long or two; `told` fills numbers and keys in."""

    title: str
    do: str  # which keys lead here
    look: str  # at what, and where on the screen
    paper: str
    here: str  # whether this model agrees
    command: str  # the same without the app
    schedule: str = ""
    prompt: str = PROMPT
    position: int = -1
    screen: str = "explore"  # place in the table of actions
    view: str = "stack"
    row: int | None = None  # the layer under the cursor
    numbers: dict[str, Number] = field(default_factory=dict)

    def told(self, part: str) -> str:
        written = {name: number.written for name, number in self.numbers.items()}
        return getattr(self, part).format_map({**written, "key": _Keys()})


class _Keys(dict[str, str]):
    """The key of an action as it is now, by its place and name: {key[explore.drop]} in a text."""

    def __missing__(self, action: str) -> str:
        place, _, name = action.partition(".")
        return actions.key(name, place)


def not_this_model(name: str, n_layers: int) -> str:
    return f"the tour is written for {MODEL}, which has {LAYERS} layers; {name} has {n_layers}. Leave --model out, or use the app itself."


def other_weights(name: str) -> str:
    return f"the numbers of the tour are of {MODEL}, not of {name}"


STEPS = (
    Step(
        "What the screen shows",
        do="↑ ↓ move through the layers, ← → through the tokens, {key[explore.help]} lists every key.",
        look="The embedding e is at the bottom, layer 29 and the output on top. A row says what its layer would say now, the entropy H of that, "
        "and the rank of “ Paris”, to which the output gives {p} at {bits} bits.",
        paper="Each layer is read with the logit lens: the final norm, then the unembedding (Figures 6 and 8).",
        here="“ Paris” is of rank {rank} or so after layer 22, and the first from layer {first} on: the answer comes late.",
        command=f"stagescope read {SHELL}",
        row=29,
        numbers={
            "p": paris(".753"),
            "bits": entropy("2.3", 30, "at the output"),
            "rank": at_end("7,100", "rank of “ Paris” at the last token after layer 22,", "", lambda r: r.tracked_rank[23, -1]),
            "first": at_end("27", "layer from which “ Paris” is the top token of the lens to the end,", "",
                             lambda r: max(d for d in range(31) if r.tracked_rank[d, -1] > 1)),
        },
    ),
    Step(
        "A middle layer dropped: little happens",
        do="“{key[explore.edit]}” drop 17 Enter, or {key[explore.drop]} with the cursor on 17. {key[explore.undo]} takes it back.",
        look="Row 17 is out, the stream passes it by, and Δ stays small in the rows above. The second line tells the effect: KL {kl} nats at this "
        "token, {kept} of 10 top tokens kept, “ Paris” {p} where it was {before}.",
        paper="Without one of its middle layers a model keeps 72 to 95 % of its top-1 predictions, untrained (abstract, Figure 3).",
        here="It holds, with less to spare: of the layers 3 to 27, dropped one at a time, {many} of 25 keep 7 of the 10 tokens or more.",
        command=f'stagescope read {SHELL} --edit "drop 17"',
        schedule="drop 17",
        row=17,
        numbers={
            "kl": kl(".04", "drop 17"),
            "kept": kept("8", "drop 17"),
            "p": paris(".750", "drop 17"),
            "before": paris(".753"),
            "many": swept("19", "drops of the layers 3 to 27 that keep 7 top tokens of 10 or more",
                           lambda s: (middle(s["drop"].top1_same[:, 1:].sum(1)) >= 7).sum()),
        },
    ),
    Step(
        "The first layer dropped: collapse",
        do="“{key[explore.edit]}” drop 0 Enter, or {key[explore.bottom]} ↑ {key[explore.drop]}.",
        look="Δ is large from the bottom up and no later layer makes it good: KL {kl} nats, {kept} of 10 kept, “ Paris” at rank {rank} or so, and "
        "the output is {bits} bits less certain than before.",
        paper="Stage 1: the first layer is catastrophic in every model, with high entropy, not with one wrong answer (Figure 3; Table 1).",
        here="It holds, and more so: here it is the first three. Without layer 1 {one} of 10 tokens are kept, without layer 2 {two}.",
        command=f'stagescope read {SHELL} --edit "drop 0"',
        schedule="drop 0",
        row=1,
        numbers={
            "kl": kl("13.2", "drop 0"),
            "kept": kept("0", "drop 0"),
            "rank": at_end("20,900", "rank of “ Paris” at the last token", "drop 0", lambda r: r.tracked_rank[-1, -1]),
            "bits": at_end("4.8", "change of the entropy at the last token, bits,", "drop 0", lambda r: r.effect_entropy_bits[-1]),
            "one": kept("0", "drop 1"),
            "two": kept("0", "drop 2"),
        },
    ),
    Step(
        "Every layer at once: drops and swaps",
        do="{key[explore.sweep]} in the stack. ← → move, ↑ ↓ go from drops to swaps, {key[sweep.open]} opens a point, {key[sweep.back]} goes back.",
        look="Figure 3 on this prompt, KL by layer: high at the start (drop 0: {start} nats), low in the middle (median of 3 to 27: {low}), high at "
        "the end (drop 29: {end}). One peak stands in the middle, layer 11: {peak}.",
        paper="In the middle, swapping neighbours harms less than dropping one (Figure 3).",
        here="It holds: {milder} of 29 swaps cost less than the drop of their lower layer. The exception is the last pair, {last} nats; the paper "
        "has such models, and GPT-2 is none.",
        command=f"stagescope sweep {SHELL}",
        screen="sweep",
        numbers={
            "start": drop_kl("10.1", 0),
            "low": swept("0.18", "median KL of `drop 3` to `drop 27`, nats", lambda s: sorted(middle(means(s, "drop")))[12]),
            "end": drop_kl("1.5", 29),
            "peak": drop_kl("4.3", 11),
            "milder": swept("28", "swaps whose KL is below that of the drop of their lower layer",
                             lambda s: (means(s, "swap") < means(s, "drop")[:29]).sum()),
            "last": swept("3.05", "KL of `swap 28 29`, nats", lambda s: means(s, "swap")[28]),
        },
    ),
    Step(
        "The exception: who makes the sink",
        do="“{key[explore.edit]}” drop 11 @0 Enter: out at the first token alone. Then “{key[explore.edit]}” drop 11 @1-10 Enter: at all others.",
        look="At token 0 alone it costs {first} nats of the {whole} that drop 11 costs, at the ten others together {rest}. In the baseline "
        "({key[explore.baseline]}, then ← to token 0) the MLP of layer 11 writes a vector of norm {norm}, at “ of” one of {norm_here}.",
        paper="No figure is about it. That models rest attention on their first token is from Xiao et al., arXiv 2309.17453.",
        here="The heads of layer 11 give token 0 {early} of their weight, those of layer 20 {late}: what is lost is the place where later heads "
        "rest, not the answer.",
        command=f'stagescope read {SHELL} --edit "drop 11 @0"',
        schedule="drop 11 @0",
        row=11,
        numbers={
            "first": kl("4.25", "drop 11 @0"),
            "whole": kl("4.93", "drop 11"),
            "rest": kl(".16", "drop 11 @1-10"),
            "norm": at_end("20,500", "norm of what layer 11's MLP writes at token 0,", "", lambda r: r.mlp_norm[12, 0]),
            "norm_here": mlp("57", 11),
            "early": sink(".07", 11),
            "late": sink(".93", 20),
        },
    ),
    Step(
        "Detokenization: one token, one layer",
        do="“{key[explore.edit]}” attn-off 0 @3 Enter: token 3, “iffel”, cannot look back at “ E” in layer 0. All else runs.",
        look="The tower is lost: “ Paris” {p}, and “ {leads}” leads. The same at tokens 5-6, in all of the layers 0-2, costs nothing ({far}); nor "
        "does it at token 3 ten layers later, attn-off 10-12 @3 ({later}).",
        paper="Stage 1, detokenization: early layers join the pieces of words and names into entities (Table 1; Figures 4 and 9).",
        here="It holds, and can be seen at one token: “ E” and “iffel” must meet in layer 0; by layer 10 that is done.",
        command=f'stagescope read {SHELL} --edit "attn-off 0 @3"',
        schedule="attn-off 0 @3",
        row=0,
        numbers={
            "p": paris(".012", "attn-off 0 @3"),
            "leads": at_end("Berlin", "top token at the last token", "attn-off 0 @3", lambda r: r.texts[int(r.top_ids[-1, -1, 0])].strip()),
            "far": paris(".79", "attn-off 0-2 @5-6"),
            "later": paris(".77", "attn-off 10-12 @3"),
        },
    ),
    Step(
        "Detokenization: looking at near tokens",
        do="{key[explore.attention]} in the stack; {key[attention.view]} shows the heads, {key[attention.offset]} other distances, {key[attention.text]} measures over a text. "
        "{key[attention.back]}, then {key[explore.heads]}: the heads that join pieces.",
        look="Attention to the 5 tokens before, sink-free: {one} a token in layer 1, {three} in layer 3, {eleven} in layer 11. An even look "
        "would give {even}: the prompt is short.",
        paper="Near attention is highest in the first layers and falls (Figure 4); sub-joiner heads do the joining (Figure 9).",
        here="Half: the early peak is there, and 10, 11 and 16 have it too. H finds head 12.3 the best ({best}; {held} on held-out words), then 3.2 "
        "({second}) and 2.3 ({third}): joining is spread.",
        command=f"stagescope attention {SHELL}",
        screen="attention",
        numbers={
            "one": near(".11", 1),
            "three": near(".06", 3),
            "eleven": near(".12", 11),
            "even": Number(".11", "the same if every query looked evenly at all it can see", TakeEvidence(Texts((PROMPT,)), ()),
                           lambda e: e.uniform_no_sink[3]),
            "best": head(".32", 12, 3),
            "held": head(".31", 12, 3, held=True),
            "second": head(".27", 3, 2),
            "third": head(".26", 2, 3),
        },
    ),
    Step(
        "Feature engineering: a name, a place",
        do="“{key[explore.edit]}” drop 4-8 @3 Enter: five layers, at “iffel” alone. Then “{key[explore.edit]}” drop 4-8 @7 Enter: the same at “ in”.",
        look="At “iffel”: “ {leads}” leads and “ Paris” has {p}. At “ in”: nothing ({elsewhere}). From 12 on the name is finished: drop 12-22 "
        "@1-9 takes eleven layers from every token but the last, and leaves “ Paris” {done}.",
        paper="Stage 2: features of entities and task from context, attention-heavy, little progress to the next token (Table 1; Figures 5, 6).",
        here="Little progress holds: from layer 3 to 22 the lens stays {low} to {high} nats from the output. Attention outweighs "
        "the MLP in {heavy} of 30 layers alone. P: Figure 10.",
        command=f'stagescope read {SHELL} --edit "drop 4-8 @3"',
        schedule="drop 4-8 @3",
        row=8,
        numbers={
            "leads": at_end("Berlin", "top token at the last token", "drop 4-8 @3", lambda r: r.texts[int(r.top_ids[-1, -1, 0])].strip()),
            "p": paris(".075", "drop 4-8 @3"),
            "elsewhere": paris(".74", "drop 4-8 @7"),
            "done": paris(".81", "drop 12-22 @1-9"),
            "low": at_end("28", "least D_KL(output || lens) at the last token after layers 3 to 22, nats,", "",
                           lambda r: r.kl_final_nats[4:24, -1].min()),
            "high": at_end("36", "largest D_KL(output || lens) at the last token after layers 3 to 22, nats,", "",
                            lambda r: r.kl_final_nats[4:24, -1].max()),
            "heavy": at_end("2", "layers whose attention writes more than their MLP, means over the tokens after the prefix,", "",
                             lambda r: (r.attn_norm[1:, 1:].mean(1) > r.mlp_norm[1:, 1:].mean(1)).sum()),
        },
    ),
    Step(
        "Prediction ensembling: the answer",
        do="{key[explore.lens_curves]} in the stack. ← → move through the depths, {key[lens.track]} follows one more token; {key[lens.back]}, then {key[explore.attribution]}: who writes "
        "the answer.",
        look="KL to the output: {k22} nats after layer 22, {k23} after 23, {k27} after 27, where “ Paris” comes first with p {p}. {key[explore.attribution]}: the attention "
        "of layer 23 adds {adds} to its logit, more than any other.",
        paper="Stage 3: from half depth features become predictions; KL (Figure 6) and entropy (Figure 8) of the lens fall.",
        here="KL falls steeply, but at three quarters of the depth. Entropy rises first: {h22} bits after layer 22, {h28} after 28, then {out}. The "
        "first version's lens began at {v1}: that fall was the lens'.",
        command=f"stagescope lens {SHELL} --follow Paris",
        screen="lens",
        numbers={
            "k22": lens_kl("29", 22),
            "k23": lens_kl("12.6", 23),
            "k27": lens_kl(".67", 27),
            "p": at_end(".43", "p of “ Paris” under the lens after layer 27,", "", lambda r: r.tracked_p[28, -1]),
            "adds": Number("5.45", "what layer 23's attention adds to the logit of “ Paris”, the largest of all sublayers", TakeAttribution(PROMPT),
                           lambda a: a.by_layer()[..., -1].max() if a.by_layer()[..., -1].argmax() == 2 * 23 else 0.0),
            "h22": entropy("1.8", 23, "after layer 22"),
            "h28": entropy("5.2", 29, "after layer 28"),
            "out": entropy("2.3", 30, "at the output"),
            "v1": Number("15.5", "entropy of the v1 lens at the last token after layer 0, bits", TakeLens(PROMPT),
                         lambda lens: lens.entropy_bits[1, 1]),
        },
    ),
    Step(
        "Prediction and suppression neurons",
        do="{key[explore.neurons]} in the stack: half a minute on a CPU the first time. → goes into the list, {key[neurons.view]} draws skew against kurtosis of all.",
        look="Of the {mlp} neurons of layer 29, {prediction} are prediction and {suppression} suppression neurons; {none} of either kind are in the "
        "layers 0 to 21. The list says what each promotes, and where it fires on the prompt.",
        paper="Prediction neurons appear from half depth and peak near 85 %; suppression overtakes in the last tenth (Figure 6).",
        here="They come late, but crowd into the last layer, where suppression does not overtake. A gated neuron's sign is taken from a text, and "
        "these are 4-bit weights.",
        command="stagescope neurons",
        screen="neurons",
        numbers={
            "mlp": Number("1,536", "neurons of a layer's MLP", TakeCensus(), lambda c: c.d_mlp),
            "prediction": Number("44", "prediction neurons of layer 29", TakeCensus(), lambda c: c.prediction[29]),
            "suppression": Number("40", "suppression neurons of layer 29", TakeCensus(), lambda c: c.suppression[29]),
            "none": Number("0", "prediction and suppression neurons of the layers 0 to 21", TakeCensus(),
                           lambda c: c.prediction[:22].sum() + c.suppression[:22].sum()),
        },
    ),
    Step(
        "Residual sharpening: the last layers",
        do="“{key[explore.edit]}” drop 29 Enter. Then “{key[explore.edit]}” swap 28 29 Enter.",
        look="Without layer 29 the output is {bits} bits less certain, “ Paris” {p} and not {before}, and {kept} of 10 tokens are kept. With the two "
        "exchanged: KL {kl} nats, {kept_swapped} of 10.",
        paper="Stage 4: obsolete features are removed, the MLP norm peaks (Figure 7), the course of the entropy changes (Figure 8; Table 1).",
        here="Norm and entropy agree: layer 29's MLP writes {last}, that of 28 {before_last}. Over a text the output "
        "grows more certain without it (docs/science.md).",
        command=f'stagescope read {SHELL} --edit "drop 29"',
        schedule="drop 29",
        row=28,
        numbers={
            "bits": at_end("2.9", "change of the entropy at the last token, bits,", "drop 29", lambda r: r.effect_entropy_bits[-1]),
            "p": paris(".46", "drop 29"),
            "before": paris(".75"),
            "kept": kept("5", "drop 29"),
            "kl": kl("2.5", "swap 28 29"),
            "kept_swapped": kept("0", "swap 28 29"),
            "last": mlp("465", 29),
            "before_last": mlp("252", 28),
        },
    ),
    Step(
        "Going on",
        do="{key[tour.leave_tour]} leaves the tour and keeps this screen. If it says ● rec all of this was recorded: {key[explore.note]} adds a note, "
        "{key[explore.export]} exports, and stagescope --session last goes on.",
        look="One prompt is little evidence: {key[explore.pin]} pins it, {key[explore.prompt]} types another, and every edit then tells its median over the deck.",
        paper="Its stages are approximate and overlap (Table 1). {key[explore.stages]} shows the boundaries that a rule sees in this model, and its doubt.",
        here="{key[explore.write]} writes on, {key[explore.sweep]} {key[sweep.view]} goes on to traces, heads and neurons, {key[explore.compare]} compares "
        "two readings. Outside the app: stagescope --help, docs/api.md for Python.",
        command=f"stagescope stages {SHELL}",
        row=29,
    ),
)
