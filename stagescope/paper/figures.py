"""The paper's Figures 3 to 8 (arXiv 2406.19384) as panels of lines, each figure with a caption that says what it shows.

Everything stands over the layer: what the lens says of depth d is drawn at layer d - 1, the last one that ran. Depth 0, the
embedding, is not drawn: a tied embedding echoes its token, with 100 nats and more, and would set every scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stagescope.drawings.charts import Line, Panel
from stagescope.engine.pool import interval, ratio
from stagescope.engine.protocol import OF_DEPTHS, OF_LAYERS, OFFSETS, Census, CorpusSweep, Evidence, ModelInfo
from stagescope.paper.published import Reference
from stagescope.reports.reading import number
from stagescope.text import printable

INTERVAL = "95 % interval of the mean, by 1,000 resamples of the documents"
FIVE = OFFSETS.index(5)


@dataclass(frozen=True, eq=False)
class Figure:
    number: str  # as in the paper
    title: str
    caption: str
    panels: tuple[Panel, ...]


def figures(
    info: ModelInfo, sweep: CorpusSweep, evidence: Evidence, census: Census, known: Reference | None
) -> tuple[Figure, ...]:
    return (
        _interventions(info, sweep),
        _attention(evidence, known if known and known.values.figure == "4" else None),
        _norms(evidence),
        _lens_and_neurons(evidence, census, known if known and known.values.figure == "6" else None),
        _mlp_norm(evidence),
        _lens_entropy(evidence),
    )


def of_evidence(evidence: Evidence) -> tuple[Figure, ...]:
    """Those that an Evidence by itself gives."""
    lens = (_lens_entropy(evidence),) if evidence.lenses else ()
    return (_attention(evidence, None), _norms(evidence), *lens)


def figure_json(figure: Figure) -> dict[str, Any]:
    """The numbers that are drawn. x is a layer; of a swap the middle of both. NaN is null."""
    return {
        "title": figure.title,
        "caption": figure.caption,
        "panels": [
            {
                "title": panel.title,
                "unit": panel.unit,
                "scale": panel.scale,
                "levels": [{"name": name, "value": number(level)} for level, name in panel.rules],
                "curves": [
                    {
                        "name": line.name,
                        "x": [number(x) for x in np.asarray(line.x, float)],
                        **{
                            name: [number(value) for value in column]
                            for name, column in zip(("mean", "low", "high"), line.columns().T, strict=True)
                        },
                    }
                    for line in panel.lines
                ],
            }
            for panel in figure.panels
        ],
    }


def over(data: CorpusSweep | Evidence) -> str:
    """Over which text, how much of it, and what interval."""
    plural = "" if data.documents == 1 else "s"
    band = f" Drawn with the {INTERVAL}." if data.documents > 1 else " One document has no interval."
    return f"Over {printable(data.source)}: {data.documents:,} document{plural}, {data.tokens_scored:,} tokens scored.{band}"


# ------------------------------------------------------------------------------------------------ the six figures


def _interventions(info: ModelInfo, sweep: CorpusSweep) -> Figure:
    panels = []
    for measure, title, unit, scale in (
        ("kl_nats", "KL to the plain run", "nats, log scale", "log"),
        ("top1_same", "top-1 kept", "share of tokens", "share"),
        ("entropy_change_bits", "entropy change", "bits", "change"),
    ):
        values = getattr(sweep, measure).astype(float)[:, (0, 2, 3)]
        lines = []
        for style, kind in enumerate(("drop", "swap")):
            rows = [at for at, row in enumerate(sweep.rows) if row.kind == kind and row.layer is not None]
            at = np.array([sweep.rows[row].layer for row in rows], float) + 0.5 * style
            lines.append(Line(kind, at, values[rows], style))
        panels.append(Panel(title, unit, tuple(lines), scale))
    floor = "" if math.isnan(info.noise_kl) else f" Rounding alone makes a KL of {info.noise_kl:.0e} nats (noise floor)."
    caption = (
        "One layer dropped (its block left out, the residual stream passes by), or two neighbours swapped, against the plain "
        "run p. KL is D(p || edited), mean over tokens; top-1 kept is the paper's relative accuracy: the share of tokens "
        "whose most likely next token stays the same, agreement and not truth; entropy change is that of the edited run "
        f"minus that of p. A swap stands between its two layers. {over(sweep)}{floor}"
    )
    return Figure("3", "Dropping and swapping layers", caption, tuple(panels))


def _attention(evidence: Evidence, known: Reference | None) -> Figure:
    panels = []
    for suffix, title, even in (
        ("mean_weight", "attention to the k tokens before", evidence.uniform),
        ("no_sink", "the same, sink-free", evidence.uniform_no_sink),
    ):
        lines = [
            _of_layers(evidence, f"prev{k}_{suffix}", f"k = {k}", (0, 1, 2, 3, 4, 5)[(n - FIVE) % 6], bold=k == 5)
            for n, k in enumerate(OFFSETS)
        ]
        if known and suffix == "mean_weight":
            points = known.values.points
            at, y = np.array(list(points), float), np.array(list(points.values()))
            name = f"published, {known.name}, k = 5" + ("" if known.sure else " (perhaps this model)")
            lines.append(Line(name, at, y, 5, linked=len(points) > 1))
        level = (float(even[FIVE]), "uniform attention, k = 5")
        panels.append(Panel(title, "mean weight per offset", tuple(lines), "zero", (level,)))
    sink = _of_layers(evidence, "sink_mass", "weight on the first token")
    panels.append(Panel("the sink", "weight on the first token", (sink,), "share", ((evidence.uniform_sink, "uniform attention"),)))
    caption = (
        "Attention weight on the k tokens before the query, mean over heads, queries and the offsets 1 to k; the paper's k = 5 in bold. "
        "The first token is a sink that early queries cannot help but see: the sink-free reading takes queries "
        "beyond k alone, so that the first token is never among the k. The dotted line is what even attention over all "
        f"that a query can see would give. {over(evidence)}"
    )
    return Figure("4", "Attention to near tokens", caption, tuple(panels))


def _norms(evidence: Evidence) -> Figure:
    attn, mlp = (_of_layers(evidence, name, name[:4].replace("mlp_", "MLP"), n) for n, name in enumerate(("attn_norm", "mlp_norm")))
    rows = [(*OF_DEPTHS, *OF_LAYERS).index(name) for name in ("attn_norm", "mlp_norm")]
    sums = [evidence.sums[:, row, :-1] for row in rows]
    means = ratio(*(part.sum(0) for part in sums))
    of_means = np.stack([means, *interval(*sums)], -1)
    layers = np.arange(evidence.model.n_layers)
    ratios = (_of_layers(evidence, "attn_mlp_ratio", "mean of ratios"), Line("ratio of means", layers, of_means, 1))
    shares = (_of_layers(evidence, "attn_rel", "attn"), _of_layers(evidence, "mlp_rel", "MLP", 1))
    norm = "the mean over the width taken off first, as every LayerNorm does" if evidence.model.norm == "layer" else "not centred: the model uses RMSNorm"
    caption = (
        f"L2 norm of what attention and MLP add to the residual stream, mean over tokens ({norm}). The ratio attention / MLP in both "
        "readings, for the paper does not say which: the mean over tokens of each token's ratio, and the ratio of the two means. Last, each contribution "
        f"over the norm of the stream it is added to. The first position, the attention sink, is left out. {over(evidence)}"
    )
    return Figure("5", "Attention against MLP", caption, (
        Panel("norm of the contribution", "L2, log scale", (attn, mlp), "log", ribbons=True),
        Panel("attention / MLP", "ratio, log scale", ratios, "log", ((1.0, "equal"),), ribbons=True),
        Panel("contribution over the stream", "ratio, log scale", shares, "log", ribbons=True),
    ))  # fmt: skip


def _lens_and_neurons(evidence: Evidence, census: Census, known: Reference | None) -> Figure:
    lenses = _both_lenses(evidence, "kl_final_nats")
    layers, width = np.arange(len(census.high)), 100 / census.d_mlp
    counts = []
    if census.orientation != "none":
        counts = [Line("prediction", layers, census.prediction * width), Line("suppression", layers, census.suppression * width, 1)]
    if census.unsigned.any():
        counts.append(Line("unsigned", layers, census.unsigned * width, 2, bold=False))
    counts.append(Line("all with kurtosis > 10", layers, census.high * width, 5, bold=not counts))
    if known:
        points = known.values.points
        name = f"published, {known.name}" + ("" if known.sure else " (perhaps this model)")
        counts.append(Line(name, np.array(list(points), float), np.array(list(points.values())), 3))
    null = (100 * census.null_above, "null: random directions")
    oriented = {
        "weights": "Their sign is in the weights.",
        "corpus": f"Gated MLPs have no sign in the weights: they are oriented on {census.text or 'a text'}.",
        "none": "Gated MLPs have no sign in the weights and no text oriented them, so prediction and suppression cannot be told apart.",
    }[census.orientation]
    warning = " Above 1 % the vocabulary is degenerate, and the counts say little." if census.degenerate else ""
    first = evidence.of("kl_final_nats")[0, 0]
    embedding = "" if math.isnan(first) else f" (the embedding, {first:.0f} nats, is not drawn)"
    caption = (
        "Above: D(output || logit lens after each layer), mean over tokens, on a log scale; at the last layer the corrected lens is the output"
        f"{embedding}. The v1 lens is the paper's first version, which used the final layer's "
        "scale for every layer and left out the biases; for comparison only. Below, from the weights alone: neurons whose cosine with the "
        "unembedding has kurtosis > 10 over the vocabulary, prediction with positive skew and suppression with negative, in % of "
        f"the MLP width. {oriented} The null is the share of {census.null_directions} random directions that pass the same test: "
        f"{census.null_above:.1%}.{warning} {over(evidence)}"
    )
    return Figure("6", "Lens KL, prediction and suppression neurons", caption, (
        Panel("lens KL to the output", "nats, log scale", lenses, "log", ribbons=True),
        Panel("density of neurons", "% of the MLP width", tuple(counts), "zero", (null,)),
    ))  # fmt: skip


def _mlp_norm(evidence: Evidence) -> Figure:
    line = _of_layers(evidence, "mlp_norm", "MLP", 1)
    caption = (
        "L2 norm of what each layer's MLP adds to the residual stream, mean over tokens, the first position left out. "
        f"Absolute: the stream itself grows with depth. {over(evidence)}"
    )
    return Figure("7", "Norm of the MLP's contribution", caption, (Panel("MLP norm", "L2", (line,), "zero", ribbons=True),))


def _lens_entropy(evidence: Evidence) -> Figure:
    top = math.log2(evidence.model.d_vocab)
    caption = (
        "Entropy of the logit lens after each layer, mean over tokens. The corrected lens recomputes the final norm at every layer; the v1 "
        "lens, the paper's first version, is near uniform early by construction, and the paper's camera-ready text "
        f"withdraws it. The most it can be is {top:.1f} bits, all tokens alike. {over(evidence)}"
    )
    lines = _both_lenses(evidence, "entropy_bits")
    return Figure("8", "Entropy of the lens", caption, (Panel("lens entropy", "bits", lines, "zero", ribbons=True),))


def _both_lenses(evidence: Evidence, name: str) -> tuple[Line, ...]:
    return tuple(
        Line(title, np.arange(evidence.model.n_layers), evidence.of(name + suffix).astype(float)[1:, (0, 2, 3)], style)
        for style, (suffix, title) in enumerate((("", "corrected lens"), ("_v1", "v1 lens (for comparison)")))
    )


def _of_layers(evidence: Evidence, name: str, title: str, style: int = 0, bold: bool = True) -> Line:
    values = evidence.of(name).astype(float)[:, (0, 2, 3)]
    return Line(title, np.arange(len(values)), values, style, bold)
