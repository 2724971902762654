"""A whole run over a grid without wires: how it ends, well or not, and the final measurement."""

from __future__ import annotations

import logging

import pytest
from flwr.app import MetricRecord, RecordDict

from fedwon.common.errors import ClassMismatch, DiskFull, RunMissing, Stopped, StorageError, TooFewUpdates
from fedwon.server.rounds.evaluation import evaluate_model, score_of
from fedwon.server.rounds.events import RunEnded, RunStarted
from fedwon.server.runs import checkpoints
from fedwon.server.runs.federating import agree_on_classes, federate
from fedwon.server.runs.run import Run
from fedwon.server.store import MetricRow, RunRow
from tests.server.server_kit import FakeGrid, answering, good_metrics, rows, same, small_run


def site(by=0.1, *, evaluation=None):
    """Trains, and measures models."""
    train = answering(by)

    def behaviour(message, name):
        if message.metadata.message_type == "train":
            return train(message, name)
        return evaluation(message, name) if evaluation else RecordDict({"metrics": MetricRecord(good_metrics())})

    return behaviour


def metrics(**changes):
    return lambda message, name: RecordDict({"metrics": MetricRecord(good_metrics(**changes))})


def test_a_run_to_its_end(store, tmp_path):
    events = []
    grid = FakeGrid(
        {"a": site(), "b": site(evaluation=metrics(**{"test-correct": 9, "test-examples": 10, "test-loss": 0.1}))}
    )
    outcome = federate(grid, small_run(minimum=2), store, tmp_path, listeners=[events.append])
    row = rows(store, RunRow)[0]
    assert (row.id, row.state) == (outcome.run, "finished")
    assert outcome.model == tmp_path / "runs" / outcome.run / "model.safetensors"
    assert [(s.site, s.part, s.accuracy) for s in outcome.evaluation.scores] == [
        ("a", "validation", 0.75),
        ("b", "test", 0.9),
    ]
    assert outcome.evaluation.mean_accuracy == pytest.approx(0.825)
    kept = {(m.round, m.site, m.key): m.value for m in rows(store, MetricRow)}
    assert kept[2, "b", "test-correct"] == 9
    assert kept[2, "a", "validation-correct"] == 3
    assert grid.said[-1] == ("ended", "finished")
    assert isinstance(events[0], RunStarted)
    assert events[-1] == RunEnded(outcome.run, "finished", "", outcome.model)


def test_a_run_that_fails_can_be_resumed(store, tmp_path):
    config = small_run(minimum=2, retries=0)
    rounds = []

    def dies_in_round_two(message, name):
        rounds.append(message.metadata.group_id)
        return "data: gone" if message.metadata.group_id == "2" and len(rounds) < 4 else site()(message, name)

    grid = FakeGrid({"a": site(), "b": dies_in_round_two})
    with pytest.raises(TooFewUpdates):
        federate(grid, config, store, tmp_path)
    row = rows(store, RunRow)[0]
    assert row.state == "failed"
    assert "missing: b" in row.reason
    assert grid.said[-1] == ("ended", "failed")
    whole = FakeGrid({"a": site(), "b": site()})
    outcome = federate(whole, small_run(rounds=9), store, tmp_path, resume=True)  # the run's own configuration counts
    assert outcome.run == row.id
    assert [asked for asked in whole.asked if asked] == [["a", "b"]] * 2  # round 2 and the evaluation
    straight = federate(FakeGrid({"a": site(), "b": site()}), config, store, tmp_path)
    assert same(Run.open(store, tmp_path, outcome.run).last()[1], Run.open(store, tmp_path, straight.run).last()[1])


def test_resuming_after_the_last_round_only_measures(store, tmp_path):
    def stops(message, name):
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        federate(FakeGrid({"a": site(evaluation=stops)}), small_run(), store, tmp_path)
    assert rows(store, RunRow)[0].state == "stopped"
    grid = FakeGrid({"a": site()})
    federate(grid, small_run(), store, tmp_path, resume=True)
    assert grid.asked == [["a"]]
    assert rows(store, RunRow)[0].state == "finished"


def test_nothing_to_resume(store, tmp_path):
    with pytest.raises(RunMissing):
        federate(FakeGrid({"a": site()}), small_run(), store, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Stopped("The server was stopped."), "stopped", "The server was stopped."),
        (DiskFull("No space left."), "failed", "No space left."),
        (KeyboardInterrupt(), "stopped", "Ctrl-C was pressed."),
        (ZeroDivisionError("a mistake of ours"), "failed", "ZeroDivisionError: a mistake of ours"),
    ],
)
def test_however_a_run_breaks_off_it_is_noted_and_sites_hear(store, tmp_path, error, state, reason):
    def raises(message, name):
        raise error

    grid = FakeGrid({"a": raises})
    with pytest.raises(type(error)):
        federate(grid, small_run(), store, tmp_path)
    row = rows(store, RunRow)[0]
    assert row.state == state
    assert row.reason.startswith(reason)
    assert grid.said[-1] == ("ended", state)


def test_a_database_that_fails_last_does_not_hide_what_failed_first(store, tmp_path, monkeypatch, caplog):
    def locked(*_):
        raise StorageError("The database is locked.")

    def raises(message, name):
        monkeypatch.setattr(Run, "set_state", locked)
        raise DiskFull("No space left.")

    grid = FakeGrid({"a": raises})
    with caplog.at_level(logging.ERROR), pytest.raises(DiskFull):
        federate(grid, small_run(), store, tmp_path)
    assert "The database is locked." in caplog.text
    assert grid.said[-1] == ("ended", "failed")


def test_a_run_that_cannot_begin_is_not_there_to_be_resumed(store, tmp_path, monkeypatch):
    def full(*_, **__):
        raise DiskFull("No space left.")

    monkeypatch.setattr(checkpoints, "write_record", full)
    with pytest.raises(DiskFull):
        federate(FakeGrid({"a": site()}), small_run(), store, tmp_path)
    with pytest.raises(RunMissing):
        Run.unfinished(store, tmp_path)


# ---- classes


def test_the_classes_of_the_configuration_count():
    assert agree_on_classes(small_run(classes=("x", "y")), FakeGrid({})) == ("x", "y")


def test_without_them_the_union_of_what_sites_have():
    config = small_run(classes=None)
    grid = FakeGrid({"a": site(), "b": site(), "c": site()}, {"a": {"z": {}, "k": {}}, "b": {"k": {}, "a": {}}})
    assert agree_on_classes(config, grid) == ("a", "k", "z")


@pytest.mark.parametrize("surveys", [{}, {"a": {}}, {"a": {"one": {}}, "b": {"one": {}}}])
def test_too_few_classes(surveys):
    with pytest.raises(ClassMismatch, match="two are the least"):
        agree_on_classes(small_run(classes=None), FakeGrid({"a": site(), "b": site()}, surveys))


# ---- measuring


BAD = {
    "silence": (lambda message, name: None, "no answer in time"),
    "failure": (lambda message, name: "data: gone", "data: gone"),
    "no numbers": (lambda message, name: RecordDict(), "the answer lacks num-examples"),
    "half a test": (metrics(**{"test-examples": 3}), "the answer lacks test-correct"),
    "not finite": (metrics(**{"validation-loss": float("nan")}), "validation-loss is not a finite number"),
    "too good": (metrics(**{"validation-correct": 5}), "validation-correct is more"),
    "on more images than it has": (
        metrics(**{"validation-correct": 2**53, "validation-examples": 2**53}),
        "validation-examples is 9007199254740992; the site reported 14 images",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_site_that_cannot_measure_does_not_stop_the_others(make_run, name):
    behaviour, reason = BAD[name]
    held = {"bad": {"train": 10, "validation": 4}}
    run, grid = make_run(), FakeGrid({"a": site(evaluation=behaviour), "b": site()}, {"a": held, "b": held})
    result = evaluate_model(grid, run.task(0), run.last()[1], timeout=5)
    assert [score.site for score in result.scores] == ["b"]
    assert list(result.failures) == ["a"]
    assert result.failures["a"].startswith(reason)
    assert set(result.as_dict()["sites"]) == {"b"}


def test_sites_need_not_keep_what_they_measured(make_run):
    run, grid = make_run(), FakeGrid({"a": site(), "b": lambda message, name: None})
    evaluate_model(grid, run.task(0), run.last()[1], timeout=5)
    what, number, names = grid.said[-1]
    assert (what, number) == ("committed", 0)
    assert [name.rpartition(".")[2] for name in names] == ["a", "b"]


def test_measuring_twice_is_two_things(make_run):
    run, grid = make_run(), FakeGrid({"a": site()})
    for _ in range(2):
        evaluate_model(grid, run.task(0), run.last()[1], timeout=5)
    assert len({said[2] for said in grid.said}) == 2


def test_when_all_rest_after_the_last_round_one_that_comes_back_measures(store, tmp_path):
    class Resting(FakeGrid):
        def committed(self, run, number, message_ids):
            super().committed(run, number, message_ids)
            self.here = self.here if "arrived" in self.said else []

        def wait_for_arrival(self, seconds):
            self.said.append("arrived")
            self.here = list(self.behaviours)
            return True

    outcome = federate(Resting({"a": site()}), small_run(rounds=1), store, tmp_path)
    assert [score.site for score in outcome.evaluation.scores] == ["a"]


def test_nobody_to_measure(make_run):
    run = make_run()
    assert evaluate_model(FakeGrid({}), run.task(0), run.last()[1], timeout=5).mean_accuracy == 0.0


def test_test_images_come_first():
    both = good_metrics(**{"test-correct": 1, "test-examples": 2, "test-loss": 0.3})
    assert (score_of("a", both).part, score_of("a", both).accuracy) == ("test", 0.5)
    none = good_metrics(**{"test-correct": 0, "test-examples": 0, "test-loss": 0.0})
    assert score_of("a", none).part == "validation"
