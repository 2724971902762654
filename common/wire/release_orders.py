"""Gates and answers about releases, on the wire and off it."""

from __future__ import annotations

from typing import Any

from fedwon.common.config import parse
from fedwon.common.gates import Figures, Gates
from fedwon.common.wire import fedwon_pb2 as pb

_COUNTS = ("images", "correct", "defective", "escaped", "good", "overkilled")


def gates_to_wire(gates: Gates) -> pb.Gates:
    """Write gates as a message; an open one is not set."""
    return pb.Gates(**gates.model_dump(exclude_none=True))


def gates_from_wire(message: pb.Gates) -> Gates:
    """Read gates.

    Raises:
        ConfigError: one is out of its range.
    """
    found: dict[str, Any] = {field.name: value for field, value in message.ListFields()}  # those that are set
    return parse(Gates, {**found, "defects": tuple(message.defects)}, "the gates of the promotion")


def answer_to_wire(order: str, answer: dict[str, Any]) -> pb.ReleaseAnswer:
    """Write a site's answer: `state`, `release`, `reason` and the counts under `figures`."""
    figures = answer.get("figures")
    return pb.ReleaseAnswer(
        order=order,
        state=answer["state"],
        release=answer.get("release") or "",
        reason=answer.get("reason", ""),
        figures=None if figures is None else pb.Figures(**figures),
    )


def said_from_wire(message: pb.ReleaseAnswer) -> dict[str, Any]:
    """Read a site's answer as plain values; what a site says may be anything."""
    figures = None
    if message.HasField("figures"):
        figures = Figures(**{name: getattr(message.figures, name) for name in _COUNTS})
    texts = {name: getattr(message, name) for name in ("order", "state", "release", "reason")}
    return {**texts, "figures": figures}
