"""Files of a release, fetched by digest over connections of their own, going on where a broken line stopped."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc

from fedwon.client.link.transfers import OpenChannel, Pauses
from fedwon.common.errors import BrokenFile, LinkError, Refused, Unreachable
from fedwon.common.files import move, sha256_file
from fedwon.common.system_errors import storage_error
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import from_rpc
from fedwon.common.wire.liveness import Liveness

logger = logging.getLogger(__name__)

DAMAGED_AT_MOST = 3
"""So often a file may arrive damaged before the site gives up."""


class Fetcher:
    """Fetches files into a folder.

    Args:
        opener: opens a channel to the server.
        server: its address, for messages.
        folder: where the files go.
        wake: set when the line to the server stands again.
    """

    def __init__(self, opener: OpenChannel, server: str, folder: Path, wake: asyncio.Event) -> None:
        self._open, self._server, self._folder, self._wake = opener, server, folder, wake

    async def bring(self, name: str, digest: str, size: int) -> None:
        """Fetch a file unless it is here, however often the line breaks.

        Raises:
            Refused: the server does not hand it out (any more).
            BrokenFile: it arrived damaged again and again.
            StorageError: it cannot be written.
        """
        path, part, damaged = self._folder / name, self._folder / f"{name}.part", 0
        if path.exists():
            return
        async for _ in Pauses(self._wake):
            try:
                await self._rest(part, digest, size)
            except Refused:
                raise
            except LinkError as error:
                logger.info("fetching %s of a release failed, trying again: %s", name, error.message)
                continue
            if await asyncio.to_thread(sha256_file, part) == digest:
                await asyncio.to_thread(move, part, path)
                return
            part.unlink()
            damaged += 1
            if damaged == DAMAGED_AT_MOST:
                raise BrokenFile(f"{name} of the release arrived damaged {damaged} times (its digest differs).")

    async def _rest(self, part: Path, digest: str, size: int) -> None:
        """Fetch what is missing of a file; at most so many bytes are taken."""
        try:
            have = await asyncio.to_thread(_begun, part, size)
            with part.open("ab") as file:
                async with self._open() as channel:
                    call = rpc.FederationStub(channel).Fetch(pb.FetchRequest(digest=digest, offset=have))
                    while have < size and (data := await self._next(call)) is not None:
                        have += len(data)
                        await asyncio.to_thread(file.write, data[: max(size - have + len(data), 0)])
                    call.cancel()
        except OSError as error:
            raise storage_error(error, f"writing {part}") from None

    async def _next(self, call: grpc.aio.UnaryStreamCall[pb.FetchRequest, pb.Chunk]) -> bytes | None:
        try:
            async with asyncio.timeout(Liveness().stall):
                chunk = await call.read()
        except TimeoutError:
            raise Unreachable(f"{self._server} has not moved for {Liveness().stall:.0f} s.") from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._server) from None
        return chunk.data if isinstance(chunk, pb.Chunk) else None


def _begun(part: Path, size: int) -> int:
    """Return how many bytes are here; more than there can be are none of this file."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        return 0
    return have
