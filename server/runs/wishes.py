"""What an operator wishes of a run that is under way: that it pauses, or stops, at the end of its round.

A wish is one word in the run's row. The run reads it between rounds; a run that waits, for sites or for its operator,
hears of it from the server's look at the database twice a heartbeat, or at once where the page made it.
"""

from __future__ import annotations

from sqlalchemy import select

from fedwon.common.errors import RunMissing
from fedwon.server.store import UNDER_WAY, AuditRow, RunRow, Store, newest_runs

PAUSE, STOP, NOTHING = "pause", "stop", ""
HELD = "an operator paused it; `fedwon-server resume` lets it go on"
ACTIONS = {PAUSE: "pause asked for", STOP: "stop asked for", NOTHING: "pause ended"}
"""As the audit trail names them."""


def current(store: Store) -> str:
    """Return what is wished of the newest run; nothing where it is not under way.

    Raises:
        StorageError: the database cannot be read.
    """
    with store.session() as session:
        newest = session.execute(select(RunRow.state, RunRow.wish).where(RunRow.id == _newest())).first()
    return newest.wish if newest is not None and newest.state in UNDER_WAY else NOTHING


def _newest() -> object:
    return newest_runs().with_only_columns(RunRow.id).limit(1).scalar_subquery()


def make(store: Store, wish: str, *, actor: str) -> str:
    """Wish something of the run that is under way, and put it on record.

    Args:
        store: the server's database.
        wish: `PAUSE`, `STOP`, or `NOTHING`: that it goes on.
        actor: who wishes it.

    Returns:
        The run's name.

    Raises:
        RunMissing: no run is under way.
    """
    with store.session() as session:
        row = session.scalars(newest_runs().limit(1)).first()
        if row is None or row.state not in UNDER_WAY:
            raise RunMissing("No run is under way.", hint="`fedwon-server status` lists the runs.")
        row.wish = wish
        session.add(AuditRow(action=ACTIONS[wish], subject=row.id, actor=actor))
        return row.id
