"""Whole records through a codec and back: what travels, what the receiver makes of it, and what was lost on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import LazyArray
from fedwon.common.codec import CODECS, Codec
from fedwon.common.codec.forms import BITS, FORMS, Form, Parts
from fedwon.common.errors import BrokenFile

_BETWEEN = "|"
"""Between a tensor's name, its form, and its part; no Python identifier and thus no tensor's name has it."""


class Encoded(NamedTuple):
    """A record as it travels.

    Attributes:
        parts: the small arrays, named `tensor|form|part`.
        lost: what each tensor lacks of what it should have been; empty for a codec without feedback.
    """

    parts: ArrayRecord
    lost: ArrayRecord


def fits(record: ArrayRecord, base: ArrayRecord) -> bool:
    """Tell whether a record can be written as differences from another: its tensors are there, of the same kind."""
    return all(
        name in base and (array.dtype, tuple(array.shape)) == (base[name].dtype, tuple(base[name].shape))
        for name, array in record.items()
    )


def encode(
    record: ArrayRecord, base: ArrayRecord, codec: str, seed: str, owed: Mapping[str, Array] | None = None
) -> Encoded:
    """Write a record as differences from a model that the receiver has.

    The same arguments give the same bits.

    Args:
        record: tensors that `fits` says can be written so.
        base: the model that both sides have; all its numbers are finite.
        codec: a key of `CODECS`.
        seed: of stochastic rounding.
        owed: what earlier records lost, by tensor, for a codec with feedback.

    Raises:
        KeyError: there is no such codec.
    """
    known, parts, lost = CODECS[codec], ArrayRecord(), ArrayRecord()
    for name, array in record.items():
        values, start = array.numpy(), base[name].numpy()
        debt = owed[name].numpy() if owed is not None and name in owed and known.feedback else None
        form, made, rest = _written(known, values, start, debt, generator(seed, name))
        for part, content in made.items():
            parts[_BETWEEN.join((name, form.name, part))] = Array(ndarray=content)
        if rest is not None:
            lost[name] = Array(ndarray=rest)
    return Encoded(parts, lost)


def _written(
    codec: Codec, values: NDArray[Any], base: NDArray[Any], debt: NDArray[Any] | None, rng: np.random.Generator
) -> tuple[Form, Parts, NDArray[Any] | None]:
    """Write one tensor; exact where the codec's form cannot hold it."""
    form = codec.weights
    if form.exact or not _may_lose(values):
        return BITS, BITS.encode(values, base, rng), None
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = values if debt is None or debt.shape != values.shape else (values + debt).astype(values.dtype)
        parts = form.encode(wanted, base, rng) if np.isfinite(wanted - base).all() else {}
        arrived = form.decode(parts, base) if parts else None
    if arrived is None or not np.isfinite(arrived).all():
        return BITS, BITS.encode(values, base, rng), None
    return form, parts, wanted - arrived if codec.feedback else None


def _may_lose(values: NDArray[Any]) -> bool:
    weights = values.ndim > 1 and values.size > values.shape[0]
    return weights and np.issubdtype(values.dtype, np.floating)


def generator(seed: str, name: str) -> np.random.Generator:
    """Return the random numbers for one tensor of one record."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


class _DecodedArray(LazyArray):
    """A tensor that is made when it is asked for."""

    def __init__(self, form: Form, parts: Mapping[str, Array], base: Array) -> None:
        super().__init__(base.dtype, tuple(base.shape))
        self._form, self._parts, self._base = form, parts, base

    def numpy(self) -> NDArray[Any]:
        """Make the tensor; raises BrokenFile where its parts do not fit."""
        parts = {name: array.numpy() for name, array in self._parts.items()}
        return self._form.decode(parts, self._base.numpy())


def decode(parts: ArrayRecord, base: ArrayRecord) -> ArrayRecord:
    """Make a record of what `encode` wrote; each tensor when it is asked for, so memory holds one.

    Nothing larger than a tensor of the base is made, whatever came. A tensor that came in no form is not in the result.

    Args:
        parts: what came.
        base: the model that the sender started from.

    Raises:
        BrokenFile: parts of no known form or of no tensor of the base, or a tensor in two forms; and later, when the
            tensor is asked for, one whose parts do not fit.
    """
    found: dict[str, tuple[Form, dict[str, Array]]] = {}
    for key, array in parts.items():
        name, form, part = _named(key)
        if name not in base:
            raise BrokenFile(f"The update holds `{name[:80]}`, which the model it started from has not got.")
        if found.setdefault(name, (form, {}))[0] is not form:
            raise BrokenFile(f"The update holds `{name}` twice.")
        found[name][1][part] = array
    made = ArrayRecord()
    for name, (form, own) in found.items():  # one by one: Flower's constructor would copy what is to be made later
        made[name] = _DecodedArray(form, own, base[name])
    return made


def _named(key: str) -> tuple[str, Form, str]:
    name, form, part = key.rsplit(_BETWEEN, 2) if key.count(_BETWEEN) > 1 else (key, "", "")
    if form not in FORMS:
        raise BrokenFile(f"The update holds `{key[:80]}`, which this version cannot read.")
    return name, FORMS[form], part
