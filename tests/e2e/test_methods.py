"""All methods of the paper between processes: bit for bit the simulation of the same run, and each one itself.

One server process (`several_runs`) and two sites go through all of them, for a process takes seconds to load PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from torch import nn

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.training.local_state import LocalStates, recall
from fedwon.common.config import dump
from fedwon.common.methods import METHODS
from fedwon.common.model_file import read_model, trained_network
from fedwon.models import normalization_layers
from fedwon.server import report
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.runs.run import Run
from fedwon.server.serving import Home
from fedwon.server.store import Store
from tests.e2e.fleet import ROOT, SITES, Fleet, Process, run_config

RUN = {"rounds": 2, "images": {"size": 8, "max_train": 20, "channels": 1}}
LAYERS = tuple(f"{layer}.norm." for layer in ("conv1", "conv2", "conv3", "fc1", "fc2"))
STATISTICS = {layer + name for layer in LAYERS for name in ("running_mean", "running_var", "num_batches_tracked")}
SCALES = {layer + name for layer in LAYERS for name in ("weight", "bias")}
BEFORE = {f"{part}.bias" for part in ("conv1.conv", "conv2.conv", "conv3.conv", "fc1.linear", "fc2.linear")}
"""A batch norm takes these out again: their gradients are rounding, and whether that moves them says nothing."""
COUNTERS = {layer + "num_batches_tracked" for layer in LAYERS}

Arrays = dict[str, bytes]


@dataclass(frozen=True)
class Made:
    """What a run has left: the global model of each round, what stays at each site, each site's scores."""

    models: list[Arrays]
    local: dict[str, Arrays | None]
    scores: dict[str, dict[str, object]]
    path: Path

    def moved(self, number: int) -> set[str]:
        """Names of what a round changed in the global model."""
        return differing(self.models[number - 1], self.models[number])

    @property
    def names(self) -> set[str]:
        return set(self.models[0])

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The normalization layers of the network that the last model's file describes."""
        task, record = read_model(self.path)
        return dict(normalization_layers(trained_network(task, record)))

    @property
    def in_one(self) -> set[bool]:
        """Whether they normalize over an image's maps all at once, as layer norm does, or group by group."""
        assert all(type(layer) is nn.GroupNorm for layer in self.layers.values())
        return {layer.num_groups == 1 for name, layer in self.layers.items() if name.startswith("conv")}


def between_processes(fleet: Fleet) -> Iterator[tuple[str, Made]]:
    """Run all methods and return what is left of each."""
    files = [fleet.folder / f"{method}.yaml" for method in METHODS]
    for file in files:
        file.write_text(dump(run_config({**RUN, "method": file.stem})))
    command = [sys.executable, "-m", "tests.e2e.several_runs", *map(str, (fleet.dir, *files))]
    server = Process(command, fleet.folder / "server.log", cwd=ROOT)
    fleet.processes.append(server)
    server.wait_says("listening on")
    sites = [fleet.start_site(site) for site in SITES]
    server.end()
    for site in sites:
        site.stop()
    home = Home.open(fleet.dir)
    for row in report.runs(home.store):
        yield row["method"], left(home.store, home.folder, row, {site: fleet.folder / site / "local" for site in SITES})
    home.store.close()


def simulated(fleet: Fleet, method: str) -> Made:
    """Run one method in this process, on the same images."""
    root = fleet.folder / "simulated" / method
    root.mkdir(parents=True)
    sites = {name: SiteConfig(data=DataConfig(path=f"{name}.npz"), threads=1) for name in SITES}
    store = Store(root / "fedwon.db")
    grid = InProcessGrid(sites, fleet.folder, folder=root / "local")
    federate(grid, run_config({**RUN, "method": method}), store, root)
    [row] = report.runs(store)
    made = left(store, root, row, {site: root / "local" / site for site in SITES})
    store.close()
    return made


def differing(first: Arrays, second: Arrays) -> set[str]:
    assert set(first) == set(second)
    return {name for name in first if first[name] != second[name]} - BEFORE


def left(store: Store, root: Path, row: dict[str, Any], local: dict[str, Path]) -> Made:
    """Read what a run has left; `row` is its line in `status`."""
    run = Run.open(store, root, row["run"])
    kept = {site: recall(LocalStates(folder).load(), run.id, before=99) for site, folder in local.items()}
    assert row["state"] == "finished", row
    return Made(
        [arrays(run.model(number)) for number in range(RUN["rounds"] + 1)],
        {site: None if record is None else arrays(record) for site, record in kept.items()},
        row["scores"],
        run.last()[1].blob.path,
    )


def arrays(record: ArrayRecord) -> Arrays:
    return {name: array.numpy().tobytes() for name, array in record.items()}


def test_every_method_is_between_processes_what_it_is_in_a_simulation(fleets):
    fleet = fleets()
    for site in SITES:
        fleet.site(site)
    made = dict(between_processes(fleet))
    assert set(made) == set(METHODS)
    for method, own in made.items():
        twin = simulated(fleet, method)
        assert own.models == twin.models, method
        assert own.local == twin.local, method
        assert own.scores == twin.scores, method
        assert set(own.scores) == set(SITES), method
    check_what_only_each_does(made)


def check_what_only_each_does(made: dict[str, Made]) -> None:
    for method, kept in (("fedbn", STATISTICS | SCALES), ("silobn", STATISTICS), ("standalone", made["fedavg"].names)):
        check_what_stays(made.pop(method), kept)
    for method, run in made.items():
        assert run.local == dict.fromkeys(SITES), method  # with the others nothing stays
        assert run.moved(1) == run.names - BEFORE, method
        frozen = STATISTICS if method == "fixbn" else set()  # from the second half of the rounds on
        assert run.moved(2) == run.names - BEFORE - frozen, method

    fedavg, fedprox, fixbn = (made[method] for method in ("fedavg", "fedprox", "fixbn"))
    assert fedavg.names >= STATISTICS | SCALES
    assert fedavg.models[0] == fedprox.models[0] == fixbn.models[0]
    assert fedavg.models[1] == fixbn.models[1]  # the same until something freezes
    filters = {name for name in fedavg.names if name.endswith(("conv.weight", "linear.weight"))}
    assert len(filters) == 5
    assert filters <= differing(fedavg.models[1], fedprox.models[1])  # the proximal term, from the second step on

    for method, in_one in (("fedavg_gn", False), ("fedavg_ln", True)):
        assert made[method].in_one == {in_one}, method
        assert made[method].names & (STATISTICS | SCALES) == SCALES, method
    assert made["fedwon"].layers == {}
    assert not made["fedwon"].names & (STATISTICS | SCALES)
    assert "conv1.conv.gain" in made["fedwon"].names


def check_what_stays(run: Made, kept: set[str]) -> None:
    metal, paper = (run.local[site] for site in SITES)
    assert metal is not None
    assert paper is not None
    assert set(metal) == set(paper) == kept
    assert run.moved(1) == run.moved(2) == run.names - BEFORE - kept  # what stays is not averaged, the rest always is
    first = {name: run.models[0][name] for name in kept}
    assert differing(metal, first) == differing(paper, first) == kept - BEFORE
    assert differing(metal, paper) == kept - BEFORE - COUNTERS
