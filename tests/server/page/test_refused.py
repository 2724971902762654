"""The pages of refused updates, and that letting one out on them is the command's, with the operator's name on it."""

from __future__ import annotations

import pytest

from fedwon.server.admission.rows import QuarantineRow
from fedwon.server.auditing import trail
from fedwon.server.runs.run import Run
from tests.server.page.browsing import enrol
from tests.server.rounds.test_strategy import start
from tests.server.server_kit import CLASSES, FakeGrid, answering, rows, small_run

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def task(home):
    """The name of an update that moved fifty times as far as the others."""
    run = Run.create(home.store, home.folder, small_run(rounds=9), CLASSES)
    sites = {"a": answering(0.10), "b": answering(0.11), "c": answering(0.12), "x": answering(50.0)}
    start(run, FakeGrid(sites), rounds=1)
    enrol(home, "x")
    return f"{run.id}.r0001.train.x"


def states(home):
    return [(row.task, row.state) for row in rows(home.store, QuarantineRow)]


def test_where_nothing_was_refused(browser):
    assert "No update has been refused." in browser.get("/refused").text
    assert browser.get("/refused/none").status_code == 404


def test_what_is_shown(browser, home, task):
    page = browser.get("/refused").text
    assert f'href="/refused/{task}"' in page
    assert "median" in page
    page = browser.get(f"/refused/{task}", headers={"accept-language": "ja"}).text
    for text in ("num-examples", "変化の大きい部分", "quarantine", "<dd>norm</dd>"):
        assert text in page
    assert "do-release" not in page  # without a login
    browser.log_in(home)
    assert "do-release" in browser.get(f"/refused/{task}").text


def test_an_update_is_let_out_once_and_the_trail_says_by_whom(browser, home, task):
    csrf = browser.log_in(home)
    reply = browser.post(f"/refused/{task}/release", csrf=csrf, reason="a new camera")
    assert (reply.status_code, reply.headers["location"]) == (303, f"/refused/{task}?done=release")
    assert states(home) == [(task, "released")]
    line = trail(home.store, site="x")[-1]
    assert (line["action"], line["actor"]) == ("update released", "Sato (page, 127.0.0.1)")
    assert "a new camera" in line["detail"]
    assert "do-release" not in browser.get(f"/refused/{task}").text
    again = browser.post(f"/refused/{task}/release", csrf=csrf)
    assert again.status_code == 409
    assert "was released already" in again.text
    assert "Refused update let out: x" in browser.get().text


def test_on_a_relay_it_stays_refused(browser, home, task):
    csrf = browser.log_in(home)
    (home.folder / "parent").mkdir()
    reply = browser.post(f"/refused/{task}/release", csrf=csrf)
    assert reply.status_code == 409
    assert "is a relay" in reply.text
    assert states(home) == [(task, "held")]


def test_what_can_never_count_is_not_offered_and_nothing_becomes_markup(browser, home, task):
    with home.store.session() as session:
        row = session.get_one(QuarantineRow, task)
        row.rule, row.reason, row.metrics = "finite", HOSTILE, {HOSTILE: 1.0}
    csrf = browser.log_in(home)
    for path in ("/refused", f"/refused/{task}"):
        page = browser.get(path).text
        assert "do-release" not in page
        assert HOSTILE not in page
        assert "&lt;script&gt;" in page
    assert browser.post(f"/refused/{task}/release", csrf=csrf).status_code == 409
    assert states(home) == [(task, "held")]
