"""A server that gets another address: the sites find it again, with what they have trained."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from fedwon.client.link.tasks import HANDED_IN
from tests.e2e.fleet import free_port, wait_until
from tests.network.conftest import edit


def move(net, listen: str) -> None:
    """Cut the server's power, and start it at another address."""
    net.server.kill()
    edit(net.fleet.dir / "server.yaml", listen=listen)
    net.server = net.fleet.start_server("--resume")


def journalled(net) -> list[str]:
    return [path.name for path in (net.fleet.folder / "paper" / "journal").glob("*.header")]


def test_an_address_edited_while_the_client_runs(nets, undisturbed):
    net = nets(rounds=2)
    paper = net.start(server=net.fleet.config.listen)
    paper.wait_says("train, round 1 ")
    listen = f"127.0.0.1:{free_port()}"
    move(net, listen)
    paper.wait_says("Trying again until it answers")
    config = net.fleet.folder / "paper" / "client.yaml"
    good = config.read_text()
    config.write_text("server: [not, an, address\n")  # an editor that has written half
    paper.wait_says("The address stays")
    config.write_text(good)
    edit(config, server=listen)
    net.finish(undisturbed)
    assert f"client.yaml names another address: {listen} in place of {net.fleet.config.listen}" in paper.text()


@pytest.mark.matrix
def test_an_address_edited_while_the_client_is_down(nets, undisturbed):
    """The update that was trained before the move is handed in after it."""
    net = nets(rounds=2)
    paper = net.start(server=net.fleet.config.listen)
    paper.wait_says("train, round 1 ")
    net.server.send(signal.SIGSTOP)  # so that the update does not arrive
    wait_until(lambda: journalled(net), "a kept update")
    paper.stop()
    listen = f"127.0.0.1:{free_port()}"
    move(net, listen)
    edit(net.fleet.folder / "paper" / "client.yaml", server=listen)
    again = net.start_site("paper")
    net.server.end()
    said = again.end()
    assert HANDED_IN in said
    assert "train, round 1 " not in said
    assert said.count("train, round 2 ") == 1
    assert net.fleet.digests() == undisturbed(2, "paper")


@pytest.mark.matrix
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give the site a hosts file of its own")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs the command unshare")
def test_a_name_that_leads_elsewhere(nets, undisturbed, tmp_path):
    """Names are looked up at each connection: who moves a server need not touch its sites."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.1 fed.test\n")
    net = nets(rounds=2, names=("127.0.0.1", "127.0.0.2", "fed.test"))
    port = net.fleet.config.listen.rpartition(":")[2]
    own = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    paper = net.start(server=f"fed.test:{port}", within=own)
    paper.wait_says("train, round 1 ")
    move(net, f"127.0.0.2:{port}")
    paper.wait_says(r"No answer from fed.test:.*127\.0\.0\.1")
    hosts.write_text("127.0.0.1 localhost\n127.0.0.2 fed.test\n")
    net.finish(undisturbed)
    assert paper.text().count("connected to fed.test") >= 2
