"""How a release comes to a line: fetched, found to be the federation's, measured on the line's own images, used.

One order at a time. What was said to the last one is kept beside the releases, so that an order which is said again
(the answer was lost, or either side began anew) gets the same answer and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedwon.client.config import ClientConfig
from fedwon.client.link.transfers import OpenChannel
from fedwon.client.releases.fetching import Fetcher
from fedwon.client.releases.shelf import Shelf
from fedwon.common.errors import FedwonError, LinkError, ReleaseMissing, UntrustedRelease
from fedwon.common.files import read_bytes
from fedwon.common.gates import Figures, shortcomings
from fedwon.common.release import MANIFEST, SIGNATURE, Release, check_signature, open_release, parse_manifest
from fedwon.common.system_errors import storage_error
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.release_orders import answer_to_wire, gates_from_wire

logger = logging.getLogger(__name__)

INCOMING = ".incoming"
Answer = dict[str, Any]


class Adoption:
    """Carries out orders about releases at one site.

    Args:
        config: client.yaml: where the images are, threads, the site's own gates.
        folder: the site's folder.

    Attributes:
        wake: set it when the line to the server stands again, so that a transfer goes on at once.
    """

    def __init__(self, config: ClientConfig, folder: Path) -> None:
        self._config, self._folder, self._shelf = config, folder, Shelf(folder)
        self._doing = ""
        self._work: asyncio.Task[None] | None = None
        self._open: OpenChannel | None = None
        self._tell: Callable[[pb.FromSite], None] = lambda _: None
        self.wake = asyncio.Event()

    def connect(self, opener: OpenChannel, tell: Callable[[pb.FromSite], None]) -> None:
        """Take what opens a channel, and what sends a message in the session of the moment."""
        self._open, self._tell = opener, tell

    def order(self, order: pb.ReleaseOrder) -> None:
        """Begin to carry out an order, in place of one that is under way; must be called in the event loop."""
        under_way = self._work is not None and not self._work.done()
        if under_way and order.id == self._doing and order.kind != "hold":
            return
        if self._work is not None and under_way:
            self._work.cancel()
        if order.kind != "hold":
            self._doing = order.id
            self._work = asyncio.create_task(self._answer(order))

    async def _answer(self, order: pb.ReleaseOrder) -> None:
        try:
            answer = await self._carried_out(order)
        except FedwonError as error:
            answer = await asyncio.to_thread(self._excuse, order, error)
        except Exception:
            logger.exception("the order about release %s ended with an unexpected error", order.release)
            answer = self._said("failed", "an unexpected error; the site's log tells more")
        logger.info("release %s: %s %s", order.release or order.kind, answer["state"], answer.get("reason", ""))
        self._tell(pb.FromSite(released=answer_to_wire(order.id, answer)))

    async def _carried_out(self, order: pb.ReleaseOrder) -> Answer:
        standing = await asyncio.to_thread(lambda: self._shelf.standing)
        if standing.order == order.id:
            return standing.answer
        if order.kind == "rollback":
            return await asyncio.to_thread(self._roll_back, order.id)
        if order.kind != "promote":
            raise LinkError(f"This version knows no order `{order.kind[:20]}` about a release.")
        release = await self._brought(order)
        answer = await asyncio.to_thread(self._judged, release, order)
        if answer["state"] == "in use":  # here and not in the thread, which goes on when the order is withdrawn
            self._shelf.switch(order.release, order.id, answer)
        else:
            self._shelf.note(order.id, answer)
            self._forget(order.release)
        return answer

    def _roll_back(self, order: str) -> Answer:
        before = self._shelf.standing.before
        if before is None:
            raise ReleaseMissing("There is no release before this one at the site.")
        open_release(self._shelf.place(before), self._authorities())
        return {"state": "in use", "release": self._shelf.go_back(order, {"state": "in use"})}

    async def _brought(self, order: pb.ReleaseOrder) -> Release:
        """Return the release, its signature and every file checked; fetched unless it is here."""
        place = self._shelf.place(order.release)
        here = await asyncio.to_thread(self._whole, place, order)
        if here is not None:
            return here
        incoming = self._shelf.folder / INCOMING / order.manifest.digest
        await asyncio.to_thread(_make, incoming)
        if self._open is None:
            raise LinkError("There is no way to the server yet.")
        fetcher = Fetcher(self._open, self._config.server, incoming, self.wake)
        await fetcher.bring(MANIFEST, order.manifest.digest, order.manifest.size)
        await fetcher.bring(SIGNATURE, order.signature.digest, order.signature.size)
        content = await asyncio.to_thread(read_bytes, incoming / MANIFEST)
        # ahead of the large files: nothing is fetched for whoever is not the federation
        check_signature(content, read_bytes(incoming / SIGNATURE), self._authorities(), f"release {order.release}")
        manifest = parse_manifest(content, f"release {order.release}")
        if manifest.name != order.release:
            raise UntrustedRelease(f"The server hands out release {manifest.name} under the name {order.release}.")
        for name, file in manifest.files.items():
            await fetcher.bring(name, file.sha256, file.size)
        return await asyncio.to_thread(self._taken_in, incoming, place)

    def _whole(self, place: Path, order: pb.ReleaseOrder) -> Release | None:
        """Return the release that is here already, if it is the one that is ordered, and whole."""
        try:
            release = open_release(place, self._authorities())
            content = read_bytes(place / MANIFEST)
        except FedwonError:
            return None
        return release if sha256(content).hexdigest() == order.manifest.digest else None

    def _taken_in(self, incoming: Path, place: Path) -> Release:
        open_release(incoming, self._authorities())
        try:
            shutil.rmtree(place, ignore_errors=True)
            incoming.rename(place)
        except OSError as error:
            raise storage_error(error, f"moving {incoming} to {place}") from None
        shutil.rmtree(incoming.parent, ignore_errors=True)  # and what other orders left there
        return open_release(place, self._authorities())

    def _judged(self, release: Release, order: pb.ReleaseOrder) -> Answer:
        from fedwon.client.releases.measuring import measure  # loads what decodes a site's images

        asked, own = gates_from_wire(order.gates), self._config.gates
        for gates in (asked, own):
            gates.check(release.manifest.classes)
        measured = measure(release, self._config, self._folder)
        short = [text for gates in (asked, own) for text in shortcomings(gates, measured(gates.defects))]
        shown = measured(asked.defects or own.defects)
        if short:
            return self._said("refused", "; ".join(dict.fromkeys(short)), shown)
        return {"state": "in use", "release": order.release, "figures": shown.model_dump()}

    def _said(self, state: str, reason: str, figures: Figures | None = None) -> Answer:
        counted = {} if figures is None else {"figures": figures.model_dump()}
        try:
            using = self._shelf.standing.in_use
        except FedwonError:
            using = None
        return {"state": state, "release": using, "reason": reason, **counted}

    def _excuse(self, order: pb.ReleaseOrder, error: FedwonError) -> Answer:
        state = "refused" if isinstance(error, UntrustedRelease) else "failed"
        logger.error("release %s: %s %s", order.release or order.kind, error.message, error.hint)
        answer = self._said(state, error.message)
        try:
            self._shelf.note(order.id, answer)
            self._forget(order.release)
        except FedwonError as failed:  # then the order is carried out once more when it is said again
            logger.warning("%s", failed.message)
        return answer

    def _forget(self, name: str) -> None:
        """Delete a release that the line does not use, nor go back to."""
        standing = self._shelf.standing
        if name and name not in {standing.in_use, standing.before}:
            shutil.rmtree(self._shelf.place(name), ignore_errors=True)

    def _authorities(self) -> bytes:
        return read_bytes(self._folder / "pki" / "ca.pem")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {folder}") from None
