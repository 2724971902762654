"""Who is connected, and what each site has still to do: the state behind the gRPC service.

Everything here runs in the server's event loop, and nothing but `wait_for` and `wait_for_arrival` waits, so no step can
be cut in two by a site that hangs up; the strategy's thread comes in through `GrpcGrid`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from fedwon.common.arrays import Blob
from fedwon.common.codec import CODECS
from fedwon.common.errors import DuplicateSite, LinkError, Refused
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.surveys import survey_from_wire
from fedwon.server.link.session import SiteSession, resting
from fedwon.server.link.task_book import TaskBook
from fedwon.server.link.tasks import Answer, Task
from fedwon.server.rounds.availability import Availability

logger = logging.getLogger(__name__)

SILENT_INTERVALS = 3


class Hub:
    """Sessions and tasks.

    Args:
        heartbeat_seconds: how often sites say that they are there.

    Attributes:
        spool: where outcomes with arrays land; None where none are expected.
        away_seconds: a site that has been away for so long is not waited for; None: for ever.
        codecs: in which each site that was ever here can write its updates, besides plainly. Longer than a session, so
            that a task which is handed out again while its site is away is the same task.
        suspended: sites that an operator keeps out of the rounds, each with the reason.
        stopped: the server goes down.
        broken_off: the work in hand is not wanted any more.
        wish: what the operator wishes of the run, as `fedwon.server.runs.wishes` knows it.
        hurried: set when somebody changed the database, and who watches it should look at once.
    """

    def __init__(self, heartbeat_seconds: float) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self.sessions: dict[str, SiteSession] = {}
        self.tasks: TaskBook[Task] = TaskBook()
        self.codecs: dict[str, frozenset[str]] = {}
        self.spool: Path | None = None
        self.away_seconds: float | None = None
        self.suspended: Mapping[str, str] = {}
        self.stopped = self.broken_off = False
        self.wish = ""
        self.hurried = asyncio.Event()
        self._left: dict[str, float] = {}
        self._barred: dict[str, str] = {}
        self._arrivals = 0
        self._asked = False
        self._changed = asyncio.Event()

    @property
    def halted(self) -> bool:
        """Whether nobody is to wait for sites or answers now."""
        return self.stopped or self.broken_off

    @property
    def silence(self) -> float:
        """Seconds without a word after which a site counts as gone."""
        return SILENT_INTERVALS * self.heartbeat_seconds

    def open(self, site: str, hello: pb.Hello) -> SiteSession:
        """Open a session and offer the site what it has still to do.

        Raises:
            DuplicateSite: another client with this identity is connected.
        """
        if (old := self.sessions.get(site)) is not None and old.instance != hello.instance:
            quiet = time.monotonic() - old.heard
            raise DuplicateSite(f"Another client is connected as site `{site}`; it was heard {quiet:.0f} s ago.")
        if old is not None:
            old.outgoing.put_nowait(None)
        self.sessions[site] = session = SiteSession.begun(site, hello)
        self.codecs[site] = frozenset(CODECS.keys() & hello.codecs)
        self._left.pop(site, None)
        self._arrivals += bool(session.availability) and (old is None or not old.availability)
        self._remind(session)
        self._notify()
        return session

    def available(self) -> list[str]:
        """Return the sites that are connected and may work now, sorted; from any thread."""
        here = self.sessions.copy().items()
        return sorted(site for site, session in here if session.availability and site not in self.suspended)

    def suspend(self, sites: Mapping[str, str]) -> None:
        """Keep these sites out of the rounds, each for a reason, and let others in again."""
        if dict(sites) != self.suspended:
            self._arrivals += len(self.suspended.keys() - sites.keys())  # as one who comes: that ends a pause
            self.suspended = dict(sites)
            self._notify()

    def attend(self, session: SiteSession, availability: Availability) -> bool:
        """Take when a site says it may work, and return whether that is news; who may again is as one who comes."""
        before, session.availability = session.availability, availability
        self._arrivals += bool(availability) and not before
        if before.reason != availability.reason:
            self._notify()
        return availability.tells_more_than(before)

    def _remind(self, session: SiteSession) -> None:
        """Repeat what a site may have missed while it was away."""
        for task in self.tasks.of_site(session.site):
            if not task.done:
                session.outgoing.put_nowait(pb.FromServer(offer=task.offer))
        for name in sorted(session.held - self.tasks.keys()) if self._asked else ():
            cancel = pb.Cancel(task_id=name, reason="the round closed while this site was away")
            session.outgoing.put_nowait(pb.FromServer(cancel=cancel))

    def close(self, session: SiteSession) -> bool:
        """Forget a session; return whether the site is gone with it (it may have opened another)."""
        if self.sessions.get(session.site) is not session:
            return False
        del self.sessions[session.site]
        self._left[session.site] = time.monotonic()
        self._watch_absence(session.site)
        self._notify()
        return True

    def _watch_absence(self, site: str) -> None:
        """Answer for a site that is away, once it has been for too long."""
        if self.away_seconds is not None and not self.stopped:
            left = self._left.setdefault(site, time.monotonic())
            wait = max(left + self.away_seconds - time.monotonic(), 0.0)
            asyncio.get_running_loop().call_later(wait, self._give_up, site, left)

    def _give_up(self, site: str, left: float) -> None:
        if self._left.get(site) != left or self.away_seconds is None:
            return  # it came back; if it has left again, another watch runs
        reason = f"the site has had no connection for {self.away_seconds:g} s"
        for task in self.tasks.of_site(site):
            self.complete(task, Answer(task.offer.task_id, error=reason))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def wished(self, wish: str) -> None:
        """Take what the operator wishes of the run; who waits and heeds wishes hears of it."""
        if wish != self.wish:
            self.wish = wish
            self._notify()

    async def wait_for_wish(self, wish: str) -> None:
        """Wait until the operator wishes something else than this, or the hub is stopped."""
        self.wished(wish)
        while not self.halted and self.wish == wish:
            await self._changed.wait()

    async def wait_for(self, minimum: int, *, heeding: bool = False) -> None:
        """Wait until so many sites are connected and may work, or the hub is stopped.

        Args:
            minimum: sites.
            heeding: wait no longer once the operator wishes something of the run.
        """
        if len(self.available()) < minimum:
            logger.info(
                "waiting for sites: %d of %d are connected%s", len(self.sessions), minimum, resting(self.sessions)
            )
        while not self.halted and len(self.available()) < minimum and not (heeding and self.wish):
            await self._changed.wait()

    async def wait_for_arrival(self, seconds: float) -> None:
        """Wait until a site comes that was away or might not work, the time is over, or somebody stops it."""
        before = self._arrivals
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.halted and self._arrivals == before and self.wish != "stop":
                    await self._changed.wait()

    def stop(self) -> None:
        """End every wait and every session."""
        self.stopped = True
        self._end_waits()
        for session in self.sessions.values():
            session.outgoing.put_nowait(None)

    def break_off(self) -> None:
        """End every wait and no session: nobody wants what the sites do now; `go_on` takes it back."""
        self.broken_off = True
        self._end_waits()

    def go_on(self) -> None:
        """Wait for sites and answers again."""
        self.broken_off = False

    def _end_waits(self) -> None:
        for task in self.tasks.values():
            task.answers.put(None)
        self._notify()

    @property
    def next_change(self) -> asyncio.Event:
        """What is set when a session opens, ends or tells another survey, or a wait is ended, from now on."""
        return self._changed

    def surveyed(self, session: SiteSession, data: Iterable[pb.ClassCount]) -> bool:
        """Take what images a site has by now; return whether that is something else than before."""
        before, session.survey = session.survey, survey_from_wire(data)
        if session.survey != before:
            self._notify()
        return session.survey != before

    def dispatch(self, tasks: Iterable[Task]) -> None:
        """Offer tasks to their sites; a site that is away gets its task when it comes.

        A task that is open already goes on, with its answer going where the new one's should; one that was answered
        begins anew.
        """
        self._asked = True
        for task in tasks:
            name = task.offer.task_id
            known = self.tasks.get(name)
            if known is not None and not known.done and known.offer == task.offer:
                known.answers = task.answers
            else:
                self.tasks[name] = task
                if self._settle_resting(task):
                    continue
            self._tell(task.site, pb.FromServer(offer=task.offer))
            if task.site not in self.sessions:
                self._watch_absence(task.site)
            if self.halted:
                task.answers.put(None)
        self._settle_barred()

    def _settle_resting(self, task: Task) -> bool:
        """Answer for a site that may not work now, unless it holds the outcome; return whether that was so."""
        session, name = self.sessions.get(task.site), task.offer.task_id
        if session is None or session.availability or name in session.held:
            return False
        self.complete(task, Answer(name, error=f"the site is {session.availability.words}"))
        return True

    def bar(self, sites: Mapping[str, str]) -> None:
        """Answer for these sites from now on, each with a reason, whatever they are asked; only for these."""
        self._barred = dict(sites)
        self._settle_barred()

    def _settle_barred(self) -> None:
        for site, reason in self._barred.items():
            for task in self.tasks.of_site(site):
                self.complete(task, Answer(task.offer.task_id, error=reason))

    def withdraw(self, task_ids: Iterable[str], reason: str) -> list[Task]:
        """Forget tasks that nobody waits for any more, and tell the sites that still work on one.

        Who has answered one may keep the outcome until the next round is committed.
        """
        gone = [task for name in task_ids if (task := self.tasks.pop(name, None)) is not None]
        for task in gone:
            if not task.done:
                cancel = pb.Cancel(task_id=task.offer.task_id, reason=reason)
                self._tell(task.site, pb.FromServer(cancel=cancel))
            elif (session := self.sessions.get(task.site)) is not None:
                session.held |= {task.offer.task_id}
        return gone

    def committed(self, run: str, number: int, task_ids: Iterable[str]) -> None:
        """Tell sites that a round is over, answered or not, and forget its tasks.

        A site that was away when an earlier round ended hears now that it need not keep that outcome either.
        """
        gone: dict[str, set[str]] = {}
        for task in self.withdraw(task_ids, "the round has closed"):
            gone.setdefault(task.site, set()).add(task.offer.task_id)
        for site, session in self.sessions.items():
            over = gone.get(site, set()) | (session.held - self.tasks.keys())
            session.held &= self.tasks.keys()
            if over:
                committed = pb.Committed(run=run, round=number, task_ids=sorted(over))
                session.outgoing.put_nowait(pb.FromServer(committed=committed))

    def run_ended(self, run: str, state: str) -> None:
        """Tell every site that the run is over, and forget all tasks."""
        self.tasks.clear()
        self._asked = state == "finished"  # a run that is resumed asks again: until then sites keep what they have
        for site in self.sessions:
            self._tell(site, pb.FromServer(finished=pb.Finished(run=run, state=state)))

    def _tell(self, site: str, message: pb.FromServer) -> None:
        if (session := self.sessions.get(site)) is not None:
            session.outgoing.put_nowait(message)

    def task_of(self, site: str, task_id: str) -> Task:
        """Return a site's own task.

        Raises:
            Refused: it is not that site's, or is not waited for any more.
            LinkError: nothing has been asked since the server started; the task may be handed out again.
        """
        task = self.tasks.get(task_id)
        if task is None or task.site != site:
            self._check_asked()
            raise Refused(f"Task {task_id[:200]} is not waited for (the round may have closed without it).")
        return task

    def _check_asked(self) -> None:
        """Keep a site from dropping its work because it is back before the round that the server goes on with."""
        if not self._asked:
            raise LinkError("No round is open yet; try again.")

    def fetchable(self, site: str, digest: str) -> tuple[Task, Blob]:
        """Return the model, or the file of differences, that a site may fetch for one of its tasks.

        Raises:
            Refused: none of its tasks is about that model.
            LinkError: nothing has been asked since the server started.
        """
        for task in self.tasks.of_site(site):
            for blob in task.files:
                if blob.digest == digest:
                    return task, blob
        self._check_asked()
        raise Refused(f"No task of site {site} is about the model {digest[:12]}.")

    def complete(self, task: Task, answer: Answer) -> None:
        """Hand an answer to whoever waits; a second answer to the same task is passed over."""
        if not task.done:
            task.done = True
            task.answers.put(answer)
