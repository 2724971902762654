"""What the pages show, and that nothing a site sends becomes a part of them."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from unittest.mock import ANY

import pytest
from sqlalchemy import update

from fedwon.common.run_config import RunConfig
from fedwon.common.surveys import told
from fedwon.server.identity import sites, standing
from fedwon.server.page.curves import APART, chart, floor_of, spark
from fedwon.server.page.rendering import HERE, _digest
from fedwon.server.rounds import availability
from fedwon.server.rounds.availability import Availability
from fedwon.server.rounds.site_grid import Traffic
from fedwon.server.runs.run import Run
from fedwon.server.store import AuditRow, RoundRow, Site, now
from tests.server.page.browsing import Browser, enrol
from tests.server.server_kit import CLASSES, small_run

HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(2)>'{{ 7654321*3 }}</svg></title>\u202e&amp;"""
TAGS = {"script", "img", "iframe", "object", "embed", "style", "base"}
OUR_SCRIPT = [("src", f"/static/page.js?v={_digest(HERE / 'static')}"), ("defer", None)]


class Parsed(HTMLParser):
    """Elements and texts of a page, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, attrs))

    def handle_data(self, data):
        self.texts.append(data)


def measured(correct, examples=10):
    return {"validation-correct": correct, "validation-examples": examples, "validation-loss": 0.5}


@pytest.fixture
def run(home):
    return Run.create(home.store, home.folder, small_run(rounds=5), CLASSES)


def commit(run, number):
    run.commit(number, run.last()[1], seconds=1.5, sites=())


def shown(reply) -> str:
    assert reply.status_code == 200, reply.text
    return " ".join(" ".join(Parsed(reply.text).texts).split())


def test_a_new_federation_is_told_what_to_do(browser, home):
    page = shown(browser.get())
    assert "No site has joined yet" in page
    assert f"fedwon-server enroll SITE --dir {home.folder}" in page


def test_the_worst_site_comes_first_and_the_revoked_last(browser, home, run):
    for name, correct in (("a", 9), ("b", 4), ("c", 7), ("d", 1)):
        enrol(home, name, {"good": {"train": 5, "validation": 2}, "bad": {"train": 3}})
        run.measured(0, name, measured(correct - 1))
        run.measured(1, name, measured(correct))
    enrol(home, "e")
    standing.revoke(home.store, "d", "stolen")
    commit(run, 1)
    page = browser.get().text
    assert re.findall(r'<th scope="row"><a href="/sites/(.)">', page) == ["b", "c", "a", "e", "d"]
    assert page.count('<svg class="spark"') == 4
    text = shown(browser.get())
    assert "Look at its images and labels first" in text
    assert "e has a certificate and has never connected" in text
    assert "1 of 5" in text


def test_the_live_round(browser, home, run):
    for name in ("a", "b", "c"):
        enrol(home, name, {"good": {"train": 5}})
        run.sent(f"t-{name}", 1, name, "train")
    run.settled("t-a", "received", cost=Traffic(1, 2, 3.0))
    run.settled("t-b", "refused", reason="the numbers are not finite")
    page = shown(browser.get())
    assert "Round 1 of 5 is under way" in page
    assert "1 of 3 sites have answered." in page
    assert "Waiting for c." in page
    assert "The update of b in round 1 was refused: the numbers are not finite" in page
    japanese = shown(browser.get(headers={"accept-language": "ja"}))
    assert "ラウンド 1 / 5 を学習中です" in japanese
    assert "the numbers are not finite" in japanese


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("finished", ("The run has finished", "model.safetensors")),
        ("stopped", ("The run was stopped", "start --dir")),
        ("failed", ("The run has failed", "--resume")),
    ],
)
def test_how_a_run_ended(browser, home, run, state, said):
    enrol(home, "a", {"good": {"train": 5}})
    run.finish(state, "a reason")
    page = shown(browser.get())
    assert all(text in page for text in said)


def test_a_run_that_waits_and_one_that_is_held(browser, home, run):
    enrol(home, "a", {"good": {"train": 5}})
    run.set_state("paused", "it waits until 2 sites are connected")
    page = shown(browser.get())
    assert "The run waits" in page
    assert "it waits until 2 sites are connected" in page
    from fedwon.server.runs import wishes

    wishes.make(home.store, wishes.PAUSE, actor="x")
    assert "The run is paused" in shown(browser.get())


def test_a_site_that_rests_and_one_that_was_away_for_long(browser, home):
    for name in ("rests", "away"):
        enrol(home, name, {"good": {"train": 5}})
    availability.note(home.store, "rests", Availability("quiet hours", now() + timedelta(hours=2)))
    sites.disconnected(home.store, "away")
    sites.seen(home.store, [("away", now() - timedelta(hours=3))])
    page = shown(browser.get())
    assert "resting until" in page
    assert "away was last heard of 3 h ago" in page
    assert "fedwon-client check" in page
    assert "Gone since: away." in page


def test_certificates_that_end_and_versions_that_differ(browser, home):
    enrol(home, "old", {"good": {"train": 5}}, days=3, version="0.0.9")
    page = shown(browser.get())
    assert "The certificate of old ends within 3 days" in page
    assert "old runs version 0.0.9" in page


def test_since_yesterday(browser, home, run):
    enrol(home, "a", {"good": {"train": 5}})
    for number, correct in enumerate((2, 5, 9)):
        run.measured(number, "a", measured(correct))
        if number:
            commit(run, number)
    with home.store.session() as session:
        session.execute(update(RoundRow).where(RoundRow.number < 2).values(committed=now() - timedelta(days=2)))
        session.add(AuditRow(action="refused: handshake with no certificate", subject="?", times=7, until=now()))
        session.add(AuditRow(action="run started", subject="long ago", at=now() - timedelta(days=2)))
        session.add(AuditRow(action="images", subject="a", detail="3 unreadable images were left out: x.png"))
    page = shown(browser.get())
    assert "1 rounds were committed." in page
    assert "Mean accuracy went from 50.0 % to 90.0 %." in page
    assert "Turned away at the door: handshake with no certificate (7 times)." in page
    assert "New: a." in page
    assert "a says about its images: 3 unreadable images" in page
    assert "long ago" not in page


def test_a_site_and_a_run_of_their_own(browser, home, run):
    enrol(home, "a", {"good": {"train": 5, "validation": 2}, "bad": {"train": 3}})
    run.measured(0, "a", measured(5))
    run.sent("t-a", 1, "a", "train")
    run.settled("t-a", "late", reason="no answer before the round closed")
    site = shown(browser.get("/sites/a"))
    for text in ("50.0 %", "on validation images", "10", "no answer before the round closed", "quarantine"):
        assert text in site
    page = browser.get(f"/runs/{run.id}")
    assert '<svg class="chart"' in page.text
    assert "No round has been committed yet." in shown(page)
    commit(run, 1)
    assert "1.5" in shown(browser.get(f"/runs/{run.id}"))
    assert "Privacy" not in shown(browser.get(f"/runs/{run.id}"))


def test_what_a_run_costs_in_privacy(browser, home):
    asked = {"examples": {"noise": 1.0}, "sites": {"noise": 2.0, "delta": 1e-3}}
    config = RunConfig.model_validate({"privacy": asked, "classes": CLASSES})
    run = Run.create(home.store, home.folder, config, CLASSES)
    run.commit(1, run.last()[1], seconds=1.0, sites=("a",), releases={"a": 1}, told={"a": 1.234})
    page = shown(browser.get(f"/runs/{run.id}"))
    assert f"Privacy of a site epsilon {config.privacy.sites.epsilon(1):.3g} at delta 0.001" in page
    assert "Privacy of an image, as sites say epsilon 1.23 at delta 1e-05" in page


def test_a_site_that_keeps_its_counts_to_itself(browser, home):
    enrol(home, "a", told({"good": {"train": 5, "validation": 2}, "bad": {"train": 3}}, by_class=False))
    table = re.search(r"<tbody>.*?</tbody>", browser.get("/sites/a").text, re.DOTALL)[0]
    rows = [re.findall(r">([^<>\n]+)</t[hd]>", row) for row in table.split("</tr>")[:-1]]
    assert rows == [["good", "–", "–", "–"], ["bad", "–", "–", "–"], [ANY, "8", "2", "10"]]
    assert rows[2][0].startswith("all classes")


@pytest.mark.parametrize("path", ["/sites/nobody", "/runs/none", "/elsewhere", "/sites/a/b"])
def test_what_is_not_there(browser, path):
    reply = browser.get(path)
    assert reply.status_code == 404
    assert "There is nothing here" in reply.text


def test_nothing_that_a_site_sends_becomes_markup(browser, home, run):
    """Names, classes, versions, reasons: all of it hostile, on every page, in both languages."""
    enrol(home, HOSTILE, {HOSTILE: {"train": 5, HOSTILE: 2}}, version=HOSTILE)
    run.measured(0, HOSTILE, measured(5))
    run.sent("t", 1, HOSTILE, "train")
    run.settled("t", "refused", reason=HOSTILE)
    availability.note(home.store, HOSTILE, Availability(HOSTILE))
    home.store.audit("images", HOSTILE, HOSTILE, actor=HOSTILE)
    home.store.audit(HOSTILE, HOSTILE, HOSTILE, actor=HOSTILE)
    run.set_state("paused", HOSTILE)
    with home.store.session() as session:
        name = session.query(Site).one().name
    address = "/sites/" + "".join(f"%{byte:02x}" for byte in name.encode())
    for language in ("en", "ja"):
        for path in ("/", "/history", f"/runs/{run.id}", address):
            reply = browser.get(path, headers={"accept-language": language})
            if "/" not in HOSTILE or path != address:
                assert reply.status_code == 200, path
            parsed = Parsed(reply.text)
            assert [(tag, attrs) for tag, attrs in parsed.elements if tag in TAGS] == [("script", OUR_SCRIPT)], path
            assert not [a for _, attrs in parsed.elements for a, _ in attrs if a.startswith("on") or a == "style"]
            assert "22962963" not in "".join(parsed.texts).replace(HOSTILE, "")


def test_without_a_database_the_page_says_so(home):
    browser = Browser(home)
    home.store.close()
    home.store.path.rename(home.store.path.with_suffix(".gone"))
    (home.store.path).write_text("no database")
    for left in home.folder.glob("fedwon.db-*"):
        left.unlink()
    reply = browser.get()
    assert reply.status_code == 503
    assert "cannot read" in reply.text


class TestCurves:
    def test_the_axis_begins_below_all_curves(self):
        assert floor_of({}) == 0
        assert floor_of({"a": ((0, 0.45),), "b": ((0, 0.9),)}) == pytest.approx(0.4)
        assert floor_of({"a": ((0, 1.0),)}) == pytest.approx(0.8)
        assert floor_of({"a": ((0, 0.4),)}) < 0.4

    def test_a_spark_is_drawn_in_its_box(self):
        drawn = spark(((0, 0.0), (5, 1.0)), "a & b", 0.0)
        points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', drawn)[1].split()]
        assert points[0][1] > points[1][1]
        assert all(0 <= x <= 132 and 0 <= y <= 34 for x, y in points)
        assert "a &amp; b" in drawn
        assert spark((), "", 0.0) == ""

    def test_names_do_not_cover_each_other(self):
        courses = {f"site-{n:02}": ((0, 0.5), (1, 1.0)) for n in range(40)}
        drawn = chart({**courses, "worst": ((0, 0.1), (1, 0.2))}, "worst", "label")
        places = sorted(float(y) for y in re.findall(r'class="name[^"]*" x="[^"]+" y="([^"]+)"', drawn))
        assert all(b - a >= APART - 0.11 for a, b in zip(places, places[1:-1], strict=False))  # noqa: RUF007  # the worst's name may stand where it must
        assert ">worst</text>" in drawn
        assert len(places) < 41
