"""Refused updates: kept with their reason, listed, looked into, and let out again by an operator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from fedwon.common.arrays import StoredRecord, open_record
from fedwon.common.errors import FedwonError, RunMissing, StaysRefused
from fedwon.server.admission.outliers import start_of
from fedwon.server.admission.rows import COUNTED, GONE, HELD, RELEASED, QuarantineRow
from fedwon.server.admission.rules import Refusal, Rule
from fedwon.server.aggregation.differences import Change, norm, norms_by_tensor
from fedwon.server.auditing import REFUSED, operator
from fedwon.server.runs.run import Run
from fedwon.server.store import AuditRow, Store, now

NEVER: Sequence[Rule] = ("broken", "size", "numbers", "tensors", "finite", "relay")
"""Rules without which there is nothing to average: what they refuse cannot be let out."""
SHOWN = 5
"""Tensors that are shown, those that changed most."""


def hold(
    run: Run, refusal: Refusal, *, task: str, site: str, number: int, metrics: Mapping[str, Any], path: Path | None
) -> None:
    """Keep a refused update, and write down why.

    An earlier answer to the same task makes room for it, unless an operator has let that one out.

    Args:
        run: the run.
        refusal: why it does not count.
        task: the task that it answers.
        site: whose it is.
        number: the round that it was asked for in.
        metrics: its numbers.
        path: its file; None where nothing of it was written.

    Raises:
        StorageError: it cannot be moved, or not be noted.
    """
    said = AuditRow(action=f"{REFUSED}update", subject=site, detail=f"{task}: {refusal.reason}"[:500])
    with run.store.session() as session:
        before = session.get(QuarantineRow, task)
        if before is not None and before.state == RELEASED:  # what an operator let out is what was looked at
            session.add(said)
            return
    kept, digest = (None, "") if path is None else (run.quarantined(path), "")
    if kept is not None:
        with suppress(FedwonError):  # a broken file has none
            digest = open_record(kept).blob.digest
    file = "" if kept is None else kept.name
    numbers = {key[:64]: value for key, value in list(metrics.items())[:64] if _plain(value)}
    row = QuarantineRow(task=task, run=run.id, round=number, site=site, file=file, digest=digest, metrics=numbers)
    row.rule, row.reason, row.state, row.at = refusal.rule, refusal.reason, HELD, now()
    with run.store.session() as session:
        session.merge(row)
        session.add(said)


def _plain(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def listing(store: Store, root: Path, run: str | None = None) -> list[dict[str, Any]]:
    """Return the quarantined updates, oldest first, as plain values.

    Args:
        store: the server's database.
        root: the server's folder.
        run: only those of this run.
    """
    query = select(QuarantineRow).order_by(QuarantineRow.at, QuarantineRow.task)
    if run is not None:
        query = query.where(QuarantineRow.run == run)
    with store.session() as session:
        return [_described(row, root) for row in session.scalars(query).all()]


def _described(row: QuarantineRow, root: Path) -> dict[str, Any]:
    path = _path(row, root)
    return {
        "task": row.task,
        "run": row.run,
        "round": row.round,
        "site": row.site,
        "rule": row.rule,
        "reason": row.reason,
        "state": row.state,
        "at": row.at.isoformat(timespec="seconds"),
        "file": str(path) if path.is_file() else None,
    }


def _path(row: QuarantineRow, root: Path) -> Path:
    return root / "runs" / row.run / "quarantine" / row.file


def find(store: Store, task: str) -> QuarantineRow:
    """Return a quarantined update by its task's name, or by an end of it that only one has.

    Raises:
        StaysRefused: there is none, or several.
    """
    query = select(QuarantineRow).where(QuarantineRow.task.endswith(task, autoescape=True))
    with store.session() as session:
        rows = session.scalars(query).all()
    exact = [row for row in rows if row.task == task] or rows
    if len(exact) != 1:
        count = f"{len(exact)} updates" if exact else "No update"
        raise StaysRefused(f"{count} in quarantine are of a task that ends in `{task}`.")
    return exact[0]


def details(store: Store, root: Path, task: str) -> dict[str, Any]:
    """Return what is known of a quarantined update: reason, numbers, and how far it moves which tensors.

    Raises:
        StaysRefused: there is none of that name.
    """
    row = find(store, task)
    found = {**_described(row, root), "digest": row.digest, "metrics": row.metrics}
    with suppress(FedwonError, KeyError, ValueError):  # what cannot be read is shown without
        record = open_record(_path(row, root), digest=row.digest)
        found["tensors"] = len(record)
        change = Change(record, start_of(record, Run.open(store, root, row.run).model(row.round - 1)))
        found["norm"] = norm(change)
        found["moved_most"] = dict(list(norms_by_tensor(change).items())[:SHOWN])
    return found


def release(store: Store, root: Path, task: str, reason: str = "", *, actor: str | None = None) -> QuarantineRow:
    """Let an update out: it counts in the run's next round, with the weight of one that is so many rounds late.

    Args:
        store: the server's database.
        root: the server's folder.
        task: its task's name, or an end of it.
        reason: why, for the audit trail.
        actor: who does it; without it, the user of this machine.

    Raises:
        StaysRefused: it can never count, was let out before, or comes too late.
    """
    _check_own_round(task, root)
    row = find(store, task)
    _check_releasable(row, store, root)
    with store.session() as session:
        changed = update(QuarantineRow).where(QuarantineRow.task == row.task, QuarantineRow.state == HELD)
        session.execute(changed.values(state=RELEASED))
        detail = f"{row.task}, refused because {row.reason}; {reason or 'no reason given'}"
        session.add(AuditRow(action="update released", subject=row.site, detail=detail, actor=actor or operator()))
    return row


def _check_own_round(task: str, root: Path) -> None:
    from fedwon.server.relays.joining import PARENT  # brings what a site needs to join

    if (root / PARENT).exists():
        raise StaysRefused(
            f"{root} is a relay: its answer to the round of {task} has gone to its parent, and no later one is "
            "about that round."
        )


def _check_releasable(row: QuarantineRow, store: Store, root: Path) -> None:
    if row.state != HELD:
        said = {RELEASED: "was released already and counts in the next round", COUNTED: "was released and has counted"}
        raise StaysRefused(f"The update {row.task} {said.get(row.state, 'was released and could not be used')}.")
    if row.rule in NEVER or row.metrics.get("num-examples", 0) < 1:
        raise StaysRefused(f"The update {row.task} cannot count, whoever says so: {row.reason}.")
    run = Run.open(store, root, row.run)
    if run.state == "finished":
        raise StaysRefused(f"Run {row.run} has finished: there is no next round in which {row.task} could count.")
    if not _path(row, root).is_file():
        raise StaysRefused(f"The file of {row.task} is not kept any more (`run.retention.refused`, `refused_mb`).")
    if run.config.privacy.sites.noise is not None:
        raise StaysRefused(
            f"The update {row.task} cannot count: run {row.run} promises privacy of whole sites, and its site would be "
            "in one average twice."
        )
    if run.config.aggregation.secure.enabled:
        raise StaysRefused(
            f"The update {row.task} cannot count: it is masked, and its masks come off in its own round's sum only."
        )
    try:
        run.model(row.round - 1)
    except RunMissing:
        raise StaysRefused(
            f"The update {row.task} starts from the model of round {row.round - 1}, which is not kept any more: the "
            "run has gone on too far since (`run.retention.rounds`)."
        ) from None


def released(run: Run) -> list[tuple[QuarantineRow, StoredRecord]]:
    """Return the updates of a run that an operator let out and that did not count yet, by task.

    One whose file is gone or damaged is noted as such, and does not count.
    """
    query = select(QuarantineRow).where(QuarantineRow.run == run.id, QuarantineRow.state == RELEASED)
    with run.store.session() as session:
        rows = session.scalars(query.order_by(QuarantineRow.task)).all()
    found = []
    for row in rows:
        try:
            record = open_record(run.quarantine / row.file)
            if record.blob.digest != row.digest:
                raise StaysRefused(f"{record.blob.path} is not the file that was refused.")
        except FedwonError as error:
            give_up(run, row, error.message)
        else:
            found.append((row, record))
    return found


def give_up(run: Run, row: QuarantineRow, reason: str) -> None:
    """Note that an update that was let out cannot count."""
    with run.store.session() as session:
        session.execute(update(QuarantineRow).where(QuarantineRow.task == row.task).values(state=GONE))
        session.add(AuditRow(action="released update not used", subject=row.site, detail=f"{row.task}: {reason}"))
