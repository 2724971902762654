"""The audit trail says who did what, and a flood of refusals does not grow it."""

from __future__ import annotations

import os
import threading

import pytest

from fedwon.common.errors import StorageError
from fedwon.server import auditing
from fedwon.server.auditing import OTHERS, REFUSED, Refusals, operator, trail
from fedwon.server.identity import sites
from fedwon.server.store import AuditRow
from tests.server.server_kit import rows


@pytest.fixture
def refusals(store):
    return Refusals(store)


def lines(store):
    return [(row.action, row.subject, row.times) for row in rows(store, AuditRow)]


def test_what_an_operator_does_names_the_operator(store):
    sites.make_token(store, "line-1")
    [line] = trail(store)
    assert (line["actor"], line["action"], line["subject"]) == (operator(), "token made", "line-1")
    assert operator()


def test_a_user_without_a_name(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 3_000_000)
    assert operator() == "uid 3000000"


def test_the_trail_is_read_oldest_first_and_by_site(store):
    for site in ("a", "b", "a", "c"):
        store.audit("something", site)
    assert [line["subject"] for line in trail(store)] == ["a", "b", "a", "c"]
    assert [line["subject"] for line in trail(store, last=2)] == ["a", "c"]
    assert len(trail(store, site="a")) == 2
    assert len(trail(store, site="a", last=1)) == 1


def test_the_first_refusal_is_a_line_and_the_next_ones_count_in_it(store, refusals):
    refusals.note("request", "a", "first")
    refusals.write()
    [line] = trail(store)
    assert (line["action"], line["detail"], line["times"], line["until"]) == (f"{REFUSED}request", "first", 1, None)
    for _ in range(1000):
        refusals.note("request", "a", "again")
    refusals.write()
    refusals.write()
    [line] = trail(store)
    assert (line["detail"], line["times"]) == ("first", 1001)
    assert line["until"] >= line["at"]


def test_kinds_and_peers_have_lines_of_their_own(store, refusals):
    for what, subject in [("request", "a"), ("request", "b"), ("version", "a")]:
        refusals.note(what, subject, "")
    refusals.write()
    assert sorted(lines(store)) == [
        (f"{REFUSED}request", "a", 1),
        (f"{REFUSED}request", "b", 1),
        (f"{REFUSED}version", "a", 1),
    ]


def test_a_flood_from_many_addresses_ends_in_one_line(store, refusals, monkeypatch):
    monkeypatch.setattr(auditing, "WINDOW_LINES", 3)
    for number in range(500):
        refusals.note("enrolment", f"10.0.0.{number}", "")
    refusals.write()
    assert lines(store)[-1] == (f"{REFUSED}enrolment", OTHERS, 497)
    assert len(lines(store)) == 4


def test_after_an_hour_there_is_a_new_line(store, refusals, monkeypatch):
    refusals.note("request", "a", "")
    refusals.write()
    monkeypatch.setattr(auditing, "WINDOW_SECONDS", -1.0)
    refusals.write()
    refusals.note("request", "a", "")
    refusals.write()
    assert lines(store) == [(f"{REFUSED}request", "a", 1)] * 2


def test_old_refusals_make_room_and_what_an_operator_did_stays(store, refusals, monkeypatch):
    monkeypatch.setattr(auditing, "WINDOW_SECONDS", -1.0)
    monkeypatch.setattr(auditing, "KEPT_REFUSALS", 5)
    store.audit("run started", "run")
    for number in range(20):
        refusals.note("request", f"site-{number}", "")
        refusals.write()
    kept = lines(store)
    assert kept[0][0] == "run started"
    assert [subject for _, subject, _ in kept[1:]] == [f"site-{number}" for number in range(15, 20)]


def test_nothing_is_lost_when_the_database_cannot_be_written(store, refusals, monkeypatch):
    refusals.note("request", "a", "first")

    def broken():
        raise StorageError("locked")

    with monkeypatch.context() as patched:
        patched.setattr(store, "session", broken)
        with pytest.raises(StorageError):
            refusals.write()
    refusals.write()
    assert lines(store) == [(f"{REFUSED}request", "a", 1)]


def test_it_may_be_told_from_any_thread(store, refusals):
    def tell():
        for _ in range(200):
            refusals.note("request", "a", "")

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refusals.write()
    assert lines(store) == [(f"{REFUSED}request", "a", 800)]


@pytest.mark.parametrize("claimed", ["", "site", "line-1"])
def test_a_request_in_its_own_name_is_no_claim(store, refusals, claimed):
    refusals.note_claim("line-1", claimed)
    refusals.write()
    assert lines(store) == []
