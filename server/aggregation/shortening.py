"""The mean of updates that were shortened, each from the model that it started from, tensor by tensor from the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord

from fedwon.server.aggregation.averaging import Averaged, Update
from fedwon.server.aggregation.column_rules import Row
from fedwon.server.aggregation.differences import Block, blocks, floating


def shortened_mean(
    updates: Sequence[Update],
    starts: Sequence[ArrayRecord],
    portions: Sequence[float],
    factors: Sequence[float],
    types: Mapping[str, str],
    *,
    noise: Callable[[int], Row] | None = None,
) -> ArrayRecord:
    """Average updates, each moved towards its start.

    Args:
        updates: the round's, in the order of their sites.
        starts: of the model that each started from, what the update has.
        portions: each update's share of the mean.
        factors: how much of each difference is left, 0 to 1; at 0 the update is not looked at.
        types: what each floating-point tensor of the result is rounded to, by name.
        noise: returns what is added to so many numbers of the mean, before they are rounded.

    Returns:
        The mean; tensors of integers as the first update has them.
    """
    result = ArrayRecord()
    for name, first in updates[0].record.items():
        if not floating(first):
            result[name] = Averaged(first.numpy())
            continue
        made = np.empty(int(np.prod(first.shape, dtype=np.int64)), dtype=types[name])
        tensors, bases = [update.record[name] for update in updates], [start[name] for start in starts]
        for (span, moved), (_, begun) in zip(blocks(tensors, bases), blocks(bases), strict=True):
            total = _shortened(moved, begun, portions, factors)
            made[span] = total if noise is None else total + noise(total.size)
        result[name] = Averaged(made.reshape(first.shape))
    return result


def _shortened(moved: Block, begun: Block, portions: Sequence[float], factors: Sequence[float]) -> Row:
    total = np.zeros(moved.shape[1])
    for step, base, portion, factor in zip(moved, begun, portions, factors, strict=True):
        total += portion * (base + factor * step if factor else base)
    return total
