"""What a running server looks after beside its calls: revocations, authorities, and its own certificate."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from fedwon.common.errors import FedwonError, Revoked
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.admission.suspension import suspended
from fedwon.server.auditing import Refusals
from fedwon.server.config import ServerConfig
from fedwon.server.identity.authorities import LiveTrust, renew_server, server_is_due
from fedwon.server.identity.standing import Standing
from fedwon.server.link.hub import Hub
from fedwon.server.runs import wishes
from fedwon.server.store import Store

logger = logging.getLogger(__name__)

OWN_SECONDS = 3600.0
"""How often the server looks at its own certificate."""


class Watch:
    """Carries what other processes changed to the sessions that are open.

    Args:
        hub: the sessions.
        standing: which certificates count.
        trust: the authorities.
        refusals: where a session that is ended goes on record.
        store: the server's database, with what the operator wishes of the run and who is suspended.
    """

    def __init__(self, hub: Hub, standing: Standing, trust: LiveTrust, refusals: Refusals, store: Store) -> None:
        self._hub, self._standing, self._trust, self._refusals = hub, standing, trust, refusals
        self._store = store
        self._told = trust.get().bundle

    async def keep(self) -> None:
        """Look twice a heartbeat, with one query for all sites, until cancelled."""
        while True:
            try:
                await self.look()
            except FedwonError as error:
                logger.warning("revocations could not be looked up: %s", error.message)
            await self._pass()

    async def _pass(self) -> None:
        """Wait half a heartbeat, or until somebody in this process says that there is something new."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hub.hurried.wait(), self._hub.heartbeat_seconds / 2)
        self._hub.hurried.clear()

    async def look(self) -> None:
        """Look once.

        Raises:
            StorageError: the database cannot be read.
        """
        found = await self._standing.refresh()
        self._hub.bar({site: f"revoked: {reason}" for site, reason in found.barred.items()})
        self._hub.suspend(await asyncio.to_thread(suspended, self._store))
        for session in list(self._hub.sessions.values()):
            text = self._standing.refusal(session.peer) if session.peer else None
            if text is not None and session.refusal is None:
                logger.warning("the session of site %s is ended: %s", session.site, text)
                self._refusals.note("revoked certificate", session.site, f"its open session was ended; {text}")
                session.expel(Revoked(text))
        self._hub.wished(await asyncio.to_thread(wishes.current, self._store))
        self._tell_trust()

    def _tell_trust(self) -> None:
        bundle = self._trust.get().bundle
        if bundle != self._told:
            self._told = bundle
            logger.info("the federation's authorities have changed; every site that is connected is told")
            for session in self._hub.sessions.values():
                session.outgoing.put_nowait(pb.FromServer(trust=pb.Trust(authorities=bundle)))


def renew_own(store: Store, config: ServerConfig, trust: LiveTrust) -> None:
    """Make the server's certificate anew if it is time to.

    Raises:
        KeyExposed: others can read its key.
        StorageError: it cannot be written.
    """
    reason = server_is_due(trust.pki)
    if reason:
        ends = renew_server(trust.pki, config.names)
        logger.info("the server's certificate was made anew (%s); it ends at %s", reason, f"{ends:%Y-%m-%d}")
        store.audit("server certificate renewed", config.federation, f"by itself: {reason}; until {ends:%Y-%m-%d}")


async def keep_own(store: Store, config: ServerConfig, trust: LiveTrust) -> None:
    """Renew the server's certificate before it ends, until cancelled."""
    while True:
        await asyncio.sleep(OWN_SECONDS)
        try:
            await asyncio.to_thread(renew_own, store, config, trust)
        except FedwonError as error:
            logger.error("the server's certificate could not be renewed: %s", error.message)  # noqa: TRY400
