"""What a run notes of its tasks, and the numbers that come of them, in the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sqlalchemy import update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from fedwon.server.admission.rows import COUNTED, RELEASED, AdmittedRow, QuarantineRow
from fedwon.server.admission.rules import Past
from fedwon.server.rounds.notebook import Notebook, Notes
from fedwon.server.rounds.site_grid import Traffic
from fedwon.server.store import MetricRow, Store, TaskRow


class Bookkeeping:
    """The tasks of one run.

    Its methods are called from one thread.

    Args:
        store: the server's database.
        run: the run's name.
    """

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.id = store, run
        self._notebook = Notebook(store)
        self._noted: Notes | None = None
        self._open: Session | None = None

    @contextmanager
    def together(self) -> Iterator[Session]:
        """Let what is noted in the block stand in one transaction, behind all that was noted before: it waits once.

        Yields:
            The transaction, for what else belongs into it.

        Raises:
            StorageError: the database cannot be written; then nothing of it stands.
        """
        with self._notebook.transaction() as session:
            self._open = session
            try:
                yield session
            finally:
                self._open = None

    @contextmanager
    def soon(self) -> Iterator[None]:
        """Let what is noted in the block be written at once, but wait neither for it nor for the disk.

        For what a crash may lose because the round is then done again and notes it anew.

        Raises:
            StorageError: what was noted before could not be written.
        """
        self._noted = []
        try:
            yield
            self._notebook.add(self._noted)
        finally:
            self._noted = None

    def _note(self, statement: Any, rows: Any = None) -> None:
        if self._noted is not None:
            self._noted.append((statement, rows))
        elif self._open is not None:
            self._open.execute(statement, rows)
        else:
            with self.together() as session:
                session.execute(statement, rows)

    def sent(self, task_id: str, number: int, site: str, kind: str) -> None:
        """Note that a site was asked, or asked again."""
        row = {"id": task_id, "run": self.id, "round": number, "site": site, "kind": kind, "state": "sent"}
        again = insert(TaskRow).on_conflict_do_update(index_elements=["id"], set_={"state": "sent", "reason": ""})
        self._note(again, row)

    def settled(self, task_id: str, state: str, *, reason: str = "", cost: Traffic | None = None) -> None:
        """Note what came of a task.

        Args:
            task_id: the task.
            state: "received", "averaged", "refused", "failed" or "late".
            reason: why, where it did not go well.
            cost: what it cost; what was noted before stays without it.
        """
        values = {"state": state, "reason": reason, **({} if cost is None else asdict(cost))}
        self._note(update(TaskRow).where(TaskRow.id == task_id).values(values))

    def averaged(self, task_ids: Iterable[str]) -> None:
        """Note that these tasks' updates are in the new model; of those that an operator had released, once only."""
        for task_id in task_ids:
            self.settled(task_id, "averaged")
            let_out = QuarantineRow.task == task_id, QuarantineRow.state == RELEASED
            self._note(update(QuarantineRow).where(*let_out).values(state=COUNTED))

    def admitted(self, updates: Iterable[Past]) -> None:
        """Keep what later updates are compared with."""
        rows = [{"run": self.id, **asdict(one)} for one in updates]
        new = insert(AdmittedRow)
        changed = {key: new.excluded[key] for key in ("examples", "norm", "digest")}
        if rows:
            self._note(new.on_conflict_do_update(index_elements=["run", "round", "site"], set_=changed), rows)

    def measured(self, number: int, site: str, metrics: Mapping[str, float]) -> None:
        """Keep what a site measured on the global model of a round."""
        row = {"run": self.id, "round": number, "site": site}
        rows = [{**row, "key": key, "value": float(value)} for key, value in metrics.items()]
        new = insert(MetricRow)
        again = new.on_conflict_do_update(index_elements=[*row, "key"], set_={"value": new.excluded.value})
        if rows:
            self._note(again, rows)
