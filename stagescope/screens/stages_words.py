"""What the stages screen tells in words and numbers: the parts of a map, its curves, one layer in full. No textual
widgets and no plotext here; all text harmless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.text import Text
from textual.content import Content

from stagescope.engine.protocol import Census, CorpusSweep, Evidence, StageMap, Texts
from stagescope.engine.stages import STAGES
from stagescope.reports import stages as stages_report
from stagescope.screens.widgets import glyphs as g
from stagescope.screens.widgets.glyphs import Glyphs
from stagescope.text import fit, printable

QUIET, CHOSEN = "$foreground 60%", "bold $primary"
PANEL = (38, 9)  # cells and lines that a panel needs among others
MEAN, LOW, HIGH = 0, 2, 3  # columns of a summary


@dataclass
class Found:
    """What is known over one text."""

    sweep: CorpusSweep | None = None
    evidence: Evidence | None = None
    census: Census | None = None
    map: StageMap | None = None

    def parts(self) -> dict[str, bool]:
        """What is measured for a map -> whether it is there."""
        complete = self.evidence is not None and self.evidence.complete
        return {"drops and swaps": self.sweep is not None, "plain runs": complete, "neurons": self.census is not None}

    @property
    def whole(self) -> bool:
        return self.map is not None and all(self.parts().values())


class Series(NamedTuple):
    name: str
    x: np.ndarray  # layers; what a depth says stands at the layer it comes after
    y: np.ndarray  # [N, 3] mean, low, high


class Panel(NamedTuple):
    title: str
    scale: str
    series: tuple[Series, ...]


# ---------------------------------------------------------------------------------------------- the curves


def panels(found: Found, n_layers: int) -> list[Panel]:
    """The curves of the paper's figures, as far as they are known. Those of the rule are `signals`."""
    sweep, evidence, census = found.sweep, found.evidence, found.census

    def swept(kind: str) -> list[Series]:
        rows = [i for i, row in enumerate(sweep.rows) if row.kind == kind] if sweep else []
        x = np.array([sweep.rows[i].layer + 0.5 * (kind == "swap") for i in rows], float)
        return [Series(kind, x, sweep.kl_nats[rows][:, [MEAN, LOW, HIGH]])] if rows else []

    def measured(**names: str) -> list[Series]:
        """Of depths all but the first, which is after no layer: a tied embedding echoes the token it reads."""
        if evidence is None:
            return []
        of = {name.replace("_", " "): evidence.of(measure)[-n_layers:] for name, measure in names.items()}
        return [Series(name, np.arange(n_layers, dtype=float), y[:, [MEAN, LOW, HIGH]]) for name, y in of.items()]

    def counted() -> list[Series]:
        if census is None:
            return []
        if census.orientation == "none":
            return [_bare("kurtosis > 10", census.high)]
        return [_bare("prediction", census.prediction), _bare("suppression", census.suppression)]

    of_means = [] if evidence is None else [_bare("of means", _ratio_of_means(evidence))]

    made = (
        ("KL, nats", "log", [*swept("drop"), *swept("swap")]),
        ("attention to the 5 before", "linear", measured(sink_free="prev5_no_sink", with_sink="prev5_mean_weight")),
        ("attention / MLP", "linear", [*measured(mean_of_ratios="attn_mlp_ratio"), *of_means]),
        ("MLP norm", "linear", measured(mean="mlp_norm")),
        ("lens KL after, nats", "log", measured(corrected="kl_final_nats", v1="kl_final_nats_v1")),
        ("lens entropy after, bits", "linear", measured(corrected="entropy_bits", v1="entropy_bits_v1")),
        ("written / stream", "log", measured(attention="attn_rel", MLP="mlp_rel")),
        ("neurons", "linear", counted()),
    )
    return [Panel(title, scale, tuple(_known(one) for one in series)) for title, scale, series in made]


def signals(map: StageMap, number: int) -> list[Panel]:
    """What the rule looked at for the boundary that stage `number` begins at: its curves, value by value."""
    of = dict(zip(map.signals, map.curves, strict=True))
    there = [signal for signal in map.stages[number].evidence if signal.name in of]
    drawn = [_bare("agrees" if signal.agrees else "does not agree", of[signal.name]) for signal in there]
    return [Panel(signal.title, "linear", (_known(one),)) for signal, one in zip(there, drawn, strict=True)]


def edge(map: StageMap, number: int) -> int | None:
    """The first layer after that boundary; None: it is not visible."""
    return map.stages[max(number, 1)].first_layer


def grid(count: int, width: int, height: int) -> tuple[int, int] | None:
    """Columns and rows in which so many panels fit, as wide as they can be; None: they do not."""
    for columns in range(1, count + 1):
        rows = -(-count // columns)
        if width // columns >= PANEL[0] and height // rows >= PANEL[1]:
            return columns, rows
    return None


def _ratio_of_means(evidence: Evidence) -> np.ndarray:
    """[L] mean attention norm over mean MLP norm: the reading that the rule takes."""
    attention, mlp = (evidence.of(name)[:, MEAN] for name in ("attn_norm", "mlp_norm"))
    return attention / np.where(mlp > 0, mlp, np.nan)


def _bare(name: str, y: np.ndarray) -> Series:
    """Without an interval."""
    return Series(name, np.arange(len(y), dtype=float), np.c_[y, np.full((len(y), 2), np.nan)])


def _known(series: Series) -> Series:
    there = ~np.isnan(series.y[:, 0])
    return Series(series.name, series.x[there], series.y[there])


def point(found: Found, layer: int, n_layers: int) -> list[str]:
    """Every curve's number at one layer; of the lens, what it says after it."""
    stage = found.map.stage_of(layer) if found.map else None
    told = [
        f"layer {layer}, depth {layer / max(n_layers - 1, 1):.2f}"
        + (f", stage {stage + 1}" if stage is not None else ", stage not known" if found.map else "")
    ]
    if found.sweep is not None:
        rows = {row.schedule: i for i, row in enumerate(found.sweep.rows)}
        for schedule in (f"drop {layer}", f"swap {layer} {layer + 1}"):
            if schedule in rows:
                told.append(f"{schedule}: KL {g.number(float(found.sweep.kl_nats[rows[schedule], MEAN]))}")
    counts = _counts(found.census, layer)
    if found.evidence is not None:

        def at(measure: str) -> str:
            values = found.evidence.of(measure)
            return g.number(float(values[-n_layers:][layer, MEAN])) or "?"

        of_means = g.number(float(_ratio_of_means(found.evidence)[layer])) or "?"
        told += [
            f"near {at('prev5_no_sink')}, with sink {at('prev5_mean_weight')}",
            f"attn/MLP {at('attn_mlp_ratio')}, of means {of_means}",
            f"MLP norm {at('mlp_norm')}",
            *counts,
            f"lens KL {at('kl_final_nats')}, v1 {at('kl_final_nats_v1')}",
            f"H {at('entropy_bits')}, v1 {at('entropy_bits_v1')} bits",
            f"attn {at('attn_rel')}, MLP {at('mlp_rel')} of x",
        ]
    return told if found.evidence is not None else [*told, *counts]


def _counts(census: Census | None, layer: int) -> list[str]:
    """As the stack heads them: suppression and prediction neurons."""
    if census is None:
        return []
    if census.orientation == "none":
        return [f"hi-kurt {census.high[layer]}"]
    return [f"sup/pre {census.suppression[layer]}/{census.prediction[layer]}"]


# ----------------------------------------------------------------------------------------------- the lines


def text_line(
    texts: Texts, found: Found, prompt: str, schedule: str, width: int, glyphs: Glyphs
) -> Content:
    """Over which text, of how much; and the other one, which a click chooses."""
    standard = not texts.prompts
    other = Content.styled("c this prompt" if standard else "c standard text", CHOSEN).stylize("@click=screen.text()")
    if not standard:
        n = f"{found.map.tokens_scored} tokens, " if found.map else ""
        left = f"over this prompt ({n}one has no interval): {printable(prompt)}"
    else:
        left = "over " + ("the standard text" if found.map is None else stages_report.over(found.map))
    left = f"the baseline, not {schedule}; {left}" if schedule else left
    room = max(width - other.cell_length - 2, 0)
    return Content.assemble(fit(left, room, glyphs.ascii_only), "  ", other)


def table(found: Found, chosen: int | None, n_layers: int, width: int, glyphs: Glyphs) -> Content:
    """Five lines: a heading and the four stages. chosen: the one whose boundary is looked at."""
    head = fit("  stage                   layers (first, 95 %)  depth     why", width, glyphs.ascii_only)
    lines = [Content.styled(head, QUIET)]
    for number, name in enumerate(STAGES):
        stage = found.map.stages[number] if found.map else None
        mark = glyphs.cursor if number == chosen else " "
        if stage is None:
            told, style = "not known yet", QUIET
        elif stage.visible:
            where = f"{stages_report.layers(stage):20}  {stages_report.depths(stage, n_layers):8}"
            told, style = f"{where}  {printable(stage.why)}", ""
        else:
            told, style = f"{stages_report.unseen(found.map)}: {printable(stage.why)}", QUIET
        line = fit(f"{mark}{number + 1} {name:21}  {told}", width, glyphs.ascii_only)
        clicked = Content.styled(line, style).stylize(f"@click=screen.boundary({number})")
        lines.append(clicked.stylize("bold") if number == chosen else clicked)
    return Content("\n").join(lines)


def rule_line(found: Found, width: int, glyphs: Glyphs) -> Content:
    rule = found.map.rule if found.map else stages_report.NO_MAP
    return Content.styled(fit(rule, width, glyphs.ascii_only), QUIET)


def evidence(map: StageMap | None, number: int, width: int, ascii_only: bool) -> list[Text]:
    """The boundary that stage `number` begins at: its reason in full, every curve's word, the rule."""
    if map is None:
        return [Text("the evidence comes with the map: it is not known yet")]
    stage = map.stages[number]
    head = f"{stage.name}, {stages_report.boundary(number, stage)}"
    lines = [Text(fit(head, width, ascii_only), "bold"), *stages_report.wrapped(printable(stage.why), width)]
    for index, line in enumerate(stages_report.evidence_table(stage, width, ascii_only)):
        lines.append(Text(line, "dim" if not index else ""))
    lines += [Text(), *stages_report.wrapped(stages_report.EXPLAINED, width, style="dim")]
    return lines + stages_report.wrapped(printable(map.rule), width, style="dim")
