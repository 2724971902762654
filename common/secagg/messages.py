"""What server and sites tell each other in a sitting: plain data that travels as one Flower record, `secure`.

A sitting is one use of the protocol, for one sum. It has a name that is never used again, and everything belongs to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flwr.app import ConfigRecord, RecordDict

from fedwon.common.errors import TaskFailed
from fedwon.common.secagg.stages import SECURE


@dataclass(frozen=True)
class Setup:
    """To each site: a sitting begins."""

    sitting: str


@dataclass(frozen=True)
class Keys:
    """From a site: its public keys, one for what is sealed and one for masks.

    Attributes:
        tag: proof that they are of a site that knows the circle's secret; empty without one.
    """

    sitting: str
    sealing: bytes
    masking: bytes
    tag: bytes


@dataclass(frozen=True)
class Circle:
    """To a site: who its neighbours are; names, and in the same order what they sent as `Keys`.

    Attributes:
        threshold: shares that give a secret back.
    """

    sitting: str
    threshold: int
    neighbours: tuple[str, ...]
    sealing: tuple[bytes, ...]
    masking: tuple[bytes, ...]
    tags: tuple[bytes, ...]


@dataclass(frozen=True)
class Shares:
    """From a site: for each neighbour the sealed shares of its two secrets.

    Attributes:
        own_mask: digest of the seed of its own mask.
    """

    sitting: str
    neighbours: tuple[str, ...]
    sealed: tuple[bytes, ...]
    own_mask: bytes


@dataclass(frozen=True)
class MaskOrder:
    """To a site, with the task to train: mask with these neighbours, all others having left before sharing.

    Attributes:
        sealed: what each of them sealed for this site.
        clip_norm: norm to which the update is shortened.
        largest_weight: a site's weight counts up to this.
        by_examples: weigh by training images; all sites alike without it.
        sites: sites in the sitting.
    """

    sitting: str
    neighbours: tuple[str, ...]
    sealed: tuple[bytes, ...]
    clip_norm: float
    largest_weight: float
    by_examples: bool
    sites: int


@dataclass(frozen=True)
class Opening:
    """To a site: whose updates are in the sum, and who of its neighbours was lost after sharing."""

    sitting: str
    counted: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Revealed:
    """From a site: shares of the seeds of those that counted, and of the masking keys of those that were lost."""

    sitting: str
    counted: tuple[str, ...]
    counted_shares: tuple[bytes, ...]
    lost: tuple[str, ...]
    lost_shares: tuple[bytes, ...]


M = TypeVar("M", Setup, Keys, Circle, Shares, MaskOrder, Opening, Revealed)


def pack(message: object) -> ConfigRecord:
    """Return the record that carries a message, or a site's own notes of the same make."""
    kept = ((field.name, getattr(message, field.name)) for field in fields(message))  # type: ignore[arg-type]
    return ConfigRecord({name: list(value) if isinstance(value, tuple) else value for name, value in kept})


def unpack(kind: type[M], content: RecordDict) -> M:
    """Read a message out of the records that came.

    Raises:
        TaskFailed: there is none, or it is none of this kind.
    """
    record = content.config_records.get(SECURE)
    if record is None:
        raise TaskFailed(f"The message has no record `{SECURE}`, which secure aggregation needs.")
    return read(kind, record)


R = TypeVar("R")


def read(kind: type[R], record: Mapping[str, Any]) -> R:
    """Read what `pack` wrote.

    Raises:
        TaskFailed: it is something else.
    """
    hints = get_type_hints(kind)
    wrong = [name for name, hint in hints.items() if not _is(record.get(name), hint)]
    if wrong or record.keys() - hints:
        raise TaskFailed(f"The record `{SECURE}` is no {kind.__name__}: {', '.join(wrong or record.keys() - hints)}.")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})


def _is(value: object, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_is(item, get_args(hint)[0]) for item in value)
    return type(value) is hint
