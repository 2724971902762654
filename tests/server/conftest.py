"""Fixtures of the server's tests."""

from __future__ import annotations

import pytest

from fedwon.common.flower import host_app
from fedwon.server.runs import Run
from fedwon.server.store import Store
from tests.server.server_kit import small_run


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
