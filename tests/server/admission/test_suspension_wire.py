"""A suspended site and a server that runs: neither asked nor waited for, and back again without a restart."""

from __future__ import annotations

import asyncio

from fedwon.common.errors import Refused
from fedwon.server.admission.suspension import resume, suspend
from tests.server.server_kit import until, wired


async def beating(*sessions):
    while True:
        for session in sessions:
            await session.beat()
        await asyncio.sleep(0.2)


@wired(heartbeat=2.0)
async def test_who_is_suspended_is_not_waited_for_and_comes_back(running):
    sessions = [await running.site(name).connect() for name in ("line-1", "line-2")]
    alive = asyncio.create_task(beating(*sessions))
    assert running.grid.sites() == ["line-1", "line-2"]
    await asyncio.to_thread(suspend, running.home.store, "line-2", "camera is dirty")
    await until(lambda: running.grid.sites() == ["line-1"])
    assert "camera is dirty" in running.grid.resting()["line-2"]
    waiting = asyncio.create_task(asyncio.to_thread(running.grid.wait_for_sites, 2))
    arrival = asyncio.create_task(asyncio.to_thread(running.grid.wait_for_arrival, 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not arrival.done()
    await asyncio.to_thread(resume, running.home.store, "line-2")
    await asyncio.wait_for(waiting, 60)
    assert await asyncio.wait_for(arrival, 60)
    assert running.grid.resting() == {}
    await running.done(running.grid.suspend, {"line-1": "at once"})
    assert "line-1" not in running.grid.sites()
    alive.cancel()


@wired
async def test_a_stranger_cannot_be_suspended(running):
    try:
        await asyncio.to_thread(suspend, running.home.store, "nobody")
    except Refused as error:
        assert "nobody" in error.message  # noqa: PT017  # not raised in this thread
    else:
        raise AssertionError
