"""Which certificates still count: what was issued, what was revoked, and the look at it that every call gets.

A certificate is revoked by its serial number. One that is not in the table (it was issued before there was a table, or
after the backup that was put back) is void if its site was revoked later than it was made. So a site that enrols anew
after a revocation gets in with its new certificate, and the old one stays refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from fedwon.common.certificates import read_certificate
from fedwon.common.errors import Refused, Revoked, StorageError
from fedwon.common.pki import Authority, fingerprint, sign_request
from fedwon.server.auditing import operator
from fedwon.server.identity.sites import note_enrolled
from fedwon.server.link.gathering import Gathering
from fedwon.server.link.peers import Peer, serial_of
from fedwon.server.store import AuditRow, CertificateRow, Site, Store, Token, now

logger = logging.getLogger(__name__)

A_DAY = 24
"""Certificates that a site may be given in 24 hours: a site that renews without end must not fill the disk."""
KEPT_DAYS = 30
"""Certificates that have ended stay in the table so long."""


def issue(
    store: Store,
    authority: Authority,
    certificate_request: bytes,
    site: str,
    *,
    token: str | None = None,
    renewing: Peer | None = None,
) -> bytes:
    """Sign a site's certificate and note it.

    Args:
        store: the server's database.
        authority: who signs.
        certificate_request: what the site sent; only its key is used.
        site: the name that goes into the certificate.
        token: digest of the token that it is given for.
        renewing: who asks with an earlier certificate.

    Returns:
        The certificate as PEM.

    Raises:
        Refused: the request is not acceptable, the earlier certificate does not count, or the site asks too often.
    """
    pem = sign_request(authority, certificate_request, site)
    certificate = read_certificate(pem, "the new certificate")
    row = CertificateRow(
        serial=serial_of(certificate),
        site=site,
        expires=certificate.not_valid_after_utc,
        authority=fingerprint(authority.pem),
        token=token,
        pem=pem,
    )
    with store.session() as session:
        session.execute(delete(CertificateRow).where(CertificateRow.expires < now() - timedelta(days=KEPT_DAYS)))
        session.add(row)
        session.flush()  # from here on nobody else writes: a revocation comes before all this or after it
        if renewing is not None:
            _check(session, renewing)
        _check_rate(session, site)
        note_enrolled(session, site, row.expires)
    return pem


def _check_rate(session: Session, site: str) -> None:
    recent = CertificateRow.issued > now() - timedelta(days=1)
    count = session.scalar(select(func.count()).where(CertificateRow.site == site, recent)) or 0
    if count > A_DAY:
        raise Refused(f"Site `{site}` was given {A_DAY} certificates within a day; try again tomorrow.")


def given_for(store: Store, token: str) -> bytes | None:
    """Return the certificate that was given for a token (its digest), if it was and still counts."""
    with store.session() as session:
        query = select(CertificateRow.pem).where(CertificateRow.token == token, CertificateRow.revoked.is_(None))
        return session.scalars(query.order_by(CertificateRow.issued.desc())).first()


def revoke(store: Store, site: str, reason: str = "", *, actor: str | None = None) -> int:
    """Refuse a site from now on, with every certificate and every token that it was given up to now.

    Args:
        store: the server's database.
        site: its name.
        reason: why; the site is told.
        actor: who does it; without it, the user of this machine.

    Returns:
        How many certificates were in use.

    Raises:
        Refused: no site of that name has enrolled.
    """
    moment, why = now(), reason or "no reason given"
    with store.session() as session:
        found = session.execute(update(Site).where(Site.name == site).values(revoked=moment, reason=why))
        if not found.rowcount:  # type: ignore[attr-defined]  # SQLAlchemy types the result of an UPDATE too widely
            raise Refused(f"No site `{site}` has enrolled here.", hint="`fedwon-server sites` lists them.")
        held = update(CertificateRow).where(CertificateRow.site == site, CertificateRow.revoked.is_(None))
        count = session.execute(held.values(revoked=moment, reason=why)).rowcount  # type: ignore[attr-defined]
        session.execute(update(Token).where(Token.site == site, Token.expires > moment).values(expires=moment))
        session.add(AuditRow(action="site revoked", subject=site, detail=why, actor=actor or operator()))
    return int(count)


@dataclass(frozen=True)
class Void:
    """What is revoked at one moment.

    Attributes:
        serials: certificates, each with the refusal that it gets.
        sites: when each site was last revoked, and the refusal.
        barred: sites that have no certificate since, with the reason.
    """

    serials: dict[str, str]
    sites: dict[str, tuple[datetime, str]]
    barred: dict[str, str]

    def refusal(self, peer: Peer, *, known: bool) -> str | None:
        """Return why a certificate does not count, or None; `known`: it is in the table."""
        if peer.serial in self.serials:
            return self.serials[peer.serial]
        moment, text = self.sites.get(peer.site, (None, ""))
        return text if not known and moment is not None and peer.issued <= moment else None


def void(store: Store) -> Void:
    """Return what is revoked now."""
    with store.session() as session:
        held = select(CertificateRow).where(CertificateRow.revoked.is_not(None), CertificateRow.expires > now())
        certificates = session.scalars(held).all()
        rows = session.scalars(select(Site).where(Site.revoked.is_not(None))).all()
    return Void(
        {row.serial: _refusal(row.site, row.revoked, row.reason) for row in certificates},
        {row.name: (row.revoked, _refusal(row.name, row.revoked, row.reason)) for row in rows if row.revoked},
        {row.name: row.reason for row in rows if row.revoked and row.enrolled <= row.revoked},
    )


def _refusal(site: str, moment: datetime | None, reason: str) -> str:
    when = f"{moment:%Y-%m-%d %H:%M}" if moment else "?"
    return f"The certificate of site `{site}` was revoked at {when} UTC: {reason}."


Revocation = tuple[datetime | None, str]
"""When something was revoked, and why; None: it was not."""


def _check(session: Session, peer: Peer) -> None:
    site = session.scalars(select(Site).where(Site.name == peer.site)).first()
    row = session.get(CertificateRow, peer.serial)
    refusal = _refused(
        peer, None if site is None else (site.revoked, site.reason), None if row is None else (row.revoked, row.reason)
    )
    if refusal is not None:
        raise refusal


def _refused(peer: Peer, site: Revocation | None, certificate: Revocation | None) -> Refused | None:
    """Return why a caller's certificate does not count, or None, by the rows of the two; None: there is no such row."""
    if site is None:
        return Refused(f"No site `{peer.site}` has enrolled with this server.")
    if certificate is not None:
        moment, reason = certificate
        return None if moment is None else Revoked(_refusal(peer.site, moment, reason))
    moment, reason = site
    return None if moment is None or peer.issued > moment else Revoked(_refusal(peer.site, moment, reason))


class Standing:
    """The look at a caller's certificate.

    Args:
        store: the server's database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[str] = set()
        self._looking = Gathering(self._looked_up)
        self.void = Void({}, {}, {})

    async def check(self, peer: Peer) -> None:
        """Check that a certificate counts, by the database, or by what was last known of it where it cannot be read.

        Raises:
            Refused: it does not.
        """
        try:
            await self._looking.do(peer)
        except StorageError as error:
            logger.warning("whether site %s is revoked cannot be looked up: %s", peer.site, error.message)
            if (text := self.refusal(peer)) is not None:
                raise Revoked(text) from None

    def _looked_up(self, peers: Sequence[Peer]) -> list[Refused | None]:
        """Look at the certificates of several callers; returns for each the refusal, or None."""
        sites, serials = {peer.site for peer in peers}, {peer.serial for peer in peers}
        with self._store.session() as session:
            query = select(Site.name, Site.revoked, Site.reason).where(Site.name.in_(sites))
            revoked = {name: (moment, reason) for name, moment, reason in session.execute(query)}
            columns = CertificateRow.serial, CertificateRow.revoked, CertificateRow.reason, CertificateRow.used
            rows = session.execute(select(*columns).where(CertificateRow.serial.in_(serials))).all()
            held = {serial: (moment, reason) for serial, moment, reason, _ in rows}
            found = [_refused(peer, revoked.get(peer.site), held.get(peer.serial)) for peer in peers]
            counting = {peer.serial for peer, refusal in zip(peers, found, strict=True) if refusal is None}
            first = [serial for serial, _, _, used in rows if used is None and serial in counting]
            if first:
                session.execute(update(CertificateRow).where(CertificateRow.serial.in_(first)).values(used=now()))
        self._known |= counting & held.keys()
        return found

    def refusal(self, peer: Peer) -> str | None:
        """Return why a certificate does not count, by what was last known, or None."""
        return self.void.refusal(peer, known=peer.serial in self._known)

    async def refresh(self) -> Void:
        """Look once for all sites; returns what is revoked now.

        Raises:
            StorageError: the database cannot be read.
        """
        self.void = await asyncio.to_thread(void, self._store)
        return self.void


def holders(store: Store, fingerprints: Sequence[str]) -> list[str]:
    """Return the sites that have no certificate in use but of these authorities: who is locked out without them.

    Args:
        store: the server's database.
        fingerprints: of the authorities that stay.
    """
    with store.session() as session:
        rows = session.scalars(select(Site).where(Site.expires > now()).order_by(Site.name)).all()
        kept = CertificateRow.authority.in_(fingerprints)
        query = select(CertificateRow.site).where(
            kept, CertificateRow.used.is_not(None), CertificateRow.revoked.is_(None), CertificateRow.expires > now()
        )
        safe = set(session.scalars(query))
    return [row.name for row in rows if row.name not in safe and not (row.revoked and row.enrolled <= row.revoked)]
