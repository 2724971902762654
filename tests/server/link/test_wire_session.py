"""Sessions over real connections with real certificates: hello, heartbeats, what a site is told and when it is gone."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from fedwon.common import pki
from fedwon.common.errors import DuplicateSite, Refused, Unreachable, VersionGap
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.server.identity import sites
from fedwon.server.identity.authorities import LiveTrust
from fedwon.server.link.guarding import LONGEST_VERSION
from fedwon.server.link.service import FederationService
from fedwon.server.rounds.site_grid import node_id_of
from fedwon.server.store import Site
from tests.server.server_kit import federation, refusal, rows, tasks, until, wired


@wired
async def test_hello_and_welcome(running):
    call = running.site("line-1").stub.Session()
    data = [pb.ClassCount(name="good", train=7, validation=2, test=1), pb.ClassCount(name="bad", train=3)]
    await call.write(pb.FromSite(hello=pb.Hello(version=VERSION, instance="i", data=data)))
    message = await call.read()
    trusted = running.home.authority.pem
    assert message.welcome == pb.Welcome(site="line-1", version=VERSION, heartbeat_seconds=5.0, authorities=trusted)
    survey = {"good": {"train": 7, "validation": 2, "test": 1}, "bad": {"train": 3, "validation": 0, "test": 0}}
    assert running.grid.sites() == ["line-1"]
    assert running.grid.survey("line-1") == survey
    row = rows(running.home.store, Site)[0]
    assert (row.connected, row.version, row.data) == (True, VERSION, survey)
    call.cancel()
    await running.sites_are()
    assert running.grid.survey("line-1") is None


@wired
async def test_a_session_that_is_left_is_noted(running):
    session = await running.site("line-1").connect()
    await session.leave()
    assert running.grid.sites() == []
    assert rows(running.home.store, Site)[0].connected is False


@wired
async def test_heartbeats_are_heard(running):
    session = await running.site("line-1").connect()
    await session.beat(task_id="t", done=3, total=10)
    await session.next("heard")
    assert running.hub.sessions["line-1"].progress == pb.Heartbeat(task_id="t", done=3, total=10)


@wired
async def test_a_flood_of_heartbeats_does_not_pile_up(running):
    """A site that talks without listening."""
    left = [pb.FromSite(heartbeat=pb.Heartbeat(done=number)) for number in range(100)]

    class Context:
        async def read(self):
            return left.pop() if left else grpc.aio.EOF

    service = FederationService(running.hub, running.home.store, LiveTrust(running.home.folder / "pki").get)
    session = running.hub.open("line-1", pb.Hello(instance="one"))
    await service._listen(session, Context())
    assert session.progress == pb.Heartbeat(done=0)
    assert session.outgoing.qsize() == 1


@wired
async def test_a_version_too_far_away(running):
    site = running.site("line-1")
    for version in ("0.9.0", "9.1.0", "", "nonsense" * 1000):
        error = await refusal(site.connect(version=version))
        assert type(error) is VersionGap
        assert VERSION in error.message
        assert (version[:LONGEST_VERSION] or "unknown") in error.message
        assert len(error.message) < 200
    assert running.grid.sites() == []


@wired
async def test_a_version_next_to_ours(running):
    major, minor, *_ = VERSION.split(".")
    theirs = f"{major}.{int(minor) + 1}.7"
    await running.site("line-1").connect(version=theirs)
    assert rows(running.home.store, Site)[0].version == theirs


@wired
async def test_a_session_begins_with_a_hello(running):
    for first in (pb.FromSite(heartbeat=pb.Heartbeat()), pb.FromSite()):
        call = running.site("line-1").stub.Session()
        await call.write(first)
        assert await call.code() == grpc.StatusCode.PERMISSION_DENIED
        assert "without a hello" in await call.details()
    call = running.site("line-1").stub.Session()
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.PERMISSION_DENIED


@wired
async def test_another_client_with_the_same_identity(running):
    await running.site("line-1", instance="one").connect()
    error = await refusal(running.site("line-1", instance="two").connect())
    assert type(error) is DuplicateSite
    assert "`line-1`" in error.message
    assert running.hub.sessions["line-1"].instance == "one"


@wired
async def test_the_same_client_again_takes_the_place_of_its_broken_session(running):
    first = await running.site("line-1").connect(data=[("good", 1, 1)])
    second = await running.site("line-1").connect(data=[("good", 5, 5)])
    await first.ended()
    assert running.grid.survey("line-1") == {"good": {"train": 5, "validation": 5, "test": 0}}
    assert rows(running.home.store, Site)[0].connected is True
    await second.beat()
    await second.next("heard")


@wired
async def test_once_it_has_left_another_client_may_come(running):
    session = await running.site("line-1", instance="one").connect()
    await session.leave()
    await running.site("line-1", instance="two").connect()
    assert running.grid.sites() == ["line-1"]


def test_a_silent_session_is_dropped(tmp_path):
    async def inside():
        async with federation(tmp_path / "server", heartbeat=0.2) as running:
            silent = await running.site("line-1").connect()
            await silent.ended()
            assert running.grid.sites() == []
            assert rows(running.home.store, Site)[0].connected is False

    asyncio.run(inside())


@wired
async def test_a_site_that_the_database_does_not_know_is_never_counted(running):
    seen = []
    notify = running.hub._notify
    running.hub._notify = lambda: (seen.append(list(running.hub.sessions)), notify())
    error = await refusal(running.site("stranger", enrol=False).connect())
    assert type(error) is Refused
    assert "`stranger`" in error.message
    assert seen == []


@wired
async def test_connecting_while_the_database_cannot_be_written_leaves_no_ghost(running):
    def broken(*_):
        raise Refused("broken")

    monkey = pytest.MonkeyPatch()
    monkey.setattr(sites, "noted", broken)
    try:
        await refusal(running.site("line-1").connect())
    finally:
        monkey.undo()
    assert running.grid.sites() == []
    await running.site("line-1", instance="two").connect()


# ---- certificates


@wired
async def test_without_a_certificate(running):
    stub = rpc.FederationStub(running.channel())
    error = await refusal(stub.Renew(pb.RenewRequest()))
    assert type(error) is Unreachable
    assert "certificate" in error.hint


@wired
async def test_with_a_certificate_of_another_federation(running):
    other = pki.create_authority(running.home.folder / "other", "federation")
    key = pki.new_key()
    certificate = pki.sign_request(other, pki.request("line-1", key), "line-1")
    sites.enrolled(running.home.store, "line-1", sites.now())
    stub = rpc.FederationStub(running.channel(key, certificate))
    assert type(await refusal(stub.Renew(pb.RenewRequest()))) is Unreachable
    assert running.grid.sites() == []


@wired
async def test_a_site_that_expects_another_federation(running):
    other = pki.create_authority(running.home.folder / "other", "federation")
    stub = rpc.FederationStub(running.channel(*running.credentials("line-1"), root=other.pem))
    error = await refusal(stub.Renew(pb.RenewRequest()))
    assert type(error) is Refused
    assert error.hint != Refused.default_hint


# ---- what a site is told


@wired
async def test_a_task_is_offered_and_cancelled(running):
    session = await running.site("line-1").connect()
    message = tasks(running, "line-1")[0]
    await running.done(running.grid.push_messages, [message])
    offer = await session.next("offer")
    assert (offer.task_id, offer.kind, offer.group_id) == ("run.r1.train.line-1", "train", "1")
    assert offer.records[0].config.entries[0].key == "a"
    running.hub.withdraw([offer.task_id], "the operator said so")
    cancel = await session.next("cancel")
    assert cancel == pb.Cancel(task_id=offer.task_id, reason="the operator said so")
    assert running.hub.tasks == {}


@wired
async def test_offers_are_repeated_when_a_site_comes_back(running):
    session = await running.site("line-1").connect()
    messages = tasks(running, "line-1") + tasks(running, "line-1", kind="evaluate")
    await running.done(running.grid.push_messages, messages)
    first = [(await session.next("offer")).task_id for _ in range(2)]
    await session.fail(first[0])
    await until(lambda: running.hub.tasks[first[0]].done)
    await session.leave()
    again = await running.site("line-1").connect()
    assert (await again.next("offer")).task_id == first[1]
    await again.beat()
    await again.next("heard")  # nothing but what is open was offered


@wired
async def test_a_site_that_is_away_gets_its_task_when_it_comes(running):
    await (await running.site("line-1").connect()).leave()
    running.grid._names[node_id_of("line-1")] = "line-1"
    await running.done(running.grid.push_messages, tasks(running, "line-1"))
    session = await running.site("line-1").connect()
    assert (await session.next("offer")).task_id == "run.r1.train.line-1"


@wired
async def test_a_commit_reaches_those_it_concerns(running):
    one, two = await running.site("line-1").connect(), await running.site("line-2").connect()
    await running.done(running.grid.push_messages, tasks(running, "line-1"))
    offer = await one.next("offer")
    await one.fail(offer.task_id)
    await until(lambda: running.hub.tasks[offer.task_id].done)
    await running.done(running.grid.committed, "run", 1, [offer.task_id])
    assert await one.next("committed") == pb.Committed(run="run", round=1, task_ids=[offer.task_id])
    await two.beat()
    await two.next("heard")
    assert running.hub.tasks == {}


@wired
async def test_who_has_not_answered_is_told_to_stop_when_the_round_is_committed(running):
    session = await running.site("line-1").connect()
    await running.done(running.grid.push_messages, tasks(running, "line-1"))
    offer = await session.next("offer")
    await running.done(running.grid.committed, "run", 1, [offer.task_id])
    assert (await session.next("cancel")).task_id == offer.task_id
    assert (await session.next("committed")).task_ids == [offer.task_id]


@wired
async def test_outcomes_of_rounds_that_closed_while_a_site_was_away_need_not_be_kept(running):
    """Otherwise a site's journal grows with every commit that it misses."""
    session = await running.site("line-1").connect(unfinished=["run.r1.train.line-1", "run.r2.train.line-1"])
    await running.done(running.grid.push_messages, tasks(running, "line-1", group="2"))
    await session.next("offer")
    await running.done(running.grid.committed, "run", 2, ["run.r2.train.line-1"])
    await session.next("cancel")
    assert (await session.next("committed")).task_ids == ["run.r1.train.line-1", "run.r2.train.line-1"]
    await running.done(running.grid.committed, "run", 3, [])
    await session.beat()
    assert await session.next("heard") == pb.Heard()  # and nothing was taken back before it


@wired
async def test_what_is_still_asked_for_stays_in_the_journal(running):
    session = await running.site("line-1").connect(unfinished=["run.r2.train.line-1"])
    await running.done(running.grid.push_messages, tasks(running, "line-1", group="2"))
    await session.next("offer")
    await running.done(running.grid.committed, "run", 1, [])
    await session.beat()
    assert await session.next("heard") == pb.Heard()  # and nothing was taken back before it


@wired
async def test_a_site_back_in_the_middle_of_a_round_stops_what_nobody_waits_for(running):
    await running.site("line-1").connect()
    await running.done(running.grid.push_messages, tasks(running, "line-1", group="2"))
    other = await running.site("line-2").connect(unfinished=["run.r1.train.line-2"])
    assert (await other.next("cancel")).task_id == "run.r1.train.line-2"


@wired
async def test_a_site_back_before_the_first_round_keeps_its_work(running):
    session = await running.site("line-1").connect(unfinished=["run.r1.train.line-1"])
    await session.beat()
    assert await session.next("heard") == pb.Heard()  # and nothing was taken back before it


@wired
async def test_the_end_of_a_run(running):
    session = await running.site("line-1").connect()
    await running.done(running.grid.run_ended, "run", "finished")
    assert await session.next("finished") == pb.Finished(run="run", state="finished")


@wired
async def test_only_ones_own_task_can_fail(running):
    one, two = await running.site("line-1").connect(), await running.site("line-2").connect()
    await running.done(running.grid.push_messages, tasks(running, "line-1"))
    offer = await one.next("offer")
    await two.fail(offer.task_id)
    await two.fail("unknown")
    await two.beat()
    await two.next("heard")
    assert not running.hub.tasks[offer.task_id].done


@wired
async def test_a_failure_before_anything_was_asked_is_passed_over(running):
    session = await running.site("line-1").connect()
    await session.fail("run.r1.train.line-1")
    await session.beat()
    assert await session.next("heard") == pb.Heard()  # and nothing was taken back before it


@wired
async def test_reasons_of_a_site_are_plain_and_short(running):
    session = await running.site("line-1").connect()
    message = tasks(running, "line-1")[0]
    names = await running.done(running.grid.push_messages, [message])
    await session.next("offer")
    await session.fail(names[0], "data", "\x1b[31mred\n" + "x" * 10_000)
    await until(lambda: running.hub.tasks[names[0]].done)
    reply = (await running.done(running.grid.pull_messages, names))[0]
    assert reply.has_error()
    assert reply.error.reason.startswith("data:  [31mred x")
    assert reply.error.reason.isprintable()
    assert len(reply.error.reason) < 600


@wired
async def test_stopping_ends_sessions(running):
    session = await running.site("line-1").connect()
    running.hub.stop()
    await session.ended()
    await running.sites_are()
    assert running.hub.sessions == {}
