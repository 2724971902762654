"""The gRPC services: what a site may call, and what each call does to hub and store."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import grpc

from fedwon.common.arrays import Blob
from fedwon.common.certificates import requested_key
from fedwon.common.errors import FedwonError, LinkError, Refused, StorageError, VersionGap
from fedwon.common.pki import SITE_DAYS, Authority, sign_request, site_of_peer
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import OFFSET_KEY, abort
from fedwon.common.wire.liveness import Liveness
from fedwon.common.wire.records import blob_of
from fedwon.server import sites
from fedwon.server.hub import Answer, Hub, SiteSession, Task
from fedwon.server.store import Store, now
from fedwon.server.transfers import Upload, moving, read_chunks

logger = logging.getLogger(__name__)

HELLO_SECONDS = 20.0
LONGEST_VERSION, LONGEST_REASON = 32, 500
"""Characters of a site's version and of its reasons that are kept."""
SIZE_MARGIN = 2**20
"""Bytes by which an update may be larger than the model that it answers to."""

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[..., Awaitable[Any]]


def guarded(handler: Handler) -> Handler:
    """End a call with one of our errors in the form that the other side understands."""

    @wraps(handler)
    async def _call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await handler(self, request, context)
        except FedwonError as error:
            level = logging.ERROR if isinstance(error, StorageError) else logging.INFO  # ours to mend, not the site's
            logger.log(level, "refused: %s", error.message, extra={"peer": context.peer()})
            await abort(context, error)

    return _call


def check_version(theirs: str) -> None:
    """Refuse a peer that is more than one minor version away.

    Raises:
        VersionGap: it is; the message names both versions.
    """
    if not compatible(VERSION, theirs):
        named = theirs[:LONGEST_VERSION] or "(unknown)"
        raise VersionGap(f"The server runs fedwon {VERSION}, the site {named}; one minor apart at most.")


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
        requested_key(request.certificate_request)  # a bad request does not cost the token
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
        self.liveness = Liveness(hub.heartbeat_seconds)
        self.last_seen: dict[str, datetime] = {}
        self._noting = asyncio.Lock()

    @guarded
    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewReply:  # noqa: N802
        """Sign a fresh certificate for the site that asks, under the name that it has."""
        site = site_of_peer(context.auth_context())
        return pb.RenewReply(certificate=await asyncio.to_thread(self._renew, site, request.certificate_request))

    def _renew(self, site: str, certificate_request: bytes) -> bytes:
        sites.check_enrolled(self._store, site)
        return issue(self._store, self._authority, certificate_request, site)

    @guarded
    async def Session(  # type: ignore[override]  # noqa: N802  # the stubs know handlers that are generators only
        self, requests: AsyncIterator[pb.FromSite], context: Context
    ) -> None:
        """Hold a site's session until either side ends it."""
        del requests  # read through the context, beside the writing
        site = site_of_peer(context.auth_context())
        hello = await _hello(context)
        check_version(hello.version)
        # before it counts as connected: a round may begin with the sites that are
        await asyncio.to_thread(sites.check_enrolled, self._store, site)
        session = self._hub.open(site, hello)
        try:
            await self._note_connected(session, hello.version)
            await context.write(
                pb.FromServer(
                    welcome=pb.Welcome(site=site, version=VERSION, heartbeat_seconds=self._hub.heartbeat_seconds)
                )
            )
            await self._converse(session, context)
        finally:
            if self._hub.close(session):
                await asyncio.shield(self._note_gone(site))

    async def _note_connected(self, session: SiteSession, version: str) -> None:
        data = {name: dict(parts) for name, parts in session.survey.items()}
        async with self._noting:
            await asyncio.to_thread(sites.connected, self._store, session.site, version[:LONGEST_VERSION], data)
        logger.info("site connected", extra={"site": session.site, "version": version[:LONGEST_VERSION]})

    async def _note_gone(self, site: str) -> None:
        logger.info("site disconnected", extra={"site": site})
        async with self._noting:  # so that a site that is back at once is not noted as gone after that
            if site not in self._hub.sessions:
                try:
                    await asyncio.to_thread(sites.disconnected, self._store, site)
                except StorageError as error:  # a site that is gone cannot be told
                    logger.warning("that site %s is gone could not be noted: %s", site, error.message)

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
                    if session.outgoing.empty():  # whatever waits there says as much, and a flood does not pile up
                        session.outgoing.put_nowait(pb.FromServer(heard=pb.Heard()))
                case "failed":
                    self._failed(session.site, message.failed)

    def _failed(self, site: str, failed: pb.TaskFailed) -> None:
        reason = f"{failed.error[:LONGEST_REASON]}: {failed.message[:LONGEST_REASON]}"
        plain = "".join(letter if letter.isprintable() else " " for letter in reason)
        with suppress(Refused, LinkError):
            self._hub.complete(self._hub.task_of(site, failed.task_id), Answer(failed.task_id, error=plain))

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[pb.Chunk]:  # noqa: N802
        """Send a model by digest, from an offset; a site that reads slowly costs the memory of one chunk."""
        try:
            site = site_of_peer(context.auth_context())
            task, blob = self._hub.fetchable(site, request.digest)
            async with aclosing(read_chunks(blob.path, min(request.offset, blob.size))) as chunks:
                async for data in chunks:
                    task.bytes_down += len(data)
                    yield pb.Chunk(data=data)
        except FedwonError as error:
            await abort(context, error)

    @guarded
    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Context) -> pb.SubmitReply:  # noqa: N802
        """Take the outcome of a task: a header, then its arrays from the offset that is here already."""
        site = site_of_peer(context.auth_context())
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("body") != "header":
            raise Refused("A submission begins with its header.")
        header = first.header
        task = self._hub.task_of(site, header.task_id)
        if task.receiving is not None:  # a call on a line that broke, which this side cannot know yet
            task.receiving.end()
        async with task.uploading:
            if not task.done:  # otherwise it is sent again because our reply was lost
                blob = await self._receive(task, header, requests, context)
                task.seconds = header.seconds if 0 <= header.seconds < math.inf else 0.0
                self._hub.complete(task, Answer(header.task_id, tuple(header.records), blob))
        return pb.SubmitReply()

    async def _receive(
        self, task: Task, header: pb.SubmitHeader, requests: AsyncIterator[pb.SubmitRequest], context: Context
    ) -> Blob | None:
        wanted = blob_of(header.records)
        if wanted is None:
            self._check_wanted(task)
            return None
        if self._hub.spool is None:
            raise Refused("The outcome of this task has no arrays.")
        model = task.blob.size if task.blob else 0
        if not 0 < wanted.size <= model + SIZE_MARGIN:
            raise Refused(f"An update of {wanted.size} bytes does not go with a model of {model} bytes.")
        upload = Upload(self._hub.spool / f"{header.task_id}.part", wanted)
        have = await asyncio.to_thread(upload.begin)
        await context.send_initial_metadata(((OFFSET_KEY, str(have)),))
        async with moving(self.liveness.stall) as task.receiving:
            async for request in requests:
                self._check_wanted(task)
                await upload.add(request.data)
                task.bytes_up += len(request.data)
                task.receiving.moved()
        blob = await asyncio.to_thread(upload.finish)
        try:
            self._check_wanted(task)
        except Refused:
            await asyncio.to_thread(blob.path.unlink, missing_ok=True)
            raise
        return blob

    def _check_wanted(self, task: Task) -> None:
        """Raise Refused once nobody waits for a task, which can happen while its outcome is on the way."""
        if self._hub.task_of(task.site, task.offer.task_id) is not task:
            raise Refused("This task was handed out anew meanwhile.")


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
