"""Sites that are not asked to train until an operator says so: they stay connected and keep their identity."""

from __future__ import annotations

from sqlalchemy import delete, func, select

from fedwon.common.errors import Refused
from fedwon.server.admission.rows import HELD, AdmittedRow, QuarantineRow, SuspensionRow
from fedwon.server.auditing import operator
from fedwon.server.identity.sites import check_enrolled
from fedwon.server.store import AuditRow, Store

RESUMED = "site resumed"
"""Says in the audit trail that a site is asked again."""


def suspended(store: Store) -> dict[str, str]:
    """Return why each site that is suspended is, by its name.

    Raises:
        StorageError: the database cannot be read.
    """
    with store.session() as session:
        return {row.site: row.reason for row in session.scalars(select(SuspensionRow)).all()}


def suspend(store: Store, site: str, reason: str = "", *, actor: str | None = None) -> None:
    """Ask a site for no update from now on; what it sends of a task in hand does not count.

    Args:
        store: the server's database.
        site: its name.
        reason: why.
        actor: who does it; the user of this process without it, "" for the server.

    Raises:
        Refused: no site of that name has enrolled.
    """
    if actor != "":
        check_enrolled(store, site)
    who, why = operator() if actor is None else actor, reason or "no reason given"
    with store.session() as session:
        session.merge(SuspensionRow(site=site, reason=why))
        session.add(AuditRow(action="site suspended", subject=site, detail=why, actor=who))


def resume(store: Store, site: str, *, actor: str | None = None) -> None:
    """Ask a site again.

    Args:
        store: the server's database.
        site: its name.
        actor: who does it; without it, the user of this machine.

    Raises:
        Refused: it is not suspended.
    """
    with store.session() as session:
        gone = session.execute(delete(SuspensionRow).where(SuspensionRow.site == site))
        if not gone.rowcount:  # type: ignore[attr-defined]  # SQLAlchemy types the result of a DELETE too widely
            raise Refused(f"Site `{site}` is not suspended.", hint="`fedwon-server sites` shows who is.")
        session.add(AuditRow(action=RESUMED, subject=site, actor=actor or operator()))


def suspend_repeated(store: Store, run: str, site: str, most: int | None) -> str | None:
    """Suspend a site whose updates were refused again and again; return why, or None where it goes on.

    Args:
        store: the server's database.
        run: the run's name.
        site: its name.
        most: refused updates since the last one that counted, or since an operator let the site be asked again; None:
            never.
    """
    if most is None:
        return None
    with store.session() as session:
        counted = select(func.max(AdmittedRow.round)).where(AdmittedRow.run == run, AdmittedRow.site == site)
        last = session.scalar(counted) or 0
        held = [QuarantineRow.run == run, QuarantineRow.site == site, QuarantineRow.state == HELD]
        again = select(func.max(AuditRow.at)).where(AuditRow.action == RESUMED, AuditRow.subject == site)
        if (resumed := session.scalar(again)) is not None:
            held.append(QuarantineRow.at > resumed)
        count = session.scalar(select(func.count()).where(*held, QuarantineRow.round > last)) or 0
    if count < most:
        return None
    reason = f"{count} of its updates were refused one after the other (`run.admission.suspend_after`)"
    suspend(store, site, reason, actor="")
    return reason
