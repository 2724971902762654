"""What a schedule means for the link: the server is told, and tasks keep to it.

A server of this version neither asks a site that is not available nor waits for it. One of an earlier version knows no
such thing and offers its tasks all the same: they are declined with the reason, as is one that crosses the news on the
way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fedwon.client.link.schedule import Availability, Schedule, ScheduleConfig
from fedwon.client.link.tasks import TaskRunner
from fedwon.common import notify
from fedwon.common.errors import Unavailable
from fedwon.common.wire import fedwon_pb2 as pb

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How often it is looked whether the busy file is there; one call of the system."""
CLOCK_SECONDS = 30.0
"""How often at least the clock is looked at: it may have been set."""


class Attendance:
    """Keeps a link to a schedule.

    Args:
        config: client.yaml's `schedule`; None for one who is always available, as a relay.
        folder: where its relative paths start.
        tell: sends a message to the server.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        config: ScheduleConfig | None,
        folder: Path,
        tell: Callable[[pb.FromSite], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tell, self._clock = tell, clock
        self._config = config if config is not None and (config.windows or config.busy_file) else None
        self._schedule = None if self._config is None else Schedule(self._config, folder)

    def now(self) -> Availability:
        """Return whether the site may work now."""
        return Availability(True) if self._schedule is None else self._schedule.at(self._clock())

    def to_wire(self) -> pb.Availability | None:
        """Return what the server is told; None where there is no schedule."""
        if self._schedule is None:
            return None
        state = self.now()
        # at least a moment: 0 says that nobody knows
        seconds = 0.0 if state.seconds is None else max(state.seconds, 0.001)
        return pb.Availability(available=state.available, seconds=seconds, reason=state.reason)

    def tell(self) -> None:
        """Tell the server how it is now; to be called whenever a session stands."""
        told = self.to_wire()
        if told is not None:
            self._tell(pb.FromSite(availability=told))

    def declines(self, offer: pb.Offer, runner: TaskRunner) -> bool:
        """Decline a task where the site may not work; not one that is in hand, or whose outcome is here."""
        state = self.now()
        if state.available or offer.task_id in runner.in_hand() | set(runner.journal.unfinished()):
            return False
        logger.info("task declined: %s", self.words(state), extra={"task": offer.task_id})
        self._fail(offer.task_id, state)
        return True

    async def watch(self, runner: TaskRunner, standing: Callable[[], bool]) -> None:
        """Tell the server of every change, and give tasks up where the configuration says so, until cancelled.

        Args:
            runner: has the tasks.
            standing: whether there is a session.
        """
        if self._schedule is None or self._config is None:
            return
        longest = CLOCK_SECONDS if self._config.busy_file is None else LOOK_SECONDS
        before: Availability | None = None
        while True:
            state = self.now()
            if before is None or (state.available, state.reason) != (before.available, before.reason):
                self._changed(state, runner, standing=standing())
            before = state
            await asyncio.sleep(min(longest, max(state.seconds or longest, 0.05)))

    def _changed(self, state: Availability, runner: TaskRunner, *, standing: bool) -> None:
        logger.info("%s", self.words(state))
        notify.status(self.words(state))
        if standing:
            self.tell()
        if not state.available and self._config is not None and self._config.when_over == "give_up":
            for name in sorted(runner.in_hand() - set(runner.journal.unfinished())):
                runner.cancel(name, self.words(state))
                if standing:  # without a session the task is offered again, and then it is declined or done
                    self._fail(name, state)

    def _fail(self, task_id: str, state: Availability) -> None:
        failed = pb.TaskFailed(task_id=task_id, error=Unavailable.slug, message=self.words(state))
        self._tell(pb.FromSite(failed=failed))

    def words(self, state: Availability) -> str:
        """Say how it is, with the time of the next change on this machine's clock."""
        until = ""
        if state.seconds is not None:
            until = f" until {datetime.fromtimestamp(self._clock() + state.seconds).astimezone():%Y-%m-%d %H:%M %Z}"
        if state.available:
            return f"this site is available{until}"
        return f"this site is not available{until} ({state.reason})"
