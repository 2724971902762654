"""How a site joins: make a key, get the certificate, write client.yaml.

The join command names the fingerprint of the federation's authority. The server's leaf certificate is taken unseen only
to ask for that authority; nothing secret is sent before the authority's fingerprint has been found right.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from fedwon.client.config import ClientConfig, LinkConfig, SiteConfig
from fedwon.common.config import dump, parse
from fedwon.common.errors import ConfigError, FedwonError, FolderTaken, Refused, Unreachable
from fedwon.common.files import read_private, write_atomic, write_private
from fedwon.common.pki import Credentials, check_fingerprint, load_credentials, new_key, request, save_credentials
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS, from_rpc
from fedwon.common.wire.liveness import Liveness

TIMEOUT = 20.0
TRIES, PAUSE = 3, 1.0
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
"""gRPC would let all channels to an address share one connection, also one that is dead and not yet known to be."""

_ADDRESS = re.compile(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_PORT_HINT = "Is it the port for sites that join (`enrolment` in server.yaml, 8471) and not the one for sites (8470)?"


@dataclass(frozen=True)
class Joined:
    """What joining came to.

    Attributes:
        site: the name that the server gave this site.
        config: the client.yaml that was written.
    """

    site: str
    config: Path


async def join(server: str, fingerprint: str, token: str, folder: Path, own: SiteConfig | None) -> Joined:
    """Enrol this machine as a site.

    Args:
        server: `host:port` where tokens are taken.
        fingerprint: SHA-256 of the authority's certificate, from the operator.
        token: single use, from the operator.
        folder: the site's folder; made if it is missing.
        own: what the site decides for itself; None for a relay, which has no images.

    Raises:
        ConfigError: `server` is no `host:port`.
        FolderTaken: a site lives in that folder already.
        StorageError: nothing can be written there.
        Unreachable: no answer.
        WrongFingerprint: it is another authority.
        TokenUsed, TokenExpired: the token is no good.
    """
    if _ADDRESS.fullmatch(server) is None:
        raise ConfigError(f"{server!r} is no address.", hint="Give host:port as the operator's line has it.")
    path = folder / "client.yaml"
    if path.exists():
        raise FolderTaken(f"{path} is there already: this folder belongs to a site.")
    authority = await _fetch_authority(server, fingerprint)
    key = await asyncio.to_thread(_own_key, folder / "pki" / "site.key")
    async with _trusting(server, authority) as channel:
        reply = await _enroll(channel, server, token, request("site", key))
    save_credentials(folder / "pki", "site", Credentials(reply.authorities or authority, reply.certificate, key))
    kind, settings = (LinkConfig, {}) if own is None else (ClientConfig, own.model_dump())
    config = parse(kind, {**settings, "server": reply.server}, "join")
    write_atomic(path, dump(config).encode())
    return Joined(reply.site, path)


def _own_key(path: Path) -> bytes:
    """Return the key to join with, written ahead: a full or read-only disk must not cost the token.

    What an earlier try left is used again. If its reply was lost, the server knows token and key and answers once more.
    """
    if path.exists():
        return read_private(path)
    key = new_key()
    write_private(path, key)
    return key


async def _fetch_authority(server: str, fingerprint: str) -> bytes:
    host, _, port = server.rpartition(":")
    try:
        leaf = await asyncio.to_thread(ssl.get_server_certificate, (host.strip("[]"), int(port)), timeout=TIMEOUT)
    except (ssl.SSLError, ConnectionResetError) as error:
        raise Unreachable(f"{server} answers, but does not speak TLS: {error}.", hint=_PORT_HINT) from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"No answer from {server}: {error}.") from None
    async with _trusting(server, leaf.encode()) as channel:
        try:
            reply = await rpc.EnrolmentStub(channel).Authority(pb.AuthorityRequest(), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise _not_enrolment(from_rpc(error, server), server) from None
    check_fingerprint(reply.certificate, fingerprint)
    return reply.certificate


def _not_enrolment(error: FedwonError, server: str) -> FedwonError:
    """Say what a server that answers but knows nothing of enrolment probably is."""
    if isinstance(error, Refused):
        return error
    return Unreachable(f"{server} answers, but takes no sites that join.", hint=_PORT_HINT)


async def _enroll(channel: grpc.aio.Channel, server: str, token: str, certificate_request: bytes) -> pb.EnrollReply:
    """Ask for the certificate, and ask again where the line breaks: the same key gets the same answer."""
    message = pb.EnrollRequest(token=token, certificate_request=certificate_request, version=VERSION, bundle=True)
    for left in reversed(range(TRIES)):
        try:
            return await rpc.EnrolmentStub(channel).Enroll(message, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            failed = from_rpc(error, server)
            if not isinstance(failed, Unreachable) or left == 0:
                raise failed from None
            await asyncio.sleep(PAUSE)
    raise AssertionError("the last try returns or raises")


def _trusting(server: str, certificate: bytes) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(server, grpc.ssl_channel_credentials(certificate), options=CHANNEL_OPTIONS)


def open_channel(server: str, folder: Path, liveness: Liveness | None = None) -> grpc.aio.Channel:
    """Open a channel to the federation's service: a connection of its own, with the certificate as it is now.

    The name is looked up anew for each channel.

    Args:
        server: `host:port`.
        folder: the site's folder.
        liveness: how dead lines are noticed; that of the default heartbeat until the server has told its own.

    Raises:
        StorageError: a certificate or key is missing.
        KeyExposed: others can read the key.
    """
    held = load_credentials(folder / "pki", "site")
    credentials = grpc.ssl_channel_credentials(held.authority, held.key, held.certificate)
    options = (*(liveness or Liveness()).channel_options(), OWN_CONNECTION)
    return grpc.aio.secure_channel(server, credentials, options=options)


async def renew(channel: grpc.aio.Channel, server: str, folder: Path) -> None:
    """Get a fresh certificate for the key that the site has, and write it.

    Raises:
        FedwonError: the server did not answer or refused.
    """
    held = load_credentials(folder / "pki", "site")
    try:
        reply = await rpc.FederationStub(channel).Renew(
            pb.RenewRequest(certificate_request=request("site", held.key), bundle=True), timeout=TIMEOUT
        )
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, server) from None
    trusted = reply.authorities or held.authority
    save_credentials(folder / "pki", "site", Credentials(trusted, reply.certificate, held.key))
