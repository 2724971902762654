"""What the drift alarm goes by, read from the database: each site's counts of right images, round after round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedwon.common.round_settings import DriftConfig
from fedwon.server.drift.alarm import LONGEST, WINDOW, Counts, Standing, standings
from fedwon.server.store import MetricRow

LOOK_BACK = 4 * (WINDOW + LONGEST)
"""Rounds that are read of the database: what was before has been forgotten by then."""
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
        (number, {site: counts_of(of) for site, of in sorted(sites.items()) if len(of) == len(_KEYS)})
        for number, sites in sorted(found.items())
    ]


def counts_of(numbers: Mapping[str, float]) -> tuple[int, int]:
    """Return how many validation images a site looked at, and how many of them were right, first."""
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
