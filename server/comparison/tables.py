"""Tables and lists of the report's page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedwon.server.comparison.texts import Texts
from fedwon.server.comparison.wording import DASH, percent, size, time_of_round

_CODE = re.compile(r"`([^`]+)`")


def marked(text: str) -> str:
    """Escape, and turn `...` into code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def bullets(rows: Sequence[str]) -> str:
    """A list; nothing for no rows."""
    return f"<ul>{''.join(f'<li>{marked(row)}</li>' for row in rows)}</ul>" if rows else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def costs(report: Mapping[str, Any], texts: Texts) -> str:
    """Time, bytes and memory of each method."""
    rows = [
        [
            texts.methods[name],
            time_of_round(row["line_seconds"]),
            size(row["bytes_up"]),
            size(row["model_bytes"]),
            size(row["step_bytes"]),
            texts.method_notes[row["keeps"]],
        ]
        for name, row in report["cost"].items()
    ]
    return table(texts.cost_columns, rows)


def images(facts: Mapping[str, Any], texts: Texts) -> str:
    """What was found on each line."""
    rows = []
    for name, line in facts["lines"].items():
        shade = [DASH if line[key] is None else f"{line[key]:.2f}" for key in ("brightness", "contrast")]
        figures = [str(line[key]) for key in ("images", "train", "test", "unreadable", "copies")]
        rows.append([name, *figures, _sizes(line), *shade])
    return table(texts.images_columns, rows)


def _sizes(line: Mapping[str, Any]) -> str:
    if line["width"] is None:
        return DASH
    (w_low, w_mid, w_high), (h_low, h_mid, h_high) = line["width"], line["height"]
    if w_low == w_high and h_low == h_high:
        return f"{w_low} x {h_low}"
    return f"{w_mid} x {h_mid} ({w_low}…{w_high} x {h_low}…{h_high})"


def classes(facts: Mapping[str, Any], texts: Texts) -> str:
    """How many images of each class each line has; a dash for none."""
    lines = facts["lines"]
    rows = [[kind, *(str(line["classes"].get(kind, DASH)) for line in lines.values())] for kind in facts["classes"]]
    return table([texts.class_column, *lines], rows)


def settings(report: Mapping[str, Any], texts: Texts) -> str:
    """What the search chose."""
    rows = []
    for name, choice in report["choices"].items():
        clipping = texts.off if choice["clipping"] is None else f"{choice['clipping']:g}"
        trials = str(choice["trials"] + choice["pruned"])
        score = DASH if choice["score"] is None else f"{percent(choice['score'])} %"
        rows.append([texts.methods[name], f"{choice['lr']:.3g}", clipping, trials, score])
    return table(texts.settings_columns, rows)
