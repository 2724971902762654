"""Flower's `Grid` over gRPC: the strategy's thread on one side, the event loop with its sites on the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from flwr.app import ArrayRecord, Error, Message, RecordDict

from fedwon.common.arrays import Blob, StoredRecord, open_record, write_record
from fedwon.common.errors import FedwonError, Stopped, TaskFailed
from fedwon.common.run_config import ParticipationConfig
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_from_wire, records_to_wire
from fedwon.server.hub import Answer, Hub, Task
from fedwon.server.site_grid import SiteGrid, Survey, Traffic, node_id_of

T = TypeVar("T")


class GrpcGrid(SiteGrid):
    """Sites behind the gRPC service.

    Its methods are called from the strategy's thread.

    Args:
        hub: sessions and tasks.
        loop: the event loop that the hub lives in.
        rules: quorum and patience.
    """

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop, rules: ParticipationConfig) -> None:
        super().__init__()
        self._hub, self._loop, self._rules = hub, loop, rules
        self._discounted: set[str] = set()
        self._names: dict[int, str] = {}
        self._waiting: dict[str, tuple[Message, Task]] = {}

    def _call(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def begin_run(self, spool: Path) -> None:
        """Name the folder that updates of the run land in."""
        self._hub.spool = spool

    def sites(self) -> list[str]:
        """Return the names of the sites that are connected, sorted."""
        names = sorted(self._hub.sessions.copy())
        self._names |= {node_id_of(name): name for name in names}
        return names

    def survey(self, site: str) -> Survey | None:
        """Return what images a site said it has, or None when it is away."""
        session = self._hub.sessions.get(site)
        return None if session is None else session.survey

    def wait_for_sites(self, minimum: int) -> None:
        """Block until so many sites are connected.

        Raises:
            Stopped: the server is stopped meanwhile.
        """
        self._call(self._hub.wait_for(minimum))
        if self._hub.stopped:
            raise Stopped("The server was stopped while it waited for sites.")

    def traffic(self, message_id: str) -> Traffic:
        """Return what a task cost so far."""
        task = self._hub.tasks.get(message_id)
        return Traffic() if task is None else Traffic(task.bytes_down, task.bytes_up, task.seconds)

    def discount(self, message_id: str) -> None:
        """Take back that a reply counts towards the quorum, and let the task be handed out again."""
        self._discounted.add(message_id)
        self._loop.call_soon_threadsafe(self._hub.forget, message_id)

    def committed(self, run: str, number: int, message_ids: Iterable[str]) -> None:
        """Tell the sites that a round stands on the disk."""
        self._discounted.clear()
        self._call(self._hub.committed(run, number, list(message_ids)))

    def run_ended(self, run: str, state: str) -> None:
        """Tell the sites that the run is over."""
        self._call(self._hub.run_ended(run, state))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand tasks out without waiting; `pull_messages` collects their replies."""
        pushed = {message.metadata.message_id: (message, self._task(message, SimpleQueue())) for message in messages}
        self._waiting |= pushed
        self._call(self._hub.dispatch([task for _, task in pushed.values()]))
        return list(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that are there by now."""
        replies = []
        for name in message_ids:
            message, task = self._waiting[name]
            if not task.answers.empty():
                del self._waiting[name]
                replies.append(self._reply(message, self._taken(task.answers.get())))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Hand tasks out and yield the replies as they come.

        Ends when all have answered, at the deadline, or, once a quorum of good replies is there, when the patience of
        the run's configuration is over. What is missing then is taken back.

        Args:
            messages: to sites.
            timeout: seconds to the deadline; None for no deadline.

        Raises:
            Stopped: the server is stopped meanwhile.
        """
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        sent = {message.metadata.message_id: message for message in messages}
        self._call(self._hub.dispatch([self._task(message, answers) for message in sent.values()]))
        try:
            yield from self._replies(sent, answers, timeout)
        finally:
            self._call(self._hub.withdraw(list(sent), "the round has closed"))

    def _replies(
        self, sent: dict[str, Message], answers: SimpleQueue[Answer | None], timeout: float | None
    ) -> Iterator[Message]:
        deadline = None if timeout is None else time.monotonic() + timeout
        needed = min(self._rules.quorum or len(sent), len(sent))
        good = 0
        for _ in range(len(sent)):
            try:
                answer = self._taken(answers.get(timeout=_left(deadline)))
            except Empty:
                return
            reply = self._reply(sent[answer.task_id], answer)
            yield reply
            good += not reply.has_error() and answer.task_id not in self._discounted
            if good == needed and self._rules.patience_seconds is not None:
                patience = time.monotonic() + self._rules.patience_seconds
                deadline = patience if deadline is None else min(deadline, patience)

    def _taken(self, answer: Answer | None) -> Answer:
        if answer is None:
            raise Stopped("The server was stopped in the middle of a round.")
        return answer

    def _task(self, message: Message, answers: SimpleQueue[Answer | None]) -> Task:
        name, content = message.metadata.message_id, self._on_disk(message)
        offer = pb.Offer(
            task_id=name,
            kind=message.metadata.message_type,
            group_id=message.metadata.group_id,
            records=records_to_wire(content),
        )
        blobs = [record.blob for record in content.array_records.values() if isinstance(record, StoredRecord)]
        return Task(self._names[message.metadata.dst_node_id], offer, blobs[0] if blobs else None, answers)

    def _on_disk(self, message: Message) -> RecordDict:
        """Return the message's records with arrays in a file, as they travel."""
        content = RecordDict()
        for name, record in message.content.items():
            if isinstance(record, ArrayRecord) and not isinstance(record, StoredRecord):
                path = self._hub.spool / f"{message.metadata.message_id}.request.safetensors"
                blob = write_record(record, path)
                content[name] = open_record(path, digest=blob.digest)
            else:
                content[name] = record
        return content

    def _reply(self, message: Message, answer: Answer) -> Message:
        if answer.error:
            return Message(Error(code=TaskFailed.code, reason=answer.error), reply_to=message)
        try:
            content = records_from_wire(answer.records, lambda _: _open(answer.blob))
        except FedwonError as error:
            return Message(Error(code=error.code, reason=error.message), reply_to=message)
        return Message(content, reply_to=message)


def _open(blob: Blob | None) -> StoredRecord:
    if blob is None:
        raise TaskFailed("The reply names arrays that did not come.")
    return open_record(blob.path, digest=blob.digest)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)
