"""A server that is one site of another: what a hierarchy trains is what the same sites train under one server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fedwon.client.config import DataConfig, LinkConfig, SiteConfig
from fedwon.common.arrays import open_record
from fedwon.common.config import dump
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import MetricRow, Store, TaskRow
from tests.e2e.fleet import Fleet, command, dying, images, run_config, wait_until
from tests.server.server_kit import rows

BELOW = {"east": ("metal", "paper"), "west": ("glass", "steel")}
SITES = {name for names in BELOW.values() for name in names}
ROUNDS = 2
HALF_A_ROUND = {"point": "fedwon.server.rounds.answers:Answers._answered", "when": "after", "nth": 1}
"""Where a relay dies: one of its two sites has handed its update in."""
HEARTBEAT = 5.0  # seven processes on two cores miss many of half a second
LONG = 250.0  # seconds for what takes ten on a quiet machine


class Hierarchy:
    """A parent, two relays and two sites each; each relay is a fleet of its own."""

    def __init__(self, folder) -> None:
        self.parent = self.fleet(folder / "parent", rounds=ROUNDS)
        self.relays = {name: self.fleet(folder / name) for name in BELOW}
        for relay, names in BELOW.items():
            for name in names:
                self.relays[relay].site(name)

    @staticmethod
    def fleet(folder, **changes) -> Fleet:
        folder.mkdir()
        return Fleet(folder, changes, heartbeat=HEARTBEAT)

    def join(self, name: str) -> None:
        line = command("fedwon-server", "enroll", name, "--dir", self.parent.dir).stdout.split()
        done = command("fedwon-server", "relay", "join", *line[2:], "--dir", self.relays[name].dir)
        assert done.returncode == 0, done.stderr
        assert f"is site {name} of its parent" in done.stdout

    def start_relay(self, name: str, fault=None):
        relay = self.relays[name]
        return relay.spawn("fedwon-server", "relay", "start", "--dir", relay.dir, log="server", env=dying(fault))

    def start_sites(self) -> list:
        return [self.relays[relay].start_site(site, "--until-finished") for relay in BELOW for site in BELOW[relay]]

    def close(self) -> None:
        for fleet in (self.parent, *self.relays.values()):
            fleet.close()


@pytest.fixture
def tree(tmp_path) -> Iterator[Hierarchy]:
    made = Hierarchy(tmp_path)
    yield made
    made.close()


def arrays(path) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in open_record(path).items()}


def flat(folder) -> dict[str, np.ndarray]:
    """The model of the same four sites under one server."""
    folder.mkdir()
    sites = {
        name: SiteConfig(data=DataConfig(path=str(images(folder / f"{name}.npz"))), threads=1) for name in sorted(SITES)
    }
    store = Store(folder / "fedwon.db")
    outcome = federate(InProcessGrid(sites, folder), run_config({"rounds": ROUNDS}), store, folder)
    store.close()
    return arrays(outcome.model)


def within_one_ulp(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return list(found) == list(wanted) and all(
        found[name].dtype == values.dtype and np.all(np.abs(found[name] - values) <= np.spacing(np.abs(values)))
        for name, values in wanted.items()
    )


def total(folder, what: str, sites: set[str]) -> float:
    """A count of the final model, over these sites."""
    store = Store(folder / "fedwon.db")
    found = [
        row.value for row in rows(store, MetricRow) if row.round == ROUNDS and row.site in sites and row.key == what
    ]
    store.close()
    assert len(found) == len(sites)
    return sum(found)


@pytest.mark.timeout(600)
def test_two_levels_train_what_one_server_trains_also_when_a_relay_is_killed(tree, tmp_path):
    server = tree.parent.start_server()
    for name in BELOW:
        tree.join(name)
    dies, west = tree.start_relay("east", HALF_A_ROUND), tree.start_relay("west")
    sites = tree.start_sites()
    dies.end(-9, LONG)
    east = tree.start_relay("east")
    server.end(patience=LONG)
    for site in sites:  # their relay tells them that the run is over
        site.end()

    model = arrays(tree.parent.runs()[-1] / "model.safetensors")
    assert within_one_ulp(model, flat(tmp_path / "flat"))
    for name in BELOW["east"]:  # two trainings in two rounds and an evaluation: nothing was trained twice
        assert tree.relays["east"].said(f"site-{name}").count("done in") == ROUNDS + 1
    assert {row.state for row in rows(Store(tree.parent.dir / "fedwon.db"), TaskRow)} == {"averaged"}
    for what in ("validation-examples", "validation-correct"):
        below = sum(total(tree.relays[name].dir, what, set(BELOW[name])) for name in BELOW)
        assert total(tree.parent.dir, what, set(BELOW)) == below
    for name, fleet in tree.relays.items():
        wait_until(lambda fleet=fleet: fleet.status()["state"] == "finished", "the end of the run at the relay")
        status = fleet.status()
        assert (status["run"], status["committed"]) == (tree.parent.status()["run"], ROUNDS)
        assert set(status["scores"]) == set(BELOW[name])
        assert within_one_ulp(arrays(fleet.runs()[-1] / "model.safetensors"), model)
        assert not list((fleet.runs()[-1] / "spool").iterdir())
    for relay in (east, west):
        relay.stop()


def test_without_its_parent_a_relay_serves_its_sites_and_tries_again(fleet):
    fleet.configure(participation={"minimum": 1, "pause_seconds": None})
    fleet.site("metal")
    folder = fleet.dir / "parent"
    fleet.enrol("relay", folder)  # nobody is to take it: there is nobody
    (folder / "client.yaml").write_text(dump(LinkConfig(server="127.0.0.1:1")))
    relay = fleet.spawn("fedwon-server", "relay", "start", "--dir", fleet.dir, log="relay")
    relay.wait_says("waiting for sites: 0 of 1")
    site = fleet.start_site("metal")
    relay.wait_says("Trying again until it answers")
    site.wait_says("connected to")
    health = command("fedwon-client", "health", "--dir", folder, "--json")
    assert health.returncode == 0, health.stderr
    assert '"connected": false' in health.stdout
    relay.stop()
    site.stop()
