"""Tasks: each is done once, handed in until it has arrived, and none ends the site."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from types import SimpleNamespace

import grpc
import pytest
from flwr.app import Message

from fedwon.client import progress, transfers
from fedwon.client.enrolment import open_channel
from fedwon.client.tasks import TaskRunner
from fedwon.client.transfers import pauses
from fedwon.common.errors import DataError, Refused
from fedwon.common.flower import host_app
from fedwon.common.wire import fedwon_pb2 as pb
from tests.link.link_kit import Server, listening, offer, outcome, refuse, until


class App:
    """In place of Flower's ClientApp: does what the test says, and counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.does = lambda: None
        self.holding = threading.Event()
        self.holding.set()

    def __call__(self, message: Message, context) -> Message:
        self.calls.append(message.metadata.message_id)
        progress.report(1, 2)
        while not self.holding.wait(0.01):
            progress.raise_if_cancelled()
        self.does()
        return Message(outcome(), reply_to=message)


@pytest.fixture
def app(monkeypatch):
    host_app()
    made = App()
    monkeypatch.setitem(sys.modules, "fedwon.client.app", SimpleNamespace(app=made))
    monkeypatch.setattr(transfers, "FIRST_PAUSE", 0.02)
    return made


class Site:
    def __init__(self, runner: TaskRunner, told: list[pb.FromSite]) -> None:
        self.runner, self.told = runner, told

    def reports(self) -> list[tuple[str, str]]:
        return [(message.failed.error, message.failed.message) for message in self.told]


@asynccontextmanager
async def working(federation, server: Server):
    folder = federation.site()
    told: list[pb.FromSite] = []
    async with listening(federation, server) as address, open_channel(address, folder) as channel:
        runner = TaskRunner(address, folder, {}, told.append)
        runner.use(channel)
        running = asyncio.create_task(runner.run())
        try:
            async with asyncio.timeout(30):
                yield Site(runner, told)
            assert not running.done()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


def play(federation, server, scene) -> None:
    async def go():
        async with working(federation, server) as site:
            await scene(site)

    asyncio.run(go())


@pytest.fixture
def task(tmp_path, server):
    """A task and its model, which the server hands out."""
    made, data = offer(tmp_path / "made")
    server.blobs[sha256(data).hexdigest()] = data
    return made


def named(task: pb.Offer, name: str) -> pb.Offer:
    copy = pb.Offer()
    copy.CopyFrom(task)
    copy.task_id = name
    return copy


def kept(site: Site) -> list[str]:
    return site.runner.journal.unfinished()


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

    @pytest.mark.parametrize("error", [ValueError("of a library"), MemoryError(), RecursionError(), KeyError("x")])
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

    def test_an_answer_that_cannot_travel(self, federation, server, app, task, monkeypatch):
        twice = outcome()
        twice["more"] = outcome()["arrays"]
        monkeypatch.setattr("tests.link.test_tasks.outcome", lambda: twice)

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


class TestHandingIn:
    def test_tried_again_until_it_arrives(self, federation, server, app, task):
        async def down(context):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

        async def full(context):
            await refuse(context, "disk-full", "No space left.")

        async def odd_offset(context):
            await context.send_initial_metadata((("fedwon-offset", "many"),))
            await asyncio.sleep(30)

        async def beyond(context):
            await context.send_initial_metadata((("fedwon-offset", "99999999"),))
            await asyncio.sleep(30)

        async def later(context):
            await context.send_initial_metadata((("fedwon-offset", "0"),))
            await context.abort(grpc.StatusCode.INTERNAL, "in the middle")

        async def crash(context):
            raise RuntimeError("a bug of the server")

        server.submits = [down, full, odd_offset, beyond, later, crash]

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: server.submitted, 30)
            assert server.submits == []
            assert site.told == []

        play(federation, server, scene)
        assert len(app.calls) == 1

    def test_refused_before_any_metadata_it_is_dropped(self, federation, server, app, task):
        server.submits = [refuse]

        async def scene(site):
            site.runner.offer(named(task, "late"))
            await until(lambda: not server.submits)
            await until(lambda: not site.runner._known)
            assert kept(site) == []
            site.runner.offer(named(task, "next"))
            await until(lambda: server.submitted)

        play(federation, server, scene)

    def test_taken_without_reading_it(self, federation, app, task, server):
        """A server that has the outcome already answers at once."""

        class Satisfied(Server):
            async def Submit(self, requests, context):  # noqa: N802
                first = await anext(aiter(requests))
                self.submitted.append((first.header, b""))
                return pb.SubmitReply()

        satisfied = Satisfied()
        satisfied.blobs = server.blobs

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: satisfied.submitted)
            await until(lambda: not site.runner._known)

        play(federation, satisfied, scene)
        assert len(satisfied.submitted) == 1

    def test_the_line_coming_back_ends_the_pause(self, federation, server, app, task, monkeypatch):
        monkeypatch.setattr(transfers, "FIRST_PAUSE", 100.0)  # pauses of 50 to 100 s

        async def down(context):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

        server.submits = [down]

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: not server.submits)
            await asyncio.sleep(0.2)
            assert not server.submitted
            site.runner.connected()
            await until(lambda: server.submitted, 5)

        play(federation, server, scene)

    def test_damaged_on_the_disk_meanwhile_it_is_told(self, federation, server, app, task):
        async def scene(site):
            async def damage(context):
                path = site.runner.journal.arrays(task.task_id)
                path.write_bytes(path.read_bytes()[:-1] + b"!")
                await refuse(context, "broken-file", "The update arrived damaged.")

            server.submits = [damage]
            site.runner.offer(task)
            await until(lambda: site.told)
            assert site.reports()[0][0] == "broken-file"
            site.runner.offer(task)  # asked again, it is done again
            await until(lambda: server.submitted)

        play(federation, server, scene)
        assert len(app.calls) == 2

    def test_a_stalled_transfer_is_broken_off(self, federation, server, app, task, monkeypatch):
        monkeypatch.setattr(transfers, "STALL_SECONDS", 0.3)

        async def stall(context):
            await asyncio.sleep(30)

        server.submits = [stall]

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: server.submitted)

        play(federation, server, scene)


class TestFetching:
    def test_goes_on_where_it_stopped(self, federation, server, app, task):
        [digest], [data] = server.blobs.keys(), server.blobs.values()

        async def scene(site):
            (site.runner.models.folder / f"{digest}.part").write_bytes(data[:100])
            site.runner.offer(task)
            await until(lambda: server.submitted)

        play(federation, server, scene)
        assert [request.offset for request in server.fetches] == [100]

    def test_a_broken_beginning_is_fetched_anew(self, federation, server, app, task):
        [digest], [data] = server.blobs.keys(), server.blobs.values()

        async def scene(site):
            (site.runner.models.folder / f"{digest}.part").write_bytes(b"x" * 100)
            site.runner.offer(task)
            await until(lambda: server.submitted)

        play(federation, server, scene)
        assert [request.offset for request in server.fetches] == [100, 0]
        assert data

    def test_a_server_that_does_not_stop_sending(self, federation, server, app, task):
        [(digest, data)] = server.blobs.items()
        server.blobs[digest] = data + bytes(5000)

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: len(server.fetches) == 2)
            assert list(site.runner.models.folder.glob("*.safetensors")) == []
            server.blobs[digest] = data
            await until(lambda: server.submitted)

        play(federation, server, scene)

    def test_refused_it_is_told_and_the_site_lives(self, federation, server, app, task):
        server.blobs.clear()

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: site.told)
            assert site.reports()[0][0] == "refused"

        play(federation, server, scene)
        assert app.calls == []

    def test_cancelled_in_the_middle(self, federation, server, app, task):
        class Slow(Server):
            async def Fetch(self, request, context):  # noqa: N802
                self.fetches.append(request)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
                yield pb.Chunk()

        slow = Slow()

        async def scene(site):
            site.runner.offer(task)
            await until(lambda: len(slow.fetches) >= 2)
            site.runner.cancel(task.task_id, "closed")
            await until(lambda: not site.runner._known)
            assert site.told == []

        play(federation, slow, scene)


class TestPauses:
    def test_the_first_is_none_and_they_grow_to_a_limit(self, monkeypatch):
        waited = []

        async def wait_for(step, seconds):
            step.close()
            waited.append(seconds)
            raise TimeoutError

        monkeypatch.setattr(asyncio, "wait_for", wait_for)
        monkeypatch.setattr("random.uniform", lambda _, longest: longest)

        async def go():
            pause = pauses()
            await anext(pause)
            assert waited == []
            for _ in range(12):
                await anext(pause)

        asyncio.run(go())
        assert waited[:4] == [0.2, 0.4, 0.8, 1.6]
        assert waited == sorted(waited)
        assert waited[-1] == 30.0

    def test_woken_it_starts_short_again(self):
        async def go():
            wake = asyncio.Event()
            pause = pauses(wake)
            for _ in range(4):
                await anext(pause)
            wake.set()
            began = time.monotonic()
            await anext(pause)
            assert time.monotonic() - began < 0.05
            assert not wake.is_set()

        asyncio.run(go())
