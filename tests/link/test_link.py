"""The session: it is opened again whatever breaks it, and given up only for what will not go away."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from fedwon.client.config import LinkConfig
from fedwon.client.link.site_link import Link
from fedwon.common.errors import DataMissing
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS
from tests.link.link_kit import finished, listening, make_link, saying, until, welcome
from tests.link.session_kit import DONE, drop, run, turned_down


class TestSessions:
    def test_a_run_that_has_finished_ends_it(self, federation, server):
        server.scripts = [DONE]
        run(federation, server)
        [hello] = server.hellos
        assert list(hello.codecs) == ["bf16", "fp16", "fp32", "int8", "topk"]
        assert {row.name: (row.train, row.validation, row.test) for row in hello.data} == {
            "good": (8, 2, 1),
            "bad": (4, 1, 0),
        }

    def test_a_run_that_was_stopped_or_has_failed_does_not(self, federation, server):
        server.scripts = [saying(welcome(), finished("stopped"), finished("failed"), then=0), DONE]
        run(federation, server)
        assert len(server.hellos) == 2

    def test_dropped_sessions_are_opened_again_by_the_same_instance(self, federation, server):
        server.scripts = [drop([welcome()]), drop(), turned_down("storage"), turned_down("disk-full"), DONE]
        run(federation, server)
        assert len(server.hellos) == 5
        assert len({hello.instance for hello in server.hellos}) == 1

    def test_a_silent_server_is_left(self, federation, server):
        async def silent(server, context):
            server.answering = False
            await context.write(welcome(0.2))
            await asyncio.sleep(60)

        server.scripts = [silent, DONE]
        run(federation, server)
        assert len(server.hellos) == 2

    def test_a_server_that_closes_at_once_is_not_stormed(self, federation, server):
        server.scripts = [drop()]
        with pytest.raises(TimeoutError):
            run(federation, server, seconds=2.5)
        assert 3 <= len(server.hellos) <= 20

    def test_another_first_message_than_a_welcome(self, federation, server):
        server.scripts = [saying(pb.FromServer(heard=pb.Heard())), DONE]
        run(federation, server)
        assert len(server.hellos) == 2

    def test_messages_of_a_newer_server_are_passed_over(self, federation, server):
        server.scripts = [saying(welcome(), pb.FromServer(), finished())]
        run(federation, server)
        assert len(server.hellos) == 1

    def test_a_task_with_a_hostile_name_does_not_end_the_site(self, federation, server, caplog):
        hostile = pb.FromServer(offer=pb.Offer(task_id="../../etc/cron.d/x", kind="train"))
        gone = pb.FromServer(committed=pb.Committed(run="r", round=1, task_ids=["../x"]))
        server.scripts = [saying(welcome(), hostile), saying(welcome(), gone), DONE]
        run(federation, server)
        assert "'../../etc/cron.d/x'" in caplog.text

    @pytest.mark.parametrize("interval", [0.0, -1.0, float("nan"), float("inf"), 1e-9, 1e300])
    def test_an_odd_interval_is_made_a_sensible_one(self, federation, server, interval):
        server.scripts = [saying(welcome(interval), then=0.5), DONE]
        run(federation, server)
        assert len(server.got) < 10

    def test_heartbeats(self, federation, server):
        async def script(server, context):
            await context.write(welcome(0.2))
            await until(lambda: len(server.got) >= 3)
            await context.write(finished())

        server.scripts = [script]
        run(federation, server)
        assert {message.WhichOneof("body") for message in server.got} == {"heartbeat"}

    def test_images_are_counted_anew_for_each_session(self, federation, server):
        counts = [{"good": {"train": number}} for number in (1, 2)]

        def survey():
            if counts:
                return counts.pop(0)
            raise DataMissing("The share is away.")

        server.scripts = [drop([welcome()]), drop([welcome()]), DONE]
        run(federation, server, survey=survey)
        assert [hello.data[0].train for hello in server.hellos] == [1, 2, 2]

    def test_of_a_relay(self, federation, server):
        """It has no images of its own, tells what its sites have by now, and hears what its sites must be told."""
        heard = []

        async def script(server, context):
            await context.write(welcome())
            await until(lambda: [message for message in server.got if message.HasField("survey")])
            await context.write(pb.FromServer(cancel=pb.Cancel(task_id="t")))
            await context.write(finished())

        async def go():
            server.scripts = [script]
            async with listening(federation, server) as address, asyncio.timeout(20):
                folder = federation.site()
                (folder / "client.yaml").write_text(f"server: {address}")
                link = Link(
                    LinkConfig(server=address), folder, dict, until_finished=True, patience=60.0, overhear=heard.append
                )
                link.tell_survey({"good": {"train": 3}})
                await link.run()

        asyncio.run(go())
        assert list(server.hellos[0].data) == []
        [told] = [message.survey for message in server.got if message.HasField("survey")]
        assert list(told.data) == [pb.ClassCount(name="good", train=3)]
        kinds = [message.WhichOneof("body") for message in heard]
        assert [kind for kind in kinds if kind != "heard"] == ["cancel", "finished"]

    def test_bytes_that_are_no_message(self, federation, tmp_path):
        """gRPC gives None for them, which must not be taken for the end of the session and waited on."""
        seen = 0

        async def session(requests, context):
            nonlocal seen
            seen += 1
            await context.read()
            await context.write(b"\xff\xff\xff garbage" if seen == 1 else welcome().SerializeToString())
            if seen > 1:
                await context.write(finished().SerializeToString())
            await asyncio.sleep(60)

        async def go():
            handler = grpc.stream_stream_rpc_method_handler(session)
            server = grpc.aio.server(options=CHANNEL_OPTIONS)
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler("fedwon.v1.Federation", {"Session": handler})]
            )
            port = server.add_secure_port("127.0.0.1:0", federation.tls())
            await server.start()
            async with asyncio.timeout(20):
                await make_link(f"127.0.0.1:{port}", federation.site()).run()
            await server.stop(0)

        asyncio.run(go())
        assert seen == 2
