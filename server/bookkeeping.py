"""What a run notes of its tasks, and the numbers that come of them, in the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict

from sqlalchemy import update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from fedwon.server.site_grid import Traffic
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
        self._open: Session | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let what is noted of tasks and numbers in the block stand in one transaction: a commit waits for the disk.

        Raises:
            StorageError: the database cannot be written; then nothing of it stands.
        """
        with self.store.session() as session:
            self._open = session
            try:
                yield
            finally:
                self._open = None

    def _transaction(self) -> AbstractContextManager[Session]:
        return self.store.session() if self._open is None else nullcontext(self._open)

    def sent(self, task_id: str, number: int, site: str, kind: str) -> None:
        """Note that a site was asked, or asked again."""
        row = {"id": task_id, "run": self.id, "round": number, "site": site, "kind": kind, "state": "sent"}
        again = insert(TaskRow).on_conflict_do_update(index_elements=["id"], set_={"state": "sent", "reason": ""})
        with self._transaction() as session:
            session.execute(again, row)

    def settled(self, task_id: str, state: str, *, reason: str = "", cost: Traffic | None = None) -> None:
        """Note what came of a task.

        Args:
            task_id: the task.
            state: "received", "averaged", "refused", "failed" or "late".
            reason: why, where it did not go well.
            cost: what it cost; what was noted before stays without it.
        """
        values = {"state": state, "reason": reason, **({} if cost is None else asdict(cost))}
        with self._transaction() as session:
            session.execute(update(TaskRow).where(TaskRow.id == task_id).values(values))

    def measured(self, number: int, site: str, metrics: Mapping[str, float]) -> None:
        """Keep what a site measured on the global model of a round."""
        row = {"run": self.id, "round": number, "site": site}
        rows = [{**row, "key": key, "value": float(value)} for key, value in metrics.items()]
        new = insert(MetricRow)
        again = new.on_conflict_do_update(index_elements=[*row, "key"], set_={"value": new.excluded.value})
        with self._transaction() as session:
            if rows:
                session.execute(again, rows)
