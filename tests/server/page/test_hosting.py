"""The page's own thread and port: beside the sites, over TLS where others can reach it, and never a run's end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time

import httpx
import pytest

from fedwon.common.certificates import read_certificate
from fedwon.common.config import load
from fedwon.common.errors import ConfigError
from fedwon.server.config import ServerConfig
from fedwon.server.identity.authorities import renew_server
from fedwon.server.link.hub import Hub
from fedwon.server.page import hosting
from fedwon.server.page.hosting import is_local, page_beside
from tests.server.server_kit import PATIENCE, free_ports


def paged(home, address):
    home.config = home.config.model_copy(update={"page": address})
    return home


def serve(home, work):
    """Serve the page while some work is done in a thread."""

    async def beside():
        async with page_beside(home, Hub(5.0)):
            return await asyncio.to_thread(work)

    return asyncio.run(beside())


def patient(ask):
    """Ask until the page is loaded, which it may be a second after its port is there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except httpx.TransportError:
            assert time.monotonic() < end


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("fed.example:1", False),
    ],
)
def test_what_only_this_machine_reaches(address, local):
    assert is_local(address) == local


@pytest.mark.parametrize(
    ("written", "read"),
    [("", "127.0.0.1:8472"), ("page: off", None), ("page:", None), ("page: 0.0.0.0:1", "0.0.0.0:1")],
)
def test_where_it_is_as_server_yaml_says(tmp_path, written, read):
    (tmp_path / "server.yaml").write_text(written)
    assert load(ServerConfig, tmp_path / "server.yaml").page == read


def test_yes_is_no_address(tmp_path):
    (tmp_path / "server.yaml").write_text("page: on")
    with pytest.raises(ConfigError, match="page"):
        load(ServerConfig, tmp_path / "server.yaml")


def test_on_this_machine_it_is_plain(home):
    [port] = free_ports(1)
    base = f"http://127.0.0.1:{port}"
    reply = serve(paged(home, f"127.0.0.1:{port}"), lambda: patient(lambda: httpx.get(base, timeout=PATIENCE)))
    assert reply.status_code == 200
    assert "server" not in reply.headers
    with pytest.raises(httpx.TransportError):
        httpx.get(base, timeout=5)


def test_off_means_that_nothing_listens(home, caplog):
    assert serve(paged(home, None), lambda: "done") == "done"
    assert not caplog.records


def test_elsewhere_it_is_tls_with_the_servers_certificate_of_the_moment(home, monkeypatch):
    monkeypatch.setattr(hosting, "CERTIFICATE_SECONDS", 0.02)
    [port] = free_ports(1)
    trusted = ssl.create_default_context(cafile=str(home.folder / "pki" / "ca.pem"))

    def shown():
        raw = socket.create_connection(("127.0.0.1", port))
        with trusted.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped:
            return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True))

    def look():
        reply = patient(lambda: httpx.get(f"https://127.0.0.1:{port}/", verify=trusted, timeout=PATIENCE))
        first = read_certificate(shown().encode(), "shown")
        renew_server(home.folder / "pki", home.config.names)
        end = time.monotonic() + PATIENCE
        while read_certificate(shown().encode(), "shown") == first:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE)
        return reply

    reply = serve(paged(home, f"0.0.0.0:{port}"), look)
    assert reply.status_code == 200  # from this machine
    assert "strict-transport-security" in reply.headers


def test_a_port_that_is_taken_is_a_warning_that_says_what_to_do(home, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.WARNING):
        port = taken.getsockname()[1]
        assert serve(paged(home, f"127.0.0.1:{port}"), lambda: "done") == "done"
    [record] = caplog.records
    said = record.getMessage()
    assert "in use by another process" in said
    assert "page: off" in said
    assert "docs/errors/port-in-use.md" in said


def test_an_address_of_another_machine_is_a_warning(home, caplog):
    with caplog.at_level(logging.WARNING):
        assert serve(paged(home, "192.0.2.1:8472"), lambda: "done") == "done"
    assert "192.0.2.1:8472" in caplog.text


def test_browsers_that_listen_do_not_hold_the_end_up(home):
    [port] = free_ports(1)

    def listen():
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            patient(lambda: client.get("/"))
            stream = client.build_request("GET", "/live")
            reply = client.send(stream, stream=True)
            return next(reply.iter_lines()), time.monotonic()

    said, began = serve(paged(home, f"127.0.0.1:{port}"), listen)
    assert said == "retry: 2000"
    assert began > 0
