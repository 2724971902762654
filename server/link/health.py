"""Is a server well? Asked on its own machine, through the port for sites that join, so without any certificate.

The answer comes out of the server's event loop by gRPC's health protocol: who answers is not hung.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from fedwon.common.config import load
from fedwon.common.errors import Unhealthy
from fedwon.common.files import read_bytes
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS
from fedwon.server.config import ServerConfig

SERVING = health_pb2.HealthCheckResponse.SERVING
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "[0:0:0:0:0:0:0:0]": "[::1]"}  # noqa: S104 - read, not bound


class OutsidersHealth(grpc_health.HealthServicer):
    """gRPC's health service for whoever reaches the port: a question has an answer, but nobody may stay and watch."""

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> NoReturn:  # noqa: N802
        """Refuse: a stream that a stranger holds open costs memory for as long as he likes."""
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Only Check is served here.")
        raise AssertionError


def check_health(folder: Path, timeout: float) -> dict[str, Any]:
    """Ask the server that runs with a folder, on this machine.

    Args:
        folder: the server's folder; only server.yaml and pki/ca.pem are read.
        timeout: seconds to wait for the answer.

    Returns:
        `address` that was asked and `status`, always SERVING.

    Raises:
        ConfigMissing: it is no server's folder.
        StorageError: pki/ca.pem cannot be read.
        Unhealthy: nobody answers, in time, or it is about to stop.
    """
    config = load(ServerConfig, folder / "server.yaml")
    address = local_address(config.enrolment)
    credentials = grpc.ssl_channel_credentials(read_bytes(folder / "pki" / "ca.pem"))
    # the certificate is made out to the server's names, and `localhost` need not be one of them
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", config.names[0].strip("[]")))
    with grpc.secure_channel(address, credentials, options=options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise _unhealthy(error, address, timeout) from None
    if reply.status != SERVING:
        raise Unhealthy(
            f"The server at {address} says {health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}."
        )
    return {"address": address, "status": "SERVING"}


def local_address(listen: str) -> str:
    """Return where a server that listens on an address is found from its own machine."""
    host, _, port = listen.rpartition(":")
    return f"{_ANYWHERE.get(host, host)}:{port}"


def _unhealthy(error: Any, address: str, timeout: float) -> Unhealthy:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unhealthy(f"The server at {address} did not answer within {timeout:g} s.")
    return Unhealthy(f"No healthy server at {address}: {error.details() or error.code().name}.")
