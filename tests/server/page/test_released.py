"""The page of releases: what it shows, and that an order on it is the command's, with the operator's name on it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fedwon.common.gates import Figures
from fedwon.server.cli import app
from fedwon.server.identity.standing import revoke
from fedwon.server.releases.orders import Said, by_site, note, open_orders
from fedwon.server.runs.run import Run
from fedwon.server.store import AuditRow
from tests.server.page.browsing import enrol
from tests.server.release_kit import shelve
from tests.server.server_kit import CLASSES, rows, small_run

WHO = "Sato (page, 127.0.0.1)"


@pytest.fixture
def shelved(home):
    run = Run.create(home.store, home.folder, small_run(), CLASSES)
    for name in ("r1", "r2"):
        shelve(home, run, name)
    for site in ("left", "right", "gone"):
        enrol(home, site)
    revoke(home.store, "gone")
    return home


def orders(home):
    return {row["site"]: (row["order"], row["release"], row["state"]) for row in by_site(home.store)}


def test_without_a_release_it_says_how_one_is_made(browser, home):
    assert f"fedwon-server release --dir {home.folder}" in browser.get("/releases").text


def test_what_is_shown(browser, shelved):
    page = browser.get("/releases").text
    assert page.index(">r2<") < page.index(">r1<")
    assert "left 75.0 %" in page
    assert ">gone<" not in page
    assert "do-promote" not in page  # without a login
    browser.log_in(shelved)
    page = browser.get("/releases", headers={"accept-language": "ja"}).text
    assert 'name="site:left"' in page
    assert 'name="site:gone"' not in page
    assert 'name="defect:bad"' in page
    assert "展開する" in page


def test_a_promotion_is_the_commands_with_the_name_of_who_gave_it(browser, shelved):
    csrf = browser.log_in(shelved)
    gates = {"accuracy": "98.2", "escape": "0,5", "overkill": "", "images": "50", "defect:bad": "on"}
    reply = browser.post("/releases/promote", csrf=csrf, release="r1", **{"site:left": "on"}, **gates)
    assert (reply.status_code, reply.headers["location"]) == (303, "/releases?done=promote")
    on_page = open_orders(shelved.store)["left"]
    assert on_page.gates == {"accuracy": 0.982, "escape": 0.005, "defects": ["bad"], "images": 50}
    typed = "promote r1 --site right --accuracy 0.982 --escape 0.005 --defect bad --images 50 --dir"
    assert CliRunner().invoke(app, [*typed.split(), str(shelved.folder)]).exit_code == 0
    in_terminal = open_orders(shelved.store)["right"]
    assert (on_page.kind, on_page.release, on_page.gates) == (in_terminal.kind, in_terminal.release, in_terminal.gates)
    left, right = (row for row in rows(shelved.store, AuditRow) if row.action == "release promoted")
    assert (left.subject, left.actor, left.detail) == ("left", WHO, right.detail)
    assert browser.hurried == 1


def test_what_a_line_said_is_shown(browser, shelved):
    csrf = browser.log_in(shelved)
    browser.post("/releases/promote", csrf=csrf, release="r1", everywhere="on")
    said = {row.site: row.id for row in open_orders(shelved.store).values()}
    assert set(said) == {"left", "right"}
    found = Figures(images=10, correct=9)
    assert note(shelved.store, "left", Said(said["left"], "in use", "r1", figures=found))
    assert note(shelved.store, "right", Said(said["right"], "refused", reason="<b>accuracy 10%</b>", figures=found))
    page = browser.get("/releases").text
    assert "accuracy 90.0% of 10" in page
    assert "&lt;b&gt;accuracy 10%&lt;/b&gt;" in page
    assert "Release refused at the line: right" in browser.get().text


def test_hold_and_roll_back(browser, shelved):
    csrf = browser.log_in(shelved)
    for path, kind, state in (("/hold", "hold", "held"), ("/rollback", "rollback", "open")):
        assert browser.post(path, csrf=csrf, **{"site:left": "on"}).headers["location"] == f"/releases?done={kind}"
        assert orders(shelved) == {"left": (kind, None, state)}
    assert [row.actor for row in rows(shelved.store, AuditRow) if row.action.startswith("release")] == [WHO, WHO]
    browser.post("/hold", csrf=csrf, everywhere="on")
    assert {site: kind for site, (kind, *_) in orders(shelved).items()} == {"left": "hold", "right": "hold"}


@pytest.mark.parametrize(
    "fields",
    [
        {"release": "r9", "site:left": "on"},
        {"release": "../pki", "site:left": "on"},
        {"release": "../releases/r1", "site:left": "on"},
        {"site:left": "on"},
        {"release": "r1"},
        {"release": "r1", "site:nobody": "on"},
        {"release": "r1", "site:left": "on", "accuracy": "much"},
        {"release": "r1", "site:left": "on", "accuracy": "150"},
        {"release": "r1", "site:left": "on", "accuracy": "nan"},
        {"release": "r1", "site:left": "on", "images": "2.5"},
        {"release": "r1", "site:left": "on", "escape": "1"},
        {"release": "r1", "site:left": "on", "defect:dent": "on"},
    ],
)
def test_what_cannot_be_promoted_says_why(browser, shelved, fields):
    csrf = browser.log_in(shelved)
    reply = browser.post("/releases/promote", csrf=csrf, **fields)
    assert reply.status_code == 409
    assert "headline look" in reply.text
    assert orders(shelved) == {}


def test_a_release_that_was_changed_is_not_promoted(browser, shelved):
    csrf = browser.log_in(shelved)
    (shelved.folder / "releases" / "r1" / "model.onnx").write_bytes(b"no Network")
    reply = browser.post("/releases/promote", csrf=csrf, release="r1", **{"site:left": "on"})
    assert reply.status_code == 409
    assert "digest" in reply.text
    assert orders(shelved) == {}


def test_a_form_that_names_a_thousand_sites_is_read(browser, shelved):
    csrf = browser.log_in(shelved)
    named = {f"site:press-{number:04}": "on" for number in range(1000)}
    reply = browser.post("/hold", csrf=csrf, **named)
    assert reply.status_code == 409
    assert "No site `press-0000` has enrolled here" in reply.text
