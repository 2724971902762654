"""How far apart the lines are: how well a linear classifier tells from an image which line it comes from.

For two lines the measure is the proxy A-distance, 2 (1 - 2 e) with e the classifier's error on images that it was not
fitted to (S. Ben-David et al., "Analysis of representations for domain adaptation", NIPS 2006): 0 where the lines
cannot be told apart, 2 where they always can. The classifier is ridge regression onto +1 and -1 over simple features:
the image in grey at 8 x 8 pixels, its mean, its standard deviation and the mean steepness of its grey levels. Images
are weighed so that each class counts alike in both lines: another mix of classes is no distance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID = 8
FOLDS = 5
MOST = 400
"""Images of a line that are looked at, at most."""
_RIDGE = 1.0
_LEAST = FOLDS


@dataclass(frozen=True)
class PairDistance:
    """Two lines.

    Attributes:
        first: the one.
        second: the other.
        distance: proxy A-distance, 0 to 2; None where they share no class with enough images.
    """

    first: str
    second: str
    distance: float | None


def features(pixels: Sequence[NDArray[np.uint8]]) -> Floats:
    """Describe images, (C, S, S) each with S a multiple of 4: shape (N, 67)."""
    grey = np.stack([image.mean(axis=0) for image in pixels]).astype(np.float64) / 255
    size = grey.shape[1]
    edges = np.linspace(0, size, GRID + 1).round().astype(int)
    small = np.add.reduceat(np.add.reduceat(grey, edges[:-1], axis=1), edges[:-1], axis=2)
    small /= np.outer(np.diff(edges), np.diff(edges))
    steep = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    whole = np.stack([grey.mean(axis=(1, 2)), grey.std(axis=(1, 2)), steep], axis=1)
    return np.concatenate([small.reshape(len(grey), -1), whole], axis=1)


def distances(described: Mapping[str, Floats], classes: Mapping[str, Sequence[str]]) -> list[PairDistance]:
    """Measure each pair of lines.

    Args:
        described: `features` of each line's images.
        classes: class of each of these images.
    """
    return [
        PairDistance(a, b, pair_distance(described[a], classes[a], described[b], classes[b]))
        for a, b in combinations(described, 2)
    ]


def pair_distance(
    first: Floats, first_classes: Sequence[str], second: Floats, second_classes: Sequence[str]
) -> float | None:
    """Proxy A-distance of two lines, cross-validated; None where they share too few images to say.

    Args:
        first: features of the one, (N, F).
        first_classes: N class names.
        second: features of the other, (M, F).
        second_classes: M class names.
    """
    first, second = first[:MOST], second[:MOST]
    weights = [
        _weights(first_classes[:MOST], second_classes[:MOST]),
        _weights(second_classes[:MOST], first_classes[:MOST]),
    ]
    if any(np.count_nonzero(weight) < _LEAST for weight in weights):
        return None
    x = np.concatenate([first, second])
    y = np.concatenate([np.ones(len(first)), -np.ones(len(second))])
    w = np.concatenate(weights)
    kept = w > 0
    error = _cross_validated_error(x[kept], y[kept], w[kept])
    return float(np.clip(2 * (1 - 2 * error), 0, 2))


def _weights(own: Sequence[str], other: Sequence[str]) -> Floats:
    """Weights that give each class the same mass in both lines, as much as the line with fewer of it has."""
    mine, theirs = Counter(own), Counter(other)
    each = {name: min(mine[name], theirs[name]) / mine[name] for name in mine}
    weights = np.array([each[name] for name in own])
    return weights / weights.sum() if weights.sum() else weights


def _cross_validated_error(x: Floats, y: Floats, w: Floats) -> float:
    """Weighted share that a fold gets wrong when the other folds are fitted; ties count half."""
    fold = np.empty(len(x), dtype=np.int64)
    rng = np.random.default_rng(0)
    for side in (1, -1):
        rows = np.flatnonzero(y == side)
        fold[rng.permutation(rows)] = np.arange(len(rows)) % FOLDS
    wrong = 0.0
    for number in range(FOLDS):
        out = fold == number
        guess = _fitted(x[~out], y[~out], w[~out], x[out]) * y[out]
        wrong += float(w[out] @ ((guess < 0) + 0.5 * (guess == 0)))
    return wrong / float(w.sum())


def _fitted(x: Floats, y: Floats, w: Floats, new: Floats) -> Floats:
    """Ridge regression with weights, on features that are standardized first: predictions for `new`."""
    mean = np.average(x, axis=0, weights=w)
    std = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
    std[std < 1e-9] = 1.0
    x, new = (x - mean) / std, (new - mean) / std
    middle = np.average(y, weights=w)
    scaled = x * (w / w.sum() * len(w))[:, None]
    solved: Floats = np.linalg.solve(x.T @ scaled + _RIDGE * np.eye(x.shape[1]), scaled.T @ (y - middle))
    return new @ solved + middle
