"""Who may take part: join tokens, enrolled sites, and when each was last seen."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from fedwon.common.errors import Refused, TokenExpired, TokenUsed
from fedwon.common.surveys import Survey
from fedwon.server.auditing import operator
from fedwon.server.store import AuditRow, Site, Store, Token, now

TOKEN_HOURS = 24.0


def make_token(store: Store, site: str, hours: float = TOKEN_HOURS, *, actor: str | None = None) -> str:
    """Make a single-use token with which a site may join; only its hash is kept.

    Args:
        store: the server's database.
        site: the name that the site will have.
        hours: how long the token can be used.
        actor: who makes it; without it, the user of this machine.
    """
    token = secrets.token_urlsafe(24)
    with store.session() as session:
        session.add(Token(digest=token_digest(token), site=site, expires=now() + timedelta(hours=hours)))
        who = actor or operator()
        line = AuditRow(action="token made", subject=site, detail=f"valid for {hours:g} h", actor=who)
        session.add(line)
    return token


def redeem_token(store: Store, token: str, key: str = "") -> str:
    """Use a token up.

    The same key may use it again while it lasts: the reply that brought the certificate may have been lost.

    Args:
        store: the server's database.
        token: what the site presents.
        key: digest of the public key in its certificate request.

    Returns:
        The name of the site that it was made for.

    Raises:
        TokenUsed: it is unknown, or was used before with another key.
        TokenExpired: its time is over.
    """
    with store.session() as session:
        # one statement, so that of two calls at the same moment only one wins
        unused = update(Token).where(Token.digest == token_digest(token), Token.used.is_(None), Token.expires >= now())
        won = session.execute(unused.values(used=now(), key=key)).rowcount  # type: ignore[attr-defined]  # too wide
        row = session.get(Token, token_digest(token))
        if row is not None and (won or _may_repeat(row, key)):
            return row.site
        if row is None or row.used:
            used = f" It was used at {row.used:%Y-%m-%d %H:%M} UTC." if row and row.used else ""
            raise TokenUsed(f"This join token is unknown or was used before.{used}")
        raise TokenExpired(f"This join token for site {row.site} expired at {row.expires:%Y-%m-%d %H:%M} UTC.")


def _may_repeat(row: Token, key: str) -> bool:
    return bool(key) and row.used is not None and row.key == key and row.expires >= now()


def token_counts(store: Store, token: str, key: str) -> bool:
    """Tell whether a token would be taken, without using it."""
    with store.session() as session:
        row = session.get(Token, token_digest(token))
        return row is not None and (_may_repeat(row, key) or (row.used is None and row.expires >= now()))


def site_of_token(store: Store, token: str) -> str | None:
    """Return the site that a token was made for, used or not; None for one that nobody made."""
    with store.session() as session:
        row = session.get(Token, token_digest(token))
        return None if row is None else row.site


def enrolled(store: Store, site: str, expires: datetime) -> None:
    """Note that a site got a certificate.

    Args:
        store: the server's database.
        site: its name.
        expires: when its certificate ends.
    """
    with store.session() as session:
        note_enrolled(session, site, expires)


def note_enrolled(session: Session, site: str, expires: datetime) -> None:
    """Note within a transaction that a site got a certificate."""
    row = session.scalars(select(Site).where(Site.name == site)).first()
    if row is None:
        session.add(Site(name=site, expires=expires))
    else:
        row.expires, row.enrolled = expires, now()
    session.add(AuditRow(action="certificate issued", subject=site, detail=f"until {expires:%Y-%m-%d}"))


def check_enrolled(store: Store, site: str) -> None:
    """Check that a site may take part; its certificate alone does not say so for ever.

    Raises:
        Refused: no site of that name has enrolled here.
    """
    with store.session() as session:
        _enrolled_row(session, site)


def _enrolled_row(session: Session, site: str) -> Site:
    row = session.scalars(select(Site).where(Site.name == site)).first()
    if row is None:
        raise _unknown(site)
    return row


def _unknown(site: str) -> Refused:
    return Refused(f"No site `{site}` has enrolled with this server.")


@dataclass(frozen=True)
class Arrival:
    """A site has opened a session.

    Attributes:
        version: what its client said.
        data: how many images it has, by class and part.
    """

    site: str
    version: str
    data: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Departure:
    """A site's session has ended, and it has no other."""

    site: str


Move = Arrival | Departure


def noted(store: Store, moves: Sequence[Move]) -> list[Refused | None]:
    """Note who has come and gone, in this order and in one transaction.

    Returns:
        For each, None, or that a site that has come has not enrolled here.
    """
    names = {move.site for move in moves}
    with store.session() as session:
        rows = {row.name: row for row in session.scalars(select(Site).where(Site.name.in_(names)))}
        for move in moves:
            if (row := rows.get(move.site)) is None:
                continue
            row.connected = isinstance(move, Arrival)
            if isinstance(move, Arrival):
                row.last_seen, row.version, row.data = now(), move.version, move.data
    return [_unknown(move.site) if isinstance(move, Arrival) and move.site not in rows else None for move in moves]


def connected(store: Store, site: str, version: str, data: dict[str, dict[str, int]]) -> None:
    """Note that a site has opened a session.

    Raises:
        Refused: no site of that name has enrolled here.
    """
    if (refusal := noted(store, [Arrival(site, version, data)])[0]) is not None:
        raise refusal


def surveyed(store: Store, site: str, data: dict[str, dict[str, int]]) -> None:
    """Note what images a site has by now."""
    with store.session() as session:
        session.execute(update(Site).where(Site.name == site).values(data=data))


def surveys(store: Store) -> dict[str, Survey]:
    """Return what images each site said it has when it was last connected, but for those that were revoked."""
    with store.session() as session:
        rows = session.scalars(select(Site)).all()
    return {row.name: row.data for row in rows if row.data and (row.revoked is None or row.enrolled > row.revoked)}


def seen(store: Store, moments: Iterable[tuple[str, datetime]]) -> None:
    """Note when sites were last heard of, in one transaction."""
    changed = update(Site).where(Site.name == bindparam("site")).values(last_seen=bindparam("moment"))
    with store.session() as session:
        session.connection().execute(changed, [{"site": site, "moment": moment} for site, moment in moments])


def disconnected(store: Store, site: str | None = None) -> None:
    """Note that a site's session has ended; without a name, that of every site (the server starts or stops)."""
    with store.session() as session:
        query = update(Site).values(connected=False)
        session.execute(query if site is None else query.where(Site.name == site))


def token_digest(token: str) -> str:
    """Return what of a token is kept."""
    return hashlib.sha256(token.encode()).hexdigest()
