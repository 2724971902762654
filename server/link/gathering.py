"""The database for many calls at once: what comes while one transaction is under way shares the next one.

A call that comes alone waits for nobody. When a thousand sites call at the same moment, after an outage of the line or
the server, a handful of transactions serves them all, where each would otherwise wait for its turn to write and for the
disk (see docs/decisions/0022-many-sessions.md).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

MOST = 500
"""Calls that share a transaction, at most: others that write wait no longer than for these."""


class Gathering(Generic[A, R]):
    """Work that is done for several calls together, in the order in which they came.

    Args:
        work: does it, in a thread; returns for each item, in their order, what the call gets: a value, or the error
            that this one call ends with. What it raises, all of them end with.
    """

    def __init__(self, work: Callable[[Sequence[A]], Sequence[R | Exception]]) -> None:
        self._work = work
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._going: asyncio.Task[None] | None = None

    async def do(self, item: A) -> R:
        """Have the work done for one item; where the call is cancelled meanwhile, it is done nonetheless.

        Raises:
            Exception: what the work returned for this item, or raised.
        """
        outcome: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, outcome))
        if self._going is None:
            self._going = asyncio.create_task(self._go())
        return await outcome

    async def _go(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                for (_, outcome), found in zip(batch, await self._done(batch), strict=True):
                    if outcome.done():  # the call was cancelled
                        continue
                    if isinstance(found, Exception):
                        outcome.set_exception(found)
                    else:
                        outcome.set_result(found)
        finally:
            self._going = None

    async def _done(self, batch: Sequence[tuple[A, asyncio.Future[R]]]) -> Sequence[R | Exception]:
        try:
            return await asyncio.to_thread(self._work, [item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  # each call raises it, and writes its own trace into it
            return [copy.copy(error) for _ in batch]
