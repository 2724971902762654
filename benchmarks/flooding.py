"""Whoever floods a server: strangers at both ports, and a site with a good certificate that has turned hostile.

Each flood is a process of its own, `python -m benchmarks.flooding KIND ADDRESS --seconds S --count N [--site FOLDER]`,
which ends with one line of JSON: how much was tried, and what the server let stand. `benchmarks.floods` measures what
that does to the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from fedwon.common.pki import load_credentials
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc

BIG = 5 * 2**20
"""Bytes of a message or of headers that are far beyond what is taken."""
ENROLL = "/fedwon.v1.Enrolment/Enroll"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HEADERS = b"\x83\x87" + b"\x04\x1b" + ENROLL.encode() + b"\x01\x01x" + b"\x0f\x10\x10application/grpc"
Told = dict[str, int]
Flood = Callable[[argparse.Namespace], Awaitable[Told]]


def _line(given: argparse.Namespace) -> tuple[str, int]:
    host, _, port = given.address.rpartition(":")
    return host, int(port)


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


async def silent(given: argparse.Namespace) -> Told:
    """TCP connections that say nothing."""
    held, failed = [], 0
    for _ in range(given.count):
        try:
            held.append(socket.create_connection(_line(given), 10))
        except OSError:
            failed += 1
        if len(held) % 100 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(given.seconds)
    return {"opened": len(held), "failed": failed, "standing": sum(map(_stands, held))}


def _stands(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        while line.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def handshakes(given: argparse.Namespace) -> Told:
    """TLS connections of strangers on which no call is made."""
    context, gate, lines = _unverified(), asyncio.Semaphore(64), []

    async def _one() -> None:
        async with gate:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(20):
                    lines.append(await asyncio.open_connection(*_line(given), ssl=context))

    await asyncio.gather(*(_one() for _ in range(given.count)))
    await asyncio.sleep(given.seconds)
    for reader, _ in lines:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(0.001):
                while await reader.read(4096):
                    pass
    failed = given.count - len(lines)
    return {"opened": len(lines), "failed": failed, "standing": sum(not reader.at_eof() for reader, _ in lines)}


def _stranger(given: argparse.Namespace, number: int = 0) -> grpc.aio.Channel:
    pem = ssl.get_server_certificate(_line(given)).encode()
    own = (("grpc.use_local_subchannel_pool", 1), ("flood", number))
    limits = (("grpc.max_metadata_size", BIG), ("grpc.max_send_message_length", -1))
    return grpc.aio.secure_channel(given.address, grpc.ssl_channel_credentials(pem), options=(*own, *limits))


async def unfinished_calls(given: argparse.Namespace) -> Told:
    """Calls to join that never bring their message."""
    calls: list[Any] = []
    for number in range(max(given.count // 4, 1)):
        method = _stranger(given, number).stream_unary(ENROLL)
        calls += [method() for _ in range(4)]
    await asyncio.sleep(given.seconds)
    return {"opened": len(calls), "standing": sum(not call.done() for call in calls)}


async def _repeated(given: argparse.Namespace, once: Callable[[int], Awaitable[object]], beside: int = 8) -> Told:
    """Do something again and again, several beside each other; count what was done and what was refused."""
    told, end = {"tried": 0, "refused": 0}, time.monotonic() + given.seconds

    async def _worker(number: int) -> None:
        while time.monotonic() < end:
            told["tried"] += 1
            try:
                await once(number)
            except (grpc.aio.AioRpcError, OSError, asyncio.IncompleteReadError):
                told["refused"] += 1

    await asyncio.gather(*map(_worker, range(beside)))
    return told


async def big_messages(given: argparse.Namespace) -> Told:
    """Requests to join of five megabytes."""
    channels, request = [_stranger(given, number) for number in range(8)], os.urandom(BIG)
    return await _repeated(given, lambda number: channels[number].unary_unary(ENROLL)(request, timeout=10))


async def big_headers(given: argparse.Namespace) -> Told:
    """Calls with a megabyte of headers."""
    channels, headers = [_stranger(given, number) for number in range(8)], (("x-flood", "x" * 2**20),)

    async def _once(number: int) -> None:
        await channels[number].unary_unary(ENROLL)(b"", metadata=headers, timeout=10)

    return await _repeated(given, _once)


async def garbage(given: argparse.Namespace) -> Told:
    """Random bytes in place of HTTP/2, behind a good handshake."""
    context = _unverified()

    async def _once(_: int) -> None:
        await _thrown(given, context, random.randbytes(2**16))

    return await _repeated(given, _once)


async def resets(given: argparse.Namespace) -> Told:
    """Calls that are begun and reset at once, a hundred a write (CVE-2023-44487)."""
    context = _unverified()

    async def _once(_: int) -> None:
        await _thrown(given, context, PREFACE + b"".join(_begun_and_reset(2 * call + 1) for call in range(100)))

    return await _repeated(given, _once)


def _begun_and_reset(stream: int) -> bytes:
    place = stream.to_bytes(4, "big")
    headers = len(_HEADERS).to_bytes(3, "big") + b"\1\4" + place + _HEADERS
    return headers + b"\0\0\4\3\0" + place + b"\0\0\0\x08"


async def _thrown(given: argparse.Namespace, context: ssl.SSLContext, data: bytes) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*_line(given), ssl=context)
        try:
            writer.write(data)
            await writer.drain()
            while await reader.read(65536):
                pass
        finally:
            writer.transport.abort()


def _site(given: argparse.Namespace, number: int = 0) -> rpc.FederationAsyncStub:
    held = load_credentials(given.site / "pki", "site")
    credentials = grpc.ssl_channel_credentials(held.authority, held.key, held.certificate)
    own = (("grpc.use_local_subchannel_pool", 1), ("flood", number), ("grpc.http2.lookahead_bytes", 2**24))
    return rpc.FederationStub(grpc.aio.secure_channel(given.address, credentials, options=own))


def _hello(**more: Any) -> pb.FromSite:
    data = [pb.ClassCount(name=str(name), train=5, validation=2) for name in range(4)]
    return pb.FromSite(hello=pb.Hello(version=VERSION, **{"instance": "flood", "data": data, **more}))


async def endless_session(given: argparse.Namespace) -> Told:
    """A site's session with other counts of ten thousand classes in every message, and heartbeats between."""
    call = _site(given).Session()
    await call.write(_hello())
    told, end = {"sent": 0}, time.monotonic() + given.seconds
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
        while time.monotonic() < end:
            rows = [pb.ClassCount(name=f"{number:0180d}", train=told["sent"]) for number in range(10_000)]
            async with asyncio.timeout(max(end - time.monotonic(), 0.1)):
                await call.write(pb.FromSite(survey=pb.Survey(data=rows)))
                await call.write(pb.FromSite(heartbeat=pb.Heartbeat(task_id="x" * 2**20)))
            told["sent"] += 2
    return told


async def endless_hellos(given: argparse.Namespace) -> Told:
    """A site that says in each hello that it holds the outcomes of 300,000 tasks."""
    names = [f"{number:x}" for number in range(300_000)]
    stub = _site(given)

    async def _once(_: int) -> None:
        call = stub.Session()
        try:
            await call.write(_hello(unfinished=names))
            async with asyncio.timeout(5):
                await call.read()
        finally:
            call.cancel()

    return await _repeated(given, _once, 1)


async def _offered(given: argparse.Namespace) -> tuple[Any, pb.Offer]:
    """Return a session and the task that it gets."""
    call = _site(given).Session()
    await call.write(_hello())
    async with asyncio.timeout(60):
        while (message := await call.read()).WhichOneof("body") != "offer":
            pass
    return call, message.offer


async def slow_readers(given: argparse.Namespace) -> Told:
    """Transfers of a task's model that are begun and not read, ten on a connection."""
    session, offer = await _offered(given)
    digest = next(record.arrays.digest for record in offer.records if record.WhichOneof("kind") == "arrays")
    calls: list[Any] = []
    for number in range(max(given.count // 10, 1)):
        stub = _site(given, number + 1)
        calls += [stub.Fetch(pb.FetchRequest(digest=digest)) for _ in range(10)]
    await asyncio.sleep(given.seconds)
    session.cancel()
    return {"opened": len(calls), "standing": sum(not call.done() for call in calls)}


async def stuck_uploads(given: argparse.Namespace) -> Told:
    """Outcomes of a task that are begun again and again, each with as much on its way as goes, and never ended."""
    session, offer = await _offered(given)
    blob = pb.Record(name="arrays", arrays=pb.Blob(digest="0" * 64, size=2**20))
    header = pb.SubmitRequest(header=pb.SubmitHeader(task_id=offer.task_id, records=[blob]))
    calls: list[Any] = []

    async def _stuck(call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(given.seconds):
                await call.write(header)
                for _ in range(8):
                    await call.write(pb.SubmitRequest(data=bytes(2**17)))

    for number in range(max(given.count // 10, 1)):
        stub = _site(given, number + 1)
        calls += [stub.Submit() for _ in range(10)]
    began = time.monotonic()
    await asyncio.gather(*map(_stuck, calls))
    await asyncio.sleep(max(given.seconds - (time.monotonic() - began), 0))
    session.cancel()
    return {"opened": len(calls), "standing": sum(not call.done() for call in calls)}


STRANGERS: Mapping[str, Flood] = {
    flood.__name__: flood
    for flood in (silent, handshakes, unfinished_calls, big_messages, big_headers, garbage, resets)
}
SITES: Mapping[str, Flood] = {
    flood.__name__: flood for flood in (endless_session, endless_hellos, slow_readers, stuck_uploads)
}
FLOODS: Mapping[str, Flood] = {**STRANGERS, **SITES}


@contextlib.contextmanager
def _many_files() -> Iterator[None]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield


def main() -> None:
    """Flood, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=FLOODS)
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--site", type=Path)
    given = parser.parse_args()
    with _many_files():
        told = asyncio.run(FLOODS[given.kind](given))
    print(json.dumps(told), flush=True)
    os._exit(0)  # thousands of connections need not be closed one by one


if __name__ == "__main__":
    main()
