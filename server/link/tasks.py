"""What a site is asked to do, and what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from queue import SimpleQueue

from fedwon.common.arrays import Blob
from fedwon.common.errors import Refused
from fedwon.common.rebuilding import most_bytes
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.link.transfers import Patience

MOST_SENT = 8
"""A site may send so many times the bytes of the largest update for one task: lines break, and files arrive damaged."""


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

    def received(self, count: int) -> None:
        """Count bytes of the outcome; a site that sends it again and again, damaged or anew, is answered for.

        Raises:
            Refused: it has sent several times what the largest update has.
        """
        self.bytes_up += count
        most = MOST_SENT * most_bytes(self.blob.size if self.blob else 0)
        if self.bytes_up > most:
            reason = f"the site sent {self.bytes_up} bytes for one update, and {most} are the most"
            if not self.done:
                self.done = True
                self.answers.put(Answer(self.offer.task_id, error=reason))
            raise Refused(f"Task {self.offer.task_id}: {reason}.")

    @property
    def files(self) -> tuple[Blob, ...]:
        """All that the site may fetch."""
        return self.deltas if self.blob is None else (self.blob, *self.deltas)
