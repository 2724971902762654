"""Flower's `Grid` over gRPC: the strategy's thread on one side, the event loop with its sites on the other."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from flwr.app import ArrayRecord, Error, Message, RecordDict

from fedwon.common.arrays import Blob, StoredRecord, open_record, write_record
from fedwon.common.codec import TRAFFIC, codec_of
from fedwon.common.errors import FedwonError, Stopped, TaskFailed
from fedwon.common.flower import set_message_id
from fedwon.common.packing import ZSTD
from fedwon.common.rebuilding import numbers_size, opened
from fedwon.common.round_settings import ParticipationConfig
from fedwon.common.surveys import Survey
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import blob_to_wire, records_from_wire, records_to_wire
from fedwon.server.link.hub import Hub
from fedwon.server.link.tasks import Answer, Task
from fedwon.server.rounds.site_grid import Delta, SiteGrid, Traffic, node_id_of

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
        self._names: dict[int, str] = {}
        self._waiting: dict[str, tuple[Message, Task]] = {}
        self._round = ("", "")
        self._open: set[str] = set()
        self._good: set[str] = set()
        self._deltas: dict[str, Delta] = {}

    def _call(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something in the event loop and wait for what it returns."""

        async def _there() -> T:
            return work(*arguments)

        return asyncio.run_coroutine_threadsafe(_there(), self._loop).result()

    def begin_run(self, spool: Path) -> None:
        """Name the folder that updates of the run land in."""
        self._hub.spool, self._hub.away_seconds = spool, self._rules.away_seconds

    def shorten(self, model: str, delta: Delta) -> None:
        """Offer sites a file of differences in place of a model, from now on.

        Earlier ones stay: a task that is carried on into another round is to be the same task.
        """
        self._deltas[model] = delta

    def sites(self) -> list[str]:
        """Return the names of the sites that are connected and may work now, sorted."""
        names = self._hub.available()
        self._names |= {node_id_of(name): name for name in names}
        return names

    def suspend(self, sites: Mapping[str, str]) -> None:
        """Hear which sites are not to be asked or waited for."""
        self._call(self._hub.suspend, sites)

    def resting(self) -> dict[str, str]:
        """Return why a site that is connected may not work now, by the site's name."""
        sessions = sorted(self._hub.sessions.copy().items())
        away = {site: f"the site is {one.availability.words}" for site, one in sessions if not one.availability}
        return {**{site: f"the site is suspended ({why})" for site, why in self._hub.suspended.items()}, **away}

    def survey(self, site: str) -> Survey | None:
        """Return what images a site said it has, or None when it is away."""
        session = self._hub.sessions.get(site)
        return None if session is None else session.survey

    def wait_for_sites(self, minimum: int) -> None:
        """Block until so many sites are connected and may work.

        Raises:
            Stopped: the server is stopped meanwhile.
        """
        asyncio.run_coroutine_threadsafe(self._hub.wait_for(minimum), self._loop).result()
        if self._hub.halted:
            raise Stopped("The server was stopped while it waited for sites.")

    def wait_for_sites_or_wish(self, minimum: int) -> None:
        """Block until so many sites are connected and may work, or the operator wishes something of the run.

        Raises:
            Stopped: the server is stopped meanwhile.
        """
        asyncio.run_coroutine_threadsafe(self._hub.wait_for(minimum, heeding=True), self._loop).result()
        if self._hub.halted:
            raise Stopped("The server was stopped while it waited for sites.")

    def wait_for_wish(self, wish: str) -> None:
        """Block until the operator wishes something else than this.

        Raises:
            Stopped: the server is stopped meanwhile.
        """
        asyncio.run_coroutine_threadsafe(self._hub.wait_for_wish(wish), self._loop).result()
        if self._hub.halted:
            raise Stopped("The server was stopped while the run was paused.")

    def heeded(self, wish: str) -> None:
        """Hear what the operator wishes of the run, as the run has just read it."""
        self._call(self._hub.wished, wish)

    def wait_for_arrival(self, seconds: float) -> bool:
        """Block until another site connects or may work again, or the time is over.

        Raises:
            Stopped: the server is stopped meanwhile.
        """
        asyncio.run_coroutine_threadsafe(self._hub.wait_for_arrival(seconds), self._loop).result()
        if self._hub.halted:
            raise Stopped("The server was stopped while the run paused.")
        return True

    def traffic(self, message_id: str) -> Traffic:
        """Return what a task cost so far."""
        task = self._hub.tasks.get(message_id)
        return Traffic() if task is None else Traffic(task.bytes_down, task.bytes_up, task.seconds)

    def discount(self, message_id: str) -> None:
        """Take back that a reply counts towards the quorum: it was refused."""
        self._good.discard(message_id)

    def committed(self, run: str, number: int, message_ids: Iterable[str]) -> None:
        """Tell the sites that a round stands on the disk; who has not answered is told to stop."""
        self._call(self._hub.committed, run, number, list(message_ids))
        self._round = ("", "")  # whatever is sent next begins a round, also one of this number

    def run_ended(self, run: str, state: str) -> None:
        """Tell the sites that the run is over."""
        self._call(self._hub.run_ended, run, state)

    def go_on(self) -> None:
        """Wait for sites and answers again, after the work in hand was broken off."""
        self._call(self._hub.go_on)

    def take_back(self, reason: str) -> None:
        """Forget what is open, and tell the sites that still work on it why."""
        self._call(self._hub.withdraw, self._open, reason)
        self._open, self._good, self._round = set(), set(), ("", "")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand tasks out without waiting; `pull_messages` collects their replies."""
        sent = _named(messages)
        tasks = self._tasks(sent)
        self._waiting |= {name: (sent[name], task) for name, task in tasks.items()}
        self._call(self._hub.dispatch, tasks.values())
        return list(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that are there by now."""
        replies = []
        for name in message_ids:
            message, task = self._waiting[name]
            if not task.answers.empty():
                replies.append(self._reply(message, self._taken(task.answers.get())))
                del self._waiting[name]
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Hand tasks out and yield the replies as they come.

        Ends when all have answered, at the deadline, or, once a quorum of good replies is there, when the patience of
        the run's configuration is over. What is missing then stays open, so that sending it again loses no work; it is
        taken back when the round is committed or another one begins.

        Args:
            messages: to sites.
            timeout: seconds to the deadline; None for no deadline.

        Raises:
            Stopped: the server is stopped meanwhile.
        """
        sent = _named(messages)
        if not sent:
            return
        self._begin_round(sent)
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        tasks = self._tasks(sent)
        for task in tasks.values():
            task.answers = answers
        self._call(self._hub.dispatch, tasks.values())
        yield from self._replies(sent, answers, timeout)

    def _begin_round(self, sent: Mapping[str, Message]) -> None:
        """Take back what is open of another round than that of these messages, and count its quorum from none.

        Messages of which one is open already belong to the round in hand: some of them are asked again, or late ones
        of an earlier round are carried on with it.
        """
        first = next(iter(sent.values())).metadata
        begun = (first.message_type, first.group_id)
        if not self._round[0] or (self._round != begun and not self._open & sent.keys()):
            self._round = begun
            self._call(self._hub.withdraw, self._open - sent.keys(), "the round has closed")
            self._open, self._good = set(), set()
        self._open |= sent.keys()

    def _replies(
        self, sent: Mapping[str, Message], answers: SimpleQueue[Answer | None], timeout: float | None
    ) -> Iterator[Message]:
        deadline = None if timeout is None else time.monotonic() + timeout
        needed = min(self._rules.quorum or self._rules.minimum, len(self._good | sent.keys()))
        for _ in range(len(sent)):
            try:
                answer = self._taken(answers.get(timeout=_left(deadline)))
            except Empty:
                return
            reply = self._reply(sent[answer.task_id], answer)
            if not reply.has_error():
                self._good.add(answer.task_id)
            yield reply  # meanwhile the strategy may have discounted it
            if len(self._good) >= needed and self._rules.patience_seconds is not None:
                patience = time.monotonic() + self._rules.patience_seconds
                deadline = patience if deadline is None else min(deadline, patience)

    def _taken(self, answer: Answer | None) -> Answer:
        if answer is None:
            raise Stopped("The server was stopped in the middle of a round.")
        return answer

    def _tasks(self, sent: Mapping[str, Message]) -> dict[str, Task]:
        stored: dict[int, StoredRecord] = {}
        return {name: self._task(name, message, stored) for name, message in sent.items()}

    def _task(self, name: str, message: Message, stored: dict[int, StoredRecord]) -> Task:
        site = self._names[message.metadata.dst_node_id]
        content = RecordDict()
        for key, record in message.content.items():
            if key != TRAFFIC or self._knows(site, codec_of(message.content)):
                content[key] = self._on_disk(record, stored) if isinstance(record, ArrayRecord) else record
        blobs = [record.blob for record in content.array_records.values() if isinstance(record, StoredRecord)]
        deltas = [self._deltas[blob.digest] for blob in blobs if blob.digest in self._deltas]
        offer = pb.Offer(
            task_id=name,
            kind=message.metadata.message_type,
            group_id=message.metadata.group_id,
            records=records_to_wire(content),
            packing=ZSTD if TRAFFIC in content else "",
            deltas=[pb.Delta(file=blob_to_wire(delta.blob), base=delta.base) for delta in deltas],
        )
        files, short = blobs[0] if blobs else None, tuple(delta.blob for delta in deltas)
        return Task(site, offer, files, SimpleQueue(), short)

    def _knows(self, site: str, codec: str) -> bool:
        """Tell whether a site can write in a codec; one that never was here is asked, and may answer plainly."""
        known = self._hub.codecs.get(site)
        return known is None or codec in known

    def _on_disk(self, record: ArrayRecord, stored: dict[int, StoredRecord]) -> StoredRecord:
        """Return arrays as a file that sites can fetch; those in memory are written, once for all sites."""
        if isinstance(record, StoredRecord):
            return record
        if self._hub.spool is None:
            raise TypeError("arrays in memory can be sent only once `begin_run` has named a folder for them")
        if id(record) not in stored:
            path = self._hub.spool / f"request-{len(stored)}.safetensors"
            blob = write_record(record, path)
            stored[id(record)] = open_record(path, digest=blob.digest)
        return stored[id(record)]

    def _reply(self, message: Message, answer: Answer) -> Message:
        if answer.error:
            return Message(Error(code=TaskFailed.code, reason=answer.error), reply_to=message)
        try:
            content = records_from_wire(answer.records, lambda _: _open(answer.blob, message.content))
        except FedwonError as error:
            return Message(Error(code=error.code, reason=error.message), reply_to=message)
        return Message(content, reply_to=message)


def _named(messages: Iterable[Message]) -> dict[str, Message]:
    """Return messages by name; those of Flower's own strategies get one here, as on Flower's own grids."""
    named = {}
    for message in messages:
        if not message.metadata.message_id:
            set_message_id(message, f"message-{secrets.token_hex(8)}")
        named[message.metadata.message_id] = message
    return named


def _open(blob: Blob | None, asked: RecordDict) -> StoredRecord:
    if blob is None:
        raise TaskFailed("The reply names arrays that did not come.")
    return opened(blob, sum(map(numbers_size, asked.array_records.values())))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)
