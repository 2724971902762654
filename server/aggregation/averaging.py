"""Federated averaging, tensor by tensor, from updates on disk.

Memory holds the result and, for each thread, a span of its sum in float64, whatever the number of sites. Sites are
taken in the order of their names, so the same updates give the same bits in whatever order they came and however many
threads there are (docs/decisions/0019-round-overhead.md).
Source: McMahan et al. 2017 (FedAvg); FedWon averages raw weights, gains and biases alike (paper notes §7.7). The weight
of late updates is the polynomial one of FedAsync (Xie, Koyejo and Gupta 2019, arXiv:1903.03934).
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import StoredArray, StoredRecord
from fedwon.common.errors import BrokenFile

BLOCK = 2**15
"""Elements that are read and scaled at a time: with their place in the sum they fit into a processor's own cache."""
SPAN = 2**17
"""Elements that one thread adds up over all sites before it begins with others."""
MOST_THREADS = 4
"""More of them only wait for the memory."""


@dataclass(frozen=True)
class Update:
    """One site's accepted update.

    Attributes:
        site: its name.
        examples: how many training images it declares.
        record: its arrays, in a file.
        rounds_late: how many rounds before this one it was asked for.
        portion: of its weight that counts, above 0: less than 1 where admission holds it back.
    """

    site: str
    examples: int
    record: StoredRecord
    rounds_late: int = 0
    portion: float = 1.0


class Averaged(Array):
    """A Flower `Array` over an array in memory, which Flower's own keeps as a copy in NumPy's file format.

    Args:
        values: the array; it cannot be written to any more.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        values.setflags(write=False)
        self.dtype, self.shape, self.stype = str(values.dtype), values.shape, "numpy.ndarray"
        self._values = values

    @property
    def data(self) -> bytes:  # type: ignore[override]  # Flower declares a plain attribute; nothing sets it here
        """The array as Flower keeps it; written anew at each call."""
        buffer = BytesIO()
        np.save(buffer, self._values, allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> NDArray[Any]:
        """Return the array itself."""
        return self._values


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
    limit = most_weight(counts, cap)
    ages = [(1.0 + update.rounds_late) ** -staleness for update in updates]
    portions = [update.portion for update in updates]
    return [min(count, limit) * age * portion for count, age, portion in zip(counts, ages, portions, strict=True)]


def most_weight(counts: Sequence[float], cap: float) -> float:
    """Return what no update weighs more than: so many times the median of what they would weigh."""
    return cap * statistics.median(counts)


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
            result[name] = Averaged(_weighted_sum(records, name, portions, dtype))
        else:
            result[name] = Averaged(first.numpy())
    return result


def _weighted_sum(
    records: Sequence[StoredRecord], name: str, portions: Sequence[float], dtype: str
) -> NDArray[np.floating]:
    arrays = [record[name] for record in records]
    result = np.empty(math.prod(arrays[0].shape), dtype=dtype)
    stored = [array for array in arrays if isinstance(array, StoredArray)]
    if len(stored) < len(arrays):
        _add_whole(arrays, portions, result)
    else:
        starts = range(0, result.size, SPAN)
        threads = min(len(starts), MOST_THREADS, os.cpu_count() or 1)
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda start: _add_span(stored, portions, result, start), starts))
        else:
            for start in starts:
                _add_span(stored, portions, result, start)
    return result.reshape(arrays[0].shape)


def _add_whole(arrays: Sequence[Array], portions: Sequence[float], result: NDArray[np.floating]) -> None:
    """Average arrays that are made anew each time they are asked for: one site after the other."""
    total = np.zeros(result.size, dtype=np.float64)
    for array, portion in zip(arrays, portions, strict=True):
        values = array.numpy().reshape(-1)
        for start in range(0, total.size, BLOCK):
            block = slice(start, start + BLOCK)
            total[block] += values[block].astype(np.float64) * portion
    result[:] = total


def _add_span(
    arrays: Sequence[StoredArray], portions: Sequence[float], result: NDArray[np.floating], start: int
) -> None:
    """Average `SPAN` elements. Product and sum of each are rounded as in `_add_whole`: the same bits.

    The file is read and not mapped: a page that is mapped costs more than a copy into memory that the processor holds.
    """
    span = result[start : start + SPAN]
    total, scaled = np.zeros(span.size), np.empty(min(BLOCK, span.size))
    raw = np.empty(scaled.nbytes, dtype=np.uint8)
    for array, portion in zip(arrays, portions, strict=True):
        for first, values in _blocks(array, start, span.size, raw):
            part = scaled[: values.size]
            np.copyto(part, values)
            part *= portion
            total[first : first + values.size] += part
    span[:] = total


def _blocks(
    array: StoredArray, start: int, count: int, raw: NDArray[np.uint8]
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Read `count` elements from `start` on into `raw`, block by block; yields a block's place among them and itself.

    Raises:
        BrokenFile: the file is shorter than it was, or gone.
    """
    width = np.dtype(array.dtype).itemsize
    try:
        with array.path.open("rb", buffering=0) as file:  # one open at a time and thread, however many sites there are
            file.seek(array.slot.offset + start * width)
            for first in range(0, count, BLOCK):
                part = raw[: min(BLOCK, count - first) * width]
                done = 0
                while done < part.size:
                    read = file.readinto(part[done:].data)
                    if not read:
                        raise BrokenFile(f"{array.path} has become shorter than its header says.")
                    done += read
                yield first, part.view(array.dtype)
            _announce(file.fileno(), file.tell(), count * width)
    except OSError as error:
        raise BrokenFile(f"{array.path} cannot be read: {error}.") from None


def _announce(file: int, offset: int, size: int) -> None:
    """Tell the system what is read next of a file, which matters where the updates do not fit into memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, offset, size, os.POSIX_FADV_WILLNEED)
