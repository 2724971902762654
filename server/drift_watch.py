"""The drift alarm at work: rounds go in as they are committed, and who looks at the run learns what came of it.

Nothing of its own is stored. What sites measured lies in the database, and an alarm follows from that, so that it
outlives a restart, and `status` asks the same question of the same numbers.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedwon.common.errors import StorageError
from fedwon.common.run_config import DriftConfig
from fedwon.server.drift import LONGEST, WINDOW, Counts, Standing, standings, step
from fedwon.server.events import Event, RoundCommitted, SiteAnswered, SiteDrifted
from fedwon.server.runs import Run
from fedwon.server.store import MetricRow, Store

logger = logging.getLogger(__name__)

LOOK_BACK = 4 * (WINDOW + LONGEST)
"""Rounds that are read of the database: what was before has been forgotten by then."""
ALARM, OVER = "drift alarm", "drift alarm over"
"""How they are called in the audit trail, whose lines the operator's page shows."""
_KEYS = ("validation-correct", "validation-examples")


def history(session: Session, run: str) -> list[tuple[int, Counts]]:
    """Return what sites measured of the models of a run's newest rounds, in ascending order.

    Args:
        session: of the server's database.
        run: the run's name.
    """
    of_run = MetricRow.run == run, MetricRow.key.in_(_KEYS)
    newest = session.scalar(select(func.max(MetricRow.round)).where(*of_run))
    if newest is None:
        return []
    rows = session.scalars(select(MetricRow).where(*of_run, MetricRow.round > newest - LOOK_BACK))
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row.round][row.site][row.key] = row.value
    return [
        (number, {site: _counts(of) for site, of in sorted(sites.items()) if len(of) == len(_KEYS)})
        for number, sites in sorted(found.items())
    ]


def _counts(numbers: Mapping[str, float]) -> tuple[int, int]:
    right, looked_at = (int(numbers[key]) for key in _KEYS)
    return right, looked_at


def of_run(session: Session, run: str, settings: Mapping[str, object]) -> dict[str, Standing]:
    """Return how the sites of a run stand; nothing where its alarm is off.

    Args:
        session: of the server's database.
        run: the run's name.
        settings: `drift` of its configuration; what an older version left out has its default.
    """
    rules = DriftConfig.model_validate(settings)
    return standings(history(session, run), rules.threshold) if rules.alarm else {}


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
            self._coming[event.site] = _counts(event.metrics)
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
