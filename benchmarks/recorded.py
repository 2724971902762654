"""What light sites answer: recorded updates, the same to every task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from fedwon.common.wire import fedwon_pb2 as pb

IMAGES = 20
"""Training images, and as many for validation, that a light site says it has."""


@dataclass(frozen=True)
class Answer:
    """What a site hands in for a task.

    Attributes:
        records: of the reply, as they travel.
        payload: bytes of the arrays that the records name; empty where they name none.
    """

    records: tuple[pb.Record, ...]
    payload: bytes = b""


Answering = Callable[[str, pb.Offer], Answer]
"""Makes a site's answer to an offer; the site's name comes first."""


class Recorded:
    """The same answer of every site to every task, as admission wants it.

    Args:
        payload: an update as a safetensors file, with the tensors of the model; sent for tasks of training.
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._arrays = pb.Blob(digest=hashlib.sha256(payload).hexdigest(), size=len(payload))

    def __call__(self, site: str, offer: pb.Offer) -> Answer:
        """Answer an offer."""
        del site
        numbers = {f"validation-{key}": float(IMAGES) for key in ("correct", "examples", "loss")}
        numbers["num-examples"] = float(IMAGES)
        if offer.kind != "train":
            return Answer((_metrics(numbers),))
        arrays = pb.Record(name="arrays", arrays=self._arrays)
        return Answer((arrays, _metrics({**numbers, "train-loss": 1.0})), self.payload)


def _metrics(numbers: dict[str, float]) -> pb.Record:
    entries = [pb.Entry(key=key, float=value) for key, value in numbers.items()]
    return pb.Record(name="metrics", metrics=pb.Scalars(entries=entries))
