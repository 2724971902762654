"""The desk that hands releases to sites while the server runs.

It looks into the database for open orders, tells each site its own as long as that is open, and hands out the files.
Orders come from other processes (`fedwon-server promote`), so they survive restarts of this one.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from fedwon.common.arrays import Blob
from fedwon.common.config import parse
from fedwon.common.errors import FedwonError, UntrustedRelease
from fedwon.common.files import read_bytes, sha256_file
from fedwon.common.gates import Gates
from fedwon.common.release import MANIFEST, SIGNATURE, open_release
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.release_orders import gates_to_wire, said_from_wire
from fedwon.server.link.hub import Hub
from fedwon.server.link.session import SiteSession
from fedwon.server.releases.orders import OrderRow, Said, note, open_orders
from fedwon.server.store import Store

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often open orders are looked for, at the most; a shorter heartbeat makes it oftener."""

Files = dict[str, Blob]


class Desk:
    """Open orders, told and served.

    Args:
        hub: the sessions.
        store: the server's database.
        folder: the server's folder, which has `releases/` and `pki/`.
    """

    def __init__(self, hub: Hub, store: Store, folder: Path) -> None:
        self._hub, self._store, self._folder = hub, store, folder
        self._open: dict[str, OrderRow] = {}
        self._files: dict[str, Files] = {}

    async def keep(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except FedwonError as error:
                logger.warning("orders about releases could not be looked up: %s", error.message)
            await asyncio.sleep(min(LOOK_SECONDS, self._hub.heartbeat_seconds / 2))

    async def look(self) -> None:
        """Look once, and tell sites what is new to them.

        Raises:
            StorageError: the database cannot be read.
        """
        self._open = await asyncio.to_thread(open_orders, self._store)
        for site, session in list(self._hub.sessions.items()):
            order = self._open.get(site)
            if session.releases and session.order != (order.id if order else ""):
                await self._tell(session, order)

    async def _tell(self, session: SiteSession, order: OrderRow | None) -> None:
        told, session.order = session.order, order.id if order else ""
        if order is None:
            message = pb.ReleaseOrder(id=told, kind="hold")
        else:
            try:
                message = await asyncio.to_thread(self._message, order)
            except FedwonError as error:
                said = Said(order.id, "failed", reason=f"the server cannot hand it out: {error.message}")
                await asyncio.to_thread(note, self._store, order.site, said)
                return
        logger.info("site is told to %s %s", message.kind, message.release, extra={"site": session.site})
        session.outgoing.put_nowait(pb.FromServer(release=message))

    def _message(self, order: OrderRow) -> pb.ReleaseOrder:
        message = pb.ReleaseOrder(id=order.id, kind=order.kind, release=order.release)
        if order.kind == "promote":
            files = self._files[order.release] = self._opened(order.release)
            gates = parse(Gates, order.gates, f"the gates of {order.release}")
            message.gates.CopyFrom(gates_to_wire(gates))
            for file, wanted in ((MANIFEST, message.manifest), (SIGNATURE, message.signature)):
                wanted.digest, wanted.size = files[file].digest, files[file].size
        return message

    def _opened(self, name: str) -> Files:
        """Look at every byte once more: what was changed since it was promoted goes to nobody."""
        place = self._folder / "releases" / name
        manifest = open_release(place, read_bytes(self._folder / "pki" / "ca.pem")).manifest
        if manifest.name != name:
            raise UntrustedRelease(f"{place} holds release {manifest.name}.")
        files = {file: Blob(place / file, wanted.sha256, wanted.size) for file, wanted in manifest.files.items()}
        for file in (MANIFEST, SIGNATURE):
            path = place / file
            files[file] = Blob(path, sha256_file(path), path.stat().st_size)
        return files

    async def fetchable(self, site: str, digest: str) -> Blob | None:
        """Return a file of the release that a site is to take, None where it has no such order.

        Raises:
            UntrustedRelease: the release was changed since it was made.
        """
        order = self._open.get(site)
        if order is None or order.kind != "promote":
            return None
        if order.release not in self._files:  # a site goes on with a transfer that began before a restart
            self._files[order.release] = await asyncio.to_thread(self._opened, order.release)
        return next((blob for blob in self._files[order.release].values() if blob.digest == digest), None)

    async def answered(self, session: SiteSession, answer: pb.ReleaseAnswer) -> None:
        """Write down what a site said."""
        said = said_from_wire(answer)
        try:
            counted = await asyncio.to_thread(note, self._store, session.site, Said(**said))
        except FedwonError as error:  # the order stays open, so the site says it again when it connects again
            logger.warning("what site %s said to a release could not be noted: %s", session.site, error.message)
            return
        if counted:
            self._open.pop(session.site, None)
            session.order = ""
            logger.info("release: %s %s", said["state"], said["reason"], extra={"site": session.site})
