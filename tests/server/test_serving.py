"""A server's folder and its ports."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedwon.common.errors import ConfigError, ConfigMissing, FolderTaken, PortInUse, StorageError
from fedwon.common.pki import site_of_peer
from fedwon.common.wire.liveness import Liveness
from fedwon.server import serving as serving_module
from fedwon.server.config import ServerConfig
from fedwon.server.identity import sites
from fedwon.server.serving import Home, serving
from fedwon.server.store import AuditRow, Site
from tests.server.server_kit import free_ports, make_home, rows, wired


@pytest.fixture
def home(tmp_path):
    made = make_home(tmp_path / "server")
    yield made
    made.store.close()


async def serve(home):
    async with serving(home):
        pass


def moved(home, **addresses):
    home.config = home.config.model_copy(update=addresses)
    return home


def test_a_folder_is_made_and_opened(home):
    again = Home.open(home.folder)
    assert again.config == home.config
    assert again.authority.pem == home.authority.pem
    assert [row.action for row in rows(again.store, AuditRow)] == ["server made"]
    again.store.close()
    mode = (home.folder / "pki" / "server.key").stat().st_mode
    assert mode & 0o077 == 0


def test_a_folder_is_not_made_twice(home):
    with pytest.raises(FolderTaken):
        Home.create(home.folder, ServerConfig())


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ConfigMissing, match="no server's folder"):
        Home.open(tmp_path)


def test_a_folder_without_its_certificates(home):
    (home.folder / "pki" / "ca.pem").unlink()
    with pytest.raises(StorageError, match=r"ca\.pem"):
        Home.open(home.folder)


@pytest.mark.parametrize(
    ("name", "listen", "expected"),
    [
        ("plant.example", "0.0.0.0:8470", "plant.example:8470"),
        ("10.0.0.1", "[::]:99", "10.0.0.1:99"),
        ("fe80::1", "[::]:99", "[fe80::1]:99"),
    ],
)
def test_where_sites_find_the_server(home, name, listen, expected):
    moved(home, names=(name, "other"), listen=listen, enrolment=listen)
    assert home.public_address == home.enrolment_address == expected


@pytest.mark.parametrize("key", ["listen", "enrolment"])
def test_a_port_that_is_taken(home, key):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortInUse) as caught:
            asyncio.run(serve(moved(home, **{key: address})))
    assert caught.value.message == f"{address} (`{key}` in server.yaml) is in use by another process."
    # and what was bound before that is free again
    other = home.config.enrolment if key == "listen" else home.config.listen
    with socket.create_server(("127.0.0.1", int(other.rpartition(":")[2]))):
        pass


def test_a_second_server_on_the_same_ports(home):
    async def two():
        async with serving(home):
            with pytest.raises(PortInUse, match="`listen`"):
                await serve(home)

    asyncio.run(two())


@pytest.mark.parametrize(
    "address", ["192.0.2.1:8470", "no-such-host.invalid:8470", "127.0.0.1:99999", "[2001:db8::1]:80"]
)
def test_an_address_that_is_none_of_this_machines(home, address):
    with pytest.raises(ConfigError, match=r"`listen` in server\.yaml"):
        asyncio.run(serve(moved(home, listen=address)))


def test_a_port_that_this_user_may_not_use(home, monkeypatch):
    class Forbidden(socket.socket):
        def bind(self, address):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(serving_module.socket, "socket", Forbidden)
    with pytest.raises(ConfigError, match="may not listen on"):
        asyncio.run(serve(home))


def test_after_a_server_has_ended_its_ports_are_free(home):
    served = [asyncio.run(serve(home)) for _ in range(2)]
    assert len(served) == 2


def test_nobody_is_connected_to_a_server_that_starts_or_has_stopped(home):
    sites.enrolled(home.store, "line-1", sites.now())
    sites.connected(home.store, "line-1", "0.1.0", {})

    async def run():
        async with serving(home):
            assert not rows(home.store, Site)[0].connected
            sites.connected(home.store, "line-1", "0.1.0", {})

    asyncio.run(run())
    assert not rows(home.store, Site)[0].connected


def test_no_port_is_shared(home):
    """A second server with SO_REUSEPORT would take half of the sites."""
    assert ("grpc.so_reuseport", 0) in Liveness().server_options()


@wired
async def test_health_is_told_to_those_with_a_certificate(running):
    stub = health_pb2_grpc.HealthStub(running.channel(*running.credentials("line-1")))
    reply = await stub.Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError):
        await health_pb2_grpc.HealthStub(running.channel()).Check(health_pb2.HealthCheckRequest())
    assert site_of_peer({"x509_subject_alternative_name": [b"fedwon:site:line-1"]}) == "line-1"


@wired
async def test_when_sites_were_last_heard_is_noted_now_and_then(running):
    monkey, written = pytest.MonkeyPatch(), asyncio.Event()
    loop, real = asyncio.get_running_loop(), sites.seen

    def noted(store, moments):
        real(store, moments)
        loop.call_soon_threadsafe(written.set)

    session = await running.site("line-1").connect()
    before = rows(running.home.store, Site)[0].last_seen
    monkey.setattr(serving_module, "SEEN_SECONDS", 0.0)
    monkey.setattr(sites, "seen", noted)
    service = type("Service", (), {"last_seen": {"line-1": sites.now()}})()
    noting = asyncio.create_task(serving_module._note_seen(service, running.home.store))
    try:
        await asyncio.wait_for(written.wait(), 60)
    finally:
        noting.cancel()
        monkey.undo()
    assert rows(running.home.store, Site)[0].last_seen > before
    assert service.last_seen == {}
    await session.leave()


def test_a_database_that_is_locked_does_not_end_the_noting(home, monkeypatch):
    async def run():
        asked, calls = asyncio.Event(), []
        loop = asyncio.get_running_loop()

        def locked(store, moments):
            calls.append(moments)
            service.last_seen = {"line-1": sites.now()}
            if len(calls) == 3:
                loop.call_soon_threadsafe(asked.set)
            raise StorageError("locked")

        monkeypatch.setattr(sites, "seen", locked)
        monkeypatch.setattr(serving_module, "SEEN_SECONDS", 0.0)
        service = type("Service", (), {"last_seen": {"line-1": sites.now()}})()
        noting = asyncio.create_task(serving_module._note_seen(service, home.store))
        await asyncio.wait_for(asked.wait(), 60)
        noting.cancel()

    asyncio.run(run())


def test_free_ports_differ():
    assert len(set(free_ports(2))) == 2
