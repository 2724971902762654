"""What a reader must know beside the answer: what in the data, in the time or in the runs stands against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedwon.common.methods import MethodName
from fedwon.server.comparison.outcomes import Outcomes
from fedwon.server.comparison.planning import Plan
from fedwon.server.comparison.verdict import Recommendation

Caution = dict[str, Any]
"""`code`, and what its sentence says."""

FEW_TESTS = 5
_RISING, _BACK = 0.02, 3
_BRIGHTNESS, _CONTRAST = 0.1, 1.5


def of_data(facts: Mapping[str, Any]) -> list[Caution]:
    """What the look at the images found."""
    lines: Mapping[str, Mapping[str, Any]] = facts["lines"]
    found: list[Caution] = []
    for name, reason in facts["left_out"].items():
        found.append({"code": f"left_out_{reason}", "line": name})
    for key in ("unreadable", "copies", "contradictions", "leaked"):
        counts = {name: line[key] for name, line in lines.items() if line[key]}
        if counts:
            found.append({"code": key, "count": sum(counts.values()), "lines": sorted(counts)})
    shared = sum(row[2] for row in facts["across"])
    if shared:
        pairs = {name for row in facts["across"] for name in row[:2]}
        found.append({"code": "across", "count": shared, "lines": sorted(pairs)})
    found += [{"code": "alike_names", "names": names} for names in facts["alike"]]
    found += _lone_classes(facts)
    few = [
        (line, name) for line in facts["compared"] for name, n in lines[line]["test_classes"].items() if n < FEW_TESTS
    ]
    if few:
        found.append({"code": "few_tests", "count": len(few), "classes": sorted({name for _, name in few})})
    if not facts["complete"]:
        found.append({"code": "drawn"})
    return found + _exposure([lines[name] for name in facts["compared"]])


def _lone_classes(facts: Mapping[str, Any]) -> list[Caution]:
    """Classes that one line has and no other."""
    have: dict[str, list[str]] = {}
    for name in facts["compared"]:
        for kind in facts["lines"][name]["classes"]:
            have.setdefault(kind, []).append(name)
    lone = sorted(kind for kind, names in have.items() if len(names) == 1)
    return [{"code": "lone_classes", "classes": lone}] if lone and len(facts["compared"]) > 1 else []


def _exposure(lines: list[Mapping[str, Any]]) -> list[Caution]:
    """Lines that differ in brightness or contrast, which each image's own standardization takes away."""
    if len(lines) < 2:
        return []
    bright = [line["brightness"] for line in lines]
    contrast = [max(line["contrast"], 1e-6) for line in lines]
    if max(bright) - min(bright) < _BRIGHTNESS and max(contrast) / min(contrast) < _CONTRAST:
        return []
    return [{"code": "exposure", "low": min(bright), "high": max(bright), "ratio": max(contrast) / min(contrast)}]


def of_runs(found: Outcomes, answer: Recommendation, courses: Mapping[MethodName, list[float]]) -> list[Caution]:
    """What the runs show against the answer.

    Args:
        found: what the runs came to.
        answer: the recommendation.
        courses: mean validation accuracy over the rounds, by method.
    """
    cautions: list[Caution] = []
    if answer.method is not None:
        rows = found.line_gains[answer.method]
        losing = sorted(line for line, change in rows.items() if change.high < 0)
        if losing:
            cautions.append({"code": "losing_lines", "lines": losing, "method": answer.method})
    if rising := still_rising(courses):
        cautions.append({"code": "still_rising", "methods": rising})
    cautions += [
        {"code": "diverged", "method": name, "count": count} for name, count in found.diverged.items() if count
    ]
    return cautions


def still_rising(courses: Mapping[MethodName, list[float]]) -> list[MethodName]:
    """Methods whose accuracy on validation images still grew in the last rounds."""
    return [name for name, course in courses.items() if course and course[-1] - course[-1 - _BACK :][0] > _RISING]


def cut(plan: Plan | None, full: Plan, done: Mapping[str, int], lines: int) -> list[Caution]:
    """What was left out for want of time.

    Args:
        plan: what was planned; None if time ran out before.
        full: what would have been planned with time without end.
        done: `trials` of the method with the fewest, `seeds`, `unseen` lines.
        lines: that take part.
    """
    if plan is None:
        return [{"code": "cut_everything"}]
    found: list[Caution] = []
    if done["trials"] < full.trials:
        found.append({"code": "cut_trials", "done": done["trials"], "full": full.trials})
    if done["seeds"] < plan.seeds:
        found.append({"code": "cut_seeds", "done": done["seeds"], "full": plan.seeds})
    if plan.rounds < full.rounds:
        found.append({"code": "cut_rounds", "done": plan.rounds, "full": full.rounds})
    if done["unseen"] < lines and lines > 2:
        found.append({"code": "cut_unseen", "done": done["unseen"], "full": lines})
    if plan.max_train is not None:
        found.append({"code": "cut_images", "done": plan.max_train})
    return found
