"""The way out: fedwon's sites behind one of Flower's own grids, its simulation engine's or a stock SuperLink's.

Flower knows nodes by a number that it drew and tells nothing of them, so each is asked who it is and what images it
has (`survey_message` of the ClientApp) before it counts as a site. Flower's grids know no call that waits, so this one
looks for what has come: often at first, and after a while once a second.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedwon.common.arrays import StoredRecord
from fedwon.common.errors import ConfigError, FedwonError, Stopped, TaskFailed
from fedwon.common.flower import set_message_id
from fedwon.common.round_settings import ParticipationConfig
from fedwon.common.surveys import Survey
from fedwon.server.engines.introductions import Introductions
from fedwon.server.rounds.site_grid import SiteGrid, Traffic, metrics_of

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.02, 1.0, 1.3
"""Seconds between two looks at what has come, and how they grow while nothing comes."""
LOOKING = 4.0
"""The pause is at least so many times what the look took, which with a thousand tasks open is no trifle."""


@dataclass
class _Sent:
    """A task that Flower carries: its number there, and until when Flower keeps it."""

    flower_id: str
    until: float = field(default=float("inf"))


class FlowerGrid(SiteGrid):
    """Sites behind a grid of Flower's.

    Args:
        flower: Flower's grid.
        rules: quorum and patience.
        virtual: the number of virtual nodes where the engine is a simulation: all are waited for, and no more come.
        at_once: tasks that Flower has in hand at a time; None: all. Its simulation looks for each virtual node through
            all of them, many times a second.
        stopped: set by whoever wants the run to end.
    """

    def __init__(
        self,
        flower: Grid,
        rules: ParticipationConfig,
        *,
        virtual: int = 0,
        at_once: int | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        super().__init__()
        self.set_run(flower.run)
        self._flower, self._rules, self._virtual, self._at_once = flower, rules, virtual, at_once
        self._stopped = stopped or threading.Event()
        self._introductions = Introductions(flower, strict=virtual > 0, at_once=at_once)
        self._sent: dict[str, _Sent] = {}
        self._good: set[str] = set()
        self._seconds: dict[str, float] = {}

    def sites(self) -> list[str]:
        """Return the names of the sites that are connected and have said who they are, sorted."""
        return self._introductions.sites()

    def survey(self, site: str) -> Survey | None:
        """Return what images a site said it has, or None when it is away."""
        return self._introductions.survey(site)

    def wait_for_sites(self, minimum: int) -> None:
        """Block until so many sites are connected, and all that are have said who they are.

        Raises:
            ConfigError: the simulation has fewer.
            Stopped: the run is to end.
        """
        if self._virtual and minimum > self._virtual:
            raise ConfigError(f"`participation.minimum` is {minimum}; there are {self._virtual} virtual sites.")
        wanted = max(minimum, self._virtual) if minimum else 0
        before, pauses = 0, _pauses()
        while len(there := self.sites()) < wanted or (minimum and self._introductions.waiting()):
            before, pauses = len(there), _pauses() if len(there) > before else pauses
            self._rest(next(pauses))
        self._check_stopped()

    def wait_for_arrival(self, seconds: float) -> bool:
        """Block until another site connects or the time is over; return False at once where nobody can come.

        Raises:
            Stopped: the run is to end.
        """
        if self._virtual:
            return False
        before, end = set(self.sites()), time.monotonic() + seconds
        for pause in _pauses():
            if not before.issuperset(self.sites()) or time.monotonic() >= end:
                break
            self._rest(min(pause, max(end - time.monotonic(), 0)))
        return True

    def traffic(self, message_id: str) -> Traffic:
        """Return how long the training took, as far as the site told; what travels, Flower does not tell."""
        return Traffic(seconds=self._seconds.get(message_id, 0.0))

    def discount(self, message_id: str) -> None:
        """Take back that a reply counts towards the quorum: it was refused."""
        self._good.discard(message_id)

    def committed(self, run: str, number: int, message_ids: Iterable[str]) -> None:
        """Forget these messages; Flower cannot be told to cancel them."""
        del run, number
        for name in message_ids:
            self._sent.pop(name, None)
            self._seconds.pop(name, None)
        self._good.clear()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand tasks to Flower; `pull_messages` of Flower's grid collects the answers under the names returned."""
        content = _InMemory()
        return [self._push(message, content, None) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return what has come for these names, as Flower brings it."""
        return self._flower.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Hand tasks to Flower and yield the replies as they come.

        Ends when all have answered, at the deadline, or, once a quorum of good replies is there, when the patience of
        the run's configuration is over. A task that Flower still carries is not handed over twice.

        Args:
            messages: to sites.
            timeout: seconds to the deadline; None for no deadline.

        Raises:
            Stopped: the run is to end.
        """
        pending = deque(_named(messages))
        waiting: dict[str, Message] = {}
        content, pauses = _InMemory(), _pauses()
        end = float("inf") if timeout is None else time.monotonic() + timeout
        needed = min(self._rules.quorum or self._rules.minimum, len(self._good | {_name(task) for task in pending}))
        while pending or waiting:
            yield from self._handed_over(pending, waiting, content, timeout)
            began = time.monotonic()
            looked = list(self._flower.pull_messages(list(waiting)))
            cost = time.monotonic() - began
            for arrived in looked:
                message = waiting.pop(arrived.metadata.reply_to_message_id)
                yield self._ours(message, arrived)  # meanwhile the strategy may have discounted it
                if len(self._good) >= needed and self._rules.patience_seconds is not None:
                    end = min(end, time.monotonic() + self._rules.patience_seconds)
            left = end - time.monotonic()
            if left <= 0:
                return
            pauses = _pauses() if looked else pauses
            if waiting:
                self._rest(min(max(next(pauses), LOOKING * cost), left))

    def _handed_over(
        self, pending: deque[Message], waiting: dict[str, Message], content: _InMemory, timeout: float | None
    ) -> Iterator[Message]:
        """Hand tasks over as far as there is room; yield errors for those that cannot be."""
        while pending and (self._at_once is None or len(waiting) < self._at_once):
            message = pending.popleft()
            try:
                waiting[self._carried(message, content, timeout)] = message
            except FedwonError as error:
                yield Message(Error(code=error.code, reason=error.message), reply_to=message)

    def _carried(self, message: Message, content: _InMemory, timeout: float | None) -> str:
        name = _name(message)
        # late answers still count for some rounds; longer than that Flower need not keep the task for a site away
        ttl = None if timeout is None else timeout * (2 + self._rules.late_rounds)
        known = self._sent.get(name)
        if known is None or known.until < time.monotonic():
            until = float("inf") if ttl is None else time.monotonic() + ttl
            known = self._sent[name] = _Sent(self._push(message, content, ttl), until)
        return known.flower_id

    def _push(self, message: Message, content: _InMemory, ttl: float | None) -> str:
        node = self._introductions.node_of(message.metadata.dst_node_id)
        if node is None:
            raise TaskFailed("The site has left.")
        parcel = Message(
            content.of(message.content),
            dst_node_id=node,
            message_type=message.metadata.message_type,
            group_id=message.metadata.group_id,
            ttl=ttl,
        )
        taken = [name for name in self._flower.push_messages([parcel]) if name]
        if not taken:
            raise TaskFailed("Flower's engine did not take the task.", hint="Its own log says why.")
        return taken[0]

    def _ours(self, message: Message, arrived: Message) -> Message:
        """A reply as the strategy expects it: from the site by our number, to the message of our name."""
        name = _name(message)
        self._sent.pop(name, None)
        if arrived.has_error():
            reason = arrived.error.reason or f"Flower's error {arrived.error.code}"
            return Message(Error(code=TaskFailed.code, reason=" ".join(reason.split())), reply_to=message)
        self._good.add(name)
        seconds: Any = metrics_of(arrived.content).get("train-seconds", 0.0)
        self._seconds[name] = float(seconds) if isinstance(seconds, int | float) else 0.0
        return Message(arrived.content, reply_to=message)

    def _rest(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped("The run was stopped.")


class _InMemory:
    """Flower ships arrays from memory: a model on the disk is read once for all sites of a round."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[StoredRecord, ArrayRecord]] = {}

    def of(self, content: RecordDict) -> RecordDict:
        """The same records, none of them in a file."""
        records: Mapping[str, Any] = content
        return RecordDict({key: self._record(record) for key, record in records.items()})

    def _record(self, record: Any) -> Any:
        if not isinstance(record, StoredRecord):
            return record
        if id(record) not in self._read:  # kept beside its copy, so that no other record takes its id
            copy = ArrayRecord({name: Array(ndarray=array.numpy()) for name, array in record.items()})
            self._read[id(record)] = (record, copy)
        return self._read[id(record)][1]


def _name(message: Message) -> str:
    return str(message.metadata.message_id)


def _named(messages: Iterable[Message]) -> Iterator[Message]:
    for message in messages:
        if not message.metadata.message_id:
            set_message_id(message, f"message-{secrets.token_hex(8)}")
        yield message


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * GROWTH, LONGEST_PAUSE)
