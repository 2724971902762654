"""What counted in the rounds before: the examples and norms that the next updates are compared with, and their bits."""

from __future__ import annotations

from sqlalchemy import func, select

from fedwon.server.admission.rows import AdmittedRow
from fedwon.server.admission.rules import Past
from fedwon.server.store import Store


class TrackRecord:
    """The admitted updates of a run.

    Args:
        store: the server's database.
        run: the run's name.
        window: so many rounds are looked back.
    """

    def __init__(self, store: Store, run: str, window: int) -> None:
        self._store, self._run, self._window = store, run, window
        self._known: tuple[int, list[Past]] = (-1, [])

    def before(self, number: int) -> list[Past]:
        """Return the updates that counted in the rounds before one; read once a round.

        Raises:
            StorageError: the database cannot be read.
        """
        if self._known[0] != number:
            recent = AdmittedRow.round.between(number - self._window, number - 1)
            query = select(AdmittedRow).where(AdmittedRow.run == self._run, recent)
            with self._store.session() as session:
                rows = session.scalars(query.order_by(AdmittedRow.round, AdmittedRow.site)).all()
            self._known = number, [Past(row.site, row.round, row.examples, row.norm, row.digest) for row in rows]
        return self._known[1]

    def of(self, site: str, number: int) -> list[Past]:
        """Return a site's own updates that counted in the rounds before one."""
        return [past for past in self.before(number) if past.site == site]

    def earlier(self, site: str, digest: str, number: int) -> int | None:
        """Return the newest round before this one in which the site sent an update of these very bits, or None."""
        same = AdmittedRow.run == self._run, AdmittedRow.site == site, AdmittedRow.digest == digest
        query = select(func.max(AdmittedRow.round)).where(*same, AdmittedRow.round < number)
        with self._store.session() as session:
            return session.scalar(query)
