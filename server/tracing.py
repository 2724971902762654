"""A run as spans: the run, its rounds, and each site's share of them as the server sees it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedwon.common.traces import open_traces, round_name
from fedwon.server.rounds.events import (
    Event,
    Listener,
    RoundCommitted,
    RoundStarted,
    RunEnded,
    RunStarted,
    SiteAnswered,
    SiteFailed,
)
from fedwon.server.rounds.strategy import task_id
from fedwon.server.serving import Home
from fedwon.server.store import RunRow, Store

if TYPE_CHECKING:
    from fedwon.common.spans import Traces

logger = logging.getLogger(__name__)


class RunTracer:
    """Listens to a run and sends its spans.

    A span is sent when what it is about is over; the run's own when the run ends. It says which run, round and site,
    how many bytes and images, and whether it went well; not what a site has written about it.

    Args:
        traces: where they go.
        store: the server's database, which knows when a run that goes on began.
        clock: seconds since 1970.
    """

    def __init__(self, traces: Traces, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._traces, self._store, self._clock = traces, store, clock
        self._run, self._began, self._failing = "", 0.0, False
        self._rounds: dict[int, float] = {}
        self._tasks: dict[tuple[int, str], float] = {}

    def __call__(self, event: Event) -> None:
        """Hear of what happens; never fails."""
        try:
            self._hear(event)
        except Exception as error:  # noqa: BLE001  # whatever a library or a strange number does, the run goes on
            if not self._failing:
                logger.warning("a span could not be made: %s: %s", type(error).__name__, error)
            self._failing = True

    def _hear(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._begin(event.run)
            case RoundStarted():
                self._asked(event)
            case SiteAnswered():
                self._answered(event)
            case SiteFailed():
                self._task(event.number, event.site, failed=True)
            case RoundCommitted():
                self._committed(event)
            case RunEnded():
                self._end(event)

    def _begin(self, run: str) -> None:
        with self._store.session() as session:
            self._run, self._began = run, session.get_one(RunRow, run).made.timestamp()
        self._rounds, self._tasks = {}, {}

    def _asked(self, event: RoundStarted) -> None:
        moment = self._clock()
        self._rounds.setdefault(event.number, moment)
        for site in event.sites:
            self._tasks.setdefault((event.number, site), moment)

    def _answered(self, event: SiteAnswered) -> None:
        images = int(event.metrics.get("num-examples", 0))
        traffic = {"fedwon.bytes.down": event.bytes_down, "fedwon.bytes.up": event.bytes_up}
        more = {**traffic, "fedwon.images": images, "fedwon.work.seconds": event.seconds}
        self._task(event.model_round + 1, event.site, more=more)

    def _task(
        self, number: int, site: str, *, failed: bool = False, more: Mapping[str, int | float] | None = None
    ) -> None:
        moment = self._clock()
        self._traces.span(
            "task",
            self._run,
            self._tasks.get((number, site), moment),
            moment,
            name=task_id(self._run, number, "train", site),
            parent=round_name(self._run, number),
            failed=failed,
            attributes={"fedwon.run": self._run, "fedwon.round": number, "fedwon.site": site, **(more or {})},
        )

    def _committed(self, event: RoundCommitted) -> None:
        moment, number = self._clock(), event.number
        self._traces.span(
            "round",
            self._run,
            self._rounds.pop(number, moment - event.seconds),
            moment,
            name=round_name(self._run, number),
            parent=self._run,
            attributes={"fedwon.run": self._run, "fedwon.round": number, "fedwon.sites": len(event.sites)},
        )
        self._tasks = {key: began for key, began in self._tasks.items() if key[0] >= number - 1}  # late ones may come

    def _end(self, event: RunEnded) -> None:
        attributes = {"fedwon.run": self._run, "fedwon.state": event.state}
        failed, moment = event.state == "failed", self._clock()
        if self._run == event.run:
            began = self._began
            self._traces.span("run", self._run, began, moment, name=self._run, failed=failed, attributes=attributes)


@contextmanager
def traced(traces: Traces | None, store: Store) -> Iterator[list[Listener]]:
    """Let a run's spans be sent while the block runs; what listens is for the run."""
    if traces is None:
        yield []
        return
    try:
        yield [RunTracer(traces, store)]
    finally:
        traces.close()


def traces_of(home: Home) -> Traces | None:
    """Return where the configuration wants traces to go, or None.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
    """
    wanted = home.config.traces
    return None if wanted is None else open_traces(wanted, "fedwon-server", home.config.federation)
