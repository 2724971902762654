"""The look of the report's page."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --dim: #5b6472; --paper: #f4f5f7; --card: #ffffff; --rule: #d9dde3;
  --good: #00795a; --bad: #b3261e; --none: #6b5900; --band: rgba(110, 120, 140, .14); }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --dim: #a3abb8; --paper: #14171c; --card: #1d2128;
  --rule: #363c46; --good: #3ecf9f; --bad: #ff8a80; --none: #e5c558; --band: rgba(160, 170, 190, .16); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; font-size: 16px;
  font-family: system-ui, "Segoe UI", "Hiragino Sans", "Yu Gothic UI", "Noto Sans CJK JP", "IPAGothic", sans-serif; }
header, main, footer { max-width: 880px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.5rem; margin: 0; line-height: 1.3; }
header p, footer p { color: var(--dim); margin: 4px 0 16px; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 18px 22px;
  margin: 0 0 18px; }
section > h2 { font-size: 1.15rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 18px 0 4px; }
p { margin: 6px 0 10px; }
ul { margin: 6px 0; padding-left: 1.2em; }
li { margin: 3px 0; overflow-wrap: anywhere; }
code { font-size: .9em; }
.answer { border-left: 8px solid var(--none); }
.answer.good { border-left-color: var(--good); }
.answer.bad { border-left-color: var(--bad); }
.answer > h2 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 6px; }
.kicker { text-transform: uppercase; letter-spacing: .06em; font-size: .8rem; color: var(--dim); margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; margin: 14px 0; }
.tile { border: 1px solid var(--rule); border-radius: 8px; padding: 10px 14px; }
.tile h3 { margin: 0; font-size: .85rem; color: var(--dim); font-weight: 600; }
.tile .value { font-size: 1.25rem; font-weight: 700; margin: 2px 0; line-height: 1.3; }
.tile p { margin: 0; font-size: .85rem; color: var(--dim); }
.tile p.value { color: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 6px 0; font-size: .9rem; }
.legend svg { vertical-align: -4px; margin-right: 4px; }
.chart { overflow-x: auto; }
.chart svg { display: block; width: 100%; height: auto; font-size: 13px; font-family: inherit; }
.chart text { fill: currentColor; }
.chart text.dim { fill: var(--dim); font-size: 12px; }
.grid { stroke: var(--rule); }
.zero { stroke: var(--dim); stroke-width: 1.5; }
.band { fill: var(--band); }
.bar { stroke-width: 9; opacity: .35; }
.whisker { stroke-width: 3; }
line.good { stroke: var(--good); } line.bad { stroke: var(--bad); } line.none { stroke: var(--dim); }
.dot.good { fill: var(--good); } .dot.bad { fill: var(--bad); } .dot.none { fill: var(--dim); }
.wide { overflow-x: auto; }
.dim { color: var(--dim); font-size: .9rem; }
table { border-collapse: collapse; font-size: .9rem; margin: 8px 0; min-width: 60%; }
th, td { text-align: right; white-space: nowrap;
  padding: 5px 8px; border-bottom: 1px solid var(--rule); vertical-align: bottom;
  font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; }
thead th { white-space: normal; font-weight: 600; color: var(--dim); }
tbody th { font-weight: 500; }
@media print { body { background: #fff; font-size: 12px; } section { break-inside: avoid; } }
"""
"""CSS; it names no file and no address."""
