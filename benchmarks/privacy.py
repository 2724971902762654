"""Accuracy against epsilon: `python -m benchmarks.privacy run [--minutes 15] [--json]`, then `report`.

Five sites hold a domain of Digits-Five each, cut small; twenty do for privacy of whole sites, where the noise is
divided by their number. For each variant a learning rate is chosen by a climb over one grid, without privacy and with
privacy of images at the largest epsilon, on validation images and with a seed of its own; then each epsilon is run with
each seed and scored on test images. Privacy of sites takes the rate of no privacy, and fedwon without adaptive gradient
clipping (AGC) that of fedwon. Noise is the product's own, from the operating system: the same seed gives the same
split, weights and sites, and other noise.

Each run is a JSON file below `benchmarks/results/privacy` and is skipped when it is there, so that the command can be
broken off and begun again. `report` writes the table into docs/privacy.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.marked import rewrite
from benchmarks.paper.scoring import scored_images
from benchmarks.paper.sets import ROOT, data_home
from benchmarks.resumable import Row, here, kept
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.accounting import Spent, gaussian_noise, sampled_epsilon
from fedwon.common.config import parse
from fedwon.common.errors import FedwonError
from fedwon.common.memory import keep_freed_memory
from fedwon.common.model_file import read_model, trained_network
from fedwon.common.run_config import RunConfig
from fedwon.common.update_settings import AdmissionConfig
from fedwon.server import report
from fedwon.server.comparison.scoring import accuracy, counts
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store

RESULTS = ROOT / "benchmarks" / "results" / "privacy"
PAGE, MARK = ROOT / "docs" / "privacy.md", "<!-- benchmarks.privacy -->"
DOMAINS = ("mnist", "mnist_m", "svhn", "synth_like", "usps")
IMAGES, TEST, VALIDATION = 1500, 300, 0.2
"""Of a domain: images for training and validation, test images, and the share of the former for validation."""
ROUNDS, BATCH, SIZE, CLIP, DELTA = 6, 120, 16, 1.0, 1e-5
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TUNING_SEED, SEEDS = 101, (1, 2)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fedwon": {"method": "fedwon"},
    "group norm": {"method": "fedavg_gn"},
    "fedwon, AGC off": {"method": "fedwon", "training": {"clipping": None}},
}
ROWS: Mapping[str, Sequence[float]] = {"none": (0.0,), "sites": (1000.0, 10.0), "examples": (8.0, 2.0)}
"""What is private, and the epsilons of its rows."""


@dataclass(frozen=True)
class Spec:
    """What tells one run from another.

    Attributes:
        variant: a key of `VARIANTS`.
        kind: a key of `ROWS`.
        epsilon: that the run ends with; 0: not private.
        lr: learning rate.
        seed: of split, weights and site choice.
    """

    variant: str
    kind: str
    epsilon: float
    lr: float
    seed: int

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        variant = self.variant.replace(", ", "-").replace(" ", "_")
        return RESULTS / f"{variant}-{self.kind}-e{self.epsilon:g}-lr{self.lr:g}-seed{self.seed}.json"

    @property
    def shards(self) -> int:
        """Sites a domain: one, or four where whole sites are private."""
        return 4 if self.kind == "sites" else 1

    def config(self) -> RunConfig:
        """Return the run's configuration."""
        own = VARIANTS[self.variant]
        settings = {
            "name": "privacy",
            "method": own["method"],
            "seed": self.seed,
            "rounds": ROUNDS,
            "classes": [str(digit) for digit in range(10)],
            "model": {"width": 0.1},
            "images": {"size": SIZE, "channels": 3, "validation_fraction": VALIDATION},
            "training": {"batch_size": self.batch, "lr": self.lr, "schedule": "cosine", **own.get("training", {})},
            "participation": {"minimum": self.shards * len(DOMAINS), "retries": 0, "pause_seconds": None},
            "aggregation": {"weights": "uniform"},
            "admission": AdmissionConfig.unsuspecting().model_dump(),
            "traffic": {"up": "plain", "down": "plain"},
            "privacy": self._privacy(),
        }
        return parse(RunConfig, settings, str(self))

    @property
    def batch(self) -> int:
        """Images a step: as many steps a site, whatever it holds."""
        return BATCH // self.shards

    def _privacy(self) -> dict[str, Any]:
        if self.kind == "none":
            return {}
        noise = noise_for(self.epsilon) if self.kind == "examples" else gaussian_noise(self.epsilon, ROUNDS, DELTA)
        return {self.kind: {"noise": noise, "clip": CLIP, "delta": DELTA}}


def noise_for(epsilon: float) -> float:
    """Return the noise multiplier with which a site of a domain ends at an epsilon, to three digits."""
    images = IMAGES * (1 - VALIDATION)
    rate, steps = BATCH / images, ROUNDS * int(np.ceil(images / BATCH))
    low, high = 0.3, 100.0
    while high / low > 1.001:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if sampled_epsilon([Spent(middle, rate, steps)], DELTA) > epsilon else (low, middle)
    return round(high, 4)


def run(spec: Spec) -> dict[str, Any]:
    """Return a run: from its file, or by running it."""
    return kept(spec, _made)


def _made(spec: Spec) -> Row:
    with TemporaryDirectory(prefix="privacy-") as scratch:
        found = _federated(spec, Path(scratch))
    return {**found, "rounds": ROUNDS, "privacy": spec.config().privacy.model_dump(mode="json")}


def _federated(spec: Spec, folder: Path) -> dict[str, Any]:
    sites = _deal(spec, folder)
    store = Store(folder / "fedwon.db")
    try:
        outcome = federate(InProcessGrid(sites, Path.cwd()), spec.config(), store, folder)
    except FedwonError as error:  # the model has diverged
        return {"failed": error.message, "validation": 0.0, "accuracy": 0.1, "epsilon": None}
    finally:
        spent = report.runs(store)[0]["privacy"]
        store.close()
    task, record = read_model(outcome.model)
    network = trained_network(task, record)
    scores = [
        accuracy(counts(network, scored_images(DataConfig(path=str(path)), task)))
        for path in sorted(folder.glob("*_test.npz"))
        if spec.seed != TUNING_SEED
    ]
    return {
        "failed": None,
        "validation": outcome.evaluation.mean_accuracy,
        "accuracy": statistics.mean(scores) if scores else None,
        "epsilon": spent[spec.kind]["epsilon"] if spent else None,
    }


def _deal(spec: Spec, folder: Path) -> dict[str, SiteConfig]:
    """Write each site's images, and a domain's test images."""
    sites = {}
    for index, domain in enumerate(DOMAINS):
        rng = np.random.default_rng([spec.seed, index])
        images, labels = _drawn(f"{domain}_train", IMAGES, rng)
        for shard in range(spec.shards):
            path = folder / f"{domain}-{shard}.npz"
            np.savez(path, images=images[shard :: spec.shards], labels=labels[shard :: spec.shards])
            sites[path.stem] = SiteConfig(data=DataConfig(path=str(path)), threads=1)
        if spec.seed != TUNING_SEED:
            images, labels = _drawn(f"{domain}_test", TEST, rng)
            np.savez(folder / f"{domain}_test.npz", images=images, labels=labels)
    return sites


def _drawn(name: str, count: int, rng: np.random.Generator) -> tuple[Any, Any]:
    images, labels = _stored(name)
    rows = rng.permutation(len(labels))[:count]
    return images[rows], labels[rows]


@cache
def _stored(name: str) -> tuple[Any, Any]:
    with np.load(data_home() / "digits_five" / f"{name}.npz", allow_pickle=False) as file:
        return file["images"], file["labels"].astype(np.int64)


def chosen(row: Spec, end: float) -> Spec | None:
    """Climb to the learning rate with the best validation accuracy; None where time is over."""
    scores: dict[float, float] = {}
    kind = "none" if row.kind == "sites" else row.kind
    variant = row.variant.partition(",")[0]
    first = replace(row, variant=variant, kind=kind, epsilon=ROWS[kind][0])
    wanted = [RATES[len(RATES) // 2]]
    while wanted:
        for lr in wanted:
            spec = replace(first, lr=lr, seed=TUNING_SEED)
            if not spec.path.exists() and time.monotonic() > end:
                return None
            scores[lr] = run(spec)["validation"]
        place = RATES.index(max(sorted(scores), key=scores.__getitem__))
        wanted = [lr for lr in RATES[max(place - 1, 0) : place + 2] if lr not in scores]
    return replace(row, lr=max(sorted(scores), key=scores.__getitem__))


def rows() -> Iterator[Spec]:
    """Yield the rows of the table; learning rate and seed are open. Without AGC there is one only, the last."""
    *variants, without = VARIANTS
    for kind, epsilons in ROWS.items():
        for epsilon in epsilons:
            for variant in variants:
                yield Spec(variant, kind, epsilon, 0.0, 0)
    yield Spec(without, "examples", ROWS["examples"][0], 0.0, 0)


def run_all(end: float, only: str) -> Iterator[dict[str, Any]]:
    """Run what is missing, row by row, until time is over; yields each run of the table."""
    for row in rows():
        best = chosen(row, end) if only in row.variant else None
        for seed in SEEDS if best else ():
            spec = replace(best, seed=seed)  # type: ignore[type-var]
            if spec.path.exists() or time.monotonic() < end:
                yield run(spec)


def table() -> str:
    """Return the table from the runs that are there; test images, the learning rate chosen on validation images."""
    lines = ["| private | epsilon | noise | " + " | ".join(VARIANTS) + " |", "|---|---|---|" + "---|" * len(VARIANTS)]
    shown = {"none": "nothing", "examples": "images", "sites": "sites (20)"}
    for kind, epsilons in ROWS.items():
        for epsilon in epsilons:
            found = [_runs(Spec(variant, kind, epsilon, 0.0, 0)) for variant in VARIANTS]
            done = [one for runs in found for one in runs if one["epsilon"]]
            # what was spent: a site has a few images more or fewer than was planned for
            spent = f"{round(max(one['epsilon'] for one in done), 1):g}" if done else "-"
            noise = f"{done[0]['privacy'][kind]['noise']:.3g}" if done else "-"
            lines.append(f"| {shown[kind]} | {spent} | {noise} | {' | '.join(map(_cell, found))} |")
    return "\n".join(lines)


def _runs(row: Spec) -> list[dict[str, Any]]:
    best = chosen(row, -1.0)
    return here(replace(best, seed=seed) for seed in SEEDS) if best else []


def _cell(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return "-"
    shares = [100 * one["accuracy"] for one in found]
    spread = f" ({min(shares):.1f}-{max(shares):.1f})" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.1f} %{spread}, lr {found[0]['lr']:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--minutes", type=float, default=15.0, help="begin no run after so many minutes")
    parser.add_argument("--only", default="", help="only variants whose name holds this text")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")
    options = parser.parse_args(arguments)
    if options.what == "report":
        rewrite(PAGE, MARK, table())
        print(f"wrote {PAGE}")
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.disable(logging.WARNING)
    found = []
    for row in run_all(time.monotonic() + 60 * options.minutes, options.only):
        found.append(row)
        if not options.json:
            print(f"{row['variant']}, {row['kind']} {row['privacy']}: {row['accuracy']:.3f}", flush=True)
    print(json.dumps(found) if options.json else table())


if __name__ == "__main__":
    main()
