"""Errors across the wire: each of ours arrives as itself, and gRPC's own become the one that helps."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from fedwon.common import errors
from fedwon.common.errors import FedwonError, LinkError, Refused, Unreachable
from fedwon.common.version import VERSION
from fedwon.common.wire.grpc_errors import ERROR_KEY, VERSION_KEY, abort, from_rpc

STATUS = {
    "token-used": "UNAUTHENTICATED",
    "token-expired": "UNAUTHENTICATED",
    "duplicate-site": "ALREADY_EXISTS",
    "version-gap": "FAILED_PRECONDITION",
    "refused": "PERMISSION_DENIED",
    "disk-full": "RESOURCE_EXHAUSTED",
    "broken-file": "DATA_LOSS",
    "storage": "DATA_LOSS",
    "link": "INTERNAL",
    "task-failed": "INTERNAL",
}


class Call:
    async def abort(self, code, details, trailing_metadata):
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing_metadata), details)


def sent(error: FedwonError) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(abort(Call(), error))
    return caught.value


def failed(code: grpc.StatusCode, details: str, *metadata) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details)


@pytest.mark.parametrize("kind", errors.all_errors())
def test_every_error_arrives_as_itself(kind):
    arrived = from_rpc(sent(kind("what is wrong")), "host:1")
    assert type(arrived) is kind
    assert arrived.message == "what is wrong"
    assert arrived.hint == kind.default_hint


@pytest.mark.parametrize(("slug", "status"), STATUS.items())
def test_status(slug, status):
    error = sent(errors.by_slug(slug)("x"))
    assert error.code() == grpc.StatusCode[status]
    assert dict(error.trailing_metadata()) == {ERROR_KEY: slug, VERSION_KEY: VERSION}


def test_a_message_is_cut_before_it_breaks_the_call():
    assert len(sent(Refused("x" * 100_000)).details()) == 1000


def test_a_slug_of_a_later_version():
    arrived = from_rpc(failed(grpc.StatusCode.INTERNAL, "new", (ERROR_KEY, "of-the-future")), "host:1")
    assert type(arrived) is FedwonError


def test_a_failure_of_grpc_itself():
    arrived = from_rpc(failed(grpc.StatusCode.UNKNOWN, "boom"), "host:1")
    assert type(arrived) is LinkError
    assert "host:1" in arrived.message
    assert "boom" in arrived.message


PREFIX = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:8470: "


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        # as gRPC 1.75 to 1.85 say it
        ("Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: expired", Refused),
        ("Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: WRONG_VERSION_NUMBER", Refused),
        ("Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.", Refused),
        ("Failed to connect to remote host: Connection refused", Unreachable),
        ("Socket closed", Unreachable),
        ("Handshake read failed (Socket closed)", Unreachable),
        ("errors resolving pressline-2:8470: Domain name not found", Unreachable),
        ("errors resolving certificate-host:8470: Domain name not found", Unreachable),
    ],
)
def test_unavailable(details, kind):
    assert type(from_rpc(failed(grpc.StatusCode.UNAVAILABLE, PREFIX + details), "pressline-2:8470")) is kind


def test_a_closed_connection_may_be_a_certificate():
    arrived = from_rpc(failed(grpc.StatusCode.UNAVAILABLE, "Socket closed"), "host:1")
    assert "certificate" in arrived.hint
    plain = from_rpc(failed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), "host:1")
    assert plain.hint == Unreachable.default_hint


def test_a_refused_certificate_is_told_from_a_refused_request():
    """A client drops its work when the server refuses it, never because of a certificate."""
    arrived = from_rpc(failed(grpc.StatusCode.UNAVAILABLE, "Tls handshake failed"), "host:1")
    assert arrived.hint != Refused.default_hint
