"""State dicts, Flower records and safetensors files: one set of named arrays in three forms.

A model travels and rests as a safetensors file (no pickle anywhere). `StoredRecord` is a Flower `ArrayRecord` over such
a file whose arrays are read when they are asked for, so a hundred updates can be averaged tensor by tensor in the
memory of one, and Flower's own strategies still see ordinary records.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.errors import BrokenFile, ModelMismatch, StorageError
from fedwon.common.files import sha256_file, write_atomic
from fedwon.common.packing import packed
from fedwon.common.system_errors import storage_error

DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Element types of the file format that are allowed, by NumPy's names."""

PART = 2**22
"""Bytes of an array that are hashed and written at a time."""
WORTH = 2**20
"""Fewer bytes are hashed sooner than another thread takes them."""

_CODES = {name: code for code, name in DTYPES.items()}
_HEADER_LIMIT = 4 * 2**20  # ours have about 100 bytes a tensor; parsed, a hostile one takes many times its size
_MOST_DIMENSIONS, _LONGEST_DIMENSION, _LONGEST_NAME = 32, 2**40, 256
_ORDER = "fedwon.order"


class Slot(NamedTuple):
    """Where one array lies in a file: element type (NumPy's name), shape, first byte and number of bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Blob:
    """A safetensors file, packed or not, that does not change any more.

    Attributes:
        path: where it lies.
        digest: SHA-256 of the whole file, hexadecimal.
        size: bytes.
        packing: how it is packed, see `fedwon.common.packing`; "" where it lies open.
    """

    path: Path
    digest: str
    size: int
    packing: str = ""


class LazyArray(Array):
    """A Flower `Array` whose numbers are fetched or made each time they are asked for.

    Args:
        dtype: element type, NumPy's name.
        shape: lengths.
    """

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape, self.stype = dtype, shape, "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]  # Flower declares a plain attribute; nothing sets it here
        """The array in NumPy's own format, as Flower keeps it; made anew at each call."""
        buffer = BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> NDArray[Any]:
        """Return the numbers."""
        raise NotImplementedError


class StoredArray(LazyArray):
    """A Flower `Array` whose bytes stay in a file until they are asked for."""

    def __init__(self, path: Path, slot: Slot) -> None:
        super().__init__(slot.dtype, slot.shape)
        self.path, self.slot = path, slot

    def numpy(self) -> NDArray[Any]:
        """Read the array.

        Raises:
            BrokenFile: the file is shorter than its header says.
        """
        return self.map().copy()

    def map(self) -> NDArray[Any]:
        """Map the array into memory, read-only, without reading it.

        Raises:
            BrokenFile: the file is shorter than its header says.
        """
        try:
            if self.slot.size == 0:  # nothing to map, which the system refuses to do
                return np.empty(self.slot.shape, dtype=self.slot.dtype)
            flat = np.memmap(self.path, self.slot.dtype, "r", self.slot.offset, (math.prod(self.slot.shape),))
            return flat.reshape(self.slot.shape)
        except (OSError, ValueError) as error:
            raise BrokenFile(f"{self.path} cannot be read: {error}.") from None


class StoredRecord(ArrayRecord):
    """A Flower `ArrayRecord` over one file.

    Attributes:
        blob: the file.
        metadata: the text entries of the file's header.
    """

    def __init__(self, blob: Blob, slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> None:
        super().__init__()
        self.blob, self.metadata = blob, dict(metadata)
        for name, slot in slots.items():
            self[name] = StoredArray(blob.path, slot)


def read_header(path: Path) -> tuple[dict[str, Slot], dict[str, str]]:
    """Read and check the header of a safetensors file.

    Every slot is within the file, none overlap and sizes fit the shapes, so a hostile file cannot make us read or
    allocate more than it brought.

    Returns:
        The slots in the order in which they were written, and the text entries.

    Raises:
        BrokenFile: the file is not a whole safetensors file.
        StorageError: it cannot be opened.
    """
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 2 <= length <= min(_HEADER_LIMIT, max(total - 8, 0)):
                raise BrokenFile(f"{path} is not a whole safetensors file (its header is missing or cut).")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise StorageError(f"There is no file {path}.", hint="Check the path.") from None
    except OSError as error:
        raise storage_error(error, f"reading {path}") from None
    except (ValueError, RecursionError):
        raise BrokenFile(f"{path} is not a safetensors file (its header cannot be read).") from None
    return _check_header(path, header, start=8 + length, total=total)


def _check_header(path: Path, header: object, *, start: int, total: int) -> tuple[dict[str, Slot], dict[str, str]]:
    if not isinstance(header, dict):
        raise BrokenFile(f"{path} is not a safetensors file (its header is no mapping).")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise BrokenFile(f"{path} is not a safetensors file (its text entries are no text).")
    slots = {name: _slot(path, name, entry, start) for name, entry in header.items()}
    end = start
    for slot in sorted(slots.values(), key=lambda slot: (slot.offset, slot.size)):
        if slot.offset != end:
            raise BrokenFile(f"{path} is damaged: its tensors overlap or leave gaps.")
        end += slot.size
    if end != total:
        raise BrokenFile(f"{path} is cut short or too long: its header describes {end} bytes, it has {total}.")
    return {name: slots[name] for name in _written_order(slots, metadata)}, metadata


def _slot(path: Path, name: str, entry: object, start: int) -> Slot:
    # Names reach the operator's terminal, the database and the log.
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise BrokenFile(f"{path} is damaged: a tensor has the name {name[:80]!a}.")
    try:
        dtype = DTYPES[entry["dtype"]]  # type: ignore[index]
        shape = tuple(entry["shape"])  # type: ignore[index]
        first, last = entry["data_offsets"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise BrokenFile(f"{path} is damaged: tensor `{name}` is not described as safetensors does.") from None
    numbers = (*shape, first, last)
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and 0 <= n <= _LONGEST_DIMENSION for n in numbers):
        raise BrokenFile(f"{path} is damaged: tensor `{name}` has a shape or place that cannot be.")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size != last - first:
        raise BrokenFile(f"{path} is damaged: tensor `{name}` has a size that its shape does not have.")
    return Slot(dtype, shape, start + first, size)


def _written_order(slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> list[str]:
    try:
        order = json.loads(metadata.get(_ORDER, "[]"))
        if isinstance(order, list) and sorted(order) == sorted(slots):
            return order
    except (ValueError, TypeError, RecursionError):
        order = []  # a file of somebody else's: the order in which the tensors lie is as good
    return sorted(slots, key=lambda name: slots[name].offset)


def open_record(path: Path, *, digest: str | None = None) -> StoredRecord:
    """Open a safetensors file as a Flower record without reading its arrays.

    Args:
        path: the file.
        digest: its SHA-256 if the caller knows it already; computed otherwise.

    Raises:
        BrokenFile: the file is not a whole safetensors file.
        StorageError: it cannot be opened.
    """
    slots, metadata = read_header(path)
    blob = Blob(path, digest or sha256_file(path), path.stat().st_size)
    return StoredRecord(blob, slots, metadata)


def write_record(
    record: ArrayRecord,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    packing: str = "",
    *,
    sync_folder: bool = True,
) -> Blob:
    """Write a record as a safetensors file, by atomic rename; arrays are read and written one at a time.

    Args:
        record: named arrays.
        path: the file to make or replace.
        metadata: text entries for the header.
        packing: `ZSTD` for a packed file.
        sync_folder: see `write_atomic`.

    Raises:
        DiskFull: no space left; what was there before is untouched.
        ModelMismatch: an array's element type is not one of `DTYPES`.
    """
    digest, size = hashlib.sha256(), 0
    chunks = _serialize(record, metadata or {})

    def _hashed() -> Iterator[bytes | memoryview]:
        nonlocal size
        with ThreadPoolExecutor(1) as beside:  # the digest is made while the file is written
            for chunk in packed(chunks) if packing else chunks:
                size += len(chunk)
                if len(chunk) < WORTH:
                    digest.update(chunk)
                    yield chunk
                else:
                    hashing = beside.submit(digest.update, chunk)
                    yield chunk
                    hashing.result()

    write_atomic(path, _hashed(), sync_folder=sync_folder)
    return Blob(path, digest.hexdigest(), size, packing)


def _serialize(record: ArrayRecord, metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    header: dict[str, Any] = {"__metadata__": {_ORDER: json.dumps(list(record)), **metadata}}
    offset = 0
    for name, array in record.items():
        if array.dtype not in _CODES:
            raise ModelMismatch(f"Tensor `{name}` has element type {array.dtype}, which no model file may hold.")
        size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
        span = [offset, offset + size]
        header[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": span}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in record.values():
        values = array.map() if isinstance(array, StoredArray) else array.numpy()
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data  # no copy: one would hold Python's lock
        for start in range(0, len(flat), PART):
            yield flat[start : start + PART]
