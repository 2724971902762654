"""Flower's Grid over real connections: replies as they come, quorum, patience, deadline, the end of a server."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedwon.common.errors import Stopped
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.link.grid import GrpcGrid
from fedwon.server.rounds.site_grid import node_id_of
from fedwon.server.rounds.strategy import FedWon
from fedwon.server.runs.run import Run
from fedwon.server.store import RunRow, TaskRow
from tests.server.server_kit import (
    CLASSES,
    PATIENCE,
    federation,
    good_metrics,
    outcome,
    record,
    rows,
    same,
    shifted,
    small_run,
    stored,
    tasks,
    until,
    wired,
)

SURVEY = [("good", 100, 20), ("bad", 100, 20)]
SITES = ("a", "b", "c")


async def connected(running, *names):
    return {name: await running.site(name).connect(data=SURVEY) for name in names}


class Asking:
    """`send_and_receive` in a thread, as a strategy calls it, reply by reply."""

    def __init__(self, running, messages, timeout=None, per_reply=None):
        self.replies, self.per_reply = [], per_reply
        self.messages = messages
        self.task = asyncio.create_task(running.done(self._run, running.grid, timeout))

    def _run(self, grid, timeout):
        for reply in grid.send_and_receive(self.messages, timeout=timeout):
            self.replies.append(reply)
            if self.per_reply is not None:
                self.per_reply(reply)

    def ids(self):
        return [reply.metadata.reply_to_message_id.rpartition(".")[2] for reply in self.replies]


async def answer(session, **how):
    offer = await session.next("offer")
    await session.site.submit(outcome(offer.task_id, **how))
    return offer.task_id


# ---- replies


@wired
async def test_replies_come_one_by_one(running):
    sessions = await connected(running, *SITES)
    asking = Asking(running, tasks(running, *SITES))
    for count, name in enumerate(("b", "a", "c"), start=1):
        await answer(sessions[name], metrics=good_metrics(count))
        await until(lambda count=count: len(asking.replies) == count)
    await asking.task
    assert asking.ids() == ["b", "a", "c"]
    assert [reply.content["metrics"]["num-examples"] for reply in asking.replies] == [1, 2, 3]
    assert [reply.metadata.src_node_id for reply in asking.replies] == [node_id_of(name) for name in ("b", "a", "c")]


@wired
async def test_a_failure_is_an_error_reply(running):
    sessions = await connected(running, "a", "b")
    asking = Asking(running, tasks(running, "a", "b"))
    await sessions["a"].fail((await sessions["a"].next("offer")).task_id, "data-missing", "no folder")
    await answer(sessions["b"])
    await asking.task
    by_site = dict(zip(asking.ids(), asking.replies, strict=True))
    assert by_site["a"].error.reason == "data-missing: no folder"
    assert not by_site["b"].has_error()


@wired
async def test_nothing_to_send(running):
    assert await running.done(lambda: list(running.grid.send_and_receive([]))) == []


@wired
async def test_what_a_site_answered_before_its_last_task_of_a_round_may_go_when_that_is_committed(running):
    sessions = await connected(running, "a")
    for kind in ("query.before", "train"):
        asking = Asking(running, tasks(running, "a", kind=kind))
        await answer(sessions["a"])
        await asking.task
    await running.done(running.grid.committed, "run", 1, ["run.r1.train.a"])
    committed = await sessions["a"].next("committed")
    assert list(committed.task_ids) == ["run.r1.query.before.a", "run.r1.train.a"]


# ---- deadline, quorum, patience


@wired
async def test_at_the_deadline_the_replies_end_and_the_task_stays_open(running):
    await connected(running, "a", "b")
    asking = Asking(running, tasks(running, "a", "b"), timeout=0.01)
    await asking.task
    assert asking.replies == []
    assert {name: task.done for name, task in running.hub.tasks.items()} == {
        "run.r1.train.a": False,
        "run.r1.train.b": False,
    }


@wired
async def test_a_late_outcome_counts_when_its_round_is_repeated(running):
    sessions = await connected(running, "a")
    first = Asking(running, tasks(running, "a"), timeout=0.01)
    await first.task
    assert first.replies == []
    offer = await sessions["a"].next("offer")
    second = Asking(running, tasks(running, "a"))
    assert (await sessions["a"].next("offer")).task_id == offer.task_id
    await sessions["a"].site.submit(outcome(offer.task_id))
    await second.task
    assert second.ids() == ["a"]


@wired(quorum=1, patience_seconds=0.0)
async def test_the_next_round_takes_back_what_is_open_of_the_last(running):
    sessions = await connected(running, "a", "b")
    first = Asking(running, tasks(running, "a", "b"))
    await answer(sessions["a"])
    await first.task
    second = Asking(running, tasks(running, "a", group="2"))
    await answer(sessions["a"])
    await second.task
    assert (await sessions["b"].next("offer")).group_id == "1"
    assert (await sessions["b"].next("cancel")).task_id == "run.r1.train.b"
    assert list(running.hub.tasks) == ["run.r2.train.a"]


@wired(quorum=2, patience_seconds=0.0)
async def test_once_the_quorum_is_there_patience_ends_the_round(running):
    sessions = await connected(running, *SITES)
    asking = Asking(running, tasks(running, *SITES))
    for name in ("c", "a"):
        await answer(sessions[name])
    await asking.task
    assert asking.ids() == ["c", "a"]


@wired(minimum=2, patience_seconds=0.0)
async def test_without_a_quorum_the_minimum_is_one(running):
    """As docs/configuration.md says, and as the strategy counts."""
    sessions = await connected(running, *SITES)
    asking = Asking(running, tasks(running, *SITES))
    for name in ("c", "a"):
        await answer(sessions[name])
    await asking.task
    assert asking.ids() == ["c", "a"]


@wired(quorum=2)
async def test_without_patience_all_are_waited_for(running):
    sessions = await connected(running, *SITES)
    asking = Asking(running, tasks(running, *SITES))
    for name in SITES:
        await answer(sessions[name])
    await asking.task
    assert sorted(asking.ids()) == list(SITES)


@wired(quorum=2, patience_seconds=0.0)
async def test_errors_and_refused_updates_do_not_count_towards_the_quorum(running):
    sessions = await connected(running, "a", "b", "c", "d", "e")

    def refuse_b(reply):
        if reply.metadata.src_node_id == node_id_of("b"):
            running.grid.discount(reply.metadata.reply_to_message_id)

    asking = Asking(running, tasks(running, "a", "b", "c", "d", "e"), per_reply=refuse_b)
    await sessions["a"].fail((await sessions["a"].next("offer")).task_id)
    for count, name in enumerate(("b", "c"), start=2):
        await answer(sessions[name])
        await until(lambda count=count: len(asking.replies) == count)
    assert not asking.task.done()
    await answer(sessions["d"])
    await asking.task
    assert sorted(asking.ids()) == ["a", "b", "c", "d"]


@wired(quorum=3, patience_seconds=0.0)
async def test_a_repeated_round_counts_what_it_has_already(running):
    """Three are needed, two are there: one more is enough, whoever of the missing it is."""
    missing = ("c", "d", "e")
    sessions = await connected(running, "a", "b", *missing)
    first = Asking(running, tasks(running, "a", "b", *missing))
    for name in ("a", "b"):
        await answer(sessions[name])
    for name in missing:
        await sessions[name].fail((await sessions[name].next("offer")).task_id)
    await first.task
    second = Asking(running, tasks(running, "c", "d"))
    await sessions["c"].fail((await sessions["c"].next("offer")).task_id)
    await until(lambda: len(second.replies) == 1)
    assert not second.task.done()
    await answer(sessions["d"])
    await second.task
    assert second.ids() == ["c", "d"]
    third = Asking(running, tasks(running, *missing))  # enough by now: patience begins with the next reply
    await answer(sessions["e"])
    await third.task
    assert third.ids() == ["e"]


@wired(quorum=1, patience_seconds=0.0)
async def test_a_new_round_counts_from_none(running):
    sessions = await connected(running, "a", "b")
    for group in ("1", "2"):
        asking = Asking(running, tasks(running, "a", "b", group=group))
        await answer(sessions["b"])
        await asking.task
        assert asking.ids() == ["b"]


# ---- stopping


@wired
async def test_stopping_while_it_waits_for_sites(running):
    await connected(running, "a")
    waiting = asyncio.create_task(running.done(running.grid.wait_for_sites, 2))
    await until(lambda: running.hub._changed._waiters)
    running.hub.stop()
    with pytest.raises(Stopped, match="waited for sites"):
        await waiting


@wired
async def test_enough_sites_end_the_wait(running):
    waiting = asyncio.create_task(running.done(running.grid.wait_for_sites, 2))
    sessions = await connected(running, "a", "b")
    await waiting
    await sessions["a"].leave()
    assert running.grid.sites() == ["b"]
    assert list(running.grid.get_node_ids()) == [node_id_of("b")]


@wired
async def test_stopping_in_the_middle_of_a_round(running):
    sessions = await connected(running, "a", "b")
    asking = Asking(running, tasks(running, "a", "b"))
    await answer(sessions["a"])
    await until(lambda: asking.replies)
    running.hub.stop()
    with pytest.raises(Stopped, match="middle of a round"):
        await asking.task
    with pytest.raises(Stopped):  # and whatever is asked after that
        await Asking(running, tasks(running, "b")).task
    with pytest.raises(Stopped):
        await running.done(running.grid.wait_for_sites, 5)


@wired
async def test_a_strategy_that_gives_up_in_the_middle_leaves_nothing_behind(running):
    """The generator is thrown away half read; nothing may wait for an event loop that has ended."""
    await connected(running, "a")
    replies = running.grid.send_and_receive(tasks(running, "a"), timeout=0.01)
    assert await running.done(next, replies, None) is None
    del replies
    await running.done(running.grid.run_ended, "run", "failed")
    assert running.hub.tasks == {}


# ---- pushing and pulling


@wired
async def test_push_and_pull(running):
    sessions = await connected(running, "a", "b")
    names = list(await running.done(running.grid.push_messages, tasks(running, "a", "b")))
    assert names == ["run.r1.train.a", "run.r1.train.b"]
    assert await running.done(running.grid.pull_messages, names) == []
    await answer(sessions["b"])
    first = await running.done(running.grid.pull_messages, names)
    assert [reply.metadata.reply_to_message_id for reply in first] == ["run.r1.train.b"]
    await answer(sessions["a"])
    second = await running.done(running.grid.pull_messages, names[:1])
    assert [reply.metadata.reply_to_message_id for reply in second] == ["run.r1.train.a"]
    with pytest.raises(KeyError):
        await running.done(running.grid.pull_messages, names)


# ---- arrays


@wired
async def test_arrays_in_memory_are_written_once_for_all_sites(running):
    sessions = await connected(running, "a", "b")
    arrays = record(w=[1.0, 2.0])
    asking = Asking(running, tasks(running, "a", "b", model=arrays))
    offers = [await sessions[name].next("offer") for name in ("a", "b")]
    blobs = {offer.records[1].arrays.digest for offer in offers}
    assert len(blobs) == 1
    assert len(list(running.hub.spool.iterdir())) == 1
    assert len(await sessions["a"].site.fetch(blobs.pop())) == offers[0].records[1].arrays.size
    for offer, name in zip(offers, ("a", "b"), strict=True):
        await sessions[name].site.submit(outcome(offer.task_id))
    await asking.task


@wired(spool=False)
async def test_arrays_in_memory_need_a_folder(running):
    await connected(running, "a")
    before = set(os.listdir())  # noqa: PTH208
    with pytest.raises(TypeError, match="begin_run"):
        await Asking(running, tasks(running, "a", model=record(w=[1.0]))).task
    assert set(os.listdir()) == before  # noqa: PTH208


# ---- strategies


async def site_loop(session, by, examples):
    """Be a site: fetch the model, move it, hand it in, until the server goes."""
    folder = session.site.folder
    while True:
        message = await session.call.read()
        if not hasattr(message, "WhichOneof"):
            return
        if message.WhichOneof("body") == "offer":
            offer = message.offer
            named = next(record.arrays for record in offer.records if record.WhichOneof("kind") == "arrays")
            path = folder / f"{session.site.name}-{offer.group_id}"
            path.write_bytes(await session.site.fetch(named.digest))
            from fedwon.common.arrays import open_record

            update = stored(folder / f"{path.name}.update", shifted(open_record(path), by)).blob
            await session.site.submit(
                outcome(offer.task_id, update, metrics=good_metrics(examples)), update.path.read_bytes()
            )
        elif message.WhichOneof("body") in {"committed", "finished"}:
            session.site.inbox.append(message)


async def lines(running, **by):
    """Sites that take part by themselves."""
    sessions = await connected(running, *by)
    loops = []
    for examples, (name, session) in enumerate(sessions.items(), start=10):
        session.site.folder = running.home.folder / f"at-{name}"
        session.site.folder.mkdir()
        loops.append(asyncio.create_task(site_loop(session, by[name], examples)))
    return sessions, loops


@wired
async def test_a_run_of_our_strategy(running):
    store, root = running.home.store, running.home.folder
    sessions, loops = await lines(running, a=0.1, b=-0.3)
    run = await running.done(Run.create, store, root, small_run(minimum=2), CLASSES)
    running.grid.begin_run(run.spool)
    initial = run.last()[1]
    await running.done(lambda: FedWon(run, running.grid).start(running.grid, initial, num_rounds=2, timeout=PATIENCE))
    expected = initial
    for _ in range(2):
        expected = average([Update("a", 10, shifted(expected, 0.1)), Update("b", 11, shifted(expected, -0.3))])
    assert run.last()[0] == 2
    assert same(run.last()[1], expected)
    done = rows(store, TaskRow)
    assert {(row.site, row.round): row.state for row in done} == {(s, n): "averaged" for s in "ab" for n in (1, 2)}
    assert all(row.bytes_down > 0 < row.bytes_up for row in done)
    assert running.hub.tasks == {}
    assert list(run.spool.iterdir()) == []
    await running.done(running.grid.run_ended, run.id, "finished")
    await until(lambda: all(len(session.site.inbox) == 3 for session in sessions.values()))
    kinds = [message.WhichOneof("body") for message in sessions["a"].site.inbox]
    assert kinds == ["committed", "committed", "finished"]
    for loop in loops:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


@wired
async def test_flowers_own_strategy_unchanged(running):
    """Messages without names, arrays in memory, an evaluation round of its own."""
    _, loops = await lines(running, a=1.0, b=2.0)
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2)
    arrays = record(w=[1.0, 2.0])
    result = await running.done(
        lambda: strategy.start(running.grid, arrays, num_rounds=2, timeout=PATIENCE, train_config=ConfigRecord())
    )
    step = (10 * 1.0 + 11 * 2.0) / 21
    assert result.arrays["w"].numpy() == pytest.approx([1 + 2 * step, 2 + 2 * step])
    for loop in loops:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


def test_calls_from_the_strategys_thread_happen_in_the_event_loop(tmp_path):
    async def inside():
        async with federation(tmp_path / "server") as running:
            seen = []
            running.hub.run_ended = lambda *_: seen.append(threading.get_ident())
            await running.done(running.grid.run_ended, "run", "finished")
            assert seen == [threading.get_ident()]

    asyncio.run(inside())


@wired
async def test_a_grid_makes_flowers_messages(running):
    grid = running.grid
    assert isinstance(grid, GrpcGrid)
    message = grid.create_message(RecordDict({"a": ArrayRecord()}), "train", 7, "3")
    assert isinstance(message, Message)
    assert message.metadata.dst_node_id == 7
    grid.set_run(grid.run)
    assert grid.run.run_id == 1
    assert rows(running.home.store, RunRow) == []


def test_node_numbers():
    numbers = {node_id_of(f"line-{i}") for i in range(100)}
    assert len(numbers) == 100
    assert all(1 < number < 2**63 for number in numbers)
    assert node_id_of("line-1") == node_id_of("line-1")
