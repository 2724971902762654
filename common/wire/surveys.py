"""What images a site has, by class and part, as it travels."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from fedwon.common.surveys import PARTS, Survey
from fedwon.common.wire import fedwon_pb2 as pb

MOST_CLASSES = 10_000
LONGEST_NAME = 200
"""Of a site's classes: what goes beyond is left out, or cut short. The database and every page hold them."""


def survey_to_wire(survey: Survey) -> list[pb.ClassCount]:
    """Turn a survey into wire form; a part that is not there counts no image."""
    return [pb.ClassCount(name=name, **{part: parts.get(part, 0) for part in PARTS}) for name, parts in survey.items()]


def survey_from_wire(rows: Iterable[pb.ClassCount]) -> dict[str, dict[str, int]]:
    """Turn wire form into a survey, within `MOST_CLASSES` and `LONGEST_NAME`."""
    within = islice(rows, MOST_CLASSES)
    return {row.name[:LONGEST_NAME]: {part: getattr(row, part) for part in PARTS} for row in within}
