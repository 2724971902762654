"""A relay: many answers as one, and what it does with its parent's tasks; two levels as processes are in tests/e2e."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction

import grpc
import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedwon.client.config import LinkConfig
from fedwon.client.training import progress
from fedwon.common.arrays import open_record, write_record
from fedwon.common.config import dump
from fedwon.common.errors import ConfigError, ConfigMissing, FolderTaken, SecureError, TaskFailed, TooFewUpdates
from fedwon.common.flower import incoming
from fedwon.common.methods import METHODS
from fedwon.common.run_config import RunConfig
from fedwon.common.surveys import summed
from fedwon.common.task_config import TaskConfig
from fedwon.common.update_settings import AggregationConfig
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.surveys import survey_from_wire, survey_to_wire
from fedwon.server.admission.rules import refuse_metrics
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.aggregation.combining import MOST, combine, combined_metrics
from fedwon.server.cli import app
from fedwon.server.identity.standing import revoke
from fedwon.server.relays.relaying import Relay, run_relay
from fedwon.server.relays.rounds import RelayRounds, config_of, evaluate_below
from fedwon.server.rounds.site_grid import metrics_of
from fedwon.server.runs.run import Run
from fedwon.server.runs.starting import initial_weights
from fedwon.server.store import RunRow, TaskRow
from fedwon.server.store import Site as SiteRow
from tests.server.secure.secure_kit import secure_run
from tests.server.server_kit import (
    CLASSES,
    PATIENCE,
    FakeGrid,
    answering,
    good_metrics,
    make_home,
    outcome,
    record,
    rows,
    same,
    shifted,
    small_run,
    stored,
    until,
    wired,
)

UNCAPPED = AggregationConfig(weight_cap=1e9)


def leaves(folder, counts, groups, values):
    """Updates of sites, by the relay that each is below."""
    made: dict[int, list[Update]] = {}
    for i, (count, group, row) in enumerate(zip(counts, groups, values, strict=True)):
        update = Update(f"s{i}", count, stored(folder / f"s{i}.safetensors", record(w=np.float32(row))))
        made.setdefault(group, []).append(update)
    return made


def through_relays(folder, below, *, rounded=False):
    """The parent's average of what its relays send; `rounded`: as if they sent float32."""
    updates = []
    for group, members in below.items():
        metrics = [good_metrics(update.examples) for update in members]
        combined = combine(members, metrics, UNCAPPED)
        arrays = record(w=np.float32(combined.arrays["w"].numpy())) if rounded else combined.arrays
        sent = stored(folder / f"relay-{group}.safetensors", arrays)
        updates.append(Update(f"relay-{group}", int(combined.metrics["num-examples"]), sent))
    return average(updates, cap=1e9, element_types={"w": "float32"})["w"].numpy()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_average_through_relays_is_the_flat_one(tmp_path_factory, data):
    sites = data.draw(st.integers(1, 7))
    counts = data.draw(st.lists(st.integers(1, 10**6), min_size=sites, max_size=sites))
    groups = data.draw(st.lists(st.integers(0, 2), min_size=sites, max_size=sites))
    number = st.floats(-(2.0**100), 2.0**100, width=32)
    values = data.draw(st.lists(st.lists(number, min_size=3, max_size=3), min_size=sites, max_size=sites))
    folder = tmp_path_factory.mktemp("tree")
    below = leaves(folder, counts, groups, values)
    everyone = [update for members in below.values() for update in members]
    found, flat = through_relays(folder, below), average(everyone, cap=1e9)["w"].numpy()

    total = sum(counts)
    for place in range(3):
        terms = [Fraction(count, total) * Fraction(row[place]) for count, row in zip(counts, values, strict=True)]
        exact, size = sum(terms), sum(map(abs, terms))
        slack = (sites + 8) * Fraction(1, 2**52) * size  # the order of float64 additions; see combining.py
        for value in (found[place], flat[place]):
            assert abs(Fraction(float(value)) - exact) <= Fraction(float(np.spacing(np.abs(value)))) / 2 + slack
        difference = abs(Fraction(float(found[place])) - Fraction(float(flat[place])))
        assert difference <= Fraction(float(np.spacing(np.abs(flat[place])))) + slack


def test_rounded_at_every_level_it_would_be_far_off_where_means_cancel(tmp_path):
    values = [[1.0, 0.1, 3e7], [1.0 + 2**-22, 0.3, 1.0], [-1.0, -0.2, -3e7], [-1.0 - 2**-23, -0.2, 1.0]]
    below = leaves(tmp_path, [3, 5, 3, 5], [0, 0, 1, 1], values)
    flat = average([update for members in below.values() for update in members], cap=1e9)["w"].numpy()
    spacing = np.spacing(np.abs(flat))
    assert np.all(np.abs(through_relays(tmp_path, below) - flat) <= spacing)
    assert np.any(np.abs(through_relays(tmp_path, below, rounded=True) - flat) > 1000 * spacing)


def test_three_levels(tmp_path):
    rng = np.random.default_rng(1)
    below = leaves(tmp_path, [5, 9, 2, 30], [0, 0, 1, 1], rng.normal(size=(4, 50)))
    lower = {
        group: combine(members, [good_metrics(u.examples) for u in members], UNCAPPED)
        for group, members in below.items()
    }
    middle = [
        Update(f"r{group}", int(one.metrics["num-examples"]), stored(tmp_path / f"r{group}.safetensors", one.arrays))
        for group, one in lower.items()
    ]
    upper = combine(middle, [dict(one.metrics) for one in lower.values()], UNCAPPED)
    assert upper.arrays["w"].dtype == "float64"
    assert upper.metrics["num-examples"] == 46
    flat = average([update for members in below.values() for update in members], cap=1e9)["w"].numpy()
    assert np.all(np.abs(np.float32(upper.arrays["w"].numpy()) - flat) <= np.spacing(np.abs(flat)))


def test_integers_are_those_of_the_first_site(tmp_path):
    updates = [
        Update(name, 1, stored(tmp_path / name, record(n=np.int64(count), w=np.float32([count]))))
        for name, count in (("b", 2), ("a", 7))
    ]
    combined = combine(updates, [good_metrics(1)] * 2, UNCAPPED)
    assert combined.arrays["n"].numpy() == 7
    assert combined.arrays["n"].dtype == "int64"
    assert combined.sites == ("a", "b")


@pytest.mark.parametrize(
    ("rules", "late", "expected"),
    [
        ({}, 0, 10 + 12 + 110),  # ten times the median, 11, is the most
        ({"weight_cap": 1e9}, 0, 10 + 12 + 10**6),
        ({"weights": "uniform", "weight_cap": 1e9}, 0, 10 + 12 + 10**6),  # what the parent weighs by is images
        ({"weight_cap": 1e9, "staleness": 1.0}, 1, (10 + 12 + 10**6) // 2),
    ],
)
def test_what_a_relay_weighs(tmp_path, rules, late, expected):
    counts = [10, 12, 10**6] if rules else [10, 11, 10**6]
    expected = expected if rules else 10 + 11 + 110
    updates = [
        Update(f"s{i}", count, stored(tmp_path / f"{i}", record(w=np.float32([i]))), rounds_late=late)
        for i, count in enumerate(counts)
    ]
    combined = combine(updates, [good_metrics(count) for count in counts], AggregationConfig(**rules))
    assert combined.metrics["num-examples"] == expected


COUNTED = (
    *("num-examples", "steps", "corrupt-images", "validation-correct", "validation-examples"),
    *("test-correct", "test-examples"),
)
COUNT = st.integers(0, 10**6)
ANSWER = st.fixed_dictionaries(
    {
        "num-examples": st.integers(1, 10**6),
        "train-loss": st.floats(0, 100),
        "train-seconds": st.floats(0, 1e4),
        "steps": COUNT,
        "clipped-fraction": st.floats(0, 1),
        "validation-loss": st.floats(0, 100),
        "validation-correct": COUNT,
        "validation-examples": COUNT,
        "test-loss": st.floats(0, 100),
        "test-correct": COUNT,
        "test-examples": COUNT,
        "corrupt-images": COUNT,
    }
)


@given(st.lists(ANSWER, min_size=1, max_size=5))
def test_the_numbers_are_those_of_one_site_with_all_images(answers):
    found = combined_metrics(answers)
    for key in COUNTED:
        assert found[key] == sum(answer[key] for answer in answers)
        assert isinstance(found[key], int)
    assert found["train-seconds"] == max(answer["train-seconds"] for answer in answers)
    weighed_by = {"train-loss": "num-examples", "clipped-fraction": "num-examples"}
    for key in ("train-loss", "clipped-fraction", "validation-loss", "test-loss"):
        weight = weighed_by.get(key, f"{key.split('-')[0]}-examples")
        if total := sum(answer[weight] for answer in answers):
            assert found[key] == pytest.approx(sum(answer[key] * answer[weight] for answer in answers) / total)
        else:
            assert 0 <= found[key] <= 100


@pytest.mark.parametrize("surveyed", [True, False])
def test_who_measures_on_more_images_than_it_has_does_not_decide_the_relays_accuracy(surveyed):
    inflated = answering(0.0, 10, **{"validation-examples": 10**9, "validation-correct": 10**9})
    grid = FakeGrid({"a": answering(0.0, 10), "x": inflated}, {name: {"bad": {"train": 10}} for name in "ax"})
    content = RecordDict({"arrays": record(w=np.zeros(2, np.float32)), "config": ConfigRecord()})
    together, single = evaluate_below(grid, content, number=1, name=str, timeout=5, surveyed=surveyed)
    assert sorted(single) == (["a"] if surveyed else ["a", "x"])
    assert together["validation-examples"] == sum(one["validation-examples"] for one in single.values())


def test_numbers_that_only_some_tell_are_left_out_and_none_gets_out_of_hand():
    wild = good_metrics(10**300, steps=10**300, huge=1e308, own=1)
    assert "own" in combined_metrics([wild])
    found = combined_metrics([wild, good_metrics(1, steps=1, huge=1e308), wild | {"own": 2}])
    assert "own" not in found
    assert found["num-examples"] == found["steps"] == MOST
    assert refuse_metrics(found) is None


def test_surveys_add_up():
    mine, yours = {"good": {"train": 3, "validation": 1, "test": 0}}, {"bad": {"train": 1}, "good": {"train": 2}}
    together = summed([mine, yours])
    assert together == {
        "bad": {"train": 1, "validation": 0, "test": 0},
        "good": {"train": 5, "validation": 1, "test": 0},
    }
    assert list(together) == ["bad", "good"]
    assert survey_from_wire(survey_to_wire(together)) == together
    assert summed([]) == {}
    liar = {"good": {"train": 2**64 - 1}}
    assert survey_to_wire(summed([liar, liar]))[0].train == 2**53


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("number", [1, 4])
def test_a_task_says_which_run_it_is_of(name, number):
    theirs = RunConfig(
        name="theirs", method=name, rounds=4, seed=9, classes=CLASSES, training={"lr": 0.5, "schedule": "cosine"}
    )
    task = TaskConfig.of(theirs, run="r", server_round=number, classes=CLASSES)
    own = small_run(deadline_seconds=7)
    found = config_of(task, own)
    assert (found.participation, found.aggregation, found.name) == (own.participation, own.aggregation, own.name)
    assert (found.seed, found.rounds, found.classes) == (9, number, CLASSES)
    assert (found.model, found.images) == (theirs.model, theirs.images)
    assert found.rules.normalization == theirs.rules.normalization
    assert found.rules.keeps == theirs.rules.keeps
    if (name, number) != ("fixbn", 1):  # until it freezes it is fedavg
        assert found.method == name
    assert config_of(task, own.model_copy(update={"method": name})).method == name
    RunConfig.model_validate(found.model_dump())  # as it is read again after a restart


def test_a_method_of_a_later_version():
    task = TaskConfig.of(small_run(), run="r", server_round=1, classes=CLASSES)
    with pytest.raises(TaskFailed, match="method that this version does not know"):
        config_of(task.model_copy(update={"keeps": "everything"}), small_run())


# The relay between a parent that is a message and sites that are scripts.


@dataclass
class Parent:
    """What a parent would send, and a relay to send it to."""

    relay: Relay
    running: object
    events: list = field(default_factory=list)
    told: list = field(default_factory=list)
    run: str = "theirs-1"

    def message(self, number, model, kind="train", **changes):
        task = TaskConfig.of(small_run(), run=self.run, server_round=number, classes=CLASSES)
        content = RecordDict({"arrays": model, "config": ConfigRecord({**task.flat(), **changes})})
        name = f"{self.run}.r{number:04d}.{kind if kind == 'train' else 'evaluate-ab'}.east"
        return incoming(content, kind, node_id=1, message_id=name, group_id=str(number))

    async def ask(self, message, cancelled=None):
        def work():
            with progress.watch(lambda *step: self.told.append(step), cancelled or threading.Event()):
                return self.relay.work(message, None)

        return (await self.running.done(work)).content

    def says(self, **body):
        self.relay.overhear(pb.FromServer(**body))

    async def committed(self, number):
        self.says(committed=pb.Committed(run=self.run, round=number))
        await self.noted()

    async def noted(self):
        await asyncio.wait_for(asyncio.gather(*self.relay._notes), PATIENCE)


@asynccontextmanager
async def relaying(running, **participation):
    config = running.home.config.model_copy(update={"run": small_run(minimum=2, pause_seconds=None, **participation)})
    running.home.config = config
    events = []
    yield Parent(Relay(running.home, running.grid, running.hub, events.append), running, events)


def initial(folder):
    task = TaskConfig.of(small_run(), run="theirs-1", server_round=0, classes=CLASSES)
    path = folder / "parents.safetensors"
    write_record(initial_weights(small_run(), task), path)
    return open_record(path)


class Line:
    """A site below the relay that answers by itself."""

    def __init__(self, session, by, examples, folder) -> None:
        self.session, self.by, self.examples, self.folder = session, by, examples, folder
        self.offers, self.heard, self.work = [], [], []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.work.append(asyncio.create_task(self._listen()))

    async def _listen(self):
        while (message := await self.session.call.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("body")
            if kind == "offer":
                self.offers.append(message.offer)
                self.work.append(asyncio.create_task(self._submit(message.offer)))
            else:
                self.heard.append((kind, getattr(message, kind)))

    async def _submit(self, offer):
        await self.goes_on.wait()
        with suppress(grpc.aio.AioRpcError):  # a task that is not waited for any more
            if offer.kind == "evaluate":
                tested = dict.fromkeys(("test-correct", "test-examples", "test-loss"), 0)
                return await self.session.site.submit(outcome(offer.task_id, metrics=good_metrics(4) | tested))
            blob = next(record.arrays for record in offer.records if record.HasField("arrays"))
            model = self.folder / f"{offer.task_id}.model"
            model.write_bytes(await self.session.site.fetch(blob.digest))
            update = stored(self.folder / f"{offer.task_id}.update", shifted(open_record(model), self.by)).blob
            header = outcome(offer.task_id, update, metrics=good_metrics(self.examples))
            return await self.session.site.submit(header, update.path.read_bytes())

    def names(self):
        return [offer.task_id for offer in self.offers]


async def lines(running, **by):
    made = {}
    for examples, (name, shift) in enumerate(by.items(), start=10):
        session = await running.site(name).connect(data=[("bad", 20, 1), ("good", 20, 1)])
        made[name] = Line(session, shift, examples, running.home.folder)
    return made


async def end(below):
    work = [task for line in below.values() for task in line.work]
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


@wired(spool=False)
async def test_a_run_of_the_parent(running):
    folder = running.home.folder
    below = await lines(running, a=0.1, b=-0.3)
    async with relaying(running) as parent:
        model = initial(folder)
        first = await parent.ask(parent.message(1, model))
        mean = first["arrays"]
        assert {array.dtype for array in mean.values()} == {"float64"}
        wanted = average(
            [Update("a", 10, shifted(model, 0.1)), Update("b", 11, shifted(model, -0.3))],
            element_types=dict.fromkeys(model, "float64"),
        )
        assert same(mean, wanted)
        told = {"validation-correct": 6, "validation-examples": 8, "sites-behind": 2}
        assert metrics_of(first) == good_metrics(21, **told)
        assert below["a"].names() == ["theirs-1.r0001.train.a"]
        assert parent.told[-1] == (2, 2)  # sites that have answered

        run = Run.open(running.home.store, folder)
        assert (run.id, run.last()[0]) == ("theirs-1", 0)
        assert same(run.last()[1], model)
        # the sites keep what they sent until the parent has committed
        assert len(list(run.spool.iterdir())) == 2
        assert below["a"].heard == []
        await parent.committed(1)
        await until(lambda: [kind for kind, _ in below["a"].heard] == ["committed"])
        assert list(run.spool.iterdir()) == []
        assert {row.state for row in rows(running.home.store, TaskRow)} == {"averaged"}

        second = shifted(model, 1.0)
        path = folder / "second.safetensors"
        write_record(second, path)
        await parent.ask(parent.message(2, open_record(path)))  # and the parent's word that it is committed is lost
        measured = await parent.ask(parent.message(2, model, "evaluate"))
        assert metrics_of(measured)["validation-examples"] == 8
        assert metrics_of(measured)["num-examples"] == 8
        assert "arrays" not in measured
        assert below["b"].names()[-1] == "theirs-1.r0002.evaluate-ab.b"
        parent.says(finished=pb.Finished(run="theirs-1", state="finished"))
        await parent.noted()
        await until(lambda: below["a"].heard[-1] == ("finished", pb.Finished(run="theirs-1", state="finished")))
        run = Run.open(running.home.store, folder)
        assert run.last()[0] == 2
        assert run.config.rounds == 2
        assert same(open_record(run.folder / "model.safetensors"), model)  # what the final evaluation brought
        assert [kind for kind, _ in below["a"].heard].count("committed") >= 2
    await end(below)


@wired(spool=False)
async def test_the_settings_travel_word_for_word(running):
    below = await lines(running, a=0.1, b=0.1)
    async with relaying(running) as parent:
        message = parent.message(1, initial(running.home.folder), **{"server-round": 1})
        await parent.ask(message)
        [sent] = [record for record in below["a"].offers[0].records if record.HasField("config")]
        assert {entry.key for entry in sent.config.entries} == set(message.content["config"])
    await end(below)


@wired(spool=False)
async def test_a_task_that_the_parent_gives_up(running):
    below = await lines(running, a=0.1, b=0.1)
    below["b"].goes_on.clear()
    async with relaying(running) as parent:
        cancelled = threading.Event()
        message = parent.message(1, initial(running.home.folder))
        asked = asyncio.create_task(parent.ask(message, cancelled))
        await until(lambda: parent.told and parent.told[-1] == (1, 2))
        parent.says(cancel=pb.Cancel(task_id="another"))
        assert not running.hub.broken_off
        cancelled.set()
        parent.says(cancel=pb.Cancel(task_id=message.metadata.message_id))
        with pytest.raises(progress.Cancelled):
            await asked
        await until(lambda: below["b"].heard)
        assert below["b"].heard[0][0] == "cancel"
        assert running.hub.tasks == {}
        below["b"].goes_on.set()
        await parent.ask(parent.message(2, initial(running.home.folder)))  # and it goes on with the next one
        with pytest.raises(progress.Cancelled):  # cancelled ahead of its beginning
            await parent.ask(parent.message(3, initial(running.home.folder)), cancelled)
    await end(below)


@wired(spool=False)
async def test_a_relay_that_is_stopped_tells_no_failure(running):
    below = await lines(running, a=0.1, b=0.1)
    below["b"].goes_on.clear()
    async with relaying(running) as parent:
        asked = asyncio.create_task(parent.ask(parent.message(1, initial(running.home.folder))))
        await until(lambda: parent.told and parent.told[-1] == (1, 2))
        running.hub.stop()
        with pytest.raises(progress.Cancelled):
            await asked
    await end(below)


@wired(spool=False)
async def test_too_few_of_its_sites(running):
    below = await lines(running, a=0.1, b=float("nan"))
    async with relaying(running, retries=0) as parent:
        with pytest.raises(TooFewUpdates, match=r"1 usable updates of 2 needed.*b \(tensor .* not finite"):
            await parent.ask(parent.message(1, initial(running.home.folder)))
        run = Run.open(running.home.store, running.home.folder)
        assert len(list(run.quarantine.iterdir())) == 1
        below["b"].by = 0.1
        again = await parent.ask(parent.message(1, initial(running.home.folder)))  # the parent asks again
        assert metrics_of(again)["num-examples"] == 21
    await end(below)


@wired(spool=False)
async def test_after_a_restart_the_round_goes_on_from_what_is_here(running):
    folder = running.home.folder
    below = await lines(running, a=0.1, b=0.1)
    async with relaying(running) as parent:
        before = await parent.ask(parent.message(1, initial(folder)))
        digest = Run.open(running.home.store, folder).last()[1].blob.digest
        running.hub.tasks.clear()  # and all else that a process forgets
    async with relaying(running) as parent:
        after = await parent.ask(parent.message(1, initial(folder)))
        assert same(after["arrays"], before["arrays"])
        assert Run.open(running.home.store, folder).last()[1].blob.digest == digest
        assert below["a"].names() == ["theirs-1.r0001.train.a"] * 2
        assert below["a"].offers[0] == below["a"].offers[1]  # the same model and words: the journal's outcome counts
    await end(below)


@wired(spool=False)
async def test_a_restart_between_the_last_round_and_the_end(running):
    folder = running.home.folder
    below = await lines(running, a=0.1, b=0.1)
    async with relaying(running) as parent:
        await parent.ask(parent.message(1, initial(folder)))
    async with relaying(running) as parent:
        path = folder / "final.safetensors"
        write_record(shifted(initial(folder), 1.0), path)
        await parent.ask(parent.message(1, open_record(path), "evaluate"))
        parent.says(finished=pb.Finished(run="theirs-1", state="finished"))
        await parent.noted()
        await until(lambda: below["a"].heard and below["a"].heard[-1][0] == "finished")
        run = Run.open(running.home.store, folder)
        assert run.state == "finished"
        assert same(open_record(run.folder / "model.safetensors"), open_record(path))
        parent.says(finished=pb.Finished(run="unknown", state="finished"))
        await parent.noted()
    await end(below)


@wired(spool=False)
async def test_a_parent_that_goes_back_to_an_earlier_round(running):
    """As after a damaged checkpoint: what counts is the model that comes with the task."""
    below = await lines(running, a=0.0, b=0.0)
    async with relaying(running) as parent:
        model = initial(running.home.folder)
        path = running.home.folder / "second.safetensors"
        write_record(shifted(model, 1.0), path)
        await parent.ask(parent.message(1, model))
        await parent.ask(parent.message(2, open_record(path)))
        again = await parent.ask(parent.message(1, model))
        wide = dict.fromkeys(model, "float64")
        unmoved = [Update("a", 10, shifted(model, 0.0)), Update("b", 11, shifted(model, 0.0))]
        assert same(again["arrays"], average(unmoved, element_types=wide))
    await end(below)


def test_back_from_a_later_round_nothing_of_it_is_left(make_run):
    run = make_run(late_rounds=1, quorum=1, retries=0, pause_seconds=None)
    asked = []

    def good(message, site):
        asked.append((site, message.metadata.group_id))
        return answering()(message, site)

    grid = FakeGrid({"a": good, "b": lambda message, site: asked.append((site, message.metadata.group_id))})
    rounds, model = RelayRounds(run, grid), run.last()[1]
    rounds.round(3, model, ConfigRecord())
    rounds.settle(3)
    rounds.round(2, model, ConfigRecord())
    assert asked == [("a", "3"), ("b", "3"), ("a", "2"), ("b", "2")]
    grid.here = ["b"]  # the parent asks again, and whoever answered before has left
    with pytest.raises(TooFewUpdates):
        rounds.round(2, model, ConfigRecord())
    rounds.settle(2)


@wired(spool=False)
async def test_another_run_of_the_parent(running):
    below = await lines(running, a=0.1, b=0.1)
    async with relaying(running) as parent:
        await parent.ask(parent.message(1, initial(running.home.folder)))
        parent.run = "theirs-2"
        await parent.ask(parent.message(4, initial(running.home.folder)))
        assert Run.open(running.home.store, running.home.folder).last()[0] == 3
        parent.says(finished=pb.Finished(run="theirs-1", state="finished"))  # which it had left
        parent.says(finished=pb.Finished(run="theirs-2", state="stopped"))
        await parent.noted()
        parent.run = "../escape"
        with pytest.raises(Exception, match="escape"):
            await parent.ask(parent.message(1, initial(running.home.folder)))
        states = {row.id: row.state for row in rows(running.home.store, RunRow)}
        assert states == {"theirs-1": "finished", "theirs-2": "stopped"}
    await end(below)


@wired(spool=False)
async def test_an_evaluation_that_no_site_can_do(running):
    below = await lines(running, a=0.1)
    async with relaying(running) as parent:
        below["a"].goes_on.clear()
        asked = asyncio.create_task(parent.ask(parent.message(5, initial(running.home.folder), "evaluate")))
        await until(lambda: running.hub.tasks)
        [name] = running.hub.tasks
        await below["a"].session.fail(name, message="no images today")
        with pytest.raises(TooFewUpdates, match="no images today"):
            await asked
    await end(below)


@wired
async def test_the_survey_is_that_of_all_sites_and_is_told_anew(running):
    async with relaying(running) as parent:
        told = []
        telling = asyncio.create_task(parent.relay.keep_telling(told.append))
        a = await running.site("a").connect(data=[("good", 5, 1)])
        await until(lambda: told)
        assert told[-1] == {"good": {"train": 5, "validation": 1, "test": 0}}
        b = await running.site("b").connect(data=[("bad", 2, 1), ("good", 1, 1)])
        await until(lambda: len(told) == 2)
        assert told[-1]["good"]["train"] == 6
        await b.leave()
        await running.sites_are("a")
        assert parent.relay.survey() == told[-1]  # its answer may still be in the mean
        await a.call.write(pb.FromSite(survey=pb.Survey(data=[pb.ClassCount(name="good", train=50)])))
        await until(lambda: len(told) == 3)  # a relay below a relay
        assert told[-1]["good"]["train"] == 51
        assert running.grid.survey("a")["good"]["train"] == 50
        await until(lambda: rows(running.home.store, SiteRow)[0].data["good"]["train"] == 50)
        revoke(running.home.store, "b", "gone for good")
        assert set(parent.relay.survey()) == {"good"}
        running.hub.stop()
        await asyncio.wait_for(telling, PATIENCE)


class TestCommands:
    @pytest.fixture
    def folder(self, tmp_path):
        home = make_home(tmp_path / "relay")
        home.store.close()
        return home.folder

    def typed(self, *arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    def test_start_without_a_parent(self, folder):
        with pytest.raises(ConfigMissing, match="no parent") as caught:
            self.typed("relay", "start", "--dir", folder)
        assert "relay join" in caught.value.hint

    def test_what_a_relay_refuses(self, folder):
        (folder / "parent").mkdir()
        (folder / "parent" / "client.yaml").write_text(dump(LinkConfig(server="parent:8470")))
        words = ("parent:8471", "--token", "t", "--fingerprint", "f")
        with pytest.raises(FolderTaken, match="relay already") as caught:
            self.typed("relay", "join", *words, "--dir", folder)
        assert "move" in caught.value.hint
        with pytest.raises(ConfigError, match="is a relay") as caught:
            self.typed("start", "--dir", folder)
        assert "relay start" in caught.value.hint
        (folder / "parent" / "client.yaml").write_text("sever: parent:8470")
        with pytest.raises(ConfigError, match="did you mean `server`"):
            self.typed("relay", "start", "--dir", folder)

    def test_half_an_invitation(self, folder):
        done = self.typed("relay", "join", "parent:8471", "--dir", folder)
        assert done.exit_code == 2
        assert "--fingerprint" in done.output

    def test_help(self):
        assert "its parent" in self.typed("relay", "--help").output
        assert "run.participation" in self.typed("relay", "start", "--help").output


@wired
async def test_a_relay_cannot_mask(running):
    async with relaying(running) as parent:
        message = parent.message(1, initial(running.home.folder))
        message.content["secure"] = ConfigRecord({})
        with pytest.raises(SecureError, match="A relay answers for sites of its own"):
            await parent.ask(message)


@pytest.mark.parametrize("rules", [{"server_momentum": 0.9}, {"server_lr": 0.5}])
def test_a_relay_that_should_take_the_servers_step_is_not_started(tmp_path, rules):
    home = make_home(tmp_path / "relay", run=small_run(aggregation=rules))
    try:
        with pytest.raises(ConfigError, match="the step beyond it is its parent's"):
            run_relay(home, lambda event: None)
    finally:
        home.store.close()


def test_a_relay_whose_sites_should_mask_is_not_started(tmp_path):
    home = make_home(tmp_path / "relay", run=secure_run())
    try:
        with pytest.raises(SecureError, match="A relay adds up the updates of its sites, which it sees"):
            run_relay(home, lambda event: None)
    finally:
        home.store.close()
