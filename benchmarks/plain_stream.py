"""The floor under a round: the same bytes through a plain gRPC stream, and one pass over memory.

A server process holds a model in memory; two processes of clients fetch it, so many at a time, and send as many bytes
back; the server reads each byte that comes once, as an average must (a sum in NumPy). No disk, no digest, no TLS, no
protocol, and connections that are open already. With `secret` the same under mutual TLS.

    with PlainStream(sites=4, size=57_000_000) as plain:
        seconds = plain.round()
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import grpc
import numpy as np

from fedwon.common.pki import Credentials
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc

PIECE = 2**18
"""Bytes of a message: of 64 KiB to 1 MiB the fastest here, by little."""
OPTIONS = (("grpc.max_receive_message_length", 2**22), ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True)
class Secrets:
    """Certificates and keys of both sides."""

    server: Credentials
    site: Credentials


@dataclass(frozen=True)
class Terms:
    """What is moved: bytes each way for each site, and with whose certificates (None: without TLS)."""

    size: int
    secret: Secrets | None = None


class _Plain(rpc.FederationServicer):
    """Sends zeros and takes whatever comes."""

    def __init__(self, size: int) -> None:
        self._model = bytes(size)
        self.total = 0.0

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[pb.Chunk]:  # noqa: N802
        """Send zeros."""
        del request, context
        for first in range(0, len(self._model), PIECE):
            yield pb.Chunk(data=self._model[first : first + PIECE])

    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Any) -> pb.SubmitReply:  # noqa: N802
        """Pass once over what comes."""
        del context
        async for request in requests:
            whole = len(request.data) // 4 * 4
            self.total += float(np.frombuffer(request.data[:whole], dtype=np.float32).sum())
        return pb.SubmitReply()


class PlainStream:
    """A server and clients.

    Args:
        sites: how many at a time.
        size: bytes each way.
        secret: certificates of both sides; without them there is no TLS.
    """

    def __init__(self, sites: int, size: int, secret: Secrets | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        terms = Terms(size, secret)
        self._running: list[multiprocessing.process.BaseProcess] = []
        self._lines: list[Connection] = []
        port = self._start(context, _serve, terms).recv()
        shares = [share for share in (sites - sites // 2, sites // 2) if share]
        self._clients = [self._start(context, _call, terms, port, share) for share in shares]
        for line in self._clients:
            line.recv()

    def _start(self, context: Any, work: Any, *arguments: object) -> Connection:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(*arguments, theirs), daemon=True)
        process.start()
        theirs.close()
        self._running.append(process)
        self._lines.append(ours)
        return ours  # type: ignore[no-any-return]  # multiprocessing's context is not typed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.join()

    def round(self) -> float:
        """Return the seconds until every client has fetched and sent."""
        began = time.perf_counter()
        for line in self._clients:
            line.send("go")
        for line in self._clients:
            line.recv()
        return time.perf_counter() - began


def _serve(terms: Terms, line: Connection) -> None:
    async def _run() -> None:
        server = grpc.aio.server(options=OPTIONS)
        rpc.add_FederationServicer_to_server(_Plain(terms.size), server)
        if terms.secret is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            own = terms.secret.server
            secrets = grpc.ssl_server_credentials([(own.key, own.certificate)], own.authority, require_client_auth=True)
            port = server.add_secure_port("127.0.0.1:0", secrets)
        await server.start()
        line.send(port)
        await server.wait_for_termination()

    asyncio.run(_run())


def _call(terms: Terms, port: int, share: int, line: Connection) -> None:
    async def _run() -> None:
        stubs = [rpc.FederationStub(_channel(terms.secret, port)) for _ in range(share)]
        await asyncio.gather(*(_turn(stub, min(terms.size, PIECE)) for stub in stubs))  # connects
        line.send("ready")
        while await asyncio.to_thread(line.recv):
            await asyncio.gather(*(_turn(stub, terms.size) for stub in stubs))
            line.send("done")

    asyncio.run(_run())


def _channel(secret: Secrets | None, port: int) -> grpc.aio.Channel:
    address = f"127.0.0.1:{port}"
    if secret is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    own = secret.site
    secrets = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    return grpc.aio.secure_channel(address, secrets, options=OPTIONS)


async def _turn(stub: rpc.FederationAsyncStub, size: int) -> None:
    async for _ in stub.Fetch(pb.FetchRequest()):
        pass
    call, data = stub.Submit(), bytes(min(size, PIECE))
    for first in range(0, size, PIECE):
        await call.write(pb.SubmitRequest(data=data[: size - first]))
    await call.done_writing()
    await call
