"""Errors across the wire: a gRPC status with our slug in its trailing metadata, and back."""

from __future__ import annotations

import re
from typing import NoReturn

import grpc

from fedwon.common.errors import (
    DiskFull,
    DuplicateSite,
    EnrolmentError,
    FedwonError,
    LinkError,
    Refused,
    StorageError,
    Unreachable,
    VersionGap,
    by_slug,
)
from fedwon.common.version import VERSION

ERROR_KEY = "fedwon-error"
VERSION_KEY = "fedwon-version"
OFFSET_KEY = "fedwon-offset"
CHUNK = 2**20
"""Bytes of a chunk, at most (1 MiB): longer ones are not taken."""
PIECE = 2**18
"""Bytes of a chunk as it is sent (256 KiB): so much of a transfer at most is sent twice when the line breaks, and a
slow line is seen to move."""

LOOKAHEAD = 2**20
"""Bytes of a call that are on their way at most (1 MiB): the most that a sender's buffers hold of a transfer, also on a
slow line. At a round trip of 300 ms it lets 28 Mbit/s through."""

CHANNEL_OPTIONS = (
    ("grpc.http2.lookahead_bytes", LOOKAHEAD),
    ("grpc.http2.bdp_probe", 0),  # its pings wait behind what is on its way, and an idle site has nothing to measure
    ("grpc.max_receive_message_length", 2 * CHUNK),
    ("grpc.so_reuseport", 0),
    ("grpc.enable_http_proxy", 0),
)
"""Of both sides: messages stay small, no proxy is taken from the environment (nothing connects anywhere that the
configuration does not name), and a port is held by one server only. `fedwon.common.wire.liveness` adds the rest."""

_LONGEST_MESSAGE = 1000
"""Characters of an error that travel: a status lives in HTTP/2 headers, and longer ones break the call."""

_TLS_FAILED = re.compile(
    r"(ssl|tls) handshake failed|verification check failed|certificate_verify_failed", re.IGNORECASE
)
"""How gRPC says that this side refused the other's certificate. Not the bare words: a host may be named pressline-2."""

_CLOSED_HINT = (
    "Something at that address closes the connection. If it is the server, it does not accept this site's certificate "
    "(expired, revoked, of another federation): `fedwon-client check` tells; enrol again if need be."
)

_STATUS: dict[type[FedwonError], grpc.StatusCode] = {
    EnrolmentError: grpc.StatusCode.UNAUTHENTICATED,
    DuplicateSite: grpc.StatusCode.ALREADY_EXISTS,
    VersionGap: grpc.StatusCode.FAILED_PRECONDITION,
    Refused: grpc.StatusCode.PERMISSION_DENIED,
    DiskFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StorageError: grpc.StatusCode.DATA_LOSS,
}


async def abort(context: grpc.aio.ServicerContext[object, object], error: FedwonError) -> NoReturn:
    """End a call with an error that the other side can turn into ours again."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    await context.abort(status, error.message[:_LONGEST_MESSAGE], ((ERROR_KEY, error.slug), (VERSION_KEY, VERSION)))


def from_rpc(error: grpc.aio.AioRpcError, server: str) -> FedwonError:
    """Turn what a call ended with into an error of ours.

    Args:
        error: of a call.
        server: the address, for the message.
    """
    metadata = dict(error.trailing_metadata() or ())
    text = error.details() or error.code().name
    slug = metadata.get(ERROR_KEY)
    if slug is not None:
        return by_slug(str(slug))(text)
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return _unavailable(text, server)
    return LinkError(f"The call to {server} failed: {error.code().name}: {text}.")


def _unavailable(text: str, server: str) -> FedwonError:
    if _TLS_FAILED.search(text):
        return Refused(
            f"No secure connection to {server}: {text}.",
            hint="This site does not accept the server's certificate: another server, one without TLS, an expired "
            "certificate, or a name that it does not have. `fedwon-client check` tells which.",
        )
    # A server that refuses a certificate just closes the connection (TLS 1.3): that looks like one that goes down.
    hint = _CLOSED_HINT if "socket closed" in text.lower() else None
    return Unreachable(f"No answer from {server}: {text}.", hint=hint)
