"""What a site is asked to do, and what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from queue import SimpleQueue

from fedwon.common.arrays import Blob
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.transfers import Patience


@dataclass(frozen=True)
class Answer:
    """What came of a task.

    Attributes:
        task_id: the task.
        records: the records of the reply; its arrays are in `blob`.
        error: a reason in words, where the site failed.
    """

    task_id: str
    records: tuple[pb.Record, ...] = ()
    blob: Blob | None = None
    error: str = ""


@dataclass
class Task:
    """Something that a site is to do.

    Attributes:
        offer: what the site is told.
        blob: the model that it may fetch for it.
        deltas: files of differences that it may fetch in its place.
        answers: where the answer goes; None ends the wait.
        uploading: held while the site sends the outcome, so that two calls never write one file.
        receiving: the patience with the call that sends it, or sent it last.
    """

    site: str
    offer: pb.Offer
    blob: Blob | None
    answers: SimpleQueue[Answer | None]
    deltas: tuple[Blob, ...] = ()
    done: bool = False
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    uploading: asyncio.Lock = field(default_factory=asyncio.Lock)
    receiving: Patience | None = None

    @property
    def files(self) -> tuple[Blob, ...]:
        """All that the site may fetch."""
        return self.deltas if self.blob is None else (self.blob, *self.deltas)
