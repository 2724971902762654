"""Turns at transfers: how many the server begins at the same moment, when a thousand sites want one.

All transfers pass through one event loop, and each may have a megabyte on its way (`LOOKAHEAD`). Without turns a
round's thousand transfers hold a gigabyte of buffers, and heartbeats wait for seconds behind their events; with turns
the sites come one after the other, and the first updates are looked at while the last models are still on their way.

A turn is for the beginning: whoever still transfers after a quarter of a second keeps the line and gives the turn back.
So sites on slow lines, which cost the event loop little, hold nobody up. While the event loop is behind its work, turns
last longer, for then nothing is gained by more of them. A site has one turn at a time, whatever it asks for at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

AT_ONCE = 16
SECONDS = 0.25
LONGEST = 10.0
"""Seconds after which a turn ends however far the event loop is behind: dead lines must not hold up a busy server."""
BEHIND = 0.05
"""Seconds by which a timer is late where the event loop has more to do than it can."""


class Turns:
    """The turns of one server.

    Args:
        at_once: how many there are.
        seconds: how long one lasts while the event loop keeps up.
    """

    def __init__(self, at_once: int = AT_ONCE, seconds: float = SECONDS) -> None:
        self._free, self._seconds = asyncio.Semaphore(at_once), seconds
        self._of_site: dict[str, asyncio.Lock] = {}

    async def take(self, site: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Wait for a turn; it is given back when the call ends, or while the call goes on.

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

        def _give_back() -> None:
            self._free.release()
            own.release()

        turn = _Turn(self._seconds, _give_back)
        context.add_done_callback(turn.end)  # type: ignore[arg-type]  # the stubs want a class of their own


class _Turn:
    """One turn: `give_back` is called once."""

    def __init__(self, seconds: float, give_back: Callable[[], None]) -> None:
        self._seconds, self._give_back, self._ended = seconds, give_back, False
        self._loop = asyncio.get_running_loop()
        self._latest = self._loop.time() + LONGEST
        self._wait()

    def _wait(self) -> None:
        due = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        moment = self._loop.time()
        if due + BEHIND < moment < self._latest:
            self._wait()
        else:
            self.end()

    def end(self, _: object = None) -> None:
        """Give the turn back, unless it was."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._give_back()
