"""One process a folder."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from fedwon.common.errors import DuplicateSite, StorageError
from fedwon.common.lock import held, locked

TAKEN = DuplicateSite("Somebody else is here.")


def test_a_lock_is_held_while_the_block_runs(tmp_path):
    path = tmp_path / "x.lock"

    async def go():
        assert not held(path)
        async with locked(path, 0, TAKEN):
            assert held(path)
            with pytest.raises(DuplicateSite, match="Somebody else"):
                async with locked(path, 0.3, TAKEN):
                    pass
            assert held(path)
        assert not held(path)

    asyncio.run(go())
    assert path.exists()


def test_whoever_waits_gets_it_when_it_is_let_go(tmp_path):
    path, order = tmp_path / "x.lock", []

    async def first():
        async with locked(path, 0, TAKEN):
            order.append("first")
            await asyncio.sleep(0.3)
            order.append("first goes")

    async def second():
        async with locked(path, 30, TAKEN):
            order.append("second")

    async def go():
        holding = asyncio.create_task(first())
        await asyncio.sleep(0.05)
        await second()
        await holding

    asyncio.run(go())
    assert order == ["first", "first goes", "second"]


def test_a_folder_where_nothing_can_be_written(tmp_path):
    async def go():
        async with locked(tmp_path / "nowhere" / "x.lock", 0, TAKEN):
            pass

    with pytest.raises(StorageError):
        asyncio.run(go())


def test_looking_leaves_no_file_behind(tmp_path):
    assert not held(tmp_path / "x.lock")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_lock_that_may_not_be_looked_at_counts_as_held(tmp_path):
    path = tmp_path / "x.lock"
    path.touch()
    path.chmod(stat.S_IWUSR)
    assert held(path)
