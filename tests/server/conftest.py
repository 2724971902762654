"""Fixtures of the server's tests."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fedwon.common.flower import host_app
from fedwon.server.cli import app
from fedwon.server.runs.run import Run
from fedwon.server.store import Store
from tests.server.server_kit import make_home, small_run


@pytest.fixture(autouse=True)
def _flower_knows_the_process():
    host_app()


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "fedwon.db")
    yield opened
    opened.close()


@pytest.fixture
def make_run(store, tmp_path):
    def make(listeners=(), **settings):
        config = small_run(**settings)
        return Run.create(store, tmp_path, config, config.classes, listeners)

    return make


@pytest.fixture
def home(tmp_path):
    made = make_home(tmp_path / "fed")
    yield made
    made.store.close()


@pytest.fixture
def typed(home):
    """Types a command of fedwon-server for that home; returns what it prints, raises what it raises."""

    def type_(*arguments: str):
        done = CliRunner().invoke(app, [*arguments, "--dir", str(home.folder)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout

    return type_
