"""The ServerApp for those who run Flower already: `flwr run` on a stock SuperLink with SuperNodes (docs/engines.md).

`pyproject.toml` names it under `[tool.flwr.app]`, beside the ClientApp. The bundle that Flower ships holds no code:
server and sites run what is installed there. Everything behind this module is what `fedwon-server start` runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from pydantic import Field

from fedwon.common.config import FlatValue, Settings, load, parse
from fedwon.common.errors import FedwonError
from fedwon.common.run_config import RunConfig
from fedwon.common.system_errors import storage_error
from fedwon.server.display import log_event
from fedwon.server.engines.flower_grid import FlowerGrid
from fedwon.server.runs.federating import Outcome, federate
from fedwon.server.store import Store

logger = logging.getLogger(__name__)

app = ServerApp()


class EngineConfig(Settings):
    """What `flwr run --run-config` may say."""

    config: str = ""
    """Path of the run's configuration on the machine of the SuperLink; empty: the defaults."""
    out: str = "fedwon"
    """Folder of database and models on that machine, found from where the SuperLink was started."""
    resume: bool = False
    """Go on with the newest unfinished run of that folder."""
    domains: str = ""
    """For Flower's simulation engine: a folder of domains, or `digits`; virtual node i is domain i by name."""
    sites: int = Field(default=0, ge=0)
    """For Flower's simulation engine: how many virtual nodes there are, all of which are waited for."""
    threads: int = Field(default=0, ge=0)
    """For Flower's simulation engine: CPU threads of a virtual node; 0: as many as there are."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation over Flower's grid.

    Raises:
        FedwonError: as `federate`; Flower then marks its run as failed, and `flwr log` shows the reason.
    """
    _show_progress()
    try:
        outcome = run(grid, dict(context.run_config))
    except FedwonError as error:
        logger.error("%s%s", error.message, f" {error.hint}" if error.hint else "")  # noqa: TRY400
        raise
    logger.info("the model is %s; mean accuracy %.4f", outcome.model, outcome.evaluation.mean_accuracy)


def run(grid: Grid, settings: Mapping[str, FlatValue]) -> Outcome:
    """Run a federation over Flower's grid.

    Args:
        grid: Flower's.
        settings: Flower's run configuration.

    Raises:
        ConfigError: a setting is unknown or has a value out of range, or so has the run's file.
        StorageError: the folder cannot be written.
        FedwonError: as `federate`.
    """
    own = parse(EngineConfig, settings, "the run configuration (--run-config)")
    config = load(RunConfig, Path(own.config)) if own.config else RunConfig()
    root = Path(own.out).resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {root}") from None
    store = Store(root / "fedwon.db")
    try:
        sites = FlowerGrid(grid, config.participation, virtual=own.sites)
        return federate(sites, config, store, root, listeners=[log_event], resume=own.resume)
    finally:
        store.close()


def _show_progress() -> None:
    """Let our log lines reach Flower's log: its own logger has a handler, the root logger none."""
    ours = logging.getLogger("fedwon")
    ours.setLevel(logging.INFO)
    if not ours.hasHandlers():
        ours.addHandler(logging.StreamHandler())
