"""Momentum at the server: the next model goes on in the direction of the rounds before, and not to the mean alone.

Source: Hsu, Qi and Brown 2019 (arXiv:1909.06335), FedAvgM, with a length of step as in Reddi et al. 2021
(arXiv:2003.00295):

    v <- momentum v + (w - mean),    w <- w - lr v

Only what training moves has a velocity. Statistics of batch norm are measured, not learnt: a variance that goes on
beyond the mean may fall below zero, and running statistics are a moving average already; they, counters and other
buffers take the mean as it is.

Velocity and model are computed when they are asked for, block by block, from the files of the round before: memory
holds the mean, and of these two one tensor at a time, while they are written.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import LazyArray, StoredRecord
from fedwon.server.aggregation.averaging import Update
from fedwon.server.aggregation.column_rules import Row
from fedwon.server.aggregation.differences import Block, blocks, floating


class Stepped(NamedTuple):
    """What becomes of a round's mean.

    Attributes:
        model: the next global model.
        velocity: the next velocity, of the tensors that have one.
    """

    model: ArrayRecord
    velocity: ArrayRecord


def step(
    model: ArrayRecord,
    mean: ArrayRecord,
    before: ArrayRecord | None,
    moving: Collection[str],
    *,
    momentum: float,
    lr: float,
) -> Stepped:
    """Take the server's step from a model towards the mean of its updates and beyond.

    In float64; the velocity is rounded once to the tensor's element type, and the model is made of what was rounded: so
    a run that is taken up from the file goes on with the same bits.

    Args:
        model: what the round began with.
        mean: what the round's updates make together; all tensors of the model.
        before: the velocity that the round began with; None: at rest.
        moving: names of the tensors that have a velocity.
        momentum: share of the velocity that stays, 0 to 1.
        lr: length of the step.
    """
    velocity = ArrayRecord()
    for name in mean:
        if name in moving and floating(mean[name]):
            velocity[name] = _Velocity(model[name], mean[name], None if before is None else before[name], momentum)
    moved = {name: _Moved(model[name], velocity[name], lr) for name in velocity}
    return Stepped(ArrayRecord({name: moved.get(name, array) for name, array in mean.items()}), velocity)


def caught_up(
    update: Update, start: ArrayRecord, model: ArrayRecord, moving: Collection[str]
) -> tuple[Update, ArrayRecord]:
    """Move a late update as far as the model has moved meanwhile.

    Its own change then counts, and only that. As it is, it would also take back the rounds that it has not seen, and a
    velocity would do so again and again.

    Args:
        update: one that is late.
        start: of the model that it started from, what the update has.
        model: what the round in hand began with.
        moving: names of the tensors that have a velocity; the others stay as they are.

    Returns:
        The update as if it had started from the model, in float64, and what it would have started from.
    """
    record = StoredRecord(update.record.blob, {}, update.record.metadata)
    begun = ArrayRecord()
    for name, array in update.record.items():
        late = name in moving and floating(array)
        record[name] = _CaughtUp(array, model[name], start[name]) if late else array
        begun[name] = model[name] if late else start[name]
    return replace(update, record=record), begun


class _Velocity(LazyArray):
    """`momentum v + (w - mean)`."""

    def __init__(self, model: Array, mean: Array, before: Array | None, momentum: float) -> None:
        super().__init__(mean.dtype, mean.shape)
        self._parts = [model, mean] if before is None else [model, mean, before]
        self._momentum = momentum

    def numpy(self) -> NDArray[Any]:
        """Compute the velocity."""
        return _assembled(self, ((span, self._made(block)) for span, block in blocks(self._parts)))

    def _made(self, block: Block) -> Row:
        change: Row = block[0] - block[1]
        return change if len(block) == 2 else self._momentum * block[2] + change


class _Moved(LazyArray):
    """`w - lr v`."""

    def __init__(self, model: Array, velocity: Array, lr: float) -> None:
        super().__init__(model.dtype, model.shape)
        self._parts: Sequence[Array] = [model, velocity]
        self._lr = lr

    def numpy(self) -> NDArray[Any]:
        """Compute the moved tensor."""
        return _assembled(self, ((span, block[0] - self._lr * block[1]) for span, block in blocks(self._parts)))


class _CaughtUp(LazyArray):
    """`update + (w - start)`, in float64: it is rounded with the mean, once."""

    def __init__(self, update: Array, model: Array, start: Array) -> None:
        super().__init__("float64", update.shape)
        self._parts: Sequence[Array] = [update, model, start]

    def numpy(self) -> NDArray[Any]:
        """Compute the tensor."""
        return _assembled(self, ((span, block[0] + (block[1] - block[2])) for span, block in blocks(self._parts)))


def _assembled(array: LazyArray, parts: Iterator[tuple[slice, Row]]) -> NDArray[Any]:
    made = np.empty(math.prod(array.shape), dtype=array.dtype)
    for span, values in parts:
        made[span] = values
    return made.reshape(array.shape)
