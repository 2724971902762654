"""Krum's choice of updates: those whose nearest others are nearest.

Source: Blanchard et al. 2017, "Machine Learning with Adversaries"; the choice of Bulyan's first step is the same with
another number. Flower's own `select_multikrum` stacks all updates whole and takes float32 products, which cancel; here
the distances are added up block by block in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedwon.server.aggregation.differences import Block, blocks, floating


def squared_distances(records: Sequence[ArrayRecord]) -> NDArray[np.float64]:
    """Return the squared Euclidean distance of every two updates, over all floating-point tensors.

    Returns:
        (updates, updates), zeros on the diagonal.
    """
    total = np.zeros((len(records), len(records)))
    for name, first in records[0].items():
        if floating(first):
            for _, block in blocks([record[name] for record in records]):
                total += _of_block(block)
    return total


def _of_block(block: Block) -> NDArray[np.float64]:
    """Square and add one row's differences to all others at a time, which does not cancel as products would."""
    found = np.zeros((len(block), len(block)))
    for index in range(len(block) - 1):
        apart = block[index + 1 :] - block[index]
        found[index, index + 1 :] = np.einsum("ij,ij->i", apart, apart)
    return found + found.T


def scores(distances: NDArray[np.float64], hostile: int) -> NDArray[np.float64]:
    """Return how far each update is from its nearest others: as many as there are, without itself, `hostile` and one.

    Args:
        distances: squared, see `squared_distances`.
        hostile: updates that may be hostile.
    """
    count = len(distances)
    nearest = max(1, count - hostile - 2)
    others = np.sort(distances[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    found: NDArray[np.float64] = others[:, :nearest].sum(axis=1)
    return found


def choose_nearest(records: Sequence[ArrayRecord], hostile: int, count: int) -> list[int]:
    """Return which updates to take, those with the lowest scores; of two alike the first.

    Args:
        records: the updates, in the order of their sites.
        hostile: of them that may be hostile.
        count: how many to take.

    Returns:
        Their places, sorted.
    """
    if len(records) == 1:
        return [0]
    order = np.argsort(scores(squared_distances(records), hostile), kind="stable")
    return sorted(int(index) for index in order[:count])
