"""The audit trail: who did what, and who was refused, without a flood of refusals that grows the database."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update

from fedwon.common.errors import StorageError
from fedwon.server.store import AuditRow, Store, now

logger = logging.getLogger(__name__)

REFUSED = "refused: "
"""What the action of a refusal begins with."""
WINDOW_SECONDS = 3600.0
"""Within this time the same refusal of the same peer is one line that counts."""
WINDOW_LINES = 200
"""Lines of a window; whoever is refused beyond that is counted in one line for each kind of refusal."""
KEPT_REFUSALS = 10_000
"""Lines of refusals that are kept. What an operator did is kept for ever."""
WRITE_SECONDS = 1.0
OTHERS = "others"
LONGEST_DETAIL = 300


def operator() -> str:
    """Return the user of this machine who runs this process, as the audit trail names a person."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user need have no name
        return f"uid {os.geteuid()}"


def trail(store: Store, *, site: str | None = None, last: int | None = None) -> list[dict[str, Any]]:
    """Return the audit trail, oldest first, as plain values.

    Args:
        store: the server's database.
        site: only what is about this site or peer.
        last: so many of the newest lines; all without it.
    """
    query = select(AuditRow).order_by(AuditRow.id.desc())
    if site is not None:
        query = query.where(AuditRow.subject == site)
    with store.session() as session:
        rows = list(session.scalars(query.limit(last)))
    return [_line(row) for row in reversed(rows)]


def _line(row: AuditRow) -> dict[str, Any]:
    return {
        "at": row.at.isoformat(timespec="seconds"),
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "detail": row.detail,
        "times": row.times,
        "until": None if row.until is None else row.until.isoformat(timespec="seconds"),
    }


@dataclass
class _Line:
    """A line of the current window: its row, once there is one, and what is not in it yet."""

    detail: str
    first: datetime
    last: datetime
    row: int | None = None
    written: int = 0
    seen: int = 0


class Refusals:
    """Refusals on their way into the audit trail.

    The first of a kind and peer is written at once, as a line of its own; more of them within the hour only count up
    in that line, at most once a second. An hour has 200 such lines at most.

    Args:
        store: the server's database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._window: dict[tuple[str, str], _Line] = {}
        self._began = time.monotonic()

    def note(self, what: str, subject: str, detail: str) -> None:
        """Note a refusal; returns at once, and may be called from any thread.

        Args:
            what: the kind, such as "revoked certificate".
            subject: the site or, where it has no name, the address.
            detail: more about it; of later ones in the same window it is not kept.
        """
        moment = now()
        with self._lock:
            key = (what, subject)
            if key not in self._window and len(self._window) >= WINDOW_LINES:
                key = (what, OTHERS)
            line = self._window.setdefault(key, _Line(detail[:LONGEST_DETAIL], moment, moment))
            line.seen, line.last = line.seen + 1, moment

    def note_claim(self, site: str, claimed: str) -> None:
        """Note a certificate request in another name than the site's own; ours all ask for `site`."""
        if claimed not in {"", "site", site}:
            self.note("another site's name", site, f"its certificate request says {claimed[:63]!r}, which was ignored")

    def write(self) -> None:
        """Write what is not written yet.

        Raises:
            StorageError: the database cannot be written; nothing is lost.
        """
        with self._lock:
            due = [(key, line, line.seen) for key, line in self._window.items() if line.seen > line.written]
        if due:
            with self._store.session() as session:
                for (what, subject), line, seen in due:
                    if line.row is None:
                        row = AuditRow(at=line.first, action=f"{REFUSED}{what}", subject=subject, detail=line.detail)
                        session.add(row)
                        session.flush()
                        line.row = row.id
                    if seen > 1:
                        changed = update(AuditRow).where(AuditRow.id == line.row)
                        session.execute(changed.values(times=seen, until=line.last))
            for _, line, seen in due:
                line.written = seen
        if time.monotonic() - self._began > WINDOW_SECONDS:
            self._turn()

    def _turn(self) -> None:
        with self._lock:
            self._window = {key: line for key, line in self._window.items() if line.seen > line.written}
            self._began = time.monotonic()
        _prune(self._store)

    async def keep_writing(self) -> None:
        """Write once a second, where there is something, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.write)
            except StorageError as error:
                logger.warning("the audit trail could not be written: %s", error.message)
            await asyncio.sleep(WRITE_SECONDS)


def _prune(store: Store) -> None:
    refused = AuditRow.action.startswith(REFUSED)
    with store.session() as session:
        newest = select(AuditRow.id).where(refused).order_by(AuditRow.id.desc()).offset(KEPT_REFUSALS).limit(1)
        oldest_kept = session.scalars(newest).first()
        if oldest_kept is not None:
            session.execute(delete(AuditRow).where(refused, AuditRow.id <= oldest_kept))
