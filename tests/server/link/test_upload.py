"""An update on its way to the disk: written while it comes, hashed as it is written, whole or to be gone on with."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.common.errors import BrokenFile, DiskFull
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.link import transfers
from fedwon.server.link.transfers import Upload

DATA = os.urandom(5000)
WANTED = pb.Blob(digest=hashlib.sha256(DATA).hexdigest(), size=len(DATA))


async def sent(upload, data, sizes):
    """Send pieces of these sizes, what is left over as the last."""
    start = upload.begin()
    for size in (*sizes, len(data)):
        await upload.add(data[start : start + size])
        start = min(start + size, len(data))
    await upload.settle()


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(0, 900), max_size=20), cut=st.integers(0, 4999))
def test_any_pieces_and_any_break_give_the_file(tmp_path_factory, sizes, cut):
    part = tmp_path_factory.mktemp("u") / "t.part"

    async def inside():
        await sent(Upload(part, WANTED), DATA[:cut], sizes)
        assert part.read_bytes() == DATA[:cut] if cut else True
        again = Upload(part, WANTED)
        await sent(again, DATA, sizes)
        assert again.finish().path.read_bytes() == DATA

    asyncio.run(inside())


def test_a_part_that_was_damaged_on_the_disk_is_not_taken(tmp_path):
    async def inside():
        upload = Upload(tmp_path / "t.part", WANTED)
        await sent(upload, DATA[:3000], [])
        with upload.part.open("r+b") as file:
            file.write(bytes(10))
        again = Upload(upload.part, WANTED)
        await sent(again, DATA, [])
        with pytest.raises(BrokenFile, match="damaged"):
            again.finish()
        assert not upload.part.exists()

    asyncio.run(inside())


def test_nothing_is_written_behind_what_is_missing(tmp_path, monkeypatch):
    upload, append, calls = Upload(tmp_path / "t.part", WANTED), Upload._append, []

    def second_fails(self, pieces):
        calls.append(pieces)
        if len(calls) == 2:
            raise DiskFull("no space left")
        append(self, pieces)

    monkeypatch.setattr(Upload, "_append", second_fails)

    async def inside():
        upload.begin()

        async def receive():
            for start in range(0, 5000, 500):
                await upload.add(DATA[start : start + 500])
                await asyncio.sleep(0.005)

        with pytest.raises(DiskFull):
            await receive()
        await upload.settle()

    asyncio.run(inside())
    have = upload.part.stat().st_size
    assert len(calls) == 2
    assert 0 < have < 5000
    assert upload.part.read_bytes() == DATA[:have]


def test_a_fast_line_waits_with_the_disk(tmp_path, monkeypatch):
    go, append = threading.Event(), Upload._append

    def slow(self, pieces):
        assert go.wait(30)
        append(self, pieces)

    monkeypatch.setattr(Upload, "_append", slow)

    async def inside():
        upload = Upload(tmp_path / "t.part", WANTED)
        upload.begin()
        for index in range(transfers.MOST_GATHERED + 1):  # one on its way, the others gathered
            await asyncio.wait_for(upload.add(DATA[index : index + 1]), 10)
        waiting = asyncio.create_task(upload.add(DATA[9:10]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        go.set()
        await waiting
        await upload.settle()
        assert upload.part.read_bytes() == DATA[:10]

    asyncio.run(inside())


def test_a_call_that_is_cancelled_leaves_all_that_came(tmp_path, monkeypatch):
    go, append = threading.Event(), Upload._append

    def slow(self, pieces):
        assert go.wait(30)
        append(self, pieces)

    monkeypatch.setattr(Upload, "_append", slow)

    async def receive(upload):
        try:
            for start in range(0, 5000, 100):
                await upload.add(DATA[start : start + 100])
        finally:
            await upload.settle()

    async def inside():
        upload = Upload(tmp_path / "t.part", WANTED)
        upload.begin()
        receiving = asyncio.create_task(receive(upload))
        await asyncio.sleep(0.05)
        receiving.cancel()
        await asyncio.sleep(0.05)
        assert not receiving.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        have = upload.part.read_bytes()
        assert have
        assert have == DATA[: len(have)]

    asyncio.run(inside())
