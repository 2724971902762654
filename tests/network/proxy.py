"""A TCP proxy that does to connections what networks do to them.

It lives in a thread of the test, between real sites and a real server. `up` is from the site to the server.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Self

UP, DOWN = "up", "down"
READ = 16 * 1024
FOREVER = 10**9


class Connection:
    """One connection through the proxy.

    Attributes:
        bytes: what was handed on, by way.
        pieces: the sizes of what was read at once, by way.
        frozen: ways on which nothing is handed on any more, and nobody is told.
    """

    def __init__(self) -> None:
        self.born = self.last = time.monotonic()
        self.bytes = {UP: 0, DOWN: 0}
        self.pieces: dict[str, Counter[int]] = {UP: Counter(), DOWN: Counter()}
        self.frozen: set[str] = set()
        self.writers: list[asyncio.StreamWriter] = []

    def cut(self, reset: bool = True) -> None:
        """End it: with RST on both sides, or as if both had closed it."""
        for writer in self.writers:
            if reset and (raw := writer.get_extra_info("socket")) is not None:
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


class FaultProxy:
    """Stands between sites and a server.

    Args:
        target: `host:port` of the server.

    Attributes:
        frozen: ways on which nothing is handed on for now, on no connection; they all stay.
        nat_seconds: a connection that was quiet for so long is forgotten.
        life: seconds after which a connection is cut.
        delay: seconds by which each piece comes later.
        rate: bytes a second, of each way, shared by all connections; None: no limit.
        connections: all that there have been.
        notes: what the proxy did.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.frozen: set[str] = set()
        self.nat_seconds = self.life = float(FOREVER)
        self.delay = 0.0
        self.rate: float | None = None
        self.connections: list[Connection] = []
        self.notes: list[str] = []
        self._cuts: dict[str, int] = {}
        self._corruptions: dict[str, int] = {}
        self._free_at = {UP: 0.0, DOWN: 0.0}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        """Where sites connect."""
        return f"127.0.0.1:{self.port}"

    def total(self, way: str) -> int:
        """Bytes that were handed on."""
        return sum(connection.bytes[way] for connection in self.connections)

    def open(self) -> list[Connection]:
        """Connections that stand."""
        return [one for one in self.connections if any(not writer.is_closing() for writer in one.writers)]

    # ---- faults

    def cut(self, *, reset: bool = True) -> None:
        """Cut every connection."""

        async def _cut() -> None:
            for connection in self.connections:
                connection.cut(reset)

        self._do(_cut())

    def freeze(self, *ways: str) -> None:
        """Make every connection that stands half-open: it stays, carries nothing these ways, and never will."""
        for connection in self.open():
            connection.frozen |= set(ways)

    def cut_at(self, way: str, count: int) -> None:
        """Cut the next connection that carries so many bytes, behind exactly that byte; once."""
        self._cuts[way] = count

    def corrupt_at(self, way: str, count: int) -> None:
        """Turn a bit of that byte of the next connection that carries so many; once."""
        self._corruptions[way] = count

    def refuse(self) -> None:
        """Listen no more, and cut what stands: connections are refused."""
        self._do(self._stop_listening())
        self.cut()

    def accept(self) -> None:
        """Listen again, at the same port."""
        self._do(self._listen())

    # ---- inside

    def _do(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        await self._stop_listening()
        for connection in self.connections:
            connection.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._join(reader, writer))
        self._tasks.add(task)
        await asyncio.wait({task})
        self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection()
        connection.writers.append(writer)
        self.connections.append(connection)
        host, _, port = self.target.rpartition(":")
        try:
            their_reader, their_writer = await asyncio.open_connection(host, int(port))
            connection.writers.append(their_writer)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pump(connection, UP, reader, their_writer))
                ways.create_task(self._pump(connection, DOWN, their_reader, writer))
                ways.create_task(self._age(connection))
        except* (OSError, _Over):
            pass
        finally:
            connection.cut(reset=False)

    async def _age(self, connection: Connection) -> None:
        while time.monotonic() - connection.born < self.life:  # noqa: ASYNC110  # the test may change it
            await asyncio.sleep(0.05)
        self.notes.append(f"cut after {self.life:g} s")
        connection.cut()
        raise _Over

    async def _pump(
        self, connection: Connection, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(4096 if self.rate else READ):
            now = time.monotonic()
            if now - connection.last > self.nat_seconds:
                connection.frozen = {UP, DOWN}
                self.notes.append("forgotten")
            connection.last = now
            await self._hold(connection, way, len(data))
            data, over = self._spoil(connection, way, data)
            writer.write(data)
            await writer.drain()
            connection.bytes[way] += len(data)
            connection.pieces[way][len(data)] += 1
            if over:
                connection.cut()
                raise _Over
        await self._thawed(connection, way)  # nobody hears of an end on the other side of a line that carries nothing
        raise _Over

    async def _hold(self, connection: Connection, way: str, count: int) -> None:
        """Wait until that many bytes may pass."""
        await asyncio.sleep(self.delay)
        if self.rate:
            begin = max(self._free_at[way], time.monotonic())
            self._free_at[way] = begin + count / self.rate
            await asyncio.sleep(self._free_at[way] - time.monotonic())
        await self._thawed(connection, way)

    async def _thawed(self, connection: Connection, way: str) -> None:
        while way in self.frozen or way in connection.frozen:  # noqa: ASYNC110  # the test changes them
            await asyncio.sleep(0.02)

    def _spoil(self, connection: Connection, way: str, data: bytes) -> tuple[bytes, bool]:
        """Return what passes of the data, and whether the connection ends behind it."""
        before = connection.bytes[way]
        place = self._corruptions.get(way, FOREVER) - before
        if 0 <= place < len(data):
            del self._corruptions[way]
            self.notes.append(f"corrupted byte {before + place} {way}")
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        place = self._cuts.get(way, FOREVER) - before
        if 0 <= place <= len(data):
            del self._cuts[way]
            self.notes.append(f"cut at byte {before + place} {way}")
            return data[:place], True
        return data, False


class _Over(Exception):
    """A connection has ended."""
