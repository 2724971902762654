"""What a site hears about an outcome when the run that wanted it was broken off."""

from __future__ import annotations

import asyncio
from queue import SimpleQueue

import pytest

from fedwon.common.errors import LinkError, Refused
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.link.hub import Hub
from fedwon.server.link.tasks import Task


@pytest.mark.parametrize(("state", "kind"), [("stopped", LinkError), ("failed", LinkError), ("finished", Refused)])
def test_it_is_kept_unless_the_run_has_finished(state, kind):
    async def scene() -> None:
        hub = Hub(1.0)
        hub.dispatch([Task("paper", pb.Offer(task_id="t"), None, SimpleQueue())])
        assert hub.task_of("paper", "t").site == "paper"
        hub.run_ended("run", state)
        with pytest.raises(LinkError) as caught:
            hub.task_of("paper", "t")
        assert type(caught.value) is kind

    asyncio.run(scene())
