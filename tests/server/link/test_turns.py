"""Turns at transfers: so many at once, one for each site, and given back after a moment by whoever is slow."""

from __future__ import annotations

import asyncio
import time

import pytest

from fedwon.server.link.turns import Turns
from tests.server.server_kit import until


class Call:
    """What a call's context is to the turns."""

    def __init__(self):
        self.callbacks = []

    def add_done_callback(self, callback):
        self.callbacks.append(callback)

    def end(self):
        for callback in self.callbacks:
            callback(self)


def begun(turns, *sites):
    calls = [Call() for _ in sites]
    return calls, [asyncio.create_task(turns.take(site, call)) for site, call in zip(sites, calls, strict=True)]


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


def course(test):
    def run():
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@course
async def test_so_many_begin_at_once_and_the_next_ones_in_the_order_in_which_they_came():
    turns = Turns(at_once=2, seconds=60)
    calls, taking = begun(turns, "a", "b", "c", "d")
    await settled()
    assert [task.done() for task in taking] == [True, True, False, False]
    calls[1].end()
    calls[1].end()  # a turn is given back once
    await settled()
    assert [task.done() for task in taking] == [True, True, True, False]
    calls[0].end()
    await asyncio.gather(*taking)


@course
async def test_who_is_slow_holds_nobody_up():
    turns = Turns(at_once=1, seconds=0.01)
    calls, taking = begun(turns, "slow", "next")
    await asyncio.wait_for(taking[1], 10)
    calls[0].end()  # the slow call ends after its turn: that gives nothing back a second time
    turns._seconds = 60
    _, more = begun(turns, "third", "fourth")
    await until(more[0].done)
    await settled()
    assert not more[1].done()
    more[1].cancel()


@course
async def test_turns_last_while_the_event_loop_is_behind_but_not_for_ever():
    turns = Turns(at_once=1, seconds=0.2)
    _, taking = begun(turns, "a", "b")
    await settled()
    time.sleep(0.5)  # noqa: ASYNC251  # the loop is late for the end of the turn
    await settled()
    assert [task.done() for task in taking] == [True, False]
    await asyncio.wait_for(taking[1], 10)  # now it keeps up
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedwon.server.link.turns.LONGEST", 0.1)
        late = Turns(at_once=1, seconds=0.2)
        _, taking = begun(late, "a", "b")
        await settled()
        time.sleep(0.5)  # noqa: ASYNC251
        await settled()
        assert [task.done() for task in taking] == [True, True]


@course
async def test_a_site_that_floods_has_one_turn():
    turns = Turns(at_once=3, seconds=60)
    flood, flooding = begun(turns, *["loud"] * 5)
    _, quiet = begun(turns, "quiet", "other")
    await settled()
    assert [task.done() for task in flooding] == [True, False, False, False, False]
    assert [task.done() for task in quiet] == [True, True]
    flood[0].end()
    await settled()
    assert [task.done() for task in flooding] == [True, True, False, False, False]
    for task in flooding:
        task.cancel()


@course
async def test_a_call_that_is_broken_off_while_it_waits_leaves_its_place():
    turns = Turns(at_once=1, seconds=60)
    calls, taking = begun(turns, "a", "b", "b", "c")
    await settled()
    for waiting in taking[1:3]:
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    calls[0].end()
    await asyncio.wait_for(taking[3], 10)
    again, [task] = begun(turns, "b")
    calls[3].end()
    await asyncio.wait_for(task, 10)
    again[0].end()
