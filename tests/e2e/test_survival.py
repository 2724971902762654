"""What a federation survives: power cuts on either side, signals, sites that come late or go silent."""

from __future__ import annotations

import re
import signal

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.link.tasks import HANDED_IN
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store
from tests.e2e.fleet import SITES, Fleet, digests, gone, wait_until

SLOW = {"training": {"batch_size": 1, "lr": 0.02, "epochs": 6}, "images": {"max_train": 60, "channels": 1}}
"""A round of some seconds, so that something can happen in the middle of it."""


def start(fleet: Fleet, *names: str, resume: bool = False):
    names = names or ("paper", "metal")
    server = fleet.start_server(*(["--resume"] if resume else []))
    for name in names:
        if not (fleet.folder / name).exists():
            fleet.site(name)
    return server, *(fleet.start_site(name, "--until-finished") for name in names)


class TestPowerCuts:
    def test_of_the_server_between_rounds(self, fleet, undisturbed):
        server, *sites = start(fleet)
        server.wait_says("round 1 committed")
        server.kill()
        assert fleet.status()["state"] == "interrupted"
        again = fleet.start_server("--resume")
        again.end()
        for site in sites:
            assert "Trying again until it answers" in site.end()
        assert fleet.digests() == undisturbed
        assert len(fleet.runs()) == 1
        assert fleet.status()["state"] == "finished"

    def test_of_a_site_in_the_middle_of_its_training(self, fleets, tmp_path):
        fleet = fleets(rounds=1, **SLOW)
        server, paper, metal = start(fleet)
        paper.wait_says("train, round 1")
        paper.kill()
        second = fleet.start_site("paper", "--until-finished")
        server.end()
        second.end()
        metal.end()
        assert "train, round 1" in second.text()

    def test_of_all_a_finished_update_is_handed_in_and_not_trained_again(self, fleet, undisturbed):
        """The power fails after the training and before the update has arrived."""
        server, paper, metal = start(fleet)
        paper.wait_says("train, round 1")
        server.send(signal.SIGSTOP)  # it hears nothing any more
        journal = fleet.folder / "paper" / "journal"
        try:
            wait_until(lambda: list(journal.glob("*.header")), "a kept update", 60)
        finally:
            for process in (server, paper, metal):
                process.kill()
        server, paper, metal = start(fleet, resume=True)
        server.end()
        said = paper.end()
        metal.end()
        assert HANDED_IN in said
        assert "train, round 1 " not in said
        assert "train, round 2 " in said
        assert fleet.digests() == undisturbed
        assert not list(journal.glob("*"))

    def test_what_stays_at_a_site_is_not_lost(self, fleets, tmp_path):
        """FedBN: once cut in the middle of a round, and once between the training and the update's arrival."""
        fleet = fleets(method="fedbn", rounds=4)
        server, paper, metal = start(fleet)
        paper.wait_says("train, round 2")
        paper.kill()
        paper = fleet.start_site("paper", "--until-finished")
        paper.wait_says("train, round 3")
        server.send(signal.SIGSTOP)
        try:
            wait_until(lambda: list((fleet.folder / "paper" / "journal").glob("*.r0003.*.header")), "an update", 60)
        finally:
            for process in (server, paper, metal):
                process.kill()
        for process in start(fleet, resume=True):
            process.end()
        simulated = InProcessGrid(
            {name: SiteConfig(data=DataConfig(path=str(fleet.folder / f"{name}.npz")), threads=1) for name in SITES},
            tmp_path,
            folder=tmp_path / "local",
        )
        store = Store(tmp_path / "fedwon.db")
        outcome = federate(simulated, fleet.config.run, store, tmp_path)
        store.close()
        assert fleet.digests() == digests(outcome.model.parent)
        for name in SITES:
            kept = [path.name.split("@")[1] for path in sorted((fleet.folder / name / "local").iterdir())]
            assert kept == [path.name.split("@")[1] for path in sorted((tmp_path / "local" / name).iterdir())]
            assert len(kept) == 2


class TestSignals:
    def test_a_service_manager_stops_both_sides(self, fleets):
        fleet = fleets(rounds=50, **SLOW)
        server, paper, metal = start(fleet)
        server.wait_says("round 1 committed")
        paper.wait_says("train, round 2")
        assert paper.stop(0) < 10
        assert "stopped; what was finished is kept" in paper.text()
        assert server.stop(0) < 10
        said = server.text().splitlines()
        assert re.fullmatch(r"stopped: run tiny-\S+ has 1 of 50 rounds; go on with", said[-2])
        assert said[-1] == f"  fedwon-server start --dir {fleet.dir} --resume"
        assert fleet.status()["state"] == "stopped"
        metal.wait_says("Trying again until it answers")
        assert metal.process.poll() is None  # a stopped run may go on: it waits for that
        assert metal.stop(0) < 10
        assert all(gone(process.pid) for process in (server, paper, metal))

    def test_ctrl_c(self, fleets):
        fleet = fleets(rounds=50, **SLOW)
        server, paper, metal = start(fleet)
        server.wait_says("round 1: (paper|metal)")
        paper.wait_says("train, round 1")
        assert metal.stop(130, signal.SIGINT) < 10
        assert paper.stop(130, signal.SIGINT) < 10
        assert server.stop(130, signal.SIGINT) < 10
        assert "0 of 50 rounds" in server.text()
        assert "Traceback" not in server.text() + paper.text() + metal.text()

    def test_while_it_waits_for_sites(self, fleet):
        server = fleet.start_server()
        server.wait_says("waiting for sites")
        assert server.stop(0) < 10
        assert server.text().splitlines()[-1] == "stopped before a run began"
        fleet.site("paper")
        site = fleet.start_site("paper")
        site.wait_says("Trying again until it answers")
        assert site.stop(0) < 10

    def test_a_client_started_before_the_server_waits_for_it(self, fleet):
        fleet.site("paper")
        site = fleet.start_site("paper")
        site.wait_says(r"No answer from 127.0.0.1:\d+: .*refused")
        fleet.start_server()
        site.wait_says("connected to")
        assert site.text().count("connected to") == 1


class TestComingAndGoing:
    def test_a_site_joins_in_the_middle_of_a_run(self, fleets):
        fleet = fleets(rounds=3, training={"batch_size": 1, "epochs": 3})
        server, paper, metal = start(fleet)
        paper.wait_says("train, round 1")
        paper.send(signal.SIGSTOP)  # so that the round lasts
        fleet.site("tilted")
        late = fleet.start_site("tilted", "--until-finished")
        late.wait_says("connected to")
        assert not server.says("round 1 committed")
        paper.send(signal.SIGCONT)
        said = server.end()
        for process in (paper, metal, late):
            process.end()
        assert re.search(r"round [23]: metal, (paper, )?tilted", said)
        assert set(fleet.status()["scores"]) == {"metal", "paper", "tilted"}

    def test_a_silent_site_does_not_hold_up_the_round(self, fleets):
        participation = {"minimum": 3, "quorum": 2, "deadline_seconds": 10}
        fleet = fleets(rounds=2, participation=participation, training={"batch_size": 1, "epochs": 3})
        server, paper, metal, tilted = start(fleet, "paper", "metal", "tilted")
        tilted.wait_says("train, round 1")
        tilted.send(signal.SIGSTOP)
        try:
            server.wait_says("round 1 committed")
            assert server.says("round 1: no update from tilted: no answer")
            assert server.says("site disconnected site=tilted")
        finally:
            tilted.send(signal.SIGCONT)
        server.wait_says("round 2 committed")  # with all three: it is back
        server.end()
        for site in (paper, metal, tilted):
            site.end()
        assert set(fleet.status()["scores"]) == {"metal", "paper", "tilted"}
