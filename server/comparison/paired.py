"""Paired differences between two methods, with an interval.

Both were scored on the same test images and have the same seeds. The difference varies for two reasons: the seed
(initial weights, drawn images, order) and the choice of test images. The interval adds the two: Student's t over seeds
for the first, the normal approximation over images, paired, for the second. Test images are the same for every seed, so
part of the variance is counted twice: the interval is too wide rather than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedwon.server.comparison.scoring import right_images

LEVEL = 0.95
Scores = Mapping[str, Mapping[str, Any]]
"""Test scores of one run by domain, as `scoring.counts` makes them."""


@dataclass(frozen=True)
class Difference:
    """How much better the first method is than the second, in shares (0.01 is one point).

    Attributes:
        mean: over seeds, of the mean over domains.
        low: lower end of the interval.
        high: upper end.
        seeds: number of pairs.
        by_images: half the interval that the choice of test images alone would give; NaN where it is not known.
        by_seeds: half the interval over seeds alone.
    """

    mean: float
    low: float
    high: float
    seeds: int
    by_images: float = math.nan
    by_seeds: float = math.nan

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"


def paired(first: Sequence[Scores], second: Sequence[Scores], metric: str) -> Difference:
    """Compare two methods.

    Args:
        first: test scores by domain, a run each, in the order of the seeds.
        second: the same seeds of the other method.
        metric: "accuracy", or "balanced": each class of a domain weighs alike.

    Raises:
        ValueError: they have other seeds or domains, or there is none.
    """
    if len(first) != len(second) or not first:
        raise ValueError("both rows need the same seeds, one at least")
    domains = sorted(first[0])
    by_seed, image_variance = np.zeros(len(first)), 0.0
    for domain in domains:
        weights = _weights(first[0][domain], metric)
        change = np.stack([_change(a[domain], b[domain]) for a, b in zip(first, second, strict=True)])
        by_seed += (change @ weights) / len(domains)
        image_variance += _variance(change.mean(axis=0), first[0][domain], weights) / len(domains) ** 2
    by_images = float(stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(image_variance)
    half = math.hypot(_seed_half(by_seed), by_images)
    mean = float(by_seed.mean())
    return Difference(mean, mean - half, mean + half, len(first), by_images, _seed_half(by_seed))


def over_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare two methods by one number a run; the interval is Student's t over seeds alone.

    Args:
        first: shares, a run each, in the order of the seeds; one at least.
        second: the same seeds of the other method.
    """
    changes = np.subtract(first, second)
    mean, half = float(changes.mean()), _seed_half(changes)
    return Difference(mean, mean - half, mean + half, len(changes), math.nan, half)


def _change(first: Mapping[str, Any], second: Mapping[str, Any]) -> NDArray[np.float64]:
    """+1 where only the first is right, -1 where only the second is: shape (images,)."""
    change: NDArray[np.float64] = right_images(first).astype(float) - right_images(second).astype(float)
    return change


def _weights(score: Mapping[str, Any], metric: str) -> NDArray[np.float64]:
    """Weight of each image, class by class; they add up to 1."""
    sizes = [size for size in score["class_examples"] if size]
    total = sum(sizes)
    each = [1 / (len(sizes) * size) if metric == "balanced" else 1 / total for size in sizes]
    return np.repeat(each, sizes)


def _variance(change: NDArray[np.float64], score: Mapping[str, Any], weights: NDArray[np.float64]) -> float:
    """Variance of the weighted mean when each class's images are drawn anew.

    A class with a single image shows no spread of its own; it is given that of all the domain's images.
    """
    total, start = 0.0, 0
    common = float(change.var(ddof=1)) if len(change) > 1 else 0.0
    for size in score["class_examples"]:
        if size:
            spread = float(change[start : start + size].var(ddof=1)) if size > 1 else common
            total += size * spread * float(weights[start]) ** 2
        start += size
    return total


def _seed_half(by_seed: NDArray[np.float64]) -> float:
    """Half the interval over seeds; without a second seed there is none to tell from, so it is unbounded."""
    if len(by_seed) < 2:
        return math.inf
    error = by_seed.std(ddof=1) / math.sqrt(len(by_seed))
    return float(stats.t.ppf(0.5 + LEVEL / 2, len(by_seed) - 1) * error)
