"""Flower's records as protobuf messages and back: typed fields, no pickle, arrays by digest.

What comes back equals what was sent. Lists are of one element type, as Flower demands; an empty list travels as one of
texts, because it has no element to tell its type by, and is an empty list again on the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedwon.common.arrays import Blob, StoredRecord
from fedwon.common.errors import LinkError
from fedwon.common.wire import fedwon_pb2 as pb


class _Kind(NamedTuple):
    """A type of value: the fields of `Entry` for one and for a list, and the message of a list."""

    type: type
    one: str
    many: str
    items: Any


_KINDS = (
    _Kind(bool, "bool", "bools", pb.Bools),  # ahead of int, which a bool is as well
    _Kind(int, "int", "ints", pb.Ints),
    _Kind(float, "float", "floats", pb.Floats),
    _Kind(str, "text", "texts", pb.Texts),
    _Kind(bytes, "raw", "raws", pb.Raws),
)


def records_to_wire(content: RecordDict) -> list[pb.Record]:
    """Turn the records of a message into wire form; its arrays must lie in a file already.

    Raises:
        TypeError: the arrays of a record are in memory, or there is more than one record of arrays.
    """
    wire = []
    for name, record in content.items():
        if isinstance(record, StoredRecord):
            wire.append(pb.Record(name=name, arrays=blob_to_wire(record.blob)))
        elif isinstance(record, ArrayRecord):
            raise TypeError(f"the arrays of `{name}` must be written to a file before they travel")
        elif isinstance(record, ConfigRecord):
            wire.append(pb.Record(name=name, config=_scalars(record)))
        else:
            wire.append(pb.Record(name=name, metrics=_scalars(record)))
    if sum(record.WhichOneof("kind") == "arrays" for record in wire) > 1:
        raise TypeError("a message carries one record of arrays at most")
    return wire


def blob_to_wire(blob: Blob) -> pb.Blob:
    """Return how the wire names a file."""
    return pb.Blob(digest=blob.digest, size=blob.size, packing=blob.packing)


def _scalars(record: Mapping[str, Any]) -> pb.Scalars:
    return pb.Scalars(entries=[_entry(key, value) for key, value in record.items()])


def _entry(key: str, value: Any) -> pb.Entry:
    if isinstance(value, list):
        kind = _kind_of(value[0] if value else "")
        return pb.Entry(**{"key": key, kind.many: kind.items(items=value)})
    return pb.Entry(**{"key": key, _kind_of(value).one: value})


def _kind_of(value: Any) -> _Kind:
    # by isinstance, as Flower checks: a NumPy float is a float
    return next(kind for kind in _KINDS if isinstance(value, kind.type))


def records_from_wire(wire: Iterable[pb.Record], open_blob: Callable[[pb.Blob], ArrayRecord]) -> RecordDict:
    """Turn wire form into the records of a message.

    Args:
        wire: what came.
        open_blob: makes a record of the arrays that a digest names.

    Raises:
        LinkError: a record of a kind, or an entry of a type, that this version does not know.
    """
    content = RecordDict()
    for record in wire:
        match record.WhichOneof("kind"):
            case "arrays":
                content[record.name] = open_blob(record.arrays)
            case "config":
                content[record.name] = ConfigRecord(_values(record.config))
            case "metrics":
                content[record.name] = _metrics(record)
            case _:
                raise LinkError(f"The peer sent record {record.name[:80]!r} of a kind that this version does not know.")
    return content


def _metrics(record: pb.Record) -> MetricRecord:
    try:
        return MetricRecord(_values(record.metrics))
    except TypeError:
        raise LinkError(f"The peer sent metrics {record.name[:80]!r} that are not numbers.") from None


def _values(scalars: pb.Scalars) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for entry in scalars.entries:
        field = entry.WhichOneof("value")
        if field is None:
            raise LinkError(f"The peer sent {entry.key[:80]!r} with a value of a type that this version does not know.")
        value = getattr(entry, field)
        values[entry.key] = list(value.items) if hasattr(value, "items") else value
    return values


def blob_of(wire: Iterable[pb.Record]) -> pb.Blob | None:
    """Return the arrays that these records name, or None."""
    return next((record.arrays for record in wire if record.WhichOneof("kind") == "arrays"), None)


def settings_of(wire: Iterable[pb.Record]) -> dict[str, Any]:
    """Return the configuration that these records carry, all in one mapping.

    Raises:
        LinkError: an entry is of a type that this version does not know.
    """
    configs = (record.config for record in wire if record.WhichOneof("kind") == "config")
    return {key: value for config in configs for key, value in _values(config).items()}
