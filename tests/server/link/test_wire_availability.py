"""Sites that say when they may work: neither asked nor waited for at other times; over real connections."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from fedwon.common.task_config import TaskConfig
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server import report
from fedwon.server.link.session import SiteSession, resting
from fedwon.server.rounds.availability import LONGEST_REASON, Availability
from fedwon.server.rounds.evaluation import evaluate_model
from fedwon.server.rounds.site_grid import node_id_of
from fedwon.server.store import now
from tests.server.link.test_wire_grid import Asking, answer, connected
from tests.server.server_kit import CLASSES, outcome, record, small_run, tasks, until, wired

RESTING = pb.Availability(available=False, seconds=3600.0, reason="outside its quiet hours")
WORKING = pb.Availability(available=True, seconds=60.0)


async def say(session, availability):
    await session.call.write(pb.FromSite(availability=availability))


async def rest(running, session, availability=RESTING):
    await say(session, availability)
    await until(lambda: session.site.name not in running.hub.available())


@wired
async def test_who_may_not_work_is_connected_and_not_there_to_be_asked(running):
    sessions = await connected(running, "a", "b")
    await rest(running, sessions["b"])
    assert sorted(running.hub.sessions) == ["a", "b"]
    assert running.grid.sites() == ["a"]
    assert running.grid.get_node_ids() == [node_id_of("a")]
    await say(sessions["b"], WORKING)
    await until(lambda: running.grid.sites() == ["a", "b"])


@wired
async def test_one_that_says_so_in_its_hello_is_never_there(running):
    site = running.site("a")
    call = site.stub.Session()
    hello = pb.Hello(version="0.1.0", instance="one", availability=RESTING)
    await call.write(pb.FromSite(hello=hello))
    await until(lambda: "a" in running.hub.sessions)
    assert running.hub.available() == []


@wired
async def test_nobody_waits_for_it_and_its_coming_ends_the_wait(running):
    sessions = await connected(running, "a", "b")
    await rest(running, sessions["b"])
    waiting = asyncio.create_task(running.done(running.grid.wait_for_sites, 2))
    arriving = asyncio.create_task(running.done(running.grid.wait_for_arrival, 600.0))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert not arriving.done()
    await say(sessions["b"], WORKING)
    await waiting
    assert await arriving is True


@wired
async def test_saying_the_same_again_is_no_arrival(running):
    sessions = await connected(running, "a")
    before = running.hub._arrivals
    await say(sessions["a"], WORKING)
    await rest(running, sessions["a"])
    await sessions["a"].site.connect()  # anew, and it says nothing
    await until(lambda: running.hub.available() == ["a"])
    assert running.hub._arrivals == before + 1


@wired
async def test_asked_all_the_same_it_is_answered_for_at_once(running):
    """A round that is repeated asks whose answers are missing, whoever may work by then."""
    sessions = await connected(running, "a", "b")
    asked = tasks(running, "a", "b")
    await rest(running, sessions["b"])
    asking = Asking(running, asked)
    await answer(sessions["a"])
    await asking.task
    failed = next(reply for reply in asking.replies if reply.has_error())
    assert failed.error.reason.startswith("the site is not available until 20")
    assert failed.error.reason.endswith("UTC (outside its quiet hours)")
    await say(sessions["b"], WORKING)
    await until(lambda: running.grid.sites() == ["a", "b"])
    again = Asking(running, asked[1:])
    assert (await sessions["b"].next("offer")).task_id == asked[1].metadata.message_id
    await sessions["b"].site.submit(outcome(asked[1].metadata.message_id))
    await again.task
    assert not again.replies[0].has_error()


@wired
async def test_a_task_in_hand_is_waited_for(running):
    sessions = await connected(running, "a")
    messages = tasks(running, "a")
    await Asking(running, messages, timeout=0.01).task
    name = (await sessions["a"].next("offer")).task_id
    await rest(running, sessions["a"])
    again = Asking(running, messages)  # the round is repeated
    assert (await sessions["a"].next("offer")).task_id == name
    assert not again.task.done()
    await sessions["a"].site.submit(outcome(name))
    await again.task
    assert not again.replies[0].has_error()


@wired
async def test_the_final_measurement_says_who_was_left_out(running):
    sessions = await connected(running, "a")
    await rest(running, sessions["a"])
    task = TaskConfig.of(small_run(), run="run", server_round=1, classes=CLASSES)
    result = await running.done(lambda: evaluate_model(running.grid, task, record(), timeout=5))
    assert result.scores == ()
    assert result.failures["a"].startswith("the site is not available until")


@wired
async def test_one_that_holds_the_outcome_may_hand_it_in(running):
    session = await running.site("a").connect(unfinished=["run.r1.train.a"])
    messages = tasks(running, "a")
    await rest(running, session)
    asking = Asking(running, messages)
    assert await answer(session)
    await asking.task
    assert not asking.replies[0].has_error()


@wired
async def test_the_operator_sees_until_when(running):
    sessions = await connected(running, "a", "b")
    await rest(running, sessions["b"])

    def row():
        return next(site for site in report.sites(running.home.store) if site["site"] == "b")

    await until(lambda: row()["unavailable"])
    assert row()["unavailable"] == "outside its quiet hours"
    state = report.site_row(row())[1]
    assert state.startswith("not available until 20")
    assert state.endswith("UTC (outside its quiet hours)")
    assert report.sites(running.home.store, served=False)[1]["unavailable"] == ""
    await say(sessions["b"], WORKING)
    await until(lambda: not row()["unavailable"])
    assert report.site_row(row())[1] == "connected"
    await rest(running, sessions["b"])
    await until(lambda: row()["unavailable"])
    await sessions["b"].site.connect()  # an earlier client knows no such thing
    await until(lambda: not row()["unavailable"])


@wired
async def test_news_are_read_no_faster_than_they_can_be_written_down(running):
    sessions = await connected(running, "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedwon.server.link.service.NEWS_SECONDS", 3600.0)
        await rest(running, sessions["a"])
        for number in range(20):
            await say(sessions["a"], pb.Availability(reason=f"flood {number}"))
        await asyncio.sleep(0.05)
        assert running.hub.sessions["a"].availability.reason == RESTING.reason


@wired
async def test_another_time_is_news_and_the_same_one_counted_anew_is_not(running):
    sessions = await connected(running, "a")
    await rest(running, sessions["a"])
    session = running.hub.sessions["a"]
    first = session.availability.back
    assert not running.hub.attend(session, Availability(RESTING.reason, first + timedelta(seconds=1)))
    assert running.hub.attend(session, Availability(RESTING.reason, None))
    assert running.hub.attend(session, Availability(RESTING.reason, first))
    later = pb.Availability(available=False, seconds=7200.0, reason=RESTING.reason)
    await say(sessions["a"], later)
    await until(lambda: running.hub.sessions["a"].availability.back > first + timedelta(minutes=30))
    shown = f"{running.hub.sessions['a'].availability.back:%Y-%m-%dT%H:%M}"
    await until(lambda: (report.sites(running.home.store)[0]["back"] or "").startswith(shown))


def test_of_many_that_rest_a_line_names_a_few():
    sessions = {f"s{i:02}": SiteSession(f"s{i:02}", "one", {}, availability=Availability("rests")) for i in range(25)}
    assert resting(sessions).startswith("; s00 is not available (rests); s01 is")
    assert resting(sessions).endswith("s19 is not available (rests); and 5 more")


@pytest.mark.parametrize("seconds", [0.0, -5.0, float("nan"), float("inf"), 1e300])
def test_a_time_that_is_none_is_none(seconds):
    told = Availability.from_wire(pb.Availability(available=False, seconds=seconds, reason="x"))
    assert told == Availability("x", None)
    assert told.words == "not available (x)"


def test_what_a_site_says_is_kept_short_and_plain():
    told = Availability.from_wire(pb.Availability(available=False, seconds=60.0, reason="\x1b[2J" + "x" * 10_000))
    assert len(told.reason) < LONGEST_REASON
    assert told.reason.isprintable()
    assert timedelta(0) < told.back - now() <= timedelta(seconds=60)
    assert Availability.from_wire(pb.Availability(reason="  ")).reason == "no reason given"
    assert Availability.from_wire(pb.Availability(available=True, reason="x"))
