"""How an exported page looks: as that of `stagescope paper`, and what tables of layers need beside. And how anything is
written into one."""

from html import escape

from stagescope.paper import style as paper_style
from stagescope.text import printable

# What a schedule changed is told by a mark, weight and a line, never by hue alone.
STYLE = (
    paper_style.STYLE
    + """
main{max-width:1480px} h1{font-size:1.6rem} dd{white-space:pre-wrap}
pre,.tokens,table.layers,table.numbers{font:13px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{white-space:pre;overflow-x:auto;margin:.8rem 0} pre.code{background:var(--tint);border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;white-space:pre-wrap;overflow-wrap:anywhere}
.tokens{display:flex;flex-wrap:wrap;gap:.3rem;list-style:none;margin:1.1rem 0 0;padding:0}
.tokens li{border:1px solid var(--line);border-radius:4px;padding:.05rem .4rem;overflow-wrap:anywhere} .tokens .at{border:2px solid var(--ink);font-weight:700}
table.layers,table.numbers{width:auto}
.layers th,.layers td,.numbers th,.numbers td{padding:.12rem .8rem .12rem 0;vertical-align:baseline;white-space:pre;width:auto!important;overflow-wrap:normal}
.layers thead th,.numbers thead th{vertical-align:bottom} .n{text-align:right!important;font-variant-numeric:tabular-nums}
.layers tbody th{position:sticky;left:0;background:var(--paper);font-weight:500;text-align:right;color:var(--soft);border-right:1px solid var(--line);padding:.12rem .6rem .12rem .3rem}
.layers tbody th+td{padding-left:.7rem}
.layers .changed th,.layers .changed .mark{color:var(--ink);font-weight:700} .layers .changed>*{background:var(--tint)}
.layers .gone td{color:var(--soft);font-style:italic}
.layers .bar{display:inline-block;width:5rem;height:.6rem;border:1px solid var(--line)} .layers .bar i{display:block;height:100%;background:var(--soft)}
.layers small{margin-left:.35rem} .layers .other{font-weight:700;text-decoration:underline;text-underline-offset:2px}
.grid td,.grid thead th{padding:.12rem .5rem;border-left:1px solid var(--line)} .grid td{background:rgba(0,114,178,calc(var(--p,0)*.45))} .grid .at{border-left:2px solid var(--ink);border-right:2px solid var(--ink)}
.grid .gone td{background:none}
@media (prefers-color-scheme: dark){.grid td{background:rgba(86,180,233,calc(var(--p,0)*.5))}}
@media print{pre,.wide{overflow:visible} pre{white-space:pre-wrap} table.layers,table.numbers{font-size:7.5pt} *{print-color-adjust:exact;-webkit-print-color-adjust:exact} .layers tbody th{position:static}}
"""
)


def text(value: str) -> str:
    """Harmless in a page: in an element, and in an attribute."""
    return escape(printable(value))


def classed(name: str) -> str:
    return f' class="{name}"' if name else ""
