"""Federated averaging, tensor by tensor, from updates on disk.

Memory holds one tensor of the result in float64 and one block of one update, whatever the number of sites. Sites are
taken in the order of their names, so the same updates give the same bits in whatever order they came.
Source: McMahan et al. 2017 (FedAvg); FedWon averages raw weights, gains and biases alike (paper notes §7.7). The weight
of late updates is the polynomial one of FedAsync (Xie, Koyejo and Gupta 2019, arXiv:1903.03934).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import StoredArray, StoredRecord

BLOCK = 2**18
"""Elements that are added up at a time: small enough for the processor's cache."""


@dataclass(frozen=True)
class Update:
    """One site's accepted update.

    Attributes:
        site: its name.
        examples: how many training images it declares.
        record: its arrays, in a file.
        rounds_late: how many rounds before this one it was asked for.
    """

    site: str
    examples: int
    record: StoredRecord
    rounds_late: int = 0


def shares(
    updates: Sequence[Update], weights: Literal["examples", "uniform"], cap: float, staleness: float = 0.0
) -> list[float]:
    """Return each update's share of the average.

    Args:
        updates: the round's updates.
        weights: by number of training images, or all alike.
        cap: no update weighs more than so many times the median update.
        staleness: an update that is s rounds late weighs (1 + s) ** -staleness as much.

    Returns:
        Shares that add up to 1, in the order of `updates`.

    Raises:
        ValueError: there is no update, or one declares no image.
    """
    weighed = weigh(updates, weights, cap, staleness)
    total = sum(weighed)
    return [weight / total for weight in weighed]


def weigh(
    updates: Sequence[Update], weights: Literal["examples", "uniform"], cap: float, staleness: float = 0.0
) -> list[float]:
    """Return what each update weighs, before its share is taken: see `shares`.

    Raises:
        ValueError: there is no update, or one declares no image.
    """
    if not updates:
        raise ValueError("there is nothing to average")
    if any(update.examples < 1 for update in updates):
        raise ValueError("an update declares no training image")
    counts = [1.0 if weights == "uniform" else float(update.examples) for update in updates]
    limit = cap * statistics.median(counts)
    ages = [(1.0 + update.rounds_late) ** -staleness for update in updates]
    return [min(count, limit) * age for count, age in zip(counts, ages, strict=True)]


def average(
    updates: Sequence[Update],
    weights: Literal["examples", "uniform"] = "examples",
    cap: float = 10.0,
    staleness: float = 0.0,
    *,
    element_types: Mapping[str, str] | None = None,
) -> ArrayRecord:
    """Average updates of one shape into the next global model.

    Floating-point tensors are added up in float64 and rounded once. Integer tensors (batch norm's counters) are taken
    from the first site, as FedBN's code does.

    Args:
        updates: the round's updates; all have the names, shapes and element types of the first.
        weights: see `shares`.
        cap: see `shares`.
        staleness: see `shares`.
        element_types: what each floating-point tensor of the result is rounded to, by name; without it, what it is in
            the first update. The means of a relay come in float64, and it asks for such itself.

    Raises:
        ValueError: there is nothing to average.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    portions = shares(ordered, weights, cap, staleness)
    result = ArrayRecord()
    for name, first in ordered[0].record.items():
        if np.issubdtype(np.dtype(first.dtype), np.floating):
            records = [update.record for update in ordered]
            dtype = first.dtype if element_types is None else element_types[name]
            result[name] = Array(ndarray=_weighted_sum(records, name, portions, dtype))
        else:
            result[name] = Array(ndarray=first.numpy())
    return result


def _weighted_sum(
    records: Sequence[StoredRecord], name: str, portions: Sequence[float], dtype: str
) -> NDArray[np.floating]:
    first = records[0][name]
    total = np.zeros(math.prod(first.shape), dtype=np.float64)
    for record, portion in zip(records, portions, strict=True):
        values = _mapped(record, name).reshape(-1)  # one file open at a time, however many sites there are
        for start in range(0, total.size, BLOCK):
            block = slice(start, start + BLOCK)
            total[block] += values[block].astype(np.float64) * portion
    return total.astype(dtype).reshape(first.shape)


def _mapped(record: StoredRecord, name: str) -> NDArray[np.floating]:
    array = record[name]
    return array.map() if isinstance(array, StoredArray) else array.numpy()
