"""Lines that break: cut, half-open, forgotten, partitioned. The run goes on where it was, whatever happens to them."""

from __future__ import annotations

import re
import time

import pytest

from tests.e2e.fleet import wait_until
from tests.network.proxy import DOWN, UP

STORM = 40
"""Connections of one site in one of these tests that would be a storm; the longest of them lasts about 20 s."""


def sessions(site) -> int:
    return len(re.findall("connected to .* as site", site.text()))


class TestCuts:
    @pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
    def test_of_all_connections_in_the_middle_of_a_round(self, net, undisturbed, reset):
        paper = net.start()
        paper.wait_says("train, round 1 ")
        for proxy in net.proxies.values():
            proxy.cut(reset=reset)
        net.finish(undisturbed)
        assert "Trying again until it answers" in paper.text()
        assert sessions(paper) == 2
        assert len(net.paper.connections) < STORM

    def test_a_proxy_that_cuts_every_connection_after_a_while(self, nets, undisturbed):
        """A transfer takes longer than any connection lives."""
        net = nets(rounds=1)
        net.paper.life, net.paper.rate = 4.0, 100_000
        paper = net.start()
        net.finish(undisturbed)
        assert "cut after 4 s" in net.paper.notes
        assert re.search(r"fetching the model failed after (262144|524288) of \d+ bytes, trying again", paper.text())
        assert re.search(r"handing in goes on at byte (262144|524288) of \d+", paper.text())
        assert sessions(paper) >= 3
        assert len(net.paper.connections) < STORM


class TestHalfOpen:
    def test_noticed_by_the_site(self, net, undisturbed):
        """It hears nothing any more, while the server hears it well."""
        paper = net.start()
        paper.wait_says("train, round 1 ")
        net.paper.freeze(DOWN)
        paper.wait_says(r"No word from \S+ for 2 s\. Trying again until it answers")
        net.finish(undisturbed)
        assert sessions(paper) == 2
        assert "Another client" not in paper.text()

    def test_noticed_by_the_server(self, net, undisturbed):
        """It hears nothing of the site, which hears the server well."""
        paper = net.start()
        paper.wait_says("train, round 1 ")
        net.paper.freeze(UP)
        net.server.wait_says("site disconnected site=paper")
        net.finish(undisturbed)
        assert sessions(paper) == 2
        assert "Another client" not in paper.text()

    def test_the_site_starts_anew_before_the_server_has_noticed(self, net, undisturbed):
        """Its own dead session stands in its way, as another client's would; not for long."""
        paper = net.start()
        paper.wait_says("train, round 1 ")
        net.paper.freeze(UP, DOWN)
        paper.kill()
        again = net.start_site("paper")
        again.wait_says("connected to")
        net.server.wait_says("site disconnected site=paper")
        net.finish(undisturbed)
        assert sessions(again) == 1
        assert len(net.paper.connections) < STORM

    def test_in_the_middle_of_a_transfer(self, nets, undisturbed):
        """Pings end it: the session beside it, on a connection of its own, knows nothing."""
        net = nets(rounds=1)
        net.paper.rate = 100_000
        paper = net.start()
        wait_until(lambda: any(one.bytes[DOWN] > 300_000 for one in net.paper.connections), "half a model")
        [bulk] = [one for one in net.paper.open() if one.bytes[DOWN] > 300_000]
        bulk.frozen |= {UP, DOWN}
        net.paper.rate = None
        paper.wait_says("fetching the model failed after 262144 of")
        net.finish(undisturbed)
        assert sessions(paper) == 1


def test_a_nat_that_forgets_quiet_connections(net, undisturbed):
    """Its time is shorter than the interval of the heartbeats: each session is lost, and each time noticed."""
    net.paper.nat_seconds = 0.3
    paper = net.start()
    net.finish(undisturbed)
    assert "forgotten" in net.paper.notes
    assert "No word from" in paper.text()
    assert len(net.paper.connections) < STORM


class TestPartition:
    @pytest.mark.parametrize("refused", [True, False], ids=["refused", "swallowed"])
    def test_of_eight_heartbeats(self, net, undisturbed, refused):
        paper = net.start()
        paper.wait_says("train, round 1 ")
        for proxy in net.proxies.values():
            if refused:
                proxy.refuse()
            else:
                proxy.frozen = {UP, DOWN}
        for name in net.proxies:
            net.server.wait_says(f"site disconnected site={name}")
        time.sleep(4)
        for proxy in net.proxies.values():
            if refused:
                proxy.accept()
            else:
                proxy.frozen = set()
        net.finish(undisturbed)
        assert re.search("(refused|No word from|No answer from).*Trying again until it answers", paper.text())
        assert len(re.findall("Trying again until it answers", paper.text())) <= 2  # said once, not at each attempt
        assert len(net.paper.connections) < STORM


class TestTransfers:
    """Each goes on at the offset that was reached."""

    def again(self, net, way: str) -> int:
        """Bytes that the connection carried which took the rest."""
        return [one.bytes[way] for one in net.paper.connections if one.bytes[way] > 100_000][1]

    @pytest.mark.parametrize("how", ["cut", "corrupt"])
    def test_a_model_on_its_way_down(self, net, undisturbed, how):
        getattr(net.paper, f"{how}_at")(DOWN, 400_000)
        paper = net.start()
        net.finish(undisturbed)
        size = int(re.search(r"fetching the model failed after 262144 of (\d+) bytes", paper.text()).group(1))
        assert size - 262144 < self.again(net, DOWN) < size - 262144 + 50_000
        assert net.paper.notes == [{"cut": "cut at byte 400000 down", "corrupt": "corrupted byte 400000 down"}[how]]
        assert sessions(paper) == 1

    @pytest.mark.parametrize("how", ["cut", "corrupt"])
    def test_an_update_on_its_way_up(self, net, undisturbed, how):
        getattr(net.paper, f"{how}_at")(UP, 400_000)
        paper = net.start()
        net.finish(undisturbed)
        assert "handing in failed, trying again" in paper.text()
        start, size = map(int, re.search(r"handing in goes on at byte (\d+) of (\d+)", paper.text()).groups())
        assert start == 262144
        assert size - start < self.again(net, UP) < size - start + 50_000
        assert len(net.paper.notes) == 1
        assert sessions(paper) == 1
