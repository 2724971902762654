"""The login: what opens it, what ends it, how often it can be tried, and what each action leaves behind."""

from __future__ import annotations

import stat

import pytest
from starlette.datastructures import Headers

from fedwon.common.errors import ConfigError, KeyExposed
from fedwon.server.admission.suspension import suspended
from fedwon.server.page import password
from fedwon.server.page.logins import ATTEMPTS, IDLE_SECONDS, LONGEST_SECONDS, Logins, plain_name
from fedwon.server.page.password import NAME, set_password, verify
from fedwon.server.runs import wishes
from fedwon.server.runs.run import Run
from fedwon.server.store import AuditRow, RunRow, Site, Token
from tests.server.page.browsing import ELSEWHERE, PASSWORD, Browser, enrol
from tests.server.server_kit import CLASSES, rows, small_run

REAL_HASHER = password._HASHER
ACTIONS = [
    "/run/pause",
    "/run/resume",
    "/run/stop",
    "/invite",
    "/sites/a/revoke",
    "/sites/a/suspend",
    "/sites/a/lift",
    "/releases/promote",
    "/hold",
    "/rollback",
    "/refused/x/release",
    "/logout",
]


@pytest.fixture
def pki(tmp_path):
    (tmp_path / "pki").mkdir()
    set_password(tmp_path / "pki", PASSWORD)
    return tmp_path / "pki"


def cookie(logins, token):
    return Headers({"cookie": f"{logins.cookie}={token}"})


def test_only_a_hash_is_kept_and_only_for_the_servers_user(pki):
    path = pki / NAME
    assert path.read_text().startswith("$argon2id$v=19$")
    assert PASSWORD not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert verify(pki, PASSWORD)
    assert not verify(pki, PASSWORD + " ")
    path.chmod(0o644)
    with pytest.raises(KeyExposed):
        verify(pki, PASSWORD)


def test_the_hash_is_as_dear_as_rfc_9106_says():
    hasher = REAL_HASHER
    assert (hasher.memory_cost, hasher.time_cost, hasher.parallelism) == (64 * 1024, 3, 4)
    assert hasher.type.name == "ID"


def test_a_file_that_is_no_hash_opens_nothing(pki):
    (pki / NAME).write_text("")
    assert not verify(pki, "")
    (pki / NAME).unlink()
    assert not verify(pki, "")


@pytest.mark.parametrize("given", ["", "short", "x" * 201])
def test_passwords_that_are_refused(pki, given):
    with pytest.raises(ConfigError):
        set_password(pki, given)
    assert verify(pki, PASSWORD)


def test_a_login_ends(pki):
    moment = [0.0]
    logins = Logins(pki, tls=False, clock=lambda: moment[0])
    token = logins.log_in("Sato", PASSWORD, "10.0.0.1")
    assert logins.login_of(cookie(logins, token)).name == "Sato (page, 10.0.0.1)"
    assert logins.login_of(cookie(logins, token + "x")) is None
    assert logins.login_of(Headers({})) is None
    moment[0] += IDLE_SECONDS - 1
    assert logins.login_of(Headers({**cookie(logins, token), "x-refresh": "1"})) is not None
    moment[0] += 2
    assert logins.login_of(cookie(logins, token)) is None
    token = logins.log_in("Sato", PASSWORD, "10.0.0.1")
    for _ in range(int(LONGEST_SECONDS / IDLE_SECONDS * 2)):
        assert logins.login_of(cookie(logins, token)) is not None
        moment[0] += IDLE_SECONDS / 2
    moment[0] += 1
    assert logins.login_of(cookie(logins, token)) is None


def test_another_password_ends_every_login(pki):
    logins = Logins(pki, tls=False)
    token = logins.log_in("Sato", PASSWORD, "10.0.0.1")
    set_password(pki, "three other words")
    assert logins.login_of(cookie(logins, token)) is None


def test_guessing_is_slowed_down_and_then_not_even_the_right_one_counts(pki):
    moment = [0.0]
    logins = Logins(pki, tls=False, clock=lambda: moment[0])
    assert [logins.log_in("x", f"guess {n}", "10.0.0.1") for n in range(ATTEMPTS[0])] == [None] * ATTEMPTS[0]
    assert logins.log_in("x", PASSWORD, "10.0.0.1") > 0
    assert isinstance(logins.log_in("x", PASSWORD, "10.0.0.2"), str)  # another address is not kept out
    moment[0] += 60 / ATTEMPTS[0] + 0.1
    assert isinstance(logins.log_in("x", PASSWORD, "10.0.0.1"), str)


def test_names_are_plain():
    assert plain_name("  Sato\n\x1b[31m ") == "Sato[31m"
    assert plain_name("\u202e") == "?"
    assert len(plain_name("x" * 1000)) == 40


def test_the_cookie(home):
    browser = Browser(home, tls=True, client=ELSEWHERE)
    set_password(home.folder / "pki", PASSWORD)
    sent = browser.post("/login", name="Sato", password=PASSWORD).headers["set-cookie"]
    assert sent.startswith("__Host-fedwon=")
    assert {"HttpOnly", "SameSite=Strict", "Secure", "Path=/"} <= set(sent.split("; "))


@pytest.mark.parametrize("path", ACTIONS)
def test_without_a_login_nothing_is_done(browser, home, path):
    before = len(rows(home.store, AuditRow))
    reply = browser.post(path, csrf="x", site="a")
    assert (reply.status_code, reply.headers["location"]) == (303, "/login")
    assert len(rows(home.store, AuditRow)) == before
    assert browser.hurried == 0


@pytest.mark.parametrize("path", ACTIONS)
def test_without_the_forms_token_nothing_is_done(browser, home, path):
    enrol(home, "a")
    browser.log_in(home)
    before = [row.action for row in rows(home.store, AuditRow)]
    for fields in ({}, {"csrf": ""}, {"csrf": "wrong"}, {"csrf": "x" * 10_000}):
        assert browser.post(path, site="b", **fields).status_code == 403
    assert [row.action for row in rows(home.store, AuditRow)] == before
    assert rows(home.store, Token) == []
    assert rows(home.store, Site)[0].revoked is None
    assert browser.get().text.count('name="csrf"') > 0  # still logged in


def test_each_action_says_who_did_it(browser, home):
    enrol(home, "a")
    run = Run.create(home.store, home.folder, small_run(rounds=3), CLASSES)
    csrf = browser.log_in(home, "Sato <b>")
    for path in ("/run/pause", "/run/stop", "/run/resume"):
        assert browser.post(path, csrf=csrf).status_code == 303
    assert browser.post("/sites/a/revoke", csrf=csrf, reason="stolen").status_code == 303
    invited = browser.post("/invite", csrf=csrf, site="b").text
    assert "fedwon-client join" in invited
    who = "Sato <b> (page, 127.0.0.1)"
    done = [(row.action, row.subject, row.actor) for row in rows(home.store, AuditRow) if row.actor == who]
    assert done == [
        ("page login", "federation", who),
        ("pause asked for", run.id, who),
        ("stop asked for", run.id, who),
        ("pause ended", run.id, who),
        ("site revoked", "a", who),
        ("token made", "b", who),
    ]
    assert [row.reason for row in rows(home.store, Site)] == ["stolen"]
    assert browser.hurried == 5
    assert "Sato &lt;b&gt;" in browser.get("/history").text


def test_what_cannot_be_done_says_why(browser, home):
    csrf = browser.log_in(home)
    assert browser.post("/run/pause", csrf=csrf).status_code == 409
    assert browser.post("/sites/nobody/suspend", csrf=csrf).status_code == 409
    enrol(home, "a")
    assert browser.post("/sites/a/lift", csrf=csrf).status_code == 409  # it is not suspended
    assert browser.post("/invite", csrf=csrf, site="../../etc").status_code == 400
    assert browser.post("/sites/nobody/revoke", csrf=csrf).status_code == 404
    assert rows(home.store, Token) == []


def test_every_action_that_the_page_takes_is_tried_here(browser):
    taken = {route.path for route in browser.app._app.routes if "POST" in (getattr(route, "methods", None) or ())}
    plain = {path.replace("{name}", "a").replace("{task}", "x") for path in taken}
    assert plain - {"/login"} == set(ACTIONS)


def test_a_site_is_suspended_and_asked_again(browser, home):
    enrol(home, "a", {"good": {"train": 5}})
    csrf = browser.log_in(home)
    assert browser.post("/sites/a/suspend", csrf=csrf, reason="<i>camera</i>").headers["location"].endswith("=suspend")
    assert suspended(home.store) == {"a": "<i>camera</i>"}
    assert "&lt;i&gt;camera&lt;/i&gt;" in browser.get("/sites/a?done=suspend").text
    assert "is suspended and takes no part" in browser.get().text
    assert browser.post("/sites/a/lift", csrf=csrf).status_code == 303
    assert suspended(home.store) == {}
    who = "Sato (page, 127.0.0.1)"
    lines = [(row.action, row.detail) for row in rows(home.store, AuditRow) if row.actor == who and row.subject == "a"]
    assert lines == [("site suspended", "<i>camera</i>"), ("site resumed", "")]
    assert browser.hurried == 2


def test_a_relays_rounds_are_its_parents(browser, home):
    Run.create(home.store, home.folder, small_run(rounds=3), CLASSES)
    csrf = browser.log_in(home)
    (home.folder / "parent").mkdir()
    (home.folder / "parent" / "client.yaml").touch()
    reply = browser.post("/run/stop", csrf=csrf)
    assert reply.status_code == 409
    assert "is a relay" in reply.text
    assert wishes.current(home.store) == ""


def test_a_wish_is_of_the_run_under_way(home):
    run = Run.create(home.store, home.folder, small_run(rounds=3), CLASSES)
    wishes.make(home.store, wishes.PAUSE, actor="x")
    assert wishes.current(home.store) == run.wish == "pause"
    run.finish("stopped")
    assert wishes.current(home.store) == ""
    assert rows(home.store, RunRow)[0].wish == "pause"  # and is there again once the run is taken up


def test_wrong_passwords_are_on_record_and_the_next_are_told_to_wait(browser, home):
    set_password(home.folder / "pki", PASSWORD)
    codes = [browser.post("/login", name="x", password=f"guess {n}").status_code for n in range(ATTEMPTS[0] + 1)]
    assert codes == [403] * ATTEMPTS[0] + [429]
    assert [row.action for row in rows(home.store, AuditRow)].count("refused: page login") == ATTEMPTS[0]


def test_logging_out(browser, home):
    csrf = browser.log_in(home)
    kept = dict(browser.cookies)
    assert browser.post("/logout", csrf=csrf).status_code == 303
    browser.cookies = kept  # a copy of the cookie opens nothing
    assert 'name="csrf"' not in browser.get().text
