"""Work that calls share: in order, each with its own outcome, and none lost to a cancellation."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fedwon.common.errors import Refused, StorageError
from fedwon.server.link import gathering
from fedwon.server.link.gathering import Gathering
from tests.server.server_kit import until


class Desk:
    """Work that waits until it is let go, and notes what it was given."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def work(self, items):
        self.batches.append(list(items))
        self.go.wait(10)
        return [Refused(f"{item} is odd") if item % 2 else item * 10 for item in items]

    async def busy(self):
        await until(lambda: self.batches)


def test_what_comes_meanwhile_shares_the_next_batch():
    async def course():
        desk = Desk()
        shared = Gathering(desk.work)
        calls = [asyncio.create_task(shared.do(0))]
        await desk.busy()
        calls += [asyncio.create_task(shared.do(item)) for item in range(1, 6)]
        await asyncio.sleep(0)
        desk.go.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return desk.batches, outcomes

    batches, outcomes = asyncio.run(course())
    assert batches == [[0], [1, 2, 3, 4, 5]]
    assert [outcome if isinstance(outcome, int) else outcome.message for outcome in outcomes] == [
        0, "1 is odd", 20, "3 is odd", 40, "5 is odd",
    ]  # fmt: skip


def test_a_batch_has_its_limit_and_an_idle_desk_begins_again(monkeypatch):
    monkeypatch.setattr(gathering, "MOST", 2)

    async def course():
        desk = Desk()
        desk.go.set()
        shared = Gathering(desk.work)
        first = await asyncio.gather(*(shared.do(item) for item in (0, 2, 4, 6, 8)))
        return desk.batches, first, await shared.do(10)

    assert asyncio.run(course()) == ([[0, 2], [4, 6], [8], [10]], [0, 20, 40, 60, 80], 100)


def test_a_failure_of_the_work_is_everybodys_and_the_next_batch_goes_on():
    def work(items):
        if 1 in items:
            raise StorageError("full", hint="make room")
        return list(items)

    async def course():
        shared = Gathering(work)
        failed = await asyncio.gather(shared.do(1), shared.do(2), return_exceptions=True)
        return failed, await shared.do(3)

    failed, after = asyncio.run(course())
    assert [(type(error), error.message, error.hint) for error in failed] == [(StorageError, "full", "make room")] * 2
    assert failed[0] is not failed[1]
    assert after == 3


def test_a_call_that_is_cancelled_has_its_work_done_and_takes_nobody_with_it():
    async def course():
        desk = Desk()
        shared = Gathering(desk.work)
        first = asyncio.create_task(shared.do(0))
        await desk.busy()
        gone, stays = asyncio.create_task(shared.do(2)), asyncio.create_task(shared.do(4))
        await asyncio.sleep(0)
        for call in (first, gone):
            call.cancel()
        desk.go.set()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return desk.batches, await stays

    assert asyncio.run(course()) == ([[0], [2, 4]], 40)
