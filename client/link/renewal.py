"""A site's certificate and whom it trusts, kept fresh while the site is connected."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from pathlib import Path

import grpc

from fedwon.client.enrolment import renew
from fedwon.common.certificates import read_certificate, read_certificates, signed_by
from fedwon.common.errors import FedwonError
from fedwon.common.files import write_atomic
from fedwon.common.pki import SITE_DAYS, certificate_days_left, load_credentials

logger = logging.getLogger(__name__)

RENEW_SHARES = (0.4, 0.6)
"""A certificate is renewed when less than a share of its life is left that lies between these and is drawn for each
certificate, so that sites that were enrolled in one hour do not come back in one hour."""
CHECK_SECONDS = 6 * 3600.0
SPREAD_INTERVALS = 20
"""After a change of authorities, sites come for their new certificates spread over so many heartbeats."""


class Renewal:
    """Looks after the certificates of a site.

    Args:
        folder: the site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wake = asyncio.Event()
        self._spread, self._told = 0.0, b""

    async def trust(self, authorities: bytes, heartbeat_seconds: float) -> None:
        """Trust these authorities from now on; comes from the server, over a connection that both sides accepted.

        Args:
            authorities: PEM certificates; empty from a server that knows of one authority only.
            heartbeat_seconds: the server's interval, for spreading out what follows.
        """
        try:
            changed = bool(authorities) and await asyncio.to_thread(self._trust, authorities)
        except FedwonError as error:  # a full disk must not end the session; the next welcome says it again
            logger.warning("the federation's authorities could not be taken over: %s", error.message)
            return
        if changed:
            self._told, self._spread = authorities, SPREAD_INTERVALS * heartbeat_seconds
            self._wake.set()

    def _trust(self, authorities: bytes) -> bool:
        held = load_credentials(self._folder / "pki", "site")
        if authorities == held.authority:
            return False
        own = read_certificate(held.certificate, "this site's certificate")
        if not any(signed_by(own, signer) for signer in read_certificates(authorities, "what the server trusts")):
            logger.error("the server does not trust the authority of this site's certificate any more: enrol again")
            return False  # what is here still fits together
        write_atomic(self._folder / "pki" / "ca.pem", authorities)
        logger.info("the federation's authorities have changed; this site trusts them from now on")
        return True

    async def keep(self, channel: grpc.aio.Channel, server: str) -> None:
        """Renew the certificate whenever it is time to, until cancelled.

        The session goes on with what it began with; connections that are opened from then on show the new one.

        Args:
            channel: the session's.
            server: its address.
        """
        while True:
            try:
                await self._renew_in_time(channel, server)
            except FedwonError as error:
                logger.warning("the site's certificate could not be renewed: %s", error.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._wake.wait()
            if self._wake.is_set():
                self._wake.clear()
                await asyncio.sleep(random.uniform(0, self._spread))

    async def _renew_in_time(self, channel: grpc.aio.Channel, server: str) -> None:
        if self._told:  # a renewal that was under way may have written the old ones
            await asyncio.to_thread(self._trust, self._told)
        if await asyncio.to_thread(is_due, self._folder):
            await renew(channel, server, self._folder)
            logger.info("the site's certificate was renewed")


def is_due(folder: Path) -> bool:
    """Tell whether a site's certificate is to be renewed: it is old, or the authority that signs now is another.

    Raises:
        StorageError: the certificate cannot be read.
        KeyExposed: others can read the key.
    """
    held = load_credentials(folder / "pki", "site")
    own = read_certificate(held.certificate, "this site's certificate")
    signing = read_certificate(held.authority, "the federation's authority")
    share = random.Random(own.serial_number).uniform(*RENEW_SHARES)
    return certificate_days_left(held.certificate) < share * SITE_DAYS or not signed_by(own, signing)
