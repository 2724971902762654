"""What an operator decides on the page about updates, sites and releases, in Chromium, with real sites that obey."""

from __future__ import annotations

import numpy as np
import pytest

from fedwon.server.admission.quarantine import listing
from fedwon.server.admission.suspension import suspended
from fedwon.server.page.password import set_password
from fedwon.server.releases.making import make_release
from fedwon.server.releases.orders import by_site
from fedwon.server.releases.wish import Wish
from fedwon.server.runs import wishes
from fedwon.server.serving import Home
from tests.e2e.fleet import images, wait_until
from tests.e2e.page_kit import (
    PASSWORD,
    address,
    barriers,
    browser,
    log_in,
    needs_chromium,
    paged,
    rounds_shown,
    watched,
)
from tests.server.release_kit import shelve_again

pytestmark = needs_chromium
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
HONEST, REFUSED = ("glass", "paper"), "metal"


def few(path):
    """A line with 16 images: 4 a class."""
    with np.load(images(path)) as made:
        content = {name: made[name][:16] for name in ("images", "labels")}
    np.savez(path, **content)
    return str(path)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A run that goes on through all tests, with a site that declares more images than the operator allows."""
    folder = tmp_path_factory.mktemp("orders")
    made = paged(folder, {"rounds": 5000, "admission": {"most_examples": 16}})
    set_password(made.dir / "pki", PASSWORD)
    try:
        for site in HONEST:
            made.site(site, few(folder / f"{site}.npz"))
        made.site(REFUSED)
        server = made.start_server()
        for site in (*HONEST, REFUSED):
            made.start_site(site)
        server.wait_says("round 1 committed")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def home(fleet):
    opened = Home.open(fleet.dir)
    yield opened
    opened.store.close()


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture
def watch(fleet, chromium):
    yield from watched(chromium, address(fleet))


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_a_refused_update_is_let_out_by_keyboard_and_counts(home, watch):
    page = watch(locale="en-GB", **PHONE).page
    wait_until(lambda: listing(home.store, home.folder), "a refused update")
    log_in(page)
    page.click("#ask-pause")
    page.click("#do-pause")
    page.wait_for_selector("h1:has-text('The run is paused')")
    page.goto("/refused")
    assert fits(page)
    assert barriers(page) == []
    page.locator("tbody th a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask-release")
    assert "most_examples" in page.locator(".headline").inner_text()
    assert fits(page)
    assert barriers(page) == []
    task = page.locator("h1").inner_text()
    page.focus("#ask-release")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("it has more lamps")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=status]:has-text('counts in the next round')")
    page.goto("/")
    page.click("#do-resume")
    state = {row["task"]: row["state"] for row in listing(home.store, home.folder)}
    assert state[task] in {"released", "counted"}

    def counted():
        return {row["task"]: row["state"] for row in listing(home.store, home.folder)}[task] == "counted"

    wait_until(counted, "the update to count")


def test_a_site_is_suspended_and_asked_again(home, watch):
    page = watch(locale="ja-JP", **PHONE).page
    log_in(page)
    page.goto(f"/sites/{REFUSED}")
    page.click("#ask-suspend")
    assert barriers(page) == []
    page.fill("#suspend-reason", "カメラの清掃")
    page.click("#do-suspend")
    page.wait_for_selector(".headline:has-text('カメラの清掃')")
    assert fits(page)
    assert suspended(home.store) == {REFUSED: "カメラの清掃"}
    page.goto("/")
    page.wait_for_selector("td strong.warn")
    before = rounds_shown(page)
    wait_until(lambda: rounds_shown(page) > before + 1, "the round after that in hand")
    seen = len(listing(home.store, home.folder))
    before = rounds_shown(page)
    wait_until(lambda: rounds_shown(page) > before + 1, "two more rounds")
    assert len(listing(home.store, home.folder)) == seen
    page.goto(f"/sites/{REFUSED}")
    page.click("#do-lift")
    page.wait_for_selector("#ask-suspend")
    wait_until(lambda: len(listing(home.store, home.folder)) > seen, "the next update that is refused")


def test_a_release_is_promoted_taken_held_and_rolled_back(home, watch):
    page = watch(locale="en-GB", **PHONE).page

    def standing():
        return {row["site"]: (row["order"], row["state"], row["in_use"]) for row in by_site(home.store)}

    wishes.make(home.store, wishes.PAUSE, actor="test")  # the rounds have done their part, and take the processor
    shelve_again(home, make_release(home, Wish(name="first")), "second")  # the same model; exporting takes seconds
    log_in(page)
    for name in ("first", "second"):
        page.goto("/releases")
        assert fits(page)
        page.select_option("#release", name)
        page.check("#promote input[name='site:paper']")
        page.click("#gates summary")
        page.fill("#gate-accuracy", "0")
        assert barriers(page) == []
        page.click("#do-promote")
        page.wait_for_selector(f"td:has-text('use: {name}')")
        page.wait_for_selector("td:has-text('done')")  # the site's answer comes without a reload
        assert standing() == {"paper": ("promote", "in use", name)}
    page.check("#stay input[name='site:paper']")
    page.click("#do-rollback")
    wait_until(lambda: standing() == {"paper": ("rollback", "in use", "first")}, "the release before")
    page.wait_for_selector("td:has-text('go back')")
    page.check("#stay input[name='site:glass']")
    page.click("#do-hold")
    page.wait_for_selector("td:has-text('stays as it is')")
    assert standing()["glass"] == ("hold", "held", None)
