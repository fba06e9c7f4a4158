"""An answer as one HTML file, read on dark and light screens and in print: no script, no font, no link, no picture from
elsewhere. It is well-formed XML as well. Everything that a model, a file or a prompt said is printable and escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from stagescope.answers import Answer, sweeps, title
from stagescope.drawings.charts import Line, Panel, chart
from stagescope.drawings.plot import HEADS, SCALES, SETS, TITLES, series
from stagescope.drawings.sweeps import curves
from stagescope.engine.protocol import CorpusSweep, Evidence, LensCurves, Reading, StageMap, Sweep
from stagescope.exports import again, page
from stagescope.exports.html_reading import reading_sections
from stagescope.exports.html_style import STYLE, classed, text
from stagescope.paper.figures import of_evidence
from stagescope.reports.sweep import over_words, parts
from stagescope.text import visible

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MOST_FOLLOWED = 6  # tokens that are drawn: as many as there are styles
DRAWN = 120, 40  # cells and lines of what is drawn in letters: a trace, heads of several layers


def render(answer: Answer) -> bytes:
    name = text(title(answer))
    sections = [_head(answer), *_body(answer), _again(answer)]
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n<meta name="referrer" content="no-referrer"/>\n'
        f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    ).encode()


def _head(answer: Answer) -> str:
    rows = "\n".join(f"<dt>{name}</dt><dd>{text(told)}</dd>" for name, told in page.facts(answer))
    return (
        f'<header>\n<p class="kicker">stagescope</p>\n<h1>{text(title(answer))}</h1>\n'
        f"<dl>\n{rows}\n</dl>\n{_tokens(answer)}</header>"
    )


def _tokens(answer: Answer) -> str:
    """The prompt as the model reads it, the token looked at marked."""
    tokens, at = page.tokens_of(answer), page.looked_at(answer)
    words = "".join(
        f"<li{classed('at' if n == at else '')}><small>{n}</small> {text(visible(token.text))}</li>"
        for n, token in enumerate(tokens)
    )
    return f'<ol class="tokens" aria-label="tokens">{words}</ol>\n' if tokens else ""


def _body(answer: Answer) -> list[str]:
    last = answer.last
    if isinstance(last, Reading):
        return reading_sections(last, answer.position % len(last.tokens))
    told = "\n".join(_table(*block) if isinstance(block, tuple) else _lines(block) for block in page.blocks(answer))
    drawn: list[str] = []
    if isinstance(last, Sweep | CorpusSweep):
        drawn = _curves(last if isinstance(last, CorpusSweep) else sweeps(answer))
    elif isinstance(last, LensCurves):
        drawn = [_panels(_of_lens(last), "By depth", "Depth 0, the embedding, is left out: it echoes its token.", "depth")]
    elif (evidence := answer.find(Evidence)) is not None and isinstance(last, Evidence | StageMap):
        last_layer = evidence.model.n_layers - 1
        drawn = [_panels(one.panels, one.title, one.caption, "layer", last_layer) for one in of_evidence(evidence)]
    return [*drawn, f"<section>\n<h2>Numbers</h2>\n{told}\n</section>"]


def _table(headers: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        aligned = zip(sides, row, strict=True)
        return "".join(f"<{tag}{classed('n' if side == 'right' else '')}>{text(cell)}</{tag}>" for side, cell in aligned)

    head = f"<thead><tr>{cells('th', headers)}</tr></thead>\n" if any(headers) else ""
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="numbers">\n{head}<tbody>\n{body}\n</tbody>\n</table></div>'


def _lines(lines: Sequence[str]) -> str:
    return "<pre>{}</pre>".format("\n".join(text(line) for line in lines).strip("\n"))


def _again(answer: Answer) -> str:
    lines = (line for line in (again.command(answer), again.python(answer)) if line)
    told = "\n".join(f'<pre class="code">{text(line)}</pre>' for line in lines)
    return f"<section>\n<h2>Again</h2>\n{told}\n</section>" if told else ""


# -------------------------------------------------------------------------------------------- curves of sweeps


def _curves(data: Sequence[Sweep] | CorpusSweep) -> list[str]:
    """Each measure by layer, or by what else a kind has for an x axis; traces and heads of several layers in letters."""
    of = parts(data)
    if isinstance(of[0], Sweep) and of[0].kind == "trace":
        high = of[0].model.n_layers + 4
        return [_figure(_drawn(data, max(DRAWN[0], 4 + 8 * len(of[0].tokens)), high), "Which layer carries it, and where")]
    drawn = {measure: series(of, measure) for measure in TITLES}
    made = []
    for axis in dict.fromkeys(one.axis for one in drawn["kl_nats"]):
        if axis == HEADS:
            made.append(_figure(_drawn(data, DRAWN[0], of[0].model.n_layers + 6), "By layer and head"))
            continue
        panels = []
        for measure, title_ in TITLES.items():
            mine = [one for one in drawn[measure] if one.axis == axis]
            name, _, unit = title_.partition(", ")
            lines = tuple(Line(one.name, one.x, one.y, style) for style, one in enumerate(mine))
            ends = min(one.span[0] for one in mine), max(one.span[1] for one in mine)
            panel = Panel(name, unit, lines, SCALES[measure])
            panels.append(chart(panel, ends, f"log2 of {axis}" if axis == SETS else axis))
        over = "; ".join(dict.fromkeys(over_words(part) for part in of))
        beside = "\n".join(panels)
        made.append(_figure(f'<div class="panels of-3">\n{beside}\n</div>', f"By {axis}", f"Means over {over}."))
    return made


def _of_lens(found: LensCurves) -> tuple[Panel, ...]:
    """Both lenses, and how likely the followed tokens are."""
    depths, lenses = np.arange(1, len(found.layers)), ("corrected", "v1")
    both = {
        name: tuple(Line(lens, depths, getattr(found, name)[n, 1:], n) for n, lens in enumerate(lenses))
        for name in ("entropy_bits", "kl_final_nats")
    }
    followed = tuple(
        Line(visible(token.text), depths, found.p[0, 1:, n], n % 6) for n, token in enumerate(found.followed[:MOST_FOLLOWED])
    )
    panels = (Panel("entropy", "bits", both["entropy_bits"], "zero"), Panel("KL from the output", "nats", both["kl_final_nats"], "log"))
    return (*panels, Panel("p of tokens, corrected lens", "", followed, "share")) if followed else panels


def _panels(panels: Sequence[Panel], name: str, caption: str, x_title: str, last: int | None = None) -> str:
    ends = (0, last) if last is not None else (1, max(int(line.x[-1]) for panel in panels for line in panel.lines))
    drawn = "\n".join(chart(panel, ends, x_title) for panel in panels)
    return _figure(f'<div class="panels of-{min(len(panels), 3)}">\n{drawn}\n</div>', name, caption)


def _drawn(data: Sequence[Sweep] | CorpusSweep, width: int, height: int) -> str:
    return _lines(curves(data, width, height).plain.split("\n"))


def _figure(drawn: str, name: str, caption: str = "") -> str:
    told = f"<figcaption>{text(caption)}</figcaption>\n" if caption else ""
    return f"<section>\n<h2>{text(name)}</h2>\n<figure>\n{drawn}\n{told}</figure>\n</section>"
