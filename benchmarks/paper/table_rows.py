"""The rows of the tables: from the results of single runs to what is compared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.protocol import Protocol
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.scoring import by_domain
from benchmarks.paper.spec import Spec, result_path
from benchmarks.paper.tuning import chosen, mean_score, rows
from benchmarks.paper.variants import WARMED_UP
from fedwon.server.comparison.paired import Difference, Scores, paired

NAMES = {
    "fedwon": "fedwon",
    "fedwon_constant": "fedwon (listing and ReLU constant)",
    "fedwon_no_constant": "fedwon (recipe without the ReLU constant)",
    "fedwon_paper": "fedwon (the paper's listing)",
    "fedavg_unclipped": "fedavg (never clipped, as published)",
    "fedbn_unclipped": "fedbn (never clipped, as published)",
    **{f"{name}_warmup": f"{name} (warm-up of three rounds)" for name in WARMED_UP},
}

Runs = list[dict[str, Any]]


def finished(protocol: str, variant: str, batch: int, results: Path) -> Runs:
    """The results of one row, by seed, as far as they are there."""
    settings = chosen(protocol, variant, batch, results)
    if settings is None:
        return []
    paths = [
        result_path(Spec(protocol, variant, batch, *settings, seed), results) for seed in PROTOCOLS[protocol].seeds
    ]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def reported_round(result: Mapping[str, Any], plan: Protocol) -> str | None:
    """The round whose model is reported: the last, or the best on validation images; None if the run diverged."""
    if result["failed"] or not result["scores"]:
        return None
    if plan.selection == "last":
        return str(max(result["scores"], key=int))
    return str(max(result["scores"], key=lambda number: mean_score(dict(result), plan, number, "validation")))


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        variant: a key of `VARIANTS`.
        batch: images a step.
        settings: learning rate and clipping, in words.
        scores: test counts by domain, by seed; None where the run diverged.
        validation: mean over seeds of the reported rounds' score on validation images; None if one diverged.
    """

    variant: str
    batch: int
    settings: str
    scores: Mapping[int, Scores | None]
    validation: float | None

    @property
    def label(self) -> str:
        """What the table calls it."""
        return NAMES.get(self.variant, self.variant)

    @property
    def diverged(self) -> int:
        """How many seeds ended without a model."""
        return sum(score is None for score in self.scores.values())


def test_scores(result: Mapping[str, Any], plan: Protocol) -> dict[str, Any] | None:
    """Test counts by domain of the reported round; of an unseen domain alone, which has no other part."""
    number = reported_round(result, plan)
    if number is None:
        return None
    sites = result["scores"][number]
    unseen = {name: site["test"] for name, site in sites.items() if site.keys() == {"test"}}
    return by_domain(unseen or {name: site["test"] for name, site in sites.items() if "test" in site})


def row(protocols: Sequence[str], variant: str, batch: int, results: Path) -> Row | None:
    """A row from the results of one protocol, or of a group in which each brings its unseen domain.

    Returns:
        None if nothing was run, or not with the same seeds.
    """
    runs = {name: finished(name, variant, batch, results) for name in protocols}
    seeds = sorted(set.intersection(*({run["seed"] for run in found} for found in runs.values())))
    if not seeds:
        return None
    scores: dict[int, Scores | None] = {}
    for seed in seeds:
        parts = [
            test_scores(run, PROTOCOLS[name]) for name, found in runs.items() for run in found if run["seed"] == seed
        ]
        known = [part for part in parts if part is not None]
        scores[seed] = (
            {key: value for part in known for key, value in part.items()} if len(known) == len(parts) else None
        )
    first = [run for run in runs[protocols[0]] if run["seed"] in seeds]
    return Row(variant, batch, _settings(protocols, first), scores, _validation(first, PROTOCOLS[protocols[0]]))


def _settings(protocols: Sequence[str], runs: Runs) -> str:
    if len(protocols) > 1:
        return "tuned | each"
    training = runs[0]["config"]["training"]
    return f"{training['lr']:g} | {training['clipping'] or 'off'}"


def _validation(runs: Runs, plan: Protocol) -> float | None:
    numbers = [reported_round(run, plan) for run in runs]
    if not all(numbers):
        return None
    return statistics.mean(
        mean_score(run, plan, str(number), "validation") for run, number in zip(runs, numbers, strict=True)
    )


def best(found: Sequence[Row], variant: str) -> Row | None:
    """The row of a variant whose batch size is best on validation images."""
    candidates = [row for row in found if row.variant == variant and row.validation is not None]
    return max(candidates, key=lambda row: row.validation or 0.0, default=None)


def found_rows(protocols: Sequence[str], results: Path) -> list[Row]:
    """All rows of a table that have results."""
    made = (row(protocols, variant, batch, results) for variant, batch in rows(protocols[0]))
    return [one for one in made if one is not None]


def difference(ours: Row, other: Row, metric: str) -> Difference | None:
    """How much better one row is than another, over the seeds that both have; None without any."""
    pairs = [
        (mine, theirs)
        for seed, mine in ours.scores.items()
        if mine is not None and (theirs := other.scores.get(seed)) is not None
    ]
    if not pairs:
        return None
    return paired([first for first, _ in pairs], [second for _, second in pairs], metric)
