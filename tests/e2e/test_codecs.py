"""A federation of real processes whose models travel in a codec: fewer bytes, the same bits as without a wire."""

from __future__ import annotations

import signal

import pytest

from fedwon.server.store import Store, TaskRow
from tests.e2e import faults
from tests.e2e.fleet import SITES
from tests.server.server_kit import rows

INT8 = {"traffic": {"up": "int8", "down": "int8"}, "rounds": 4}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the models when nothing happens and nothing travels."""
    return faults.undisturbed(tmp_path_factory.mktemp("simulated"), *SITES, **INT8)


def start(fleet, name: str, **options):
    return fleet.start_site(name, "--until-finished", **options)


def test_the_model_is_the_simulations_and_four_times_fewer_bytes_travel(fleets, simulated):
    fleet = fleets(**INT8)
    for name in SITES:
        fleet.site(name)
    server = fleet.start_server()
    sites = [start(fleet, name) for name in SITES]
    server.end()
    for site in sites:
        site.end()
    assert fleet.digests() == simulated
    size = (fleet.runs()[-1] / "round-0001.safetensors").stat().st_size
    store = Store(fleet.dir / "fedwon.db")
    costs = [(row.round, row.bytes_up, row.bytes_down) for row in rows(store, TaskRow)]
    store.close()
    assert len(costs) == 2 * 4
    for number, up, down in costs:
        assert 4 * up < size
        assert 4 * down < size if number > 1 else down > 0.9 * size, (number, down)
    assert "the model is fetched whole" not in fleet.said("site-metal")


@pytest.mark.parametrize(
    ("point", "when", "nth"),
    [
        # what the update owes is on the disk, itself not
        ("fedwon.client.training.local_state:LocalStates.keep", "after", 3),
        pytest.param(  # differences fetched, the model not yet made
            *("fedwon.client.link.journal:ModelCache.rebuild", "before", 2), marks=pytest.mark.matrix
        ),
    ],
)
def test_a_site_that_dies_owes_nothing_twice(fleets, simulated, point, when, nth):
    fleet = fleets(**INT8)
    for name in SITES:
        fleet.site(name)
    server = fleet.start_server()
    other = start(fleet, "paper")
    start(fleet, "metal", fault={"point": point, "when": when, "nth": nth, "set": {}}).end(-signal.SIGKILL)
    again = start(fleet, "metal")
    server.end()
    for site in (other, again):
        site.end()
    assert fleet.digests() == simulated
    assert len(list((fleet.folder / "metal" / "local").glob("*.feedback.r000[34]@*.safetensors"))) == 2


def test_a_server_that_dies_between_model_and_commit_makes_the_same_model_again(fleets, simulated):
    fleet = fleets(**INT8)
    for name in SITES:
        fleet.site(name)
    fault = {"point": "fedwon.server.runs.checkpoints:Checkpoints.write_delta", "when": "before", "nth": 2, "set": {}}
    sites = [start(fleet, name) for name in SITES]
    fleet.start_server(fault=fault).end(-signal.SIGKILL)
    fleet.start_server("--resume").end()
    for site in sites:
        site.end()
    assert fleet.digests() == simulated
