"""One look at everything: the paper's figures, claims and stages of one model as a page of HTML, its numbers as JSON.

The page is one file: no script, no font, no picture from elsewhere. It is well-formed XML as well. Everything that came from
a model, a file or a text is made printable and escaped.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from stagescope import __version__
from stagescope.drawings.charts import Span, band, chart
from stagescope.engine.protocol import (
    Census,
    CorpusSweep,
    Evidence,
    Failure,
    HeadScores,
    ModelInfo,
    Probe,
    Signal,
    Stage,
    StageMap,
)
from stagescope.paper.causes import probes, subjoiners
from stagescope.paper.claim_numbers import HELD, NOT_HELD, OPEN, Quantity
from stagescope.paper.claims import Claim, claim_json, judge
from stagescope.paper.figures import Figure, figure_json, figures
from stagescope.paper.published import Reference, reference
from stagescope.paper.style import STYLE
from stagescope.reports.reading import model_json
from stagescope.reports.stages import stages_json
from stagescope.text import printable

PAPER = "Lad, Gurnee, Tegmark, “The Remarkable Robustness of LLMs: Stages of Inference?”, arXiv 2406.19384"
GLYPHS = {HELD: "●", NOT_HELD: "○", OPEN: "–"}
COLUMNS = {"3": 3, "4": 3, "5": 3, "9": 3, "10": 2}  # panels side by side; the others below each other, under one x axis


@dataclass(frozen=True, eq=False)
class PaperData:
    """What the page is made of: all of one model, drops and swaps in `sweep`, both lenses in `evidence`."""

    info: ModelInfo
    sweep: CorpusSweep
    evidence: Evidence
    census: Census
    stages: StageMap
    heads: HeadScores | Failure  # or why there are none
    probe: Probe | Failure


def write(path: Path, data: PaperData) -> tuple[Path, Path]:
    """The page at `path` and its numbers beside it (.json): each whole or not at all, mode as the umask says.

    Raises OSError.
    """
    stem = path.stem if path.suffix.lower() in (".html", ".htm", ".xhtml") else path.name
    beside = path.with_name(f"{stem}.json")
    if path.suffix.lower() == ".json":
        raise OSError(errno.EINVAL, "the page needs a name that ends in .html, .json is for its numbers", str(path))
    for target in (path, beside):
        if target.exists() and not target.is_file():  # renaming over /dev/stdout would destroy it
            raise OSError(errno.EINVAL, "not a regular file", str(target))
    made, claims = _made(data)
    numbers = json.dumps(_json(data, made, claims), allow_nan=False, indent=1)
    _write_whole(beside, numbers + "\n")
    _write_whole(path, _page(data, made, claims, beside.name))
    return path, beside


def page(data: PaperData, numbers_name: str = "") -> str:
    """The HTML. numbers_name: of the file with its numbers."""
    return _page(data, *_made(data), numbers_name)


def paper_json(data: PaperData) -> dict[str, Any]:
    """Schema paper/1: the numbers of every figure, the claims, the stages, what is published. NaN is null."""
    return _json(data, *_made(data))


def _made(data: PaperData) -> tuple[tuple[Figure, ...], tuple[Claim, ...]]:
    measured = (data.info, data.sweep, data.evidence, data.census)
    made = (*figures(*measured, reference(data.info)), subjoiners(data.heads), probes(data.probe))
    return made, judge(*measured, data.heads, data.probe)


def _write_whole(path: Path, text: str) -> None:
    target = path.resolve()  # a symbolic link stays
    temporary = target.with_name(f".stagescope-{secrets.token_hex(6)}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- JSON


def _json(data: PaperData, made: Sequence[Figure], claims: Sequence[Claim]) -> dict[str, Any]:
    known = reference(data.info)
    return {
        "schema": "paper/1",
        "model": model_json(data.info),
        "source": {
            name: {"text": printable(part.source), "documents": part.documents, "tokens_scored": part.tokens_scored}
            for name, part in (("sweep", data.sweep), ("evidence", data.evidence), ("stages", data.stages))
        },
        "figures": {figure.number: figure_json(figure) for figure in made},
        "claims": [claim_json(claim) for claim in claims],
        "stages": stages_json(data.stages, data.info)["stages"],
        "rule": data.stages.rule,
        "references": [] if known is None else [_reference_json(known)],
    }


def _reference_json(known: Reference) -> dict[str, Any]:
    values = known.values
    return {
        "model": known.name, "sure": known.sure, "why": known.why, "figure": values.figure, "what": values.what,
        "unit": values.unit, "points": [{"layer": layer, "value": value} for layer, value in values.points.items()],
        "source": values.source, "differences": values.differences,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- the page


def text(value: str) -> str:
    return escape(printable(value))


def _page(data: PaperData, made: Sequence[Figure], claims: Sequence[Claim], numbers_name: str) -> str:
    info = data.info
    name = text(info.name)
    sections = [
        _head(data, numbers_name),
        _summary(data, claims),
        *(_figure(figure, info.n_layers) for figure in made),
        _stages(data.stages),
        _claims(claims),
        _published(reference(info)),
        _notes(),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        f"<title>{name}: stages of inference</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(data: PaperData, numbers_name: str) -> str:
    info = data.info
    facts = [
        ("model", f"{info.architecture}, {info.n_layers} layers, width {info.d_model:,}, MLP {info.d_mlp:,}, {info.n_heads} heads"),
        ("weights", f"{info.source}; run in {info.dtype} on {info.device}"),
        ("prefix", f"{info.prefix.text} (id {info.prefix.id}) before every text" if info.prefix else "none"),
        ("drops, swaps", _amount(data.sweep)),
        ("plain runs", _amount(data.evidence)),
    ]
    if numbers_name:
        facts.append(("numbers", f"{numbers_name}, beside this page"))
    rows = "\n".join(f"<dt>{term}</dt><dd>{text(told)}</dd>" for term, told in facts)
    return (
        f'<header>\n<p class="kicker">stagescope {text(__version__)}</p>\n<h1>{text(info.name)}: stages of inference</h1>\n'
        f'<p class="lead">The figures and claims of {PAPER}, measured anew on this model and numbered as there.</p>\n'
        f"<dl>\n{rows}\n</dl>\n</header>"
    )


def _amount(data: CorpusSweep | Evidence) -> str:
    told = f"{data.source}, {data.documents:,} document{'s' * (data.documents != 1)}, {data.tokens_scored:,} tokens scored"
    told += f"; {data.n_cut:,} cut at the window" if data.n_cut else ""
    return told + (f"; {data.n_skipped:,} left out" if data.n_skipped else "")


def _summary(data: PaperData, claims: Sequence[Claim]) -> str:
    n = Counter(claim.verdict for claim in claims)
    cards = "".join(
        f'<li class="{_class(verdict)}"><b>{n[verdict]}</b> {GLYPHS[verdict]} {verdict}</li>' for verdict in GLYPHS
    )
    seen = [stage.name for stage in data.stages.stages if stage.visible]
    told = f"Stages that are visible: {', '.join(seen)}." if seen else "No stage is visible in this model."
    return f'<section class="summary">\n<p>Of {len(claims)} claims of the paper:</p>\n<ul>{cards}</ul>\n<p>{text(told)}</p>\n</section>'


def _class(verdict: str) -> str:
    return {HELD: "held", NOT_HELD: "not-held", OPEN: "open"}[verdict]


def _figure(figure: Figure, n_layers: int) -> str:
    panels = "\n".join(chart(panel, panel.ends or (0, n_layers - 1), panel.x_title) for panel in figure.panels)
    return (
        f'<section>\n<h2 id="figure-{figure.number}">Figure {figure.number}. {text(figure.title)}</h2>\n<figure>\n'
        f'<div class="panels of-{COLUMNS.get(figure.number, 1)}">\n{panels}\n</div>\n'
        f"<figcaption>{text(figure.caption)}</figcaption>\n</figure>\n</section>"
    )


def _stages(stages: StageMap) -> str:
    spans = [
        Span(str(n), stage.name, stage.first_layer, stage.last_layer, stage.low, stage.high)
        for n, stage in enumerate(stages.stages, 1)
        if stage.visible and stage.first_layer is not None and stage.last_layer is not None
    ]
    rows = "\n".join(_stage(n, stage) for n, stage in enumerate(stages.stages, 1))
    return (
        '<section>\n<h2 id="stages">Stage map</h2>\n<figure>\n<div class="panels of-1">\n'
        f"{band(spans, stages.model.n_layers, 'stages by layer')}\n</div>\n<figcaption>The four stages of the paper's Table 1. The paper "
        f"gives no boundaries: the rule is stagescope's own. {text(stages.rule[:1].upper() + stages.rule[1:].rstrip('.'))}. Hatched: not known. Above the band, where a stage may begin (95 % "
        f"interval over resampled documents). Over {text(stages.source)}: {stages.documents:,} documents, {stages.tokens_scored:,} "
        "tokens.</figcaption>\n</figure>\n"
        '<div class="wide"><table>\n<thead><tr><th>stage</th><th>layers</th><th>what it rests on</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n</section>"
    )


def _stage(n: int, stage: Stage) -> str:
    if not stage.visible or stage.first_layer is None:
        layers = "not visible in this model"
    else:
        layers = f"{stage.first_layer} to {stage.last_layer}"
        layers += "" if stage.low is None else f"<br/><small>begins at {stage.first_layer} [{stage.low}, {stage.high}]</small>"
    signals = "".join(f"<li>{_signal(signal)}</li>" for signal in stage.evidence)
    return (
        f"<tr><th>{n} {text(stage.name)}</th><td>{layers}</td><td>{text(stage.why[:1].upper() + stage.why[1:])}"
        f"{f'<ul>{signals}</ul>' if signals else ''}</td></tr>"
    )


def _signal(signal: Signal) -> str:
    where = "shows no boundary" if signal.first is None else f"alone says layer {signal.first}"
    mark = f"{GLYPHS[HELD]} agrees" if signal.agrees else f"{GLYPHS[NOT_HELD]} does not"
    return (
        f"{mark}: {text(signal.title)}, {_told(signal.before)} before, {_told(signal.after)} after; the step explains "
        f"{signal.explained:.0%} (noise up to {signal.needed:.0%}); {where}"
    )


def _claims(claims: Sequence[Claim]) -> str:
    rows = "\n".join(
        f'<tr class="{_class(claim.verdict)}"><td><b>{text(claim.text)}</b><br/><small>{text(claim.where)}</small></td>'
        f'<td class="verdict">{GLYPHS[claim.verdict]} {claim.verdict}</td><td>{text(claim.test)}'
        f"<br/><small>{text(claim.reason)}</small>{_numbers(claim.numbers)}</td></tr>"
        for claim in claims
    )
    return (
        '<section>\n<h2 id="claims">The paper\'s claims</h2>\n<p>The paper states them in words; tests and thresholds are '
        "stagescope's own. A number speaks with its 95 % interval (1,000 resamples of the documents): wholly within what is "
        "asked, held; wholly outside, not held; across the edge, not measurable here. The census is of all neurons and has no "
        'interval.</p>\n<div class="wide"><table>\n<thead><tr><th>claim</th><th>verdict</th><th>test, and what decided</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n</section>"
    )


def _numbers(numbers: Sequence[Quantity]) -> str:
    rows = "".join(f"<li>{text(_quantity(one))}</li>" for one in numbers)
    return f"<ul>{rows}</ul>" if rows else ""


def _quantity(one: Quantity) -> str:
    interval = "" if one.low == one.high == one.value else f" [{_told(one.low)}, {_told(one.high)}]"
    edges = [f"at least {_told(one.at_least)}"] * (one.at_least > float("-inf"))
    edges += [f"at most {_told(one.at_most)}"] * (one.at_most < float("inf"))
    asked = f"; asked: {', '.join(edges)}" if edges else "; told, not asked"
    return f"{one.name}: {_told(one.value)}{interval} {one.unit}{asked}"


def _told(value: float) -> str:
    return "no value" if value != value else f"{value:.3g}".replace("-", "\u2212")


def _published(known: Reference | None) -> str:
    if known is None:
        return (
            '<section>\n<h2 id="published">Published values</h2>\n<p>None is known to stagescope of this model, and those of other '
            "models are not shown beside it.</p>\n</section>"
        )
    values = known.values
    points = ", ".join(f"layer {layer}: {_told(value)}" for layer, value in values.points.items())
    return (
        f'<section>\n<h2 id="published">Published values</h2>\n<p><b>{text(known.name)}</b>. {text(known.why)}</p>\n'
        f"<p>Figure {values.figure}: {text(values.what)} ({text(values.unit)}), {text(values.source)}: {points}.</p>\n"
        f"<p>What differs: {text(values.differences)}</p>\n</section>"
    )


def _notes() -> str:
    return (
        '<footer>\n<p>Means are pooled over tokens. A prefix token is not scored; norms and attention leave the first position out. '
        "Layers count from 0. On a log axis an arrow marks a value below it. Points tell their numbers under the pointer.</p>\n</footer>"
    )
