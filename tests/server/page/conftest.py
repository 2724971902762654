"""A server's folder for each test of the page."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from fedwon.server.page import password
from tests.server.page.browsing import Browser
from tests.server.server_kit import make_home


@pytest.fixture(autouse=True)
def _light_hashes(monkeypatch):
    """A password costs half a second, by intention; what the tests are about does not depend on it."""
    monkeypatch.setattr(password, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture
def home(tmp_path):
    made = make_home(tmp_path / "server")
    yield made
    made.store.close()


@pytest.fixture
def browser(home):
    return Browser(home)
