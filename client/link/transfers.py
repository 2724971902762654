"""Models down, outcomes up: in chunks, going on where a broken line stopped, however often it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import grpc

from fedwon.client.link.journal import Journal, ModelCache
from fedwon.client.training.progress import Cancelled
from fedwon.common.errors import BrokenFile, FedwonError, LinkError, Refused, StorageError, Unreachable
from fedwon.common.packing import ZSTD
from fedwon.common.system_errors import storage_error
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import OFFSET_KEY, PIECE, from_rpc
from fedwon.common.wire.liveness import Liveness
from fedwon.common.wire.records import blob_of

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0

T = TypeVar("T")
Submission = grpc.aio.StreamUnaryCall[pb.SubmitRequest, pb.SubmitReply]
OpenChannel = Callable[[], grpc.aio.Channel]


class Pauses:
    """Turns: the first at once, the others after ever longer pauses with full jitter, at most 30 s, for ever.

    Args:
        wake: when set, the pause ends at once, and the next ones are short again.
    """

    def __init__(self, wake: asyncio.Event | None = None) -> None:
        self._woken = wake or asyncio.Event()
        self._longest: float | None = None

    def shorten(self) -> None:
        """Make the next pause the shortest again: something was achieved. Not none, lest sites storm a server."""
        self._longest = FIRST_PAUSE

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        if self._longest is None:
            self._longest = FIRST_PAUSE
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(FIRST_PAUSE / 2, self._longest)):
                await self._woken.wait()
        self._longest = FIRST_PAUSE if self._woken.is_set() else min(2 * self._longest, LONGEST_PAUSE)
        self._woken.clear()


class Transfers:
    """What a task needs to bring here and to hand in.

    Each attempt has a connection of its own: a session's heartbeats do not wait behind a model in its buffers, and what
    an idle connection has become meanwhile (forgotten by a NAT, led to an address that is no more) does not matter.

    Args:
        server: its address, for messages.
        journal: where finished outcomes lie.
        models: where models lie.

    Attributes:
        wake: set it when the line to the server stands again, so that nobody waits on.
        stall: seconds without movement after which an attempt is broken off.
    """

    def __init__(self, server: str, journal: Journal, models: ModelCache) -> None:
        self.server, self._journal, self._models = server, journal, models
        self._open: OpenChannel | None = None
        self.wake = asyncio.Event()
        self.stall = Liveness().stall
        self._start = 0  # where the server last told an outcome to go on

    def use(self, opener: OpenChannel) -> None:
        """Take what opens a channel, for the transfers from now on."""
        self._open = opener

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[rpc.FederationAsyncStub]:
        """Open a connection for one attempt."""
        if self._open is None:
            raise LinkError("There is no way to the server yet.")
        async with self._open() as channel:
            yield rpc.FederationStub(channel)

    async def fetch(self, wanted: pb.Blob, cancelled: threading.Event, deltas: Sequence[pb.Delta] = ()) -> None:
        """Fetch a model unless it is here: as differences to another one that is, or whole.

        Raises:
            Refused: the server does not hand it out.
            StorageError: it cannot be written.
            Cancelled: nobody waits for the task any more.
        """
        if await asyncio.to_thread(self._models.get, wanted) is not None:
            return
        for delta in deltas:
            if await self._rebuilt(wanted, delta, cancelled):
                return
        await self._bring(wanted, cancelled, self._models.accept)

    async def _rebuilt(self, wanted: pb.Blob, delta: pb.Delta, cancelled: threading.Event) -> bool:
        """Try to make a model of one that is here and of differences; return whether it is here now."""
        if delta.file.packing != ZSTD or delta.file.size >= wanted.size or not self._models.has(delta.base):
            return False
        made: list[bool] = []
        try:
            await self._bring(delta.file, cancelled, lambda _: made.append(self._models.rebuild(wanted, delta)))
        except (Refused, StorageError) as error:  # where it is this side's disk, the whole model meets it again
            logger.info("the model is fetched whole: %s", error.message)
        return made == [True]

    async def _bring(self, wanted: pb.Blob, cancelled: threading.Event, accept: Callable[[pb.Blob], object]) -> None:
        """Fetch a file and have it accepted, however often the line breaks."""
        pauses = Pauses(self.wake)
        async for _ in pauses:
            _check_wanted(cancelled)
            before = _size(self._models.partial(wanted))
            try:
                await self._fetch_rest(wanted, cancelled)
                await asyncio.to_thread(accept, wanted)
            except BrokenFile as error:
                logger.warning("%s It is fetched again.", error.message)
            except LinkError as error:
                if isinstance(error, Refused):
                    raise
                have = _size(self._models.partial(wanted))
                if have > before:
                    pauses.shorten()
                text = "fetching the model failed after %d of %d bytes, trying again: %s"
                logger.info(text, have, wanted.size, error.message)
            else:
                return

    async def _fetch_rest(self, wanted: pb.Blob, cancelled: threading.Event) -> None:
        part = self._models.partial(wanted)
        try:
            have = _size(part)
            with part.open("ab") as file:
                async with self._connection() as stub:
                    call = stub.Fetch(pb.FetchRequest(digest=wanted.digest, offset=have))
                    while (chunk := await self._heard(call.read())) is not grpc.aio.EOF:
                        _check_wanted(cancelled)
                        data = chunk.data if isinstance(chunk, pb.Chunk) else b""
                        have += len(data)
                        if not data or have > wanted.size:
                            break
                        await asyncio.to_thread(file.write, data)
                    else:
                        return
            part.unlink()
            raise BrokenFile(f"The server sent something else than the model {wanted.digest[:12]}.")
        except OSError as error:
            raise storage_error(error, f"writing {part}") from None

    async def submit(self, header: pb.SubmitHeader, cancelled: threading.Event) -> None:
        """Hand an outcome in.

        Raises:
            BrokenFile: what is kept here is damaged.
            Cancelled: nobody waits for the task any more.
        """
        pauses = Pauses(self.wake)
        reached = self._start = 0
        async for _ in pauses:
            _check_wanted(cancelled)
            try:
                await self._send(header)
            except Refused as error:
                if error.hint != Refused.default_hint:  # the connection was refused, not the outcome
                    logger.info("handing in failed, trying again: %s", error.message)
                    continue
                logger.warning("the server does not want this outcome: %s", error.message)
                self._journal.drop([header.task_id])
                return
            except FedwonError as error:
                if not await asyncio.to_thread(self._journal.intact, header):
                    raise BrokenFile(f"The outcome of {header.task_id} was damaged on this site's disk.") from None
                logger.info("handing in failed, trying again: %s", error.message)
                if self._start > reached:  # the attempt before had brought something over
                    reached = self._start
                    pauses.shorten()
            else:
                return

    async def _send(self, header: pb.SubmitHeader) -> None:
        async with self._connection() as stub:
            await self._converse(stub.Submit(), header)

    async def _converse(self, call: Submission, header: pb.SubmitHeader) -> None:
        try:
            with suppress(asyncio.InvalidStateError):  # the server has ended the call; what it says comes below
                await self._heard(call.write(pb.SubmitRequest(header=header)))
                metadata = dict(await self._heard(call.initial_metadata()))
                wanted = blob_of(header.records)
                if wanted is not None and OFFSET_KEY in metadata:
                    self._start = _offset(metadata[OFFSET_KEY], wanted.size)
                    if self._start:
                        logger.info("handing in goes on at byte %d of %d", self._start, wanted.size)
                    await self._upload(call, self._journal.arrays(header.task_id), self._start)
                await call.done_writing()
            await self._heard(call)
        finally:
            call.cancel()

    async def _upload(self, call: Submission, path: Path, start: int) -> None:
        try:
            with path.open("rb") as file:
                file.seek(start)
                while data := await asyncio.to_thread(file.read, PIECE):
                    await self._heard(call.write(pb.SubmitRequest(data=data)))
        except OSError as error:
            raise storage_error(error, f"reading {path}") from None

    async def _heard(self, step: Awaitable[T]) -> T:
        """Wait for a step of a call.

        Raises:
            FedwonError: the call failed; Unreachable also where nothing moved for too long.
        """
        try:
            async with asyncio.timeout(self.stall):  # Python 3.11's wait_for can swallow a cancellation
                return await step
        except TimeoutError:
            raise Unreachable(f"{self.server} has not moved for {self.stall:.0f} s.") from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.server) from None


def _size(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_wanted(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise Cancelled


def _offset(value: str | bytes, size: int) -> int:
    text = value if isinstance(value, str) else ""
    if not text.isdecimal() or int(text) > size:
        raise LinkError(f"The server asks for an outcome from byte {value!r} of {size}.")
    return int(text)
