"""A simulation on Flower's own engine: many virtual sites share Ray's workers, on this machine or on several.

The same strategy, ClientApp and seeds as everywhere, so it gives the bits of the one process (docs/engines.md). Ray
moves messages between its own processes by pickling them; nothing that comes from a site over a wire is ever unpickled.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedwon.client.config import SiteConfig
from fedwon.client.virtual import VirtualSites, list_sites
from fedwon.common.errors import FedwonError, MissingExtra, RunError
from fedwon.common.round_settings import ParticipationConfig
from fedwon.server.engines.flower_grid import FlowerGrid
from fedwon.server.rounds.site_grid import SiteGrid

TASKS_A_WORKER, CLUSTER = 16, 32
"""Tasks in Flower's hands for each worker, and how many workers a cluster is taken to have."""
LISTED = "virtual-sites.json"
QUIET: Mapping[str, str] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning at each start
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
)
"""What Ray reads from the environment when it is imported."""
THIS_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where this says 0, Ray listens on the loopback address only, on Linux as well; whoever reaches a port of Ray's can
run code here."""


@dataclass(frozen=True)
class RayEngine:
    """Where virtual sites work.

    Attributes:
        workers: processes on this machine, each working on a site at a time; None: as many as fit its processors.
        address: `host:port` of a Ray cluster that runs already, or None to start one of this machine alone.
    """

    workers: int | None = None
    address: str | None = None

    def run(
        self,
        sites: Mapping[str, SiteConfig],
        rules: ParticipationConfig,
        work: Callable[[SiteGrid], None],
        *,
        base: Path,
        folder: Path,
        threads: int,
    ) -> None:
        """Start the engine with a virtual node a site, and do something with the grid of these.

        Args:
            sites: settings by name of the site.
            rules: of participation.
            work: what to do, in a thread of the engine.
            base: folder that relative paths start at.
            folder: where the list of sites is written; all machines must see it under this path.
            threads: CPU threads that a site may use.

        Raises:
            MissingExtra: Ray is not installed.
            RunError: the engine failed; its log says why.
            FedwonError: what `work` raises.
        """
        if importlib.util.find_spec("ray") is None:
            raise MissingExtra("Ray is not installed.", hint="pip install 'fedwon[simulation]'")
        os.environ.update(QUIET)
        os.environ[THIS_MACHINE] = "1" if self.address else "0"
        listed = folder.resolve() / LISTED
        list_sites(listed, sites, base)
        server, stopped = ServerApp(), threading.Event()

        @server.main()
        def _main(grid: Grid, context: Context) -> None:
            del context
            at_once = TASKS_A_WORKER * (self.workers or CLUSTER if self.address else self._local(threads))
            work(FlowerGrid(grid, rules, virtual=len(sites), at_once=at_once, stopped=stopped))

        try:
            _simulate(server, VirtualSites(listed), len(sites), self.settings(threads))
        finally:
            stopped.set()  # the thread of `work` must not wait for an engine that is gone

    def _local(self, threads: int) -> int:
        return self.workers or max(1, (os.cpu_count() or 1) // threads)

    def settings(self, threads: int) -> dict[str, dict[str, bool | int | float | str]]:
        """Return what Flower hands to Ray: no dashboard, and no port beyond this machine unless a cluster is named."""
        # left out, the address is that of whatever Ray runs on this machine already, somebody else's perhaps
        started: dict[str, bool | int | float | str] = {"address": self.address or "local", "log_to_driver": False}
        if not self.address:
            started["include_dashboard"] = False
            started["num_cpus"] = self._local(threads) * threads
        return {"init_args": started, "client_resources": {"num_cpus": threads, "num_gpus": 0.0}}


def _simulate(
    server: ServerApp, client: VirtualSites, nodes: int, settings: dict[str, dict[str, bool | int | float | str]]
) -> None:
    from flwr.simulation import run_simulation

    try:
        run_simulation(server, client, num_supernodes=nodes, backend_config=settings)  # type: ignore[arg-type]
    except FedwonError:
        raise
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # Flower wraps what happened in sentences that say nothing
            cause = cause.__cause__
        raise RunError(
            f"Flower's simulation engine failed: {str(cause).rstrip('.')}.",
            hint="Its log above says more. Is there memory for so many workers?",
        ) from error
