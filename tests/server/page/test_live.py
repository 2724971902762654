"""Changes are heard of, whoever made them, and what is shown is computed once for each."""

from __future__ import annotations

import asyncio

import pytest

from fedwon.server.page import live
from fedwon.server.page.live import Announcer, Cached, Changes


@pytest.fixture
def changes(store):
    made = Changes(store.path)
    yield made
    made.close()


def test_every_commit_counts_and_looking_does_not(store, changes):
    first = changes.count()
    assert changes.count() == first
    store.audit("a", "b")
    second = changes.count()
    assert second != first
    assert changes.count() == second


def test_a_database_that_cannot_be_read(tmp_path):
    assert Changes(tmp_path / "none.db").count() == -1


def test_a_value_is_computed_once_for_a_change(store, changes):
    computed = []
    cached = Cached(lambda: computed.append(1) or len(computed), changes)
    assert [cached.get() for _ in range(5)] == [1] * 5
    store.audit("a", "b")
    assert [cached.get() for _ in range(5)] == [2] * 5


def test_a_value_grows_old(changes, monkeypatch):
    computed = []
    cached = Cached(lambda: computed.append(1) or len(computed), changes)
    cached.get()
    monkeypatch.setattr(live, "STALE_SECONDS", 0.0)
    assert cached.get() == 2


def test_browsers_are_told(store, changes, monkeypatch):
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.001)
    announcer = Announcer(changes)

    async def listen():
        stream = announcer.events()
        told = [await anext(stream)]
        store.audit("a", "b")
        told.append(await anext(stream))
        monkeypatch.setattr(live, "STALE_SECONDS", 0.0)
        told.append(await anext(stream))  # nothing has changed but the time
        announcer.ended = True
        return told, [rest async for rest in stream]

    told, rest = asyncio.run(asyncio.wait_for(listen(), 60))
    assert all("event: change\n" in event and event.endswith("\n\n") for event in told)
    assert told[0].removeprefix("retry: 2000\n") != told[1] == told[2]
    assert rest == []


def test_so_many_browsers_and_no_more(changes, monkeypatch):
    monkeypatch.setattr(live, "MOST_LISTENERS", 2)
    announcer = Announcer(changes)

    async def listen():
        streams = [announcer.events() for _ in range(2)]
        for stream in streams:
            await anext(stream)
        full = announcer.full
        await streams[0].aclose()
        return full, announcer.full

    assert asyncio.run(listen()) == (True, False)
