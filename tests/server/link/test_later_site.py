"""A site of a later version: what it says beyond this version's words is passed over, and it is served."""

from __future__ import annotations

from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from tests.golden.write import with_a_later_field
from tests.server.server_kit import outcome, tasks, wired


@wired(spool=False)
async def test_it_is_served(running):
    site = running.site("line-1")
    call = site.stub.Session()
    data = [with_a_later_field(pb.ClassCount(name="bad", train=3))]
    hello = with_a_later_field(pb.Hello(version=VERSION, instance="one", data=data))
    await call.write(with_a_later_field(pb.FromSite(hello=hello)))
    assert (await call.read()).WhichOneof("body") == "welcome"
    assert running.hub.sessions["line-1"].survey == {"bad": {"train": 3, "validation": 0, "test": 0}}

    await call.write(with_a_later_field(pb.FromSite()))  # a kind of message that this version does not know
    await call.write(with_a_later_field(pb.FromSite(heartbeat=with_a_later_field(pb.Heartbeat(done=1, total=2)))))
    assert (await call.read()).WhichOneof("body") == "heard"
    assert (running.hub.sessions["line-1"].progress.done, running.hub.sessions["line-1"].progress.total) == (1, 2)

    [message] = tasks(running, "line-1")
    await running.done(running.grid.push_messages, [message])
    offer = (await call.read()).offer
    await site.submit(with_a_later_field(outcome(offer.task_id)))
    assert running.hub.tasks[offer.task_id].done
