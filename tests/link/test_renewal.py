"""A site's certificate is renewed in time, and a change of authorities is followed, over real connections."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from fedwon.client import enrolment
from fedwon.client.link import renewal
from fedwon.client.link.renewal import RENEW_SHARES, Renewal, is_due
from fedwon.common import pki
from fedwon.common.certificates import requested_key
from fedwon.common.errors import DiskFull, Revoked, TokenUsed
from fedwon.common.wire import fedwon_pb2 as pb
from tests.link.link_kit import refuse, saying, welcome
from tests.link.session_kit import DONE, drop, run, turned_down
from tests.link.test_joining import Clerk, join


class TestWhen:
    def test_before_two_thirds_of_its_life_and_not_all_at_once(self, federation):
        """Of sites that joined in one hour, none later than after 18 of 30 days, and none of them together."""
        low, high = RENEW_SHARES
        assert 1 / 3 < low < high < 1
        due = {}
        for number in range(12):
            for days in (pki.SITE_DAYS * (high + 0.01), pki.SITE_DAYS / 2, pki.SITE_DAYS * (low - 0.01)):
                due.setdefault(round(days), []).append(is_due(federation.site(f"line-{number}-{days:.1f}", days=days)))
        young, middle, old = due.values()
        assert not any(young)
        assert all(old)
        assert {True, False} == set(middle)

    def test_the_same_certificate_is_due_at_the_same_time_after_every_restart(self, federation):
        site = federation.site(days=pki.SITE_DAYS / 2)
        assert len({is_due(site) for _ in range(5)}) == 1

    def test_when_another_authority_signs(self, federation, tmp_path):
        site, other = federation.site(), pki.create_authority(tmp_path / "other", "test")
        assert not is_due(site)
        (site / "pki" / "ca.pem").write_bytes(other.pem + federation.authority.pem)
        assert is_due(site)


@pytest.fixture
def rolled(federation, server, tmp_path, monkeypatch):
    """The authority that the federation changes to; the server signs with it and hands both out."""
    made = pki.create_authority(tmp_path / "rolled", "test")
    bundle = made.pem + federation.authority.pem

    async def renew(request, context):
        server.renewed += 1
        assert request.bundle
        certificate = pki.sign_request(made, request.certificate_request, "line-1")
        return pb.RenewReply(certificate=certificate, authorities=bundle)

    server.Renew, federation.trusted = renew, bundle
    monkeypatch.setattr(renewal, "SPREAD_INTERVALS", 0.1)
    return made, bundle


class TestChangeOfAuthority:
    def test_told_in_the_middle_of_a_session(self, federation, server, rolled):
        _made, bundle = rolled
        site = federation.site()
        told = pb.FromServer(trust=pb.Trust(authorities=bundle))
        server.scripts = [saying(welcome(), told, then=1.5), DONE]
        run(federation, server, site=site)
        held = pki.load_credentials(site / "pki", "site")
        assert held.authority == bundle
        assert server.renewed == 1
        assert not is_due(site)

    def test_told_in_the_welcome(self, federation, server, rolled):
        _made, bundle = rolled
        site, hello = federation.site(), welcome()
        hello.welcome.authorities = bundle
        server.scripts = [saying(hello, then=1.5), DONE]
        run(federation, server, site=site)
        assert server.renewed == 1
        assert pki.load_credentials(site / "pki", "site").authority == bundle

    def test_the_old_one_is_dropped_once_the_site_has_a_new_certificate(self, federation, server, rolled):
        made, bundle = rolled
        site = federation.site()
        key = pki.new_key()
        certificate = pki.sign_request(made, pki.request("line-1", key), "line-1")
        pki.save_credentials(site / "pki", "site", pki.Credentials(bundle, certificate, key))
        asyncio.run(Renewal(site).trust(made.pem, 1.0))
        assert pki.load_credentials(site / "pki", "site").authority == made.pem

    def test_what_would_lock_the_site_out_is_not_written(self, federation, rolled, caplog):
        made, _ = rolled
        site = federation.site()
        asyncio.run(Renewal(site).trust(made.pem, 1.0))
        assert pki.load_credentials(site / "pki", "site").authority == federation.authority.pem
        assert "enrol again" in caplog.text

    def test_a_server_that_says_nothing_of_it(self, federation):
        site = federation.site()
        asyncio.run(Renewal(site).trust(b"", 1.0))
        assert pki.load_credentials(site / "pki", "site").authority == federation.authority.pem

    def test_a_cut_between_bundle_and_certificate_leaves_a_site_that_starts(self, federation, rolled, monkeypatch):
        made, bundle = rolled
        site = federation.site()
        held = pki.load_credentials(site / "pki", "site")
        certificate = pki.sign_request(made, pki.request("line-1", held.key), "line-1")
        real = pki.write_atomic

        def cut(path, data, **options):
            if path.name == "site.pem":
                raise KeyboardInterrupt
            real(path, data, **options)

        monkeypatch.setattr(pki, "write_atomic", cut)
        with pytest.raises(KeyboardInterrupt):
            pki.save_credentials(site / "pki", "site", pki.Credentials(bundle, certificate, held.key))
        assert pki.load_credentials(site / "pki", "site").authority == bundle
        assert is_due(site)


class TestRevoked:
    def test_an_open_session_that_is_ended_ends_the_client(self, federation, server):
        async def script(server, context):
            await context.write(welcome())
            await refuse(context, "revoked", "The certificate of site `line-1` was revoked at 10:00 UTC: lost.")

        server.scripts = [script]
        with pytest.raises(Revoked, match="was revoked at 10:00 UTC: lost") as caught:
            run(federation, server)
        assert "sites add" in caught.value.hint

    def test_also_when_it_was_connected_before(self, federation, server):
        server.scripts = [drop([welcome()]), turned_down("revoked", "Revoked.")]
        with pytest.raises(Revoked):
            run(federation, server)

    def test_another_refusal_of_a_site_that_was_connected_does_not(self, federation, server):
        server.scripts = [drop([welcome()]), turned_down("refused"), DONE]
        run(federation, server)
        assert len(server.hellos) == 3


class TestJoining:
    def test_a_lost_reply_is_asked_for_again_with_the_same_key(self, federation, tmp_path, monkeypatch):
        clerk, seen = Clerk(federation), []
        monkeypatch.setattr(enrolment, "PAUSE", 0.01)
        real = clerk.Enroll

        async def lose(request, context):
            seen.append(request.certificate_request)
            assert request.bundle
            if len(seen) < 3:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            return await real(request, context)

        clerk.Enroll = lose
        assert join(clerk, tmp_path / "site").site == "press-3"
        keys = {requested_key(csr).public_numbers() for csr in seen}
        assert (len(seen), len(keys)) == (3, 1)

    def test_the_command_that_is_typed_again_uses_the_same_key(self, federation, tmp_path):
        clerk = Clerk(federation)

        async def broken(context):
            await refuse(context, "disk-full", "No space left.")

        clerk.answer = broken
        with pytest.raises(DiskFull, match="No space left"):
            join(clerk, tmp_path / "site")
        key = (tmp_path / "site" / "pki" / "site.key").read_bytes()
        clerk.answer = None
        join(clerk, tmp_path / "site")
        assert pki.load_credentials(tmp_path / "site" / "pki", "site").key == key

    def test_a_refusal_is_not_asked_for_again(self, federation, tmp_path):
        clerk, calls = Clerk(federation), []

        async def used(context):
            calls.append(1)
            await refuse(context, "token-used", "It was used.")

        clerk.answer = used
        with pytest.raises(TokenUsed):
            join(clerk, tmp_path / "site")
        assert calls == [1]
