"""`simulate`: a folder of domains, one site each, trained and evaluated in this process."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from fedwon.client.config import SiteConfig
from fedwon.client.domains import discover
from fedwon.common.config import Settings
from fedwon.common.model_file import read_model
from fedwon.common.run_config import ParticipationConfig, RunConfig
from fedwon.server.app import Outcome, federate
from fedwon.server.evaluation import Evaluation, evaluate_model
from fedwon.server.events import Listener
from fedwon.server.simulation import InProcessGrid
from fedwon.server.store import Store

PACKAGES = ("fedwon", "flwr", "torch", "torchvision", "numpy")


class DomainSettings(Settings):
    """What one simulated site decides for itself."""

    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """This site's own batch size."""


class SimulationConfig(RunConfig):
    """A run's configuration with what a simulation must know besides."""

    domains: tuple[str, ...] | None = None
    """Names of the domains that take part; empty: all that are there."""
    sites: dict[str, DomainSettings] = Field(default_factory=dict)
    """Settings of single sites, by name."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of PyTorch; the same number gives the same bits."""

    @property
    def run(self) -> RunConfig:
        """The part that a federation of real sites has as well."""
        return RunConfig.model_validate(self.model_dump(include=set(RunConfig.model_fields)))


@dataclass(frozen=True)
class Simulated:
    """What a simulation came to.

    Attributes:
        seconds: wall time, training and evaluation.
    """

    outcome: Outcome
    seconds: float


def domain_sites(config: SimulationConfig, data: str) -> dict[str, SiteConfig]:
    """Return the sites of a folder of domains.

    Raises:
        DataMissing: the folder or a domain that the configuration names is not there.
    """
    found = discover(data, only=config.domains or ())
    own = {name: config.sites.get(name, DomainSettings()) for name in found}
    return {
        name: SiteConfig(data=where, batch_size=own[name].batch_size, threads=config.threads)
        for name, where in found.items()
    }


def simulate(config: SimulationConfig, data: str, out: Path | None, listeners: Sequence[Listener]) -> Simulated:
    """Run a federation in this process.

    Args:
        config: the run.
        data: a folder of domains, or "digits".
        out: where models and database are kept; a temporary folder without it.
        listeners: told what happens.

    Raises:
        FedwonError: as `federate`.
    """
    started = time.monotonic()
    grid = InProcessGrid(domain_sites(config, data), Path.cwd())
    with ExitStack() as stack:
        root = out or Path(stack.enter_context(TemporaryDirectory(prefix="fedwon-")))
        root.mkdir(parents=True, exist_ok=True)
        store = Store(root / "fedwon.db")
        stack.callback(store.close)
        outcome = federate(grid, config.run, store, root, listeners=listeners)
    return Simulated(outcome, time.monotonic() - started)


def standalone(config: RunConfig, sites: Mapping[str, SiteConfig], name: str, base: Path) -> Evaluation:
    """Train on one site alone, for as many rounds and epochs as a federation, and measure the model at every site.

    Args:
        config: the run; its classes must be named, or be those of that site.
        sites: all sites, by name.
        name: the one to train on.
        base: folder that relative paths start at.
    """
    # One site's average is its own model, so nothing need stay there, and the model that comes out is whole.
    stateless = {"method": "fedavg"} if config.rules.keeps != "nothing" else {}
    alone = config.model_copy(update={"participation": ParticipationConfig(minimum=1), **stateless})
    with TemporaryDirectory(prefix="fedwon-") as scratch:
        root = Path(scratch)
        store = Store(root / "fedwon.db")
        outcome = federate(InProcessGrid({name: sites[name]}, base), alone, store, root)
        store.close()
        return evaluate_model(InProcessGrid(sites, base), *read_model(outcome.model), timeout=0)


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def simulation_report(config: SimulationConfig, result: Simulated) -> dict[str, Any]:
    """Return what `simulate --json` ends with."""
    return {
        **result.outcome.evaluation.as_dict(),
        "run": result.outcome.run,
        "method": config.method,
        "rounds": config.rounds,
        "seed": config.seed,
        "seconds": round(result.seconds, 2),
        "versions": versions(),
    }
