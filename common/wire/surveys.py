"""What images a site has, by class and part, as it travels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from fedwon.common.wire import fedwon_pb2 as pb

PARTS = ("train", "validation", "test")

MOST = 2**53
"""More images than this are no count: a sum stays what the wire can carry, whatever sites say."""

MOST_CLASSES = 10_000
LONGEST_NAME = 200
"""Of a site's classes: what goes beyond is left out, or cut short. The database and every page hold them."""

Survey = Mapping[str, Mapping[str, int]]
"""How many images a site has: class name to part ("train", "validation", "test") to count."""


def survey_to_wire(survey: Survey) -> list[pb.ClassCount]:
    """Turn a survey into wire form; a part that is not there counts no image."""
    return [pb.ClassCount(name=name, **{part: parts.get(part, 0) for part in PARTS}) for name, parts in survey.items()]


def survey_from_wire(rows: Iterable[pb.ClassCount]) -> dict[str, dict[str, int]]:
    """Turn wire form into a survey, within `MOST_CLASSES` and `LONGEST_NAME`."""
    within = islice(rows, MOST_CLASSES)
    return {row.name[:LONGEST_NAME]: {part: getattr(row, part) for part in PARTS} for row in within}


def summed(surveys: Iterable[Survey]) -> dict[str, dict[str, int]]:
    """Add surveys up: what several sites have together, classes sorted."""
    total: dict[str, dict[str, int]] = {}
    for survey in surveys:
        for name, parts in survey.items():
            counts = total.setdefault(name, dict.fromkeys(PARTS, 0))
            for part in PARTS:
                counts[part] = min(counts[part] + parts.get(part, 0), MOST)
    return dict(sorted(total.items()))
