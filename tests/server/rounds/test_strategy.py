"""The strategy over a grid without wires: who is asked, what counts, when a round is repeated or given up."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedwon.common.errors import TooFewUpdates
from fedwon.common.task_config import TaskConfig
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.rounds.events import RoundCommitted, RoundStarted, SiteAnswered, SiteFailed
from fedwon.server.rounds.strategy import FedWon, choose, task_id
from fedwon.server.store import MetricRow, RoundRow, TaskRow
from tests.server.server_kit import FakeGrid, answering, good_metrics, rows, same, shifted

LINES = ("a", "b", "c", "d")


def start(run, grid, *, done=0, rounds=1):
    return FedWon(run, grid, done).start(grid, run.last()[1], num_rounds=rounds, timeout=5)


def states(store):
    return {row.site: row.state for row in rows(store, TaskRow)}


def reasons(store):
    return {row.site: row.reason for row in rows(store, TaskRow) if row.reason}


def in_turn(*behaviours):
    """A site that does one thing after the other."""
    left = iter(behaviours)

    def site(message, name):
        return next(left)(message, name)

    return site


def test_who_leaves_as_the_round_begins_is_asked_all_the_same(make_run):
    class Leaving(FakeGrid):
        def sites(self):
            here, self.here = sorted(self.here), []
            return here

    run, grid = make_run(), Leaving({"a": answering()})
    strategy = FedWon(run, grid)
    tasks = strategy.configure_train(1, run.last()[1], ConfigRecord(), grid)
    assert [task.metadata.message_id for task in tasks] == [task_id(run.id, 1, "train", "a")]


def silent(message, site):
    return None


def failing(message, site):
    return "data: no images"


def broken(message, site):
    content = answering()(message, site)
    bad = shifted(content["arrays"], float("nan"))
    return RecordDict({"arrays": bad, "metrics": content["metrics"]})


def wide(message, site):
    """A relay: its mean is in float64, a third of a unit in the last place above what float32 can hold."""
    content = answering()(message, site)
    finer = ArrayRecord()
    for name, array in content["arrays"].items():
        values = array.numpy()
        fine = (
            values.astype(np.float64) + np.spacing(values).astype(np.float64) / 3
            if values.dtype.kind == "f"
            else values
        )
        finer[name] = Array(ndarray=fine)
    return RecordDict({"arrays": finer, "metrics": content["metrics"]})


# ---- whom it asks


def test_the_choice_follows_from_seed_and_round():
    sites = [f"s{i}" for i in range(10)]
    chosen = choose(sites, 0.3, seed=1, number=4)
    assert len(chosen) == 3
    assert chosen == sorted(chosen) == choose(sites[::-1], 0.3, seed=1, number=4)
    others = [choose(sites, 0.3, seed, number) for seed, number in ((1, 5), (2, 4), (3, 4), (1, 6))]
    assert any(other != chosen for other in others)
    assert {site for number in range(60) for site in choose(sites, 0.3, 1, number)} == set(sites)


@pytest.mark.parametrize(("fraction", "count", "expected"), [(1.0, 4, 4), (0.5, 4, 2), (0.01, 4, 1), (0.6, 1, 1)])
def test_at_least_one_site_is_chosen(fraction, count, expected):
    assert len(choose([str(i) for i in range(count)], fraction, 1, 1)) == expected


def test_a_fraction_of_the_sites_is_asked(make_run):
    run, grid = make_run(fraction=0.5, rounds=3), FakeGrid(dict.fromkeys(LINES, answering()))
    start(run, grid, rounds=3)
    assert grid.asked == [choose(LINES, 0.5, run.config.seed, number) for number in (1, 2, 3)]


def test_what_a_site_is_told(make_run):
    run, told = make_run(rounds=5), []
    run.commit(1, run.last()[1], seconds=0, sites=())
    run.commit(2, run.last()[1], seconds=0, sites=())

    def site(message, name):
        told.append(message)
        return answering()(message, name)

    start(run, FakeGrid({"a": site}), done=2)
    message = told[0]
    assert message.metadata.message_id == f"{run.id}.r0003.train.a" == task_id(run.id, 3, "train", "a")
    assert (message.metadata.message_type, message.metadata.group_id) == ("train", "3")
    config = {key: value for key, value in message.content["config"].items() if key != "server-round"}
    assert TaskConfig.from_flat(config) == run.task(3)


def test_it_waits_until_enough_sites_are_there_at_once(make_run):
    grid = FakeGrid(dict.fromkeys(LINES, answering()))
    grid.here = ["a"]
    start(make_run(minimum=3), grid)
    assert ("wait", 3) in grid.said
    assert grid.asked == [list(LINES)]


def test_it_needs_a_grid_that_knows_sites(make_run):
    with pytest.raises(TypeError, match="SiteGrid"):
        FedWon(make_run(), object())


# ---- what counts


def test_flowers_own_start_drives_it(make_run, store):
    assert FedWon.start is FedAvg.start
    events = []
    run = make_run([events.append], rounds=2)
    grid = FakeGrid({"a": answering(0.1, 30), "b": answering(0.3, 10)})
    initial = run.last()[1]
    result = start(run, grid, rounds=2)
    assert run.last()[0] == 2
    assert same(result.arrays, run.last()[1])
    name = next(iter(initial))
    step = 0.75 * 0.1 + 0.25 * 0.3
    np.testing.assert_allclose(result.arrays[name].numpy(), initial[name].numpy() + 2 * step, rtol=1e-5)
    assert result.train_metrics_clientapp[1]["validation-loss"] == pytest.approx(0.7)
    assert [type(event) for event in events] == [RoundStarted, SiteAnswered, SiteAnswered, RoundCommitted] * 2
    assert set(states(store).values()) == {"averaged"}


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_the_round_is_the_average_of_its_updates(make_run, tmp_path, weights):
    run = make_run(weights=weights)
    initial = run.last()[1]
    start(run, FakeGrid({"a": answering(0.1, 30), "b": answering(0.3, 10)}))
    updates = [Update("a", 30, shifted(initial, 0.1)), Update("b", 10, shifted(initial, 0.3))]
    assert same(run.last()[1], average(updates, weights))


def test_the_order_of_answers_does_not_matter(make_run):
    models = []
    for order in (list, reversed):
        run, grid = make_run(), FakeGrid({"a": answering(0.1, 7), "b": answering(0.3, 3), "c": answering(-0.7, 5)})
        grid.order = order
        start(run, grid)
        models.append(run.last()[1])
    assert same(*models)


def test_answers_are_noted(make_run, store):
    events = []
    run = make_run([events.append])
    start(run, FakeGrid({"a": answering(0.1, 12, extra=2.0)}))
    task = rows(store, TaskRow)[0]
    assert (task.bytes_down, task.bytes_up, task.seconds) == (1, 2, 3.0)
    kept = {(row.round, row.key): row.value for row in rows(store, MetricRow)}
    assert kept[0, "validation-correct"] == 3
    assert kept[1, "num-examples"] == 12
    assert kept[1, "extra"] == 2
    answered = next(event for event in events if isinstance(event, SiteAnswered))
    assert (answered.number, answered.model_round, answered.bytes_up) == (1, 0, 2)


def test_a_bad_update_does_not_stop_the_others(make_run, store):
    events = []
    run, grid = make_run([events.append]), FakeGrid({"a": broken, "b": answering(0.5)})
    initial = run.last()[1]
    start(run, grid)
    assert same(run.last()[1], shifted(initial, 0.5))
    assert states(store) == {"a": "refused", "b": "averaged"}
    assert "not finite" in reasons(store)["a"]
    name = task_id(run.id, 1, "train", "a")
    assert [path.name for path in run.quarantine.iterdir()] == [f"{name}.safetensors"]
    assert ("discount", name) in grid.said
    assert [event.site for event in events if isinstance(event, SiteFailed)] == ["a"]


BAD = {
    "no arrays": lambda content: RecordDict({"metrics": content["metrics"]}),
    "two records of arrays": lambda content: RecordDict({**content, "more": content["arrays"]}),
    "no metrics": lambda content: RecordDict({"arrays": content["arrays"]}),
    "lists as metrics": lambda content: RecordDict(
        {**content, "more": MetricRecord({"train-examples": [1, 2], "x": [0.5]})}
    ),
    "too many images": lambda content: RecordDict({**content, "metrics": MetricRecord(good_metrics(1000))}),
    "other tensors": lambda content: RecordDict(
        {**content, "arrays": ArrayRecord(dict(list(content["arrays"].items())[1:]))}
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_whatever_a_site_sends_the_round_goes_on(make_run, store, name):
    def site(message, _):
        return BAD[name](answering()(message, _))

    run = make_run()
    survey = {"good": {"train": 8, "validation": 3}}
    grid = FakeGrid({"a": site, "b": answering()}, {"a": survey, "b": survey})
    start(run, grid)
    assert states(store) == {"a": "refused", "b": "averaged"}
    assert ("discount", task_id(run.id, 1, "train", "a")) in grid.said


def test_metrics_that_differ_from_site_to_site_do_no_harm(make_run):
    run = make_run()
    result = start(run, FakeGrid({"a": answering(0.1, 10, own=4.0), "b": answering(0.1, 30)}))
    assert result.train_metrics_clientapp[1]["own"] == pytest.approx(1.0)


def test_a_site_that_left_is_measured_by_what_it_said_when_it_was_asked(make_run, store):
    grid = FakeGrid({}, {"a": {"good": {"train": 5, "validation": 1}}})

    def leaves(message, site):
        grid.surveys.clear()
        return answering(0.1, 10)(message, site)

    grid.behaviours = {"a": leaves, "b": answering()}
    start(make_run(), grid)
    assert "declares 10 training images; the site reported 6" in reasons(store)["a"]


def test_error_replies_and_silence(make_run, store):
    events = []
    run, grid = make_run([events.append]), FakeGrid({"a": failing, "b": silent, "c": answering()})
    start(run, grid)
    assert states(store) == {"a": "failed", "b": "late", "c": "averaged"}
    assert reasons(store) == {"a": "data: no images", "b": "no answer before the round closed"}
    assert sorted((event.site, event.reason) for event in events if isinstance(event, SiteFailed)) == [
        ("a", "data: no images"),
        ("b", "no answer before the round closed"),
    ]


# ---- repeating


def test_a_round_with_too_few_answers_asks_the_missing_again(make_run, store):
    events = []
    run = make_run([events.append], minimum=3, retries=2)
    grid = FakeGrid(
        {"a": answering(0.1), "b": in_turn(failing, broken, answering(0.1)), "c": in_turn(silent, answering())}
    )
    initial = run.last()[1]
    start(run, grid)
    assert grid.asked == [["a", "b", "c"], ["b", "c"], ["b"]]
    assert states(store) == dict.fromkeys("abc", "averaged")
    assert reasons(store) == {}
    assert same(run.last()[1], average([Update(site, 10, shifted(initial, 0.1)) for site in "abc"]))
    failures = [(event.site, event.reason) for event in events if isinstance(event, SiteFailed)]
    assert failures[0] == ("b", "data: no images")
    assert {site for site, _ in failures} == {"b", "c"}


def test_while_it_asks_again_the_table_says_so(make_run, store):
    seen = []

    def second(message, site):
        seen.append((states(store)["a"], states(store)["b"]))
        return answering()(message, site)

    start(make_run(minimum=2), FakeGrid({"a": answering(), "b": in_turn(failing, second)}))
    assert seen == [("received", "sent")]


def test_a_quorum_is_enough(make_run, store):
    run, grid = make_run(minimum=3, quorum=2), FakeGrid({"a": answering(), "b": failing, "c": answering()})
    start(run, grid)
    assert grid.asked == [["a", "b", "c"]]
    assert states(store) == {"a": "averaged", "b": "failed", "c": "averaged"}


def test_the_quorum_is_no_more_than_were_asked(make_run):
    run = make_run(minimum=4, fraction=0.5)
    start(run, FakeGrid(dict.fromkeys(LINES, answering())))
    assert run.last()[0] == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_a_round_that_stays_below_its_quorum_ends_the_run(make_run, store, retries):
    run, grid = make_run(minimum=2, retries=retries), FakeGrid({"a": answering(), "b": failing})
    with pytest.raises(
        TooFewUpdates,
        match=rf"1 usable updates of 2 needed \({retries} repetitions\); missing: b \(data: no images\)\.",
    ):
        start(run, grid)
    assert len(grid.asked) == 1 + retries
    assert run.last()[0] == 0
    assert [row.number for row in rows(store, RoundRow)] == [0]


# ---- committing


def test_a_round_is_committed_before_the_next_begins(make_run):
    run, seen = make_run(rounds=3), []

    def site(message, name):
        seen.append((message.metadata.group_id, run.last()[0], message.content["arrays"].blob.digest))
        return answering()(message, name)

    start(run, FakeGrid({"a": site}), rounds=3)
    assert [(group, last) for group, last, _ in seen] == [("1", 0), ("2", 1), ("3", 2)]
    assert [digest for *_, digest in seen] == [row.digest for row in run_rows(run)[:3]]


def run_rows(run):
    return sorted(rows(run.store, RoundRow), key=lambda row: row.number)


def test_everybody_who_was_asked_hears_of_the_commit(make_run):
    run, grid = make_run(), FakeGrid({"a": answering(), "b": failing, "c": silent, "d": broken})
    start(run, grid)
    names = tuple(task_id(run.id, 1, "train", site) for site in LINES)
    assert [said for said in grid.said if said[0] == "committed"] == [("committed", 1, names)]
    assert list(run.spool.iterdir()) == []


def test_a_resumed_run_goes_on_with_its_next_round(make_run, store):
    run = make_run(rounds=3)
    run.commit(1, shifted(run.last()[1], 1.0), seconds=0, sites=())
    grid = FakeGrid({"a": answering()})
    start(run, grid, done=1, rounds=2)
    assert [row.number for row in run_rows(run)] == [0, 1, 2, 3]
    assert {row.round for row in rows(store, TaskRow)} == {2, 3}


def test_the_same_run_gives_the_same_bits(make_run):
    models = []
    for _ in range(2):
        run = make_run(rounds=2, fraction=0.5)
        start(run, FakeGrid({site: answering(i / 7, i + 1) for i, site in enumerate(LINES)}), rounds=2)
        models.append(run.last()[1])
    assert same(*models)


def test_broken_off_and_resumed_gives_the_same_bits_as_in_one_go(make_run):
    whole, parts = make_run(rounds=2), make_run(rounds=2)
    behaviours = {site: answering(i / 7, i + 1) for i, site in enumerate(LINES)}
    start(whole, FakeGrid(behaviours), rounds=2)
    start(parts, FakeGrid(behaviours), rounds=1)
    start(parts, FakeGrid(behaviours), done=1, rounds=1)
    assert same(whole.last()[1], parts.last()[1])


@pytest.mark.parametrize("relays", [("a",), ("b",), ("a", "b", "c")])
def test_relays_beside_sites(make_run, relays):
    """A mean in float64 counts as it is and is rounded with all others, once: the model keeps its element types."""
    run, sites = make_run(minimum=3), ("a", "b", "c")
    before = {name: array.dtype for name, array in run.last()[1].items()}
    grid = FakeGrid({site: wide if site in relays else answering() for site in sites})
    result = start(run, grid).arrays
    assert {name: array.dtype for name, array in result.items()} == before
    plain = start(make_run(minimum=3), FakeGrid(dict.fromkeys(sites, answering()))).arrays
    assert same(result, plain)  # a third of a unit is rounded away
