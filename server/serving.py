"""A server's life: its folder, its certificates, its two ports, and the loop behind them."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from fedwon.common.config import dump, load
from fedwon.common.errors import ConfigError, ConfigMissing, FolderTaken, PortInUse, StorageError
from fedwon.common.files import write_atomic
from fedwon.common.lock import held
from fedwon.common.pki import (
    Authority,
    create_authority,
    issue_server,
    load_authority,
    save_credentials,
)
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.liveness import Liveness
from fedwon.server.auditing import Refusals, operator
from fedwon.server.config import ServerConfig
from fedwon.server.identity import sites
from fedwon.server.identity.attempts import Attempts
from fedwon.server.identity.authorities import LiveTrust
from fedwon.server.identity.enrolling import EnrolmentService
from fedwon.server.link import doors
from fedwon.server.link.handshakes import told_of_handshakes
from fedwon.server.link.health import OutsidersHealth
from fedwon.server.link.hub import Hub
from fedwon.server.link.service import FederationService
from fedwon.server.link.tls import server_credentials
from fedwon.server.releases.desk import Desk
from fedwon.server.rounds import availability
from fedwon.server.store import Store
from fedwon.server.watching import Watch, keep_own, renew_own

logger = logging.getLogger(__name__)

SEEN_SECONDS = 10.0
GRACE_SECONDS = 3.0
CONFIG_NAME = "server.yaml"


@dataclass
class Home:
    """A server's folder, opened.

    Attributes:
        folder: where everything lies.
        config: server.yaml.
        store: the database.
        authority: the federation's own certificate authority.
    """

    folder: Path
    config: ServerConfig
    store: Store
    authority: Authority

    @classmethod
    def open(cls, folder: Path) -> Home:
        """Open a folder that `create` made.

        Raises:
            ConfigMissing: there is no server.yaml in it.
            ConfigError: server.yaml is not valid.
            StorageError: the database or the certificates cannot be read.
        """
        if not (folder / CONFIG_NAME).exists():
            raise ConfigMissing(f"{folder} is no server's folder: it has no {CONFIG_NAME}.")
        config = load(ServerConfig, folder / CONFIG_NAME)
        authority = load_authority(folder / "pki")
        return cls(folder, config, Store(folder / "fedwon.db"), authority)

    @classmethod
    def create(cls, folder: Path, config: ServerConfig) -> Home:
        """Make a server's folder: server.yaml, authority, server certificate, database.

        server.yaml comes last: without it there is no server yet, and what a try that died has left is gone on with.

        Raises:
            FolderTaken: there is a server.yaml already, or the authority of another federation.
            DiskFull: no space left.
        """
        if (folder / CONFIG_NAME).exists():
            raise FolderTaken(f"{folder / CONFIG_NAME} is there already.")
        authority = _authority(folder / "pki", config.federation)
        save_credentials(folder / "pki", "server", issue_server(authority, config.names))
        home = cls(folder, config, Store(folder / "fedwon.db"), authority)
        home.store.audit("server made", config.federation, ", ".join(config.names), actor=operator())
        write_atomic(folder / CONFIG_NAME, f"# docs/configuration.md explains every key.\n{dump(config)}".encode())
        return home

    @property
    def public_address(self) -> str:
        """Where sites find the federation: the first name with the port that is listened on."""
        return _public(self.config.names[0], self.config.listen)

    @property
    def enrolment_address(self) -> str:
        """Where sites find enrolment."""
        return _public(self.config.names[0], self.config.enrolment)

    @property
    def lock(self) -> Path:
        """The file that the server holds while it runs."""
        return self.folder / "server.lock"

    @property
    def served(self) -> bool:
        """Whether a server runs with this folder; True where that cannot be known."""
        return held(self.lock)


def _authority(pki: Path, federation: str) -> Authority:
    if not (pki / "ca.pem").exists():
        return create_authority(pki, federation)
    found = load_authority(pki)
    if found.name != federation:
        raise FolderTaken(
            f"{pki} holds the authority of federation {found.name}, not of {federation}.",
            hint=f"Go on with `--federation {found.name}`, or name a new folder.",
        )
    return found


def _public(name: str, listen: str) -> str:
    host = f"[{name}]" if ":" in name else name
    return f"{host}:{listen.rpartition(':')[2]}"


@asynccontextmanager
async def serving(home: Home) -> AsyncIterator[Hub]:
    """Listen on both ports while the block runs; yields the hub.

    Raises:
        PortInUse: another process listens there.
        StorageError: certificates cannot be read.
    """
    pki, config, trust = home.folder / "pki", home.config, LiveTrust(home.folder / "pki")
    renew_own(home.store, config, trust)
    hub = Hub(config.heartbeat_seconds)
    desk = Desk(hub, home.store, home.folder)
    service = FederationService(hub, home.store, trust.get, desk, config.run)
    attempts = Attempts(config.enrolment_limits.per_address, config.enrolment_limits.in_all)
    enrolling = EnrolmentService(home.store, trust.get, home.public_address, attempts, service.refusals)
    federation, enrolment = _servers(config)
    rpc.add_FederationServicer_to_server(service, federation)
    rpc.add_EnrolmentServicer_to_server(enrolling, enrolment)
    # both ahead of either: a port that is bound stays so until the server object is collected
    _check_port(config.listen, "listen")
    _check_port(config.enrolment, "enrolment")
    _listen(federation, config.listen, "listen", server_credentials(pki, mutual=True))
    _listen(enrolment, config.enrolment, "enrolment", server_credentials(pki, mutual=False))
    health, outsiders = grpc_health.HealthServicer(), OutsidersHealth()
    health_pb2_grpc.add_HealthServicer_to_server(health, federation)
    health_pb2_grpc.add_HealthServicer_to_server(outsiders, enrolment)
    sites.disconnected(home.store)
    availability.forget(home.store)
    watch = Watch(hub, service.standing, trust, service.refusals, home.store)
    await watch.look()
    await desk.look()
    await federation.start()
    await enrolment.start()
    logger.info("listening on %s, enrolment on %s", config.listen, config.enrolment)
    beside = [
        asyncio.create_task(work)
        for work in (
            _note_seen(service, home.store),
            service.refusals.keep_writing(),
            watch.keep(),
            desk.keep(),
            keep_own(home.store, config, trust),
        )
    ]
    try:
        with told_of_handshakes(service.refusals):
            yield hub
    finally:
        await _end(beside)
        hub.stop()
        await asyncio.gather(health.enter_graceful_shutdown(), outsiders.enter_graceful_shutdown())
        await asyncio.gather(federation.stop(GRACE_SECONDS), enrolment.stop(GRACE_SECONDS))
        enrolling.close()
        try:
            await asyncio.to_thread(_last_notes, home.store, service.refusals)
        except StorageError as error:  # what ended the server says more
            logger.warning("%s", error.message)


def _servers(config: ServerConfig) -> tuple[grpc.aio.Server, grpc.aio.Server]:
    """Make what listens on the two ports."""
    liveness, limits = Liveness(config.heartbeat_seconds), config.enrolment_limits
    federation = grpc.aio.server(options=doors.federation_options(liveness, config.connections))
    enrolment = grpc.aio.server(
        interceptors=(doors.StrangersCalls(),),
        options=doors.enrolment_options(liveness, limits.connections),
        maximum_concurrent_rpcs=doors.STRANGERS_AT_ONCE,
    )
    return federation, enrolment


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _last_notes(store: Store, refusals: Refusals) -> None:
    sites.disconnected(store)
    refusals.write()


def _listen(server: grpc.aio.Server, address: str, key: str, credentials: grpc.ServerCredentials) -> None:
    try:
        server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortInUse(f"Cannot listen on {address} (`{key}` in {CONFIG_NAME}): {error}.") from None


def _check_port(address: str, key: str) -> None:
    """Bind once ahead of gRPC, whose own error does not tell a taken port from a wrong address.

    Raises:
        PortInUse: another process listens there.
        ConfigError: the address is none of this machine's.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except PermissionError:
        raise ConfigError(f"This user may not listen on {address} (`{key}` in {CONFIG_NAME}).") from None
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{address} (`{key}` in {CONFIG_NAME}) is in use by another process.") from None
        raise ConfigError(f"{address} (`{key}` in {CONFIG_NAME}) is no address of this machine: {error}.") from None


async def _note_seen(service: FederationService, store: Store) -> None:
    """Write now and then when sites were last heard of: one transaction for all."""
    while True:
        await asyncio.sleep(SEEN_SECONDS)
        moments, service.last_seen = service.last_seen, {}
        if moments:
            try:
                await asyncio.to_thread(sites.seen, store, list(moments.items()))
            except StorageError as error:
                logger.warning("%s", error.message)
