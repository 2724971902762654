"""A site that keeps to a schedule: what it tells, what it declines, what it gives up."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

from fedwon.client.link.attendance import Attendance
from fedwon.client.link.schedule import ScheduleConfig, WindowConfig
from fedwon.common.wire import fedwon_pb2 as pb
from tests.link.link_kit import finished, saying, until, welcome
from tests.link.session_kit import DONE, run
from tests.link.task_kit import named, working

THURSDAY = ScheduleConfig(windows=(WindowConfig(days=("thu",), start="10:00", end="11:00"),), zone="UTC")
"""The first window is 36,000 s after the beginning of 1970."""
OPEN, CLOSED = 36000.0, 39600.0


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@asynccontextmanager
async def attending(site, clock, config=THURSDAY, standing=lambda: True):
    attendance = Attendance(config, site.runner.journal.folder, site.told.append, clock)
    watching = asyncio.create_task(attendance.watch(site.runner, standing))
    await asyncio.sleep(0)
    try:
        yield attendance
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def play(federation, server, scene):
    async def whole():
        async with working(federation, server) as site:
            await scene(site)

    asyncio.run(whole())


def told(site):
    return [
        message.availability.available if message.WhichOneof("body") == "availability" else message.failed.error
        for message in site.told
    ]


def shorter_looks(monkeypatch):
    monkeypatch.setattr("fedwon.client.link.attendance.CLOCK_SECONDS", 0.01)
    monkeypatch.setattr("fedwon.client.link.attendance.LOOK_SECONDS", 0.01)


def test_every_change_is_told_and_a_task_in_hand_is_finished(federation, server, app, task, monkeypatch):
    shorter_looks(monkeypatch)
    app.holding.clear()

    async def scene(site):
        clock = Clock(OPEN)
        async with attending(site, clock) as attendance:
            assert not attendance.declines(task, site.runner)
            site.runner.offer(task)
            await until(lambda: app.calls)
            clock.now = CLOSED
            await until(lambda: told(site) == [True, False])
            assert not attendance.declines(task, site.runner)  # offered again, it is in hand
            app.holding.set()
            await until(lambda: server.submitted)
            await until(lambda: not site.runner.in_hand())
            assert not attendance.declines(task, site.runner)  # its outcome is here
            assert attendance.declines(named(task, "run.r0002.train.line-1"), site.runner)
            clock.now = OPEN
            await until(lambda: told(site) == [True, False, "unavailable", True])

    play(federation, server, scene)
    assert len(app.calls) == 1


def test_or_given_up(federation, server, app, task, monkeypatch):
    shorter_looks(monkeypatch)
    app.holding.clear()

    async def scene(site):
        clock = Clock(OPEN)
        async with attending(site, clock, THURSDAY.model_copy(update={"when_over": "give_up"})) as attendance:
            site.runner.offer(task)
            await until(lambda: app.calls)
            clock.now = CLOSED
            await until(lambda: told(site) == [True, False, "unavailable"])
            assert site.told[-1].failed.message.startswith("this site is not available until 1970-01-08")
            assert attendance.declines(task, site.runner)
            await until(lambda: not site.runner.unfinished())
            app.holding.set()
            clock.now = OPEN
            await until(lambda: told(site)[-1] is True)
            assert not attendance.declines(task, site.runner)
            site.runner.offer(task)
            await until(lambda: server.submitted)

    play(federation, server, scene)
    assert len(app.calls) == 2


def test_without_a_session_nothing_waits_to_be_told(federation, server, app, task, monkeypatch):
    """What was true when it was said would reach the server when it is true no more."""
    shorter_looks(monkeypatch)
    app.holding.clear()

    async def scene(site):
        clock = Clock(OPEN)
        config = THURSDAY.model_copy(update={"when_over": "give_up"})
        async with attending(site, clock, config, standing=lambda: False):
            site.runner.offer(task)
            await until(lambda: app.calls)
            clock.now = CLOSED
            await until(lambda: not site.runner.unfinished())
        assert site.told == []

    play(federation, server, scene)


def test_the_server_hears_of_it_in_the_hello_and_gets_no_work(federation, server, app, task, tmp_path):
    (tmp_path / "line-1").mkdir()
    (tmp_path / "line-1" / "busy").touch()

    async def script(server, context):
        await context.write(welcome())
        await context.write(pb.FromServer(offer=task))
        await until(lambda: any(message.WhichOneof("body") == "failed" for message in server.got))
        await context.write(finished())

    server.scripts = [script]
    run(federation, server, schedule=ScheduleConfig(busy_file="busy"))
    hello = server.hellos[0].availability
    assert (hello.available, hello.seconds) == (False, 0.0)
    assert hello.reason == "its line runs"  # and not where the site keeps its files
    first, failed = (message for message in server.got if message.WhichOneof("body") != "heartbeat")
    assert first.availability == hello
    assert (failed.failed.task_id, failed.failed.error) == (task.task_id, "unavailable")
    assert app.calls == []


def test_a_site_without_a_schedule_says_nothing(federation, server):
    server.scripts = [saying(welcome(), then=0.3), DONE]
    run(federation, server)
    assert not server.hellos[0].HasField("availability")
    assert {message.WhichOneof("body") for message in server.got} <= {"heartbeat"}


def test_the_words():
    attendance = Attendance(THURSDAY, None, print, Clock(CLOSED))
    assert attendance.words(attendance.now()).endswith("(outside its quiet hours)")
    attendance = Attendance(THURSDAY, None, print, Clock(OPEN))
    assert attendance.words(attendance.now()).startswith("this site is available until 1970-01-01")
    assert attendance.to_wire() == pb.Availability(available=True, seconds=3600.0)
