"""Models come and outcomes go however often the line breaks."""

from __future__ import annotations

import asyncio
import time

import grpc

from fedwon.client.link import transfers
from fedwon.client.link.journal import Journal, ModelCache
from fedwon.client.link.transfers import Pauses
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.liveness import Liveness
from tests.link.link_kit import Server, refuse, until
from tests.link.task_kit import kept, named, play


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
            site.runner.connected(Liveness())
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

    def test_a_stalled_transfer_is_broken_off(self, federation, server, app, task):

        async def stall(context):
            await asyncio.sleep(30)

        server.submits = [stall]

        async def scene(site):
            site.runner._transfers.stall = 0.3
            site.runner.offer(task)
            await until(lambda: server.submitted)

        play(federation, server, scene)
        assert [header.task_id for header, _ in server.submitted] == [task.task_id]
        assert len(app.calls) == 1  # handed in again, not trained again


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

        def timeout(seconds):
            waited.append(seconds)
            raise TimeoutError

        monkeypatch.setattr(asyncio, "timeout", timeout)
        monkeypatch.setattr("random.uniform", lambda _, longest: longest)

        async def go():
            pause = Pauses()
            await anext(pause)
            assert waited == []
            for _ in range(12):
                await anext(pause)

        asyncio.run(go())
        assert waited[:4] == [0.2, 0.4, 0.8, 1.6]
        assert waited == sorted(waited)
        assert waited[-1] == 30.0

    def test_after_progress_they_are_short_again_but_there_is_one(self, monkeypatch):
        """A line that breaks every minute is gone on with at once; a server that breaks at once is not stormed."""
        waited = []

        def timeout(seconds):
            waited.append(seconds)
            raise TimeoutError

        monkeypatch.setattr(asyncio, "timeout", timeout)
        monkeypatch.setattr("random.uniform", lambda _, longest: longest)

        async def go():
            pause = Pauses()
            for _ in range(5):
                await anext(pause)
            pause.shorten()
            await anext(pause)

        asyncio.run(go())
        assert waited == [0.2, 0.4, 0.8, 1.6, 0.2]

    def test_woken_it_starts_short_again(self):
        async def go():
            wake = asyncio.Event()
            pause = Pauses(wake)
            for _ in range(4):
                await anext(pause)
            wake.set()
            began = time.monotonic()
            await anext(pause)
            assert time.monotonic() - began < 0.05
            assert not wake.is_set()

        asyncio.run(go())


def test_a_cancellation_at_the_moment_of_success_is_heard(tmp_path):
    """Python 3.11's `wait_for` swallows it: a site could not end, or could not leave a session."""
    handed = transfers.Transfers("server:1", Journal(tmp_path / "journal"), ModelCache(tmp_path / "models"))

    async def go():
        step = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(handed._heard(step))
        await asyncio.sleep(0)
        step.set_result(1)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()

    asyncio.run(go())
