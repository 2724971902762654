"""Which certificates count, after revocations, renewals, upgrades and changes of authority."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import timedelta

import pytest
from sqlalchemy import update

from fedwon.common import pki
from fedwon.common.certificates import CLOCK_SKEW, read_certificate
from fedwon.common.errors import Refused, Revoked, TokenExpired
from fedwon.server.auditing import operator
from fedwon.server.identity import sites, standing
from fedwon.server.identity.standing import Standing, given_for, holders, issue, revoke, void
from fedwon.server.link.peers import Peer, peer_of, readable, serial_of
from fedwon.server.store import AuditRow, CertificateRow, Site, now
from tests.server.server_kit import rows


@pytest.fixture
def authority(tmp_path):
    return pki.create_authority(tmp_path / "pki", "test")


def given(store, authority, site="line-1", **options) -> Peer:
    """Give a site a certificate; return it as it would come in a call."""
    return as_peer(site, issue(store, authority, pki.request(site, pki.new_key()), site, **options))


def as_peer(site: str, pem: bytes) -> Peer:
    return peer_of({"x509_subject_alternative_name": [f"fedwon:site:{site}".encode()], "x509_pem_cert": [pem]})


def check(store, peer):
    looked = Standing(store)
    asyncio.run(looked.check(peer))
    return looked


def test_what_is_issued_is_on_record(store, authority):
    peer = given(store, authority)
    [row] = rows(store, CertificateRow)
    assert (row.serial, row.site, row.authority) == (peer.serial, "line-1", pki.fingerprint(authority.pem))
    assert timedelta(days=29) < row.expires - now() < timedelta(days=31)
    assert (row.used, row.revoked) == (None, None)
    check(store, peer)
    assert rows(store, CertificateRow)[0].used is not None


def test_a_revoked_certificate_is_refused_with_moment_and_reason(store, authority):
    peer = given(store, authority)
    assert revoke(store, "line-1", "lost") == 1
    with pytest.raises(Revoked, match=r"of site `line-1` was revoked at 20.* UTC: lost\."):
        check(store, peer)
    line = rows(store, AuditRow)[-1]
    assert (line.action, line.subject, line.detail, line.actor) == ("site revoked", "line-1", "lost", operator())


def test_others_are_not_touched(store, authority):
    mine, other = given(store, authority), given(store, authority, "line-2")
    revoke(store, "line-1")
    check(store, other)
    assert void(store).barred == {"line-1": "no reason given"}
    assert void(store).refusal(other, known=True) is None
    assert "was revoked" in void(store).refusal(mine, known=True)


def test_every_certificate_of_a_site_is_revoked_also_those_of_earlier_renewals(store, authority):
    first = given(store, authority)
    second = given(store, authority, renewing=first)
    check(store, first)  # a renewed one stays good until it ends
    assert revoke(store, "line-1") == 2
    for peer in (first, second):
        with pytest.raises(Revoked):
            check(store, peer)


def test_a_site_that_enrols_anew_gets_in_and_its_old_certificate_does_not(store, authority):
    old = given(store, authority)
    revoke(store, "line-1")
    new = given(store, authority)
    looked = check(store, new)
    with pytest.raises(Revoked):
        check(store, old)
    found = void(store)
    looked.void = found
    assert found.barred == {}
    assert looked.refusal(new) is None
    assert looked.refusal(old) is not None


def test_a_certificate_from_before_there_was_a_table(store, authority):
    """As after an upgrade, or a backup that was put back: it counts, unless its site was revoked after it was made."""
    key = pki.new_key()
    peer = as_peer("line-1", pki.sign_request(authority, pki.request("line-1", key), "line-1"))
    sites.enrolled(store, "line-1", now() + timedelta(days=30))
    check(store, peer)
    revoke(store, "line-1")
    with pytest.raises(Revoked):
        check(store, peer)
    with store.session() as session:
        session.execute(update(Site).values(revoked=peer.issued - timedelta(seconds=1)))
    check(store, peer)


def test_a_token_made_before_the_revocation_is_void(store, authority):
    given(store, authority)
    token = sites.make_token(store, "line-1")
    revoke(store, "line-1")
    with pytest.raises(TokenExpired):
        sites.redeem_token(store, token, "key")
    assert sites.redeem_token(store, sites.make_token(store, "line-1"), "key") == "line-1"


def test_the_site_of_a_used_token_cannot_use_it_once_more_after_a_revocation(store, authority):
    token = sites.make_token(store, "line-1")
    sites.redeem_token(store, token, "key")
    given(store, authority, token=sites.token_digest(token))
    assert given_for(store, sites.token_digest(token)) is not None
    revoke(store, "line-1")
    assert not sites.token_counts(store, token, "key")
    assert given_for(store, sites.token_digest(token)) is None


def test_a_revoked_site_does_not_renew_itself_back(store, authority):
    peer = given(store, authority)
    revoke(store, "line-1")
    with pytest.raises(Revoked):
        given(store, authority, renewing=peer)
    assert len(rows(store, CertificateRow)) == 1


def test_of_a_renewal_and_a_revocation_at_the_same_moment_none_leaves_a_good_certificate(store, authority):
    for number in range(4):
        site = f"line-{number}"
        peer, barrier = given(store, authority, site), threading.Barrier(2)

        def renew(peer=peer, barrier=barrier, site=site):
            barrier.wait()
            with contextlib.suppress(Refused):
                given(store, authority, site, renewing=peer)

        def cut(barrier=barrier, site=site):
            barrier.wait()
            revoke(store, site)

        threads = [threading.Thread(target=work) for work in (renew, cut)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(row.revoked for row in rows(store, CertificateRow) if row.site == site)


def test_who_is_not_there_cannot_be_revoked(store):
    with pytest.raises(Refused, match="No site `line-9` has enrolled"):
        revoke(store, "line-9")
    assert rows(store, AuditRow) == []


def test_a_site_does_not_get_certificates_without_end(store, authority, monkeypatch):
    monkeypatch.setattr(standing, "A_DAY", 2)
    given(store, authority)
    given(store, authority)
    with pytest.raises(Refused, match="was given 2 certificates within a day"):
        given(store, authority)
    given(store, authority, "line-2")
    assert len(rows(store, CertificateRow)) == 3


def test_certificates_that_ended_long_ago_are_forgotten(store, authority):
    old = given(store, authority)
    with store.session() as session:
        session.execute(update(CertificateRow).values(expires=now() - timedelta(days=31)))
    new = given(store, authority)
    assert [row.serial for row in rows(store, CertificateRow)] == [new.serial]
    assert old.serial != new.serial


def test_who_would_be_locked_out_without_an_authority(store, authority, tmp_path):
    new = pki.create_authority(tmp_path / "new", "test")
    marks = [pki.fingerprint(new.pem)]
    for site in ("renewed", "silent", "stays", "gone"):
        check(store, given(store, authority, site))
    sites.enrolled(store, "ended", now() - timedelta(days=1))
    sites.enrolled(store, "unlisted", now() + timedelta(days=5))
    check(store, given(store, new, "renewed"))
    given(store, new, "silent")  # signed, and perhaps never arrived
    revoke(store, "gone")
    assert holders(store, marks) == ["silent", "stays", "unlisted"]
    assert holders(store, [*marks, pki.fingerprint(authority.pem)]) == ["unlisted"]


class TestPeers:
    def test_what_a_certificate_says(self, authority):
        pem = pki.sign_request(authority, pki.request("line-1", pki.new_key()), "line-1")
        certificate, peer = read_certificate(pem, "it"), as_peer("line-1", pem)
        assert peer.serial == serial_of(certificate) == f"{certificate.serial_number:x}"
        assert peer.issued <= certificate.not_valid_before_utc + CLOCK_SKEW
        assert abs(peer.issued - now()) < timedelta(minutes=1)
        assert len(peer.signer) == 20

    @pytest.mark.parametrize(
        "context", [{}, {"x509_subject_alternative_name": [b"fedwon:site:a"]}, {"x509_pem_cert": [b""]}]
    )
    def test_who_shows_none_is_nobody(self, context):
        with pytest.raises(Refused):
            peer_of(context)

    @pytest.mark.parametrize(
        ("peer", "expected"),
        [
            ("ipv4:10.1.2.3:4567", "10.1.2.3"),
            ("ipv6:%5B2001:db8::1%5D:4567", "2001:db8::1"),
            ("ipv6:[::1]:4567", "::1"),
            ("unix:", "unix:"),
            ("", "unknown"),
        ],
    )
    def test_addresses(self, peer, expected):
        assert readable(peer) == expected
