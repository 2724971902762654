"""Bulk data between gRPC's event loop and the disk: every touch of a file happens in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from fedwon.common.arrays import Blob
from fedwon.common.errors import BrokenFile, LinkError, Refused
from fedwon.common.system_errors import storage_error
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.grpc_errors import PIECE
from fedwon.server.link.pieces import SharedPieces, key_of

T = TypeVar("T")

MOST_GATHERED = 8
"""Pieces of an upload that wait for the disk (2 MiB); a faster line waits with them."""


_SHARED = SharedPieces()


async def read_chunks(path: Path, offset: int) -> AsyncGenerator[bytes, None]:
    """Read a file piece by piece; what others read at the same time is read once.

    Args:
        path: the file.
        offset: first byte.

    Raises:
        StorageError: it cannot be read.
    """
    _SHARED.enter()
    try:
        with await _opened(path) as file:
            key, (number, skipped) = key_of(file), divmod(offset, PIECE)
            while data := (await _SHARED.get(file, key, number))[skipped:]:
                yield data
                number, skipped = number + 1, 0
    except OSError as error:
        raise storage_error(error, f"reading {path}") from None
    finally:
        _SHARED.leave()


async def _opened(path: Path) -> BufferedReader:
    opening = asyncio.ensure_future(asyncio.to_thread(path.open, "rb"))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_closed)
        raise


def _closed(opening: asyncio.Future[BufferedReader]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def unbroken(work: Callable[[], T]) -> T:
    """Do something in a thread and wait for its end even when the call that asked for it is cancelled.

    Whoever comes next may then trust the file: nobody writes there any more.
    """
    return await finished(asyncio.ensure_future(asyncio.to_thread(work)))


async def finished(doing: asyncio.Future[T]) -> T:
    """Wait for the end of what was begun even when the call that waits is cancelled."""
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait({doing})
        raise


class Patience:
    """How long a transfer may still stand still.

    Args:
        seconds: without movement.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._ended = seconds, False
        self.over = False
        self.limit = asyncio.timeout(seconds)

    def moved(self) -> None:
        """Begin to count anew."""
        if not self._ended:
            self._reschedule(self._seconds)

    def end(self) -> None:
        """End the transfer now: another call stands in its place."""
        self._ended = True
        self._reschedule(0.0)

    def _reschedule(self, seconds: float) -> None:
        if not self.over and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time() + seconds)

    @property
    def reason(self) -> str:
        """Why it was ended."""
        if self._ended:
            return "The site has begun this transfer anew on another line."
        return f"Nothing has moved for {self._seconds:.0f} s."


@contextlib.asynccontextmanager
async def moving(seconds: float) -> AsyncIterator[Patience]:
    """Do a transfer inside, and break it off where nothing moves.

    Raises:
        LinkError: nothing has moved for so long, or the transfer was begun anew elsewhere.
    """
    patience = Patience(seconds)
    try:
        async with patience.limit:
            yield patience
    except TimeoutError:
        raise LinkError(patience.reason) from None
    finally:
        patience.over = True


class Upload:
    """A file that arrives in pieces, if need be over several calls.

    Pieces are written, and their digest made, in a thread while the next ones come: on a slow line each at once, on a
    fast one those that have come meanwhile together.

    Args:
        part: what is here so far; it stays when a call breaks off, so that the next one goes on there.
        wanted: the digest and size that the whole must have.
    """

    def __init__(self, part: Path, wanted: pb.Blob) -> None:
        self.part, self.wanted = part, wanted
        self.whole = part.with_suffix(f".{wanted.packing or 'safetensors'}")
        self._have, self._digest = 0, hashlib.sha256()
        self._gathered: list[bytes] = []
        self._writing: asyncio.Future[None] | None = None

    def begin(self) -> int:
        """Return how many bytes are here already; the sender goes on behind them.

        Raises:
            StorageError: the folder cannot be read.
        """
        try:
            if self.whole.exists():  # all was here before the server went down: it need not come again
                self.whole.replace(self.part)
            self._have = self.part.stat().st_size if self.part.exists() else 0
            if self._have > self.wanted.size:  # of another outcome of the same task
                self.part.unlink()
                self._have = 0
            if self._have:
                with self.part.open("rb") as file:
                    self._digest = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise storage_error(error, f"reading {self.part}") from None
        return self._have

    async def add(self, data: bytes) -> None:
        """Append a piece; it is on its way to the file when this returns, and there after `settle`.

        Raises:
            DiskFull: no space left for this piece or one before; what came before that stays.
            Refused: more came than was announced.
        """
        if self._have + len(data) > self.wanted.size:
            raise Refused("More bytes came than the header announced.")
        if self._writing is not None and (self._writing.done() or len(self._gathered) >= MOST_GATHERED):
            await self._written()
        self._have += len(data)
        self._gathered.append(data)
        self._write()

    def _write(self) -> None:
        if self._writing is None and self._gathered:
            gathered, self._gathered = self._gathered, []
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._append, gathered))

    async def _written(self) -> None:
        """Wait for what is being written; where the call is cancelled meanwhile, too."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                await finished(writing)
            finally:
                if not writing.done() or writing.exception() is not None:
                    self._gathered.clear()  # nothing is written behind what is missing

    async def settle(self) -> None:
        """Wait until all that came is in the file; nobody writes there any more, whatever this raises.

        Raises:
            DiskFull: no space left; what came before stays.
        """
        try:
            await self._written()
        finally:  # a call that is cancelled while it waits: what has come is written all the same
            self._write()
            await self._written()

    def _append(self, pieces: Sequence[bytes]) -> None:
        try:
            with self.part.open("ab") as file:
                file.writelines(pieces)
        except OSError as error:
            raise storage_error(error, f"writing {self.part}") from None
        for data in pieces:
            self._digest.update(data)

    def finish(self) -> Blob:
        """Check the whole and give it its name.

        Raises:
            BrokenFile: it is not whole, or not what its digest says; the sender may begin again.
            StorageError: it cannot be read.
        """
        if self._have < self.wanted.size:
            raise BrokenFile(f"The update ended after {self._have} of {self.wanted.size} bytes.")
        if self._digest.hexdigest() != self.wanted.digest:
            with contextlib.suppress(OSError):
                self.part.unlink(missing_ok=True)
            raise BrokenFile("The update arrived damaged (its digest differs); it is to be sent again.")
        try:
            path = self.part.replace(self.whole)
        except OSError as error:
            raise storage_error(error, f"renaming {self.part}") from None
        return Blob(path, self.wanted.digest, self.wanted.size, self.wanted.packing)
