"""The link to the server: one session, opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import grpc

from fedwon.client.config import ClientConfig
from fedwon.client.enrolment import open_channel, renew
from fedwon.client.tasks import TaskRunner, pauses
from fedwon.common.errors import DuplicateSite, FedwonError, LinkError, Refused, StorageError, Unreachable, VersionGap
from fedwon.common.pki import SITE_DAYS, certificate_days_left, load_credentials, site_of
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import from_rpc

logger = logging.getLogger(__name__)

WELCOME_SECONDS = 20.0
SILENT_INTERVALS = 3
RENEW_SHARE = 0.5
"""A certificate is renewed at a start when less than this share of its life is left."""

SETTLED_SECONDS = 10.0
"""A session that lasted so long makes the next pause short again."""

Survey = Mapping[str, Mapping[str, int]]
Call = grpc.aio.StreamStreamCall[pb.FromSite, pb.FromServer]


class Link:
    """A site's connection.

    Args:
        config: client.yaml.
        folder: the site's folder.
        survey: how many images the site has, by class and part.
        until_finished: end when a run has finished, in place of waiting for the next one.
        patience: seconds during which another client with this identity may be this box's own broken session.
    """

    def __init__(
        self, config: ClientConfig, folder: Path, survey: Survey, *, until_finished: bool, patience: float
    ) -> None:
        self._config, self._folder, self._survey = config, folder, survey
        self._until_finished, self._patience = until_finished, patience
        self.site = site_of(load_credentials(folder / "pki", "site").certificate)
        self._instance = secrets.token_hex(8)
        self._outgoing: asyncio.Queue[pb.FromSite] = asyncio.Queue()
        self._connected_once = False
        self._finished = False

    async def run(self) -> None:
        """Stay connected and do tasks, for ever or until a run has finished.

        Raises:
            DuplicateSite: another client holds this identity for longer than the patience.
            VersionGap: server and client are more than one minor version apart.
            Refused: the server does not accept this site.
        """
        async with open_channel(self._config.server, self._folder) as channel:
            runner = TaskRunner(
                channel,
                self._config.server,
                self._folder,
                self._config.for_node(self.site, self._folder),
                self._outgoing.put_nowait,
            )
            work = asyncio.create_task(runner.run())
            session = asyncio.create_task(self._stay_connected(channel, runner))
            try:
                await asyncio.wait({work, session}, return_when=asyncio.FIRST_COMPLETED)
                await (work if work.done() else session)
            finally:
                for task in (work, session):
                    task.cancel()
                    with suppress(asyncio.CancelledError, FedwonError):
                        await task

    async def _stay_connected(self, channel: grpc.aio.Channel, runner: TaskRunner) -> None:
        started, pause = time.monotonic(), pauses()
        while not self._finished:
            await anext(pause)
            began = time.monotonic()
            try:
                await self._session(channel, runner)
            except (FedwonError, TimeoutError) as error:
                self._judge(error, time.monotonic() - started)
            if time.monotonic() - began > SETTLED_SECONDS:
                pause = pauses()

    def _judge(self, error: FedwonError | TimeoutError, waited: float) -> None:
        """Log why there is no session, or raise what will not go away by itself."""
        if isinstance(error, TimeoutError):
            logger.warning("no word from the server; connecting again")
            return
        if isinstance(error, DuplicateSite) and (self._connected_once or waited < self._patience):
            logger.warning("%s It may be this box's own broken connection; trying again.", error.message)
            return
        final = isinstance(error, DuplicateSite | VersionGap | StorageError)
        if final or (isinstance(error, Refused) and not self._connected_once):
            raise error
        level = logging.WARNING if isinstance(error, Unreachable) else logging.ERROR
        logger.log(level, "%s Trying again.", error.message)

    async def _session(self, channel: grpc.aio.Channel, runner: TaskRunner) -> None:
        call = rpc.FederationStub(channel).Session()
        try:
            await call.write(pb.FromSite(hello=self._hello(runner)))
            welcome = await self._welcome(call)
            await self._renew_in_time(channel)
            logger.info("connected to %s as site %s", self._config.server, welcome.site)
            self._connected_once = True
            sending = asyncio.create_task(self._send(call, runner, welcome.heartbeat_seconds))
            try:
                await self._receive(call, runner, SILENT_INTERVALS * welcome.heartbeat_seconds)
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError, grpc.aio.BaseError, asyncio.InvalidStateError):
                    await sending
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._config.server) from None
        finally:
            call.cancel()

    def _hello(self, runner: TaskRunner) -> pb.Hello:
        data = [
            pb.ClassCount(
                name=name, train=parts.get("train", 0), validation=parts.get("val", 0), test=parts.get("test", 0)
            )
            for name, parts in self._survey.items()
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

    async def _renew_in_time(self, channel: grpc.aio.Channel) -> None:
        held = load_credentials(self._folder / "pki", "site")
        if certificate_days_left(held.certificate) < RENEW_SHARE * SITE_DAYS:
            await renew(channel, self._config.server, self._folder)
            logger.info("the site's certificate was renewed")

    async def _send(self, call: Call, runner: TaskRunner, interval: float) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self._outgoing.get(), interval)
            except TimeoutError:
                message = pb.FromSite(heartbeat=runner.heartbeat)
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
                    runner.journal.drop(message.committed.task_ids)
                    logger.info("round %d is committed", message.committed.round)
                case "finished":
                    logger.info("run %s has ended: %s", message.finished.run, message.finished.state)
                    self._finished = self._until_finished


async def _next(call: Call, server: str, patience: float) -> pb.FromServer:
    """Read the next message.

    Raises:
        TimeoutError: nothing came in `patience` seconds.
        FedwonError: the session has ended, and with what.
    """
    message = await asyncio.wait_for(call.read(), patience)
    if isinstance(message, pb.FromServer):
        return message
    code, details = await call.code(), await call.details()
    if code == grpc.StatusCode.OK:
        raise Unreachable(f"{server} has closed the session.")
    metadata = await call.trailing_metadata()
    raise from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details), server)
