"""Federations whose sites reach the server through a proxy each, and the model of one that nothing happens to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store
from tests.e2e.fleet import Fleet, Process, digests, images, run_config
from tests.network.proxy import FaultProxy

WIDTH = 0.1
"""Of the network: 715 KB, three pieces of a transfer."""


def run_changes(rounds: int, width: float, sites: int) -> dict[str, object]:
    """Return what these runs have of their own."""
    return {
        "rounds": rounds,
        "model": {"name": "digit_cnn", "width": width},
        "participation": {"minimum": sites},
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


class Net:
    """A server, and sites that reach it through a proxy each.

    Most tests need one site only: each costs some seconds of a processor.
    """

    def __init__(self, fleet: Fleet, names: tuple[str, ...], stack: ExitStack) -> None:
        self.fleet = fleet
        self.proxies = {name: stack.enter_context(FaultProxy(fleet.config.listen)) for name in names}
        self.sites: dict[str, Process] = {}
        self.server: Process

    @property
    def paper(self) -> FaultProxy:
        return self.proxies["paper"]

    def start(self, *, server: str | None = None, within: Sequence[str] = ()) -> Process:
        """Start the server and the sites; return the site `paper`.

        Args:
            server: where the sites find the server; their proxies without it.
            within: goes ahead of the sites' command.
        """
        self.server = self.fleet.start_server()
        for name, proxy in self.proxies.items():
            self.fleet.site(name, server=server or proxy.address)
            self.start_site(name, within=within)
        return self.sites["paper"]

    def start_site(self, name: str, **kwargs: object) -> Process:
        self.sites[name] = self.fleet.start_site(name, "--until-finished", **kwargs)
        return self.sites[name]

    def finish(self, undisturbed: Callable[..., list[str]]) -> None:
        """Wait for the end; the model is that of an undisturbed run, and no update was trained twice."""
        self.server.end()
        run = self.fleet.config.run
        rounds = run.rounds
        for site in self.sites.values():
            site.stop(0)  # one that had no session when the run ended does not know that it has
            said = site.text()
            assert "Traceback" not in said, said
            for number in range(1, rounds + 1):
                assert said.count(f"train, round {number} ") == 1, said
        assert self.fleet.digests() == undisturbed(rounds, *self.proxies, width=run.model.width)
        assert self.fleet.status()["state"] == "finished"


@pytest.fixture(scope="class")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Net]]:
    """Make federations with proxies; they end with the test, or the class."""
    with ExitStack() as stack:

        def make(*names: str, rounds: int = 1, width: float = WIDTH, **options: object) -> Net:
            sites = names or ("paper",)
            changes = run_changes(rounds, width, len(sites))
            fleet = Fleet(tmp_path_factory.mktemp("fleet"), changes, **options)
            stack.callback(fleet.close)
            return Net(fleet, sites, stack)

        yield make


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Digests of a run's models when nothing happens, from a simulation; test_same_bits says that this is the same."""
    found: dict[tuple[object, ...], list[str]] = {}

    def simulated(rounds: int, *names: str, width: float = WIDTH) -> list[str]:
        key = (rounds, width, *sorted(names))
        if key not in found:
            folder = tmp_path_factory.mktemp("undisturbed")
            sites = {
                name: SiteConfig(data=DataConfig(path=str(images(folder / f"{name}.npz"))), threads=1) for name in names
            }
            config = run_config(run_changes(rounds, width, len(names)))
            store = Store(folder / "fedwon.db")
            outcome = federate(InProcessGrid(sites, folder), config, store, folder)
            store.close()
            found[key] = digests(outcome.model.parent)
        return found[key]

    return simulated


def edit(path: Path, **changes: object) -> None:
    """Change a configuration file as an operator does."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
