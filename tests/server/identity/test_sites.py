"""Join tokens are used once, and what is noted about sites stays true."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from fedwon.common.errors import Refused, TokenExpired, TokenUsed
from fedwon.server.identity import sites
from fedwon.server.store import AuditRow, Site, Token, now
from tests.server.server_kit import rows


def test_a_token_is_used_once(store):
    token = sites.make_token(store, "line-1")
    assert sites.redeem_token(store, token) == "line-1"
    with pytest.raises(TokenUsed, match=r"unknown or was used before. It was used at 20"):
        sites.redeem_token(store, token)


def test_an_unknown_token(store):
    sites.make_token(store, "line-1")
    with pytest.raises(TokenUsed, match=r"before\.$"):
        sites.redeem_token(store, "guess")
    assert rows(store, Token)[0].used is None


def test_a_token_that_is_too_old_is_not_used_up(store):
    token = sites.make_token(store, "line-1", hours=-0.01)
    for _ in range(2):
        with pytest.raises(TokenExpired, match="for site line-1 expired at"):
            sites.redeem_token(store, token)
    assert rows(store, Token)[0].used is None


def test_tokens_differ_and_both_are_good(store):
    first, second = sites.make_token(store, "line-1"), sites.make_token(store, "line-1")
    assert first != second
    assert len(first) >= 32
    assert {sites.redeem_token(store, token) for token in (first, second)} == {"line-1"}


def test_the_token_is_nowhere_on_the_disk(store, tmp_path):
    token = sites.make_token(store, "line-1")
    with pytest.raises(TokenUsed):
        sites.redeem_token(store, token[:-1])
    store.close()
    found = [path.name for path in tmp_path.glob("fedwon.db*") if token[:12].encode() in path.read_bytes()]
    assert found == []


def test_of_two_at_the_same_moment_one_wins(store):
    for _ in range(5):
        token, barrier, outcomes = sites.make_token(store, "line-1"), threading.Barrier(4), []

        def redeem(token=token, barrier=barrier, outcomes=outcomes):
            barrier.wait()
            try:
                outcomes.append(sites.redeem_token(store, token))
            except TokenUsed:
                outcomes.append(None)

        threads = [threading.Thread(target=redeem) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes, key=str) == [None, None, None, "line-1"]


def test_enrolling_again_is_the_same_site(store):
    first, later = now() + timedelta(days=1), now() + timedelta(days=30)
    sites.enrolled(store, "line-1", first)
    sites.enrolled(store, "line-1", later)
    assert [(row.name, row.expires) for row in rows(store, Site)] == [("line-1", later)]
    assert [row.subject for row in rows(store, AuditRow)] == ["line-1", "line-1"]


def test_only_an_enrolled_site_connects(store):
    sites.enrolled(store, "line-1", now())
    sites.check_enrolled(store, "line-1")
    for call in (
        lambda: sites.check_enrolled(store, "line-2"),
        lambda: sites.connected(store, "line-2", "0.1.0", {}),
    ):
        with pytest.raises(Refused, match="No site `line-2` has enrolled"):
            call()
    assert [row.name for row in rows(store, Site)] == ["line-1"]


def test_coming_and_going(store):
    for name in ("a", "b"):
        sites.enrolled(store, name, now())
        sites.connected(store, name, "0.1.0", {"good": {"train": 3}})
    sites.disconnected(store, "a")
    assert {row.name: row.connected for row in rows(store, Site)} == {"a": False, "b": True}
    moment = now() + timedelta(minutes=5)
    sites.seen(store, [("b", moment), ("gone", moment)])
    kept = {row.name: row for row in rows(store, Site)}
    assert kept["b"].last_seen == moment
    assert kept["a"].last_seen < moment
    assert kept["b"].data == {"good": {"train": 3}}
    sites.disconnected(store)
    assert not any(row.connected for row in rows(store, Site))


def test_who_comes_and_goes_at_once_is_noted_in_order(store):
    for name in ("a", "b", "c"):
        sites.enrolled(store, name, now())
    data = {"good": {"train": 3}}
    moves = [
        sites.Arrival("a", "0.1.0", data),
        sites.Arrival("b", "0.1.0", {}),
        sites.Departure("a"),
        sites.Arrival("stranger", "0.1.0", {}),
        sites.Departure("c"),
        sites.Departure("nobody"),
        sites.Departure("b"),
        sites.Arrival("b", "0.2.0", data),
    ]
    outcomes = sites.noted(store, moves)
    assert [move.site for move, outcome in zip(moves, outcomes, strict=True) if outcome is not None] == ["stranger"]
    kept = {row.name: (row.connected, row.version, row.data) for row in rows(store, Site)}
    assert kept == {"a": (False, "0.1.0", data), "b": (True, "0.2.0", data), "c": (False, None, None)}


def test_tokens_and_certificates_are_audited(store):
    sites.make_token(store, "line-1", hours=2)
    sites.enrolled(store, "line-1", now())
    assert [(row.action, row.subject) for row in rows(store, AuditRow)] == [
        ("token made", "line-1"),
        ("certificate issued", "line-1"),
    ]
