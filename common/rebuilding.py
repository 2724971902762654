"""A model file made again of the one before and a small file of differences: the same bytes as the server's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord

from fedwon.common.arrays import Blob, StoredRecord, open_record, write_record
from fedwon.common.codec.coding import decode
from fedwon.common.errors import BrokenFile
from fedwon.common.packing import ZSTD, unpack

OF_MODEL = "fedwon.model"
"""Text entry of a file of differences: the text entries of the model file that it makes."""
UNPACKED = ".unpacked"
WIDER = 2
"""An update may be so many times as large as the model that it answers to: a relay's means are float64."""
SIZE_MARGIN = 2**20
"""Bytes by which it may be larger still: headers, scales."""


def numbers_size(record: ArrayRecord) -> int:
    """Return the bytes of a record's numbers, without what describes them."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in record.values())


def most_bytes(model_size: int) -> int:
    """Return how many bytes a file may have that belongs to a model of so many bytes."""
    return WIDER * model_size + SIZE_MARGIN


def opened(blob: Blob, model_size: int) -> StoredRecord:
    """Open a file that came, beside itself unpacked where it is packed.

    Args:
        blob: the file, its digest checked.
        model_size: bytes of the model that it belongs to.

    Raises:
        BrokenFile: it is not a whole safetensors file, or one larger than can be meant.
        StorageError: it cannot be read, or not be unpacked for want of space.
    """
    if blob.packing == ZSTD:
        return open_record(unpack(blob.path, blob.path.with_suffix(UNPACKED), most_bytes(model_size)))
    return open_record(blob.path, digest=blob.digest)


def rebuild(delta: Blob, base: StoredRecord, target: Path, size: int) -> Blob:
    """Make a model file.

    Args:
        delta: the file of differences.
        base: the model before.
        target: the file to make.
        size: bytes that it will have.

    Raises:
        BrokenFile: the file is damaged, or is not about this base.
        StorageError: a file cannot be read or written.
    """
    parts = opened(delta, size)
    return write_record(decode(parts, base), target, _entries(parts.metadata))


def _entries(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        entries = json.loads(metadata[OF_MODEL])
    except (KeyError, ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(text, str) for text in entries.values()):
        raise BrokenFile("A model came as differences that do not say what the model's file says of itself.")
    return entries
