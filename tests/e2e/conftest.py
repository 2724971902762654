"""Every test here starts processes; each gets folders and ports of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import faults
from tests.e2e.fleet import SITES, Fleet


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
    return faults.undisturbed(tmp_path_factory.mktemp("undisturbed"), *SITES)


@pytest.fixture
def fleet(fleets: Callable[..., Fleet]) -> Fleet:
    """One federation of the tiny run."""
    return fleets()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    with faults.small_disk(tmp_path / "disk") as place:
        yield place
