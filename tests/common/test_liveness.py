"""The limits of a line: both sides' values go together, whatever the heartbeat interval."""

from __future__ import annotations

import asyncio

import grpc
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS
from fedwon.common.wire.liveness import Liveness
from tests.network.proxy import DOWN, FaultProxy

heartbeats = st.floats(0.2, 600)


@given(heartbeats, heartbeats)
def test_a_server_bears_the_pings_of_its_sites(heartbeat, other):
    """Also of a site that does not know its server's heartbeat yet."""
    server = dict(Liveness(heartbeat).server_options())["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(Liveness(heartbeat).channel_options())["grpc.keepalive_time_ms"] > server
    assert dict(Liveness().channel_options())["grpc.keepalive_time_ms"] > server


@given(heartbeats)
def test_limits_are_sensible(heartbeat):
    line = Liveness(heartbeat)
    assert line.silence == 3 * heartbeat
    assert 5 <= line.keepalive <= 30
    assert 10 <= line.answer <= 60
    assert line.settled <= 10
    assert line.keepalive + line.answer <= line.stall <= 180


def test_the_default():
    line = Liveness()
    assert (line.silence, line.settled, line.keepalive, line.answer, line.stall) == (45, 10, 30, 60, 180)


class Quiet(rpc.FederationServicer):
    async def Session(self, requests, context):  # noqa: N802
        await context.write(pb.FromServer(welcome=pb.Welcome()))
        await asyncio.sleep(60)


def ended(server_options, channel_options, seconds) -> str | None:
    """Hold a session in which nobody speaks; return how it ended, or None if it stands."""

    async def go():
        server = grpc.aio.server(options=server_options)
        rpc.add_FederationServicer_to_server(Quiet(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options) as channel:
            call = rpc.FederationStub(channel).Session()
            await call.read()
            try:
                async with asyncio.timeout(seconds):
                    return await call.details() or "ended"
            except TimeoutError:
                return None
            finally:
                call.cancel()
                await server.stop(0)

    return asyncio.run(go())


def test_pings_do_not_end_a_quiet_session(monkeypatch):
    """And they do where the server was not told to bear them: the pair of settings counts."""
    monkeypatch.setattr(Liveness, "keepalive", 0.3)
    options = Liveness().channel_options()
    assert ended(Liveness().server_options(), options, 4) is None
    assert ended(CHANNEL_OPTIONS, options, 20) is not None


def test_a_peer_that_does_not_answer_pings_is_left(monkeypatch):
    """A line that takes bytes and brings none: only the pings can tell."""
    monkeypatch.setattr(Liveness, "keepalive", 0.3)
    monkeypatch.setattr(Liveness, "answer", 0.3)

    async def go():
        server = grpc.aio.server(options=Liveness().server_options())
        rpc.add_FederationServicer_to_server(Quiet(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with FaultProxy(f"127.0.0.1:{port}") as proxy:
            async with grpc.aio.insecure_channel(proxy.address, options=Liveness().channel_options()) as channel:
                call = rpc.FederationStub(channel).Session()
                await call.read()
                proxy.freeze(DOWN)
                async with asyncio.timeout(20):
                    assert "ping timeout" in await call.details()
                    assert await call.code() == grpc.StatusCode.UNAVAILABLE
        await server.stop(0)

    asyncio.run(go())
