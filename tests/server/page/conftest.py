"""A server's folder for each test of the page."""

from __future__ import annotations

import pytest

from tests.server.page.browsing import Browser
from tests.server.server_kit import make_home


@pytest.fixture
def home(tmp_path):
    made = make_home(tmp_path / "server")
    yield made
    made.store.close()


@pytest.fixture
def browser(home):
    return Browser(home)
