"""A server's folder with a database of MLflow's in it."""

from __future__ import annotations

import shutil

import pytest

from tests.server.server_kit import make_home


@pytest.fixture
def home(tmp_path, empty_database):
    made = make_home(tmp_path / "server")
    shutil.copy(empty_database, made.folder / "mlflow.db")
    yield made
    made.store.close()
