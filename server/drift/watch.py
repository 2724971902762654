"""The drift alarm at work: rounds go in as they are committed, and who looks at the run learns what came of it.

Nothing of its own is stored. What sites measured lies in the database, and an alarm follows from that, so that it
outlives a restart, and `status` asks the same question of the same numbers.
"""

from __future__ import annotations

import logging

from fedwon.common.errors import StorageError
from fedwon.server.drift.alarm import Standing, standings, step
from fedwon.server.drift.history import counts_of, history
from fedwon.server.rounds.events import Event, RoundCommitted, SiteAnswered, SiteDrifted
from fedwon.server.runs.run import Run
from fedwon.server.store import Store

logger = logging.getLogger(__name__)

ALARM, OVER = "drift alarm", "drift alarm over"
"""How they are called in the audit trail, whose lines the operator's page shows."""


class DriftWatch:
    """Listens to a run and tells of alarms.

    Args:
        run: the run; its `drift` settings count.

    Raises:
        StorageError: the database cannot be read.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._threshold = run, run.config.drift.threshold
        self._coming: dict[str, tuple[int, int]] = {}
        with run.store.session() as session:
            self._standings = standings(history(session, run.id), self._threshold)

    def __call__(self, event: Event) -> None:
        """Hear of an answer, or of the end of a round."""
        if isinstance(event, SiteAnswered) and event.model_round == event.number - 1:  # a late one is of another model
            self._coming[event.site] = counts_of(event.metrics)
        elif isinstance(event, RoundCommitted):
            self._take(event.number - 1)

    def _take(self, number: int) -> None:
        before, self._standings = self._standings, step(self._standings, number, self._coming, self._threshold)
        self._coming = {}
        for site, now in self._standings.items():
            was = before.get(site, Standing())
            if (now.since is None) != (was.since is None):
                self._tell(site, now if now.since is not None else was, over=now.since is None)

    def _tell(self, site: str, standing: Standing, *, over: bool) -> None:
        _noted(self._run.store, site, standing, over=over)
        self._run.tell(SiteDrifted(site, standing.words, over))


def _noted(store: Store, site: str, standing: Standing, *, over: bool) -> None:
    action, detail = (OVER, f"it was raised in round {standing.since}") if over else (ALARM, standing.words)
    try:
        store.audit(action, site, detail)
    except StorageError as error:  # a run is worth more than a line about it
        logger.warning("the drift alarm of %s could not be noted: %s", site, error.message)
