"""What a run keeps on the disk, and what it lets go: a thousand rounds of a large network fill any disk.

The newest models stay, so that a damaged one has another before it, and the best one by validation accuracy. The
records in the database stay for many rounds, and before these for a few at even distances, the further apart the
longer the run: a curve over the whole of it can be drawn, and the database stops growing. Manifests stay for all
rounds. Of refused updates the newest stay.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import delete, select

from fedwon.common.round_settings import RetentionConfig
from fedwon.common.run_config import RunConfig
from fedwon.server.admission.rows import AdmittedRow, QuarantineRow
from fedwon.server.runs.checkpoints import Checkpoints
from fedwon.server.store import MetricRow, RoundRow, Store, TaskRow

logger = logging.getLogger(__name__)

MEGABYTE = 10**6
THIN_EVERY = 10
"""Rounds whose records go in one transaction."""
OLD_SHARE = 10
"""Of the rounds that stay whole, one in so many may stay of all that came before."""
CORRECT, EXAMPLES = "validation-correct", "validation-examples"


def superseded(here: Iterable[int], newest: int, keep: int, best: int | None) -> list[int]:
    """Return the rounds whose model may go.

    Args:
        here: rounds whose model is on the disk.
        newest: the round that was committed last.
        keep: how many rounds stay, the newest among them.
        best: the round of the best model, which stays too; None if that is not known.
    """
    return [number for number in sorted(here) if number <= newest - keep and number != best]


def best_round(scores: Mapping[int, Sequence[float]]) -> int | None:
    """Return the round with the highest mean of its sites' accuracies, the later of two alike; None without any."""
    known = {number: sum(values) / len(values) for number, values in scores.items() if values}
    return max(known, key=lambda number: (known[number], number), default=None)


def validation_scores(store: Store, run: str, rounds: Iterable[int]) -> dict[int, list[float]]:
    """Return the sites' accuracies of these rounds' models on their validation images, as far as sites have told."""
    counts: defaultdict[tuple[int, str], dict[str, float]] = defaultdict(dict)
    query = select(MetricRow).where(
        MetricRow.run == run, MetricRow.round.in_(list(rounds)), MetricRow.key.in_([CORRECT, EXAMPLES])
    )
    with store.session() as session:
        for row in session.scalars(query):
            counts[row.round, row.site][row.key] = row.value
    scores: defaultdict[int, list[float]] = defaultdict(list)
    for (number, _), found in counts.items():
        if found.get(EXAMPLES, 0) > 0 and CORRECT in found:
            scores[number].append(found[CORRECT] / found[EXAMPLES])
    return dict(scores)


def stride(newest: int, history: int) -> int:
    """Return the distance of the old rounds whose records stay: a power of two, so that a later one keeps some of them.

    Args:
        newest: the round that was committed last.
        history: rounds that stay whole; a tenth as many stay at this distance.
    """
    most = max(history // OLD_SHARE, 1)
    return 1 << max(math.ceil(newest / most) - 1, 0).bit_length()


def thin_history(store: Store, run: str, newest: int, history: int, keeping: Iterable[int]) -> None:
    """Delete the records of old rounds, but for a few at even distances.

    Args:
        store: the server's database.
        run: the run's name.
        newest: the round that was committed last.
        history: rounds that stay whole, the newest among them.
        keeping: further rounds that stay.

    Raises:
        StorageError: the database cannot be written.
    """
    every = stride(newest, history)
    with store.session() as session:
        for table, number in (
            (MetricRow, MetricRow.round),
            (TaskRow, TaskRow.round),
            (AdmittedRow, AdmittedRow.round),
            (QuarantineRow, QuarantineRow.round),
            (RoundRow, RoundRow.number),
        ):
            old = (number <= newest - history, number % every != 0, number.not_in(list(keeping)))
            session.execute(delete(table).where(table.run == run, *old))


def let_go(checkpoints: Checkpoints, store: Store, run: str, config: RunConfig, newest: int) -> None:
    """Delete what a run does not keep; models that cannot be deleted stay, and the log says so.

    Args:
        checkpoints: the run's models.
        store: the server's database.
        run: the run's name.
        config: the run's configuration.
        newest: the round that was committed last.

    Raises:
        StorageError: the database cannot be used.
    """
    here = [number for number in checkpoints.here() if number <= newest]
    history = config.retention.history
    if history is not None and newest > history and newest % THIN_EVERY == 0:
        thin_history(store, run, newest, history, here)
    if config.retention.rounds is None:
        return
    # a task that may be late still asks for the model that it starts from
    keep = max(config.retention.rounds, config.participation.late_rounds + 2)
    if not superseded(here, newest, keep, None):
        return
    best = best_round(validation_scores(store, run, here))
    for number in superseded(here, newest, keep, best):
        _delete(checkpoints.path(number))
        _delete(checkpoints.delta_path(number))
        _delete(checkpoints.velocity_path(number))


def prune_quarantine(folder: Path, settings: RetentionConfig, newest: Path) -> None:
    """Delete the oldest refused updates beyond the number and the bytes that are kept; the newest one always stays."""
    try:
        sizes = {path: path.stat() for path in folder.glob("*") if path != newest}
        left = settings.refused_mb * MEGABYTE - newest.stat().st_size
    except OSError as error:
        logger.warning("%s cannot be looked through: %s", folder, error)
        return
    by_age = sorted(sizes, key=lambda path: sizes[path].st_mtime_ns, reverse=True)
    for rank, path in enumerate(by_age, start=1):
        left -= sizes[path].st_size
        if rank >= settings.refused or left < 0:
            _delete(path)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s is not kept any more and cannot be deleted: %s", path, error)
