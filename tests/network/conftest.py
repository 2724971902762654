"""Federations whose sites reach the server through a proxy each, and the model of one that nothing happens to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.server.app import federate
from fedwon.server.simulation import InProcessGrid
from fedwon.server.store import Store
from tests.e2e.fleet import Fleet, Process, digests, images, run_config
from tests.network.proxy import FaultProxy

SITES = ("metal", "paper")
MODEL = {"model": {"name": "digit_cnn", "width": 0.1}}
"""715 KB: three pieces of a transfer."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


class Net:
    """A server, and sites that reach it through a proxy each."""

    def __init__(self, fleet: Fleet, stack: ExitStack) -> None:
        self.fleet = fleet
        self.proxies = {name: stack.enter_context(FaultProxy(fleet.config.listen)) for name in SITES}
        self.sites: dict[str, Process] = {}
        self.server: Process

    @property
    def paper(self) -> FaultProxy:
        return self.proxies["paper"]

    def start(self, *names: str) -> Process:
        """Start the server and the sites; return the site `paper`."""
        self.server = self.fleet.start_server()
        for name in names or SITES:
            self.fleet.site(name, server=self.proxies[name].address)
            self.start_site(name)
        return self.sites["paper"]

    def start_site(self, name: str) -> Process:
        self.sites[name] = self.fleet.start_site(name, "--until-finished")
        return self.sites[name]

    def finish(self, undisturbed: Callable[[int], list[str]], *, trained: bool = True) -> None:
        """Wait for the end; the model is that of an undisturbed run, and no update was trained twice."""
        self.server.end()
        rounds = self.fleet.config.run.rounds
        for site in self.sites.values():
            said = site.end()
            assert "Traceback" not in said, said
            for number in range(1, rounds + 1) if trained else ():
                assert said.count(f"train, round {number} ") == 1, said
        assert self.fleet.digests() == undisturbed(rounds)
        assert self.fleet.status()["state"] == "finished"


@pytest.fixture
def nets(tmp_path: Path) -> Iterator[Callable[..., Net]]:
    """Make federations with proxies; they end with the test."""
    with ExitStack() as stack:

        def make(rounds: int = 2, **options: object) -> Net:
            fleet = Fleet(tmp_path, {**MODEL, "rounds": rounds}, **options)
            stack.callback(fleet.close)
            return Net(fleet, stack)

        yield make


@pytest.fixture
def net(nets: Callable[..., Net]) -> Net:
    return nets()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[str]]:
    """Digests of a run's models when nothing happens, from a simulation; test_same_bits says that this is the same."""
    found: dict[int, list[str]] = {}

    def simulated(rounds: int) -> list[str]:
        if rounds not in found:
            folder = tmp_path_factory.mktemp("undisturbed")
            sites = {
                name: SiteConfig(data=DataConfig(path=str(images(folder / f"{name}.npz"))), threads=1) for name in SITES
            }
            store = Store(folder / "fedwon.db")
            outcome = federate(InProcessGrid(sites, folder), run_config({**MODEL, "rounds": rounds}), store, folder)
            store.close()
            found[rounds] = digests(outcome.model.parent)
        return found[rounds]

    return simulated


def edit(path: Path, **changes: object) -> None:
    """Change a configuration file as an operator does."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
