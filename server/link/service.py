"""The gRPC services: what a site may call, and what each call does to hub and store."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

import grpc

from fedwon.common.arrays import Blob
from fedwon.common.certificates import claimed_name
from fedwon.common.errors import FedwonError, LinkError, Refused, Revoked, StorageError
from fedwon.common.packing import ZSTD
from fedwon.common.rebuilding import most_bytes
from fedwon.common.run_config import RunConfig
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import OFFSET_KEY, abort
from fedwon.common.wire.liveness import Liveness
from fedwon.common.wire.records import blob_of
from fedwon.server.auditing import Refusals
from fedwon.server.identity import sites
from fedwon.server.identity.authorities import Trust
from fedwon.server.identity.standing import Standing, issue
from fedwon.server.link.doors import SiteCalls
from fedwon.server.link.gathering import Gathering
from fedwon.server.link.guarding import LONGEST_VERSION, check_version, guarded, note_refusal
from fedwon.server.link.hub import Hub
from fedwon.server.link.peers import Peer, peer_of
from fedwon.server.link.prospects import prospect
from fedwon.server.link.session import LONGEST_TASK, SiteSession
from fedwon.server.link.tasks import Answer, Task
from fedwon.server.link.transfers import Upload, moving, read_chunks
from fedwon.server.link.turns import Turns
from fedwon.server.releases.desk import Desk
from fedwon.server.rounds import availability
from fedwon.server.rounds.availability import Availability
from fedwon.server.store import Store, now

logger = logging.getLogger(__name__)

HELLO_SECONDS = 20.0
NEWS_SECONDS = 0.1
"""After news that are written down, so long nothing more is read of a site: a flood waits in its own memory."""
LONGEST_REASON = 500
"""Characters of a site's reasons that are kept."""
SHA256_DIGITS = 64
LONGEST_INSTANCE = 64
"""Characters by which a client tells itself from others; ours has 16."""

Context = grpc.aio.ServicerContext[Any, Any]


class FederationService(rpc.FederationServicer):
    """Enrolled sites, under mutual TLS.

    Args:
        hub: sessions and tasks.
        store: the server's database.
        trust: the authorities of the moment.
        desk: hands out releases; None where there are none.
        run: the run that the configuration describes.
    """

    def __init__(
        self,
        hub: Hub,
        store: Store,
        trust: Callable[[], Trust],
        desk: Desk | None = None,
        run: RunConfig | None = None,
    ) -> None:
        self._hub, self._store, self._trust, self.desk, self._run = hub, store, trust, desk, run or RunConfig()
        self.liveness = Liveness(hub.heartbeat_seconds)
        self.standing, self.refusals = Standing(store), Refusals(store)
        self.last_seen: dict[str, datetime] = {}
        self._turns, self._calls = Turns(), SiteCalls()
        self._noting: Gathering[sites.Move, None] = Gathering(lambda moves: sites.noted(store, moves))
        self._resting: set[str] = set()

    @guarded
    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewReply:  # noqa: N802
        """Sign a fresh certificate for the site that asks, under the name that it has."""
        peer = await self._admitted(context)
        return await asyncio.to_thread(self._renew, peer, request)

    def _renew(self, peer: Peer, request: pb.RenewRequest) -> pb.RenewReply:
        trust = self._trust()
        self.refusals.note_claim(peer.site, claimed_name(request.certificate_request))
        signer = trust.signer(bundle=request.bundle)
        certificate = issue(self._store, signer, request.certificate_request, peer.site, renewing=peer)
        return pb.RenewReply(certificate=certificate, authorities=trust.bundle)

    async def _admitted(self, context: Context) -> Peer:
        """Return who calls.

        Raises:
            Refused: its certificate does not count, or not any more.
            LinkError: it has too many calls open.
        """
        peer = peer_of(context.auth_context())
        await self.standing.check(peer)
        if peer.signer not in self._trust().key_ids:
            raise Refused(f"The certificate of site `{peer.site}` is of an authority that was retired: enrol again.")
        self._calls.enter(peer.site, context)
        return peer

    @guarded
    async def Session(  # type: ignore[override]  # noqa: N802  # the stubs know handlers that are generators only
        self, requests: AsyncIterator[pb.FromSite], context: Context
    ) -> None:
        """Hold a site's session until either side ends it."""
        del requests  # read through the context, beside the writing
        hello = await _hello(context)
        check_version(hello.version)
        # before it counts as connected: a round may begin with the sites that are
        peer = await self._admitted(context)
        site, session = peer.site, self._hub.open(peer.site, hello)
        session.peer = peer
        try:
            await self._note_connected(session, hello.version)
            await self._note_availability(session)
            await context.write(self._welcome(site))
            await self._converse(session, context)
            if session.refusal is not None:
                await abort(context, session.refusal)
        finally:
            if self._hub.close(session):
                await asyncio.shield(self._note_gone(site))

    def _welcome(self, site: str) -> pb.FromServer:
        interval, trusted = self._hub.heartbeat_seconds, self._trust().bundle
        return pb.FromServer(
            welcome=pb.Welcome(site=site, version=VERSION, heartbeat_seconds=interval, authorities=trusted)
        )

    async def _note_connected(self, session: SiteSession, version: str) -> None:
        data = {name: dict(parts) for name, parts in session.survey.items()}
        await self._noting.do(sites.Arrival(session.site, version[:LONGEST_VERSION], data))
        logger.info("site connected", extra={"site": session.site, "version": version[:LONGEST_VERSION]})

    async def _note_gone(self, site: str) -> None:
        logger.info("site disconnected", extra={"site": site})
        try:
            await self._noting.do(sites.Departure(site))  # in order: a site that is back at once comes after it
        except StorageError as error:  # a site that is gone cannot be told
            logger.warning("that site %s is gone could not be noted: %s", site, error.message)

    async def _converse(self, session: SiteSession, context: Context) -> None:
        reading = asyncio.create_task(self._listen(session, context))
        writing = asyncio.create_task(_speak(session, context))
        expelling = asyncio.create_task(session.expelled.wait())
        both: tuple[asyncio.Task[Any], ...] = (reading, writing, expelling)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
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
                    if len(message.heartbeat.task_id) <= LONGEST_TASK:  # it is kept until the next one comes
                        session.progress = message.heartbeat
                    if session.outgoing.empty():  # whatever waits there says as much, and a flood does not pile up
                        session.outgoing.put_nowait(pb.FromServer(heard=pb.Heard()))
                case "failed":
                    self._failed(session.site, message.failed)
                case "survey" if self._hub.surveyed(session, message.survey.data):
                    await self._note_survey(session)
                    await asyncio.sleep(NEWS_SECONDS)
                case "released" if self.desk is not None:
                    await self.desk.answered(session, message.released)
                    await asyncio.sleep(NEWS_SECONDS)
                case "availability" if self._hub.attend(session, Availability.from_wire(message.availability)):
                    await self._note_availability(session)
                    await asyncio.sleep(NEWS_SECONDS)

    async def _note_survey(self, session: SiteSession) -> None:
        data = {name: dict(parts) for name, parts in session.survey.items()}
        try:
            await asyncio.to_thread(sites.surveyed, self._store, session.site, data)
        except StorageError as error:  # `sites` shows what was there before; the run goes by what is in memory
            logger.warning("%s", error.message)

    async def _note_availability(self, session: SiteSession) -> None:
        """Write it down where it is, or was, not the usual."""
        site, told = session.site, session.availability
        if told and site not in self._resting:
            return
        (self._resting.discard if told else self._resting.add)(site)
        logger.info("site is %s", "available" if told else told.words, extra={"site": site})
        try:
            await asyncio.to_thread(availability.note, self._store, site, told)
        except StorageError as error:  # `sites` shows what was there before; the run goes by what is in memory
            logger.warning("that site %s is %s could not be noted: %s", site, told.words, error.message)

    def _failed(self, site: str, failed: pb.TaskFailed) -> None:
        reason = f"{failed.error[:LONGEST_REASON]}: {failed.message[:LONGEST_REASON]}"
        plain = "".join(letter if letter.isprintable() else " " for letter in reason)
        with suppress(Refused, LinkError):
            self._hub.complete(self._own_task(site, failed.task_id), Answer(failed.task_id, error=plain))

    @guarded
    async def Prospect(self, request: pb.ProspectRequest, context: Context) -> pb.ProspectReply:  # noqa: N802
        """Tell a site what it would be asked to do, and the time."""
        del request
        await self._admitted(context)
        return await asyncio.to_thread(prospect, self._store, self._run)

    def _own_task(self, site: str, task_id: str) -> Task:
        """Return a site's own task, and note it where one asks for another's."""
        task = self._hub.tasks.get(task_id)
        if task is not None and task.site != site:
            self.refusals.note("another site's task", site, f"asked for task {task_id[:200]}")
        return self._hub.task_of(site, task_id)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[pb.Chunk]:  # noqa: N802
        """Send a model by digest, from an offset; a site that reads slowly costs the memory of one chunk."""
        try:
            peer = await self._admitted(context)
            await self._turns.take(peer.site, context)
            task, blob = await self._fetchable(peer.site, request.digest)
            async with aclosing(read_chunks(blob.path, min(request.offset, blob.size))) as chunks:
                async for data in chunks:
                    if task is not None:
                        task.bytes_down += len(data)
                    yield pb.Chunk(data=data)
        except FedwonError as error:
            if len(request.digest) == SHA256_DIGITS or isinstance(error, Revoked):  # else only the version is asked for
                note_refusal(self.refusals, context, error)
            await abort(context, error)

    async def _fetchable(self, site: str, digest: str) -> tuple[Task | None, Blob]:
        """Return a model of a site's own task or release, and note it where one asks for another's."""
        if self.desk is not None and (released := await self.desk.fetchable(site, digest)):
            return None, released
        try:
            return self._hub.fetchable(site, digest)
        except Refused:
            if self._hub.tasks.about(digest):
                self.refusals.note("another site's task", site, f"asked for the model {digest[:12]}")
            raise

    @guarded
    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Context) -> pb.SubmitReply:  # noqa: N802
        """Take the outcome of a task: a header, then its arrays from the offset that is here already."""
        site = (await self._admitted(context)).site
        await self._turns.take(site, context)
        first = None
        with suppress(TimeoutError):
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("body") != "header":
            raise Refused("A submission begins with its header.")
        header = first.header
        task = self._own_task(site, header.task_id)
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
        if not 0 < wanted.size <= most_bytes(model):
            raise Refused(f"An update of {wanted.size} bytes does not go with a model of {model} bytes.")
        if wanted.packing not in {"", ZSTD}:
            raise Refused(f"The update is packed as {wanted.packing[:20]!r}, which this version cannot unpack.")
        upload = Upload(self._hub.spool / f"{header.task_id}.part", wanted)
        have = await asyncio.to_thread(upload.begin)
        await context.send_initial_metadata(((OFFSET_KEY, str(have)),))
        try:
            async with moving(self.liveness.stall) as task.receiving:
                async for request in requests:
                    self._check_wanted(task)
                    await upload.add(request.data)
                    task.received(len(request.data))
                    task.receiving.moved()
        finally:
            await upload.settle()
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
    message = None
    with suppress(TimeoutError):
        message = await asyncio.wait_for(context.read(), HELLO_SECONDS)
    if message is None or message is grpc.aio.EOF or message.WhichOneof("body") != "hello":
        raise Refused("The session began without a hello.")
    hello: pb.Hello = message.hello
    if len(hello.instance) > LONGEST_INSTANCE:
        raise Refused("The session began with a hello that no client of ours says.")
    return hello


async def _speak(session: SiteSession, context: Context) -> None:
    while (message := await session.outgoing.get()) is not None:
        await context.write(message)
