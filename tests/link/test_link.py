"""The session: it is opened again whatever breaks it, and given up only for what will not go away."""

from __future__ import annotations

import asyncio
import logging
import socket

import grpc
import pytest

from fedwon.client import judgement, link
from fedwon.client.lock import locked
from fedwon.common.errors import (
    DataMissing,
    DuplicateSite,
    KeyExposed,
    Refused,
    StorageError,
    VersionGap,
)
from fedwon.common.pki import certificate_days_left, load_credentials
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.grpc_errors import CHANNEL_OPTIONS
from tests.link.link_kit import Federation, finished, listening, make_link, refuse, saying, stay, until, welcome

DONE = saying(welcome(), finished())


def drop(messages=()):
    """Say something and end the session."""
    return saying(*messages, then=0)


def turned_down(slug: str, text: str = "No."):
    async def script(server, context):
        await refuse(context, slug, text)

    return script


def run(federation, server, *, seconds=20.0, site=None, **options):
    """Run a link until it ends by itself."""

    async def go():
        async with listening(federation, server) as address, asyncio.timeout(seconds):
            await make_link(address, site or federation.site(), **options).run()

    asyncio.run(go())


class TestSessions:
    def test_a_run_that_has_finished_ends_it(self, federation, server):
        server.scripts = [DONE]
        run(federation, server)
        [hello] = server.hellos
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


class TestGivingUp:
    def test_version_gap_in_the_welcome(self, federation, server):
        server.scripts = [saying(welcome(version="0.9.0"))]
        with pytest.raises(VersionGap, match=r"0\.9\.0.*0\.1\.0"):
            run(federation, server)

    def test_version_gap_from_the_server(self, federation, server):
        server.scripts = [drop([welcome()]), turned_down("version-gap", "The server runs 0.9.0.")]
        with pytest.raises(VersionGap):
            run(federation, server)

    def test_refused_at_first(self, federation, server):
        server.scripts = [turned_down("refused", "No site `line-1` has enrolled with this server.")]
        with pytest.raises(Refused, match="has enrolled"):
            run(federation, server)

    def test_refused_later_is_borne(self, federation, server, caplog):
        server.scripts = [drop([welcome()]), turned_down("refused"), turned_down("refused"), DONE]
        run(federation, server)
        assert len(server.hellos) == 4

    def test_duplicate_within_the_patience(self, federation, server, caplog):
        server.scripts = [turned_down("duplicate-site"), turned_down("duplicate-site"), DONE]
        run(federation, server, patience=30.0)
        assert "this box's own broken connection" in caplog.text

    @pytest.mark.parametrize("before", [[], [drop([welcome()])]])
    def test_duplicate_beyond_the_patience(self, federation, server, before):
        server.scripts = [*before, turned_down("duplicate-site", "Another client is connected.")]
        with pytest.raises(DuplicateSite, match="Another client"):
            run(federation, server, patience=0.5)
        assert len(server.hellos) > 1 + len(before)

    def test_without_patience(self, federation, server):
        server.scripts = [turned_down("duplicate-site")]
        with pytest.raises(DuplicateSite):
            run(federation, server, patience=0)
        assert len(server.hellos) == 1

    def test_a_server_with_a_foreign_certificate(self, federation, server, tmp_path):
        other = Federation(tmp_path / "other")
        with pytest.raises(Refused) as caught:
            run(federation, server, site=other.site())
        assert caught.value.hint
        assert server.hellos == []

    @pytest.mark.parametrize("days", [30, -0.005])
    def test_a_certificate_that_the_server_does_not_take(self, federation, server, tmp_path, days):
        other = Federation(tmp_path / "other") if days > 0 else federation
        site = other.site("line-1", days=days)
        own = (site / "pki" / "ca.pem").read_bytes()
        (site / "pki" / "ca.pem").write_bytes(own + federation.authority.pem)
        with pytest.raises(Refused, match="does not accept this site's certificate") as caught:
            run(federation, server, site=site)
        assert "join again" in caught.value.hint

    def test_a_key_that_others_can_read(self, federation, server):
        site = federation.site()
        (site / "pki" / "site.key").chmod(0o640)
        with pytest.raises(KeyExposed):
            run(federation, server, site=site)

    def test_a_certificate_that_is_missing(self, federation, server):
        site = federation.site()
        (site / "pki" / "site.pem").unlink()
        with pytest.raises(StorageError):
            run(federation, server, site=site)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TestReachability:
    def test_an_unreachable_server_is_tried_until_it_answers(self, federation, server, caplog):
        server.scripts = [DONE]
        port = free_port()

        async def go():
            site = make_link(f"127.0.0.1:{port}", federation.site())
            running = asyncio.create_task(site.run())
            await until(lambda: "Connection refused" in caplog.text)
            await asyncio.sleep(0.5)
            assert not running.done()
            async with listening(federation, server, port), asyncio.timeout(20):
                await running

        asyncio.run(go())
        said = [record for record in caplog.records if record.name == judgement.__name__]
        assert [record.levelno for record in said if record.levelno >= logging.WARNING] == [logging.WARNING]
        assert "Trying again until it answers" in said[0].getMessage()

    def test_a_port_that_closes_every_connection_is_a_server_that_is_not_up(self, federation, caplog):
        """As a container's port forwarder does while the server starts: no reason to give up."""

        async def go():
            async def close(reader, writer):
                writer.close()

            forwarder = await asyncio.start_server(close, "127.0.0.1", 0)
            port = forwarder.sockets[0].getsockname()[1]
            running = asyncio.create_task(make_link(f"127.0.0.1:{port}", federation.site()).run())
            await until(lambda: "Trying again" in caplog.text)
            await asyncio.sleep(1.5)
            assert not running.done()
            running.cancel()
            await asyncio.wait({running})
            forwarder.close()

        asyncio.run(go())

    def test_a_first_rejection_may_be_a_server_that_goes_down(self, federation, monkeypatch):
        """Only a server that turns the certificate down again and again is believed."""
        asked = 0

        def shake_hands(server, folder):
            nonlocal asked
            asked += 1
            raise Refused("Not accepted.")

        monkeypatch.setattr(judgement, "shake_hands", shake_hands)

        async def go():
            judge = judgement.Judgement("server:1", federation.folder, 60)
            closed = judgement.Unreachable("No answer: Socket closed.")
            for _ in range(judgement.REFUSALS - 1):
                await judge.pronounce(closed)
            with pytest.raises(Refused):
                await judge.pronounce(closed)

        asyncio.run(go())
        assert asked == judgement.REFUSALS


class TestRenewal:
    def test_an_old_certificate_is_renewed_and_used(self, federation, server):
        site = federation.site(days=5)
        server.scripts = [saying(welcome(), then=1.0), DONE]
        run(federation, server, site=site)
        assert server.renewed == 1
        assert certificate_days_left(load_credentials(site / "pki", "site").certificate) > 29

    def test_in_the_middle_of_a_long_session(self, federation, server, monkeypatch):
        monkeypatch.setattr(link, "RENEW_CHECK_SECONDS", 0.2)
        days = iter([20, 20, 5])
        monkeypatch.setattr(link, "certificate_days_left", lambda _: next(days, 30))
        server.scripts = [saying(welcome(), then=1.2), DONE]
        run(federation, server)
        assert server.renewed == 1

    def test_a_server_that_cannot_renew_now_does_not_end_the_site(self, federation, server, caplog):
        async def no(request, context):
            await refuse(context, "disk-full", "No space left.")

        server.Renew = no
        server.scripts = [saying(welcome(), then=0.5), DONE]
        run(federation, server, site=federation.site(days=5))
        assert "could not be renewed: No space left." in caplog.text

    def test_a_young_certificate_is_left_alone(self, federation, server):
        server.scripts = [saying(welcome(), then=0.3), DONE]
        run(federation, server)
        assert server.renewed == 0


class TestOneClientAFolder:
    def test_a_second_one_is_told(self, federation, server):
        site = federation.site()

        async def go():
            async with listening(federation, server) as address:
                first = asyncio.create_task(make_link(address, site).run())
                await until(lambda: server.hellos)
                with pytest.raises(DuplicateSite, match="line-1"):
                    await make_link(address, site, patience=0.3).run()
                assert not first.done()
                first.cancel()
                await asyncio.wait({first})
                async with locked(site, 0):
                    pass

        server.scripts = [stay]
        asyncio.run(go())

    def test_a_folder_where_nothing_can_be_written(self, tmp_path):
        async def go():
            async with locked(tmp_path / "nowhere", 0):
                pass

        with pytest.raises(StorageError):
            asyncio.run(go())
