"""The operator's page in Chromium, with a real server and real sites behind it."""

from __future__ import annotations

import re

import pytest

from fedwon.common.errors import Revoked
from fedwon.server.page.password import set_password
from tests.e2e.fleet import SITES, command, wait_until
from tests.e2e.page_kit import (
    PASSWORD,
    Watched,
    address,
    barriers,
    browser,
    log_in,
    needs_chromium,
    paged,
    rounds_shown,
    watched,
)

pytestmark = needs_chromium
LOCALES = {"en": "en-GB", "ja": "ja-JP"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A run that goes on through all tests."""
    made = paged(tmp_path_factory.mktemp("page"), {"rounds": 5000})
    set_password(made.dir / "pki", PASSWORD)
    try:
        for site in SITES:
            made.site(site)
        made.server = made.start_server()
        for site in SITES:
            made.start_site(site)
        made.server.wait_says("round 1 committed")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture
def watch(fleet, chromium):
    yield from watched(chromium, address(fleet))


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("ja", "dark")])
def test_every_page_in_both_languages(fleet, watch, language, scheme):
    page = watch(locale=LOCALES[language], color_scheme=scheme).page
    run = fleet.status()["run"]
    for path in ("/", "/sites/metal", f"/runs/{run}", "/releases", "/refused", "/history", "/login"):
        assert page.goto(path).status == 200
        assert page.locator("html").get_attribute("lang") == language
        assert page.locator("h1").count() == 1
        assert barriers(page) == [], path
    log_in(page)
    for path in ("/", "/sites/metal"):
        page.goto(path)
        assert barriers(page) == [], path


def test_on_a_phone_nothing_is_cut_off(fleet, watch):
    page = watch(viewport={"width": 360, "height": 740}).page
    for path in ("/", "/sites/metal", f"/runs/{fleet.status()['run']}", "/releases", "/refused", "/history"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_by_keyboard(watch):
    page = watch().page
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('live').contains(document.activeElement)")


def test_what_changes_is_shown_without_a_reload(watch):
    page = watch().page
    page.goto("/")
    page.evaluate("window.kept = true")
    page.locator("tbody a[href^='/sites/']").first.focus()
    before = rounds_shown(page)
    wait_until(lambda: rounds_shown(page) > before + 1, "two more rounds")
    assert page.evaluate("window.kept")
    assert page.evaluate("document.activeElement.getAttribute('href')").startswith("/sites/")
    assert page.evaluate("document.querySelector('time').title") != ""


def test_a_run_is_paused_and_goes_on(fleet, watch):
    page = watch(locale="en-GB").page
    log_in(page)
    page.click("#ask-pause")
    page.click("#do-pause")
    page.wait_for_selector("h1:has-text('The run is paused')")
    assert fleet.status()["state"] == "paused"
    held = fleet.status()["committed"]
    page.click("#do-resume")
    wait_until(lambda: rounds_shown(page) > held, "the next round")
    trail = command("fedwon-server", "audit", "--dir", fleet.dir).stdout
    assert re.search(r"Sato \(page, 127.0.0.1\) +pause asked for", trail), trail


def test_a_site_is_invited_joins_and_is_revoked(fleet, watch):
    page = watch(locale="en-GB").page
    log_in(page)
    page.fill("#invite-site", "glass")
    page.click("form[action='/invite'] button")
    line = page.locator("#join").inner_text().split()
    data = fleet.folder / "metal.npz"
    joined = command(*line, "--data", data, "--threads", "1", "--dir", fleet.folder / "glass")
    assert joined.returncode == 0, joined.stderr
    glass = fleet.start_site("glass")
    page.goto("/")
    page.wait_for_selector("tbody th a:has-text('glass')")
    glass.wait_says("connected to")
    page.click("tbody th a:has-text('glass')")
    page.click("#ask-revoke")
    page.fill("#revoke-reason", "<b>stolen</b>")
    page.click("#do-revoke")
    page.wait_for_selector("p:has-text('<b>stolen</b>')")
    glass.end(Revoked.code)


def test_a_stranger_does_nothing(watch, chromium, fleet):
    page = watch().page
    page.goto("/")
    assert page.locator("#do-pause").count() == 0
    reply = page.request.post("/run/pause", form={"csrf": "x"}, max_redirects=0)
    assert (reply.status, reply.headers["location"]) == (303, "/login")
    assert page.request.get("/", headers={"host": "evil.example"}).status == 421
    assert fleet.status()["wish"] == ""


def test_a_run_is_stopped_and_the_page_says_that_it_is_alone(fleet, chromium):
    seen, actor = (Watched(chromium, address(fleet), locale="en-GB") for _ in range(2))
    seen.page.goto("/")
    before = rounds_shown(seen.page)
    wait_until(lambda: rounds_shown(seen.page) > before, "another round")
    log_in(actor.page)
    actor.page.click("#ask-stop")
    actor.page.click("#do-stop", no_wait_after=True)
    fleet.server.end(0)
    seen.page.wait_for_selector("#lost:not([hidden])")
    assert fleet.status()["state"] == "stopped"
    fleet.server = fleet.start_server("--resume")
    seen.page.wait_for_selector("#lost", state="hidden")
    seen.close()
    actor.close()
