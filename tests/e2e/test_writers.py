"""What a real server and real sites tell others: MLflow, TensorBoard and a collector of traces, over a `kill -9`."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from fedwon.common.config import dump, parse
from fedwon.common.traces import span_id, trace_id
from fedwon.server.config import ServerConfig
from tests.collector import Collector
from tests.e2e.fleet import SITES, Fleet, wait_until


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def fleet(tmp_path, empty_database, collector):
    made, traces = Fleet(tmp_path, {"rounds": 5000}), {"endpoint": collector.endpoint}
    content = {**made.config.model_dump(mode="json"), "writers": {"mlflow": {}, "tensorboard": {}}, "traces": traces}
    (made.dir / "server.yaml").write_text(dump(parse(ServerConfig, content, "test")))
    shutil.copy(empty_database, made.dir / "mlflow.db")
    try:
        for site in SITES:
            made.site(site, traces=traces)
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


def test_a_server_that_is_killed_goes_on_with_all(fleet, collector):
    server = fleet.start_server()
    for site in SITES:
        fleet.start_site(site)
    wait_until(lambda: rounds_in_both(fleet) >= 2, "two rounds in both")
    server.kill()
    runs, before = in_mlflow(fleet)
    server = fleet.start_server("--resume")
    wait_until(lambda: rounds_in_both(fleet) >= len(before) + 2, "more rounds in both")
    wait_until(lambda: all(len(joined(collector, site)) == 3 for site in SITES), "spans of both sides that join")
    server.stop()
    for process in fleet.processes[1:3]:  # the sites
        process.stop(None)
    after, steps = in_mlflow(fleet)
    assert after == runs
    assert len(runs) == 1
    assert steps == list(range(len(steps)))
    assert in_tensorboard(fleet) == list(range(len(in_tensorboard(fleet))))
    assert "Traceback" not in fleet.said("server")
    assert "alembic" not in fleet.said("server")
    check_traces(fleet, collector)


def of_site(collector, site):
    return [span for span in collector.spans if span.resource["service.instance.id"] == site]


def joined(collector, site):
    """The names of a site's spans that lie below one of the server's for the site; each side sends in its own time."""
    own = {span.id for span in collector.named("task") if span.attributes["fedwon.site"] == site}
    return {span.name for span in of_site(collector, site) if span.parent in own}


def check_traces(fleet, collector):
    [run] = {span.attributes["fedwon.run"] for span in collector.spans}
    assert {span.trace for span in collector.spans} == {trace_id(run)}
    rounds, tasks = collector.named("round"), collector.named("task")
    assert {span.parent for span in rounds} == {span_id(run)}
    assert {span.parent for span in tasks} >= {span.id for span in rounds}
    for site in SITES:
        assert (
            joined(collector, site) == {span.name for span in of_site(collector, site)} == {"fetch", "train", "upload"}
        )
    key = (fleet.folder / SITES[0] / "pki" / "site.key").read_bytes().splitlines()[1]
    assert not any(key in body or str(fleet.folder).encode() in body for body in collector.bodies)
