"""An authority for the tests of a module; making keys takes a while."""

from __future__ import annotations

import pytest

from tests.link.link_kit import Federation, Server


@pytest.fixture
def federation(tmp_path) -> Federation:
    return Federation(tmp_path)


@pytest.fixture
def server() -> Server:
    return Server()
