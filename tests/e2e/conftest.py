"""Every test here starts processes; each gets folders and ports of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.server.app import federate
from fedwon.server.simulation import InProcessGrid
from fedwon.server.store import Store
from tests.e2e.fleet import SITES, Fleet, digests, images, run_config


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def fleets(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Make federations; their processes end with the test."""
    made: list[Fleet] = []

    def make(**changes: object) -> Fleet:
        folder = tmp_path / f"fleet-{len(made)}"
        folder.mkdir()
        made.append(Fleet(folder, changes))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the tiny run when nothing happens, from a simulation; test_same_bits says that this is the same."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sites = {name: SiteConfig(data=DataConfig(path=str(images(folder / f"{name}.npz"))), threads=1) for name in SITES}
    store = Store(folder / "fedwon.db")
    outcome = federate(InProcessGrid(sites, folder), run_config(), store, folder)
    store.close()
    return digests(outcome.model.parent)


@pytest.fixture
def fleet(fleets: Callable[..., Fleet]) -> Fleet:
    """One federation of the tiny run."""
    return fleets()
