"""Lines that are slow, late and lossy: nothing breaks, it only takes longer."""

from __future__ import annotations

import re

import pytest

from tests.network.line import SERVER, BadLine, missing
from tests.network.proxy import DOWN, UP
from tests.network.test_broken_lines import sessions

MEGABIT = 125_000
"""Bytes a second."""


def test_one_megabit_a_second(nets, undisturbed):
    """The session stays: its heartbeats do not wait behind a model, for they have a connection of their own."""
    net = nets(heartbeat=1.0)
    net.paper.rate = MEGABIT
    paper = net.start()
    paper.wait_says("train, round 1 ")  # loading torch can hold a site up for longer than three heartbeats
    assert sessions(paper) == 1
    net.finish(undisturbed)
    assert "failed" not in paper.text()
    # the session, the model, the update, the last model, its evaluation
    assert len(net.paper.connections) == 4 + sessions(paper)
    assert 715_312 < net.paper.total(UP) < 800_000
    assert 2 * 715_312 < net.paper.total(DOWN) < 1_600_000


@pytest.mark.skipif(missing() != "", reason=missing() or "all is there")
class TestInANamespace:
    """Real packets over a line that loses them."""

    def run(self, nets, undisturbed, line, **options):
        with line:
            net = nets(host=SERVER, names=(SERVER,), **options)
            paper = net.start(server=net.fleet.config.listen, within=line.inside())
            paper.wait_says("train, round 1 ")
            assert sessions(paper) == 1
            net.finish(undisturbed)
        return paper

    def test_two_percent_loss_and_300_ms_delay(self, nets, undisturbed):
        line = BadLine(delay=0.15, loss=0.02)
        paper = self.run(nets, undisturbed, line, heartbeat=2.0, width=0.05)
        assert line.lost > 3
        assert not re.search("failed", paper.text())

    @pytest.mark.matrix
    def test_one_megabit_a_second_with_a_deep_queue(self, nets, undisturbed):
        """As a cheap modem has one: heartbeats wait in it with everything else."""
        line = BadLine(delay=0.02, rate=MEGABIT, queue=2.0)
        paper = self.run(nets, undisturbed, line, heartbeat=2.0)
        assert line.carried > 1000
        assert not re.search("failed", paper.text())
