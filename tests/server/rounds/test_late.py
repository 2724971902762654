"""Updates that miss their round: refused, or counted into a later one with less weight."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import RecordDict

from fedwon.server.aggregation.averaging import Update, average, shares
from fedwon.server.rounds.answers import LATE, STILL_COUNTS
from fedwon.server.rounds.events import RoundStarted, SiteAnswered, SiteFailed
from fedwon.server.rounds.strategy import FedWon
from fedwon.server.store import MetricRow, TaskRow
from tests.server.rounds.test_strategy import in_turn, silent, start, states
from tests.server.server_kit import FakeGrid, answering, rows, same, shifted


class Recorder(FakeGrid):
    """Keeps the names of the tasks of each round."""

    def __init__(self, behaviours):
        super().__init__(behaviours)
        self.tasks = []

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages:  # Flower asks for an evaluation of nobody, too
            self.tasks.append(sorted(message.metadata.message_id.split(".", 1)[1] for message in messages))
        return super().send_and_receive(messages, timeout=timeout)


def test_by_default_a_late_site_is_asked_for_the_open_round(make_run, store):
    events = []
    run = make_run([events.append], rounds=2)
    grid = Recorder({"a": answering(), "b": in_turn(silent, answering())})
    start(run, grid, rounds=2)
    assert grid.tasks == [["r0001.train.a", "r0001.train.b"], ["r0002.train.a", "r0002.train.b"]]
    assert [event.reason for event in events if isinstance(event, SiteFailed)] == [LATE]
    committed = [said for said in grid.said if said[0] == "committed"]
    assert [len(names) for _, _, names in committed] == [2, 2]


def test_a_late_update_counts_in_the_next_round_with_less_weight(make_run, store, tmp_path):
    events, models = [], []
    run = make_run([events.append], rounds=2, late_rounds=1)

    def late(message, site):
        models.append(message.content["arrays"])
        return answering(0.5)(message, site)

    grid = Recorder({"a": answering(0.1), "b": in_turn(silent, late)})
    initial = run.last()[1]
    start(run, grid, rounds=2)
    assert grid.tasks == [["r0001.train.a", "r0001.train.b"], ["r0001.train.b", "r0002.train.a"]]
    assert same(models[0], initial)  # it has trained from the model of its own round
    first = shifted(initial, 0.1)
    second = average(
        [Update("a", 10, shifted(first, 0.1)), Update("b", 10, shifted(initial, 0.5), rounds_late=1)],
        staleness=run.config.aggregation.staleness,
    )
    assert same(run.last()[1], second)
    assert states(store) == dict.fromkeys("ab", "averaged")
    assert [event.reason for event in events if isinstance(event, SiteFailed)] == [STILL_COUNTS]
    assert [event.sites for event in events if isinstance(event, RoundStarted)] == [("a", "b")] * 2
    answered = [event for event in events if isinstance(event, SiteAnswered) and event.site == "b"]
    assert [(event.number, event.model_round) for event in answered] == [(2, 0)]
    assert {row.round for row in rows(store, MetricRow) if row.site == "b"} == {0, 1}


def test_the_sites_of_a_late_task_keep_it_when_the_round_closes(make_run):
    run = make_run(rounds=2, late_rounds=1)
    grid = Recorder({"a": answering(), "b": in_turn(silent, answering())})
    start(run, grid, rounds=2)
    committed = {
        number: [name.rpartition(".")[2] for name in names] for kind, number, names in grid.said if kind == "committed"
    }
    assert committed == {1: ["a"], 2: ["a", "b"]}


def test_who_is_late_and_has_left_is_held_to_what_it_said_when_it_was_asked(make_run, store):
    run = make_run(rounds=2, late_rounds=1)

    def liar(message, site):
        del grid.surveys["b"]
        return answering(examples=10**6)(message, site)

    grid = FakeGrid({"a": answering(), "b": in_turn(silent, liar)}, {"b": {"good": {"train": 20}}})
    start(run, grid, rounds=2)
    assert states(store) == {"a": "averaged", "b": "refused"}


def test_what_is_half_here_of_a_late_update_stays(make_run):
    run = make_run(rounds=1, late_rounds=1)

    def half(message, site):
        (run.spool / f"{message.metadata.message_id}.part").write_bytes(b"half")
        (run.spool / "other.part").write_bytes(b"of nobody")

    start(run, FakeGrid({"a": answering(), "b": half}))
    assert [path.name for path in run.spool.iterdir()] == [f"{run.id}.r0001.train.b.part"]


def test_an_update_can_be_late_by_so_many_rounds_only(make_run, store):
    run = make_run(rounds=4, late_rounds=2)
    grid = Recorder({"a": answering(), "b": in_turn(silent, silent, silent, answering())})
    start(run, grid, rounds=4)
    assert [[name for name in names if name.endswith("b")] for names in grid.tasks] == [
        ["r0001.train.b"],
        ["r0001.train.b"],
        ["r0001.train.b"],
        ["r0004.train.b"],
    ]
    assert {row.round: row.state for row in rows(store, TaskRow) if row.site == "b"} == {1: "late", 4: "averaged"}


def test_a_round_may_consist_of_late_updates_alone(make_run):
    """With a fraction, the only site that is drawn may be the one that is late."""
    run = make_run(rounds=2, minimum=1, late_rounds=1, fraction=1.0)
    grid = Recorder({"a": in_turn(answering(), answering())})
    strategy = FedWon(run, grid)
    late = strategy.configure_train(1, run.last()[1], RecordDict(), grid)
    strategy._late = {"a": late[0]}
    run.commit(1, run.last()[1], seconds=0, sites=())
    tasks = strategy.configure_train(2, run.last()[1], RecordDict(), grid)
    assert [task.metadata.group_id for task in tasks] == ["1"]
    arrays, _ = strategy.aggregate_train(2, grid.send_and_receive(tasks))
    assert run.last()[0] == 2
    assert same(arrays, run.last()[1])


@pytest.mark.parametrize("staleness", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_the_weight_of_a_late_update(staleness, weights):
    """Against the formula written out: (1 + s) ** -a (FedAsync)."""
    updates = [Update("a", 30, None), Update("b", 10, None, rounds_late=1), Update("c", 20, None, rounds_late=3)]
    plain = [30.0, 10.0, 20.0] if weights == "examples" else [1.0, 1.0, 1.0]
    weighed = [plain[0], plain[1] / 2**staleness, plain[2] / 4**staleness]
    np.testing.assert_allclose(shares(updates, weights, 10.0, staleness), np.array(weighed) / sum(weighed))
