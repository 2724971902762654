"""The report as one HTML page: nothing is loaded, nothing runs; light or dark as the reader's system says, and prints.

Everything that comes from folders or files is escaped.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fedwon.server.comparison import charts, tables
from fedwon.server.comparison.reporting import images_of
from fedwon.server.comparison.style import STYLE
from fedwon.server.comparison.texts import Texts
from fedwon.server.comparison.verdict import MARGIN
from fedwon.server.comparison.wording import DASH, advice, caution, headline, made_by, percent, points, reason

ALONE = "standalone"


def page(report: Mapping[str, Any], texts: Texts) -> str:
    """Write the page.

    Args:
        report: what `reporting.report` made.
        texts: the language.
    """
    facts = report["facts"]
    subtitle = texts.subtitle.format(
        data=report["data"],
        lines=len(facts["lines"]),
        images=f"{images_of(facts):,}",
        classes=len(facts["classes"]),
        date=report["made"][:10],
    )
    sections = [
        _answer(report, texts),
        _notes(report, texts),
        _by_line(report, texts),
        _differences(report, texts),
        _unseen(report, texts),
        _cost(report, texts),
        _images(report, texts),
        _how(report, texts),
    ]
    return (
        f'<!doctype html>\n<html lang="{texts.lang}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(texts.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>"
        f"<h1>{escape(texts.title)}</h1><p>{escape(subtitle)}</p></header>\n<main>\n"
        + "\n".join(filter(None, sections))
        + f"\n</main>\n<footer><p>{escape(made_by(report, texts))}</p></footer>\n</body>\n</html>\n"
    )


def _tone(report: Mapping[str, Any]) -> str:
    if report["obstacle"]:
        return "none"
    code = report["answer"]["code"]
    return "none" if code.startswith("not_enough") else "bad" if code == "alone" else "good"


def _answer(report: Mapping[str, Any], texts: Texts) -> str:
    tiles = [] if report["obstacle"] else [tile for tile in _tiles(report, texts) if tile]
    return (
        f'<section class="answer {_tone(report)}"><p class="kicker">{escape(texts.answer)}</p>'
        f"<h2>{escape(headline(report, texts))}</h2><p>{escape(reason(report, texts))}</p>"
        + (f'<div class="tiles">{"".join(tiles)}</div>' if tiles else "")
        + f"<p><strong>{escape(texts.next_heading)}:</strong> {tables.marked(advice(report, texts))}</p></section>"
    )


def _tile(title: str, value: str, note: str) -> str:
    return f'<div class="tile"><h3>{escape(title)}</h3><p class="value">{escape(value)}</p><p>{escape(note)}</p></div>'


def shown_method(report: Mapping[str, Any]) -> str | None:
    """The method that the tiles are about: the recommended one, else the one with the largest gain."""
    answer, gains = report["answer"], report["outcomes"]["gains"]
    if answer and answer["method"]:
        return str(answer["method"])
    return max(gains, key=lambda name: gains[name]["mean"], default=None)


def _tiles(report: Mapping[str, Any], texts: Texts) -> list[str]:
    found, method = report["outcomes"], shown_method(report)
    if method is None:
        return []
    name, gain = texts.methods[method], found["gains"][method]
    note = texts.gain_note.format(method=name, low=points(gain["low"]), high=points(gain["high"]))
    rows = found["line_gains"][method].values()
    better = sum((row["low"] or 0) > 0 for row in rows)
    worse = sum((row["high"] or 0) < 0 for row in rows)
    before, after = (min(found["by_line"][which].values()) for which in (ALONE, method))
    return [
        _tile(texts.gain_tile, texts.gain_value.format(gain=points(gain["mean"])), note),
        _tile(
            texts.lines_tile,
            texts.lines_value.format(better=better, all=len(rows)),
            texts.lines_note.format(method=name, worse=worse),
        ),
        _tile(
            texts.worst_tile,
            texts.worst_value.format(before=percent(before), after=percent(after)),
            texts.worst_note.format(method=name),
        ),
        _unseen_tile(report, texts, method),
    ]


def _unseen_tile(report: Mapping[str, Any], texts: Texts, method: str) -> str:
    unseen = report["outcomes"]["unseen"]
    lines = [line for line in unseen.get(method, {}) if line in unseen.get(ALONE, {})]
    if not lines:
        return _tile(texts.unseen_tile, DASH, texts.not_measured)
    value, alone = (statistics.fmean(unseen[which][line] for line in lines) for which in (method, ALONE))
    note = texts.unseen_note.format(method=texts.methods[method], alone=percent(alone))
    return _tile(texts.unseen_tile, texts.unseen_value.format(value=percent(value)), note)


def _notes(report: Mapping[str, Any], texts: Texts) -> str:
    rows = [caution(row, texts) for row in report["cautions"]]
    return _section(texts.cautions_heading, tables.bullets(rows)) if rows else ""


def _by_line(report: Mapping[str, Any], texts: Texts) -> str:
    by_line = report["outcomes"]["by_line"]
    if not by_line:
        return ""
    methods = [name for name in report["methods"] if name in by_line]
    lines = list(by_line[methods[0]])
    rows = {line: {name: by_line[name][line] for name in methods} for line in lines}
    summary = {texts.mean: {name: statistics.fmean(by_line[name].values()) for name in methods}}
    shown = shown_method(report)
    emphasis = (ALONE, shown) if shown and ALONE in methods else None
    chart = charts.dots({**rows, **summary}, methods, texts.by_line_heading, emphasis)
    lowest = {texts.worst: {name: min(by_line[name].values()) for name in methods}}
    cells = [[line, *(percent(row[name]) for name in methods)] for line, row in {**rows, **summary, **lowest}.items()]
    table = tables.table([texts.line, *(texts.methods[name] for name in methods)], cells)
    note = texts.by_line_note.format(seeds=len(report["outcomes"]["seeds"]))
    words = f'<p class="dim">{escape(texts.methods_note)}</p>'
    return _section(texts.by_line_heading, _paragraph(note), words, charts.legend(methods, texts.methods), chart, table)


def _differences(report: Mapping[str, Any], texts: Texts) -> str:
    found = report["outcomes"]
    rows = [
        _bar(texts.gain_over_alone.format(method=texts.methods[name]), gain, texts)
        for name, gain in found["gains"].items()
    ]
    first = "fedwon" if "fedwon" in found["gains"] else shown_method(report)
    for one, other, change in found["pairs"]:
        if one == first:
            names = {"first": texts.methods[one], "second": texts.methods[other]}
            rows.append(_bar(texts.less.format(**names), change, texts))
    if not rows:
        return ""
    chart = charts.forest(rows, texts.differences_heading, MARGIN)
    return _section(texts.differences_heading, _paragraph(texts.differences_note), chart)


def _bar(label: str, change: Mapping[str, Any], texts: Texts) -> charts.Bar:
    low, high = change["low"], change["high"]
    better, worse = low is not None and low > 0, high is not None and high < 0
    word = texts.better_by if better else texts.worse_by if worse else texts.undecided
    figures = f"{points(change['mean'])} ({points(low)} … {points(high)})"
    tone = "good" if better else "bad" if worse else "none"
    return charts.Bar(label, change["mean"], low, high, f"{figures} {word}", tone)


def _unseen(report: Mapping[str, Any], texts: Texts) -> str:
    unseen = report["outcomes"]["unseen"]
    methods = [name for name in report["methods"] if name in unseen]
    tested = [set(unseen[name]) for name in methods if name != ALONE]
    lines = sorted(set.intersection(*tested)) if tested else []
    if not lines:
        return ""
    rows = {line: {name: unseen[name][line] for name in methods if line in unseen[name]} for line in lines}
    chart = charts.dots(rows, report["methods"], texts.unseen_heading, None)
    table = tables.table(
        [texts.line, *(texts.methods[name] for name in methods)],
        [[line, *(percent(row.get(name)) for name in methods)] for line, row in rows.items()],
    )
    key = charts.legend(methods, texts.methods)
    return _section(texts.unseen_heading, _paragraph(texts.unseen_intro), key, chart, table)


def _cost(report: Mapping[str, Any], texts: Texts) -> str:
    if not report["cost"]:
        return ""
    return _section(texts.cost_heading, _paragraph(texts.cost_intro), tables.costs(report, texts))


def _images(report: Mapping[str, Any], texts: Texts) -> str:
    facts = report["facts"]
    names = [name for name in facts["lines"] if facts["lines"][name]["read"]]
    unreadable = [text for line in facts["lines"].values() for text in line["unreadable_named"]]
    parts = [tables.images(facts, texts), tables.bullets(unreadable[:8])]
    parts += [f"<h3>{escape(texts.classes_heading)}</h3>", tables.classes(facts, texts)]
    if len(names) > 1:
        chart = charts.heat(facts["distance"]["pairs"], names, texts.distance_heading)
        parts += [f"<h3>{escape(texts.distance_heading)}</h3>", _paragraph(texts.distance_intro), chart]
    return _section(texts.images_heading, *parts)


def _how(report: Mapping[str, Any], texts: Texts) -> str:
    if report["obstacle"]:
        return ""
    cut = [caution(row, texts) for row in report["cut"]] or [texts.nothing_cut]
    return _section(
        texts.how_heading,
        tables.bullets(texts.how),
        f"<h3>{escape(texts.cut_heading)}</h3>",
        tables.bullets(cut),
        f"<h3>{escape(texts.settings_heading)}</h3>" if report["choices"] else "",
        tables.settings(report, texts) if report["choices"] else "",
    )


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _section(heading: str, *parts: str | Iterable[str]) -> str:
    content: Sequence[str] = [part if isinstance(part, str) else "".join(part) for part in parts]
    return f"<section><h2>{escape(heading)}</h2>{''.join(content)}</section>"
