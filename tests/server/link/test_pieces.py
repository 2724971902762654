"""Pieces that many sites fetch at the same moment are read once."""

from __future__ import annotations

import asyncio
import os

import pytest

from fedwon.common.errors import StorageError
from fedwon.common.wire.grpc_errors import PIECE
from fedwon.server.link import pieces, transfers
from fedwon.server.link.transfers import read_chunks

SIZE = 9 * PIECE + 1234


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def reads(monkeypatch):
    """The first piece of each step that reads."""
    found, read = [], pieces._read

    def watched(descriptor, first):
        found.append(first)
        return read(descriptor, first)

    monkeypatch.setattr(pieces, "_read", watched)
    return found


async def fetched(path, offset=0):
    return b"".join([data async for data in read_chunks(path, offset)])


@pytest.mark.parametrize("offset", [0, 1, PIECE - 1, PIECE, 5 * PIECE + 7, SIZE - 1, SIZE])
def test_every_offset_gives_the_rest(model, offset):
    assert asyncio.run(fetched(model, offset)) == model.read_bytes()[offset:]


def test_many_at_once_read_once_and_leave_nothing_behind(model, reads):
    async def inside():
        found = await asyncio.gather(*(fetched(model) for _ in range(20)))
        assert found == [model.read_bytes()] * 20
        assert len(transfers._SHARED) == 0

    asyncio.run(inside())
    assert sorted(reads) == [0, 4, 8]


def test_no_more_is_kept_than_allowed_and_who_lags_reads_again(model, reads, monkeypatch):
    monkeypatch.setattr(pieces, "MOST", 4)

    async def inside():
        slow = read_chunks(model, 0)
        first = await anext(slow)
        assert await fetched(model) == model.read_bytes()
        assert len(transfers._SHARED) <= 4
        rest = [data async for data in slow]
        assert first + b"".join(rest) == model.read_bytes()

    asyncio.run(inside())
    assert sorted(reads) == [0, 0, 4, 4, 8, 8]


def test_a_file_that_was_replaced_is_another_one(model):
    async def inside():
        old = model.read_bytes()
        before = read_chunks(model, 0)
        first = await anext(before)
        new = model.with_suffix(".new")
        new.write_bytes(bytes(reversed(old)))
        new.replace(model)
        assert await fetched(model) == bytes(reversed(old))
        assert first + b"".join([data async for data in before]) == old

    asyncio.run(inside())


def test_who_goes_away_takes_nothing_from_others(model):
    async def inside():
        going = asyncio.create_task(fetched(model))
        staying = asyncio.create_task(fetched(model))
        await asyncio.sleep(0)
        going.cancel()
        assert await staying == model.read_bytes()

    asyncio.run(inside())


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(StorageError):
        asyncio.run(fetched(tmp_path / "none"))
    assert len(transfers._SHARED) == 0
