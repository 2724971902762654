"""A site's own figures, where it is asked for them."""

from __future__ import annotations

import logging
import re
import socket
import threading
import urllib.request

import pytest

from fedwon.client.metrics import measured
from fedwon.common.version import VERSION
from tests.link.link_kit import Federation, make_link

STATE = {"site": 'line"1', "version": VERSION, "connected": True, "done": 3, "total": 8}


def free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_the_figures(tmp_path):
    folder = Federation(tmp_path).site("line-1", days=3)
    port = free()
    with measured(f"127.0.0.1:{port}", folder, lambda: STATE):
        found = read(port)
    assert float(found.pop("fedwon_client_certificate_seconds")) == pytest.approx(3 * 86400, abs=600)
    assert found == {
        f'fedwon_client_info{{site="line\\"1",version="{VERSION}"}}': "1.0",
        "fedwon_client_connected": "1.0",
        "fedwon_client_task_steps_done": "3.0",
        "fedwon_client_task_steps": "8.0",
    }
    with pytest.raises(OSError, match="refused"):
        read(port)


def test_a_link_knows_them(tmp_path):
    link = make_link("127.0.0.1:1", Federation(tmp_path).site())
    figures = link.figures()
    assert re.fullmatch(r"[\w-]+", figures["site"])
    assert (figures["connected"], figures["done"], figures["total"]) == (False, 0, 0)


def test_nothing_is_served_unasked(tmp_path):
    before = threading.active_count()
    with measured(None, tmp_path, lambda: STATE):
        assert threading.active_count() == before


def test_a_port_that_is_taken_is_a_warning(tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.WARNING):
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with measured(address, tmp_path, lambda: STATE):
            pass
    assert "metrics cannot be served" in caplog.text
