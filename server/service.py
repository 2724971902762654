"""The gRPC services: what a site may call, and what each call does to hub and store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import grpc

from fedwon.common.arrays import Blob
from fedwon.common.errors import BrokenFile, FedwonError, Refused, VersionGap, storage_error
from fedwon.common.files import sha256_file
from fedwon.common.pki import SITE_DAYS, Authority, sign_request, site_of_peer
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHUNK, OFFSET_KEY, abort
from fedwon.common.wire.records import blob_of
from fedwon.server import sites
from fedwon.server.hub import Answer, Hub, SiteSession, Task
from fedwon.server.store import Store, now

logger = logging.getLogger(__name__)

HELLO_SECONDS = 20.0
SIZE_MARGIN = 2**20
"""Bytes by which an update may be larger than the model that it answers to."""

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[..., Awaitable[Any]]


def guarded(handler: Handler) -> Handler:
    """End a call with one of our errors in the form that the other side understands."""

    @wraps(handler)
    async def call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await handler(self, request, context)
        except FedwonError as error:
            logger.info("refused: %s", error.message, extra={"peer": context.peer()})
            await abort(context, error)

    return call


def check_version(theirs: str) -> None:
    """Refuse a peer that is more than one minor version away.

    Raises:
        VersionGap: it is; the message names both versions.
    """
    if not compatible(VERSION, theirs):
        raise VersionGap(
            f"The server runs fedwon {VERSION}, the site {theirs or '(unknown)'}; one minor apart at most."
        )


class EnrolmentService(rpc.EnrolmentServicer):
    """Sites that join: token and certificate request in, certificate out.

    Args:
        store: the server's database.
        authority: signs certificates.
        server: `host:port` that sites are told to connect to.
    """

    def __init__(self, store: Store, authority: Authority, server: str) -> None:
        self._store, self._authority, self._server = store, authority, server

    @guarded
    async def Authority(self, request: pb.AuthorityRequest, context: Context) -> pb.AuthorityReply:  # noqa: N802
        """Hand out the authority's certificate, which the site compares with its fingerprint."""
        del request, context
        return pb.AuthorityReply(certificate=self._authority.pem)

    @guarded
    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollReply:  # noqa: N802
        """Use a token up and sign the site's certificate under the name that the token was made for."""
        del context
        check_version(request.version)
        return await asyncio.to_thread(self._enroll, request)

    def _enroll(self, request: pb.EnrollRequest) -> pb.EnrollReply:
        sign_request(self._authority, request.certificate_request, "check")  # a bad request does not cost the token
        site = sites.redeem_token(self._store, request.token)
        certificate = issue(self._store, self._authority, request.certificate_request, site)
        return pb.EnrollReply(site=site, certificate=certificate, server=self._server)


def issue(store: Store, authority: Authority, certificate_request: bytes, site: str) -> bytes:
    """Sign a site's certificate and note it."""
    certificate = sign_request(authority, certificate_request, site)
    sites.enrolled(store, site, datetime.now(UTC) + timedelta(days=SITE_DAYS))
    return certificate


class FederationService(rpc.FederationServicer):
    """Enrolled sites, under mutual TLS.

    Args:
        hub: sessions and tasks.
        store: the server's database.
        authority: signs renewed certificates.
    """

    def __init__(self, hub: Hub, store: Store, authority: Authority) -> None:
        self._hub, self._store, self._authority = hub, store, authority
        self.last_seen: dict[str, datetime] = {}

    @guarded
    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewReply:  # noqa: N802
        """Sign a fresh certificate for the site that asks, under the name that it has."""
        site = site_of_peer(context.auth_context())
        signed = await asyncio.to_thread(issue, self._store, self._authority, request.certificate_request, site)
        return pb.RenewReply(certificate=signed)

    @guarded
    async def Session(  # type: ignore[override]  # noqa: N802  # the stubs know handlers that are generators only
        self, requests: AsyncIterator[pb.FromSite], context: Context
    ) -> None:
        """Hold a site's session until either side ends it."""
        del requests  # read through the context, beside the writing
        site = site_of_peer(context.auth_context())
        hello = await _hello(context)
        check_version(hello.version)
        session = await self._hub.open(site, hello)
        try:
            data = {name: dict(parts) for name, parts in session.survey.items()}
            await asyncio.to_thread(sites.connected, self._store, site, hello.version, data)
            logger.info("site connected", extra={"site": site, "version": hello.version})
            await context.write(
                pb.FromServer(
                    welcome=pb.Welcome(site=site, version=VERSION, heartbeat_seconds=self._hub.heartbeat_seconds)
                )
            )
            await self._converse(session, context)
        finally:
            if await self._hub.close(session):
                logger.info("site disconnected", extra={"site": site})
                await asyncio.shield(asyncio.to_thread(sites.disconnected, self._store, site))

    async def _converse(self, session: SiteSession, context: Context) -> None:
        reading = asyncio.create_task(self._listen(session, context))
        writing = asyncio.create_task(_speak(session, context))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, writing):
                task.cancel()
                with suppress(asyncio.CancelledError, TimeoutError, grpc.aio.BaseError):
                    await task

    async def _listen(self, session: SiteSession, context: Context) -> None:
        while True:
            message = await asyncio.wait_for(context.read(), self._hub.silence)
            if message is grpc.aio.EOF:
                return
            session.heard = time.monotonic()
            self.last_seen[session.site] = now()
            match message.WhichOneof("body"):
                case "heartbeat":
                    session.progress = message.heartbeat
                    session.outgoing.put_nowait(pb.FromServer(heard=pb.Heard()))
                case "failed":
                    self._failed(session.site, message.failed)

    def _failed(self, site: str, failed: pb.TaskFailed) -> None:
        with suppress(Refused):
            task = self._hub.task_of(site, failed.task_id)
            self._hub.complete(task, Answer(failed.task_id, error=f"{failed.error}: {failed.message}"))
            self._hub.forget(failed.task_id)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[pb.Chunk]:  # noqa: N802
        """Send a model by digest, from an offset."""
        try:
            site = site_of_peer(context.auth_context())
            task, blob = self._hub.fetchable(site, request.digest)
            file = await asyncio.to_thread(blob.path.open, "rb")
        except FedwonError as error:
            await abort(context, error)
        except OSError as error:
            await abort(context, storage_error(error, f"reading {blob.path}"))
        with file:
            file.seek(request.offset)
            while data := await asyncio.to_thread(file.read, CHUNK):
                task.bytes_down += len(data)
                yield pb.Chunk(data=data)

    @guarded
    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Context) -> pb.SubmitReply:  # noqa: N802
        """Take the outcome of a task: a header, then its arrays from the offset that is here already."""
        site = site_of_peer(context.auth_context())
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("body") != "header":
            raise Refused("A submission begins with its header.")
        task = self._hub.task_of(site, first.header.task_id)
        if task.done:  # sent again because our reply was lost
            return pb.SubmitReply()
        blob = await self._receive(task, first.header, requests, context)
        task.seconds = first.header.seconds
        self._hub.complete(task, Answer(task.offer.task_id, tuple(first.header.records), blob))
        return pb.SubmitReply()

    async def _receive(
        self, task: Task, header: pb.SubmitHeader, requests: AsyncIterator[pb.SubmitRequest], context: Context
    ) -> Blob | None:
        wanted = blob_of(header.records)
        part = self._hub.spool / f"{task.offer.task_id}.part"
        have = part.stat().st_size if wanted is not None and part.exists() else 0
        if wanted is not None and have > wanted.size:
            part.unlink()
            have = 0
        await context.send_initial_metadata(((OFFSET_KEY, str(have)),))
        if wanted is None:
            return None
        limit = (task.blob.size if task.blob else 0) + SIZE_MARGIN
        if wanted.size > limit:
            raise Refused(f"The update of {wanted.size} bytes is larger than its model ({limit - SIZE_MARGIN} bytes).")
        task.bytes_up += await _append(part, wanted.size - have, requests)
        return await asyncio.to_thread(_check_whole, part, wanted)


async def _hello(context: Context) -> pb.Hello:
    try:
        message = await asyncio.wait_for(context.read(), HELLO_SECONDS)
    except TimeoutError:
        raise Refused("The session began without a hello.") from None
    if message is grpc.aio.EOF or message.WhichOneof("body") != "hello":
        raise Refused("The session began without a hello.")
    hello: pb.Hello = message.hello
    return hello


async def _speak(session: SiteSession, context: Context) -> None:
    while (message := await session.outgoing.get()) is not None:
        await context.write(message)


async def _append(part: Path, missing: int, requests: AsyncIterator[pb.SubmitRequest]) -> int:
    """Append what comes to a file; return the number of bytes.

    Raises:
        DiskFull: no space left.
        Refused: more came than was announced.
    """
    got = 0
    try:
        with part.open("ab") as file:
            async for request in requests:
                got += len(request.data)
                if got > missing:
                    raise Refused("More bytes came than the header announced.")
                await asyncio.to_thread(file.write, request.data)
            await asyncio.to_thread(file.flush)
    except OSError as error:
        raise storage_error(error, f"writing {part}") from None
    return got


def _check_whole(part: Path, wanted: pb.Blob) -> Blob:
    size = part.stat().st_size
    if size < wanted.size:
        raise BrokenFile(f"The update ended after {size} of {wanted.size} bytes.")
    if sha256_file(part) != wanted.digest:
        part.unlink()
        raise BrokenFile("The update arrived damaged (its digest differs); it is to be sent again.")
    return Blob(part.replace(part.with_suffix(".safetensors")), wanted.digest, size)
