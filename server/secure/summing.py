"""Masked updates added up, their masks taken off, and the mean difference that is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import StoredArray, StoredRecord
from fedwon.common.errors import NotASum
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.masking import Mask, Words, apply_masks
from fedwon.server.aggregation.averaging import Averaged


class MaskedArray(Array):
    """What a masked tensor looks like: its shape, with whole numbers of 32 bits."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.stype, self.data = "int32", shape, "numpy.ndarray", b""


def masked_layout(shared: ArrayRecord) -> ArrayRecord:
    """Return names, shapes and element types that a masked update has, of what sites share of a model."""
    layout = ArrayRecord()
    for name, array in shared.items():
        layout[name] = MaskedArray(tuple(array.shape))
    return layout


def add_up(updates: Sequence[StoredRecord], masks: Sequence[Mask]) -> dict[str, Words]:
    """Add masked updates and take the masks off; memory holds one sum, however many there are.

    Args:
        updates: all of one layout.
        masks: see `Sitting.masks`.

    Returns:
        Flat sums by tensor, in the order of names in which masks run over them.
    """
    totals = {name: np.zeros(math.prod(updates[0][name].shape), dtype=np.uint32) for name in sorted(updates[0])}
    for update in updates:
        for name, total in totals.items():
            np.add(total, _words(update[name]), out=total)
    apply_masks(list(totals.values()), masks)
    return totals


def _words(array: Array) -> Words:
    values = array.map() if isinstance(array, StoredArray) else array.numpy()
    return values.reshape(-1).view(np.uint32)


def mean_of(
    totals: Mapping[str, Words], base: ArrayRecord, numbers: FixedPoint, weights: Sequence[float]
) -> ArrayRecord:
    """Return the model moved by the weighted mean of the sites' differences.

    Args:
        totals: sums of the sites' numbers.
        base: the model that they started from; what is in no sum is left out.
        numbers: how they are written.
        weights: of the sites, as shares of the largest weight.

    Raises:
        NotASum: honest sites' differences cannot add up to as much: somebody sent something else.
    """
    _check_length(totals, numbers, weights)
    made = ArrayRecord()
    for name in base:
        if name in totals:
            start: NDArray[np.floating] = base[name].numpy()
            moved = start.reshape(-1) + numbers.decode(totals[name], 1 / math.fsum(weights))
            made[name] = Averaged(moved.astype(start.dtype).reshape(start.shape))
    return made


def _check_length(totals: Mapping[str, Words], numbers: FixedPoint, weights: Sequence[float]) -> None:
    """Compare the sum's length with the most it can be: each site's weight times `bound`, and what rounding adds."""
    size = sum(total.size for total in totals.values())
    longest = numbers.bound * math.fsum(weights) * (1 + 1e-9) + len(weights) * math.sqrt(size) * numbers.step / 2
    length = math.sqrt(sum(float(np.square(numbers.decode(total)).sum()) for total in totals.values()))
    if length > longest:
        raise NotASum(
            f"The sum of {len(weights)} masked updates is {length:.3g} long, and of shortened ones it can be "
            f"{longest:.3g} at most: a site sent something else, and which one nobody can tell."
        )
