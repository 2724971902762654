"""Revocation, renewal and changes of certificates over real connections, in one process."""

from __future__ import annotations

import asyncio
import ssl

import grpc
import pytest

from fedwon.common import pki
from fedwon.common.errors import Refused, Revoked, StorageError, TokenUsed, TooManyAttempts
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.server.auditing import trail
from fedwon.server.identity import sites, standing
from fedwon.server.identity.authorities import renew_server, retire, roll
from fedwon.server.identity.standing import issue, revoke
from fedwon.server.store import CertificateRow, Token
from tests.server.identity.test_standing import as_peer
from tests.server.link.test_wire_enrolment import enroll, request, stub_of
from tests.server.server_kit import Site, outcome, refusal, rows, tasks, until, wired

BEAT = 0.2


def given(running, name="line-1", authority=None) -> tuple[bytes, bytes]:
    """Give a site a certificate that is on record."""
    key = pki.new_key()
    certificate = issue(running.home.store, authority or running.home.authority, pki.request(name, key), name)
    return key, certificate


def site(running, name="line-1", held=None) -> Site:
    return Site(name, rpc.FederationStub(running.channel(*(held or given(running, name)))), "server")


async def trusted(session) -> pb.Trust:
    """Wait to be told of the authorities, with heartbeats meanwhile."""
    while True:
        await session.beat()
        message = await session.call.read()
        assert message is not grpc.aio.EOF
        if message.WhichOneof("body") == "trust":
            return message.trust
        await asyncio.sleep(BEAT / 4)


def audit(running, action):
    return [line for line in trail(running.home.store) if line["action"] == action]


@wired
async def test_each_call_of_a_revoked_site_is_refused_at_once(running):
    line = site(running)
    await line.stub.Renew(pb.RenewRequest(certificate_request=request("line-1")))
    revoke(running.home.store, "line-1", "lost")
    renewal = line.stub.Renew(pb.RenewRequest(certificate_request=request("line-1")))
    for call in (renewal, line.connect(), line.fetch("0" * 64), line.submit(outcome("task"))):
        error = await refusal(call)
        assert type(error) is Revoked
        assert error.message.endswith("UTC: lost.")
    await until(lambda: audit(running, "refused: revoked certificate"))


@wired(heartbeat=BEAT)
async def test_an_open_session_is_ended_and_its_task_settled(running):
    line, other = site(running), site(running, "line-2")
    session, second = await line.connect(), await other.connect()
    messages = tasks(running, "line-1", "line-2")
    answers = asyncio.create_task(running.done(lambda: list(running.grid.send_and_receive(messages, timeout=60))))
    await session.next("offer")
    await second.next("offer")
    revoke(running.home.store, "line-1", "lost")
    error = await refusal(session.next("nothing"))
    assert type(error) is Revoked
    assert error.message.endswith("UTC: lost.")
    await second.fail("run.r1.train.line-2", message="dark")
    replies = {reply.error.reason for reply in await answers}
    assert replies == {"revoked: lost", "data: dark"}  # the round did not wait
    assert list(running.hub.sessions) == ["line-2"]


@wired(heartbeat=BEAT)
async def test_a_revoked_site_that_is_asked_again_or_was_away_is_not_waited_for(running):
    given(running)
    revoke(running.home.store, "line-1", "lost")
    await until(lambda: running.hub._barred)
    running.grid._names |= {sent.metadata.dst_node_id: "line-1" for sent in tasks(running, "line-1")}
    messages = tasks(running, "line-1")
    replies = await running.done(lambda: list(running.grid.send_and_receive(messages, timeout=60)))
    assert [reply.error.reason for reply in replies] == ["revoked: lost"]


@wired(heartbeat=BEAT)
async def test_after_enrolling_anew_the_new_certificate_has_a_session_and_tasks(running):
    old = given(running)
    revoke(running.home.store, "line-1")
    await until(lambda: running.hub._barred)
    session = await site(running, held=given(running)).connect()
    assert type(await refusal(site(running, held=old).connect())) is Revoked
    await until(lambda: not running.hub._barred)
    for _ in range(8):  # several looks
        await session.beat()
        await asyncio.sleep(BEAT / 2)
    assert list(running.hub.sessions) == ["line-1"]
    session.call.cancel()  # with what it has not read


@wired
async def test_while_the_database_cannot_be_read_what_was_known_counts(running):
    peers = {name: as_peer(name, given(running, name)[1]) for name in ("good", "bad")}
    revoke(running.home.store, "bad")
    looked = standing.Standing(running.home.store)
    await looked.refresh()

    def broken():
        raise StorageError("locked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.home.store, "session", broken)
        await looked.check(peers["good"])
        with pytest.raises(Revoked):
            await looked.check(peers["bad"])


class TestEnrolment:
    @staticmethod
    @wired
    async def test_a_lost_reply_does_not_cost_the_token(running):
        token, key = sites.make_token(running.home.store, "line-7"), pki.new_key()
        first = await enroll(running, token, request(key=key))
        second = await enroll(running, token, request(key=key))  # another request, the same key
        assert second.certificate == first.certificate
        assert len(rows(running.home.store, CertificateRow)) == 1
        assert type(await refusal(enroll(running, token))) is TokenUsed  # another key
        await until(lambda: audit(running, "refused: replayed enrolment"))
        assert audit(running, "refused: replayed enrolment")[0]["subject"] == "line-7"

    @staticmethod
    @wired
    async def test_a_server_that_died_between_token_and_certificate(running):
        token, key = sites.make_token(running.home.store, "line-7"), pki.new_key()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedwon.server.identity.enrolling.issue", lambda *_, **__: 1 / 0)
            with pytest.raises(grpc.aio.AioRpcError):
                await enroll(running, token, request(key=key))
        assert rows(running.home.store, Token)[0].used is not None
        assert (await enroll(running, token, request(key=key))).site == "line-7"

    @staticmethod
    @wired
    async def test_the_limit_is_told_and_a_good_token_is_taken_all_the_same(running):
        token = sites.make_token(running.home.store, "line-7")
        errors = [await refusal(enroll(running, "guess")) for _ in range(12)]
        assert [type(error) for error in errors[:10]] == [TokenUsed] * 10
        assert type(errors[-1]) is TooManyAttempts
        assert "from 127.0.0.1; try again in" in errors[-1].message
        assert (await enroll(running, token)).site == "line-7"
        await until(lambda: audit(running, "refused: too many attempts to join"))
        [line] = audit(running, "refused: enrolment")
        assert line["subject"] == "127.0.0.1"


@wired(heartbeat=5 * BEAT)
async def test_a_change_of_authority_reaches_who_is_connected_and_who_comes(running):
    pki_folder = running.home.folder / "pki"
    session = await site(running).connect()
    made = await asyncio.to_thread(roll, pki_folder)
    told = await trusted(session)
    assert told.authorities == made.pem + running.home.authority.pem
    old = site(running, "line-2")  # certificate of the old authority: still good
    for takes, signer in ((True, made), (False, running.home.authority)):
        reply = await old.stub.Renew(pb.RenewRequest(certificate_request=request("line-2"), bundle=takes))
        mark = pki.fingerprint(signer.pem)
        assert [row.authority for row in rows(running.home.store, CertificateRow) if row.pem == reply.certificate] == [
            mark
        ]
        assert reply.authorities == told.authorities
    # a site that joins with the line's old fingerprint gets the bundle
    authority = await running.enrolment().Authority(pb.AuthorityRequest())
    assert authority.certificate == running.home.authority.pem
    joined = await enroll(running, sites.make_token(running.home.store, "line-3"))
    assert joined.authorities == told.authorities
    retire(pki_folder, running.home.config.names)
    assert (await trusted(session)).authorities == made.pem
    error = await refusal(old.fetch("0" * 64))  # over a connection that stands
    assert type(error) is Refused
    assert "authority that was retired" in error.message


@wired
async def test_new_connections_get_the_servers_new_certificate(running):
    def shown() -> str:
        host, _, port = running.home.config.listen.rpartition(":")
        return ssl.get_server_certificate((host, int(port)), timeout=30)

    before = await asyncio.to_thread(shown)
    session = await site(running).connect()
    renew_server(running.home.folder / "pki", running.home.config.names)
    after = await asyncio.to_thread(shown)
    assert before != after
    assert after == (running.home.folder / "pki" / "server.pem").read_text()
    (running.home.folder / "pki" / "server.pem").write_bytes(b"half")
    assert await asyncio.to_thread(shown) == after  # what was good goes on
    await session.leave()  # and who was connected still is


@wired
async def test_a_claim_to_anothers_name_is_ignored_and_on_record(running):
    stub = stub_of(running, *given(running, "line-1"))
    reply = await stub.Renew(pb.RenewRequest(certificate_request=request("line-9")))
    assert pki.site_of(reply.certificate) == "line-1"
    await until(lambda: audit(running, "refused: another site's name"))
    assert audit(running, "refused: another site's name")[0]["subject"] == "line-1"
