"""Joining and renewing over real connections."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from fedwon.common import pki
from fedwon.common.errors import Refused, TokenExpired, TokenUsed, VersionGap
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.server.identity import sites
from fedwon.server.store import Site, Token
from tests.server.server_kit import refusal, rows, wired


def request(name="whatever", key=None):
    return pki.request(name, key or pki.new_key())


async def enroll(running, token, csr=None, version=VERSION):
    message = pb.EnrollRequest(token=token, certificate_request=request() if csr is None else csr, version=version)
    return await running.enrolment().Enroll(message)


@wired
async def test_the_authority_is_handed_out(running):
    reply = await running.enrolment().Authority(pb.AuthorityRequest())
    assert reply.certificate == running.home.authority.pem


@wired
async def test_a_token_brings_a_certificate_under_its_own_name(running):
    token, key = sites.make_token(running.home.store, "line-7"), pki.new_key()
    reply = await enroll(running, token, request("somebody-else", key))
    assert (reply.site, reply.server) == ("line-7", running.home.public_address)
    assert pki.site_of(reply.certificate) == "line-7"
    row = rows(running.home.store, Site)[0]
    assert row.name == "line-7"
    assert timedelta(days=29) < row.expires - datetime.now(UTC) < timedelta(days=31)
    # and it opens the other port
    renewed = await stub_of(running, key, reply.certificate).Renew(pb.RenewRequest(certificate_request=request()))
    assert pki.site_of(renewed.certificate) == "line-7"


def stub_of(running, key, certificate):
    return rpc.FederationStub(running.channel(key, certificate))


@wired
async def test_a_token_is_used_once(running):
    token = sites.make_token(running.home.store, "line-7")
    await enroll(running, token)
    error = await refusal(enroll(running, token))
    assert type(error) is TokenUsed
    assert "It was used at" in error.message


@wired
async def test_tokens_that_do_not_count(running):
    assert type(await refusal(enroll(running, "guess"))) is TokenUsed
    assert type(await refusal(enroll(running, ""))) is TokenUsed
    old = sites.make_token(running.home.store, "line-7", hours=-1)
    assert type(await refusal(enroll(running, old))) is TokenExpired
    assert rows(running.home.store, Site) == []


@wired
async def test_a_bad_request_does_not_cost_the_token(running):
    token = sites.make_token(running.home.store, "line-7")
    for bad in (b"", b"junk", b"x" * 100_000, running.home.authority.pem):
        assert type(await refusal(enroll(running, token, bad))) is Refused
    assert rows(running.home.store, Token)[0].used is None
    assert (await enroll(running, token)).site == "line-7"


@wired
async def test_a_client_of_another_time_does_not_cost_the_token(running):
    token = sites.make_token(running.home.store, "line-7")
    assert type(await refusal(enroll(running, token, version="7.0.0"))) is VersionGap
    assert rows(running.home.store, Token)[0].used is None


@wired
async def test_a_certificate_is_renewed_under_the_name_of_the_one_that_asks(running):
    site, key = running.site("line-1"), pki.new_key()
    reply = await site.stub.Renew(pb.RenewRequest(certificate_request=request("line-2", key)))
    assert pki.site_of(reply.certificate) == "line-1"
    assert pki.certificate_days_left(reply.certificate) == pytest.approx(pki.SITE_DAYS, abs=0.1)
    again = await stub_of(running, key, reply.certificate).Renew(pb.RenewRequest(certificate_request=request()))
    assert pki.site_of(again.certificate) == "line-1"


@wired
async def test_a_bad_renewal(running):
    assert type(await refusal(running.site("line-1").stub.Renew(pb.RenewRequest(certificate_request=b"x")))) is Refused


@wired
async def test_a_site_that_was_removed_does_not_renew_itself_back(running):
    stub = running.site("gone", enrol=False).stub
    error = await refusal(stub.Renew(pb.RenewRequest(certificate_request=request())))
    assert type(error) is Refused
    assert rows(running.home.store, Site) == []


@wired
async def test_the_enrolment_port_serves_nothing_else(running):
    stub = rpc.FederationStub(running.channel(address=running.home.config.enrolment))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Renew(pb.RenewRequest(certificate_request=request()))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
