"""The link to the server: one session, opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc

from fedwon.client.config import ClientConfig
from fedwon.client.enrolment import open_channel, renew
from fedwon.client.judgement import Judgement
from fedwon.client.lock import locked
from fedwon.client.tasks import TaskRunner
from fedwon.client.transfers import pauses
from fedwon.common.errors import FedwonError, LinkError, Unreachable, VersionGap
from fedwon.common.pki import SITE_DAYS, certificate_days_left, load_credentials, site_of
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import from_rpc

logger = logging.getLogger(__name__)

WELCOME_SECONDS = 30.0
"""Longer than gRPC takes to give an address up (20 s): its error says why, a timeout does not."""

SILENT_INTERVALS = 3
HEARTBEATS = (0.2, 600.0)
"""Seconds between which a server may choose."""

RENEW_SHARE = 0.5
"""A certificate is renewed when less than this share of its life is left."""

RENEW_CHECK_SECONDS = 6 * 3600.0
SETTLED_SECONDS = 10.0
"""A session that lasted so long makes the next pause short again."""

Survey = Mapping[str, Mapping[str, int]]
Call = grpc.aio.StreamStreamCall[pb.FromSite, pb.FromServer]


class Link:
    """A site's connection.

    Args:
        config: client.yaml.
        folder: the site's folder.
        survey: counts the site's images, by class and part; called again for each session.
        until_finished: end when a run has finished, in place of waiting for the next one.
        patience: seconds during which another client with this identity may be this box's own broken session.

    Raises:
        StorageError: the site's certificate cannot be read.
        KeyExposed: others can read the site's key.
    """

    def __init__(
        self,
        config: ClientConfig,
        folder: Path,
        survey: Callable[[], Survey],
        *,
        until_finished: bool,
        patience: float,
    ) -> None:
        self._config, self._folder, self._survey = config, folder, survey
        self._until_finished, self._patience = until_finished, patience
        self.site = site_of(load_credentials(folder / "pki", "site").certificate)
        self._instance = secrets.token_hex(8)
        self._outgoing: asyncio.Queue[pb.FromSite] = asyncio.Queue()
        self._judgement = Judgement(config.server, folder, patience)
        self._counted: Survey = {}
        self._finished = False
        self._channels = AsyncExitStack()
        self._channel: grpc.aio.Channel  # opened by `run`, inside the event loop

    async def run(self) -> None:
        """Stay connected and do tasks, for ever or until a run has finished.

        Raises:
            DuplicateSite: another client holds this identity for longer than the patience.
            VersionGap: server and client are more than one minor version apart.
            Refused: the server does not accept this site, at the first connection.
        """
        async with locked(self._folder, self._patience), self._channels:
            node = self._config.for_node(self.site, self._folder)
            tell, memory_mb = self._outgoing.put_nowait, self._config.memory_mb
            runner = TaskRunner(self._config.server, self._folder, node, tell, memory_mb)
            await self._use_certificate(runner)
            async with _beside(runner.run()):
                await self._stay_connected(runner)

    async def _use_certificate(self, runner: TaskRunner) -> None:
        """Open a channel with the certificate as it is now; calls that still run keep the one that they began with."""
        self._channel = await self._channels.enter_async_context(open_channel(self._config.server, self._folder))
        runner.use(self._channel)

    async def _stay_connected(self, runner: TaskRunner) -> None:
        pause = pauses()
        while not self._finished:
            await anext(pause)
            try:
                await self._session(runner)
            except (FedwonError, TimeoutError) as error:
                await self._judgement.pronounce(error)
            except Exception:
                logger.exception("the session ended with an unexpected error; connecting again")
            if self._judgement.lasted() > SETTLED_SECONDS:
                pause = pauses()

    async def _session(self, runner: TaskRunner) -> None:
        hello = await self._hello(runner)
        call = rpc.FederationStub(self._channel).Session()
        try:
            with suppress(asyncio.InvalidStateError):  # the call has ended; reading from it says why
                await call.write(pb.FromSite(hello=hello))
            welcome = await self._welcome(call)
            logger.info("connected to %s as site %s", self._config.server, welcome.site)
            self._judgement.connected()
            runner.connected()
            interval = _sensible(welcome.heartbeat_seconds)
            async with _beside(self._send(call, runner, interval)), _beside(self._keep_renewed(runner)):
                await self._receive(call, runner, SILENT_INTERVALS * interval)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._config.server) from None
        finally:
            call.cancel()

    async def _hello(self, runner: TaskRunner) -> pb.Hello:
        try:
            self._counted = await asyncio.to_thread(self._survey)
        except FedwonError as error:  # a share that is away for a while; the site may hold an outcome to hand in
            logger.error("%s %s", error.message, error.hint)  # noqa: TRY400
        data = [
            pb.ClassCount(
                name=name, train=parts.get("train", 0), validation=parts.get("validation", 0), test=parts.get("test", 0)
            )
            for name, parts in self._counted.items()
        ]
        return pb.Hello(version=VERSION, instance=self._instance, data=data, unfinished=runner.unfinished())

    async def _welcome(self, call: Call) -> pb.Welcome:
        message = await _next(call, self._config.server, WELCOME_SECONDS)
        if message.WhichOneof("body") != "welcome":
            raise LinkError(f"{self._config.server} did not answer as a fedwon server does.")
        welcome: pb.Welcome = message.welcome
        if not compatible(VERSION, welcome.version):
            raise VersionGap(f"The server runs fedwon {welcome.version}, this site {VERSION}.")
        return welcome

    async def _keep_renewed(self, runner: TaskRunner) -> None:
        while True:
            try:
                await self._renew_in_time(runner)
            except FedwonError as error:
                logger.warning("the site's certificate could not be renewed: %s", error.message)
            await asyncio.sleep(RENEW_CHECK_SECONDS)

    async def _renew_in_time(self, runner: TaskRunner) -> None:
        held = load_credentials(self._folder / "pki", "site")
        if certificate_days_left(held.certificate) < RENEW_SHARE * SITE_DAYS:
            await renew(self._channel, self._config.server, self._folder)
            await self._use_certificate(runner)  # this session goes on; the next one shows the new certificate
            logger.info("the site's certificate was renewed")

    async def _send(self, call: Call, runner: TaskRunner, interval: float) -> None:
        while True:
            try:
                async with asyncio.timeout(interval):  # Python 3.11's wait_for can swallow a cancellation
                    message = await self._outgoing.get()
            except TimeoutError:
                message = pb.FromSite(heartbeat=runner.heartbeat)
            with suppress(asyncio.InvalidStateError):  # the call has ended; who reads hears why
                await call.write(message)

    async def _receive(self, call: Call, runner: TaskRunner, silence: float) -> None:
        while not self._finished:
            message = await _next(call, self._config.server, silence)
            match message.WhichOneof("body"):
                case "offer":
                    runner.offer(message.offer)
                case "cancel":
                    runner.cancel(message.cancel.task_id, message.cancel.reason)
                case "committed":
                    await asyncio.to_thread(runner.journal.drop, message.committed.task_ids)
                    logger.info("round %d is over", message.committed.round)
                case "finished":
                    self._run_ended(message.finished)

    def _run_ended(self, ended: pb.Finished) -> None:
        logger.info("run %s: %s", ended.run, ended.state)
        # a run that was stopped or has failed is resumed one day, and then it needs its sites
        self._finished = self._until_finished and ended.state == "finished"


def _sensible(seconds: float) -> float:
    shortest, longest = HEARTBEATS
    return min(max(seconds, shortest), longest) if math.isfinite(seconds) else longest


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do something beside the block, and end it with the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        while not task.done():  # once is not always enough: a library may swallow it
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("what ran beside the session ended with %r", error)


async def _next(call: Call, server: str, patience: float) -> pb.FromServer:
    """Read the next message.

    Raises:
        TimeoutError: nothing came in `patience` seconds.
        FedwonError: the session has ended, and with what.
    """
    async with asyncio.timeout(patience):
        message = await call.read()
    if isinstance(message, pb.FromServer):
        return message
    if message is not grpc.aio.EOF:  # gRPC gives None for bytes that are no message
        raise LinkError(f"{server} sent something that is no message.")
    code, details = await call.code(), await call.details()
    if code == grpc.StatusCode.OK:
        raise Unreachable(f"{server} has closed the session.")
    metadata = await call.trailing_metadata()
    raise from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details), server)
