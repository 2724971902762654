"""`simulate`: a folder of domains, one site each or many virtual ones, trained and evaluated on this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from pydantic import Field

from fedwon.client.config import SiteConfig
from fedwon.client.images.domains import discover
from fedwon.common.config import Settings
from fedwon.common.model_file import read_model
from fedwon.common.round_settings import ParticipationConfig
from fedwon.common.run_config import RunConfig
from fedwon.server.engines.dealing import domain_of, virtual_sites
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.engines.ray_engine import RayEngine
from fedwon.server.rounds.evaluation import Evaluation, evaluate_model
from fedwon.server.rounds.events import Event, Listener, RoundCommitted
from fedwon.server.rounds.site_grid import SiteGrid
from fedwon.server.runs.federating import Outcome, federate
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

    def changed(self, seed: int | None, fraction: float | None) -> Self:
        """Return the same simulation with what the command line says in place of the file."""
        rules = {} if fraction is None else {"fraction": fraction}
        update: dict[str, object] = {} if seed is None else {"seed": seed}
        return self.model_copy(update=update | {"participation": self.participation.model_copy(update=rules)})


@dataclass(frozen=True)
class Simulated:
    """What a simulation came to.

    Attributes:
        seconds: wall time, training and evaluation.
        rounds: wall time of each round.
    """

    outcome: Outcome
    seconds: float
    rounds: tuple[float, ...] = ()


def domain_sites(
    config: SimulationConfig, data: str, *, virtual: int | None = None, folder: Path | None = None
) -> dict[str, SiteConfig]:
    """Return the sites of a folder of domains.

    Args:
        config: the simulation.
        data: a folder of domains, or "digits".
        virtual: deal the domains out to so many sites; a site a domain without it.
        folder: where virtual sites' images are put.

    Raises:
        ConfigError: there are fewer virtual sites than domains.
        DataMissing: the folder or a domain that the configuration names is not there.
    """
    found = discover(data, only=config.domains or ())
    if virtual is not None and folder is not None:
        found = virtual_sites(found, virtual, config.seed, folder)
    own = {name: config.sites.get(domain_of(name), DomainSettings()) for name in found}
    return {
        name: SiteConfig(data=where, batch_size=own[name].batch_size, threads=config.threads)
        for name, where in found.items()
    }


def simulate(
    config: SimulationConfig,
    data: str,
    out: Path | None,
    listeners: Sequence[Listener],
    *,
    virtual: int | None = None,
    ray: RayEngine | None = None,
) -> Simulated:
    """Run a federation on this machine.

    Args:
        config: the run.
        data: a folder of domains, or "digits".
        out: where models and database are kept; a temporary folder without it.
        listeners: told what happens.
        virtual: deal the domains out to so many sites; a site a domain without it.
        ray: Flower's simulation engine; this process, one site after the other, without it.

    Raises:
        MissingExtra: Ray is asked for and not installed.
        FedwonError: as `federate`.
    """
    started = time.monotonic()
    outcomes: list[Outcome] = []
    rounds: list[float] = []
    with ExitStack() as stack:
        root = out or Path(stack.enter_context(TemporaryDirectory(prefix="fedwon-")))
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="sites-", dir=root.resolve())))
        sites = domain_sites(config, data, virtual=virtual, folder=scratch / "images")
        store = Store(root / "fedwon.db")
        stack.callback(store.close)

        def _timed(event: Event) -> None:
            if isinstance(event, RoundCommitted):
                rounds.append(event.seconds)

        def _work(grid: SiteGrid) -> None:
            outcomes.append(federate(grid, config.run, store, root, listeners=[*listeners, _timed]))

        if ray is None:
            _work(InProcessGrid(sites, Path.cwd()))
        else:
            rules = config.participation
            ray.run(sites, rules, _work, base=Path.cwd(), folder=scratch, threads=config.threads)
    return Simulated(outcomes[0], time.monotonic() - started, tuple(rounds))


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
    """Return what a figure depends on besides its configuration: versions, and the processor's instructions."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def simulation_report(config: SimulationConfig, result: Simulated) -> dict[str, Any]:
    """Return what `simulate --json` ends with."""
    return {
        **result.outcome.evaluation.as_dict(),
        "run": result.outcome.run,
        "method": config.method,
        "rounds": config.rounds,
        "seed": config.seed,
        "seconds": round(result.seconds, 2),
        "round_seconds": [round(seconds, 3) for seconds in result.rounds],
        "versions": versions(),
    }
