"""What a site may send for one task, over real connections."""

from __future__ import annotations

from contextlib import suppress

import grpc
import numpy as np
import pytest

from fedwon.common.arrays import Blob
from fedwon.common.errors import Refused
from fedwon.common.rebuilding import most_bytes
from fedwon.server.link.tasks import MOST_SENT
from tests.server.server_kit import error_of, outcome, record, stored, tasks, wired


@wired
async def test_a_site_that_sends_without_end_is_answered_for(running):
    model = stored(running.home.folder / "model.safetensors", record(w=np.zeros(4, np.float32)))
    site = running.site()
    session = await site.connect()
    [name] = await running.done(running.grid.push_messages, tasks(running, "line-1", model=model))
    await session.next("offer")
    most, size = MOST_SENT * most_bytes(model.blob.size), 2**20
    damaged = Blob(running.home.folder, "0" * 64, size)
    for _ in range(most // size):
        with suppress(grpc.aio.AioRpcError):  # its digest differs
            await site.submit(outcome(name, damaged), bytes(size))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.submit(outcome(name, damaged), bytes(size))
    assert type(error_of(caught.value)) is Refused
    [reply] = await running.done(running.grid.pull_messages, [name])
    assert f"and {most} are the most" in reply.error.reason
