"""Sites that go away in the middle of a round, and those that come: over real connections."""

from __future__ import annotations

import asyncio

import pytest

from fedwon.common.errors import Stopped
from tests.server.link.test_wire_grid import Asking, answer, connected
from tests.server.server_kit import outcome, tasks, until, wired


@wired(away_seconds=0.05)
async def test_who_has_left_is_not_waited_for(running):
    sessions = await connected(running, "a", "b")
    asking = Asking(running, tasks(running, "a", "b"))
    await answer(sessions["a"])
    await sessions["b"].next("offer")
    await sessions["b"].leave()
    await asking.task
    assert asking.ids() == ["a", "b"]
    assert asking.replies[1].error.reason == "the site has had no connection for 0.05 s"


@wired(away_seconds=30.0)
async def test_who_comes_back_in_time_goes_on(running):
    sessions = await connected(running, "a")
    asking = Asking(running, tasks(running, "a"))
    name = (await sessions["a"].next("offer")).task_id
    await sessions["a"].leave()
    await running.sites_are()
    running.hub.away_seconds = 0.05  # the watch that runs was for 30 s
    again = await sessions["a"].site.connect()
    assert (await again.next("offer")).task_id == name
    await asyncio.sleep(0.1)
    assert not asking.task.done()
    await again.site.submit(outcome(name))
    await asking.task
    assert not asking.replies[0].has_error()


@wired(away_seconds=0.05)
async def test_an_outcome_that_comes_after_all_is_taken_when_its_round_is_repeated(running):
    sessions = await connected(running, "a")
    asking = Asking(running, tasks(running, "a"))
    name = (await sessions["a"].next("offer")).task_id
    await sessions["a"].leave()
    await asking.task
    assert asking.replies[0].has_error()
    again = await sessions["a"].site.connect()
    await again.site.submit(outcome(name))  # nobody waits now; the site keeps it until its round is over
    second = Asking(running, tasks(running, "a"))
    assert (await again.next("offer")).task_id == name
    await again.site.submit(outcome(name))
    await second.task
    assert not second.replies[0].has_error()


@wired(away_seconds=0.05)
async def test_who_has_left_before_it_is_asked_is_not_waited_for_either(running):
    sessions = await connected(running, "a", "b")
    asked = tasks(running, "a", "b")
    await sessions["b"].leave()
    await running.sites_are("a")
    asking = Asking(running, asked)
    await answer(sessions["a"])
    await asking.task
    assert sorted(asking.ids()) == ["a", "b"]


@wired(away_seconds=None)
async def test_without_such_a_limit_it_is_waited_for_until_the_deadline(running):
    sessions = await connected(running, "a")
    asking = Asking(running, tasks(running, "a"), timeout=0.3)
    await sessions["a"].leave()
    await asking.task
    assert asking.replies == []


@wired
async def test_a_task_is_carried_on_into_the_next_round(running):
    sessions = await connected(running, "a", "b")
    first = tasks(running, "a", "b")
    asking = Asking(running, first, timeout=0.01)
    await asking.task
    await running.done(running.grid.committed, "run", 1, ["run.r1.train.a"])
    assert (await sessions["b"].next("offer")).task_id == "run.r1.train.b"
    second = Asking(running, [*tasks(running, "a", group="2"), first[1]])
    assert (await sessions["b"].next("offer")).task_id == "run.r1.train.b"  # offered again, and in hand already
    await sessions["b"].site.submit(outcome("run.r1.train.b"))
    await sessions["a"].next("offer")
    await sessions["a"].next("cancel")
    await sessions["a"].next("committed")
    await answer(sessions["a"])
    await second.task
    assert sorted(second.ids()) == ["a", "b"]


@wired
async def test_a_round_repeated_for_a_late_task_alone_goes_on(running):
    """The quorum's count must not begin anew, and the other tasks must not be taken back."""
    await connected(running, "a", "b")
    first = tasks(running, "a", "b")
    await Asking(running, first, timeout=0.01).task
    await running.done(running.grid.committed, "run", 1, ["run.r1.train.a"])
    second = [*tasks(running, "a", group="2"), first[1]]
    await Asking(running, second, timeout=0.01).task
    await Asking(running, [first[1]], timeout=0.01).task
    assert sorted(running.hub.tasks) == ["run.r1.train.b", "run.r2.train.a"]


# ---- waiting for somebody to come


@wired
async def test_an_arrival_ends_the_wait(running):
    await connected(running, "a")
    waiting = asyncio.create_task(running.done(running.grid.wait_for_arrival, 600.0))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await connected(running, "b")
    assert await waiting is True


@wired
async def test_a_session_opened_anew_is_no_arrival(running):
    sessions = await connected(running, "a")
    before = running.hub._arrivals
    await sessions["a"].site.connect()
    await until(lambda: len(running.hub.sessions) == 1)
    assert running.hub._arrivals == before


@wired
async def test_the_wait_ends_by_itself(running):
    assert await running.done(running.grid.wait_for_arrival, 0.01) is True


@wired
async def test_stopping_ends_the_wait(running):
    waiting = asyncio.create_task(running.done(running.grid.wait_for_arrival, 600.0))
    await asyncio.sleep(0.05)
    running.hub.stop()
    with pytest.raises(Stopped, match="while the run paused"):
        await waiting
