"""Who may see what: from this machine, from elsewhere, by another name, through a proxy."""

from __future__ import annotations

import pytest

from fedwon.server.page.guarding import FOREVER
from tests.server.page.browsing import ELSEWHERE, HERE, PASSWORD, Browser

PAGES = ["/", "/history", "/sites/a", "/runs/a", "/live"]


def test_every_answer_says_what_a_browser_must_not_do(browser):
    for path in ("/", "/login", "/static/page.css", "/nowhere"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == (FOREVER if path.startswith("/static") else "no-store")
        assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8472", "127.0.0.1:1", "localhost.evil.example:8472"])
def test_another_name_is_refused_which_ends_dns_rebinding(home, host):
    reply = Browser(home, host=host).get()
    assert reply.status_code == 421
    assert "<" not in reply.text


@pytest.mark.parametrize("host", ["localhost:8472", "127.0.0.1:8472", "LOCALHOST:8472", "localhost"])
def test_this_machine_reads_without_a_login(home, host):
    assert Browser(home, host=host).get().status_code == 200


@pytest.mark.parametrize("path", [path for path in PAGES if path != "/live"])
def test_elsewhere_nothing_is_read_without_a_login(home, path):
    outsider = Browser(home, tls=True, client=ELSEWHERE)
    reply = outsider.get(path)
    assert (reply.status_code, reply.headers["location"]) == (303, "/login")
    assert outsider.get(path, headers={"x-refresh": "1"}).status_code == 401
    assert outsider.get("/live", headers={"accept": "text/event-stream"}).status_code == 401


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip", "via"])
def test_behind_a_proxy_on_this_machine_nobody_is_local(home, header):
    assert Browser(home).get(headers={header: "10.0.0.1"}).status_code == 303


def test_who_calls_from_this_machine_by_the_servers_name_is_not_local(home):
    home.config = home.config.model_copy(update={"names": ("fed.example",)})
    outsider = Browser(home, host="fed.example:8472")
    assert outsider.get().status_code == 303
    outsider.log_in(home)
    assert outsider.get().status_code == 200


def test_an_address_that_looks_local_is_not(home):
    assert Browser(home, client=("127.0.0.1.evil", 1)).get().status_code == 303
    assert Browser(home, client=("::1", 1)).get().status_code == 200


def test_over_tls_the_browser_is_told_to_stay_there(home):
    assert "strict-transport-security" in Browser(home, tls=True).get().headers
    assert "strict-transport-security" not in Browser(home).get().headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods(browser, method):
    assert browser.ask(method, "/").status_code == 405


def test_a_form_from_another_site_is_refused(browser, home):
    csrf = browser.log_in(home)
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert browser.post("/run/pause", csrf=csrf, headers=headers).status_code == 403
    own = {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8472"}
    assert browser.post("/run/pause", csrf=csrf, headers=own).status_code == 409  # there is no run


def test_static_files_are_only_ours(browser):
    for path in ("/static/../texts.py", "/static/%2e%2e/texts.py", "/static//etc/passwd"):
        assert browser.get(path).status_code == 404
    assert browser.get("/static/page.js").status_code == 200


def test_the_password_is_asked_for_over_tls_as_well(home):
    outsider = Browser(home, tls=True, client=ELSEWHERE)
    assert "page password" in outsider.get("/login").text  # none is set
    outsider.log_in(home)
    assert list(outsider.cookies) == ["__Host-fedwon"]
    assert outsider.get().status_code == 200
    assert HERE != ELSEWHERE
    assert PASSWORD not in outsider.get("/history").text
