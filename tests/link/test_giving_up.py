"""What ends a site, and what it bears; certificates that are renewed; one client a folder."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from fedwon.client import enrolment
from fedwon.client.link import judgement, renewal
from fedwon.client.link.site_link import LOCK
from fedwon.common.errors import (
    DuplicateSite,
    KeyExposed,
    Refused,
    StorageError,
    VersionGap,
)
from fedwon.common.lock import held
from fedwon.common.pki import certificate_days_left, load_credentials
from tests.link.link_kit import Federation, Server, listening, make_link, refuse, saying, stay, until, welcome
from tests.link.session_kit import DONE, drop, run, turned_down


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

    def test_a_session_that_stood_shows_that_the_certificate_is_accepted(self, federation, monkeypatch):
        """No second connection is made to ask for that, on a line that has just broken."""
        asked = []
        monkeypatch.setattr(judgement, "shake_hands", lambda *_: asked.append(1))

        async def go():
            judge = judgement.Judgement("server:1", federation.folder, 60)
            judge.connected()
            await judge.pronounce(judgement.Unreachable("No answer: Socket closed."))
            assert asked == []
            judge.lasted()
            await judge.pronounce(judgement.Unreachable("No answer: Socket closed."))
            assert asked == [1]

        asyncio.run(go())

    def test_an_address_that_was_edited_is_taken_up_with_the_next_session(self, federation, server, caplog):
        """Whatever the file looks like in between."""
        caplog.set_level("INFO")
        site = federation.site()
        moved = Server()
        moved.scripts = [DONE]

        async def move(server, context):
            (site / "client.yaml").write_text("server: ")
            await context.write(welcome())

        async def go():
            async with listening(federation, moved) as there, listening(federation, server) as here:

                async def told(server, context):
                    (site / "client.yaml").write_text(f"server: {there}\ndata: {{path: images}}\n")
                    await context.write(welcome())

                server.scripts = [move, told]
                async with asyncio.timeout(20):
                    await make_link(here, site).run()
                assert f"another address: {there} in place of {here}" in caplog.text
                assert f"The address stays {here}" in caplog.text

        asyncio.run(go())
        assert (len(server.hellos), len(moved.hellos)) == (2, 1)


class TestRenewal:
    def test_a_renewal_that_hangs_does_not_end_the_session(self, federation, server, monkeypatch, caplog):
        async def hang(request, context):
            await asyncio.sleep(30)

        server.Renew = hang
        monkeypatch.setattr(enrolment, "TIMEOUT", 0.3)
        server.scripts = [saying(welcome(), then=1.0), DONE]
        run(federation, server, site=federation.site(days=5))
        assert "could not be renewed: No answer from" in caplog.text

    def test_an_old_certificate_is_renewed_and_used(self, federation, server):
        site = federation.site(days=5)
        server.scripts = [saying(welcome(), then=1.0), DONE]
        run(federation, server, site=site)
        assert server.renewed == 1
        assert certificate_days_left(load_credentials(site / "pki", "site").certificate) > 29

    def test_in_the_middle_of_a_long_session(self, federation, server, monkeypatch):
        monkeypatch.setattr(renewal, "CHECK_SECONDS", 0.2)
        days = iter([20, 20, 5])
        monkeypatch.setattr(renewal, "certificate_days_left", lambda _: next(days, 30))
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
                assert held(site / LOCK)
                first.cancel()
                await asyncio.wait({first})
                assert not held(site / LOCK)

        server.scripts = [stay]
        asyncio.run(go())
