"""A network's state as a Flower record: all of it, or the part that a method shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord

from fedwon.common.errors import ModelMismatch

if TYPE_CHECKING:  # a site that waits for its first task has not loaded torch
    from torch import nn


def record_of(model: nn.Module, *, without: Collection[str] = ()) -> ArrayRecord:
    """Copy what a model learns or counts (parameters and buffers) into a Flower record.

    Args:
        model: the network.
        without: names of tensors to leave out.
    """
    return ArrayRecord({name: Array(tensor) for name, tensor in model.state_dict().items() if name not in without})


def load_into(model: nn.Module, record: ArrayRecord) -> None:
    """Put a record's arrays into a model, all of it.

    Raises:
        ModelMismatch: tensors are missing, unknown, or of another shape; the message names up to five of each.
    """
    _load(model, record, tuple(model.state_dict()))


def overlay(model: nn.Module, record: ArrayRecord, names: Collection[str]) -> None:
    """Put a record's arrays in place of these tensors of a model; the others stay.

    Args:
        model: the network.
        record: what is put in.
        names: the tensors that the record must hold.

    Raises:
        ModelMismatch: tensors are missing, unknown, or of another shape; the message names up to five of each.
    """
    _load(model, record, names)


def _load(model: nn.Module, record: ArrayRecord, names: Collection[str]) -> None:
    state = model.state_dict()
    expected = {name: tuple(state[name].shape) for name in names}
    check_same(expected, {name: tuple(array.shape) for name, array in record.items()})
    import torch

    arrays = {name: torch.from_numpy(np.array(array.numpy())) for name, array in record.items()}
    model.load_state_dict(arrays, strict=False)  # the names have been compared


def check_same(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], what: str = "The model"
) -> None:
    """Compare names and shapes.

    Raises:
        ModelMismatch: tensors are missing, unknown, or of another shape; the message names up to five of each.
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    other = [
        f"{name} {list(found[name])} in place of {list(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    problems = [
        f"{title} {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"
        for title, names in (("missing", missing), ("unknown", extra), ("other shape:", other))
        if names
    ]
    if problems:
        raise ModelMismatch(f"{what} does not fit the network: {'; '.join(problems)}.")
