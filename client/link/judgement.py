"""What a site does when it has no session: say why and try again, or give up."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from fedwon.client.link.handshake import NOT_VALID_YET, shake_hands
from fedwon.common import notify
from fedwon.common.errors import DuplicateSite, FedwonError, LinkError, Refused, Revoked, Unreachable, VersionGap

SECURE = "No secure connection"
"""How `from_rpc` begins what it says of a server whose certificate this side does not accept."""

logger = logging.getLogger(__name__)

REFUSALS = 3
"""So often a server must turn this site's certificate down before it is believed: one that goes down looks alike."""

SAY_AGAIN_SECONDS = 600.0
"""A reason that stays the same is repeated so often in the log."""


class Judgement:
    """Judges why a session ended.

    Args:
        server: its address.
        folder: the site's folder.
        patience: seconds during which another client with this identity may be this box's own broken session.
    """

    def __init__(self, server: str, folder: Path, patience: float) -> None:
        self._server, self._folder, self._patience = server, folder, patience
        self._connected_once = False
        self._since: float | None = None
        self._duplicate_since: float | None = None
        self._refusals = 0
        self._said = ("", 0.0)

    def connected(self) -> None:
        """Note that a session stands."""
        self._connected_once, self._since, self._duplicate_since, self._refusals = True, time.monotonic(), None, 0
        self._said = ("", 0.0)
        notify.status(f"connected to {self._server}")

    @property
    def standing(self) -> bool:
        """Whether there is a session now."""
        return self._since is not None

    def lasted(self) -> float:
        """Return how long the last session stood; 0 where there was none since the last question."""
        since, self._since = self._since, None
        return 0.0 if since is None else time.monotonic() - since

    def moved(self, server: str) -> None:
        """Take another address."""
        self._server = server

    async def pronounce(self, error: FedwonError) -> None:
        """Log why there is no session, or raise what will not go away by itself.

        Raises:
            VersionGap: always.
            DuplicateSite: another client holds this identity for longer than the patience.
            Revoked: always; the operator has taken this site out.
            Refused: the server did not accept this site before it ever did.
        """
        stood = self._since is not None  # then the certificate is accepted, and the line broke
        if not stood and isinstance(error, Unreachable) and "socket closed" in error.message.lower():
            error = await self._explained(error)
        if isinstance(error, Refused) and SECURE in error.message:
            error = await self._in_detail(error)
        if isinstance(error, VersionGap | Revoked) or (isinstance(error, Refused) and not self._connected_once):
            raise error
        if isinstance(error, DuplicateSite):
            self._bear(error)
        self._say(error)

    async def _explained(self, error: FedwonError) -> FedwonError:
        """Tell a server that turns this site's certificate down from one that goes down."""
        try:
            await asyncio.to_thread(shake_hands, self._server, self._folder)
        except Refused as refusal:
            self._refusals += 1
            return refusal if self._refusals >= REFUSALS else LinkError(refusal.message, hint=refusal.hint)
        except FedwonError:
            return error
        self._refusals = 0
        return error

    async def _in_detail(self, error: FedwonError) -> FedwonError:
        """Say why this site does not accept the server's certificate; a clock that is behind may yet be set."""
        found: FedwonError = error
        try:
            await asyncio.to_thread(shake_hands, self._server, self._folder)
        except Refused as refusal:
            found = refusal
        except FedwonError:
            logger.debug("the server cannot be asked again why")
        if NOT_VALID_YET in found.message:  # also where the clock was set a moment ago
            return LinkError(found.message, hint=found.hint)
        return found

    def _bear(self, error: DuplicateSite) -> None:
        if self._duplicate_since is None:
            self._duplicate_since = time.monotonic()
        if time.monotonic() - self._duplicate_since >= self._patience:
            raise error

    def _say(self, error: FedwonError) -> None:
        text, when = self._said
        now = time.monotonic()
        old = text == error.slug and now - when < SAY_AGAIN_SECONDS
        if not old:
            self._said = (error.slug, now)
        notify.status(f"not connected: {error.message}")
        logger.log(logging.DEBUG if old else logging.WARNING, "%s %s", error.message, _next_step(error))


def _next_step(error: FedwonError) -> str:
    if isinstance(error, DuplicateSite):
        return "It may be this box's own broken connection; trying again."
    if isinstance(error, Unreachable):
        return "Trying again until it answers."
    return f"Trying again. {error.hint}"
