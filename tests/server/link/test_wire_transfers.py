"""Models and updates over real connections: from any offset, checked as a whole, never another site's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from fedwon.common.errors import BrokenFile, DiskFull, LinkError, Refused, StorageError
from fedwon.common.files import sha256_file
from fedwon.common.rebuilding import most_bytes
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.grpc_errors import CHUNK, OFFSET_KEY
from fedwon.common.wire.liveness import Liveness
from fedwon.server.link import transfers
from tests.server.server_kit import (
    PATIENCE,
    federation,
    good_metrics,
    outcome,
    record,
    refusal,
    stored,
    tasks,
    until,
    wired,
)

BIG = 700_000  # float32 numbers: a little less than three chunks


def model_of(running, count=BIG, value=0.5):
    name = f"model-{value}.safetensors"
    return stored(running.home.folder / name, record(w=np.full(count, value, np.float32)))


async def asked(running, name="line-1", model=None):
    """A connected site with one task open; returns site, session, task id, model."""
    model = model or model_of(running)
    site = running.site(name)
    session = await site.connect()
    await running.done(running.grid.push_messages, tasks(running, name, model=model))
    offer = await session.next("offer")
    return site, session, offer.task_id, model


def update_of(running, value=0.75, count=BIG):
    blob = stored(running.home.folder / f"update-{value}.safetensors", record(w=np.full(count, value, np.float32))).blob
    return blob, blob.path.read_bytes()


async def reply_to(running, task_id):
    return (await running.done(running.grid.pull_messages, [task_id]))[0]


# ---- fetching


@wired
async def test_a_model_is_fetched_whole_and_from_an_offset(running):
    site, _, task_id, model = await asked(running)
    content = model.blob.path.read_bytes()
    assert len(content) > 2 * CHUNK
    assert await site.fetch(model.blob.digest) == content
    assert running.grid.traffic(task_id).bytes_down == len(content)
    for offset in (1, CHUNK, len(content) - 1):
        assert await site.fetch(model.blob.digest, offset) == content[offset:]
    assert await site.fetch(model.blob.digest, len(content)) == b""
    assert await site.fetch(model.blob.digest, 2**64 - 1) == b""


@wired
async def test_only_the_model_of_ones_own_task(running):
    _, _, _, model = await asked(running)
    other = model_of(running, value=0.25)
    stranger = running.site("line-2")
    for site, digest in (
        (stranger, model.blob.digest),
        (running.site("line-1"), other.blob.digest),
        (stranger, "../x"),
    ):
        error = await refusal(site.fetch(digest))
        assert type(error) is Refused
        assert error.hint == Refused.default_hint


@wired
async def test_a_model_that_is_gone(running):
    site, _, _, model = await asked(running)
    model.blob.path.unlink()
    assert type(await refusal(site.fetch(model.blob.digest))) is StorageError


@wired
async def test_before_the_first_round_a_site_is_to_try_again(running):
    """A server that was restarted does not know its tasks until its round goes on; nobody is to drop work for that."""
    site = running.site("line-1")
    for call in (site.fetch("0" * 64), site.submit(outcome("run.r1.train.line-1"))):
        assert type(await refusal(call)) is LinkError


# ---- handing in


@wired
async def test_an_update_arrives(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    assert await site.submit(outcome(task_id, blob, seconds=2.5), data) == 0
    reply = await reply_to(running, task_id)
    assert reply.content["metrics"] == good_metrics()
    arrived = reply.content["arrays"]
    assert arrived.blob.digest == blob.digest
    assert arrived.blob.path == running.hub.spool / f"{task_id}.safetensors"
    assert arrived["w"].numpy()[0] == np.float32(0.75)
    cost = running.grid.traffic(task_id)
    assert (cost.bytes_up, cost.seconds) == (len(data), 2.5)
    assert [path.name for path in running.hub.spool.iterdir()] == [f"{task_id}.safetensors"]


@wired
async def test_numbers_without_arrays_arrive_even_where_no_arrays_are_expected(running):
    running.hub.spool = None
    site, _, task_id, _ = await asked(running)
    assert await site.submit(outcome(task_id)) == -1
    assert (await reply_to(running, task_id)).content["metrics"] == good_metrics()


@wired(spool=False)
async def test_arrays_where_none_are_expected(running):
    """`fedwon-server evaluate` has no run, so no folder for updates: nothing may land in the current one."""
    before = set(os.listdir())  # noqa: PTH208
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    error = await refusal(site.submit(outcome(task_id, blob), data))
    assert type(error) is Refused
    assert set(os.listdir()) == before  # noqa: PTH208


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_times_that_cannot_be(tmp_path, seconds):
    async def inside():
        async with federation(tmp_path / "server") as running:
            site, _, task_id, _ = await asked(running)
            await site.submit(outcome(task_id, seconds=seconds))
            assert running.grid.traffic(task_id).seconds == 0.0

    asyncio.run(inside())


async def cut_off(running, site, header, data):
    """Begin to hand in and vanish; returns when the server has noticed."""
    task = running.hub.tasks[header.task_id]
    call = site.stub.Submit()
    await call.write(pb.SubmitRequest(header=header))
    before = task.bytes_up
    await call.initial_metadata()
    for start in range(0, len(data), CHUNK):
        await call.write(pb.SubmitRequest(data=data[start : start + CHUNK]))
    await until(lambda: task.bytes_up == before + len(data))
    call.cancel()
    await until(lambda: not task.uploading.locked())


@wired
async def test_a_broken_submission_goes_on_where_it_broke(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    header = outcome(task_id, blob)
    await cut_off(running, site, header, data[: CHUNK + 17])
    part = running.hub.spool / f"{task_id}.part"
    assert part.read_bytes() == data[: CHUNK + 17]
    assert not running.hub.tasks[task_id].done
    assert await site.submit(header, data) == CHUNK + 17
    assert (await reply_to(running, task_id)).content["arrays"].blob.digest == blob.digest
    assert running.grid.traffic(task_id).bytes_up == len(data)
    assert not part.exists()


@wired
async def test_a_submission_that_ends_early_goes_on_later(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    error = await refusal(site.submit(outcome(task_id, blob), data[:100]))
    assert type(error) is BrokenFile
    assert f"ended after 100 of {blob.size} bytes" in error.message
    assert await site.submit(outcome(task_id, blob), data) == 100


@wired
async def test_the_part_of_another_outcome_is_not_continued_for_ever(running):
    """Trained again after its journal was lost, a site may have another update: the digest tells."""
    site, _, task_id, _ = await asked(running)
    (old, old_data), (new, new_data) = update_of(running, 0.1), update_of(running, 0.2)
    await cut_off(running, site, outcome(task_id, old), old_data[:CHUNK])
    assert type(await refusal(site.submit(outcome(task_id, new), new_data))) is BrokenFile
    assert await site.submit(outcome(task_id, new), new_data) == 0
    assert (await reply_to(running, task_id)).content["arrays"].blob.digest == new.digest


@wired
async def test_what_came_whole_before_the_server_went_down_is_not_sent_again(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    (running.hub.spool / f"{task_id}.safetensors").write_bytes(data)
    assert await site.submit(outcome(task_id, blob), data) == len(data)
    assert (await reply_to(running, task_id)).content["arrays"].blob.digest == blob.digest
    assert running.grid.traffic(task_id).bytes_up == 0


@wired
async def test_what_came_whole_of_another_outcome_is_not_taken_for_this_one(running):
    site, _, task_id, _ = await asked(running)
    (_, old_data), (new, new_data) = update_of(running, 0.1), update_of(running, 0.2)
    (running.hub.spool / f"{task_id}.safetensors").write_bytes(old_data)
    assert type(await refusal(site.submit(outcome(task_id, new), new_data))) is BrokenFile
    assert await site.submit(outcome(task_id, new), new_data) == 0
    assert (await reply_to(running, task_id)).content["arrays"].blob.digest == new.digest


@wired
async def test_a_part_longer_than_the_whole_begins_anew(running):
    site, _, task_id, _ = await asked(running)
    (running.hub.spool / f"{task_id}.part").write_bytes(b"x" * 5_000_000)
    blob, data = update_of(running)
    assert await site.submit(outcome(task_id, blob), data) == 0


@wired
async def test_a_wrong_digest_is_refused_and_may_be_sent_again(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    error = await refusal(site.submit(outcome(task_id, blob), damaged))
    assert type(error) is BrokenFile
    assert list(running.hub.spool.iterdir()) == []
    assert await site.submit(outcome(task_id, blob), data) == 0
    assert not (await reply_to(running, task_id)).has_error()


@wired
async def test_an_update_larger_than_its_model(running):
    site, _, task_id, model = await asked(running)
    for size in (most_bytes(model.blob.size) + 1, 2**63, 0):
        header = outcome(task_id, None)
        header.records.append(pb.Record(name="arrays", arrays=pb.Blob(digest="0" * 64, size=size)))
        error = await refusal(site.submit(header))
        assert type(error) is Refused
        assert f"An update of {size} bytes" in error.message
    assert list(running.hub.spool.iterdir()) == []
    assert not running.hub.tasks[task_id].done


@wired
async def test_more_bytes_than_announced(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running, count=10)
    call = site.stub.Submit()
    await call.write(pb.SubmitRequest(header=outcome(task_id, blob)))
    await call.initial_metadata()
    await call.write(pb.SubmitRequest(data=data + b"x"))
    assert await call.code() == grpc.StatusCode.PERMISSION_DENIED
    assert not running.hub.tasks[task_id].done


@wired
async def test_a_chunk_over_the_limit_of_a_message(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.submit(outcome(task_id, blob), data, piece=len(data))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not running.hub.tasks[task_id].done


@wired
async def test_a_submission_begins_with_its_header(running):
    site = running.site("line-1")
    for first in (pb.SubmitRequest(data=b"x"), pb.SubmitRequest()):
        call = site.stub.Submit()
        await call.write(first)
        assert await call.code() == grpc.StatusCode.PERMISSION_DENIED
    call = site.stub.Submit()
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.PERMISSION_DENIED


@wired
async def test_only_ones_own_task(running):
    _, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    error = await refusal(running.site("line-2").submit(outcome(task_id, blob), data))
    assert type(error) is Refused
    assert not running.hub.tasks[task_id].done
    for name in ("unknown", "../../etc/passwd", "x" * 100_000):
        error = await refusal(running.site("line-1").submit(outcome(name, blob), data))
        assert type(error) is Refused
        assert len(error.message) <= 1000


@wired
async def test_a_second_submission_changes_nothing(running):
    site, _, task_id, _ = await asked(running)
    (blob, data), (other, other_data) = update_of(running, 0.1), update_of(running, 0.2)
    await site.submit(outcome(task_id, blob), data)
    assert await site.submit(outcome(task_id, blob), data) == -1
    assert await site.submit(outcome(task_id, other), other_data) == -1
    assert (await reply_to(running, task_id)).content["arrays"].blob.digest == blob.digest
    assert running.hub.tasks[task_id].answers.empty()


@wired
async def test_submissions_at_once_are_one(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    header = outcome(task_id, blob)
    ends = await asyncio.gather(*(site.submit(header, data) for _ in range(4)), return_exceptions=True)
    assert any(isinstance(end, int) for end in ends)
    assert (await reply_to(running, task_id)).content["arrays"].blob.digest == blob.digest
    assert await site.submit(header, data) == -1


@contextmanager
def impatient():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Liveness, "stall", 0.5)
        yield


async def begun(site, task, header, data):
    """Send the first piece of an outcome, and nothing more."""
    call = site.stub.Submit()
    await call.write(pb.SubmitRequest(header=header))
    await call.initial_metadata()
    await call.write(pb.SubmitRequest(data=data[:CHUNK]))
    await until(lambda: task.bytes_up == CHUNK)
    return call


@wired
async def test_the_next_submission_takes_the_place_of_the_one_on_a_dead_line(running):
    """The server cannot know yet that the line is dead, and must not let the site wait until it does."""
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    header = outcome(task_id, blob)
    dead = await begun(site, running.hub.tasks[task_id], header, data)
    assert await asyncio.wait_for(site.submit(header, data), PATIENCE) == CHUNK
    error = await refusal(dead)
    assert type(error) is LinkError
    assert "anew on another line" in error.message


@wired
async def test_a_submission_that_does_not_move_is_broken_off(running):
    """From a site that answers pings and sends nothing."""
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    header = outcome(task_id, blob)
    with impatient():
        error = await refusal(await begun(site, running.hub.tasks[task_id], header, data))
    assert type(error) is LinkError
    assert "Nothing has moved" in error.message
    assert not running.hub.tasks[task_id].uploading.locked()
    assert await site.submit(header, data) == CHUNK


@wired
async def test_a_late_submission(running):
    site, session, task_id, _ = await asked(running)
    blob, data = update_of(running)
    await running.done(running.grid.committed, "run", 1, [task_id])
    await session.next("cancel")
    error = await refusal(site.submit(outcome(task_id, blob), data))
    assert type(error) is Refused
    assert "the round may have closed without it" in error.message
    assert list(running.hub.spool.iterdir()) == []


@wired
async def test_a_round_that_closes_during_a_submission(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    for sent in (data[:CHUNK], data):  # in the middle, and when all but the end of the call is there
        await running.done(running.grid.push_messages, tasks(running, "line-1", model=model_of(running)))
        task = running.hub.tasks[task_id]
        call = site.stub.Submit()
        await call.write(pb.SubmitRequest(header=outcome(task_id, blob)))
        await call.initial_metadata()
        for start in range(0, len(sent), CHUNK):
            await call.write(pb.SubmitRequest(data=sent[start : start + CHUNK]))
        await until(lambda task=task, sent=sent: task.bytes_up >= len(sent))
        running.hub.withdraw([task_id], "closed")
        if sent is data:
            await call.done_writing()
        else:
            await call.write(pb.SubmitRequest(data=b"x"))
        assert await call.code() == grpc.StatusCode.PERMISSION_DENIED
        for part in running.hub.spool.glob("*.part"):
            part.unlink()  # as the commit does
        assert list(running.hub.spool.iterdir()) == []
        assert task.answers.empty()


@wired
async def test_a_task_that_is_asked_for_again_takes_the_outcome_that_is_on_its_way(running):
    """A round that is repeated loses no work of a site that is only late."""
    site, session, task_id, model = await asked(running)
    blob, data = update_of(running)
    task = running.hub.tasks[task_id]
    call = site.stub.Submit()
    await call.write(pb.SubmitRequest(header=outcome(task_id, blob)))
    await call.initial_metadata()
    await running.done(running.grid.push_messages, tasks(running, "line-1", model=model))
    assert (await session.next("offer")).task_id == task_id
    assert running.hub.tasks[task_id] is task
    for start in range(0, len(data), CHUNK):
        await call.write(pb.SubmitRequest(data=data[start : start + CHUNK]))
    await call.done_writing()
    await call
    assert (await reply_to(running, task_id)).content["arrays"].blob.digest == blob.digest


@wired
async def test_a_failed_task_that_is_asked_for_again_begins_anew(running):
    site, session, task_id, model = await asked(running)
    await session.fail(task_id)
    await until(lambda: running.hub.tasks[task_id].done)
    assert (await reply_to(running, task_id)).error.reason == "data: no images"
    await running.done(running.grid.push_messages, tasks(running, "line-1", model=model))
    assert (await session.next("offer")).task_id == task_id
    await site.submit(outcome(task_id))
    assert not (await reply_to(running, task_id)).has_error()


@wired
async def test_an_update_that_is_no_model_file(running):
    site, _, task_id, _ = await asked(running)
    path = running.home.folder / "junk"
    path.write_bytes(b"junk" * 100)
    header = outcome(task_id)
    header.records.append(pb.Record(name="arrays", arrays=pb.Blob(digest=sha256_file(path), size=400)))
    await site.submit(header, path.read_bytes())
    reply = await reply_to(running, task_id)
    assert reply.has_error()
    assert "not a" in reply.error.reason


@wired
async def test_arrays_named_twice(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running)
    header = outcome(task_id, blob)
    header.records.append(pb.Record(name="more", arrays=pb.Blob(digest="0" * 64, size=5)))
    await site.submit(header, data)
    assert len((await reply_to(running, task_id)).content.array_records) == 2


@wired
async def test_a_kind_of_record_that_this_version_does_not_know(running):
    site, _, task_id, _ = await asked(running)
    header = outcome(task_id)
    header.records.append(pb.Record(name="of-the-future"))
    await site.submit(header)
    assert "'of-the-future'" in (await reply_to(running, task_id)).error.reason


def test_a_full_disk_stops_one_submission_and_nothing_else(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")

    async def inside():
        async with federation(tmp_path / "server") as running:
            running.grid.begin_run(mount)
            site, session, task_id, _ = await asked(running)
            blob, data = update_of(running)
            (mount / "other").write_bytes(b"x" * 500_000)
            error = await refusal(site.submit(outcome(task_id, blob), data[: CHUNK + 100]))
            assert type(error) is DiskFull
            (mount / "other").unlink()
            part = mount / f"{task_id}.part"
            have = part.stat().st_size
            assert part.read_bytes() == data[:have]
            small, small_data = update_of(running, 0.3, count=have // 4 + 1000)
            assert small.size > have
            assert type(await refusal(site.submit(outcome(task_id, small), small_data))) is BrokenFile
            assert await site.submit(outcome(task_id, small), small_data) == 0
            await session.beat()
            await session.next("heard")
            assert not (await reply_to(running, task_id)).has_error()

    try:
        asyncio.run(inside())
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@wired
async def test_a_folder_that_went_away(running):
    site, _, task_id, _ = await asked(running)
    blob, data = update_of(running, count=100)  # one piece: gRPC hides the reason where another is under way
    running.hub.spool.rmdir()
    assert type(await refusal(site.submit(outcome(task_id, blob), data))) is StorageError
    running.hub.spool.mkdir()
    assert await site.submit(outcome(task_id, blob), data) == 0


def test_a_cancelled_write_has_ended_before_anybody_goes_on():
    async def inside():
        loop, began, go, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), []

        def work():
            loop.call_soon_threadsafe(began.set)
            go.wait(PATIENCE)
            ended.append(True)

        doing = asyncio.create_task(transfers.unbroken(work))
        await began.wait()
        doing.cancel()
        try:
            for _ in range(5):
                await asyncio.sleep(0)
            assert not doing.done()
        finally:
            go.set()
        with pytest.raises(asyncio.CancelledError):
            await doing
        assert ended == [True]

    asyncio.run(inside())


def test_offset_key_is_what_clients_read():
    assert OFFSET_KEY == "fedwon-offset"
