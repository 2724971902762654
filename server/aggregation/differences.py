"""What updates changed: the difference of each to the model that it started from, measured tensor by tensor.

Memory holds a block of columns, so many elements of all updates side by side, whatever the number of sites. All sums
are in float64, in the order of the tensors and of the sites that are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import StoredArray

CELLS = 2**20
"""Numbers of a block: 8 MiB in float64."""
WIDEST = 2**15
"""Elements of a block: of few updates it fits into a processor's own cache."""

Block = NDArray[np.float64]


class Change(NamedTuple):
    """An update and the model that it started from."""

    update: ArrayRecord
    start: ArrayRecord


def floating(array: Array) -> bool:
    """Tell whether a tensor is of floating-point numbers, which alone are compared and averaged."""
    return bool(np.issubdtype(np.dtype(array.dtype), np.floating))


def spans(size: int, rows: int) -> Iterator[slice]:
    """Cut a tensor into columns of which `rows` rows fit into a block."""
    width = max(1, min(WIDEST, CELLS // max(rows, 1)))
    for start in range(0, size, width):
        yield slice(start, min(start + width, size))


def flat(array: Array) -> NDArray[np.generic]:
    """Return a tensor's numbers in one row; of a file they are only mapped.

    Raises:
        BrokenFile: the file is shorter than its header says.
    """
    values = array.map() if isinstance(array, StoredArray) else array.numpy()
    return values.reshape(-1)


def blocks(arrays: Sequence[Array], starts: Sequence[Array] | None = None) -> Iterator[tuple[slice, Block]]:
    """Read one tensor of several updates as blocks of columns.

    Args:
        arrays: the tensor in each update; all of one size.
        starts: what each update started from, to be taken away from it; nothing is without it.

    Yields:
        Which elements, and them of all updates: (updates, elements).
    """
    rows = [flat(array) for array in arrays]
    bases = None if starts is None else [flat(array) for array in starts]
    for span in spans(rows[0].size, len(rows)):
        block = np.empty((len(rows), span.stop - span.start))
        for index, row in enumerate(rows):
            if bases is None:
                block[index] = row[span]
            else:
                np.subtract(row[span], bases[index][span], out=block[index], dtype=np.float64)
        yield span, block


def _all_blocks(changes: Sequence[Change]) -> Iterator[Block]:
    """Yield the blocks of all floating-point tensors of the first update, of all updates."""
    for name, array in changes[0].update.items():
        if floating(array):
            tensors, starts = [change.update[name] for change in changes], [change.start[name] for change in changes]
            for _, block in blocks(tensors, starts):
                yield block


def norm(change: Change) -> float:
    """Return the Euclidean norm of an update's difference over all its floating-point tensors."""
    with np.errstate(over="ignore", invalid="ignore"):
        # here and below no product of matrices: BLAS would wake its threads for each block
        return math.sqrt(sum(float(np.einsum("ij,ij->", block, block)) for block in _all_blocks([change])))


def norms_by_tensor(change: Change) -> dict[str, float]:
    """Return the norm of the difference of each floating-point tensor, the largest first."""
    update, start = change
    alone = {
        name: norm(Change(ArrayRecord({name: array}), ArrayRecord({name: start[name]})))
        for name, array in update.items()
        if floating(array)
    }
    return dict(sorted(alone.items(), key=lambda item: -item[1]))


def cosines(changes: Sequence[Change], norms: Sequence[float]) -> list[float]:
    """Return the cosine of each difference to the mean direction of the others.

    Every site has one voice in the mean, however long its difference is. One pass over the updates suffices, for a
    site's own part of the mean is known and taken out afterwards.

    Args:
        changes: the updates; all have the tensors of the first.
        norms: of each, as `norm` has it.

    Returns:
        -1 to 1 each; 0 where a difference, or the mean of the others, is zero or not finite.
    """
    lengths = np.asarray(norms, dtype=np.float64)
    voices = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=(lengths > 0) & np.isfinite(lengths))
    silent = None if voices.all() else (voices == 0)[:, None]
    products, square = np.zeros(len(changes)), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for block in _all_blocks(changes):
            heard = block if silent is None else np.where(silent, 0.0, block)
            mean = np.einsum("i,ij->j", voices, heard)
            products += np.einsum("ij,j->i", heard, mean)
            square += float(np.einsum("j,j->", mean, mean))
    own = (voices > 0).astype(float)  # a difference of length 1 times itself
    without = products * voices - own
    rest = np.maximum(square - 2 * products * voices + own, 0.0)
    found = np.divide(without, np.sqrt(rest), out=np.zeros_like(rest), where=(rest > 1e-12) & (voices > 0))
    return [float(value) for value in np.clip(np.nan_to_num(found), -1.0, 1.0)]
