"""A server of a later version: what it says beyond this version's words is passed over, and its tasks are done."""

from __future__ import annotations

import asyncio

from fedwon.common.wire import fedwon_pb2 as pb
from tests.golden.write import with_a_later_field
from tests.link.link_kit import finished, until, welcome
from tests.link.session_kit import run


def test_its_tasks_are_done(federation, server, app, task):
    async def session(server, context) -> None:
        await context.write(with_a_later_field(welcome()))
        await context.write(with_a_later_field(pb.FromServer()))  # a kind of message that this version does not know
        await context.write(pb.FromServer(offer=with_a_later_field(task)))
        await until(lambda: server.submitted)
        await context.write(with_a_later_field(finished()))
        await asyncio.sleep(60)

    server.scripts = [session]
    run(federation, server, seconds=60)
    assert app.calls == [task.task_id]
    assert len(server.hellos) == 1
