"""Who may take part: join tokens, enrolled sites, and when each was last seen."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fedwon.common.errors import Refused, TokenExpired, TokenUsed
from fedwon.server.store import AuditRow, Site, Store, Token, now

TOKEN_HOURS = 24.0


def make_token(store: Store, site: str, hours: float = TOKEN_HOURS) -> str:
    """Make a single-use token with which a site may join; only its hash is kept.

    Args:
        store: the server's database.
        site: the name that the site will have.
        hours: how long the token can be used.
    """
    token = secrets.token_urlsafe(24)
    with store.session() as session:
        session.add(Token(digest=_digest(token), site=site, expires=now() + timedelta(hours=hours)))
        session.add(AuditRow(action="token made", subject=site, detail=f"valid for {hours:g} h"))
    return token


def redeem_token(store: Store, token: str) -> str:
    """Use a token up.

    Returns:
        The name of the site that it was made for.

    Raises:
        TokenUsed: it is unknown or was used before.
        TokenExpired: its time is over.
    """
    with store.session() as session:
        row = session.get(Token, _digest(token))
        # one statement, so that of two calls at the same moment only one wins
        won = session.execute(
            update(Token).where(Token.digest == _digest(token), Token.used.is_(None)).values(used=now())
        ).rowcount  # type: ignore[attr-defined]  # SQLAlchemy types the result of an UPDATE too widely
        if row is None or not won:
            used = f" It was used at {row.used:%Y-%m-%d %H:%M} UTC." if row and row.used else ""
            raise TokenUsed(f"This join token is unknown or was used before.{used}")
        if row.expires < now():
            raise TokenExpired(f"This join token for site {row.site} expired at {row.expires:%Y-%m-%d %H:%M} UTC.")
        return row.site


def enrolled(store: Store, site: str, expires: datetime) -> None:
    """Note that a site got a certificate.

    Args:
        store: the server's database.
        site: its name.
        expires: when its certificate ends.
    """
    with store.session() as session:
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
        raise Refused(f"No site `{site}` has enrolled with this server.")
    return row


def connected(store: Store, site: str, version: str, data: dict[str, dict[str, int]]) -> None:
    """Note that a site has opened a session.

    Raises:
        Refused: no site of that name has enrolled here.
    """
    with store.session() as session:
        row = _enrolled_row(session, site)
        row.connected, row.last_seen, row.version, row.data = True, now(), version, data


def seen(store: Store, moments: Iterable[tuple[str, datetime]]) -> None:
    """Note when sites were last heard of, in one transaction."""
    with store.session() as session:
        for site, moment in moments:
            session.execute(update(Site).where(Site.name == site).values(last_seen=moment))


def disconnected(store: Store, site: str | None = None) -> None:
    """Note that a site's session has ended; without a name, that of every site (the server starts or stops)."""
    with store.session() as session:
        query = update(Site).values(connected=False)
        session.execute(query if site is None else query.where(Site.name == site))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
