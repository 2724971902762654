"""Figures in MLflow: one run there for each run here, its metrics by round.

MLflow's client is used with the run's name there in every call, never its process-wide "active run". Its telemetry is
switched off before it is imported: nothing is called that the configuration does not name.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwon.common.version import VERSION
from fedwon.server.store import MIGRATING
from fedwon.server.writers.config import MlflowConfig
from fedwon.server.writers.figures import RoundFigures, RunFacts

if TYPE_CHECKING:
    from mlflow import MlflowClient

OUR_RUN = "fedwon.run"
"""The tag by which a run is found again whose name there could not be noted."""
FILE = "sqlite:///"
STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
LONGEST_PARAMETER = 6000
"""Characters that MLflow keeps of a parameter."""
BATCH = 100
"""Parameters of one call, as many as it takes."""
METRICS = 1000
"""Metrics of one call, as many as it takes."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
"""In its words; retrying is the recorder's business."""


class MlflowWriter:
    """Writes to MLflow.

    Args:
        config: where to.
        root: the server's folder.
        federation: its name, of the experiment where the configuration has none.
    """

    name = "mlflow"

    def __init__(self, config: MlflowConfig, root: Path, federation: str) -> None:
        self._local = root.resolve() if config.uri is None else None
        self._uri = config.uri or f"{FILE}{root.resolve() / 'mlflow.db'}"
        self._experiment = config.experiment or federation
        self.place = f"{self._uri} {self._experiment}"
        self._client: MlflowClient | None = None
        self._run, self._doubtful = "", True

    def begin(self, facts: RunFacts, reference: str, done: int) -> str:
        """Make the run there, or go on with it."""
        del done
        client = self._opened()
        self._run = reference or self._found(client, facts) or self._made(client, facts)
        self._doubtful = True
        if not reference:
            entries = [_parameter(key, value) for key, value in sorted(facts.parameters.items())]
            for start in range(0, len(entries), BATCH):
                client.log_batch(self._run, params=entries[start : start + BATCH])
        client.update_run(self._run, status="RUNNING")
        return self._run

    def write(self, figures: RoundFigures) -> None:
        """Write a round; those after a beginning may be there already, whole or in part, and are not doubled."""
        from mlflow.entities import Metric

        client, moment = self._opened(), int(1000 * figures.at.timestamp())
        values = figures.values
        if self._doubtful:
            values = {key: value for key, value in values.items() if not self._has(client, key, figures.number)}
        entries = [Metric(key, value, moment, figures.number) for key, value in values.items()]
        self._doubtful, fresh = True, len(values) == len(figures.values)
        for start in range(0, len(entries), METRICS):
            client.log_batch(self._run, metrics=entries[start : start + METRICS])
        self._doubtful = not fresh  # behind a backup that was put back, many rounds are there

    def end(self, facts: RunFacts) -> None:
        """Write the model's digest and file, and how the run ended."""
        client = self._opened()
        tags = {"fedwon.state": facts.state, "fedwon.reason": facts.reason, "fedwon.rounds": str(facts.last)}
        tags |= {"fedwon.model.path": str(facts.model), "fedwon.model.sha256": facts.digest}
        for key, value in tags.items():
            client.set_tag(self._run, key, value[:LONGEST_PARAMETER])
        ended = None if facts.ended is None else int(1000 * facts.ended.timestamp())
        client.set_terminated(self._run, STATES[facts.state], ended)

    def close(self) -> None:
        """Forget the connection."""
        self._client = None

    def _opened(self) -> MlflowClient:
        if self._client is None:
            os.environ.update(SETTINGS)
            for talkative in ("mlflow", "alembic"):
                logging.getLogger(talkative).setLevel(logging.WARNING)
            warnings.filterwarnings("ignore", module="mlflow")  # about its own insides
            from mlflow import MlflowClient

            if self._uri.startswith(FILE):
                _check_file(self._uri.removeprefix(FILE))
                with MIGRATING:  # a new database file gets its tables
                    self._client = MlflowClient(tracking_uri=self._uri)
                    self._client.search_experiments(max_results=1)
            else:
                self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _found(self, client: MlflowClient, facts: RunFacts) -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return ""
        found = client.search_runs([experiment.experiment_id], f"tags.`{OUR_RUN}` = '{facts.id}'", max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _made(self, client: MlflowClient, facts: RunFacts) -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        place = None if self._local is None else (self._local / "mlflow-artifacts").as_uri()
        number = experiment.experiment_id if experiment else client.create_experiment(self._experiment, place)
        tags = {OUR_RUN: facts.id, "fedwon.version": VERSION}
        made = client.create_run(number, int(1000 * facts.began.timestamp()), tags, run_name=facts.id)
        return str(made.info.run_id)

    def _has(self, client: MlflowClient, key: str, step: int) -> bool:
        return any(metric.step == step for metric in client.get_metric_history(self._run, key))


def _check_file(path: str) -> None:
    """See that a database file can be written: MLflow itself would try for minutes before it says that it cannot.

    Raises:
        OSError, sqlite3.Error: it cannot.
    """
    with closing(sqlite3.connect(path, timeout=10)) as opened:
        opened.execute("begin immediate")
        opened.rollback()


def _parameter(key: str, value: str) -> Any:
    from mlflow.entities import Param

    return Param(key, value[:LONGEST_PARAMETER])
