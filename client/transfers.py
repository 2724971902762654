"""Models down, outcomes up: in chunks, going on where a broken line stopped, however often it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import grpc

from fedwon.client.journal import Journal, ModelCache
from fedwon.client.progress import Cancelled
from fedwon.common.errors import BrokenFile, FedwonError, LinkError, Refused, Unreachable, storage_error
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHUNK, OFFSET_KEY, from_rpc
from fedwon.common.wire.records import blob_of

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
STALL_SECONDS = 180.0
"""A transfer in which nothing moves for so long is broken off: 1 MiB passes in that time at 6 KB/s."""

T = TypeVar("T")
Submission = grpc.aio.StreamUnaryCall[pb.SubmitRequest, pb.SubmitReply]


def pauses(wake: asyncio.Event | None = None) -> AsyncIterator[None]:
    """Yield once at once and then after ever longer pauses with full jitter, at most 30 s, for ever.

    Args:
        wake: when set, the pause ends at once, and the next ones are short again.
    """

    async def _wait() -> AsyncIterator[None]:
        longest, woken = FIRST_PAUSE, wake or asyncio.Event()
        yield
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(FIRST_PAUSE / 2, longest)):
                    await woken.wait()
            longest = FIRST_PAUSE if woken.is_set() else min(2 * longest, LONGEST_PAUSE)
            woken.clear()
            yield

    return _wait()


class Transfers:
    """What a task needs to bring here and to hand in.

    Args:
        server: its address, for messages.
        journal: where finished outcomes lie.
        models: where models lie.

    Attributes:
        wake: set it when the line to the server stands again, so that nobody waits on.
    """

    def __init__(self, server: str, journal: Journal, models: ModelCache) -> None:
        self._server, self._journal, self._models = server, journal, models
        self._stub: rpc.FederationAsyncStub | None = None
        self.wake = asyncio.Event()

    def use(self, channel: grpc.aio.Channel) -> None:
        """Take a channel for the calls from now on."""
        self._stub = rpc.FederationStub(channel)

    @property
    def stub(self) -> rpc.FederationAsyncStub:
        """The calls of the server."""
        if self._stub is None:
            raise LinkError("There is no channel to the server yet.")
        return self._stub

    async def fetch(self, wanted: pb.Blob, cancelled: threading.Event) -> None:
        """Fetch a model unless it is here.

        Raises:
            Refused: the server does not hand it out.
            StorageError: it cannot be written.
            Cancelled: nobody waits for the task any more.
        """
        if await asyncio.to_thread(self._models.get, wanted) is not None:
            return
        async for _ in pauses(self.wake):
            _check_wanted(cancelled)
            try:
                await self._fetch_rest(wanted, cancelled)
                await asyncio.to_thread(self._models.accept, wanted)
            except BrokenFile as error:
                logger.warning("%s It is fetched again.", error.message)
            except LinkError as error:
                if isinstance(error, Refused):
                    raise
                logger.info("fetching the model failed, trying again: %s", error.message)
            else:
                return

    async def _fetch_rest(self, wanted: pb.Blob, cancelled: threading.Event) -> None:
        part = self._models.partial(wanted)
        try:
            have = part.stat().st_size if part.exists() else 0
            call = self.stub.Fetch(pb.FetchRequest(digest=wanted.digest, offset=have))
            with part.open("ab") as file:
                while (chunk := await self._heard(call.read())) is not grpc.aio.EOF:
                    _check_wanted(cancelled)
                    data = chunk.data if isinstance(chunk, pb.Chunk) else b""
                    have += len(data)
                    if not data or have > wanted.size:
                        call.cancel()
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
        async for _ in pauses(self.wake):
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
            else:
                return

    async def _send(self, header: pb.SubmitHeader) -> None:
        call = self.stub.Submit()
        try:
            with suppress(asyncio.InvalidStateError):  # the server has ended the call; what it says comes below
                await self._heard(call.write(pb.SubmitRequest(header=header)))
                metadata = dict(await self._heard(call.initial_metadata()))
                wanted = blob_of(header.records)
                if wanted is not None and OFFSET_KEY in metadata:
                    start = _offset(metadata[OFFSET_KEY], wanted.size)
                    await self._upload(call, self._journal.arrays(header.task_id), start)
                await call.done_writing()
            await self._heard(call)
        finally:
            call.cancel()

    async def _upload(self, call: Submission, path: Path, start: int) -> None:
        try:
            with path.open("rb") as file:
                file.seek(start)
                while data := await asyncio.to_thread(file.read, CHUNK):
                    await self._heard(call.write(pb.SubmitRequest(data=data)))
        except OSError as error:
            raise storage_error(error, f"reading {path}") from None

    async def _heard(self, step: Awaitable[T]) -> T:
        """Wait for a step of a call.

        Raises:
            FedwonError: the call failed; Unreachable also where nothing moved for too long.
        """
        try:
            async with asyncio.timeout(STALL_SECONDS):  # Python 3.11's wait_for can swallow a cancellation
                return await step
        except TimeoutError:
            raise Unreachable(f"{self._server} has not moved for {STALL_SECONDS:.0f} s.") from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._server) from None


def _check_wanted(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise Cancelled


def _offset(value: str | bytes, size: int) -> int:
    text = value if isinstance(value, str) else ""
    if not text.isdecimal() or int(text) > size:
        raise LinkError(f"The server asks for an outcome from byte {value!r} of {size}.")
    return int(text)
