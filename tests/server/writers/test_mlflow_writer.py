"""Figures in MLflow, read back with its own client."""

from __future__ import annotations

import logging
import os

import pytest
from sqlalchemy import update

from fedwon.server.rounds.events import RunStarted
from fedwon.server.writers.config import MlflowConfig
from fedwon.server.writers.mlflow_writer import OUR_RUN, MlflowWriter
from fedwon.server.writers.recording import Recorder, recording
from fedwon.server.writers.rows import WriterRow
from tests.server.server_kit import rows
from tests.server.writers.writing_kit import begun, finish, rounds, until


def recorder(home, **config):
    writer = MlflowWriter(MlflowConfig(**config), home.folder, home.config.federation)
    return Recorder(home.store, home.folder, writer, retry_seconds=0.05)


def client_of(place):
    from mlflow import MlflowClient  # not before the writer, which switches its telemetry off

    return MlflowClient(f"sqlite:///{place}")


def read(home):
    """The only run there, and the history of a metric as (step, value)."""
    client = client_of(home.folder / "mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name == home.config.federation]
    [run] = client.search_runs([experiment.experiment_id])

    def history(key):
        return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]

    return run, history


def test_a_whole_run(home):
    run, one = begun(home), recorder(home)
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 4, listener)
        finish(run, 4)
        one.end()
        assert one.ended(60)
    there, history = read(home)
    assert there.info.status == "FINISHED"
    assert there.info.run_name == there.data.tags[OUR_RUN] == run.id
    assert there.data.params["rounds"] == "4"
    assert there.data.params["classes"] == '["bad", "good"]'
    assert there.data.params["images.size"] == "8"
    assert there.data.tags["fedwon.model.sha256"] == run.last()[1].blob.digest
    assert there.data.tags["fedwon.model.path"] == str(run.model_path(4))
    assert history("accuracy/worst") == [(0, 0.6), (1, 0.7), (2, 0.8), (3, 0.9)]
    assert history("accuracy/site/press-2") == [(0, 0.8), (1, 0.9), (2, 1.0), (3, 1.0)]
    assert history("bytes/up") == [(1, 20.0), (2, 40.0), (3, 60.0), (4, 80.0)]
    assert history("test_accuracy/mean") == [(4, 0.75)]


def test_a_server_that_was_killed_goes_on_with_the_same_run_and_doubles_no_step(home):
    """Killed at the worst moments: behind a write that was not noted, and behind the making of the run there."""
    run, one = begun(home), recorder(home)
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 3, listener)
        one.end()
        assert one.ended(60)
    first, history = read(home)
    assert history("accuracy/mean") == [(0, 0.7), (1, 0.8), (2, 0.9)]
    with home.store.session() as session:
        session.execute(update(WriterRow).values(round=1, reference=""))
    two = recorder(home)
    with recording([two]) as [listener]:
        listener(RunStarted(run.id, 4, 3, ()))
        rounds(run, 4, 4, listener)
        finish(run, 4)
        two.end()
        assert two.ended(60)
    second, history = read(home)
    assert second.info.run_id == first.info.run_id == rows(home.store, WriterRow)[0].reference
    for key, first in (("accuracy/mean", 0), ("seconds/round", 1), ("bytes/down/site/press-1", 1)):
        assert [step for step, _ in history(key)] == list(range(first, first + 4)), key


def test_a_backup_that_was_put_back_doubles_nothing(home):
    """The database knows less than MLflow has: all rounds but the first are there though none is noted."""
    run, one = begun(home), recorder(home)
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 4, listener)
        one.end()
        assert one.ended(60)
    with home.store.session() as session:
        session.execute(update(WriterRow).values(round=-1))
    two = recorder(home)
    with recording([two]) as [listener]:
        listener(RunStarted(run.id, 4, 4, ()))
        finish(run, 4)
        two.end()
        assert two.ended(60)
    _, history = read(home)
    assert [step for step, _ in history("accuracy/mean")] == [0, 1, 2, 3]
    assert [step for step, _ in history("seconds/round")] == [1, 2, 3, 4]


def test_half_a_round_is_made_whole(home):
    run, one = begun(home), recorder(home)
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 2, listener)
        one.end()
        assert one.ended(60)
    there, _ = read(home)
    client_of(home.folder / "mlflow.db").log_metric(there.info.run_id, "bytes/up", 40.0, step=2)
    two = recorder(home)
    with recording([two]) as [listener]:
        listener(RunStarted(run.id, 4, 2, ()))
        rounds(run, 3, 3, listener)
        two.end()
        assert two.ended(60)
    _, history = read(home)
    assert history("bytes/up") == [(1, 20.0), (2, 40.0)]
    assert [step for step, _ in history("bytes/down")] == [1, 2]
    assert read(home)[0].info.status == "RUNNING"


def test_a_run_that_was_stopped_and_goes_on(home):
    run, one = begun(home), recorder(home)
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 2, listener)
        run.finish("stopped", "an operator stopped it")
        one.end()
        assert one.ended(60)
    there, _ = read(home)
    assert (there.info.status, there.data.tags["fedwon.reason"]) == ("KILLED", "an operator stopped it")
    run.set_state("running")
    two = recorder(home)
    with recording([two]) as [listener]:
        listener(RunStarted(run.id, 4, 2, ()))
        until(lambda: read(home)[0].info.status == "RUNNING", "the run to go on there")


def test_a_server_that_is_away_stops_nothing_and_comes_back(home, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    place = tmp_path / "away" / "mlflow.db"
    run, one = begun(home), recorder(home, uri=f"sqlite:///{place}", experiment="lines")
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 4, listener)
        until(lambda: one._failing, "the failure")
        assert caplog.text.count("figures cannot be written to mlflow") == 1
        place.parent.mkdir()
        (home.folder / "mlflow.db").rename(place)
        until(lambda: not one._failing, "it to come back")
    client = client_of(place)
    [there] = client.search_runs([client.get_experiment_by_name("lines").experiment_id])
    assert [metric.step for metric in client.get_metric_history(there.info.run_id, "accuracy/mean")] == [0, 1, 2, 3]
    assert caplog.text.count("figures cannot be written to mlflow") == 1


def test_nobody_listens_at_the_address(home, caplog):
    run, one = begun(home), recorder(home, uri="http://127.0.0.1:9")
    with recording([one]) as [listener]:
        listener(RunStarted(run.id, 4, 0, ()))
        rounds(run, 1, 2, listener)
        until(lambda: one._failing, "the failure")
    assert "http://127.0.0.1:9" in caplog.text


def test_nothing_is_told_about_this_machine(home):
    """MLflow's telemetry is off before it is imported, and stays off in what this process starts."""
    recorder(home)._writer._opened()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    from mlflow.telemetry import get_telemetry_client

    assert get_telemetry_client() is None


@pytest.mark.parametrize("name", ["press-1", "Line_2.a", "0"])
def test_every_name_of_a_site_is_a_name_of_a_metric(home, name):
    from mlflow.utils.validation import _validate_metric_name

    assert _validate_metric_name(f"accuracy/site/{name}") is None  # it raises where it is none
