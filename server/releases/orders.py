"""Orders about releases: what the operator wants at each site's line, and what the site said to it.

One row an order, kept for ever. At most one order of a site is open: a newer one takes its place.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from fedwon.common.errors import ConfigError, Refused
from fedwon.common.gates import Figures, Gates
from fedwon.server.auditing import operator
from fedwon.server.store import AuditRow, Base, Site, Store, now

Kind = Literal["promote", "rollback", "hold"]
OPEN, WITHDRAWN, HELD = "open", "withdrawn", "held"
ANSWERS = frozenset({"in use", "refused", "failed"})
LONGEST_REASON = 500
_SAID: Mapping[str, str] = {"promote": "release promoted", "rollback": "release rolled back", "hold": "release held"}


class OrderRow(Base):
    """What the operator wanted at one site."""

    __tablename__ = "release_orders"
    number: Mapped[int] = mapped_column(primary_key=True)  # in the order in which they were given
    id: Mapped[str] = mapped_column(unique=True)
    site: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    release: Mapped[str] = mapped_column(default="")
    gates: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[str]  # open, in use, refused, failed, withdrawn, held
    in_use: Mapped[str] = mapped_column(default="")  # the release that the site used after its answer
    reason: Mapped[str] = mapped_column(default="")
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)  # Figures.as_dict; empty where none were measured
    made: Mapped[datetime] = mapped_column(default=now)
    answered: Mapped[datetime | None]


@dataclass(frozen=True)
class Said:
    """What a site said to an order.

    Attributes:
        order: its id.
        state: in use, refused or failed.
        release: what the site uses now; empty for none.
        reason: in words, where it was not done.
        figures: what the release reached there; None where nothing was measured.
    """

    order: str
    state: str
    release: str = ""
    reason: str = ""
    figures: Figures | None = field(default=None)


def named_sites(store: Store, names: Sequence[str], *, everywhere: bool, promoting: bool = False) -> list[str]:
    """Return the sites that an operator names.

    Args:
        store: the server's database.
        names: sites by name.
        everywhere: all sites that are not revoked; for promoting, without those that are held.
        promoting: see there.

    Raises:
        ConfigError: neither or both of the two.
        Refused: no site of that name has enrolled.
    """
    if bool(names) == everywhere:
        raise ConfigError("Name sites with `--site`, or all of them with `--all`.", hint="`fedwon-server sites`.")
    with store.session() as session:
        known = {row.name: row for row in session.scalars(select(Site))}
        held = {row.site for row in newest(session).values() if row.state == HELD}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refused(f"No site `{unknown[0]}` has enrolled here.", hint="`fedwon-server sites` lists them.")
    if names:
        return list(dict.fromkeys(names))
    counting = [name for name, row in known.items() if row.revoked is None or row.enrolled > row.revoked]
    return sorted(name for name in counting if not (promoting and name in held))


def give(
    store: Store,
    kind: Kind,
    sites: Iterable[str],
    release: str = "",
    gates: Gates | None = None,
    *,
    actor: str | None = None,
) -> list[str]:
    """Give an order to sites, in one transaction; an order that was open there is withdrawn.

    Args:
        store: the server's database.
        kind: what is to be done.
        sites: by name.
        release: what is promoted.
        gates: what it must reach there.
        actor: who gives it; without it, the user of this machine.

    Returns:
        The ids, in the order of the sites.
    """
    asked, given = gates or Gates(), []
    detail = " ".join([release, *(f"{key}={value}" for key, value in _set(asked).items())]).strip()
    with store.session() as session:
        for site in sites:
            given.append(secrets.token_hex(8))
            open_here = update(OrderRow).where(OrderRow.site == site, OrderRow.state == OPEN)
            session.execute(open_here.values(state=WITHDRAWN, answered=now()))
            state = HELD if kind == "hold" else OPEN
            row = {"id": given[-1], "site": site, "kind": kind, "release": release, "gates": _set(asked)}
            session.add(OrderRow(**row, state=state))
            session.add(AuditRow(action=_SAID[kind], subject=site, detail=detail, actor=actor or operator()))
    return given


def _set(gates: Gates) -> dict[str, Any]:
    return gates.model_dump(mode="json", exclude_defaults=True)


def open_orders(store: Store) -> dict[str, OrderRow]:
    """Return the open order of each site that has one."""
    with store.session() as session:
        return {row.site: row for row in session.scalars(select(OrderRow).where(OrderRow.state == OPEN))}


def note(store: Store, site: str, said: Said) -> bool:
    """Write down what a site said; return whether that order was its own and still open."""
    if said.state not in ANSWERS:
        return False
    reason = "".join(letter if letter.isprintable() else " " for letter in said.reason[:LONGEST_REASON])
    figures = {} if said.figures is None else said.figures.as_dict()
    words = "" if said.figures is None else said.figures.words()
    with store.session() as session:
        row = session.scalars(select(OrderRow).where(OrderRow.id == said.order, OrderRow.site == site)).first()
        if row is None or row.state != OPEN:
            return False
        in_use = said.release if said.release in _known(session, site) else ""
        row.state, row.reason, row.figures, row.answered, row.in_use = said.state, reason, figures, now(), in_use
        detail = "; ".join(filter(None, [row.release or in_use, words, reason]))
        session.add(AuditRow(action=f"release {said.state}", subject=site, detail=detail))
        return True


def _known(session: Session, site: str) -> set[str]:
    """Releases that the site was ever told of: it can use no other, and its word goes to the operator's screen."""
    return set(session.scalars(select(OrderRow.release).where(OrderRow.site == site, OrderRow.kind == "promote")))


def newest(session: Session) -> dict[str, OrderRow]:
    """Return the newest order of each site."""
    return {row.site: row for row in session.scalars(select(OrderRow).order_by(OrderRow.number))}


def by_site(store: Store) -> list[dict[str, Any]]:
    """Return, for each site that was ever given an order, what it uses and the newest order, as plain values."""
    with store.session() as session:
        rows = session.scalars(select(OrderRow).order_by(OrderRow.number)).all()
    last: dict[str, OrderRow] = {row.site: row for row in rows}
    using = {row.site: row.in_use for row in rows if row.state in ANSWERS and row.in_use}
    return [
        {
            "site": site,
            "in_use": using.get(site),
            "order": row.kind,
            "release": row.release or None,
            "state": row.state,
            "reason": row.reason,
            "gates": row.gates,
            "figures": row.figures or None,
            "made": row.made.isoformat(timespec="seconds"),
            "answered": None if row.answered is None else row.answered.isoformat(timespec="seconds"),
        }
        for site, row in sorted(last.items())
    ]
