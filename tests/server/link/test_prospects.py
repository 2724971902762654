"""What a site would be asked to do, before and after the first run."""

from __future__ import annotations

import time

import pytest

from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.common.wire.records import settings_of
from fedwon.server.link.prospects import prospect
from fedwon.server.store import Site, now
from tests.server.release_kit import make_home, make_run
from tests.server.server_kit import small_run


@pytest.fixture
def home(tmp_path):
    home = make_home(tmp_path / "server")
    yield home
    home.store.close()


def test_classes_are_named_by_the_configuration_the_sites_or_not_yet(home):
    assert settings_of(prospect(home.store, small_run(classes=("a", "b"))).records)["classes"] == ["a", "b"]
    config = small_run(classes=None)
    assert "classes" not in settings_of(prospect(home.store, config).records)
    with home.store.session() as session:
        session.add(Site(name="one", expires=now(), data={"x": {"train": 1}}))
        session.add(Site(name="two", expires=now(), data={"w": {"train": 1}, "x": {"train": 2}}))
    assert settings_of(prospect(home.store, config).records)["classes"] == ["w", "x"]


def test_it_is_a_task_of_the_newest_run(home):
    run = make_run(home, rounds=1)
    reply = prospect(home.store, small_run(classes=("other", "classes")))
    assert TaskConfig.from_flat(settings_of(reply.records)) == run.task(1)
    assert reply.version == VERSION
    assert abs(reply.clock - time.time()) < 60
