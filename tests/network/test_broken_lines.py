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
    def test_of_all_connections_in_the_middle_of_a_round(self, nets, undisturbed):
        """By RST in the first round, by FIN in the second."""
        net = nets("metal", "paper", rounds=2)
        paper = net.start()
        for number, reset in ((1, True), (2, False)):
            paper.wait_says(f"train, round {number} ")
            for proxy in net.proxies.values():
                proxy.cut(reset=reset)
        net.finish(undisturbed)
        assert "Trying again until it answers" in paper.text()
        assert sessions(paper) >= 2
        assert len(net.paper.connections) < STORM

    @pytest.mark.matrix
    def test_a_proxy_that_cuts_every_connection_after_a_while(self, nets, undisturbed):
        """A transfer takes longer than any connection lives."""
        net = nets()
        net.paper.life, net.paper.rate = 5.0, 100_000
        paper = net.start()
        net.finish(undisturbed)
        assert "cut after 5 s" in net.paper.notes
        assert re.search(r"fetching the model failed after (262144|524288) of \d+ bytes, trying again", paper.text())
        assert re.search(r"handing in goes on at byte (262144|524288) of \d+", paper.text())
        assert sessions(paper) >= 3
        assert len(net.paper.connections) < STORM


class TestHalfOpen:
    def test_noticed_by_the_site(self, nets, undisturbed):
        """It hears nothing any more, while the server hears it well."""
        net = nets()
        paper = net.start()
        paper.wait_says("train, round 1 ")
        net.paper.freeze(DOWN)
        paper.wait_says(r"No word from \S+ for 2 s\. Trying again until it answers")
        net.finish(undisturbed)
        assert sessions(paper) >= 2
        assert "Another client" not in paper.text()
        assert len(net.paper.connections) < STORM

    def test_noticed_by_the_server(self, nets, undisturbed):
        """It hears nothing of the site, which hears the server well."""
        net = nets()
        paper = net.start()
        paper.wait_says("train, round 1 ")
        net.paper.freeze(UP)
        net.server.wait_says("site disconnected site=paper")
        net.finish(undisturbed)
        assert sessions(paper) >= 2
        assert "Another client" not in paper.text()
        assert len(net.paper.connections) < STORM

    @pytest.mark.matrix
    def test_the_site_starts_anew_before_the_server_has_noticed(self, nets, undisturbed):
        """Its own dead session stands in its way, as another client's would; not for long."""
        net = nets(heartbeat=4.0)  # 12 s, longer than a client takes to start
        net.start().wait_says("train, round 1 ")
        net.paper.freeze(UP, DOWN)
        net.sites["paper"].kill()
        again = net.start_site("paper")
        again.wait_says("this box's own broken connection; trying again")
        net.finish(undisturbed)
        assert sessions(again) == 1
        assert len(net.paper.connections) < STORM

    def test_in_the_middle_of_a_transfer(self, nets, undisturbed):
        """Pings end it: the session beside it, on a connection of its own, knows nothing."""
        net = nets(heartbeat=1.0)
        net.paper.rate = 100_000
        paper = net.start()
        wait_until(lambda: any(one.bytes[DOWN] > 300_000 for one in net.paper.connections), "half a model")
        [bulk] = [one for one in net.paper.open() if one.bytes[DOWN] > 300_000]
        bulk.frozen |= {UP, DOWN}
        net.paper.rate = None
        paper.wait_says("fetching the model failed after 262144 of .*ping timeout")
        assert sessions(paper) == 1
        net.finish(undisturbed)


def test_a_nat_that_forgets_quiet_connections(nets, undisturbed):
    """Its time is shorter than the interval of the heartbeats: each session is lost, and each time noticed."""
    net = nets()
    net.paper.nat_seconds = 0.3
    paper = net.start()
    net.finish(undisturbed)
    assert "forgotten" in net.paper.notes
    assert "No word from" in paper.text()
    assert len(net.paper.connections) < STORM


@pytest.mark.parametrize("how", [pytest.param("refused", marks=pytest.mark.matrix), "swallowed"])
def test_a_partition_of_eight_heartbeats(nets, undisturbed, how):
    net = nets("metal", "paper") if how == "refused" else nets()
    paper = net.start()
    paper.wait_says("train, round 1 ")
    for proxy in net.proxies.values():
        proxy.refuse() if how == "refused" else proxy.frozen.update({UP, DOWN})
    for name in net.proxies:
        net.server.wait_says(f"site disconnected site={name}")
    time.sleep(4)
    for proxy in net.proxies.values():
        proxy.accept() if how == "refused" else proxy.frozen.clear()
    net.finish(undisturbed)
    assert re.search("(refused|No word from|No answer from).*Trying again until it answers", paper.text())
    assert len(re.findall("Trying again until it answers", paper.text())) <= 4  # not at each attempt
    assert len(net.paper.connections) < STORM


FAULTS = (("cut", DOWN), ("corrupt", UP), ("corrupt", DOWN), ("cut", UP))


@pytest.fixture(scope="class")
def spoilt(nets, undisturbed):
    """A run to which one fault after the other has happened, each in the second of a transfer's three pieces."""
    net = nets(rounds=2, heartbeat=2.0)
    net.paper.rate = 300_000  # a piece that has arrived is also read before the line breaks
    for number, (how, way) in enumerate(FAULTS):
        getattr(net.paper, f"{how}_at")(way, 400_000)
        if number == 0:
            net.start()
        wait_until(lambda number=number: len(net.paper.notes) > number, f"fault {number}")
        if number == 0:
            net.sites["paper"].wait_says("train, round 1 ")
            assert sessions(net.sites["paper"]) == 1  # the line of the session is another one
    net.finish(undisturbed)
    return net


class TestTransfers:
    """Models and updates that are cut or damaged on their way go on at the offset that was reached."""

    @pytest.mark.parametrize("fault", FAULTS, ids=" ".join)
    def test_go_on(self, spoilt, fault):
        how, way = fault
        number = FAULTS.index(fault)
        said = {"cut": "cut at byte 400000", "corrupt": "corrupted byte 400000"}[how]
        assert spoilt.paper.notes[number] == f"{said} {way}"
        text = spoilt.sites["paper"].text()
        size = int(re.search(r"of (\d+)", text[text.index("fetching the model failed") :]).group(1))
        large = [one.bytes[way] for one in spoilt.paper.connections if one.bytes[way] > 100_000]
        broken, rest = large[2 * (number // 2) :][:2]
        assert broken == 400_000 if how == "cut" else broken >= 400_000  # more was on its way behind the bad byte
        assert size - 262144 < rest < size - 262144 + 50_000

    def test_the_log_says_so(self, spoilt):
        text = spoilt.sites["paper"].text()
        assert len(re.findall(r"fetching the model failed after 262144 of \d+ bytes, trying again: \S+", text)) == 2
        assert len(re.findall(r"handing in failed, trying again: \S+", text)) == 2
        assert len(re.findall(r"handing in goes on at byte 262144 of \d+", text)) == 2
