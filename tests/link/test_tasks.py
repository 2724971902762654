"""Tasks: each is done once, whatever goes wrong in one is told, and none ends the site."""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256

import pytest

from fedwon.common.errors import DataError, Refused
from fedwon.common.wire import fedwon_pb2 as pb
from tests.link.link_kit import outcome, refuse, until
from tests.link.task_kit import kept, named, play


class TestDoing:
    def test_a_task_is_fetched_done_and_handed_in(self, federation, server, app, task):
        async def scene(site):
            site.runner.offer(task)
            await until(lambda: server.submitted)
            [(header, data)] = server.submitted
            assert header.task_id == task.task_id
            assert header.seconds > 0
            assert sha256(data).hexdigest() == next(r.arrays.digest for r in header.records if r.HasField("arrays"))
            assert kept(site) == [task.task_id]  # until its round is committed
            await until(lambda: not site.runner._known)
            assert site.told == []

        play(federation, server, scene)
        assert app.calls == [task.task_id]

    def test_offered_again_in_hand_it_is_done_once(self, federation, server, app, task):
        app.holding.clear()

        async def scene(site):
            for _ in range(3):
                site.runner.offer(task)
            await until(lambda: app.calls)
            site.runner.offer(task)
            assert site.runner.unfinished() == [task.task_id]
            app.holding.set()
            await until(lambda: server.submitted)
            await until(lambda: not site.runner._known)

        play(federation, server, scene)
        assert len(app.calls) == 1
        assert len(server.submitted) == 1

    def test_offered_again_when_done_it_is_handed_in_again(self, federation, server, app, task):
        async def scene(site):
            for number in (1, 2):
                site.runner.offer(task)
                await until(lambda number=number: len(server.submitted) == number)
                await until(lambda: not site.runner._known)

        play(federation, server, scene)
        assert len(app.calls) == 1
        assert server.submitted[0][1] == server.submitted[1][1]

    def test_two_tasks_at_once_are_done_one_after_the_other(self, federation, server, app, task):
        async def scene(site):
            site.runner.offer(named(task, "one"))
            site.runner.offer(named(task, "two"))
            await until(lambda: len(server.submitted) == 2)

        play(federation, server, scene)
        assert app.calls == ["one", "two"]
        assert len(server.fetches) == 1  # the same model

    def test_progress_is_in_the_heartbeat_while_it_works(self, federation, server, app, task):
        app.holding.clear()

        async def scene(site):
            assert site.runner.heartbeat == pb.Heartbeat()
            site.runner.offer(task)
            await until(lambda: app.calls)
            assert site.runner.heartbeat == pb.Heartbeat(task_id=task.task_id, done=1, total=2)
            app.holding.set()
            await until(lambda: server.submitted)
            await until(lambda: site.runner.heartbeat == pb.Heartbeat())

        play(federation, server, scene)


class TestFailing:
    def test_an_error_of_ours_is_told(self, federation, server, app, task):
        def fail():
            raise DataError("No image is left.")

        app.does = fail

        async def scene(site):
            site.runner.offer(named(task, "bad"))
            await until(lambda: site.told)
            assert site.reports() == [("data", "No image is left.")]
            app.does = lambda: None
            site.runner.offer(named(task, "good"))
            await until(lambda: server.submitted)

        play(federation, server, scene)
        assert app.calls == ["bad", "good"]

    @pytest.mark.parametrize("error", [ValueError("of a library"), RecursionError(), KeyError("x")])
    def test_an_unexpected_error_is_told_and_logged(self, federation, server, app, task, error, caplog):  # noqa: PLR0917
        def fail():
            raise error

        app.does = fail

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: site.told)
            [(slug, text)] = site.reports()
            assert slug == "task-failed"
            assert type(error).__name__ in text

        play(federation, server, scene)
        assert any(record.exc_info for record in caplog.records)

    def test_memory_that_runs_out_is_told_with_advice(self, federation, server, app, task):
        def fail():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

        app.does = fail

        async def scene(site):
            site.runner.offer(named(task, "large"))
            await until(lambda: site.told)
            [(slug, text)] = site.reports()
            assert slug == "out-of-memory"
            assert "lower `batch_size`" in text
            app.does = lambda: None
            site.runner.offer(named(task, "next"))
            await until(lambda: server.submitted)

        play(federation, server, scene)

    def test_an_answer_that_cannot_travel(self, federation, server, app, task):
        twice = outcome()
        twice["more"] = outcome()["arrays"]
        app.answer = twice

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: site.told)
            assert site.reports()[0][0] == "task-failed"

        play(federation, server, scene)

    def test_a_full_disk_is_told(self, federation, server, app, task, monkeypatch):
        async def scene(site):
            def full(*_, **__):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("os.replace", full)
            site.runner.offer(task)
            await until(lambda: site.told)
            assert site.reports()[0][0] == "disk-full"
            monkeypatch.undo()

        play(federation, server, scene)

    def test_a_hostile_name(self, federation, server, app, task):
        async def scene(site):
            with pytest.raises(Refused):
                site.runner.offer(named(task, "../x"))
            assert site.runner.unfinished() == []

        play(federation, server, scene)


class TestCancelling:
    def test_in_the_middle_of_its_work(self, federation, server, app, task):
        app.holding.clear()

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: app.calls)
            site.runner.cancel(task.task_id, "the round has closed")
            await until(lambda: not site.runner._known)
            assert site.told == []
            assert kept(site) == []

        play(federation, server, scene)
        assert server.submitted == []

    def test_while_it_waits_for_its_turn(self, federation, server, app, task):
        app.holding.clear()

        async def scene(site):
            for name in ("one", "two", "three"):
                site.runner.offer(named(task, name))
            await until(lambda: app.calls)
            site.runner.cancel("two", "the round has closed")
            app.holding.set()
            await until(lambda: len(server.submitted) == 2)

        play(federation, server, scene)
        assert app.calls == ["one", "three"]

    def test_offered_again_after_that_it_is_done(self, federation, server, app, task):
        """A round that is repeated: the cancellation and the new offer come while the thread still works."""
        app.holding.clear()

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: app.calls)
            site.runner.cancel(task.task_id, "the round has closed")
            site.runner.offer(task)
            await until(lambda: len(app.calls) == 2)
            app.holding.set()
            await until(lambda: server.submitted)

        play(federation, server, scene)
        assert len(server.submitted) == 1

    def test_offered_again_and_cancelled_again(self, federation, server, app, task):
        app.holding.clear()

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: app.calls)
            site.runner.cancel(task.task_id, "closed")
            site.runner.offer(task)
            site.runner.cancel(task.task_id, "closed again")
            await until(lambda: not site.runner._known)

        play(federation, server, scene)
        assert len(app.calls) == 1

    def test_while_it_cannot_be_handed_in(self, federation, server, app, task):
        async def unwilling(context):
            server.submits.append(unwilling)
            await refuse(context, "link", "No round is open yet.")

        server.submits = [unwilling]

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: kept(site))
            await asyncio.sleep(0.2)
            site.runner.cancel(task.task_id, "the round has closed")
            await until(lambda: not site.runner._known)
            assert kept(site) == [task.task_id]  # it may be asked for again

        play(federation, server, scene)

    def test_an_error_of_a_cancelled_task_is_not_told(self, federation, server, app, task):
        app.holding.clear()

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: app.calls)

            def fail():
                raise DataError("too late")

            app.does = fail
            site.runner.cancel(task.task_id, "closed")
            app.holding.set()
            await until(lambda: not site.runner._known)
            assert site.told == []

        play(federation, server, scene)

    def test_the_end_of_the_process_ends_the_thread(self, federation, server, app, task):
        app.holding.clear()

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: app.calls)

        began = time.monotonic()
        play(federation, server, scene)  # asyncio waits for its threads: this one would hold for ever
        assert time.monotonic() - began < 10
