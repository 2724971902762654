"""How one tensor is written for the wire: as a few plain arrays, from which the receiver makes the tensor again.

Both sides hold the same tensor of the model that the sender started from (`base`), so what travels is the difference.
Integer quantization with stochastic rounding: Alistarh et al. 2017 (QSGD, arXiv:1610.02132). The largest entries of
the difference: Aji and Heafield 2017 (arXiv:1704.05021). Numbers as planes of their bytes: the shuffle of HDF5 and
Blosc (Masui et al. 2015), without which no general compressor sees that exponents are alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedwon.common.errors import BrokenFile

Parts = dict[str, NDArray[Any]]
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Element type (NumPy's name) and shape of each part."""

SHARE = 0.05
"""Share of a tensor's entries that `Sparse` sends."""
ROW = 32
"""Weights of an output channel below which a scale of its own is not worth its four bytes."""
_LEVELS, _PER_RMS = 127, 8


class Form(ABC):
    """One way to write a tensor.

    Attributes:
        name: under which its parts travel.
        exact: what comes out has the bits of what went in, whatever that was.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False

    @abstractmethod
    def encode(self, values: NDArray[Any], base: NDArray[Any], rng: np.random.Generator) -> Parts:
        """Write a tensor.

        Args:
            values: the tensor.
            base: what the receiver has, of the same shape and type.
            rng: for stochastic rounding.
        """

    @abstractmethod
    def layout(self, base: NDArray[Any], found: Layout) -> Layout:
        """Return what the parts of a tensor must be, given what was found where that is free."""

    @abstractmethod
    def restore(self, parts: Parts, base: NDArray[Any]) -> NDArray[Any]:
        """Make the tensor of parts that have the layout.

        Raises:
            BrokenFile: they contradict one another.
        """

    def decode(self, parts: Parts, base: NDArray[Any]) -> NDArray[Any]:
        """Make a tensor again.

        Args:
            parts: what came.
            base: what the sender started from.

        Raises:
            BrokenFile: these are not the parts of such a tensor.
        """
        found = {name: (array.dtype.name, array.shape) for name, array in parts.items()}
        if found != self.layout(base, found):
            raise BrokenFile(f"A tensor of shape {list(base.shape)} came as `{self.name}` with parts that do not fit.")
        return self.restore(parts, base)


class Bits(Form):
    """Exact: which bits differ, in planes of bytes; what did not change costs next to nothing once it is packed."""

    name, exact = "bits", True

    def encode(self, values: NDArray[Any], base: NDArray[Any], rng: np.random.Generator) -> Parts:
        """Write any tensor."""
        del rng
        return {"planes": planes(values) ^ planes(base)}

    def layout(self, base: NDArray[Any], found: Layout) -> Layout:
        """One plane a byte of the element type."""
        del found
        return {"planes": ("uint8", (base.itemsize, base.size))}

    def restore(self, parts: Parts, base: NDArray[Any]) -> NDArray[Any]:
        """Turn the bits back."""
        return joined(parts["planes"] ^ planes(base), base.dtype).reshape(base.shape)


class Half(Form):
    """The difference in sixteen bits: bfloat16 keeps its range, float16 three more bits of it near one.

    Source: round to nearest, ties to even, as in IEEE 754; an entry is off by 2^-9 (2^-12) of itself at most.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]  # one class for two formats

    def encode(self, values: NDArray[Any], base: NDArray[Any], rng: np.random.Generator) -> Parts:
        """Write a floating-point tensor."""
        del rng
        delta = difference(values, base)
        return {"planes": planes(bfloat16(delta) if self.name == "bf16" else delta.astype(np.float16))}

    def layout(self, base: NDArray[Any], found: Layout) -> Layout:
        """Two planes of bytes."""
        del found
        return {"planes": ("uint8", (2, base.size))}

    def restore(self, parts: Parts, base: NDArray[Any]) -> NDArray[Any]:
        """Add the difference."""
        short = joined(parts["planes"], np.dtype(np.uint16 if self.name == "bf16" else np.float16))
        delta = widened(short) if self.name == "bf16" else short.astype(np.float32)
        return added(base, delta.reshape(base.shape))


class Int8(Form):
    """The difference in 255 steps, a scale an output channel, rounded up or down at random so that the mean is right.

    A step is 1/8 of the channel's root mean square, or 1/127 of its largest difference where that is more; an entry is
    off by less than one. Finer steps would add noise bits that the next packing cannot take away: with these a weight
    costs 5 bits, and rounding adds a quarter of a percent to the update's energy.
    """

    name = "int8"

    def encode(self, values: NDArray[Any], base: NDArray[Any], rng: np.random.Generator) -> Parts:
        """Write a floating-point tensor."""
        rows = difference(values, base).reshape(_rows(base))
        scale = _step(rows).astype(np.float32)
        steps = np.divide(rows, scale[:, None], where=scale[:, None] > 0, out=np.zeros_like(rows))
        np.floor(np.add(steps, rng.random(rows.shape, dtype=np.float32), out=steps), out=steps)
        return {"steps": np.clip(steps, -_LEVELS, _LEVELS, out=steps).astype(np.int8), "scale": scale}

    def layout(self, base: NDArray[Any], found: Layout) -> Layout:
        """A byte an entry, and a scale a row."""
        del found
        rows = _rows(base)
        return {"steps": ("int8", rows), "scale": ("float32", rows[:1])}

    def restore(self, parts: Parts, base: NDArray[Any]) -> NDArray[Any]:
        """Add the difference."""
        with np.errstate(over="ignore", invalid="ignore"):
            delta = parts["steps"].astype(np.float32) * parts["scale"][:, None]
        return added(base, delta.reshape(base.shape))


class Sparse(Form):
    """The largest twentieth of the differences, as bfloat16, and the gaps between their places."""

    name = "sparse"

    def encode(self, values: NDArray[Any], base: NDArray[Any], rng: np.random.Generator) -> Parts:
        """Write a floating-point tensor."""
        del rng
        delta = difference(values, base).reshape(-1)
        count = math.ceil(SHARE * delta.size)
        places = np.sort(np.argpartition(np.abs(delta), delta.size - count)[delta.size - count :])
        gaps = np.diff(places, prepend=-1).astype(np.uint32)
        return {"gaps": planes(gaps), "planes": planes(bfloat16(delta[places]))}

    def layout(self, base: NDArray[Any], found: Layout) -> Layout:
        """As many places as the sender chose, up to all."""
        shape = found["planes"][1] if "planes" in found else ()
        count = min(shape[-1], base.size) if shape else 0
        return {"gaps": ("uint8", (4, count)), "planes": ("uint8", (2, count))}

    def restore(self, parts: Parts, base: NDArray[Any]) -> NDArray[Any]:
        """Add the differences in their places."""
        gaps = joined(parts["gaps"], np.dtype(np.uint32)).astype(np.int64)
        places = np.cumsum(gaps) - 1
        if gaps.size and (gaps.min() < 1 or places[-1] >= base.size):
            raise BrokenFile(f"A tensor of {base.size} entries came with differences in places that it has not got.")
        delta = np.zeros(base.size, dtype=np.float32)
        delta[places] = widened(joined(parts["planes"], np.dtype(np.uint16)))
        return added(base, delta.reshape(base.shape))


def difference(values: NDArray[Any], base: NDArray[Any]) -> NDArray[Any]:
    """Subtract in float32, or in float64 where the tensors are of that."""
    wide = np.result_type(base.dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        delta: NDArray[Any] = values.astype(wide) - base.astype(wide)
        return delta


def added(base: NDArray[Any], delta: NDArray[Any]) -> NDArray[Any]:
    """Add a difference to a tensor; the result has the tensor's type."""
    wide = np.result_type(base.dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        total: NDArray[Any] = base.astype(wide) + delta
        return total.astype(base.dtype)


def planes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Lay numbers out by byte: shape (bytes of an element, elements), all first bytes ahead of all second ones."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return np.ascontiguousarray(flat.view(np.uint8).reshape(flat.size, flat.itemsize).T)


def joined(laid_out: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Put numbers together again from the planes of their bytes: shape (elements,)."""
    return np.ascontiguousarray(laid_out.T).reshape(-1).view(dtype)


def bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Round finite numbers to the upper half of a float32, to nearest, ties to even."""
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(short: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return bfloat16 numbers as float32."""
    return (short.astype(np.uint32) << 16).view(np.float32)


def _step(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the distance between two values of each row."""
    largest = np.abs(rows).max(axis=1)
    # in units of the largest, whose square may be too large or too small for a number
    unit = np.where(largest > 0, largest, 1)[:, None]
    rms = largest * np.sqrt(np.square(rows / unit).mean(axis=1))
    step: NDArray[Any] = np.maximum(largest / _LEVELS, rms / _PER_RMS)
    return step


def _rows(base: NDArray[Any]) -> tuple[int, int]:
    """Return the shape in which each row has a scale: output channels, or all in one where these are small."""
    channels = base.shape[0] if base.ndim > 1 and base.size >= ROW * base.shape[0] > 0 else 1
    return channels, base.size // channels


BITS, INT8, SPARSE, BF16, FP16 = Bits(), Int8(), Sparse(), Half("bf16"), Half("fp16")
FORMS: Mapping[str, Form] = {form.name: form for form in (BITS, INT8, SPARSE, BF16, FP16)}
"""All forms, by the name under which their parts travel."""
