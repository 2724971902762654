"""Robust aggregation coordinate by coordinate, and by norm: blocks of columns in, blocks of the result out.

Each rule sees one block of all updates, never a whole tensor of all of them, so memory does not grow with the sites.
Sources: median and trimmed mean, Yin et al. 2018 (arXiv:1803.01498); the second step of Bulyan, El Mhamdi et al. 2018
(arXiv:1802.07927). Trimmed mean and Bulyan's second step are Flower's own functions, applied block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedwon.common import flower
from fedwon.server.aggregation.averaging import Averaged, Update
from fedwon.server.aggregation.differences import Block, blocks, floating

Row = NDArray[np.float64]
ByColumn = Callable[[Block], Row]
"""Makes of a block, (updates, elements), the elements of the result."""


def median(block: Block) -> Row:
    """Return the median of each column; of an even number of updates the mean of the two in the middle."""
    found: Row = np.median(block, axis=0)
    return found


def trimmed_mean(share: float) -> ByColumn:
    """Return the mean of each column without its lowest and highest values.

    Args:
        share: of the updates that is cut off at either end.
    """
    return lambda block: flower.trimmed_mean(block, share)


def closest_to_median(hostile: int) -> ByColumn:
    """Return the mean of the values of each column that are closest to its median: the second step of Bulyan.

    Args:
        hostile: twice as many values are left out.
    """
    return lambda block: flower.closest_mean(block, np.median(block, axis=0), len(block) - 2 * hostile)


def by_column(updates: Sequence[Update], rule: ByColumn, element_types: dict[str, str]) -> ArrayRecord:
    """Apply a rule to every floating-point tensor.

    Integer tensors are taken from the first update, as `average` does.

    Args:
        updates: in the order of their sites.
        rule: see `ByColumn`.
        element_types: what each floating-point tensor of the result is rounded to, by name.
    """
    result = ArrayRecord()
    for name, first in updates[0].record.items():
        if not floating(first):
            result[name] = Averaged(first.numpy())
            continue
        made = np.empty(int(np.prod(first.shape, dtype=np.int64)), dtype=element_types[name])
        for span, block in blocks([update.record[name] for update in updates]):
            made[span] = rule(block)
        result[name] = Averaged(made.reshape(first.shape))
    return result
