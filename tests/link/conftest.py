"""An authority for the tests of a module; making keys takes a while."""

from __future__ import annotations

import sys
from hashlib import sha256
from types import SimpleNamespace

import pytest

from fedwon.client.link import transfers
from fedwon.common.flower import host_app
from tests.link.link_kit import Federation, Server, offer
from tests.link.task_kit import App


@pytest.fixture
def federation(tmp_path) -> Federation:
    return Federation(tmp_path)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def app(monkeypatch):
    host_app()
    made = App()
    monkeypatch.setitem(sys.modules, "fedwon.client.app", SimpleNamespace(app=made))
    monkeypatch.setattr(transfers, "FIRST_PAUSE", 0.02)
    return made


@pytest.fixture
def task(tmp_path, server):
    """A task and its model, which the server hands out."""
    made, data = offer(tmp_path / "made")
    server.blobs[sha256(data).hexdigest()] = data
    return made
