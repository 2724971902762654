"""Times of several things taken in turn, and their paired ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

FEWEST = 4
"""Turns, where the seconds are over before."""


def in_turn(steps: Mapping[str, Callable[[], object]], seconds: float, fewest: int = FEWEST) -> dict[str, list[float]]:
    """Call each once to warm up, then all in turn, so that what else the machine does falls on all alike.

    Args:
        steps: By name.
        seconds: For all turns together.
        fewest: Turns that are taken in any case.

    Returns:
        Seconds of each call, by name; as many for each.
    """
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end, turns = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or turns < fewest:
        turns += 1
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return times


def ratios(values: Sequence[float], floor: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile of the ratios of one thing to another, turn by turn.

    Args:
        values: Seconds by turn.
        floor: Those of the other, in the same turns.
    """
    paired = [value / base for value, base in zip(values, floor, strict=True)]
    return [round(quartile, 3) for quartile in statistics.quantiles(paired, n=4)]


def milliseconds(values: Sequence[float]) -> float:
    """The median of seconds, in milliseconds."""
    return round(1000 * statistics.median(values), 3)


def spread(quartiles: Sequence[float]) -> str:
    """Quartiles as the tables show them: the median, and the other two in brackets."""
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
