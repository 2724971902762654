"""The link to the server: one session, opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from fedwon.client.config import LinkConfig
from fedwon.client.enrolment import open_channel
from fedwon.client.link.attendance import Attendance
from fedwon.client.link.health import answering
from fedwon.client.link.judgement import Judgement
from fedwon.client.link.renewal import Renewal
from fedwon.client.link.schedule import ScheduleConfig
from fedwon.client.link.tasks import App, TaskRunner, training_app
from fedwon.client.link.transfers import Pauses
from fedwon.client.releases.adoption import Adoption
from fedwon.client.tracing import Step, untraced
from fedwon.common.codec import CODECS
from fedwon.common.config import load
from fedwon.common.errors import (
    ConfigError,
    ConfigMissing,
    DuplicateSite,
    FedwonError,
    LinkError,
    Unreachable,
    VersionGap,
)
from fedwon.common.lock import locked
from fedwon.common.pki import load_credentials, site_of
from fedwon.common.surveys import Survey
from fedwon.common.version import VERSION, compatible
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import from_rpc
from fedwon.common.wire.liveness import Liveness
from fedwon.common.wire.surveys import survey_to_wire

logger = logging.getLogger(__name__)

WELCOME_SECONDS = 30.0
"""Longer than gRPC takes to give an address up (20 s): its error says why, a timeout does not."""

LOCK = "client.lock"
"""File in a site's folder that the client holds while it runs."""

HEARTBEATS = (0.2, 600.0)
"""Seconds between which a server may choose."""


Call = grpc.aio.StreamStreamCall[pb.FromSite, pb.FromServer]


class Link:
    """A site's connection.

    Args:
        config: client.yaml, of a site or of a relay.
        folder: the site's folder.
        survey: counts the site's images, by class and part; called again for each session.
        until_finished: end when a run has finished, in place of waiting for the next one.
        patience: seconds during which another client with this identity may be this box's own broken session.
        schedule: when the site may work; None for at any time.
        load_app: returns what does the tasks.
        adoption: takes releases for the line; None for a relay, which has none.
        step: surrounds each step of a task.
        overhear: is told every message of the server that is about tasks and runs, after the link has acted on it.

    Raises:
        StorageError: the site's certificate cannot be read.
        KeyExposed: others can read the site's key.
    """

    def __init__(
        self,
        config: LinkConfig,
        folder: Path,
        survey: Callable[[], Survey],
        *,
        until_finished: bool,
        patience: float,
        schedule: ScheduleConfig | None = None,
        load_app: Callable[[], App] = training_app,
        adoption: Adoption | None = None,
        step: Step = untraced,
        overhear: Callable[[pb.FromServer], None] = lambda _: None,
    ) -> None:
        self._config, self._folder, self._survey = config, folder, survey
        self._until_finished, self._patience = until_finished, patience
        self._load_app, self._step, self._overhear, self._adoption = load_app, step, overhear, adoption
        self.site = site_of(load_credentials(folder / "pki", "site").certificate)
        self._instance = secrets.token_hex(8)
        self._outgoing: asyncio.Queue[pb.FromSite] = asyncio.Queue()
        self._attendance = Attendance(schedule, folder, self._outgoing.put_nowait)
        self._judgement = Judgement(config.server, folder, patience)
        self._renewal = Renewal(folder)
        self._counted: Survey = {}
        self._finished = False
        self._runner: TaskRunner | None = None
        self._server, self._liveness = config.server, Liveness()

    async def run(self) -> None:
        """Stay connected and do tasks, for ever or until a run has finished.

        Raises:
            DuplicateSite: another client holds this identity for longer than the patience.
            VersionGap: server and client are more than one minor version apart.
            Refused: the server does not accept this site, at the first connection.
        """
        lock = locked(self._folder / LOCK, self._patience, _taken(self._folder))
        async with lock, answering(self._folder, self._health):
            node = self._config.for_node(self.site, self._folder)
            tell, memory_mb = self._outgoing.put_nowait, self._config.memory_mb
            runner = TaskRunner(
                self._server, self._folder, node, tell, memory_mb, load_app=self._load_app, step=self._step
            )
            runner.use(self._open)
            self._runner = runner
            if self._adoption is not None:
                self._adoption.connect(self._open, tell)
            async with (
                _beside(runner.run()),
                _beside(self._attendance.watch(runner, lambda: self._judgement.standing)),
            ):
                await self._stay_connected(runner)

    def figures(self) -> dict[str, object]:
        """Return what the box's own metrics tell; from any thread."""
        beat = pb.Heartbeat() if self._runner is None else self._runner.heartbeat
        return {**self._health(), "done": beat.done, "total": beat.total}

    def _health(self) -> dict[str, object]:
        where = {"site": self.site, "server": self._server, "connected": self._judgement.standing}
        return {**where, "version": VERSION, "pid": os.getpid()}

    def _open(self) -> grpc.aio.Channel:
        """Open a channel to the server as it is now: its address, what its name means, this site's certificate."""
        return open_channel(self._server, self._folder, self._liveness)

    async def _stay_connected(self, runner: TaskRunner) -> None:
        pauses = Pauses()
        async for _ in pauses:
            try:
                self._take_up_address(runner)
                await self._session(runner)
            except FedwonError as error:
                await self._judgement.pronounce(error)
            except Exception:
                logger.exception("the session ended with an unexpected error; connecting again")
            if self._finished:
                return
            if self._judgement.lasted() > self._liveness.settled:
                pauses.shorten()

    def _take_up_address(self, runner: TaskRunner) -> None:
        """Look whether client.yaml names another address by now: a server moves without restarts of its sites."""
        try:
            server = load(type(self._config), self._folder / "client.yaml").server
        except ConfigMissing:
            return
        except ConfigError as error:
            logger.warning("%s The address stays %s.", error.message, self._server)
            return
        if server != self._server:
            logger.info("client.yaml names another address: %s in place of %s", server, self._server)
            self._server = server
            self._judgement.moved(server)
            runner.moved(server)

    async def _session(self, runner: TaskRunner) -> None:
        hello = await self._hello(runner)
        async with self._open() as channel:  # a connection of its own: the last one may be dead and not know it
            call = rpc.FederationStub(channel).Session()
            try:
                with suppress(asyncio.InvalidStateError):  # the call has ended; reading from it says why
                    await call.write(pb.FromSite(hello=hello))
                welcome = await self._welcome(call)
                interval = self._connected(runner, welcome)
                await self._renewal.trust(welcome.authorities, interval)
                async with (
                    _beside(self._send(call, runner, interval)),
                    _beside(self._renewal.keep(channel, self._server)),
                ):
                    await self._receive(call, runner, interval)
            except grpc.aio.AioRpcError as error:
                raise from_rpc(error, self._server) from None
            finally:
                call.cancel()

    def _connected(self, runner: TaskRunner, welcome: pb.Welcome) -> float:
        """Note that a session stands; return the seconds between heartbeats."""
        logger.info("connected to %s as site %s", self._server, welcome.site)
        self._liveness = Liveness(_sensible(welcome.heartbeat_seconds))
        self._judgement.connected()
        runner.connected(self._liveness)
        if self._adoption is not None:
            self._adoption.wake.set()
        self._attendance.tell()  # again, for what a broken session left unsent may be older than the hello
        return self._liveness.heartbeat

    async def _hello(self, runner: TaskRunner) -> pb.Hello:
        try:
            self._counted = await asyncio.to_thread(self._survey)
        except FedwonError as error:  # a share that is away for a while; the site may hold an outcome to hand in
            logger.error("%s %s", error.message, error.hint)  # noqa: TRY400
        return pb.Hello(
            version=VERSION,
            instance=self._instance,
            data=survey_to_wire(self._counted),
            unfinished=runner.unfinished(),
            codecs=sorted(CODECS),
            availability=self._attendance.to_wire(),
            releases=self._adoption is not None,
        )

    def tell_survey(self, survey: Survey) -> None:
        """Tell the server what images there are by now, at once or after the hello of the next session."""
        self._outgoing.put_nowait(pb.FromSite(survey=pb.Survey(data=survey_to_wire(survey))))

    async def _welcome(self, call: Call) -> pb.Welcome:
        message = await _next(call, self._server, WELCOME_SECONDS)
        if message.WhichOneof("body") != "welcome":
            raise LinkError(f"{self._server} did not answer as a fedwon server does.")
        welcome: pb.Welcome = message.welcome
        if not compatible(VERSION, welcome.version):
            raise VersionGap(f"The server runs fedwon {welcome.version}, this site {VERSION}.")
        return welcome

    async def _send(self, call: Call, runner: TaskRunner, interval: float) -> None:
        while True:
            try:
                async with asyncio.timeout(interval):  # Python 3.11's wait_for can swallow a cancellation
                    message = await self._outgoing.get()
            except TimeoutError:
                message = pb.FromSite(heartbeat=runner.heartbeat)
            with suppress(asyncio.InvalidStateError):  # the call has ended; who reads hears why
                await call.write(message)

    async def _receive(self, call: Call, runner: TaskRunner, interval: float) -> None:
        while not self._finished:
            message = await _next(call, self._server, self._liveness.silence)
            match message.WhichOneof("body"):
                case "offer":
                    if not self._attendance.declines(message.offer, runner):
                        runner.offer(message.offer)
                case "cancel":
                    runner.cancel(message.cancel.task_id, message.cancel.reason)
                case "committed":
                    await asyncio.to_thread(runner.journal.drop, message.committed.task_ids)
                    logger.info("round %d is over", message.committed.round)
                case "trust":
                    await self._renewal.trust(message.trust.authorities, interval)
                case "release" if self._adoption is not None:
                    self._adoption.order(message.release)
                case "finished":
                    self._run_ended(message.finished)
            self._overhear(message)

    def _run_ended(self, ended: pb.Finished) -> None:
        logger.info("run %s: %s", ended.run, ended.state)
        # a run that was stopped or has failed is resumed one day, and then it needs its sites
        self._finished = self._until_finished and ended.state == "finished"


def _sensible(seconds: float) -> float:
    shortest, longest = HEARTBEATS
    return min(max(seconds, shortest), longest) if math.isfinite(seconds) else longest


def _taken(folder: Path) -> DuplicateSite:
    return DuplicateSite(
        f"Another fedwon-client runs with the folder {folder}.",
        hint="Stop the other client: `systemctl status fedwon-client`, `pgrep -af fedwon-client`.",
    )


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
        Unreachable: nothing came in `patience` seconds.
        FedwonError: the session has ended, and with what.
    """
    try:
        async with asyncio.timeout(patience):
            message = await call.read()
    except TimeoutError:
        raise Unreachable(f"No word from {server} for {patience:.0f} s.") from None
    if isinstance(message, pb.FromServer):
        return message
    if message is not grpc.aio.EOF:  # gRPC gives None for bytes that are no message
        raise LinkError(f"{server} sent something that is no message.")
    code, details = await call.code(), await call.details()
    if code == grpc.StatusCode.OK:
        raise Unreachable(f"{server} has closed the session.")
    metadata = await call.trailing_metadata()
    raise from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details), server)
