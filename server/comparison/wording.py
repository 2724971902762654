"""The report's data in sentences of a language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedwon.server.comparison.meter import duration
from fedwon.server.comparison.texts import Texts

MINUS, DASH = "−", "–"
_KILO = 1000


def points(value: float | None, *, signed: bool = True) -> str:
    """A share as points with one decimal; a dash for none or without end."""
    if value is None:
        return DASH
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return ("0.0" if text in {"+0.0", "-0.0"} else text).replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share in percent without a sign; a dash for none."""
    return points(value, signed=False)


def size(count: float | None) -> str:
    """Bytes in kB, MB or GB; a dash for none."""
    if count is None:
        return DASH
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value < _KILO:
            break
        value, unit = value / _KILO, larger
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def time_of_round(seconds: float | None) -> str:
    """Seconds, or minutes from a hundred seconds on."""
    if seconds is None:
        return DASH
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _code(report: Mapping[str, Any]) -> str:
    return str(report["obstacle"] or report["answer"]["code"])


def _filled(report: Mapping[str, Any], texts: Texts) -> dict[str, str]:
    """What headline, reason and advice may name."""
    answer = report["answer"] or {}
    gain = answer.get("gain") or {}
    factor = answer.get("images_factor")
    key = answer.get("method")
    return {
        "method": texts.methods[key] if key else "",
        "key": key or "",
        "gain": points(gain.get("mean")),
        "low": points(gain.get("low")),
        "high": points(gain.get("high")),
        "factor": DASH if factor is None else f"{max(factor, 1):.1f}".removesuffix(".0"),
        "train": str(report["fewest"]["train"]),
        "test": str(report["fewest"]["test"]),
    }


def headline(report: Mapping[str, Any], texts: Texts) -> str:
    """The answer in one sentence."""
    return texts.headlines[_code(report)].format(**_filled(report, texts))


def reason(report: Mapping[str, Any], texts: Texts) -> str:
    """Why, with the figures."""
    if not report["obstacle"] and report["answer"]["gain"] is None:
        return texts.no_gain_yet
    return texts.reasons[_code(report)].format(**_filled(report, texts))


def advice(report: Mapping[str, Any], texts: Texts) -> str:
    """What to do next."""
    return texts.advice[_code(report)].format(**_filled(report, texts))


def caution(row: Mapping[str, Any], texts: Texts) -> str:
    """One caution, or one thing that was left out."""
    filled: dict[str, str] = {}
    for key, value in row.items():
        if key == "method":
            filled[key] = texts.methods[value]
        elif key == "methods":
            filled[key] = texts.listing.join(texts.methods[name] for name in value)
        elif isinstance(value, list):
            filled[key] = _some(value, texts)
        elif key in {"low", "high"}:
            filled[key] = f"{value:.2f}"
        elif key == "ratio":
            filled[key] = f"{value:.1f}"
        else:
            filled[key] = str(value)
    return texts.cautions[row["code"]].format(**filled)


def _some(names: list[str], texts: Texts) -> str:
    shown = texts.listing.join(names[:6])
    return f"{shown} …" if len(names) > 6 else shown


def made_by(report: Mapping[str, Any], texts: Texts) -> str:
    """By what and in which time."""
    return texts.made_by.format(version=report["version"], time=duration(report["seconds"]))


def placeholders(text: str) -> set[str]:
    """What a text lets be filled in."""
    return set(re.findall(r"{(\w+)}", text))
