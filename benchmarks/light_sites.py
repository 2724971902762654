"""Light sites: real gRPC clients that answer with recorded updates at once, many to a process, without torch.

A light site speaks the whole protocol as `fedwon-client` does: a session on a connection of its own with a hello and
heartbeats, and for each task a fetch and a submission, each on a connection of its own, begun again after the client's
own pauses when one fails. What it leaves out is what costs a site and not the server: images, training, a journal.

    sites = [LightSite(address, name, credentials, Recorded(payload)) for name, credentials in enrolled]
    records = await run_sites(sites, stop)          # until the event `stop` is set

`benchmarks.light_processes` runs them in several processes. Moments are `time.monotonic()`, which is one clock for all
processes of a machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from benchmarks.recorded import IMAGES, Answering
from fedwon.client.enrolment import OWN_CONNECTION
from fedwon.client.link.transfers import Pauses
from fedwon.common.errors import FedwonError, LinkError, Refused
from fedwon.common.pki import Credentials
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import OFFSET_KEY, PIECE, from_rpc
from fedwon.common.wire.liveness import Liveness
from fedwon.common.wire.records import blob_of

CLASSES = ("0", "1", "2", "3")


@dataclass
class TaskTimes:
    """When what happened to a task: its kind, and moments, None until then."""

    kind: str
    offered: float
    fetched: float | None = None
    handed_in: float | None = None
    committed: float | None = None
    cancelled: float | None = None


@dataclass
class Seen:
    """What a site has seen so far.

    Attributes:
        connected: the moment of each welcome.
        heard: of each heartbeat that was answered, its moment and the seconds to the next word of the server.
        tasks: by task id.
        failures: what went wrong, in words and how often; each is tried again.
        bytes_down: of models.
        bytes_up: of updates.
        finished: state of the run that ended last.
    """

    site: str
    connected: list[float] = field(default_factory=list)
    heard: list[tuple[float, float]] = field(default_factory=list)
    tasks: dict[str, TaskTimes] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    finished: str = ""

    def failed(self, what: str, error: BaseException) -> None:
        """Count a failure."""
        words = f"{what}: {error}"[:200] or what
        self.failures[words] = self.failures.get(words, 0) + 1


class LightSite:
    """One site.

    Args:
        server: `host:port` of the federation's service.
        name: the site's name, as in its certificate.
        credentials: its certificate and key, and whom it trusts.
        answering: makes its answers.
        heartbeat: seconds between heartbeats; the server's own without it.
    """

    def __init__(
        self, server: str, name: str, credentials: Credentials, answering: Answering, heartbeat: float | None = None
    ) -> None:
        self.seen = Seen(name)
        self._server, self._answering, self._heartbeat = server, answering, heartbeat
        self._secrets = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
        self._liveness = Liveness()
        self._instance = secrets.token_hex(8)
        self._outgoing: asyncio.Queue[pb.FromSite] = asyncio.Queue()
        self._model = ""  # digest of the model that a real site would have in its cache
        self._unanswered: float | None = None
        self._working: dict[str, asyncio.Task[None]] = {}

    def _open(self) -> grpc.aio.Channel:
        options = (*self._liveness.channel_options(), OWN_CONNECTION)
        return grpc.aio.secure_channel(self._server, self._secrets, options=options)

    async def run(self) -> None:
        """Stay connected and answer tasks, until cancelled."""
        pauses = Pauses()
        try:
            async for _ in pauses:
                began = time.monotonic()
                try:
                    await self._session()
                except (FedwonError, grpc.aio.AioRpcError, TimeoutError) as error:
                    self.seen.failed("session", _ours(error, self._server))
                if time.monotonic() - began > self._liveness.settled:
                    pauses.shorten()
        finally:
            for task in self._working.values():
                task.cancel()

    async def _session(self) -> None:
        data = [pb.ClassCount(name=name, train=IMAGES, validation=IMAGES) for name in CLASSES]
        hello = pb.Hello(version=VERSION, instance=self._instance, data=data, unfinished=sorted(self._working))
        async with self._open() as channel:
            call = rpc.FederationStub(channel).Session()
            try:
                with suppress(asyncio.InvalidStateError):
                    await call.write(pb.FromSite(hello=hello))
                welcome = (await self._next(call)).welcome
                self.seen.connected.append(time.monotonic())
                self._liveness = Liveness(welcome.heartbeat_seconds)
                sending = asyncio.create_task(self._send(call, self._heartbeat or welcome.heartbeat_seconds))
                try:
                    while True:
                        self._take(await self._next(call))
                finally:
                    sending.cancel()
            finally:
                call.cancel()

    async def _next(self, call: grpc.aio.StreamStreamCall[pb.FromSite, pb.FromServer]) -> pb.FromServer:
        async with asyncio.timeout(max(self._liveness.silence, 30.0)):
            message = await call.read()
        if isinstance(message, pb.FromServer):
            return message
        code, metadata = await call.code(), await call.trailing_metadata()
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, await call.details())

    async def _send(self, call: grpc.aio.StreamStreamCall[pb.FromSite, pb.FromServer], interval: float) -> None:
        self._unanswered = None
        while True:
            try:
                async with asyncio.timeout(interval):
                    message = await self._outgoing.get()
            except TimeoutError:
                message = pb.FromSite(heartbeat=pb.Heartbeat())
                if self._unanswered is None:
                    self._unanswered = time.monotonic()
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # who reads hears why
                await call.write(message)

    def _take(self, message: pb.FromServer) -> None:
        moment = time.monotonic()
        if self._unanswered is not None:  # any word will do: the server says nothing more where one waits already
            self.seen.heard.append((self._unanswered, moment - self._unanswered))
            self._unanswered = None
        match message.WhichOneof("body"):
            case "offer":
                self._offered(message.offer, moment)
            case "cancel":
                self._noted([message.cancel.task_id], "cancelled", moment)
            case "committed":
                self._noted(message.committed.task_ids, "committed", moment)
            case "finished":
                self.seen.finished = message.finished.state

    def _noted(self, names: Iterable[str], what: str, moment: float) -> None:
        for name in names:
            if name in self.seen.tasks:
                setattr(self.seen.tasks[name], what, moment)

    def _offered(self, offer: pb.Offer, moment: float) -> None:
        name = offer.task_id
        self.seen.tasks.setdefault(name, TaskTimes(offer.kind, moment))
        if name not in self._working:
            self._working[name] = asyncio.create_task(self._work(offer))

    async def _work(self, offer: pb.Offer) -> None:
        times = self.seen.tasks[offer.task_id]
        try:
            wanted = blob_of(offer.records)
            if wanted is not None and wanted.digest != self._model:
                await self._until_done("fetch", lambda: self._fetch(wanted))
                self._model = wanted.digest
            times.fetched = times.fetched or time.monotonic()
            await self._until_done("submit", lambda: self._submit(offer))
            times.handed_in = time.monotonic()
        finally:
            self._working.pop(offer.task_id, None)

    async def _until_done(self, what: str, step: Callable[[], asyncio.Future[None]]) -> None:
        async for _ in Pauses():
            try:
                await step()
            except (FedwonError, grpc.aio.AioRpcError, TimeoutError) as error:
                ours = _ours(error, self._server)
                self.seen.failed(what, ours)
                if isinstance(ours, Refused):
                    return
            else:
                return

    async def _fetch(self, wanted: pb.Blob) -> None:
        digest = hashlib.sha256()
        async with asyncio.timeout(self._liveness.stall), self._open() as channel:
            call = rpc.FederationStub(channel).Fetch(pb.FetchRequest(digest=wanted.digest))
            async for chunk in call:
                digest.update(chunk.data)
                self.seen.bytes_down += len(chunk.data)
        if digest.hexdigest() != wanted.digest:
            raise LinkError("the model has another digest than was offered")

    async def _submit(self, offer: pb.Offer) -> None:
        answer = self._answering(self.seen.site, offer)
        header = pb.SubmitHeader(task_id=offer.task_id, records=answer.records, seconds=0.0)
        async with asyncio.timeout(self._liveness.stall), self._open() as channel:
            call = rpc.FederationStub(channel).Submit()
            with suppress(asyncio.InvalidStateError):  # the call has ended; what it says comes below
                await call.write(pb.SubmitRequest(header=header))
                start = int(dict(await call.initial_metadata()).get(OFFSET_KEY, 0))
                for first in range(start, len(answer.payload), PIECE):
                    data = answer.payload[first : first + PIECE]
                    await call.write(pb.SubmitRequest(data=data))
                    self.seen.bytes_up += len(data)
                await call.done_writing()
            await call


def _ours(error: BaseException, server: str) -> BaseException:
    return from_rpc(error, server) if isinstance(error, grpc.aio.AioRpcError) else error


async def run_sites(sites: Iterable[LightSite], stop: asyncio.Event) -> list[Seen]:
    """Run sites in this event loop until `stop` is set; they connect all at once.

    Returns:
        What each has seen, in their order. It may also be read from `site.seen` while they run.
    """
    sites = list(sites)
    running = [asyncio.create_task(site.run()) for site in sites]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, *running}, return_when=asyncio.FIRST_COMPLETED)  # a site ends by a bug only
        for task in running:
            if task.done():
                task.result()
    finally:
        for task in (stopping, *running):
            task.cancel()
        await asyncio.gather(stopping, *running, return_exceptions=True)
    return [site.seen for site in sites]
