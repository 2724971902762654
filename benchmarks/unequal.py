"""One site says it has twenty times the images of the others: `python -m benchmarks.unequal [--rounds 8] [--json]`.

Five domains of Digits-Five train together with FedWon, `digit_cnn` at an eighth of its width, batches of 8, one epoch
a round. In the first federation SVHN really has 600 training images and the others 30. In the second one all have 100,
and SVHN trains on 9 - d. Where it lies it says 2000 in its survey and in its updates, and sends its difference twenty
times as large, which `run.admission.norm` lets pass for so many images; where it tells the truth, twelve times. Both
with default admission, with the limit of `fedwon.server.admission.pull` taken away, and with
`run.aggregation.weights: uniform`. Writes `benchmarks/results/unequal.json`; the table is that of docs/admission.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from sqlalchemy import select

from benchmarks.paper.protocols import DIGIT_DOMAINS
from benchmarks.paper.sets import ROOT, data_home
from benchmarks.robustness.hostile import Attack, HostileApp, flipped, scaled
from benchmarks.seeded import command
from fedwon.client.app import app as client_app
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.config import parse
from fedwon.common.run_config import RunConfig
from fedwon.common.surveys import Survey
from fedwon.server.admission.outliers import Candidate
from fedwon.server.admission.pull import HeldBack, held_back
from fedwon.server.admission.rows import QuarantineRow
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store

RESULT = ROOT / "benchmarks" / "results" / "unequal.json"
LARGE = "svhn"
"""The site that has, or says to have, more images than the others."""
SMALL, MANY, ALIKE, CLAIMED, TEST = 30, 600, 100, 2000, 200


@dataclass(frozen=True)
class Case:
    """What the one site is like.

    Attributes:
        factor: so many times it sends its difference, of wrong labels; None where it is honest.
        claims: whether it says that it has more images than it has.
        limit: "default", "unlimited" (no limit on pull) or "uniform" (all sites weigh alike).
        large: whether it really has more images than the others.
    """

    factor: float | None = None
    claims: bool = False
    limit: str = "default"
    large: bool = False


CASES: Mapping[str, Case] = {
    "it has them": Case(large=True),
    "it has them; no limit on pull": Case(large=True, limit="unlimited"),
    "it has them; uniform weights": Case(large=True, limit="uniform"),
    "all have 100, and nobody is hostile": Case(),
    "it is hostile, and does not lie about its images": Case(12.0),
    "it is hostile, and lies": Case(20.0, claims=True),
    "it is hostile, and lies; no limit on pull": Case(20.0, claims=True, limit="unlimited"),
    "it is hostile, and lies; uniform weights": Case(20.0, claims=True, limit="uniform"),
}


class ClaimingGrid(InProcessGrid):
    """Sites of which one says that it has more images than it has."""

    def survey(self, site: str) -> Survey | None:
        """Return what images a site says it has."""
        return {"0": {"train": CLAIMED, "test": TEST}} if site == LARGE else super().survey(site)


def deal(folder: Path, seed: int, case: Case) -> dict[str, SiteConfig]:
    """Write each site's images; those of a hostile one with other labels."""
    sites = {}
    for index, domain in enumerate(DIGIT_DOMAINS):
        rng = np.random.default_rng([seed, index])
        count = (MANY if domain == LARGE else SMALL) if case.large else ALIKE
        for part, size in (("train", count), ("test", TEST)):
            with np.load(data_home() / "digits_five" / f"{domain}_{part}.npz", allow_pickle=False) as file:
                rows = rng.permutation(len(file["labels"]))[:size]
                images, labels = file["images"][rows], file["labels"][rows].astype(np.int64)
            if case.factor is not None and domain == LARGE and part == "train":
                images, labels = flipped(images, labels)
            np.savez(folder / f"{domain}_{part}.npz", images=images, labels=labels)
        sites[domain] = SiteConfig(data=DataConfig(path=str(folder / f"{domain}_train.npz")), threads=1)
    return sites


class Watch:
    """In place of `held_back`: writes down how far the one site goes, and what counts of its weight.

    Args:
        limited: whether anybody is held back.
    """

    def __init__(self, *, limited: bool) -> None:
        self._limited = limited
        self.moved: list[float] = []
        self.portions: list[float] = []

    def __call__(self, candidates: Sequence[Candidate], *rest: Any) -> Mapping[str, HeldBack]:
        """Return who is held back."""
        held = held_back(candidates, *rest) if self._limited else {}
        norms = {one.site: one.norm for one in candidates}
        if LARGE in norms:
            self.moved.append(norms[LARGE] / statistics.median(norms.values()))
            self.portions.append(held[LARGE].portion if LARGE in held else 1.0)
        return held


def configured(limit: str, seed: int, rounds: int) -> RunConfig:
    """Return the run's configuration: admission as it is by default."""
    settings = {
        "name": "unequal",
        "seed": seed,
        "rounds": rounds,
        "classes": [str(digit) for digit in range(10)],
        "model": {"width": 0.125},
        "images": {"size": 28, "channels": 3},
        "training": {"batch_size": 8, "lr": 0.1, "clipping": 0.16},
        "participation": {"minimum": len(DIGIT_DOMAINS), "quorum": 2, "retries": 0},
        "aggregation": {"weights": "uniform" if limit == "uniform" else "examples"},
        "traffic": {"up": "plain", "down": "plain"},
    }
    return parse(RunConfig, settings, "unequal")


def run(name: str, seed: int, rounds: int) -> dict[str, Any]:
    """Return a row: what came of one federation."""
    case, app = CASES[name], client_app
    if (factor := case.factor) is not None:
        attack = Attack("", change=lambda *_: scaled(factor), examples=CLAIMED if case.claims else None)
        app = HostileApp(attack, frozenset({LARGE}), len(DIGIT_DOMAINS), seed)  # type: ignore[assignment]  # called as one
    made, watch = ClaimingGrid if case.claims else InProcessGrid, Watch(limited=case.limit != "unlimited")
    with TemporaryDirectory(prefix="unequal-") as scratch, patch("fedwon.server.rounds.answers.held_back", watch):
        folder = Path(scratch)
        store = Store(folder / "fedwon.db")
        sites = deal(folder, seed, case)
        outcome = federate(made(sites, folder, app), configured(case.limit, seed, rounds), store, folder)
        with store.session() as session:
            refused = sorted(row.site for row in session.scalars(select(QuarantineRow)).all())
        store.close()
    accuracies = {score.site: score.accuracy for score in outcome.evaluation.scores}
    others = statistics.mean(accuracies[domain] for domain in DIGIT_DOMAINS if domain != LARGE)
    seen = {"moved": watch.moved, "portions": watch.portions, "refused": refused}
    return {"case": name, "seed": seed, "others": others, "large": accuracies[LARGE], **seen}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay the rows out as Markdown, one line a case: means over seeds, and ranges over seeds and rounds."""
    lines = [
        "| case | accuracy at the four others | at the one | it moves the model by | of its weight counts | refused |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        here = [row for row in rows if row["case"] == case]
        means = [f"{100 * statistics.mean(row[key] for row in here):.1f} %" for key in ("others", "large")]
        ranges = [_range([value for row in here for value in row[key]]) for key in ("moved", "portions")]
        refused = [site for row in here for site in row["refused"]]
        lines.append(f"| {case} | {' | '.join([*means, *ranges])} | {len(refused)} |")
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def measure(seed: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a seed."""
    return [run(name, seed, rounds) for name in CASES]


def main(given: Sequence[str] | None = None) -> None:
    """Run all, and keep what came of it."""
    command(__doc__, given, rounds=8, measure=measure, table=table, result=RESULT)


if __name__ == "__main__":
    main()
