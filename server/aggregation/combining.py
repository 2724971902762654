"""What a relay makes of its sites' answers: one answer, as of one site that has all their images.

The mean goes up in float64. Rounded to float32 at every level, an average of averages can be far from the flat one in
units of its last place, where large means of opposite sign cancel; in float64 it differs from the flat one only by the
order of float64 additions, and is rounded once, at the top. With n sites below and their shares p,

    |relayed - flat| <= ulp(flat) + (n + 8) 2**-52 sum(p |x|)

in units of float32's last place, and almost always the bits are the same (docs/scaling.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord

from fedwon.common.update_settings import AggregationConfig
from fedwon.server.admission.rules import BEHIND, PARTS
from fedwon.server.aggregation.averaging import Update, average, weigh

WEIGHT = "num-examples"
COUNTS = ("-examples", "-correct", "-images")
"""Endings of numbers that add up; so do `steps`."""
LARGEST = frozenset({"train-seconds", "privacy-epsilon"})
"""Numbers of which the largest counts: sites work side by side, and together they take as long as the slowest; and a
promise of privacy is as good as the worst."""
MOST = 2**53
"""Counts beyond are no counts; whatever sites declare, what goes up fits the wire."""


@dataclass(frozen=True)
class Combined:
    """Several answers as one.

    Attributes:
        arrays: the mean, floating-point tensors in float64.
        metrics: its numbers.
        sites: whose answers are in it, sorted.
    """

    arrays: ArrayRecord
    metrics: Mapping[str, float]
    sites: tuple[str, ...]


def combine(updates: Sequence[Update], metrics: Sequence[Mapping[str, float]], rules: AggregationConfig) -> Combined:
    """Make one answer of several.

    Its `num-examples` is what the updates weigh together: the sum of their images, as long as `weight_cap` cuts none
    and none is late.

    Args:
        updates: the answers' arrays.
        metrics: the answers' numbers, in the same order.
        rules: how the updates are weighed against each other.

    Raises:
        ValueError: there is nothing to combine.
    """
    types = {name: _widest(array.dtype) for update in updates[:1] for name, array in update.record.items()}
    mean = average(updates, rules.weights, rules.weight_cap, rules.staleness, element_types=types)
    weight = max(1, int(sum(weigh(updates, "examples", rules.weight_cap, rules.staleness))))
    behind = min(sum(int(answer.get(BEHIND, 1)) for answer in metrics), MOST)
    numbers = combined_metrics(metrics) | {WEIGHT: min(weight, MOST), BEHIND: behind}
    return Combined(mean, numbers, tuple(sorted(update.site for update in updates)))


def _widest(dtype: str) -> str:
    return "float64" if np.issubdtype(np.dtype(dtype), np.floating) else dtype


def combined_metrics(answers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Make the numbers of one answer of those of several: what every one of them tells.

    Counts add up, the longest time counts, and anything else is a mean: of `validation-` and `test-` numbers by the
    images of that part, of others by images trained on. All are finite if those that came are.
    """
    names = [name for name in answers[0] if all(name in answer for answer in answers)]
    return {name: _together(name, answers) for name in names}


def _together(name: str, answers: Sequence[Mapping[str, float]]) -> float:
    values = [answer[name] for answer in answers]
    if name == "steps" or name.endswith(COUNTS):
        return min(sum(map(int, values)), MOST)
    if name in LARGEST:
        return max(values)
    part = name.split("-", maxsplit=1)[0]
    key = f"{part}-examples" if part in PARTS else WEIGHT
    weights = [max(answer.get(key, 0), 0) for answer in answers]
    total = sum(weights)
    if not 0 < total < float("inf"):
        return sum(value / len(values) for value in values)
    return sum(value * (weight / total) for value, weight in zip(values, weights, strict=True))
