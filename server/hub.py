"""Who is connected, and what each site has still to do: the state behind the gRPC service.

Everything here runs in the server's event loop; the strategy's thread comes in through `GrpcGrid`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from fedwon.common.arrays import Blob
from fedwon.common.errors import DuplicateSite, Refused
from fedwon.common.wire import fedwon_pb2 as pb

logger = logging.getLogger(__name__)

SILENT_INTERVALS = 3


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
        answers: where the answer goes; None ends the wait.
    """

    site: str
    offer: pb.Offer
    blob: Blob | None
    answers: SimpleQueue[Answer | None]
    done: bool = False
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


@dataclass
class SiteSession:
    """An open session of a site.

    Attributes:
        instance: drawn by the client at its start, so that a reconnection differs from a second client.
        survey: how many images the site has, by class and part.
        outgoing: what waits to be sent; None closes the session.
    """

    site: str
    instance: str
    survey: Mapping[str, Mapping[str, int]]
    outgoing: asyncio.Queue[pb.FromServer | None] = field(default_factory=asyncio.Queue)
    heard: float = field(default_factory=time.monotonic)
    progress: pb.Heartbeat = field(default_factory=pb.Heartbeat)


class Hub:
    """Sessions and tasks.

    Args:
        heartbeat_seconds: how often sites say that they are there.
    """

    def __init__(self, heartbeat_seconds: float) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self.sessions: dict[str, SiteSession] = {}
        self.tasks: dict[str, Task] = {}
        self.spool = Path()
        self.stopped = False
        self._changed = asyncio.Condition()

    @property
    def silence(self) -> float:
        """Seconds without a word after which a site counts as gone."""
        return SILENT_INTERVALS * self.heartbeat_seconds

    async def open(self, site: str, hello: pb.Hello) -> SiteSession:
        """Open a session and offer the site what it has still to do.

        Raises:
            DuplicateSite: another client with this identity is connected.
        """
        old = self.sessions.get(site)
        if old is not None and old.instance != hello.instance:
            quiet = time.monotonic() - old.heard
            raise DuplicateSite(f"Another client is connected as site `{site}`; it was heard {quiet:.0f} s ago.")
        if old is not None:
            old.outgoing.put_nowait(None)
        survey = {row.name: {"train": row.train, "val": row.validation, "test": row.test} for row in hello.data}
        session = SiteSession(site, hello.instance, survey)
        self.sessions[site] = session
        for task in self.tasks.values():
            if task.site == site and not task.done:
                session.outgoing.put_nowait(pb.FromServer(offer=task.offer))
        await self._notify()
        return session

    async def close(self, session: SiteSession) -> bool:
        """Forget a session; return whether the site is gone with it (it may have opened another)."""
        if self.sessions.get(session.site) is not session:
            return False
        del self.sessions[session.site]
        await self._notify()
        return True

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, minimum: int) -> None:
        """Wait until so many sites are connected, or the hub is stopped."""
        async with self._changed:
            if len(self.sessions) < minimum:
                logger.info("waiting for sites: %d of %d are connected", len(self.sessions), minimum)
            await self._changed.wait_for(lambda: self.stopped or len(self.sessions) >= minimum)

    async def stop(self) -> None:
        """End every wait and every session."""
        self.stopped = True
        for task in self.tasks.values():
            task.answers.put(None)
        for session in self.sessions.values():
            session.outgoing.put_nowait(None)
        await self._notify()

    async def dispatch(self, tasks: Iterable[Task]) -> None:
        """Offer tasks to their sites; a site that is away gets its task when it comes."""
        for task in tasks:
            self.tasks[task.offer.task_id] = task
            self._tell(task.site, pb.FromServer(offer=task.offer))
            if self.stopped:
                task.answers.put(None)

    async def withdraw(self, task_ids: Iterable[str], reason: str) -> None:
        """Take tasks back that nobody waits for any more."""
        for task_id in task_ids:
            task = self.tasks.get(task_id)
            if task is not None and not task.done:
                del self.tasks[task_id]
                self._tell(task.site, pb.FromServer(cancel=pb.Cancel(task_id=task_id, reason=reason)))

    async def committed(self, run: str, number: int, task_ids: Iterable[str]) -> None:
        """Tell sites that a round is over, and forget its tasks."""
        by_site: dict[str, list[str]] = {}
        for task_id in task_ids:
            task = self.tasks.pop(task_id, None)
            if task is not None:
                by_site.setdefault(task.site, []).append(task_id)
        for site, ids in by_site.items():
            self._tell(site, pb.FromServer(committed=pb.Committed(run=run, round=number, task_ids=ids)))

    async def run_ended(self, run: str, state: str) -> None:
        """Tell every site that the run is over, and forget all tasks."""
        self.tasks.clear()
        for site in self.sessions:
            self._tell(site, pb.FromServer(finished=pb.Finished(run=run, state=state)))

    def _tell(self, site: str, message: pb.FromServer) -> None:
        session = self.sessions.get(site)
        if session is not None:
            session.outgoing.put_nowait(message)

    def task_of(self, site: str, task_id: str) -> Task:
        """Return a site's own task.

        Raises:
            Refused: it is not that site's, or is not waited for any more.
        """
        task = self.tasks.get(task_id)
        if task is None or task.site != site:
            raise Refused(f"Task {task_id} is not waited for (the round may have closed without it).")
        return task

    def fetchable(self, site: str, digest: str) -> tuple[Task, Blob]:
        """Return the model that a site may fetch for one of its tasks.

        Raises:
            Refused: none of its tasks is about that model.
        """
        for task in self.tasks.values():
            if task.site == site and task.blob is not None and task.blob.digest == digest:
                return task, task.blob
        raise Refused(f"No task of site {site} is about the model {digest[:12]}.")

    def complete(self, task: Task, answer: Answer) -> None:
        """Hand an answer to whoever waits; a second answer to the same task is passed over."""
        if not task.done:
            task.done = True
            task.answers.put(answer)

    def forget(self, task_id: str) -> None:
        """Forget a task that failed, so that it can be handed out again."""
        self.tasks.pop(task_id, None)
