"""What a service manager hears."""

from __future__ import annotations

import asyncio
import os
import secrets
import time

import pytest

from fedwon.common import notify
from tests.e2e.fleet import wait_until
from tests.notify_kit import Manager, notification_socket


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    made = Manager(tmp_path / "notify" if request.param == "path" else f"@fedwon-{secrets.token_hex(8)}")
    monkeypatch.setenv("NOTIFY_SOCKET", made.address)
    for name in (notify.WATCHDOG_USEC, notify.WATCHDOG_PID):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.close()


def test_a_service_says_how_it_is(manager):
    assert notify.ready("listening")
    assert notify.status("round 1\nREADY=0")  # a name from outside cannot add a line of its own
    assert notify.stopping()
    wait_until(lambda: "STATUS=stopping" in manager.lines, "the last message")
    assert manager.lines == ["READY=1", "STATUS=listening", "STATUS=round 1 READY=0", "STOPPING=1", "STATUS=stopping"]


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/nowhere/notify", "@nobody-listens-here"])
def test_without_a_manager_nothing_happens(monkeypatch, address):
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify.ready("listening")
    assert not notify.stopping()


def test_a_manager_that_does_not_read_holds_nothing_up(tmp_path, monkeypatch):
    with notification_socket(str(tmp_path / "notify")):
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        sent = [notify.status("x" * 1000) for _ in range(2000)]
        assert not all(sent)  # its queue is full long before


@pytest.mark.parametrize(
    ("time_", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        pytest.param("30000000", str(os.getpid()), 30.0, id="own process"),
        ("30000000", "1", None),  # meant for another process
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_whether_there_is_a_watchdog(monkeypatch, time_, pid, seconds):
    for name, value in ((notify.WATCHDOG_USEC, time_), (notify.WATCHDOG_PID, pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_seconds() == seconds


def test_the_watchdog_is_fed_from_the_loop_and_only_from_there(manager, monkeypatch):
    monkeypatch.setenv(notify.WATCHDOG_USEC, "150000")  # fed every 50 ms

    async def serve() -> None:
        async with notify.watched():
            async with asyncio.timeout(30):
                while manager.pings() < 5:  # noqa: ASYNC110  # the loop lives
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(time.sleep, 0.5)  # training in its thread does not keep the loop
            fed = manager.pings()
            assert fed > 6
            time.sleep(0.1)  # noqa: ASYNC251  # a loop that hangs; what is on the way arrives
            fed = manager.pings()
            time.sleep(0.5)  # noqa: ASYNC251
            assert manager.pings() == fed
        await asyncio.sleep(0.1)
        ended = manager.pings()
        await asyncio.sleep(0.3)
        assert manager.pings() == ended

    asyncio.run(serve())


def test_without_a_watchdog_nothing_is_fed(manager):
    async def serve() -> None:
        async with notify.watched():
            await asyncio.sleep(0.1)

    asyncio.run(serve())
    notify.stopping()
    wait_until(lambda: "STATUS=stopping" in manager.lines, "the last message")
    assert manager.lines == ["STOPPING=1", "STATUS=stopping"]
