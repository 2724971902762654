"""A database of MLflow's, made once: its hundred migrations take seconds."""

from __future__ import annotations

import shutil

import pytest

from fedwon.server.writers.config import MlflowConfig
from fedwon.server.writers.mlflow_writer import MlflowWriter
from tests.server.server_kit import make_home


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    place = tmp_path_factory.mktemp("mlflow")
    MlflowWriter(MlflowConfig(), place, "none")._opened()
    return place / "mlflow.db"


@pytest.fixture
def home(tmp_path, empty_database):
    made = make_home(tmp_path / "server")
    shutil.copy(empty_database, made.folder / "mlflow.db")
    yield made
    made.store.close()
