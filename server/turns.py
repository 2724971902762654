"""Turns at transfers: how many the server begins at the same moment, when a thousand sites want one.

All transfers pass through one event loop, and each may have a megabyte on its way (`LOOKAHEAD`). Without turns a
round's thousand transfers hold a gigabyte of buffers, and heartbeats wait for seconds behind their events; with turns
the sites come one after the other, and the first updates are looked at while the last models are still on their way.

A turn is for the beginning: whoever still transfers after a second keeps the line and gives the turn back. So sites on
slow lines, which cost the event loop little, hold nobody up, and 64 more begin in each second at the least. A site has
one turn at a time, whatever it asks for at once.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

AT_ONCE = 64
SECONDS = 1.0


class Turns:
    """The turns of one server.

    Args:
        at_once: how many there are.
        seconds: how long one lasts at most.
    """

    def __init__(self, at_once: int = AT_ONCE, seconds: float = SECONDS) -> None:
        self._free, self._seconds = asyncio.Semaphore(at_once), seconds
        self._of_site: dict[str, asyncio.Lock] = {}

    async def take(self, site: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Wait for a turn; it is given back when the call ends, or after a second.

        Args:
            site: who calls, by its certificate.
            context: of the call.
        """
        own = self._of_site.setdefault(site, asyncio.Lock())
        await own.acquire()
        try:
            await self._free.acquire()
        except BaseException:
            own.release()
            raise
        taken = True

        def _give_back(_: object = None) -> None:
            nonlocal taken
            if taken:
                taken = False
                limit.cancel()
                self._free.release()
                own.release()

        limit = asyncio.get_running_loop().call_later(self._seconds, _give_back)
        context.add_done_callback(_give_back)  # type: ignore[arg-type]  # the stubs want a class of their own
