"""What each port holds of connections, calls and bytes, whoever comes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest

from fedwon.common.errors import LinkError
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.liveness import Liveness
from fedwon.server.link import doors, open_files
from fedwon.server.link.service import LONGEST_INSTANCE
from fedwon.server.link.session import LONGEST_TASK, MOST_HELD, SiteSession
from tests.server.server_kit import refusal, until, wired


class Enrolment(rpc.EnrolmentServicer):
    async def Authority(self, request, context):  # noqa: N802
        return pb.AuthorityReply(certificate=b"it")


@asynccontextmanager
async def enrolment(**limits):
    """A port for sites that join, behind these limits."""
    server = grpc.aio.server(interceptors=(doors.StrangersCalls(**limits),))
    rpc.add_EnrolmentServicer_to_server(Enrolment(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


def asked(channel):
    return rpc.EnrolmentStub(channel).Authority(pb.AuthorityRequest())


def silent(channel):
    return channel.stream_unary("/fedwon.v1.Enrolment/Authority")()


async def code_of(call) -> grpc.StatusCode:
    return await asyncio.wait_for(call.code(), 60)


def test_a_call_of_a_stranger_that_brings_no_message_ends():
    async def inside():
        async with enrolment(seconds=0.2) as channel:
            waiting = silent(channel)
            assert (await asked(channel)).certificate == b"it"
            assert await code_of(waiting) == grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(inside())


def test_one_address_has_so_many_calls_at_once_and_may_come_again():
    async def inside():
        async with enrolment(at_once=2, seconds=1.0) as channel:
            waiting = [silent(channel) for _ in range(3)]
            codes = [await code_of(call) for call in waiting]
            assert sorted(code.name for code in codes) == ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "UNAVAILABLE"]
            assert (await asked(channel)).certificate == b"it"

    asyncio.run(inside())


class Context:
    """A call that a test ends."""

    def __init__(self) -> None:
        self.ending = []

    def add_done_callback(self, work) -> None:
        self.ending.append(work)

    def end(self) -> None:
        for work in self.ending:
            work(self)


def test_a_site_has_so_many_calls_open_and_others_are_not_affected():
    calls, open_ones = doors.SiteCalls(most=2), [Context(), Context()]
    for context in open_ones:
        calls.enter("line-1", context)
    with pytest.raises(LinkError, match="2 calls open already"):
        calls.enter("line-1", Context())
    calls.enter("line-2", Context())
    open_ones[0].end()
    calls.enter("line-1", Context())


@wired
async def test_calls_beyond_are_refused_on_the_wire(running):
    site, again = running.site(), running.site()
    session = await site.connect()  # a call too
    waiting = [site.stub.Submit() for _ in range(doors.CALLS_A_SITE - 1)]
    waiting.append(again.stub.Submit())  # a connection has as many calls as a site: one more would wait
    await until(lambda: any(call.done() for call in waiting))
    [beyond] = [call for call in waiting if call.done()]
    error = await refusal(beyond)
    assert type(error) is LinkError
    assert "calls open already" in error.message
    await session.beat()
    await session.next("heard")  # its session stands


@wired
async def test_headers_and_messages_of_strangers_are_small(running):
    stub = running.enrolment()
    for request, metadata in (
        (pb.EnrollRequest(token="x" * 2 * doors.STRANGERS_MESSAGE, version=VERSION), ()),
        (pb.EnrollRequest(token="x"), (("x-flood", "x" * 2 * doors.METADATA_MOST),)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enroll(request, metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_connections_beyond_the_limit_are_closed_at_once():
    async def inside():
        server = grpc.aio.server(options=doors.federation_options(Liveness(), 3))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        lines = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(6)]
        for line in lines:
            line.setblocking(False)
        await until(lambda: sum(map(closed, lines)) >= 3)
        assert sum(map(closed, lines)) == 3
        await server.stop(0)
        for line in lines:
            line.close()

    asyncio.run(inside())


def closed(line: socket.socket) -> bool:
    try:
        while line.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_connections_leave_a_third_of_the_files_to_files(monkeypatch):
    limits = SimpleNamespace(getrlimit=lambda _: (1024, 4096), RLIMIT_NOFILE=7, RLIM_INFINITY=-1)
    monkeypatch.setattr(doors, "resource", limits)
    assert doors.within_open_files(4096) == (1024 - open_files.OWN) * 2 // 3
    assert doors.within_open_files(100) == 100
    limits.getrlimit = lambda _: (-1, -1)
    assert doors.within_open_files(4096) == 4096


def test_a_site_holds_so_many_outcomes_of_tasks_at_most():
    names = [f"task-{number}" for number in range(2 * MOST_HELD)]
    session = SiteSession.begun("line-1", pb.Hello(version=VERSION, unfinished=["x" * (LONGEST_TASK + 1), *names]))
    assert session.held == set(names[: MOST_HELD - 1])


@wired
async def test_an_instance_is_short(running):
    site = running.site(instance="x" * (LONGEST_INSTANCE + 1))
    error = await refusal(site.connect())
    assert "no client of ours" in error.message
