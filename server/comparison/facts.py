"""What the look at the images comes to: the figures for the report, the lines that can be compared, or why none can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from fedwon.server.comparison.dealing import Dealt, shared_contents
from fedwon.server.comparison.distance import PairDistance, distances, features
from fedwon.server.comparison.looking import NAMED, LineImages, Looked, side_range

FEWEST_TRAIN, FEWEST_TEST = 12, 6
"""Different images of a line without which it is left out: fewer cannot be learnt from, or decide nothing."""

Obstacle = Literal["nothing_readable", "one_line", "one_class", "too_few", "no_shared_class"]
"""Why nothing can be compared."""
WhyLeftOut = Literal["unreadable", "few_images", "one_class"]


@dataclass(frozen=True)
class Basis:
    """What can be compared.

    Attributes:
        lines: names of the lines that take part.
        classes: union of their classes, sorted.
        left_out: why each other line does not take part.
        obstacle: why nothing can be compared at all; None if something can.
    """

    lines: tuple[str, ...]
    classes: tuple[str, ...]
    left_out: Mapping[str, WhyLeftOut]
    obstacle: Obstacle | None


def basis(lines: Mapping[str, LineImages], dealt: Mapping[str, Dealt]) -> Basis:
    """Say which lines can be compared."""
    reasons = {name: _why_not(line, dealt[name]) for name, line in lines.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    usable = tuple(name for name in lines if name not in left_out)
    classes = {name: set(line.classes) for name, line in lines.items()}
    union = tuple(sorted(set().union(*(classes[name] for name in usable)))) if usable else ()
    return Basis(usable, union, left_out, _obstacle(classes, usable))


def _why_not(line: LineImages, dealt: Dealt) -> WhyLeftOut | None:
    if not len(line):
        return "unreadable"
    if len(set(line.classes)) < 2:
        return "one_class"
    if len(dealt.train) < FEWEST_TRAIN or len(dealt.test) < FEWEST_TEST:
        return "few_images"
    return None


def _obstacle(classes: Mapping[str, set[str]], usable: tuple[str, ...]) -> Obstacle | None:
    if not any(classes.values()):
        return "nothing_readable"
    if len(classes) < 2:
        return "one_line"
    if len(set().union(*classes.values())) < 2:
        return "one_class"
    if len(usable) < 2:
        return "too_few"
    if not any(classes[a] & classes[b] for a, b in combinations(usable, 2)):
        return "no_shared_class"
    return None


def facts(looked: Looked, dealt: Mapping[str, Dealt], found: Basis) -> dict[str, Any]:
    """The figures of the look, for JSON and for the report."""
    lines = looked.lines
    described = {name: features(line.pixels) for name, line in lines.items() if len(line)}
    pairs = distances(described, {name: lines[name].classes for name in described})
    return {
        "lines": {name: _line(line, dealt[name]) for name, line in lines.items()},
        "classes": sorted(set().union(*(line.listed for line in lines.values()))),
        "across": [list(row) for row in shared_contents(lines)],
        "distance": {"pairs": [asdict(pair) for pair in pairs], "mean": mean_distance(pairs)},
        "compared": list(found.lines),
        "left_out": dict(found.left_out),
        "alike": alike_names(lines),
        "complete": looked.complete,
        "seconds": round(looked.seconds, 1),
    }


def _line(line: LineImages, dealt: Dealt) -> dict[str, Any]:
    grey = np.array([image.mean() for image in line.pixels]) / 255
    spread = np.array([image.astype(np.float32).mean(axis=0).std() for image in line.pixels]) / 255
    return {
        "images": line.listed.total(),
        "read": len(line),
        "classes": dict(sorted(line.listed.items())),
        "train": len(dealt.train),
        "test": len(dealt.test),
        "test_classes": dict(sorted(Counter(line.classes[row] for row in dealt.test).items())),
        "unreadable": len(line.unreadable),
        "unreadable_named": [f"{path}: {reason}" for path, reason in line.unreadable[:NAMED]],
        "copies": dealt.copies,
        "contradictions": dealt.contradictions,
        "leaked": dealt.leaked,
        "width": list(side_range([width for width, _ in line.sizes])) if len(line) else None,
        "height": list(side_range([height for _, height in line.sizes])) if len(line) else None,
        "grey": all(line.grey),
        "brightness": round(float(grey.mean()), 4) if len(line) else None,
        "contrast": round(float(spread.mean()), 4) if len(line) else None,
    }


def mean_distance(pairs: list[PairDistance]) -> dict[str, float]:
    """Mean distance of each line to the others it can be compared with."""
    found: dict[str, list[float]] = {}
    for pair in pairs:
        if pair.distance is not None:
            found.setdefault(pair.first, []).append(pair.distance)
            found.setdefault(pair.second, []).append(pair.distance)
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def alike_names(lines: Mapping[str, LineImages]) -> list[list[str]]:
    """Class names that differ in case, blanks, hyphens or underscores only: probably one class."""
    groups: dict[str, set[str]] = {}
    for line in lines.values():
        for name in line.listed:
            plain = "".join(sign for sign in name.casefold() if sign.isalnum())
            groups.setdefault(plain or name, set()).add(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)
