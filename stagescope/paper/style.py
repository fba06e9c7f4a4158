"""How the page of `stagescope paper` looks: light, dark, in print. System fonts alone."""

from stagescope.drawings import charts

STYLE = (
    """
:root{color-scheme:light dark;--paper:#ffffff;--ink:#1c2024;--soft:#5b6470;--line:#d9dde2;--tint:#f5f6f8;--yes:#00694d;--no:#a63d00}
@media (prefers-color-scheme: dark){:root{--paper:#14171a;--ink:#e6e9ec;--soft:#9aa4af;--line:#343b42;--tint:#1c2126;--yes:#4fd0a4;--no:#f3a06a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:2.5rem 1.5rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:.2rem 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:0 0 .8rem}
section{border-top:1px solid var(--line);margin-top:2.2rem;padding-top:1.4rem}
.kicker,small,figcaption,footer,dt{color:var(--soft)} .kicker{margin:0;font-size:.85rem;letter-spacing:.04em}
.lead{max-width:46rem;margin:.2rem 0 1.2rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:0;font-size:.92rem} dd{margin:0;overflow-wrap:anywhere}
.summary ul{display:flex;flex-wrap:wrap;gap:.8rem;list-style:none;margin:.6rem 0 1rem;padding:0}
.summary li{background:var(--tint);border:1px solid var(--line);border-radius:8px;padding:.5rem 1rem} .summary b{font-size:1.5rem;margin-right:.3rem}
.summary p{margin:.2rem 0}
figure{margin:0} figcaption{max-width:58rem;font-size:.9rem;margin-top:.6rem;overflow-wrap:anywhere}
.panels{display:grid;gap:1rem 1.4rem} .panels.of-1{max-width:760px} .panels.of-3{grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr))}
.wide{overflow-x:auto;margin-top:1rem}
table{border-collapse:collapse;width:100%;font-size:.92rem} th,td{text-align:left;vertical-align:top;padding:.55rem .9rem .55rem 0;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:500} td ul{margin:.3rem 0 0;padding-left:1.1rem;font-size:.86rem;color:var(--soft)}
tbody td:first-child,tbody th{width:28%;overflow-wrap:anywhere} .verdict,tbody th+td{white-space:nowrap;padding-right:1.4rem}
.held .verdict,li.held b{color:var(--yes);font-weight:600} .not-held .verdict,li.not-held b{color:var(--no);font-weight:600} .open .verdict{color:var(--soft)}
footer{border-top:1px solid var(--line);margin-top:2.2rem;padding-top:1rem;font-size:.85rem}
@media print{main{max-width:none;padding:0} figure,tr{break-inside:avoid} h2{break-after:avoid} body{font-size:10.5pt}}
"""
    + charts.STYLE
)
