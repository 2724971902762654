"""What an update must be before it may touch the global model.

Each rule is a small function that returns a reason in words, or None. A refused update is kept for inspection and never
stops the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import StoredArray, StoredRecord
from fedwon.common.errors import BrokenFile, ModelMismatch
from fedwon.common.network_state import check_same

PARTS = ("validation", "test")
REQUIRED_METRICS = ("num-examples", "validation-correct", "validation-examples", "validation-loss")
BLOCK = 2**16
"""Numbers that are looked at at a time."""
MOST_METRICS = 64
"""Numbers that a site may send with one answer; each becomes a row of the database."""
LONGEST_KEY = 64
"""Characters of such a number's name."""


def refuse_metrics(metrics: Mapping[str, Any]) -> str | None:
    """Look at the numbers of an answer: all there, finite, and counts that can be counts."""
    if len(metrics) > MOST_METRICS:
        return f"the answer has {len(metrics)} numbers; {MOST_METRICS} are the most"
    if any(len(key) > LONGEST_KEY or not key.isprintable() for key in metrics):
        return "the answer names a number in a way that cannot be shown"
    tested = [f"test-{key}" for key in ("correct", "examples", "loss")] if "test-examples" in metrics else []
    missing = [key for key in (*REQUIRED_METRICS, *tested) if key not in metrics]
    if missing:
        return f"the answer lacks {', '.join(missing)}"
    broken = [key for key, value in metrics.items() if not isinstance(value, int | float) or not math.isfinite(value)]
    if broken:
        return f"{', '.join(broken)} is not a finite number"
    return _refuse_counts(metrics)


def _refuse_counts(metrics: Mapping[str, float]) -> str | None:
    counts = {key: value for key, value in metrics.items() if key.endswith(("-examples", "-correct"))}
    odd = [key for key, value in counts.items() if value < 0 or value != int(value)]
    if odd:
        return f"{', '.join(odd)} is no count"
    for part in PARTS:
        if counts.get(f"{part}-correct", 0) > counts.get(f"{part}-examples", math.inf):
            return f"{part}-correct is more than {part}-examples"
    return None


def refuse_examples(declared: float, survey: int | None) -> str | None:
    """Look at the number of training images that gives the update its weight.

    Args:
        declared: what the answer says.
        survey: training and validation images that the site reported when it connected; None if it did not.
    """
    if declared < 1:
        return "it declares no training image"
    if survey is not None and declared > survey:
        return f"it declares {declared:.0f} training images; the site reported {survey} images when it connected"
    return None


def refuse_arrays(update: ArrayRecord, reference: ArrayRecord) -> str | None:
    """Look at the tensors: names, shapes and element types as the reference's, and every number finite."""
    try:
        check_same(_shapes(reference), _shapes(update), "The update")
    except ModelMismatch as error:
        return error.message
    for name, array in update.items():
        if array.dtype not in _allowed(reference[name].dtype):
            return f"tensor `{name}` is {array.dtype}, the global model's is {reference[name].dtype}"
    whole = _mapped(update.blob.path) if isinstance(update, StoredRecord) else None  # once for all tensors
    for name, array in update.items():
        dtype = reference[name].dtype
        if np.issubdtype(np.dtype(array.dtype), np.floating) and not _finite(_flat(array, whole), dtype):
            return f"tensor `{name}` holds numbers that are not finite"
    return None


def _allowed(dtype: str) -> set[str]:
    """Element types in which a tensor may come: the global model's, and float64, in which a relay sends its means."""
    return {dtype, "float64"} if np.issubdtype(np.dtype(dtype), np.floating) else {dtype}


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise BrokenFile(f"{path} cannot be read: {error}.") from None


def _flat(array: Array, whole: NDArray[np.uint8] | None) -> NDArray[Any]:
    """Return a tensor's numbers, where they can be out of the mapped file."""
    if not isinstance(array, StoredArray) or whole is None:
        return array.numpy().reshape(-1)
    slot = array.slot
    return whole[slot.offset : slot.offset + slot.size].view(slot.dtype)


def _finite(values: NDArray[np.floating], dtype: str) -> bool:
    """Tell whether every number is finite, also in the global model's element type; by blocks, for the cache."""
    largest = np.finfo(dtype).max
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        if not np.isfinite(block).all() or (values.dtype != dtype and np.abs(block).max() > largest):
            return False
    return True


def _shapes(record: ArrayRecord) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in record.items()}


def refuse(update: StoredRecord, metrics: Mapping[str, Any], reference: ArrayRecord, survey: int | None) -> str | None:
    """Apply all rules to an update; return the first reason to refuse it, or None.

    Args:
        update: its arrays.
        metrics: its numbers.
        reference: what sites share of the global model that it was trained from.
        survey: training and validation images that the site reported when it connected; None if it did not.
    """
    return (
        refuse_metrics(metrics)
        or refuse_examples(float(metrics["num-examples"]), survey)
        or refuse_arrays(update, reference)
    )
