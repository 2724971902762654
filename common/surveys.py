"""What images a site has, by class and part, as its server is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

UNTOLD = ""
"""In place of a class's name: images whose class the site keeps to itself (`limits.show_counts`)."""

MOST = 2**53
"""More images than this are no count: a sum stays what the wire can carry, whatever sites say."""

Survey = Mapping[str, Mapping[str, int]]
"""How many images a site has: class name (or `UNTOLD`) to part ("train", "validation", "test") to count."""


def class_names(survey: Survey) -> list[str]:
    """Return the classes that a site names."""
    return [name for name in survey if name != UNTOLD]


def images_in(survey: Survey, parts: Iterable[str] = PARTS) -> int:
    """Count a site's images of some parts, over all classes."""
    return sum(counts.get(part, 0) for counts in survey.values() for part in parts)


def told(survey: Survey, *, by_class: bool) -> Survey:
    """Return what a server is told: all of it, or the classes' names and how many images there are of all together."""
    if by_class:
        return survey
    names: list[str] = class_names(survey)
    return {**{name: dict.fromkeys(PARTS, 0) for name in names}, UNTOLD: _over_classes(survey)}


def _over_classes(survey: Survey) -> Mapping[str, int]:
    return {part: images_in(survey, (part,)) for part in PARTS}


def summed(surveys: Iterable[Survey]) -> dict[str, dict[str, int]]:
    """Add surveys up: what several sites have together, classes sorted."""
    total: dict[str, dict[str, int]] = {}
    for survey in surveys:
        for name, parts in survey.items():
            counts = total.setdefault(name, dict.fromkeys(PARTS, 0))
            for part in PARTS:
                counts[part] = min(counts[part] + parts.get(part, 0), MOST)
    return dict(sorted(total.items()))
