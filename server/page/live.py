"""Live: the page hears of every change in the database, whoever made it, without a query while nothing changes.

SQLite counts the commits of other connections (`PRAGMA data_version`); asking for the count reads no table. What is
shown is computed once for a change, for all browsers together.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.5
"""How often the count is asked for while a browser listens."""
STALE_SECONDS = 10.0
"""Times such as "3 min ago" are told anew so often at least."""
SHARE = 10
"""A page takes a tenth of one processor at most: looks are so many times as far apart as it takes to compute it."""
MOST_LISTENERS = 64


class Changes:
    """Counts the commits to a database by others than this object.

    Args:
        path: the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._open: sqlite3.Connection | None = None

    def count(self) -> int:
        """Return a number that changes with every commit; -1 while the database cannot be read."""
        with self._lock:
            try:
                if self._open is None:
                    self._open = sqlite3.connect(
                        f"{self._path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
                    )
                return int(self._open.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error:
                self._close()
                return -1

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._open is not None:
            with suppress(sqlite3.Error):
                self._open.close()
            self._open = None


class Cached(Generic[T]):
    """A value that is computed anew once the database has changed, or it is ten seconds old.

    Args:
        compute: makes it.
        changes: says whether the database has changed.
    """

    def __init__(self, compute: Callable[[], T], changes: Changes) -> None:
        self._compute, self._changes, self._lock = compute, changes, threading.Lock()
        self._held: tuple[int, float, T] | None = None
        self.seconds = 0.0
        """What the last computation took."""

    def get(self) -> T:
        """Return the value; several threads that ask at once wait for one computation.

        Raises:
            StorageError: the database cannot be read.
        """
        with self._lock:
            count = self._changes.count()
            if self._held is not None:
                seen, when, value = self._held
                if seen == count and count >= 0 and time.monotonic() - when < STALE_SECONDS:
                    return value
            began = time.monotonic()
            value = self._compute()
            self._held = (count, time.monotonic(), value)
            self.seconds = time.monotonic() - began
            return value


class Announcer:
    """Tells browsers that something has changed, as server-sent events.

    Args:
        changes: what is looked at.
        seconds: what it takes to compute the page: a federation of a thousand sites is told of more rarely.
    """

    def __init__(self, changes: Changes, seconds: Callable[[], float] = lambda: 0.0) -> None:
        self._changes, self._seconds = changes, seconds
        self._listeners = 0
        self.ended = False

    @property
    def full(self) -> bool:
        """Whether so many browsers listen that no other can."""
        return self._listeners >= MOST_LISTENERS

    async def events(self) -> AsyncIterator[str]:
        """Yield server-sent events, until the server ends; the first at once, so that a browser knows that it is on."""
        self._listeners += 1
        try:
            seen = await asyncio.to_thread(self._changes.count)
            yield f"retry: 2000\nevent: change\ndata: {seen}\n\n"
            told = time.monotonic()
            while not self.ended:
                await asyncio.sleep(min(max(LOOK_SECONDS, SHARE * self._seconds()), STALE_SECONDS))
                count, moment = await asyncio.to_thread(self._changes.count), time.monotonic()
                if count != seen or moment - told > STALE_SECONDS:
                    seen, told = count, moment
                    yield f"event: change\ndata: {count}\n\n"
        finally:
            self._listeners -= 1
