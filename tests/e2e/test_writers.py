"""A real server's figures in MLflow and TensorBoard, over a `kill -9`."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from fedwon.common.config import dump, parse
from fedwon.server.config import ServerConfig
from tests.e2e.fleet import SITES, Fleet, wait_until


@pytest.fixture
def fleet(tmp_path, empty_database):
    made = Fleet(tmp_path, {"rounds": 5000})
    content = {**made.config.model_dump(mode="json"), "writers": {"mlflow": {}, "tensorboard": {}}}
    (made.dir / "server.yaml").write_text(dump(parse(ServerConfig, content, "test")))
    shutil.copy(empty_database, made.dir / "mlflow.db")
    try:
        for site in SITES:
            made.site(site)
        yield made
    finally:
        made.close()


def in_mlflow(fleet):
    """The runs there, and the steps of the first one's mean accuracy."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{fleet.dir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("test")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    steps = [m.step for m in client.get_metric_history(runs[0].info.run_id, "accuracy/mean")] if runs else []
    return [run.info.run_id for run in runs], steps


def in_tensorboard(fleet):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = list((fleet.dir / "tensorboard").glob("*"))
    if not folders:
        return []
    read = EventAccumulator(str(folders[0]), size_guidance={"scalars": 0})
    read.Reload()
    return [event.step for event in read.Scalars("accuracy/mean")] if "accuracy/mean" in read.Tags()["scalars"] else []


def rounds_in_both(fleet):
    """How many rounds the server has noted as written; cheaper to look at than what was written."""
    with closing(sqlite3.connect(fleet.dir / "fedwon.db")) as opened:
        found = [number + 1 for (number,) in opened.execute("select round from writers")]
    return min(found) if len(found) == 2 else 0


def test_a_server_that_is_killed_goes_on_with_both(fleet):
    server = fleet.start_server()
    for site in SITES:
        fleet.start_site(site)
    wait_until(lambda: rounds_in_both(fleet) >= 2, "two rounds in both")
    server.kill()
    runs, before = in_mlflow(fleet)
    server = fleet.start_server("--resume")
    wait_until(lambda: rounds_in_both(fleet) >= len(before) + 2, "more rounds in both")
    server.stop()
    after, steps = in_mlflow(fleet)
    assert after == runs
    assert len(runs) == 1
    assert steps == list(range(len(steps)))
    assert in_tensorboard(fleet) == list(range(len(in_tensorboard(fleet))))
    assert "Traceback" not in fleet.said("server")
    assert "alembic" not in fleet.said("server")
