"""One row: a federation with so many hostile sites under one defence, from its settings to numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sqlalchemy import select

from benchmarks.paper.scoring import scored_images
from benchmarks.resumable import kept
from benchmarks.robustness.hostile import ATTACKS, TARGET, HostileApp, triggered
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.arrays import open_record
from fedwon.common.config import parse
from fedwon.common.errors import ConfigError, FedwonError
from fedwon.common.model_file import read_model, trained_network
from fedwon.common.run_config import RunConfig
from fedwon.server.admission.rows import QuarantineRow
from fedwon.server.comparison.scoring import accuracy, counts
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store

DOMAINS = ("mnist", "mnist_m", "svhn", "synth_like", "usps")
TRAIN, TEST = 125, 40
"""Images of each site; a fifth of the first is its validation part."""
ROUNDS = 8
METHODS = ("fedwon", "fedavg")
SCALES = ((10, 1), (10, 3), (20, 2), (20, 4))
"""Sites, and how many of them are hostile."""
SEEDS = (1, 2, 3)
OFF: Mapping[str, Any] = {
    "finite": False,
    "surveyed": False,
    "count_growth": None,
    "norm": None,
    "own_norm": None,
    "cosine": None,
    "replays": False,
}
ADMISSION: Mapping[str, Any] = {"cosine": -0.2}
"""Admission's own row: the defaults, and directions compared, which is off by default."""
DEFENCES: Mapping[str, str] = {
    "none": "mean",
    "admission": "mean",
    "median": "median",
    "trimmed mean": "trimmed_mean",
    "Krum": "krum",
    "MultiKrum": "multi_krum",
    "Bulyan": "bulyan",
    "norm clipping": "norm_clipping",
}
"""Each defence's `run.aggregation.rule`; admission is on in its own row only."""
RESULTS = Path(__file__).resolve().parents[1] / "results" / "attacks"


@dataclass(frozen=True)
class Spec:
    """What tells one row from another."""

    method: str
    sites: int
    hostile: int
    attack: str
    defence: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the row is kept."""
        name = f"{self.method}-{self.sites}-{self.hostile}-{self.attack}-{self.defence}-{self.seed}.json"
        return RESULTS / name.replace(" ", "_")

    def config(self) -> RunConfig:
        """Return the run's configuration.

        Raises:
            ConfigError: the defence cannot be had with so many sites.
        """
        doubted = max(self.hostile, 1)
        settings: dict[str, Any] = {
            "method": self.method,
            "seed": self.seed,
            "rounds": ROUNDS,
            "classes": [str(digit) for digit in range(10)],
            "model": {"width": 0.1},
            "images": {"size": 28, "channels": 3},
            "training": {"batch_size": 10, "lr": 0.1, **({"clipping": 0.16} if self.method == "fedwon" else {})},
            "participation": {"minimum": self.sites, "quorum": 2, "retries": 0, "pause_seconds": None},
            "traffic": {"up": "plain", "down": "plain"},
            "admission": dict(ADMISSION if self.defence == "admission" else OFF),
            "aggregation": {"rule": DEFENCES[self.defence], "hostile": doubted, "trim": doubted / self.sites + 1e-9},
        }
        if settings["aggregation"]["rule"] != "mean":
            settings["participation"]["quorum"] = self.sites
        return parse(RunConfig, settings, f"defence {self.defence}")


def every(seeds: tuple[int, ...] = SEEDS) -> Iterator[Spec]:
    """Yield all rows, the first seed's first; with nobody hostile, each defence once a number of sites."""
    for seed, (sites, hostile), attack, defence, method in itertools.product(seeds, SCALES, ATTACKS, DEFENCES, METHODS):
        if attack != "nobody":
            yield Spec(method, sites, hostile, attack, defence, seed)
        elif (sites, hostile) in {(10, 1), (20, 2)}:
            yield Spec(method, sites, 0, attack, defence, seed)


def deal(spec: Spec, source: Path, folder: Path) -> tuple[dict[str, SiteConfig], frozenset[str]]:
    """Write each site's images, and those of hostile sites as these turn them.

    Args:
        spec: the row.
        source: the folder of Digits-Five.
        folder: where the files go; `trigger_test.npz` holds marked test images of other classes than the target.

    Returns:
        The sites, and the names of the hostile ones: every domain has about as many.
    """
    per_domain, sites, marked = spec.sites // len(DOMAINS), {}, []
    names = [f"{domain}-{number}" for number in range(per_domain) for domain in DOMAINS]
    hostile = frozenset(names[: spec.hostile])
    for index, domain in enumerate(DOMAINS):
        rng = np.random.default_rng([spec.seed, index])
        parts = {part: _drawn(source / f"{domain}_{part}.npz", size * per_domain, rng) for part, size in _SIZES.items()}
        for number in range(per_domain):
            name = f"{domain}-{number}"
            for part, size in _SIZES.items():
                images, labels = (values[number * size : (number + 1) * size] for values in parts[part])
                if part == "train" and name in hostile:
                    images, labels = ATTACKS[spec.attack].images(images, labels)
                np.savez(folder / f"{name}_{part}.npz", images=images, labels=labels)
            sites[name] = SiteConfig(data=DataConfig(path=str(folder / f"{name}_train.npz")), threads=1)
        others = parts["test"][1] != TARGET
        marked.append((domain, triggered(parts["test"][0][others])))
    for domain, images in marked:
        where = folder / f"trigger-{domain}_test.npz"
        np.savez(where, images=images, labels=np.full(len(images), TARGET))
    return sites, hostile


_SIZES = {"train": TRAIN, "test": TEST}


def _drawn(path: Path, count: int, rng: np.random.Generator) -> tuple[Any, Any]:
    with np.load(path, allow_pickle=False) as file:
        labels = file["labels"]
        rows = rng.permutation(len(labels))[:count]
        return file["images"][rows], labels[rows].astype(np.int64)


def run(spec: Spec, source: Path) -> dict[str, Any]:
    """Return a row: from its file, or by running it.

    Args:
        spec: which row.
        source: the folder of Digits-Five.
    """
    return kept(spec, lambda spec: _made(spec, source))


def _made(spec: Spec, source: Path) -> dict[str, Any]:
    try:
        config = spec.config()
    except ConfigError as error:
        return {"refused": error.message}
    with TemporaryDirectory(prefix="attacks-") as scratch:
        return _federated(spec, config, source, Path(scratch))


def _federated(spec: Spec, config: RunConfig, source: Path, folder: Path) -> dict[str, Any]:
    images = folder / "images"
    images.mkdir()
    sites, hostile = deal(spec, source, images)
    app = HostileApp(ATTACKS[spec.attack], hostile, spec.sites, spec.seed)
    store, failed = Store(folder / "fedwon.db"), None
    grid = InProcessGrid(sites, Path.cwd(), app)  # type: ignore[arg-type]  # called as a ClientApp is
    try:
        federate(grid, config, store, folder)
    except FedwonError as error:  # the model is broken: the sites cannot train it any more
        failed = error.message
    with store.session() as session:
        refused = [row.site for row in session.scalars(select(QuarantineRow)).all()]
    store.close()
    found = {
        "failed": failed,
        "refused_hostile": sum(site in hostile for site in refused),
        "refused_honest": sum(site not in hostile for site in refused),
        "honest_sites_refused": sorted({site for site in refused if site not in hostile}),
    }
    newest = max(folder.glob("runs/*/round-*.safetensors"))
    return {**found, **_scores(newest, images)}


def _scores(model: Path, images: Path) -> dict[str, Any]:
    """Score a model on the test images of all sites, and on marked ones; one that is not finite knows nothing."""
    if not all(np.isfinite(array.numpy()).all() for array in open_record(model).values()):
        return {"accuracy": None, "backdoor": None}
    task, record = read_model(model)
    network = trained_network(task, record)
    by_kind: dict[str, list[tuple[int, int]]] = {"accuracy": [], "backdoor": []}
    for path in sorted(images.glob("*_test.npz")):
        score = counts(network, scored_images(DataConfig(path=str(path)), task))
        kind = "backdoor" if path.name.startswith("trigger-") else "accuracy"
        by_kind[kind].append((score["correct"], score["examples"]))
    return {
        kind: accuracy({"correct": sum(right for right, _ in found), "examples": sum(count for _, count in found)})
        for kind, found in by_kind.items()
    }
