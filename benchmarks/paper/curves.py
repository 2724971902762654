"""Learning curves as SVG: accuracy on validation images by round, mean over domains and seeds, a line a row."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 48, 190, 16, 40
# Okabe and Ito's colours, which people with any colour vision tell apart; dashes repeat them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLE = (
    "text{font:12px sans-serif;fill:#444}line{stroke:#bbb}polyline{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}line{stroke:#555}}"
)

AXES = "round; % of validation images"

Point = tuple[float, float]


def learning_curve(runs: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Round and mean accuracy, 0 to 1, over sites and seeds; a round counts once all runs have it.

    Args:
        runs: results of one row, with `validation`: round to site to [correct, examples].
    """
    if not runs:
        return []
    rounds = set.intersection(*(set(run["validation"]) for run in runs))
    return [
        (int(number), statistics.mean(_accuracy(run["validation"][number]) for run in runs))
        for number in sorted(rounds, key=int)
        if all(any(examples for _, examples in run["validation"][number].values()) for run in runs)
    ]


def _accuracy(sites: Mapping[str, Sequence[int]]) -> float:
    return statistics.mean(correct / examples for correct, examples in sites.values() if examples)


def svg(title: str, curves: Mapping[str, Sequence[Point]], *, top: float = 1.0, axes: str = AXES) -> str:
    """A picture of the curves, for light and dark pages.

    Args:
        title: what it shows, also for those who hear the page.
        curves: points by label; labels with no point are left out. The second number of a point is a share, drawn in %.
        top: the share at the upper edge.
        axes: what the axes are.
    """
    drawn = {label: points for label, points in curves.items() if points}
    last = max((points[-1][0] for points in drawn.values()), default=1)
    plane = _Plane(max(last, 1), top, axes)
    parts = [*plane.grid(), *(plane.line(index, *item) for index, item in enumerate(drawn.items()))]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return "\n".join([head, f"<title>{html.escape(title)}</title><style>{STYLE}</style>", *parts, "</svg>", ""])


class _Plane:
    """Where a round and a share stand in the picture.

    Args:
        last: the last round.
        top: the share at the upper edge.
        axes: what the axes are.
    """

    def __init__(self, last: float, top: float, axes: str) -> None:
        self.last, self.top, self.axes = last, top, axes

    def place(self, point: Point) -> Point:
        """Pixels from the left and from above."""
        across = LEFT + point[0] / self.last * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - point[1] / self.top * (HEIGHT - TOP - BOTTOM), 1)

    def grid(self) -> list[str]:
        """Five lines across, some rounds, and what the axes are."""
        parts = []
        for fifth in range(6):
            percent = round(20 * fifth * self.top)
            x, y = self.place((0, fifth / 5 * self.top))
            parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
            parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{percent}</text>')
        step = max(round(self.last / 5), 1)
        for number in range(0, math.floor(self.last) + 1, step):
            x, y = self.place((number, 0))
            parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{number}</text>')
        x, y = self.place((self.last / 2, 0))
        return [*parts, f'<text x="{x}" y="{y + 32}" text-anchor="middle">{html.escape(self.axes)}</text>']

    def line(self, index: int, label: str, points: Sequence[Point]) -> str:
        """One curve and its name."""
        colour, dash = COLOURS[index % len(COLOURS)], "6 3" if index >= len(COLOURS) else "none"
        places = " ".join(f"{x},{y}" for x, y in map(self.place, points))
        y = TOP + 14 + 18 * index
        x = WIDTH - RIGHT + 12
        stroke = f'stroke="{colour}" stroke-dasharray="{dash}"'
        return (
            f'<polyline {stroke} points="{places}"/><polyline {stroke} points="{x},{y - 4} {x + 22},{y - 4}"/>'
            f'<text x="{x + 28}" y="{y}">{html.escape(label)}</text>'
        )
