"""Accuracy over the rounds as inline SVG: no script, no file, colours from the style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup

from fedwon.server.page.overview import Course

SPARK = (132, 34)
CHART = (720, 260)
LEFT, RIGHT, TOP, BOTTOM = 44, 110, 12, 30
"""What of the chart its labels take, in units of the drawing."""
APART = 14.0
"""Labels at the ends of the curves are so far apart at least."""


def floor_of(courses: Mapping[str, Course]) -> float:
    """Return where the vertical axis begins: 0, 0.2 ... 0.8, below all curves, so that those of a page compare."""
    lowest = min((accuracy for course in courses.values() for _, accuracy in course), default=0.0)
    return min(max(math.floor(lowest * 5 - 1e-9) / 5, 0.0), 0.8)


def spark(course: Course, label: str, floor: float) -> Markup:
    """Draw a site's course, small.

    Args:
        course: its accuracy by round.
        label: what the drawing shows, for who cannot see it.
        floor: accuracy at the bottom edge.
    """
    if not course:
        return Markup("")
    width, height = SPARK
    places = _places(course, (2, 3, width - 5, height - 6), (course[0][0], course[-1][0]), floor)
    x, y = places[-1]
    drawn = Markup('<svg class="spark" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
    drawn += _line(places, "curve")
    return drawn + Markup('<circle class="end" cx="{}" cy="{}" r="2.5"></circle></svg>').format(_n(x), _n(y))


def chart(courses: Mapping[str, Course], worst: str, label: str) -> Markup:
    """Draw the courses of all sites over the rounds of a run.

    Args:
        courses: accuracy by round, by site.
        worst: the site to stand out.
        label: what the drawing shows, for who cannot see it.
    """
    width, height = CHART
    last = max(number for course in courses.values() for number, _ in course)
    floor, span = floor_of(courses), (0, max(last, 1))
    box = (LEFT, TOP, width - LEFT - RIGHT, height - TOP - BOTTOM)
    drawn = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
    drawn += _axes(box, span, floor)
    ends: list[tuple[float, str, bool]] = []
    for site, course in sorted(courses.items(), key=lambda item: item[0] == worst):  # the worst on top
        places = _places(course, box, span, floor)
        drawn += Markup("<g><title>{}</title>").format(f"{site}: {100 * course[-1][1]:.1f} %")
        drawn += _line(places, "curve worst" if site == worst else "curve") + Markup("</g>")
        ends.append((places[-1][1], site, site == worst))
    return drawn + _labels(ends, box) + Markup("</svg>")


def _places(
    course: Course, box: tuple[int, int, int, int], span: tuple[int, int], floor: float
) -> list[tuple[float, float]]:
    left, top, width, height = box
    first, last = span
    along = max(last - first, 1)
    return [
        (
            left + width * (number - first) / along,
            top + height * (1 - (min(max(accuracy, floor), 1.0) - floor) / (1 - floor)),
        )
        for number, accuracy in course
    ]


def _line(places: list[tuple[float, float]], kind: str) -> Markup:
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
    return Markup('<polyline class="{}" points="{}"></polyline>').format(kind, points)


def _axes(box: tuple[int, int, int, int], span: tuple[int, int], floor: float) -> Markup:
    left, top, width, height = box
    drawn = Markup("")
    for step in range(5):
        share = step / 4
        y = top + height * (1 - share)
        drawn += Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"></line>').format(
            left, _n(y), left + width, _n(y)
        )
        drawn += Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
            left - 6, _n(y + 4), f"{100 * (floor + share * (1 - floor)):.0f} %"
        )
    marks = sorted({span[0], round(span[1] / 2), span[1]})
    for number in marks:
        x = left + width * (number - span[0]) / max(span[1] - span[0], 1)
        drawn += Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            _n(x), top + height + 20, number
        )
    return drawn


def _labels(ends: list[tuple[float, str, bool]], box: tuple[int, int, int, int]) -> Markup:
    """Name the curves at their ends, from the top down, as long as there is room; the one that stands out always."""
    left, top, width, height = box
    drawn, used, lowest = Markup(""), -math.inf, top + height + 4
    for y, site, stands_out in sorted(ends):
        place = max(y + 4, used + APART)
        if place > lowest and not stands_out:
            continue
        used = place
        short = site if len(site) <= 15 else f"{site[:14]}…"
        kind = "name worst" if stands_out else "name"
        drawn += Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, left + width + 8, _n(place), short)
    return drawn


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
