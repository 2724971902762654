"""Joining: nothing secret is said before the federation has been recognized, and a failure costs no token."""

from __future__ import annotations

import asyncio
import stat
from contextlib import asynccontextmanager

import grpc
import pytest
import yaml

from fedwon.client import enrolment
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.errors import (
    ConfigError,
    DiskFull,
    FedwonError,
    FolderTaken,
    Refused,
    TokenUsed,
    Unreachable,
    VersionGap,
    WrongFingerprint,
)
from fedwon.common.pki import fingerprint, load_credentials, sign_request, site_of
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS
from tests.link.link_kit import Federation, Server, listening, refuse

OWN = SiteConfig(data=DataConfig(path="/images"), batch_size=1, threads=2)
TOKEN = "a-secret-token"


class Clerk(rpc.EnrolmentServicer):
    """Takes sites that join, and writes down everything that it is told."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.shown = federation.authority.pem
        self.heard: list[bytes] = []
        self.answer = None

    async def Authority(self, request, context):  # noqa: N802
        self.heard.append(request.SerializeToString())
        return pb.AuthorityReply(certificate=self.shown)

    async def Enroll(self, request, context):  # noqa: N802
        self.heard.append(request.SerializeToString())
        if self.answer is not None:
            await self.answer(context)
        certificate = sign_request(self.federation.authority, request.certificate_request, "press-3")
        return pb.EnrollReply(site="press-3", certificate=certificate, server="127.0.0.1:8470")

    def knows(self, secret: str) -> bool:
        return any(secret.encode() in message for message in self.heard)


@asynccontextmanager
async def office(clerk: Clerk, tls: Federation | None = None):
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    rpc.add_EnrolmentServicer_to_server(clerk, server)
    port = server.add_secure_port("127.0.0.1:0", (tls or clerk.federation).tls(mutual=False))
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


def join(clerk: Clerk, folder, mark: str | None = None, *, tls: Federation | None = None):
    async def go():
        async with office(clerk, tls) as address:
            wanted = mark or fingerprint(clerk.federation.authority.pem)
            return await enrolment.join(address, wanted, TOKEN, folder, OWN)

    return asyncio.run(go())


@pytest.fixture
def clerk(federation):
    return Clerk(federation)


def test_joining(clerk, federation, tmp_path):
    joined = join(clerk, tmp_path / "site")
    assert joined.site == "press-3"
    content = yaml.safe_load(joined.config.read_text())
    assert content["server"] == "127.0.0.1:8470"
    assert content["data"]["path"] == "/images"
    assert (content["batch_size"], content["threads"]) == (1, 2)
    held = load_credentials(tmp_path / "site" / "pki", "site")
    assert site_of(held.certificate) == "press-3"
    key = tmp_path / "site" / "pki" / "site.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert clerk.knows(TOKEN)
    assert not clerk.knows("PRIVATE KEY")


def test_the_fingerprint_may_be_written_with_colons(clerk, tmp_path):
    mark = fingerprint(clerk.federation.authority.pem).upper()
    joined = join(clerk, tmp_path / "site", ":".join(mark[i : i + 2] for i in range(0, 64, 2)))
    assert joined.site == "press-3"


class TestImpostors:
    @pytest.fixture
    def impostor(self, tmp_path):
        return Federation(tmp_path / "impostor")

    def test_with_an_authority_of_its_own(self, federation, impostor, tmp_path):
        clerk = Clerk(impostor)
        with pytest.raises(WrongFingerprint):
            join(clerk, tmp_path / "site", fingerprint(federation.authority.pem))
        assert clerk.heard  # it was asked who it is,
        assert not clerk.knows(TOKEN)  # and told nothing
        assert not (tmp_path / "site").exists()

    def test_that_shows_the_right_authority(self, federation, impostor, tmp_path):
        """The authority's certificate is no secret; only its server has a key that it signed."""
        clerk = Clerk(impostor)
        clerk.shown = federation.authority.pem
        with pytest.raises(Refused):
            join(clerk, tmp_path / "site", fingerprint(federation.authority.pem))
        assert not clerk.knows(TOKEN)

    def test_that_shows_no_certificate_at_all(self, impostor, federation, tmp_path):
        clerk = Clerk(impostor)
        clerk.shown = b"-----BEGIN NONSENSE-----"
        with pytest.raises(FedwonError):
            join(clerk, tmp_path / "site", fingerprint(federation.authority.pem))
        assert not clerk.knows(TOKEN)

    def test_with_a_site_certificate_of_the_federation(self, federation, tmp_path):
        """A site that has joined cannot pass for the server."""
        site = federation.site("line-1")
        held = load_credentials(site / "pki", "site")

        class Turncoat:
            def tls(self, *, mutual):
                return grpc.ssl_server_credentials([(held.key, held.certificate)])

        clerk = Clerk(federation)
        with pytest.raises(FedwonError):
            join(clerk, tmp_path / "site", tls=Turncoat())
        assert not clerk.knows(TOKEN)


class TestWhatCostsNoToken:
    @pytest.mark.parametrize("address", ["", "server", "server:", ":1", "http://server:1", "a b:1", "::1:80"])
    def test_an_address_that_is_none(self, tmp_path, address):
        with pytest.raises(ConfigError):
            asyncio.run(enrolment.join(address, "0" * 64, TOKEN, tmp_path / "site", OWN))

    def test_a_folder_that_is_a_site(self, clerk, tmp_path):
        join(clerk, tmp_path / "site")
        clerk.heard.clear()
        with pytest.raises(FolderTaken):
            join(clerk, tmp_path / "site")
        assert clerk.heard == []

    def test_a_full_disk(self, clerk, tmp_path, monkeypatch):
        def full(*_):
            raise DiskFull("No space left.")

        monkeypatch.setattr(enrolment, "write_private", full)
        with pytest.raises(DiskFull):
            join(clerk, tmp_path / "site")
        assert not clerk.knows(TOKEN)

    def test_nobody_there(self, tmp_path):
        with pytest.raises(Unreachable, match="refused"):
            asyncio.run(enrolment.join("127.0.0.1:1", "0" * 64, TOKEN, tmp_path / "site", OWN))

    def test_a_server_without_tls(self, tmp_path):
        async def go():
            async def http(reader, writer):
                await reader.read(100)
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                writer.close()

            async with await asyncio.start_server(http, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                await enrolment.join(f"127.0.0.1:{port}", "0" * 64, TOKEN, tmp_path / "site", OWN)

        with pytest.raises(Unreachable, match="does not speak TLS"):
            asyncio.run(go())

    def test_the_port_for_sites(self, federation, server, tmp_path):
        async def go():
            async with listening(federation, server) as address:
                await enrolment.join(address, "0" * 64, TOKEN, tmp_path / "site", OWN)

        with pytest.raises(Unreachable) as caught:
            asyncio.run(go())
        assert "enrolment" in caught.value.hint


@pytest.mark.parametrize(
    ("slug", "kind"), [("token-used", TokenUsed), ("version-gap", VersionGap), ("disk-full", DiskFull)]
)
def test_what_the_server_says_against_it(clerk, tmp_path, slug, kind):
    async def no(context):
        await refuse(context, slug, "No.")

    clerk.answer = no
    with pytest.raises(kind):
        join(clerk, tmp_path / "site")
    assert not (tmp_path / "site" / "client.yaml").exists()
    clerk.answer = None
    join(clerk, tmp_path / "site")  # with another token, into the same folder


def test_renewing_keeps_the_key(federation, server):
    site = federation.site(days=3)
    before = load_credentials(site / "pki", "site")

    async def go():
        async with listening(federation, server) as address, enrolment.open_channel(address, site) as channel:
            await enrolment.renew(channel, address, site)

    asyncio.run(go())
    after = load_credentials(site / "pki", "site")
    assert after.key == before.key
    assert after.certificate != before.certificate
    assert isinstance(server, Server)
