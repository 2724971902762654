"""Charts as inline SVG: no script, no network, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS: Mapping[str, str] = {
    "standalone": "#8a8f98",
    "fedavg": "#e69f00",
    "fedbn": "#0072b2",
    "fedwon": "#009e73",
    "fedprox": "#d55e00",
    "fedavg_gn": "#cc79a7",
    "fedavg_ln": "#9467bd",
    "silobn": "#56b4e9",
    "fixbn": "#8c564b",
}
"""By method; the Okabe-Ito palette for those that are compared by default."""
_SHAPES = ("circle", "square", "diamond", "triangle")
_WIDTH, _ROW, _LABEL, _RIGHT = 800, 30, 190, 24
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Bar:
    """A row of a forest plot.

    Attributes:
        label: what is compared.
        mean: the difference; a share.
        low: lower end of its interval; None: without end.
        high: upper end.
        verdict: in words, with the figures.
        tone: "good", "bad" or "none".
    """

    label: str
    mean: float
    low: float | None
    high: float | None
    verdict: str
    tone: str


class _Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        step = next((step for step in _STEPS if (high - low) / step <= 8), _STEPS[-1])
        self.low, self.high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        self.left, self.right, self.step = left, right, step

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.left + (inside - self.low) / (self.high - self.low) * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Values at which the axis is labelled."""
        count = round((self.high - self.low) / self.step)
        return [self.low + number * self.step for number in range(count + 1)]


def shape_of(method: str, methods: Sequence[str]) -> str:
    """The mark of a method, by its place."""
    return _SHAPES[list(methods).index(method) % len(_SHAPES)]


def mark(kind: str, x: float, y: float, colour: str, radius: float = 6) -> str:
    """One mark."""
    style = f'fill="{colour}" stroke="var(--card)" stroke-width="1.5"'
    r = radius
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}/>'
    if kind == "square":
        return (
            f'<rect x="{x - r * 0.9:.1f}" y="{y - r * 0.9:.1f}" width="{1.8 * r:.1f}" height="{1.8 * r:.1f}" {style}/>'
        )
    offsets = {
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    }[kind]
    places = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in offsets)
    return f'<polygon points="{places}" {style}/>'


def legend(methods: Sequence[str], names: Mapping[str, str]) -> str:
    """What each mark means, as HTML."""
    items = []
    for method in methods:
        icon = mark(shape_of(method, methods), 9, 9, COLOURS[method])
        items.append(f'<span><svg width="18" height="18" aria-hidden="true">{icon}</svg>{escape(names[method])}</span>')
    return f'<p class="legend">{"".join(items)}</p>'


def dots(
    rows: Mapping[str, Mapping[str, float]], methods: Sequence[str], title: str, emphasis: tuple[str, str] | None
) -> str:
    """A row a line, a mark a method.

    Args:
        rows: share, 0 to 1, by line and method; a row may lack methods.
        methods: in the order of their shapes.
        title: read to who cannot see it.
        emphasis: two methods whose difference is drawn as a bar, from the first to the second.
    """
    values = [value for row in rows.values() for value in row.values()]
    spread = max(max(values) - min(values), 0.05)
    scale = _Scale(max(min(values) - 0.05 * spread, 0), min(max(values) + 0.05 * spread, 1), _LABEL, _WIDTH - _RIGHT)
    bottom = 12 + _ROW * len(rows)
    parts = [_grid(scale, bottom, "{:.0f}")]
    for number, (line, row) in enumerate(rows.items()):
        y = 12 + _ROW * (number + 0.5)
        parts.append(f'<text x="{_LABEL - 14}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(line))}</text>')
        if emphasis and all(name in row for name in emphasis):
            first, second = (row[name] for name in emphasis)
            tone = "good" if second >= first else "bad"
            parts.append(
                f'<line x1="{scale(first):.1f}" x2="{scale(second):.1f}" y1="{y:.1f}" y2="{y:.1f}" class="bar {tone}"/>'
            )
        ordered = sorted(row, key=(emphasis or ()).__contains__)  # what is compared lies on top
        parts += [mark(shape_of(name, methods), scale(row[name]), y, COLOURS[name]) for name in ordered]
    return _svg(parts, bottom + 24, title)


def forest(rows: Sequence[Bar], title: str, margin: float) -> str:
    """A row a difference, with its interval; the band is what counts as no difference.

    Args:
        rows: from top to bottom.
        title: read to who cannot see it.
        margin: half the band.
    """
    label, right = 315, 240
    ends = [end for row in rows for end in (row.low, row.high) if end is not None]
    inside = [*(row.mean for row in rows), -margin, margin]
    reach = 3 * max(abs(value) for value in inside)
    limits = [max(min(end, reach), -reach) for end in ends]
    scale = _Scale(min([*inside, *limits]), max([*inside, *limits]), label, _WIDTH - right)
    bottom = 12 + _ROW * len(rows)
    band = scale(margin) - scale(-margin)
    parts = [
        f'<rect x="{scale(-margin):.1f}" y="12" width="{band:.1f}" height="{bottom - 12}" class="band"/>',
        _grid(scale, bottom, "{:+.0f}"),
        f'<line x1="{scale(0):.1f}" x2="{scale(0):.1f}" y1="8" y2="{bottom}" class="zero"/>',
    ]
    for number, row in enumerate(rows):
        y = 12 + _ROW * (number + 0.5)
        low = scale(row.low) if row.low is not None else scale.left
        high = scale(row.high) if row.high is not None else scale.right
        parts += [
            f'<text x="{label - 14}" y="{y + 4:.1f}" text-anchor="end">{escape(row.label)}</text>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="whisker {row.tone}"/>',
            f'<circle cx="{scale(row.mean):.1f}" cy="{y:.1f}" r="5" class="dot {row.tone}"/>',
            f'<text x="{_WIDTH - right + 14}" y="{y + 4:.1f}">{escape(row.verdict)}</text>',
        ]
    return _svg(parts, bottom + 24, title)


def heat(pairs: Sequence[Mapping[str, object]], names: Sequence[str], title: str) -> str:
    """A square of distances, 0 to 2; a dash where there is none."""
    known = {(row["first"], row["second"]): row["distance"] for row in pairs}
    cell, top, left = 46, 20 + 7 * min(max(map(len, names), default=0), 16), 130
    parts = []
    for column, name in enumerate(names):
        x = left + cell * (column + 0.5)
        parts.append(
            f'<text x="{x:.1f}" y="{top - 8}" transform="rotate(-45 {x:.1f} {top - 8})">{escape(_short(name))}</text>'
        )
        parts.append(
            f'<text x="{left - 10}" y="{top + cell * (column + 0.5) + 4:.1f}" text-anchor="end">'
            f"{escape(_short(name))}</text>"
        )
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i == j:
                continue
            value = known.get((first, second), known.get((second, first)))
            parts.append(_cell(left + cell * j, top + cell * i, cell, value))
    return _svg(parts, top + cell * len(names) + 8, title, width=max(left + cell * len(names) + 80, 320))


def _cell(x: float, y: float, cell: float, value: object) -> str:
    if not isinstance(value, int | float):
        return f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle" class="dim">–</text>'
    strength = min(max(value / 2, 0), 1)
    light = "#fff" if strength > 0.55 else "currentColor"
    return (
        f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="4" fill="#0072b2" '
        f'fill-opacity="{0.08 + 0.92 * strength:.2f}"/>'
        f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle" style="fill:{light}">{value:.1f}</text>'
    )


def _grid(scale: _Scale, bottom: float, form: str) -> str:
    parts = []
    for value in scale.ticks():
        x = scale(value)
        label = form.format(round(100 * value, 6) + 0.0).replace("-", "−").replace("+0", "0")
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle" class="dim">{label}</text>')
    return "".join(parts)


def _svg(parts: Sequence[str], height: float, title: str, width: float = _WIDTH) -> str:
    return (
        f'<div class="chart"><svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width:.0f}px;min-width:{min(width, 520):.0f}px">{"".join(parts)}</svg></div>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:20]}…"
